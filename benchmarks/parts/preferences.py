"""What `benchmarks/reward.py` learns from: three sets of people's preferences, and a small model that has read before."""

import gzip
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from core_ml.feedback.pairs import Group, Ranking
from core_ml.feedback.sets import openassistant, pairs
from core_ml.feedback.sets.ranked import Ranked
from core_ml.model import checkpoint, device
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.loss import backward
from core_ml.training.optim import clip, optimizers, scale_lr
from core_ml.training.schedule import lr_share

SIZE = {"n_layer": 4, "d_model": 128, "n_head": 4, "n_kv_head": 4, "max_seq_len": 512}
VOCAB, ROWS, TOKENS = 4096, 16, 256
FIRST_CHATS, MORE_CHATS = 0.25, 0.6  # the share of conversations at the beginning, and what the end has more

Reader = Callable[[dict[str, Any], int], Iterable[Ranked]]


def lines(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def people(file: str, read: Reader) -> Callable[[Path], Iterator[Group]]:
    """How the groups of one set are read from the folder of all: what people said, without the verdicts of models."""

    def groups(folder: Path) -> Iterator[Group]:
        for number, row in enumerate(lines(folder / file)):
            for ranked in read(row, number):
                rankings = [
                    Ranking(vote.labeler, False, tuple(map(tuple, vote.order)))
                    for vote in ranked.votes
                    if not vote.simulated
                ]
                yield Group(ranked.group_id, ranked.prompt, tuple(ranked.completions), rankings)

    return groups


SETS = {
    "oasst-trees": people("pref-oasst-trees/trees.jsonl.gz", openassistant.read),
    "pandalm": people("pref-pandalm/pairs.jsonl.gz", pairs.pandalm),
    "autoj": people("pref-autoj/pairs.jsonl.gz", pairs.autoj),
}


def documents(folder: Path) -> list[str]:
    """Web pages, encyclopedia articles and reviews."""
    found = [
        row["text"]
        for name in (
            "text-c4-wiki-samples/c4",
            "text-c4-wiki-samples/wikipedia",
            "text-movie-reviews/reviews",
        )
        for row in lines(folder / f"{name}.jsonl.gz")
    ]
    with gzip.open(folder / "text-wikitext2" / "valid.txt.gz", "rt", encoding="utf-8") as file:
        articles = file.read()
    found += [articles[i : i + 4000] for i in range(0, len(articles), 4000)]
    random.Random(0).shuffle(found)
    return found


def conversations(folder: Path) -> list[tuple[str, str]]:
    """Questions with their answers, none of which is of the sets."""
    found = [
        (f"{row['instruction']}\n{row['input']}".strip(), row["output"])
        for name in ("sft-alpaca/alpaca_5000", "sft-llamafactory-demos/alpaca_gpt4_en")
        for row in lines(folder / f"{name}.jsonl.gz")
    ]
    for row in lines(folder / "sft-dolly-hh" / "train_small.jsonl.gz"):
        asked = row["prompt"].partition("### Instruction:")[2] or row["prompt"]
        found.append((asked.partition("### Response:")[0].strip(), row["response"]))
    random.Random(0).shuffle(found)
    return found


def pretrained(folder: Path, kept: Path, steps: int, n_characters: int) -> tuple[GPT, Tokenizer]:
    """A model that has read pages first and conversations more and more, in the protocol that a reward model reads.

    Args:
        kept: where it lies; made when there is none.
    """
    if (kept / checkpoint.WEIGHTS).is_file():
        return checkpoint.load(kept)
    text, chats = "\n\n".join(documents(folder))[:n_characters], conversations(folder)
    chats = chats[: n_characters // 500]
    read = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    tokenizer = Tokenizer.train([*read, *(f"{asked}\n{answer}" for asked, answer in chats)], VOCAB)
    streams = [torch.tensor(tokenizer.encode(text)), torch.tensor([id for chat in chats for id in _ids(tokenizer, *chat)])]  # fmt: skip
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **SIZE)).to(device.choose())
    opts = optimizers(model, 0.02, 3e-3)
    begin, losses = time.perf_counter(), [0.0]
    for step in range(steps):
        n_chats = round(ROWS * (FIRST_CHATS + MORE_CHATS * step / steps))
        rows = [
            stream[start : start + TOKENS + 1]
            for stream, n in zip(streams, (ROWS - n_chats, n_chats), strict=True)
            for start in torch.randint(len(stream) - TOKENS - 1, (n,)).tolist()
        ]
        loss = backward(model, torch.stack(rows).to(model.device), device.tokens_at_once(model.device))
        clip(model, 1.0)
        scale_lr(opts, lr_share(step, steps, "wsd", 0.02, 0.5))
        for opt in opts:
            opt.step()
        model.zero_grad()
        losses.append(loss.item())
    last = losses[-100:]
    print(
        f"pretrained {model.config.n_parameters:,} parameters on {steps * ROWS * TOKENS:,} tokens to "
        f"{sum(last) / len(last):.2f} nats in {time.perf_counter() - begin:.0f} s",
        flush=True,
    )
    kept.mkdir(parents=True, exist_ok=True)
    checkpoint.save(model, tokenizer, kept)
    return model, tokenizer


def _ids(tokenizer: Tokenizer, asked: str, answer: str) -> list[int]:
    return [
        *tokenizer.prompt([{"role": "user", "content": asked}]),
        *tokenizer.encode(answer),
        tokenizer.end_id,
    ]
