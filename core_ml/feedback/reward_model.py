"""The reward model: a chat model with a value head that reads a whole answer and says one number.

It reads what a person reads, the text: an answer is encoded anew and closed by `<|im_end|>`, whether or not
the policy ended it, so that training on rankings and scoring of rollouts see the same thing. Departure from
Stiennon et al. 2020: a small pull of rewards to 0 (which pairs cannot fix, as only differences count), and all
pairs of a group in one batch, so that each answer is read once.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.feedback.batches import Row, as_prompt, by_length, pad
from core_ml.feedback.pairs import Group, Pair
from core_ml.model import checkpoint
from core_ml.model.device import autocast
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer

SCORING_BUDGET = 16_384  # padded tokens of one forward pass without gradient


@dataclass(slots=True)
class RewardModel:
    """Scores answers. A reward of 0 is the mean of the answers it was trained on, and 1 their spread."""

    model: GPT
    tokenizer: Tokenizer
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def load(cls, folder: artifact.Folder) -> "RewardModel":
        model, tokenizer = checkpoint.load(folder.path)
        if model.value_head is None:
            raise UserError(
                f"{folder.manifest.name} has no value head: choose a checkpoint that `reward` made",
                field="reward",
            )
        summary = folder.manifest.summary
        return cls(model, tokenizer, summary.get("reward_mean", 0.0), summary.get("reward_std", 1.0) or 1.0)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """One reward for each answer; equal answers to equal prompts are read once."""
        pairs = list(zip(prompts, completions, strict=True))
        distinct = list(dict.fromkeys(pairs))
        rows = [encode(self.tokenizer, *pair, self.model.config.max_seq_len) for pair in distinct]
        rewards: dict[tuple[str, str], float] = {}
        # The order decides which rows are padded together, and with that the last bits: keep it fixed.
        for indices in by_length([sum(map(len, row)) for row in rows], SCORING_BUDGET, random.Random(0)):
            with torch.no_grad():
                values = read_rewards(self.model, [rows[i] for i in indices])
            for i, value in zip(indices, values.tolist(), strict=True):
                rewards[distinct[i]] = (value - self.mean) / self.std
        return [rewards[pair] for pair in pairs]


def encode(tokenizer: Tokenizer, prompt: str, completion: str, max_len: int) -> Row:
    """The tokens of a prompt and of its answer as read by a reward model; what does not fit goes from the front."""
    answer = [*tokenizer.encode(completion), tokenizer.end_id][-max_len:]
    room = max_len - len(answer)
    return (as_prompt(tokenizer, prompt)[-room:] if room else []), answer


def read_rewards(model: GPT, rows: Sequence[Row]) -> Tensor:
    """(B,) float32: the value of each row's last token."""
    batch = pad(rows, model.device)
    with autocast(model.device):
        hidden = model.hidden(batch.ids)
    return model.value(hidden[torch.arange(len(rows), device=model.device), batch.last])


def bradley_terry(rewards: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Mean of -log sigmoid(r_better - r_worse) over pairs of indices into `rewards` (B,).

    Raises: ValueError for no pairs. Source: Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    if not pairs:
        raise ValueError("Bradley-Terry needs at least one pair")
    better, worse = torch.tensor(pairs, device=rewards.device).T
    return -F.logsigmoid(rewards[better] - rewards[worse]).mean()


class Trainer:
    """The encoded groups, and one step over some of them."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, groups: Sequence[Group], centering: float) -> None:
        self.model, self.centering = model, centering
        limit = model.config.max_seq_len
        # Groups whose labelers tied everything teach nothing.
        self.groups = [group for group in groups if group.pairs()]
        self.pairs = [group.pairs() for group in self.groups]
        self.rows = [
            [encode(tokenizer, group.prompt, text, limit) for text in group.completions]
            for group in self.groups
        ]

    def plan(self, epochs: float, budget: int, seed: int) -> list[list[int]]:
        """The groups of each step, for all epochs; a last part of an epoch is a share of its batches."""
        costs = [len(rows) * max(len(p) + len(a) for p, a in rows) for rows in self.rows]
        steps: list[list[int]] = []
        remaining, epoch = epochs, 0
        while remaining > 0:
            batches = _within(costs, budget, random.Random(f"{seed}:{epoch}"))
            steps += batches if remaining >= 1 else batches[: max(1, round(remaining * len(batches)))]
            remaining, epoch = remaining - 1, epoch + 1
        return steps

    def loss(self, indices: Iterable[int]) -> tuple[Tensor, float]:
        """The loss of some groups and the share of their pairs that are ordered rightly."""
        rows: list[Row] = []
        pairs: list[Pair] = []
        for i in indices:
            pairs += [(len(rows) + better, len(rows) + worse) for better, worse in self.pairs[i]]
            rows += self.rows[i]
        rewards = read_rewards(self.model, rows)
        loss = bradley_terry(rewards, pairs)
        better, worse = torch.tensor(pairs, device=rewards.device).T
        accuracy = (rewards[better] > rewards[worse]).float().mean().item()
        return loss + self.centering * rewards.square().mean(), accuracy


def _within(costs: Sequence[int], budget: int, rng: random.Random) -> list[list[int]]:
    """Indices of groups of like cost in batches of at most `budget` padded tokens, shuffled."""
    order = sorted(range(len(costs)), key=lambda i: costs[i] * (1 + 0.1 * rng.random()))
    batches: list[list[int]] = [[]]
    for i in order:
        # The dearest of a batch is its last: it pads all the others.
        if batches[-1] and (len(batches[-1]) + 1) * costs[i] > budget:
            batches.append([])
        batches[-1].append(i)
    rng.shuffle(batches)
    return batches
