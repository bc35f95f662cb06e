"""How often reward models order real people's preferences rightly, ours beside rules and classical methods.

The claim: a small transformer pretrained here that has surface features beside the text is at least as good as the
best of "longer wins", surface features alone, TF-IDF of the difference, and both of these together. Three sets of
real preferences (--data names their folder; a set that is not there is left out), split such that no prompt stands on
both sides, by three seeds; over all held-out pairs and over those of like length, where length says nothing. People's
own agreement is printed where a set has several labelers.

"transformer" has 1.7 million parameters (SIZE) and is pretrained for --steps updates of 16 x 128 tokens on texts beside the sets, then one pass
over the rankings. "with features" learns the same from what a logistic regression on the features leaves over. Fails
when that regression differs from scikit-learn's.

Last measured on two shared cores with AVX2, one thread, --steps 120, mean and deviation of three seeds, all pairs and those
of like length. PandaLM (682 groups, 2,000 pairs): longer wins 0.645 ± 0.083 and 0.599; features 0.713 ± 0.087 and 0.619;
TF-IDF 0.559 ± 0.035 and 0.602; both 0.712 ± 0.077 and 0.651; transformer 0.602 ± 0.069 and 0.545; transformer with features
0.711 ± 0.085 and 0.642; people 0.937. OpenAssistant's trees (157 groups, 607 pairs): longer wins 0.702 ± 0.013 and 0.609;
features 0.703 ± 0.025 and 0.634; TF-IDF 0.594 ± 0.026 and 0.362; both 0.684 ± 0.006 and 0.571; transformer 0.635 ± 0.056 and
0.487; transformer with features 0.703 ± 0.025 and 0.634. The best baseline is not beaten: with features the network's own
part is so small after one pass that its figures are those of the features, to three digits on the trees, so that a goal
that is met there is met by a tie. Auto-J has not been measured: the run ended there by an error that is mended since.
"""

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import hstack, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from core_ml.evaluation.statistics import clustered
from core_ml.feedback import surface
from core_ml.feedback.pairs import Group, Ranking, labelers_agree, like_length, split
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.reward_training import Members, Trainer
from core_ml.model import device
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.optim import clip, optimizers, scale_lr
from core_ml.training.schedule import lr_share

SIZE = {"n_layer": 4, "d_model": 128, "n_head": 4, "n_kv_head": 4, "max_seq_len": 256}
HELD_OUT = 0.25
LIKE = "like length"
Scores = list[list[float]]
Method = Callable[[list[Group], list[Group], int], Scores]


def lines(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def oasst(folder: Path) -> Iterator[Group]:
    """Each message to which volunteers ranked two replies of the assistant or more; its prompt is the thread."""

    def walk(message: dict[str, Any], thread: list[str]) -> Iterator[Group]:
        thread = [*thread, message["text"]]
        ranked = [r for r in message["replies"] if r["role"] == "assistant" and r.get("rank") is not None]
        if len(ranked) > 1:
            order = tuple((i,) for i in sorted(range(len(ranked)), key=lambda i: ranked[i]["rank"]))
            texts = tuple(r["text"] for r in ranked)
            yield Group(message["message_id"], "\n\n".join(thread), texts, [Ranking("all", False, order)])
        for reply in message["replies"]:
            yield from walk(reply, thread)

    for tree in lines(folder / "pref-oasst-trees" / "trees.jsonl.gz"):
        yield from walk(tree["prompt"], [])


def pandalm(folder: Path) -> Iterator[Group]:
    orders = {0: ((0, 1),), 1: ((0,), (1,)), 2: ((1,), (0,))}
    for row in lines(folder / "pref-pandalm" / "pairs.jsonl.gz"):
        prompt = f"{row['instruction']}\n{row['input']}".strip()
        rankings = [
            Ranking(name, False, orders[int(row[name])])
            for name in ("annotator1", "annotator2", "annotator3")
        ]
        yield Group(str(row["idx"]), prompt, (row["response1"], row["response2"]), rankings)


def autoj(folder: Path) -> Iterator[Group]:
    orders = {0: ((0,), (1,)), 1: ((1,), (0,)), 2: ((0, 1),)}
    for n, row in enumerate(lines(folder / "pref-autoj" / "pairs.jsonl.gz")):
        ranking = Ranking("one", False, orders[int(row["label"])])
        yield Group(str(n), row["prompt"], (row["response 1"], row["response 2"]), [ranking])


SETS = {"oasst-trees": oasst, "pandalm": pandalm, "autoj": autoj}


def texts(folder: Path, n_characters: int) -> str:
    """What the transformer is pretrained on: web pages, articles and answers, none of which is of the sets."""
    found: list[str] = []
    for row in lines(folder / "sft-alpaca" / "alpaca_5000.jsonl.gz"):
        found.append(f"{row['instruction']}\n{row['input']}\n{row['output']}")
    for name in ("c4", "wikipedia"):
        found += [row["text"] for row in lines(folder / "text-c4-wiki-samples" / f"{name}.jsonl.gz")]
    random.Random(0).shuffle(found)
    return "\n\n".join(found)[:n_characters]


def pretrained(folder: Path, steps: int, n_characters: int) -> tuple[GPT, Tokenizer]:
    text = texts(folder, n_characters)
    tokenizer = Tokenizer.train([text[i : i + 10_000] for i in range(0, len(text), 10_000)], 4096)
    ids = torch.tensor(tokenizer.encode(text))
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **SIZE)).to(device.choose())
    opts = optimizers(model, 0.02, 3e-3)
    begin, loss = time.perf_counter(), torch.tensor(0.0)
    for step in range(steps):
        starts = torch.randint(len(ids) - 129, (16,)).tolist()
        batch = torch.stack([ids[start : start + 129] for start in starts]).to(model.device)
        with device.autocast(model.device):
            logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        clip(model, 1.0)
        scale_lr(opts, lr_share(step, steps, "wsd", 0.05, 0.5))
        for opt in opts:
            opt.step()
        model.zero_grad()
    seconds = time.perf_counter() - begin
    print(
        f"pretrained {model.config.n_parameters:,} parameters to {loss.item():.2f} nats in {seconds:.0f} s",
        flush=True,
    )
    return model, tokenizer


