"""The arena for researchers: which models meet, ratings, judges, and votes that flow back as rankings."""

from typing import Annotated, Any

from django.http import FileResponse, HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status

from core_ml.evaluation.arena import Ties
from core_ml.feedback.sets.exporting import ExportForm
from lab.api.arena_forms import (
    ContenderChange,
    ContenderIn,
    ContenderOut,
    ExportIn,
    JudgeIn,
    JudgementsIn,
    JudgementsOut,
    JudgesOut,
    LeaderboardOut,
    VotersName,
    WinsOut,
    measured,
)
from lab.api.base import Limit, Number, Offset, Page, answers, page
from lab.api.datasets import DatasetOut, exported
from lab.api.runs import RunOut
from lab.errors import FieldError, Invalid
from lab.models import Contender
from lab.queries import arena as queries
from lab.queries import artifacts, judges, ratings
from lab.services import arena as services
from lab.services import sets

router = Router(tags=["arena"])
Voters = Annotated[VotersName, Query(description="Whose votes count.")]
TiesCount = Annotated[
    Ties,
    Query(
        description="Ties as half a win for each side, or as an outcome with a probability of its own (Davidson)."
    ),
]


@router.get("/contenders", response=answers(Page[ContenderOut]), by_alias=False)
def list_contenders(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    return page(queries.contenders(), limit, offset)


@router.post("/contenders", response=answers(ContenderOut, 201), by_alias=False)
def add_contender(request: Any, data: ContenderIn) -> Status:
    """Let a model be drawn: a checkpoint that writes text, an export as GGUF, a file, or an address."""
    return Status(201, services.add(request.user, data.model, data.name))


@router.patch("/contenders/{id}", response=answers(ContenderOut), by_alias=False)
def change_contender(request: HttpRequest, id: Number, data: ContenderChange) -> Contender:
    """Rename it, rest or wake it, or make it the anchor."""
    return services.change(get_object_or_404(Contender, pk=id), **data.model_dump(exclude_unset=True))


@router.delete("/contenders/{id}", response=answers(None, 204))
def remove_contender(request: HttpRequest, id: Number) -> Status:
    """Take out one that has not fought; one that has may rest."""
    services.remove(get_object_or_404(Contender, pk=id))
    return Status(204, None)


@router.get("/leaderboard", response=answers(LeaderboardOut))
def leaderboard(request: HttpRequest, voters: Voters = "people", ties: TiesCount = "half") -> dict[str, Any]:
    """Bradley-Terry ratings with 95 % intervals, plain and with style taken out; what style does; what is not known yet."""
    board = ratings.leaderboard(voters, ties)
    return {
        "voters": voters,
        "ties": board.ties,
        "tie_share": board.tie_share,
        "n_votes": board.n_votes,
        "n_battles": board.n_battles,
        "finite": board.is_finite,
        "ratings": ratings.as_json(board),
        "effects": board.effects,
        "undecided": [
            {"better": one.better.name, "other": one.other.name, "needed": one.needed}
            for one in ratings.undecided(board, voters)
        ],
    }


@router.get("/wins", response=answers(WinsOut))
def wins(request: HttpRequest, voters: Voters = "people") -> dict[str, Any]:
    """How often each beat each other."""
    table = ratings.wins(ratings.leaderboard(voters), voters)
    return {
        "names": [one.name for one, _ in table],
        "shares": [[cell.share if cell else None for cell in cells] for _, cells in table],
        "votes": [[cell.n if cell else 0 for cell in cells] for _, cells in table],
    }


@router.get("/judges", response=answers(JudgesOut))
def list_judges(request: HttpRequest) -> dict[str, Any]:
    """Each judge's agreement with people, and its leanings to a place and to length."""
    found = judges.judges()
    return {
        "judges": [
            {
                "judge": one.name,
                "votes": one.n_votes,
                "shared": one.n_shared,
                "agreement": measured(one.agreement.decided),
                "agreement_with_ties": measured(one.agreement.with_ties),
                "consistent": measured(one.place and one.place.consistent),
                "prefers_first": measured(one.place and one.place.first),
                "prefers_second": measured(one.place and one.place.second),
                "prefers_longer": measured(one.longer),
            }
            for one in found.judges
        ],
        "people_prefer_longer": measured(found.people_longer),
    }


@router.get("/export", response=answers(None))
def download_votes(request: HttpRequest, form: ExportForm = "jsonl", judges: bool = False) -> FileResponse:
    """The votes so far as rankings, as JSONL or in a form of others, without making a dataset of them."""
    return exported(sets.export_rows(services.rows(judges), form), "arena-votes", form)


@router.post("/export", response=answers(DatasetOut, 201))
def export_votes(request: Any, data: ExportIn) -> Status:
    """Write the votes so far as a dataset of the form rankings, for a reward model or a judge to take.

    With `battles`, what was said in all battles that are over, voted on or not, as one of the form rollouts.
    """
    if data.battles:
        return Status(201, services.export_battles(request.user))
    return Status(201, services.export(request.user, data.judges))


@router.post("/judge", response=answers(RunOut, 201))
def ask_judge(request: Any, data: JudgeIn) -> Status:
    """Queue a run in which a model judges all battles that are over; its verdicts become votes, marked so, at its end."""
    return Status(201, services.ask_judge(data.model, request.user))


@router.post("/judgements", response=answers(JudgementsOut))
def import_judgements(request: Any, data: JudgementsIn) -> services.Imported:
    """Take the verdicts of judge models as votes, marked so; those that are here already count once."""
    artifact = artifacts.visible("dataset").filter(pk=data.artifact).first()
    if artifact is None:
        raise Invalid([FieldError("artifact", f"there is no dataset {data.artifact!r}")])
    return services.import_judgements(artifact, request.user)
