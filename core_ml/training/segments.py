"""Several conversations in one row, kept apart: none sees another, and each begins at position 0."""

import torch
from torch import Tensor


def separated(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and attention of rows that hold several sequences, one after the other.

    Args:
        segments: (B, T) whole numbers, the same on all tokens of a sequence and another on the next one.
    Returns: (B, T) int64 positions, which begin anew with each sequence; and (B, 1, T, T) bool, true where a query
        may look: at what stands before it in its own sequence.
    """
    places = torch.arange(segments.size(1), device=segments.device)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = torch.where(begins, places, 0).cummax(dim=1).values
    # A sequence begins nowhere twice in a row, so its first place names it.
    mask = (first[:, :, None] == first[:, None, :]) & (places[:, None] >= places)
    return places - first, mask[:, None]
