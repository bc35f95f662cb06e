"""Whether labelling uncertain and unlike groups first pays: learning curves beside groups at random, on people's own orders.

The setting is the lab's own (`lab.services.labeling.turns`): an ensemble scores the groups that nobody has ranked by how
far its members disagree, the most uncertain come first, and each choice is weighed against its likeness to those before
it. Labelling is simulated with what people really said: START groups at random, then BATCH at a time, each ranked once by
one of its labelers; after each batch the ensemble learns anew, scores the rest, and orders the pairs of held-out prompts.
Both ways begin with the same groups, and end with the same model when the whole set is ranked: it fails when they do not,
or when the weighing here differs from `core_ml.feedback.surface`.

Two learners, both a logistic regression on differences of two answers with MEMBERS members that count each group by a
weight drawn anew (Rubin 1981): "form" knows the surface features, "form and words" also DIMENSIONS directions of a
TF-IDF of all answers of the set (Deerwester et al. 1990), so that it has more to learn. Differences are paired: both ways
share the split, the start and the labelers of a seed, and the interval is over seeds.

Last measured on two shared cores, one thread, 20 seeds.
Gain of the mean accuracy over the curve, uncertain and unlike first less random, with its 95 % interval, and the rankings
that it needs for what random has after half of the set:
  form, PandaLM (491 groups)            +0.021 (+0.013 to +0.029), 75 for 260: 3.5 times as few (2.5 to 4.9)
  form, Auto-J (594 groups)             +0.003 (-0.002 to +0.008), 57 for 320: 5.6 times as few (1.5 to 9.4), on a flat curve
  form, OpenAssistant (118 groups)      +0.005 (-0.004 to +0.013), 89 for 80
  form and words, PandaLM               -0.009 (-0.016 to -0.001), 262 for 260 (0.5 to 2.4 times as few)
  form and words, Auto-J                -0.003 (-0.009 to +0.004), 507 for 320
  form and words, OpenAssistant         +0.006 (-0.002 to +0.013), 76 for 80
So it pays where a learner of few weights can be sure of something, and it is worth nothing, or a little less than nothing,
for one of 79 weights, whose doubts in the first hundreds of rankings are mostly its own noise; the last of the curve is the
same either way. Where it pays, the likeness helps (PandaLM: uncertain alone +0.012), and it must be the spread of the
probability: that of scores chooses pairs of unlike form, of which every member is sure (-0.001 instead of +0.019).
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["LAB_HOME"] = tempfile.mkdtemp(
    prefix="m37-selection-"
)  # only its function is used, never its database
os.environ["DJANGO_SETTINGS_MODULE"] = "lab.settings"

import django
import numpy as np
from reward import HELD_OUT, SETS
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from core_ml.evaluation.statistics import Share, mean
from core_ml.feedback import surface
from core_ml.feedback.pairs import Group, Ranking, ordered_rightly, split

django.setup()

from lab.services.labeling.turns import spread  # noqa: E402

START, BATCH = 20, 20
MEMBERS = 8
DIMENSIONS = 64
RIDGE = {"form": 1.0, "form and words": 10.0}
DRAWS = 2000
RANDOM, UNCERTAIN, ALONE, OF_SCORES = "random", "uncertain, unlike", "uncertain alone", "of scores, unlike"
WAYS = (RANDOM, UNCERTAIN, ALONE, OF_SCORES)
"""The lab's two settings, and what the second is without the likeness, or with the spread of scores as the uncertainty."""


@dataclass(frozen=True)
class Pool:
    """One split of a set, with everything that a learner looks up.

    tables: by learner, for each group its answers' features, in standard deviations of the pool's answers.
    rankings: the one ranking of each group of the pool that labelling reveals.
    weights: (MEMBERS, groups) how much a member counts a group.
    """

    groups: list[Group]
    rankings: list[Ranking]
    held_out: list[Group]
    tables: dict[str, list[np.ndarray]]
    held_out_tables: dict[str, list[np.ndarray]]
    weights: np.ndarray


