"""The one filter field of the runs table: `kind:pretrain lr>5e-4 status:failed some words`.

Names come from an allowlist (fields of the recipes' configs and their measures), so that nothing that a
person types becomes a path through the database.
"""

import re
from functools import cache

from django.db.models import Q, QuerySet

from core_ml import recipes
from lab.models import Run
from lab.models.run import LIVE, STATUSES
from lab.queries import runs

WORD = re.compile(r'(\w+):"([^"]*)"|"([^"]+)"|(\S+)')
COMPARISON = re.compile(r"^([a-z]\w*)(<=|>=|=|<|>)(.+)$")
LOOKUPS = {"<": "__lt", "<=": "__lte", ">": "__gt", ">=": "__gte", "=": ""}
MAX_WORDS = 12


def filtered(text: str) -> tuple[QuerySet[Run], list[str]]:
    """The runs that fit, newest first, and a sentence for each word that could not be read."""
    found, complaints = runs.recent(), []
    for match in list(WORD.finditer(text))[:MAX_WORDS]:
        key, quoted, phrase, word = match.groups()
        if key:
            word = f"{key}:{quoted}"
        elif phrase:
            found &= runs.recent(q=phrase)
            continue
        condition = _condition(word)
        if isinstance(condition, str):
            complaints.append(condition)
        elif condition is not None:
            found = found.filter(condition)
        else:
            found &= runs.recent(q=word)
    return found, complaints


def _condition(word: str) -> Q | str | None:
    """A condition, a complaint, or None for a plain word."""
    key, colon, value = word.partition(":")
    if colon and key in ("kind", "status", "is", "stage", "preset", "by"):
        return _named(key, value)
    compared = COMPARISON.match(word)
    if not compared:
        return None
    name, sign, given = compared.groups()
    if name not in fields():
        return f"no recipe has a field or measure {name!r}"
    number = _number(given)
    if number is None and sign != "=":
        return f"{given!r} in {word!r} is not a number"
    value_found = given if number is None else number
    return Q(**{f"config__{name}{LOOKUPS[sign]}": value_found}) | Q(
        **{f"summary__{name}{LOOKUPS[sign]}": value_found}
    )


def _named(key: str, value: str) -> Q | str:
    if key in ("status", "is"):
        if value == "live":
            return Q(status__in=LIVE)
        return (
            Q(status=value)
            if value in STATUSES
            else f"there is no status {value!r}: {', '.join(STATUSES)}, live"
        )
    if key == "stage":
        return Q(kind__in=[kind for kind, recipe in recipes.all_recipes().items() if recipe.stage == value])
    return {"kind": Q(kind=value), "preset": Q(preset=value), "by": Q(created_by__username=value)}[key]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


@cache
def fields() -> frozenset[str]:
    """Names that may be compared: whatever a config or a measure of some recipe is called."""
    names: set[str] = set()
    for recipe in recipes.all_recipes().values():
        names |= set(recipe.config.model_fields) | {measure.name for measure in recipe.measures}
    return frozenset(name for name in names if re.fullmatch(r"[a-z](_?[a-z0-9])*", name))
