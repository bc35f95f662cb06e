"""Gold beside proxy at every look of a run of practice: the points, the fitted curve, its peak, and what is kept of it.

A run measures both at its looks at prompts kept aside, as gains over the start in standard deviations of the start
(`val_proxy_z`, `val_gold_z`) over the KL there (`val_kl`). An older run has only its raw rewards and the KL of the
round before each look; those are told in their own units. Where nobody stands above the proxy, the win rate is left.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from core_ml.evaluation import overoptimization as core
from core_ml.evaluation.statistics import Share, Z, wilson
from lab.models import Artifact, Run, Sample
from lab.queries.metrics import curve

KINDS = ("rlhf",)
MAX_LOOKS = 1000
MAX_COMPARED = 8
METRICS = (
    "val_kl", "val_proxy_z", "val_proxy_z_sem", "val_gold_z", "val_gold_z_sem", "val_reward", "val_gold",
    "val_liked", "val_win_rate", "val_below_best", "kl",
)  # fmt: skip
JUDGES = {
    "model": "a gold model",
    "rankings": "a reward model of the newest rankings",
    "rule": "the stated preference",
    "proxy": "the reward model itself",
}


@dataclass(frozen=True)
class Look:
    """What one look at the prompts kept aside measured; gains are over the first look."""

    step: int
    kl: float | None
    proxy: float | None
    proxy_sem: float | None
    gold: float | None
    gold_sem: float | None
    win_rate: float | None
    below_best: float | None = None
    """Standard errors, prompt by prompt, below the best look until then; an older run does not tell it."""

    @property
    def d(self) -> float | None:
        """√KL in √nats an answer. An estimate of KL may fall below 0 near the start."""
        return None if self.kl is None else math.sqrt(max(0.0, self.kl))


@dataclass(frozen=True)
class Measured:
    """A run's looks and what they come to.

    `standard` says whether gains are in standard deviations of the start; else in the judges' own units.
    """

    run: Run
    looks: list[Look]
    standard: bool
    judge: str
    """Who says what answers are worth, of JUDGES."""
    n_prompts: int

    @property
    def has_gold(self) -> bool:
        return any(look.gold is not None for look in self.looks)

    @property
    def has_distance(self) -> bool:
        return any(look.d for look in self.looks)

    @cached_property
    def fit(self) -> core.Fit | None:
        """Gao et al.'s curve through gold; None where gold or the distance was not measured."""
        points = [look for look in self.looks if look.d is not None and look.gold is not None]
        if not points or not self.has_distance:
            return None
        own = self.run.summary.get("over_kl")
        if not self.run.is_live and isinstance(own, dict):
            return _of_summary(own)  # its intervals know that all looks asked the same prompts
        sems = [math.nan if look.gold_sem is None else look.gold_sem for look in points]
        return core.fit([look.d for look in points], [look.gold for look in points], sems)

    @cached_property
    def best(self) -> Look | None:
        """The look at which gold was highest, or the win rate where there is no gold; the earliest of equals."""
        looks = [look for look in self.looks if self.worth(look) is not None]
        if told := self._told("peak_step", looks):
            return told
        return max(looks, key=lambda look: (self.worth(look), -look.step), default=None)

    @property
    def last(self) -> Look | None:
        looks = [look for look in self.looks if self.worth(look) is not None]
        return looks[-1] if looks else None

    @property
    def z(self) -> float:
        """Standard errors below the best look from which on a look is worse by more than chance."""
        return core.z_below_best(len(self.looks))

    def worth(self, look: Look) -> float | None:
        return look.gold if self.has_gold else look.win_rate

    def below(self, worse: Look, better: Look) -> bool:
        """Whether one look is worse than the best by more than chance, of which the best of many has more.

        The same prompts are answered at each, which is not made use of: it asks for more than it need.
        """
        if self.has_gold:
            if worse.gold is None or better.gold is None:
                return False
            if worse.gold_sem is not None and better.gold_sem is not None:
                return better.gold - worse.gold > self.z * math.hypot(worse.gold_sem, better.gold_sem)
        low, high = self.won(worse), self.won(better)
        if low is None or high is None:
            return False
        apart = math.hypot(high.value - high.low, low.high - low.value) / Z
        return high.value - low.value > self.z * apart

    def won(self, look: Look) -> Share | None:
        """The share of prompts on which the answer beats the start's, a tie counting half."""
        if look.win_rate is None or not self.n_prompts:
            return None
        return wilson(look.win_rate * self.n_prompts, self.n_prompts)

    @property
    def fell(self) -> bool:
        """Whether gold, or the win rate, stands lower at the last look than at its best by more than chance."""
        if any(one.output == "peak" for one in self.outputs):
            return True  # the run itself has found it, prompt by prompt
        if self.last is not None and self.last.below_best is not None:
            return self.last.below_best > self.z  # as the run itself compares them
        return self.best is not None and self.last is not None and self.below(self.last, self.best)

    @cached_property
    def stopped(self) -> Look | None:
        """The earliest look that the best one does not beat by more than chance: from there on nothing was gained."""
        if self.best is None:
            return None
        best = self.best
        looks = [look for look in self.looks if self.worth(look) is not None]
        # A run tells where the win rate of its greedy answers stopped; gold is of sampled ones.
        told = None if self.has_gold else self._told("best_step", looks)
        return told or next(look for look in looks if look is best or not self.below(look, best))

    def _told(self, name: str, looks: list[Look]) -> Look | None:
        """The look that an ended run named in its summary: it compared them prompt by prompt, which it alone can do."""
        step = None if self.run.is_live else self.run.summary.get(name)
        return next((look for look in looks if look.step == step), None)

    @cached_property
    def outputs(self) -> list[Artifact]:
        return list(self.run.artifacts.all())

    @cached_property
    def peak(self) -> Artifact | None:
        """The checkpoint at the peak: kept as such, or the run's own where that has the weights of the best look."""
        outputs = {one.output: one for one in self.outputs}
        if "peak" in outputs:
            return outputs["peak"]
        is_best = self.run.config.get("keep") == "best" or (self.best is not None and self.best is self.last)
        return outputs.get("checkpoint") if is_best and self.best is not None else None