def prepared(groups: list[Group], seed: int) -> Pool:
    pool, held_out = split(groups, HELD_OUT, seed)
    chance = random.Random(f"{seed}:labelers")
    rankings = [chance.choice(group.rankings) for group in pool]
    texts = [text for group in pool for text in group.completions]
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit(texts)
    n = min(DIMENSIONS, len(words.vocabulary_) - 1, len(texts) - 1)
    directions = TruncatedSVD(n, random_state=0).fit(words.transform(texts))

    def features(group: Group) -> np.ndarray:
        prompts = [group.prompt] * len(group.completions)
        form = surface._table(list(surface.FEATURES), prompts, group.completions)
        return np.concatenate([form, directions.transform(words.transform(group.completions))], axis=1)

    own, theirs = [features(group) for group in pool], [features(group) for group in held_out]
    everything = np.concatenate(own)
    center, scale = everything.mean(0), everything.std(0)
    scale[scale < 1e-9] = 1.0
    n_form = len(surface.FEATURES)

    def tables(found: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
        standard = [np.clip((table - center) / scale, -4, 4) for table in found]
        return {"form": [table[:, :n_form] for table in standard], "form and words": standard}

    weights = np.random.default_rng(seed).exponential(size=(MEMBERS, len(pool)))
    return Pool(pool, rankings, held_out, tables(own), tables(theirs), weights)


def fitted(x: np.ndarray, weight: np.ndarray, ridge: float) -> np.ndarray:
    """Weights of features by Newton's method, as `surface.fit` finds them.

    Args:
        x: (pairs, features) the better answer's less the worse one's; weight: (pairs,).
    """
    found = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        gradient = x.T @ (weight * (1 - p)) - ridge * found
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, gradient)
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return found


def members(pool: Pool, learner: str, labelled: Sequence[int]) -> np.ndarray:
    """(MEMBERS, features) from the groups that are ranked; all zero while nothing is preferred."""
    tables, rows, owners = pool.tables[learner], [], []
    for place in labelled:
        for better, worse in pool.rankings[place].pairs():
            rows.append(tables[place][better] - tables[place][worse])
            owners.append(place)
    if not rows:
        return np.zeros((MEMBERS, tables[0].shape[1]))
    x = np.array(rows)
    return np.array([fitted(x, weights[owners], RIDGE[learner]) for weights in pool.weights])


def accuracy(pool: Pool, learner: str, weights: np.ndarray) -> float:
    """The share of held-out pairs that the ensemble's mean orders as people did."""
    hits = []
    for group, table in zip(pool.held_out, pool.held_out_tables[learner], strict=True):
        scores = table @ weights.mean(0)
        hits += [ordered_rightly(scores, better, worse) for better, worse in group.pairs()]
    return float(np.mean(hits))


def uncertainty(table: np.ndarray, weights: np.ndarray, of_scores: bool) -> float:
    """How far the members disagree about a group, the mean of all pairs of its answers.

    Of scores it is the spread of the difference of two, which is largest where answers are unlike in form, however sure
    every member is; else that of the probability that the one beats the other.
    """
    scores = table @ weights.T
    first, second = np.triu_indices(len(table), 1)
    differences = scores[first] - scores[second]
    told = differences if of_scores else 1 / (1 + np.exp(-np.clip(differences, -30, 30)))
    return float(told.std(axis=1).mean())


def curve(pool: Pool, learner: str, way: str, seed: int, counts: Sequence[int]) -> list[float]:
    """Held-out accuracy after so many rankings; the first groups are the same whichever way comes then."""
    order = list(range(len(pool.groups)))
    random.Random(f"{seed}:order").shuffle(order)
    labelled, left = order[: counts[0]], order[counts[0] :]
    found = []
    weights = members(pool, learner, ())
    for n in counts:
        if n > len(labelled):
            if way != RANDOM:
                tables = (pool.tables[learner][place] for place in left)
                scores = [uncertainty(table, weights, way == OF_SCORES) for table in tables]
                prompts = [pool.groups[place].prompt for place in left]
                first = np.argsort([-one for one in scores]) if way == ALONE else spread(prompts, scores)
                left = [left[place] for place in first]
            n_more = n - len(labelled)
            labelled, left = labelled + left[:n_more], left[n_more:]
        # In the order of the pool, so that the same groups give the same model to the last bit.
        weights = members(pool, learner, sorted(labelled))
        found.append(accuracy(pool, learner, weights))
    return found


def reached(counts: Sequence[int], accuracies: np.ndarray, target: float) -> float:
    """After how many rankings a curve first is at `target`, between two points by a straight line; the last at most."""
    for k, value in enumerate(accuracies):
        if value >= target:
            if k == 0:
                return float(counts[0])
            rise = (target - accuracies[k - 1]) / max(1e-12, value - accuracies[k - 1])
            return float(counts[k - 1] + rise * (counts[k] - counts[k - 1]))
    return float(counts[-1])


