"""Learning and applying merges, against the libraries that do nothing else.

The claim: a tokenizer of ours is learned, ready to be saved and used, and texts are encoded with it, as fast as by the
fastest library called by itself; the peers take turns with us in one run, and ratios are medians over the rounds.
Learning: rustbpe, tokenizers, and sentencepiece where it is installed (`pip install sentencepiece`). Encoding, with
one thread and with all: tiktoken, rustbpe and tokenizers. Fails when our merges are not rustbpe's, or when any two
libraries give other ids for the same text.

    python benchmarks/tokenizer.py --texts novels.jsonl.gz     # rows of {"text"}; else Python's own sources

Last measured FIGURES
"""

import argparse
import gzip
import io
import json
import os
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rustbpe
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from core_ml.tokenizer.patterns import PATTERNS
from core_ml.tokenizer.special import SPECIALS
from core_ml.tokenizer.tokenizer import Tokenizer

PATTERN = PATTERNS["digits"].regex
N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Side = Callable[[], Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--texts", type=Path, help="JSONL, also gzipped, with a text in each row")
    parser.add_argument("--megabytes", type=float, default=40, help="so much of it at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2 MB and one round, for CI")
    options = parser.parse_args()
    megabytes, rounds = (2, 1) if options.quick else (options.megabytes, options.rounds)
    texts = read(options.texts, megabytes * 1e6)
    n_bytes = sum(len(text.encode()) for text in texts)
    print(f"{n_bytes / 1e6:.1f} MB in {len(texts):,} texts, {N_THREADS} threads", file=sys.stderr)
    found, agree = [], True
    for vocab_size in (4096, 32_768):
        result, ours, theirs = learning(texts, n_bytes, vocab_size, rounds)
        found.append(result)
        agree &= same_merges(ours, theirs)
        for threads in (1, N_THREADS):
            encoded, same = encoding(texts, n_bytes, ours, theirs, threads, rounds)
            found.append(encoded)
            agree &= same
    print(json.dumps(found))
    return 0 if agree else 1


def read(path: Path | None, max_bytes: float) -> list[str]:
    """Texts up to a number of bytes; of Python's own sources, each file is one."""
    texts: list[str] = []
    n = 0
    for text in _rows(path) if path else _sources():
        if n >= max_bytes:
            break
        texts.append(text[: int(max_bytes)])
        n += len(text.encode())
    return texts


def _rows(path: Path) -> Any:
    packed = path.suffix == ".gz"
    with gzip.open(path, "rt") if packed else path.open() as lines:
        yield from (json.loads(line)["text"] for line in lines)


def _sources() -> Any:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        with suppress(OSError, UnicodeDecodeError):
            yield path.read_text(encoding="utf-8")


def learning(texts: list[str], n_bytes: int, vocab_size: int, rounds: int) -> tuple[dict, Tokenizer, Any]:
    n_merges = vocab_size - len(SPECIALS) - 256
    made: dict[str, Any] = {}

    def ours() -> None:
        made["ours"] = Tokenizer.train(iter(texts), vocab_size)

    def rust() -> None:
        made["rustbpe"] = rustbpe.Tokenizer()
        made["rustbpe"].train_from_iterator(iter(texts), 256 + n_merges, pattern=PATTERN)

    def hugging_face() -> None:
        made["tokenizers"] = tokenizers.Tokenizer(models.BPE())
        made["tokenizers"].pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made["tokenizers"].decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=256 + n_merges, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
        )
        made["tokenizers"].train_from_iterator(iter(texts), trainer)

    sides: dict[str, Side] = {"ours": ours, "rustbpe": rust, "tokenizers": hugging_face}
    with suppress(ImportError):
        sides["sentencepiece"] = _sentencepiece(texts, vocab_size)
    result = compare(f"learning {vocab_size:,} tokens", sides, n_bytes, rounds)
    return result, made["ours"], made["rustbpe"]


def _sentencepiece(texts: list[str], vocab_size: int) -> Side:
    import sentencepiece

    lines = [line for text in texts for line in text.splitlines() if line]

    def learn() -> None:
        # Its words, ties and bytes are others, so its tokens are too: it stands here for its speed.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=io.BytesIO(),
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 20,
            num_threads=N_THREADS,
            hard_vocab_limit=False,
            minloglevel=2,
        )

    return learn


