"""What a judge model is asked about two answers, and what its reply says.

The idea is Zheng et al. 2023 (arXiv:2306.05685, section 3.1): both answers in one prompt, a verdict in one letter that
a program can read, a tie allowed, and the right answer beside them where it is known.
"""

import re
from typing import Any

from core_ml.evaluation.judging import LEFT, RIGHT, TIE

VERDICTS = {"A": LEFT, "B": RIGHT, "C": TIE}
"""By the letter that stands for it; left is the answer that stands first in the prompt."""
PLACES = ("question", "answer_a", "answer_b", "verdict", "reference")
OPTIONAL = ("reference",)
TEMPLATE = """Compare two answers to the same request. Which one serves the person who asked better? Weigh whether it is right, whether it does what was asked for, and whether it is clear. Do not be swayed by which of them stands first, or by how long they are.

[Request]
{question}
{reference}
[Answer A]
{answer_a}

[Answer B]
{answer_b}

{verdict}"""
SHORT = "{question}\n{reference}\nA: {answer_a}\nB: {answer_b}\n{verdict}"
"""For models whose context holds some hundred tokens."""
_REFERENCE = "\n[An answer that is known to be right]\n{}\n"
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_MARK = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_LINE = re.compile(
    r"\W*(?:(?:(?:my|the|final)\s+)*(?:verdict|answer|winner|choice|better answer)(?:\s+is)?\W*)?"
    r"([ABC])(?:\s+is\s+better)?\W*",
    re.IGNORECASE,
)


def check(template: str) -> None:
    """Raises ValueError, which names the place, where a judge would not be shown what it judges."""
    found = _PLACE.findall(template)
    missing = [name for name in PLACES if name not in OPTIONAL and name not in found]
    if missing:
        raise ValueError(
            f"it lacks {{{missing[0]}}}: a judge must read the request and both answers, and how to reply"
        )


def filled(
    template: str, question: str, first: str, second: str, *, verdict: str, reference: str | None = None
) -> str:
    """The prompt. Only the template's own places are filled: braces in what people and models wrote stay as they are."""
    texts = {
        "question": question,
        "answer_a": first,
        "answer_b": second,
        "verdict": verdict,
        "reference": _REFERENCE.format(reference) if reference else "",
    }
    return _PLACE.sub(lambda match: texts[match[1]], template).strip()


def asked_for(ties: bool, reasons: bool) -> str:
    """How the judge is told to reply."""
    mark = "[[{}]]" if reasons else "{}"
    letters = f"{mark.format('A')} if answer A is better, {mark.format('B')} if answer B is better"
    if ties:
        letters += f", {mark.format('C')} if neither is"
    if reasons:
        return f"First compare them in a few sentences. Then end with your verdict in double brackets: {letters}."
    return f"Reply with one letter and nothing else: {letters}."


def read(reply: str, ties: bool = True) -> str | None:
    """The verdict that a reply holds, or None where it holds none that can be told without guessing.

    A letter in double brackets counts, the last one where there are several; else a last or first line that is
    nothing but a letter, or "Verdict: A" and its like.
    """
    text = _THOUGHT.sub("", reply).strip()
    letter = marks[-1] if (marks := _MARK.findall(text)) else _alone(text)
    return None if letter is None or (letter == "C" and not ties) else VERDICTS[letter]


def _alone(text: str) -> str | None:
    lines = [line for line in text.splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if lines else ():
        # "a" by itself may be an article: the letter itself must be a capital.
        if (match := _LINE.fullmatch(line)) and match[1].isupper():
            return match[1]
    return None


def reference_of(metadata: dict[str, Any]) -> str | None:
    """The answer known to be right that came with a group, where one did; of several turns the first one's."""
    for name in ("reference", "answer"):
        value = metadata.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value.strip():
            return value
    return None
