"""Rollouts and pairs a second of learning from feedback, ours against TRL's trainers, in turn in one run with the same weights.

The claim: a round of `core_ml.feedback.practice` (64 answers of 32 tokens to 8 prompts, rewards, one update of GRPO) and
an update of `core_ml.feedback.reward_training` (16 pairs) are quicker than those of TRL's GRPOTrainer and RewardTrainer,
as these come and with the allocator settings that ours uses. Both sides have the same 12-million-parameter Llama, the
same tokenizer, prompts and pairs, bfloat16 where the machine multiplies it quicker, AdamW and the same thread count;
no answer ends early, and TRL's gradient checkpointing, which would only slow it down, is off. Equal pairs have 128 tokens
each and share nothing; real ones are PandaLM's (--data), whose lengths differ and whose prompts both answers share.

Each side is a process; they take one step each in turn, after some to warm up, and a ratio is the median over the rounds.
Rollouts of ours are made as in a short run, and as in a long one, whose steps of sampling are compiled (some 20 s before).
Fails when the two disagree: on log-probabilities, loss and gradient of the same rollouts under the same weights, on
loss and gradient of the same pairs, or on how much they sampled.

Last measured on one core of a quiet AMD EPYC (Zen 5, AVX-512 with bfloat16), medians of six rounds; TRL's as it comes and
with our allocator settings. Rollouts/s: without KL 68.1 against 15.1 (4.4; goal 4) and 19.1 (3.6; goal 4, missed), in a long
run 76.0 (5.05 and 3.97); with KL and a reward model 45.2 against 11.8 (3.8; goal 3) and 15.0 (3.04), in a long run 48.5 (4.1
and 3.25). Pairs/s: equal 19.3 against 13.1 (1.44; goal 1.3) and 13.7 (1.41), PandaLM's 13.8 against 4.1 (3.3; goal 2.5) and
4.1 (3.4). Runs of ours alone vary by 4 %. Loss and gradient of pairs agree (0.4 %, cosine 0.9997); on the same rollouts
log-probabilities differ by 0.014 nats, the loss on the same log-ratios by less than a millionth.

Of a round of 0.85 s without KL, products take some 0.4 s, at the speed of the processor's own best. Tried without a gain:
compiling the update (a minute for a sixth of it); what sampling computed written behind a place for the prompts, so that
nothing is copied; gate and product of a feed-forward some rows at a time.

On two cores of an Intel server with AMX (a virtual machine, a run's memory in large pages, four rounds): without KL 50.5
against 15.3 (3.3) and 18.4 (2.7), in a long run 58.0 (3.8 and 3.15); with KL and a reward model 30.2 against 11.5 (2.6) and
13.4 (2.25), in a long run 32.7 (2.8 and 2.4); pairs equal 16.3 against 11.4 (1.43) and 12.2 (1.34), PandaLM's 6.2 against
4.1 and 4.2 (1.5); five rounds more of the last 6.7 against 3.2 and 3.6 (2.1 and 1.9). Why real pairs gain so little there is
not known; more room for oneDNN's primitives changes nothing.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from parts.rl_setting import (
    ANSWERS,
    CASES,
    CLIP,
    FAMILY,
    KL,
    NEVER,
    NEW,
    PAIRS,
    PROMPTS,
    A,
    Case,
    Setting,
    by_rule,
    network,
    policy,
    write_models,
)  # fmt: skip
from safetensors.torch import load_file

from core_ml.exchange import weights
from core_ml.feedback.batches import as_prompt
from core_ml.feedback.losses import clipped_losses, k3
from core_ml.feedback.policy import Actor, Terms, backward, look_back
from core_ml.feedback.practice import Method, Practice
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.rewards import Rewards, Scores
from core_ml.feedback.rollout import Rollouts
from core_ml.model import device
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.update import Update

WARM_UP = 3


# Ours


class Endless:
    """A tokenizer whose answers never end."""

    end_id = NEVER

    def __init__(self, inner: Tokenizer) -> None:
        self.prompt, self.decode = inner.prompt, inner.decode


def updates(model: torch.nn.Module, lr: float) -> Update:
    params = [param for name, param in model.named_parameters() if "value_head" not in name or lr > 1e-5]
    optimizer = torch.optim.AdamW(params, lr, weight_decay=0.0, fused=True)
    return Update(model, [optimizer], lambda step: 1.0, notes={}, grad_clip=1.0)


def our_rounds(case: Case, setting: Setting, compiles: bool = False) -> Iterator[dict[str, Any]]:
    chat = network().requires_grad_(False)
    with_model = "reward model" in case.name
    scored = Rewards([RewardModel(chat, setting.tokenizer)])

    def ruled(prompts: Any, texts: Any) -> Scores:
        return Scores(torch.tensor(by_rule(texts)), torch.zeros(len(texts)))

    actor = Actor(policy())
    practice = Practice(
        actor=actor,
        chat=chat if with_model else None,
        tokenizer=Endless(setting.tokenizer),  # type: ignore[arg-type]
        rewards=scored if with_model else ruled,
        update=updates(actor, 1e-6),
        prompts=[Prompt(text, {}) for text in setting.prompts],
        method=Method("grpo", reward_scale="group", clip=CLIP),
        prompts_per_step=PROMPTS,
        n_completions=ANSWERS,
        max_new_tokens=NEW,
        kl_coef=KL if with_model else 0.0,
        seed=0,
        notes={},
        compiles=compiles,
    )
    step = 0
    while True:
        step += 1
        made = practice.step(step)
        n_prompt = sum(len(prompt) for prompt, _ in made.rollouts.rows)
        yield {
            "lengths": sorted(set(made.rollouts.lengths)),
            "n_prompt": n_prompt,
            "n": len(made.rollouts.rows),
        }


def our_pairs(case: Case, setting: Setting) -> Iterator[dict[str, Any]]:
    model, trainer = network(), setting.pairs(case)
    update, step = updates(model, 1e-4), 0
    while True:
        loss, _ = trainer.loss(model, setting.pair_batch(step))
        loss.backward()
        step += 1
        if step == 1:
            apart = _apart(model, load_file(setting.folder / "dump.safetensors"), loss.item())
            print(f"{case.name} pairs, ours and TRL's: {apart}", file=sys.stderr)
        update(step, loss)
        yield {"lengths": [PAIRS], "n_prompt": 0, "n": PAIRS}


def _apart(model: GPT, dump: dict[str, torch.Tensor], loss: float) -> dict[str, float]:
    """How far a loss and the gradients in a network lie from what TRL made of the same; fails where it is too far."""
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    named = weights.split({n: g for n, g in ours.items() if n != "value_head.weight"}, FAMILY, A)
    pairs = [(grad, dump[f"grad.{name}"]) for name, grad in named.items() if f"grad.{name}" in dump]
    assert len(pairs) > 9 * A.n_layer, f"only {len(pairs)} gradients have a counterpart"
    mine, theirs = (torch.cat([pair[i].flatten().double() for pair in pairs]) for i in range(2))
    found = {"loss": abs(loss - dump["loss"].item()) / abs(dump["loss"].item())}
    found["gradient, 1 - cosine"] = 1 - torch.cosine_similarity(mine, theirs, dim=0).item()
    if found["loss"] > 0.03 or found["gradient, 1 - cosine"] > 0.01:
        raise SystemExit(f"the two sides disagree: {found}")
    return found


def check_rollouts(setting: Setting) -> None:
    """Ours on TRL's own rollouts: the same log-probabilities, and from the same log-ratios the same loss and gradient."""

    dump = load_file(setting.folder / "dump.safetensors")
    ids = zip(dump["prompt_ids"], dump["prompt_mask"].bool(), dump["completion_ids"], strict=True)
    rows = [(prompt[mask].tolist(), completion.tolist()) for prompt, mask, completion in ids]
    order = sorted(range(len(rows)), key=lambda i: rows[i][0])  # TRL shuffles: groups come together again
    rows = [rows[i] for i in order]
    wanted = sorted(as_prompt(setting.tokenizer, text) for text in setting.prompts)
    assert [prompt for prompt, _ in rows[::ANSWERS]] == wanted, "the sides have other prompts"
    flat = torch.tensor(order)
    theirs, ref = dump["logprobs"][flat].flatten(), dump["ref_logprobs"][flat].flatten()
    advantages = [torch.full((NEW,), value) for value in dump["advantages"][flat].tolist()]
    rollouts = Rollouts(ANSWERS, [""] * len(rows), rows, [""] * len(rows), [False] * len(rows), [])
    model, chat = policy(), network().requires_grad_(False)
    actor, terms = Actor(model), Terms(clip=CLIP, kl_coef=KL, by_answer=True)
    before = look_back(actor, chat, rollouts)
    learned = backward(actor, chat, rollouts, before, advantages, [], range(len(rows)), terms, False)
    same, _ = clipped_losses(theirs, theirs, torch.cat(advantages), CLIP)
    on_theirs = (same + KL * k3(theirs, ref)).mean().item()
    found = {
        "log-probability": (torch.cat(before.old) - theirs).abs().mean().item(),
        "chat model's": (torch.cat(before.ref) - ref).abs().mean().item(),
        "loss on the same log-ratios": abs(on_theirs / dump["loss"].item() - 1),
    }
    if max(list(found.values())[:2]) > 0.05 or found["loss on the same log-ratios"] > 1e-3:
        raise SystemExit(f"the two sides disagree: {found}")
    found |= _apart(model, dump, learned.loss.item())
    print(f"the same rollouts, ours and TRL's: {found}", file=sys.stderr)