def same_merges(ours: Tokenizer, theirs: Any) -> bool:
    found = sorted((ours.ranks or {}).items(), key=lambda item: item[1])
    mine = [token for token, _ in found if len(token) > 1]
    same = mine == [bytes(token) for token, rank in theirs.get_mergeable_ranks() if rank >= 256]
    if not same:
        print("our merges are not those of rustbpe", file=sys.stderr)
    return same


def encoding(
    texts: list[str], n_bytes: int, ours: Tokenizer, rust: Any, threads: int, rounds: int
) -> tuple[dict, bool]:
    ranks = {bytes(token): rank for token, rank in rust.get_mergeable_ranks()}
    quick = tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    hugging_face = tokenizers.Tokenizer.from_str(ours.inner.to_str())
    hugging_face.encode_special_tokens = True
    made: dict[str, Any] = {}

    def one_by_one(name: str, encode: Callable[[str], Any]) -> Side:
        def run() -> None:
            made[name] = [encode(text) for text in texts]

        return run

    def at_once(name: str, encode: Callable[[list[str]], Any]) -> Side:
        def run() -> None:
            made[name] = encode(texts)

        return run

    if threads == 1:
        sides = {
            "ours": one_by_one("ours", ours.encode),
            "tiktoken": one_by_one("tiktoken", quick.encode_ordinary),
            "rustbpe": one_by_one("rustbpe", rust.encode),
            "tokenizers": one_by_one(
                "tokenizers", lambda text: hugging_face.encode(text, add_special_tokens=False)
            ),
        }
    else:
        sides = {
            "ours": at_once("ours", lambda texts: list(ours.encode_arrays(enumerate(texts)))),
            "tiktoken": at_once(
                "tiktoken", lambda texts: quick.encode_ordinary_batch(texts, num_threads=threads)
            ),
            "rustbpe": at_once("rustbpe", rust.batch_encode),
            "tokenizers": at_once(
                "tokenizers", lambda texts: hugging_face.encode_batch_fast(texts, add_special_tokens=False)
            ),
        }
    result = compare(
        f"encoding with {ours.vocab_size:,} tokens, {threads} thread{'s' * (threads > 1)}",
        sides,
        n_bytes,
        rounds,
    )
    return result, _same_ids(made, ours, ranks)


def _same_ids(made: dict[str, Any], ours: Tokenizer, ranks: dict[bytes, int]) -> bool:
    """Whether all gave the same tokens; tiktoken's and rustbpe's ids here are their ranks without special tokens."""
    if isinstance(made["ours"][0], tuple):
        joined: list[list[int]] = [[] for _ in made["tiktoken"]]
        for number, ids in made["ours"]:
            joined[number] += ids.tolist()
        made["ours"] = joined
    to_rank = {id: ranks[token] for token, id in (ours.ranks or {}).items()}
    expected = [[to_rank[id] for id in ids] for ids in made["ours"]]
    theirs = {
        "tiktoken": made["tiktoken"],
        "rustbpe": made["rustbpe"],
        "tokenizers": [[to_rank[id] for id in one.ids] for one in made["tokenizers"]],
    }
    wrong = [name for name, ids in theirs.items() if ids != expected]
    if wrong:
        print(f"our ids are not those of {', '.join(wrong)}", file=sys.stderr)
    return not wrong


def compare(metric: str, sides: dict[str, Side], n_bytes: int, rounds: int) -> dict[str, Any]:
    """Each side in turn, `rounds` times, in another order each time; the best peer is the one of the best median."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
    speed = {name: n_bytes / 1e6 / statistics.median(taken) for name, taken in seconds.items()}
    print(
        f"{metric}: " + ", ".join(f"{name} {mbs:.1f}" for name, mbs in speed.items()) + " MB/s",
        file=sys.stderr,
    )
    peer = max((name for name in names if name != "ours"), key=speed.__getitem__)
    ratio = statistics.median(
        theirs / own for theirs, own in zip(seconds[peer], seconds["ours"], strict=True)
    )
    return {
        "benchmark": "tokenizer",
        "metric": metric,
        "unit": "MB/s",
        "ours": round(speed["ours"], 1),
        "peer": round(speed[peer], 1),
        "peer_name": peer,
        "ratio": round(ratio, 2),
        "goal": 1.0,
        "met": ratio >= 1.0,
    }


if __name__ == "__main__":
    sys.exit(main())
