"""Teaches a model to answer: supervised fine-tuning on conversations, with loss on the assistant's tokens only."""

import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, Literal

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.events import Event, Log, Metric, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.training.config import (
    DATA,
    OPTIMIZER,
    REPORTS,
    Compile,
    Cooldown,
    Ema,
    GradClip,
    KeepEvery,
    KeepLast,
    Processes,
    Publish,
    Recompute,
    SaveEvery,
    ScheduleName,
    Spike,
    Warmup,
    Weights,
)
from core_ml.training.schedule import lr_share
from core_ml.workspace import Workspace

CORE_FLOPS = 1e11  # of a processor core in a second; batches here are smaller than in pretraining
TOKENS_AT_ONCE = 2048  # of one pass on a processor
TOKENS_PER_CONVERSATION = 40  # where the dataset does not say


class SftConfig(RecipeConfig):
    epochs: int = setting(1, "Times that each conversation is seen.", unit="epochs", ge=1, le=100)
    batch_tokens: int = setting(
        1024,
        "Tokens in each update, padding included; those that memory has no room for are read in several passes.",
        unit="tokens",
        ge=16,
    )
    batching: Literal["packed", "by_length"] = setting(
        "packed",
        "Several conversations of any length fill a row, where none sees another, or those of like length go "
        "together. The first mixes lengths in every update, and so learns more from as many; an update of the second "
        "is a little quicker where neither is compiled.",
    )
    seed: int = setting(0, "The same seed gives the same order of conversations.", ge=0, le=2**31 - 1)
    weights: Weights | None = setting(
        None,
        "Where several datasets are read: how much of each among an epoch's conversations, in their order; by default "
        "each conversation comes once.",
        group=DATA,
        min_length=1,
        max_length=1000,
    )
    muon_lr: float = setting(0.035, "Peak learning rate of the matrices (Muon).", group=OPTIMIZER, gt=0, le=1)
    adam_lr: float = setting(
        8e-3, "Peak learning rate of embedding and head (AdamW).", group=OPTIMIZER, gt=0, le=1
    )
    schedule: ScheduleName = "wsd"
    warmup: Warmup = 0.02
    cooldown: Cooldown = 0.6
    grad_clip: GradClip = None
    ema: Ema = None
    spike: Spike = 10.0
    lora_rank: int | None = setting(
        None,
        "Train small matrices of this rank beside the network's own, which takes a fraction of the memory; none "
        "trains all weights.",
        group=OPTIMIZER,
        ge=1,
        le=4096,
    )
    lora_alpha: float = setting(
        16.0, "How strongly they count: alpha / rank times their product.", group=OPTIMIZER, gt=0, le=4096
    )
    val_share: float = setting(
        0.02, "Share of the questions kept for validation.", group=REPORTS, gt=0, le=0.5
    )
    val_conversations: int = setting(
        256, "Held-out conversations that each measurement reads, at most.", group=REPORTS, ge=1, le=100_000
    )
    eval_every: int = setting(
        100, "Between two measurements on held-out conversations.", unit="steps", group=REPORTS, ge=1
    )
    sample_every: int = setting(200, "Between two rounds of samples.", unit="steps", group=REPORTS, ge=1)
    n_samples: int = setting(
        5, "Held-out questions that are answered in each round.", group=REPORTS, ge=0, le=64
    )
    sample_tokens: int = setting(48, "Longest sampled answer.", unit="tokens", group=REPORTS, ge=1, le=4096)
    publish: Publish = setting(
        "last",
        "The weights after the last update, or those that did best on held-out answers, which many epochs of few "
        "conversations make worse again.",
        group=REPORTS,
    )
    save_every: SaveEvery = 20.0
    keep_last: KeepLast = 2
    keep_every: KeepEvery = None
    threads: Threads = None
    compile: Compile = "auto"
    recompute: Recompute = False
    processes: Processes = None


