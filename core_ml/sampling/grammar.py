"""Completions that must match a JSON Schema or a regular expression, token by token, with `llguidance`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from core_ml.errors import UserError

Kind = Literal["json_schema", "regex"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a completion must match as a whole: a JSON Schema's text, or a regular expression."""

    kind: Kind
    source: str


class Grammars:
    """Compiles grammars for one vocabulary.

    Args:
        token_bytes: of each token; special tokens have none, and are never allowed but for `end_id`.
        end_id: allowed where the text may end.
    """

    def __init__(self, token_bytes: Sequence[bytes], vocab_size: int, end_id: int) -> None:
        special = [id for id, data in enumerate(token_bytes) if not data]
        wrapper = TokenizerWrapper(_Vocabulary(list(token_bytes), special, end_id))
        self._tokenizer = LLTokenizer(wrapper, n_vocab=vocab_size)
        spelled = set(token_bytes)
        self._n_missing = sum(bytes([byte]) not in spelled for byte in range(256))

    def begin(self, grammar: Grammar) -> "Constraint":
        """Raises: UserError for a grammar that cannot be read or is too large."""
        what = "regular expression" if grammar.kind == "regex" else "JSON Schema"
        if self._n_missing:
            raise UserError(
                f"the {what} cannot be used: the model's tokenizer has no token for {self._n_missing} of the 256 "
                "bytes, and cannot write every text; ask without it"
            )
        try:
            if grammar.kind == "regex":
                text = LLMatcher.grammar_from_regex(grammar.source)
            else:
                # Where any white space may stand, a small network goes on with it for ever.
                text = LLMatcher.grammar_from_json_schema(grammar.source, {"whitespace_flexible": False})
            matcher = LLMatcher(self._tokenizer, text, log_level=0)
        except ValueError as error:
            raise UserError(f"the {what} cannot be used: {_first_line(error)}") from None
        if matcher.is_error():
            raise UserError(f"the {what} cannot be used: {_first_line(matcher.get_error())}")
        return Constraint(matcher)


class Constraint:
    """One completion on its way through a grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def copy(self) -> "Constraint":
        return Constraint(self._matcher.deep_copy())

    def allowed(self, vocab_size: int) -> Tensor:
        """(vocab_size,) bool. Raises RuntimeError where the grammar needs more work than its limits allow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())
        mask = np.zeros(vocab_size, dtype=bool)
        found = np.unpackbits(bits, bitorder="little")[:vocab_size]
        mask[: len(found)] = found
        return torch.from_numpy(mask)

    def feed(self, id: int) -> None:
        self._matcher.consume_token(id)

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped()


class _Vocabulary:
    """What the library asks of a tokenizer. Texts are cut greedily: it only needs to know which tokens fit."""

    def __init__(self, tokens: list[bytes], special: list[int], end_id: int) -> None:
        # The library tells special tokens by this byte, which no text has.
        self.tokens = [data or b"\xff<%d>" % id for id, data in enumerate(tokens)]
        self.special_token_ids, self.eos_token_id, self.bos_token_id = special, end_id, None
        self._id = {data: id for id, data in enumerate(tokens) if data}
        self._longest = max(map(len, tokens), default=0)

    def __call__(self, text: bytes) -> list[int]:
        ids, begin = [], 0
        while begin < len(text):
            n = min(self._longest, len(text) - begin)
            while n > 1 and text[begin : begin + n] not in self._id:
                n -= 1
            ids.append(self._id[text[begin : begin + n]])
            begin += n
        return ids


def _first_line(error: object) -> str:
    return str(error).strip().splitlines()[0][:200]
