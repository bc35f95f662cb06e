"""Energy: what counters and GPUs say, of all ranks together, over the tokens of all."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core_ml import ranks
from core_ml.model import energy
from core_ml.model.energy import Energy
from tests.core_ml.together import both

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def package(folder: Path, number: int, microjoules: int, maximum: int = 999_999_999) -> Path:
    made = folder / f"intel-rapl:{number}"
    made.mkdir(exist_ok=True)
    (made / "energy_uj").write_text(f"{microjoules}\n")
    (made / "max_energy_range_uj").write_text(f"{maximum}\n")
    return made


def test_all_packages_count_and_a_counter_may_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "COUNTERS", tmp_path)
    package(tmp_path, 0, 1_000_000), package(tmp_path, 1, 999_000_000)
    joules = Energy(CPU)
    package(tmp_path, 0, 3_000_000), package(tmp_path, 1, 500_000)
    # 2 J, and 1 J up to the end and 0.5 J after it: 3.5 J for ten tokens.
    assert joules.since_last(10)["joules_per_token"] == pytest.approx(0.35)
    package(tmp_path, 0, 4_000_000)
    assert joules.since_last(10)["joules_per_token"] == pytest.approx(0.1)


def test_where_no_counter_can_be_read_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "COUNTERS", tmp_path)
    assert Energy(CPU).since_last(10) == {}
    (package(tmp_path, 0, 1) / "max_energy_range_uj").unlink()
    assert Energy(CPU).since_last(10) == {}


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    times = iter(seconds)
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: next(times)))


def test_a_gpus_power_is_taken_over_the_time_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 300_000)  # milliwatts
    clock(monkeypatch, 0.0, 2.0, 2.0, 3.0, 3.0)
    joules = Energy(GPU)
    assert joules.since_last(100)["joules_per_token"] == pytest.approx(6.0)
    assert joules.since_last(100)["joules_per_token"] == pytest.approx(3.0)


def test_a_gpu_that_cannot_tell_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def power(device: torch.device) -> int:
        asked.append(device)
        raise RuntimeError("not supported")

    monkeypatch.setattr(torch.cuda, "power_draw", power)
    joules = Energy(GPU)
    assert joules.since_last(100) == {} and joules.since_last(100) == {}
    assert asked == [GPU]


def two_ranks(folder: Path) -> None:
    rank, told = ranks.rank(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "COUNTERS", folder)
        joules = Energy(CPU)
        ranks.summed(0.0)
        if rank == 0:
            package(folder, 0, 8_000_000)
        ranks.summed(0.0)
        told.append(joules.since_last(10))
        # A GPU each, the second of which draws twice as much.
        patch.setattr(torch.cuda, "power_draw", lambda device: 100_000 * (1 + rank))
        clock(patch, 0.0, 2.0, 2.0)
        told.append(Energy(GPU).since_last(10))
        # One of them cannot tell, so that there is no sum.
        patch.setattr(torch.cuda, "power_draw", lambda device: 1 // rank)
        clock(patch, 0.0, 2.0, 2.0)
        told.append(Energy(GPU).since_last(10))
    (folder / f"told-{os.environ['RANK']}.json").write_text(json.dumps(told))


def test_ranks_add_up_their_gpus_and_count_a_shared_processor_once(tmp_path: Path) -> None:
    package(tmp_path, 0, 3_000_000)
    both(two_ranks, tmp_path)
    for rank in range(2):
        processor, gpus, nothing = json.loads((tmp_path / f"told-{rank}.json").read_text())
        assert processor["joules_per_token"] == pytest.approx(0.5)
        # 100 W and 200 W for two seconds: 600 J.
        assert gpus["joules_per_token"] == pytest.approx(60.0)
        assert nothing == {}
