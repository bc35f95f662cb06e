"""What every page knows: the seven stages and what stands at each, who looks, and what runs now."""

from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse

from core_ml import recipes
from core_ml.recipe import STAGES
from lab.models import Project, Run, Vote
from lab.models.run import FAILED, LIVE, QUEUED, SUCCEEDED

COLUMN_TITLES = {
    "pages": ("Pages", "the web, cleaned"),
    "tokens": ("Tokens", "text as numbers"),
    "base": ("Base", "learns to continue"),
    "assistant": ("Assistant", "learns to answer"),
    "reasoner": ("Reasoner", "learns by practice"),
    "aligned": ("Aligned", "learns what people prefer"),
    "arena": ("Arena", "models compared"),
}
ADDRESSES = {
    "pages": ("datasets", ""),
    "tokens": ("tokenizers", ""),
    "base": ("checkpoints", "?role=base"),
    "assistant": ("checkpoints", "?role=chat"),
    "reasoner": ("checkpoints", "?role=reasoner"),
    "aligned": ("checkpoints", "?role=aligned"),
    "arena": ("arena", ""),
}
"""Where a stage's intersection leads: the name of a page and its query."""


def stages() -> list[dict[str, str]]:
    """The lifeline: of each stage its name, title, half-sentence, address, and the class of its stone."""
    counts: dict[str, dict[str, int]] = {name: {} for name in STAGES}
    kinds = recipes.all_recipes()
    for row in Run.objects.filter(deleted=None).order_by().values("kind", "status").annotate(n=Count("id")):
        if row["kind"] in kinds:
            count = counts[kinds[row["kind"]].stage]
            count[row["status"]] = count.get(row["status"], 0) + row["n"]
    stones = {name: _stone(counts[name]) for name in STAGES}
    if stones["arena"] != "running" and Vote.objects.exists():
        stones["arena"] = "people"
    return [
        {
            "name": name,
            "title": COLUMN_TITLES[name][0],
            "about": COLUMN_TITLES[name][1],
            "url": reverse(ADDRESSES[name][0]) + ADDRESSES[name][1],
            "stone": stones[name],
        }
        for name in STAGES
    ]


def _stone(count: dict[str, int]) -> str:
    if any(count.get(status) for status in LIVE if status != QUEUED):
        return "running"
    if count.get(SUCCEEDED):
        return ""
    if count.get(QUEUED):
        return "waiting"
    return "failed" if count.get(FAILED) else "empty"


def site(request: HttpRequest) -> dict[str, Any]:
    """The context of base.html. People who only label see no stages and no runs."""
    account = getattr(request, "user", None)
    if account is None or not account.is_authenticated:
        return {"account": None, "is_researcher": False}
    if not account.may("researcher"):
        return {"account": account, "is_researcher": False}
    return {
        "account": account,
        "is_researcher": True,
        "stages": stages(),
        "n_live": Run.objects.filter(Q(status__in=LIVE), deleted=None).count(),
        "open_projects": Project.objects.filter(closed=None).exists(),
    }
