"""One round of reinforcement learning: answer, score, compare, and move."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core_ml.evaluation.statistics import paired_change
from core_ml.events import Figure
from core_ml.feedback.policy import look_back, rloo_advantages, update
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.rollout import practise, prompts_of_step
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Practice:
    """The models and sizes of a run; every draw follows from the seed and the step, so a step can be repeated."""

    policy: GPT
    chat: GPT
    tokenizer: Tokenizer
    reward: RewardModel
    optimizer: torch.optim.Optimizer
    prompts: Sequence[Prompt]
    prompts_per_step: int
    n_completions: int
    max_new_tokens: int
    minibatches: int
    clip: float
    kl_coef: float
    grad_clip: float
    seed: int

    def step(self, step: int) -> dict[str, float]:
        """Update the policy once for each minibatch; returns what was measured before and while it moved."""
        seed = self.seed * 1_000_003 + step
        rollouts = practise(
            self.policy,
            self.tokenizer,
            self.reward,
            prompts_of_step(self.prompts, step, self.prompts_per_step, self.seed),
            n=self.n_completions,
            max_new_tokens=self.max_new_tokens,
            temperature=1.0,  # what the policy gradient is derived for
            seed=seed,
        )
        rewards = torch.tensor(rollouts.rewards).view(-1, self.n_completions)
        # The scale of a reward means nothing; the floor keeps a batch of equal rewards at 0.
        advantages = (rloo_advantages(rewards) / (rewards.std() + 1e-4)).flatten().tolist()
        before = look_back(self.policy, self.chat, rollouts.rows)
        order = torch.randperm(len(rollouts.rows), generator=torch.Generator().manual_seed(seed))
        updates = [
            update(
                self.policy,
                self.optimizer,
                rollouts.rows,
                before,
                advantages,
                part.tolist(),
                clip=self.clip,
                kl_coef=self.kl_coef,
                grad_clip=self.grad_clip,
            )
            for part in order.chunk(self.minibatches)
        ]
        return {
            **rollouts.measures(),
            **before.measures(),
            "reward_std": rewards.std().item(),
            "loss": sum(u.loss for u in updates) / len(updates),
            "clipfrac": sum(u.clipfrac for u in updates) / len(updates),
            "grad_norm": sum(u.grad_norm for u in updates) / len(updates),
        }


def findings(before: dict[str, Any], after: dict[str, Any], kl: float) -> list[str]:
    """What practice changed on prompts that it never saw, and what it did not change or made worse."""
    n = len(before["rewards"])
    findings = [
        f"The mean reward of greedy answers to {n} prompts kept aside went from {before['reward']:.2f} to "
        f"{after['reward']:.2f}, at {kl:.1f} nats of KL an answer."
    ]
    if not before["judged"]:
        return [*findings, "No stated preference can judge these prompts: only the reward model has."]
    verbs = {}
    for name, what in (("liked", "liked by the stated preference"), ("correct", "correct")):
        change = paired_change(before["judged"][name], after["judged"][name])
        verbs[name] = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not change measurably"
        numbers = f"{before[name]:.0%} before, {after[name]:.0%} after"
        findings.append(f"The share of them that is {what} {verbs[name]}: {numbers}.")
    if after["reward"] > before["reward"] and verbs["liked"] != "rose":
        findings.append("The reward rose and the preference did not follow: the reward model was fooled.")
    elif verbs["correct"] == "fell":
        findings.append("The reward rose while answers became wrong more often: the reward model was fooled.")
    return findings


PANELS = (
    # Rewards have a scale of their own and shares run from 0 to 1: two panels, never two axes on one.
    ("reward", {"reward": "reward model"}),
    ("share of answers", {"liked": "liked by the preference", "correct": "correct"}),
)
DOMAINS = {1: ([0.0, 1.0],), 2: ([0.56, 1.0], [0.0, 0.44])}
"""By the number of panels: the part of the height that each takes, from the top."""
ENDS = 3  # rounds whose mean stands for the beginning and the end


def reward_over_kl(history: list[dict[str, float]]) -> Figure:
    """The reward, and below it over the same √KL what the stated preference says of the same answers."""
    panels = [panel for panel in PANELS if any(name in history[0] for name in panel[1])]
    x = [max(0.0, h["kl"]) ** 0.5 for h in history]
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": 90 + 180 * len(panels)}
    for number, ((title, names), domain) in enumerate(zip(panels, DOMAINS[len(panels)], strict=True), 1):
        axis = "y" if number == 1 else f"y{number}"
        layout[axis.replace("y", "yaxis")] = {"title": {"text": title}, "domain": domain}
        # The one horizontal axis stands below the last panel.
        layout["xaxis"] = {"title": {"text": "√KL to the chat model (√nats an answer)"}, "anchor": axis}
        trace = {"type": "scatter", "mode": "lines+markers", "x": x, "yaxis": axis}
        data += [
            {**trace, "name": line, "y": [h[name] for h in history]}
            for name, line in names.items()
            if name in history[0]
        ]
    if len(panels) > 1:
        layout["yaxis2"]["range"] = [-0.05, 1.05]  # lines at 0 and 1 stand clear of the axis
        layout["hoversubplots"] = "axis"  # one crosshair through both
    return Figure(
        "reward_over_kl",
        len(history),
        "What the reward model and the stated preference say as the model moves away",
        {"data": data, "layout": layout},
        over_kl_finding(history),
    )


def over_kl_finding(history: list[dict[str, float]]) -> str:
    """What the curves come to; whether a change is more than noise, `findings` says of prompts kept aside."""

    def ends(name: str) -> tuple[float, float]:
        values = [h[name] for h in history]
        return sum(values[:ENDS]) / len(values[:ENDS]), sum(values[-ENDS:]) / len(values[-ENDS:])

    went = "the reward went from {:.2f} to {:.2f}".format(*ends("reward"))
    for name in ("liked", "correct"):
        if name in history[0]:
            went += f", the share {name} " + "from {:.0%} to {:.0%}".format(*ends(name))
    judged = "" if "liked" in history[0] else " No stated preference can judge these prompts."
    return (
        f"While the model moved to √KL {max(0.0, ends('kl')[1]) ** 0.5:.2f}, {went} "
        f"(means of the first and last {min(ENDS, len(history))} rounds).{judged}"
    )
