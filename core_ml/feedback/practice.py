"""One round of reinforcement learning: answer, score, compare, and move."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from core_ml.events import Event, Log, Metric
from core_ml.feedback.losses import (
    FLOOR,
    Estimator,
    Moments,
    adapted,
    gae,
    grpo_advantages,
    rloo_advantages,
    whitened,
)
from core_ml.feedback.policy import Actor, Before, Terms, backward, look_back
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.rewards import Scores, Shaping
from core_ml.feedback.rollout import Rollouts, practise, prompts_of_step
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.update import Update

Algorithm = Literal["rloo", "grpo", "ppo"]
Scale = Literal["batch", "group", "none"]
Place = Literal["loss", "reward"]
SAME = 1e-6  # rewards of a group that lie closer together than this are equal


@dataclass(frozen=True, slots=True)
class Method:
    """How a round becomes updates; the names are those of the recipe's config."""

    algorithm: Algorithm = "rloo"
    reward_scale: Scale = "batch"
    kl_in: Place = "loss"
    kl_estimator: Estimator = "k3"
    kl_target: float | None = None
    clip: float = 0.2
    entropy_coef: float = 0.0
    passes: int = 1
    minibatches: int = 1
    gamma: float = 1.0
    gae_lambda: float = 0.95
    vf_coef: float = 0.1
    value_clip: float | None = 0.2

    def terms(self, kl_coef: float) -> Terms:
        return Terms(
            clip=self.clip,
            kl_coef=kl_coef if self.kl_in == "loss" else 0.0,
            estimator=self.kl_estimator,
            entropy_coef=self.entropy_coef,
            vf_coef=self.vf_coef,
            value_clip=self.value_clip,
            # The paper's own mean is one over answers; PPO and RLOO count every token alike.
            by_answer=self.algorithm == "grpo",
        )


