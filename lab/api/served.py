"""Models beyond the lab's own: addresses of other servers, and GGUF files. All models together stand at /v1/models."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema, Status
from pydantic import Field, SecretStr

from lab.api.base import Given, Limit, Number, Offset, Page, answers, page
from lab.api.idempotent import slow
from lab.models import ModelAddress, ModelFile
from lab.queries import served as queries
from lab.services import served as services

router = Router(tags=["models"])


class AddressIn(Given):
    url: str = Field(max_length=500, description="Up to and with /v1.")
    name: str = Field("", max_length=100, description="What it is called here; by default as there.")
    model: str = Field(
        "", max_length=200, description="What it is called there; may be left out where it has one."
    )
    key: SecretStr = Field(SecretStr(""), description="Shown to that server only; no answer tells it again.")
    local: bool = Field(False, description="May be of this machine or its network; for administrators.")
    timeout: float = Field(
        120, ge=1, le=3600, description="Seconds without a word after which it is given up."
    )


class AddressOut(Schema):
    id: int
    name: str
    url: str
    model: str
    has_key: bool
    local: bool = Field(alias="is_local")
    timeout: float
    problem: str = Field(description="Why it did not answer when it was last tried; empty when it did.")
    tried: datetime | None
    created: datetime

    @staticmethod
    def resolve_has_key(address: Any) -> bool:
        return bool(address.key)


class FileIn(Given):
    path: str = Field(max_length=1000, description="A GGUF file below an allowed folder.")
    name: str = Field("", max_length=100)


class FileOut(Schema):
    id: int
    name: str
    path: str
    created: datetime


@router.get("/addresses", response=answers(Page[AddressOut]), by_alias=False)
def list_addresses(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    return page(queries.addresses(), limit, offset)


@router.post("/addresses", response=answers(AddressOut, 201), by_alias=False)
@slow
def add_address(request: Any, data: AddressIn) -> Status:
    """Keep an address and try it; `problem` says what came of that."""
    services.check_reach(request.role, data.local)
    given = data.dict() | {"key": data.key.get_secret_value()}
    return Status(201, services.add_address(request.user, **given))


@router.post("/addresses/{id}/try", response=answers(AddressOut), by_alias=False)
@slow
def try_address(request: HttpRequest, id: Number) -> ModelAddress:
    """Ask the server for its models now."""
    return services.try_address(get_object_or_404(ModelAddress, pk=id))


@router.delete("/addresses/{id}", response=answers(None, 204))
def remove_address(request: Any, id: Number) -> Status:
    """Your own, or for an administrator anybody's."""
    services.remove(get_object_or_404(ModelAddress, pk=id), request.user, request.role)
    return Status(204, None)


@router.get("/files", response=answers(Page[FileOut]))
def list_files(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    return page(queries.files(), limit, offset)


@router.post("/files", response=answers(FileOut, 201))
def add_file(request: Any, data: FileIn) -> Status:
    """A GGUF file that lies below an allowed folder, to be run by llama.cpp."""
    return Status(201, services.add_file(request.user, path=data.path, name=data.name))


@router.delete("/files/{id}", response=answers(None, 204))
def remove_file(request: Any, id: Number) -> Status:
    """Your own, or for an administrator anybody's. The file itself stays where it is."""
    services.remove(get_object_or_404(ModelFile, pk=id), request.user, request.role)
    return Status(204, None)
