"""Reinforcement learning from human feedback: the chat model practises, the reward model says how well it did."""

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core_ml.config import RecipeConfig, setting
from core_ml.events import Event, Metric, Progress, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.prompts import Prompt
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.model.gpt import GPT
    from core_ml.tokenizer.tokenizer import Tokenizer

OPTIMIZER, REPORTS = "Optimizer", "Reports"
KEPT = ("reward", "liked", "correct", "kl", "mean_tokens", "entropy")
SIZES = {
    "prompts_per_step",
    "n_completions",
    "max_new_tokens",
    "minibatches",
    "clip",
    "kl_coef",
    "grad_clip",
    "seed",
}
AVERAGED = 3  # updates whose mean stands for the beginning and the end of the run


class RlhfConfig(RecipeConfig):
    steps: int = setting(30, "Rounds of answering, scoring and learning.", unit="steps", ge=1, le=100_000)
    prompts_per_step: int = setting(24, "Prompts of one round.", ge=1, le=4096)
    n_completions: int = setting(
        6, "Answers to each prompt, which are compared with each other.", ge=2, le=64
    )
    kl_coef: float = setting(
        0.1,
        "Pull to the chat model, per token. Without it the model finds what fools the reward model.",
        ge=0,
        le=10,
    )
    lr: float = setting(1e-3, "Peak learning rate.", gt=0, lt=1)
    max_new_tokens: int = setting(48, "An answer is cut off here.", unit="tokens", ge=1, le=8192)
    clip: float = setting(
        0.2, "How far a token's probability ratio may move in one round.", group=OPTIMIZER, gt=0, le=1
    )
    minibatches: int = setting(2, "Updates that one round is split into.", group=OPTIMIZER, ge=1, le=64)
    warmup: float = setting(0.1, "Share of the rounds with a rising rate.", group=OPTIMIZER, ge=0, le=1)
    cooldown: float = setting(1.0, "Share of the rounds with a falling rate.", group=OPTIMIZER, ge=0, le=1)
    grad_clip: float = setting(1.0, "Longest gradient.", group=OPTIMIZER, gt=0, le=1000)
    n_watched: int = setting(
        60,
        "Prompts kept out of practice, answered greedily as the run goes on.",
        group=REPORTS,
        ge=1,
        le=10_000,
    )
    eval_every: int = setting(
        5, "Rounds between looks at those prompts.", unit="steps", group=REPORTS, ge=1, le=100_000
    )
    seed: int = setting(0, "Order of the prompts and the draws of the answers.", ge=0, le=2**31 - 1)
    save_every: float = setting(20.0, "Between two saved states.", unit="s", group="Machine", ge=0)
    threads: int | None = setting(
        None, "Processor threads; empty for one fewer than the cores.", group="Machine", ge=1, le=256
    )


