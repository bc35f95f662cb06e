"""What reinforcement learning from feedback minimises: one set of losses for PPO, GRPO and RLOO.

The three differ in where an advantage comes from, not in what is done with it. Notation as in CleanRL: `logprobs`
under the policy that learns, `old_logprobs` under the one that sampled, `ref_logprobs` under the chat model.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k3", "exact"]
CACHED = 1 << 18  # numbers of logits: 1 MB
FLOOR = 1e-4  # under a spread, so that equal rewards stay at 0 and do not become NaN


def rloo_advantages(rewards: Tensor) -> Tensor:
    """Score each answer against the mean of its siblings.

    Args:
        rewards: (P, G) float; G answers for each of P prompts.
    Returns: (P, G) advantages; each row sums to zero.
    Raises: ValueError when G < 2, since one answer has no siblings.
    Source: Ahmadian et al. 2024, arXiv:2402.14740, equation 8.
    """
    n = rewards.size(1)
    if n < 2:
        raise ValueError(f"need at least 2 answers per prompt, got {n}")
    # r_i minus the mean of the others equals n / (n - 1) times r_i minus the mean of all.
    return (rewards - rewards.mean(dim=1, keepdim=True)) * n / (n - 1)


def grpo_advantages(rewards: Tensor, scale_by_std: bool = True) -> Tensor:
    """Score each answer against its group's mean, in units of the group's spread.

    Args: as `rloo_advantages`. Without `scale_by_std` as Liu et al. 2025, arXiv:2503.20783 ("Dr. GRPO") propose.
    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2.
    """
    if rewards.size(1) < 2:
        raise ValueError(f"need at least 2 answers per prompt, got {rewards.size(1)}")
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    return centered / (rewards.std(dim=1, keepdim=True) + FLOOR) if scale_by_std else centered


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages of one answer's tokens, and the returns that the value head learns.

    Args:
        rewards: (T,) what each token earned; values: (T,) what was expected before it. Nothing follows the last.
        gamma: what a reward one token later is worth; lam: how far the rewards themselves are looked at (1) or the
            next value is believed (0).
    Source: Schulman et al. 2015, arXiv:1506.02438, equations 11 and 16.
    """
    following = torch.cat((values[1:], values.new_zeros(1)))
    surprise = rewards + gamma * following - values
    advantages = torch.zeros_like(surprise)
    last = surprise.new_zeros(())
    for t in reversed(range(len(surprise))):
        last = surprise[t] + gamma * lam * last
        advantages[t] = last
    return advantages, advantages + values


def whitened(advantages: Tensor) -> Tensor:
    """With mean 0 and spread 1 over a batch's tokens. Source: Huang et al. 2024, arXiv:2403.17031, detail 17."""
    if advantages.numel() < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + FLOOR)


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The log ratio of each token: unbiased for KL(policy || reference), of much variance, and of either sign."""
    return logprobs - ref_logprobs


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """An estimate of KL(policy || reference) at each token: never negative, unbiased, and of little variance.

    Source: Schulman 2020, Approximating KL divergence. Above some 2 nats it becomes erratic: report `exact_kl`.
    """
    logratio = ref_logprobs - logprobs
    return logratio.exp() - logratio - 1


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """(N,) KL(policy || reference) of the next token, summed over the vocabulary; logits (N, vocab_size)."""
    logprobs, ref_logprobs = (x.log_softmax(-1, dtype=torch.float32) for x in (logits, ref_logits))
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """(N,) entropy of the next token in nats."""
    logprobs = logits.log_softmax(-1, dtype=torch.float32)
    return -(logprobs.exp() * logprobs).sum(-1)


def by_rows(function: Callable[..., Tensor], *logits: Tensor) -> Tensor:
    """A function of rows of logits (N, vocab_size), some rows at a time: what it makes stays in a processor's cache."""
    n = max(1, CACHED // logits[0].size(1))
    return torch.cat([function(*parts) for parts in zip(*(x.split(n) for x in logits), strict=True)])


def clipped_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's loss of each token, and whether its gradient was stopped.

    Args:
        logprobs, old_logprobs: (N,) of the answers' tokens.
        advantages: (N,) of each token.
        clip: how far the ratio to the old policy may move from 1 before the gradient stops.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    ratio = (logprobs - old_logprobs).exp()
    unclipped, clipped = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(unclipped, clipped), clipped < unclipped


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half the squared error of each token's value; with `clip` no value gains by moving further than that.

    Source: Huang et al. 2024, arXiv:2403.17031, detail 15; Engstrom et al. 2020, arXiv:2005.12729.
    """
    errors = (values - returns).square()
    if clip is not None:
        moved = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (moved - returns).square())
    return 0.5 * errors


def token_weights(lengths: Iterable[int], by_answer: bool) -> list[float]:
    """For each answer what one of its tokens weighs in a mean: over all tokens, or over answers of equal weight.

    Source: by answer Shao et al. 2024, arXiv:2402.03300, equation 3, which favours short answers that are good and
    long ones that are bad; by token the rest of the literature.
    """
    lengths = list(lengths)
    if by_answer:
        return [1 / (len(lengths) * n) for n in lengths]
    return [1 / sum(lengths)] * len(lengths)


def adapted(kl_coef: float, kl: float, target: float, step: float = 0.1) -> float:
    """The coefficient after a round whose answers stood `kl` nats from the chat model.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2: the error is bounded, so that it moves slowly.
    """
    return kl_coef * (1 + step * min(0.2, max(-0.2, kl / target - 1)))


class Moments:
    """Mean and spread of all rewards so far, kept as JSON in the run's notes.

    Source: Welford 1962 for the sums; Zheng et al. 2023, arXiv:2307.04964, section 5.3.1, for the use.
    """

    def __init__(self, notes: dict[str, float]) -> None:
        self.notes = notes
        for name in ("n", "mean", "squares"):
            notes.setdefault(name, 0.0)

    def add(self, values: Iterable[float]) -> None:
        kept = self.notes
        for value in values:
            kept["n"] += 1
            off = value - kept["mean"]
            kept["mean"] += off / kept["n"]
            kept["squares"] += off * (value - kept["mean"])

    @property
    def std(self) -> float:
        return math.sqrt(self.notes["squares"] / (self.notes["n"] - 1)) if self.notes["n"] > 1 else 0.0

    def normalized(self, value: float) -> float:
        return (value - self.notes["mean"]) / (self.std + FLOOR)
