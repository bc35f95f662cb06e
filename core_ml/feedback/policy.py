"""The policy that learns: what is known of a round before the first update, and the gradient of a part of it.

Whole groups stay together, so that each prompt is read once for all of its answers, forward and backward. The
first update after sampling looks up what sampling computed instead of computing it again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from core_ml.errors import UserError
from core_ml.feedback import shared
from core_ml.feedback.layout import MAX_SCORES, Layout, lay_out, score_cells
from core_ml.feedback.losses import (
    Estimator,
    by_rows,
    clipped_losses,
    entropy,
    exact_kl,
    k1,
    k3,
    token_weights,
    value_losses,
)
from core_ml.feedback.rollout import Rollouts
from core_ml.feedback.shared import Known
from core_ml.model import checkpoint
from core_ml.model.device import autocast
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training import lora
from core_ml.training.optim import optimizers
from core_ml.workspace import Workspace


class Actor(nn.Module):
    """A policy, and for PPO a head that says from a hidden state what reward is to come."""

    def __init__(self, policy: GPT, values: bool = False) -> None:
        super().__init__()
        self.policy = policy
        self.value_head: nn.Linear | None = None
        if values:
            self.value_head = nn.Linear(policy.config.d_model, 1).to(policy.device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def values(self, states: Tensor) -> Tensor:
        assert self.value_head is not None
        with torch.autocast(states.device.type, enabled=False):
            return self.value_head(states.float())[:, 0]

    def optimizers(
        self, optimizer: Literal["adamw", "muon"], lr: float, muon_lr: float
    ) -> list[torch.optim.Optimizer]:
        """For all that learns: every weight, or the adapters where there are some, and the head of values."""
        if optimizer == "muon":
            found = optimizers(self.policy, muon_lr, lr)
            if self.value_head:
                found[-1].add_param_group({"params": list(self.value_head.parameters())})
            return found
        # Whoever answers does not score: a reward model's head has no gradient here.
        learning = [
            param
            for name, param in self.named_parameters()
            if param.requires_grad and not name.startswith("policy.value_head.")
        ]
        return [torch.optim.AdamW(learning, lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


@dataclass(slots=True)
class Before:
    """What stays fixed while the policy moves: for each answer, of each of its tokens."""

    old: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    ref: list[Tensor] = field(default_factory=list)
    """Empty where nobody asked how far the policy stands from the chat model."""
    kl: list[Tensor] = field(default_factory=list)
    """Exact."""
    values: list[Tensor] = field(default_factory=list)

    def pull(self, estimator: Estimator) -> list[Tensor]:
        """Each token's distance to the chat model by one estimate."""
        if estimator == "exact":
            return self.kl
        estimate = k1 if estimator == "k1" else k3
        return [estimate(old, ref) for old, ref in zip(self.old, self.ref, strict=True)]

    def measures(self) -> dict[str, float]:
        """KL to the chat model in nats an answer, by three estimates, and the entropy of a token.

        `kl` sums over the vocabulary at each token, `kl_k1` and `kl_k3` only see the sampled one.
        """
        found = {"entropy": torch.cat(self.entropy).mean().item()}
        if self.ref:
            old, ref, n = torch.cat(self.old), torch.cat(self.ref), len(self.old)
            found["kl"] = torch.cat(self.kl).sum().item() / n
            found |= {"kl_k1": k1(old, ref).sum().item() / n, "kl_k3": k3(old, ref).sum().item() / n}
        return found


def parts(policy: GPT, rollouts: Rollouts, numbers: Sequence[int]) -> Iterator[list[int]]:
    """Answers (whole groups, in order) a part at a time, as many as fit into memory."""
    part: list[int] = []
    for begin in range(0, len(numbers), rollouts.n):
        group = list(numbers[begin : begin + rollouts.n])
        rows = [rollouts.rows[number] for number in part + group]
        config = policy.config
        scores = score_cells([row[0] for row in rows], [row[1] for row in rows], config.n_head)
        if part and max(scores, sum(len(row[1]) for row in rows) * config.vocab_size) > MAX_SCORES:
            yield part
            part = []
        part = part + group
    if part:
        yield part


def _laid_out(rollouts: Rollouts, numbers: Sequence[int], device: torch.device) -> Layout:
    rows = [rollouts.rows[number] for number in numbers]
    return lay_out([row[0] for row in rows[:: rollouts.n]], [row[1] for row in rows], device)


