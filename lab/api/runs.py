"""Runs: start, watch, stop, go on, repeat, compare."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Query, Router, Schema, Status
from pydantic import Field

from lab.api import overoptimization, rollouts, tricks
from lab.api.base import Given, Limit, Number, Offset, Page, Words, answers, page
from lab.errors import FieldError, Invalid
from lab.models import Run
from lab.models.run import STATUSES
from lab.queries import artifacts as artifact_queries
from lab.queries import runs as queries
from lab.services import runs as services

router = Router(tags=["runs"])
router.add_router("", rollouts.router)
router.add_router("", overoptimization.router)
router.add_router("", tricks.router)
MAX_COMPARED = 8
RunStatus = Literal[STATUSES]  # type: ignore[valid-type]


class Estimated(Given):
    kind: str = Field(max_length=20)
    preset: str | None = Field(None, max_length=40)
    config: dict[str, Any] = {}
    inputs: dict[str, Any] = Field(
        {}, description='By input: an artifact\'s id, a list of ids, or {"run": 41, "output": "checkpoint"}.'
    )


class RunIn(Estimated):
    name: str | None = Field(None, max_length=100)


class CloneIn(Given):
    config: dict[str, Any] = Field({}, description="What differs from the run's own config.")
    name: str | None = Field(None, max_length=100)


class RunChange(Given):
    name: str = Field(min_length=1, max_length=100)


class RunOut(Schema):
    id: int
    uid: str
    kind: str
    name: str
    status: str
    waiting_for: list[int]
    """Runs whose outputs it needs before it can start."""
    attempt: int
    progress: dict[str, Any]
    preset: str
    config: dict[str, Any]
    inputs: dict[str, list[Any]]
    outputs: dict[str, str]
    summary: dict[str, Any]
    error: dict[str, Any] | None
    note: str
    cloned_from: int | None
    created_by: str | None
    tour: int | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    deleted: datetime | None


class CostOut(Schema):
    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int | None
    facts: dict[str, str]


class LogLineOut(Schema):
    id: int
    time: datetime
    level: str
    message: str


class SampleOut(Schema):
    id: int
    step: int
    prompt: str
    text: str
    data: dict[str, Any]


class FigureOut(Schema):
    name: str
    step: int
    title: str
    finding: str
    content: dict[str, Any]


def run_json(run: Run) -> dict[str, Any]:
    inputs: dict[str, list[Any]] = {name: list(references) for name, references in run.pending.items()}
    for taken in run.inputs.all():
        inputs.setdefault(taken.name, []).append(taken.artifact_id)
    fields = ("uid", "kind", "name", "status", "attempt", "progress", "preset", "config", "summary", "note")
    times = ("created", "started", "ended", "deleted")
    error = {key: run.error.get(key) for key in ("message", "field", "hint")} if run.error else None
    return {name: getattr(run, name) for name in (*fields, *times)} | {
        "id": run.pk,
        "waiting_for": sorted({ref["run"] for refs in run.pending.values() for ref in refs if "run" in ref}),
        "inputs": inputs,
        "outputs": {artifact.output: artifact.pk for artifact in run.artifacts.all()},
        "error": error,
        "cloned_from": run.cloned_from_id,
        "created_by": run.created_by.username if run.created_by else None,
        "tour": run.tour_id,
    }


def _get(id: int) -> Run:
    return queries.get(id)


@router.post("/runs", response=answers(RunOut, 201))
def create_run(request: Any, data: RunIn) -> Status:
    """Start a run: it is queued, or waits for the runs that make its inputs."""
    return Status(201, run_json(services.submit(**data.dict(), account=request.user)))


@router.post("/runs/estimate", response=answers(CostOut | None))
def estimate_run(request: HttpRequest, data: Estimated) -> Any:
    """What a run would take, before it starts; null where its recipe cannot say."""
    cost = services.estimate(**data.dict())
    return asdict(cost) if cost else None


@router.get("/runs", response=answers(Page[RunOut]))
def list_runs(
    request: HttpRequest,
    kind: Words = None,
    status: RunStatus | None = None,
    q: Words = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> dict[str, Any]:
    """Runs, the newest first."""
    found = queries.recent(kind, status, q).prefetch_related("inputs", "artifacts")
    return _page_of_runs(found, limit, offset)


def _page_of_runs(found: Any, limit: int, offset: int) -> dict[str, Any]:
    answer = page(found, limit, offset)
    return answer | {"items": [run_json(run) for run in answer["items"]]}


@router.get("/runs/compare", response=answers(dict[str, Any]))
def compare_runs(
    request: HttpRequest,
    ids: Annotated[str, Query(max_length=200, description='Numbers of runs, for example "41,42".')],
    max_points: Annotated[int, Query(ge=2, le=10_000)] = 500,
) -> dict[str, Any]:
    """Configs side by side with their differences marked, and the curves of the metrics that all have."""
    return queries.compare(_compared(ids), max_points)


def _compared(ids: str) -> list[Run]:
    parts = [part.strip() for part in ids.split(",") if part.strip()]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 10]
    if len(numbers) != len(parts) or not 2 <= len(set(numbers)) <= MAX_COMPARED:
        raise Invalid([FieldError("ids", f'give 2 to {MAX_COMPARED} numbers of runs, for example "41,42"')])
    found = {run.pk: run for run in queries.recent().filter(pk__in=numbers)}
    missing = [number for number in numbers if number not in found]
    if missing:
        raise Invalid([FieldError("ids", f"there is no run {missing[0]}")])
    return [found[number] for number in dict.fromkeys(numbers)]


@router.get("/runs/{id}", response=answers(RunOut))
def get_run(request: HttpRequest, id: Number) -> dict[str, Any]:
    """One run. A deleted one is still answered for the hour in which it can be brought back."""
    return run_json(_get(id))


@router.patch("/runs/{id}", response=answers(RunOut))
def rename_run(request: HttpRequest, id: Number, data: RunChange) -> dict[str, Any]:
    return run_json(services.rename(_get(id), data.name))


@router.post("/runs/{id}/cancel", response=answers(RunOut))
def cancel_run(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Ask a run to save its state and stop."""
    return run_json(services.cancel(_get(id)))


