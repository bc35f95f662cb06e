"""Learns a vocabulary: byte-level BPE with the special tokens of the chat protocol."""

import re
import threading
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from core_ml.config import RecipeConfig, setting
from core_ml.errors import UserError
from core_ml.events import Event, Figure, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.tokenizer.tokenizer import MIN_VOCAB_SIZE, Tokenizer
from core_ml.workspace import Workspace

HELD_OUT_EVERY = 50  # one text in so many is measured and not learned from
HELD_OUT_BYTES = 2_000_000
STOP_WITHIN = 1.5  # seconds
BYTES_PER_SECOND = 3e6
WORD = re.compile(r"\S+")


class TokenizerConfig(RecipeConfig):
    vocab_size: int = setting(
        1024,
        "Tokens in the vocabulary, bytes and special tokens included. A larger one makes texts shorter and the "
        "embedding and the head larger.",
        unit="tokens",
        ge=MIN_VOCAB_SIZE,
        le=500_000,
    )
    max_megabytes: int = setting(
        200, "Text to learn from, at most; the first that comes.", unit="MB", group="Corpus", ge=1, le=100_000
    )
    max_conversations: int = setting(
        8_000, "Conversations to learn from, at most, as plain text.", group="Corpus", ge=0, le=10_000_000
    )


class _Corpus:
    """Texts in their order, counted, with every fiftieth set aside to measure on."""

    def __init__(self, config: TokenizerConfig, workspace: Workspace) -> None:
        self.config, self.workspace = config, workspace
        self.n_texts = self.n_bytes = 0
        self.held_out: list[str] = []
        self.held_out_bytes = 0
        self.stopped = False

    def __iter__(self) -> Iterator[str]:
        for text in self._texts():
            if self.stopped:
                raise InterruptedError("the run was stopped")
            if self.n_bytes >= self.config.max_megabytes * 1e6:
                return
            self.n_texts += 1
            size = len(text.encode("utf-8", "replace"))
            if self.n_texts % HELD_OUT_EVERY == 0 and self.held_out_bytes + size <= HELD_OUT_BYTES:
                self.held_out.append(text)
                self.held_out_bytes += size
            else:
                self.n_bytes += size
                yield text

    def _texts(self) -> Iterator[str]:
        from core_ml.tasks.rows import read_rows

        # Conversations first: they are few, and a corpus of pages would use up the limit before them.
        for folder in self.workspace.inputs("conversations"):
            for row in islice(
                read_rows(folder, ["messages"], input="conversations"), self.config.max_conversations
            ):
                yield " ".join(message["content"] or "" for message in row["messages"] or [])
        for folder in self.workspace.inputs("documents"):
            for row in read_rows(folder, ["text"], input="documents"):
                yield row["text"] or ""


def run(config: TokenizerConfig, workspace: Workspace) -> Iterator[Event]:
    yield Resumed(-1)
    if not workspace.has("documents") and not workspace.has("conversations"):
        raise UserError(
            "there is nothing to learn from: choose documents, conversations or both", field="documents"
        )
    corpus = _Corpus(config, workspace)
    tokenizer = yield from _train(corpus, config.vocab_size)
    if corpus.n_bytes == 0:
        raise UserError("the inputs hold no text: choose a dataset that has some", field="documents")
    yield Progress(1, 2, "phases", "measuring")
    n_bytes = n_tokens = n_words = 0
    lengths: dict[int, int] = {}
    openings: list[str] = []

    def measured() -> Iterator[tuple[None, str]]:
        nonlocal n_words
        for text in corpus.held_out or _first(corpus, 20):
            n_words += sum(1 for _ in WORD.finditer(text))
            if len(openings) < 4:
                openings.append(text[:200])
            yield None, text

    for _, ids in tokenizer.encode_pieces(measured()):
        n_tokens += len(ids)
        for id in ids:
            size = len(tokenizer.token_bytes[id])
            n_bytes += size
            lengths[size] = lengths.get(size, 0) + 1
    bytes_per_token = n_bytes / max(1, n_tokens)
    summary: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": round(bytes_per_token, 3),
        "tokens_per_word": round(n_tokens / max(1, n_words), 3),
        "n_merges": len(tokenizer.merge_ranks),
        "n_texts": corpus.n_texts,
        "trained_on_bytes": corpus.n_bytes,
        "measured_on_bytes": n_bytes,
    }
    yield _longest(tokenizer)
    yield _histogram(lengths, bytes_per_token)
    for opening in openings:
        pieces = [tokenizer.decode([id]) for id in tokenizer.encode(opening)]
        yield Sample(0, opening, " · ".join(pieces))
    writer = workspace.create("tokenizer", "tokenizer")
    tokenizer.save(writer.path)
    yield workspace.made("tokenizer", writer.finish(summary))
    findings = [
        f"A token of unseen text stands for {bytes_per_token:.2f} bytes; a byte-wise vocabulary has 1."
    ]
    if tokenizer.vocab_size < config.vocab_size:
        findings.append(
            f"The texts hold pairs for {tokenizer.vocab_size:,} tokens only, fewer than the {config.vocab_size:,} asked for."
        )
    yield Summary({**summary, "findings": findings})
    yield Progress(2, 2, "phases", "measuring")


