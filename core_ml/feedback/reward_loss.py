"""What a reward model is told: the likelihood of people's orders, given one reward for each response.

Two models of how people rank stand to choose from. Bradley-Terry reads a ranking as the pairs that it orders, and
ties say nothing. Plackett-Luce reads it as a row of choices, the best of all first, then the best of the rest; ties
are choices of several at once, with the probability of Davidson's model, so that a tie says "of like worth".
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from core_ml.feedback.pairs import Pair

Order = Sequence[Sequence[int]]
"""Best first; the indices of one place are tied."""
MAX_CANDIDATES = 5000  # sets of responses that one choice is made among


def bradley_terry(
    rewards: Tensor,
    pairs: Sequence[Pair],
    weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted mean of -log sigmoid(r_better - r_worse) over pairs of indices into `rewards` (B,).

    With weights of 1 over the number of a ranking's pairs, every ranking counts alike, as in InstructGPT.

    Args:
        label_smoothing: the share of the pairs that are taken to be labelled the wrong way round.
    Raises: ValueError for no pairs. Sources: Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1;
        for the smoothing Wang et al. 2024, arXiv:2401.06080, section 3.2.
    """
    if not pairs:
        raise ValueError("Bradley-Terry needs at least one pair")
    better, worse = torch.tensor(pairs, device=rewards.device).T
    margins = rewards[better] - rewards[worse]
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
    if weights is None:
        return losses.mean()
    share = torch.tensor(weights, device=rewards.device, dtype=losses.dtype)
    return (losses * share).sum() / share.sum()


def plackett_luce(
    rewards: Tensor,
    orders: Sequence[Order],
    weights: Sequence[float] | None = None,
    log_ties: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted mean of -log p over all choices of some rankings, in nats a choice.

    At each place one set C of the responses that are left is chosen, with p(C) proportional to
    d(|C|) * (product of exp(r_i) over C) ** (1 / |C|) and d(1) = 1. Without ties that is Plackett and Luce's
    model, with two responses it is Davidson's of 1970, and with neither Bradley-Terry's.

    Args:
        rewards: (B,), indexed by the orders.
        log_ties: (D - 1,) log d of ties of 2 to D, which is the largest tie that can occur; None for D = 1.
        label_smoothing: at each choice, the probability that is given to the responses that were left behind.
    Raises: ValueError when there is nothing to choose, or a tie is larger than D.
    Sources: Luce 1959; Plackett 1975; Davidson 1970, JASA 65(329); ties of several: Firth, Kosmidis and Turner
        2019, arXiv:1909.07123.
    """
    sizes = 1 + (0 if log_ties is None else len(log_ties))
    stages: dict[int, list[tuple[list[int], int, float]]] = {}  # by the number of responses that are left
    for order, weight in zip(orders, weights or [1.0] * len(orders), strict=True):
        left = [index for tied in order for index in tied]
        for tied in order:
            if len(tied) > sizes:
                raise ValueError(
                    f"{len(tied)} responses are tied, and there is a parameter for {sizes} at most"
                )
            if len(left) > 1:
                # What is chosen stands first, so that it is the first set of its size.
                stages.setdefault(len(left), []).append((left, len(tied), weight))
            left = left[len(tied) :]
    if not stages:
        raise ValueError("Plackett-Luce needs at least one ranking of two responses")
    total, n = rewards.new_zeros(()), 0.0
    for n_left, choices in sorted(stages.items()):
        sets, first = _sets(n_left, min(sizes, n_left))
        scores = rewards[torch.tensor([left for left, _, _ in choices], device=rewards.device)]  # (S, n_left)
        candidates = scores @ sets.to(scores).T  # (S, C)
        if log_ties is not None:
            prevalence = [log_ties.new_zeros(n_left)]
            for k in range(2, min(sizes, n_left) + 1):
                prevalence.append(log_ties[k - 2].expand(first[k + 1] - first[k]))
            candidates = candidates + torch.cat(prevalence)
        size = torch.tensor([size for _, size, _ in choices], device=rewards.device)
        chosen = candidates.gather(1, torch.tensor(first, device=rewards.device)[size][:, None])[:, 0]
        if label_smoothing:
            behind = torch.arange(n_left, device=rewards.device) >= size[:, None]
            others = (scores * behind).sum(1) / behind.sum(1).clamp_min(1)
            share = label_smoothing * (size < n_left)
            chosen = (1 - share) * chosen + share * others
        share = torch.tensor([weight for _, _, weight in choices], device=rewards.device, dtype=scores.dtype)
        total = total + (share * (candidates.logsumexp(1) - chosen)).sum()
        n += float(share.sum())
    return total / n


def n_candidates(n: int, largest_tie: int) -> int:
    """How many sets the first choice among n responses is made among."""
    return sum(math.comb(n, size) for size in range(1, min(n, largest_tie) + 1))


@cache
def _sets(n: int, largest: int) -> tuple[Tensor, list[int]]:
    """All sets of 1 to `largest` of n responses as (C, n) rows whose sum is 1, and where those of each size begin."""
    rows: list[Tensor] = []
    first = [0, 0]
    for size in range(1, largest + 1):
        of_size = [list(chosen) for chosen in combinations(range(n), size)]
        row = torch.zeros(len(of_size), n)
        row.scatter_(1, torch.tensor(of_size), 1 / size)
        rows.append(row)
        first.append(first[-1] + len(of_size))
    return torch.cat(rows), first
