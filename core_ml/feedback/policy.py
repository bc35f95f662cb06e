"""Reinforcement learning of a chat model: leave-one-out baselines, a clipped ratio, and a pull to where it began.

One answer is one action (RLOO): its advantage is its reward minus the mean reward of its siblings, given to
all of its tokens. Departures: advantages are divided by the batch's spread of rewards, the ratio is clipped
token by token as in PPO, and the pull to the chat model stands in the loss (k3), not in the reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core_ml.feedback.batches import Batch, Row, answer_ids, answer_logits, chosen_logprobs, pad
from core_ml.model.gpt import GPT

SCORING_ROWS = 128  # rows of one pass without gradient: their logits must fit in memory


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


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """An estimate of KL(policy || reference) at each token: never negative, unbiased, and of little variance.

    Source: Schulman 2020, Approximating KL divergence. Above some 2 nats it becomes erratic: report `exact_kl`.
    """
    logratio = ref_logprobs - logprobs
    return logratio.exp() - logratio - 1


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """(N,) KL(policy || reference) of the next token, summed over the vocabulary; logits (N, vocab_size)."""
    logprobs, ref_logprobs = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """(N,) entropy of the next token in nats."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def clipped_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    clip: float,
    kl_coef: float,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss with a KL penalty, averaged over tokens.

    Args:
        logprobs, old_logprobs, ref_logprobs: (N,) of the answers' tokens under the policy, under the policy
            that sampled them, and under the chat model.
        advantages: (N,) each token's answer's advantage.
        clip: how far the ratio to the old policy may move from 1 before the gradient stops.
        kl_coef: weight of the pull to the chat model, per token.
    Returns: the loss and the share of tokens whose gradient was stopped.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    ratio = (logprobs - old_logprobs).exp()
    unclipped, clipped = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -torch.minimum(unclipped, clipped) + kl_coef * k3(logprobs, ref_logprobs)
    return loss.mean(), (clipped < unclipped).float().mean()


@dataclass(frozen=True, slots=True)
class Reference:
    """What stays fixed while the policy moves: for each row, its tokens' logprobs under both models."""

    old: list[Tensor]
    ref: list[Tensor]
    kl: list[Tensor]
    """Exact, per token."""
    entropy: list[Tensor]

    def measures(self) -> dict[str, float]:
        """KL to the chat model in nats an answer, by three estimates, and the entropy of a token.

        `kl` sums over the vocabulary at each token, `kl_k1` and `kl_k3` only see the sampled one.
        """
        old, ref = torch.cat(self.old), torch.cat(self.ref)
        n = len(self.old)
        return {
            "kl": torch.cat(self.kl).sum().item() / n,
            "kl_k1": (old - ref).sum().item() / n,
            "kl_k3": k3(old, ref).sum().item() / n,
            "entropy": torch.cat(self.entropy).mean().item(),
        }


@torch.no_grad()
def look_back(policy: GPT, chat: GPT, rows: Sequence[Row]) -> Reference:
    """The policy before the update and the chat model on the same answers."""
    found = Reference([], [], [], [])
    for begin in range(0, len(rows), SCORING_ROWS):
        part = rows[begin : begin + SCORING_ROWS]
        batch = pad(part, policy.device)
        logits, ref_logits, ids = answer_logits(policy, batch), answer_logits(chat, batch), answer_ids(batch)
        lengths = [len(answer) for _, answer in part]
        for into, values in (
            (found.old, chosen_logprobs(logits, ids)),
            (found.ref, chosen_logprobs(ref_logits, ids)),
            (found.kl, exact_kl(logits, ref_logits)),
            (found.entropy, entropy(logits)),
        ):
            into.extend(values.split(lengths))
    return found


@dataclass(frozen=True, slots=True)
class Update:
    """How one optimizer step went."""

    loss: float
    clipfrac: float
    grad_norm: float


def update(
    policy: GPT,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    reference: Reference,
    advantages: Sequence[float],
    indices: Sequence[int],
    *,
    clip: float,
    kl_coef: float,
    grad_clip: float,
) -> Update:
    """One optimizer step on the rows of one minibatch."""
    batch: Batch = pad([rows[i] for i in indices], policy.device)
    logprobs = chosen_logprobs(answer_logits(policy, batch), answer_ids(batch))
    per_token = torch.cat([torch.full((len(rows[i][1]),), advantages[i]) for i in indices])
    loss, clipfrac = clipped_loss(
        logprobs,
        torch.cat([reference.old[i] for i in indices]),
        torch.cat([reference.ref[i] for i in indices]),
        per_token.to(policy.device),
        clip,
        kl_coef,
    )
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad()
    return Update(loss.item(), clipfrac.item(), float(grad_norm))
