"""Learns a vocabulary: byte-level BPE with the special tokens of the chat protocol, and says what it is good for."""

import threading
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from pydantic import model_validator

from core_ml.config import RecipeConfig, setting
from core_ml.errors import UserError
from core_ml.events import Event, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.tokenizer import figures, measure, patterns
from core_ml.tokenizer.measure import Measured, Text
from core_ml.tokenizer.tokenizer import MIN_VOCAB_SIZE, Tokenizer
from core_ml.workspace import Workspace

HELD_OUT_EVERY = 50  # one text in so many is measured and not learned from
HELD_OUT_BYTES = 2_000_000
COMPARED_BYTES = 20_000_000
"""So much of what was learned from is learned from again with other patterns."""
STOP_WITHIN = 1.5  # seconds
BYTES_PER_SECOND = 8e6
DOMAIN_NAMES = ("domain", "category", "subset", "topic")


class TokenizerConfig(RecipeConfig):
    vocab_size: int = setting(
        1024,
        "Tokens in the vocabulary, bytes and special tokens included. A larger one makes texts shorter and the "
        "embedding and the head larger.",
        unit="tokens",
        ge=MIN_VOCAB_SIZE,
        le=500_000,
    )
    pattern: patterns.Name = setting(
        "digits",
        "How text is cut into words before anything is merged: each digit alone (a small model learns sums), as "
        "GPT-2 or GPT-4 do, or by a pattern of your own.",
    )
    own_pattern: str = setting(
        "",
        "A regular expression whose matches are the words, for the pattern 'own'; what it leaves out stands alone.",
        max_length=patterns.MAX_CHARS,
        group="Words",
    )
    max_megabytes: int = setting(
        200, "Text to learn from, at most; the first that comes.", unit="MB", group="Corpus", ge=1, le=100_000
    )
    max_conversations: int = setting(
        8_000, "Conversations to learn from, at most, as plain text.", group="Corpus", ge=0, le=10_000_000
    )
    compare_patterns: bool = setting(
        True,
        "Learn again with the other patterns, on 20 MB at most, to see which one suits these texts.",
        group="Words",
    )

    @model_validator(mode="after")
    def _own_pattern_will_do(self) -> "TokenizerConfig":
        if self.pattern == "own":
            try:
                patterns.check(self.own_pattern)
            except UserError as error:
                raise ValueError(error.message) from None
        return self


class _Corpus:
    """Texts in their order, counted, with every fiftieth set aside to measure on."""

    def __init__(self, config: TokenizerConfig, workspace: Workspace, max_bytes: float | None = None) -> None:
        self.config, self.workspace = config, workspace
        self.max_bytes = config.max_megabytes * 1e6 if max_bytes is None else max_bytes
        self.n_texts = self.n_bytes = 0
        self.held_out: list[Text] = []
        self.held_out_bytes = 0
        self.stopped = False

    def __iter__(self) -> Iterator[str]:
        for text in self.texts():
            if self.stopped:
                raise InterruptedError("the run was stopped")
            if self.n_bytes >= self.max_bytes:
                return
            self.n_texts += 1
            size = len(text.text.encode("utf-8", "replace"))
            if self.n_texts % HELD_OUT_EVERY == 0 and self.held_out_bytes + size <= HELD_OUT_BYTES:
                self.held_out.append(text)
                self.held_out_bytes += size
            else:
                self.n_bytes += size
                yield text.text

    def texts(self) -> Iterator[Text]:
        from core_ml.tasks.rows import read_rows

        # Conversations first: they are few, and a corpus of pages would use up the limit before them.
        for folder in self.workspace.inputs("conversations"):
            for row in islice(
                read_rows(folder, ["messages"], input="conversations"), self.config.max_conversations
            ):
                text = " ".join(message["content"] or "" for message in row["messages"] or [])
                yield Text(text, None, "conversations")
        for folder in self.workspace.inputs("documents"):
            for row in read_rows(folder, ["text", *_told_by(folder)], input="documents"):
                said = (row["metadata"].get(name) for name in DOMAIN_NAMES)
                domain = next((name for name in said if isinstance(name, str) and name), row.get("source"))
                yield Text(row["text"] or "", row.get("language"), domain)

    def sample(self) -> "_Corpus":
        """The first of what was learned from, again."""
        return _Corpus(self.config, self.workspace, min(self.max_bytes, COMPARED_BYTES))


