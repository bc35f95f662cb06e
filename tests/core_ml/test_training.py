"""The parts of training: optimizer, schedule, losses, and the loop that goes on after a stop."""

import json
import math
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from core_ml.events import Event, Log, Metric, Progress, Sample
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.training import linear_loss, state
from core_ml.training.loop import Chore, Loop, every, resumed
from core_ml.training.loss import backward, bits_per_byte, masked_logprobs, token_nll
from core_ml.training.optim import Muon, clip, optimizers, orthogonal, scale_lr
from core_ml.training.schedule import FLOOR, lr_share
from core_ml.workspace import FINISH, Workspace
from tests.core_ml import small

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_kv_head=1, d_model=32, max_seq_len=32)


def test_orthogonalized_matrices_keep_directions_and_level_their_sizes() -> None:
    torch.manual_seed(0)
    for shape in ((1, 16, 16), (2, 24, 8), (2, 8, 24)):
        matrices = torch.randn(shape)
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        result = orthogonal(matrices)
        sizes = torch.diagonal(u.mT @ result @ vh.mT, dim1=1, dim2=2)
        # The quintic does not converge to 1; it sends everything above 0.01 into this band.
        assert ((sizes > 0.5) & (sizes < 1.3)).all(), sizes


def test_muon_moves_every_direction_by_about_the_learning_rate() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1)
    weight.grad = torch.randn(8, 8) * 1e-4  # the size of a gradient does not matter
    optimizer.step()
    sizes = torch.linalg.svdvals(weight)
    assert ((sizes > 0.05) & (sizes < 0.13)).all(), sizes


def test_matrices_go_to_muon_and_all_else_to_adamw() -> None:
    model = GPT(CONFIG).with_value_head()
    muon, adamw = optimizers(model, 0.03, 0.006)
    assert {param.shape for param in muon.param_groups[0]["params"]} == {
        (64, 32),
        (32, 32),
        (96, 32),
        (32, 96),
    }
    assert len(adamw.param_groups[0]["params"]) == 3  # embedding, head, value head
    assert scale_lr([muon, adamw], 0.5) == 0.015
    scale_lr([muon, adamw], 0.1)  # of the peak, not of what it was scaled to before
    assert adamw.param_groups[0]["lr"] == pytest.approx(6e-4)


def test_the_gradient_norm_is_told_before_it_is_clipped() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip(layer, None) == 5.0
    assert clip(layer, 1.0) == 5.0
    assert layer.weight.grad.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_wsd_warms_up_stays_and_cools_down() -> None:
    shares = [lr_share(step, 100, "wsd", 0.1, 0.5) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and shares[4] == pytest.approx(0.5)
    assert shares[9:51] == [1.0] * 42
    assert shares[75] == pytest.approx(0.5)  # 25 of the last 50 steps are left
    assert shares[99] == FLOOR  # 1 of 50, which is the floor itself


def test_cosine_falls_from_the_warm_up_on() -> None:
    shares = [lr_share(step, 110, "cosine", 10 / 110, 0.5) for step in range(110)]
    assert shares[10] == pytest.approx(1.0)
    assert shares[60] == pytest.approx(FLOOR + (1 - FLOOR) / 2)  # half way
    assert all(a > b for a, b in pairwise(shares[10:]))
    assert FLOOR < shares[-1] < FLOOR + 0.001


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_a_schedule_of_one_step_without_warm_up_still_moves(schedule: Any) -> None:
    assert lr_share(0, 1, schedule, 0.0, 0.0) == 1.0


def test_a_network_that_knows_nothing_pays_the_logarithm_of_the_vocabulary() -> None:
    nll = token_nll(GPT(CONFIG), torch.randint(0, 40, (2, 9)))
    assert nll.shape == (2, 8)
    assert torch.allclose(nll, torch.tensor(math.log(40)))


def test_masked_logprobs_are_zero_elsewhere_and_the_same_where_they_count() -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.2)
    ids = torch.randint(0, 40, (3, 10))
    mask = torch.rand(3, 10) < 0.4
    logprobs = masked_logprobs(model, ids, mask)
    assert torch.equal(logprobs != 0, mask[:, 1:])
    assert torch.allclose(logprobs, torch.where(mask[:, 1:], -token_nll(model, ids), 0.0), atol=0.05)


def test_masked_logprobs_make_no_more_logits_at_once_than_a_chunk_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.2)
    ids, mask = torch.randint(0, 40, (3, 10)), torch.ones(3, 10, dtype=torch.bool)
    whole = masked_logprobs(model, ids, mask)
    monkeypatch.setattr(linear_loss, "CHUNK", 4)
    made, real = [], linear_loss.capped

    def capped(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
        made.append(len(logits))
        return real(logits, softcap)

    monkeypatch.setattr(linear_loss, "capped", capped)
    monkeypatch.setattr(GPT, "logits", None)
    in_chunks = masked_logprobs(model, ids, mask)
    assert made == [4] * 6 + [3]
    assert torch.allclose(in_chunks, whole, atol=0.02) and not in_chunks.requires_grad


def test_a_bit_per_byte_is_a_fair_coin_for_each_byte() -> None:
    assert bits_per_byte(8 * math.log(2), 8) == pytest.approx(1.0)


def test_a_batch_split_into_passes_has_the_gradient_of_the_whole() -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.2)
    ids = torch.randint(0, 40, (5, 9))
    gradients = []
    for tokens_at_once in (1000, 18, 1):
        model.zero_grad()
        loss = backward(model, ids, tokens_at_once)
        assert loss.item() == pytest.approx(token_nll(model, ids).mean().item(), rel=1e-3)
        gradients.append(torch.cat([param.grad.flatten() for param in model.parameters()]))
    for split in gradients[1:]:
        assert torch.cosine_similarity(gradients[0], split, dim=0) > 0.999


