"""Trains a network from nothing to predict the next token of documents."""

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from core_ml import ranks
from core_ml.errors import UserError
from core_ml.events import Event, Metric, Sample, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.training.config import CORE_FLOPS, PretrainConfig
from core_ml.training.report import figure, findings
from core_ml.training.schedule import lr_share
from core_ml.workspace import Workspace

PROMPT_TOKENS = 8
TEMPERATURE = 0.8
TOKENS_AT_ONCE = 2048  # of one pass on a processor


def run(config: PretrainConfig, workspace: Workspace) -> Iterator[Event]:
    import torch

    from core_ml.model import checkpoint, device
    from core_ml.model.energy import Energy
    from core_ml.model.gpt import GPT
    from core_ml.tokenizer.tokenizer import Tokenizer
    from core_ml.training import fast, sharding
    from core_ml.training.evaluate import Validation
    from core_ml.training.loop import Chore, Loop, every, resumed
    from core_ml.training.loss import backward
    from core_ml.training.mixture import opened
    from core_ml.training.optim import optimizers
    from core_ml.training.update import Update

    yield resumed(workspace)
    device.use_threads(config.threads)
    target = device.choose()
    tokenizer = Tokenizer.load(workspace.input("tokenizer").file("tokenizer.json"))
    config = config.resolved(tokenizer.vocab_size)
    with ranks.first_alone():
        mixture = yield from opened(workspace, tokenizer, config.val_share, config.seed, config.weights)
        validation = Validation(mixture.windows(config.seq_len, config.val_tokens), tokenizer)
        baselines = yield from validation.baselines(mixture.text(), workspace)
    batches = mixture.batches(config.seq_len, config.batch_size, config.seed)
    prompts = _prompts(validation, tokenizer)
    yield Summary(baselines)

    torch.manual_seed(config.seed)
    model = GPT(config.network(tokenizer.vocab_size))
    if config.shard:
        if config.batch_size % ranks.count():
            raise UserError(
                f"batch_size {config.batch_size} must be a multiple of the {ranks.count()} processes where the "
                "network is sharded",
                field="batch_size",
            )
        sharding.shard(model, target)
    model.to(target)
    opts = optimizers(model, config.muon_lr, config.adam_lr)
    peak = ranks.count() * device.peak_flops(target)
    tokens_per_step = config.batch_size * config.seq_len
    flops_per_step = model.config.flops_per_token(config.seq_len) * tokens_per_step
    notes: dict[str, Any] = {"seconds": 0.0, "curve": []}

    n_rows = len(range(ranks.rank(), config.batch_size, ranks.count()))
    example = torch.zeros(n_rows, config.seq_len + 1, dtype=torch.long, device=target)
    at_once = device.tokens_at_once(target)
    if config.recompute:
        fast.recompute_blocks(model)
    one_pass = partial(backward, model, example, at_once)
    compiles = yield from fast.decide(
        config.compile,
        workspace,
        lambda: fast.pays(model, one_pass, tuple(example.shape), config.steps),
        config.steps,
        config.shard,
    )
    if compiles:
        fast.compile_blocks(model)

    update = Update(
        model,
        opts,
        lambda step: lr_share(step - 1, config.steps, config.schedule, config.warmup, config.cooldown),
        notes=notes,
        grad_clip=config.grad_clip,
        spread=config.spike,
        ema=config.ema,
        place=lambda step: f"Windows {(step - 1) * config.batch_size:,} to {step * config.batch_size - 1:,}.",
    )
    joules = Energy(target)

    def advance(step: int) -> list[Event]:
        begin = time.perf_counter()
        ids = torch.from_numpy(batches.batch(step, ranks.rank(), ranks.count())).to(target)
        loss = backward(model, ids, at_once, config.batch_size)
        told = update(step, loss, epochs=step * tokens_per_step / mixture.n_tokens)
        seconds = time.perf_counter() - begin
        notes["seconds"] += seconds
        speed = {"tokens_per_second": tokens_per_step / seconds, "mfu": flops_per_step / seconds / peak}
        return [*told, Metric(step, speed | joules.since_last(tokens_per_step))]

    def evaluate(step: int) -> Generator[Event, None, None]:
        with update.averaged():
            val_bits_per_byte = yield from validation.measure(model)
        if val_bits_per_byte <= min((value for _, value in notes["curve"]), default=val_bits_per_byte):
            notes["best"] = step
        notes["curve"].append([step, val_bits_per_byte])
        yield Metric(step, {"val_bits_per_byte": val_bits_per_byte})
        yield figure(notes["curve"], baselines)
        yield Summary({"val_bits_per_byte": round(val_bits_per_byte, 4)})

    def sample(step: int) -> Generator[Event, None, None]:
        with update.averaged():
            whole = sharding.whole(model)
            if whole is None or not ranks.is_first():
                return
            for text in _samples(whole, tokenizer, prompts, config.sample_tokens, config.seed):
                yield replace(text, step=step)

    loop = Loop(
        steps=config.steps,
        advance=advance,
        capture=update.capture,
        read=update.read,
        chores={
            "evaluate": Chore(every(config.eval_every, config.steps), evaluate),
            "sample": Chore(every(config.sample_every, config.steps), sample),
        },
        notes=notes,
        save_every=config.save_every,
        keep_last=config.keep_last,
        keep_every=config.keep_every,
    )
    yield from loop.run(workspace)
    best = workspace.state_of(notes["best"]) if config.publish == "best" else None
    if best is not None:
        update.read(best)
    with update.averaged():
        published = sharding.whole(model)
        if published is None or not ranks.is_first():
            return
        writer = workspace.create("checkpoint", "checkpoint", role="base")
        checkpoint.save(published, tokenizer, writer.path)
    n_tokens = config.steps * tokens_per_step
    summary: dict[str, Any] = {
        "val_bits_per_byte": round(dict(notes["curve"])[notes["best"] if best else config.steps], 4),
        "step": notes["best"] if best else config.steps,
        **baselines,
        "n_parameters": model.config.n_parameters,
        "tokens": n_tokens,
        "epochs": round(n_tokens / mixture.n_tokens, 2),
        "datasets": mixture.told(batches, config.steps),
        "train_tokens": mixture.n_tokens,
        "val_tokens": validation.n_tokens,
        "split_by": mixture.split_by,
        "tokens_per_second": round(n_tokens / max(1e-9, notes["seconds"])),
        "device": target.type,
    }
    yield workspace.made("checkpoint", writer.finish(summary))
    yield Summary({**summary, "findings": findings(summary)})