def _train(corpus: _Corpus, vocab_size: int) -> Generator[Event, None, Tokenizer]:
    """Train in a thread, so that progress is told and a request to stop is heard meanwhile."""
    result: dict[str, Any] = {}

    def work() -> None:
        try:
            result["tokenizer"] = Tokenizer.train(corpus, vocab_size)
        except BaseException as error:
            result["error"] = error

    # A daemon: a run that is stopped need not wait for the merges.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(timeout=0.2)
            megabytes = corpus.n_bytes / 1e6
            yield Progress(
                0, 2, "phases", f"learning merges from {megabytes:,.1f} MB in {corpus.n_texts:,} texts"
            )
    finally:
        corpus.stopped = True
        # The interpreter must not end under a thread that still reads; learning merges may take longer than that.
        thread.join(timeout=STOP_WITHIN)
    if "error" in result:
        raise result["error"]
    return result["tokenizer"]


def _first(corpus: _Corpus, n: int) -> Iterator[str]:
    return islice(corpus._texts(), n)


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


def _histogram(lengths: dict[int, int], bytes_per_token: float) -> Figure:
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


def cost(config: TokenizerConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_bytes = min(
        sum(summary.get("bytes_text", 0) for summary in inputs.get("documents", [])),
        config.max_megabytes * 1e6,
    )
    return Cost(
        seconds=1 + (n_bytes or 3e6) / BYTES_PER_SECOND + config.vocab_size / 20_000,
        memory_bytes=int(200e6 + 4 * n_bytes),
        disk_bytes=config.vocab_size * 90,
        facts={"vocabulary": f"{config.vocab_size:,} tokens"},
    )


RECIPE = Recipe(
    kind="tokenizer",
    title="Train a tokenizer",
    stage="tokens",
    explanation=(
        "Learns which strings of bytes deserve a token of their own, because a model reads numbers, and the fewer "
        "numbers a text takes, the further it sees."
    ),
    config=TokenizerConfig,
    run=run,
    takes={
        "documents": Input(
            "dataset", ("documents",), optional=True, many=True, description="Texts to learn the merges from."
        ),
        "conversations": Input(
            "dataset",
            ("conversations",),
            optional=True,
            description="Conversations, read as plain text beside them.",
        ),
    },
    makes={"tokenizer": Output("tokenizer", description="tokenizer.json in the Hugging Face format.")},
    presets=(
        Preset(
            "tour", "Tour", "1,024 tokens: small enough that the embedding of a small network stays small."
        ),
        Preset(
            "tiny", "Tiny", "384 tokens, learned in a second; hardly more than bytes.", {"vocab_size": 384}
        ),
        Preset(
            "small",
            "Small",
            "8,192 tokens for a network of some 10 million parameters; wants 50 MB of text or more.",
            {"vocab_size": 8192},
        ),
    ),
    measures=(
        Measure(
            "bytes_per_token", "Bytes per token", "bytes", "higher", "Of texts that were not learned from."
        ),
        Measure("vocab_size", "Vocabulary", "tokens", "higher"),
    ),
    why=(
        "Why not simply letters, or words?",
        "Letters make texts long, and what a model can see at once is counted in tokens. Words leave every new "
        "name unreadable. Merging the most frequent neighbours again and again, from bytes up, gives frequent words "
        "one token and spells out the rest.",
        "Sennrich et al. 2016, Neural machine translation of rare words with subword units, arXiv:1508.07909",
    ),
    cost=cost,
)
