"""Samples several answers to each of many prompts: what people rank, and what a reward model learns from."""

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.errors import UserError
from core_ml.events import Event, Figure, Metric, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.sampling import settings
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.prompts import Prompt
    from core_ml.model.gpt import GPT
    from core_ml.tokenizer.tokenizer import Tokenizer

CHUNK = 64  # prompts that are sampled, written and counted as done together


class RolloutsConfig(RecipeConfig):
    n_prompts: int = setting(700, "Prompts to answer; fewer when the dataset has fewer.", ge=1, le=1_000_000)
    n_completions: int = setting(6, "Answers to each prompt: one group to rank.", ge=1, le=64)
    skip_prompts: int = setting(
        0,
        "Prompts passed over first, in the order of the seed: those that an earlier run has had answered.",
        ge=0,
        le=1_000_000,
    )
    max_new_tokens: int = setting(48, "An answer is cut off here.", unit="tokens", ge=1, le=8192)
    temperature: float = setting(
        1.0, "1 samples as the model believes, lower is safer, 0 always takes the likeliest.", ge=0, le=5
    )
    top_p: settings.TopP
    top_k: settings.TopK
    min_p: settings.MinP
    repetition_penalty: settings.RepetitionPenalty
    presence_penalty: settings.PresencePenalty
    frequency_penalty: settings.FrequencyPenalty
    stop: settings.StopStrings
    seed: int = setting(0, "Which prompts are drawn, and how.", ge=0, le=2**31 - 1)
    threads: Threads = None


