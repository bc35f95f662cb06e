"""Tokenizers: bring one in, look at what it makes of a text, take it out as ranks, remove it."""

from pathlib import Path
from typing import Annotated, Any

from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema, Status
from pydantic import Field, ValidationError, model_validator

from core_ml.tokenizer import formats, inspect, patterns
from lab.api.artifacts import ArtifactOut, ArtifactWhole, attached, find
from lab.api.base import ArtifactId, Given, Limit, Offset, Page, Words, answers, page
from lab.api.datasets import invalid, parsed
from lab.api.idempotent import slow
from lab.errors import FieldError, Invalid
from lab.models import Artifact
from lab.queries import artifacts as queries
from lab.queries import tokenizers as tokenizer_queries
from lab.services import datasets, tokenizers

router = Router(tags=["tokenizers"])
MAX_CHARACTERS = 200_000
TokenizerOut = ArtifactWhole


class About(Given):
    name: str = Field("", max_length=100, description="By default the file's own.")
    pattern: patterns.Name = Field("gpt4", description="How words are cut; a file of ranks does not say it.")
    own_pattern: str = Field("", max_length=patterns.MAX_CHARS, description="For the pattern 'own'.")


class TokenizerIn(About):
    """Exactly one of `path` and `url`."""

    path: str | None = Field(
        None, max_length=1000, description="A file or folder on the server, allowed ones."
    )
    url: str | None = Field(None, max_length=2000, description="A public http or https address.")

    @model_validator(mode="after")
    def _one_source(self) -> "TokenizerIn":
        if (self.path is None) == (self.url is None):
            raise ValueError("give exactly one of path and url, or upload a file")
        return self


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


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": TokenizerIn.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        **About.model_json_schema()["properties"],
                    },
                }
            },
        },
    }
}


@router.get("", response=answers(Page[ArtifactOut]))
def list_tokenizers(
    request: HttpRequest, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Tokenizers, the newest first."""
    return page(queries.visible("tokenizer", q), limit, offset)


@router.post("", response=answers(TokenizerOut, 201), openapi_extra=_BODY)
@slow
def create_tokenizer(request: Any) -> Status:
    """Bring in any `tokenizer.json`, or tiktoken's ranks with the pattern that cuts words."""
    if request.content_type == "multipart/form-data":
        return Status(201, _upload(request))
    try:
        data = TokenizerIn.model_validate(parsed(request))
    except ValidationError as error:
        raise invalid(error) from None
    about = {**data.model_dump(exclude={"path", "url"}), "account": request.user}
    if data.path is not None:
        return Status(201, tokenizers.import_path(data.path, **about))
    assert data.url is not None
    return Status(201, tokenizers.import_url(data.url, **about))


def _upload(request: Any) -> Artifact:
    file = request.FILES.get("file")
    if not isinstance(file, TemporaryUploadedFile):
        raise Invalid([FieldError("file", "there is no file: send one in the part 'file'")])
    try:
        about = About.model_validate({key: value for key, value in request.POST.items() if value})
    except ValidationError as error:
        raise invalid(error) from None
    path = Path(file.temporary_file_path())
    return tokenizers.import_upload(path, file.name or "upload", **about.model_dump(), account=request.user)


@router.get("/{id}", response=answers(TokenizerOut))
def get_tokenizer(request: HttpRequest, id: ArtifactId) -> Artifact:
    return find(id, "tokenizer")


@router.post("/{id}/encode", response=answers(EncodedOut))
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


@router.get("/{id}/vocabulary", response=answers(Page[PieceOut]))
def vocabulary(
    request: HttpRequest, id: ArtifactId, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Its tokens by id; with `q` those in whose spelling it stands, or whose id it is."""
    found = tokenizer_queries.vocabulary(tokenizer_queries.load(find(id, "tokenizer")), q or "")
    return {"items": found[offset : offset + limit], "count": len(found)}


@router.get("/{id}/merges", response=answers(MergesOut))
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


@router.get("/{id}/ranks", response=answers(None))
def ranks(request: HttpRequest, id: ArtifactId) -> HttpResponse:
    """The file that `tiktoken.load.load_tiktoken_bpe` reads; its ranks are the tokenizer's own ids."""
    artifact = find(id, "tokenizer")
    content = formats.to_ranks(tokenizer_queries.load(artifact))
    return attached(HttpResponse(content), f"{artifact.name}.tiktoken")


@router.delete("/{id}", response=answers(None, 204))
def delete_tokenizer(request: HttpRequest, id: ArtifactId) -> Status:
    """Remove a tokenizer that was imported; one that a run made goes with its run."""
    datasets.delete(find(id, "tokenizer"))
    return Status(204, None)
