"""What a run of practice came to: findings in sentences, and the reward over the distance from the chat model."""

import math
from collections.abc import Sequence
from typing import Any

from core_ml.evaluation.overoptimization import z_below_best
from core_ml.evaluation.statistics import Z, paired_change
from core_ml.events import Figure

GOLD = {"gold": "a gold model", "judged": "the stated preference", "reward": "the reward model itself"}
"""Who may judge the answers to prompts kept aside, the most trustworthy first."""
WEIGHTS = {"correct": 4.0, "complete": 2.0, "short": 1.0}
"""The stated preference as one number, as the simulated labelers weigh it."""


def judge_of(watched: Sequence[dict[str, Any]]) -> str:
    return next(name for name in GOLD if watched[0].get("rewards" if name == "reward" else name))


def worth(look: dict[str, Any], judge: str) -> list[float]:
    """What each answer to the prompts kept aside is worth to a judge."""
    if judge == "judged":
        judged = look["judged"]
        return [
            sum(w * judged[name][i] for name, w in WEIGHTS.items()) for i in range(len(judged["correct"]))
        ]
    return look["rewards" if judge == "reward" else judge]


def wins(before: dict[str, Any], after: dict[str, Any], judge: str) -> list[float]:
    """For each prompt 1 where the answer is better than the model's at the start, 0 where it is worse, else 0.5."""
    pairs = zip(worth(before, judge), worth(after, judge), strict=True)
    return [0.5 if a == b else float(b > a) for a, b in pairs]


