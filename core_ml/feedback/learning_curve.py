"""How much more rankings teach: held-out accuracy of reward models that learned from a half, a quarter, ... of them."""

import random
from collections.abc import Generator

from core_ml.evaluation.statistics import Share, clustered
from core_ml.events import Event, Progress
from core_ml.feedback.pairs import Group
from core_ml.feedback.reward_config import RewardConfig
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.reward_report import outcomes
from core_ml.feedback.reward_training import Members, surface_of, teacher, trainer_of
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.workspace import Workspace


def learning_curve(
    config: RewardConfig,
    workspace: Workspace,
    train: list[Group],
    held_out: list[Group],
    start: GPT,
    tokenizer: Tokenizer,
    step: int,
) -> Generator[Event, None, list[tuple[int, Share]]]:
    """Held-out accuracy of one member that learned from fewer prompts, the fewest first; yields Progress."""
    points: list[tuple[int, Share]] = []
    prompts = sorted({group.prompt for group in train})
    random.Random(config.seed).shuffle(prompts)
    for halvings in range(config.learning_curve, 0, -1):
        name = f"learning-curve-{halvings}.json"
        if kept := workspace.read_json(name):
            points.append((kept[0], Share(*kept[1])))
            continue
        some = set(prompts[: len(prompts) >> halvings])
        fewer = [group for group in train if group.prompt in some]
        if not any(group.pairs() for group in fewer):
            continue
        surface = surface_of(config, fewer)
        trainer = trainer_of(config, start, tokenizer, fewer, surface)
        members = Members(start, 1, trainer.largest_tie, config.seed)
        plan = trainer.plan(config.epochs, config.tokens_per_step, config.seed)
        # There is no saved state to go back to.
        unguarded = config.model_copy(update={"spike": None})
        advance, update = teacher(unguarded, members, trainer, plan, {})
        for made in range(1, len(plan) + 1):
            advance(made)
            yield Progress(step, step, message=f"learning from {len(fewer):,} groups only")
        scorer = RewardModel(members.members[0].eval(), tokenizer, surface=surface)
        with update.averaged():
            share = clustered(outcomes(held_out, scorer.score_groups(held_out)).get("all", []))
        if share:
            workspace.write_json(name, [len(fewer), [share.value, share.low, share.high, share.n]])
            points.append((len(fewer), share))
    return points
