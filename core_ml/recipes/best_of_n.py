"""How far a reward model can be followed: the best of n answers by the proxy, judged by gold, with n up to some hundreds."""

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.events import Event, Metric, Progress, Resumed, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.gold import Gold
    from core_ml.feedback.prompts import Prompt
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.model.gpt import GPT
    from core_ml.tokenizer.tokenizer import Tokenizer

CHUNK = 4  # prompts that are sampled, scored and counted as done together


class BestOfNConfig(RecipeConfig):
    n: int = setting(
        256, "Answers to each prompt; the best of every smaller n follows from them.", ge=2, le=4096
    )
    n_prompts: int = setting(50, "Prompts; their number sets how wide intervals are.", ge=2, le=100_000)
    max_new_tokens: int = setting(48, "An answer is cut off here.", unit="tokens", ge=1, le=8192)
    gold: Literal["auto", "rule", "model", "rankings", "none"] = setting(
        "auto",
        "Who judges the proxy's choice (Gao et al. 2022, arXiv:2210.10760): the stated preference where the prompts are of "
        "our tasks, a larger reward model, or one that is fitted on people's newest rankings. auto takes a model where one "
        "is given, else rankings, else the rule.",
    )
    seed: int = setting(0, "Which prompts are drawn, and the draws of the answers.", ge=0, le=2**31 - 1)
    threads: Threads = None


def run(config: BestOfNConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.feedback.gold import gold_of
    from core_ml.feedback.prompts import read_prompts
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads

    prompts = read_prompts(workspace.input("problems"), f"{config.seed}:best of n")[: config.n_prompts]
    parts = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]
    done = sum(workspace.read_json(_note(number)) is not None for number in range(len(parts)))
    # All that carries a step is told at the end, with steps of its own: an attempt that begins there tells it anew.
    yield Resumed(done * CHUNK if 0 < done < len(parts) else -1)
    use_threads(config.threads)
    model, tokenizer = checkpoint.load(workspace.input("checkpoint").path)
    models = {name: [RewardModel.load(one) for one in workspace.inputs(name)] for name in ("reward", "gold")}
    if not models["reward"]:
        workspace.input("reward")  # says what is missing
    texts = [prompt.text for prompt in prompts]
    gold = yield from gold_of(config.gold, workspace, model, tokenizer, models, texts, config.seed)
    found = []
    for number, part in enumerate(parts):
        known = workspace.read_json(_note(number))
        if known is None:
            yield Progress(number * CHUNK, len(prompts), "prompts", f"sampling {config.n} answers to each")
            known = yield from _judged(config, model, tokenizer, models["reward"], gold, part, number)
            workspace.write_json(_note(number), known)
        found.append(known)
        yield Progress(min(len(prompts), (number + 1) * CHUNK), len(prompts), "prompts", "scoring")
    yield from _publish(config, workspace, found, prompts, gold.said if gold else None)


def _note(number: int) -> str:
    return f"prompts-{number:06d}.json"


def _judged(
    config: BestOfNConfig,
    model: "GPT",
    tokenizer: "Tokenizer",
    proxies: Sequence["RewardModel"],
    gold: "Gold | None",
    prompts: Sequence["Prompt"],
    number: int,
) -> Generator[Event, None, dict[str, Any]]:
    """Scores of n answers to some prompts, and those that the proxies like best among the first 1, 2, 4, …

    Its draws depend on the seed and its number only, so that it may be done in any attempt.
    """
    import numpy as np

    from core_ml.evaluation.overoptimization import powers_of_two
    from core_ml.feedback.batches import as_prompt
    from core_ml.sampling.generate import Completion, generate_in_batches

    n = config.n
    ids = [as_prompt(tokenizer, prompt.text) for prompt in prompts for _ in range(n)]
    completions = [Completion() for _ in ids]
    for _ in generate_in_batches(
        model,
        ids,
        completions,
        max_new_tokens=config.max_new_tokens,
        stop_ids=(tokenizer.end_id,),
        seed=config.seed * 1_000_003 + number,
    ):
        # So that a request to stop is heard within the answers of large models too.
        yield Progress(number * CHUNK, config.n_prompts, "prompts", f"sampling {n} answers to each")
    asked = [prompt.text for prompt in prompts for _ in range(n)]
    texts = [tokenizer.decode(completion.ids) for completion in completions]
    ended = [completion.ended for completion in completions]
    shape = (len(prompts), n)
    # Equal answers are scored once.
    scores = np.array([proxy.score(asked, texts) for proxy in proxies]).reshape(-1, *shape)
    judged = np.array(gold.scores(asked, texts, ended)).reshape(shape) if gold else None
    liked = scores.mean(axis=0)
    picks = []
    for row in range(len(prompts)):
        places = [int(np.argmax(liked[row, :k])) for k in powers_of_two(n)]
        whole = [completions[row * n + place] for place in places]
        picks.append(
            {
                "completions": [texts[row * n + place] for place in places],
                "logprobs": [one.logprobs for one in whole],
                "ended": [one.ended for one in whole],
                "proxy": [round(float(liked[row, place]), 4) for place in places],
                "gold": None if judged is None else [float(judged[row, place]) for place in places],
            }
        )
    return {
        "proxies": scores.tolist(),
        "gold": None if judged is None else judged.tolist(),
        "distinct": len(set(zip(asked, texts, strict=True))) / len(texts),
        "picks": picks,
    }


