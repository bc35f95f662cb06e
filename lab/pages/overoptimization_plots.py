"""The plots of gold against proxy: both over √KL with the peak's band, and one small curve for each run beside it."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from core_ml.evaluation.statistics import Z
from lab.queries.overoptimization import JUDGES, Look, Measured, believed

STONE = "\u00a0" * 3
N_CURVE = 80  # points of a drawn curve
PROXY, GOLD = "--c1", "--c2"
OTHERS = ("--c3", "--c4", "--c5", "--c6")
TOP, BOTTOM = [0.42, 1.0], [0.0, 0.3]
"""Heights of the two panels where the win rate stands below the proxy: shares and gains share no axis."""
WIDTH, HEIGHT, FLOOR = 160, 130, 114
"""Of a small curve, in pixels; the axis stands at FLOOR."""


def main(found: Measured, others: Sequence[Measured], stops: Sequence[Look], parent: str) -> dict[str, Any]:
    """The large plot: {"data", "layout"} of Plotly, and in words what it shows."""
    by_step = not found.has_distance
    gold = _gold(found, by_step) if found.has_gold else _win_rate(found, by_step)
    data = [_proxy(found, by_step), *gold]
    for color, other in zip(OTHERS, (one for one in others if comparable(found, one)), strict=False):
        data += _other(other, color)
    data.append(_stones(found, stops, by_step))
    reach = max((_x(look, by_step) or 0 for look in found.looks), default=1) or 1
    # Room at the right for the names at the ends of the lines.
    widest = max([reach, *(one.fit.reach for one in others if one.fit and comparable(found, one))])
    # Plotly reads tags in titles, and people name models.
    title = "step" if by_step else f"√KL from {escape(parent[:40], quote=False)}, in √nats"
    layout: dict[str, Any] = {
        "height": 340 if found.has_gold else 460,
        "margin": {"l": 48, "r": 76, "t": 26, "b": 40},
        "hovermode": "closest",
        "xaxis": {"title": {"text": title}, "range": [0, widest * 1.03], "anchor": "y" if found.has_gold else "y2"},
        "yaxis": {"title": {"text": "" if found.has_gold else "gain"}, "zeroline": True, "zerolinecolor": "--edge"},
        "annotations": _names(data),
        "shapes": [],
    }  # fmt: skip
    if not found.has_gold:
        layout["yaxis"]["domain"] = TOP
        layout["yaxis2"] = {
            "domain": BOTTOM,
            "title": {"text": "win rate"},
            "tickformat": ".0%",
            "range": [0, 1.05],
        }
        layout["shapes"].append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2", "y0": 0.5, "y1": 0.5,
             "line": {"color": "--edge", "width": 1, "dash": "dot"}}
        )  # fmt: skip
    _mark_peak(found, layout, widest)
    return {"data": data, "layout": layout}


def comparable(found: Measured, other: Measured) -> bool:
    """Whether another run's gold stands in the same unit over the same distance, judged by as good a judge."""
    return (found.standard, found.judge) == (other.standard, other.judge) and other.fit is not None


def _x(look: Look, by_step: bool) -> float | None:
    return look.step if by_step else look.d


def _points(found: Measured, by_step: bool, value: str) -> list[tuple[float, float, Look]]:
    """In the order of the distance, so that a model that comes back draws no loop."""
    looks = [(_x(look, by_step), getattr(look, value), look) for look in found.looks]
    return sorted(
        ((x, y, look) for x, y, look in looks if x is not None and y is not None), key=lambda one: one[:2]
    )


def _proxy(found: Measured, by_step: bool) -> dict[str, Any]:
    points = _points(found, by_step, "proxy")
    return _line("proxy", PROXY, points) | {"mode": "lines+markers", "marker": {"size": 3.5}}


def _line(name: str, color: str, points: Sequence[tuple[float, float, Look]], unit: str = ".3~g") -> dict[str, Any]:  # fmt: skip
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _, _ in points],
        "y": [y for _, y, _ in points],
        "line": {"color": color, "width": 1.75},
        "customdata": [look.step for _, _, look in points],
        "hovertemplate": f"step %{{customdata}}: {name} %{{y:{unit}}} at %{{x:.3~g}}<extra></extra>",
    }


def _gold(found: Measured, by_step: bool) -> list[dict[str, Any]]:
    """The fitted curve where there is one, and every measured point with its 95 % interval."""
    points = _points(found, by_step, "gold")
    marks = _line("gold", GOLD, points) | {
        "cliponaxis": False,
        "marker": {"size": 7, "color": "--page", "line": {"color": GOLD, "width": 1.5}},
        "error_y": {
            "type": "data",
            "array": [Z * (look.gold_sem or 0) for _, _, look in points],
            "color": GOLD,
            "thickness": 1.25,
            "width": 0,
        },
    }
    curve = None if by_step else curve_of(found)
    if curve is None:
        return [marks | {"mode": "lines+markers"}]
    fitted = {
        "type": "scatter",
        "mode": "lines",
        "name": "gold",
        "x": curve[0],
        "y": curve[1],
        "line": {"color": GOLD, "width": 1.75},
        "hoverinfo": "skip",
    }
    return [fitted, marks | {"mode": "markers", "name": ""}]


def _win_rate(found: Measured, by_step: bool) -> list[dict[str, Any]]:
    points = _points(found, by_step, "win_rate")
    shares = [found.won(look) for _, _, look in points]
    line = _line("wins", GOLD, points, ".0%") | {
        "mode": "lines+markers",
        "yaxis": "y2",
        "cliponaxis": False,
        "marker": {"size": 7, "color": "--page", "line": {"color": GOLD, "width": 1.5}},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [share.high - share.value if share else 0 for share in shares],
            "arrayminus": [share.value - share.low if share else 0 for share in shares],
            "color": GOLD,
            "thickness": 1.25,
            "width": 0,
        },
    }
    return [line]


