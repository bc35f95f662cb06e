"""What the resources share: bounded parameters, pages of a list, and the shape of an error."""

from typing import Annotated, Any, Generic, TypeVar

from django.db.models import QuerySet
from ninja import Path, Query, Schema
from pydantic import ConfigDict, Field

T = TypeVar("T")

# Unbounded, 22 digits would reach the database and overflow there.
MAX_INT = 2**31 - 1
Number = Annotated[int, Path(ge=1, le=MAX_INT)]
ArtifactId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$")]
Limit = Annotated[int, Query(ge=1, le=200, description="How many items to answer at most.")]
Offset = Annotated[int, Query(ge=0, le=MAX_INT, description="How many items to pass over.")]
Words = Annotated[str | None, Query(max_length=200, description="Words to search for.")]


class Given(Schema):
    """The base of every request body: a key that does not exist is told, not passed over."""

    model_config = ConfigDict(extra="forbid")


class FieldProblem(Schema):
    field: str = Field(description='Dotted path, for example "config.lr"; empty for the whole.')
    message: str


class Problem(Schema):
    """Every error of the API."""

    detail: str
    errors: list[FieldProblem]


class Page(Schema, Generic[T]):
    items: list[T]
    count: int = Field(description="How many there are in all.")


def page(found: QuerySet[Any], limit: int, offset: int) -> dict[str, Any]:
    return {"items": list(found[offset : offset + limit]), "count": found.count()}


# Every operation can answer these; ninja documents none of them by itself.
PROBLEMS: dict[Any, Any] = {
    400: Problem,
    401: Problem,
    403: Problem,
    404: Problem,
    409: Problem,
    413: Problem,
    415: Problem,
    422: Problem,
}


def answers(schema: Any, status: int = 200) -> dict[Any, Any]:
    return {status: schema, **PROBLEMS}