def saved(counts: Sequence[int], ours: np.ndarray, theirs: np.ndarray, at: int) -> tuple[float, Share]:
    """Rankings that `ours` needs for what `theirs` has after counts[at], and their ratio with an interval over seeds.

    Args:
        ours, theirs: (seeds, counts) accuracies.
    """
    needed = reached(counts, ours.mean(0), theirs.mean(0)[at])
    chance, n = np.random.default_rng(0), len(ours)
    ratios = []
    for _ in range(DRAWS):
        some = chance.integers(n, size=n)
        ratios.append(counts[at] / reached(counts, ours[some].mean(0), theirs[some].mean(0)[at]))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return needed, Share(counts[at] / needed, float(low), float(high), n)


def disagreement(pool: Pool) -> float:
    """The largest difference between the weights here and those of `surface.fit`, on all that is revealed."""
    groups = [
        Group(group.id, group.prompt, group.completions, [ranking])
        for group, ranking in zip(pool.groups, pool.rankings, strict=True)
    ]
    theirs = surface.fit(groups, list(surface.FEATURES))
    rows = []
    for group in groups:
        table = surface._table(theirs.names, [group.prompt] * len(group.completions), group.completions)
        standard = surface._standard(table, theirs.mean, theirs.std)
        rows += [standard[better] - standard[worse] for better, worse in group.pairs()]
    ours = fitted(np.array(rows), np.ones(len(rows)), 1.0)
    return float(np.abs(ours - np.array(theirs.weights)).max())


def measure(name: str, groups: list[Group], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """All learners and ways on one set; prints the curves and returns the benchmark's lines."""
    pools = [prepared(groups, seed) for seed in seeds]
    if (apart := max(disagreement(pool) for pool in pools)) > 1e-6:
        raise SystemExit(f"{name}: the weighing here is {apart:.2e} from that of core_ml.feedback.surface")
    whole = min(len(pool.groups) for pool in pools)
    counts = [*range(START, whole, BATCH), whole]
    results = []
    for learner in RIDGE:
        curves = {
            way: np.array(
                [curve(pool, learner, way, seed, counts) for pool, seed in zip(pools, seeds, strict=True)]
            )
            for way in WAYS
        }
        if any(len(pool.groups) == whole and len({curves[way][k, -1] for way in WAYS}) > 1 for k, pool in enumerate(pools)):  # fmt: skip
            raise SystemExit(f"{name}: with every group ranked, the ways do not end with the same model")
        at = len(counts) // 2
        print(f"\n{name}, {learner}: pools of {whole} groups, {len(seeds)} seeds")
        shown = sorted({0, 1, 2, 4, at // 2, at, len(counts) - 1} & set(range(len(counts))))
        print("  rankings            " + "".join(f"{counts[k]:>9}" for k in shown))
        for way in WAYS:
            print(f"  {way:20}" + "".join(f"{curves[way][:, k].mean():9.3f}" for k in shown), flush=True)
        for way in WAYS[1:]:
            gain = mean((curves[way][:, :-1].mean(1) - curves[RANDOM][:, :-1].mean(1)).tolist())
            needed, ratio = saved(counts, curves[way], curves[RANDOM], at)
            print(
                f"  {way}: mean accuracy {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}) of random's; has after "
                f"{needed:.0f} rankings what random has after {counts[at]} (ratio {ratio.value:.2f}, {ratio.low:.2f} to "
                f"{ratio.high:.2f})",
                flush=True,
            )
            if way == UNCERTAIN:
                ours, peer = (curves[one][:, :-1].mean() for one in (way, RANDOM))
                results += [
                    _line(f"{name}, {learner}: rankings for random's accuracy after {counts[at]}", "rankings", needed, counts[at], counts[at] / needed),
                    _line(f"{name}, {learner}: mean accuracy of the curve", "share of held-out pairs", ours, peer, ours / peer),
                ]  # fmt: skip
    return results


def _line(metric: str, unit: str, ours: float, peer: float, ratio: float) -> dict[str, Any]:
    return {
        "benchmark": "selection", "metric": metric, "unit": unit, "ours": round(float(ours), 4),
        "peer": round(float(peer), 4), "peer_name": "groups at random", "ratio": round(float(ratio), 3), "goal": 1.0,
        "met": bool(ratio >= 1.0),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one set, two seeds, few batches, for CI")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    names = ["pandalm"] if options.quick else options.sets.split(",")
    sets = {name: SETS[name] for name in names if (options.data / f"pref-{name}").is_dir()}
    if not sets:
        print(f"{options.data} holds none of {', '.join(f'pref-{name}' for name in names)}", file=sys.stderr)
    results = []
    for name, read in sets.items():
        groups = [group for group in read(options.data) if group.pairs()]
        if options.quick:
            groups = groups[:110]
        results += measure(name, groups, range(2 if options.quick else options.seeds))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
