"""The report card: what each model scored, with intervals, and in plain sentences what changed and what did not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from core_ml.evaluation.exam import Answer, Exam
from core_ml.evaluation.figures import dots
from core_ml.evaluation.statistics import Share, mean, paired_change, wilson
from core_ml.events import Event, Figure


@dataclass(slots=True)
class Candidate:
    """One model: its short unique name, its role, and its answers by mode in the order of the exam's problems."""

    name: str
    role: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    bits_per_byte: float | None = None

    @property
    def key(self) -> str:
        return "".join(c if c.isalnum() else "_" for c in self.name.lower())

    def correct(self, mode: str) -> list[float]:
        return [float(answer.correct) for answer in self.answers[mode]]

    def liked(self, mode: str) -> list[float] | None:
        """None where the stated preference cannot judge the problems, and for plain text, which it does not mean."""
        values = [answer.liked for answer in self.answers[mode]]
        if mode == "few-shot" or None in values:
            return None
        return [float(bool(value)) for value in values]

    def rewards(self, mode: str, judge: int = -1) -> list[float] | None:
        """What one of the reward models says, by its place among those given; the last by default."""
        values = [[*answer.earlier_rewards, answer.reward][judge] for answer in self.answers[mode]]
        return None if None in values else [value for value in values if value is not None]

    def best_at_problems(self) -> tuple[str, list[float]]:
        """The mode without chance in which it solves most: a base model may do better with examples."""
        modes = [mode for mode in ("greedy", "few-shot") if mode in self.answers]
        mode = max(modes, key=lambda mode: sum(self.correct(mode)))
        return mode, self.correct(mode)


def share(values: Sequence[float]) -> Share:
    return wilson(sum(values), len(values))


def headline(candidates: Sequence[Candidate], judges: Sequence[str] = ()) -> dict[str, Any]:
    """accuracy_chat, accuracy_chat_sampled, liked_chat, reward_chat, bits_per_byte_chat and so on.

    Args:
        judges: names of the reward models; of several, each one's mean reward of each model's greedy answers stands in
            `rewards`, in the order of the models.
    """
    values: dict[str, Any] = {}
    for candidate in candidates:
        for mode in candidate.answers:
            suffix = candidate.key + {"greedy": "", "sampled": "_sampled", "few-shot": "_few_shot"}[mode]
            values[f"accuracy_{suffix}"] = round(share(candidate.correct(mode)).value, 4)
            if (liked := candidate.liked(mode)) is not None:
                values[f"liked_{suffix}"] = round(share(liked).value, 4)
            if (rewards := candidate.rewards(mode)) is not None:
                values[f"reward_{suffix}"] = round(sum(rewards) / len(rewards), 4)
        if candidate.bits_per_byte is not None:
            values[f"bits_per_byte_{candidate.key}"] = round(candidate.bits_per_byte, 4)
    if len(judges) > 1:
        values["rewards"] = [
            {"judge": judge, "means": [_mean_reward(candidate, "greedy", place) for candidate in candidates]}
            for place, judge in enumerate(judges)
        ]
    return values


def _mean_reward(candidate: Candidate, mode: str, judge: int) -> float | None:
    rewards = candidate.rewards(mode, judge) if mode in candidate.answers else None
    return None if rewards is None else round(sum(rewards) / len(rewards), 2)


def by_task(candidate: Candidate, mode: str, exam: Exam) -> dict[str, Share]:
    found: dict[str, list[float]] = {}
    for problem, correct in zip(exam.problems, candidate.correct(mode), strict=True):
        found.setdefault(problem.task, []).append(correct)
    return {task: share(values) for task, values in found.items()}


def figures(
    candidates: Sequence[Candidate], exam: Exam, step: int, finding: str, judges: Sequence[str] = ()
) -> Iterator[Event]:
    yield _table(candidates, exam, step, finding, judges)
    accuracy, liked = {}, {}
    for mode in ("greedy", "sampled"):
        sat = [c for c in candidates if mode in c.answers]
        accuracy[mode] = [(c.name, share(c.correct(mode))) for c in sat]
        liked[mode] = [(c.name, share(values)) for c in sat if (values := c.liked(mode)) is not None]
    few_shot = [(c.name, share(c.correct("few-shot"))) for c in candidates if "few-shot" in c.answers]
    if few_shot:
        accuracy["two examples, plain text"] = few_shot
    yield dots(
        "accuracy",
        step,
        "Held-out problems solved",
        accuracy,
        axis="share of problems, 95 % interval",
        finding=finding,
    )
    if any(liked.values()):
        yield dots(
            "liked",
            step,
            "Answers that the stated preference likes",
            liked,
            axis="share of answers, 95 % interval",
            finding="Liked answers are correct, complete and short.",
        )
    tasks = {c.name: list(by_task(c, "greedy", exam).items()) for c in candidates if "greedy" in c.answers}
    yield dots(
        "accuracy_by_task",
        step,
        "Held-out problems solved, by task (greedy answers)",
        tasks,
        axis="share of problems, 95 % interval",
        finding="; ".join(
            f"{name}: " + ", ".join(f"{t} {s.value:.2f}" for t, s in r) for name, r in tasks.items()
        ),
    )


