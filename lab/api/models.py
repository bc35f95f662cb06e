"""Tokenizers and checkpoints."""

from functools import lru_cache
from typing import Any, Literal

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field, model_validator

from core_ml.tokenizer import inspect
from core_ml.tokenizer.tokenizer import Tokenizer
from lab.api.artifacts import ArtifactOut, ArtifactWhole, find
from lab.api.base import ArtifactId, Given, Limit, Offset, Page, Words, answers, page
from lab.models import Artifact
from lab.queries import artifacts as queries

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
    tokenizer = _load(str(queries.path(find(id, "tokenizer")) / "tokenizer.json"))
    content: Any = data.text if data.text is not None else [message.dict() for message in data.messages or []]
    tokens = inspect.tokens(tokenizer, content)
    plain = [token for token in tokens if not token["special"]]
    n_bytes = sum(len(token["bytes"]) for token in plain)
    return {
        "tokens": tokens,
        "count": len(tokens),
        "bytes_per_token": n_bytes / len(plain) if plain else None,
    }


@lru_cache(maxsize=8)
def _load(path: str) -> Tokenizer:
    """An artifact never changes, so what was read of it stays true."""
    return Tokenizer.load(path)


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
