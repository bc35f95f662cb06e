"""Prompts with answers as padded tensors, and the probabilities of the answers' tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core_ml.model.device import autocast
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer

Row = tuple[list[int], list[int]]
"""Token ids of a prompt up to where the assistant writes, and of its answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows padded on the right to T tokens.

    ids: (B, T); targets: (B, T - 1) bool, true where the next token belongs to the answer; last: (B,) the
    index of each row's last token.
    """

    ids: Tensor
    targets: Tensor
    last: Tensor


def as_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A person's prompt in the chat protocol, up to where the assistant writes."""
    return tokenizer.prompt([{"role": "user", "content": prompt}])


def pad(rows: Sequence[Row], device: torch.device) -> Batch:
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    targets = torch.zeros(len(rows), max(lengths), dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, : lengths[i]] = torch.tensor(prompt + answer)
        targets[i, len(prompt) : lengths[i]] = True
    last = torch.tensor(lengths) - 1
    return Batch(ids.to(device), targets[:, 1:].to(device), last.to(device))


def answer_logits(model: GPT, batch: Batch) -> Tensor:
    """Logits at the positions that write the answers, (N, vocab_size) float32 with N all answers' tokens.

    The head runs on those positions only: most of a batch is prompt and padding.
    """
    with autocast(model.device):
        return model.logits(model.hidden(batch.ids[:, :-1])[batch.targets])


def answer_ids(batch: Batch) -> Tensor:
    """(N,) the answers' tokens, in the order of `answer_logits`."""
    return batch.ids[:, 1:][batch.targets]


def chosen_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """(N,) log-probabilities of the given tokens."""
    return -F.cross_entropy(logits, ids, reduction="none")


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