@torch.no_grad()
def look_back(actor: Actor, chat: GPT | None, rollouts: Rollouts) -> Before:
    """The policy before the update, and the chat model where one is given, on the same answers."""
    policy, found = actor.policy, Before()
    for numbers in parts(policy, rollouts, range(len(rollouts.rows))):
        rows = [rollouts.rows[number] for number in numbers]
        with autocast(policy.device):
            if rollouts.recording:
                layout, known = rollouts.recording.of(rollouts.rows, numbers, rollouts.n, policy.device)
                logits = rollouts.recording.logits(policy, rows, rollouts.n, known)
                states = shared.hidden(policy, layout, known) if actor.value_head else None
            else:
                layout = _laid_out(rollouts, numbers, policy.device)
                states = shared.hidden(policy, layout)
                logits = shared.logits(policy, states)
            ref_logits = shared.logits(chat, shared.hidden(chat, layout)) if chat else None
        found.old += layout.of_answers(shared.token_logprobs(logits, layout))
        found.entropy += layout.of_answers(by_rows(entropy, logits)[layout.source])
        if ref_logits is not None:
            found.ref += layout.of_answers(shared.token_logprobs(ref_logits, layout))
            found.kl += layout.of_answers(by_rows(exact_kl, logits, ref_logits)[layout.source])
        if actor.value_head and states is not None:
            found.values += layout.of_answers(actor.values(states)[layout.source])
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """What the loss of a token consists of, besides its advantage."""

    clip: float = 0.2
    kl_coef: float = 0.0
    """Of the pull that stands in the loss; 0 where it stands in the reward."""
    estimator: Estimator = "k3"
    entropy_coef: float = 0.0
    vf_coef: float = 0.0
    value_clip: float | None = None
    by_answer: bool = False


@dataclass(slots=True)
class Learned:
    """The loss of one update, whose gradients stand in the model, and what was seen on the way."""

    loss: Tensor
    clipfrac: float = 0.0
    value_loss: float = 0.0


def backward(
    actor: Actor,
    chat: GPT | None,
    rollouts: Rollouts,
    before: Before,
    advantages: Sequence[Tensor],
    returns: Sequence[Tensor],
    numbers: Sequence[int],
    terms: Terms,
    fresh: bool,
) -> Learned:
    """Add up the gradients of some answers' loss.

    Args:
        advantages, returns: of each token of every answer of the round; returns are empty without a value head.
        numbers: whole groups of answers. fresh: the policy is still the one that sampled them.
    """
    policy = actor.policy
    weight_of = dict(
        zip(numbers, token_weights([rollouts.lengths[i] for i in numbers], terms.by_answer), strict=True)
    )
    learned = Learned(torch.zeros((), device=policy.device))
    n_tokens = sum(rollouts.lengths[i] for i in numbers)
    for part in parts(policy, rollouts, numbers):
        known: Known = {}
        if fresh and rollouts.recording:
            layout, known = rollouts.recording.of(rollouts.rows, part, rollouts.n, policy.device)
        else:
            layout = _laid_out(rollouts, part, policy.device)
        with autocast(policy.device):
            states = shared.hidden(policy, layout, known)
            logits = shared.logits(policy, states, known)
        logprobs = shared.token_logprobs(logits, layout)

        def of(values: Sequence[Tensor], part: list[int] = part) -> Tensor:
            return torch.cat([values[i] for i in part])

        losses, stopped = clipped_losses(logprobs, of(before.old), of(advantages), terms.clip)
        if terms.kl_coef:
            losses = losses + terms.kl_coef * _pull(
                chat, layout, logits, logprobs, before, part, terms.estimator
            )
        if terms.entropy_coef:
            losses = losses - terms.entropy_coef * entropy(logits)[layout.source]
        if actor.value_head:
            errors = value_losses(
                actor.values(states)[layout.source], of(before.values), of(returns), terms.value_clip
            )
            losses = losses + terms.vf_coef * errors
            learned.value_loss += errors.detach().sum().item() / n_tokens
        weights = torch.cat([losses.new_full((rollouts.lengths[i],), weight_of[i]) for i in part])
        loss = (weights * losses).sum()
        loss.backward()
        learned.loss = learned.loss + loss.detach()
        learned.clipfrac += stopped.sum().item() / n_tokens
    return learned


def _pull(
    chat: GPT | None,
    layout: Layout,
    logits: Tensor,
    logprobs: Tensor,
    before: Before,
    part: Sequence[int],
    estimator: Estimator,
) -> Tensor:
    if estimator == "k3":
        return k3(logprobs, torch.cat([before.ref[i] for i in part]))
    # The chat model's probabilities of whole vocabularies are too many to be kept from `look_back`.
    assert estimator == "exact" and chat is not None, "k1 has no gradient on average: it stands in the reward"
    with torch.no_grad(), autocast(chat.device):
        ref_logits = shared.logits(chat, shared.hidden(chat, layout))
    return exact_kl(logits, ref_logits)[layout.source]


def reference(workspace: Workspace, tokenizer: Tokenizer, base: GPT | None = None) -> GPT:
    """What KL is measured to: the model given as such, or a second copy of the one that practises.

    Args:
        base: the one that practises, where its weights stay as they are and only adapters will learn: no copy is made.
    Raises: UserError where it reads with another tokenizer.
    """
    if base is not None and not workspace.has("reference"):
        return lora.sharing(base).requires_grad_(False)
    given = workspace.input("reference" if workspace.has("reference") else "checkpoint")
    model, its = checkpoint.load(given.path)
    if its.token_bytes != tokenizer.token_bytes:
        raise UserError(
            f"{given.manifest.name} reads with another tokenizer than the model that practises, and KL compares the two "
            "token by token: choose a reference of the same tokenizer",
            field="reference",
        )
    return model.requires_grad_(False)
