"""Which models meet in the arena: added, renamed, rested, and the one that stands at 1,000 points."""

import itertools
import re

from django.db import IntegrityError, transaction
from django.db.models import Q

from lab.errors import Conflict, FieldError, Invalid
from lab.models import Account, Artifact, Battle, Contender, ModelAddress, ModelFile
from lab.models.arena import SILENT

MAX_NAME = 100
BEYOND = re.compile(r"(address|file)-([1-9]\d{0,8})")


def add(account: Account, model: str, name: str = "") -> Contender:
    """Let a model be drawn.

    Args:
        model: a checkpoint's or GGUF export's id, or `address-3` or `file-2` for what stands at /models.
        name: as it is shown after a vote; by default the model's own, with a number where that is taken.
    Raises: Invalid for a model that is not there or writes no text, and for a name or model that is in already.
    """
    checkpoint, own_name = _find(model)
    made = Contender(
        model=model,
        checkpoint=checkpoint,
        name=_checked_name(name) if name else _free_name(own_name),
        created_by=account,
    )
    if Contender.objects.filter(model=model).exists():
        raise Invalid([FieldError("model", f"{own_name} is in the arena already: choose another model")])
    return _save(made)


def change(
    contender: Contender, *, name: str | None = None, active: bool | None = None, anchor: bool | None = None
) -> Contender:
    """What is None stays. A new anchor takes the place of the old one; votes are kept whatever changes."""
    if name is not None:
        contender.name = _checked_name(name)
    if active is not None:
        contender.is_active = active
    with transaction.atomic():
        if anchor is not None:
            if anchor:
                Contender.objects.filter(is_anchor=True).exclude(pk=contender.pk).update(is_anchor=False)
            contender.is_anchor = anchor
        return _save(contender)


def remove(contender: Contender) -> None:
    """Raises Conflict where it has fought: its votes are part of the others' ratings."""
    if Battle.objects.filter(Q(left=contender) | Q(right=contender)).exists():
        raise Conflict(f"{contender.name} has battles, which rate the others too: let it rest instead")
    contender.delete()


def _find(model: str) -> tuple[Artifact | None, str]:
    """The lab's own artifact that a model is, or None for one from elsewhere, and what it is called."""
    if found := BEYOND.fullmatch(model):
        kind = ModelAddress if found[1] == "address" else ModelFile
        beyond = kind.objects.filter(pk=int(found[2])).first()
        if beyond is not None:
            return None, beyond.name
    else:
        artifact = Artifact.objects.filter(Q(run=None) | Q(run__deleted=None), pk=model[:80]).first()
        if artifact is not None:
            if artifact.kind == "checkpoint" and artifact.role not in SILENT:
                return artifact, artifact.name
            if artifact.kind == "export" and artifact.summary.get("format") == "gguf":
                return artifact, artifact.name
            what = f"{artifact.role} {artifact.kind}".strip()
            raise Invalid([FieldError("model", f"{artifact.name} is a {what}, which writes no text")])
    raise Invalid([FieldError("model", f"there is no model {model[:80]!r}: choose one of those listed")])


def _free_name(name: str) -> str:
    """The model's own name where it is free: runs may share one, and models of two runs may meet."""
    name = _checked_name(name[: MAX_NAME - 8])
    taken = set(Contender.objects.filter(name__startswith=name).values_list("name", flat=True))
    numbered = (f"{name} {n}" for n in itertools.count(2))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def _checked_name(name: str) -> str:
    name = " ".join(name.replace("\0", "").split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise Invalid([FieldError("name", f"a name has 1 to {MAX_NAME} printable characters")])
    return name


def _save(contender: Contender) -> Contender:
    try:
        with transaction.atomic():
            contender.save()
    except IntegrityError:
        text = f"there is a contender {contender.name!r} already: choose another name"
        raise Invalid([FieldError("name", text)]) from None
    return contender
