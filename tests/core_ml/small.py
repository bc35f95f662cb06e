"""Small artifacts, workspaces and networks for tests of recipes."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core_ml import artifact
from core_ml.events import Event, Metric
from core_ml.execute import read_inputs
from core_ml.recipe import Recipe
from core_ml.tasks.rows import write_rows
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.workspace import Workspace

ORIGIN = artifact.Origin(recipe="test")
SENTENCES = [
    f"{subject} {verb} {thing}."
    for subject in ("The cat", "A dog", "The old man", "My friend", "Nobody")
    for verb in ("sees", "likes", "finds", "has")
    for thing in ("a tree", "the sea", "two birds", "a red boat", "42 stones")
]


def documents(folder: Path, texts: Iterable[str] | None = None) -> Path:
    """A documents artifact; by default 60 short texts on 30 hosts."""
    if texts is None:
        texts = [" ".join(SENTENCES[(7 * i + j * j) % len(SENTENCES)] for j in range(12)) for i in range(60)]
    texts = list(texts)
    writer = artifact.Writer(
        folder, id="t-documents", kind="dataset", form="documents", name="texts", origin=ORIGIN
    )
    columns = {
        "id": [f"doc-{i}" for i in range(len(texts))],
        "url": [f"https://host{i % 30}.example/{i}.html" for i in range(len(texts))],
        "text": pa.array(texts, pa.string()),
    }
    pq.write_table(pa.table(columns), writer.path / "documents-00000.parquet")
    writer.finish({"n_rows": len(texts), "n_bytes": sum(len(text.encode()) for text in texts)})
    return folder


def conversations(folder: Path, rows: list[list[tuple[str, str]]] | None = None) -> Path:
    """A conversations artifact from lists of (role, content); by default 120 sums."""
    if rows is None:
        sums = [(a, b) for a in range(12) for b in range(10)]
        rows = [[("user", f"What is {a} + {b}?"), ("assistant", f"It is {a + b}.")] for a, b in sums]
    messages = [[{"role": role, "content": content} for role, content in row] for row in rows]
    writer = artifact.Writer(
        folder, id="t-conversations", kind="dataset", form="conversations", name="talks", origin=ORIGIN
    )
    path = writer.path / "conversations.parquet"
    write_rows(path, "conversations", ({"messages": row, "metadata": {}} for row in messages))
    writer.finish({"n_rows": len(rows)})
    return folder


@cache
def tokenizer(vocab_size: int = 320) -> Tokenizer:
    return Tokenizer.train([*SENTENCES, *(f"What is {n} + 3? It is {n + 3}." for n in range(50))], vocab_size)


def tokenizer_artifact(folder: Path) -> Path:
    writer = artifact.Writer(folder, id="t-tokenizer", kind="tokenizer", name="tok", origin=ORIGIN)
    tokenizer().save(writer.path)
    writer.finish({"vocab_size": tokenizer().vocab_size})
    return folder


def checkpoint_artifact(folder: Path, std: float | None = None) -> Path:
    """A base checkpoint of an untrained network; with `std` all of its weights are random."""
    import torch

    from core_ml.model import checkpoint
    from core_ml.model.gpt import GPT, GPTConfig

    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=tokenizer().vocab_size, n_layer=2, n_head=2, n_kv_head=1, d_model=32, max_seq_len=96
    )
    model = GPT(config)
    for param in model.parameters() if std else ():
        torch.nn.init.normal_(param, std=std)
    writer = artifact.Writer(
        folder, id="t-checkpoint", kind="checkpoint", role="base", name="base", origin=ORIGIN
    )
    checkpoint.save(model, tokenizer(), writer.path)
    writer.finish({"n_parameters": config.n_parameters})
    return folder


def workspace(recipe: Recipe, folder: Path, **inputs: Path) -> Workspace:
    opened = read_inputs(recipe, {name: [path] for name, path in inputs.items()})
    return Workspace(folder, folder / ".state", opened, ORIGIN, "t", "test")


REPEATABLE = ("loss", "lr", "grad_norm", "val_bits_per_byte", "val_loss")


def curves(events: Iterable[Event]) -> dict[str, list[tuple[int, float]]]:
    """The points of every metric that does not measure time, in the order in which they were told."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        if isinstance(event, Metric):
            for name, value in event.values.items():
                if name in REPEATABLE:
                    found.setdefault(name, []).append((event.step, value))
    return found
