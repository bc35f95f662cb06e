"""What the pages of a run draw: its main curve beside the best earlier run, small multiples, and figures."""

from typing import Any

from core_ml.recipe import Measure
from lab.models import Figure, Run
from lab.models.run import SUCCEEDED
from lab.queries import runs
from lab.queries.headlines import headlines
from lab.queries.metrics import curve, latest

N_MULTIPLES = 4
N_RIVALS = 20
"""Earlier runs among which the best one is looked for."""
TABLE_ROWS = 20


def measure_of(run: Run, name: str) -> Measure:
    """How a metric is read; one that its recipe does not declare goes by its own name."""
    recipe = runs.recipe_of(run)
    declared = {measure.name: measure for measure in recipe.measures} if recipe else {}
    return declared.get(name) or Measure(name, name.replace("_", " "))


def ordered(run: Run, names: list[str]) -> list[str]:
    """As the recipe declares them, then the others."""
    recipe = runs.recipe_of(run)
    declared = [measure.name for measure in recipe.measures] if recipe else []
    return sorted(names, key=lambda name: (declared.index(name) if name in declared else len(declared), name))


def main_plot(run: Run, names: list[str]) -> dict[str, Any] | None:
    """The one curve that matters, the best earlier run as its ghost, and the same as a table."""
    if not names:
        return None
    measure = measure_of(run, ordered(run, names)[0])
    points = curve(run, measure.name)
    rival, best = _best_earlier(run, measure)
    return {
        "measure": measure,
        "points": points,
        "rival": rival,
        "rival_best": best,
        "data": {
            "run": run.pk,
            "live": run.is_live,
            "name": measure.name,
            "title": measure.title,
            "unit": measure.unit,
            "total": run.progress.get("total") if run.progress.get("unit") in (None, "", "steps") else None,
            "curve": points,
            "rival": {"run": rival.pk, **curve(rival, measure.name)} if rival else None,
        },
        "table": as_table(points),
    }


def _best_earlier(run: Run, measure: Measure) -> tuple[Run | None, float | None]:
    rivals = list(Run.objects.filter(kind=run.kind, status=SUCCEEDED, pk__lt=run.pk, deleted=None)[:N_RIVALS])
    lines = headlines(rivals)
    rivals = [
        rival for rival in rivals if lines[rival.pk].best is not None and lines[rival.pk].measure == measure
    ]
    if not rivals:
        return None, None
    pick = min if measure.better == "lower" else max
    best = pick(rivals, key=lambda rival: lines[rival.pk].best)
    return best, lines[best.pk].best


def as_table(points: dict[str, list[Any]]) -> list[tuple[int, float | None]]:
    """At most TABLE_ROWS points of a curve, the last among them."""
    pairs = list(zip(points["steps"], points["values"], strict=True))
    stride = max(1, -(-len(pairs) // TABLE_ROWS))
    return pairs[::-1][::stride][::-1]


def multiples(run: Run, names: list[str]) -> list[dict[str, Any]]:
    last = latest(run)
    return [
        {
            "measure": measure_of(run, name),
            "last": last.get(name),
            "values": curve(run, name, max_points=60)["values"],
        }
        for name in ordered(run, names)[1 : N_MULTIPLES + 1]
    ]


def all_plots(run: Run, names: list[str]) -> list[dict[str, Any]]:
    """Each metric with its curve, for a page of plots."""
    last = latest(run)
    found = []
    for name in ordered(run, names):
        measure, points = measure_of(run, name), curve(run, name, max_points=600)
        found.append(
            {
                "measure": measure,
                "last": last.get(name),
                "id": f"curve-{name}",
                "n": len(points["steps"]),
                "table": as_table(points),
                "figure": {
                    "data": [
                        {
                            "type": "scatter",
                            "x": points["steps"],
                            "y": points["values"],
                            "name": measure.title,
                        }
                    ],
                    "layout": {
                        "height": 220,
                        "margin": {"l": 52, "r": 16, "t": 8, "b": 34},
                        "yaxis": {"title": {"text": measure.unit}},
                        "xaxis": {"title": {"text": "step"}},
                    },
                },
            }
        )
    return found


def figure(one: Figure) -> dict[str, Any]:
    """A figure of a recipe, as a table or as a plot."""
    base = {"name": one.name, "id": f"figure-{one.pk}", "title": one.title, "finding": one.finding}
    if "columns" in one.content:
        return base | {"columns": one.content["columns"], "rows": one.content.get("rows", [])}
    return base | {"figure": {"data": one.content.get("data", []), "layout": one.content.get("layout", {})}}
