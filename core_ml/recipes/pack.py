"""Turns documents into tokens once, so that any number of pretraining runs can read them."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_ml.config import RecipeConfig, setting
from core_ml.events import Event, Figure, Log, Sample, Summary
from core_ml.recipe import Cost, Input, Output, Preset, Recipe, Stage
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.tokenizer.tokenizer import Tokenizer
    from core_ml.training.packing import Piece
    from core_ml.training.split import Split

PIECES = "pieces.json"
BYTES_PER_SECOND = 2e6  # of text that one core packs
N_SAMPLES, SAMPLE_TOKENS = 4, 64


class PackConfig(RecipeConfig):
    val_share: float = setting(
        0.05, "Share of the text kept for validation, whole hosts where there are many.", gt=0, le=0.5
    )
    seed: int = setting(0, "The same seed gives the same order of documents.", ge=0, le=2**31 - 1)
    piece_mb: float = setting(
        64.0,
        "Text that one process packs at a time. The result does not depend on it.",
        unit="MB",
        group="Machine",
        gt=0,
        le=100_000,
    )


def pieces(config: PackConfig, workspace: Workspace) -> list[str]:
    """Look at the documents' files, and remember the pieces for all stages."""
    from dataclasses import asdict

    from core_ml.training.mixture import files_of
    from core_ml.training.packing import pieces as cut

    folder = workspace.input("documents")
    found = [asdict(piece) for piece in cut(files_of(folder), int(config.piece_mb * 1e6))]
    # Where the artifact lies may differ from one worker to the next.
    named = [{**piece, "path": str(Path(piece["path"]).relative_to(folder.path))} for piece in found]
    workspace.write_json(PIECES, named)
    return same_pieces(config, workspace)


def same_pieces(config: PackConfig, workspace: Workspace) -> list[str]:
    return [f"{number:06d}" for number in range(len(workspace.read_json(PIECES)))]


def _piece(name: str, workspace: Workspace) -> "Piece":
    from core_ml.training.packing import Piece

    found = workspace.read_json(PIECES)[int(name)]
    path = str(workspace.input("documents").path / found["path"])
    return Piece(path, tuple(found["groups"]), found["row"], found["place"], found["n_rows"])


def _folder(workspace: Workspace) -> Path:
    assert workspace.shard_dir is not None
    return workspace.shard_dir


