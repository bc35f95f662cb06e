"""From gradients to new weights: added up over ranks, looked at, clipped, applied, averaged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core_ml import ranks
from core_ml.events import Event, Log, Metric
from core_ml.model.device import memory_bytes
from core_ml.training import state
from core_ml.training.guard import Guard
from core_ml.training.optim import clip, scale_lr
from core_ml.training.sharding import is_sharded

Share = Callable[[int], float]
"""The share of the peak learning rate at an update, the first of which is 1."""


class Update:
    """The second half of a training step; the first has left its gradients in the model.

    Args:
        lr_share: of the update's number.
        grad_clip: longest gradient; longer ones are scaled down.
        notes: the loop's, in which the guard remembers.
        spread: of the guard, see there.
        ema: weight of the past in a running average of the weights; None keeps none.
        place: tells a person where in the data a batch came from.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        lr_share: Share,
        *,
        notes: dict[str, Any],
        grad_clip: float | None = None,
        spread: float | None = None,
        ema: float | None = None,
        place: Callable[[int], str] = "batch of update {}".format,
    ) -> None:
        self.model, self.optimizers, self.lr_share = model, optimizers, lr_share
        self.grad_clip, self.ema, self.place = grad_clip, ema, place
        self.guard = Guard(notes, spread)
        # What is frozen is its own average.
        self._learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self._learned.items()} if ema else None

    def __call__(self, step: int, loss: Tensor, **more: float) -> list[Event]:
        """Make update `step`; returns what there is to tell, `more` measures with it.

        Raises: Spoilt when the run must go back, UserError when it cannot go on.
        """
        loss = ranks.total(self.model, loss.detach())
        value, grad_norm = loss.item(), clip(self.model, self.grad_clip)
        lr = scale_lr(self.optimizers, self.lr_share(step))
        complaint = "it was in trouble before" if self.guard.passes_over(step) else None
        complaint = complaint or self.guard.complaint(step, value, grad_norm)
        if complaint is None:
            for optimizer in self.optimizers:
                optimizer.step()
            self._follow()
        self.model.zero_grad()
        told: list[Event] = []
        if complaint:
            told.append(Log(f"Update {step} was passed over: {complaint}. {self.place(step)}", "warning"))
        else:
            values = {"loss": value, "lr": lr, "grad_norm": grad_norm, **more}
            told.append(Metric(step, {**values, "memory_gb": memory_bytes(loss.device) / 1e9}))
        return told

    @torch.no_grad()
    def _follow(self) -> None:
        if self.average is not None and self.ema is not None:
            for name, param in self._learned.items():
                self.average[name].lerp_(param, 1 - self.ema)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its average weights, where one is kept."""
        if self.average is None:
            yield
            return
        with torch.no_grad():
            self._swap()
            try:
                yield
            finally:
                self._swap()

    def _swap(self) -> None:
        assert self.average is not None
        for name, param in self._learned.items():
            held = param.detach().clone()
            param.copy_(self.average[name])
            self.average[name].copy_(held)

    def capture(self, notes: dict[str, Any]) -> Callable[[Path], None]:
        if not ranks.is_first() and not any(map(is_sharded, self.model.parameters())):
            return lambda path: None  # it would be thrown away
        return state.capture(self.model, self.optimizers, notes, self.average)

    def read(self, path: Path) -> dict[str, Any]:
        return state.read(path, self.model, self.optimizers, self.average)
