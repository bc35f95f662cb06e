"""What a kind of run declares: its config, what it takes and makes, and the function that does the work.

From the declaration alone come the form on the page, the entry in the API, the command line and the box in
the lineage graph. Heavy imports (torch above all) stand inside `run`: the web process imports every recipe
for its declaration and must start in two seconds and stay small.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from core_ml.artifact import Kind
from core_ml.config import RecipeConfig
from core_ml.events import Event
from core_ml.workspace import Workspace

STAGES = ("pages", "tokens", "base", "assistant", "reasoner", "aligned", "arena")


@dataclass(frozen=True)
class Input:
    """One named input. `accepts` lists forms (of a dataset) or roles (of a checkpoint); empty means any.

    `instead` names another input that may be given in its place.
    """

    kind: Kind
    accepts: tuple[str, ...] = ()
    optional: bool = False
    many: bool = False
    instead: str = ""
    description: str = ""


@dataclass(frozen=True)
class Output:
    """One named output; `what` is its form (dataset) or role (checkpoint). A run may leave out an optional one."""

    kind: Kind
    what: str | None = None
    optional: bool = False
    description: str = ""


@dataclass(frozen=True)
class Preset:
    """A named config to begin with: `config` holds only what differs from the defaults."""

    name: str
    title: str
    description: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """How a metric is read: its title, its unit, and which way is better. The first of a recipe is its main one."""

    name: str
    title: str
    unit: str = ""
    better: str = "lower"
    hint: str = ""


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take. Every figure is an estimate; None where there is nothing to go by."""

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage of a sharded recipe: `shards` names the pieces, `run_shard` does one of them.

    `run_shard` writes below `workspace.shard_dir`, which becomes visible to later stages when it has ended.
    """

    name: str
    title: str
    shards: Callable[[Any, Workspace], list[str]]
    run_shard: Callable[[str, Any, Workspace], Iterator[Event]]


@dataclass(frozen=True)
class Recipe:
    """The declaration. A recipe has either `run` or `stages`; `explanation` and `why` teach a newcomer."""

    kind: str
    title: str
    stage: str
    explanation: str
    config: type[RecipeConfig]
    makes: dict[str, Output]
    takes: dict[str, Input] = field(default_factory=dict)
    run: Callable[[Any, Workspace], Iterator[Event]] | None = None
    stages: tuple[Stage, ...] = ()
    parallel: bool = False
    """Whether several processes can share a run, as the config's `processes` says; see `core_ml.ranks`."""
    finishes: bool = False
    """Whether a run can be asked to end early with what it has, as one whose steps are made by a Loop."""
    asks_models: bool = False
    """Whether a run may ask models of the engine: it is told where that is (ENGINE_URL) and its key (ENGINE_KEY)."""
    presets: tuple[Preset, ...] = ()
    measures: tuple[Measure, ...] = ()
    why: tuple[str, str, str] | None = None
    """A question a listener would ask, its answer in at most three sentences, and the paper to read."""
    cost: Callable[[Any, dict[str, list[dict[str, Any]]]], Cost] | None = None
    """From a config and the manifest summaries of each input; imports nothing heavy."""

    def __post_init__(self) -> None:
        assert self.stage in STAGES, self.stage
        assert (self.run is None) == bool(self.stages), f"{self.kind} needs either run or stages"

    def lacking(self, given: Mapping[str, Any]) -> list[str]:
        """The needed inputs for which nothing stands in `given`, nor for what may take their place."""
        return [
            name
            for name, wanted in self.takes.items()
            if not wanted.optional and not given.get(name) and not given.get(wanted.instead)
        ]

    def preset(self, name: str) -> Preset | None:
        return next((preset for preset in self.presets if preset.name == name), None)
