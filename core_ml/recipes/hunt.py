"""Hunts for answers that a reward model scores high and that are nonsense, and tries again what earlier hunts found."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core_ml.events import Event, Log, Metric, Progress, Resumed, Sample, Summary
from core_ml.feedback.gaming.config import HuntConfig
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.gaming.bench import Case, Measured, Score
    from core_ml.feedback.gaming.kept import Known, Round
    from core_ml.feedback.gaming.trick import Trick
    from core_ml.feedback.reward_model import RewardModel

N_SAMPLES = 6
ACCURACY = {"accuracy": "", "low": "_low", "high": "_high"}
SEARCHES = ("repetition", "truncation", "echo", "stitching", "elsewhere", "search", "practice")
PHASES = ("answers", *SEARCHES, "measure")
"""Each is kept when it has ended, so that a killed hunt goes on at the phase that it was at."""


def run(config: HuntConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml.feedback.gaming import bench, fair, kept, practice
    from core_ml.feedback.gaming.trick import Trick, unique
    from core_ml.feedback.reward_model import RewardModel
    from core_ml.feedback.rewards import Rewards
    from core_ml.model.device import use_threads

    done = next(
        (i for i, name in enumerate(PHASES) if workspace.read_json(f"{name}.json") is None), len(PHASES)
    )
    yield Resumed(done - 1)  # what was to be told of the last phase may not have been
    use_threads(config.threads)
    torch.manual_seed(config.seed)
    models = [RewardModel.load(folder) for folder in workspace.inputs("reward")]
    for member in (member for model in models for member in model.members):
        member.requires_grad_(False)
    rewards = Rewards(models)

    def score(prompts: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        return rewards(prompts, texts).values.tolist()

    old, rounds = kept.earlier([kept.read(folder) for folder in workspace.inputs("hunts")])
    old_tricks = {one.id: Trick.from_dict(one.trick) for one in old}
    paid = practice.tops(workspace.inputs("rollouts"), config.n_practice) if config.n_practice else []
    own = [trick.prompt for trick in [*old_tricks.values(), *paid] if trick.prompt]

    answers = yield from _phase(workspace, "answers", lambda: fair.answers(config, workspace, own))
    if answers["n_seen"] and not done:
        yield Log(
            f"{answers['n_seen']} of the prompts that measure stood in an earlier hunt: there are no others left.",
            "warning",
        )
    by_name = {
        name: bench.cases(score, *fair.columns(answers[name]), config.bar)
        for name in ("search", "measure", "own")
    }
    found: list[Trick] = []
    tried: dict[str, int] = {}
    for name in SEARCHES:
        look = _search(name, config, score, models, by_name["search"], paid)
        told = yield from _phase(workspace, name, look)
        found += [Trick.from_dict(one) for one in told["tricks"]]
        tried[name] = told["n_tried"]
        if (step := PHASES.index(name) + 1) >= done:
            yield Metric(step, {"tried": float(sum(tried.values()))})
    found = [trick for trick in unique(found) if trick.id not in old_tricks]
    measured = yield from _phase(
        workspace, "measure", lambda: _measure(score, [*old_tricks.values(), *found], by_name)
    )
    yield from _publish(
        config, workspace, _read(measured, by_name), old, rounds, by_name, tried, answers["n_seen"]
    )


Work = Callable[[], Generator[int, None, Any]]


def _phase(workspace: Workspace, name: str, work: Work) -> Generator[Event, None, Any]:
    """What the phase came to: as it was kept, or done now and kept. Yields Progress."""
    number = PHASES.index(name)
    found = workspace.read_json(f"{name}.json")
    if found is None:
        titles = {"answers": "sampling fair answers", "measure": "measuring on other prompts"}
        message = titles.get(name, f"looking for tricks: {name}")
        yield Progress(number, len(PHASES), "phases", message)
        doing = work()
        try:
            while True:
                next(doing)
                yield Progress(number, len(PHASES), "phases", message)
        except StopIteration as end:
            found = end.value
        workspace.write_json(f"{name}.json", found)
    yield Progress(number + 1, len(PHASES), "phases", f"{name} done")
    return found


def _search(
    name: str,
    config: HuntConfig,
    score: "Score",
    models: "Sequence[RewardModel]",
    cases: "Sequence[Case]",
    paid: "Sequence[Trick]",
) -> Work:
    """One of SEARCHES: {"n_tried", "tricks"}, the tricks that are worth measuring on other prompts."""
    from core_ml.feedback.gaming import bench, forms, greedy, repetition

    given = {
        "truncation": forms.truncations,
        "echo": lambda: forms.echoes(cases),
        "stitching": lambda: forms.stitches(cases),
        "elsewhere": lambda: forms.elsewhere(cases, 4 * config.n_kept),
    }

    def work() -> Generator[int, None, Any]:
        if name in given:
            tricks = given[name]()
            best = yield from bench.best(score, tricks, cases, config.n_kept)
            return _told(len(tricks), [one.trick for one in best])
        if name == "repetition":
            n_tried, best = yield from repetition.search(score, cases, config.n_kept, config.n_words)
            return _told(n_tried, [one.trick for one in best])
        if name == "practice":
            return _told(len(paid), paid)
        tricks = []
        # A gradient is taken at a few prompts only: it costs as much as it sees.
        few = cases[: max(2, len(cases) // 3)]
        for restart in range(config.restarts):
            trick = yield from greedy.search(
                score,
                models,
                few,
                n_tokens=config.n_tokens,
                steps=config.search_steps,
                n_candidates=config.n_candidates,
                top_k=config.top_k,
                seed=f"{config.seed}:{restart}",
            )
            tricks.append(trick)
        return _told(config.restarts * config.search_steps * config.n_candidates, tricks)

    return work


def _told(n_tried: int, tricks: "Sequence[Trick]") -> dict[str, Any]:
    return {"n_tried": n_tried, "tricks": [trick.as_dict() for trick in tricks]}


def _measure(
    score: "Score", tricks: "Sequence[Trick]", cases: "dict[str, list[Case]]"
) -> Generator[int, None, Any]:
    """The scores of each trick at the prompts that measure, or at the one that it is for."""
    from core_ml.feedback.gaming import bench

    found = yield from bench.measure(score, [one for one in tricks if not one.prompt], cases["measure"])
    found += yield from bench.measure(score, [one for one in tricks if one.prompt], cases["own"])
    return [[one.trick.as_dict(), one.scores] for one in found]


def _read(measured: Sequence[Any], cases: "dict[str, list[Case]]") -> "list[Measured]":
    """Scores as they were kept, beside the same cases again."""
    from core_ml.feedback.gaming import bench
    from core_ml.feedback.gaming.trick import Trick

    found = []
    for fields, scores in measured:
        trick = Trick.from_dict(fields)
        found.append(
            bench.scored(trick, bench.at(trick, cases["own" if trick.prompt else "measure"]), scores)
        )
    return found


def _publish(
    config: HuntConfig,
    workspace: Workspace,
    measured: "Sequence[Measured]",
    old: "Sequence[Known]",
    rounds: "Sequence[Round]",
    cases: "dict[str, list[Case]]",
    tried: dict[str, int],
    n_seen: int,
) -> Iterator[Event]:
    from core_ml.feedback.gaming import kept, report

    output = workspace.create("rollouts", "dataset", form="rollouts")
    me = f"{workspace.id}-rollouts"
    number = 1 + max((one.round for one in rounds), default=0)
    before = {one.id: one for one in old}
    told = [
        (one, kept.known(one, me, number, config.min_share, before.get(one.trick.id))) for one in measured
    ]
    # What was tried and does not work is no trick; what was one stays on record.
    told = [(one, fact) for one, fact in told if fact.works or fact.id in before]
    # By what is certain: one prompt of one says less than sixty of sixty.
    told.sort(key=lambda pair: (pair[1].found_by != me, -pair[1].low, -pair[1].margin, pair[1].id))
    facts = [fact for _, fact in told]
    this = kept.Round(
        round=number,
        found_by=me,
        cohorts=_cohorts(facts, [*rounds], me, number),
        reward=[folder.manifest.id for folder in workspace.inputs("reward")],
        n_tried=sum(tried.values()),
        **_accuracy(workspace),
    )
    hunt = kept.Hunt(tricks=facts, rounds=[*rounds, this], min_share=config.min_share, bar=config.bar)
    new, earlier = [f for f in facts if f.id not in before], [f for f in facts if f.id in before]
    summary: dict[str, Any] = {
        "round": number,
        "n_new_tricks": len(new),
        "n_tried": this.n_tried,
        "n_old_tricks": len(earlier),
        "n_old_working": sum(fact.works for fact in earlier),
        "n_prompts": len(cases["measure"]),
        "findings": report.findings(hunt, n_seen),
    }
    if this.accuracy is not None:
        summary["reward_accuracy"] = this.accuracy
    try:
        by_prompt = {case.prompt: case for case in cases["own"]}
        ages = [(one, kept.OLD if fact.id in before else kept.NEW) for one, fact in told]
        rows = list(kept.groups(ages, cases["measure"], by_prompt, config.groups_per_trick))
        kept.write(output.path, hunt, rows)
        yield workspace.made("rollouts", output.finish(summary | {"n_rows": len(rows)}))
    finally:
        output.discard()
    step = len(PHASES)
    values = {"found": float(len(new)), "old_working": summary["n_old_working"] / max(1, len(earlier))}
    yield Metric(step, values if earlier else {"found": values["found"]})
    for fact in new[:N_SAMPLES]:
        data = {"score": round(fact.score, 3), "bar": round(fact.bar, 3), "kind": fact.trick["kind"]}
        yield Sample(step, fact.prompt, fact.text, data)
    if (figure := report.shares(hunt, step)) is not None:
        yield figure
    yield report.by_kind(hunt, tried, step)
    yield report.rounds_figure(hunt.rounds, step)
    yield Summary(summary)


def _cohorts(facts: "Sequence[Known]", rounds: "Sequence[Round]", me: str, number: int) -> list[Any]:
    """By round the tricks that it found, and how many of them work now."""
    from core_ml.feedback.gaming.kept import Cohort

    found = []
    for round, found_by in [*((one.round, one.found_by) for one in rounds), (number, me)]:
        mine = [fact for fact in facts if fact.found_by == found_by]
        found.append(
            Cohort(round=round, found_by=found_by, n=len(mine), working=sum(fact.works for fact in mine))
        )
    return found


def _accuracy(workspace: Workspace) -> dict[str, float]:
    """Held-out pairs that the reward model orders rightly, of the rankings that it was given first: other people's."""
    summaries = [folder.manifest.summary for folder in workspace.inputs("reward")]
    if len(summaries) != 1:
        return {}
    whole = {name: summaries[0].get(f"val_accuracy{suffix}") for name, suffix in ACCURACY.items()}
    told = next(iter(summaries[0].get("by_rankings") or []), {}) or whole
    found = {name: told.get(name) for name in ACCURACY}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def cost(config: HuntConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_reward = (
        sum(s.get("n_parameters", 0) * s.get("n_members", 1) for s in inputs.get("reward", [])) or 1_000_000
    )
    n_chat = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0) or 1_000_000
    n_old = sum(s.get("n_new_tricks", 0) + s.get("n_old_tricks", 0) for s in inputs.get("hunts", []))
    n_answers = (config.n_prompts + config.n_search_prompts + config.n_practice) * config.n_fair
    n_patterns = 4 * (config.n_words + 3 * 3 * 24) + 260 + 4 * config.n_kept
    n_greedy = (
        config.restarts * config.search_steps * config.n_candidates * max(2, config.n_search_prompts // 3)
    )
    n_texts = n_patterns * config.n_search_prompts + n_greedy + (6 * config.n_kept + n_old) * config.n_prompts
    # 60 tokens a text; forward passes on one core, some 8e-11 / 3 s a weight and token, small networks dearer.
    return Cost(
        seconds=4
        + n_texts * 60 * 2.7e-11 * max(n_reward, 600_000)
        + n_answers * 20 * 8e-11 * max(n_chat, 600_000),
        memory_bytes=500_000_000 + 8 * (n_reward + n_chat),
        disk_bytes=2_000_000,
        facts={"texts to score": f"{n_texts:,}", "fair answers": f"{n_answers:,}"},
    )


RECIPE = Recipe(
    kind="hunt",
    title="Hunt for tricks",
    stage="aligned",
    explanation=(
        "Looks for answers that a reward model scores above fair ones and that are nonsense, because reinforcement "
        "learning will find them too, and then writes nothing else."
    ),
    config=HuntConfig,
    run=run,
    takes={
        "reward": Input(
            "checkpoint", ("reward",), many=True, description="The reward model to fool, or several of them."
        ),
        "checkpoint": Input(
            "checkpoint", ("chat", "aligned"), description="The chat model, whose answers are the fair ones."
        ),
        "problems": Input("dataset", ("problems", "prompts"), description="Prompts to answer."),
        "rollouts": Input(
            "dataset",
            ("rollouts",),
            optional=True,
            many=True,
            description="What runs of practice kept: their highest paid answers are tried as well.",
        ),
        "hunts": Input(
            "dataset",
            ("rollouts",),
            optional=True,
            many=True,
            description="Earlier hunts: their tricks are tried again, and their prompts measure nothing.",
        ),
    },
    makes={
        "rollouts": Output(
            "dataset",
            "rollouts",
            description="Each trick beside fair answers, with all scores, ready to be ranked.",
        )
    },
    presets=(
        Preset("tour", "Tour", "Seven ways of looking, sixty prompts: a minute or two for a small network."),
        Preset(
            "tiny",
            "Tiny",
            "A few words and a short search, to see the mechanism.",
            {
                "n_prompts": 16,
                "n_search_prompts": 4,
                "n_fair": 4,
                "max_new_tokens": 24,
                "n_words": 12,
                "n_kept": 3,
                "restarts": 1,
                "search_steps": 6,
                "n_candidates": 12,
                "n_tokens": 6,
                "n_practice": 4,
            },
        ),
        Preset(
            "thorough",
            "Thorough",
            "Three times the words, a search that is eight times as long, and twice the prompts.",
            {
                "n_prompts": 120,
                "n_words": 180,
                "restarts": 8,
                "search_steps": 96,
                "n_kept": 10,
                "n_practice": 40,
            },
        ),
    ),
    measures=(
        Measure("found", "New tricks that work", "", "lower", "On prompts that no search has seen."),
        Measure("old_working", "Old tricks that still work", "share", "lower"),
        Measure("tried", "Texts and patterns tried", "", "higher"),
    ),
    why=(
        "Why does nonsense score high?",
        "A reward model has only seen answers that a chat model writes. Of everything else it knows nothing and scores it "
        "all the same, and what it learned as a sign of a good answer works without the answer. Each patch closes "
        "the holes that were found; whether others open, the next round tells.",
        "Gao et al. 2022, Scaling laws for reward model overoptimization, arXiv:2210.10760",
    ),
    cost=cost,
)
