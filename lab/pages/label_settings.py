"""The form of a labelling project's settings, read from what a browser sends, and shown again where it is wrong."""

from typing import Any

from lab.models import FLAGS, Project
from lab.services import labeling as services

INSTRUCTIONS = (
    "Ask yourself: which of these would I rather be given? Best first.\n"
    "A wrong answer is worse than a short one. Then it should answer the question that was asked.\n"
    "Clear, and no longer than it needs to be: friendly filler is not help."
)
N_EXAMPLES = 3
"""Places for examples on the page; the API takes more."""
NUMBERS = ("rankings_per_group", "scale", "gold_every", "repeat_every")
DEFAULTS: dict[str, Any] = {
    "name": "",
    "instructions": INSTRUCTIONS,
    "examples": [],
    "rankings_per_group": 1,
    "flags": list(FLAGS),
    "scale": 0,
    "asks_comment": False,
    "asks_correction": False,
    "next_group": "random",
    "gold_every": 10,
    "repeat_every": 20,
}


def read(sent: Any) -> dict[str, Any]:
    """Settings as the services take them. What is no number becomes -1, which they refuse by field."""
    given: dict[str, Any] = {
        "name": sent.get("name", "").strip(),
        "instructions": _text(sent.get("instructions", ""), 10_000),
        "flags": [name for name in sent.getlist("flags") if name in FLAGS],
        "asks_comment": "asks_comment" in sent,
        "asks_correction": "asks_correction" in sent,
        "next_group": sent.get("next_group", DEFAULTS["next_group"]),
    }
    for name in NUMBERS:
        text = sent.get(name, str(DEFAULTS[name])).strip()
        given[name] = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
    given["examples"] = [
        {key: _text(sent.get(f"example-{i}-{key}", ""), 5000) for key in services.EXAMPLE}
        for i in range(N_EXAMPLES)
    ]
    return given


def _text(text: str, most: int) -> str:
    return text.replace("\r\n", "\n").replace("\0", "")[:most]


def of(project: Project) -> dict[str, Any]:
    return {name: getattr(project, name) for name in DEFAULTS}


def fields(values: dict[str, Any], errors: dict[str, str]) -> dict[str, Any]:
    """What templates/labeling/settings.html draws."""
    examples = [one for one in values["examples"] if any(one.values())][:N_EXAMPLES]
    examples += [dict.fromkeys(services.EXAMPLE, "")] * (N_EXAMPLES - len(examples))
    return {
        "given": {name: "" if value == -1 else value for name, value in values.items()},
        "errors": errors,
        "all_flags": [(name, name in values["flags"]) for name in FLAGS],
        "scales": [(0, "no marks"), *((n, f"1 to {n}") for n in services.SCALES if n)],
        "examples": examples,
        "n_examples": sum(any(one.values()) for one in examples),
    }