def measured(run: Run) -> Measured:
    """Call for runs of KINDS; one that has measured nothing yet has no looks."""
    columns = {name: _by_step(run, name) for name in METRICS}
    standard = bool(columns["val_proxy_z"])
    proxy = columns["val_proxy_z"] or _gain(columns["val_reward"])
    gold = columns["val_gold_z"] or ({} if standard else _gain(columns["val_gold"]))
    kl = columns["val_kl"] or _round_before(columns["kl"], proxy or columns["val_win_rate"])
    steps = sorted({*proxy, *gold, *columns["val_win_rate"]})
    looks = [
        Look(
            step,
            kl.get(step),
            proxy.get(step),
            columns["val_proxy_z_sem"].get(step),
            gold.get(step),
            columns["val_gold_z_sem"].get(step),
            columns["val_win_rate"].get(step),
            columns["val_below_best"].get(step),
        )
        for step in steps
    ]
    return Measured(run, looks, standard, _judge(run, columns), int(run.config.get("n_watched") or 0))


def _by_step(run: Run, name: str) -> dict[int, float]:
    found = curve(run, name, max_points=MAX_LOOKS)
    return {step: value for step, value in zip(*(found[key] for key in ("steps", "values")), strict=True) if value is not None}  # fmt: skip


def _gain(values: dict[int, float]) -> dict[int, float]:
    first = values[min(values)] if values else 0.0
    return {step: value - first for step, value in values.items()}


def _round_before(kl: dict[int, float], looks: dict[int, float]) -> dict[int, float]:
    """The KL of the last round at or before each look, where none was measured at the look itself; 0 at the start."""
    found, rounds = {}, sorted(kl)
    for step in looks:
        before = [round for round in rounds if round <= step]
        if not rounds or (before == [] and step):
            continue
        found[step] = kl[before[-1]] if before else 0.0
    return found


def _judge(run: Run, columns: dict[str, dict[int, float]]) -> str:
    """As the recipe chooses it: what the config asks for, else a model, else rankings, else the rule."""
    asked = run.config.get("gold")
    inputs = set(run.inputs.values_list("name", flat=True))
    if asked in JUDGES:
        return str(asked)
    if asked != "none" and "gold" in inputs:
        return "model"
    if asked != "none" and "gold_rankings" in inputs:
        return "rankings"
    return "rule" if columns["val_liked"] else "proxy"


def _of_summary(told: dict[str, Any]) -> core.Fit:
    """The fit that a run has told as JSON, in which an open end of an interval is null."""

    def pair(name: str) -> tuple[float, float] | None:
        ends = told.get(name)
        return (_open(ends[0]), _open(ends[1])) if ends else None

    top = told.get("measured_peak")
    return core.Fit(
        told["form"],
        core.Peak(top["index"], top["d"], top["gold"], _open(top["low"]), _open(top["high"]))
        if top
        else None,
        told["reach"],
        told["alpha"],
        told["beta"],
        pair("alpha_interval"),
        pair("beta_interval"),
        told["peak_d"],
        pair("peak_interval"),
        told["peak_gold"],
        told["r2"],
    )


def _open(end: float | None) -> float:
    return math.inf if end is None else end


def n_rankings(run: Run) -> int | None:
    """Rankings that the run's proxy learned from; of several reward models those of the one with most."""
    found = [
        taken.artifact.summary.get("n_rankings")
        for taken in run.inputs.filter(name="reward").select_related("artifact")
    ]
    return max((n for n in found if isinstance(n, int)), default=None)


