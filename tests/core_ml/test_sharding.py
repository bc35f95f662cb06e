"""A network of which each rank keeps a share: what is put together, who keeps it, and how it is compiled."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core_ml import ranks
from core_ml.model.config import GPTConfig
from core_ml.model.gpt import GPT
from core_ml.training import fast, sharding, state
from core_ml.training.loss import backward
from core_ml.training.optim import optimizers
from core_ml.workspace import Workspace
from tests.core_ml import small
from tests.core_ml.together import both

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("in_float32")  # as the ranks multiply


def network() -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=48, n_layer=2, d_model=32, n_head=2, n_kv_head=1, max_seq_len=16))
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.2)  # a head of zeros would give the blocks no gradients
    return model


def learned(model: GPT) -> list[torch.optim.Optimizer]:
    """An update on the same rows on every rank; the optimizers that made it."""
    made = optimizers(model, 0.1, 0.1)
    ids = torch.arange(32).view(2, 16)
    (model(ids).square().mean() / ranks.count()).backward()
    ranks.total(model, torch.zeros(()))
    for optimizer in made:
        optimizer.step()
    model.zero_grad()
    return made


def one_rank(folder: Path) -> None:
    model = network()
    sharding.shard(model, CPU)
    made = learned(model)
    whole = sharding.whole(model)
    assert (whole is not None) == ranks.is_first()
    if whole is not None:
        save_file(whole.state_dict(), folder / "whole.safetensors")
    own = folder / str(ranks.rank())
    own.mkdir()
    state.capture(model, made, {"step": 1})(own)
    ranks.summed(0.0)

    # Read by both from what the first wrote, into another network, and captured once more.
    again = network()
    sharding.shard(again, CPU)
    others = optimizers(again, 0.1, 0.1)
    assert state.read(folder / "0", again, others) == {"step": 1}
    own = folder / f"again-{ranks.rank()}"
    own.mkdir()
    state.capture(again, others, {"step": 1})(own)


def test_the_first_rank_alone_keeps_what_is_put_together(tmp_path: Path) -> None:
    both(one_rank, tmp_path)
    alone = network()
    made = learned(alone)
    state.capture(alone, made, {"step": 1})(tmp_path)
    wanted = load_file(tmp_path / state.TENSORS)
    wanted.pop("rng/cpu")
    weights = load_file(tmp_path / "whole.safetensors")
    assert weights.keys() == alone.state_dict().keys()
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)
    for folder in ("0", "again-0"):
        found = load_file(tmp_path / folder / state.TENSORS)
        found.pop("rng/cpu")
        assert sorted(found) == sorted(wanted)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=name)
    for folder in ("1", "again-1"):
        assert load_file(tmp_path / folder / state.TENSORS) == {}


def compiled_rank(folder: Path) -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = (
        "1"  # two pools of processes would take longer than the kernels
    )
    ids = torch.randint(0, 48, (2, 17), generator=torch.Generator().manual_seed(ranks.rank()))
    found = []
    for compiled in (False, True):
        model = network()
        sharding.shard(model, CPU)
        if compiled:
            fast.compile_blocks(model)
            assert fast.is_compiled(model)
        loss = ranks.total(model, backward(model, ids, 1000, 4))
        found.append([loss, *(sharding.full(p.grad) for p in model.parameters() if p.grad is not None)])
    for eager, kernels in zip(*found, strict=True):
        torch.testing.assert_close(kernels, eager, atol=1e-6, rtol=1e-6)


def test_shares_run_compiled_as_they_run_otherwise(tmp_path: Path) -> None:
    both(compiled_rank, tmp_path)


@pytest.mark.parametrize(("asked", "compiles"), [("on", True), ("off", False), ("auto", False)])
def test_a_sharded_network_is_compiled_where_that_is_asked_for(
    asked: str, compiles: bool, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path, tmp_path / ".state", {}, small.ORIGIN, "t", "test")

    def never() -> bool:
        raise AssertionError("a rank was timed alone")

    for _ in range(2):  # what was decided is known the second time
        asking = fast.decide(asked, workspace, never, 10**9, sharded=True)
        with pytest.raises(StopIteration) as ended:
            next(asking)
        assert ended.value.value is compiles