def survey(name: str, config: PackConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.training import packing

    yield from packing.survey(_piece(name, workspace), _folder(workspace))


def split(name: str, config: PackConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.training import packing

    chosen = packing.split(workspace.shards("survey"), config.val_share)
    (_folder(workspace) / "split.json").write_text(json.dumps(chosen.to_json()))
    yield Log(f"kept for validation: {config.val_share:.0%} of the text, by {chosen.level}")


def encode(name: str, config: PackConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.training import packing

    # In a pool the other cores are at other pieces.
    threads = 1 if multiprocessing.parent_process() else None
    piece, tokenizer = _piece(name, workspace), _tokenizer(workspace)
    yield from packing.encode(piece, tokenizer, _split(workspace), _folder(workspace), threads)


def _split(workspace: Workspace) -> "Split":
    from core_ml.training.split import Split

    return Split.from_json(json.loads((workspace.shards("split")[0] / "split.json").read_text()))


def _tokenizer(workspace: Workspace) -> "Tokenizer":
    from core_ml.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(workspace.input("tokenizer").file("tokenizer.json"))


def shards(config: PackConfig, workspace: Workspace) -> list[str]:
    from core_ml.training import packing

    return packing.shard_names(packing.counts(workspace.shards("encode")))


def gather(name: str, config: PackConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.training import packing

    encoded = workspace.shards("encode")
    n_shards = packing.n_shards(packing.counts(encoded), name)
    dtype = packing.token_type(_tokenizer(workspace).vocab_size)
    yield from packing.gather(encoded, name, n_shards, config.seed, dtype, _folder(workspace))


def finish(name: str, config: PackConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.training import packing
    from core_ml.training.tokens import fingerprint

    given, tokenizer = workspace.input("tokenizer"), _tokenizer(workspace)
    total = packing.counts(workspace.shards("encode"))
    identity = {
        "id": given.manifest.id,
        "name": given.manifest.name,
        "sha256": fingerprint(given.file("tokenizer.json")),
        "vocab_size": tokenizer.vocab_size,
    }
    writer = workspace.create("tokens", "dataset", form="tokens")
    try:
        for shard in workspace.shards("gather"):
            for file in sorted(shard.iterdir()):
                packing.place_file(file, writer.path / file.name)
        # The ids mean nothing without it, and it is small.
        for file in given.files(".json"):
            packing.place_file(file, writer.path / file.name)
        dtype = packing.token_type(tokenizer.vocab_size)
        chosen = _split(workspace)
        packing.complete(writer.path, total, dtype, chosen, config.seed, identity)
        summary = _summary(total, identity, chosen.level)
        yield from _shown(writer.path, tokenizer)
        yield workspace.made("tokens", writer.finish(summary))
    finally:
        writer.discard()
    finding = (
        f"{summary['n_documents']:,} documents became {summary['n_tokens']:,} tokens of "
        f"{summary['bytes_per_token']:.2f} bytes each."
    )
    yield Summary({**summary, "findings": [finding]})


def _summary(total: dict[str, dict[str, int]], identity: dict[str, Any], split_by: str) -> dict[str, Any]:
    n_documents, n_bytes, n_tokens = (
        sum(count[name] for count in total.values()) for name in ("n_documents", "n_bytes", "n_tokens")
    )
    return {
        "n_tokens": n_tokens,
        "train_tokens": total["train"]["n_tokens"],
        "val_tokens": total["val"]["n_tokens"],
        "n_documents": n_documents,
        "bytes_text": n_bytes,
        # Without the mark before each document, which stands for no byte.
        "bytes_per_token": round(n_bytes / max(1, n_tokens - n_documents), 3),
        "tokens_per_document": round(n_tokens / n_documents, 1),
        "split_by": split_by,
        "vocab_size": identity["vocab_size"],
        "tokenizer": identity["name"],
        "tokenizer_id": identity["id"],
        "tokenizer_sha256": identity["sha256"],
    }


def _shown(folder: Path, tokenizer: "Tokenizer") -> Iterator[Event]:
    """How long documents are, and how some of them begin."""
    import numpy as np

    from core_ml.training.tokens import Tokens

    tokens = Tokens(folder, "train")
    bins = np.zeros(64, dtype=np.int64)
    for shard, entries in zip(tokens.shards, tokens.documents, strict=True):
        lengths = np.diff(entries["start"].astype(np.int64), append=len(shard))
        bins += np.bincount(np.log2(lengths).astype(np.int64), minlength=64)
    filled = np.flatnonzero(bins)
    labels = [f"{1 << k:,} to {(2 << k) - 1:,}" for k in filled]
    most = labels[int(bins[filled].argmax())]
    content = {
        "data": [{"type": "bar", "x": labels, "y": bins[filled].tolist()}],
        "layout": {"xaxis": {"title": {"text": "tokens"}}, "yaxis": {"title": {"text": "documents"}}},
    }
    yield Figure(
        "document_lengths", 0, "Tokens of a document", content, f"Most documents have {most} tokens."
    )
    shard, starts = tokens.shards[0], tokens.documents[0]["start"][:N_SAMPLES]
    for start, end in zip(starts, [*starts[1:], len(shard)], strict=True):
        ids = shard[start : min(end, start + SAMPLE_TOKENS)].tolist()
        yield Sample(0, tokenizer.decode(ids), " · ".join(tokenizer.decode([id]) for id in ids[1:]))


def cost(config: PackConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_bytes = sum(summary.get("bytes_text", 0) for summary in inputs.get("documents", []))
    if not n_bytes:
        return Cost()
    return Cost(
        seconds=10 + n_bytes / BYTES_PER_SECOND,
        memory_bytes=500_000_000,
        # Twice for a while: as they were encoded, and as they were shuffled.
        disk_bytes=2 * n_bytes,
        facts={"time is for": "one processor core; pieces are packed on as many as there are"},
    )


RECIPE = Recipe(
    kind="pack",
    title="Pack",
    stage="tokens",
    explanation=(
        "Turns documents into the numbers that a model reads, shuffled, once and for all, because pretraining on a "
        "large corpus should not wait for its tokenizer, nor do it again for every run."
    ),
    config=PackConfig,
    takes={
        "documents": Input("dataset", ("documents",), description="Texts to pack."),
        "tokenizer": Input("tokenizer", description="How the texts become numbers."),
    },
    makes={"tokens": Output("dataset", "tokens", description="What a pretraining run reads.")},
    stages=(
        Stage("survey", "Measuring documents", pieces, survey),
        Stage("split", "Choosing text for validation", lambda config, workspace: ["all"], split),
        Stage("encode", "Packing tokens", same_pieces, encode),
        Stage("gather", "Shuffling documents", shards, gather),
        Stage("finish", "Checking and writing", lambda config, workspace: ["all"], finish),
    ),
    presets=(
        Preset(
            "plain", "Plain", "A twentieth of the text is kept for validation, whole hosts or pages of it."
        ),
    ),
    why=(
        "Why shuffle documents?",
        "A crawl finds pages of one site one after the other. A model that reads them so learns that site, then "
        "forgets it for the next. In a drawn order every batch is a small picture of the whole, and the same seed "
        "gives the same order on any number of machines.",
        "Bottou 2012, Stochastic gradient descent tricks",
    ),
    cost=cost,
)
