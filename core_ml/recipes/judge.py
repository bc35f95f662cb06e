"""Lets a judge model compare answers to the same prompt, and measures how far its verdicts can be trusted."""

import asyncio
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from core_ml.errors import UserError
from core_ml.evaluation import judge_prompt
from core_ml.evaluation.judging import TIE, settled
from core_ml.events import Event, Metric, Progress, Resumed, Sample, Summary
from core_ml.feedback.judge_config import JudgeConfig
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from core_ml.feedback.sets.ranked import Ranked
    from core_ml.feedback.verdicts import Battle, Heard

CHUNK = 8
"""Battles that a checkpoint judges in one batch: the same ones in every attempt, so that its numbers are the same."""
N_POINTS, N_SAMPLES = 40, 12
N_TRIED = 20
"""Battles after which a judge that has given no verdict is given up: its replies may cost money."""
LOOK_EVERY = 0.5  # seconds between two looks at whether the run was asked to stop
FILE = "verdicts.jsonl"
WORDS = {"left": "the first", "right": "the second", "tie": "neither", "bad": "neither"}


def run(config: JudgeConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.feedback import verdicts
    from core_ml.feedback.judged import read_groups

    heard = verdicts.read(workspace.state / FILE)
    yield Resumed(len(heard) or -1)
    _check(config, workspace)
    groups = read_groups(workspace.input("answers"), config.n_groups, config.seed)
    battles = verdicts.battles_of(
        groups,
        config.template,
        most_pairs=config.pairs_per_group,
        ties=config.ties,
        reasons=config.reasons,
        use_reference=config.use_reference,
        seed=config.seed,
    )
    yield Progress(len(heard), len(battles), "battles", "judging")
    judge = (_by_engine if config.model else _by_checkpoint)(config, workspace, battles, frozenset(heard))
    with (workspace.state / FILE).open("a", encoding="utf-8") as file, closing(judge):
        for one in judge:
            if one is not None:
                # Written before it is told: an attempt after a kill goes on from at least what was told.
                verdicts.append(file, one)
                heard[one.battle] = one
                yield from _told(groups, battles, heard, one)
            yield Progress(len(heard), len(battles), "battles", "judging")
            if workspace.asked_to_finish() and any(each.readable for each in heard.values()):
                break
        verdicts.sync(file)
    yield from _publish(config, workspace, groups, battles, heard)


def _check(config: JudgeConfig, workspace: Workspace) -> None:
    if workspace.has("checkpoint") == bool(config.model):
        told = "both are given" if config.model else "neither is given"
        raise UserError(f"a judge is either a checkpoint or the name of a model, and {told}", field="model")
    if config.reasons and not config.model:
        raise UserError(
            "a checkpoint judges by the probabilities of the letters and writes no reasons: name it as the model, so "
            "that it is asked through the engine",
            field="reasons",
        )


def _by_checkpoint(
    config: JudgeConfig, workspace: Workspace, battles: Sequence["Battle"], known: frozenset[int]
) -> Generator["Heard | None", None, None]:
    """The verdicts of a network in this process, by the exact log-probabilities of the letters."""
    from core_ml.evaluation.judge_labels import LabelJudge
    from core_ml.feedback.verdicts import Heard
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads

    use_threads(config.threads)
    letters = [letter for letter in judge_prompt.VERDICTS if letter != "C" or config.ties]
    judge = LabelJudge(*checkpoint.load(workspace.input("checkpoint").path), letters)
    for start in range(0, len(battles), CHUNK):
        chunk = battles[start : start + CHUNK]
        if all(battle.number in known for battle in chunk):
            continue
        begun = time.perf_counter()
        found = judge.logprobs([prompt for battle in chunk for prompt in battle.prompts])
        seconds = (time.perf_counter() - begun) / len(chunk)
        for battle, *both in zip(chunk, found[::2], found[1::2], strict=True):
            if battle.number in known:
                continue
            scores = [one for one in both if one is not None]
            said = [letters[max(range(len(letters)), key=one.__getitem__)] for one in scores]
            if len(scores) < 2:
                yield Heard(battle.number, [None, None], too_long=True, seconds=seconds)
            else:
                places: list[str | None] = [judge_prompt.VERDICTS[letter] for letter in said]
                yield Heard(battle.number, places, said, scores, seconds=seconds)


def _by_engine(
    config: JudgeConfig, workspace: Workspace, battles: Sequence["Battle"], known: frozenset[int]
) -> Generator["Heard | None", None, None]:
    """The verdicts of a model that is asked by HTTP, as they come; None at times, so that the run can be stopped."""
    from core_ml.engine.asking import Asker, TooLongError, endpoint
    from core_ml.feedback.verdicts import Heard

    async def ask(asker: Asker, battle: "Battle") -> Heard:
        begun = time.perf_counter()
        try:
            said = [await asker.reply(prompt) for prompt in battle.prompts]
        except TooLongError:
            return Heard(battle.number, [None, None], too_long=True)
        places = [judge_prompt.read(reply, config.ties) for reply in said]
        return Heard(battle.number, places, said, seconds=time.perf_counter() - begun)

    async def opened() -> Asker:
        return Asker(
            at,
            config.model,
            temperature=config.temperature,
            max_tokens=config.max_new_tokens,
            seed=config.seed,
        )

    at = endpoint()
    waiting = [battle for battle in reversed(battles) if battle.number not in known]
    running: set[asyncio.Task[Heard]] = set()
    # Requests stand still while an event is being stored, and go on when the next is asked for.
    with asyncio.Runner() as loop:
        asker = loop.run(opened())

        async def step() -> set[asyncio.Task[Heard]]:
            while waiting and len(running) < config.concurrency:
                running.add(asyncio.create_task(ask(asker, waiting.pop())))
            done, _ = await asyncio.wait(running, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
            return done

        async def wind_up() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asker.close()

        try:
            while waiting or running:
                done = loop.run(step())
                for task in done:
                    running.discard(task)
                    yield task.result()
                if not done:
                    yield None
        finally:
            loop.run(wind_up())


def _told(
    groups: Sequence["Ranked"], battles: Sequence["Battle"], heard: Mapping[int, "Heard"], one: "Heard"
) -> Iterator[Event]:
    """What a newly judged battle says: a sample of it, or a point of each curve."""
    from core_ml.feedback.judge_report import running
    from core_ml.feedback.judged import said_of
    from core_ml.feedback.verdicts import gathered

    n = len(heard)
    if n == N_TRIED and not any(each.readable for each in heard.values()):
        _give_up(heard)
    if n == 1 or n % max(1, len(battles) // N_SAMPLES) == 0:
        battle = battles[one.battle]
        group = groups[battle.group]
        people = [WORDS[said] for vote in group.votes if (said := said_of(vote, battle.pair))]
        text = f"{_in_words(one)} People prefer {', '.join(people)}." if people else _in_words(one)
        data = {"answers": [group.completions[index] for index in battle.pair], "replies": one.said}
        yield Sample(n, group.prompt, text, data)
    if n == len(battles) or n % max(1, len(battles) // N_POINTS) == 0:
        values = running(gathered(groups, battles, heard))
        if values:
            yield Metric(n, values)


def _in_words(one: "Heard") -> str:
    if one.too_long:
        return "The two answers do not fit the judge's context."
    first, second = one.verdicts
    if first is None or second is None:
        return "A reply of the judge holds no verdict."
    if (outcome := settled(first, second)) != TIE:
        return f"The judge prefers {WORDS[outcome]} answer in both orders."
    if first == second == TIE:
        return "The judge prefers neither answer."
    if first == second:
        return f"The judge prefers whichever answer stands {WORDS[first].removeprefix('the ')}: a tie."
    return "The judge prefers an answer in one of the two orders only: a tie."


def _give_up(heard: Mapping[int, "Heard"]) -> None:
    if all(one.too_long for one in heard.values()):
        raise UserError(
            "no battle fits the judge's context: take a model with a longer one, or a shorter template",
            field="template",
        )
    reply = next((text for one in heard.values() for text in one.said), "")
    raise UserError(
        f"none of {len(heard)} replies holds a verdict; one of them is {reply[:200]!r}: take another model, let it write "
        "more tokens, or say in the template how to reply",
        field="template",
    )


def _publish(
    config: JudgeConfig,
    workspace: Workspace,
    groups: Sequence["Ranked"],
    battles: Sequence["Battle"],
    heard: Mapping[int, "Heard"],
) -> Iterator[Event]:
    from core_ml.feedback import judge_report
    from core_ml.feedback.judged import row
    from core_ml.feedback.pairs import n_pairs
    from core_ml.feedback.verdicts import counts, gathered
    from core_ml.tasks.rows import write_rows

    judged = [one for one in gathered(groups, battles, heard) if one.verdicts]
    if not judged:
        _give_up(heard)
    found = judge_report.measured(judged)
    about: dict[str, Any] = {"model": config.model}
    if not config.model:
        folder = workspace.input("checkpoint")
        about = {"model": folder.manifest.name, "checkpoint": folder.manifest.id}
    labeler = f"judge:{about['model']}"
    rows = [row(one, labeler, about) for one in judged]
    missing = counts(heard)
    mass = _mass(heard)
    said = judge_report.findings(found) + _missing(missing, mass, len(heard), len(battles))
    summary: dict[str, Any] = {
        "rankings": len(rows),
        "simulated": len(rows),
        "groups": len(rows),
        "labelers": 0,
        "pairs": sum(n_pairs(one["order"]) for one in rows),
        "judge": labeler,
        **judge_report.summary(found),
        **missing,
        **({} if mass is None else {"mass_on_letters": round(mass, 4)}),
        "findings": said,
    }
    output = workspace.create("rankings", "dataset", form="rankings")
    try:
        write_rows(output.path / "rankings.parquet", "rankings", rows)
        yield workspace.made("rankings", output.finish(summary))
    finally:
        output.discard()
    yield from judge_report.figures(found, len(heard))
    yield Summary(summary)


def _mass(heard: Mapping[int, "Heard"]) -> float | None:
    """How much of its probability a network gives to the letters, the mean over all prompts."""
    sums = [sum(map(math.exp, scores)) for one in heard.values() for scores in one.logprobs]
    return sum(sums) / len(sums) if sums else None


def _missing(missing: dict[str, Any], mass: float | None, n: int, of: int) -> list[str]:
    said = []
    if n < of:
        said.append(f"It was asked to end after {n:,} of {of:,} battles.")
    if mass is not None and mass < 0.5:
        said.append(
            f"It gives {mass:.0%} of its probability to the letters that it is asked for: it hardly knows that it is asked "
            "for one."
        )
    if missing["n_too_long"]:
        said.append(
            f"{missing['n_too_long']:,} of {n:,} battles did not fit its context and were passed over."
        )
    if missing["n_unreadable"]:
        said.append(
            f"{missing['n_unreadable']:,} of {n:,} battles were passed over, since a reply held no verdict."
        )
    return said


def cost(config: JudgeConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    answers = next(iter(inputs.get("answers", [])), {})
    n_groups = min(config.n_groups, answers.get("groups") or answers.get("n_rows") or config.n_groups)
    k = answers.get("completions_per_prompt") or 2
    n_battles = n_groups * min(config.pairs_per_group or k * k, k * (k - 1) // 2)
    n_parameters = next((s.get("n_parameters", 0) for s in inputs.get("checkpoint", [])), 0)
    n_tokens = 2 * n_battles * 400
    return Cost(
        # A network here reads a million weights at some 50,000 tokens a second of one core; another's speed is not known.
        seconds=3 + n_tokens * (4e-6 + n_parameters * 2e-11) if n_parameters and not config.model else None,
        memory_bytes=400_000_000 + 8 * n_parameters,
        disk_bytes=2_000 * n_groups,
        facts={"battles": f"{n_battles:,}", "requests": f"{2 * n_battles:,}"},
    )


RECIPE = Recipe(
    kind="judge",
    title="Let a model judge",
    stage="arena",
    explanation=(
        "Lets a judge model compare answers two at a time, with the sides swapped, because people are slow and a judge "
        "is quick; and measures it against people, because a quick judge may be a bad one."
    ),
    config=JudgeConfig,
    run=run,
    asks_models=True,
    finishes=True,
    takes={
        "answers": Input(
            "dataset",
            ("rankings", "rollouts"),
            description="Groups of answers: people's rankings, which it is measured against, or rollouts that nobody has "
            "ranked.",
        ),
        "checkpoint": Input(
            "checkpoint",
            ("chat", "reasoner", "aligned"),
            optional=True,
            description="A model of the lab as the judge, run in this process; or name one below.",
        ),
    },
    makes={
        "rankings": Output("dataset", "rankings", description="The judge's rankings, marked as a program's.")
    },
    presets=(
        Preset("letters", "Letters only", "Three hundred groups, one letter a verdict."),
        Preset(
            "reasons",
            "With reasons",
            "The judge compares in words first, as large models judge best. Many more tokens.",
            {"reasons": True, "max_new_tokens": 700, "n_groups": 100},
        ),
        Preset(
            "small",
            "Small context",
            "A short prompt, for models whose context holds some hundred tokens.",
            {"template": judge_prompt.SHORT, "n_groups": 100},
        ),
    ),
    measures=(
        Measure(
            "agreement",
            "Agreement with people",
            "share",
            "higher",
            "Where both name a winner; chance is 0.5, and people agree with each other in 0.6 to 0.9.",
        ),
        Measure("consistent", "Same verdict in both orders", "share", "higher", "A coin reaches 0.5."),
        Measure("prefers_first", "Prefers whichever stands first", "share", "lower"),
        Measure("ties", "Ties", "share", "lower", "Verdicts that turn with the sides count as ties."),
    ),
    why=(
        "Why ask about each pair twice?",
        "Judge models lean to one side: many prefer whatever stands first. Asked again with the sides swapped, such a "
        "judge contradicts itself, and the battle counts as a tie instead of as a false win.",
        "Zheng et al. 2023, Judging LLM-as-a-judge with MT-Bench and Chatbot Arena, arXiv:2306.05685",
    ),
    cost=cost,
)
