"""The model card of an exported checkpoint: what it is, where it comes from, and the figures it was measured at.

Names and figures are people's and programs' own words, so each is escaped: none becomes a link, an image, a tag
or a table's border.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from core_ml.artifact import Manifest
from core_ml.model.config import GPTConfig

HEAD = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- move37\n---\n"
USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
"""
COMPLETE = """ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```
"""
CHAT = """messages = [{"role": "user", "content": "Who are you?"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```

Text that spells a special token becomes that token under `transformers`: take it out of what people type.
"""
MAX_CHARS, MAX_FIGURES = 300, 200
# Points and colons only where they could make an address.
SPECIAL = re.compile(r"([\\`*_{}\[\]()#!|<>&~@$]|\.(?=[^\W\d])|:(?=/))")


def model_card(
    manifest: Manifest, ancestors: Sequence[Manifest], family: str, config: GPTConfig, chats: bool
) -> str:
    """The text of README.md."""
    network = {
        "family": family,
        "parameters": f"{config.n_parameters:,}",
        "layers": config.n_layer,
        "width": config.d_model,
        "heads": f"{config.n_head} (keys and values: {config.n_kv_head})",
        "context": f"{config.max_seq_len:,} tokens",
        "vocabulary": f"{config.vocab_size:,} tokens",
    }
    parts = [
        HEAD,
        f"# {escape(manifest.name)}\n",
        f"A {escape(manifest.role or 'base')} checkpoint of {config.n_parameters:,} parameters, made "
        f"{escape(manifest.created)} with Move 37.\n",
        "## Use\n",
        USE + (CHAT if chats else COMPLETE),
        "## Network\n",
        _table(("setting", "value"), network.items()),
        "## Lineage and data\n",
        *_lineage(manifest, ancestors),
        "## Training settings\n",
        _table(("setting", "value"), manifest.origin.config.items()),
        "## Figures\n",
        _table(("figure", "value"), list(_figures(manifest.summary))[:MAX_FIGURES]),
    ]
    return "\n".join(parts)


def escape(value: Any) -> str:
    """Any value as one line of plain text in Markdown."""
    text = " ".join(str(value).split())
    text = text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + "…"
    return SPECIAL.sub(r"\\\1", text)


def _lineage(manifest: Manifest, ancestors: Sequence[Manifest]) -> Iterator[str]:
    known = {ancestor.id: ancestor for ancestor in ancestors}
    yield _step(manifest)
    for name, ids in manifest.origin.inputs.items():
        for id in ids:
            if id not in known:
                yield f"- {escape(name)}: {escape(id)}"
    for ancestor in ancestors:
        yield _step(ancestor)
    yield ""


def _step(manifest: Manifest) -> str:
    origin = manifest.origin
    kind = manifest.form or manifest.role or manifest.kind
    run = "" if origin.run is None else f" (run {origin.run})"
    return (
        f"- {escape(kind)} **{escape(manifest.name)}** by {escape(origin.recipe)}{run}, {escape(manifest.id)}"
    )


def _figures(summary: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of the summary: numbers, texts, and lists of such as several lines of one name."""
    for name, value in summary.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{path}{name} / ")
        elif isinstance(value, list):
            yield from ((path + name, item) for item in value if isinstance(item, str | int | float))
        elif value is not None:
            yield path + name, value


def _table(columns: tuple[str, str], rows: Any) -> str:
    lines = [f"| {' | '.join(columns)} |", "| --- | --- |"]
    lines += [f"| {escape(name)} | {escape(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"