def parent(run: Run) -> Artifact | None:
    """The model that distances are measured to."""
    inputs = {taken.name: taken.artifact for taken in run.inputs.select_related("artifact")}
    return inputs.get("reference") or inputs.get("checkpoint")


def others(run: Run) -> list[Run]:
    """Runs that may be laid over this one, those of the same model first, the newest first."""
    model = parent(run)
    found = Run.objects.filter(kind__in=KINDS, deleted=None, chunks__name="val_reward").exclude(pk=run.pk)
    same = set(found.filter(inputs__artifact=model).values_list("pk", flat=True)) if model else set()
    return sorted(found.distinct()[:40], key=lambda one: (one.pk not in same, -one.pk))[:20]


def compared(run: Run, numbers: list[int]) -> list[Run]:
    """The runs of these numbers that practise, in the order given, without the run itself."""
    found = {one.pk: one for one in Run.objects.filter(pk__in=numbers, kind__in=KINDS, deleted=None)}
    return [found[pk] for pk in dict.fromkeys(numbers) if pk in found and pk != run.pk]


def answers_at(run: Run, looks: list[Look]) -> list[dict[int, Sample]]:
    """For each prompt that was answered at all of these looks: its answer by step, those that changed most first.

    Changed most is: the proxy likes the last of them better than the one before by most, in other words.
    """
    steps = [look.step for look in looks]
    found: dict[str, dict[int, Sample]] = {}
    for sample in run.samples.filter(step__in=steps).exclude(prompt=""):
        found.setdefault(sample.prompt, {}).setdefault(sample.step, sample)
    whole = [by_step for by_step in found.values() if len(by_step) == len(set(steps))]

    def rise(by_step: dict[int, Sample]) -> tuple[bool, float]:
        texts = {one.text for one in by_step.values()}
        rewards = [by_step[step].data.get("reward") for step in steps[-2:]]
        known = len(rewards) == 2 and all(isinstance(one, int | float) for one in rewards)
        return len(texts) == 1, -(rewards[1] - rewards[0]) if known else 0.0

    return sorted(whole, key=rise)


def row(found: Measured) -> dict[str, Any]:
    """A run in a table of runs: its rankings, the peak with its interval, gold there and at the end."""
    fit, best, last = found.fit, found.best, found.last
    fitted = believed(fit)
    top = fit.measured_peak if fit else None
    interval = (fit.peak_interval if fitted else (top.low, top.high) if top else None) if fit else None
    return {
        "run": found.run.pk,
        "name": found.run.name,
        "seed": found.run.config.get("seed"),
        "n_rankings": n_rankings(found.run),
        "peak": (fit.peak_d if fitted else top.d if top else None) if fit else None,
        "peak_low": _finite(interval[0]) if interval else None,
        "peak_high": _finite(interval[1]) if interval else None,
        "fitted": fitted,
        "gold_at_peak": best.gold if best else None,
        "gold_at_end": last.gold if last else None,
        "win_rate_at_peak": best.win_rate if best else None,
        "win_rate_at_end": last.win_rate if last else None,
        "peak_step": best.step if best else None,
        "last_step": last.step if last else None,
        "fell": found.fell,
    }


def believed(fit: core.Fit | None) -> bool:
    """Whether the fitted curve's own peak is to be marked: it turns by more than chance, inside what was measured."""
    return fit is not None and fit.bends_down and fit.peak_is_inside


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def finding(found: Measured) -> str:
    """What the looks come to, in a sentence or two."""
    best, last, stopped = found.best, found.last, found.stopped
    if best is None or last is None or stopped is None or len(found.looks) < 2:
        return "Nothing is measured beyond the start yet."
    what = "Gold" if found.has_gold else "The win rate"
    by = f", judged by {JUDGES[found.judge]},"
    so_far = " so far" if found.run.is_live else ""
    if best is found.looks[0]:
        return f"{what}{by} never rose above the start{so_far}" + (", and fell by more than chance." if found.fell else ".")  # fmt: skip
    if found.fell:
        return (
            f"{what}{by} was best at step {best.step:,} and has fallen since by more than chance: what came after "
            f"step {best.step:,} pleased the reward model alone."
        )
    if best is last:
        level = f", by no more than chance above step {stopped.step:,}" if stopped is not last else ""
        return f"{what}{by} was highest at the last look, step {last.step:,}{level}: nothing says yet where it turns."
    if stopped is found.looks[0]:
        return f"{what}{by} never rose above the start by more than chance{so_far}, nor did it fall since."
    if stopped.step < last.step:
        return (
            f"{what}{by} stopped improving at step {stopped.step:,} of {last.step:,}: no later look is better by more "
            "than chance, and none is worse."
        )
    return f"{what}{by} was best at step {best.step:,}; what came after is not worse by more than chance."
