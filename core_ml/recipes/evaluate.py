"""The report card: any number of models sit the same exam of held-out problems."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.errors import UserError
from core_ml.events import Event, Metric, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.artifact import Folder, Manifest
    from core_ml.evaluation.exam import Exam
    from core_ml.evaluation.report import Candidate

TEXT = "Reading"


class EvaluateConfig(RecipeConfig):
    n_per_task: int = setting(
        60, "Most problems of each task; their number sets how wide intervals are.", ge=1, le=100_000
    )
    max_new_tokens: int = setting(48, "An answer is cut off here.", unit="tokens", ge=1, le=8192)
    temperature: float = setting(1.0, "Of the sampled answers.", gt=0, le=5)
    few_shot: bool = setting(
        True, "Ask base models in plain text too, after two solved examples: they have never seen a chat."
    )
    seed: int = setting(0, "Draws of the sampled answers.", ge=0, le=2**31 - 1)
    seq_len: int = setting(128, "Window in which texts are read.", unit="tokens", group=TEXT, ge=8, le=65_536)
    val_tokens: int = setting(
        65_536, "Validation tokens read, at most.", unit="tokens", group=TEXT, ge=64, le=100_000_000
    )
    val_share: float = setting(
        0.05,
        "Share of the text that pretraining kept for validation; a base model among the inputs says it itself.",
        group=TEXT,
        gt=0,
        le=0.5,
    )
    threads: Threads = None


def run(config: EvaluateConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.evaluation.exam import read_exam
    from core_ml.evaluation.report import Candidate, figures, findings, headline
    from core_ml.model.device import use_threads

    folders = workspace.inputs("checkpoints")
    names, judges = _names(folders), _names(workspace.inputs("reward"), "reward")
    units = [(i, mode) for i, folder in enumerate(folders) for mode in _modes(config, folder)]
    done = sum(workspace.read_json(_note(*unit)) is not None for unit in units)
    yield Resumed(done or -1)
    use_threads(config.threads)
    exam = read_exam(workspace.input("problems"), config.n_per_task)
    candidates = [
        Candidate(name, folder.manifest.role or "") for name, folder in zip(names, folders, strict=True)
    ]
    for step, (i, mode) in enumerate(units, 1):
        yield Progress(step - 1, len(units), "exams", f"{names[i]}: {mode}")
        yield from _examine(config, workspace, candidates[i], i, mode, exam, step)
        yield Progress(step, len(units), "exams", f"{names[i]}: {mode}")
    sentences = findings(candidates, exam, judges)
    summary: dict[str, Any] = {
        "n_rows": len(folders) * len(exam.problems),
        "n_problems": len(exam.problems),
        "n_models": len(folders),
        "models": names,
        **headline(candidates, judges),
        "findings": sentences,
    }
    yield from _publish(workspace, candidates, exam, summary)
    yield from figures(candidates, exam, len(units), sentences[0] if sentences else "", judges)
    yield Summary(summary)


def _modes(config: EvaluateConfig, folder: "Folder") -> list[str]:
    """What is asked of one model, "text" (bits per byte) first."""
    base = folder.manifest.role == "base"
    return ["text", *(["few-shot"] if base and config.few_shot else []), "greedy", "sampled"]


def _note(number: int, mode: str) -> str:
    return f"exam-{number:03d}-{mode}.json"


def _names(folders: Sequence["Folder"], field: str = "checkpoints") -> list[str]:
    """The shortest that tell checkpoints apart: role (of models that are examined), else name, else name and id.

    Raises: UserError when one is given twice.
    """
    manifests = [folder.manifest for folder in folders]
    if len({m.id for m in manifests}) < len(manifests):
        raise UserError("one checkpoint is given twice: leave one of them out", field=field)
    by_name = [m.name for m in manifests]
    for names in (_roles(manifests), by_name) if field == "checkpoints" else (by_name,):
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"{m.name} {m.id}" for m in manifests]


def _roles(manifests: Sequence["Manifest"]) -> list[str]:
    """The role of each, numbered where it came out of the one of its role before: aligned, aligned 2."""
    turns: dict[str, tuple[str, int]] = {}
    names = []
    for manifest in manifests:
        role = manifest.role or ""
        before, turn = turns.get(role, ("", 1))
        turn += any(before in ids for ids in manifest.origin.inputs.values())
        turns[role] = manifest.id, turn
        names.append(role if turn == 1 else f"{role} {turn}")
    return names


def _examine(
    config: EvaluateConfig,
    workspace: Workspace,
    candidate: "Candidate",
    number: int,
    mode: str,
    exam: "Exam",
    step: int,
) -> Iterator[Event]:
    """One exam of one model, done once in a run's life: its result is a note of the run."""
    from core_ml.evaluation.exam import Answer, sit
    from core_ml.evaluation.report import share
    from core_ml.model import checkpoint

    known = workspace.read_json(_note(number, mode))
    if mode == "text":
        if known is None:
            known = {"bits_per_byte": (yield from _bits_per_byte(config, workspace, number))}
            workspace.write_json(_note(number, mode), known)
            if known["bits_per_byte"] is not None:
                yield Metric(step, {"bits_per_byte": known["bits_per_byte"]})
        candidate.bits_per_byte = known["bits_per_byte"]
        return
    if known is not None:
        candidate.answers[mode] = [Answer(**answer) for answer in known]
        return
    model, tokenizer = checkpoint.load(workspace.inputs("checkpoints")[number].path)
    answers = yield from sit(
        model,
        tokenizer,
        exam,
        mode,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    if workspace.has("reward") and mode != "few-shot":
        _score(workspace, exam, answers)
    candidate.answers[mode] = answers
    values = {"accuracy": share(candidate.correct(mode)).value}
    if (liked := candidate.liked(mode)) is not None:
        values["liked"] = share(liked).value
    if (rewards := candidate.rewards(mode)) is not None:
        values["reward"] = sum(rewards) / len(rewards)
    yield Metric(step, values)
    shown = {problem.task: place for place, problem in reversed(list(enumerate(exam.problems)))}
    for place in shown.values():
        answer = answers[place]
        data = {"model": candidate.name, "answers": mode, "correct": answer.correct, "liked": answer.liked}
        yield Sample(step, exam.problems[place].prompt, answer.text, data)
    # Last, so that an exam that was interrupted among its events is sat again and told whole.
    workspace.write_json(_note(number, mode), [answer.as_dict() for answer in answers])


def _score(workspace: Workspace, exam: "Exam", answers: Sequence[Any]) -> None:
    from core_ml.feedback.reward_model import RewardModel

    prompts, texts = [problem.prompt for problem in exam.problems], [answer.text for answer in answers]
    *earlier, last = [RewardModel.load(folder).score(prompts, texts) for folder in workspace.inputs("reward")]
    for place, answer in enumerate(answers):
        answer.reward, answer.earlier_rewards = last[place], [rewards[place] for rewards in earlier]


def _bits_per_byte(
    config: EvaluateConfig, workspace: Workspace, number: int
) -> Generator[Event, None, float | None]:
    """Yields Progress; returns bits per byte of validation text, or None without documents."""
    from core_ml.model import checkpoint
    from core_ml.training.evaluate import Validation
    from core_ml.training.mixture import files_of
    from core_ml.training.packing import pack
    from core_ml.training.tokens import Tokens

    if not workspace.has("documents"):
        return None
    folder = workspace.inputs("checkpoints")[number]
    model, tokenizer = checkpoint.load(folder.path)
    # One packing for each tokenizer, most often one for all.
    digest = next(file.sha256 for file in folder.manifest.files if file.path == "tokenizer.json")
    tokens: Path = workspace.state / f"tokens-{digest[:16]}"
    files = [file for documents in workspace.inputs("documents") for file in files_of(documents)]
    yield from pack(files, tokenizer, tokens, _val_share(config, workspace))
    seq_len = min(config.seq_len, model.config.max_seq_len)
    windows = Tokens(tokens, "val").spread(seq_len, config.val_tokens)
    return (yield from Validation(windows, tokenizer).measure(model))


def _val_share(config: EvaluateConfig, workspace: Workspace) -> float:
    """The share that a base model among the inputs was not trained on, so that no training text is read."""
    for folder in workspace.inputs("checkpoints"):
        if datasets := folder.manifest.summary.get("datasets"):
            return min(float(one["val_share"]) for one in datasets)
        if folder.manifest.origin.recipe == "pretrain":
            return float(folder.manifest.origin.config.get("val_share", config.val_share))
    return config.val_share


def _publish(
    workspace: Workspace, candidates: Sequence["Candidate"], exam: "Exam", summary: dict[str, Any]
) -> Iterator[Event]:
    """One row for each model and problem, the answers of all modes side by side."""
    from core_ml.tasks.rows import write_rows

    output = workspace.create("report", "dataset", form="rollouts")
    try:
        write_rows(output.path / "rollouts.parquet", "rollouts", _rows(candidates, exam))
        yield workspace.made("report", output.finish(summary))
    finally:
        output.discard()


def _rows(candidates: Sequence["Candidate"], exam: "Exam") -> Iterator[dict[str, Any]]:
    for candidate in candidates:
        for place, problem in enumerate(exam.problems):
            answers = {mode: given[place] for mode, given in candidate.answers.items()}
            yield {
                "group_id": f"{candidate.key}-{place:05d}",
                "prompt": problem.prompt,
                "completions": [answer.text for answer in answers.values()],
                "logprobs": [answer.logprobs for answer in answers.values()],
                "ended": [answer.ended for answer in answers.values()],
                "metadata": {
                    "model": candidate.name,
                    "task": problem.task,
                    "answer": problem.answer,
                    "modes": list(answers),
                    "correct": [answer.correct for answer in answers.values()],
                    "liked": [answer.liked for answer in answers.values()],
                    "rewards": [answer.reward for answer in answers.values()],
                },
            }


def cost(config: EvaluateConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    checkpoints = inputs.get("checkpoints", []) or [{}]
    n_parameters = max(summary.get("n_parameters", 0) for summary in checkpoints) or 1_000_000
    n_tokens = len(checkpoints) * 2.3 * 5 * config.n_per_task * config.max_new_tokens
    reading = len(checkpoints) * config.val_tokens * 2e-11 * n_parameters if inputs.get("documents") else 0
    return Cost(
        seconds=4 + n_tokens * (2e-5 + n_parameters * 1e-10) + reading,
        memory_bytes=500_000_000 + 8 * n_parameters,
        disk_bytes=int(n_tokens * 6),
        facts={"models": str(len(checkpoints)), "problems at most": f"{5 * config.n_per_task:,}"},
    )


RECIPE = Recipe(
    kind="evaluate",
    title="Report card",
    stage="aligned",
    explanation=(
        "Asks every model the same problems, which none was trained on, because only that tells learning from "
        "remembering."
    ),
    config=EvaluateConfig,
    run=run,
    takes={
        "checkpoints": Input(
            "checkpoint",
            ("base", "chat", "reasoner", "aligned"),
            many=True,
            description="The models, in the order in which they came about.",
        ),
        "problems": Input("dataset", ("problems",), description="Held-out problems."),
        "reward": Input(
            "checkpoint",
            ("reward",),
            optional=True,
            many=True,
            description="Scores the answers as well; several reward models in the order in which they came about.",
        ),
        "documents": Input(
            "dataset", ("documents",), optional=True, many=True, description="Texts for bits per byte."
        ),
    },
    makes={"report": Output("dataset", "rollouts", description="Every model's answer to every problem.")},
    presets=(
        Preset("tour", "Tour", "60 problems of each of five tasks: shares are known to about 6 of 100."),
        Preset(
            "tiny",
            "Tiny",
            "A few problems, to see the mechanism.",
            {"n_per_task": 4, "max_new_tokens": 24, "val_tokens": 4096},
        ),
    ),
    measures=(
        Measure("accuracy", "Problems solved", "share", "higher"),
        Measure("liked", "Liked by the stated preference", "share", "higher"),
        Measure("reward", "Mean reward", "", "higher"),
        Measure("bits_per_byte", "Bits per byte", "bits", "lower"),
    ),
    why=(
        "Why does every share come with an interval?",
        "On three hundred problems a share of one half is only known to within six of a hundred. Changes from one "
        "model to the next are compared problem by problem, and what lies within the noise is called no change.",
        "Miller 2024, Adding error bars to evals, arXiv:2411.00640",
    ),
    cost=cost,
)
