"""Reinforcement learning from human feedback: the chat model practises, the reward model says how well it did."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core_ml.events import Event, Log, Metric
from core_ml.feedback.config import RlhfConfig
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.model.gpt import GPT

__all__ = ["RECIPE", "RlhfConfig", "run"]
SIZES = {"prompts_per_step", "n_completions", "max_new_tokens", "kl_coef", "seed"}
METHOD = {
    "algorithm", "kl_target", "clip", "entropy_coef", "passes", "minibatches", "gamma", "gae_lambda", "vf_coef", "value_clip",
}  # fmt: skip
LOOKS = {"n_sampled", "max_new_tokens", "seed"}


def run(config: RlhfConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml.errors import UserError
    from core_ml.feedback import kept
    from core_ml.feedback.gold import gold_of
    from core_ml.feedback.looks import Watch
    from core_ml.feedback.policy import Actor, reference
    from core_ml.feedback.practice import Method, Practice, updates_per_step
    from core_ml.feedback.prompts import read_prompts
    from core_ml.feedback.published import KEPT, publish
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.feedback.rewards import Rewards, Shaping
    from core_ml.feedback.rollout import compiling_pays, prompts_of_step
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads
    from core_ml.training import fast, lora
    from core_ml.training.guard import Guard
    from core_ml.training.loop import Chore, Loop, every, resumed
    from core_ml.training.schedule import lr_share
    from core_ml.training.update import Update

    yield resumed(workspace)
    use_threads(config.threads)
    torch.manual_seed(config.seed)
    policy, tokenizer = checkpoint.load(workspace.input("checkpoint").path)
    chat = reference(workspace, tokenizer, policy if config.lora_rank else None)
    models = {name: [RewardModel.load(one) for one in workspace.inputs(name)] for name in ("reward", "gold")}
    for model in (*models["reward"], *models["gold"]):
        model.model.requires_grad_(False)
    if not models["reward"]:
        workspace.input("reward")  # says what is missing
    rewards = Rewards(models["reward"], config.ensemble, config.uncertainty_coef)
    prompts = read_prompts(workspace.input("problems"), f"{config.seed}:practice")
    if len(prompts) <= config.n_watched:
        raise UserError(
            f"there are {len(prompts)} prompts and n_watched keeps {config.n_watched} of them from practice: "
            "lower it or choose more problems",
            field="n_watched",
        )
    watched, practised = prompts[: config.n_watched], prompts[config.n_watched :]
    gold = yield from gold_of(
        config.gold, workspace, chat, tokenizer, models, [prompt.text for prompt in watched], config.seed
    )
    if config.lora_rank is not None:
        torch.manual_seed(config.seed)  # gold may have drawn, or been found ready
        lora.adapt(policy, config.lora_rank, config.lora_alpha)
    actor = Actor(policy, values=config.algorithm == "ppo")
    notes: dict[str, Any] = {"history": [], "watched": [], "seconds": 0.0, "tokens": 0}
    n_updates = updates_per_step(config.prompts_per_step, config.minibatches, config.passes)

    def share(update: int) -> float:
        return lr_share((update - 1) // n_updates, config.steps, "wsd", config.warmup, config.cooldown)

    def place(update: int) -> str:
        return f"It belonged to round {(update - 1) // n_updates + 1}."

    update = Update(
        actor,
        actor.optimizers(config.optimizer, config.lr, config.muon_lr),
        share,
        notes=notes,
        grad_clip=config.grad_clip,
        ema=config.ema,
        place=place,
    )
    # A policy's loss has no level to rise from: where all answers are equally long it is 0 before the first update.
    update.guard = Guard(notes, config.spike, of="grad_norm")

    def pays() -> bool:
        first = prompts_of_step(practised, 1, config.prompts_per_step, config.seed)
        n, n_new = config.n_completions, config.max_new_tokens
        return compiling_pays(policy, tokenizer, first, n=n, max_new_tokens=n_new, rounds=config.steps)

    compiles = yield from fast.decide(config.compile, workspace, pays, config.steps)
    practice = Practice(
        actor=actor,
        chat=chat if config.needs_chat else None,
        tokenizer=tokenizer,
        rewards=rewards,
        update=update,
        prompts=practised,
        method=Method(**config.model_dump(include=METHOD), **config.resolved),
        notes=notes,
        compiles=compiles,
        shaping=Shaping(
            config.reward_normalize, config.reward_clip, config.eos_penalty, config.length_penalty
        ),
        **config.model_dump(include=SIZES),
    )

    def advance(step: int) -> list[Event]:
        begin = time.perf_counter()
        round = practice.step(step)
        seconds, n_tokens = time.perf_counter() - begin, sum(round.rollouts.lengths)
        notes["seconds"] += seconds
        notes["tokens"] += n_tokens
        notes["history"].append({name: round.values[name] for name in KEPT if name in round.values})
        if config.keep_rollouts and (step == 1 or step % config.keep_rollouts == 0):
            kept.write(workspace.state / kept.FOLDER, step, round, tokenizer)
        return [*round.logs, Metric(step, {**round.values, "tokens_per_second": n_tokens / seconds})]

    looks = Watch(
        policy,
        chat,
        tokenizer,
        rewards,
        gold,
        watched,
        measure_kl=config.needs_chat,
        notes=notes,
        **config.model_dump(include=LOOKS),
    )

    def watch(step: int) -> Generator[Event, None, None]:
        with update.averaged():
            yield from looks.look(step)
        if config.stop_early and looks.without_better >= config.stop_early and step < loop.steps:
            by = gold.said if gold else "the win rate"
            yield Log(
                f"Ended early after step {step:,} of {loop.steps:,}: the best look by {by} was at step {notes['best']:,}, "
                f"{looks.without_better} looks ago."
            )
            loop.steps = notes["steps"] = step
            notes["stopped_early"] = True

    loop = Loop(
        config.steps,
        advance,
        update.capture,
        update.read,
        {"watch": Chore(every(config.eval_every, config.steps), watch)},
        notes,
        save_every=config.save_every,
        keep_last=config.keep_last,
        keep_every=config.keep_every,
        message="practising",
    )
    yield from loop.run(workspace)

    @contextmanager
    def looked_at(step: int) -> Iterator["GPT"]:
        """The network as it was at a look: of the last step, or of one whose state is kept."""
        if not step:
            yield checkpoint.load(workspace.input("checkpoint").path, policy.device)[0]
            return
        if step != loop.steps:
            state = workspace.state_of(step)
            assert state is not None, step
            update.read(state)
        with update.averaged():
            yield lora.merged(policy)

    yield from publish(config, workspace, looked_at, tokenizer, notes, gold)


def cost(config: RlhfConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    n_answers = config.prompts_per_step * config.n_completions
    # Sampling, two looks without gradient, one pass of the reward model, one update, on one core.
    seconds = 4 + config.steps * (0.1 + n_answers * 1.2e-8 * max(n_parameters, 300_000))
    seconds *= 1 + 0.4 * (config.passes - 1)
    n_looked = (config.steps // config.eval_every + 2) * config.n_watched * (1 + config.n_sampled)
    seconds += n_looked * 4e-9 * max(n_parameters, 300_000)
    n_tokens = config.steps // (config.keep_rollouts or config.steps + 1) * n_answers * config.max_new_tokens
    # Weights of the policy, the chat model, the reward model and the sampler, and a state that is being written.
    averaged = 4 * (config.ema is not None)
    held, saved = (
        (16 + 2 * averaged, 4 + averaged) if config.lora_rank else (28 + 2 * averaged, 12 + averaged)
    )
    return Cost(
        seconds=seconds,
        memory_bytes=600_000_000 + held * n_parameters,
        disk_bytes=(8 + saved * (config.keep_last + 1)) * n_parameters + 16 * n_tokens,
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
    finishes=True,
    takes={
        "checkpoint": Input(
            "checkpoint",
            ("chat", "aligned"),
            description="The chat model, which is also what KL is measured to unless a reference is given.",
        ),
        "reference": Input(
            "checkpoint",
            ("chat", "aligned"),
            optional=True,
            # As in InstructGPT, where every round of feedback is pulled to the one supervised model.
            description=(
                "What KL is measured to where an aligned model goes on practising: the chat model that it came from, "
                "or the distance of each turn would add up unseen (Ouyang et al. 2022, arXiv:2203.02155)."
            ),
        ),
        "reward": Input(
            "checkpoint",
            ("reward",),
            many=True,
            description="The reward model that scores answers, or several of them.",
        ),
        "problems": Input("dataset", ("problems", "prompts"), description="Prompts to practise on."),
        "gold": Input(
            "checkpoint",
            ("reward",),
            optional=True,
            many=True,
            description="A clearly larger reward model, or several, that only judge the prompts kept aside.",
        ),
        "gold_rankings": Input(
            "dataset",
            ("rankings",),
            optional=True,
            description=(
                "People's newest rankings: a reward model of them judges the prompts kept aside, and nothing is learned from "
                "it. The best are of an aligned model's answers."
            ),
        ),
    },
    makes={
        "checkpoint": Output("checkpoint", "aligned", description="The aligned model."),
        "peak": Output(
            "checkpoint",
            "aligned",
            optional=True,
            description="The weights of the best look, where gold or the win rate fell after it.",
        ),
        "rollouts": Output(
            "dataset", "rollouts", optional=True, description="The answers of the rounds, ready to be ranked."
        ),
    },
    presets=(
        Preset("tour", "Tour", "30 rounds of 24 prompts: about a minute for a small network."),
        Preset(
            "tiny",
            "Tiny",
            "Four small rounds, to see the mechanism.",
            {"steps": 4, "prompts_per_step": 4, "n_completions": 4, "max_new_tokens": 24, "n_watched": 10},
        ),
        Preset(
            "grpo",
            "GRPO",
            "Group-relative advantages and a pull of 0.04 in the loss, as Shao et al. 2024 set them.",
            {"algorithm": "grpo", "kl_coef": 0.04, "minibatches": 1},
        ),
        Preset(
            "ppo",
            "PPO",
            "A value head, the pull in the reward, four passes over each round, as Stiennon et al. 2020 and Huang et al. 2024.",
            {
                "algorithm": "ppo",
                "kl_coef": 0.05,
                "minibatches": 1,
                "passes": 4,
                "eos_penalty": 1.0,
                "lr": 5e-4,
            },
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
        Measure("mean_tokens", "Length", "tokens", "lower"),
        Measure(
            "entropy", "Entropy of a token", "nats", "higher", "It falls as the model commits to one style."
        ),
        Measure("clipfrac", "Clipped tokens", "share", "lower"),
        Measure(
            "flat_groups",
            "Groups with no spread",
            "share",
            "lower",
            "All answers earn the same: nothing to learn.",
        ),
        Measure(
            "value_loss", "Value loss", "", "lower", "How wrong the value head is about the rewards to come."
        ),
        Measure(
            "val_win_rate",
            "Wins against the start",
            "share",
            "higher",
            "Greedy answers to prompts kept aside, before and after practice.",
        ),
        Measure(
            "val_gold_z",
            "Gold, on prompts kept aside",
            "",
            "higher",
            "Sampled answers; 0 is the chat model, 1 the spread of its answers.",
        ),
        Measure("val_proxy_z", "The reward model there", "", "higher", "On the same answers and scale."),
        Measure(
            "val_below_best",
            "Below the best look",
            "standard errors",
            "lower",
            "Of the difference, prompt by prompt.",
        ),
        Measure("val_kl", "KL there", "nats an answer", "lower"),
        Measure("val_liked", "Liked, on prompts kept aside", "share", "higher", "Greedy answers."),
        Measure("correct", "Correct", "share", "higher"),
        Measure("ended", "Ended by itself", "share", "higher"),
        Measure("kl_coef", "Pull to the chat model", "", "lower", "Steered to kl_target."),
        Measure(
            "reward_disagreement", "Ensemble's spread", "", "lower", "By how much the reward models part."
        ),
        Measure("loss", "Training loss", hint="Near 0 by its nature: it says nothing of progress."),
        Measure("lr", "Learning rate", hint="Of the matrices, where Muon moves them; else of all weights."),
        Measure("grad_norm", "Gradient norm"),
        Measure(
            "tokens_per_second",
            "Speed",
            "tokens/s",
            "higher",
            "Of answers: sampled, scored and learned from.",
        ),
        Measure("memory_gb", "Memory", "GB", hint="The most that this process has held."),
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
