"""Tokens a second of a training step, ours against others' best, in turn in one run on the same tokens.

The claim: our step (backward in `core_ml.training.loss`, compiled blocks, chunked loss, `Update`) trains the same
network on the same tokens to the same loss, faster than the best of the peers and in no more memory. Peers, compiled
and in float32 and in bfloat16, as they come and with the allocator settings that ours uses, are

- GPT-2: nanoGPT (a checkout named by --nanogpt or NANOGPT), or else `transformers`, with fused AdamW;
- Llama: `transformers` and litgpt (where it is installed or lies in a folder named by --litgpt or LITGPT), likewise;
- nanochat (a checkout named by --nanochat or NANOCHAT), its network with its Muon, against the lab's own network with
  ours. Both have the same shape, a head of its own and all of the context; its value embeddings and gates are no part
  of ours, so that the two have different losses, and only have to learn.

Ours multiplies in the type that `core_ml.model.device.precision` measured to be the quicker one. Every variant is a
process of its own; they take one step each in turn, and a ratio is the median over the rounds. The most memory that a
process has held is a row of its own, peer's over ours. Fails when the losses of the same network part.

A is 6 layers of 384, 256 tokens, 16 rows; B is 4 layers of 128, 128 tokens, 32 rows; vocabulary 4,096. On a GPU
it is C, GPT-2 of 124 million parameters, and the share of the measured bfloat16 peak counts as well.

Last measured on one thread of a quiet Zen 4 (AVX-512 with bfloat16, about 200 GFLOP/s in it), tokens/s of ours, then of the
peer as it comes and with our allocator settings; the best of all peers is nanoGPT. A (four rounds; before passes were
shared out evenly): GPT-2 2,127 against 1,561 (1.39; goal 1.25) and 1,852 (1.17; goal 1.15); Llama 2,074 against 1,217
(`transformers`, 1.72) and 1,734 (litgpt, 1.19); nanochat 1,735 against 1,333 (1.30) and 1,512 (1.149, short by a
thousandth). B (six rounds): GPT-2 15,922 against 8,816 (1.81; goal 1.8) and 10,470 (1.53; goal 1.5); Llama 13,907 against
6,814 (1.99) and 9,691 (1.46, missed); nanochat 12,753 against 7,510 (1.67, missed) and 8,758 (1.47, missed). Most memory of the peers is 1.09 to 1.69 times ours.
On A three quarters of our step are products at the machine's ceiling, on B three fifths.

On a quiet Zen 5 core: B (six rounds) GPT-2 31,519 against 13,348 (2.37) and 17,133 (1.84), Llama 29,874 against 10,187 (2.95)
and 16,601 (1.81), nanochat 24,766 against 11,198 (2.20) and 14,286 (1.75), most memory of the peers 1.15 to 1.72 times ours;
A, with nanoGPT alone, 4,298 against 2,619 (1.62) and 3,488 (1.24). Fine-tuning's packed rows of B (--packed) 24,728 compiled
and 20,686 plain. On one Zen 1 core (no bfloat16, 37 GFLOP/s), where products take most of a step on both sides: B 2,862 against 2,456
(1.15) and 2,667 (1.07), A 304 against 320 (0.98) and 321 (0.91) beside other work. On an Intel core whose bfloat16 is slow,
beside other work: B 4,414 against 2,827 (1.56) and 3,522 (1.25).
On two cores of an Intel server with AMX (a virtual machine), with the memory of a run in large pages (which our allocator
settings give the peers too): B (eight rounds) GPT-2 24,418 against 11,885 (2.09) and 14,164 (1.71), Llama 24,282 against
litgpt's 9,841 (2.46) and 13,337 (1.82), most memory of the peers 1.16 to 1.83 times ours. Without large pages, in noisier
runs, ours made 13,026 (GPT-2) and 6,094 to 7,097 (Llama).
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from parts.training_sides import SHAPES, Step, batches, config_like, our_step, peer_step

from core_ml.model import device
from core_ml.model.gpt import GPT
from core_ml.training import fast
from core_ml.training.loss import masked_backward, shapes_of_passes
from core_ml.training.optim import optimizers
from core_ml.training.update import Update

TOLERANCE = 0.005  # nats a step between two ways of adding the same numbers
WARM_UP = 3


# One variant, in a process of its own


def child(variant: str, options: argparse.Namespace) -> None:
    """Makes a step for each line it reads, and prints seconds, loss and peak memory."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    peer, who, dtype, allocator = variant.split("/")
    shape, where = SHAPES[options.shapes], device.choose()
    if allocator == "kept":
        device.use_threads(options.threads)
    torch.set_num_threads(options.threads)
    if who == "ours":
        step = our_step(peer, shape, options, where)
    else:
        step = peer_step(peer, shape, options, dtype, where)
    for _, ids in zip(sys.stdin, batches(shape), strict=False):
        begin = time.perf_counter()
        loss = step(ids.to(where))
        seconds = time.perf_counter() - begin
        print(json.dumps([seconds, loss, device.memory_bytes(where)]), file=answers, flush=True)


