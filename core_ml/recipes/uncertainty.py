"""Asks reward models where they disagree: how uncertain each group of rollouts is, and each pair of its answers."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from core_ml.config import RecipeConfig, Threads
from core_ml.events import Event, Metric, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.reward_model import RewardModel

CHUNK = 64  # groups that are scored and kept as done together
COLUMNS = ("group_id", "prompt", "completions")
MORE = ("logprobs", "ended")
N_SAMPLES = 5


class UncertaintyConfig(RecipeConfig):
    threads: Threads = None


def run(config: UncertaintyConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.errors import UserError
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.model.device import use_threads
    from core_ml.tasks.rows import read_rows

    source = workspace.input("rollouts")
    n_groups = _n_rows(source.files(".parquet"))
    n_chunks = -(-n_groups // CHUNK)
    done = sum(workspace.read_json(_note(number)) is not None for number in range(n_chunks))
    yield Resumed(done * CHUNK if 0 < done < n_chunks else -1)
    use_threads(config.threads)
    models = [RewardModel.load(folder) for folder in workspace.inputs("reward")]
    n_members = sum(len(model.members) for model in models)
    if n_members < 2:
        raise UserError(
            "one reward model alone disagrees with nobody: choose several, or one that was trained with n_members of 2 or "
            "more",
            field="reward",
        )
    yield Progress(min(done * CHUNK, n_groups), n_groups, "groups", "scoring")
    told: list[list[Any]] = []
    groups = read_rows(source, COLUMNS, input="rollouts")
    for number in range(n_chunks):
        rows = list(islice(groups, CHUNK))
        known = workspace.read_json(_note(number))
        if known is None:
            known = _scored(models, rows)
            workspace.write_json(_note(number), known)
        told += known
        found = [value for pairs in known if (value := _of_group(pairs)) is not None]
        if found and (number >= done or done == n_chunks):
            yield Metric(len(told), {"uncertainty": sum(found) / len(found)})
        yield Progress(len(told), n_groups, "groups", "scoring")
    yield from _publish(workspace, told, n_members)


def _note(number: int) -> str:
    return f"groups-{number:06d}.json"


def _n_rows(paths: Sequence[Any]) -> int:
    from core_ml import parquet

    n = 0
    for path in paths:
        with parquet.open_file(path) as file:
            n += file.metadata.num_rows
    return n


def _scored(models: Sequence["RewardModel"], rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """For each group its pairs of different answers, each with the members' spread."""
    import numpy as np

    from core_ml.feedback.disagreement import pair_spreads

    prompts = [row["prompt"] for row in rows for _ in row["completions"]]
    texts = [text for row in rows for text in row["completions"]]
    # The scale of a model's scores is that of its training answers; its loss knows the raw ones.
    members = [np.array(one) * model.std for model in models for one in model.scores(prompts, texts)]
    scores = np.array(members).reshape(len(members), len(texts))
    found, begin = [], 0
    for row in rows:
        own = scores[:, begin : (begin := begin + len(row["completions"]))]
        found.append([(i, j, round(value, 5)) for i, j, value in pair_spreads(own, row["completions"])])
    return found


def _of_group(pairs: Sequence[Sequence[float]]) -> float | None:
    """The mean of all pairs; None where no two answers differ, and nothing can be ranked."""
    return sum(pair[2] for pair in pairs) / len(pairs) if pairs else None


def _publish(workspace: Workspace, told: Sequence[list[Any]], n_members: int) -> Iterator[Event]:
    from core_ml.tasks.rows import read_rows, write_rows

    source = workspace.input("rollouts")
    values = [_of_group(pairs) for pairs in told]
    known = sorted((value for value in values if value is not None), reverse=True)
    tenth = known[: -(-len(known) // 10)]
    most = {at for at, value in enumerate(values) if value is not None and value >= known[:N_SAMPLES][-1]}
    samples: list[Sample] = []

    def rows() -> Iterator[dict[str, Any]]:
        for at, row in enumerate(read_rows(source, COLUMNS, input="rollouts", optional=MORE)):
            # Anew for these models: what an earlier run said of the same groups counts no longer.
            said = {"uncertainty": values[at], "pair_uncertainty": told[at]}
            if at in most and len(samples) < N_SAMPLES:
                text = "\n\n".join(row["completions"])
                samples.append(Sample(len(told), row["prompt"], text, {"uncertainty": values[at]}))
            yield {**row, "metadata": {**row["metadata"], **said}}

    output = workspace.create("rollouts", "dataset", form="rollouts")
    try:
        write_rows(output.path / "rollouts.parquet", "rollouts", rows())
        summary: dict[str, Any] = {"n_rows": len(told), "n_scored": len(known), "n_members": n_members}
        if known:
            summary |= {
                "uncertainty": round(sum(known) / len(known), 4),
                "uncertainty_most": round(sum(tenth) / len(tenth), 4),
            }
        summary["findings"] = _findings(summary)
        yield workspace.made("rollouts", output.finish(summary))
    finally:
        output.discard()
    yield from samples
    yield Summary(summary)


def _findings(summary: dict[str, Any]) -> list[str]:
    if "uncertainty" not in summary:
        return ["No group has two different answers: there is nothing to be unsure about."]
    return [
        f"The probability that one of two answers is better spreads by {summary['uncertainty']:.3f} over "
        f"{summary['n_members']} members, and by {summary['uncertainty_most']:.3f} in the tenth of the groups where it "
        "spreads most."
    ]


def cost(config: UncertaintyConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    models = inputs.get("reward", [])
    weights = sum((one.get("n_parameters") or 1_000_000) * (one.get("n_members") or 1) for one in models)
    summary = next(iter(inputs.get("rollouts", [])), {})
    n_answers = summary.get("n_completions") or 6 * (summary.get("n_rows") or summary.get("rows") or 500)
    n_tokens = n_answers * (summary.get("mean_tokens") or 50)
    return Cost(
        seconds=3 + n_tokens * weights * 4e-11 + n_answers * 1e-4,
        memory_bytes=500_000_000 + 8 * weights,
        disk_bytes=int(n_tokens * 6),
        facts={"answers": f"{n_answers:,}"},
    )


RECIPE = Recipe(
    kind="uncertainty",
    title="Where reward models disagree",
    stage="aligned",
    explanation=(
        "Asks the members of an ensemble, for each two answers, how likely the first is the better one; where they part, "
        "people's rankings teach the most. Labelling projects over these rollouts take the scores when it has ended."
    ),
    config=UncertaintyConfig,
    run=run,
    takes={
        "reward": Input(
            "checkpoint",
            ("reward",),
            many=True,
            description="A reward model with several members, or several reward models.",
        ),
        "rollouts": Input("dataset", ("rollouts",), description="The groups that people are to rank."),
    },
    makes={
        "rollouts": Output(
            "dataset",
            "rollouts",
            description="The same groups, each with its uncertainty and that of its pairs.",
        )
    },
    presets=(Preset("standard", "All groups", "Every group of the rollouts."),),
    measures=(
        Measure(
            "uncertainty",
            "Disagreement",
            "",
            "lower",
            "Spread of the probability that one answer beats another, mean of pairs; 0 is one mind, 0.5 the most.",
        ),
    ),
    why=(
        "Why ask where models disagree?",
        "Where all members of an ensemble are sure of the same order, a ranking tells them nothing new. Where they part, "
        "it settles something; how many rankings that saves depends on the data, and sometimes it is none.",
        "Coste et al. 2023, Reward model ensembles help mitigate overoptimization, arXiv:2310.02743",
    ),
    cost=cost,
)
