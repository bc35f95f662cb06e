"""The rollouts of each round on disk: rows of the form `rollouts`, which anybody may rank, and what was made of them.

A round is one file that appears whole. A round that is made again after a kill has the same rows. Pages read this
module for its names, so it imports no torch.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from core_ml.artifact import sync
from core_ml.tasks.rows import SCHEMAS
from core_ml.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from core_ml.feedback.practice import Round

FOLDER = "rollouts"
_NUMBERS = pa.list_(pa.list_(pa.float32()))
SCHEMA = pa.schema(
    [
        *SCHEMAS["rollouts"],
        ("step", pa.int32()),
        ("rewards", pa.list_(pa.float32())),
        ("tokens", pa.list_(pa.list_(pa.string()))),
        ("advantages", _NUMBERS),
        ("kl", _NUMBERS),
    ]
)
"""One row a group; `kl` is each token's, exact, and null where it was not measured."""


def name_of(step: int) -> str:
    return f"rollouts-{step:06d}.parquet"


def table(step: int, round: "Round", tokenizer: Tokenizer) -> pa.Table:
    rollouts, before, n = round.rollouts, round.before, round.rollouts.n
    pieces = tokenizer.token_bytes
    rows = []
    for group, prompt in enumerate(round.prompts):
        mine = slice(group * n, group * n + n)
        rows.append(
            {
                "group_id": f"s{step}-{group}",
                "prompt": prompt.text,
                "completions": rollouts.texts[mine],
                "logprobs": rollouts.logprobs[mine],
                "ended": rollouts.ended[mine],
                "metadata": json.dumps(prompt.metadata | {"step": step}),
                "step": step,
                "rewards": round.rewards[mine].tolist(),
                "tokens": [
                    [pieces[id].decode(errors="replace") for id in answer]
                    for _, answer in rollouts.rows[mine]
                ],
                "advantages": [one.tolist() for one in round.advantages[mine]],
                "kl": [one.tolist() for one in before.kl[mine]] if before.kl else None,
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def write(folder: Path, step: int, round: "Round", tokenizer: Tokenizer) -> None:
    folder.mkdir(exist_ok=True)
    hidden = folder / f".{name_of(step)}.tmp"
    pq.write_table(table(step, round, tokenizer), hidden, compression="zstd")
    sync(hidden)
    hidden.replace(folder / name_of(step))


def collect(folder: Path, target: Path, steps: int) -> int:
    """Copy the files of all rounds up to `steps` into an artifact; returns the number of their groups."""
    n_rows = 0
    for path in sorted(folder.glob("rollouts-*.parquet")):
        if path.name <= name_of(steps):
            shutil.copyfile(path, target / path.name)
            n_rows += pq.read_metadata(path).num_rows
    return n_rows
