"""Models beyond the lab's own: addresses and GGUF files are added, tried, removed, and told to the engine."""

import hashlib
import json
import re
from typing import Any
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from django.db import IntegrityError, transaction
from django.utils import timezone

from core_ml.engine.errors import ApiError
from core_ml.engine.network import look_up
from core_ml.engine.remote import Endpoint, Remote
from core_ml.errors import UserError
from core_ml.exchange.gguf_reading import describe
from lab.errors import FieldError, Invalid, NotAllowed
from lab.models import Account, ModelAddress, ModelFile
from lab.services.roots import allowed_path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,99}")
TRYING_SECONDS = 10.0
MOST_TOLD = 8


def add_address(
    account: Account,
    *,
    url: str,
    name: str = "",
    model: str = "",
    key: str = "",
    local: bool = False,
    timeout: float = 120.0,
) -> ModelAddress:
    """Keep an address and try it. Without `model` the server is asked, and must have exactly one.

    Raises: Invalid; NotAllowed for a local address by anybody but an administrator.
    """
    check_reach(account.role, local)
    url = _checked_url(url, local)
    if not 1 <= timeout <= 3600:
        raise _wrong("timeout", f"{timeout:g} seconds is out of bounds: use 1 to 3600")
    for field, value, most in (("model", model, 200), ("key", key, 4000)):
        if len(value) > most or not value.isprintable():
            raise _wrong(field, f"use at most {most} printable characters")
    tried = ModelAddress(url=url, key=key, is_local=local, model=model.strip(), timeout=timeout)
    if not tried.model:
        tried.model = _only(_listed(tried))
    tried.name = _checked_name(name.strip() or tried.model.rpartition("/")[2])
    tried.created_by = account
    _save(tried)
    return try_address(tried)


def check_reach(role: str, local: bool) -> None:
    """Raises NotAllowed for a local address by anybody but an administrator; a token may reach less far."""
    if local and role != "admin":
        raise NotAllowed("Addresses of this machine and its network are added by administrators.")


def try_address(address: ModelAddress) -> ModelAddress:
    """Ask the server for its models, and note whether this one is among them."""
    try:
        there = _listed(address)
        missing = bool(there) and address.model not in there
        address.problem = f"it has no model {address.model!r}: {_some(there)}" if missing else ""
    except Invalid as error:
        address.problem = str(error)
    address.tried = timezone.now()
    ModelAddress.objects.filter(pk=address.pk).update(problem=address.problem, tried=address.tried)
    return address


def add_file(account: Account, *, path: str, name: str = "") -> ModelFile:
    """Keep a GGUF file below an allowed folder. Raises Invalid for another path, and for what is no such file."""
    real = allowed_path(path)
    if not real.is_file() or real.suffix.lower() != ".gguf":
        raise _wrong("path", f"{real.name} is no file that ends with .gguf")
    try:
        told = describe(real)
    except UserError as error:
        raise _wrong("path", error.message) from None
    kept = ModelFile(
        name=_checked_name(name.strip() or _plain(told.name)), path=str(real), created_by=account
    )
    _save(kept)
    return kept


def remove(thing: ModelAddress | ModelFile, account: Account, role: str) -> None:
    """Whoever added it may, and an administrator."""
    if role != "admin" and thing.created_by_id != account.pk:
        raise NotAllowed("Who added it removes it, or an administrator.")
    thing.delete()


def sources() -> dict[str, Any]:
    """The list for the engine, with a version that changes when anything in it does. Holds keys."""
    addresses = [
        {"id": one.pk, "name": one.name, "url": one.url, "model": one.model, "key": one.key,
         "local": one.is_local, "timeout": one.timeout}
        for one in ModelAddress.objects.order_by("pk")
    ]  # fmt: skip
    files = [{"id": one.pk, "name": one.name, "path": one.path} for one in ModelFile.objects.order_by("pk")]
    listed = {"addresses": addresses, "files": files}
    return {"version": hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:32]} | listed


def _save(thing: ModelAddress | ModelFile) -> None:
    other = ModelFile if isinstance(thing, ModelAddress) else ModelAddress
    taken = _wrong("name", f"there is a model {thing.name!r} already: choose another name")
    if other.objects.filter(name=thing.name).exists():
        raise taken
    try:
        with transaction.atomic():
            thing.save()
    except IntegrityError:
        raise taken from None


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        text = f"{name[:60]!r} will not do: use letters, digits, spaces and . _ : / - , at most 100, a letter first"
        raise _wrong("name", text)
    return name


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9 ._:/-]+", "-", name).lstrip(" ._:/-")[:100] or "model"


def _checked_url(url: str, local: bool) -> str:
    """The address up to and with its path, which is /v1 where none is given."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        if len(url) > 500 or parts.query or parts.fragment or not url.isprintable():
            raise ValueError
        look_up(url, local)
    except ValueError:
        raise _wrong("url", "give an address such as https://host/v1, without a question mark") from None
    except UserError as error:
        hint = (
            ": an administrator may add it as one of this network" if "not a public" in error.message else ""
        )
        raise _wrong("url", error.message + hint) from None
    return parts._replace(path=parts.path.rstrip("/") or "/v1").geturl()


def _listed(address: ModelAddress) -> list[str]:
    """The models that a server has. Raises Invalid that says why they cannot be had."""
    name = address.name or urlsplit(address.url).hostname or "the server"
    seconds = min(TRYING_SECONDS, address.timeout)
    endpoint = Endpoint(name, address.url, address.key, address.is_local, seconds)

    async def ask() -> Any:
        remote = Remote(endpoint)
        try:
            return await remote.get("/models")
        finally:
            await remote.close()

    try:
        answer = async_to_sync(ask)()
        return [str(one["id"])[:200] for one in answer["data"]]
    except ApiError as error:
        raise _wrong("url", error.message) from None
    except (KeyError, TypeError):
        raise _wrong("url", f"{name} does not list its models: name the one that you want") from None


def _only(models: list[str]) -> str:
    if len(models) != 1:
        raise _wrong(
            "model", f"name one of its models: {_some(models)}" if models else "it lists no model: name one"
        )
    return models[0]


def _some(models: list[str]) -> str:
    return ", ".join(models[:MOST_TOLD]) + (", …" if len(models) > MOST_TOLD else "")


def _wrong(field: str, message: str) -> Invalid:
    return Invalid([FieldError(field, message)])
