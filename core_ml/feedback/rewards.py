"""What an answer earns: one reward model's score, or what several agree on, shaped by a few rules.

Several models that were trained apart disagree where none of them knows, and a policy that is paid by the least of
them, or less where they part, finds fewer ways to fool them. Source: Coste et al. 2023, arXiv:2310.02743.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core_ml.feedback.losses import Moments
from core_ml.feedback.reward_model import RewardModel

Ensemble = Literal["mean", "minimum", "uncertainty"]


@dataclass(frozen=True, slots=True)
class Scores:
    """(R,) what counts, and by how much the models part: the spread of their scores, 0 for one model."""

    values: Tensor
    spread: Tensor


def combined(members: Tensor, how: Ensemble, k: float) -> Tensor:
    """(E, R) scores of E models to (R,): their mean, the least, or the mean minus `k` times their spread."""
    if how == "minimum":
        return members.amin(0)
    mean = members.mean(0)
    return mean - k * members.std(0, correction=0) if how == "uncertainty" else mean


@dataclass(frozen=True, slots=True)
class Rewards:
    """One reward model or an ensemble of them."""

    models: Sequence[RewardModel]
    how: Ensemble = "mean"
    k: float = 1.0

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> Scores:
        # A checkpoint may itself hold several members: each has a voice.
        members = torch.tensor([one for model in self.models for one in model.scores(prompts, texts)])
        return Scores(combined(members, self.how, self.k), members.std(0, correction=0))


@dataclass(frozen=True, slots=True)
class Shaping:
    """Rules between a reward model's score and what is learned from.

    normalize: by the mean and spread of all scores so far. clip: scores further from 0 are cut to this. eos_penalty: taken from
    an answer that was cut off. length_penalty: taken from an answer of the longest length, in proportion from others.
    """

    normalize: bool = False
    clip: float | None = None
    eos_penalty: float = 0.0
    length_penalty: float = 0.0

    def __call__(
        self, scores: Tensor, ended: Sequence[bool], lengths: Sequence[int], longest: int, moments: Moments
    ) -> Tensor:
        if self.normalize:
            moments.add(scores.tolist())
            scores = torch.tensor([moments.normalized(score) for score in scores.tolist()])
        if self.clip is not None:
            scores = scores.clamp(-self.clip, self.clip)
        cut = 1 - torch.tensor(ended, dtype=torch.float32)
        return scores - self.eos_penalty * cut - self.length_penalty * torch.tensor(lengths) / longest
