"""What the two turns of a tour changed: the models by one report card, the reward models on the same new rankings."""

from dataclasses import dataclass
from typing import Any

from core_ml.evaluation.statistics import Share, wilson
from lab.models import Run, Tour
from lab.models.run import SUCCEEDED

MODELS = {"chat": "Chat model", "aligned": "After turn 1", "aligned_2": "After turn 2"}
"""By the key of a report card's summary."""
SHARES = (
    ("liked", "Liked answers", "correct, complete and short"),
    ("accuracy", "Problems solved", "correct, however said"),
)


@dataclass(frozen=True)
class Change:
    """One measure of the models in the order of MODELS; a mean reward comes without an interval."""

    title: str
    note: str
    values: list[Share | None]
    is_share: bool = True


@dataclass(frozen=True)
class Judged:
    """How both reward models order the held-out pairs of one turn's rankings."""

    title: str
    n_pairs: int
    old: Share
    new: Share


@dataclass(frozen=True)
class Turns:
    report: Run | None
    """The run whose report card compares the models."""
    n_problems: int
    changes: list[Change]
    reward: Run | None
    """The run of the second reward model."""
    judged: list[Judged]


def turns(tour: Tour) -> Turns | None:
    """None until the second turn has something to show."""
    made = tour.made()
    report, reward = (_ended(made.get(name)) for name in ("evaluate", "reward 2"))
    changes = _changes(report) if report and "rlhf 2" in made else []
    judged = _judged(reward) if reward else []
    if not changes and not judged:
        return None
    n_problems = report.summary.get("n_problems", 0) if report and changes else 0
    return Turns(report if changes else None, n_problems, changes, reward if judged else None, judged)


def _ended(run: Run | None) -> Run | None:
    return run if run and run.status == SUCCEEDED else None


def _changes(report: Run) -> list[Change]:
    told, n = report.summary, report.summary.get("n_problems", 0)
    found = []
    for key, title, note in SHARES:
        values = [told.get(f"{key}_{model}") for model in MODELS]
        found.append(Change(title, note, [_share(value, n) for value in values]))
    places = [place for place, name in enumerate(told.get("models", [])) if name.replace(" ", "_") in MODELS]
    for turn, one in enumerate(told.get("rewards", []), 1):
        means = [one["means"][place] for place in places]
        values = [None if value is None else Share(value, value, value, n) for value in means]
        found.append(Change("Mean reward", f"by the reward model of turn {turn}", values, is_share=False))
    return [change for change in found if any(change.values)]


def _share(value: Any, n: int) -> Share | None:
    return wilson(value * n, n) if isinstance(value, int | float) and n else None


def _judged(reward: Run) -> list[Judged]:
    found = []
    for turn, one in enumerate(reward.summary.get("by_rankings", []), 1):
        if "accuracy" in one and "earlier" in one:
            title = "the chat model's answers" if turn == 1 else "the aligned model's answers to new prompts"
            n = one["n_pairs"]
            found.append(Judged(f"Turn {turn}: {title}", n, _told(one["earlier"], n), _told(one, n)))
    return found


def _told(share: dict[str, Any], n: int) -> Share:
    """As a summary keeps it."""
    return Share(share["accuracy"], share["low"], share["high"], n)
