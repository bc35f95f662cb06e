"""The answers of a run's rounds, read in place from its own Parquet files, while it runs and afterwards.

While a run works its rounds lie beside its saved state, each file whole; when it has ended they are an artifact.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_ml.feedback.kept import FOLDER
from core_ml.feedback.reasons import Reason, headline, reasons
from lab.models import Run
from lab.queries import artifacts
from lab.queries.metrics import curve
from lab.queries.rows import fetch
from lab.services.artifacts import state_dir

KINDS = ("rlhf",)
MAX_FILES = 400
"""Rounds that one question looks through; a run may have made a hundred thousand."""
SORTS = {
    "": '"step", "number", "i"',
    "best": '"reward" DESC, "step", "number", "i"',
    "worst": '"reward", "step", "number", "i"',
    "longest": '"n_tokens" DESC, "step", "number", "i"',
    "farthest": '"kl" DESC NULLS LAST, "step", "number", "i"',
}
CURVES = (
    "reward", "kl", "flat_groups", "group_std", "ended", "mean_tokens", "clipfrac", "entropy", "value_loss",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Which answers are wanted: None and "" ask for nothing. `step` None is every round."""

    step: int | None = None
    q: str = ""
    min_reward: float | None = None
    max_reward: float | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    sort: str = ""


@dataclass(frozen=True)
class Answers:
    items: list[dict[str, Any]]
    count: int
    cut: bool
    """Whether there are more rounds than were looked through."""


def folder(run: Run) -> Path | None:
    """Where the rounds lie, if the run keeps any."""
    if run.kind not in KINDS:
        return None
    made = run.artifacts.filter(output="rollouts").first()
    found = artifacts.path(made) if made else state_dir(run) / "state" / FOLDER
    return found if found.is_dir() else None


def files(run: Run) -> dict[int, Path]:
    """By step, the earliest first; rounds that the run has still to make again after a kill do not count."""
    found = folder(run)
    if found is None:
        return {}
    reached = run.progress.get("step") if run.is_live else None
    by_step = {int(path.stem.split("-")[1]): path for path in sorted(found.glob("rollouts-[0-9]*.parquet"))}
    return {step: path for step, path in by_step.items() if reached is None or step <= reached}


def answers(run: Run, asked: Asked, offset: int = 0, limit: int = 24) -> Answers:
    """One row an answer, with its group's rewards and lengths beside it."""
    everything = files(run)
    paths = [path for step, path in everything.items() if asked.step is None or step == asked.step]
    newest = paths[-MAX_FILES:]
    if not newest:
        return Answers([], 0, False)
    # A file may vanish between two looks: the run has ended, and its artifact has it.
    where, given = _where(asked)
    parameters = {"files": [str(path.resolve()) for path in newest], **given}
    source = """
        WITH groups AS (
            SELECT *, row_number() OVER () AS "number",
                list_transform("tokens", lambda one: len(one)) AS "group_tokens"
            FROM read_parquet($files)
        ), answers AS (
            SELECT "step", "group_id", "prompt", "number", "group_tokens", "rewards" AS "group_rewards", "i",
                "completions"["i"] AS "text", "rewards"["i"] AS "reward", "ended"["i"] AS "ended",
                "tokens"["i"] AS "tokens", "advantages"["i"] AS "advantages", "kl"["i"] AS "token_kl",
                list_sum("kl"["i"]) AS "kl", len("tokens"["i"]) AS "n_tokens"
            FROM groups, LATERAL (SELECT unnest(range(1, len("completions") + 1)) AS "i")
        ) """
    count = fetch(newest[0].parent, f"{source} SELECT count(*) AS n FROM answers {where}", parameters)[0]["n"]
    items = fetch(
        newest[0].parent,
        f"{source} SELECT * FROM answers {where} ORDER BY {SORTS[asked.sort]} LIMIT $limit OFFSET $offset",
        {**parameters, "limit": limit, "offset": offset},
    )
    return Answers(items, count, len(paths) > len(newest))


def _where(asked: Asked) -> tuple[str, dict[str, Any]]:
    conditions = {
        "q": ('contains(lower("prompt"), lower($q))', asked.q.strip()[:200].replace("\0", "") or None),
        "min_reward": ('"reward" >= $min_reward', asked.min_reward),
        "max_reward": ('"reward" <= $max_reward', asked.max_reward),
        "min_tokens": ('"n_tokens" >= $min_tokens', asked.min_tokens),
        "max_tokens": ('"n_tokens" <= $max_tokens', asked.max_tokens),
    }
    wanted = {name: value for name, (_, value) in conditions.items() if value is not None}
    return ("WHERE " + " AND ".join(conditions[name][0] for name in wanted) if wanted else ""), wanted


def why(run: Run) -> tuple[str, list[Reason]]:
    """Whether the reward moves, and what stands in its way, from the run's own figures."""
    curves = {name: curve(run, name)["values"] for name in CURVES}
    return headline(curves), reasons(curves, run.config)
