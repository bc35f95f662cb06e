"""Compiled blocks: the same network, its layers and its loss turned into a few large kernels.

One compiled block serves all layers, since their parameters are its arguments; so compiling takes as long for
two layers as for forty. It pays where a run is long enough, which a short probe finds out once for each shape.
"""

import functools
import shutil
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from core_ml import measured, ranks
from core_ml.events import Event, Progress
from core_ml.model.device import precision
from core_ml.model.gpt import GPT, Block
from core_ml.training.config import Compile
from core_ml.training.linear_loss import Rows, nll_and_grads
from core_ml.workspace import Workspace

Shapes = frozenset[tuple[int, int]]

LIKELY_GAIN = 0.3
"""Share of a step that compiling saves where it does: whether a probe is worth its time."""
LIKELY_COMPILING = 20.0  # s, of one core


@functools.cache
def _compiled_block() -> Any:
    return torch.compile(Block.forward, dynamic=False)


@functools.cache
def _compiled_rows() -> Any:
    return torch.compile(nll_and_grads, dynamic=False)


def compile_blocks(model: GPT, packed: Shapes | None = None) -> None:
    """From here on, training passes of whole causal windows run compiled; everything else as before.

    Args:
        packed: the passes, of so many rows and tokens, that run compiled instead, whatever their masks are: those of a
            full batch whose rows hold several sequences. The last of an epoch would not be worth a graph of its own.

    Packed rows (4,096 tokens, 1.8 million parameters, one core) take 166 instead of 198 ms where bfloat16 is quick
    (`benchmarks/training.py --packed`).
    """
    _execute(model, compiled=True, recomputed=is_recomputed(model), packed=packed)


def recompute_blocks(model: GPT) -> None:
    """From here on, training passes keep each block's input only, and make the rest anew in the backward pass.

    A third more products for a fraction of the memory. Source: Chen et al. 2016, arXiv:1604.06174.
    """
    _execute(model, compiled=is_compiled(model), recomputed=True, packed=_executed(model).get("packed"))


def release(model: GPT) -> None:
    """Not compiled any more; what is recomputed stays so."""
    recomputed = is_recomputed(model)
    for block in model.blocks:
        vars(block).pop("forward", None)
    if recomputed:
        recompute_blocks(model)


def _execute(model: GPT, compiled: bool, recomputed: bool, packed: Shapes | None = None) -> None:
    for block in model.blocks:
        how = functools.partial(_dispatch, block, compiled=compiled, recomputed=recomputed, packed=packed)
        block.forward = how  # type: ignore[method-assign]


def _executed(model: GPT) -> dict[str, Any]:
    return getattr(vars(model.blocks[0]).get("forward"), "keywords", {})


def is_recomputed(model: GPT) -> bool:
    return _executed(model).get("recomputed", False)


def is_compiled(model: GPT) -> bool:
    return _executed(model).get("compiled", False)


def rows(model: GPT) -> Rows:
    """The loss of a chunk of rows, compiled when the blocks are."""
    return _compiled_rows() if is_compiled(model) and torch.is_grad_enabled() else nll_and_grads


def _dispatch(
    block: Block,
    x: Any,
    rotation: Any,
    mask: Any,
    cache: Any = None,
    *,
    compiled: bool,
    recomputed: bool,
    packed: Shapes | None,
) -> Any:
    if not torch.is_grad_enabled() or cache is not None:
        return Block.forward(block, x, rotation, mask, cache)
    # Shapes other than a training batch's would each be compiled anew.
    fits = mask is None if packed is None else tuple(x.shape[:2]) in packed
    forward = _compiled_block() if compiled and fits else Block.forward
    if recomputed:
        return checkpoint(forward, block, x, rotation, mask, use_reentrant=False)
    return forward(block, x, rotation, mask)


def decide(
    how: Compile, workspace: Workspace, pays: Callable[[], bool], steps: int, sharded: bool = False
) -> Generator[Event, None, bool]:
    """Whether to compile: found out once in a run's life, since sums are ordered otherwise in compiled kernels.

    Args:
        how: "auto" asks `pays`. workspace: keeps the answer. steps: of the run.
        sharded: is never probed: a rank that is timed alone would wait for the others' shares for ever.
    """
    note = f"compiled-{ranks.rank()}.json"
    known: bool | None = workspace.read_json(note)
    if known is None:
        known = how == "on"
        if how == "auto" and not sharded:
            yield Progress(0, steps, message="finding the quickest way")
            known = pays()
        workspace.write_json(note, known)
    return known


def pays(
    model: GPT,
    one_pass: Callable[[], object],
    shape: tuple[int, ...],
    steps: int,
    packed: Shapes | None = None,
) -> bool:
    """Whether compiling saves more of `steps` updates than it costs.

    Args:
        one_pass: a forward and backward pass over a batch of `shape`; its gradients are thrown away.
        packed: as of `compile_blocks`.

    Timed here and remembered. Returns false without a probe when the run is short, or when there is no compiler
    for a processor's kernels.
    """
    if model.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return False
    learned = sum(param.numel() for param in model.parameters() if param.requires_grad)
    what = f"pass of {shape}{' packed' if packed else ''}{' recomputed' if is_recomputed(model) else ''}, "
    what += f"{learned} weights, {torch.get_num_threads()} threads, {precision(model.device)}, "
    what += model.config.model_dump_json(exclude_defaults=True)
    known: dict[str, float] | None = measured.recalled(what)
    if known is None:
        eager = _time(model, one_pass)
        if steps * eager * LIKELY_GAIN < LIKELY_COMPILING:
            return False
        known = {"eager": eager, **_probe(model, one_pass, packed)}
        measured.remember(what, known)
    return steps * (known["eager"] - known["compiled"]) > known["compiling"]


def _probe(model: GPT, one_pass: Callable[[], object], packed: Shapes | None) -> dict[str, float]:
    begin = time.perf_counter()
    compile_blocks(model, packed)
    try:
        compiled = _time(model, one_pass)
    finally:
        release(model)
    return {"compiled": compiled, "compiling": time.perf_counter() - begin}


def _time(model: GPT, one_pass: Callable[[], object], passes: int = 3) -> float:
    """Seconds of the quickest of some passes, after one to warm up."""
    best = float("inf")
    for number in range(passes + 1):
        begin = time.perf_counter()
        one_pass()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            best = min(best, time.perf_counter() - begin)
        model.zero_grad()
    return best
