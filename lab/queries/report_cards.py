"""The report card of one checkpoint: what it scored in the runs that examined it, against the model before it.

Scores are counted from the report's rows, which hold the verdict on each answer, so that a change can be judged
problem by problem; the interval of a difference then leaves out how hard the problems are.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.evaluation.statistics import Share, mean, paired_change, wilson
from lab.models import Artifact, Run
from lab.models.run import SUCCEEDED
from lab.queries import artifacts
from lab.queries.rows import fetch, files

MODES = {"greedy": "greedy", "sampled": "sampled", "few-shot": "two examples, plain text"}
MAX_ROWS = 20_000


@dataclass(frozen=True)
class Score:
    """One measure of this model and of the one before it, on an axis of its own."""

    title: str
    note: str
    this: Share | None
    before: Share | None
    change: float | None
    sure: bool
    """Whether the interval of the change leaves out 0."""
    start: float
    end: float


@dataclass(frozen=True)
class ReportCard:
    run: Run
    name: str
    before: str
    before_artifact: Artifact | None
    groups: list[tuple[str, list[Score]]]
    findings: list[str]
    others: list[Run]
    """Earlier runs that examined it too."""


def of(checkpoint: Artifact) -> ReportCard | None:
    """The newest report card that this checkpoint is in, or None. Raises UserError when its report is damaged."""
    taken = checkpoint.taken_by.filter(run__kind="evaluate", run__status=SUCCEEDED, run__deleted=None)
    runs = list(dict.fromkeys(given.run for given in taken.select_related("run").order_by("-run_id")))
    for run in runs:
        models = run.summary.get("models") or []
        given = list(
            run.inputs.filter(name="checkpoints").order_by("position").select_related("artifact__run")
        )
        report = run.artifacts.filter(form="rollouts").first()
        places = [i for i, one in enumerate(given) if one.artifact_id == checkpoint.pk]
        if not places or len(models) != len(given) or report is None:
            continue
        name, before = models[places[0]], models[places[0] - 1] if places[0] else ""
        try:
            answers = _answers(report)
            groups = _groups(run, answers.get(name, {}), answers.get(before, {}), name, before)
        except (KeyError, ValueError) as error:
            raise UserError(f"its rows are not those of a report: {error}") from error
        # Of "aligned" nothing is said in a sentence about "aligned 2" alone.
        about = re.compile(rf"(?<!\w){re.escape(name)}(?!\w| \d)")
        findings = [one for one in run.summary.get("findings", []) if about.search(one)]
        before_artifact = given[places[0] - 1].artifact if before else None
        return ReportCard(
            run, name, before, before_artifact, groups, findings, [one for one in runs if one != run]
        )
    return None


Answers = dict[str, list[dict[str, Any]]]


def _answers(report: Artifact) -> dict[str, Answers]:
    """By model and mode the answers in the order of the problems: task, correct, liked, reward, n_tokens."""
    folder = Folder(artifacts.path(report))
    source = {"files": [str(path.resolve()) for path in files(folder, "rollouts")], "limit": MAX_ROWS}
    rows = fetch(
        folder.path,
        'SELECT "metadata", list_transform("logprobs", lambda scores: len(scores)) AS lengths '
        "FROM read_parquet($files) LIMIT $limit",
        source,
    )
    found: dict[str, Answers] = {}
    for row in rows:
        data = json.loads(row["metadata"])
        by_mode = found.setdefault(data["model"], {})
        for i, mode in enumerate(data["modes"]):
            answer = {
                "task": data.get("task"),
                "correct": data["correct"][i],
                "liked": data["liked"][i],
                "reward": data["rewards"][i],
                "n_tokens": row["lengths"][i] if row["lengths"] else None,
            }
            by_mode.setdefault(mode, []).append(answer)
    return found


def _groups(
    run: Run, this: Answers, before: Answers, name: str, before_name: str
) -> list[tuple[str, list[Score]]]:
    groups: list[tuple[str, list[Score]]] = []
    preference, skill, tasks = [], [], []
    for mode, said in MODES.items():
        mine, theirs = this.get(mode, []), before.get(mode, [])
        skill.append(_share("Problems solved", said, _values(mine, "correct"), _values(theirs, "correct")))
        preference.append(_share("Liked answers", said, _values(mine, "liked"), _values(theirs, "liked")))
    mine, theirs = this.get("greedy", []), before.get("greedy", [])
    preference.append(
        _mean("Reward", "mean of greedy answers", _values(mine, "reward"), _values(theirs, "reward"))
    )
    preference.append(
        _mean("Tokens in an answer", "greedy", _values(mine, "n_tokens"), _values(theirs, "n_tokens"))
    )
    for task in dict.fromkeys(answer["task"] for answer in mine):
        own = [answer for answer in mine if answer["task"] == task]
        other = [answer for answer in theirs if answer["task"] == task]
        tasks.append(_share(str(task).capitalize(), f"{len(own)} problems", _values(own, "correct"), _values(other, "correct")))  # fmt: skip
    knowledge = [_bits(run, name, before_name)]
    for title, scores in (("Preference", preference), ("Knowledge", knowledge), ("Skill", skill), ("By task, greedy", tasks)):  # fmt: skip
        if there := [score for score in scores if score is not None]:
            groups.append((title, there))
    return groups


def _values(answers: list[dict[str, Any]], key: str) -> list[float]:
    """The values of all answers; none when one of them has no value."""
    values = [answer[key] for answer in answers]
    return [] if any(value is None for value in values) else [float(value) for value in values]


def _share(title: str, note: str, this: list[float], before: list[float]) -> Score | None:
    if not this:
        return None
    now, was = wilson(sum(this), len(this)), wilson(sum(before), len(before)) if before else None
    return Score(title, note, now, was, *_change(this, before), 0.0, 1.0)


def _mean(title: str, note: str, this: list[float], before: list[float]) -> Score | None:
    if not this:
        return None
    now, was = mean(this), mean(before) if before else None
    low = min(one.low for one in (now, was) if one)
    high = max(one.high for one in (now, was) if one)
    room = (high - low) or 1.0
    start = 0.0 if low >= 0 and low < room * 3 else low - room / 2
    return Score(title, note, now, was, *_change(this, before), start, high + room / 2)


def _change(this: list[float], before: list[float]) -> tuple[float | None, bool]:
    if len(this) != len(before) or not this:
        return None, False
    change = paired_change(before, this)
    return change.value, change.low > 0 or change.high < 0


def _bits(run: Run, name: str, before: str) -> Score | None:
    def told(model: str) -> float | None:
        key = "".join(char if char.isalnum() else "_" for char in model.lower())
        value = run.summary.get(f"bits_per_byte_{key}")
        return float(value) if isinstance(value, int | float) else None

    this, was = told(name), told(before) if before else None
    if this is None:
        return None
    top = max(this, was or 0.0)
    shares = [Share(value, value, value, 1) if value is not None else None for value in (this, was)]
    return Score("Bits per byte", "lower is better", shares[0], shares[1], None if was is None else this - was, False, 0.0, top * 1.25)  # fmt: skip


def reward_card(checkpoint: Artifact) -> list[dict[str, Any]]:
    """Pair accuracies of a reward model beside chance, simple rules and people, from its summary."""
    summary = checkpoint.summary
    rows: list[dict[str, Any]] = []
    for key, value in summary.items():
        if (
            not key.startswith("val_accuracy")
            or not isinstance(value, int | float)
            or key.endswith(("_low", "_high"))
        ):
            continue
        name = key.removeprefix("val_accuracy").strip("_").replace("_", " ")
        people = name == "labelers"
        low, high = (
            (summary.get("val_accuracy_low"), summary.get("val_accuracy_high")) if not name else (None, None)
        )
        title = _judge(name)
        rows.append(
            {"title": title, "value": value, "low": low, "high": high, "people": people, "is_model": not name}
        )
    return rows


def _judge(name: str) -> str:
    if not name:
        return "this model"
    rules = {
        "labelers": "people, each other",
        "two labelers": "this model, pairs that two people ordered",
        "programs": "programs, each other",
        "like length": "this model, pairs of like length",
        "longer wins": "rule: longer wins",
        "shorter wins": "rule: shorter wins",
    }
    return rules.get(name) or f"this model, pairs that differ in: {name}"


def network(folder: Any) -> dict[str, Any]:
    """Shapes and sizes of a checkpoint's tensors, and the network drawn to scale. Raises UserError."""
    from core_ml.model import checkpoint

    config, tensors = checkpoint.read_config(folder), checkpoint.tensors(folder)
    if not tensors:
        raise UserError("its weights file holds no tensor")
    return {"config": config, "tensors": tensors, **_drawing(config, tensors)}


