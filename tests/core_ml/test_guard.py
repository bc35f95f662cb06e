"""Trouble in training: what is passed over, when the run goes back, when it gives up; averages and kept states."""

import json
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from core_ml.errors import UserError
from core_ml.events import Event, Log, Metric, Progress, Resumed
from core_ml.training.guard import FEWEST, IN_A_ROW, RETURNS, Guard, Spoilt
from core_ml.training.loop import Chore, Loop
from core_ml.training.update import Update
from core_ml.workspace import Workspace
from tests.core_ml import small


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, folder / ".state", {}, small.ORIGIN, "t", "test")


def test_what_is_no_number_is_passed_over_from_the_first_update_on() -> None:
    guard = Guard({}, None)
    assert guard.complaint(1, 2.0, 1.0) is None
    assert "nan" in str(guard.complaint(2, math.nan, 1.0))
    assert guard.complaint(3, 2.0, 1.0) is None
    assert "inf" in str(guard.complaint(4, 2.0, math.inf))


def test_a_loss_far_above_the_usual_is_passed_over_once_the_usual_is_known() -> None:
    guard = Guard({}, 10.0)
    assert guard.complaint(1, 1000.0, 1.0) is None  # nothing is usual yet
    for step in range(2, FEWEST + 2):
        assert guard.complaint(step, 3.0 + 0.1 * (step % 3), 1.0) is None
    # Usual 3.1, distances 0, 0.1 and 0.1: a spread of 0.148, ten of which end at 4.58.
    assert guard.complaint(100, 4.5, 1.0) is None
    assert "far above the usual" in str(guard.complaint(101, 4.7, 1.0))
    assert guard.complaint(102, 0.1, 1.0) is None  # below is good news


def test_where_a_loss_has_no_level_the_gradients_length_is_watched_instead() -> None:
    guard = Guard({}, 10.0, of="grad_norm")
    for step in range(1, FEWEST + 1):
        # A loss that swings about zero, as a policy's does, is no reason.
        assert guard.complaint(step, (-1) ** step * 10.0**step, 0.3 + 0.01 * (step % 3)) is None
    # Usual 0.31, a spread of 0.0148, ten of which end at 0.458.
    assert guard.complaint(100, 0.0, 0.45) is None
    assert "the gradient's norm 0.47 is far above the usual 0.31" in str(guard.complaint(101, 0.0, 0.47))


def test_a_falling_curve_is_never_in_trouble() -> None:
    guard = Guard({}, 10.0)
    assert all(guard.complaint(n, 8 * 0.98**n, 1.0) is None for n in range(1, 400))


class Job:
    """A number that grows by one an update; at the steps of `bad` the loss is no number."""

    def __init__(self, folder: Path, bad: set[int], **options: Any) -> None:
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)
        self.made: list[int] = []
        self.bad = bad
        notes: dict[str, Any] = {}
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.update = Update(self.model, [optimizer], lambda step: 1.0, notes=notes, **options)
        self.loop = Loop(20, self.advance, self.update.capture, self.update.read, notes=notes, save_every=0)
        self.workspace = workspace(folder)

    def advance(self, step: int) -> list[Event]:
        self.made.append(step)
        loss = -self.model.weight.sum()
        (loss * math.nan if step in self.bad else loss).backward()
        return self.update(step, loss)

    def run(self) -> list[Event]:
        return list(self.loop.run(self.workspace))


def test_one_bad_batch_costs_one_update_and_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path, {7})
    events = job.run()
    assert job.model.weight.item() == 19.0
    logs = [event.message for event in events if isinstance(event, Log)]
    assert len(logs) == 1 and "Update 7 was passed over" in logs[0] and "batch of update 7" in logs[0]
    assert [event.step for event in events if isinstance(event, Metric)] == [
        n for n in range(1, 21) if n != 7
    ]


