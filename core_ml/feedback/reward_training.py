"""From rankings to a reward model: the groups as tokens, the members that learn from them, and the order of the steps.

Departures from Stiennon et al. 2020: a small pull of rewards to 0 (which comparisons cannot fix, as only differences
count), and all answers of a group in one batch, so that each is read once (Ouyang et al. 2022).
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core_ml.errors import UserError
from core_ml.events import Event
from core_ml.feedback.batches import Row
from core_ml.feedback.pairs import Group, Pair
from core_ml.feedback.reliability import of_groups
from core_ml.feedback.reward_config import RewardConfig
from core_ml.feedback.reward_loss import MAX_CANDIDATES, Order, bradley_terry, n_candidates, plackett_luce
from core_ml.feedback.reward_model import encode, read_rewards
from core_ml.feedback.surface import FEATURES, LENGTH, Surface, fit
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.guard import Guard
from core_ml.training.optim import Muon
from core_ml.training.schedule import lr_share
from core_ml.training.update import Update

LossName = Literal["bradley_terry", "plackett_luce"]
HEAD_STD = 0.1
MAX_SEED_STEP = 64  # more than there are members


class Members(nn.Module):
    """What is trained: `n` networks that begin with the same body, and how common ties of each size are."""

    def __init__(self, start: GPT, n: int, largest_tie: int, seed: int) -> None:
        super().__init__()
        members = [start.with_value_head().train() for _ in range(n)]
        if n > 1:
            for number, member in enumerate(members):
                assert member.value_head is not None
                rng = torch.Generator().manual_seed(seed * MAX_SEED_STEP + number)
                # Small, so that it sets members apart and does not outweigh what they will learn.
                weight = torch.randn(member.value_head.weight.shape, generator=rng)
                with torch.no_grad():
                    member.value_head.weight.copy_(weight * HEAD_STD / member.config.d_model**0.5)
        self.members: list[GPT] = nn.ModuleList(members)  # type: ignore[assignment]
        self.log_ties = (
            nn.Parameter(torch.zeros(largest_tie - 1, device=start.device)) if largest_tie > 1 else None
        )

    def optimizer(self, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        return self.optimizers(lr, weight_decay)[-1]

    def optimizers(
        self, lr: float, weight_decay: float, muon_lr: float | None = None
    ) -> list[torch.optim.Optimizer]:
        """AdamW for all members: one without a gradient stays as it is, its momenta too. With `muon_lr` the matrices of
        the blocks have Muon before it.
        """
        learned = [
            (name, p)
            for m in self.members
            for name, p in m.named_parameters()
            if not name.startswith("head.")
        ]
        matrices = [p for name, p in learned if name.startswith("blocks.") and p.dim() == 2]
        by_muon = set() if muon_lr is None else set(matrices)
        groups = [{"params": [p for _, p in learned if p not in by_muon], "weight_decay": weight_decay}]
        if self.log_ties is not None:
            groups.append({"params": [self.log_ties], "weight_decay": 0.0})
        adamw = torch.optim.AdamW(groups, lr, betas=(0.9, 0.99), fused=True)
        return [adamw] if muon_lr is None else [Muon(matrices, muon_lr), adamw]


def weighed(groups: Sequence[Group]) -> tuple[list[Group], dict[str, float]]:
    """The groups with each ranking worth what its labeler has proved to be, and what that is, by labeler.

    Raises: UserError when nobody's order of a pair is borne out by the others.
    Source: Dawid and Skene 1979, as `core_ml.feedback.reliability` fits it.
    """
    found = of_groups((group.id, len(group.completions), group.rankings) for group in groups).weights()
    if not any(found.values()):
        raise UserError(
            "the labelers contradict each other so far that none of them can be relied on: rank more, or set "
            "weigh_labelers to false",
            field="weigh_labelers",
        )
    return [
        replace(
            group, rankings=[replace(r, weight=r.weight * found.get(r.labeler, 0.0)) for r in group.rankings]
        )
        for group in groups
    ], found


@dataclass(frozen=True, slots=True)
class Step:
    """One update: which member reads which groups, and how far it is on its own way (0 to `of` - 1)."""

    member: int
    groups: list[int]
    place: int
    of: int


class Trainer:
    """The encoded groups, and the loss of some of them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        groups: Sequence[Group],
        max_len: int,
        *,
        loss: LossName = "bradley_terry",
        label_smoothing: float = 0.0,
        centering: float = 0.0,
        surface: Surface | None = None,
        recompute: bool = False,
    ) -> None:
        self.recompute = recompute
        self.loss_name, self.label_smoothing, self.centering = loss, label_smoothing, centering
        # A ranking without weight says nothing.
        groups = [replace(group, rankings=[r for r in group.rankings if r.weight]) for group in groups]
        # Groups whose labelers tied everything order no pair; only a model of ties learns from them.
        self.groups = [
            group for group in groups if group.pairs() or (loss == "plackett_luce" and _ties(group) > 1)
        ]
        self.largest_tie = max((_ties(g) for g in self.groups), default=1) if loss == "plackett_luce" else 1
        for group in self.groups:
            if n_candidates(len(group.completions), self.largest_tie) > MAX_CANDIDATES:
                raise UserError(
                    f"ties of {self.largest_tie} among {len(group.completions)} responses are too many ways to "
                    "choose: use bradley_terry, or rank smaller groups",
                    field="loss",
                )
        self.rows = [
            [encode(tokenizer, g.prompt, text, max_len) for text in g.completions] for g in self.groups
        ]
        self.beside = [
            surface.scores([g.prompt] * len(g.completions), g.completions, whole=True)
            if surface
            else [0.0] * len(g.completions)
            for g in self.groups
        ]

    def plan(self, epochs: float, budget: int, seed: int, n_members: int = 1) -> list[Step]:
        """All updates: each member reads all groups in an order of its own, and the members take turns."""
        steps: list[Step] = []
        for member in range(n_members):
            batches = self._batches(epochs, budget, f"{seed}:{member}" if member else str(seed))
            steps += [Step(member, batch, place, len(batches)) for place, batch in enumerate(batches)]
        return sorted(steps, key=lambda step: (step.place / step.of, step.member))

    def _batches(self, epochs: float, budget: int, seed: str) -> list[list[int]]:
        """The groups of each step, for all epochs; a last part of an epoch is a share of its batches."""
        costs = [len(rows) * max(len(p) + len(a) for p, a in rows) for rows in self.rows]
        steps: list[list[int]] = []
        remaining, epoch = epochs, 0
        while remaining > 0:
            batches = _within(costs, budget, random.Random(f"{seed}:{epoch}"))
            steps += batches if remaining >= 1 else batches[: max(1, round(remaining * len(batches)))]
            remaining, epoch = remaining - 1, epoch + 1
        return steps

    def n_tokens(self, indices: Iterable[int]) -> int:
        """Of some groups' prompts and answers, each prompt once for each answer."""
        return sum(len(prompt) + len(answer) for i in indices for prompt, answer in self.rows[i])

    def told(self, indices: Iterable[int]) -> str:
        """Which groups these are, for a person."""
        return f"Groups {', '.join(self.groups[i].id for i in indices)}."

    def loss(
        self, model: GPT, indices: Iterable[int], log_ties: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """The loss of some groups and the share of their pairs that are ordered rightly."""
        rows: list[Row] = []
        beside: list[float] = []
        pairs: list[Pair] = []
        pair_weights: list[float] = []
        orders: list[Order] = []
        order_weights: list[float] = []
        for i in indices:
            begin = len(rows)
            for ranking in self.groups[i].rankings:
                own = [(begin + better, begin + worse) for better, worse in ranking.pairs()]
                pairs += own
                # Each ranking counts alike, however many pairs it orders.
                pair_weights += [ranking.weight / max(1, len(own))] * len(own)
                if sum(map(len, ranking.order)) > 1:
                    orders.append([[begin + index for index in tied] for tied in ranking.order])
                    order_weights.append(ranking.weight)
            rows += self.rows[i]
            beside += self.beside[i]
        network = read_rewards(model, rows, self.recompute)
        rewards = network + torch.tensor(beside, device=network.device)
        if self.loss_name == "plackett_luce":
            loss = plackett_luce(rewards, orders, order_weights, log_ties, self.label_smoothing)
        else:
            loss = bradley_terry(rewards, pairs, pair_weights, self.label_smoothing)
        accuracy = 0.5
        if pairs:
            better, worse = torch.tensor(pairs, device=rewards.device).T
            accuracy = (rewards[better] > rewards[worse]).float().mean().item()
        return loss + self.centering * network.square().mean(), accuracy


def surface_of(config: RewardConfig, groups: Sequence[Group]) -> Surface | None:
    """What counts beside the text, fitted to the groups, where the settings ask for it."""
    if config.surface_features:
        return fit(groups, list(FEATURES), LENGTH if config.length_control else (), ridge=None)
    return fit(groups, LENGTH[:1], LENGTH[:1]) if config.length_control else None


def trainer_of(
    config: RewardConfig,
    start: GPT,
    tokenizer: Tokenizer,
    groups: Sequence[Group],
    surface: Surface | None,
) -> Trainer:
    return Trainer(
        tokenizer,
        groups,
        start.config.max_seq_len,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        centering=config.centering,
        surface=surface,
        recompute=config.recompute,
    )


def teacher(
    config: RewardConfig, members: Members, trainer: Trainer, plan: Sequence[Step], notes: dict[str, Any]
) -> tuple[Callable[[int], list[Event]], Update]:
    """What makes an update by its number, and what that updates the weights with."""

    def share(step: int) -> float:
        place, of = plan[step - 1].place, plan[step - 1].of
        return lr_share(place, of, "wsd", config.warmup, config.cooldown)

    update = Update(
        members,
        members.optimizers(
            config.lr, config.weight_decay, config.muon_lr if config.optimizer == "muon" else None
        ),
        share,
        notes=notes,
        grad_clip=config.grad_clip,
        ema=config.ema,
        place=lambda step: trainer.told(plan[step - 1].groups),
    )
    # Rankings that are learned by heart cost next to nothing, and those that are not stand far above them: what costs
    # no more than a guess has not been spoilt.
    update.guard = Guard(notes, config.spike, harmless=math.log(2))

    def advance(step: int) -> list[Event]:
        made = plan[step - 1]
        loss, accuracy = trainer.loss(members.members[made.member], made.groups, members.log_ties)
        loss.backward()
        return update(step, loss, accuracy=accuracy)

    return advance, update


def _ties(group: Group) -> int:
    return max((len(tied) for ranking in group.rankings for tied in ranking.order), default=1)


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
