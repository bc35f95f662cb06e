"""Trains a reward model: a network that reads an answer and says how much people would like it."""

import random
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core_ml.config import RecipeConfig, setting
from core_ml.events import Event, Metric, Progress, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.pairs import Group
    from core_ml.feedback.reward_model import RewardModel, Trainer

OPTIMIZER = "Optimizer"


class RewardConfig(RecipeConfig):
    epochs: float = setting(
        3.0,
        "Times that each ranking is read. More than a few make small sets learned by heart.",
        gt=0,
        le=100,
    )
    lr: float = setting(5e-4, "Peak learning rate.", gt=0, lt=1)
    held_out_share: float = setting(
        0.2, "Share of the prompts whose rankings only measure the model.", gt=0, le=0.9
    )
    tokens_per_step: int = setting(
        4096, "Padded tokens of one update.", unit="tokens", group=OPTIMIZER, ge=64, le=1_000_000
    )
    weight_decay: float = setting(0.01, "Pull of the weights to 0.", group=OPTIMIZER, ge=0, le=1)
    centering: float = setting(
        0.001, "Pull of the rewards to 0, which pairs alone leave undetermined.", group=OPTIMIZER, ge=0, le=1
    )
    warmup: float = setting(0.05, "Share of the updates with a rising rate.", group=OPTIMIZER, ge=0, le=1)
    cooldown: float = setting(0.7, "Share of the updates with a falling rate.", group=OPTIMIZER, ge=0, le=1)
    grad_clip: float = setting(1.0, "Longest gradient.", group=OPTIMIZER, gt=0, le=1000)
    eval_every: int = setting(
        25, "Updates between measurements.", unit="steps", group="Reports", ge=1, le=100_000
    )
    seed: int = setting(0, "Which prompts are held out, and the order of the rest.", ge=0, le=2**31 - 1)
    save_every: float = setting(20.0, "Between two saved states.", unit="s", group="Machine", ge=0)
    threads: int | None = setting(
        None, "Processor threads; empty for one fewer than the cores.", group="Machine", ge=1, le=256
    )


