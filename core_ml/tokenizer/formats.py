"""Tokenizers of others, brought in, and ours taken out: `tokenizer.json` and tiktoken's files of ranks.

What comes in keeps its ids. The tokens of our chat protocol that it lacks are added behind them, so that any
tokenizer can be trained with and talked to.
"""

import base64
import binascii

import tokenizers

from core_ml.errors import UserError
from core_ml.tokenizer import described, merges, special
from core_ml.tokenizer.described import parse
from core_ml.tokenizer.special import SPECIALS
from core_ml.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 2_000_000


def from_json(content: str, name: str = "tokenizer.json") -> Tokenizer:
    """Any tokenizer in the Hugging Face format: BPE, Unigram, WordPiece, words. Raises UserError."""
    inner = parse(content, name)
    added = inner.get_added_tokens_decoder()
    ours = special.place({token.content: id for id, token in added.items() if token.special})
    lacking = [
        tokenizers.AddedToken(one, special=True, normalized=False) for one in SPECIALS if one not in ours
    ]
    inner.add_special_tokens(lacking)
    return Tokenizer(inner)


def from_ranks(data: bytes, regex: str) -> Tokenizer:
    """tiktoken's file of ranks, a token in base64 and its rank on each line, with the pattern that it lacks.

    Raises: UserError naming the line at fault.
    """
    ranks = _read_ranks(data)
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise UserError(f"the ranks are not a byte-level BPE: {missing} of the 256 bytes have no token")
    taken = set(ranks.values())
    # Where there is room before the first rank, as in a file that we wrote, they stand there.
    begin = 0 if min(taken) >= len(SPECIALS) else max(taken) + 1
    specials = {name: begin + i for i, name in enumerate(SPECIALS)}
    pairs = merges.pairs_of(ranks)
    whole = pairs is None
    content = described.write(
        ranks, merges.splits_of(ranks) if pairs is None else pairs, specials, regex, ignore_merges=whole
    )
    return Tokenizer.read(content, "the ranks")


def _read_ranks(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            token, id = base64.b64decode(text, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise UserError(
                f"line {number} is not a token in base64 and its rank: {line[:60].decode('utf-8', 'replace')!r}"
            ) from None
        if not token or not 0 <= id < MAX_TOKENS:
            raise UserError(
                f"line {number} has the rank {id}: it must be from 0 to {MAX_TOKENS:,}, of a token"
            )
        if token in ranks:
            raise UserError(f"line {number} has the token {token[:40]!r}, which stands there twice")
        ranks[token] = id
    if not ranks:
        raise UserError("the file holds no ranks: each line is a token in base64 and its rank")
    if len(set(ranks.values())) < len(ranks):
        raise UserError("a rank stands there twice: each token has one of its own")
    return ranks


def to_ranks(tokenizer: Tokenizer) -> bytes:
    """The file that `tiktoken.load.load_tiktoken_bpe` reads; ranks are our ids. Raises UserError where they decide
    nothing, since merging by them would give other ids."""
    if not tokenizer.is_of_bytes:
        raise UserError(
            "this tokenizer cannot be written as ranks: its tokens are characters, and ranks merge bytes; "
            "take its tokenizer.json"
        )
    if tokenizer.ranks is None:
        raise UserError(
            "this tokenizer cannot be written as ranks: it does more than merge the bytes of words by their rank; "
            "take its tokenizer.json"
        )
    ordered = sorted(tokenizer.ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)