def _told_by(folder: Any) -> list[str]:
    """Columns that all files of the documents have beside the text; a file that is damaged is told by its reader."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {"language", "source"}
    for path in folder.files(".parquet"):
        try:
            names &= set(pq.read_schema(path).names)
        except (pa.ArrowException, OSError):
            return []
    return sorted(names)


def run(config: TokenizerConfig, workspace: Workspace) -> Iterator[Event]:
    yield Resumed(-1)
    if not workspace.has("documents") and not workspace.has("conversations"):
        raise UserError(
            "there is nothing to learn from: choose documents, conversations or both", field="documents"
        )
    corpus = _Corpus(config, workspace)
    tokenizer = yield from _train(corpus, config.vocab_size, config.pattern, config.own_pattern)
    if corpus.n_bytes == 0:
        raise UserError("the inputs hold no text: choose a dataset that has some", field="documents")
    yield Progress(1, 3, "phases", "measuring")
    held_out = corpus.held_out or list(islice(corpus.texts(), 20))
    _agree(tokenizer, held_out)
    measured = measure.measure(tokenizer, held_out)
    seldom = yield from _seldom(tokenizer, _Corpus(config, workspace))
    n_dead = sum(count == 0 for _, count in seldom)
    compared: list[dict[str, Any]] = []
    if config.compare_patterns:
        compared = yield from _compare(config, corpus, tokenizer, held_out, measured)
    total = measured.total
    summary: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": round(total.bytes_per_token, 3),
        "tokens_per_word": round(total.tokens_per_word, 3),
        "pattern": config.pattern,
        "n_merges": len(tokenizer.merge_ranks),
        "dead_tokens": n_dead,
        "rare_tokens": len(seldom) - n_dead,
        "n_texts": corpus.n_texts,
        "trained_on_bytes": corpus.n_bytes,
        "measured_on_bytes": total.n_bytes,
    }
    report = {
        "languages": measure.rows(measured.languages),
        "domains": measure.rows(measured.domains),
        "patterns": compared,
        "counted_bytes": corpus.n_bytes,
        "seldom": [[id, count] for id, count in seldom[: figures.N_SHOWN]],
    }
    yield from figures.draw(tokenizer, measured, report, seldom)
    for text in held_out[:4]:
        opening = text.text[:200]
        pieces = [tokenizer.decode([id]) for id in tokenizer.encode(opening)]
        yield Sample(0, opening, " · ".join(pieces))
    writer = workspace.create("tokenizer", "tokenizer")
    tokenizer.save(writer.path)
    yield workspace.made("tokenizer", writer.finish({**summary, "report": report}))
    yield Summary({**summary, "findings": _findings(config, tokenizer, summary, compared)})
    yield Progress(3, 3, "phases", "comparing")


def _train(
    corpus: _Corpus, vocab_size: int, pattern: patterns.Name, own: str = ""
) -> Generator[Event, None, Tokenizer]:
    """Train in a thread, so that progress is told and a request to stop is heard while the texts are read.

    The merging that follows holds the interpreter for a second or so in a hundred megabytes; a run that is
    cancelled meanwhile is killed by its supervisor, and there is nothing that it would have saved.
    """
    result: dict[str, Any] = {}

    def work() -> None:
        try:
            result["tokenizer"] = Tokenizer.train(corpus, vocab_size, pattern, own)
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
                0, 3, "phases", f"learning merges from {megabytes:,.1f} MB in {corpus.n_texts:,} texts"
            )
    finally:
        corpus.stopped = True
        # The interpreter must not end under a thread that still reads; learning merges may take longer than that.
        thread.join(timeout=STOP_WITHIN)
    if "error" in result:
        raise result["error"]
    return result["tokenizer"]


def _seldom(tokenizer: Tokenizer, corpus: _Corpus) -> Generator[Event, None, list[tuple[int, int]]]:
    """What hardly stands in the texts that were learned from, all of them: a name may stand in the last one only."""
    counts: Any = None
    for latest in measure.occurrences(tokenizer, corpus):
        counts = latest
        yield Progress(1, 3, "phases", f"counting tokens in {corpus.n_bytes / 1e6:,.1f} MB")
    return measure.seldom(tokenizer, counts)


def _agree(tokenizer: Tokenizer, texts: list[Text]) -> None:
    """Raises UserError where two libraries would cut a text differently, as a pattern of one's own may make them."""
    for text in texts:
        own = tokenizer.encode(text.text)
        theirs = tokenizer.inner.encode(patterns.valid(text.text), add_special_tokens=False).ids
        if own != theirs:
            raise UserError(
                f"the libraries that read the pattern cut {text.text[:60]!r} differently: write a plainer one",
                field="own_pattern",
            )


