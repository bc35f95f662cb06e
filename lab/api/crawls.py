"""What a crawl did with its pages: the funnel, its rules, other thresholds, and the pages that it dropped."""

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from core_ml.crawl.rules import BY_FIELD, MEASURES
from core_ml.errors import UserError
from lab.api.artifacts import find
from lab.api.base import ArtifactId, Given, Offset, Page, Words, answers
from lab.errors import Conflict
from lab.models import Artifact
from lab.queries import crawl
from lab.queries.passages import faults

router = Router(tags=["datasets"])
RuleName = Annotated[str, Query(max_length=80, description="A rule's name, as the funnel tells them.")]
Bins = Annotated[int, Query(ge=2, le=500, description="About how many; their width is a round number.")]
# A row holds up to 2,000 characters of its page.
FewRows = Annotated[int, Query(ge=1, le=100, description="How many items to answer at most.")]


class RuleOut(Schema):
    rule: str
    title: str
    measure: str
    side: str = Field(description='"min" keeps pages at or above the threshold, "max" those at or below.')
    unit: str
    explanation: str
    threshold: float
    dropped: int
    movable: bool = Field(description="Whether it has a threshold to recount with.")


class StageOut(Schema):
    stage: str
    title: str
    looks_for: str = ""
    came: int = Field(alias="in")
    kept: int
    dropped: int
    failed: int
    reasons: dict[str, int] = Field(description="Pages by the rule, or the failure, that took them.")
    lines: dict[str, int] = Field(description="Lines taken out of pages that were kept, by rule.")
    rules: list[RuleOut] = Field(description="Those that were on; the one that dropped most comes first.")


class FunnelOut(Schema):
    stages: list[StageOut]


class RecountIn(Given):
    thresholds: dict[str, float] = Field(
        {}, max_length=100, description="By rule; the others stay as the crawl had them."
    )


class StageCount(Schema):
    stage: str
    came: int = Field(alias="in")
    kept: int
    dropped: int
    failed: int
    bytes_in: int
    bytes: int


class RecountOut(Schema):
    stages: list[StageCount]
    rules: dict[str, int] = Field(description="Pages that each rule would drop first.")
    pages: int
    bytes: int
    documents: int
    unseen: int = Field(description="Of the documents those that later stages have not judged.")


class HistogramOut(Schema):
    rule: str
    measure: str
    threshold: float | None
    lo: float | None = Field(description="Where the first bin begins; null where no page was measured.")
    step: float | None
    counts: list[int] = Field(description="The first and the last bin also hold what lies beyond them.")
    total: int
    least: float | None
    most: float | None


class NextOut(Schema):
    rule: str
    value: float
    keeps: bool


class DroppedOut(Schema):
    id: str | None
    url: str | None
    stage: str
    rule: str
    value: float | None
    threshold: float | None
    text: str = Field(description="At most its first 2,000 characters.")
    faults: list[list[int]] = Field(description="Start and end, in characters, of what the rule counted.")
    next: NextOut | None = Field(description="The rule of its stage that it would have met next.")
    measures: dict[str, float] = Field(description="All that was measured before it was dropped.")


def _crawl(id: str) -> Artifact:
    """Raises Conflict for any other dataset."""
    artifact = find(id, "dataset")
    if not crawl.is_crawl(artifact):
        raise Conflict(f"{artifact.name} keeps no decisions on pages: only the documents of a crawl do.")
    return artifact


@router.get("/{id}/funnel", response=answers(FunnelOut), by_alias=True)
def funnel(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """Where the pages of a crawl went, stage by stage, and the rules that each stage applied."""
    artifact = _crawl(id)
    stages = [
        {
            **row,
            "reasons": row["rules"],
            "lines": row.get("lines", {}),
            "rules": [_rule(one) for one in crawl.rules(artifact, row["stage"])],
        }
        for row in crawl.funnel(artifact)
    ]
    return {"stages": stages}


def _rule(one: crawl.RuleCount) -> dict[str, Any]:
    rule = one.rule
    return {
        "rule": rule.field,
        "title": rule.title,
        "measure": rule.measure,
        "side": rule.side,
        "unit": rule.unit,
        "explanation": rule.explanation,
        "threshold": one.threshold,
        "dropped": one.n_dropped,
        "movable": rule.fixed is None,
    }


@router.get("/{id}/histogram", response=answers(HistogramOut))
def histogram(request: HttpRequest, id: ArtifactId, rule: RuleName, bins: Bins = crawl.BINS) -> Any:
    """How a rule's measure is spread over all pages that reached it."""
    artifact = _crawl(id)
    try:
        chosen = crawl.movable(rule)
    except UserError as error:
        raise UserError(error.message, field="rule") from error
    nothing: dict[str, Any] = {
        "lo": None,
        "step": None,
        "counts": [],
        "total": 0,
        "least": None,
        "most": None,
    }
    return {
        "rule": rule,
        "measure": chosen.measure,
        "threshold": chosen.threshold(crawl.config(artifact)),
        **(crawl.histogram(artifact, chosen, bins) or nothing),
    }


@router.post("/{id}/recount", response=answers(RecountOut), by_alias=True)
def recount(request: HttpRequest, id: ArtifactId, data: RecountIn) -> dict[str, Any]:
    """The funnel under other thresholds, from the measures that the crawl kept; nothing is changed."""
    try:
        return crawl.recount(_crawl(id), data.thresholds)
    except UserError as error:
        field = f"thresholds.{error.field}" if error.field else None
        raise UserError(error.message, field=field) from error


@router.get("/{id}/dropped", response=answers(Page[DroppedOut]))
def dropped(
    request: HttpRequest,
    id: ArtifactId,
    rule: RuleName,
    q: Words = None,
    limit: FewRows = 50,
    offset: Offset = 0,
) -> dict[str, Any]:
    """The pages that fell to a rule, or that failed for a reason, the nearest to the threshold first."""
    artifact = _crawl(id)
    found = crawl.dropped(artifact, rule, q=q or "", offset=offset, limit=limit)
    settings = crawl.config(artifact)
    return {"items": [_page(row, settings) for row in found["items"]], "count": found["count"]}


def _page(row: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    rule, text = BY_FIELD.get(row["rule"]), row["text"] or ""
    later = crawl.next_rule(row, rule, settings) if rule else None
    return {
        **row,
        "text": text,
        "faults": faults(rule.measure, text) if rule else [],
        "next": {"rule": later[0].field, "value": later[1], "keeps": later[2]} if later else None,
        "measures": {name: row[name] for name in MEASURES if row[name] is not None},
    }
