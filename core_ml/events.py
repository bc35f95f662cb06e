"""What a recipe tells while it works: a generator of these is the whole interface of a run.

Each event becomes one line of JSON in the run's event file. `step` counts finished units of work, so a
metric of step n was measured after n of them and step 0 is the state before the first. A run that goes on
from a saved state says so with `Resumed`; whatever it had told about later steps counts no longer.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Resumed:
    """First event of every attempt: what was told about steps after `step` is void; -1 means all of it."""

    step: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is: `step` of `total`; `message` names the phase in a few words."""

    step: int
    total: int | None = None
    unit: str = "steps"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """Numbers measured at a step, by name."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that the model wrote (or a page that the crawl met) at a step."""

    step: int
    prompt: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A Plotly figure (`data`, `layout`) or a table (`columns`, `rows`); a later one replaces its namesake.

    `finding` says in one sentence what it shows, for readers who cannot see it.
    """

    name: str
    step: int
    title: str
    content: dict[str, Any]
    finding: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    message: str
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Summary:
    """Headline figures of the run, merged over the run's life: {"val_bits_per_byte": 2.1, ...}."""

    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Artifact:
    """An output was finished: its manifest is on disk in the folder `output` of the run's outputs."""

    output: str
    id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Written by the child process as its last event when the recipe raised."""

    message: str
    field: str | None = None
    hint: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Written by the child process as its last event when it was asked to stop; `step` is what was saved."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Written by the child process as its last event when the recipe has ended by itself."""


Event = Resumed | Progress | Metric | Sample | Figure | Log | Summary | Artifact | Failed | Stopped | Done
_BY_NAME = {
    cls.__name__.lower(): cls
    for cls in (Resumed, Progress, Metric, Sample, Figure, Log, Summary, Artifact, Failed, Stopped, Done)
}


def to_line(event: Event, seq: int, time: float) -> str:
    """One line of JSON: the event's name, its number within the attempt, the Unix time, and its fields."""
    return json.dumps(
        {"event": type(event).__name__.lower(), "seq": seq, "time": round(time, 3), **asdict(event)}
    )


def from_line(line: str) -> tuple[Event, int, float]:
    """The event, its number and its time. Raises ValueError for a line that is not an event."""
    try:
        fields = json.loads(line)
        cls = _BY_NAME[fields.pop("event")]
        seq, time = fields.pop("seq"), fields.pop("time")
        return cls(**fields), seq, time
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {line[:80]!r}") from error
