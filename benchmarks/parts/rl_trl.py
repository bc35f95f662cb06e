"""TRL's side of `benchmarks/rl.py`: its trainers run as they are, and wait for their turn before each step."""

import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from parts.rl_setting import ANSWERS, CLIP, KL, NEVER, NEW, PAIRS, PROMPTS, Case, Setting, by_rule, network
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from core_ml.feedback.batches import as_prompt
from core_ml.tokenizer.tokenizer import SPECIALS


class Turns(TrainerCallback):
    """Waits before each step; tells afterwards how long it took, and of the first one which gradients it made."""

    def __init__(
        self, turn: Callable[[], None], told: Callable[[float], None], dumped: Callable[[Any], None]
    ) -> None:
        self.turn, self.told, self.dumped = turn, told, dumped

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.turn()
        self.begin = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 0:
            self.dumped(others["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.told(time.perf_counter() - self.begin)


def _common(setting: Setting, precise: bool) -> dict[str, Any]:
    return {
        "output_dir": str(setting.folder / "trl"), "use_cpu": True, "bf16": not precise, "report_to": "none",
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
        "max_steps": 100_000, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    }  # fmt: skip


def _tokenizer(setting: Setting) -> Any:
    file = setting.folder / "chat" / "tokenizer.json"
    names = {"eos_token": "<|never|>", "pad_token": SPECIALS[-1], "padding_side": "left"}
    found = PreTrainedTokenizerFast(tokenizer_file=str(file), clean_up_tokenization_spaces=False, **names)
    assert found.eos_token_id == NEVER
    return found


def rounds(case: Case, setting: Setting, precise: bool, micro: int, turn: Any, tell: Any) -> None:
    with_model = "reward model" in case.name
    seen: dict[str, Any] = {}
    dump: dict[str, list[torch.Tensor]] = {}

    class Recorded(GRPOTrainer):
        """Keeps what the first step computed, for ours to be compared with."""

        def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **more: Any) -> Any:
            found = super()._get_per_token_logps_and_entropies(model, *args, **more)
            if self.state.global_step == 0 and torch.is_grad_enabled():
                dump.setdefault("logprobs", []).append(found[0].detach())
            return found

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            loss = super()._compute_loss(model, inputs)
            if self.state.global_step == 0 and "ref_per_token_logps" in inputs:
                dump.setdefault("loss", []).append(loss.detach()[None])
                dump.setdefault("ref_logprobs", []).append(inputs["ref_per_token_logps"])
                for name in ("prompt_ids", "prompt_mask", "completion_ids", "advantages"):
                    dump.setdefault(name, []).append(inputs[name])
            return loss

    def watching(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> Any:
        lengths = sorted({len(ids) for ids in completion_ids})
        n_prompt = sum(map(len, tokenizer(prompts)["input_ids"]))
        seen.update(lengths=lengths, n_prompt=n_prompt, n=len(completions))
        return [0.0] * len(completions)

    def ruled(completions: list[str], **_: Any) -> list[float]:
        return by_rule(completions)

    tokenizer = _tokenizer(setting)
    model = AutoModelForCausalLM.from_pretrained(setting.folder / "policy")
    model.config._name_or_path = str(setting.folder / "chat")  # where TRL finds the reference
    scorer: Any = ruled
    if with_model:
        path = setting.folder / "chat"
        scorer = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
        scorer.score.weight.data.copy_(network().value_head.weight)  # type: ignore[union-attr]
    content = [tokenizer.decode(as_prompt(setting.tokenizer, text)) for text in setting.prompts]
    args = GRPOConfig(
        **_common(setting, precise), per_device_train_batch_size=micro,
        gradient_accumulation_steps=PROMPTS * ANSWERS // micro, num_generations=ANSWERS,
        max_completion_length=NEW, beta=KL if with_model else 0.0, epsilon=CLIP, loss_type="grpo",
        learning_rate=1e-6, shuffle_dataset=False,
    )  # fmt: skip

    def dumped(model: Any) -> None:
        if "loss" in dump:
            tensors = {name: torch.cat(parts).contiguous() for name, parts in dump.items()}
            tensors["loss"] = tensors["loss"].sum()
            tensors |= {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
            save_file(tensors, setting.folder / "dump.safetensors")

    trainer = Recorded(
        model, [scorer, watching], args, Dataset.from_dict({"prompt": content * 100}),
        processing_class=tokenizer, reward_processing_classes=[tokenizer, None],
        callbacks=[Turns(turn, lambda seconds: tell(seconds, seen), dumped)],
    )  # fmt: skip
    trainer.train()


def pairs(case: Case, setting: Setting, precise: bool, micro: int, turn: Any, tell: Any) -> None:
    trainer = setting.pairs(case)
    model = AutoModelForSequenceClassification.from_pretrained(setting.folder / "chat", num_labels=1)
    model.score.weight.data.copy_(network().value_head.weight)  # type: ignore[union-attr]
    columns: dict[str, list[list[int]]] = {"chosen_ids": [], "rejected_ids": []}
    for group, rows in zip(trainer.groups, trainer.rows, strict=True):
        for name, index in zip(columns, group.pairs()[0], strict=True):
            columns[name].append([*rows[index][0], *rows[index][1]])
    whole = {name: column[: len(column) // PAIRS * PAIRS] for name, column in columns.items()}
    losses: list[torch.Tensor] = []

    class Recorded(RewardTrainer):
        def compute_loss(self, *args: Any, **more: Any) -> Any:
            loss = super().compute_loss(*args, **more)
            if self.state.global_step == 0:
                losses.append(loss.detach() * micro / PAIRS)
            return loss

    def dumped(model: Any) -> None:
        tensors = {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
        save_file({"loss": sum(losses), **tensors}, setting.folder / "dump.safetensors")

    args = RewardConfig(
        **_common(setting, precise), per_device_train_batch_size=micro, max_length=None, learning_rate=1e-4,
        gradient_accumulation_steps=PAIRS // micro, train_sampling_strategy="sequential",
    )  # fmt: skip
    facts = {"lengths": [PAIRS], "n_prompt": 0, "n": PAIRS}
    Recorded(
        model, args, train_dataset=Dataset.from_dict(whole), processing_class=_tokenizer(setting),
        callbacks=[Turns(turn, lambda seconds: tell(seconds, facts), dumped)],
    ).train()  # fmt: skip
