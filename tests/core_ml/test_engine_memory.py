"""Which models the engine keeps in memory: checkpoints with their keys and values, within one budget."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core_ml.engine.backend import Job
from core_ml.engine.errors import ApiError
from core_ml.engine.loop import Loop
from core_ml.engine.models import Entry, Models
from core_ml.engine.torch_backend import TorchBackend
from core_ml.model.config import GPTConfig
from tests.engines import write_checkpoint

CONFIG = GPTConfig(vocab_size=304, n_layer=2, n_head=4, n_kv_head=2, d_model=32, max_seq_len=1024, ff_mult=2)
NAMES = ("first", "second", "third")


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()


@pytest.fixture
def models(tmp_path: Path, loop: Loop) -> Models:
    for number, name in enumerate(NAMES):
        write_checkpoint(tmp_path, f"{name:a<8}", name=name, seed=number, config=CONFIG)

    def open_backend(entry: Entry) -> TorchBackend:
        assert entry.path is not None
        return TorchBackend(entry.path, entry.weights_sha256, loop, torch.device("cpu"))

    return Models(tmp_path, open_backend, max_bytes=1 << 30)


async def test_checkpoints_are_let_go_of_within_the_memory_the_least_recently_used_first(
    models: Models,
) -> None:
    one = (await models.get("first"))[1].n_bytes
    models.max_bytes = int(2.5 * one)
    await models.get("second")
    await models.get("first")
    await models.get("third")
    assert set(models.loaded()) == {"first", "third"}
    models.max_bytes = 1000
    with pytest.raises(ApiError, match="the engine may keep 0"):
        await models.get("second")


async def test_what_a_job_will_take_counts_and_a_model_that_answers_stays(models: Models) -> None:
    one = (await models.get("first"))[1].n_bytes
    _, busy = await models.get("second")
    # Sixty-four rows of a thousand tokens, of keys and values for 2 layers of 2 heads of 8.
    wanted = 64 * 1000 * 2 * 4 * 2 * 2 * 8
    models.max_bytes = one + wanted
    generation = await busy.start(Job(prompts=[[5] * 8], n=64, max_tokens=992, client="somebody"))
    assert busy.n_bytes == pytest.approx(one + wanted, rel=0.02)
    models.trim()
    assert models.loaded() == ["second"] and busy.is_busy
    models.max_bytes = 1000
    models.trim()
    assert models.loaded() == ["second"]
    generation.close()
    while busy.is_busy:
        await asyncio.sleep(0.01)


async def test_the_weights_go_with_the_model(models: Models) -> None:
    _, backend = await models.get("first")
    generation = await backend.start(Job(prompts=[[5, 60]], max_tokens=3))
    async for _ in generation:
        pass
    while backend.is_busy:  # its last row leaves after its last word
        await asyncio.sleep(0.01)
    weights = weakref.ref(backend.model)  # type: ignore[attr-defined]
    models.max_bytes = backend.n_bytes
    del backend, generation
    await models.get("second")
    gc.collect()
    assert models.loaded() == ["second"] and weights() is None
