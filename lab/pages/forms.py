"""The form of a recipe, made from its declaration alone: fields from the config's JSON Schema, inputs from `takes`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.http import QueryDict

from core_ml import recipes
from core_ml.recipe import Recipe
from lab.models import Artifact, Run
from lab.models.run import LIVE
from lab.queries import artifacts
from lab.templatetags.lab import number, short

N_OPTIONS = 60
FAR = 1e6
"""A bound beyond this is no advice, and is told only when it is overstepped."""


@dataclass
class Filled:
    """What stands in a form: texts as a person typed them, by field name."""

    preset: str
    name: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)


def properties(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The config's fields with references resolved and `null` taken apart: {"type", "enum", "nullable", …}."""
    schema = recipe.config.model_json_schema()
    return {name: _plain(given, schema.get("$defs", {})) for name, given in schema["properties"].items()}


def _plain(given: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    plain = dict(given)
    if "anyOf" in plain:
        kinds = [_plain(kind, definitions) for kind in plain.pop("anyOf")]
        plain["nullable"] = any(kind.get("type") == "null" for kind in kinds)
        for kind in kinds:
            if kind.get("type") != "null":
                plain = {**kind, **plain}
    if "$ref" in plain:
        plain = {**definitions.get(plain.pop("$ref").rpartition("/")[2], {}), **plain}
    if "const" in plain:
        plain["enum"] = [plain["const"]]
    return plain


def base(recipe: Recipe, preset: str) -> dict[str, Any]:
    """The full config that a preset stands for."""
    found = recipe.preset(preset)
    return recipe.config.model_validate(found.config if found else {}).model_dump(mode="json")


def filled_from(recipe: Recipe, preset: str, config: Mapping[str, Any], inputs: dict[str, list[str]], name: str = "") -> Filled:  # fmt: skip
    texts = {key: as_text(value) for key, value in {**base(recipe, preset), **config}.items()}
    return Filled(preset, name, texts, inputs)


def filled_by(recipe: Recipe, data: QueryDict) -> Filled:
    """What a person sent. A box that is not ticked sends nothing."""
    names = properties(recipe)
    # A browser sends the lines of a text with carriage returns, whatever they were.
    texts = {name: data.get(f"config.{name}", "").replace("\r\n", "\n") for name in names}
    inputs = {name: [value for value in data.getlist(f"inputs.{name}") if value] for name in recipe.takes}
    return Filled(data.get("preset", ""), data.get("name", "").strip(), texts, inputs)


def as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else ""
    if isinstance(value, list):
        return ", ".join(as_text(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


def config_of(recipe: Recipe, filled: Filled) -> dict[str, Any]:
    """What the form holds that its preset does not. What cannot be read stays text: the config says why not."""
    standing = base(recipe, filled.preset)
    given = {}
    for name, schema in properties(recipe).items():
        value = _value(filled.texts.get(name, "").strip(), schema)
        if value is not _NOTHING and value != standing.get(name):
            given[name] = value
    return given


_NOTHING = object()


def _value(text: str, schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "boolean":
        return text == "true"
    if text == "":
        return (
            None if schema.get("nullable") else "" if kind == "string" and "enum" not in schema else _NOTHING
        )
    if kind == "array":
        return [_value(part.strip(), schema.get("items", {})) for part in text.split(",") if part.strip()]
    if kind in ("integer", "number"):
        return _number(text, whole=kind == "integer")
    if "enum" in schema:
        return next((value for value in schema["enum"] if str(value) == text), text)
    return text


def _number(text: str, whole: bool) -> int | float | str:
    compact = text.replace(",", "").replace(" ", "").replace("_", "").replace("−", "-")
    try:
        value = float(compact)
        return int(value) if whole and value.is_integer() and abs(value) < 1e18 else value
    except ValueError:
        return text


def inputs_of(recipe: Recipe, filled: Filled) -> dict[str, Any]:
    """Chosen inputs as the services take them; "run:41:checkpoint" waits for what a run will make."""
    found: dict[str, Any] = {}
    for name, wanted in recipe.takes.items():
        values = [_reference(value) for value in filled.inputs.get(name, [])]
        if values:
            found[name] = values if wanted.many else values[0] if len(values) == 1 else values
    return found


def _reference(value: str) -> Any:
    kind, _, rest = value.partition(":")
    run, _, output = rest.partition(":")
    if kind == "run" and run.isascii() and run.isdigit():
        return {"run": int(run), "output": output}
    return value


def fields(
    recipe: Recipe, filled: Filled, errors: dict[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The fields in view, and the folds: {"title", "fields", "summary", "open"}."""
    view: list[dict[str, Any]] = []
    folds: dict[str, list[dict[str, Any]]] = {}
    for name, schema in properties(recipe).items():
        one = _field(name, schema, filled.texts.get(name, ""), errors.get(f"config.{name}", ""))
        group = schema.get("group")
        (folds.setdefault(group, []) if group else view).append(one)
    standing = [
        {
            "title": title,
            "fields": members,
            "summary": ", ".join(_said(member) for member in members[:4]),
            "open": any(member["error"] for member in members),
        }
        for title, members in folds.items()
    ]
    return view, standing


def _field(name: str, schema: dict[str, Any], text: str, error: str) -> dict[str, Any]:
    kind = schema.get("type")
    shown = {"boolean": "check", "integer": "number", "number": "number"}.get(str(kind), "text")
    if schema.get("lines"):
        shown = "area"
    one = {
        "id": f"config-{name}",
        "name": f"config.{name}",
        "label": schema["title"] if schema.get("title", "").lower().replace(" ", "_") != name else name,
        "unit": schema.get("unit", ""),
        "hint": _hint(schema),
        "error": error,
        "type": shown,
        "value": text,
        "placeholder": "off" if schema.get("nullable") else "",
        "lines": schema.get("lines"),
        "suggest": schema.get("suggest"),
    }
    if "enum" in schema:
        choices = [("", "off")] if schema.get("nullable") else []
        choices += [(str(value), str(value)) for value in schema["enum"]]
        one |= {
            "type": "select",
            "options": [{"value": v, "label": t, "chosen": v == text} for v, t in choices],
        }
    return one


def _hint(schema: dict[str, Any]) -> str:
    """The description and, for numbers, the bounds."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    bounds = ""
    if low is not None and high is not None and high < FAR:
        bounds = f" {short(low)} to {short(high)}."
    elif low not in (None, 0, 1):
        bounds = f" {'Above' if 'exclusiveMinimum' in schema else 'At least'} {number(low)}."
    return f"{schema.get('description', '')}{bounds}"


def _said(one: dict[str, Any]) -> str:
    """A field in a fold's summary: its name and present value."""
    value: Any = one["value"]
    if one["type"] == "check":
        value = "yes" if value else "no"
    if one["type"] == "area" and value:
        value = f"of {len(value.splitlines())} lines"
    if one["type"] == "number":
        read = _number(value, whole=False) if value else value
        value = number(read, 6) if isinstance(read, int | float) else value
    return f"{one['label']} {value or 'off'}{' ' + one['unit'] if one['unit'] and value else ''}"


def choices(recipe: Recipe, filled: Filled, errors: dict[str, str]) -> list[dict[str, Any]]:
    """One select for each input: artifacts that fit, newest first, then what live runs will make."""
    found = []
    for name, wanted in recipe.takes.items():
        picked = filled.inputs.get(name, [])
        fitting = list(artifacts.options(recipe, name)[:N_OPTIONS])
        options = [
            {"value": artifact.pk, "label": describe(artifact), "chosen": artifact.pk in picked}
            for artifact in (reversed(fitting) if wanted.many else fitting)
        ]
        options += [one | {"chosen": one["value"] in picked} for one in _coming(recipe, name)]
        if not wanted.many and (wanted.optional or not picked):
            label = "none" if wanted.optional else f"choose a {wanted.kind}"
            options.insert(0, {"value": "", "label": label, "chosen": not picked})
        hint = wanted.description
        if not options or options == [{"value": "", "label": f"choose a {wanted.kind}", "chosen": True}]:
            what = " or ".join(wanted.accepts) or wanted.kind
            hint = f"{hint} Nothing in the lab fits yet: it takes {what}.".strip()
        found.append(
            {
                "id": f"inputs-{name}",
                "name": f"inputs.{name}",
                "label": name.replace("_", " ").capitalize(),
                "type": "boxes" if wanted.many else "select",
                "options": options,
                "hint": hint,
                "error": errors.get(f"inputs.{name}", ""),
            }
        )
    return found


def newest(recipe: Recipe) -> dict[str, list[str]]:
    """The inputs that a fresh form begins with: of each needed one the newest that fits; of many, one a role."""
    found: dict[str, list[str]] = {}
    for name, wanted in recipe.takes.items():
        options = list(artifacts.options(recipe, name)[:N_OPTIONS])
        if wanted.many and wanted.kind == "checkpoint":
            by_role: dict[str, Artifact] = {}
            for artifact in options:
                by_role.setdefault(artifact.role, artifact)
            found[name] = [artifact.pk for artifact in by_role.values()]
        elif options and not wanted.optional:
            found[name] = [options[0].pk]
    return found


def _coming(recipe: Recipe, input_name: str) -> list[dict[str, Any]]:
    """Outputs of live runs that would fit, to wait for."""
    wanted = recipe.takes[input_name]
    found = []
    for run in Run.objects.filter(status__in=LIVE, deleted=None)[:N_OPTIONS]:
        maker = recipes.all_recipes().get(run.kind)
        for output, made in maker.makes.items() if maker else ():
            if made.kind == wanted.kind and (not wanted.accepts or made.what in wanted.accepts):
                what = made.what or made.kind
                found.append(
                    {
                        "value": f"run:{run.pk}:{output}",
                        "label": f"#{run.pk} {run.name}: its {what}, when it is made",
                    }
                )
    return found


def describe(artifact: Artifact) -> str:
    """A line in a select: the name, what it is, and the figures that tell it from others."""
    words = [artifact.name, artifact.what or artifact.kind]
    summary = artifact.summary
    for key, unit in (
        ("n_documents", "documents"),
        ("n_rows", "rows"),
        ("n_parameters", "parameters"),
        ("vocab_size", "tokens"),
        ("val_bits_per_byte", "bits per byte"),
        ("bytes_per_token", "bytes a token"),
    ):
        if isinstance(summary.get(key), int | float) and len(words) < 4:
            words.append(f"{short(summary[key])} {unit}")
    return ", ".join(words) + (f" (#{artifact.run_id})" if artifact.run_id else "")
