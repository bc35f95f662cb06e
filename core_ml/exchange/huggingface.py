"""Checkpoints as Hugging Face model folders, out and in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from core_ml.artifact import Folder, Manifest

Dtype = Literal["float32", "bfloat16", "float16"]


def save(
    target: Path, checkpoint: Folder, *, ancestors: Sequence[Manifest] = (), dtype: Dtype = "float32"
) -> str:
    """Write a checkpoint as a folder that `transformers` loads: weights, configs, tokenizer and model card.

    Args:
        target: a folder that exists and is empty.
        ancestors: manifests of what the checkpoint came from, nearest first, as far as they are at hand.
        dtype: of the weights in the file.
    Returns: the published family that it is written as, such as "llama".
    Raises: UserError that names the settings which no family has, or that its weights are damaged.
    """
    raise NotImplementedError


def family(checkpoint: Path | str) -> str:
    """The family that a checkpoint's folder would be written as. Imports no torch. Raises UserError as `save`."""
    raise NotImplementedError
