"""A reward model of some rankings in one call, where a whole `reward` run would be too much."""

import random
from collections.abc import Generator, Sequence

from core_ml.feedback.pairs import Group, flat
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.reward_training import Members, Trainer
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.optim import clip, scale_lr
from core_ml.training.schedule import lr_share

SCALED_BY = 300
"""Groups whose answers set the scale."""
TOKENS = (512, 4096)
"""Fewest and most padded tokens of an update."""
TOKENS_PER_GROUP = 40
"""Of fewer rankings smaller updates, or there would be too few of them."""


def fit_reward(
    start: GPT,
    tokenizer: Tokenizer,
    groups: Sequence[Group],
    *,
    epochs: float = 3.0,
    lr: float = 5e-4,
    seed: int = 0,
) -> Generator[tuple[int, int], None, RewardModel]:
    """One member by Bradley and Terry's loss, as the recipe `reward` sets it; yields updates made, of all.

    The same seed gives the same model. The model that `start` is stays as it was.
    """
    trainer = Trainer(tokenizer, groups, start.config.max_seq_len, centering=0.001)
    members = Members(start, 1, 1, seed)
    budget = min(TOKENS[1], max(TOKENS[0], TOKENS_PER_GROUP * len(groups)))
    plan = trainer.plan(epochs, budget, seed)
    optimizer = members.optimizer(lr, 0.01)
    for number, step in enumerate(plan):
        yield number, len(plan)
        loss, _ = trainer.loss(members.members[0], step.groups)
        loss.backward()
        clip(members, 1.0)
        scale_lr([optimizer], lr_share(number, len(plan), "wsd", 0.05, 0.7))
        optimizer.step()
        members.zero_grad()
    model = RewardModel(members.members[0].eval().requires_grad_(False), tokenizer)
    some = random.Random(seed).sample(trainer.groups, min(SCALED_BY, len(trainer.groups)))
    model.rescale(*flat(some))
    return model
