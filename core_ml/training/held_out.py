"""Held-out conversations while a model learns to answer: what they cost it, and what it says to their questions."""

from collections.abc import Generator, Iterator
from itertools import chain, zip_longest

from core_ml.events import Event, Progress, Sample
from core_ml.model.gpt import GPT
from core_ml.sampling.generate import generate
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.conversations import Conversations, cut
from core_ml.training.loss import masked_logprobs


def loss(model: GPT, conversations: Conversations, most: int, budget: int) -> Generator[Event, None, float]:
    """Mean nats of the assistant's tokens of up to `most` held-out conversations, `budget` tokens at a time.

    Yields Progress.
    """
    rows = conversations.held_out(most)
    rows = rows[conversations.lengths[rows].argsort(kind="stable")]
    total, n = 0.0, 0
    for batch in cut(rows, conversations.lengths, budget):
        ids, mask = (tensor.to(model.device) for tensor in conversations.pad(batch))
        total -= masked_logprobs(model, ids, mask).cpu().double().sum().item()
        n += int(mask[:, 1:].sum())
        yield Progress(n, None, "tokens", "measuring")
    return total / n


def questions(conversations: Conversations, n: int) -> list[tuple[list[int], list[int]]]:
    """Held-out (prompt, answer) pairs of different prompts: the first answer of each conversation."""
    found: dict[tuple[int, ...], list[int]] = {}
    # Datasets take turns.
    for number in chain.from_iterable(zip_longest(*conversations.of_val)):
        if number is None:
            continue
        if len(found) == n:
            break
        ids, mask = conversations.row(number)
        begin = int(mask.argmax())
        end = begin + int((mask[begin:] == 0).argmax() or len(mask) - begin)
        found.setdefault(tuple(ids[:begin].tolist()), ids[begin:end].tolist())
    return [(list(prompt), answer) for prompt, answer in found.items()]


def answers(
    model: GPT, tokenizer: Tokenizer, questions: list[tuple[list[int], list[int]]], n_tokens: int, step: int
) -> Iterator[Event]:
    """What the model says to each, greedily, as samples beside what stands in the dataset."""
    answers = generate(
        model,
        [prompt for prompt, _ in questions],
        max_new_tokens=n_tokens,
        temperature=0,
        stop_ids=(tokenizer.end_id,),
        seed=0,
    )
    for (prompt, wanted), answer in zip(questions, answers, strict=True):
        data = {"temperature": 0, "ended": answer.ended, "reference": tokenizer.decode(wanted)}
        yield Sample(step, _question(tokenizer, prompt), tokenizer.decode(answer.ids), data)


def _question(tokenizer: Tokenizer, prompt: list[int]) -> str:
    """What the last message before the answer says: what stands between its last two marks.

    In the lab's own protocol that is without its role; ChatML writes the role as text. Where questions end without a
    token of their own it is what stands behind the last mark.
    """
    if tokenizer.protocol is not None and tokenizer.protocol.question is not None:
        last = max(place for place, id in enumerate(prompt, 1) if id not in tokenizer.special_ids)
        begin = max(place for place in range(last) if prompt[place] in tokenizer.special_ids)
        return tokenizer.decode(prompt[begin + 1 : last]).strip()
    last = len(prompt) - 1 - prompt[::-1].index(tokenizer.end_id)
    begin = max(place for place in range(last) if prompt[place] in tokenizer.special_ids)
    return tokenizer.decode(prompt[begin + 1 : last]).strip()