def credit(
    method: Method, rewards: Tensor, before: Before, kl_coef: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Advantages of all tokens of every answer; and, for PPO, the returns that the value head learns.

    Args:
        rewards: (P, G) of whole answers, before any pull.
    """
    pulls = before.pull(method.kl_estimator) if method.kl_in == "reward" and kl_coef else None
    n_tokens = [len(old) for old in before.old]
    if method.algorithm == "ppo":
        advantages, returns = [], []
        for number, (reward, values) in enumerate(zip(rewards.flatten(), before.values, strict=True)):
            earned = torch.zeros_like(values) if pulls is None else -kl_coef * pulls[number]
            earned[-1] += reward
            found = gae(earned, values, method.gamma, method.gae_lambda)
            advantages.append(found[0])
            returns.append(found[1])
        return list(whitened(torch.cat(advantages)).split(n_tokens)), returns
    if pulls is not None:
        rewards = rewards - kl_coef * torch.stack([pull.sum() for pull in pulls]).cpu().view_as(rewards)
    if method.algorithm == "grpo":
        scored = grpo_advantages(rewards, scale_by_std=method.reward_scale == "group")
    else:
        scored = rloo_advantages(rewards)
        if method.reward_scale == "group":
            scored = scored / (rewards.std(dim=1, keepdim=True) + FLOOR)
    if method.reward_scale == "batch":
        # The scale of a reward means nothing; the floor keeps a batch of equal rewards at 0.
        scored = scored / (rewards.std() + FLOOR)
    device = before.old[0].device
    return [
        torch.full((n,), value, device=device)
        for n, value in zip(n_tokens, scored.flatten().tolist(), strict=True)
    ], []


@dataclass(slots=True)
class Round:
    """What happened in one round."""

    values: dict[str, float]
    logs: list[Event]
    prompts: list[Prompt]
    rollouts: Rollouts
    rewards: Tensor
    """(R,) as the reward models scored them."""
    before: Before
    advantages: list[Tensor]


@dataclass(frozen=True, slots=True)
class Practice:
    """The models and sizes of a run; every draw follows from the seed and the step, so a step can be repeated.

    `chat` is None where nobody asks how far the policy has moved. `notes` are the run's, kept with its state.
    """

    actor: Actor
    chat: GPT | None
    tokenizer: Tokenizer
    rewards: Callable[[Sequence[str], Sequence[str]], Scores]
    update: Update
    prompts: Sequence[Prompt]
    method: Method
    prompts_per_step: int
    n_completions: int
    max_new_tokens: int
    kl_coef: float
    seed: int
    notes: dict[str, Any]
    shaping: Shaping = field(default_factory=Shaping)
    compiles: bool = False
    """Whether answers are sampled in compiled steps."""

    @property
    def updates_per_step(self) -> int:
        return updates_per_step(self.prompts_per_step, self.method.minibatches, self.method.passes)

    def step(self, step: int) -> Round:
        """Update the policy some times; returns what was measured before and while it moved."""
        seed = self.seed * 1_000_003 + step
        prompts = prompts_of_step(self.prompts, step, self.prompts_per_step, self.seed)
        rollouts = practise(
            self.actor.policy,
            self.tokenizer,
            prompts,
            n=self.n_completions,
            max_new_tokens=self.max_new_tokens,
            temperature=1.0,  # what the policy gradient is derived for
            seed=seed,
            remember=True,
            compiles=self.compiles,
        )
        scores = self.rewards(rollouts.prompts, rollouts.texts)
        moments = Moments(self.notes.setdefault("moments", {}))
        shaped = self.shaping(scores.values, rollouts.ended, rollouts.lengths, self.max_new_tokens, moments)
        shaped = shaped.view(-1, self.n_completions)
        kl_coef = self.notes.setdefault("kl_coef", self.kl_coef)
        before = look_back(self.actor, self.chat, rollouts)
        advantages, returns = credit(self.method, shaped, before, kl_coef)
        told, learned = self._learn(step, rollouts, before, advantages, returns, kl_coef, seed)
        seen = before.measures()
        if self.method.kl_target is not None:
            self.notes["kl_coef"] = adapted(kl_coef, seen["kl"], self.method.kl_target)
        values = {
            "reward": scores.values.mean().item(),
            **rollouts.measures(),
            **seen,
            "reward_std": scores.values.std().item(),
            "group_std": shaped.std(dim=1).mean().item(),
            "flat_groups": (shaped.amax(1) - shaped.amin(1) < SAME).float().mean().item(),
            **learned,
        }
        if self.method.kl_target is not None:
            values["kl_coef"] = kl_coef
        if scores.spread.any():
            values["reward_disagreement"] = scores.spread.mean().item()
        return Round(values, told, prompts, rollouts, scores.values, before, advantages)

    def _learn(
        self,
        step: int,
        rollouts: Rollouts,
        before: Before,
        advantages: list[Tensor],
        returns: list[Tensor],
        kl_coef: float,
        seed: int,
    ) -> tuple[list[Event], dict[str, float]]:
        """All updates of a round: what there is to tell besides, and the means of what was measured."""
        draws = torch.Generator().manual_seed(seed)
        terms, told = self.method.terms(kl_coef), list[Event]()
        seen: list[dict[str, float]] = []
        number = (step - 1) * self.updates_per_step
        for turn in range(self.method.passes):
            order = torch.randperm(self.prompts_per_step, generator=draws)
            for place, part in enumerate(order.chunk(self.method.minibatches)):
                # Sorted: answers to like prompts keep the places in which they were sampled.
                groups = sorted(part.tolist())
                answers = [g * rollouts.n + i for g in groups for i in range(rollouts.n)]
                fresh = turn == 0 and place == 0
                learned = backward(
                    self.actor, self.chat, rollouts, before, advantages, returns, answers, terms, fresh
                )
                number += 1
                measured = {"clipfrac": learned.clipfrac}
                if self.actor.value_head:
                    measured["value_loss"] = learned.value_loss
                for event in self.update(number, learned.loss, **measured):
                    if isinstance(event, Metric):
                        seen.append(event.values)
                    elif isinstance(event, Log):
                        told.append(event)
        names = seen[0] if seen else {}
        return told, {name: sum(values[name] for values in seen) / len(seen) for name in names}


def updates_per_step(prompts_per_step: int, minibatches: int, passes: int) -> int:
    return passes * len(torch.arange(prompts_per_step).chunk(minibatches))
