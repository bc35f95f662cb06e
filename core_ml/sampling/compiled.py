"""The step of a running batch as one compiled graph, where a job is long enough for that.

With one row a step is some hundred small operations around products that take a few milliseconds: what lies
between the products is fused. Lengths and places are variables of the graph, so that one serves a whole job. Sums are
ordered otherwise in it, and from when on it is used depends on what this process has sampled before: near ties between
two tokens may turn, as they may with the rows beside.
"""

import functools
import shutil
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from core_ml import measured
from core_ml.model.gpt import Cache
from core_ml.sampling.slots import Slots, Turn
from core_ml.sampling.step import Step

LIKELY_GAIN = 0.25
"""Share of a step that compiling saves where it does: whether a probe is worth its time."""
LIKELY_COMPILING = 3.0  # s a layer
MAX_LAYER = 5e-3  # s of a step: above it a job is timed however few its steps are
PROBED_LENGTH = 64
MAX_GRAPHS = 64
_steps: Counter[str] = Counter()
"""Made in this process so far: a hundred short jobs are one long one."""


def begin(step: Step, n: int, n_steps: int, shared: bool = False) -> None:
    """Let the steps of `n` rows run compiled from here on, if that pays for a job of `n_steps`.

    Args:
        shared: whether rows share their prompts, for which there is a graph of its own.
    """
    if pays(step, n, n_steps, shared):
        use(step, n, shared)


def use(step: Step, n: int, shared: bool = False) -> None:
    step.compiled = step.products.prepare(n), shared, _run


def pays(step: Step, n: int, n_steps: int, shared: bool = False) -> bool:
    """Whether compiling saves more of the steps made so far and to come than it costs: timed and remembered."""
    if step.model.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return False
    layers = step.model.config.n_layer
    what = f"step of {n} rows{' of shared prompts' if shared else ''}, {torch.get_num_threads()} threads, {step.dtype}, "
    what += step.model.config.model_dump_json(exclude_defaults=True)
    _steps[what] += n_steps
    known: dict[str, float] | None = measured.recalled(what)
    if known is None:
        if _steps[what] * MAX_LAYER * layers * LIKELY_GAIN < LIKELY_COMPILING * layers:
            return False  # a quick answer for short jobs
        if _steps[what] * seconds(step, n, shared) * LIKELY_GAIN < LIKELY_COMPILING * layers:
            return False
        known = measured.remember(what, probe(step, n, shared))
    return _steps[what] * (known["eager"] - known["compiled"]) > known["compiling"]


def probe(step: Step, n: int, shared: bool = False) -> dict[str, float]:
    """Seconds of a step both ways, and of compiling."""
    found = {"eager": seconds(step, n, shared)}
    begin = time.perf_counter()
    use(step, n, shared)
    try:
        found["compiled"] = seconds(step, n, shared)
    finally:
        step.compiled = None
    return found | {"compiling": time.perf_counter() - begin}


def seconds(step: Step, n: int, shared: bool = False, n_steps: int = 8) -> float:
    """The quickest of some steps of n rows, after two to warm up."""
    step.products.prepare(n)
    slots = Slots(step.model.config, step.dtype, step.model.device)
    length = max(1, min(PROBED_LENGTH, step.model.config.max_seq_len - n_steps - 3))
    if shared:
        prompt = Cache(step.model, 1, length)
        slots.add_sharing(prompt, 0, length, n)
    else:
        slots.lengths = [length] * n
    best = float("inf")
    for number in range(n_steps + 2):
        begin = time.perf_counter()
        step([0] * n, slots)[0, 0].item()
        if number > 1:
            best = min(best, time.perf_counter() - begin)
    return best


@functools.cache
def _network() -> Any:
    # One process samples from several networks in several ways; beyond the limit steps would silently run plain.
    torch._dynamo.config.recompile_limit = max(MAX_GRAPHS, torch._dynamo.config.recompile_limit)
    return torch.compile(Step.network)


def _run(step: Step, ids: Tensor, keys: list[Tensor], values: list[Tensor], turn: Turn) -> Tensor:
    # Told which sizes change from step to step, the compiler makes one graph and not one for each.
    for tensor in (turn.bias, turn.windowed):
        torch._dynamo.maybe_mark_dynamic(tensor, 2)
    prompts: list[Tensor] = []
    if turn.seats is not None:
        prompts = [*turn.seats.keys, *turn.seats.values, turn.seats.bias]
        torch._dynamo.maybe_mark_dynamic(turn.seats.rows, 0)
    for tensor in (*keys, *values, *prompts):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
        torch._dynamo.maybe_mark_dynamic(tensor, 2)
    logits: Tensor = _network()(step, ids, keys, values, turn)
    return logits
