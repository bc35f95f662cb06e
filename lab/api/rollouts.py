"""The answers of a run's rounds: what was written, what it earned, and what each token was credited with."""

from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from lab.api.base import MAX_INT, Number, Offset, Page, Words, answers
from lab.queries import rollouts, runs

router = Router(tags=["runs"])
Sort = Literal[tuple(rollouts.SORTS)]  # type: ignore[valid-type]
Few = Annotated[int, Query(ge=1, le=100, description="How many items to answer at most.")]
Count = Annotated[int | None, Query(ge=0, le=MAX_INT)]
Reward = Annotated[float | None, Query(ge=-1e9, le=1e9, allow_inf_nan=False)]


class RolloutOut(Schema):
    step: int
    group_id: str
    prompt: str
    number: int = Field(alias="i", description="Which of its prompt's answers, from 1.")
    text: str
    ended: bool = Field(description="Whether the model ended it; false where it was cut off.")
    reward: float
    group_rewards: list[float]
    n_tokens: int
    kl: float | None = Field(description="Nats to the chat model, exact; null where it was not measured.")
    tokens: list[str]
    advantages: list[float] = Field(description="Of each token.")
    token_kl: list[float] | None


class ReasonOut(Schema):
    what: str
    tries: str


class WhyOut(Schema):
    headline: str
    reasons: list[ReasonOut] = Field(description="The likeliest first; empty where the figures look sound.")


@router.get("/runs/{id}/rollouts", response=answers(Page[RolloutOut]), by_alias=False)
def run_rollouts(
    request: HttpRequest,
    id: Number,
    step: Annotated[int | None, Query(ge=0, le=MAX_INT, description="One round; all when absent.")] = None,
    q: Words = None,
    min_reward: Reward = None,
    max_reward: Reward = None,
    min_tokens: Count = None,
    max_tokens: Count = None,
    sort: Sort = "",
    limit: Few = 24,
    offset: Offset = 0,
) -> dict[str, Any]:
    """Answers that the model gave in practice, with each token's advantage and KL; none where none are kept."""
    asked = rollouts.Asked(step, q or "", min_reward, max_reward, min_tokens, max_tokens, sort)
    found = rollouts.answers(runs.get(id), asked, offset, limit)
    return {"items": found.items, "count": found.count}


@router.get("/runs/{id}/why", response=answers(WhyOut))
def run_why(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Why the reward of a run of practice is flat or zero, from its own figures, each cause with what to try."""
    headline, reasons = rollouts.why(runs.get(id))
    return {"headline": headline, "reasons": [{"what": one.what, "tries": one.tries} for one in reasons]}