def stopped_improving(watched: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """The first look at the prompts kept aside after which no later one is better by more than chance, in words too."""
    judge = judge_of(watched)
    won = [wins(watched[0], look, judge) for look in watched]
    rates = [sum(one) / len(one) for one in won]
    best = max(range(len(won)), key=lambda i: rates[i])
    z = z_below_best(len(watched))
    # The earliest one that the best does not clearly beat, prompt by prompt.
    stop = next(i for i in range(best + 1) if i == best or not _beats(won[i], won[best], z))
    step, last = watched[stop]["step"], watched[-1]["step"]
    by = f"by {watched[0].get('gold_said') or GOLD[judge]}"
    if stop == 0:
        said = f"Judged {by}, answers to prompts kept aside never became better than those at the start by more than chance."
    elif stop == len(watched) - 1:
        said = (
            f"Judged {by}, the win rate against the start was still rising at the last step ({rates[-1]:.0%}): "
            "a longer run may help."
        )
    else:
        said = f"The win rate against the start {by} stopped improving at step {step} of {last} ({rates[stop]:.0%})."
    if _beats(won[-1], won[best], z):
        said += (
            f" It fell to {rates[-1]:.0%} by the end, from {rates[best]:.0%} at step {watched[best]['step']}."
        )
    return step, said


def _beats(worse: Sequence[float], better: Sequence[float], z: float) -> bool:
    """Whether the change is larger than `z` of its standard errors."""
    change = paired_change(worse, better)
    # Of a few prompts that all agree the spread is 0, which is not certainty: half a win more, as Agresti adds.
    n = len(worse)
    error = max((change.high - change.value) / Z, math.sqrt(0.5) / n) if n > 1 else math.inf
    return change.value > z * error


def findings(before: dict[str, Any], after: dict[str, Any], kl: float | None) -> list[str]:
    """What practice changed on prompts that it never saw, and what it did not change or made worse."""
    n = len(before["rewards"])
    findings = [
        f"The mean reward of greedy answers to {n} prompts kept aside went from {before['reward']:.2f} to "
        f"{after['reward']:.2f}" + ("." if kl is None else f", at {kl:.1f} nats of KL an answer.")
    ]
    if not before["judged"]:
        return [*findings, "No stated preference can judge these prompts: only the reward model has."]
    verbs = {}
    for name, what in (("liked", "liked by the stated preference"), ("correct", "correct")):
        change = paired_change(before["judged"][name], after["judged"][name])
        verbs[name] = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not change measurably"
        numbers = f"{before[name]:.0%} before, {after[name]:.0%} after"
        findings.append(f"The share of them that is {what} {verbs[name]}: {numbers}.")
    rose = paired_change(before["rewards"], after["rewards"]).low > 0
    if rose and verbs["liked"] != "rose":
        findings.append("The reward rose and the preference did not follow: the reward model was fooled.")
    elif rose and verbs["correct"] == "fell":
        findings.append("The reward rose while answers became wrong more often: the reward model was fooled.")
    return findings


PANELS = (
    # Rewards have a scale of their own and shares run from 0 to 1: two panels, never two axes on one.
    ("reward", {"reward": "reward model"}),
    ("share of answers", {"liked": "liked by the preference", "correct": "correct"}),
)
DOMAINS = {1: ([0.0, 1.0],), 2: ([0.56, 1.0], [0.0, 0.44])}
"""By the number of panels: the part of the height that each takes, from the top."""
ENDS = 3  # rounds whose mean stands for the beginning and the end
SUMMED = ("reward", "liked", "correct", "kl", "mean_tokens", "entropy")


def begin_and_end(history: Sequence[dict[str, float]], watched: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the first and last rounds, and of the first and last look."""
    found: dict[str, Any] = {}
    for name in SUMMED:
        if name in history[0]:
            for end, rounds in (("first", history[:ENDS]), ("last", history[-ENDS:])):
                found[f"{name}_{end}"] = round(sum(h[name] for h in rounds) / len(rounds), 4)
    for name in ("reward", "liked", "correct", "mean_tokens"):
        if name in watched[0]:
            found[f"val_{name}_first"] = round(watched[0][name], 4)
            found[f"val_{name}_last"] = round(watched[-1][name], 4)
    return found


def reward_over_kl(history: list[dict[str, float]]) -> Figure:
    """The reward, and below it over the same √KL what the stated preference says of the same answers."""
    panels = [panel for panel in PANELS if any(name in history[0] for name in panel[1])]
    x = [max(0.0, h["kl"]) ** 0.5 for h in history]
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": 90 + 180 * len(panels)}
    for number, ((title, names), domain) in enumerate(zip(panels, DOMAINS[len(panels)], strict=True), 1):
        axis = "y" if number == 1 else f"y{number}"
        layout[axis.replace("y", "yaxis")] = {"title": {"text": title}, "domain": domain}
        # The one horizontal axis stands below the last panel.
        layout["xaxis"] = {"title": {"text": "√KL to the chat model (√nats an answer)"}, "anchor": axis}
        trace = {"type": "scatter", "mode": "lines+markers", "x": x, "yaxis": axis}
        data += [
            {**trace, "name": line, "y": [h[name] for h in history]}
            for name, line in names.items()
            if name in history[0]
        ]
    if len(panels) > 1:
        layout["yaxis2"]["range"] = [-0.05, 1.05]  # lines at 0 and 1 stand clear of the axis
        layout["hoversubplots"] = "axis"  # one crosshair through both
    return Figure(
        "reward_over_kl",
        len(history),
        "What the reward model and the stated preference say as the model moves away",
        {"data": data, "layout": layout},
        over_kl_finding(history),
    )


def over_kl_finding(history: list[dict[str, float]]) -> str:
    """What the curves come to; whether a change is more than noise, `findings` says of prompts kept aside."""

    def ends(name: str) -> tuple[float, float]:
        values = [h[name] for h in history]
        return sum(values[:ENDS]) / len(values[:ENDS]), sum(values[-ENDS:]) / len(values[-ENDS:])

    went = "the reward went from {:.2f} to {:.2f}".format(*ends("reward"))
    for name in ("liked", "correct"):
        if name in history[0]:
            went += f", the share {name} " + "from {:.0%} to {:.0%}".format(*ends(name))
    judged = "" if "liked" in history[0] else " No stated preference can judge these prompts."
    return (
        f"While the model moved to √KL {max(0.0, ends('kl')[1]) ** 0.5:.2f}, {went} "
        f"(means of the first and last {min(ENDS, len(history))} rounds).{judged}"
    )