def run(config: RewardConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml.feedback.pairs import read_rankings, split
    from core_ml.feedback.reward_model import RewardModel, Trainer
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads
    from core_ml.training.loop import Chore, Loop, every, resumed
    from core_ml.training.schedule import lr_share
    from core_ml.training.update import Update

    yield resumed(workspace)
    use_threads(config.threads)
    torch.manual_seed(config.seed)
    rankings = read_rankings(workspace.input("rankings"))
    train, held_out = split(rankings.groups, config.held_out_share, config.seed)
    chat, tokenizer = checkpoint.load(workspace.input("checkpoint").path)
    model = chat.with_value_head().train()
    trainer = Trainer(model, tokenizer, train, config.centering)
    plan = trainer.plan(config.epochs, config.tokens_per_step, config.seed)
    parameters = [p for name, p in model.named_parameters() if not name.startswith("head.")]
    optimizer = torch.optim.AdamW(
        parameters, config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    scorer = RewardModel(model, tokenizer)

    notes: dict[str, Any] = {}
    update = Update(
        model,
        [optimizer],
        lambda step: lr_share(step - 1, len(plan), "wsd", config.warmup, config.cooldown),
        notes=notes,
        grad_clip=config.grad_clip,
    )

    def advance(step: int) -> list[Event]:
        loss, accuracy = trainer.loss(plan[step - 1])
        loss.backward()
        return update(step, loss, accuracy=accuracy)

    loop = Loop(
        len(plan),
        advance,
        update.capture,
        update.read,
        {
            "measure": Chore(
                every(config.eval_every, len(plan)), lambda step: _measure(scorer, held_out, step, len(plan))
            )
        },
        notes,
        save_every=config.save_every,
        message="learning from rankings",
    )
    yield from loop.run(workspace)
    yield from _publish(
        config, workspace, scorer, trainer, held_out, {**rankings.counts(), "n_steps": len(plan)}
    )


def _score_groups(scorer: "RewardModel", groups: Sequence["Group"]) -> list[list[float]]:
    rewards = scorer.score(
        [group.prompt for group in groups for _ in group.completions],
        [text for group in groups for text in group.completions],
    )
    values = iter(rewards)
    return [[next(values) for _ in group.completions] for group in groups]


def _measure(
    scorer: "RewardModel", held_out: list["Group"], step: int, steps: int
) -> Generator[Event, None, None]:
    """Loss and accuracy on the held-out prompts, and what the model says of three of their answers."""
    import torch

    from core_ml.feedback.reward_model import bradley_terry
    from core_ml.feedback.reward_report import outcomes

    yield Progress(step, steps, message="measuring on held-out prompts")
    rewards = _score_groups(scorer, held_out)
    right = [hit for group in outcomes(held_out, rewards).get("all", []) for hit in group]
    if not right:
        return
    losses = [
        (bradley_terry(torch.tensor(values), group.pairs()).item(), len(group.pairs()))
        for group, values in zip(held_out, rewards, strict=True)
        if group.pairs()
    ]
    val_loss = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    yield Metric(step, {"val_loss": val_loss, "val_accuracy": sum(right) / len(right)})
    for group, values in list(zip(held_out, rewards, strict=True))[:3]:
        best = max(range(len(values)), key=values.__getitem__)
        yield Sample(step, group.prompt, group.completions[best], {"reward": round(values[best], 3)})


def _publish(
    config: RewardConfig,
    workspace: Workspace,
    scorer: "RewardModel",
    trainer: "Trainer",
    held_out: list["Group"],
    counts: dict[str, Any],
) -> Iterator[Event]:
    from core_ml.evaluation.statistics import clustered
    from core_ml.feedback import orders
    from core_ml.feedback.pairs import labelers_agree
    from core_ml.feedback.reward_report import figures, findings, headline, outcomes
    from core_ml.model import checkpoint

    scorer.model.eval()
    rewards = _score_groups(scorer, held_out)
    found = outcomes(held_out, rewards)
    shares = {name: share for name, hits in found.items() if (share := clustered(hits))}
    agreement = clustered(labelers_agree(held_out)) or clustered(labelers_agree(trainer.groups))
    if agreement:
        shares["labelers"] = agreement
    # A reward has no zero of its own: the mean and the spread of a sample of what was ranked give it one.
    sample = random.Random(config.seed).sample(trainer.groups, min(300, len(trainer.groups)))
    values = [value for scores in _score_groups(scorer, sample) for value in scores]
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    summary = {
        **counts,
        "n_parameters": scorer.model.config.n_parameters,
        "n_train_prompts": len({group.prompt for group in trainer.groups}),
        "n_held_out_prompts": len({group.prompt for group in held_out}),
        "reward_mean": mean,
        "reward_std": std,
        **headline(shares),
        "findings": findings(shares, counts),
    }
    output = workspace.create("checkpoint", "checkpoint", role="reward")
    try:
        checkpoint.save(scorer.model, scorer.tokenizer, output.path)
        on_scale = [[(score - mean) / (std or 1.0) for score in scores] for scores in rewards]
        orders.write(output.path / orders.FILE, held_out, on_scale)
        yield workspace.made("checkpoint", output.finish(summary))
    finally:
        output.discard()
    yield from figures(shares, summary["n_steps"])
    yield Summary(summary)


def cost(config: RewardConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    rankings = next(iter(inputs.get("rankings", [])), {})
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    n_groups = rankings.get("groups") or rankings.get("n_rows") or 700
    n_tokens = n_groups * 6 * 45 * config.epochs
    # Forward and backward of a small network on one core: some 12,000 tokens a second at a million weights.
    return Cost(
        seconds=4 + n_tokens * 8e-11 * max(n_parameters, 300_000),
        memory_bytes=500_000_000 + 16 * n_parameters + 20_000 * config.tokens_per_step,
        disk_bytes=28 * n_parameters,
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
        "checkpoint": Input("checkpoint", ("chat", "aligned"), description="The chat model it starts from."),
        "rankings": Input("dataset", ("rankings",), description="What labelers preferred."),
    },
    makes={"checkpoint": Output("checkpoint", "reward", description="The reward model.")},
    presets=(
        Preset("tour", "Tour", "Three passes over some hundred rankings of a small model's answers."),
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
        Measure("memory_gb", "Memory", "GB", hint="The most that this process has held."),
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
