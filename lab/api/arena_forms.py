"""What the arena's endpoints take and answer."""

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import Field

from core_ml.evaluation.arena import Ties
from lab.api.base import Given
from lab.services import arena as services

Outcome = Literal["left", "right", "tie", "bad"]
VotersName = Literal["people", "judges", "all"]


class ContenderIn(Given):
    model: str = Field(
        min_length=1,
        max_length=80,
        description="Id of a checkpoint or of an export as GGUF; address-3 or file-2 for what stands at /models.",
    )
    name: str = Field("", max_length=services.MAX_NAME, description="By default the model's own.")


class ContenderChange(Given):
    """Only what is named changes."""

    name: str | None = Field(None, min_length=1, max_length=services.MAX_NAME)
    active: bool | None = Field(None, description="Only active ones are drawn.")
    anchor: bool | None = Field(None, description="It stands at 1,000 points; there is one at most.")


class ContenderOut(Schema):
    id: int
    name: str
    model: str
    checkpoint: str | None = Field(alias="checkpoint_id")
    active: bool = Field(alias="is_active")
    anchor: bool = Field(alias="is_anchor")
    created: datetime


class PromptIn(Given):
    prompt: str = Field(min_length=1, max_length=services.MAX_PROMPT)


class PromptOut(Schema):
    prompt: str = Field(description="Empty where no dataset holds prompts.")


class VoteIn(Given):
    outcome: Outcome
    seconds: float = Field(0, ge=0, le=services.MAX_SECONDS, description="From both answers to the vote.")


class AnswerOut(Schema):
    side: str
    status: str = Field(description="waiting, done or failed.")
    text: str
    html: str = Field(description="Markdown and mathematics as safe HTML.")
    tokens: int | None
    cut_off: bool


class TurnOut(Schema):
    number: int
    prompt: str
    answers: list[AnswerOut] = Field(description="The left one, then the right one.")


class NamedOut(Schema):
    name: str
    checkpoint: str | None
    kind: str | None = Field(description="checkpoint, or export.")
    run: int | None = Field(description="The run that made the checkpoint.")


class BattleOut(Schema):
    """A battle as its player may see it: names stand in it after the vote only."""

    id: int
    state: str = Field(description="open, voted, or left without a vote.")
    turns: list[TurnOut]
    outcome: Outcome | None
    counts: bool | None = Field(description="False where an answer told its model's name.")
    left: NamedOut | None
    right: NamedOut | None


class VoteOut(Schema):
    kind: str
    voter: str
    outcome: Outcome
    counts: bool
    seconds: float
    created: datetime


class PlayedOut(Schema):
    """A battle with all that is known of it."""

    id: int
    account: str
    created: datetime
    ended: datetime | None
    abandoned: bool
    prompt: str
    n_turns: int
    left: str
    right: str
    votes: list[VoteOut]
    problems: list[str] = Field(description="Why answers failed, in the engine's words.")


class RatingOut(Schema):
    rank: int
    points: float
    low: float
    high: float
    n_votes: int
    styled: float | None = Field(description="Points when length and markdown are taken out.")
    styled_low: float | None
    styled_high: float | None
    styled_rank: int | None


class RatedOut(Schema):
    contender: int
    name: str
    active: bool
    anchor: bool
    tokens: float | None = Field(description="Mean tokens of its answers.")
    rating: RatingOut | None = Field(description="None while nobody has voted on it.")


class EffectOut(Schema):
    name: str
    value: float = Field(description="What one spread more of it on one side does to its odds, in logits.")
    low: float
    high: float


class UndecidedOut(Schema):
    better: str
    other: str
    needed: int | None = Field(
        description="Votes on this pair that would tell; none where that is out of reach."
    )


class LeaderboardOut(Schema):
    voters: VotersName
    ties: Ties = Field(
        description="How ties count in the plain ratings; style is taken out of half wins only."
    )
    tie_share: float | None = Field(
        description="How often two equal models tie, where ties are an outcome of their own."
    )
    n_votes: int
    n_battles: int
    finite: bool = Field(description="False where votes are too few, so that a weak prior holds the ratings.")
    ratings: list[RatedOut]
    effects: list[EffectOut]
    undecided: list[UndecidedOut] = Field(description="Neighbours that the votes do not tell apart yet.")


class WinsOut(Schema):
    """Who beats whom, row by row in the leaderboard's order."""

    names: list[str]
    shares: list[list[float | None]] = Field(description="How often the row beat the column, a tie as half.")
    votes: list[list[int]]


class Measured(Schema):
    value: float
    low: float
    high: float
    n: int


class JudgeOut(Schema):
    judge: str
    votes: int
    shared: int = Field(description="Battles on which people voted too.")
    agreement: Measured | None = Field(description="Of the votes that both decided, those alike.")
    agreement_with_ties: Measured | None
    consistent: Measured | None = Field(description="Verdicts that stay when the sides are swapped.")
    prefers_first: Measured | None
    prefers_second: Measured | None
    prefers_longer: Measured | None


class JudgesOut(Schema):
    judges: list[JudgeOut]
    people_prefer_longer: Measured | None


class ExportIn(Given):
    judges: bool = Field(False, description="With the votes of judges too.")
    battles: bool = Field(
        False, description="In place of votes all battles that are over, as rollouts for a judge to compare."
    )


class JudgeIn(Given):
    model: str = Field(
        min_length=1,
        max_length=300,
        description="Id of a checkpoint, or the name of a model on the page Models.",
    )


class JudgementsIn(Given):
    artifact: str = Field(max_length=80, description="Id of a dataset of rankings by judges: labeler judge:…")


class JudgementsOut(Schema):
    votes: int
    repeated: int
    passed_over: dict[str, int]


def measured(share: Any) -> dict[str, Any] | None:
    return {name: getattr(share, name) for name in ("value", "low", "high", "n")} if share else None