def _other(other: Measured, color: str) -> list[dict[str, Any]]:
    """Another run's gold: its curve where one is fitted, and its points faint."""
    points = _points(other, False, "gold")
    name = f"#{other.run.pk}"
    marks = _line(name, color, points) | {"marker": {"size": 5, "color": color}, "opacity": 0.6}
    curve = curve_of(other)
    if curve is None:
        return [marks | {"mode": "lines+markers", "opacity": 1}]
    fitted = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": curve[0],
        "y": curve[1],
        "line": {"color": color, "width": 1.5, "dash": "solid"},
        "hoverinfo": "skip",
    }
    return [fitted, marks | {"mode": "markers", "name": ""}]


def curve_of(found: Measured) -> tuple[list[float], list[float]] | None:
    """The fitted curve from the start to the largest distance measured."""
    fit = found.fit
    if fit is None or not fit.is_fitted or not fit.reach:
        return None
    d = np.linspace(0, fit.reach, N_CURVE)
    return [round(x, 4) for x in d.tolist()], [round(y, 4) for y in fit.curve(d).tolist()]


def _stones(found: Measured, stops: Sequence[Look], by_step: bool) -> dict[str, Any]:
    """White stones with a letter at the looks whose answers stand below: what gold says there."""
    x = [_x(look, by_step) for look in stops]
    y = [found.worth(look) for look in stops]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "cliponaxis": False,
        "name": "",
        "x": x,
        "y": y,
        "yaxis": "y" if found.has_gold else "y2",
        "text": list("abc"[: len(stops)]),
        "textfont": {"color": "#14191c", "weight": 600},
        "marker": {"size": 21, "color": "--white", "line": {"color": "--white-edge", "width": 1.25}},
        "hoverinfo": "skip",
    }


def _names(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each line carries its name at its end; plots.js moves those apart that would overlap."""
    return [
        {
            "x": trace["x"][-1],
            "y": trace["y"][-1],
            "yref": trace.get("yaxis", "y"),
            # Clear of the stone that may stand at its end.
            "text": f"{STONE if trace['line']['color'] == GOLD else ''}<b>{trace['name']}</b>",
            "xanchor": "left",
            "xshift": 6,
            "font": {"color": trace["line"]["color"]},
        }
        for trace in data
        if trace.get("name") and trace["x"] and "line" in trace
    ]


def _mark_peak(found: Measured, layout: dict[str, Any], widest: float) -> None:
    """A band over the peak's interval and a dotted line at it: of the curve where it can be believed, else measured."""
    fit = found.fit
    if fit is None or fit.measured_peak is None or not fit.reach:
        return
    if believed(fit) and fit.peak_d is not None and fit.peak_interval is not None:
        at, (low, high), what = fit.peak_d, fit.peak_interval, "peak"
    elif found.fell:
        top = fit.measured_peak
        at, low, high, what = top.d, top.low, top.high, "measured peak"
    else:
        return
    end = min(high, widest * 1.03) if math.isfinite(high) else widest * 1.03
    layout["shapes"] += [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": low, "x1": end, "y0": 0, "y1": 1,
         "fillcolor": "--now-wash", "line": {"width": 0}, "layer": "below"},
        {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
         "line": {"color": "--edge", "width": 1, "dash": "dot"}},
    ]  # fmt: skip
    between = f"between {low:.2f} and {high:.2f}" if math.isfinite(high) else f"{low:.2f} or later"
    right = at > widest * 0.6
    layout["annotations"].append(
        {"x": at, "yref": "paper", "y": 1.0, "yanchor": "bottom", "text": f"<b>{what}</b>  {at:.2f}, {between}",
         "xanchor": "right" if right else "left", "showarrow": False}
    )  # fmt: skip


def by_rankings(
    found: Sequence[Measured], rows: Sequence[dict[str, Any]]
) -> list[tuple[Measured, dict[str, Any]]]:
    """Those whose gold can be drawn small, by the number of rankings that their proxies learned from."""
    pairs = [(one, row) for one, row in zip(found, rows, strict=True) if one.fit is not None]
    return sorted(pairs, key=lambda pair: (pair[1]["n_rankings"] or 0, pair[1]["run"]))


def multiple(found: Measured, row: dict[str, Any]) -> dict[str, Any]:
    """One small curve as paths of an SVG: the proxy thin, gold, and where it peaks."""
    proxy = [(x, y) for x, y, _ in _points(found, False, "proxy")]
    curve = curve_of(found)
    gold = list(zip(*curve, strict=True)) if curve else [(x, y) for x, y, _ in _points(found, False, "gold")]
    points = [*proxy, *gold, (0.0, 0.0)]
    reach = max(x for x, _ in points) or 1.0
    low, high = min(y for _, y in points), max(y for _, y in points)

    def at(x: float, y: float) -> str:
        height = (high - y) / (high - low) if high > low else 0.5
        return f"{2 + x / reach * (WIDTH - 6):.1f} {8 + height * (FLOOR - 16):.1f}"

    peak = row["peak"]
    return {
        "row": row,
        "judge": JUDGES[found.judge],
        "proxy": "M" + " ".join(at(*point) for point in proxy) if proxy else "",
        "gold": "M" + " ".join(at(*point) for point in gold) if gold else "",
        "zero": at(0.0, 0.0).split()[1],
        "peak_x": f"{2 + min(peak, reach) / reach * (WIDTH - 6):.1f}" if peak is not None else "",
    }
