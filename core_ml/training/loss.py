"""Log-probabilities of targets, and what is made of them."""

import math

import torch
from torch import Tensor

from core_ml.model.device import autocast
from core_ml.model.gpt import GPT
from core_ml.training import fast
from core_ml.training.linear_loss import linear_nll, nll
from core_ml.training.segments import separated


def token_nll(model: GPT, ids: Tensor) -> Tensor:
    """Negative log-likelihood, in nats, of each token given those before it: (B, T + 1) ids to (B, T). No gradient."""
    with torch.no_grad(), autocast(model.device):
        hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
        targets = ids[:, 1:].flatten()
        return nll(hidden, model.head_weight, targets, model.config.logit_softcap).view(ids.size(0), -1)


def backward(
    model: GPT,
    ids: Tensor,
    tokens_at_once: int,
    batch_size: int | None = None,
) -> Tensor:
    """Add the gradient of the mean loss of (B, T + 1) ids, a few rows at a time; returns that loss, detached.

    Args:
        batch_size: what the sum of losses is divided by, in rows of T tokens, where `ids` is one rank's share.
    """
    rows = _rows_of_a_pass(ids, tokens_at_once)
    n_tokens = (batch_size or ids.size(0)) * (ids.size(1) - 1)
    total = torch.zeros((), device=ids.device)
    for part in ids.split(rows) if len(ids) else ():
        with autocast(model.device):
            hidden = model.hidden(part[:, :-1]).flatten(0, 1)
            loss = linear_nll(
                hidden,
                model.head_weight,
                part[:, 1:].flatten(),
                hidden.new_full((len(hidden),), 1 / n_tokens, dtype=torch.float32),
                model.config.logit_softcap,
                fast.rows(model),
            )
        loss.backward()
        total += loss.detach()
    return total


def shapes_of_passes(ids: Tensor, tokens_at_once: int) -> frozenset[tuple[int, int]]:
    """Rows and tokens of the passes in which (B, T + 1) ids are read: one shape, or two that differ by their rows."""
    parts = ids.split(_rows_of_a_pass(ids, tokens_at_once))
    return frozenset((len(part), ids.size(1) - 1) for part in parts)


def _rows_of_a_pass(ids: Tensor, tokens_at_once: int) -> int:
    """As many as have so many tokens to learn, and all passes alike: a last one of few rows makes small products."""
    most = max(1, tokens_at_once // max(1, ids.size(1) - 1))
    n_passes = -(-len(ids) // most)
    return -(-len(ids) // max(1, n_passes)) or 1


def masked_backward(
    model: GPT,
    ids: Tensor,
    mask: Tensor,
    n_learned: int,
    segments: Tensor | None = None,
    tokens_at_once: int | None = None,
) -> Tensor:
    """Add the gradient of the masked targets' losses over `n_learned`; returns that loss, detached.

    Args:
        ids: (B, T + 1) token ids; mask: (B, T + 1) bool, true on the tokens to learn.
        n_learned: of the whole batch, where `ids` is one rank's share.
        segments: (B, T + 1), which sequence of its row a token belongs to, where a row holds several.
        tokens_at_once: of one pass, a row at least; None reads all rows in one.
    """
    total = torch.zeros((), device=model.device)
    rows = max(1, len(ids)) if tokens_at_once is None else _rows_of_a_pass(ids, tokens_at_once)
    for begin in range(0, len(ids), rows):
        part = slice(begin, begin + rows)
        scored, targets = mask[part, 1:].bool(), ids[part, 1:]
        positions, attention = (None, None) if segments is None else separated(segments[part, :-1])
        with autocast(model.device):
            hidden = model.hidden(ids[part, :-1], positions, mask=attention)[scored]
            weights = hidden.new_full((len(hidden),), 1 / n_learned, dtype=torch.float32)
            cap = model.config.logit_softcap
            loss = linear_nll(hidden, model.head_weight, targets[scored], weights, cap)
        loss.backward()
        total += loss.detach()
    return total


def masked_logprobs(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities of the masked targets, zero elsewhere. No gradient.

    Args:
        ids: (B, T + 1) token ids, padded on the right with anything.
        mask: (B, T + 1) bool, true on the tokens to score; the first of a row has nothing before it and is left out.
    Returns: (B, T) float32, of the tokens 1 to T.

    The head, the most expensive layer of a small network, runs on the masked places only, some at a time.
    """
    scored = mask[:, 1:].bool()
    with torch.no_grad(), autocast(model.device):
        hidden = model.hidden(ids[:, :-1])[scored]
        logprobs = -nll(hidden, model.head_weight, ids[:, 1:][scored], model.config.logit_softcap)
    return torch.zeros(scored.shape, device=ids.device).masked_scatter(scored, logprobs)


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """A loss that does not depend on the tokenizer: total nats of a text over its UTF-8 bytes, in bits."""
    return nats / math.log(2) / n_bytes