def _prompts(validation: Any, tokenizer: Any) -> list[list[int]]:
    """Nothing, and the beginnings of three validation windows: the same for every round of samples."""
    n = len(validation.windows)
    openings = [validation.windows[k * n // 3, :PROMPT_TOKENS].tolist() for k in range(min(3, n))]
    return [[], *([id for id in opening if id not in tokenizer.special_ids] for opening in openings)]


def _samples(
    model: Any, tokenizer: Any, prompts: list[list[int]], n_tokens: int, seed: int
) -> Iterator[Sample]:
    from core_ml.sampling.generate import generate

    completions = generate(
        model,
        [[tokenizer.bos_id, *prompt] for prompt in prompts],
        max_new_tokens=n_tokens,
        temperature=TEMPERATURE,
        stop_ids=(tokenizer.bos_id,),
        seed=seed,
    )
    for prompt, completion in zip(prompts, completions, strict=True):
        data = {"temperature": TEMPERATURE, "ended": completion.ended}
        yield Sample(0, tokenizer.decode(prompt), tokenizer.decode(completion.ids), data)


def cost(config: PretrainConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    vocab_size = next(
        (summary["vocab_size"] for summary in inputs.get("tokenizer", []) if "vocab_size" in summary), 1024
    )
    config = config.resolved(vocab_size)
    network = config.network(vocab_size)
    tokens = config.steps * config.batch_size * config.seq_len
    rounds = 1 + config.steps // config.eval_every
    # Measuring costs a third of training on the same tokens: it has no backward pass.
    flops = network.flops_per_token(config.seq_len) * (tokens + rounds * config.val_tokens / 3)
    scores = 6 * network.n_layer * network.n_head * config.seq_len
    per_token = 4 * (12 * network.d_model * network.n_layer + 3 * vocab_size) + scores
    at_once = min(config.batch_size * config.seq_len, TOKENS_AT_ONCE)
    n_bytes = sum(summary.get("bytes_text", 0) for summary in inputs.get("documents", []))
    return Cost(
        seconds=10 + flops / CORE_FLOPS,
        memory_bytes=int(4e8 + 16 * network.n_parameters + per_token * at_once),
        disk_bytes=int(4 * network.n_parameters + 2 * 12 * network.n_parameters + n_bytes),
        facts={
            "parameters": f"{network.n_parameters:,}",
            "tokens": f"{tokens:,}",
            "tokens per parameter": f"{tokens / network.n_parameters:.1f}",
            "time is for": "one processor core; a GPU takes a small part of it",
        },
    )


RECIPE = Recipe(
    kind="pretrain",
    title="Pretrain",
    stage="base",
    explanation=(
        "Trains a network from random weights to predict the next token of documents, because everything it will "
        "later be taught to say rests on having read."
    ),
    config=PretrainConfig,
    run=run,
    parallel=True,
    takes={
        "documents": Input(
            "dataset", ("documents",), many=True, instead="tokens", description="Texts to read; packed first."
        ),
        "tokens": Input(
            "dataset",
            ("tokens",),
            optional=True,
            many=True,
            description="Texts packed before, by the same tokenizer: instead of documents.",
        ),
        "tokenizer": Input("tokenizer", description="How the texts become numbers."),
    },
    makes={"checkpoint": Output("checkpoint", "base", description="A model that goes on with any text.")},
    presets=(
        Preset(
            "tour",
            "Tour",
            "0.9 million parameters in about a minute of one core: below a bigram model, and far from fluent.",
        ),
        Preset(
            "tiny",
            "Tiny",
            "40 steps of a network of 0.1 million parameters, in seconds: shows the mechanism and learns next to nothing.",
            {
                "steps": 40,
                "batch_size": 8,
                "seq_len": 64,
                "n_layer": 2,
                "d_model": 64,
                "n_head": 2,
                "n_kv_head": 1,
                "max_seq_len": 256,
                "val_tokens": 4096,
                "eval_every": 20,
                "sample_every": 20,
                "sample_tokens": 24,
            },
        ),
        Preset(
            "hour",
            "An hour",
            "1.5 million parameters that read 25 tokens for each: about what an hour of one core should buy, by the "
            "ladder of small networks (recipe scaling). Wants 20 MB of text or more.",
            {
                "depth": 3,
                "tokens_per_parameter": 25.0,
                "val_tokens": 131_072,
                "eval_every": 500,
                "sample_every": 1000,
            },
        ),
        Preset(
            "small",
            "Small",
            "About 12 million parameters and 65 million tokens: simple sentences after a night of one core or minutes of "
            "a GPU. Wants a vocabulary of 8,192 and 50 MB of text or more.",
            {
                "steps": 4000,
                "batch_size": 32,
                "seq_len": 512,
                "n_layer": 6,
                "d_model": 320,
                "n_head": 10,
                "n_kv_head": 5,
                "ff_mult": 4.0,
                "max_seq_len": 1024,
                "muon_lr": 0.02,
                "adam_lr": 3e-3,
                "cooldown": 0.4,
                "val_tokens": 131_072,
                "eval_every": 200,
                "sample_every": 200,
            },
        ),
    ),
    measures=(
        Measure(
            "val_bits_per_byte",
            "Validation loss",
            "bits per byte",
            "lower",
            "Of text from pages that were kept from training; does not depend on the tokenizer.",
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
            "Of what this machine reaches in one large matrix product.",
        ),
        Measure("epochs", "Times through the text", "epochs", "higher"),
        Measure("memory_gb", "Memory", "GB", hint="The most that this process has held."),
        Measure(
            "joules_per_token",
            "Energy",
            "J per token",
            hint="Of the whole machine, where it lets one read its counters.",
        ),
    ),
    why=(
        "What does it learn when nobody tells it what is right?",
        "The next token of a real text is the right answer, and there are millions of them. To guess it better than "
        "by counting pairs, the network must find out about spelling, grammar, and what the text is about. The bigram "
        "line shows what counting pairs alone achieves.",
        "Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2)",
    ),
    cost=cost,
)
