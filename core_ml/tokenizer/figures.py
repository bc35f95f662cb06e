"""The figures of a tokenizer's run: what its tokens are, how far they reach and where, and which do nothing."""

from collections.abc import Iterator
from typing import Any

from core_ml.events import Event, Figure
from core_ml.tokenizer import measure
from core_ml.tokenizer.measure import Measured
from core_ml.tokenizer.tokenizer import Tokenizer

N_SHOWN = 40


def draw(
    tokenizer: Tokenizer, measured: Measured, report: dict[str, Any], seldom: list[tuple[int, int]]
) -> Iterator[Event]:
    yield _longest(tokenizer)
    yield _histogram(measured)
    for name, title in (("languages", "By language"), ("domains", "By domain")):
        if report[name]:
            yield _groups(name, title, report[name])
    if report["patterns"]:
        columns = ["words cut", "bytes a token", "tokens a word"]
        rows = [[row["name"], row["bytes_per_token"], row["tokens_per_word"]] for row in report["patterns"]]
        content = {"columns": columns, "rows": rows}
        finding = of_patterns(report["patterns"])
        yield Figure("patterns", 0, "The same size with other patterns", content, finding)
    rows = [[id, tokenizer.decode([id]), count] for id, count in seldom[:N_SHOWN]]
    n_dead = sum(count == 0 for _, count in seldom)
    yield Figure(
        "seldom_tokens",
        0,
        "Tokens that hardly stand in the texts",
        {"columns": ["id", "token", "times"], "rows": rows},
        f"Of {len(tokenizer.merge_ranks):,} learned tokens {n_dead:,} stand nowhere in "
        f"{report['counted_bytes'] / 1e6:,.1f} MB of the texts, and {len(seldom) - n_dead:,} fewer than {measure.RARE} times.",
    )


def _groups(name: str, title: str, rows: list[dict[str, Any]]) -> Figure:
    best, worst = (pick(rows, key=lambda row: row["bytes_per_token"]) for pick in (max, min))
    shown = [[row["name"], row["bytes"], row["bytes_per_token"], row["tokens_per_word"]] for row in rows]
    return Figure(
        name,
        0,
        f"{title}: how far a token reaches",
        {"columns": [name.removesuffix("s"), "bytes", "bytes a token", "tokens a word"], "rows": shown},
        f"From {worst['bytes_per_token']:.2f} bytes a token in {worst['name']} to {best['bytes_per_token']:.2f} in {best['name']}."
        if len(rows) > 1
        else f"All of it is {best['name']}: {best['bytes_per_token']:.2f} bytes a token.",
    )


def _longest(tokenizer: Tokenizer) -> Figure:
    ids = sorted(range(tokenizer.vocab_size), key=lambda id: (-len(tokenizer.token_bytes[id]), id))[:40]
    rows = [[id, tokenizer.decode([id]), len(tokenizer.token_bytes[id])] for id in ids]
    return Figure(
        "longest_tokens",
        0,
        "The longest tokens",
        {"columns": ["id", "token", "bytes"], "rows": rows},
        f"The longest token is {tokenizer.decode([ids[0]])!r}, {len(tokenizer.token_bytes[ids[0]])} bytes.",
    )


def _histogram(measured: Measured) -> Figure:
    lengths, bytes_per_token = measured.lengths, measured.total.bytes_per_token
    sizes = sorted(lengths)
    return Figure(
        "token_lengths",
        0,
        "Bytes of the tokens of unseen text",
        {
            "data": [{"type": "bar", "x": sizes, "y": [lengths[size] for size in sizes]}],
            "layout": {"xaxis": {"title": {"text": "bytes"}}, "yaxis": {"title": {"text": "tokens"}}},
        },
        f"Tokens of unseen text have {bytes_per_token:.2f} bytes on average.",
    )


def of_patterns(compared: list[dict[str, Any]]) -> str:
    chosen = next(row for row in compared if row["chosen"])
    best = max((row for row in compared if not row["chosen"]), key=lambda row: row["bytes_per_token"])
    gain = best["bytes_per_token"] / chosen["bytes_per_token"] - 1
    more = "more" if gain >= 0 else "less"
    way = f"{best['name']} pattern" if best["name"].endswith("'s") else best["name"]
    return f"With {way}, a token would reach {abs(gain):.1%} {more} at the same size of vocabulary."