def transformer(start: GPT, tokenizer: Tokenizer, with_features: bool, n_members: int, lr: float) -> Method:
    def fit(train: list[Group], held_out: list[Group], seed: int) -> Scores:
        beside = surface.fit(train, list(surface.FEATURES)) if with_features else None
        trainer = Trainer(
            tokenizer, train, SIZE["max_seq_len"], centering=0.001, label_smoothing=0.05, surface=beside
        )
        members = Members(start, n_members, 1, seed)
        optimizer = members.optimizer(lr, 0.01)
        for step in trainer.plan(1.0, 4096, seed, n_members):
            loss, _ = trainer.loss(members.members[step.member], step.groups)
            loss.backward()
            clip(members, 1.0)
            scale_lr([optimizer], lr_share(step.place, step.of, "wsd", 0.05, 0.7))
            optimizer.step()
            members.zero_grad()
        model = RewardModel(members.members[0], tokenizer, others=list(members.members[1:]), surface=beside)
        values = iter(model.score([g.prompt for g in held_out for _ in g.completions], [t for g in held_out for t in g.completions]))  # fmt: skip
        return [[next(values) for _ in group.completions] for group in held_out]

    return fit


def longer(train: list[Group], held_out: list[Group], seed: int) -> Scores:
    return [[float(len(text)) for text in group.completions] for group in held_out]


def features(train: list[Group], held_out: list[Group], seed: int) -> Scores:
    model = surface.fit(train, list(surface.FEATURES))
    return [model.scores([group.prompt] * len(group.completions), group.completions) for group in held_out]


def tfidf(with_features: bool) -> Method:
    def fit(train: list[Group], held_out: list[Group], seed: int) -> Scores:
        words = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
        words.fit([text for group in train for text in group.completions])
        form = surface.fit(train, list(surface.FEATURES))

        def table(group: Group) -> Any:
            found = words.transform(group.completions)
            if not with_features:
                return found.tocsr()
            prompts = [group.prompt] * len(group.completions)
            own = surface._table(form.names, prompts, group.completions)
            return hstack([found, surface._standard(own, form.mean, form.std)]).tocsr()

        rows, labels = [], []
        for group in train:
            own = table(group)
            for better, worse in group.pairs():
                sign = 1 if len(rows) % 2 else -1  # both classes, whichever way a pair stands
                rows.append(sign * (own[better] - own[worse]))
                labels.append(sign)
        model = LogisticRegression(fit_intercept=False, max_iter=2000).fit(vstack(rows), np.array(labels))
        return [(table(group) @ model.coef_[0]).tolist() for group in held_out]

    return fit


