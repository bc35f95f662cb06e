"""Tokenizers and checkpoints."""

from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field, model_validator

from core_ml.tokenizer import inspect
from lab.api.artifacts import ArtifactOut, ArtifactWhole, find
from lab.api.base import ArtifactId, Given, Limit, Offset, Page, Words, answers, page
from lab.models import Artifact
from lab.queries import artifacts as queries
from lab.queries import lineage, report_cards
from lab.queries import tokenizers as tokenizer_queries

tokenizers = Router(tags=["tokenizers"])
checkpoints = Router(tags=["checkpoints"])
MAX_CHARACTERS = 200_000
TokenizerOut = CheckpointOut = ArtifactWhole
Role = Literal["base", "chat", "reasoner", "aligned", "reward", "player"]


class MessageIn(Given):
    role: str = Field(max_length=40)
    content: str = Field(max_length=MAX_CHARACTERS)


class EncodeIn(Given):
    """Exactly one of `text` and `messages`."""

    text: str | None = Field(None, max_length=MAX_CHARACTERS)
    messages: list[MessageIn] | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _one_content(self) -> "EncodeIn":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give exactly one of text and messages")
        return self


class TokenOut(Schema):
    id: int
    text: str
    bytes: list[int]
    start: int
    end: int
    special: bool


class EncodedOut(Schema):
    tokens: list[TokenOut]
    count: int
    bytes_per_token: float | None


class PieceOut(Schema):
    id: int
    text: str
    bytes: list[int]
    special: bool


class MergeOut(Schema):
    left: str
    right: str
    rank: int = Field(description="The place of the merge among all that were learned, from 0.")
    pieces: list[str] = Field(description="What stands after it.")


class MergesOut(Schema):
    word: str
    pieces: list[list[MergeOut]]
    tokens: list[TokenOut]


class ShareOut(Schema):
    """A share or a mean with its 95 % interval, from `n` observations."""

    value: float
    low: float
    high: float
    n: int


class ScoreOut(Schema):
    title: str
    note: str
    this: ShareOut | None
    before: ShareOut | None
    change: float | None
    sure: bool = Field(description="Whether the interval of the change leaves out 0.")


class ScoresOut(Schema):
    title: str
    scores: list[ScoreOut]


class CardOut(Schema):
    run: int = Field(description="The run that examined it.")
    name: str
    before: str = Field(description="The model that it is measured against; empty for the first.")
    before_artifact: str | None
    groups: list[ScoresOut]
    findings: list[str]
    earlier_runs: list[int]


class AccuracyOut(Schema):
    title: str
    value: float
    low: float | None
    high: float | None


class ReportCardOut(Schema):
    card: CardOut | None = Field(description="Of the newest exam; null where no run has examined it.")
    rewards: list[AccuracyOut] = Field(description="Of a reward model: its pair accuracies, and its rivals'.")


class ExcerptOut(Schema):
    title: str
    before: str
    passage: str
    after: str


class PlacesOut(Schema):
    id: str
    name: str
    form: str
    count: int
    items: list[ExcerptOut] = Field(description="The first few.")


class PassagesOut(Schema):
    passage: str
    datasets: list[PlacesOut]


@tokenizers.get("", response=answers(Page[ArtifactOut]))
def list_tokenizers(
    request: HttpRequest, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Tokenizers, the newest first."""
    return page(queries.visible("tokenizer", q), limit, offset)


@tokenizers.get("/{id}", response=answers(TokenizerOut))
def get_tokenizer(request: HttpRequest, id: ArtifactId) -> Artifact:
    return find(id, "tokenizer")


@tokenizers.post("/{id}/encode", response=answers(EncodedOut))
def encode(request: HttpRequest, id: ArtifactId, data: EncodeIn) -> dict[str, Any]:
    """Each token of a text, or of a conversation in the chat protocol, with the bytes it stands for."""
    tokenizer = tokenizer_queries.load(find(id, "tokenizer"))
    content: Any = data.text if data.text is not None else [message.dict() for message in data.messages or []]
    tokens = inspect.tokens(tokenizer, content)
    plain = [token for token in tokens if not token["special"]]
    n_bytes = sum(len(token["bytes"]) for token in plain)
    return {
        "tokens": tokens,
        "count": len(tokens),
        "bytes_per_token": n_bytes / len(plain) if plain else None,
    }


@tokenizers.get("/{id}/vocabulary", response=answers(Page[PieceOut]))
def vocabulary(
    request: HttpRequest, id: ArtifactId, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Its tokens by id; with `q` those in whose spelling it stands, or whose id it is."""
    found = tokenizer_queries.vocabulary(tokenizer_queries.load(find(id, "tokenizer")), q or "")
    return {"items": found[offset : offset + limit], "count": len(found)}


@tokenizers.get("/{id}/merges", response=answers(MergesOut))
def merges(
    request: HttpRequest, id: ArtifactId, word: Annotated[str, Query(min_length=1, max_length=60)]
) -> dict[str, Any]:
    """How a word became tokens: the merges of each of its pieces, in the order in which they apply."""
    tokenizer = tokenizer_queries.load(find(id, "tokenizer"))
    return {
        "word": word,
        "pieces": inspect.merges_of(tokenizer, word),
        "tokens": inspect.tokens(tokenizer, word),
    }


@checkpoints.get("", response=answers(Page[ArtifactOut]))
def list_checkpoints(
    request: HttpRequest, role: Role | None = None, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Checkpoints, the newest first."""
    found = queries.visible("checkpoint", q)
    return page(found.filter(role=role) if role else found, limit, offset)


@checkpoints.get("/{id}", response=answers(CheckpointOut))
def get_checkpoint(request: HttpRequest, id: ArtifactId) -> Artifact:
    return find(id, "checkpoint")


@checkpoints.get("/{id}/lineage", response=answers(dict[str, Any]))
def checkpoint_lineage(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """From the crawled page to the arena: every run and artifact before and after it."""
    return queries.lineage(find(id, "checkpoint"))


@checkpoints.get("/{id}/report-card", response=answers(ReportCardOut))
def report_card(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """What it scored in its newest exam, against the model before it, with intervals."""
    checkpoint = find(id, "checkpoint")
    card = report_cards.of(checkpoint)
    rewards = report_cards.reward_card(checkpoint) if checkpoint.role == "reward" else []
    return {"card": _card(card) if card else None, "rewards": rewards}


def _card(card: report_cards.ReportCard) -> dict[str, Any]:
    return {
        "run": card.run.pk,
        "name": card.name,
        "before": card.before,
        "before_artifact": card.before_artifact.pk if card.before_artifact else None,
        "groups": [{"title": title, "scores": scores} for title, scores in card.groups],
        "findings": card.findings,
        "earlier_runs": [run.pk for run in card.others],
    }


@checkpoints.get("/{id}/passages", response=answers(PassagesOut))
def passages(
    request: HttpRequest, id: ArtifactId, q: Annotated[str, Query(max_length=lineage.MAX_PASSAGE)]
) -> dict[str, Any]:
    """Where a passage stands, word for word, in the texts that it was trained on."""
    passage, places = lineage.trained_on(find(id, "checkpoint"), q)
    datasets = [
        {
            "id": one.dataset.pk,
            "name": one.dataset.name,
            "form": one.dataset.form,
            "count": one.count,
            "items": one.items,
        }
        for one in places
    ]
    return {"passage": passage, "datasets": datasets}
