"""The models that `benchmarks/overoptimization.py` measures: a small chat model of each seed, its proxies, their runs."""

import random
import statistics
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from core_ml import artifact
from core_ml.events import Metric
from core_ml.feedback.config import RlhfConfig
from core_ml.feedback.fitting import fit_reward
from core_ml.feedback.gold import accuracy, by_rule
from core_ml.feedback.pairs import Group, Ranking
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.rollout import practise
from core_ml.model import checkpoint
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.recipes import conversations, rlhf, rollouts, sft
from core_ml.tasks.problems import Problem, draw
from core_ml.tasks.rows import read_rows, write_rows
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.workspace import Workspace

ORIGIN = artifact.Origin(recipe="benchmark")
# Tasks of which the chat model masters some and half masters others, so that there is something to win and to lose.
MIXTURE = {"add": 15, "count": 30, "spell": 30, "who": 10, "copy": 15}
PASSES, EPOCHS = (
    2_000,
    (1.0, 10.0),
)  # rankings read by a proxy, where that is neither fewer nor more epochs than these
ANSWERS, MAX_NEW_TOKENS = 4, 40
NOISE, OFF_BY = 0.05, 1.5


class Life:
    """One seed: the chat model, its ranked answers, and what proxies make of them, each kept in a folder of its own."""

    def __init__(self, folder: Path, seed: int, size: dict[str, Any]) -> None:
        self.folder, self.seed, self.size = folder / f"seed-{seed}", seed, size

    def run(self, recipe: Any, config: Any, name: str, **inputs: Path) -> list[Metric]:
        opened = {key: [artifact.Folder(path)] for key, path in inputs.items()}
        place = self.folder / name
        workspace = Workspace(place, place / ".state", opened, ORIGIN, f"s{self.seed}-{name}", name)
        return [event for event in recipe.run(config, workspace) if isinstance(event, Metric)]

    def chat(self) -> dict[str, Any]:
        """Teach the chat model, and sample what is ranked."""
        size, seed = self.size, self.seed
        shares = {f"share_{task}": weight for task, weight in MIXTURE.items()}
        made = {"n_conversations": size["conversations"], "n_problems": size["problems"], "n_held_out": 4}
        talks = conversations.ConversationsConfig(seed=seed, **made, **shares)
        self.run(conversations, talks, "data")
        self._untrained()
        self.run(
            sft, sft.SftConfig(seed=seed, n_samples=0, threads=1, save_every=1e6), "sft",
            checkpoint=self.folder / "untrained", conversations=self.folder / "data" / "conversations",
        )  # fmt: skip
        config = rollouts.RolloutsConfig(
            n_prompts=max(size["sizes"]),
            n_completions=ANSWERS,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed,
            threads=1,
        )
        told = self.run(
            rollouts, config, "rollouts",
            checkpoint=self.folder / "sft" / "checkpoint", problems=self.folder / "data" / "problems",
        )  # fmt: skip
        self._problems()
        summary = artifact.Folder(self.folder / "rollouts" / "rollouts").manifest.summary
        return {name: summary[name] for name in ("n_rows", "correct", "complete", "short", "ended")} | {
            "looks": len(told)
        }

    def _untrained(self) -> None:
        folder = artifact.Folder(self.folder / "data" / "conversations")
        talks = [
            row["messages"] for row in islice(read_rows(folder, ["messages"], input="conversations"), 4000)
        ]
        tokenizer = Tokenizer.train([part["content"] for talk in talks for part in talk], self.size["vocab"])
        torch.manual_seed(self.seed)
        config = GPTConfig(
            vocab_size=tokenizer.vocab_size, n_layer=self.size["n_layer"], n_head=4, n_kv_head=4,
            d_model=self.size["d_model"], max_seq_len=128,
        )  # fmt: skip
        self._save("untrained", "base", lambda path: checkpoint.save(GPT(config), tokenizer, path))

    def _save(self, name: str, role: str, save: Callable[[Path], None]) -> None:
        writer = artifact.Writer(
            self.folder / name,
            id=f"s{self.seed}-{name}",
            kind="checkpoint",
            role=role,
            name=name,
            origin=ORIGIN,
        )
        save(writer.path)
        writer.finish()

    def _held_out(self, salt: int, n: int) -> list[Problem]:
        """Distinct prompts that no conversation and no ranking has."""
        found: dict[str, Problem] = {}
        for problem in islice(draw(self.seed + salt, held_out=True, mixture=MIXTURE), 20 * n):
            found.setdefault(problem.prompt, problem)
            if len(found) == n:
                break
        return list(found.values())

    def _problems(self) -> None:
        """What reinforcement learning practises on and is watched on: none of it was seen by anything before."""
        writer = artifact.Writer(
            self.folder / "practice", id=f"s{self.seed}-practice", kind="dataset", form="problems", name="practice",
            origin=ORIGIN,
        )  # fmt: skip
        rows = [
            {"prompt": p.prompt, "answer": p.answer, "verifier": "task", "metadata": {"task": p.task}}
            for p in self._held_out(70, self.size["watched"] + 60 * 16)
        ]
        write_rows(writer.path / "problems.parquet", "problems", rows)
        writer.finish({"n_rows": len(rows)})

    def model(self) -> tuple[GPT, Tokenizer]:
        return checkpoint.load(self.folder / "sft" / "checkpoint")

    def sampled(
        self, model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], n: int, seed: int
    ) -> dict[str, Any]:
        """n answers to each prompt, and what gold says of them: lists in the order of the prompts."""
        asked = [Prompt(prompt) for prompt in prompts]
        found = practise(
            model,
            tokenizer,
            asked,
            n=n,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=1.0,
            seed=seed * 1_000_003,
        )
        return {
            "prompts": found.prompts,
            "texts": found.texts,
            "gold": by_rule().scores(found.prompts, found.texts, found.ended),
        }

    def answers(self) -> dict[str, Any]:
        """The many answers of which the best is chosen, and few to other prompts, which measure proxies."""
        model, tokenizer = self.model()
        many = [problem.prompt for problem in self._held_out(79, self.size["prompts"])]
        few = [problem.prompt for problem in self._held_out(12, self.size["held_out"])]
        return {
            "many": self.sampled(model, tokenizer, many, self.size["n"], 6),
            "few": self.sampled(model, tokenizer, few, ANSWERS, 12),
        }

    def ranked(self) -> list[Group]:
        """The rule's rankings of the rollouts, noisy."""
        folder = artifact.Folder(self.folder / "rollouts" / "rollouts")
        rows = list(read_rows(folder, ["prompt", "completions", "ended"], input="rollouts"))
        scores = [
            by_rule().scores([row["prompt"]] * ANSWERS, row["completions"], row["ended"]) for row in rows
        ]
        off = OFF_BY * statistics.pstdev(value for one in scores for value in one)
        chance = random.Random(self.seed)
        groups = []
        for number, (row, own) in enumerate(zip(rows, scores, strict=True)):
            own = [value + (chance.choice((-off, off)) if chance.random() < NOISE else 0) for value in own]
            groups.append(group_of(f"g{number}", row["prompt"], row["completions"], own))
        return groups

    def proxy(self, n_rankings: int, k: int, answers: dict[str, Any]) -> dict[str, Any]:
        """Fit a proxy on rankings of its own draw; what it says of all answers, and how often it is right."""
        groups = self.ranked()
        some = random.Random(f"{self.seed}:{n_rankings}:{k}").sample(groups, min(n_rankings, len(groups)))
        epochs = min(EPOCHS[1], max(EPOCHS[0], PASSES / len(some)))
        model, tokenizer = self.model()
        fitting = fit_reward(model, tokenizer, some, epochs=epochs, seed=1000 * self.seed + k)
        while True:
            try:
                next(fitting)
            except StopIteration as end:
                found: RewardModel = end.value
                break
        if k < self.size["rl_proxies"]:
            self._save(f"proxy-{n_rankings}-{k}", "reward", found.save)
        few, many = answers["few"], answers["many"]
        held_out = [
            group_of(str(i), few["prompts"][i], few["texts"][i : i + ANSWERS], few["gold"][i : i + ANSWERS])
            for i in range(0, len(few["texts"]), ANSWERS)
        ]
        right = accuracy(found, held_out)
        assert right is not None
        scores = found.score(many["prompts"], many["texts"])
        return {"accuracy": round(right.value, 4), "scores": [round(score, 4) for score in scores]}

    def practise(self, n_rankings: int, k: int) -> dict[str, Any]:
        """Reinforcement learning against a proxy without any pull; the points are the looks."""
        size = self.size
        config = RlhfConfig(
            steps=size["steps"], eval_every=size["eval_every"], n_watched=size["watched"], n_sampled=4, gold="rule",
            prompts_per_step=16, n_completions=6, max_new_tokens=MAX_NEW_TOKENS, kl_coef=0.0, lr=size["lr"], warmup=0.05,
            cooldown=0.0, minibatches=1, keep_rollouts=None, seed=1000 * self.seed + k, threads=1, save_every=30,
        )  # fmt: skip
        told = self.run(
            rlhf, config, f"rl-{n_rankings}-{k}", checkpoint=self.folder / "sft" / "checkpoint",
            reward=self.folder / f"proxy-{n_rankings}-{k}", problems=self.folder / "practice",
        )  # fmt: skip
        names = ("kl", "proxy_z", "proxy_z_sem", "gold_z", "gold_z_sem", "correct", "complete", "short")
        looks = [event for event in told if "val_gold_z" in event.values]
        return {
            "steps": [look.step for look in looks],
            **{name: [round(look.values[f"val_{name}"], 4) for look in looks] for name in names},
        }


def group_of(id: str, prompt: str, texts: Sequence[str], scores: Sequence[float]) -> Group:
    """One ranking by scores, equal ones tied."""
    levels = sorted(set(scores), reverse=True)
    order = tuple(tuple(i for i, score in enumerate(scores) if score == level) for level in levels)
    return Group(id, prompt, tuple(texts), [Ranking("rule", True, order)])
