"""The base of every recipe's config: frozen, with unknown keys rejected.

A field states its bounds by pydantic's own means and its place on the form by `setting`: a unit, and the
group of the form that it is folded into (`None` keeps it in view, for the few fields that matter).
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class RecipeConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    group: str | None = None,
    title: str | None = None,
    lines: int | None = None,
    suggest: str | None = None,
    **bounds: Any,
) -> Any:
    """A pydantic field that also knows its unit and its group on the form.

    Args:
        default: the value that is used when nobody chooses another; `...` for none.
        description: one sentence, shown under the field and in the API's schema.
        unit: for example "tokens", "steps", "s"; shown beside the field.
        group: the fold of the form that holds the field, for example "Network"; None for fields in view.
        title: the label; by default the field's own name.
        lines: height of the box for a text that may have several lines.
        suggest: what the box offers to choose from: "models" that the engine serves.
        bounds: `ge`, `gt`, `le`, `lt`, `multiple_of`, `min_length`, `max_length`, `pattern`.
    """
    extra: dict[str, Any] = {
        key: value
        for key, value in {"unit": unit, "group": group, "lines": lines, "suggest": suggest}.items()
        if value is not None
    }
    return Field(default, description=description, title=title, json_schema_extra=extra, **bounds)


Threads = Annotated[
    int | None,
    setting(
        None,
        "Processor threads; by default all cores but one, which serves the pages.",
        group="Machine",
        ge=1,
        le=1024,
    ),
]
