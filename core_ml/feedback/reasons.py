"""Why is my reward flat or zero? Plain sentences from a run's own figures, each with what to try; needs no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RECENT = 10
"""Rounds at the end whose mean is what stands now."""


@dataclass(frozen=True, slots=True)
class Reason:
    what: str
    """What the figures say."""
    tries: str
    """What to try."""


Curves = Mapping[str, Sequence[float]]


def recent(curves: Curves, name: str) -> float | None:
    values = [value for value in curves.get(name, ())[-RECENT:] if value is not None and math.isfinite(value)]
    return sum(values) / len(values) if values else None


def is_flat(rewards: Sequence[float]) -> bool:
    """Whether the last third of the rounds is no better than the first by twice the standard error of that."""
    n = len(rewards) // 3
    if n < 2:
        return False
    first, last = rewards[:n], rewards[-n:]
    error = math.sqrt((_variance(first) + _variance(last)) / n)
    return _mean(last) - _mean(first) <= 2 * error


def headline(curves: Curves) -> str:
    rewards = [value for value in curves.get("reward", ()) if value is not None]
    n = len(rewards) // 3
    if n < 2:
        return f"{len(rewards)} rounds are too few to say whether the reward moves."
    said = f"from {_mean(rewards[:n]):.2f} in the first third of the rounds to {_mean(rewards[-n:]):.2f} in the last"
    return f"The reward is flat: {said}." if is_flat(rewards) else f"The reward rises: {said}."


def reasons(curves: Curves, config: Mapping[str, Any]) -> list[Reason]:
    """What stands in the way, the likeliest first; nothing where the figures look sound.

    Args:
        curves: values of the run's metrics by name, a round each.
        config: the run's.
    """
    found: list[Reason] = []
    flat, std = recent(curves, "flat_groups"), recent(curves, "group_std")
    reward, ended = recent(curves, "reward"), recent(curves, "ended")
    length = recent(curves, "mean_tokens") or 1.0
    limit = int(config.get("max_new_tokens", 0))
    if ended is not None and ended < 0.5:
        cut = "Every answer is" if ended == 0 else f"{1 - ended:.0%} of the answers are"
        found.append(
            Reason(
                f"{cut} cut off at the limit of {limit} tokens, so the reward model reads beginnings.",
                f"Set max_new_tokens to {2 * limit}, or an eos_penalty of 1 so that ending is worth something.",
            )
        )
    if flat is not None and flat >= 0.3:
        found.append(
            Reason(
                f"In {flat:.0%} of the groups all answers earn the same, and such a group teaches nothing.",
                f"More answers to each prompt (n_completions {min(64, 2 * int(config.get('n_completions', 6)))}), prompts that "
                "the model answers right sometimes and not always, or a reward model that tells the answers apart.",
            )
        )
    if reward is not None and std is not None and reward > 3 and std < 0.2 * reward:
        found.append(
            Reason(
                f"The reward model is saturated: its mean of {reward:.1f} lies {reward:.1f} spreads above the answers that it was "
                f"trained on, and answers of one prompt differ by {std:.2f} only.",
                "Rank some of the newest answers and train the reward model again; until then stop here, or pay the "
                "minimum of an ensemble.",
            )
        )
    kl = recent(curves, "kl")
    if kl is not None and kl / length > 0.5 and kl > 5:
        coef = config.get("kl_coef", 0.0)
        found.append(
            Reason(
                f"KL has exploded: {kl:.0f} nats an answer, {kl / length:.1f} a token. The reward model knows nothing of such text.",
                f"Raise kl_coef ({coef:g} here) to {max(0.05, 3 * coef):g}, set kl_target to 5 nats, or halve lr.",
            )
        )
    found += _about_the_updates(curves, config, kl)
    return found


def _about_the_updates(curves: Curves, config: Mapping[str, Any], kl: float | None) -> list[Reason]:
    found: list[Reason] = []
    lr = config.get("lr", 0.0)
    clipfrac = recent(curves, "clipfrac")
    if clipfrac is not None and clipfrac > 0.3:
        found.append(
            Reason(
                f"{clipfrac:.0%} of the tokens hit the clip: each round asks for more than one round may move.",
                f"Halve lr (to {lr / 2:g}), or use fewer passes or minibatches.",
            )
        )
    entropies = [value for value in curves.get("entropy", ()) if value is not None]
    now = recent(curves, "entropy")
    if now is not None and len(entropies) > 2 * RECENT and now < 0.2 * _mean(entropies[:RECENT]):
        found.append(
            Reason(
                f"The model has become certain: its entropy fell from {_mean(entropies[:RECENT]):.2f} to {now:.2f} nats a token, so "
                "its answers hardly differ.",
                "A larger kl_coef, an entropy_coef of 0.01, or more kinds of prompts.",
            )
        )
    rewards = [value for value in curves.get("reward", ()) if value is not None]
    if kl is not None and kl < 0.1 and len(rewards) > RECENT and is_flat(rewards):
        coef = config.get("kl_coef", 0.0)
        pull = f", or lower kl_coef ({coef:g} here)" if coef else ""
        found.append(
            Reason(
                f"The model has hardly moved: {kl:.2g} nats from the chat model after {len(rewards)} rounds.",
                f"Raise lr ({lr:g} here) three times{pull}.",
            )
        )
    value_losses = [value for value in curves.get("value_loss", ()) if value is not None]
    if len(value_losses) > 2 * RECENT and _mean(value_losses[-RECENT:]) > 1.5 * _mean(value_losses[:RECENT]):
        found.append(
            Reason(
                "The value head grows worse: its loss rose from "
                f"{_mean(value_losses[:RECENT]):.2g} to {_mean(value_losses[-RECENT:]):.2g}, so advantages are noise.",
                "A reward of bounded size (reward_normalize, reward_clip 5), or RLOO, which needs no value head.",
            )
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
