"""How far those agree who ranked a dataset: as it was measured when the set was brought in, or measured here once."""

from functools import lru_cache
from typing import Any

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.feedback.sets.measured import measured
from lab.models import Artifact
from lab.queries import artifacts

MAX_RANKINGS = 50_000
"""More are not measured while somebody waits for a page."""
PARTS = ("rankings", "simulated", "groups", "labelers", "pairs", "agreement", "reliability", "judges")


def of(artifact: Artifact) -> dict[str, Any]:
    """As `core_ml.feedback.sets.measured` says it of a dataset of rankings, which never changes.

    Raises: UserError where it is too large to be measured here, or cannot be read.
    """
    told = artifact.summary.get("agreement")
    if isinstance(told, dict) and "agreement_ordered" in told:
        return {name: artifact.summary[name] for name in PARTS if name in artifact.summary}
    n = next((artifact.summary[key] for key in ("rankings", "n_rows", "rows") if key in artifact.summary), 0)
    if n > MAX_RANKINGS:
        raise UserError(
            f"{artifact.name} has {n:,} rankings, more than the {MAX_RANKINGS:,} that are measured while a page waits: "
            "export it and bring it in again, which measures it once"
        )
    return _measured(artifact.pk)


@lru_cache(maxsize=32)
def _measured(pk: str) -> dict[str, Any]:
    artifact = Artifact.objects.get(pk=pk)
    return measured(list(Folder(artifacts.path(artifact)).files(".parquet")))


def finding(found: dict[str, Any]) -> str:
    """What the measures come to, in a sentence or two; the tie-free figure is the one a reward model is held against."""
    agreed = found["agreement"]
    who = "People" if agreed["among"] == "people" else "Programs"
    ordered, all_pairs = agreed["agreement_ordered"], agreed["agreement"]
    if not agreed["groups_compared"] or ordered["value"] is None:
        return f"{who} cannot be held against each other here: no group was ranked by two of them."
    said = f"{who} agree on {ordered['value']:.1%}{_between(ordered)} of the pairs that both put in an order"
    if all_pairs["value"] is not None and agreed["pairs"] != agreed["pairs_ordered"]:
        said += f"; where a tie is a verdict of its own, on {all_pairs['value']:.1%}{_between(all_pairs)} of all pairs"
    return said.replace("%", " %") + "."


def _between(measure: dict[str, Any]) -> str:
    if measure["low"] is None:
        return ""
    return f" ({100 * measure['low']:.0f} to {100 * measure['high']:.0f})"
