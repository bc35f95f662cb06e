"""Trains a reward model: a network that reads an answer and says how much people would like it."""

import random
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from core_ml.errors import UserError
from core_ml.events import Event, Metric, Progress, Sample, Summary
from core_ml.feedback.reward_config import RewardConfig
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.evaluation.statistics import Share
    from core_ml.feedback.pairs import Group, Rankings
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.feedback.reward_training import Trainer

__all__ = ["RECIPE", "RewardConfig", "run"]
N_LABELERS = 50  # whose weights a summary names, the least reliable first


def run(config: RewardConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml.feedback import several
    from core_ml.feedback.learning_curve import learning_curve
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.feedback.reward_training import Members, surface_of, teacher, trainer_of, weighed
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads
    from core_ml.model.energy import Energy
    from core_ml.training.loop import Chore, Loop, every, resumed

    yield resumed(workspace)
    use_threads(config.threads)
    torch.manual_seed(config.seed)
    workspace.input("rankings")  # says what is missing
    parts = several.read_all(workspace.inputs("rankings"))
    train, held_out = several.split_each(parts, config.held_out_share, config.seed)
    labelers: dict[str, float] = {}
    if config.weigh_labelers:
        train, labelers = weighed(train)
    body = workspace.input("checkpoint")
    start, tokenizer = checkpoint.load(body.path)
    if not tokenizer.has_chat:
        raise UserError(
            f"{body.manifest.name} has no tokens for conversations, which is how a reward model reads: import it with "
            "chat_tokens",
            field="checkpoint",
        )
    surface = surface_of(config, train)
    trainer = trainer_of(config, start, tokenizer, train, surface)
    members = Members(start, config.n_members, trainer.largest_tie, config.seed)
    scorer = RewardModel(members.members[0], tokenizer, others=list(members.members[1:]), surface=surface)
    plan = trainer.plan(config.epochs, config.tokens_per_step, config.seed, config.n_members)
    notes: dict[str, Any] = {}
    advance, update = teacher(config, members, trainer, plan, notes)
    joules = Energy(start.device)

    def learn(step: int) -> list[Event]:
        begin = time.perf_counter()
        told = advance(step)
        n_tokens, seconds = trainer.n_tokens(plan[step - 1].groups), time.perf_counter() - begin
        notes["seconds"] = notes.get("seconds", 0.0) + seconds
        notes["tokens"] = notes.get("tokens", 0) + n_tokens
        return [*told, Metric(step, {"tokens_per_second": n_tokens / seconds} | joules.since_last(n_tokens))]

    def measure(step: int) -> Generator[Event, None, None]:
        with update.averaged():
            value = yield from _measure(config, scorer, members.log_ties, held_out, step, len(plan))
        # Loss where there is one: it says how sure the model is as well, and so is better after fewer passes.
        if step and value is not None and value <= notes.get("least", value):
            notes["best"], notes["least"] = step, value

    loop = Loop(
        len(plan),
        learn,
        update.capture,
        update.read,
        {"measure": Chore(every(config.eval_every, len(plan)), measure)},
        notes,
        save_every=config.save_every,
        keep_last=config.keep_last,
        keep_every=config.keep_every,
        message="learning from rankings",
    )
    yield from loop.run(workspace)
    best = workspace.state_of(notes["best"]) if config.publish == "best" and "best" in notes else None
    if best is not None:
        update.read(best)
    curve = yield from learning_curve(config, workspace, train, held_out, start, tokenizer, len(plan))
    counts = {**several.joined(parts).counts(), "n_steps": len(plan)}
    counts |= {
        "step": notes["best"] if best is not None else len(plan),
        "tokens": notes["tokens"],
        "tokens_per_second": round(notes["tokens"] / max(1e-9, notes["seconds"])),
    }
    if labelers:
        worst_first = sorted(labelers.items(), key=lambda one: one[1])[:N_LABELERS]
        counts["labeler_weights"] = {name: round(weight, 3) for name, weight in worst_first}
    with update.averaged():
        yield from _publish(config, workspace, scorer, trainer, parts, held_out, curve, counts)


def _measure(
    config: RewardConfig, scorer: "RewardModel", log_ties: Any, held_out: list["Group"], step: int, steps: int
) -> Generator[Event, None, float | None]:
    """Loss and accuracy on the held-out prompts, and what the model says of three of their answers.

    Returns: the loss, or the share of pairs that are ordered wrongly where there is none; None without pairs.
    """
    from core_ml.feedback.reward_report import held_out_loss, outcomes

    yield Progress(step, steps, message="measuring on held-out prompts")
    rewards = scorer.score_groups(held_out)
    right = [hit for group in outcomes(held_out, rewards).get("all", []) for hit in group]
    if not right:
        return None
    values = {"val_accuracy": sum(right) / len(right)}
    if (loss := held_out_loss(held_out, rewards, config.loss, log_ties)) is not None:
        values["val_loss"] = loss
    yield Metric(step, values)
    for group, scores in list(zip(held_out, rewards, strict=True))[:3]:
        best = max(range(len(scores)), key=scores.__getitem__)
        yield Sample(step, group.prompt, group.completions[best], {"reward": round(scores[best], 3)})
    return values.get("val_loss", 1 - values["val_accuracy"])


def _publish(
    config: RewardConfig,
    workspace: Workspace,
    scorer: "RewardModel",
    trainer: "Trainer",
    parts: list["Rankings"],
    held_out: list["Group"],
    curve: list[tuple[int, "Share"]],
    counts: dict[str, Any],
) -> Iterator[Event]:
    from core_ml.evaluation.statistics import clustered
    from core_ml.feedback import comparison, orders, reward_figures, several
    from core_ml.feedback.pairs import flat
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.feedback.reward_report import beside_people, figures, findings, headline, outcomes

    for member in scorer.members:
        member.eval()
    # A reward has no zero of its own: the mean and the spread of a sample of what was ranked give it one.
    sample = random.Random(config.seed).sample(trainer.groups, min(300, len(trainer.groups)))
    scorer.rescale(*flat(sample))
    rewards = scorer.score_groups(held_out)
    found = outcomes(held_out, rewards)
    shares = {name: share for name, hits in found.items() if (share := clustered(hits))}
    by_rankings = several.by_dataset(workspace.inputs("rankings"), parts, held_out, rewards)
    earlier = workspace.input("earlier") if workspace.has("earlier") else None
    if earlier:
        before = RewardModel.load(earlier).score_groups(held_out)
        by_rankings = comparison.beside(by_rankings, parts, held_out, rewards, before)
    beside = comparison.findings(by_rankings, earlier.manifest.name) if earlier else []
    people = beside_people(held_out, rewards)
    summary = {
        **counts,
        "by_rankings": by_rankings,
        "n_parameters": scorer.model.config.n_parameters,
        "n_members": len(scorer.members),
        "n_train_prompts": len({group.prompt for group in trainer.groups}),
        "n_held_out_prompts": len({group.prompt for group in held_out}),
        "reward_mean": scorer.mean,
        "reward_std": scorer.std,
        **headline(shares),
        **({"beside_people": people.as_dict()} if people else {}),
        "findings": findings(shares, counts, people) + (beside or several.findings(by_rankings)),
    }
    if len(scorer.members) > 1:
        spread = scorer.spread(*flat(held_out))
        summary["members_spread"] = round(sum(spread) / len(spread), 4)
    output = workspace.create("checkpoint", "checkpoint", role="reward")
    try:
        scorer.save(output.path)
        orders.write(output.path / orders.FILE, held_out, rewards)
        yield workspace.made("checkpoint", output.finish(summary))
    finally:
        output.discard()
    step = summary["n_steps"]
    yield from figures(shares, step)
    yield from reward_figures.figures(held_out, rewards, scorer.std, step)
    if curve and "all" in shares:
        yield reward_figures.learning_curve([*curve, (len(trainer.groups), shares["all"])], step)
    if earlier:
        yield comparison.figure(by_rankings, earlier.manifest.name, step)
    yield Summary(summary)


def cost(config: RewardConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    given = inputs.get("rankings", [])
    n_groups = sum(one.get("groups") or one.get("n_rows") or 700 for one in given) or 700
    # The models of a learning curve read 1/2 + 1/4 + … of the rankings.
    passes = config.epochs * (config.n_members + 1 - 0.5**config.learning_curve)
    n_tokens = n_groups * 6 * 45 * passes
    # Forward and backward of a small network on one core: some 12,000 tokens a second at a million weights.
    return Cost(
        seconds=4 + n_tokens * 8e-11 * max(n_parameters, 300_000),
        memory_bytes=500_000_000 + 16 * n_parameters * config.n_members + 20_000 * config.tokens_per_step,
        disk_bytes=28 * n_parameters * config.n_members,
        facts={"rankings": f"{n_groups:,}", "passes": f"{config.epochs:g}"},
    )


RECIPE = Recipe(
    kind="reward",
    title="Train a reward model",
    stage="aligned",
    explanation=(
        "Learns from rankings to say how good an answer is, because people cannot rank every answer that "
        "reinforcement learning will try."
    ),
    config=RewardConfig,
    run=run,
    takes={
        "checkpoint": Input(
            "checkpoint",
            ("base", "chat", "aligned"),
            description="The model it starts from, one of your own or imported: best one that has learned to chat.",
        ),
        "rankings": Input(
            "dataset",
            ("rankings",),
            many=True,
            description="What labelers preferred. Of several, what is held out of the first stays held out, whatever "
            "is added.",
        ),
        "earlier": Input(
            "checkpoint",
            ("reward",),
            optional=True,
            description="An earlier reward model, only measured beside the new one on the rankings held out.",
        ),
    },
    makes={"checkpoint": Output("checkpoint", "reward", description="The reward model.")},
    presets=(
        Preset("tour", "Tour", "Three passes over some hundred rankings of a small model's answers."),
        Preset(
            "ensemble",
            "Ensemble",
            "Four models whose disagreement says where the score is not to be trusted, and a learning curve.",
            {"n_members": 4, "learning_curve": 3},
        ),
        Preset("tiny", "Tiny", "One pass, to see the mechanism.", {"epochs": 1.0, "tokens_per_step": 1024}),
    ),
    measures=(
        Measure(
            "val_accuracy",
            "Held-out pairs ordered rightly",
            "share",
            "higher",
            "Chance is 0.5; labelers among themselves often agree on 0.7 to 0.9.",
        ),
        Measure("val_loss", "Held-out loss", "nats", "lower"),
        Measure("loss", "Loss", "nats", "lower"),
        Measure("accuracy", "Training pairs ordered rightly", "share", "higher"),
        Measure("lr", "Learning rate", hint="Of the matrices; everything else follows the same shape."),
        Measure("grad_norm", "Gradient norm"),
        Measure(
            "tokens_per_second",
            "Speed",
            "tokens/s",
            "higher",
            "Each prompt counts once for each of its answers.",
        ),
        Measure("memory_gb", "Memory", "GB", hint="The most that this process has held."),
        Measure(
            "joules_per_token",
            "Energy",
            "J per token",
            hint="Of the whole machine, where it lets one read its counters.",
        ),
    ),
    why=(
        "Why rankings, when marks from 1 to 10 say more?",
        "People's marks drift and differ from person to person, and their order of two answers hardly does. The "
        "Bradley-Terry model turns orders into one scale: the difference of two rewards is the log-odds that the "
        "first is preferred.",
        "Christiano et al. 2017, Deep reinforcement learning from human preferences, arXiv:1706.03741",
    ),
    cost=cost,
)
