"""Prompts with answers as padded tensors, and rows of like length in batches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core_ml.tokenizer.tokenizer import Tokenizer

Row = tuple[list[int], list[int]]
"""Token ids of a prompt up to where the assistant writes, and of its answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows padded on the right to T tokens.

    ids: (B, T); last: (B,) the index of each row's last token.
    """

    ids: Tensor
    last: Tensor


def as_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A person's prompt in the chat protocol, up to where the assistant writes."""
    return tokenizer.prompt([{"role": "user", "content": prompt}])


def pad(rows: Sequence[Row], device: torch.device) -> Batch:
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, : lengths[i]] = torch.tensor(prompt + answer)
    last = torch.tensor(lengths) - 1
    return Batch(ids.to(device), last.to(device))


def by_length(lengths: Sequence[int], budget: int, rng: random.Random) -> list[list[int]]:
    """Indices in batches of like length, each of at most `budget` padded tokens or of one item, shuffled.

    Args:
        lengths: tokens of each item, counted as wide as its widest row times its rows.
        budget: padded tokens of a batch.
        rng: jitters the order of like lengths and shuffles the batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * (1 + 0.1 * rng.random()))
    batches: list[list[int]] = []
    current: list[int] = []
    widest = 0
    for i in order:
        widest = max(widest, lengths[i])
        if current and (len(current) + 1) * widest > budget:
            batches.append(current)
            current, widest = [], lengths[i]
        current.append(i)
    if current:
        batches.append(current)
    rng.shuffle(batches)
    return batches
