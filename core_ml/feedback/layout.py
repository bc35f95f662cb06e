"""Where the tokens of prompts and their answers lie when each prompt is read once and nothing is filled up.

Products see all tokens flat, one after another: first every prompt, then the answers. Attention sees two grids, one
of the prompts and one of the answers, whose empty cells are zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

MAX_SCORES = 1 << 25
"""Attention scores of a layer in one pass, and logits that exist at once: 128 MB."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the rows that are read, and those of the answers' `tokens` that they write.

    Token i of these is `targets[i]` and is written by row `source[i]` of these rows.
    """

    rows: slice
    tokens: Tensor | slice
    source: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of G prompts with k answers each lie; R = G · k, P and N are the longest prompt and answer read.

    Of M flat tokens the first M0 are the prompts'. `read` are the places whose hidden states matter. For a policy these
    are the last token of each prompt, then the answers' tokens but the last, which nothing follows: token i of all
    answers, one answer after another, is `targets[i]` and is written by row `source[i]` of what is read. For a reward
    model (`whole`) it is the last token of each answer, or of each prompt where there are no answers.
    """

    ids: Tensor  # (M,)
    positions: Tensor  # (M,)
    n_prompt_tokens: int
    prompt_cells: Tensor | None  # (M0,) in a grid of G · P; None where they fill it in order
    answer_cells: Tensor | None  # (M - M0,) in a grid of R · N; None likewise
    read: Tensor
    source: Tensor
    targets: Tensor
    lengths: list[int]  # (R,) tokens of each answer
    prompt_lengths: Tensor  # (R,) of each answer's prompt
    G: int
    k: int
    P: int
    N: int

    def of_answers(self, x: Tensor) -> list[Tensor]:
        return list(x.split(self.lengths))

    def chunks(self, vocab_size: int) -> Iterator[Chunk]:
        """All that is read, as many rows at a time as have room for their logits."""
        n, n_rows = max(1, MAX_SCORES // vocab_size), len(self.read)
        if n_rows <= n:
            yield Chunk(slice(0, n_rows), slice(None), self.source, self.targets)
            return
        for begin in range(0, n_rows, n):
            rows = slice(begin, min(begin + n, n_rows))
            tokens = ((self.source >= begin) & (self.source < rows.stop)).nonzero()[:, 0]
            yield Chunk(rows, tokens, self.source[tokens] - begin, self.targets[tokens])


def lay_out(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    device: torch.device,
    order: Sequence[tuple[int, int]] | None = None,
    whole: bool = False,
) -> Layout:
    """k consecutive answers for each prompt, or none at all; nothing is empty.

    Args:
        order: (answer, place in it) of all tokens that are read, if they lie otherwise than one answer after another.
        whole: for a reward model, which reads answers to their ends.
    """
    G, R = len(prompts), len(answers)
    k = R // G
    assert G * k == R and all(prompts) and all(answers)
    sizes = [len(answer) - (not whole) for answer in answers]
    P, N = max(map(len, prompts)), max(sizes, default=0)
    order = order or [(row, t) for row, size in enumerate(sizes) for t in range(size)]
    n_prompt = sum(map(len, prompts))
    place = {cell: number for number, cell in enumerate(order)}
    ids = [token for prompt in prompts for token in prompt] + [answers[row][t] for row, t in order]
    positions = [t for prompt in prompts for t in range(len(prompt))]
    positions += [len(prompts[row // k]) + t for row, t in order]
    ends = [end - 1 for end in accumulate(map(len, prompts))]
    if whole:
        read = [n_prompt + place[row, size - 1] for row, size in enumerate(sizes)] or ends
    else:
        read = [*ends, *range(n_prompt, len(ids))]
    source = [
        G + place[row, t - 1] if t else row // k
        for row, answer in enumerate(answers)
        for t in range(0 if whole else len(answer))
    ]

    def on(numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=device)

    def cells(numbers: list[int], size: int) -> Tensor | None:
        return None if numbers == list(range(size)) else on(numbers)

    return Layout(
        ids=on(ids),
        positions=on(positions),
        n_prompt_tokens=n_prompt,
        prompt_cells=cells(
            [g * P + t for g, prompt in enumerate(prompts) for t in range(len(prompt))], G * P
        ),
        answer_cells=cells([row * N + t for row, t in order], R * N),
        read=on(read),
        source=on(source),
        targets=on([] if whole else [token for answer in answers for token in answer]),
        lengths=[len(answer) for answer in answers],
        prompt_lengths=on([len(prompts[row // k]) for row in range(R)]),
        G=G,
        k=k,
        P=P,
        N=N,
    )


def score_cells(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], n_head: int) -> int:
    """How many attention scores a layer has: what decides how many groups fit into one pass."""
    widest, longest = max(map(len, prompts)), max(map(len, answers), default=0)
    return n_head * (len(prompts) * widest**2 + len(answers) * longest * (widest + longest))
