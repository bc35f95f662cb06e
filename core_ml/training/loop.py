"""A loop that can be stopped between any two events and goes on as if nothing had happened.

The order is what makes it so. All events of a step are delivered before a state is saved at that step, and a
loop that is closed among them saves those that are still to deliver. So nothing is told twice, nothing is
left out, and the curves of a run that was killed are those of one that was not.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_ml import ranks
from core_ml.events import Event, Progress, Resumed, from_line, to_line
from core_ml.workspace import Workspace


@dataclass
class Chore:
    """Something done after some steps: evaluation, samples. It may yield Progress while it works.

    A chore that is interrupted is done again from its beginning, so it must depend on the step and the
    weights only. What it yields besides Progress is told when it has ended.
    """

    due: Callable[[int], bool]
    do: Callable[[int], Iterator[Event]]


@dataclass
class Loop:
    """A run of `steps` updates.

    Args:
        advance: makes update number `step` (the first is 1) and returns what there is to tell about it.
        chores: by name, done after `advance` at the steps at which they are due, and at step 0.
        write, read: save and restore weights and optimizers with the notes given.
        notes: JSON of the recipe's own, kept with the state; change it in place.
        save_every: seconds between saved states.
    """

    steps: int
    advance: Callable[[int], list[Event]]
    write: Callable[[Path, dict[str, Any]], None]
    read: Callable[[Path], dict[str, Any]]
    chores: dict[str, Chore] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    save_every: float = 30.0
    message: str = "training"

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
                    for event in self.chores[todo[0]].do(step):
                        if isinstance(event, Progress):
                            yield Progress(step, self.steps, message=event.message)
                        else:
                            told.append(event)
                    todo.pop(0)
                    queue.extend(told)
                if step > saved_step and (step == self.steps or time.monotonic() - saved > self.save_every):
                    self._save(workspace, step, todo, queue)
                    saved, saved_step = time.monotonic(), step
                if step == self.steps:
                    return
                step += 1
                queue.extend([*self.advance(step), Progress(step, self.steps, message=self.message)])
                todo = self._due(step)
        except GeneratorExit:
            self._save(workspace, step, todo, queue)
            raise

    def _due(self, step: int) -> list[str]:
        return [name for name, chore in self.chores.items() if chore.due(step)]

    def _restore(self, workspace: Workspace) -> tuple[int, list[str], deque[Event]]:
        latest = workspace.latest_state()
        if latest is None:
            return 0, self._due(0), deque()
        step, path = latest
        kept = self.read(path)
        self.notes.clear()
        self.notes.update(kept["notes"])
        return step, kept["todo"], deque(from_line(line)[0] for line in kept["queue"])

    def _save(self, workspace: Workspace, step: int, todo: list[str], queue: deque[Event]) -> None:
        if not ranks.is_first():
            return
        kept = {"notes": self.notes, "todo": todo, "queue": [to_line(event, 0, 0) for event in queue]}
        workspace.save_state(step, lambda path: self.write(path, json.loads(json.dumps(kept))))


def resumed(workspace: Workspace) -> Resumed:
    """The first event of a run: from which step it goes on."""
    latest = workspace.latest_state()
    return Resumed(latest[0] if latest else -1)


def every(n: int, steps: int) -> Callable[[int], bool]:
    """Due at step 0, at every n-th step and at the last."""
    return lambda step: step % n == 0 or step == steps
