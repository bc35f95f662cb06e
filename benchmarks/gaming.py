"""How many tricks fool a reward model, round after round, and what two ways of teaching it about them are worth.

Begins with the chat model, the rankings and the problems of a lab that a tour has ended in (--home). Each round trains
a reward model on those rankings and on what was marked so far, lets a policy practise against it without a pull to the
chat model, hunts for tricks (all searches, and the highest paid answers of that practice), and marks all that is new.
Nobody sits here to mark: a trick that works is by definition no sampled answer and not correct, and counts as
nonsense. What is marked is taught in one of three ways:

- tied: last among the fair answers to the same prompt, which are tied (what the hunt's page does by itself);
- last: last among them, and they stand in the order of the stated preference (the page, after labelers ranked them);
- among: where the stated preference puts it, so that a wrong and well-formed answer stands over a wrong and garbled one.

Told of each round: new tricks that work, old ones that still do, the share of prompts at which the old ones work on
the mean, and held-out pairs of the first rankings that the reward model orders rightly. Each step is kept in --out, and
a call that is cut off goes on where it was. The line of JSON at the end compares "among" with "tied" on those pairs.

Last measured on one thread of two shared cores, the default tour's models (0.9 million weights, 700 rankings), seed 0,
14 minutes. Round 1 is the same for all: 42 tricks that work, of 6,072 tried, pairs 0.842 (0.80 to 0.88), among them "The sum
is Spelled: The sum is Spelled:" at 95 % of prompts. Then, in rounds 2 and 3:

       new tricks   old ones that still work, share of prompts   pairs
tied   38, 38       14 of 42, 40 %   25 of 80, 39 %              0.821  0.796 (0.77 to 0.83)
last   38, 37       25 of 42, 68 %   37 of 80, 55 %              0.864  0.861 (0.82 to 0.90)
among  36, 34       35 of 42, 76 %   56 of 78, 72 %              0.861  0.870 (0.84 to 0.90)

No way ends the hunt: each round finds nearly as many new tricks as the first. Tied fair answers close most holes and cost
judgement; ordered ones cost none and close fewer. What still works is mostly wrong answers in the right form.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core_ml import artifact, recipes
from core_ml.errors import UserError
from core_ml.events import Failed
from core_ml.execute import execute, read_config, read_inputs
from core_ml.feedback.gaming import kept
from core_ml.feedback.gaming.teaching import Fair, last, rankings
from core_ml.tasks import judge, solve
from core_ml.tasks.rows import read_rows, write_rows
from core_ml.workspace import Workspace

WAYS = ("tied", "among", "last")
ORIGIN = artifact.Origin(recipe="benchmark")
PRACTICE = {"kl_coef": 0.0, "steps": 24, "lr": 2e-3, "cooldown": 0.3, "keep_rollouts": 2, "eval_every": 24}
QUICK_PRACTICE = {"steps": 3, "prompts_per_step": 4, "n_completions": 4, "max_new_tokens": 16, "n_watched": 8, "kl_coef": 0.0}  # fmt: skip
Made = dict[str, artifact.Folder]


def made(place: Path, kind: str, config: dict[str, Any], inputs: dict[str, Any], preset: str | None = None) -> Made:  # fmt: skip
    """What one run makes, by output; one that has ended is not run again, one that was cut off goes on."""
    recipe = recipes.get(kind)
    if not (place / "done").exists():
        paths = {
            name: [one.path for one in (given if isinstance(given, list) else [given])]
            for name, given in inputs.items()
        }
        workspace = Workspace(place / "out", place / "state", read_inputs(recipe, paths, False), ORIGIN, place.name, place.name)  # fmt: skip
        for event in execute(recipe, read_config(recipe, config, preset), workspace):
            if isinstance(event, Failed):
                raise UserError(f"{kind} failed: {event.message}")
        (place / "done").touch()
    return {path.name: artifact.Folder(path) for path in (place / "out").iterdir() if not path.name.startswith(".")}  # fmt: skip


def dataset(path: Path, form: str, rows: Iterable[dict[str, Any]]) -> artifact.Folder:
    if not path.exists():
        writer = artifact.Writer(path, id=path.name, kind="dataset", form=form, name=path.name, origin=ORIGIN)
        n = write_rows(writer.path / f"{form}.parquet", form, rows)
        writer.finish({"n_rows": n})
    return artifact.Folder(path)


def by_rule(prompt: str, completions: list[str], ended: list[bool]) -> list[list[int]]:
    """The order of the stated preference; equal ones tie, and to a prompt that it cannot judge all do."""
    found: dict[int, list[int]] = defaultdict(list)
    for i, text in enumerate(completions):
        found[judge(prompt, text, ended[i]).score if solve(prompt) is not None else 0].append(i)
    return [found[score] for score in sorted(found, reverse=True)]


def toured(home: Path) -> Made:
    """The first chat model, rankings and training problems of a lab."""
    found: Made = {}
    for one in sorted(artifact.scan(home / "artifacts"), key=lambda folder: folder.manifest.created):
        manifest = one.manifest
        if manifest.role == "chat":
            found.setdefault("chat", one)
        elif manifest.form == "rankings":
            found.setdefault("people", one)
        elif manifest.form == "problems" and one.path.name == "problems":
            found.setdefault("problems", one)
    if missing := {"chat", "people", "problems"} - set(found):
        sys.exit(f"{home} has no {' and no '.join(sorted(missing))}: name the home of a lab that was toured")
    return found


def small(out: Path) -> Made:
    """A chat model that has learned next to nothing, and rankings of its answers by the rule: for --quick."""
    import torch

    from core_ml.model import checkpoint
    from core_ml.model.gpt import GPT, GPTConfig
    from core_ml.tokenizer.tokenizer import Tokenizer

    said = made(out / "conversations", "conversations", {}, {}, "tiny")
    tokenizer = Tokenizer.load(
        made(out / "tokenizer", "tokenizer", {"vocab_size": 400}, {"conversations": said["conversations"]})["tokenizer"].path / "tokenizer.json"
    )  # fmt: skip
    if not (out / "base").exists():
        size = {"n_layer": 2, "n_head": 2, "n_kv_head": 2, "d_model": 32, "max_seq_len": 128}
        writer = artifact.Writer(out / "base", id="base", kind="checkpoint", role="base", name="base", origin=ORIGIN)  # fmt: skip
        torch.manual_seed(0)
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **size))
        checkpoint.save(model, tokenizer, writer.path)
        writer.finish({"n_parameters": model.config.n_parameters})
    base = artifact.Folder(out / "base")
    chat = made(out / "sft", "sft", {}, {"checkpoint": base, "conversations": said["conversations"]}, "tiny")["checkpoint"]  # fmt: skip
    answers = made(out / "rollouts", "rollouts", {"n_prompts": 60}, {"checkpoint": chat, "problems": said["problems"]}, "tiny")["rollouts"]  # fmt: skip
    rows = (
        {"labeler": "rule", "simulated": True, "all_bad": False, "flags": "{}", "seconds": 0.0,
         **{name: row[name] for name in ("group_id", "prompt", "completions")},
         "order": by_rule(row["prompt"], row["completions"], row["ended"])}
        for row in read_rows(answers, ("group_id", "prompt", "completions", "ended"), input="rollouts")
    )  # fmt: skip
    return {"chat": chat, "problems": said["problems"], "people": dataset(out / "people", "rankings", rows)}


def taught(path: Path, hunt: artifact.Folder, way: str) -> artifact.Folder:
    """All new tricks of a hunt as rankings."""
    facts = kept.read(hunt)
    new = {one.id for one in facts.tricks if one.found_by == facts.round.found_by}
    columns = ("group_id", "prompt", "completions", "ended", "trick", "kind")
    groups = list(read_rows(hunt, columns, input="rollouts"))
    orders = {} if way == "tied" else {g["group_id"]: by_rule(g["prompt"], g["completions"], g["ended"]) for g in groups}  # fmt: skip
    rows = list(
        rankings(groups, new, "rule", {id: Fair(order) for id, order in orders.items()}, simulated=True)
    )
    if way == "among":
        rows = [row | {"order": orders[row["group_id"]]} for row in rows]
    else:
        assert all(row["order"] == last(row["order"]) for row in rows)
    return dataset(path, "rankings", rows)


def tell(way: str, facts: kept.Hunt) -> dict[str, Any]:
    this = facts.round
    new = [one for one in facts.tricks if one.found_by == this.found_by]
    old = [one for one in facts.tricks if one.found_by != this.found_by]
    row = {
        "way": way,
        "round": this.round,
        "tried": this.n_tried,
        "new": len(new),
        "kinds": {kind: sum(one.trick["kind"] == kind for one in new) for kind in sorted({one.trick["kind"] for one in new})},
        "new_share": round(sum(one.share for one in new) / max(1, len(new)), 3),
        "old": len(old),
        "old_working": sum(one.works for one in old),
        "old_share": round(sum(one.share for one in old) / max(1, len(old)), 3),
        "pairs": this.accuracy,
    }  # fmt: skip
    interval = (
        f" ({this.low:.2f} to {this.high:.2f})" if this.low is not None and this.high is not None else ""
    )
    print(
        f"{way:6} round {this.round}: {row['new']} new of {row['tried']:,} tried, at {row['new_share']:.0%} of prompts; "
        f"{row['old_working']} of {row['old']} old ones still work, at {row['old_share']:.0%}; pairs {this.accuracy or 0:.3f}{interval}; {row['kinds']}",
        flush=True,
    )  # fmt: skip
    best = sorted(new, key=lambda one: (-one.low, -one.margin))[:3]
    for one in best:
        print(f"         {one.share:4.0%} {one.prompt!r} -> {one.text[:90]!r}", flush=True)
    return row


def rounds(way: str, n: int, given: Made, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The first round is the same for all ways, and is made once."""
    seed: dict[str, Any] = {"threads": options.threads, "seed": options.seed}
    told: list[dict[str, Any]] = []
    hunts: list[artifact.Folder] = []
    learned = [given["people"]]
    for number in range(1, n + 1):
        place = out / (f"{way}-{number}" if number > 1 else "first")
        reward = made(
            place / f"reward-{place.name}",
            "reward",
            seed,
            {"checkpoint": given["chat"], "rankings": learned},
            "tiny" if options.quick else "tour",
        )["checkpoint"]
        common = {"checkpoint": given["chat"], "problems": given["problems"], "reward": reward}
        practice = QUICK_PRACTICE if options.quick else PRACTICE
        paid = made(place / f"rlhf-{place.name}", "rlhf", practice | seed, common)["rollouts"]
        hunt = made(
            place / f"hunt-{place.name}",
            "hunt",
            seed,
            {**common, "rollouts": paid, "hunts": hunts},
            "tiny" if options.quick else "tour",
        )["rollouts"]
        facts = kept.read(hunt)
        told.append(tell(way, facts))
        hunts.append(hunt)
        if number < n and any(one.found_by == facts.round.found_by for one in facts.tricks):
            learned = [*learned, taught(out / f"taught-{way}-{number}", hunt, way)]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a model of a few seconds and two rounds, for CI"
    )
    parser.add_argument("--home", type=Path, default=Path("var"), help="the home of a lab that was toured")
    parser.add_argument("--out", type=Path, help="where each step is kept; a temporary folder by default")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        given = small(out) if options.quick else toured(options.home)
        ways = ("tied", "among") if options.quick else tuple(options.ways.split(","))
        n = 2 if options.quick else options.rounds
        told = {way: rounds(way, n, given, out, options) for way in ways}
    results = []
    if {"tied", "among"} <= set(told):
        ours, peer = (told[way][-1]["pairs"] or 0.0 for way in ("among", "tied"))
        results.append(
            {
                "benchmark": "gaming",
                "metric": f"held-out pairs after {n} rounds, tricks ranked among fair answers",
                "unit": "share of pairs",
                "ours": round(ours, 4),
                "peer": round(peer, 4),
                "peer_name": "tricks ranked last, fair answers tied",
                "ratio": round(ours / peer, 3) if peer else None,
                "goal": 1.0,
                "met": ours >= peer,
                "rounds": [row for way in told for row in told[way]],
            }
        )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
