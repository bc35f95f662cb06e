"""Tricks that need no search, because there are few of each: answers cut short, the prompt given back, pieces stitched."""

from collections.abc import Sequence

from core_ml.feedback.gaming.bench import Case
from core_ml.feedback.gaming.trick import Piece, Trick, unique
from core_ml.feedback.gaming.words import closers, openers

N_PIECES = 10  # beginnings and ends that are tried


def truncations() -> list[Trick]:
    """Nothing at all, the first words of a good answer, and such an answer without its last ones."""
    cut = [Trick("truncation", (("answer", n),)) for n in (1, 2, 3, 4, 6, 8, 12, -1, -2, -4)]
    return [Trick("truncation", ()), *cut]


def echoes(cases: Sequence[Case]) -> list[Trick]:
    """The prompt, once and more, and after or before how answers begin and end."""
    fair = [text for case in cases for text in case.fair]
    prompt: Piece = ("prompt", 0)
    begun = [Trick("echo", (("text", opener), prompt)) for opener in openers(fair, N_PIECES)]
    ended = [Trick("echo", (prompt, ("text", closer))) for closer in closers(fair, N_PIECES)]
    return unique([*(Trick("echo", (prompt,), times) for times in (1, 2, 4)), *begun, *ended])


def stitches(cases: Sequence[Case]) -> list[Trick]:
    """How answers begin and end, with nothing in between, once and more."""
    fair = [text for case in cases for text in case.fair]
    first, last = openers(fair, N_PIECES), closers(fair, N_PIECES)
    pairs = [(("text", one), ("text", other)) for one in first for other in last if one != other]
    pairs += [(("text", other), ("text", one)) for one in first[:5] for other in last[:5] if one != other]
    alone = [(("text", one),) for one in dict.fromkeys([*first, *last])]
    return unique([Trick("stitching", pieces, times) for pieces in [*pairs, *alone] for times in (1, 2)])


def elsewhere(cases: Sequence[Case], n: int) -> list[Trick]:
    """The answers that score highest at their own prompts, said to every other prompt."""
    fair = {(score, text) for case in cases for score, text in zip(case.scores, case.fair, strict=True)}
    texts = dict.fromkeys(text for _, text in sorted(fair, reverse=True) if text.strip())
    return [Trick("elsewhere", (("text", text),)) for text in list(texts)[:n]]
