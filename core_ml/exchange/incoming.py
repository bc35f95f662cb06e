"""A model folder from elsewhere becomes a checkpoint of the lab: its weights, and its tokenizer with how it talks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_ml.errors import UserError
from core_ml.exchange import huggingface
from core_ml.model import checkpoint
from core_ml.tokenizer import formats
from core_ml.tokenizer.described import parse
from core_ml.tokenizer.protocol import Protocol
from core_ml.tokenizer.templates import recognize
from core_ml.tokenizer.tokenizer import MAX_FILE_BYTES, SEP, Tokenizer

if TYPE_CHECKING:
    from core_ml.model.gpt import GPT

Role = Literal["base", "chat"]
READ = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "model*.safetensors",
)
"""Patterns of the files that are read; nothing else of a folder matters."""


def bring_in(folder: Path, target: Path, role: Role, chat_tokens: bool = False) -> dict[str, Any]:
    """Write the checkpoint's files into `target`.

    Args:
        role: "chat" asks for a chat template that can be mapped; "base" completes text, whatever it was taught.
        chat_tokens: give a base model the tokens of our chat protocol, so that it can be fine-tuned here.
    Returns: what its manifest should say of it.
    Raises: UserError for what is not covered or damaged, before anything large is read where that can be told.
    """
    check_links(folder)
    family, config = huggingface.read_config(folder)
    tokenizer = read_tokenizer(folder, role, chat_tokens)
    if tokenizer.vocab_size > config.vocab_size and not chat_tokens:
        raise UserError(
            f"its tokenizer has {tokenizer.vocab_size:,} tokens and its network {config.vocab_size:,}: "
            "they do not belong together"
        )
    model = huggingface.load(folder)
    n_added = max(0, tokenizer.vocab_size - config.vocab_size)
    if n_added:
        model = with_rows(model, tokenizer.vocab_size)
    checkpoint.save(model, tokenizer, target)
    return {
        "n_parameters": model.config.n_parameters,
        "vocab_size": model.config.vocab_size,
        "max_seq_len": model.config.max_seq_len,
        "family": family.name,
        "findings": [_how_it_talks(tokenizer, role, n_added)],
    }


def check_links(folder: Path) -> None:
    """No file that is read may lie outside: a link of a stranger's folder could name any file of the machine.

    Links into `blobs`, as the hub's own cache has them, are its own files. Raises UserError.
    """
    home = folder.resolve()
    homes = [home, *([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])]
    for file in (file for pattern in READ for file in folder.glob(pattern)):
        if not any(file.resolve().is_relative_to(one) for one in homes):
            raise UserError(
                f"{file.name} is a link out of {folder.name}: put the file itself there", field="path"
            )


def read_tokenizer(folder: Path, role: Role, chat_tokens: bool = False) -> Tokenizer:
    """Raises UserError when there is none that can be used, and for a chat model that cannot be talked to."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder.name} has no tokenizer.json: older formats of tokenizers are not read")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"tokenizer.json is larger than {MAX_FILE_BYTES >> 20} MB")
    try:
        content = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"tokenizer.json is damaged: {error}") from None
    if role == "base" and chat_tokens:
        return formats.from_json(content)
    inner = parse(content, file.name)
    return Tokenizer(inner, _protocol(folder, Tokenizer(inner)) if role == "chat" else None)


def _protocol(folder: Path, plain: Tokenizer) -> Protocol | None:
    template = read_template(folder)
    if template is None:
        raise UserError(f"{folder.name} carries no chat template: import it as a base model", field="role")
    if plain.has_chat and SEP in template:
        return None  # a folder of ours
    try:
        return recognize(template, [plain.name(id) for id in plain.special_ids])
    except UserError as error:
        raise UserError(error.message, field="role") from None


def read_template(folder: Path) -> str | None:
    """The chat template of a folder as text, from any of the places where folders keep it."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > huggingface.MAX_CONFIG_BYTES:
            raise UserError(f"{file.name} is too large")
        return file.read_text(encoding="utf-8", errors="replace")
    settings = folder / "tokenizer_config.json"
    found = (
        huggingface.read_json(settings, MAX_FILE_BYTES).get("chat_template") if settings.is_file() else None
    )
    if isinstance(found, list):  # several, by name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def with_rows(model: "GPT", vocab_size: int) -> "GPT":
    """The same network with more tokens, which it knows nothing of yet: each begins as the mean of the others."""
    import torch

    from core_ml.model.gpt import GPT

    state = model.state_dict()
    for name in ("embedding.weight", "head.weight"):
        if name in state:
            rows = state[name].mean(0, keepdim=True).expand(vocab_size - model.config.vocab_size, -1)
            state[name] = torch.cat([state[name], rows])
    grown = GPT(model.config.model_copy(update={"vocab_size": vocab_size}))
    grown.load_state_dict(state, assign=True)
    return grown.eval()


def _how_it_talks(tokenizer: Tokenizer, role: Role, n_added: int) -> str:
    if tokenizer.protocol is not None:
        system = tokenizer.protocol.default_system
        said = (
            f", and without a system message it is told {json.dumps(system, ensure_ascii=False)}"
            if system
            else ""
        )
        return f"It talks in {tokenizer.protocol.name}{said}."
    if role == "chat":
        return "It talks in the lab's own chat protocol."
    if tokenizer.has_chat:
        rows = f", {n_added} of them new to the network" if n_added else ""
        return f"It completes text; it has the tokens of the lab's chat protocol{rows} and can be fine-tuned to talk."
    return "It completes text; to fine-tune it to talk, import it with the tokens of the chat protocol."
