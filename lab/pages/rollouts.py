"""The browser of a run's rollouts: a round, or all that fit a filter, each token shaded by its advantage or its KL."""

import math
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest

from lab.models import Run
from lab.queries import rollouts

PER_PAGE = 24
MAX_STEPS = 200
"""Rounds that the list of steps names, spread over all."""
SORTS = (
    ("", "as drawn"), ("best", "highest reward"), ("worst", "lowest reward"), ("longest", "longest"),
    ("farthest", "farthest by KL"),
)  # fmt: skip
KL_STEPS = (0.02, 0.2, 1.0)
"""Nats at a token from which it is shaded: hardly another choice, another one now and then, another one."""
LANE, FAN_WIDTH = 9, 150  # pixels between two answers, and of the longest


def context(request: HttpRequest, run: Run) -> dict[str, Any]:
    steps = list(rollouts.files(run))
    asked, problems = _asked(request, steps)
    shade = "kl" if request.GET.get("shade") == "kl" else "advantage"
    offset = min(_whole(request.GET.get("offset")) or 0, 10**9)
    found = rollouts.answers(run, asked, offset, PER_PAGE)
    largest = max((abs(a) for item in found.items for a in item["advantages"]), default=0.0)
    said, reasons = rollouts.why(run)
    fields = {name: value for name, value in request.GET.items() if value and name not in ("offset", "shade")}
    stride = max(1, -(-len(steps) // MAX_STEPS))
    listed = sorted({*steps[::-1][::stride], *([asked.step] if asked.step in steps else [])})
    last = offset + len(found.items)
    return {
        "steps": listed,
        "asked": asked,
        "sorts": SORTS,
        "shade": shade,
        "shades": [
            (name, f"?{urlencode({**fields, 'shade': name, 'offset': offset})}")
            for name in ("advantage", "kl")
        ],
        "groups": _groups(found.items, shade, largest),
        "count": found.count,
        "first": offset + 1 if found.items else 0,
        "last": last,
        "cut": found.cut,
        "problems": problems,
        "earlier": f"?{urlencode({**fields, 'shade': shade, 'offset': max(0, offset - PER_PAGE)})}"
        if offset
        else "",
        "later": f"?{urlencode({**fields, 'shade': shade, 'offset': last})}" if last < found.count else "",
        "said": said,
        "reasons": reasons,
        "best_step": run.summary.get("best_step"),
        "findings": [
            one for one in run.summary.get("findings", []) if "win rate" in one or "Judged by" in one
        ],
        "measured_kl": any(item["token_kl"] is not None for item in found.items),
    }


def _asked(request: HttpRequest, steps: list[int]) -> tuple[rollouts.Asked, list[str]]:
    """The last round where no other is named; what cannot be read is told and passed over."""
    given, problems = request.GET, []
    words = given.get("step", "").strip()
    step = steps[-1] if steps else None
    if words == "all":
        step = None
    elif words:
        step = _whole(words)
        if step is None or step not in steps:
            problems.append(
                f"No round {words[:20]!r} is kept; this is round {steps[-1] if steps else 'none'}."
            )
            step = steps[-1] if steps else None
    numbers: dict[str, float | None] = {}
    for name, title in (("min_reward", "Lowest reward"), ("max_reward", "Highest reward")):
        numbers[name] = _number(given.get(name))
        if given.get(name, "").strip() and numbers[name] is None:
            problems.append(f"{title} {given[name][:20]!r} is no number: write one like −0.5.")
    lengths: dict[str, int | None] = {}
    for name, title in (("min_tokens", "Fewest tokens"), ("max_tokens", "Most tokens")):
        lengths[name] = _whole(given.get(name))
        if given.get(name, "").strip() and lengths[name] is None:
            problems.append(f"{title} {given[name][:20]!r} is no whole number.")
    sort = given.get("sort", "")
    asked = rollouts.Asked(
        step, given.get("q", "")[:200], sort=sort if sort in rollouts.SORTS else "", **numbers, **lengths
    )
    return asked, problems


def _number(words: str | None) -> float | None:
    try:
        value = float((words or "").replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(words: str | None) -> int | None:
    words = (words or "").strip()
    return int(words) if words.isascii() and words.isdigit() and len(words) < 10 else None


def _groups(items: list[dict[str, Any]], shade: str, largest: float) -> list[dict[str, Any]]:
    """Answers under their prompts, with the fan of all answers to it."""
    found = []
    for (step, _), members in groupby(items, key=lambda item: (item["step"], item["group_id"])):
        answers = list(members)
        first = answers[0]
        rewards = first["group_rewards"]
        mean = sum(rewards) / len(rewards)
        found.append(
            {
                "step": step,
                "prompt": first["prompt"],
                "mean": mean,
                "n": len(rewards),
                "flat": max(rewards) - min(rewards) < 1e-6,
                "fan": _fan(rewards, first["group_tokens"], mean),
                "answers": [_answer(item, shade, largest, mean) for item in answers],
            }
        )
    return found


def _answer(item: dict[str, Any], shade: str, largest: float, mean: float) -> dict[str, Any]:
    advantages, kl = item["advantages"], item["token_kl"]
    if shade == "kl":
        looks = [kl_look(value) for value in kl] if kl is not None else [0] * len(advantages)
    else:
        looks = [advantage_look(value, largest) for value in advantages]
    tokens = [
        {
            "text": text,
            "look": look,
            "title": f"advantage {advantage:+.2f}" + ("" if kl is None else f", KL {kl[n]:.3f} nats"),
        }
        for n, (text, look, advantage) in enumerate(zip(item["tokens"], looks, advantages, strict=True))
    ]
    return {
        "tokens": _runs(tokens),
        "reward": item["reward"],
        "better": item["reward"] > mean,
        "advantage": sum(advantages) / len(advantages),
        "kl": item["kl"],
        "n_tokens": item["n_tokens"],
        "ended": item["ended"],
    }


def _runs(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours that look and are alike as one piece of text: most answers are one."""
    found = []
    for key, part in groupby(tokens, key=lambda token: (token["look"], token["title"])):
        found.append({"text": "".join(token["text"] for token in part), "look": key[0], "title": key[1]})
    return found


def advantage_look(value: float, largest: float) -> int:
    """-3 to 3 of the diverging scale, a third of the largest on the page each."""
    if not largest or not math.isfinite(value):
        return 0
    size = math.ceil(3 * abs(value) / largest - 1e-9) if abs(value) > 0.02 * largest else 0
    return int(math.copysign(min(3, size), value)) if size else 0


def kl_look(value: float) -> int:
    """0 to -3: the further from what the chat model would have written."""
    return -sum(abs(value) >= step for step in KL_STEPS)


def _fan(rewards: list[float], lengths: list[int], mean: float) -> dict[str, Any]:
    """Lanes from one stone, as long as their answers; above the mean a thick one that ends in a dot, else in a cross."""
    height = LANE * len(rewards) + 6
    middle, longest = height / 2, max(lengths)
    lanes = []
    for n, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        y, end = 3 + LANE * (n + 0.5), 34 + (FAN_WIDTH - 46) * length / longest
        path = f"M8 {middle:.1f} C18 {middle:.1f} 16 {y:.1f} 30 {y:.1f} L{end:.1f} {y:.1f}"
        lanes.append({"path": path, "x": f"{end:.1f}", "y": f"{y:.1f}", "better": reward > mean})
    return {"width": FAN_WIDTH, "height": height, "middle": f"{middle:.1f}", "lanes": lanes}
