"""Dots with intervals, the one figure that says how good and how sure at once."""

from collections.abc import Mapping, Sequence

from core_ml.evaluation.statistics import Share
from core_ml.events import Figure


def dots(
    name: str,
    step: int,
    title: str,
    series: Mapping[str, Sequence[tuple[str, Share]]],
    *,
    axis: str,
    finding: str,
    reference: float | None = None,
) -> Figure:
    """One row for each label and one color for each series.

    Args:
        series: by name, labels with their shares; labels stand from top to bottom as they first come.
        axis: title of the horizontal axis, which runs from 0 to 1.
        reference: where to draw a line, for example at chance.
    """
    data = []
    for series_name, rows in series.items():
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "orientation": "h",  # rows are categories: series are set apart vertically
                "name": series_name,
                "x": [share.value for _, share in rows],
                "y": [label for label, _ in rows],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [share.high - share.value for _, share in rows],
                    "arrayminus": [share.value - share.low for _, share in rows],
                },
            }
        )
    layout = {
        "xaxis": {"title": {"text": axis}, "range": [-0.02, 1.02]},
        "yaxis": {"autorange": "reversed", "automargin": True},
        # Series of one label stand beside each other instead of on top of each other.
        "scattermode": "group",
        "showlegend": len(series) > 1,
    }
    if reference is not None:
        line = {"type": "line", "x0": reference, "x1": reference, "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [{**line, "line": {"dash": "dot", "width": 1}}]
    return Figure(name, step, title, {"data": data, "layout": layout}, finding)