WIDTH, ROW, GAP, LEFT, MAX_BLOCKS = 408.0, 26, 5, 62, 16


def _drawing(config: Any, tensors: list[Any]) -> dict[str, Any]:
    """Rectangles whose area is the number of parameters: every row is as high, so width tells."""
    n = {info["name"]: info["n_parameters"] for info in tensors}
    shape = {info["name"]: "×".join(str(side) for side in info["shape"]) for info in tensors}
    kv = config.d_model * config.d_head * config.n_kv_head
    block = [("q", config.d_model**2, "a"), ("k", kv, "a"), ("v", kv, "a"), ("o", config.d_model**2, "a"), ("MLP up", config.d_model * config.d_ff, "m"), ("MLP down", config.d_model * config.d_ff, "m")]  # fmt: skip
    embedding = config.vocab_size * config.d_model
    widest = max(embedding, sum(size for _, size, _ in block))
    rows, y = [], 0.0
    scale = (WIDTH - 4.5 * (len(block) - 1)) / widest

    def bar(label: str, parts: list[tuple[str, float, str]], y: float) -> dict[str, Any]:
        x, drawn = float(LEFT), []
        for name, size, kind in parts:
            drawn.append({"x": round(x, 1), "width": round(max(1.0, size * scale), 1), "kind": kind, "title": f"{name}, {size:,.0f} parameters"})  # fmt: skip
            x += size * scale + 4.5
        return {"label": label, "y": y, "parts": drawn}

    rows.append(bar("tokens", [("embedding", embedding, "e")], y))
    y += ROW + 16
    first = y
    shown = min(config.n_layer, MAX_BLOCKS)
    for layer in range(shown):
        rows.append(bar(str(layer + 1), block, y))
        y += ROW + GAP
    if not config.tie_embeddings:
        y += 6
        rows.append(bar("next", [("head", embedding, "e")], y))
        y += ROW + GAP
    labels = [
        {"x": part["x"], "text": name} for part, (name, _, _) in zip(rows[1]["parts"], block, strict=True)
    ]
    # Labels of thin parts would stand in each other.
    spaced: list[dict[str, Any]] = []
    for label in labels:
        if not spaced or label["x"] - spaced[-1]["x"] >= 6.5 * len(spaced[-1]["text"]) + 3:
            spaced.append(label)
    total = sum(n.values())
    attention = sum(size for name, size in n.items() if ".qkv." in name or ".out." in name)
    mlp = sum(size for name, size in n.items() if ".up." in name or ".down." in name)
    outer = {name: size for name, size in n.items() if not name.startswith("blocks.")}
    parts = [
        {
            "kind": "e",
            "title": _outer_title(name, config),
            "shapes": shape[name],
            "n": size,
        }
        for name, size in outer.items()
    ]
    shapes = [", ".join(dict.fromkeys(shape[name] for name in n if any(mark in name for mark in marks))) for marks in ((".qkv.", ".out."), (".up.", ".down."))]  # fmt: skip
    parts[1:1] = [
        {"kind": "a", "title": f"attention, {config.n_layer} blocks", "shapes": shapes[0], "n": attention},
        {"kind": "m", "title": f"MLP, {config.n_layer} blocks", "shapes": shapes[1], "n": mlp},
    ]
    return {
        "rows": rows,
        "labels": spaced,
        "label_y": first - 4,
        "height": y,
        "n_hidden": config.n_layer - shown,
        "parts": [part | {"share": part["n"] / total} for part in parts if part["n"]],
        "n_parameters": total,
    }


def _outer_title(name: str, config: Any) -> str:
    if name.startswith("embedding"):
        return "embedding, also used to speak" if config.tie_embeddings else "embedding"
    return {"head": "head, to speak", "value_head": "value head"}.get(name.split(".")[0], name)