def _table(
    candidates: Sequence[Candidate], exam: Exam, step: int, finding: str, judges: Sequence[str]
) -> Figure:
    tasks = list(exam.shots)
    by_judge = [f"reward by {judge}" for judge in judges] if len(judges) > 1 else ["reward"]
    columns = [
        "model",
        "answers",
        "accuracy",
        "low",
        "high",
        "liked",
        *by_judge,
        "tokens",
        "bits per byte",
        *tasks,
    ]
    rows: list[list[Any]] = []
    for candidate in candidates:
        for mode, answers in candidate.answers.items():
            total, parts = share(candidate.correct(mode)), by_task(candidate, mode, exam)
            liked = candidate.liked(mode)
            few_shot = mode == "few-shot"  # which no reward model scores
            rows.append(
                [
                    candidate.name,
                    mode,
                    *(round(value, 3) for value in (total.value, total.low, total.high)),
                    None if liked is None else round(share(liked).value, 3),
                    *(None if few_shot else _mean_reward(candidate, mode, k) for k in range(len(by_judge))),
                    round(sum(len(answer.logprobs) for answer in answers) / len(answers), 1),
                    None if candidate.bits_per_byte is None else round(candidate.bits_per_byte, 3),
                    *(round(parts[task].value, 3) if task in parts else None for task in tasks),
                ]
            )
    return Figure("report_card", step, "Report card", {"columns": columns, "rows": rows}, finding)


def findings(candidates: Sequence[Candidate], exam: Exam, judges: Sequence[str] = ()) -> list[str]:
    """What each model improved over the one before it, and what it did not, by paired differences.

    Args:
        judges: names of the reward models, told where there are several.
    """
    sentences = []
    n = len(exam.problems)
    for before, after in pairwise(candidates):
        (mode, solved), (_, solves) = before.best_at_problems(), after.best_at_problems()
        name = f"{before.name} model" + (" (with examples)" if mode == "few-shot" else "")
        what = f"the share of {n} held-out problems that it solves"
        sentences.append(_change(f"From the {name} to the {after.name} model", what, solved, solves))
        for way in ("greedy", "sampled"):
            if way not in before.answers or way not in after.answers:
                continue
            liked, likes = before.liked(way), after.liked(way)
            if liked is not None and likes is not None:
                what = f"the share of its {way} answers that the stated preference likes"
                sentences.append(_change(f"From {before.name} to {after.name}", what, liked, likes))
        for place in range(max(1, len(judges))):
            rewards, reward = (
                c.rewards("greedy", place) if "greedy" in c.answers else None for c in (before, after)
            )
            if rewards is not None and reward is not None:
                by = f" by {judges[place]}" if len(judges) > 1 else ""
                what = f"the mean reward{by} of its greedy answers"
                sentences.append(
                    _change(f"From {before.name} to {after.name}", what, rewards, reward, percent=False)
                )
        if before.bits_per_byte and after.bits_per_byte:
            worse = after.bits_per_byte > before.bits_per_byte
            sentences.append(
                f"The {after.name} model reads validation text {'worse' if worse else 'better'} than the "
                f"{before.name} model: {before.bits_per_byte:.3f} to {after.bits_per_byte:.3f} bits per byte."
            )
    if candidates and "greedy" in candidates[-1].answers:
        parts = by_task(candidates[-1], "greedy", exam)
        worst = min(parts, key=lambda task: parts[task].value)
        best = max(parts, key=lambda task: parts[task].value)
        if parts[best].value > parts[worst].value:
            sentences.append(
                f"The {candidates[-1].name} model is best at {best} ({parts[best].value:.0%}) and weakest at {worst} "
                f"({parts[worst].value:.0%})."
            )
    return sentences


def _change(
    who: str, what: str, before: Sequence[float], after: Sequence[float], *, percent: bool = True
) -> str:
    change = paired_change(before, after)
    old, new = mean(before).value, mean(after).value
    numbers = f"{old:.0%} to {new:.0%}" if percent else f"{old:.2f} to {new:.2f}"
    if change.low > 0:
        return f"{who}, {what} rose: {numbers}."
    if change.high < 0:
        return f"{who}, {what} fell: {numbers}."
    return f"{who}, {what} did not change measurably: {numbers}."
