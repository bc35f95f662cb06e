"""What a training run does about a batch that would spoil it: skip it, go back, and only then give up.

A loss that is no number, or one far above those before it, is not learned from; nor is a gradient that is far longer,
where the loss has no level of its own. When several in a row are
like that, the weights themselves are taken to be spoilt, and the run goes back to its last saved state and
passes over the batches that were in trouble. What that does not mend is told to a person, with the batch.
Source: the practice of Chowdhery et al. 2022, arXiv:2204.02311, section 5.1.
"""

import math
from statistics import median
from typing import Any, Literal

from core_ml.errors import UserError

WINDOW = 64  # values that a new one is held against
FEWEST = 32
IN_A_ROW = 3
RETURNS = 2


class Spoilt(Exception):
    """The weights are not to be trusted any more: go back, and keep `notes` over those that were saved."""

    def __init__(self, reason: str, notes: dict[str, Any]) -> None:
        super().__init__(reason)
        self.reason, self.notes = reason, notes


class Guard:
    """Looks at each update before it is made. Its memory is JSON and is kept with the run's notes.

    Args:
        spread: how many times the usual spread above the usual value is too much; None looks for numbers only.
        of: which value that is.
        harmless: up to here a value is never too much, however small the usual one has become.
    """

    def __init__(
        self,
        notes: dict[str, Any],
        spread: float | None,
        of: Literal["loss", "grad_norm"] = "loss",
        harmless: float = 0.0,
    ) -> None:
        self.notes, self.spread, self.of, self.harmless = notes, spread, of, harmless
        self.kept = "losses" if of == "loss" else "grad_norms"
        notes.setdefault("guard", {"trouble": [], "returns": 0}).setdefault(self.kept, [])

    def passes_over(self, step: int) -> bool:
        """Whether this batch was in trouble before the run went back."""
        memory = self.notes["guard"]
        return memory["returns"] > 0 and step in memory["trouble"]

    def complaint(self, step: int, loss: float, grad_norm: float) -> str | None:
        """Why this update must not be made, or None when it may.

        Raises: Spoilt when too many in a row were in trouble; UserError when going back did not help.
        """
        memory = self.notes["guard"]
        reason = self._reason(loss, grad_norm)
        if reason is None:
            memory[self.kept] = [*memory[self.kept], loss if self.of == "loss" else grad_norm][-WINDOW:]
            return None
        memory["trouble"] = [*memory["trouble"], step][-1000:]
        last = memory["trouble"][-IN_A_ROW:]
        if last == list(range(step - IN_A_ROW + 1, step + 1)):
            if memory["returns"] >= RETURNS:
                raise UserError(
                    f"{IN_A_ROW} updates up to step {step} could not be made, and going back {RETURNS} times did not "
                    f"help: {reason}",
                    hint="Lower the learning rates, set grad_clip, or look at these pieces of the data.",
                )
            memory["returns"] += 1
            raise Spoilt(reason, {"guard": memory})
        return reason

    def _reason(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        before = self.notes["guard"][self.kept]
        if self.spread is None or len(before) < FEWEST:
            return None
        value, named = (loss, "loss") if self.of == "loss" else (grad_norm, "gradient's norm")
        usual = median(before)
        # The median of distances, scaled to a normal distribution's deviation; a flat curve has some noise too.
        spread = max(1.4826 * median(abs(one - usual) for one in before), 0.02 * abs(usual))
        if value > max(self.harmless, usual + self.spread * spread):
            return f"the {named} {value:.3g} is far above the usual {usual:.3g}"
        return None
