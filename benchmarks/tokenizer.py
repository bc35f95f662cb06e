"""Learning and applying merges, against the libraries that do nothing else.

The claim: a tokenizer of ours is learned, ready to be saved and used, and texts are encoded with it, as fast as by the
fastest library called by itself; the peers take turns with us in one run, and ratios are medians over the rounds.
Learning: rustbpe, tokenizers, and sentencepiece where it is installed (`pip install sentencepiece`). Encoding, with
one thread and with all: tiktoken, rustbpe and tokenizers. Fails when our merges are not rustbpe's, or when any two
libraries give other ids for the same text.

    python benchmarks/tokenizer.py --texts novels.jsonl.gz     # rows of {"text"}; else Python's own sources

Last measured on two Intel cores with AVX-512 that other work shared, 40.5 MB of novels, MB/s with 4,096 and 32,768
tokens. Learning: 28.4 and 26.8, rustbpe 26.8 and 27.6 (ratios 1.06 and 0.97), sentencepiece 18.7 and 17.1,
tokenizers 8.1 and 6.4. Encoding, one thread: 28.1 and 34.1, tiktoken 27.6 and 34.3 (1.03 and 0.99), rustbpe 13.9 and
14.2, tokenizers 2.6 and 2.5; all threads, ours into the arrays that token shards are made of: 1.09 and 1.08 of
tiktoken. Where the ratio stands at 1 it is the same library that works: what is measured is that we cost nothing.
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
from collections.abc import Callable, Iterator
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
DOCUMENT_CHARS, TURN_CHARS = 20_000, 2_000_000
Side = Callable[[list[str]], Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--texts", type=Path, help="JSONL, also gzipped, with a text in each row")
    parser.add_argument("--megabytes", type=float, default=40, help="so much of it at most")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of learning; encoding takes turns text by text"
    )
    parser.add_argument("--quick", action="store_true", help="2 MB and one round, for CI")
    options = parser.parse_args()
    megabytes, rounds = (2, 1) if options.quick else (options.megabytes, options.rounds)
    texts = list(documents(read(options.texts, megabytes * 1e6)))
    n_bytes = sum(len(text.encode()) for text in texts)
    print(f"{n_bytes / 1e6:.1f} MB in {len(texts):,} texts, {N_THREADS} threads", file=sys.stderr)
    found, agree = [], True
    for vocab_size in (4096, 32_768):
        result, ours, theirs = learning(texts, vocab_size, rounds)
        found.append(result)
        agree &= same_merges(ours, theirs)
        for threads in (1, N_THREADS):
            encoded, same = encoding(texts, ours, theirs, threads)
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


def documents(texts: list[str]) -> Iterator[str]:
    """As long as documents are: some libraries lose much of their speed on a whole book at once."""
    for text in texts:
        yield from (text[begin : begin + DOCUMENT_CHARS] for begin in range(0, len(text), DOCUMENT_CHARS))


def _rows(path: Path) -> Any:
    packed = path.suffix == ".gz"
    with gzip.open(path, "rt") if packed else path.open() as lines:
        yield from (json.loads(line)["text"] for line in lines)


def _sources() -> Any:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        with suppress(OSError, UnicodeDecodeError):
            yield path.read_text(encoding="utf-8")


def learning(texts: list[str], vocab_size: int, rounds: int) -> tuple[dict, Tokenizer, Any]:
    n_merges = vocab_size - len(SPECIALS) - 256
    made: dict[str, Any] = {}

    def ours(texts: list[str]) -> None:
        made["ours"] = Tokenizer.train(iter(texts), vocab_size)

    def rust(texts: list[str]) -> None:
        made["rustbpe"] = rustbpe.Tokenizer()
        made["rustbpe"].train_from_iterator(iter(texts), 256 + n_merges, pattern=PATTERN)

    def hugging_face(texts: list[str]) -> None:
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
        sides["sentencepiece"] = _sentencepiece(vocab_size)
    result = compare(f"learning {vocab_size:,} tokens", sides, [texts] * rounds)
    return result, made["ours"], made["rustbpe"]


def _sentencepiece(vocab_size: int) -> Side:
    import sentencepiece

    def learn(texts: list[str]) -> None:
        # Its words, ties and bytes are others, so its tokens are too: it stands here for its speed.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.splitlines() if line),
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


def encoding(texts: list[str], ours: Tokenizer, rust: Any, threads: int) -> tuple[dict, bool]:
    ranks = {bytes(token): rank for token, rank in rust.get_mergeable_ranks()}
    quick = tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    hugging_face = tokenizers.Tokenizer.from_str(ours.inner.to_str())
    hugging_face.encode_special_tokens = True

    def theirs(texts: list[str]) -> Any:
        if threads > 1:
            return hugging_face.encode_batch_fast(texts, add_special_tokens=False)
        return [hugging_face.encode(text, add_special_tokens=False) for text in texts]

    if threads > 1:
        sides: dict[str, Side] = {
            "ours": lambda texts: list(ours.encode_arrays(enumerate(texts))),
            "tiktoken": lambda texts: quick.encode_ordinary_batch(texts, num_threads=threads),
            "rustbpe": rust.batch_encode,
            "tokenizers": theirs,
        }
    else:
        sides = {
            "ours": lambda texts: [ours.encode(text) for text in texts],
            "tiktoken": lambda texts: [quick.encode_ordinary(text) for text in texts],
            "rustbpe": lambda texts: [rust.encode(text) for text in texts],
            "tokenizers": theirs,
        }
    to_rank = {id: ranks[token] for token, id in (ours.ranks or {}).items()}
    wrong: set[str] = set()

    def check(made: dict[str, Any]) -> None:
        """tiktoken's and rustbpe's ids are ranks here, which leave no room for special tokens."""
        expected = [[to_rank[id] for id in ids] for ids in _joined(made["ours"])]
        made["tokenizers"] = [[to_rank[id] for id in one.ids] for one in made["tokenizers"]]
        wrong.update(name for name in sides if name != "ours" and made[name] != expected)

    plural = "s" if threads > 1 else ""
    metric = f"encoding with {ours.vocab_size:,} tokens, {threads} thread{plural}"
    result = compare(metric, sides, list(turns(texts)), check)
    if wrong:
        print(f"our ids are not those of {', '.join(sorted(wrong))}", file=sys.stderr)
    return result, not wrong


def _joined(made: list[Any]) -> list[list[int]]:
    """Of a stream, the pieces of each text together."""
    if not isinstance(made[0], tuple):
        return made
    joined: list[list[int]] = [[] for _ in range(made[-1][0] + 1)]
    for number, ids in made:
        joined[number] += ids.tolist()
    return joined


def turns(texts: list[str]) -> Iterator[list[str]]:
    """Texts of a turn: short ones, so that both sides meet the same weather on a shared machine."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if sum(map(len, batch)) >= TURN_CHARS:
            yield batch
            batch = []
    if batch:
        yield batch


def compare(
    metric: str,
    sides: dict[str, Side],
    batches: list[list[str]],
    check: Callable[[dict[str, Any]], None] = lambda made: None,
) -> dict[str, Any]:
    """All sides take a turn at each batch, in another order each time; the best peer has the best median speed."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number, batch in enumerate(batches):
        megabytes = sum(len(text.encode()) for text in batch) / 1e6
        made = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            made[name] = sides[name](batch)
            speeds[name].append(megabytes / (time.perf_counter() - begin))
        check(made)
    speed = {name: statistics.median(own) for name, own in speeds.items()}
    print(
        f"{metric}: " + ", ".join(f"{name} {mbs:.1f}" for name, mbs in speed.items()) + " MB/s",
        file=sys.stderr,
    )
    peer = max((name for name in names if name != "ours"), key=speed.__getitem__)
    ratio = statistics.median(own / theirs for own, theirs in zip(speeds["ours"], speeds[peer], strict=True))
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
