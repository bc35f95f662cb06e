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
from core_ml.feedback import layout as layouts
from core_ml.feedback import shared
from core_ml.feedback.computed import Known
from core_ml.feedback.layout import Chunk, Layout, lay_out, score_cells
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
from core_ml.feedback.remembered import Recording
from core_ml.feedback.rollout import Rollouts
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


def parts(policy: GPT, rollouts: Rollouts, numbers: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Answers in order, as many at a time as fit into memory, and how many of them each prompt has.

    A part is whole groups, or a piece of a group that is too large by itself; its prompt is then read once a piece.
    """
    config, n, part = policy.config, rollouts.n, list[int]()

    def scores(numbers: Sequence[int]) -> int:
        rows = [rollouts.rows[number] for number in numbers]
        return score_cells([row[0] for row in rows], [row[1] for row in rows], config.n_head)

    for begin in range(0, len(numbers), n):
        group = list(numbers[begin : begin + n])
        n_logits = sum(rollouts.lengths[number] for number in part + group) * config.vocab_size
        if part and max(scores(part + group), n_logits) > layouts.MAX_SCORES:
            yield part, n
            part = []
        if (whole := scores(group)) > layouts.MAX_SCORES:
            size = max(1, n * layouts.MAX_SCORES // whole)
            yield from ((piece, len(piece)) for piece in _pieces(group, size))
        else:
            part = part + group
    if part:
        yield part, n


def _pieces(group: list[int], size: int) -> list[list[int]]:
    return [group[begin : begin + size] for begin in range(0, len(group), size)]


def _laid_out(rollouts: Rollouts, numbers: Sequence[int], k: int, device: torch.device) -> Layout:
    rows = [rollouts.rows[number] for number in numbers]
    return lay_out([row[0] for row in rows[::k]], [row[1] for row in rows], device)


@torch.no_grad()
def look_back(actor: Actor, chat: GPT | None, rollouts: Rollouts) -> Before:
    """The policy before the update, and the chat model where one is given, on the same answers."""
    policy, found, recording = actor.policy, Before(), rollouts.recording
    for numbers, k in parts(policy, rollouts, range(len(rollouts.rows))):
        rows = [rollouts.rows[number] for number in numbers]
        layout, known = _known(rollouts, numbers, k, policy.device, recording)
        with autocast(policy.device):
            states = shared.hidden(policy, layout, known) if actor.value_head or not recording else None
            ref_states = shared.hidden(chat, layout) if chat else None
        names = ["old", "entropy"] + ["ref", "kl"] * (chat is not None)
        of_tokens = {name: torch.empty(len(layout.targets), device=policy.device) for name in names}
        for chunk in layout.chunks(policy.config.vocab_size):
            with autocast(policy.device):
                if recording:
                    logits = recording.logits(policy, rows, k, known, chunk.rows)
                else:
                    assert states is not None
                    logits = shared.logits(policy, states[chunk.rows])
            of_tokens["old"][chunk.tokens] = shared.token_logprobs(logits, chunk)
            of_tokens["entropy"][chunk.tokens] = by_rows(entropy, logits)[chunk.source]
            if chat and ref_states is not None:
                with autocast(chat.device):
                    ref_logits = shared.logits(chat, ref_states[chunk.rows])
                of_tokens["ref"][chunk.tokens] = shared.token_logprobs(ref_logits, chunk)
                of_tokens["kl"][chunk.tokens] = by_rows(exact_kl, logits, ref_logits)[chunk.source]
        for name, values in of_tokens.items():
            getattr(found, name).extend(layout.of_answers(values))
        if actor.value_head and states is not None:
            found.values += layout.of_answers(actor.values(states)[layout.source])
    return found


def _known(
    rollouts: Rollouts, numbers: Sequence[int], k: int, device: torch.device, recording: Recording | None
) -> tuple[Layout, Known]:
    """Where the tokens of a part lie, and what a recording knows of them."""
    if recording:
        return recording.of(rollouts.rows, numbers, k, device)
    return _laid_out(rollouts, numbers, k, device), {}


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

    Logits exist for some rows at a time, whose gradients meet in the hidden states before the network's pass goes back.

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
    for part, k in parts(policy, rollouts, numbers):
        layout, known = _known(rollouts, part, k, policy.device, rollouts.recording if fresh else None)
        with autocast(policy.device):
            states = shared.hidden(policy, layout, known)
        ref_states = None
        if terms.kl_coef and terms.estimator == "exact":
            # The chat model's probabilities of whole vocabularies are too many to be kept from `look_back`.
            assert chat is not None
            with torch.no_grad(), autocast(chat.device):
                ref_states = shared.hidden(chat, layout)
        weights = torch.cat([before.old[i].new_full((rollouts.lengths[i],), weight_of[i]) for i in part])
        chunks = list(layout.chunks(policy.config.vocab_size))
        grads: list[Tensor] = []
        for chunk in chunks:
            read = states if len(chunks) == 1 else states.detach()[chunk.rows].requires_grad_()

            def of(values: Sequence[Tensor], part: list[int] = part, chunk: Chunk = chunk) -> Tensor:
                return torch.cat([values[i] for i in part])[chunk.tokens]

            with autocast(policy.device):
                logits = shared.logits(policy, read, shared.head_of_rows(known, chunk.rows, len(layout.read)))
            logprobs = shared.token_logprobs(logits, chunk)
            losses, stopped = clipped_losses(logprobs, of(before.old), of(advantages), terms.clip)
            if ref_states is not None and chat:
                pull = _exact_pull(chat, ref_states[chunk.rows], logits)[chunk.source]
                losses = losses + terms.kl_coef * pull
            elif terms.kl_coef:
                assert terms.estimator == "k3", "k1 has no gradient on average: it stands in the reward"
                losses = losses + terms.kl_coef * k3(logprobs, of(before.ref))
            if terms.entropy_coef:
                losses = losses - terms.entropy_coef * entropy(logits)[chunk.source]
            if actor.value_head:
                errors = value_losses(
                    actor.values(read)[chunk.source], of(before.values), of(returns), terms.value_clip
                )
                losses = losses + terms.vf_coef * errors
                learned.value_loss += errors.detach().sum().item() / n_tokens
            loss = (weights[chunk.tokens] * losses).sum()
            loss.backward()
            if len(chunks) > 1:
                assert read.grad is not None
                grads.append(read.grad)
            learned.loss = learned.loss + loss.detach()
            learned.clipfrac += stopped.sum().item() / n_tokens
        if len(chunks) > 1:
            states.backward(torch.cat(grads))
    return learned


def _exact_pull(chat: GPT, ref_states: Tensor, logits: Tensor) -> Tensor:
    with torch.no_grad(), autocast(chat.device):
        ref_logits = shared.logits(chat, ref_states)
    return exact_kl(logits, ref_logits)


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