@router.post("/runs/{id}/finish", response=answers(RunOut))
def finish_run(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Ask a run of training to end after the step at hand, as a success, with what it has."""
    return run_json(services.finish(_get(id)))


@router.post("/runs/{id}/resume", response=answers(RunOut))
def resume_run(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Go on with a failed or cancelled run from what it saved."""
    return run_json(services.resume(_get(id)))


@router.post("/runs/{id}/clone", response=answers(RunOut, 201))
def clone_run(request: Any, id: Number, data: CloneIn | None = None) -> Status:
    """A new run with the same recipe, config and inputs, but for what is given."""
    given = data or CloneIn()
    return Status(201, run_json(services.clone(_get(id), request.user, given.config, given.name)))


@router.delete("/runs/{id}", response=answers(None, 204))
def delete_run(request: HttpRequest, id: Number) -> Status:
    """Hide an ended run and what it made; the files go an hour later."""
    services.delete(_get(id))
    return Status(204, None)


@router.post("/runs/{id}/restore", response=answers(RunOut))
def restore_run(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Undo a deletion."""
    return run_json(services.restore(_get(id)))


@router.get("/runs/{id}/metrics", response=answers(dict[str, dict[str, list[Any]]]))
def run_metrics(
    request: HttpRequest,
    id: Number,
    name: Annotated[
        list[str] | None, Query(max_length=50, description="One or several; all when absent.")
    ] = None,
    after_step: Annotated[int | None, Query(ge=-1, le=2**53)] = None,
    before_step: Annotated[int | None, Query(ge=-1, le=2**53)] = None,
    max_points: Annotated[int, Query(ge=2, le=10_000)] = 1000,
) -> dict[str, Any]:
    """Curves by metric as columns `steps` and `values`, and of a down-sampled one `lows` and `highs`."""
    return queries.metrics(_get(id), name, after_step, before_step, max_points)


@router.get("/runs/{id}/log", response=answers(list[LogLineOut]))
def run_log(request: HttpRequest, id: Number, n: Annotated[int, Query(ge=1, le=2000)] = 200) -> Any:
    """The last lines of the log."""
    return queries.log_tail(_get(id), n)


@router.get("/runs/{id}/samples", response=answers(Page[SampleOut]))
def run_samples(request: HttpRequest, id: Number, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """What the model wrote (or the crawl met) as the run went on, the newest first."""
    return page(_get(id).samples.order_by("-id"), limit, offset)


@router.get("/runs/{id}/figures", response=answers(list[FigureOut]))
def run_figures(request: HttpRequest, id: Number) -> Any:
    """Plotly figures and tables, each with its finding in a sentence."""
    return list(_get(id).figures.all())


@router.get("/runs/{id}/lineage", response=answers(dict[str, Any]))
def run_lineage(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Every artifact and run that this run comes from or has led to."""
    return artifact_queries.lineage(_get(id))
