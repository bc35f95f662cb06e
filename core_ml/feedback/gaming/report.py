"""What a hunt came to, in sentences and figures: what is new, what still works, and whether patching made it worse."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from core_ml.evaluation.figures import dots
from core_ml.evaluation.statistics import Share
from core_ml.events import Figure
from core_ml.feedback.gaming.kept import Hunt, Known, Round
from core_ml.feedback.gaming.trick import KINDS, Trick

N_SHOWN = 14  # tricks of the figure


def findings(hunt: Hunt, n_seen: int = 0) -> list[str]:
    """What was found and what became of earlier finds.

    Args:
        n_seen: prompts that measured and that an earlier hunt had used, for want of others.
    """
    this = hunt.round
    new = [one for one in hunt.tricks if one.found_by == this.found_by]
    old = [one for one in hunt.tricks if one.found_by != this.found_by]
    said = []
    own = sum(one.trick["prompt"] is not None for one in new)
    general = Counter(one.trick["kind"] for one in new if one.trick["prompt"] is None)
    if n := len(new) - own:
        list_ = ", ".join(f"{count} by {kind}" for kind, count in general.most_common())
        said.append(
            f"Of {this.n_tried:,} tried, {n} new {_tricks(n)} on prompts that no search has seen: {list_}."
        )
    else:
        said.append(
            f"None of {this.n_tried:,} new tricks works on prompts that no search has seen; a longer search, or other "
            "prompts, may still find one."
        )
    if own:
        said.append(
            f"{own} of the highest paid answers of practice {'beats' if own == 1 else 'beat'} the fair ones to the prompt "
            "that each was paid at; of other prompts that says nothing."
        )
    if n_seen:
        said.append(
            f"{n_seen} of the prompts that measure stood in an earlier hunt, and may have been taught: choose more problems."
        )
    if old:
        working = sum(one.works for one in old)
        said.append(f"{working} of {len(old)} tricks that earlier rounds found still work.")
    if new:
        best = max(new, key=lambda one: (one.low, one.margin))
        said.append(
            f"The best, {Trick.from_dict(best.trick).title[:120]}, scores above the {hunt.bar} fair answer to "
            f"{best.share:.0%} of {best.n} prompts."
        )
    if change := accuracy_change(hunt.rounds):
        said.append(change)
    return said


def _tricks(n: int) -> str:
    return "trick works" if n == 1 else "tricks work"


def accuracy_change(rounds: Sequence[Round]) -> str:
    """Whether the reward model became better or worse on its held-out pairs since the first round; else nothing."""
    told = [one for one in rounds if one.accuracy is not None]
    if len(told) < 2:
        return ""
    first, last = told[0], told[-1]
    assert first.accuracy is not None and last.accuracy is not None
    said = f"Its reward model orders {last.accuracy:.0%} of held-out pairs, that of round {first.round} {first.accuracy:.0%}"
    # Both order the same pairs, which is not made use of: it asks for more than it need (Newcombe 1998).
    fall = math.hypot(_apart(first.accuracy, first.low), _apart(last.high, last.accuracy))
    rise = math.hypot(_apart(first.high, first.accuracy), _apart(last.accuracy, last.low))
    if None in (first.low, first.high, last.low, last.high):
        return f"{said}."
    if first.accuracy - last.accuracy > fall:
        return f"{said}: patching made it worse."
    if last.accuracy - first.accuracy > rise:
        return f"{said}: it has become better."
    return f"{said}: no change beyond chance."


def shares(hunt: Hunt, step: int) -> Figure | None:
    """The tricks that work on most prompts, those of this round and those of earlier ones, each with its interval."""
    some = sorted(hunt.tricks, key=lambda one: (one.low, one.margin), reverse=True)[:N_SHOWN]
    series: dict[str, list[tuple[str, Share]]] = {}
    for one in some:
        name = "found now" if one.found_by == hunt.round.found_by else "found before"
        series.setdefault(name, []).append((_label(one), Share(one.share, one.low, one.high, one.n)))
    if not series:
        return None
    return dots(
        "tricks",
        step,
        "Prompts on which a trick works",
        series,
        axis="share of prompts, 95 % interval",
        finding="; ".join(f"{_label(one)}: {one.share:.0%} of {one.n}" for one in some),
        reference=hunt.min_share,
    )


def _label(one: Known) -> str:
    title = Trick.from_dict(one.trick).title
    return title if len(title) <= 36 else f"{title[:35]}…"


def by_kind(hunt: Hunt, tried: dict[str, int], step: int) -> Figure:
    """What each search tried and found."""
    this = hunt.round.found_by
    new = Counter(one.trick["kind"] for one in hunt.tricks if one.found_by == this)
    old = Counter(one.trick["kind"] for one in hunt.tricks if one.found_by != this)
    still = Counter(one.trick["kind"] for one in hunt.tricks if one.found_by != this and one.works)
    rows = [
        [kind, what, tried.get(kind, 0), new[kind], old[kind], still[kind]]
        for kind, what in KINDS.items()
        if tried.get(kind) or old[kind]
    ]
    columns = ["kind", "what it is", "tried", "new that work", "old", "old that still work"]
    finding = "; ".join(f"{row[0]}: {row[3]} of {row[2]}" for row in rows)
    return Figure(
        "kinds", step, "What each kind of trick came to", {"columns": columns, "rows": rows}, finding
    )


def rounds_figure(rounds: Sequence[Round], step: int) -> Figure:
    """Rounds on one chart: what each found and what of it still worked later; below, the reward model's pairs."""
    data: list[dict[str, Any]] = []
    for place, origin in enumerate(rounds):
        points = [
            (later.round, cohort.working)
            for later in rounds[place:]
            for cohort in later.cohorts
            if cohort.found_by == origin.found_by
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"found in round {origin.round}",
                "x": [x for x, _ in points],
                "y": [y for _, y in points],
            }
        )
    told = [one for one in rounds if one.accuracy is not None]
    last = max((one.round for one in rounds), default=1)
    layout: dict[str, Any] = {
        "height": 300,
        "xaxis": {"title": {"text": "round"}, "dtick": 1, "range": [0.8, max(2, last) + 0.2], "anchor": "y"},
        "yaxis": {"title": {"text": "tricks that work"}, "rangemode": "tozero"},
    }
    if told:
        layout |= {"height": 440}
        layout["xaxis"]["anchor"] = "y2"
        layout["yaxis"]["domain"] = [0.5, 1.0]
        layout["yaxis2"] = {
            "title": {"text": "share of held-out pairs"},
            "domain": [0.0, 0.36],
            "range": [0.4, 1.02],
        }
        values = [one.accuracy for one in told]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "its reward model",
                "x": [one.round for one in told],
                "y": values,
                "yaxis": "y2",
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [_apart(one.high, one.accuracy) for one in told],
                    "arrayminus": [_apart(one.accuracy, one.low) for one in told],
                },
            }
        )
    return Figure(
        "rounds", step, "What the rounds came to", {"data": data, "layout": layout}, rounds_finding(rounds)
    )


def _apart(a: float | None, b: float | None) -> float:
    return max(0.0, a - b) if a is not None and b is not None else 0.0


def rounds_finding(rounds: Sequence[Round]) -> str:
    said = []
    for one in rounds:
        old = [cohort for cohort in one.cohorts if cohort.found_by != one.found_by]
        new = next((cohort.n for cohort in one.cohorts if cohort.found_by == one.found_by), 0)
        words = f"round {one.round} found {new}"
        if old:
            words += (
                f" and {sum(c.working for c in old)} of {sum(c.n for c in old)} earlier ones still worked"
            )
        if one.accuracy is not None:
            words += f" (pairs {one.accuracy:.2f})"
        said.append(words)
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
