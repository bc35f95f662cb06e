"""A tokenizer as the keys of a GGUF file.

The file carries `tokenizer.json` whole, which our engine reads, and the same vocabulary in llama.cpp's own form,
which knows no pattern for words but its own list of names. Where our pattern is on that list, llama.cpp's programs
cut every text as we do; where it is not they take the nearest, and a few texts come out as other tokens.
BPE of characters as SentencePiece makes it (Llama 2, Gemma) goes out as llama.cpp's own kind of it.
"""

import json
import re
from typing import Any

from pydantic import ValidationError

from core_ml.errors import UserError
from core_ml.tokenizer.described import parse
from core_ml.tokenizer.protocol import Protocol
from core_ml.tokenizer.tokenizer import Tokenizer

CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
CONTRACTIONS_AS_FLAG = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NAMES = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    CONTRACTIONS_AS_FLAG + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST: "llama-bpe",
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST: "llama-bpe",
    CONTRACTIONS_AS_FLAG + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST: "qwen2",
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST: "qwen2",
}
"""llama.cpp's name of each pattern that it cuts words by."""
NEAREST = "qwen2"
"""Letters with a sign before them, digits one by one: as our own pattern, but for runs of white space and 's."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
PROTOCOL = "move37.chat"
"""Another lab's way to write conversations, where the model was taught one."""


def write(writer: Any, tokenizer: Tokenizer, vocab_size: int, role: str) -> None:
    """Add a tokenizer's keys to a `gguf.GGUFWriter`.

    Args:
        vocab_size: of the network, which may have more outputs than there are tokens.
        role: of the checkpoint. A base model's text begins with `<|bos|>` and ends before the next one.
    Raises: UserError for a tokenizer that llama.cpp does not have.
    """
    n = tokenizer.vocab_size
    # A vocabulary may have holes, and a network more outputs than there are tokens.
    names = [tokenizer.name(id) if id < n else "" for id in range(vocab_size)]
    kinds = [CONTROL if id in tokenizer.special_ids else NORMAL for id in range(vocab_size)]
    if tokenizer.is_of_bytes and tokenizer.merge_ranks:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pattern_name(tokenizer)[0])
        writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merge_ranks])
    else:
        described = json.loads(tokenizer.inner.to_str())
        scores = sentencepiece_scores(described, tokenizer.merge_ranks)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([scores.get(name, 0.0) for name in names])
        writer.add_add_space_prefix(tokenizer.dropped[0] > 0)
        added, unknown = _added(described), described["model"].get("unk_token")
        kinds = [_kind(name, kind, added, unknown) for name, kind in zip(names, kinds, strict=True)]
        if UNKNOWN in kinds:
            writer.add_unk_token_id(kinds.index(UNKNOWN))
        # Words that are found in a text stand there as they are written in one.
        written = zip(names, kinds, strict=True)
        names = [name.replace("▁", " ") if kind == USER_DEFINED else name for name, kind in written]
    writer.add_token_list([name or f"<|unused_{id}|>" for id, name in enumerate(names)])
    writer.add_token_types([kind if name else UNUSED for kind, name in zip(kinds, names, strict=True)])
    base = role == "base"
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.bos_id if base else tokenizer.end_id)
    writer.add_eot_token_id(tokenizer.end_id)
    # A conversation begins with its first message, a document with <|bos|>.
    writer.add_add_bos_token(base)
    writer.add_string("tokenizer.huggingface.json", tokenizer.inner.to_str())
    if tokenizer.protocol is not None:
        writer.add_string(PROTOCOL, tokenizer.protocol.model_dump_json())
        writer.add_chat_template(tokenizer.protocol.template())
    elif tokenizer.has_chat:
        writer.add_chat_template(CHAT_TEMPLATE)


def sentencepiece_scores(
    described: dict[str, Any], merge_ranks: dict[tuple[str, str], int]
) -> dict[str, float]:
    """Scores by which llama.cpp merges letters to the tokens of a BPE like SentencePiece's: the earliest first.

    It joins any two neighbours that make a token, so each way to make one must be among the merges.
    Raises: UserError for other tokenizers.
    """
    model = described["model"]
    vocab = model["vocab"] if model["type"] == "BPE" else {}
    scores: dict[str, float] = {}
    for (left, right), rank in merge_ranks.items():
        scores.setdefault(left + right, -float(rank))
    # A word that is found in a text before anything is merged is part of no merge.
    parts = vocab.keys() - _added(described)
    ways = {(name[:at], name[at:]) for name in scores for at in range(1, len(name))}
    lacking = any(pair not in merge_ranks and parts.issuperset(pair) for pair in ways)
    has_bytes = model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    if lacking or not has_bytes:
        raise UserError(
            f"this tokenizer ({model['type']} of characters) cannot be written as GGUF, which has BPE of bytes and "
            "SentencePiece's with a token for each byte: export it as a Hugging Face folder",
            field="checkpoint",
        )
    return scores


def _kind(name: str, kind: int, added: set[str], unknown: str | None) -> int:
    if name == unknown:
        return UNKNOWN
    if kind == NORMAL and re.fullmatch("<0x[0-9A-F]{2}>", name):
        return BYTE
    return USER_DEFINED if kind == NORMAL and name in added else kind


def _added(described: dict[str, Any]) -> set[str]:
    return {token["content"] for token in described["added_tokens"]}


def read(tokenizer_json: str, protocol: str | None) -> Tokenizer:
    """The tokenizer of a file that carries it. Raises UserError where it does not fit."""
    try:
        spoken = None if protocol is None else Protocol.model_validate_json(protocol)
    except ValidationError:
        raise UserError("the protocol of chats in the file is damaged") from None
    return Tokenizer(parse(tokenizer_json, "its tokenizer"), spoken)


def pattern_name(tokenizer: Tokenizer) -> tuple[str, bool]:
    """llama.cpp's name of the pattern that cuts words, and whether it cuts every text as the tokenizer does."""
    described = json.loads(tokenizer.inner.to_str())
    before = described["pre_tokenizer"] or {}
    parts = before.get("pretokenizers", [before])
    cuts = [part for part in parts if part.get("type") in ("Split", "ByteLevel", "Digits", "Punctuation")]
    patterns = [part["pattern"].get("Regex", "") for part in cuts if part["type"] == "Split"]
    plain = described["normalizer"] is None and not any(part.get("add_prefix_space") for part in cuts)
    if not patterns and any(part["type"] == "ByteLevel" and part.get("use_regex", True) for part in cuts):
        return "gpt-2", plain
    if len(patterns) == 1 and patterns[0] in NAMES:
        return NAMES[patterns[0]], plain and not any(part.get("use_regex") for part in cuts)
    return NEAREST, False


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}<|im_sep|>{{ message.content }}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