def _compare(
    config: TokenizerConfig, corpus: _Corpus, tokenizer: Tokenizer, held_out: list[Text], measured: Measured
) -> Generator[Event, None, list[dict[str, Any]]]:
    """Bytes a token of the same unseen texts for every pattern, learned from the same texts at the same size."""
    rows = []
    names: list[patterns.Name] = [*patterns.PATTERNS]
    if config.pattern == "own":
        names.insert(0, "own")
    for name in names:
        title = patterns.PATTERNS[name].title if name in patterns.PATTERNS else "own"
        yield Progress(2, 3, "phases", f"comparing with words cut: {title}")
        found = measured
        if name != config.pattern or corpus.n_bytes > COMPARED_BYTES:
            other = yield from _train(corpus.sample(), config.vocab_size, name, config.own_pattern)
            found = measure.measure(other, held_out)
        rows.append(
            {
                "name": title,
                "chosen": name == config.pattern,
                "bytes_per_token": round(found.total.bytes_per_token, 3),
                "tokens_per_word": round(found.total.tokens_per_word, 3),
            }
        )
    return rows


def _findings(
    config: TokenizerConfig, tokenizer: Tokenizer, summary: dict[str, Any], compared: list[dict[str, Any]]
) -> list[str]:
    findings = [
        f"A token of unseen text stands for {summary['bytes_per_token']:.2f} bytes; a byte-wise vocabulary has 1."
    ]
    if tokenizer.vocab_size < config.vocab_size:
        findings.append(
            f"The texts hold pairs for {tokenizer.vocab_size:,} tokens only, fewer than the {config.vocab_size:,} asked for."
        )
    if compared:
        findings.append(figures.of_patterns(compared))
    if summary["rare_tokens"] + summary["dead_tokens"] > 0.05 * summary["n_merges"]:
        findings.append(
            f"{summary['dead_tokens']:,} learned tokens never stand in the texts and {summary['rare_tokens']:,} fewer "
            f"than {measure.RARE} times: the vocabulary is large for so little text."
        )
    return findings


def cost(config: TokenizerConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_bytes = min(
        sum(summary.get("bytes_text", 0) for summary in inputs.get("documents", [])),
        config.max_megabytes * 1e6,
    )
    n_bytes = n_bytes or 3e6
    again = n_bytes + (len(patterns.PATTERNS) if config.compare_patterns else 0) * min(
        n_bytes, COMPARED_BYTES
    )
    return Cost(
        seconds=2 + (n_bytes + again) / BYTES_PER_SECOND + config.vocab_size / 20_000,
        # Different words are kept, and no texts: of 9 MB of novels 70 MB, of 49 MB 160, and ever fewer are new.
        memory_bytes=int(180e6 + 22e3 * n_bytes**0.5),
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