def run(config: RolloutsConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.feedback.prompts import read_prompts
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads

    chunks = workspace.state / "chunks"
    chunks.mkdir(exist_ok=True)
    done = _finished(chunks)
    yield Resumed(done * CHUNK if done else -1)
    use_threads(config.threads)
    model, tokenizer = checkpoint.load(workspace.input("checkpoint").path)
    prompts = read_prompts(workspace.input("problems"), config.seed)
    if config.skip_prompts >= len(prompts):
        raise UserError(
            f"there are {len(prompts)} prompts and skip_prompts passes over {config.skip_prompts}: lower it or choose "
            "more problems",
            field="skip_prompts",
        )
    prompts = prompts[config.skip_prompts : config.skip_prompts + config.n_prompts]
    n_chunks = -(-len(prompts) // CHUNK)
    yield Progress(min(done * CHUNK, len(prompts)), len(prompts), "prompts", "sampling")
    for number in range(done, n_chunks):
        part = prompts[number * CHUNK : (number + 1) * CHUNK]
        rows = yield from _sample(config, model, tokenizer, part, number)
        _write_chunk(chunks / f"{number:06d}.parquet", rows)
        n_done = number * CHUNK + len(part)
        tally = _Tally()
        for row in rows:
            tally.add(row)
        yield Metric(n_done, tally.measures())
        yield Sample(n_done, rows[0]["prompt"], rows[0]["completions"][0], {"ended": rows[0]["ended"][0]})
        yield Progress(n_done, len(prompts), "prompts", "sampling")
    yield from _publish(config, workspace, [chunks / f"{number:06d}.parquet" for number in range(n_chunks)])


def _finished(chunks: Path) -> int:
    """How many chunks are written, from the first on without a gap."""
    names = {
        int(match[1]) for path in chunks.iterdir() if (match := re.fullmatch(r"(\d+)\.parquet", path.name))
    }
    return next(number for number in range(len(names) + 1) if number not in names)


def _sample(
    config: RolloutsConfig, model: "GPT", tokenizer: "Tokenizer", prompts: list["Prompt"], number: int
) -> Generator[Event, None, list[dict[str, Any]]]:
    """Returns the rows of one chunk; its draws depend on the seed and its number only, so that it may be done in any attempt."""
    from core_ml.feedback.batches import as_prompt
    from core_ml.sampling.generate import Completion, generate_in_batches
    from core_ml.sampling.stops import Stops

    n = config.n_completions
    ids = [as_prompt(tokenizer, prompt.text) for prompt in prompts for _ in range(n)]
    completions = [Completion() for _ in ids]
    stops = Stops(config.stop, tokenizer.token_bytes) if config.stop else None
    for _ in generate_in_batches(
        model,
        ids,
        completions,
        max_new_tokens=config.max_new_tokens,
        stop_ids=(tokenizer.end_id,),
        stops=stops,
        seed=config.seed * 1_000_003 + number,
        **settings.sampling_of(config),
    ):
        # So that a request to stop is heard within a chunk of large models too.
        yield Progress(number * CHUNK, config.n_prompts, "prompts", "sampling")
    rows = []
    first = config.skip_prompts + number * CHUNK  # so that no id stands for two prompts of one seed
    for i, prompt in enumerate(prompts):
        group = completions[i * n : (i + 1) * n]
        texts = [tokenizer.decode(completion.ids) for completion in group]
        rows.append(
            {
                "group_id": f"g{first + i:06d}",
                "prompt": prompt.text,
                "completions": [stops.cut(text) if stops else text for text in texts],
                "logprobs": [completion.logprobs for completion in group],
                "ended": [completion.ended for completion in group],
                "metadata": prompt.metadata,
            }
        )
    return rows


def _write_chunk(path: Path, rows: list[dict[str, Any]]) -> None:
    from core_ml.artifact import sync
    from core_ml.tasks.rows import write_rows

    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_rows(hidden, "rollouts", rows)
        sync(hidden)
        hidden.replace(path)
        sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


class _Tally:
    """What is told of answers, counted row by row."""

    def __init__(self) -> None:
        self.n_rows = self.n_answers = self.n_tokens = self.n_ended = self.n_judged = 0
        self.distinct = self.logprob = 0.0
        self.judged = dict.fromkeys(("correct", "complete", "short", "liked"), 0)

    def add(self, row: dict[str, Any]) -> None:
        self.n_rows += 1
        self.n_answers += len(row["logprobs"])
        self.n_tokens += sum(map(len, row["logprobs"]))
        self.n_ended += sum(row["ended"])
        self.distinct += len(set(row["completions"])) / len(row["completions"])
        for logprobs in row["logprobs"]:
            self.logprob += sum(logprobs)

    def judge(self, row: dict[str, Any]) -> None:
        """Count what the stated preference says of the answers, where the prompt is one of our tasks."""
        from core_ml.tasks import judge, solve

        if solve(row["prompt"]) is not None:
            for text, ended in zip(row["completions"], row["ended"], strict=True):
                verdict = judge(row["prompt"], text, ended)
                self.n_judged += 1
                for name in self.judged:
                    self.judged[name] += getattr(verdict, name)

    def measures(self) -> dict[str, float]:
        """Means over answers: tokens, share ended, share of distinct answers in a group, log-probability of a token."""
        return {
            "mean_tokens": self.n_tokens / self.n_answers,
            "ended": self.n_ended / self.n_answers,
            "distinct": self.distinct / self.n_rows,
            "mean_logprob": self.logprob / max(1, self.n_tokens),
        }

    def preference(self) -> dict[str, float]:
        """Shares of the answers that were judged; empty when there are none."""
        return {name: n / self.n_judged for name, n in self.judged.items()} if self.n_judged else {}


def _publish(config: RolloutsConfig, workspace: Workspace, chunks: list[Path]) -> Iterator[Event]:
    from core_ml import parquet
    from core_ml.tasks.rows import RowWriter, as_dict

    output = workspace.create("rollouts", "dataset", form="rollouts")
    tally = _Tally()
    try:
        file = RowWriter(output.path / "rollouts.parquet", "rollouts")
        try:
            for path in chunks:
                with parquet.open_file(path) as chunk:
                    rows = [{**row, "metadata": as_dict(row["metadata"])} for row in parquet.rows(chunk)]
                file.write(rows)
                for row in rows:
                    tally.add(row)
                    tally.judge(row)
        finally:
            file.close()
        judged = tally.preference()
        values = {
            "n_rows": tally.n_rows,
            "n_completions": tally.n_answers,
            "completions_per_prompt": config.n_completions,
            **tally.measures(),
            **judged,
        }
        yield workspace.made("rollouts", output.finish(values))
    finally:
        output.discard()
    if judged:
        table = [[name, round(value, 3)] for name, value in judged.items()]
        yield Figure(
            "stated_preference",
            tally.n_rows,
            "What the stated preference says of these answers",
            {"columns": ["criterion", "share"], "rows": table},
            f"{judged['liked']:.0%} of the answers are correct, complete and short.",
        )
    finding = (
        f"{tally.n_answers:,} answers to {tally.n_rows:,} prompts; {values['ended']:.0%} ended by themselves."
    )
    yield Summary({**values, "findings": [finding]})


def cost(config: RolloutsConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_tokens = config.n_prompts * config.n_completions * config.max_new_tokens
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    # Most answers end early. Measured with a million weights on one core: 10,000 tokens a second.
    return Cost(
        seconds=3 + 0.4 * n_tokens * (2e-5 + n_parameters * 8e-11),
        memory_bytes=400_000_000 + 8 * n_parameters,
        disk_bytes=n_tokens * 3,
        facts={"answers": f"{config.n_prompts * config.n_completions:,}", "tokens at most": f"{n_tokens:,}"},
    )


RECIPE = Recipe(
    kind="rollouts",
    title="Sample rollouts",
    stage="assistant",
    explanation=(
        "Lets the model answer each prompt several times, because people can tell which of two answers is better "
        "long before they can say what a perfect one would be."
    ),
    config=RolloutsConfig,
    run=run,
    takes={
        "checkpoint": Input(
            "checkpoint", ("base", "chat", "reasoner", "aligned"), description="The model that answers."
        ),
        "problems": Input("dataset", ("problems", "prompts"), description="What it is asked."),
    },
    makes={
        "rollouts": Output(
            "dataset", "rollouts", description="Groups of answers with their log-probabilities."
        )
    },
    presets=(
        Preset("tour", "Tour", "700 prompts, 6 answers each: enough for a reward model that notices length."),
        Preset(
            "tiny",
            "Tiny",
            "A few groups, to try the labelling page.",
            {"n_prompts": 12, "n_completions": 4, "max_new_tokens": 24},
        ),
    ),
    measures=(
        Measure("distinct", "Distinct answers", "share", "higher", "Equal answers cannot be ranked."),
        Measure("ended", "Ended by itself", "share", "higher"),
        Measure("mean_tokens", "Length", "tokens", "lower"),
        Measure("mean_logprob", "Log-probability of a token", "nats", "higher"),
    ),
    why=(
        "Why sample at temperature 1?",
        "The answers should show the whole range of what the model says, good and bad, or there is nothing to "
        "rank. Their log-probabilities are then those of the model itself, which learning from them relies on.",
        "Stiennon et al. 2020, Learning to summarize from human feedback, arXiv:2009.01325",
    ),
    cost=cost,
)
