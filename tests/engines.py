"""A real engine process for tests, over tiny checkpoints with random weights."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from core_ml import artifact
from core_ml.model import checkpoint
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer

KEY = "a key for tests"
CONTEXT = 96


def write_checkpoint(
    root: Path,
    run: str = "aaaa1111",
    *,
    name: str = "tiny",
    role: str = "chat",
    seed: int = 0,
    config: GPTConfig | None = None,
    writes_ascii: bool = False,
) -> artifact.Manifest:
    """A finished checkpoint artifact: 2 layers of 32, weights drawn so that no two tokens are equally likely.

    With `writes_ascii` the likeliest tokens are whole characters, where drawn weights write halves of them too.
    """
    texts = ["the cat sees a tree, the dog likes the sea"] * 20 + ["été, naïve, déjà vu"] * 20
    tokenizer = Tokenizer.train(texts, 300)
    # More outputs than tokens, as a padded vocabulary has.
    config = config or GPTConfig(
        vocab_size=304, n_layer=2, n_head=4, n_kv_head=2, d_model=32, max_seq_len=CONTEXT, ff_mult=2
    )
    model = GPT(config)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.4)
        # No special token is ever the likeliest: what is asked for ends where the asker says.
        model.head_weight[:16] = 0
        if writes_ascii:
            whole = [data.isascii() and data.decode().isprintable() for data in tokenizer.token_bytes]
            model.head_weight[: len(whole)] *= torch.tensor(whole)[:, None]
    writer = artifact.Writer(
        root / run / "checkpoint",
        id=f"{run}-checkpoint",
        kind="checkpoint",
        name=name,
        role=role,
        origin=artifact.Origin(recipe="sft"),
    )
    checkpoint.save(model, tokenizer, writer.path)
    return writer.finish({"n_parameters": config.n_parameters})


@contextlib.contextmanager
def running(root: Path, *where: str, key: str | None = KEY) -> Iterator[str]:
    """An engine over a root; gives the address that it printed. `where` is by default a free port."""
    command = [sys.executable, "-m", "core_ml.engine", "--root", str(root), *(where or ("--port", "0"))]
    command += ["--key", key] if key else []
    environment = {name: value for name, value in os.environ.items() if name != "ENGINE_KEY"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment | {"ENGINE_THREADS": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), f"the engine did not start: {line!r}"
        yield line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()