def disagreement(train: list[Group]) -> float:
    """The largest difference between our weights of the features and scikit-learn's."""
    ours = surface.fit(train, list(surface.FEATURES), ridge=1.0)
    rows, labels = [], []
    for group in train:
        own = surface._table(ours.names, [group.prompt] * len(group.completions), group.completions)
        standard = surface._standard(own, ours.mean, ours.std)
        for better, worse in group.pairs():
            sign = 1 if len(rows) % 2 else -1  # both classes, whichever way a pair stands
            rows.append(sign * (standard[better] - standard[worse]))
            labels.append(sign)
    theirs = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=5000).fit(
        np.array(rows), labels
    )
    return float(np.abs(theirs.coef_[0] - np.array(ours.weights)).max())


def shares(groups: Sequence[Group], scores: Scores) -> dict[str, float]:
    """The share of pairs ordered as people did, over all of them and over those of like length."""
    found: dict[str, list[list[float]]] = {"all": [], LIKE: []}
    for group, values in zip(groups, scores, strict=True):
        own: dict[str, list[float]] = {"all": [], LIKE: []}
        for i, j in group.pairs():
            right = 0.5 if values[i] == values[j] else float(values[i] > values[j])
            own["all"].append(right)
            if like_length(group.completions[i], group.completions[j]):
                own[LIKE].append(right)
        for name in found:
            found[name].append(own[name])
    return {name: share.value for name, hits in found.items() if (share := clustered(hits))}


def measure(
    name: str, groups: list[Group], methods: dict[str, Method], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """All methods on one set; prints a table and returns the benchmark's lines."""
    found: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for seed in seeds:
        train, held_out = split(groups, HELD_OUT, seed)
        for method, fit in methods.items():
            found[method].append(shares(held_out, fit(train, held_out, seed)))
    people = clustered(labelers_agree(groups))
    print(f"\n{name}: {len(groups)} groups, {sum(len(g.pairs()) for g in groups)} pairs, {len(seeds)} seeds")
    for method, own in found.items():
        cells = []
        for what in ("all", LIKE):
            values = [one[what] for one in own if what in one]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{what} {statistics.mean(values):.3f} ± {spread:.3f}" if values else f"{what} –")
        print(f"  {method:32} {'   '.join(cells)}", flush=True)
    print(
        f"  {'people, each other':32} {f'all {people.value:.3f}' if people else 'one label for each pair'}",
        flush=True,
    )
    results = []
    ours = [method for method in methods if "transformer" in method]
    for what in ("all", LIKE):
        means = {
            method: statistics.mean(values)
            for method, own in found.items()
            if (values := [one[what] for one in own if what in one])
        }
        if not means:
            continue
        best, peer = (
            max(some, key=means.__getitem__) for some in (ours, [m for m in methods if m not in ours])
        )
        results.append(
            {
                "benchmark": "reward",
                "metric": f"{name}, {what} pairs, {best}",
                "unit": "share of held-out pairs",
                "ours": round(means[best], 4),
                "peer": round(means[peer], 4),
                "peer_name": peer,
                "ratio": round(means[best] / means[peer], 3),
                "goal": 1.0,
                "met": means[best] >= means[peer],
            }
        )
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one set, one seed, few updates, for CI")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="updates of pretraining")
    parser.add_argument("--members", type=int, default=1, help="of an ensemble")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    device.use_threads(options.threads)
    names = ["pandalm"] if options.quick else options.sets.split(",")
    sets = {name: SETS[name] for name in names if (options.data / f"pref-{name}").is_dir()}
    if not sets:
        print(f"{options.data} holds none of {', '.join(f'pref-{name}' for name in names)}", file=sys.stderr)
        print(json.dumps([]))
        return 0
    steps, characters = (5, 100_000) if options.quick else (options.steps, 6_000_000)
    start, tokenizer = pretrained(options.data, steps, characters)
    methods: dict[str, Method] = {
        "longer wins": longer,
        "surface features": features,
        "TF-IDF": tfidf(False),
        "TF-IDF and features": tfidf(True),
        "transformer": transformer(start, tokenizer, False, options.members, 5e-4),
        "transformer with features": transformer(start, tokenizer, True, options.members, 2e-4),
    }
    results = []
    for name, read in sets.items():
        groups = [group for group in read(options.data) if group.pairs()]
        if options.quick:
            groups = groups[:120]
        if (apart := disagreement(split(groups, HELD_OUT, 0)[0])) > 1e-3:
            print(f"{name}: our weights of the features are {apart:.4f} from scikit-learn's", file=sys.stderr)
            return 1
        results += measure(name, groups, methods, range(1 if options.quick else options.seeds))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
