"""Greedy coordinate search: tokens of one text are replaced, one at a time, by what raises its mean score most.

The gradient of the score with respect to the one-hot input says to first order what each token at each place would
change (HotFlip: Ebrahimi et al. 2018, arXiv:1712.06751); of the likeliest replacements some are drawn and scored
exactly, and the best one stays (GCG: Zou et al. 2023, arXiv:2307.15043, algorithm 2, over several prompts at once).
Departure: candidates are scored as texts, encoded anew as a reader would, so no text is found that only exists as
tokens.
"""

import random
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from core_ml.feedback.batches import Row
from core_ml.feedback.gaming.bench import Case, Score
from core_ml.feedback.gaming.trick import Trick
from core_ml.feedback.reward_model import RewardModel, encode
from core_ml.model.device import autocast
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer


def search(
    score: Score,
    models: Sequence[RewardModel],
    cases: Sequence[Case],
    *,
    n_tokens: int,
    steps: int,
    n_candidates: int,
    top_k: int,
    seed: str,
) -> Generator[int, None, Trick]:
    """One text that scores high at all cases at once, from random tokens; yields how many steps are done.

    Args:
        models: what `score` is made of. Those with another tokenizer than the first, and parts of a score that
            have no gradient, count in the exact scores only.
        n_tokens: of the text that the search begins with.
        n_candidates: replacements that are scored at each step.
        top_k: tokens of each place that the gradient likes best, among which replacements are drawn.
    """
    rng = random.Random(seed)
    tokenizer, room = models[0].tokenizer, models[0].model.config.max_seq_len // 2
    models = [model for model in models if model.tokenizer.token_bytes == tokenizer.token_bytes]
    allowed = readable(tokenizer)
    text = tokenizer.decode(rng.choice(allowed) for _ in range(min(n_tokens, room))).strip()
    best = _mean(score, cases, [text])[0]
    for step in range(steps):
        ids = tokenizer.encode(text)[:room]
        if not ids:
            break
        liked = _gradient(models, cases, ids, allowed).topk(min(top_k, len(allowed)), dim=1).indices.tolist()
        tried: dict[str, None] = {}
        for _ in range(n_candidates):
            place = rng.randrange(len(ids))
            token = allowed[rng.choice(liked[place])]
            other = tokenizer.decode([*ids[:place], token, *ids[place + 1 :]]).strip()
            if other and other != text:
                tried[other] = None
        if tried:
            values = _mean(score, cases, list(tried))
            value, found = max(zip(values, tried, strict=True))
            if value > best:
                best, text = value, found
        yield step + 1
    return Trick("search", (("text", text),))


def readable(tokenizer: Tokenizer) -> list[int]:
    """The ids of tokens that are text by themselves: no marks of the protocol, and no parts of characters."""
    found = []
    for id, token in enumerate(tokenizer.token_bytes):
        try:
            if token and token.decode().isprintable():
                found.append(id)
        except UnicodeDecodeError:
            continue
    return found


def _mean(score: Score, cases: Sequence[Case], texts: Sequence[str]) -> list[float]:
    values = score([case.prompt for _ in texts for case in cases], [text for text in texts for _ in cases])
    n = len(cases)
    return [sum(map(float, values[i * n : i * n + n])) / n for i in range(len(texts))]


def _gradient(
    models: Sequence[RewardModel], cases: Sequence[Case], ids: list[int], allowed: list[int]
) -> Tensor:
    """(len(ids), len(allowed)): by how much the mean score would change, to first order, for each token at each place."""
    total = torch.zeros(len(ids), len(allowed))
    for model in models:
        rows = _rows(model, cases, ids)
        for member in model.members:
            found = one_hot_gradient(member, rows, len(ids)).cpu()[:, allowed]
            total += found / (len(model.members) * model.std)
    return total / len(models)


def _rows(model: RewardModel, cases: Sequence[Case], ids: list[int]) -> list[Row]:
    longest = model.model.config.max_seq_len
    prompts = [encode(model.tokenizer, case.prompt, "", longest - len(ids))[0] for case in cases]
    return [(prompt, [*ids, model.tokenizer.end_id]) for prompt in prompts]


def one_hot_gradient(model: GPT, rows: Sequence[Row], n: int) -> Tensor:
    """(n, vocab_size): the gradient of the mean value with respect to the one-hot input of each answer's first n tokens.

    An embedding is the product of a one-hot row and the table, so its gradient times the table is that of the one-hot.
    """
    caught: list[Tensor] = []

    def catch(module: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        caught.append(out.detach().requires_grad_())
        return caught[-1]

    ids = torch.zeros(len(rows), max(len(prompt) + len(answer) for prompt, answer in rows), dtype=torch.long)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
    last = torch.tensor([len(prompt) + len(answer) - 1 for prompt, answer in rows], device=model.device)
    hook = model.embedding.register_forward_hook(catch)
    try:
        with torch.enable_grad():
            with autocast(model.device):
                hidden = model.hidden(ids.to(model.device))
            value = model.value(hidden[torch.arange(len(rows), device=model.device), last]).mean()
            (gradient,) = torch.autograd.grad(value, caught)  # (B, T, d_model)
    finally:
        hook.remove()
    places = [gradient[row, len(prompt) : len(prompt) + n] for row, (prompt, _) in enumerate(rows)]
    return torch.stack(places).sum(0).float() @ model.embedding.weight.detach().float().T
