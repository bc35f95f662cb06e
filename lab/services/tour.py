"""The tour: a model's whole life as ordinary runs, with labelling projects in the middle.

What people think is asked twice, because practice takes a model to answers that the first reward model never saw: the
aligned model answers prompts that are new, those are ranked as well, a second reward model learns from all rankings,
old and new, and the aligned model goes on practising (Christiano et al. 2017; Ouyang et al. 2022, section 3.1). Its
distance is measured to the chat model in both turns, so that it cannot drift away turn by turn.

Runs wait for each other's outputs by themselves; `advance`, called by the sweep, makes what people stand between. Each
step is one transaction that begins with a conditional update of the tour's stage, so that two sweeps at a time make it
once.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.db import transaction
from django.utils import timezone

from core_ml import recipes
from lab.errors import Conflict
from lab.models import Account, Lease, Project, Ranking, Run, Tour
from lab.models.run import CANCELLED, FAILED, SUCCEEDED
from lab.models.tour import stage
from lab.services import accounts, labeling, runs

PROJECT_NAMES = {
    1: "Tour: correct, complete, short",
    2: "Tour, second turn: correct, complete, short",
}
INSTRUCTIONS = (
    "Put the best answer first. Best is correct, then complete (a whole sentence that ends), then short "
    "(no more than the question needs). Answers that are equally good are ties."
)
RUNS_BEFORE = ("crawl", "conversations", "tokenizer", "pretrain", "sft", "rollouts")
RUNS_AFTER = {1: ("reward", "rlhf", "rollouts 2"), 2: ("reward 2", "rlhf 2", "evaluate")}
"""By turn, what follows its rankings."""
ANSWERING = {"made": 1, "aligning": 2}
"""By the tour's stage, the turn whose answers are being made."""
RANKING = {"ranking": 1, "ranking 2": 2}
SECOND_TURN = {"rollouts": {"n_prompts": 350}, "rlhf": {"steps": 15}}
"""What a tour of full size does less of the second time."""


def start(options: dict[str, Any] | None = None, account: Account | None = None) -> Tour:
    """Queue a tour. Options: `pages` or `documents` (a path on the server), `small`, `seed`.

    Raises Conflict when a tour is under way already, Invalid for a path that will not do.
    """
    options = {key: value for key, value in (options or {}).items() if value not in (None, False, "")}
    with transaction.atomic():
        if Tour.objects.filter(status="running").exists():
            raise Conflict("a tour is under way already: watch it, or cancel it first")
        tour = Tour.objects.create(options=options, created_by=account)
        _submit_all(tour, RUNS_BEFORE, {})
    return tour


def _submit_all(
    tour: Tour, stages: tuple[str, ...], made: dict[str, Run], rankings: Sequence[str] = ()
) -> None:
    """Queue the runs of some stages, each of which may take what those before it make; they are added to `made`."""
    for name in stages:
        kind = name.split()[0]
        preset, config = _settings(name, kind, tour.options, made)
        run_name = name.replace(" ", "-")
        made[name] = runs.submit(
            kind=kind,
            preset=preset,
            config=config,
            inputs=_inputs(name, made, rankings),
            name=f"tour-{run_name}" if tour.pk == 1 else f"tour{tour.pk}-{run_name}",
            account=tour.created_by,
            tour=tour,
        )


def _settings(
    name: str, kind: str, options: dict[str, Any], made: dict[str, Run]
) -> tuple[str, dict[str, Any]]:
    """Preset and changed fields of the run of one stage."""
    small = bool(options.get("small"))
    config: dict[str, Any] = {}
    if options.get("seed") is not None and "seed" in recipes.get(kind).config.model_fields:
        config["seed"] = options["seed"]
    if kind == "crawl":
        if options.get("pages"):
            return "fineweb", {"source": "warc", "path": options["pages"]}
        if options.get("documents"):
            # Published limits are for web pages: a novel is longer than any of those.
            return "fineweb", {"source": "documents", "path": options["documents"], "max_words": None}
        return ("small" if small else "python-docs"), {}
    if name == stage(kind, 2) and not small:
        config |= SECOND_TURN.get(kind, {})
    if name == "rollouts 2":
        # Prompts that nobody has ranked an answer to, so that the first reward model is asked about new ones.
        config["skip_prompts"] = made["rollouts"].config["n_prompts"]
    return ("tiny" if small else "tour"), config


