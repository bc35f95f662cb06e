"""Reward model over-optimisation (Gao et al. 2022, arXiv:2210.10760) reproduced: gold against proxy, by best-of-n and by RL.

For each seed a small chat model is taught five tasks, some of which it half masters. A rule (4 for correct, 2 for
complete, 1 for short) is gold; proxies learn from 50, 200, 1,000 and 5,000 rankings of four answers by that rule, in which
one score of twenty is off by 1.5 standard deviations. Each proxy then chooses the best of n answers, n to 256, to 50 prompts
that nothing was trained on, and is practised against without any pull to the chat model, by the recipe `rlhf`, whose looks
at 80 prompts kept aside are the points. 0 is the chat model and 1 the spread of its answers.

    python benchmarks/overoptimization.py --minutes 9     # again until it says that it is whole; each piece is kept

What more rankings change is a slope on the logarithm of their number, with its 95 % t interval: the mean over the proxies
of a seed and number is one point, and seeds have levels of their own. `--report` tells it again from
`benchmarks/data/overoptimization.json`, which holds the plot's data. There is no peer; it fails when a proxy did not rise by
what it chose.

Last measured on one core of an AMD EPYC (Zen 5), one thread, 28.5 minutes of processor time in all: three seeds, three
proxies a seed and number, each for best-of-n and for RL. The chat models have 0.2 million parameters; 13 to 14 % of their
sampled answers are right. ± is a standard error, brackets are 95 % intervals, RL is the mean of nine runs.

rankings  pairs   best-of-n: peak of gold    √KL of the fitted peak   n = 256: gold, proxy   RL: highest gold, at the end
      50  0.763   +0.31 at n = 8             1.03 (0.96 to 1.09)      -0.08 ± 0.04, +1.19    +0.29, -0.14
     200  0.810   +0.40 at n = 8 and 16      1.12 (1.06 to 1.19)      +0.02 ± 0.03, +1.12    +0.38, +0.13
   1,000  0.822   +0.43 at n = 16            1.25 (1.17 to 1.34)      +0.09 ± 0.03, +0.99    +0.35, +0.12
   5,000  0.878   +0.56 at n = 16            1.76 (1.56 to 2.00)      +0.23 ± 0.05, +1.37    +0.49, +0.21

The proxy rises in all 72 curves. In all 36 runs of RL gold is highest in between and lower at the end, by 0.05 to 0.79; its
rise is within two standard errors in one of them (+0.08), its fall in eleven, and the best of eleven looks is partly luck.
Gold itself would have gained 1.63 by the best of 256. d(α - βd) fits the mean curves of best-of-n with R² 0.92 to 0.97;
d(α - β ln d) fits single runs with R² 0.24 to 0.95, and two not at all (-0.04 and -0.68), and the peak of one has no upper end.

Ten times the rankings change, by best-of-n: highest gold +0.11 (0.08 to 0.14), √KL of the peak +0.13 (0.07 to 0.19), gold at
n = 256 +0.15 (0.09 to 0.21); held-out pairs +0.05 (0.04 to 0.07). By RL: highest gold +0.08 (0.04 to 0.13), gold at the last
step +0.15 (0.07 to 0.23); where the peak lies 36 runs do not settle: √KL of the highest gold +0.20 (-0.01 to 0.42), of the
fitted peak -0.07 (-0.21 to 0.08).
No number of these rankings prevents the fall. Two limits: proxies of 200 and of 1,000 rankings read about 2,000 of them in
all (ten epochs, two), which is why they hardly differ; and the proxies of 5,000 rankings of a seed learn from the same
rankings in other orders, those of 1,000 from overlapping ones, so that their spread is too small.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from parts.lives import Life
from scipy.stats import t as student

from core_ml import artifact
from core_ml.evaluation.best_of_n import sweep
from core_ml.evaluation.overoptimization import Form, fit
from core_ml.model import device

DATA = Path(__file__).resolve().parent / "data" / "overoptimization.json"
WHOLE: dict[str, Any] = {
    "sizes": [50, 200, 1000, 5000], "proxies": 3, "rl_proxies": 3, "seeds": 3, "n": 256, "prompts": 50,
    "conversations": 20_000, "problems": 9_000, "held_out": 200, "steps": 80, "eval_every": 8, "watched": 80, "lr": 2e-3,
    "d_model": 64, "n_layer": 3, "vocab": 512,
}  # fmt: skip
QUICK: dict[str, Any] = {
    **WHOLE, "sizes": [20, 60], "proxies": 2, "rl_proxies": 1, "seeds": 1, "n": 16, "prompts": 10, "conversations": 600,
    "problems": 150, "held_out": 20, "steps": 4, "eval_every": 1, "watched": 12, "d_model": 32, "n_layer": 2,
}  # fmt: skip
Piece = tuple[str, Callable[[], dict[str, Any]]]


# The pieces, each done once and kept


def pieces(folder: Path, size: dict[str, Any]) -> Iterator[Piece]:
    for seed in range(size["seeds"]):
        life = Life(folder, seed, size)
        yield f"chat-{seed}", life.chat
        yield f"answers-{seed}", life.answers
        for n in size["sizes"]:
            for k in range(size["proxies"]):
                yield f"proxy-{seed}-{n}-{k}", partial(_proxy, folder, life, n, k)
            for k in range(size["rl_proxies"]):
                yield f"rl-{seed}-{n}-{k}", partial(life.practise, n, k)


def _proxy(folder: Path, life: Life, n: int, k: int) -> dict[str, Any]:
    return life.proxy(n, k, read(folder, f"answers-{life.seed}"))


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def work(folder: Path, size: dict[str, Any], minutes: float | None) -> bool:
    """Do what is still to be done; whether all of it is."""
    begin = time.monotonic()
    todo = [piece for piece in pieces(folder, size) if not (folder / f"{piece[0]}.json").exists()]
    for place, (name, do) in enumerate(todo):
        if minutes is not None and time.monotonic() - begin > 60 * minutes:
            print(f"{len(todo) - place} pieces are left: run it again", flush=True)
            return False
        own = time.process_time()
        artifact.write_atomically(folder / f"{name}.json", json.dumps(do()))
        print(f"{name}: {time.process_time() - own:.0f} s of processor time", flush=True)
    return True


# What they come to


def gathered(folder: Path, size: dict[str, Any]) -> dict[str, Any]:
    """The plot's data: for each number of rankings a curve for each proxy and run, their mean, and the fits."""
    seeds = range(size["seeds"])
    found: dict[str, Any] = {"settings": size, "chat": [read(folder, f"chat-{seed}") for seed in seeds]}
    answers = {seed: read(folder, f"answers-{seed}")["many"] for seed in seeds}
    shape = (size["prompts"], size["n"])
    found |= {"best_of_n": {}, "rl": {}}
    for n in size["sizes"]:
        swept, right = [], []
        for seed, many in answers.items():
            gold = np.array(many["gold"]).reshape(shape)
            for k in range(size["proxies"]):
                proxy = read(folder, f"proxy-{seed}-{n}-{k}")
                right.append(proxy["accuracy"])
                swept.append((seed, sweep(np.array(proxy["scores"]).reshape(1, *shape), gold)))
        d, golds = swept[0][1].d, [rounded(one.gold) for _, one in swept]
        found["best_of_n"][str(n)] = {
            "n": swept[0][1].ns,
            "d": rounded(d),
            "ceiling": rounded(np.mean([one.ceiling for _, one in swept], axis=0)),
            "seed": [seed for seed, _ in swept],
            "accuracy": right,
            "proxy": [rounded(one.proxy) for _, one in swept],
            "gold": golds,
            **together(d, golds, "best_of_n"),
        }
        runs = [
            (seed, read(folder, f"rl-{seed}-{n}-{k}")) for seed in seeds for k in range(size["rl_proxies"])
        ]
        found["rl"][str(n)] = {
            "seed": [seed for seed, _ in runs],
            "runs": [run for _, run in runs],
            "fits": [
                fit(np.sqrt(run["kl"]), run["gold_z"], run["gold_z_sem"], "rl").as_dict() for _, run in runs
            ],
        }
    return found


def rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def together(d: Sequence[float], curves: Sequence[Sequence[float]], form: Form) -> dict[str, Any]:
    """The mean curve over proxies, its standard error, and its fit with intervals from redrawn proxies."""
    values = np.array(curves)
    drawn = np.random.default_rng(0).integers(len(values), size=(1000, len(values)))
    sem = values.std(axis=0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.zeros(len(d))
    found = fit(d, values.mean(axis=0), sem, form, redrawn=values[drawn].mean(axis=1))
    return {"gold_mean": rounded(values.mean(axis=0)), "gold_sem": rounded(sem), "fit": found.as_dict()}


def slope(points: Sequence[tuple[int, int, float]]) -> tuple[float, float, float] | None:
    """What ten times the rankings change, with a 95 % interval, from (seed, rankings, value); each seed has its own level.

    Proxies of one seed and number share the answers that they choose among, and rankings: each such cell is one point.
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for seed, n, value in points:
        cells.setdefault((seed, n), []).append(value)
    seeds = sorted({seed for seed, _ in cells})
    design = np.array([[float(seed == own) for own in seeds] + [math.log10(n)] for seed, n in cells])
    y = np.array([statistics.mean(own) for own in cells.values()])
    freedom = len(cells) - design.shape[1]
    if freedom < 1:
        return None
    theta, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = ((y - design @ theta) ** 2).sum() / freedom
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[-1, -1])
    half = student.ppf(0.975, freedom) * error
    return float(theta[-1]), float(theta[-1] - half), float(theta[-1] + half)


def changes(data: dict[str, Any]) -> dict[str, Any]:
    """By how much the peak and the end move with ten times the rankings, by best-of-n and by RL."""
    points: dict[str, list[tuple[int, int, float]]] = {}

    def add(name: str, seed: int, n: str, value: float | None) -> None:
        if value is not None:
            points.setdefault(name, []).append((seed, int(n), value))

    for n, one in data["best_of_n"].items():
        for seed, right, gold in zip(one["seed"], one["accuracy"], one["gold"], strict=True):
            own = fit(one["d"], gold, None, "best_of_n", draws=1)
            add("proxy: held-out pairs", seed, n, right)
            add("best-of-n: highest gold", seed, n, max(gold))
            # A curve that has not turned within what was measured peaks at its end or later.
            add("best-of-n: √KL of the peak", seed, n, own.peak_d if own.peak_is_inside else own.reach)
            add("best-of-n: gold at the largest n", seed, n, gold[-1])
    for n, one in data["rl"].items():
        for seed, run, own in zip(one["seed"], one["runs"], one["fits"], strict=True):
            best = int(np.argmax(run["gold_z"]))
            add("RL: highest gold", seed, n, run["gold_z"][best])
            add("RL: √KL of the highest gold", seed, n, math.sqrt(run["kl"][best]))
            add("RL: √KL of the fitted peak", seed, n, own["peak_d"] and min(own["peak_d"], own["reach"]))
            add("RL: gold at the last step", seed, n, run["gold_z"][-1])
    return {name: {"n": len(own), "slope": slope(own)} for name, own in points.items()}


def tell(data: dict[str, Any]) -> None:
    for n, one in data["best_of_n"].items():
        curve = " ".join(f"{one['n'][i]}:{one['gold_mean'][i]:+.2f}" for i in range(len(one["n"])))
        print(
            f"best-of-n, {n} rankings ({len(one['accuracy'])} proxies, {statistics.mean(one['accuracy']):.3f} of held-out "
            f"pairs): gold by n {curve}; {described(one['fit'])}; proxy {np.mean([p[-1] for p in one['proxy']]):+.2f}"
        )
    for n, one in data["rl"].items():
        for seed, run, own in zip(one["seed"], one["runs"], one["fits"], strict=True):
            d = np.sqrt(run["kl"])
            at = [
                f"{run['gold_z'][i]:+.2f} ± {run['gold_z_sem'][i]:.2f} at √KL {d[i]:.2f} (step {run['steps'][i]})"
                for i in (int(np.argmax(run["gold_z"])), -1)
            ]
            print(
                f"RL, {n} rankings, seed {seed}: gold {at[0]}, then {at[1]}; proxy {run['proxy_z'][-1]:+.2f}; {described(own)}"
            )
    for name, one in data["changes"].items():
        if one["slope"]:
            value, low, high = one["slope"]
            print(
                f"ten times the rankings, {name}: {value:+.3f} ({low:+.3f} to {high:+.3f}), {one['n']} curves"
            )


def described(own: dict[str, Any]) -> str:
    if own["alpha"] is None:
        return "no fit"
    peak = "no peak"
    if own["peak_d"] is not None:
        low, high = own["peak_interval"]
        peak = f"peak at {own['peak_d']:.2f} ({low:.2f} to {'∞' if high is None else f'{high:.2f}'})"
    return f"fit α {own['alpha']:.2f}, β {own['beta']:.2f}, {peak}, R² {own['r2']:.2f}"


def results(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The benchmark's lines: the most rankings against the fewest."""
    few, many = (list(data["best_of_n"])[i] for i in (0, -1))

    def line(metric: str, ours: float, peer: float) -> dict[str, Any]:
        return {
            "benchmark": "overoptimization", "metric": metric, "unit": "standard deviations of the chat model's answers",
            "ours": round(ours, 3), "peer": round(peer, 3), "peer_name": f"{few} rankings",
            "ratio": round(ours / peer, 3) if peer else None, "goal": None, "met": None,
        }  # fmt: skip

    bon = [max(data["best_of_n"][n]["gold_mean"]) for n in (many, few)]
    rl = [statistics.mean(max(run["gold_z"]) for run in data["rl"][n]["runs"]) for n in (many, few)]
    return [
        line(f"highest gold by best-of-n, {many} rankings", *bon),
        line(f"highest gold by RL, {many} rankings", *rl),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, two sizes, an untaught model, for CI")
    parser.add_argument("--minutes", type=float, help="begin no piece after so many; run it again to go on")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "move37-overoptimization")
    parser.add_argument("--out", type=Path, help=f"where the plot's data go (default: {DATA})")
    parser.add_argument("--report", action="store_true", help="tell the figures of the data as they are")
    options = parser.parse_args()
    out = options.out or DATA
    device.use_threads(1)
    if options.report:
        data = json.loads(out.read_text())
    elif options.quick:
        with tempfile.TemporaryDirectory() as folder:
            work(Path(folder), QUICK, None)
            data = gathered(Path(folder), QUICK)
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        if not work(options.work, WHOLE, options.minutes):
            return 0
        data = gathered(options.work, WHOLE)
    data["changes"] = changes(data)
    if not options.report and (options.out or not options.quick):
        out.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_atomically(out, json.dumps(data, separators=(",", ":")) + "\n")
    tell(data)
    flat = [n for n, one in data["best_of_n"].items() if any(own[-1] <= 0 for own in one["proxy"])]
    if flat:
        print(f"a proxy of {', '.join(flat)} rankings did not rise by what it chose", file=sys.stderr)
        return 1
    print(json.dumps(results(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
