"""A loop that can be stopped between any two events and goes on as if nothing had happened.

The order is what makes it so. All events of a step are delivered before a state is saved at that step, and a
loop that is closed among them saves those that are still to deliver. So nothing is told twice, nothing is
left out, and the curves of a run that was killed are those of one that was not.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_ml import ranks
from core_ml.errors import UserError
from core_ml.events import Event, Log, Progress, Resumed, from_line, to_line
from core_ml.training.guard import Spoilt
from core_ml.workspace import Workspace


@dataclass
class Chore:
    """Something done after some steps: evaluation, samples. It may yield Progress while it works.

    A chore that is interrupted is done again from its beginning, so it must depend on the step and the
    weights only. What it yields besides Progress is told when it has ended.
    """

    due: Callable[[int], bool]
    do: Callable[[int], Generator[Event, None, None]]


@dataclass
class Loop:
    """A run of `steps` updates.

    Args:
        advance: makes update number `step` (the first is 1) and returns what there is to tell about it. It may
            raise Spoilt: the run then goes back to its last saved state.
        chores: by name, done after `advance` at the steps at which they are due, and at step 0.
        capture: copies weights and optimizers with the notes given, and returns what writes the copy into a
            folder; that happens beside the training that goes on.
        read: restores what was written.
        notes: JSON of the recipe's own, kept with the state; change it in place. Where a chore sets "best" to a
            step, the state of that step is saved and kept.
        save_every: seconds between saved states.
        keep_last: the newest states that are kept.
        keep_every: steps; states at their multiples are saved and kept besides.

    Where the workspace was asked to finish, the step at hand becomes the last: every chore is done once more, and
    `steps` is how many were made.
    """

    steps: int
    advance: Callable[[int], list[Event]]
    capture: Callable[[dict[str, Any]], Callable[[Path], None]]
    read: Callable[[Path], dict[str, Any]]
    chores: dict[str, Chore] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    save_every: float = 30.0
    keep_last: int = 2
    keep_every: int | None = None
    message: str = "training"
    _saving: "_Saving" = field(default_factory=lambda: _Saving())

    def run(self, workspace: Workspace) -> Iterator[Event]:
        """Every event from where the run stands to the end. The caller has told `Resumed` already."""
        step, todo, queue = self._restore(workspace)
        saved, saved_step = time.monotonic(), step
        try:
            while True:
                while queue or todo:
                    if queue:
                        # Taken off first: whoever closes the loop at this event has received it.
                        yield queue.popleft()
                        continue
                    told = []
                    # Closed before anything is saved: a chore may have put other weights into the model.
                    with closing(self.chores[todo[0]].do(step)) as events:
                        for event in events:
                            if isinstance(event, Progress):
                                yield Progress(step, self.steps, message=event.message)
                            else:
                                told.append(event)
                    todo.pop(0)
                    queue.extend(told)
                if time.monotonic() - saved > self.save_every:
                    ranks.wish(ranks.SAVE)  # clocks differ, and a sharded state is made by all
                late = step == self.steps or ranks.granted(ranks.SAVE)
                if step > saved_step and (late or self._keeps(step)):
                    self._save(workspace, step, todo, queue)
                    saved, saved_step = time.monotonic(), step
                if step == self.steps:
                    self._saving.finish()
                    return
                step += 1
                try:
                    queue.extend([*self.advance(step), Progress(step, self.steps, message=self.message)])
                    todo = self._due(step)
                    if step < self.steps:
                        if workspace.asked_to_finish():
                            ranks.wish(ranks.FINISH)
                        if ranks.granted(ranks.FINISH):
                            todo = self._finish_at(step, queue)
                except Spoilt as spoilt:
                    step, todo, queue = self._go_back(workspace, step, spoilt)
                    saved_step = step
                    # Whatever the saved state had still to tell comes after: it was told of steps up to it.
                    told_again: list[Event] = [
                        Resumed(step),
                        Log(f"Back to step {step}: {spoilt.reason}", "warning"),
                    ]
                    queue.extendleft(reversed(told_again))
        except GeneratorExit:
            self._save(workspace, step, todo, queue)
            self._saving.finish()
            raise

    def _finish_at(self, step: int, queue: deque[Event]) -> list[str]:
        """Make a step the last one, and say which chores are due at it: all, as at any last step."""
        ranks.done(ranks.FINISH)
        queue.append(Log(f"Ended after step {step:,} of {self.steps:,}, as asked, with what it has."))
        self.steps = self.notes["steps"] = step
        queue.append(Progress(step, step, message=self.message))
        return list(self.chores)

    def _due(self, step: int) -> list[str]:
        return [name for name, chore in self.chores.items() if chore.due(step)]

    def _keeps(self, step: int) -> bool:
        every_so_often = self.keep_every is not None and step > 0 and step % self.keep_every == 0
        return every_so_often or self.notes.get("best") == step

    def _restore(self, workspace: Workspace) -> tuple[int, list[str], deque[Event]]:
        latest = workspace.latest_state()
        if latest is None:
            return 0, self._due(0), deque()
        step, path = latest
        kept = self.read(path)
        self.notes.clear()
        self.notes.update(kept["notes"])
        self.steps = self.notes.get("steps", self.steps)  # it may have been asked to finish already
        return step, kept["todo"], deque(from_line(line)[0] for line in kept["queue"])

    def _go_back(
        self, workspace: Workspace, step: int, spoilt: Spoilt
    ) -> tuple[int, list[str], deque[Event]]:
        self._saving.finish()
        if workspace.latest_state() is None:
            raise UserError(
                f"update {step} could not be made, and no state was saved yet to go back to: {spoilt.reason}",
                hint="Lower the learning rates or set grad_clip.",
            )
        restored = self._restore(workspace)
        self.notes.update(spoilt.notes)
        return restored

    def _save(self, workspace: Workspace, step: int, todo: list[str], queue: deque[Event]) -> None:
        ranks.done(ranks.SAVE)
        kept = {"notes": self.notes, "todo": todo, "queue": [to_line(event, 0, 0) for event in queue]}
        write = self.capture(json.loads(json.dumps(kept)))
        best, multiple = self.notes.get("best"), self.keep_every

        def keep(other: int) -> bool:
            return other == best or (multiple is not None and other > 0 and other % multiple == 0)

        if ranks.is_first():
            self._saving.begin(lambda: workspace.save_state(step, write, self.keep_last, keep))


class _Saving:
    """One state that is being written by a thread of its own; what goes wrong there is raised at the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, write: Callable[[], None]) -> None:
        self.finish()

        def work() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="saving")
        self._thread.start()

    def finish(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def resumed(workspace: Workspace) -> Resumed:
    """The first event of a run: from which step it goes on."""
    latest = workspace.latest_state()
    return Resumed(latest[0] if latest else -1)


def every(n: int, steps: int) -> Callable[[int], bool]:
    """Due at step 0, at every n-th step and at the last."""
    return lambda step: step % n == 0 or step == steps
