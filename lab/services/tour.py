"""The tour: a model's whole life as ordinary runs, with a labelling project in the middle.

The runs before the project and after it wait for each other's outputs by themselves; `advance`, called by
the sweep, makes what lies between. Each step is one transaction that begins with a conditional update of the
tour's stage, so that two sweeps at a time make it once.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import transaction
from django.utils import timezone

from core_ml import recipes
from lab.errors import Conflict
from lab.models import Account, Lease, Project, Ranking, Run, Tour
from lab.models.run import CANCELLED, FAILED, SUCCEEDED
from lab.services import accounts, labeling, runs

PROJECT_NAME = "Tour: correct, complete, short"
INSTRUCTIONS = (
    "Put the best answer first. Best is correct, then complete (a whole sentence that ends), then short "
    "(no more than the question needs). Answers that are equally good are ties."
)
RUNS_BEFORE = ("crawl", "conversations", "tokenizer", "pretrain", "sft", "rollouts")


def start(options: dict[str, Any] | None = None, account: Account | None = None) -> Tour:
    """Queue a tour. Options: `pages` or `documents` (a path on the server), `small`, `seed`.

    Raises Conflict when a tour is under way already, Invalid for a path that will not do.
    """
    options = {key: value for key, value in (options or {}).items() if value not in (None, False, "")}
    with transaction.atomic():
        if Tour.objects.filter(status="running").exists():
            raise Conflict("a tour is under way already: watch it, or cancel it first")
        tour = Tour.objects.create(options=options, created_by=account)
        made: dict[str, Run] = {}
        for kind in RUNS_BEFORE:
            made[kind] = _submit(tour, kind, _inputs(kind, made))
    return tour


def _submit(tour: Tour, kind: str, inputs: dict[str, Any]) -> Run:
    preset, config = _settings(kind, tour.options)
    return runs.submit(
        kind=kind,
        preset=preset,
        config=config,
        inputs=inputs,
        name=f"tour-{kind}" if tour.pk == 1 else f"tour{tour.pk}-{kind}",
        account=tour.created_by,
        tour=tour,
    )


def _settings(kind: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Preset and changed fields of one run of a tour."""
    config: dict[str, Any] = {}
    if options.get("seed") is not None and "seed" in recipes.get(kind).config.model_fields:
        config["seed"] = options["seed"]
    if kind == "crawl":
        if options.get("pages"):
            return "fineweb", {"source": "warc", "path": options["pages"]}
        if options.get("documents"):
            # Published limits are for web pages: a novel is longer than any of those.
            return "fineweb", {"source": "documents", "path": options["documents"], "max_words": None}
        return ("small" if options.get("small") else "python-docs"), {}
    return ("tiny" if options.get("small") else "tour"), config


def _inputs(kind: str, made: dict[str, Run]) -> dict[str, Any]:
    """Each run takes what the runs before it make."""

    def of(kind: str, output: str) -> dict[str, Any]:
        return {"run": made[kind].pk, "output": output}

    wanted: dict[str, Callable[[], dict[str, Any]]] = {
        "tokenizer": lambda: {
            "documents": of("crawl", "documents"),
            "conversations": of("conversations", "conversations"),
        },
        "pretrain": lambda: {
            "documents": of("crawl", "documents"),
            "tokenizer": of("tokenizer", "tokenizer"),
        },
        "sft": lambda: {
            "checkpoint": of("pretrain", "checkpoint"),
            "conversations": of("conversations", "conversations"),
        },
        "rollouts": lambda: {
            "checkpoint": of("sft", "checkpoint"),
            "problems": of("conversations", "problems"),
        },
        "rlhf": lambda: {
            "checkpoint": of("sft", "checkpoint"),
            "reward": of("reward", "checkpoint"),
            "problems": of("conversations", "problems"),
        },
        "evaluate": lambda: {
            "checkpoints": [of(kind, "checkpoint") for kind in ("pretrain", "sft", "rlhf")],
            "reward": of("reward", "checkpoint"),
            "problems": of("conversations", "held_out"),
            "documents": of("crawl", "documents"),
        },
    }
    return wanted[kind]() if kind in wanted else {}


def advance() -> None:
    """Bring every running tour on by what has become possible."""
    for tour in Tour.objects.filter(status="running"):
        made = {run.kind: run for run in tour.runs.all()}
        # The earliest: later ones only fail because it did.
        broken = [run for run in made.values() if run.status in (FAILED, CANCELLED)]
        ended = min(broken, key=lambda run: run.pk, default=None)
        if ended is not None:
            _end(
                tour,
                ended.status,
                f"{ended} {ended.status}: {(ended.error or {}).get('message', '')}".strip(": "),
            )
        elif tour.stage == "made" and made["rollouts"].status == SUCCEEDED:
            _make_project(tour, made["rollouts"])
        elif tour.stage == "ranking":
            _export_when_ranked(tour, made)
        elif tour.stage == "aligning" and made["evaluate"].status == SUCCEEDED:
            _end(tour, SUCCEEDED, "")


def _move(tour: Tour, before: str, after: str) -> bool:
    return bool(Tour.objects.filter(pk=tour.pk, stage=before, status="running").update(stage=after))


def _make_project(tour: Tour, rollouts: Run) -> None:
    with transaction.atomic():
        if _move(tour, "made", "ranking"):
            labeling.create_project(
                name=PROJECT_NAME,
                source_artifact=rollouts.artifacts.get(output="rollouts"),
                instructions=INSTRUCTIONS,
                rankings_per_group=1,
                account=tour.created_by,
                tour=tour,
            )


def _export_when_ranked(tour: Tour, made: dict[str, Run]) -> None:
    project = tour.projects.get()
    if not is_ranked(project):
        return
    with transaction.atomic():
        if _move(tour, "ranking", "aligning"):
            rankings = labeling.export(project, tour.created_by)
            chat = made["sft"].artifacts.get(output="checkpoint")
            made["reward"] = _submit(tour, "reward", {"checkpoint": chat.pk, "rankings": rankings.pk})
            for kind in ("rlhf", "evaluate"):
                made[kind] = _submit(tour, kind, _inputs(kind, made))


def is_ranked(project: Project) -> bool:
    """Whether no group waits for the simulated labeler: each is ranked, or in the hands of a person.

    A person who looks at a group does not hold the tour up; it goes on with what there is, as it does when
    somebody closes the project.
    """
    held = Lease.objects.filter(
        group__project=project, labeler__is_simulated=False, skipped=False, expires__gt=timezone.now()
    )
    waiting = project.groups.filter(rankings=None).exclude(pk__in=held.values("group"))
    return (project.closed is not None or not waiting.exists()) and Ranking.objects.filter(
        group__project=project
    ).exists()


def _end(tour: Tour, status: str, error: str) -> None:
    Tour.objects.filter(pk=tour.pk, status="running").update(status=status, error=error, ended=timezone.now())


def cancel(tour: Tour) -> None:
    """Stop a tour and its live runs; what they have made stays."""
    _end(tour, CANCELLED, "cancelled")
    for run in tour.runs.all():
        if run.is_live:
            with suppress(Conflict):  # it ended meanwhile
                runs.cancel(run)


def labeler() -> Account:
    """The account of the simulated labeler."""
    return accounts.simulated_labeler()
