"""Held-out problems and a model's answers to them: greedily, sampled, and from examples as plain text."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.evaluation.verify import check, verify
from core_ml.events import Event, Progress
from core_ml.tasks.rows import read_rows

N_SHOTS = 2
MODES = ("greedy", "sampled", "few-shot")


@dataclass(frozen=True, slots=True)
class Problem:
    task: str
    prompt: str
    answer: str
    verifier: str


@dataclass(slots=True)
class Answer:
    """One answer to one problem, with what was found out about it."""

    text: str
    logprobs: list[float]
    ended: bool
    correct: bool = False
    liked: bool | None = None
    reward: float | None = None
    """By the one reward model, or the last of several: the newest."""
    earlier_rewards: list[float] = field(default_factory=list)
    """By those before it."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Exam:
    """The problems that every model is asked, and solved ones of each task that serve as examples."""

    problems: list[Problem]
    shots: dict[str, list[Problem]]


def read_exam(folder: artifact.Folder, n_per_task: int) -> Exam:
    """The first problems of each task; the two before them are examples, and are asked of no model.

    Raises: UserError for a problem that no verifier here can judge, and when nothing is left to ask.
    """
    by_task: dict[str, list[Problem]] = {}
    for row in read_rows(folder, ["prompt", "answer", "verifier"], input="problems"):
        prompt, answer, verifier = (str(row[name] or "") for name in ("prompt", "answer", "verifier"))
        check(verifier, prompt)
        task = str(row["metadata"].get("task") or "problems")
        problems = by_task.setdefault(task, [])
        if len(problems) < N_SHOTS + n_per_task:
            problems.append(Problem(task, prompt, answer, verifier))
    shots = {task: problems[:N_SHOTS] for task, problems in by_task.items()}
    asked = [problem for problems in by_task.values() for problem in problems[N_SHOTS:]]
    if not asked:
        raise UserError(
            f"{folder.manifest.name} has at most {N_SHOTS} problems of a task, and these serve as examples: "
            "choose a dataset with more",
            field="problems",
        )
    return Exam(asked, shots)


def as_plain_text(problem: Problem, shots: Sequence[Problem]) -> str:
    """A problem after solved ones of its kind, as a model that has only read texts may recognize it."""
    solved = "".join(f"Question: {shot.prompt}\nAnswer: {shot.answer}\n" for shot in shots)
    return f"{solved}Question: {problem.prompt}\nAnswer:"


def sit(
    model: Any, tokenizer: Any, exam: Exam, mode: str, *, max_new_tokens: int, temperature: float, seed: int
) -> Generator[Event, None, list[Answer]]:
    """Yields Progress; returns a model's answers to all problems in order, verified.

    Args:
        mode: "greedy" and "sampled" speak the chat protocol; "few-shot" is greedy too, in plain text, where
            the answer is what comes before the next line.
    """
    from core_ml.feedback.batches import as_prompt
    from core_ml.sampling.generate import Completion, generate_in_batches

    few_shot = mode == "few-shot"
    if few_shot:
        room = model.config.max_seq_len - max_new_tokens
        texts = (as_plain_text(problem, exam.shots[problem.task]) for problem in exam.problems)
        prompts = [[tokenizer.bos_id, *tokenizer.encode(text)][-room:] for text in texts]
    else:
        prompts = [as_prompt(tokenizer, problem.prompt) for problem in exam.problems]
    completions = [Completion() for _ in prompts]
    n_done = 0
    for batch in generate_in_batches(
        model,
        prompts,
        completions,
        max_new_tokens=max_new_tokens,
        temperature=temperature if mode == "sampled" else 0.0,
        stop_ids=(tokenizer.bos_id,) if few_shot else (tokenizer.end_id,),
        seed=seed,
    ):
        n_done += len(batch)
        yield Progress(n_done, len(prompts), "answers", f"{mode} answers")
    answers = []
    for problem, completion in zip(exam.problems, completions, strict=True):
        text, ended = tokenizer.decode(completion.ids), completion.ended
        if few_shot:
            line, newline, _ = text.lstrip(" ").partition("\n")
            text, ended = line.strip(), bool(newline) or ended
        verdict = verify(problem.verifier, problem.prompt, problem.answer, text, ended)
        answers.append(Answer(text, completion.logprobs, ended, verdict.correct, verdict.liked))
    return answers
