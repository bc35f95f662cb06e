"""Gold against proxy in a run of practice: its looks, the fitted curve, the peak, and other runs beside it."""

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from lab.api.base import Number, answers
from lab.errors import FieldError, Invalid
from lab.queries import overoptimization as queries
from lab.queries import runs

router = Router(tags=["runs"])


class LookOut(Schema):
    """Gains are over the start; null is what was not measured."""

    step: int
    kl: float | None = Field(description="Nats an answer.")
    d: float | None = Field(description="√KL.")
    proxy: float | None
    proxy_sem: float | None
    gold: float | None
    gold_sem: float | None
    win_rate: float | None = Field(description="Against the start, a tie counting half.")


class PeakOut(Schema):
    index: int = Field(description="Among the looks at which gold and distance were measured.")
    d: float
    gold: float
    low: float | None
    high: float | None


class FitOut(Schema):
    form: str
    alpha: float | None
    beta: float | None
    alpha_interval: list[float | None] | None
    beta_interval: list[float | None] | None
    peak_d: float | None
    peak_interval: list[float | None] | None = Field(description="95 %; an open end is null.")
    peak_gold: float | None
    r2: float | None
    reach: float = Field(description="The largest distance measured.")
    measured_peak: PeakOut | None
    believed: bool = Field(
        description="Whether the curve turns by more than chance, inside what was measured."
    )


class RowOut(Schema):
    run: int
    name: str
    seed: int | None
    n_rankings: int | None = Field(description="That the run's reward model learned from.")
    peak: float | None = Field(description="√KL, of the curve where it is believed, else as measured.")
    peak_low: float | None
    peak_high: float | None
    fitted: bool
    gold_at_peak: float | None
    gold_at_end: float | None
    win_rate_at_peak: float | None
    win_rate_at_end: float | None
    peak_step: int | None
    last_step: int | None
    fell: bool


class OveroptimizationOut(Schema):
    finding: str
    judge: str = Field(
        description="model, rankings (the newest), rule (the stated preference), or proxy: nobody above it."
    )
    standard: bool = Field(description="Whether gains are in standard deviations of the start's.")
    n_prompts: int
    looks: list[LookOut]
    fit: FitOut | None
    best_step: int | None
    stopped_improving: int | None
    fell: bool = Field(description="Whether gold stands lower at the last look by more than chance.")
    peak: str | None = Field(description="The checkpoint at the peak.")
    runs: list[RowOut] = Field(description="This run and those of `with`.")


@router.get("/runs/{id}/overoptimization", response=answers(OveroptimizationOut))
def run_overoptimization(
    request: HttpRequest,
    id: Number,
    others: Annotated[
        str, Query(alias="with", max_length=200, description='Other runs of practice, for example "41,42".')
    ] = "",
) -> dict[str, Any]:
    """Where a run of practice stopped helping. A run of another kind has nothing to tell."""
    run = runs.get(id)
    if run.kind not in queries.KINDS:
        raise Invalid(
            [FieldError("id", f"run {id} is a run of {run.kind}, which practises against no reward")]
        )
    found = queries.measured(run)
    fit = found.fit
    compared = [queries.measured(one) for one in _named(run, others)]
    return {
        "finding": queries.finding(found),
        "judge": found.judge,
        "standard": found.standard,
        "n_prompts": found.n_prompts,
        "looks": found.looks,
        "fit": fit.as_dict() | {"believed": queries.believed(fit)} if fit else None,
        "best_step": found.best.step if found.best else None,
        "stopped_improving": found.stopped.step if found.stopped else None,
        "fell": found.fell,
        "peak": found.peak.pk if found.peak else None,
        "runs": [queries.row(one) for one in (found, *compared)],
    }


def _named(run: Any, words: str) -> list[Any]:
    parts = list(dict.fromkeys(part.strip() for part in words.split(",") if part.strip()))
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 10]
    if len(numbers) != len(parts) or len(numbers) >= queries.MAX_COMPARED:
        text = f'give up to {queries.MAX_COMPARED - 1} numbers of runs, for example "41,42"'
        raise Invalid([FieldError("with", text)])
    found = queries.compared(run, numbers)
    missing = sorted({*numbers} - {one.pk for one in found} - {run.pk})
    if missing:
        raise Invalid([FieldError("with", f"{missing[0]} is no run of practice that the lab has")])
    return found
