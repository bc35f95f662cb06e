"""Prompts with answers as rows of tokens, and such rows in the parts that a network reads at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from core_ml.feedback.layout import MAX_SCORES, Layout, lay_out, score_cells
from core_ml.tokenizer.tokenizer import Tokenizer

Row = tuple[list[int], list[int]]
"""Token ids of a prompt up to where the assistant writes, and of its answer."""
WORTH_SHARING, LEAST_SHARE = 8, 1 / 16
"""Tokens that are saved where a prompt is read apart from its answers, and what part of all they are at least: fewer are
not worth a second grid of scores, the whole of which is computed where that of rows apart is halved by being causal."""


def as_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A person's prompt in the chat protocol, up to where the assistant writes."""
    return tokenizer.prompt([{"role": "user", "content": prompt}])


@dataclass(slots=True)
class Part:
    """Rows that are read at once: groups of as many answers each, or, with `k` = 0, rows that share nothing."""

    k: int
    numbers: list[int] = field(default_factory=list)
    """Of the rows, in the order in which the layout has them."""
    prompts: list[list[int]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.prompts)) + sum(map(len, self.answers))

    def laid_out(self, device: torch.device) -> Layout:
        """Of whole answers, so that the last tokens are what is read."""
        return lay_out(self.prompts, self.answers, device, whole=True)

    def joined(self, other: "Part") -> "Part":
        return Part(
            self.k,
            self.numbers + other.numbers,
            self.prompts + other.prompts,
            self.answers + other.answers,
        )


def in_parts(rows: Sequence[Row], budget: int, n_head: int) -> Iterator[Part]:
    """All rows in parts of at most `budget` tokens or of one group; those of one prompt stand together and share it.

    Args:
        n_head: of the network, whose attention has to find room as well.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _) in enumerate(rows):
        groups.setdefault(tuple(prompt), []).append(number)
    units: list[Part] = []
    for begin, numbers in groups.items():
        prompt, answers = list(begin), [rows[number][1] for number in numbers]
        saved, n_tokens = len(prompt) * (len(numbers) - 1), sum(len(prompt) + len(a) for a in answers)
        if saved >= max(WORTH_SHARING, LEAST_SHARE * n_tokens):
            units.append(Part(len(numbers), numbers, [prompt], answers))
        else:
            units += [Part(0, [n], [prompt + answer]) for n, answer in zip(numbers, answers, strict=True)]
    # Like lengths together: a grid of scores is as wide as its longest row.
    units.sort(key=lambda unit: (unit.k, max(map(len, unit.answers or unit.prompts))))
    part: Part | None = None
    for unit in units:
        whole = part.joined(unit) if part and part.k == unit.k else None
        if (
            whole
            and whole.n_tokens <= budget
            and score_cells(whole.prompts, whole.answers, n_head) <= MAX_SCORES
        ):
            part = whole
            continue
        if part:
            yield part
        part = unit
    if part:
        yield part
