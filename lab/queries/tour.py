"""A tour as a table: what each stage made, how long it took, and how good it is, the disappointments included."""

from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Max, Min, Q
from django.utils import timezone

from core_ml import recipes
from lab.models import Project, Ranking, Run, Tour
from lab.models.run import RUNNING, SUCCEEDED
from lab.models.tour import stage

LOOP = ("rollouts", "rankings", "reward", "rlhf")
PARTS = {
    "An assistant": ("crawl", "conversations", "tokenizer", "pretrain", "sft"),
    "Turn 1": LOOP,
    "Turn 2": tuple(stage(kind, 2) for kind in LOOP),
    "Both turns": ("evaluate",),
}
"""The stages in their order, by part: what people think is asked twice."""
STAGES = tuple(name for stages in PARTS.values() for name in stages)
RANKED = {"rankings": "rollouts", "rankings 2": "rollouts 2"}
"""The stages in which people judge, and whose answers."""
LEARNS = {"rankings": "reward", "rankings 2": "reward 2"}
"""What begins when they have judged: with groups left over where a person holds one, or closed the project."""
WAITING = "waiting"


@dataclass
class Row:
    """One stage of a tour; `run` is None where people judge, and before the stage's run exists."""

    stage: str
    title: str
    status: str
    seconds: float | None = None
    made: str = ""
    findings: list[str] = field(default_factory=list)
    run: Run | None = None
    project: Project | None = None

    @property
    def is_done(self) -> bool:
        return self.status == SUCCEEDED


def table(tour: Tour) -> list[Row]:
    """Every stage in its order, those to come as waiting. One that ended when tours were shorter has no more to come."""
    made = tour.made()
    rows = [
        _ranking_row(name, tour.project_of(made.get(RANKED[name])), LEARNS[name] in made)
        if name in RANKED
        else _run_row(name, made.get(name))
        for name in STAGES
    ]
    return [row for row in rows if row.status != WAITING or row.run or tour.status != SUCCEEDED]


def parts(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The rows under the headings of their parts."""
    found = ((title, [row for row in rows if row.stage in stages]) for title, stages in PARTS.items())
    return [(title, own) for title, own in found if own]


def _run_row(name: str, run: Run | None) -> Row:
    title = recipes.get(name.split()[0]).title
    if run is None:
        return Row(name, title, WAITING)
    end = run.ended or (timezone.now() if run.started else None)
    seconds = (end - run.started).total_seconds() if end and run.started else None
    findings = list(run.summary.get("findings", []))
    if run.error:
        findings.append(run.error["message"])
    status = WAITING if run.is_waiting else run.status
    return Row(name, title, status, seconds, _made(run), findings, run)


def _made(run: Run) -> str:
    """The figures of what a run made, in a few words."""
    if run.status != SUCCEEDED:
        return (run.progress or {}).get("message", "")
    s = run.summary
    words: dict[str, list[tuple[str, str]]] = {
        "crawl": [("n_documents", "{:,} documents"), ("n_pages", "of {:,} pages")],
        "conversations": [("n_conversations", "{:,} conversations"), ("n_problems", "{:,} problems")],
        "tokenizer": [("vocab_size", "{:,} symbols"), ("bytes_per_token", "{:.2f} bytes a token")],
        "pretrain": [("n_parameters", "{:,} parameters"), ("tokens", "{:,} tokens read")],
        "sft": [("n_conversations", "{:,} conversations"), ("steps", "{:,} steps")],
        "rollouts": [("n_rows", "{:,} prompts"), ("n_completions", "{:,} answers")],
        "reward": [("n_groups", "{:,} groups"), ("n_pairs", "{:,} pairs")],
        "rlhf": [("n_steps", "{:,} steps")],
        "evaluate": [("n_models", "{:,} models"), ("n_problems", "{:,} problems")],
    }
    figures = [
        form.format(s[key]) for key, form in words.get(run.kind, []) if isinstance(s.get(key), int | float)
    ]
    return ", ".join(figures).replace(", of", " of")


def _ranking_row(name: str, project: Project | None, went_on: bool) -> Row:
    if project is None:
        return Row(name, "Rank the answers", WAITING)
    told = progress(project)
    whole = told["n_ranked"] == told["n_groups"]
    seconds = (told["last"] - told["first"]).total_seconds() if told["last"] else None
    row = Row(name, "Rank the answers", SUCCEEDED if whole or went_on else RUNNING, seconds, project=project)
    row.made = f"{told['n_ranked']:,} of {told['n_groups']:,} groups ranked"
    if told["n_simulated"]:
        row.findings.append(
            f"{told['n_simulated']:,} rankings are by the simulated labeler, whose preference is a rule."
        )
    people = told["n_rankings"] - told["n_simulated"]
    row.findings.append(
        f"{people:,} rankings are by people." if people else "No person has ranked any of them."
    )
    return row


def progress(project: Project) -> dict[str, Any]:
    """Counts of a project: its groups, those ranked, rankings in all and by simulated labelers; first and last time."""
    rankings = Ranking.objects.filter(group__project=project)
    return rankings.aggregate(
        n_rankings=Count("id"),
        n_ranked=Count("group", distinct=True),
        n_simulated=Count("id", filter=Q(labeler__is_simulated=True)),
        first=Min("created"),
        last=Max("created"),
    ) | {"n_groups": project.groups.count()}