def run(config: RlhfConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml.errors import UserError
    from core_ml.feedback.practice import Practice
    from core_ml.feedback.prompts import read_prompts
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads
    from core_ml.training import state
    from core_ml.training.loop import Chore, Loop, every, resumed
    from core_ml.training.optim import scale_lr
    from core_ml.training.schedule import lr_share

    yield resumed(workspace)
    use_threads(config.threads)
    torch.manual_seed(config.seed)
    start = workspace.input("checkpoint").path
    chat, tokenizer = checkpoint.load(start)
    policy, _ = checkpoint.load(start)
    chat.requires_grad_(False)
    reward = RewardModel.load(workspace.input("reward"))
    reward.model.requires_grad_(False)
    prompts = read_prompts(workspace.input("problems"), f"{config.seed}:practice")
    if len(prompts) <= config.n_watched:
        raise UserError(
            f"there are {len(prompts)} prompts and n_watched keeps {config.n_watched} of them from practice: "
            "lower it or choose more problems",
            field="n_watched",
        )
    watched, practised = prompts[: config.n_watched], prompts[config.n_watched :]
    parameters = [p for name, p in policy.named_parameters() if not name.startswith("value_head.")]
    optimizer = torch.optim.AdamW(parameters, config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    practice = Practice(
        policy=policy,
        chat=chat,
        tokenizer=tokenizer,
        reward=reward,
        optimizer=optimizer,
        prompts=practised,
        **config.model_dump(include=SIZES),
    )
    notes: dict[str, Any] = {"history": [], "watched": []}

    def advance(step: int) -> list[Event]:
        share = lr_share(step - 1, config.steps, "wsd", config.warmup, config.cooldown)
        lr = scale_lr([optimizer], share)
        values = practice.step(step)
        notes["history"].append({name: values[name] for name in KEPT if name in values})
        return [Metric(step, {**values, "lr": lr})]

    def watch(step: int) -> Generator[Event, None, None]:
        yield Progress(step, config.steps, message="answering the prompts kept aside")
        yield from _watch(config, policy, tokenizer, reward, watched, step, notes)

    loop = Loop(
        config.steps,
        advance,
        lambda kept: state.capture(policy, [optimizer], kept),
        lambda path: state.read(path, policy, [optimizer]),
        {"watch": Chore(every(config.eval_every, config.steps), watch)},
        notes,
        save_every=config.save_every,
        message="practising",
    )
    yield from loop.run(workspace)
    yield from _publish(config, workspace, policy, tokenizer, notes)


def _watch(
    config: RlhfConfig,
    policy: "GPT",
    tokenizer: "Tokenizer",
    reward: "RewardModel",
    prompts: Sequence["Prompt"],
    step: int,
    notes: dict[str, Any],
) -> Iterator[Event]:
    """Greedy answers to the same prompts, which no update has seen."""
    from core_ml.feedback.rollout import practise

    rollouts = practise(
        policy,
        tokenizer,
        reward,
        prompts,
        n=1,
        max_new_tokens=config.max_new_tokens,
        temperature=0.0,
        seed=config.seed,
    )
    values = rollouts.measures()
    notes["watched"].append({**values, "rewards": rollouts.rewards, "judged": rollouts.judged()})
    yield Metric(step, {f"val_{name}": value for name, value in values.items()})
    shown: set[str] = set()
    for prompt, text, score in zip(prompts, rollouts.texts, rollouts.rewards, strict=True):
        # One of each task, where tasks are known.
        kind = prompt.metadata.get("task", prompt.text)
        if kind not in shown and len(shown) < 6:
            shown.add(kind)
            yield Sample(step, prompt.text, text, {"reward": round(score, 3)})


def _publish(
    config: RlhfConfig, workspace: Workspace, policy: "GPT", tokenizer: "Tokenizer", notes: dict[str, Any]
) -> Iterator[Event]:
    from core_ml.feedback.practice import findings, reward_over_kl
    from core_ml.model import checkpoint

    history, watched = notes["history"], notes["watched"]
    first, last = history[:AVERAGED], history[-AVERAGED:]
    summary: dict[str, Any] = {"n_parameters": policy.config.n_parameters, "n_steps": config.steps}
    for name in KEPT:
        if name in history[0]:
            summary[f"{name}_first"] = round(sum(h[name] for h in first) / len(first), 4)
            summary[f"{name}_last"] = round(sum(h[name] for h in last) / len(last), 4)
    for name in ("reward", "liked", "correct", "mean_tokens"):
        if name in watched[0]:
            summary[f"val_{name}_first"] = round(watched[0][name], 4)
            summary[f"val_{name}_last"] = round(watched[-1][name], 4)
    summary["findings"] = findings(watched[0], watched[-1], summary["kl_last"])
    output = workspace.create("checkpoint", "checkpoint", role="aligned")
    try:
        checkpoint.save(policy, tokenizer, output.path)
        yield workspace.made("checkpoint", output.finish(summary))
    finally:
        output.discard()
    yield reward_over_kl(history)
    yield Summary(summary)


def cost(config: RlhfConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    n_answers = config.prompts_per_step * config.n_completions
    # Sampling, two looks without gradient, one pass of the reward model, one update, on one core.
    seconds = 4 + config.steps * (0.1 + n_answers * 1.2e-8 * max(n_parameters, 300_000))
    return Cost(
        seconds=seconds,
        memory_bytes=600_000_000 + 28 * n_parameters,
        disk_bytes=28 * n_parameters,
        facts={"answers": f"{config.steps * n_answers:,}"},
    )


RECIPE = Recipe(
    kind="rlhf",
    title="Align by feedback",
    stage="aligned",
    explanation=(
        "Lets the chat model answer, has the reward model score the answers, and makes the better ones likelier, "
        "because imitation alone can only be as good as what it imitates."
    ),
    config=RlhfConfig,
    run=run,
    takes={
        "checkpoint": Input(
            "checkpoint",
            ("chat", "aligned"),
            description="The chat model, which is also what KL is measured to.",
        ),
        "reward": Input("checkpoint", ("reward",), description="The reward model that scores answers."),
        "problems": Input("dataset", ("problems", "prompts"), description="Prompts to practise on."),
    },
    makes={"checkpoint": Output("checkpoint", "aligned", description="The aligned model.")},
    presets=(
        Preset("tour", "Tour", "30 rounds of 24 prompts: about a minute for a small network."),
        Preset(
            "tiny",
            "Tiny",
            "Four small rounds, to see the mechanism.",
            {"steps": 4, "prompts_per_step": 4, "n_completions": 4, "max_new_tokens": 24, "n_watched": 10},
        ),
        Preset(
            "no-kl",
            "Without KL",
            "No pull to the chat model, larger updates and twice the rounds: expect a reward higher than the "
            "tour's for well-formed, short and wrong answers, because the model learns what fools the reward model.",
            {"kl_coef": 0.0, "steps": 60, "lr": 2e-3, "cooldown": 0.3},
        ),
    ),
    measures=(
        Measure(
            "reward", "Mean reward", "", "higher", "0 is the mean of the ranked answers, 1 their spread."
        ),
        Measure("kl", "KL to the chat model", "nats an answer", "lower", "Exact over the vocabulary."),
        Measure(
            "liked", "Liked by the stated preference", "share", "higher", "Judged by a rule, not a network."
        ),
        Measure("val_liked", "Liked, on prompts kept aside", "share", "higher", "Greedy answers."),
        Measure("correct", "Correct", "share", "higher"),
        Measure("mean_tokens", "Length", "tokens", "lower"),
        Measure(
            "entropy", "Entropy of a token", "nats", "higher", "It falls as the model commits to one style."
        ),
        Measure("clipfrac", "Clipped tokens", "share", "lower"),
    ),
    why=(
        "Why not train for the highest reward and nothing else?",
        "The reward model is right only about answers like those it was trained on. Far from them it can be "
        "fooled, and a policy that seeks reward alone will find out how; the KL penalty keeps it near what the "
        "reward model knows.",
        "Gao et al. 2022, Scaling laws for reward model overoptimization, arXiv:2210.10760",
    ),
    cost=cost,
)