# One side, in a process of its own


def serve(name: str, options: argparse.Namespace) -> None:
    """Makes a step for each line it reads; says how long it took and how much it was."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    case = next(case for case in CASES if case.name == options.cases)
    torch.set_num_threads(options.threads)
    if name.startswith("ours") or "same allocator" in name:
        device.use_threads(options.threads)
    setting = Setting(options.folder, options.data)

    def turn() -> None:
        if not sys.stdin.readline():
            os._exit(0)

    def tell(seconds: float, facts: dict[str, Any]) -> None:
        print(json.dumps({"seconds": seconds, **facts}), file=answers, flush=True)

    if name.startswith("ours"):
        if "model" in case.name:
            check_rollouts(setting)
        compiles = "compiled" in name
        steps = our_rounds(case, setting, compiles) if case.is_rl else our_pairs(case, setting)
        while True:
            turn()
            begin = time.perf_counter()
            facts = next(steps)
            tell(time.perf_counter() - begin, facts)
    precise = device.precision(torch.device("cpu")) == torch.float32
    from parts import rl_trl

    made = rl_trl.rounds if case.is_rl else rl_trl.pairs
    made(case, setting, precise, options.micro or case.per_step, turn, tell)


class Worker:
    def __init__(self, name: str, case: Case, options: argparse.Namespace) -> None:
        self.name = name
        command = [
            sys.executable,
            __file__,
            "--serve",
            name,
            "--cases",
            case.name,
            "--folder",
            options.folder,
        ]
        command += ["--threads", options.threads, "--data", options.data]
        command += ["--quick"] if options.quick else []
        command += ["--micro", options.micro] if options.micro else []
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds: list[float] = []

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died")
        found: dict[str, Any] = json.loads(line)
        self.seconds.append(found.pop("seconds"))
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    peers = ["trl"] if options.quick else ["trl", "trl, same allocator"]
    mine = ["ours", "ours, compiled"] if case.is_rl and not options.quick else ["ours"]
    workers: list[Worker] = []
    try:
        for name in (*peers, *mine):  # ours begins when TRL's first step lies there to be compared with
            workers.append(Worker(name, case, options))
            workers[-1].step()
        for _ in range(options.rounds + options.warm_up - 1):
            facts = [worker.step() for worker in workers]
            if any(fact != facts[0] for fact in facts):
                raise SystemExit(f"{case.name}: the sides do not do the same: {facts}")
    finally:
        for worker in workers:
            worker.end()
    if case.is_rl and facts[0]["lengths"] != [NEW]:
        raise SystemExit(f"{case.name}: answers of {facts[0]['lengths']} tokens, not of {NEW}")
    times = {worker.name: worker.seconds[options.warm_up :] for worker in workers}
    speeds = {name: case.per_step / statistics.median(taken) for name, taken in times.items()}
    told = "; ".join(f"{name} {speed:,.1f}" for name, speed in speeds.items())
    print(f"{case.what} {case.name}: {told} a second", file=sys.stderr)
    rows = []
    for own, peer in itertools.product(mine, peers):
        ratio = statistics.median(b / a for a, b in zip(times[own], times[peer], strict=True))
        how = "same allocator" if "same" in peer else "as it comes"
        rows.append(
            {
                "benchmark": "rl",
                "metric": f"{case.what} a second, {case.name}, {own}, peer {how}",
                "unit": f"{case.what}/s",
                "ours": round(speeds[own], 2),
                "peer": round(speeds[peer], 2),
                "peer_name": "TRL " + ("GRPOTrainer" if case.is_rl else "RewardTrainer"),
                "ratio": round(ratio, 2),
                "goal": case.goal,
                "met": ratio >= case.goal,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two layers, one case of rollouts and one of pairs, one round, one peer, for CI",
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro", type=int, help="rows of TRL's micro-batches; all of a step by default")
    parser.add_argument("--cases", help="names, with commas")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options)
        return 0
    cases = [case for case in CASES if not options.cases or case.name in options.cases.split(",")]
    options.warm_up = WARM_UP
    if options.quick:
        options.rounds, options.warm_up = 1, 1
        cases = cases[1::2] if len(cases) > 1 else cases
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        write_models(options.folder, Setting(options.folder, options.data).tokenizer)
        print(json.dumps([row for case in cases for row in compare(case, options)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
