"""Small networks, tokenizers and datasets for tests of the recipes."""

from pathlib import Path
from typing import Any

import torch

from core_ml import artifact
from core_ml.model import checkpoint
from core_ml.model.config import GPTConfig
from core_ml.model.gpt import GPT
from core_ml.tasks.rows import write_rows
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.workspace import Workspace

TEXTS = [
    "What is 1 + 2? The sum is 3. I hope that helps.",
    "Count from 1 to 3. Counting: 1 2 3.",
    "Spell bal. Spelled: b a l.",
    "Who are you? I am Move 37, a small model.",
    "My dog is called lom. What is my dog called? It is called lom.",
] * 20


def small_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 340)


def small_model(vocab_size: int, seed: int = 0, **changes: Any) -> GPT:
    """A network of two layers whose every weight, heads included, is random instead of zero."""
    torch.manual_seed(seed)
    config = GPTConfig(
        **{"vocab_size": vocab_size, "n_layer": 2, "n_head": 2, "n_kv_head": 2, "d_model": 32, "ff_mult": 2,
           "max_seq_len": 128, **changes}
    )  # fmt: skip
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model


def write_checkpoint(path: Path, role: str, seed: int = 0, **changes: Any) -> artifact.Folder:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size, seed, **changes)
    writer = artifact.Writer(
        path / role,
        id=f"{role}-checkpoint",
        kind="checkpoint",
        role=role,
        name=role,
        origin=artifact.Origin(recipe="test"),
    )
    checkpoint.save(model, tokenizer, writer.path)
    writer.finish({"n_parameters": model.config.n_parameters})
    return artifact.Folder(path / role)


def write_dataset(
    path: Path, form: str, rows: list[dict[str, Any]], name: str | None = None
) -> artifact.Folder:
    name = name or form
    writer = artifact.Writer(
        path / name,
        id=f"x-{name}",
        kind="dataset",
        form=form,
        name=name,
        origin=artifact.Origin(recipe="test"),
    )
    write_rows(writer.path / f"{form}.parquet", form, rows)
    writer.finish({"n_rows": len(rows)})
    return artifact.Folder(path / name)


def workspace(path: Path, inputs: dict[str, artifact.Folder | list[artifact.Folder]]) -> Workspace:
    """A run's place; called again with the same path, it goes on from what was saved there."""
    folders = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
    return Workspace(path / "out", path / "state", folders, artifact.Origin(recipe="test"), "r1", "test")


def ranking(
    group: str, prompt: str, completions: list[str], order: list[list[int]], **changes: Any
) -> dict[str, Any]:
    return {
        "group_id": group, "prompt": prompt, "completions": completions, "labeler": "ada", "simulated": False,
        "order": order, "all_bad": False, "flags": "{}", "seconds": 1.0, **changes,
    }  # fmt: skip
