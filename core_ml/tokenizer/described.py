"""`tokenizer.json` in the Hugging Face format, written for merges of ours and read for what it says of others.

Bytes are written in GPT-2's stand-ins, one printable character each. A file from elsewhere may do far more than
merge bytes (change letters, split in steps, match added words in a text); what is found here is whether its rules
come to the plain ones, which a quicker library then follows to the same ids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tokenizers
from tokenizers import models

from core_ml.errors import UserError
from core_ml.tokenizer import merges, patterns
from core_ml.tokenizer.merges import Pair


def _byte_symbols() -> dict[str, int]:
    """GPT-2's stand-ins: each byte is written as one printable character, itself where it is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_symbols()
_SYMBOL = {byte: symbol for symbol, byte in BYTE_OF.items()}


def symbols(data: bytes) -> str:
    return "".join(map(_SYMBOL.__getitem__, data))


def from_symbols(text: str) -> bytes:
    return bytes(map(BYTE_OF.__getitem__, text))


def parse(content: str, name: str) -> tokenizers.Tokenizer:
    """Raises UserError for what is no tokenizer."""
    try:
        inner = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise UserError(f"{name} is damaged and cannot be read: {str(error)[:200]}") from None
    # Files that were saved in use say where texts are cut off and filled up, which would fall to the training data.
    inner.no_truncation()
    inner.no_padding()
    return inner


@dataclass(frozen=True)
class Learned:
    """Merges as they were learned: enough to encode with. The file, which names each pair, is made when it is asked for."""

    ids: Mapping[bytes, int]
    specials: Mapping[str, int]
    regex: str

    def build(self) -> tokenizers.Tokenizer:
        pairs = merges.pairs_of(self.ids)
        assert pairs is not None, "a token that was learned is reached by what was learned before it"
        return tokenizers.Tokenizer.from_str(write(self.ids, pairs, self.specials, self.regex))


def write(
    ids: Mapping[bytes, int],
    pairs: Iterable[Pair],
    specials: Mapping[str, int],
    regex: str,
    ignore_merges: bool = False,
) -> str:
    """The text of `tokenizer.json` for tokens with their ids, merges in their order, and special tokens.

    With `ignore_merges` a word that is a token is one, whether or not merges lead to it.
    """
    spelled = {token: symbols(token) for token in ids}
    vocab = dict(specials) | {spelled[token]: id for token, id in ids.items()}
    added = [
        {
            "id": id,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, id in sorted(specials.items(), key=lambda item: item[1])
    ]
    plain = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", **plain}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [[spelled[left], spelled[right]] for left, right in pairs],
        },
    }
    return json.dumps(content, ensure_ascii=False)


def pattern_of(content: Mapping[str, Any]) -> str | None:
    """The regular expression that cuts a text into words; None where something else happens to the text as well."""
    if any(content.get(part) is not None for part in ("normalizer", "truncation", "padding")):
        return None
    before = content.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", []) if before.get("type") == "Sequence" else [before]
    *splits, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if not splits:
        return patterns.PATTERNS["gpt2"].regex if last.get("use_regex", True) else None
    split = splits[0]
    plain = (split.get("type"), split.get("behavior"), split.get("invert")) == ("Split", "Isolated", False)
    if len(splits) > 1 or not plain or last.get("use_regex", True):
        return None
    return split["pattern"].get("Regex")


def pairs_in(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges in their order, in stand-ins; older files write a pair as one text with a space in it."""
    found = content["model"].get("merges", [])
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in found)
    return [(left, right) for left, right in pairs]


def ranks_of(content: Mapping[str, Any]) -> dict[bytes, int] | None:
    """Ids of all tokens but the added ones, when merging by the lowest id gives what the file's merges give.

    That is so when ids rise with the merges and each token's own bytes merge into it: of the first step in which
    the two ways differed, the token that one makes and the other does not would not be reached by its merges.
    """
    model = content["model"]
    added = {token["content"] for token in content["added_tokens"]}
    if not all(token["special"] for token in content["added_tokens"]):
        return None
    odd = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if any(model.get(name) for name in odd):
        return None
    vocab: dict[str, int] = {name: id for name, id in model["vocab"].items() if name not in added}
    pairs = pairs_in(content)
    made = [vocab.get(left + right, -1) for left, right in pairs]
    if any(later < earlier for earlier, later in pairwise(made)) or -1 in made[:1]:
        return None
    if set(made) | {vocab.get(symbol) for symbol in BYTE_OF} != set(vocab.values()):
        return None
    ranks = {from_symbols(name): id for name, id in vocab.items()}
    if not _all_reached(vocab, pairs):
        every = model.get("ignore_merges") and len(pairs) == sum(1 for _ in merges.splits_of(ranks))
        return ranks if every else None
    return ranks


def _all_reached(vocab: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether each token's bytes merge into it."""
    bare = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=list(pairs)))
    names = list(vocab)
    encoded = bare.encode_batch_fast(names, add_special_tokens=False)
    return all(one.ids == [vocab[name]] for one, name in zip(encoded, names, strict=True))
