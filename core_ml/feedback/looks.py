"""Looks at prompts kept aside while practice goes on: greedy answers, and sampled ones that proxy and gold judge over KL.

Every look draws its answers with the same numbers, so that looks differ by the weights alone, and a look that was
interrupted is the same when it is made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from core_ml.events import Event, Metric, Progress, Sample
from core_ml.feedback.gold import Gold
from core_ml.feedback.peak import below_best, best_look, differences, measures, with_error
from core_ml.feedback.policy import Actor, look_back
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.rewards import Rewards
from core_ml.feedback.rlhf_report import judge_of, wins
from core_ml.feedback.rollout import Rollouts, practise
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer

SHOWN = 6  # greedy answers told at each look


@dataclass(frozen=True, slots=True)
class Watch:
    """What looks and what it looks with.

    `chat` is what KL is measured to and whose own answers set the scale of proxy and gold. `notes` are the run's: their
    "watched" is the list of looks, "chat" the scale, and "best" the step of the best look so far, whose state is kept.
    """

    policy: GPT
    chat: GPT
    tokenizer: Tokenizer
    rewards: Rewards
    gold: Gold | None
    prompts: Sequence[Prompt]
    n_sampled: int
    max_new_tokens: int
    measure_kl: bool
    seed: int
    notes: dict[str, Any]

    def look(self, step: int) -> Iterator[Event]:
        yield Progress(step, message="answering the prompts kept aside")
        greedy = self._answers(self.policy, 1, 0.0)
        yield Progress(step, message="sampling answers to the prompts kept aside")
        sampled = self._sampled()
        yield from self._told(step, greedy, sampled)

    def _answers(self, model: GPT, n: int, temperature: float) -> Rollouts:
        return practise(
            model,
            self.tokenizer,
            self.prompts,
            n=n,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            seed=self.seed * 1_000_003,  # rounds count from 1
        )

    def _judged(self, rollouts: Rollouts) -> dict[str, list[float]]:
        found = {"proxy": self.rewards(rollouts.prompts, rollouts.texts).values.tolist()}
        if self.gold:
            found["gold"] = self.gold.scores(rollouts.prompts, rollouts.texts, rollouts.ended)
        return found

    def _sampled(self) -> dict[str, Any]:
        """Prompt by prompt what sampled answers are worth beside the chat model's own, and KL in nats an answer."""
        n = self.n_sampled
        if "chat" not in self.notes:
            own = self._judged(self._answers(self.chat, n, 1.0))
            self.notes["chat"] = {name: _scale(values, n) for name, values in own.items()}
        rollouts = self._answers(self.policy, n, 1.0)
        found: dict[str, Any] = {"kl": None}
        for name, values in self._judged(rollouts).items():
            means, sd = self.notes["chat"][name]
            found[name] = differences(values, means, sd, n)
        if self.measure_kl:
            # Never below 0 but for rounding, and a distance is its root.
            found["kl"] = max(0.0, look_back(Actor(self.policy), self.chat, rollouts).measures()["kl"])
        return found

    def _told(self, step: int, greedy: Rollouts, sampled: dict[str, Any]) -> Iterator[Event]:
        judged = self._judged(greedy)
        scores = judged["proxy"]
        values = dict(zip(("reward", "reward_sem"), with_error(scores), strict=True)) | greedy.measures()
        look = {**values, "step": step, "rewards": scores, "judged": greedy.judged(), "sampled": sampled}
        watched = self.notes["watched"]
        if self.gold:
            values |= dict(zip(("gold", "gold_sem"), with_error(judged["gold"]), strict=True))
            if self.gold.kind != "rule":  # the rule is in "judged" already
                look |= {"gold": judged["gold"], "gold_said": self.gold.said}
        watched.append(look)
        self.notes["best"] = watched[best_look(watched)]["step"]
        won = wins(watched[0], look, judge_of(watched))
        values["win_rate"] = sum(won) / len(won)
        values["below_best"] = below_best(watched)
        yield Metric(step, {f"val_{name}": value for name, value in (values | measures(sampled)).items()})
        shown: set[str] = set()
        for prompt, text, score in zip(self.prompts, greedy.texts, scores, strict=True):
            # One of each task, where tasks are known.
            kind = prompt.metadata.get("task", prompt.text)
            if kind not in shown and len(shown) < SHOWN:
                shown.add(kind)
                yield Sample(step, prompt.text, text, {"reward": round(score, 3)})

    @property
    def without_better(self) -> int:
        """Looks since the best one."""
        watched = self.notes["watched"]
        return len(watched) - 1 - best_look(watched)


def _scale(values: Sequence[float], n: int) -> tuple[list[float], float]:
    """The chat model's mean for each prompt, and the standard deviation of all of its answers."""
    means = [sum(values[i : i + n]) / n for i in range(0, len(values), n)]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return means, variance**0.5