def _publish(
    config: BestOfNConfig,
    workspace: Workspace,
    found: Sequence[dict[str, Any]],
    prompts: Sequence["Prompt"],
    said: str | None,
) -> Iterator[Event]:
    import numpy as np

    from core_ml.evaluation.best_of_n import figure, findings, sweep
    from core_ml.tasks.rows import write_rows

    proxies = np.concatenate([np.array(one["proxies"]) for one in found], axis=1)
    gold = np.concatenate([np.array(one["gold"]) for one in found]) if said else None
    swept = sweep(proxies, gold, config.seed)
    picks = [pick for one in found for pick in one["picks"]]
    for place, n in enumerate(swept.ns):
        values = {
            "kl": swept.d[place] ** 2,
            "proxy_z": swept.proxy[place],
            "proxy_z_sem": swept.proxy_sem[place],
        }
        if swept.gold is not None and swept.gold_sem is not None:
            values |= {"gold_z": swept.gold[place], "gold_z_sem": swept.gold_sem[place]}
        yield Metric(n, {name: float(value) for name, value in values.items()})
        for prompt, pick in list(zip(prompts, picks, strict=True))[:2]:
            data = {"proxy": pick["proxy"][place], "gold": pick["gold"] and pick["gold"][place]}
            yield Sample(n, prompt.text, pick["completions"][place], data)
    sentences = findings(swept, said, len(proxies))
    summary: dict[str, Any] = {
        "n_rows": len(prompts),
        "n": config.n,
        "n_proxies": len(proxies),
        "distinct": round(float(np.mean([one["distinct"] for one in found])), 4),
        "proxy_z": round(float(swept.proxy[-1]), 4),
        "findings": sentences,
    }
    if swept.gold is not None and swept.fit is not None:
        summary |= {"gold": said, "gold_z": round(float(swept.gold[-1]), 4), "peak_n": swept.peak_n}
        summary["over_kl"] = swept.fit.as_dict()
    output = workspace.create("answers", "dataset", form="rollouts")
    try:
        rows = (
            {
                "group_id": f"p{number:05d}",
                "prompt": prompt.text,
                **{name: pick[name] for name in ("completions", "logprobs", "ended")},
                "metadata": {**prompt.metadata, "n": swept.ns, "proxy": pick["proxy"], "gold": pick["gold"]},
            }
            for number, (prompt, pick) in enumerate(zip(prompts, picks, strict=True))
        )
        write_rows(output.path / "rollouts.parquet", "rollouts", rows)
        yield workspace.made("answers", output.finish(summary))
    finally:
        output.discard()
    yield figure(swept, said, sentences)
    yield Summary(summary)


def cost(config: BestOfNConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    n_answers = config.n * config.n_prompts
    n_models = max(1, len(inputs.get("reward", []))) + len(inputs.get("gold", []))
    # Most answers end early; about half of them are distinct, and only those are scored.
    n_tokens = 0.4 * n_answers * config.max_new_tokens
    return Cost(
        seconds=4 + n_tokens * (2e-5 + n_parameters * 8e-11) + n_models * n_tokens * n_parameters * 4e-11,
        memory_bytes=500_000_000 + 8 * n_parameters * (1 + n_models),
        disk_bytes=40 * n_answers * n_models,
        facts={"answers": f"{n_answers:,}"},
    )


RECIPE = Recipe(
    kind="best_of_n",
    title="Best of n",
    stage="aligned",
    explanation=(
        "Keeps of n answers the one that the reward model likes best, and asks a better judge what that was worth, because "
        "a reward model that is followed too far leads astray."
    ),
    config=BestOfNConfig,
    run=run,
    takes={
        "checkpoint": Input("checkpoint", ("chat", "aligned"), description="The model that answers."),
        "reward": Input(
            "checkpoint",
            ("reward",),
            many=True,
            description="The proxy, or several, each of which chooses for itself: their mean and spread are told.",
        ),
        "problems": Input("dataset", ("problems", "prompts"), description="What it is asked."),
        "gold": Input(
            "checkpoint",
            ("reward",),
            optional=True,
            many=True,
            description="A clearly larger reward model, or several, that judge the choice.",
        ),
        "gold_rankings": Input(
            "dataset",
            ("rankings",),
            optional=True,
            description="People's newest rankings: a reward model of them judges the choice.",
        ),
    },
    makes={
        "answers": Output(
            "dataset", "rollouts", description="What the proxy chose of 1, 2, 4, … answers to each prompt."
        )
    },
    presets=(
        Preset("standard", "Up to 256", "50 prompts, as deep as Gao et al. show a fall for small proxies."),
        Preset(
            "tiny",
            "Tiny",
            "A few answers, to see the mechanism.",
            {"n": 8, "n_prompts": 8, "max_new_tokens": 24},
        ),
    ),
    measures=(
        Measure(
            "gold_z",
            "Gold of the proxy's choice",
            "",
            "higher",
            "0 is the model itself, 1 the spread of its answers; over n.",
        ),
        Measure("proxy_z", "The proxy's own score of it", "", "higher", "On the same scale; over n."),
        Measure("kl", "KL", "nats an answer", "lower", "ln n − (n − 1)/n; less where answers are alike."),
    ),
    why=(
        "Why not take the best of ten thousand?",
        "The best of n by a reward model is the answer it is most wrong about, once n is large enough to find one. Up to "
        "some n the choice is better by any judge; beyond it only the reward model is pleased.",
        "Gao et al. 2022, Scaling laws for reward model overoptimization, arXiv:2210.10760",
    ),
    cost=cost,
)
