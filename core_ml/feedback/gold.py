"""Gold: a judge of answers that practice never sees, beside the reward model that it is paid by.

A rule where the prompts carry one, a reward model that is clearly larger, or what people ranked last. A gold model of the
proxy's own size and kin shares its blind spots: it was seen to rise with the proxy while a rule fell. One that is fitted on
new rankings is of the chat model's size too, but its rankings may be of answers that the proxy never learned from.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.evaluation.statistics import Share, clustered
from core_ml.events import Event, Log, Progress
from core_ml.feedback.fitting import fit_reward
from core_ml.feedback.pairs import Group, read_rankings, split
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.reward_report import outcomes
from core_ml.feedback.rewards import Rewards
from core_ml.model.gpt import GPT
from core_ml.tasks import judge, solve
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.workspace import Workspace

Kind = Literal["rule", "model", "rankings"]
CLEARLY_LARGER = 3.0
"""Times as many parameters as the proxy. In Gao et al. 2022 gold has twice those of the largest proxy."""
HELD_OUT = 0.2
FEW = 200
"""Rankings below which a reward model of ours is hardly better than chance on what is hard to tell."""


@dataclass(frozen=True, slots=True)
class Gold:
    """`said` is what sentences call it: "judged by …"."""

    kind: Kind
    said: str
    scores: Callable[[Sequence[str], Sequence[str], Sequence[bool]], list[float]]
    """Of prompts, texts, and whether each text was ended by the model itself."""


def choose(how: str, prompts: Sequence[str], has_model: bool, has_rankings: bool) -> Kind | None:
    """Who judges, by what was asked for and what there is.

    Args:
        how: "auto" takes a model where one is given, else rankings, else the rule where it can judge every prompt.
    Raises: UserError when what was asked for is not there.
    """
    ruled = all(solve(prompt) is not None for prompt in prompts)
    if how == "auto":
        return "model" if has_model else "rankings" if has_rankings else "rule" if ruled else None
    if how == "rule" and not ruled:
        raise UserError(
            "gold is rule, and the stated preference cannot judge all of the prompts kept aside: give a gold model or "
            "rankings, or set gold to none",
            field="gold",
        )
    if how == "model" and not has_model:
        raise UserError(
            "gold is model, and none is given: choose a reward model for the input gold, or set gold to auto",
            field="gold",
        )
    if how == "rankings" and not has_rankings:
        raise UserError(
            "gold is rankings, and none are given: choose a dataset for the input gold_rankings, or set gold to auto",
            field="gold",
        )
    kinds: dict[str, Kind] = {"rule": "rule", "model": "model", "rankings": "rankings"}
    return kinds.get(how)


def by_rule() -> Gold:
    def scores(prompts: Sequence[str], texts: Sequence[str], ended: Sequence[bool]) -> list[float]:
        return [float(judge(*one).score) for one in zip(prompts, texts, ended, strict=True)]

    return Gold("rule", "the stated preference", scores)


def by_models(models: Sequence[RewardModel], kind: Kind = "model") -> Gold:
    rewards = Rewards(models)

    def scores(prompts: Sequence[str], texts: Sequence[str], ended: Sequence[bool]) -> list[float]:
        return rewards(prompts, texts).values.tolist()

    said = "a gold model" if kind == "model" else "a reward model of the newest rankings"
    return Gold(kind, said, scores)


def size_warning(gold: Sequence[RewardModel], proxies: Sequence[RewardModel]) -> str | None:
    """What to tell where the gold model is not clearly larger than the proxy."""
    ours, theirs = (max(one.model.config.n_parameters for one in some) for some in (gold, proxies))
    if ours >= CLEARLY_LARGER * theirs:
        return None
    return (
        f"The gold model has {ours:,} parameters and the reward model {theirs:,}: one that is not clearly larger "
        f"({CLEARLY_LARGER:g} times) shares its blind spots, so that a rise of both may still be a fall. Trust a rule, "
        "people's rankings of these answers or a larger model more."
    )


def gold_of(
    how: str,
    workspace: Workspace,
    chat: GPT,
    tokenizer: Tokenizer,
    models: dict[str, list[RewardModel]],
    prompts: Sequence[str],
    seed: int,
) -> Generator[Event, None, Gold | None]:
    """The gold of a run, None where nobody can judge; tells once how far it can be trusted.

    Args:
        models: the run's "gold" and "reward".
    """
    kind = choose(how, prompts, bool(models["gold"]), workspace.has("gold_rankings"))
    if kind == "rule":
        return by_rule()
    if kind == "model":
        warning = size_warning(models["gold"], models["reward"])
        if warning and workspace.latest_state() is None:
            yield Log(warning, "warning")
        return by_models(models["gold"])
    if kind == "rankings":
        return by_models([(yield from _of_rankings(workspace, chat, tokenizer, seed))], kind)
    return None


def _of_rankings(
    workspace: Workspace, chat: GPT, tokenizer: Tokenizer, seed: int
) -> Generator[Event, None, RewardModel]:
    """A reward model of the newest rankings, fitted once in a run's life; a fifth of the prompts says how good it is."""
    folder = workspace.state / "gold"
    if not (folder / artifact.MANIFEST).exists():
        try:
            groups = read_rankings(workspace.input("gold_rankings")).groups
            train, held_out = split(groups, HELD_OUT, seed)
        except UserError as error:
            raise UserError(error.message, field="gold_rankings") from None
        if not any(group.pairs() for group in train):
            raise UserError(
                "no ranking of gold_rankings that may be learned from prefers one answer to another: rank more groups",
                field="gold_rankings",
            )
        fitting = fit_reward(chat, tokenizer, train, seed=seed)
        while True:
            try:
                made, of = next(fitting)
            except StopIteration as end:
                model: RewardModel = end.value
                break
            yield Progress(0, message=f"fitting gold to the newest rankings, update {made} of {of}")
        writer = artifact.Writer(
            folder,
            id=f"{workspace.id}-gold",
            kind="checkpoint",
            role="reward",
            name="gold",
            origin=workspace.origin,
        )
        model.save(writer.path)
        writer.finish()
        yield Log(_told(sum(len(group.rankings) for group in train), accuracy(model, held_out)))
    # Always from the disk, so that a run that goes on judges by the same numbers.
    return RewardModel.load(artifact.Folder(folder))


def accuracy(model: RewardModel, groups: Sequence[Group]) -> Share | None:
    """The share of pairs that a reward model orders as they were ranked, with an interval over groups."""
    return clustered(outcomes(groups, model.score_groups(groups)).get("all", []))


def _told(n: int, right: Share | None) -> str:
    held = (
        "no held-out pair says how well"
        if right is None
        else f"it orders {right} of held-out pairs as people did"
    )
    few = f" {n} rankings are few: its verdict is little more than a hint." if n < FEW else ""
    return (
        f"Gold is a reward model of {n:,} of the newest rankings; {held}. It is of the chat model's own size, and shares the "
        f"blind spots that these rankings do not show it.{few}"
    )