class Variant:
    def __init__(self, name: str, shape: str, options: argparse.Namespace) -> None:
        self.name = name
        command = [sys.executable, __file__, "--child", name, "--shapes", shape]
        command += ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
        for place in ("nanogpt", "nanochat", "litgpt"):
            command += [f"--{place}", vars(options)[place]] if vars(options)[place] else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.steps: list[tuple[float, float, float]] = []

    def step(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died")
        self.steps.append(tuple(json.loads(line)))

    @property
    def seconds(self) -> list[float]:
        return [seconds for seconds, _, _ in self.steps[WARM_UP:]]

    @property
    def losses(self) -> list[float]:
        return [loss for _, loss, _ in self.steps]

    @property
    def memory(self) -> float:
        return self.steps[-1][2]

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def families(options: argparse.Namespace) -> dict[str, list[str]]:
    """Which peers train the same network, of those that can be had here."""
    found = {"GPT-2": ["nanogpt" if options.nanogpt else "transformers"]}
    if options.quick:
        return found
    sys.path += [options.litgpt] if options.litgpt else []
    has_litgpt = importlib.util.find_spec("litgpt") is not None
    found["Llama"] = ["transformers-llama", *(["litgpt"] if has_litgpt else [])]
    found |= {"nanochat": ["nanochat"]} if options.nanochat else {}
    for name, is_there in (
        ("nanoGPT", options.nanogpt),
        ("litgpt", has_litgpt),
        ("nanochat", options.nanochat),
    ):
        if not is_there:
            print(f"without {name}, which --{name.lower()} may name", file=sys.stderr)
    wanted = options.families.split(",") if options.families else list(found)
    return {name: peers for name, peers in found.items() if name in wanted}


def measure(shape: str, family: str, peers: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    # Without the instructions bfloat16 is emulated, fifty times as slow as float32.
    emulated = options.quick or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    on_gpu = torch.cuda.is_available()
    dtypes = ["bfloat16"] if on_gpu else ["float32"] if emulated else ["float32", "bfloat16"]
    # The C library's allocator is no matter on a GPU, and not what the quick form is about.
    hows = {"plain": "as it comes"} | ({} if on_gpu or options.quick else {"kept": "same allocator"})
    names = [f"{peer}/peer/{dtype}/{how}" for peer in peers for dtype in dtypes for how in hows]
    variants = [Variant(one, shape, options) for one in (f"{peers[0]}/ours/auto/kept", *names)]
    ours = variants[0]
    for _ in range(options.rounds + WARM_UP):
        for variant in variants:
            variant.step()
    for variant in variants:
        variant.end()
        speed = SHAPES[shape].tokens / statistics.median(variant.seconds)
        told = f"{speed:,.0f} tokens/s, {variant.memory / 1e6:,.0f} MB, loss {variant.losses[-1]:.3f}"
        print(f"{shape} {variant.name}: {told}", file=sys.stderr)
    _check(f"{shape}, {family}", variants)
    rows = []
    for how, told in hows.items():
        best = min(
            (variant for variant in variants[1:] if variant.name.endswith(how)),
            key=lambda variant: statistics.median(variant.seconds),
        )
        rows += _compare(shape, f"{shape}, {family}, peer {told}", how == "plain", ours, best)
    return rows + _utilization(shape, family, ours)


def _check(what: str, variants: list[Variant]) -> None:
    """The same network has the same losses; nanochat's is one of its own, of which only learning can be asked."""
    ours, *peers = variants
    if ours.name.startswith("nanochat"):
        for variant in variants:
            if not variant.losses[-1] < variant.losses[0]:
                raise SystemExit(f"{what}: {variant.name} does not learn")
        return
    parted = max(abs(a - b) for peer in peers for a, b in zip(ours.losses, peer.losses, strict=True))
    if parted > TOLERANCE:
        raise SystemExit(f"{what}: the losses part by {parted:.4f} nats")


def _compare(shape: str, what: str, plain: bool, ours: Variant, best: Variant) -> list[dict[str, Any]]:
    """A row of speed and one of memory, against the quickest peer."""
    tokens = SHAPES[shape].tokens
    goal = SHAPES[shape].goal if plain else SHAPES[shape].goal_same_allocator
    faster = statistics.median(b / a for a, b in zip(ours.seconds, best.seconds, strict=True))
    peer, _, dtype, _ = best.name.split("/")
    row = {"benchmark": "training", "peer_name": f"{peer} {dtype}"}
    speed = {
        "metric": f"tokens a second, {what}",
        "unit": "tokens/s",
        "ours": round(tokens / statistics.median(ours.seconds)),
        "peer": round(tokens / statistics.median(best.seconds)),
        "ratio": round(faster, 3),
        "goal": goal,
        "met": faster >= goal,
    }
    smaller = best.memory / ours.memory
    memory = {
        "metric": f"peak memory, {what}",
        "unit": "MB",
        "ours": round(ours.memory / 1e6),
        "peer": round(best.memory / 1e6),
        "ratio": round(smaller, 3),
        "goal": 1.0,
        "met": smaller >= 1.0,
    }
    return [row | speed, row | memory]


def _utilization(name: str, family: str, ours: Variant) -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    shape = SHAPES[name]
    config = config_like(ours.name.split("/")[0], shape)
    flops = config.flops_per_token(shape.seq_len) * shape.tokens / statistics.median(ours.seconds)
    share = flops / device.peak_flops(device.choose())
    return [
        {
            "benchmark": "training",
            "metric": f"share of the bfloat16 peak, {name}, {family}",
            "unit": "share",
            "ours": round(share, 3),
            "peer": 1.0,
            "peer_name": "one large product",
            "ratio": round(share, 3),
            "goal": 0.5,
            "met": share >= 0.5,
        }
    ]


def packed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fine-tuning's rows, each of four conversations whose second half is learned: with and without compiled layers.

    There is no peer: it is what `compile` of a fine-tuning run decides about. Fails when the two losses part.
    """
    device.use_threads(options.threads)
    where, shape = device.choose(), SHAPES["tiny" if options.quick else "B"]
    place = torch.arange(shape.seq_len + 1)
    segments = (place * 4 // (shape.seq_len + 1)).expand(shape.batch_size, -1).to(where)
    mask = (place * 8 // (shape.seq_len + 1) % 2 == 1).expand(shape.batch_size, -1).to(where)
    at_once = device.tokens_at_once(where)
    steps: dict[str, Step] = {}
    for name in ("plain", "compiled"):
        torch.manual_seed(0)
        model = GPT(config_like("nanochat", shape)).to(where)
        if name == "compiled":
            some = torch.zeros(shape.batch_size, shape.seq_len + 1)
            fast.compile_blocks(model, shapes_of_passes(some, at_once))
        update = Update(model, optimizers(model, 0.02, 3e-3), lambda step: 1.0, notes={})

        def step(ids: torch.Tensor, model: GPT = model, update: Update = update) -> float:
            loss = masked_backward(model, ids, mask, int(mask[:, 1:].sum()), segments, at_once)
            update(1, loss)
            return loss.item()

        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _, ids in zip(range(options.rounds + WARM_UP), batches(shape), strict=False):
        losses = []
        for name, step in steps.items():
            begin = time.perf_counter()
            losses.append(step(ids.to(where)))
            times[name].append(time.perf_counter() - begin)
        if abs(losses[0] - losses[1]) > TOLERANCE:
            raise SystemExit(f"packed rows: losses part, {losses[0]:.4f} and {losses[1]:.4f}")
    plain, compiled = (statistics.median(taken[WARM_UP:]) for taken in times.values())
    print(
        f"packed rows, {shape.tokens:,} tokens: {1e3 * plain:.1f} and {1e3 * compiled:.1f} ms",
        file=sys.stderr,
    )
    return [
        {
            "benchmark": "training",
            "metric": "packed rows, compiled over plain",
            "unit": "tokens/s",
            "ours": round(shape.tokens / compiled),
            "plain": round(shape.tokens / plain),
            "ratio": round(plain / compiled, 3),
        }
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tiny GPT-2, uncompiled, a few rounds and one peer, for CI"
    )
    parser.add_argument("--shapes", help="of A, B, C and tiny, with commas")
    parser.add_argument("--families", help="of GPT-2, Llama and nanochat, with commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nanogpt", default=os.environ.get("NANOGPT"), help="a checkout of nanoGPT")
    parser.add_argument("--nanochat", default=os.environ.get("NANOCHAT"), help="a checkout of nanochat")
    parser.add_argument(
        "--litgpt", default=os.environ.get("LITGPT"), help="a folder that has litgpt, if it is not installed"
    )
    parser.add_argument(
        "--packed", action="store_true", help="fine-tuning's packed rows instead, compiled and not"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return 0
    options.rounds = options.rounds or (3 if options.quick else 12)
    if options.packed:
        print(json.dumps(packed(options)))
        return 0
    shapes = options.shapes or ("tiny" if options.quick else "C" if torch.cuda.is_available() else "A,B")
    there = families(options)
    rows = [
        row
        for shape in shapes.split(",")
        for family, peers in there.items()
        for row in measure(shape, family, peers, options)
    ]
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