def test_three_in_a_row_send_the_run_back_and_are_passed_over_then(tmp_path: Path) -> None:
    job = Job(tmp_path, {7, 8, 9})
    events = job.run()
    back = [event for event in events if isinstance(event, Resumed)]
    # The state of step 8 was saved: the weights of step 6, since neither 7 nor 8 was learned from.
    assert [event.step for event in back] == [8]
    assert job.made.count(9) == 2
    assert job.model.weight.item() == 17.0
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Resumed):
            kept = [one for one in kept if one.step <= event.step]
        elif isinstance(event, Metric):
            kept.append(event)
    assert [event.step for event in kept] == [n for n in range(1, 21) if n not in (7, 8, 9)]


def test_what_going_back_does_not_mend_is_told_to_a_person(tmp_path: Path) -> None:
    job = Job(tmp_path, set(range(5, 21)))
    with pytest.raises(UserError, match="going back 2 times did not help: the gradient's norm is nan"):
        job.run()
    assert job.model.weight.item() == 4.0


def test_a_run_that_is_in_trouble_from_the_start_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    job = Job(tmp_path, set(range(1, 21)))
    job.loop.save_every = 1e9
    with pytest.raises(UserError, match="no state was saved yet"):
        job.run()


def test_the_guard_remembers_over_a_stop(tmp_path: Path) -> None:
    notes: dict[str, Any] = {}
    guard = Guard(notes, None)
    for step in (1, 2):
        guard.complaint(step, math.nan, 1.0)
    again = Guard(json.loads(json.dumps(notes)), None)
    with pytest.raises(Spoilt):
        again.complaint(IN_A_ROW, math.nan, 1.0)
    assert RETURNS == 2


def test_the_average_follows_the_weights_and_outlives_a_stop(tmp_path: Path) -> None:
    job = Job(tmp_path, set(), ema=0.5)
    events = job.loop.run(job.workspace)
    for event in events:
        if isinstance(event, Progress) and event.step == 3:
            break
    events.close()
    # Averages of 0, 1, 2, 3 with half of the past each time: 0.5, 1.25, 2.125.
    with job.update.averaged():
        assert job.model.weight.item() == pytest.approx(2.125)
    assert job.model.weight.item() == 3.0
    again = Job(tmp_path, set(), ema=0.5)
    again.loop._restore(again.workspace)
    assert again.update.average is not None
    assert again.update.average["weight"].item() == pytest.approx(2.125)


def test_a_loop_closed_while_it_measures_the_average_saves_the_weights(tmp_path: Path) -> None:
    job = Job(tmp_path, set(), ema=0.5)

    def look(step: int) -> Generator[Event, None, None]:
        with job.update.averaged():
            yield Progress(step, None, message="looking")

    job.loop.chores = {"look": Chore(lambda step: step == 4, look)}
    events = job.loop.run(job.workspace)
    for event in events:
        if isinstance(event, Progress) and event.message == "looking":
            break
    events.close()
    again = Job(tmp_path, set(), ema=0.5)
    again.loop._restore(again.workspace)
    assert again.model.weight.item() == 4.0


def test_the_last_states_the_multiples_and_the_best_are_kept(tmp_path: Path) -> None:
    job = Job(tmp_path, set())
    job.loop.keep_last, job.loop.keep_every = 2, 8

    def look(step: int) -> Generator[Event, None, None]:
        if step == 5:
            job.loop.notes["best"] = 5
        yield from ()

    job.loop.chores = {"look": Chore(lambda step: True, look)}
    job.run()
    assert sorted(path.name for path in (tmp_path / ".state").glob("step-*")) == [
        f"step-{step:09d}" for step in (5, 8, 16, 19, 20)
    ]


def test_an_error_of_a_state_that_is_being_written_ends_the_run(tmp_path: Path) -> None:
    job = Job(tmp_path, set())
    real = job.loop.capture

    def capture(kept: dict[str, Any]) -> Callable[[Path], None]:
        write = real(kept)

        def fail(path: Path) -> None:
            write(path)
            raise OSError(28, "No space left on device", str(path))

        return fail

    job.loop.capture = capture
    with pytest.raises(OSError, match="No space left"):
        job.run()
    assert not list((tmp_path / ".state").glob("*step-*"))
