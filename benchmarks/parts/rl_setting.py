"""What both sides of `benchmarks/rl.py` get: network, tokenizer, prompts and pairs, the same in every process."""

import gzip
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from core_ml.exchange import huggingface
from core_ml.feedback.batches import as_prompt
from core_ml.feedback.pairs import Group, Ranking
from core_ml.feedback.reward_training import Trainer
from core_ml.model import families
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer

# The quick form asks whether the sides agree: two layers do for that.
N_LAYER = 2 if "--quick" in sys.argv else 6
A = GPTConfig(
    vocab_size=4096, n_layer=N_LAYER, d_model=384, n_head=6, n_kv_head=6, max_seq_len=1024, qk_norm=None,
    norm_weight="plain", norm_eps=1e-6, embedding_norm=False, activation="silu", gated=True, ff_width=1024,
    tie_embeddings=True,
)  # fmt: skip
PROMPTS, ANSWERS, NEW, PAIRS = 8, 8, 32, 16
KL, CLIP, EQUAL = 0.04, 0.2, 128
NEVER = A.vocab_size
"""A token that no network here can draw: what ends an answer, so that none ends early."""
FAMILY, FIELDS = families.write(A)


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    per_step: int
    goal: float

    @property
    def is_rl(self) -> bool:
        return self.what == "rollouts"


CASES = (
    Case("without KL", "rollouts", PROMPTS * ANSWERS, 4.0),
    Case("with KL and a reward model", "rollouts", PROMPTS * ANSWERS, 3.0),
    Case("equal", "pairs", PAIRS, 1.3),
    Case("PandaLM's", "pairs", PAIRS, 2.5),
)


def network(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    model = GPT(A.model_copy(update={"value_head": True}))
    for param in model.parameters():
        if param.dim() > 1:
            torch.nn.init.normal_(param, std=0.05)
    return model


def policy() -> GPT:
    """Somewhat away from the chat model, so that there is a distance to measure."""
    model = network()
    torch.manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.005 * torch.randn_like(param)
    return model


def groups(data: Path) -> list[Group]:
    """PandaLM's pairs as one labeler ordered them, or made-up ones where there is no such data."""
    file = data / "pref-pandalm" / "pairs.jsonl.gz"
    found = []
    if file.exists():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if int(row["annotator1"]):
                    prompt = f"{row['instruction']}\n{row['input']}".strip()
                    found.append((prompt, (row["response1"], row["response2"]), int(row["annotator1"]) - 1))
    else:
        draws = random.Random(0)
        words = [
            "".join(draws.choices("abcdefghijklmnopqrstuvwxyz", k=draws.randint(2, 9))) for _ in range(3000)
        ]
        for _ in range(200):
            texts = [" ".join(draws.choices(words, k=draws.randint(12, 90))) for _ in range(3)]
            found.append((texts[0][:150], (texts[1], texts[2]), 0))
    return [
        Group(str(number), prompt, texts, [Ranking("one", False, ((best,), (1 - best,)))])
        for number, (prompt, texts, best) in enumerate(found)
    ]


class Setting:
    """Tokenizer, prompts and pairs, the same in every process."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        found = groups(data)
        self.tokenizer = Tokenizer.train(
            (text for g in found for text in (g.prompt, *g.completions)), A.vocab_size
        )
        n_tokens = {g.prompt: len(as_prompt(self.tokenizer, g.prompt)) for g in found}
        self.prompts = [prompt for prompt, n in n_tokens.items() if 20 <= n <= 50][:PROMPTS]
        trainer = Trainer(self.tokenizer, found, A.max_seq_len)
        random.Random(0).shuffle(order := list(range(len(trainer.groups))))
        trainer.groups, trainer.rows, trainer.beside = (
            [values[i] for i in order] for values in (trainer.groups, trainer.rows, trainer.beside)
        )
        self.trainer = trainer

    def pairs(self, case: Case) -> Trainer:
        if case.name == "equal":
            draws = random.Random(0)
            self.trainer.rows = [
                [([7], [draws.randrange(300, A.vocab_size) for _ in range(EQUAL - 1)]) for _ in range(2)]
                for _ in self.trainer.groups
            ]
        return self.trainer

    def pair_batch(self, number: int) -> list[int]:
        n = len(self.trainer.groups)
        return [(number * PAIRS + i) % n for i in range(PAIRS)]


def write_models(folder: Path, tokenizer: Tokenizer) -> None:
    """Chat model and policy as folders that `transformers` loads."""
    for name, model in (("chat", network()), ("policy", policy())):
        (folder / name).mkdir()
        ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        (folder / name / "config.json").write_text(json.dumps({**FIELDS, **ends}))
        tokenizer.save(folder / name)
        model.value_head = None
        huggingface.save_weights(model, FAMILY, folder / name / "model.safetensors")


def by_rule(texts: list[str]) -> list[float]:
    return [len(set(text)) / 10 for text in texts]
