"""Checkpoints as Hugging Face model folders, in and out.

Of a folder from elsewhere only settings, safetensors and the tokenizer's JSON are read, and nothing of it is run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_ml.artifact import Folder, Manifest, write_atomically
from core_ml.errors import UserError
from core_ml.exchange import weights
from core_ml.exchange.card import model_card
from core_ml.model import checkpoint as ours
from core_ml.model import families
from core_ml.model.config import GPTConfig
from core_ml.model.families import Family
from core_ml.tokenizer.special import TOOLS_HEADING
from core_ml.tokenizer.tokenizer import BOS, END, SEP, START, Tokenizer

if TYPE_CHECKING:
    from core_ml.model.gpt import GPT

Dtype = Literal["float32", "bfloat16", "float16"]
MAX_CONFIG_BYTES = 1 << 20
# Text that spells a special token becomes one here, as with every template; our own tokenizer never does that.
_OPENING = f"{START}{{{{ message['role'] }}}}{SEP}"
_PARTS = (
    "{% if message['parts'] is defined and message['parts'] %}{% for part in message['parts'] %}"
    "{{ opens[part['type']] }}{{ part['text'] }}{{ closes[part['type']] }}{% endfor %}"
)
_CONTENT = "{{ message['content'] }}"
_ANSWER = f"{{% if add_generation_prompt %}}{START}assistant{SEP}{{% endif %}}"
CHAT_TEMPLATE = f"{{% for message in messages %}}{_OPENING}{_PARTS}{{% else %}}{_CONTENT}{{% endif %}}{END}{{% endfor %}}{_ANSWER}"
_DEFINITIONS = (
    "{% for tool in tools %}{{ '\n' }}"
    "{{ (tool['function'] if 'function' in tool else tool) | tojson }}{% endfor %}"
)
_CALL = (
    "{% set function = call['function'] %}{{ opens['tool_call'] }}"
    "{% if function['arguments'] is string %}"
    "{{ '{\"name\": ' + (function['name'] | tojson) + ', \"arguments\": ' + (function['arguments'] or '{}') + '}' }}"
    "{% else %}{{ {'name': function['name'], 'arguments': function['arguments']} | tojson }}{% endif %}"
    "{{ closes['tool_call'] }}"
)
TOOLS_TEMPLATE = (
    f"{{% if tools %}}{START}system{SEP}{{% if messages[0]['role'] == 'system' %}}{{{{ messages[0]['content'] }}}}"
    f"{{{{ '\n\n' }}}}{{% endif %}}{TOOLS_HEADING}{_DEFINITIONS}{END}{{% endif %}}"
    "{% for message in messages %}{% if not (tools and loop.first and message['role'] == 'system') %}"
    f"{_OPENING}{_PARTS}{{% elif message['tool_calls'] is defined and message['tool_calls'] %}}"
    f"{{{{ message['content'] or '' }}}}{{% for call in message['tool_calls'] %}}{_CALL}{{% endfor %}}"
    "{% elif message['role'] == 'tool' %}"
    f"{{{{ opens['tool_result'] }}}}{_CONTENT}{{{{ closes['tool_result'] }}}}"
    f"{{% else %}}{_CONTENT}{{% endif %}}{END}{{% endif %}}{{% endfor %}}{_ANSWER}"
)


def read_config(folder: Path) -> tuple[Family, GPTConfig]:
    """Family and network of a folder. Imports no torch. Raises UserError for what is not covered."""
    return families.read(read_json(folder / "config.json"))


def read_json(file: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Raises UserError when it is missing, too large, or no JSON object."""
    try:
        if file.stat().st_size > max_bytes:
            raise ValueError(f"it is larger than {max_bytes >> 20} MB")
        fields = json.loads(file.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("it holds no object")
        return fields
    except FileNotFoundError:
        raise UserError(f"{file.parent.name} is no model folder: it has no {file.name}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.parent.name}/{file.name} is damaged: {str(error)[:200]}") from None


def load(folder: Path) -> "GPT":
    """The network of a folder, in float32 on the processor. Raises UserError."""
    from core_ml.model.gpt import GPT

    family, config = read_config(folder)
    state = weights.read_all(folder, family, config)
    model = GPT(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def family(checkpoint: Path | str) -> str:
    """The family that a checkpoint's folder would be written as. Imports no torch. Raises UserError as `save`."""
    return families.write(ours.read_config(checkpoint))[0].name


def save(
    target: Path, checkpoint: Folder, *, ancestors: Sequence[Manifest] = (), dtype: Dtype = "float32"
) -> str:
    """Write a checkpoint as a folder that `transformers` loads: weights, configs, tokenizer and model card.

    Args:
        target: a folder that exists and is empty.
        ancestors: manifests of what the checkpoint came from, nearest first, as far as they are at hand.
        dtype: of the weights in the file.
    Returns: the published family that it is written as, such as "llama".
    Raises: UserError that names the settings which no family has, or that its weights are damaged.
    """
    manifest = checkpoint.manifest
    config = ours.read_config(checkpoint.path)
    family, fields = families.write(config, preferred=manifest.summary.get("family"))
    model, tokenizer = ours.load(checkpoint.path, "cpu")
    chats = manifest.role != "base" and tokenizer.has_chat
    save_weights(model, family, target / ours.WEIGHTS, dtype)
    # Where our engine stops: a model that talks at the end of its turn first of all.
    ends = list(dict.fromkeys((tokenizer.end_id, tokenizer.bos_id, tokenizer.start_id)))
    end = tokenizer.end_id if chats else tokenizer.bos_id
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": end, "pad_token_id": tokenizer.end_id}
    _write_json(target / "config.json", {**fields, **ids, "torch_dtype": dtype, "use_cache": True})
    _write_json(target / "generation_config.json", {**ids, "eos_token_id": ends, "do_sample": False})
    _save_tokenizer(tokenizer, config, chats, target)
    write_atomically(target / "README.md", model_card(manifest, ancestors, family.name, config, chats))
    return family.name


def save_weights(model: "GPT", family: Family, file: Path, dtype: Dtype = "float32") -> None:
    """Write a network's tensors under the family's names. Raises UserError when they do not fit the type."""
    import torch
    from safetensors.torch import save_file

    tensors = weights.split(model.state_dict(), family, model.config)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{name} holds numbers too large for {dtype}: choose bfloat16", field="dtype")
    save_file(tensors, file, {"format": "pt"})


def _save_tokenizer(tokenizer: Tokenizer, config: GPTConfig, chats: bool, target: Path) -> None:
    fields = json.loads(tokenizer.inner.to_str())
    bos, end = tokenizer.name(tokenizer.bos_id), tokenizer.name(tokenizer.end_id)
    if bos == BOS and fields["post_processor"] is None:
        # A text by itself begins as each document began in training; a conversation has tokens of its own.
        fields["post_processor"] = _begins_with(bos, tokenizer.bos_id)
    _write_json(target / "tokenizer.json", fields)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_seq_len,
        "clean_up_tokenization_spaces": False,
        "bos_token": bos,
        "eos_token": end if chats else bos,
        "pad_token": end,
    }
    if chats:
        settings["chat_template"] = chat_template(tokenizer)
    _write_json(target / "tokenizer_config.json", settings)


def chat_template(tokenizer: Tokenizer) -> str:
    """A template that writes what `Tokenizer.prompt` writes, and of tools what our engine writes."""
    if tokenizer.protocol is not None:
        return tokenizer.protocol.template()
    marks = {kind: tuple(map(tokenizer.name, pair)) for kind, pair in tokenizer.part_ids.items()}
    marks["text"] = ("", "")
    opens, closes = ({kind: pair[place] for kind, pair in marks.items()} for place in (0, 1))
    sets = f"{{% set opens = {json.dumps(opens)} %}}{{% set closes = {json.dumps(closes)} %}}"
    return sets + (TOOLS_TEMPLATE if {"tool_call", "tool_result"} <= opens.keys() else CHAT_TEMPLATE)


def _begins_with(name: str, id: int) -> dict[str, Any]:
    begin = {"SpecialToken": {"id": name, "type_id": 0}}
    text, pair = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, pair],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}},
    }


def _write_json(file: Path, fields: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(fields, indent=1, ensure_ascii=False))
