"""Learning merges, and the two ways to write them down: as pairs, and as the ranks of what they make.

rustbpe learns: it counts the words of a stream on all cores and keeps nothing of the texts but those counts, so
memory follows the number of different words and not the corpus. At each step it joins the pair that stands most
often; of those as frequent the one with the smaller ids, bytes before merges. As it tells only the tokens that it
made, the pairs are found again by merging each token's own bytes.
Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import rustbpe

from core_ml.tokenizer import patterns

PIECE_CHARS = 1 << 18
BUFFER_PIECES, BUFFER_CHARS = 1024, 1 << 24
"""So much is counted at once; the counts of each piece are added up, so there should be few and large ones."""
BETWEEN = "0"
"""A word of one byte, which holds no pair: between two texts it keeps the words of either from going on."""
Pair = tuple[bytes, bytes]


def learn(texts: Iterable[str], n_merges: int, regex: str) -> list[bytes]:
    """What the merges make, in the order in which they were learned; fewer when no pair is left.

    The merging itself, after the last text, holds the interpreter for seconds: no other thread runs meanwhile.
    """
    learner = rustbpe.Tokenizer()
    buffered = _filled(_joined(_pieces(texts, regex), regex))
    learner.train_from_iterator(buffered, 256 + n_merges, buffer_size=BUFFER_PIECES, pattern=regex)
    return [bytes(token) for token, rank in learner.get_mergeable_ranks() if rank >= 256]


def _pieces(texts: Iterable[str], regex: str) -> Iterator[str]:
    longest = PIECE_CHARS + patterns.UNBROKEN_CHARS
    for text in texts:
        for piece in patterns.cut(patterns.valid(text), regex, PIECE_CHARS):
            if len(piece) <= longest or not patterns.has_border(regex):
                yield piece
            else:
                yield from (piece[begin : begin + longest] for begin in range(0, len(piece), longest))


def _joined(pieces: Iterable[str], regex: str) -> Iterator[str]:
    """Short texts as one, where that leaves their words as they are: twice as fast for texts of a page."""
    held: list[str] = []
    n_chars = 0
    for piece in pieces:
        if held and (n_chars >= PIECE_CHARS or not _can_join(held[-1], piece, regex)):
            yield BETWEEN.join(held)
            held, n_chars = [], 0
        if piece:
            held.append(piece)
            n_chars += len(piece)
    yield BETWEEN.join(held)


def _can_join(before: str, after: str, regex: str) -> bool:
    """Whether the digit between them is a word of its own, and white space before it falls into the same words."""
    if regex == patterns.PATTERNS["digits"].regex:
        return True
    if not patterns.has_border(regex) or not before or not after:
        return False
    end, begin = before[-1], after[0]
    plain = end.isascii() and begin.isascii()
    return plain and not (end.isspace() or end.isdigit() or begin.isdigit())


def _filled(pieces: Iterable[str]) -> Iterator[str]:
    """Empty texts behind long ones: what is held at once is a number of texts, and here a number of characters."""
    n_pieces = n_chars = 0
    for piece in pieces:
        yield piece
        n_pieces += 1
        n_chars += len(piece)
        if n_chars >= BUFFER_CHARS:
            yield from [""] * (-n_pieces % BUFFER_PIECES)
            n_pieces = n_chars = 0


def pairs_of(ranks: Mapping[bytes, int]) -> list[Pair] | None:
    """The merge behind each token of more than one byte, in the order of the ranks.

    None when some token cannot be reached by merges, as in vocabularies into which somebody put whole words.
    """
    found: list[Pair] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) < 2:
            continue
        splits = _splits(token, rank, ranks)
        # Most tokens can be made in one way only, which is then the way.
        pair = splits[0] if len(splits) == 1 else _last_merge(token, rank, ranks) if splits else None
        if pair is None:
            return None
        found.append(pair)
    return found


def splits_of(ranks: Mapping[bytes, int]) -> list[Pair]:
    """Every pair of tokens that makes a third, in the order of what they make: merging by ranks, written as pairs."""
    found: list[Pair] = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        found += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return found


def _splits(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[Pair]:
    return [
        (token[:i], token[i:])
        for i in range(1, len(token))
        if ranks.get(token[:i], rank) < rank and ranks.get(token[i:], rank) < rank
    ]


def _last_merge(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> Pair | None:
    """What stands before the last merge when a token's bytes are merged with all that came before it."""
    parts: Sequence[bytes] = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        lowest, left, right = min((ranks.get(a + b, rank), a, b) for a, b in pairwise(parts))
        if lowest >= rank:
            return None
        parts = apply(parts, left + right)
    return (parts[0], parts[1]) if len(parts) == 2 else None


def apply(parts: Sequence[bytes], made: bytes) -> list[bytes]:
    """Join neighbours that make a token, from left to right, each part once."""
    joined: list[bytes] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and parts[i] + parts[i + 1] == made:
            joined.append(made)
            i += 2
        else:
            joined.append(parts[i])
            i += 1
    return joined