def _inputs(name: str, made: dict[str, Run], rankings: Sequence[str]) -> dict[str, Any]:
    """What the run of one stage takes of those before it, and of the people's rankings so far."""

    def of(stage: str, output: str = "checkpoint") -> dict[str, Any]:
        return {"run": made[stage].pk, "output": output}

    def problems() -> dict[str, Any]:
        return of("conversations", "problems")

    match name:
        case "tokenizer":
            documents, conversations = of("crawl", "documents"), of("conversations", "conversations")
            return {"documents": documents, "conversations": conversations}
        case "pretrain":
            return {"documents": of("crawl", "documents"), "tokenizer": of("tokenizer", "tokenizer")}
        case "sft":
            return {"checkpoint": of("pretrain"), "conversations": of("conversations", "conversations")}
        case "rollouts":
            return {"checkpoint": of("sft"), "problems": problems()}
        case "reward":
            return {"checkpoint": of("sft"), "rankings": rankings}
        case "rlhf":
            return {"checkpoint": of("sft"), "reward": of("reward"), "problems": problems()}
        case "rollouts 2":
            return {"checkpoint": of("rlhf"), "problems": problems()}
        case "reward 2":
            # From the chat model as the first was: weights that know the old rankings by heart learn the new ones worse.
            return {"checkpoint": of("sft"), "rankings": rankings, "earlier": of("reward")}
        case "rlhf 2":
            start, reference = of("rlhf"), of("sft")
            return {
                "checkpoint": start,
                "reference": reference,
                "reward": of("reward 2"),
                "problems": problems(),
            }
        case "evaluate":
            return {
                "checkpoints": [of(stage) for stage in ("pretrain", "sft", "rlhf", "rlhf 2")],
                "reward": [of("reward"), of("reward 2")],
                "problems": of("conversations", "held_out"),
                "documents": of("crawl", "documents"),
            }
    return {}


def advance() -> None:
    """Bring every running tour on by what has become possible."""
    for tour in Tour.objects.filter(status="running"):
        made = tour.made()
        # The earliest: later ones only fail because it did.
        broken = [run for run in made.values() if run.status in (FAILED, CANCELLED)]
        ended = min(broken, key=lambda run: run.pk, default=None)
        if ended is not None:
            _end(
                tour,
                ended.status,
                f"{ended} {ended.status}: {(ended.error or {}).get('message', '')}".strip(": "),
            )
        elif "evaluate" in made:
            if made["evaluate"].status == SUCCEEDED:
                _end(tour, SUCCEEDED, "")
        elif turn := ANSWERING.get(tour.stage):
            if made[stage("rollouts", turn)].status == SUCCEEDED:
                _make_project(tour, turn, made)
        elif turn := RANKING.get(tour.stage):
            project = ranked_now(tour)
            if project and is_ranked(project):
                _learn(tour, turn, made, project)


def _move(tour: Tour, before: str, after: str) -> bool:
    """Whether this is who brings the tour on; the next simulated labeler need not wait for the last one's silence."""
    here = Tour.objects.filter(pk=tour.pk, stage=before, status="running")
    return bool(here.update(stage=after, labeler_beat=None))


def _make_project(tour: Tour, turn: int, made: dict[str, Run]) -> None:
    with transaction.atomic():
        if _move(tour, tour.stage, stage("ranking", turn)):
            labeling.create_project(
                name=PROJECT_NAMES[turn],
                source_artifact=made[stage("rollouts", turn)].artifacts.get(output="rollouts"),
                instructions=INSTRUCTIONS,
                rankings_per_group=1,
                account=tour.created_by,
                tour=tour,
            )


def _learn(tour: Tour, turn: int, made: dict[str, Run], project: Project) -> None:
    """Queue what learns from a turn's rankings; the second reward model starts anew from all of them."""
    with transaction.atomic():
        if _move(tour, tour.stage, stage("aligning", turn)):
            earlier = made["reward"].inputs.filter(name="rankings") if turn == 2 else ()
            rankings = [given.artifact_id for given in earlier]
            rankings.append(labeling.export(project, tour.created_by).pk)
            _submit_all(tour, RUNS_AFTER[turn], made, rankings)


def ranked_now(tour: Tour) -> Project | None:
    """The project that a tour waits for; None while it waits for none."""
    turn = RANKING.get(tour.stage)
    return tour.project_of(tour.made().get(stage("rollouts", turn))) if turn else None


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
