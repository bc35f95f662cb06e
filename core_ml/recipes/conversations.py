"""Makes what the assistant learns from: conversations of four writers, problems to practise on, problems to be tested on."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import ValidationInfo, field_validator

from core_ml.artifact import Writer
from core_ml.config import RecipeConfig, setting
from core_ml.events import Event, Figure, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Output, Preset, Recipe
from core_ml.tasks.problems import MIXTURE, TASKS, Difficulty, Problem, draw, draw_evenly
from core_ml.tasks.writers import STYLES, WRITERS, write
from core_ml.workspace import Workspace

BATCH = 5_000
MIX, WHO_WRITES, HOW_HARD = "Tasks", "Writers", "Difficulty"


class ConversationsConfig(RecipeConfig):
    n_conversations: int = setting(50_000, "Question and answer pairs to learn from.", ge=10, le=5_000_000)
    n_problems: int = setting(
        4_000, "Training problems without an answer shown: for rollouts and practice.", ge=10, le=1_000_000
    )
    n_held_out: int = setting(
        62,
        "Held-out problems of each task, two of which serve as examples for models that read plain text.",
        ge=4,
        le=10_000,
    )
    seed: int = setting(0, "The same seed gives the same conversations and problems.", ge=0, le=2**31 - 1)
    share_add: int = setting(MIXTURE["add"], "Weight of sums.", group=MIX, ge=0, le=1000)
    share_count: int = setting(MIXTURE["count"], "Weight of counting on.", group=MIX, ge=0, le=1000)
    share_spell: int = setting(
        MIXTURE["spell"], "Weight of spelling invented words.", group=MIX, ge=0, le=1000
    )
    share_who: int = setting(MIXTURE["who"], "Weight of asking who the model is.", group=MIX, ge=0, le=1000)
    share_copy: int = setting(MIXTURE["copy"], "Weight of repeating a stated fact.", group=MIX, ge=0, le=1000)
    style_rambling: int = setting(
        STYLES["rambling"], "Weight of the writer who rambles.", group=WHO_WRITES, ge=0, le=1000
    )
    style_good: int = setting(
        STYLES["good"], "Weight of the writer of one short whole sentence.", group=WHO_WRITES, ge=0, le=1000
    )
    style_bare: int = setting(
        STYLES["bare"], "Weight of the writer of the bare answer.", group=WHO_WRITES, ge=0, le=1000
    )
    style_cut_off: int = setting(
        STYLES["cut_off"], "Weight of the writer who stops in mid-sentence.", group=WHO_WRITES, ge=0, le=1000
    )
    max_augend: int = setting(99, "Largest first number of a sum.", group=HOW_HARD, ge=1, le=999_999)
    max_addend: int = setting(9, "Largest second number of a sum.", group=HOW_HARD, ge=1, le=999_999)
    max_count_start: int = setting(
        90, "Largest number that counting starts at.", group=HOW_HARD, ge=5, le=999_999
    )
    max_facts: int = setting(2, "Most facts stated before one is asked for.", group=HOW_HARD, ge=1, le=10)

    @field_validator("share_copy", "style_cut_off")
    @classmethod
    def _some_weight(cls, value: int, info: ValidationInfo) -> int:
        kind = str(info.field_name).split("_")[0]
        others = [v for name, v in info.data.items() if name.startswith(f"{kind}_")]
        if value == 0 and not any(others):
            raise ValueError(f"all weights of {kind}_… are 0: give at least one a weight above 0")
        return value

    @property
    def mixture(self) -> dict[str, int]:
        return {task: getattr(self, f"share_{task}") for task in TASKS}

    @property
    def styles(self) -> dict[str, int]:
        return {writer: getattr(self, f"style_{writer}") for writer in WRITERS}

    @property
    def level(self) -> Difficulty:
        return Difficulty(self.max_augend, self.max_addend, self.max_count_start, self.max_facts)


def run(config: ConversationsConfig, workspace: Workspace) -> Iterator[Event]:
    yield Resumed(-1)
    total = config.n_conversations + config.n_problems
    made: list[Writer] = []
    try:
        conversations = workspace.create("conversations", "dataset", form="conversations")
        made.append(conversations)
        counts: dict[str, dict[str, int]] = {task: dict.fromkeys(WRITERS, 0) for task in TASKS}
        yield from _write_conversations(config, conversations, counts, total)
        problems = workspace.create("problems", "dataset", form="problems")
        made.append(problems)
        source = draw(config.seed + 1, held_out=False, mixture=config.mixture, level=config.level)
        trained = _write_problems(problems, list(islice(source, config.n_problems)))
        yield Progress(total, total, "rows", "problems")
        held_out = workspace.create("held_out", "dataset", form="problems", name=f"{workspace.name}-held-out")
        made.append(held_out)
        tasks = tuple(task for task, weight in config.mixture.items() if weight)
        tested = _write_problems(held_out, draw_evenly(config.n_held_out, config.seed, tasks, config.level))
        by_writer = {writer: sum(counts[task][writer] for task in TASKS) for writer in WRITERS}
        summary = {
            "n_rows": config.n_conversations,
            "by_task": {task: sum(counts[task].values()) for task in TASKS},
            "by_writer": by_writer,
        }
        for output, writer, values in (
            ("conversations", conversations, summary),
            ("problems", problems, {"n_rows": sum(trained.values()), "by_task": trained, "held_out": False}),
            ("held_out", held_out, {"n_rows": sum(tested.values()), "by_task": tested, "held_out": True}),
        ):
            yield workspace.made(output, writer.finish(values))
    finally:
        for writer in made:
            writer.discard()
    yield _table(counts)
    yield Summary(
        {
            "n_conversations": config.n_conversations,
            "n_problems": sum(trained.values()),
            "n_held_out": sum(tested.values()),
            "findings": [
                f"{by_writer['good'] / config.n_conversations:.0%} of the answers are what the stated preference "
                f"likes best; {by_writer['rambling'] / config.n_conversations:.0%} ramble.",
                "No held-out sum, sequence, word or question is among the training problems.",
            ],
        }
    )


def _write_conversations(
    config: ConversationsConfig, output: Writer, counts: dict[str, dict[str, int]], total: int
) -> Iterator[Event]:
    from core_ml.tasks.rows import RowWriter

    source = draw(config.seed, held_out=False, mixture=config.mixture, level=config.level)
    rng = random.Random(f"{config.seed}:writers")
    file = RowWriter(output.path / "conversations.parquet", "conversations")
    try:
        while file.n_rows < config.n_conversations:
            rows = []
            for problem in islice(source, min(BATCH, config.n_conversations - file.n_rows)):
                answer, writer = write(problem, rng, config.styles)
                counts[problem.task][writer] += 1
                rows.append(_conversation(problem, answer, writer))
            if not file.n_rows:
                for row in rows[:8]:
                    prompt, answer = (message["content"] for message in row["messages"])
                    yield Sample(0, prompt, answer, row["metadata"])
            file.write(rows)
            yield Progress(file.n_rows, total, "rows", "conversations")
    finally:
        file.close()


def _conversation(problem: Problem, answer: str, writer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": problem.prompt},
            {"role": "assistant", "content": answer},
        ],
        "metadata": {"task": problem.task, "writer": writer},
    }


def _write_problems(output: Writer, problems: list[Problem]) -> dict[str, int]:
    """Write problems.parquet; returns the number of problems of each task."""
    from core_ml.tasks.rows import write_rows

    rows = [
        {
            "prompt": problem.prompt,
            "answer": problem.answer,
            "verifier": "task",
            "metadata": {"task": problem.task},
        }
        for problem in problems
    ]
    write_rows(output.path / "problems.parquet", "problems", rows)
    return {task: sum(problem.task == task for problem in problems) for task in TASKS}


def _table(counts: dict[str, dict[str, int]]) -> Figure:
    rows = [[task, *counts[task].values(), sum(counts[task].values())] for task in TASKS]
    columns = ["task", *(writer.replace("_", " ") for writer in WRITERS), "all"]
    return Figure(
        "answers",
        0,
        "Answers by task and writer",
        {"columns": columns, "rows": rows},
        "Every writer answers every task; only the share of their styles differs.",
    )


def cost(config: ConversationsConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n = config.n_conversations + config.n_problems
    return Cost(
        seconds=1 + n / 40_000,
        memory_bytes=150_000_000,
        disk_bytes=30 * n,
        facts={"conversations": f"{config.n_conversations:,}", "problems": f"{config.n_problems:,}"},
    )


RECIPE = Recipe(
    kind="conversations",
    title="Make conversations",
    stage="assistant",
    explanation=(
        "Writes questions of five small tasks with answers in the styles of four people, because a model learns "
        "to be an assistant by imitating answers, good and bad habits alike."
    ),
    config=ConversationsConfig,
    run=run,
    makes={
        "conversations": Output("dataset", "conversations", description="Questions with answers to imitate."),
        "problems": Output(
            "dataset", "problems", description="Training problems, for rollouts and practice."
        ),
        "held_out": Output("dataset", "problems", description="Problems kept from all training."),
    },
    presets=(
        Preset(
            "tour",
            "Tour",
            "50,000 conversations: two minutes of training. With 35,000 two thirds of held-out problems are solved, not five in six.",
        ),
        Preset(
            "tiny",
            "Tiny",
            "A few hundred, to see the mechanism in seconds; too few to learn from.",
            {"n_conversations": 600, "n_problems": 200, "n_held_out": 6},
        ),
    ),
    why=(
        "Why are most of these answers not the best ones?",
        "Real demonstrations come from many people, and a model that imitates them takes over the average of "
        "their habits. That gap between what the model can do and what it does is what feedback closes later.",
        "Ouyang et al. 2022, Training language models to follow instructions with human feedback, arXiv:2203.02155",
    ),
    cost=cost,
)