def overfit(seed: int) -> list[float]:
    torch.manual_seed(seed)
    model = GPT(CONFIG)
    opts = optimizers(model, 0.02, 0.01)
    ids = torch.randint(0, 40, (4, 17), generator=torch.Generator().manual_seed(7))
    losses = []
    for _ in range(60):
        loss = backward(model, ids, 1000)
        for opt in opts:
            opt.step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


def test_it_learns_one_batch_by_heart_and_the_same_way_for_the_same_seed() -> None:
    losses = overfit(1)
    assert losses[0] == pytest.approx(math.log(40), abs=1e-3)
    assert losses[-1] < 0.1
    assert losses == overfit(1) != overfit(2)


def test_a_restored_state_trains_on_as_the_original_does(tmp_path: Path) -> None:
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(0))

    def train(model: GPT, opts: list[torch.optim.Optimizer]) -> float:
        loss = backward(model, ids, 1000)
        for opt in opts:
            opt.step()
        model.zero_grad()
        return loss.item()

    model = GPT(CONFIG)
    opts = optimizers(model, 0.02, 0.01)
    for _ in range(3):
        train(model, opts)
    state.capture(model, opts, {"n": 3})(tmp_path)
    restored = GPT(CONFIG)
    restored_opts = optimizers(restored, 0.02, 0.01)
    assert state.read(tmp_path, restored, restored_opts) == {"n": 3}
    assert [train(model, opts) for _ in range(3)] == [train(restored, restored_opts) for _ in range(3)]


# The loop, on a job without a network


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, folder / ".state", {}, small.ORIGIN, "t", "test")


def counting(save_every: float = 1e9) -> Loop:
    """A job whose state is one number; every event tells it."""
    job = {"value": 0}

    def advance(step: int) -> list[Event]:
        job["value"] = job["value"] * 3 % 1009 + step
        return [Metric(step, {"loss": job["value"]}), Metric(step, {"lr": step})]

    def look(step: int) -> Generator[Event, None, None]:
        yield Progress(step, None, message="looking")
        yield Metric(step, {"val_loss": job["value"]})
        yield Progress(step, None, message="looking")
        loop.notes["looks"] = loop.notes.get("looks", 0) + 1
        yield Sample(step, "q", f"{job['value']} {loop.notes['looks']}")

    def capture(kept: dict[str, Any]) -> Callable[[Path], None]:
        text = json.dumps([job, kept])
        return lambda path: (path / "job.json").write_text(text)

    def read(path: Path) -> dict[str, Any]:
        saved, kept = json.loads((path / "job.json").read_text())
        job.update(saved)
        return kept

    loop = Loop(7, advance, capture, read, {"look": Chore(every(3, 7), look)}, save_every=save_every)
    return loop


def told(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Progress)]


def test_a_loop_closed_at_any_event_tells_everything_once(tmp_path: Path) -> None:
    whole = list(counting().run(workspace(tmp_path / "whole")))
    assert [event.step for event in whole if isinstance(event, Sample)] == [0, 3, 6, 7]
    for n in range(1, len(whole)):
        place = workspace(tmp_path / str(n))
        loop = counting().run(place)
        first = [next(loop) for _ in range(n)]
        loop.close()
        assert resumed(place).step == max(event.step for event in first)
        assert told(first + list(counting().run(place))) == told(whole), n


def test_a_loop_killed_at_any_event_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    whole = list(counting(0).run(workspace(tmp_path / "whole")))
    for n in range(1, len(whole), 2):
        place = workspace(tmp_path / str(n))
        killed = counting(0)
        events = killed.run(place)
        first = [next(events) for _ in range(n)]
        killed._saving.finish()  # a kill before that finds the state before
        from_step = resumed(place).step
        kept = [event for event in first if event.step <= from_step]
        assert told(kept + list(counting(0).run(place))) == told(whole), n
        # The generator is still open, as the process was; closing it must not save over what went on.
        killed._saving.begin = lambda write: None
        events.close()


def test_a_finished_loop_has_nothing_left_to_tell(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    list(counting().run(place))
    assert resumed(place).step == 7
    assert list(counting().run(place)) == []


def test_a_loop_asked_to_finish_ends_after_the_step_at_hand_with_its_last_look(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    events = []
    for event in (loop := counting()).run(place):
        events.append(event)
        if isinstance(event, Metric) and event.step == 4:
            (place.state / FINISH).touch()
    assert loop.steps == loop.notes["steps"] == 5 and resumed(place).step == 5
    assert [event.step for event in events if isinstance(event, Sample)] == [0, 3, 5]
    assert [e.message for e in events if isinstance(e, Log)] == [
        "Ended after step 5 of 7, as asked, with what it has."
    ]
    assert [e.step for e in events if isinstance(e, Progress)][-1] == 5


def test_a_loop_that_was_killed_while_it_finished_makes_no_further_step(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    events = counting(0).run(place)
    first = next(event for event in events if isinstance(event, Metric) and event.step == 1)
    (place.state / FINISH).touch()
    told_of = [first, *(next(events) for _ in range(3))]  # step 2 is made and half of it told
    events.close()
    assert resumed(place).step == 2 and told_of[-1].step == 2
    again = counting()
    rest = told(list(again.run(place)))
    assert [type(event) for event in rest] == [Metric, Log, Metric, Sample] and again.steps == 2
    assert {event.step for event in rest if not isinstance(event, Log)} == {2}
