"""What a pretraining run reads: documents, packed here, or datasets of tokens; one or several, by weight."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.events import Event
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.batches import Batches
from core_ml.training.packing import pack
from core_ml.training.tokens import Tokens, fingerprint
from core_ml.workspace import Workspace


@dataclass(frozen=True)
class Mixture:
    """Datasets in the order in which they were given."""

    names: list[str]
    train: list[Tokens]
    val: list[Tokens]
    weights: list[float] | None

    @property
    def n_tokens(self) -> int:
        return sum(tokens.n_tokens for tokens in self.train)

    @property
    def split_by(self) -> str:
        return ", ".join(dict.fromkeys(tokens.split_by for tokens in self.train))

    def batches(self, seq_len: int, batch_size: int, seed: int) -> Batches:
        return Batches(self.train, seq_len, batch_size, seed, self.weights)

    def windows(self, seq_len: int, n_tokens: int) -> np.ndarray:
        """(n, seq_len + 1) validation windows, of every dataset in its proportion."""
        found = [
            tokens.spread(seq_len, max(1, round(n_tokens * share)))
            for tokens, share in zip(self.val, self._shares(), strict=True)
        ]
        # Where a dataset is too short for a window, its one row is shorter than those of the others.
        width = max(rows.shape[1] for rows in found)
        return np.concatenate([rows for rows in found if rows.shape[1] == width])

    def text(self) -> Iterator[np.ndarray]:
        """Training tokens shard by shard: as many of each dataset as keep the proportion."""
        shares = self._shares()
        wanted = min(tokens.n_tokens / share for tokens, share in zip(self.train, shares, strict=True))
        for tokens, share in zip(self.train, shares, strict=True):
            left = round(wanted * share)
            for shard in tokens.shards:
                yield shard[:left]
                left = max(0, left - len(shard))

    def _shares(self) -> list[float]:
        weights = self.weights or [tokens.n_tokens for tokens in self.train]
        return [weight / sum(weights) for weight in weights]

    def told(self, batches: Batches, steps: int) -> list[dict[str, Any]]:
        """Of each dataset its share of the run and how often it was read, for a summary."""
        rows = zip(self.names, self.train, batches.shares, batches.epochs(steps), strict=True)
        return [
            {
                "name": name,
                "train_tokens": tokens.n_tokens,
                "val_share": tokens.val_share,
                "share": round(float(share), 4),
                "epochs": round(epochs, 2),
            }
            for name, tokens, share, epochs in rows
        ]


def opened(
    workspace: Workspace, tokenizer: Tokenizer, val_share: float, seed: int, weights: Sequence[float] | None
) -> Generator[Event, None, Mixture]:
    """The run's documents, packed where they are not yet, or its tokens.

    Raises: UserError when both or none were given, for tokens of another tokenizer, and for weights that do not
    fit.
    """
    documents, tokens = workspace.inputs("documents"), workspace.inputs("tokens")
    if bool(documents) == bool(tokens):
        given = "both were given" if tokens else "none were given"
        raise UserError(f"choose either documents or tokens to read: {given}", field="documents")
    datasets = documents or tokens
    if weights is not None and len(weights) != len(datasets):
        raise UserError(
            f"there are {len(weights)} weights for {len(datasets)} datasets: give one for each, in their order",
            field="weights",
        )
    check_tokenizer(workspace.input("tokenizer"), tokens)
    folders: list[Path] = [folder.path for folder in tokens]
    for number, folder in enumerate(documents):
        folders.append(workspace.state / "tokens" / f"{number:02d}")
        yield from pack(files_of(folder), tokenizer, folders[-1], val_share, seed)
    return Mixture(
        [folder.manifest.name for folder in datasets],
        [Tokens(folder, "train") for folder in folders],
        [Tokens(folder, "val") for folder in folders],
        None if weights is None else list(weights),
    )


def check_tokenizer(tokenizer: Folder, tokens: Sequence[Folder]) -> None:
    """Raises UserError for tokens whose ids mean something else to this tokenizer."""
    for folder in tokens:
        packed = Tokens(folder.path, "train").tokenizer
        if packed["sha256"] != fingerprint(tokenizer.file("tokenizer.json")):
            raise UserError(
                f"{folder.manifest.name} was packed with the tokenizer {packed['name']} ({packed['id']}), and "
                f"{tokenizer.manifest.name} ({tokenizer.manifest.id}) gives other ids: choose the one, or pack anew",
                field="tokens",
            )


def files_of(folder: Folder) -> list[Path]:
    """Files of documents, without the crawl's decisions beside them."""
    return [file for file in folder.files(".parquet") if file.name.startswith("documents")]
