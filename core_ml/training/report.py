"""What a pretraining run found, as a figure and in sentences. Imports no torch."""

from typing import Any

from core_ml.events import Figure


def figure(curve: list[list[float]], baselines: dict[str, float]) -> Figure:
    """The network's curve against what counting achieves on the same tokens."""
    steps, values = [point[0] for point in curve], [point[1] for point in curve]
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [0, max(1, steps[-1])],
            "y": [value, value],
            "line": {"dash": "dot"},
        }
        for name, value in (
            ("unigram", baselines["unigram_bits_per_byte"]),
            ("bigram", baselines["bigram_bits_per_byte"]),
        )
    ]
    network = {"type": "scatter", "mode": "lines+markers", "name": "network", "x": steps, "y": values}
    below = 1 - values[-1] / baselines["bigram_bits_per_byte"]
    return Figure(
        "bits_per_byte",
        int(steps[-1]),
        "Bits per byte of validation text",
        {
            "data": [network, *lines],
            "layout": {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "bits per byte"}}},
        },
        f"At step {int(steps[-1]):,} the network needs {values[-1]:.3f} bits per byte, {abs(below):.1%} "
        f"{'less' if below > 0 else 'more'} than a bigram model of the same tokens.",
    )


def findings(summary: dict[str, Any]) -> list[str]:
    """What the headline figures of a pretraining run say, and what they do not."""
    ours, bigram, unigram = (summary[f"{name}_bits_per_byte"] for name in ("val", "bigram", "unigram"))
    said = [
        f"Validation text costs {ours:.3f} bits per byte: {_against(ours, bigram)} a bigram model ({bigram:.3f}) "
        f"and {_against(ours, unigram)} a unigram model ({unigram:.3f})."
    ]
    if ours >= bigram:
        said.append("The network has not learned more than which token follows which: it needs more steps.")
    if summary["epochs"] > 4:
        said.append(
            f"It read its text {summary['epochs']:.1f} times; beyond four times more text helps more than more steps."
        )
    return said


def _against(ours: float, theirs: float) -> str:
    share = 1 - ours / theirs
    return f"{abs(share):.1%} {'below' if share > 0 else 'above'}"
