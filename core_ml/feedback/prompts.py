"""Prompts of a dataset of problems or of prompts, each once, in an order that follows from a seed."""

import random
from dataclasses import dataclass, field
from typing import Any

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.tasks.rows import read_rows


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """What came with it, for example its task; labelers never see it."""


def read_prompts(folder: artifact.Folder, seed: int | str) -> list[Prompt]:
    """All distinct prompts, shuffled. Raises: UserError when none has any text."""
    found: dict[str, Prompt] = {}
    for row in read_rows(folder, ["prompt"], input="problems"):
        text = row["prompt"]
        if isinstance(text, str) and text.strip():
            found.setdefault(text, Prompt(text, row["metadata"]))
    if not found:
        raise UserError(
            f"{folder.manifest.name} has no prompt with any text: choose another", field="problems"
        )
    prompts = list(found.values())
    random.Random(f"{seed}:prompts").shuffle(prompts)
    return prompts