def run(config: SftConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml import ranks
    from core_ml.model import checkpoint, device
    from core_ml.model.energy import Energy
    from core_ml.tasks.rows import read_rows
    from core_ml.training import fast, held_out, lora
    from core_ml.training.conversations import ByLength, Conversations, Packed, encode
    from core_ml.training.loop import Chore, Loop, every, resumed
    from core_ml.training.loss import masked_backward, shapes_of_passes
    from core_ml.training.optim import optimizers
    from core_ml.training.update import Update

    yield resumed(workspace)
    device.use_threads(config.threads)
    model, tokenizer = checkpoint.load(workspace.input("checkpoint").path)
    folder = workspace.state / "conversations"
    workspace.input("conversations")  # says what is missing
    datasets = [
        (one.manifest.name, read_rows(one, ["messages"], input="conversations"))
        for one in workspace.inputs("conversations")
    ]
    batching = Packed if config.batching == "packed" else ByLength
    with ranks.first_alone():
        yield from encode(datasets, tokenizer, folder, model.config.max_seq_len, config.val_share)
        conversations = Conversations(folder, config.weights)
        batches = batching(conversations, config.batch_tokens, config.epochs, config.seed)
    if conversations.n_cut or conversations.n_skipped:
        yield Log(
            f"{conversations.n_cut:,} conversations were cut at {model.config.max_seq_len} tokens, "
            f"and {conversations.n_skipped:,} had no answer left to learn",
            "warning",
        )
    if config.lora_rank is None:
        opts = optimizers(model, config.muon_lr, config.adam_lr)
    else:
        torch.manual_seed(config.seed)
        adapters = lora.adapt(model, config.lora_rank, config.lora_alpha)
        opts = [torch.optim.AdamW(adapters, config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    at_once = device.tokens_at_once(model.device)
    if config.recompute:
        fast.recompute_blocks(model)
    # Batches of like length have as many shapes as there are lengths.
    if config.batching == "packed":
        first = batches.batch(1).part(ranks.rank(), ranks.count(), model.device)
        packed = shapes_of_passes(first.ids, at_once)
        one_pass = partial(
            masked_backward, model, first.ids, first.mask, first.n_learned, first.segments, at_once
        )
        compiles = yield from fast.decide(
            config.compile,
            workspace,
            lambda: fast.pays(model, one_pass, tuple(first.ids.shape), batches.steps, packed),
            batches.steps,
        )
        if compiles:
            fast.compile_blocks(model, packed)
    elif config.compile == "on":
        yield Log("Batches of like length have too many shapes: `compile` is left aside.", "warning")
    questions = held_out.questions(conversations, config.n_samples)
    notes: dict[str, Any] = {"seconds": 0.0, "tokens": 0, "learned_tokens": 0, "val_losses": []}

    update = Update(
        model,
        opts,
        lambda step: lr_share(step - 1, batches.steps, config.schedule, config.warmup, config.cooldown),
        notes=notes,
        grad_clip=config.grad_clip,
        spread=config.spike,
        ema=config.ema,
        place=batches.told,
    )
    peak = ranks.count() * device.peak_flops(model.device)
    joules = Energy(model.device)

    def advance(step: int) -> list[Event]:
        begin = time.perf_counter()
        batch = batches.batch(step)
        n_tokens, n_learned = batch.ids.numel(), batch.n_learned
        part = batch.part(ranks.rank(), ranks.count(), model.device)
        loss = masked_backward(model, part.ids, part.mask, n_learned, part.segments, at_once)
        told = update(step, loss, epochs=step / batches.steps * config.epochs)
        seconds = time.perf_counter() - begin
        notes["seconds"] += seconds
        notes["tokens"] += n_tokens
        notes["learned_tokens"] += n_learned
        flops = _flops(
            model.config, (len(batch.ids), batch.ids.size(1)), n_learned, config.lora_rank is not None
        )
        speed = {"tokens_per_second": n_tokens / seconds, "mfu": flops / seconds / peak}
        return [*told, Metric(step, speed | joules.since_last(n_tokens))]

    def evaluate(step: int) -> Generator[Event, None, None]:
        with update.averaged():
            val_loss = yield from held_out.loss(
                model, conversations, config.val_conversations, 4 * config.batch_tokens
            )
        # The model that training begins with is published already.
        if step and val_loss <= min(notes["val_losses"][1:], default=val_loss):
            notes["best"] = step
        notes["val_losses"].append(val_loss)
        yield Metric(step, {"val_loss": val_loss})
        yield Summary({"val_loss": round(val_loss, 4)})

    def sample(step: int) -> Generator[Event, None, None]:
        with update.averaged():
            yield from held_out.answers(model, tokenizer, questions, config.sample_tokens, step)

    loop = Loop(
        steps=batches.steps,
        advance=advance,
        capture=update.capture,
        read=update.read,
        chores={
            "evaluate": Chore(every(config.eval_every, batches.steps), evaluate),
            "sample": Chore(every(config.sample_every, batches.steps), sample),
        },
        notes=notes,
        save_every=config.save_every,
        keep_last=config.keep_last,
        keep_every=config.keep_every,
    )
    yield from loop.run(workspace)
    if not ranks.is_first():
        return

    best = workspace.state_of(notes["best"]) if config.publish == "best" else None
    if best is not None:
        update.read(best)
    before, after = notes["val_losses"][0], notes["val_losses"][-1]
    if best is not None:
        after = min(notes["val_losses"][1:])
    summary: dict[str, Any] = {
        "val_loss": round(after, 4),
        "val_loss_before": round(before, 4),
        "n_conversations": conversations.n,
        "n_held_out": len(conversations.val),
        "datasets": conversations.told(config.epochs),
        "n_parameters": model.config.n_parameters,
        "steps": batches.steps,
        "step": notes["best"] if best is not None else loop.steps,
        "tokens": notes["tokens"],
        "learned_tokens": notes["learned_tokens"],
        "tokens_per_second": round(notes["tokens"] / max(1e-9, notes["seconds"])),
        "device": model.device.type,
    }
    writer = workspace.create("checkpoint", "checkpoint", role="chat")
    with update.averaged():
        checkpoint.save(lora.merged(model), tokenizer, writer.path)
    yield workspace.made("checkpoint", writer.finish(summary))
    verdict = "fell" if after < before else "did not fall: it went"
    finding = f"The loss on held-out answers {verdict} from {before:.2f} to {after:.2f} nats per token."
    yield Summary({**summary, "findings": [finding]})


def _flops(config: Any, shape: tuple[int, int], n_learned: int, frozen: bool) -> float:
    """Operations to learn from (rows, width) tokens.

    The head runs on what is learned only, and matrices that are frozen need no gradient of their own.
    """
    n_tokens = shape[0] * shape[1]
    head = 6 * config.vocab_size * config.d_model
    matrices = config.flops_per_token(0) * n_tokens - head * (n_tokens - n_learned)
    attention = (config.flops_per_token(shape[1]) - config.flops_per_token(0)) * n_tokens
    return matrices * (2 / 3 if frozen else 1) + attention


def cost(config: SftConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_parameters = next(
        (s["n_parameters"] for s in inputs.get("checkpoint", []) if "n_parameters" in s), 1_000_000
    )
    n = sum(s.get("n_rows", 0) for s in inputs.get("conversations", [])) or 30_000
    tokens = n * TOKENS_PER_CONVERSATION * config.epochs
    return Cost(
        seconds=10 + 6 * n_parameters * tokens / CORE_FLOPS,
        memory_bytes=int(4e8 + 16 * n_parameters + 40_000 * min(config.batch_tokens, TOKENS_AT_ONCE)),
        disk_bytes=28 * n_parameters + 5 * n * TOKENS_PER_CONVERSATION,
        facts={
            "conversations": f"{n:,}",
            "updates": f"about {max(1, tokens // config.batch_tokens):,}",
            "time is for": "one processor core; a GPU takes a small part of it",
        },
    )


RECIPE = Recipe(
    kind="sft",
    title="Supervised fine-tuning",
    stage="assistant",
    explanation=(
        "Goes on training a base model, now on conversations and on the assistant's words only, because a model that "
        "continues any text does not yet answer a question."
    ),
    config=SftConfig,
    run=run,
    parallel=True,
    takes={
        "checkpoint": Input(
            "checkpoint", ("base", "chat", "reasoner", "aligned"), description="The model to begin with."
        ),
        "conversations": Input(
            "dataset",
            ("conversations",),
            many=True,
            description="Answers to imitate; of several datasets, mixed by weight.",
        ),
    },
    makes={"checkpoint": Output("checkpoint", "chat", description="A model that answers.")},
    presets=(
        Preset(
            "tour",
            "Tour",
            "One pass over the conversations; 50,000 of them take two minutes of one core.",
            # On packed rows the held-out loss ends at 0.28 with twice the default rates, 0.24 with them, 0.20 with half,
            # and 0.76 of held-out problems solved become 0.83.
            {"muon_lr": 0.0175, "adam_lr": 4e-3},
        ),
        Preset(
            "tiny",
            "Tiny",
            "Small updates and short samples, for a few hundred conversations: shows the mechanism in seconds.",
            {"batch_tokens": 512, "eval_every": 20, "sample_every": 20, "n_samples": 2, "sample_tokens": 16},
        ),
        Preset(
            "small",
            "Small",
            "Gentler rates and larger updates for a network of some 12 million parameters.",
            {"batch_tokens": 8192, "epochs": 2, "muon_lr": 0.01, "adam_lr": 1e-3, "cooldown": 0.8},
        ),
    ),
    measures=(
        Measure(
            "val_loss",
            "Held-out loss",
            "nats per token",
            "lower",
            "Of the assistant's tokens, on questions kept from training.",
        ),
        Measure("loss", "Training loss", "nats per token"),
        Measure("lr", "Learning rate", hint="Of the matrices; embedding and head follow the same shape."),
        Measure("grad_norm", "Gradient norm"),
        Measure("tokens_per_second", "Speed", "tokens/s", "higher"),
        Measure(
            "mfu",
            "Utilization",
            "share",
            "higher",
            "Of what this machine reaches in one large matrix product; what is not learned from costs no head.",
        ),
        Measure("epochs", "Times through the conversations", "epochs", "higher"),
        Measure("memory_gb", "Memory", "GB", hint="The most that this process has held."),
        Measure(
            "joules_per_token",
            "Energy",
            "J per token",
            hint="Of the whole machine, where it lets one read its counters.",
        ),
    ),
    why=(
        "Why is there no loss on the question?",
        "The model is to learn to answer, not to ask. Were it trained on the user's words as well, much of its effort "
        "would go into guessing what people ask, and it would be as willing to go on with the question as to answer it.",
        "Ouyang et al. 2022, Training language models to follow instructions with human feedback, arXiv:2203.02155",
    ),
    cost=cost,
)
