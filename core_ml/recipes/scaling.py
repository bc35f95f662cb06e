"""Trains a ladder of small networks, fits how loss falls with size and tokens, and says what a budget should buy."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from core_ml.config import RecipeConfig, setting
from core_ml.errors import UserError
from core_ml.events import Event, Figure, Log, Progress, Summary
from core_ml.recipe import Cost, Input, Preset, Recipe, Stage
from core_ml.training.config import CORE_FLOPS, PretrainConfig
from core_ml.training.scaling_law import FEWEST, FLOPS, Law, Point, bootstrap, fit, interval
from core_ml.workspace import Workspace

OPTIMIZER, REPORTS, MACHINE = "Optimizer", "Reports", "Machine"
POINT = "point.json"
DRAWS = 100


class ScalingConfig(RecipeConfig):
    depths: list[Annotated[int, Field(ge=1, le=256)]] = setting(
        [1, 2, 3],
        "Layers of the networks; each is 64 times as wide.",
        unit="layers",
        min_length=1,
        max_length=32,
    )
    ratios: list[Annotated[float, Field(gt=0, le=10_000)]] = setting(
        [2.0, 5.0, 12.0],
        "Tokens that each network reads for each of its parameters.",
        unit="tokens per parameter",
        min_length=1,
        max_length=32,
    )
    budget: float = setting(
        1e15,
        "Operations to spend on one network, for which a size and a number of tokens are proposed; one core does "
        "about 1e11 a second, a GPU 1e14 and more.",
        unit="FLOP",
        gt=0,
        le=1e30,
    )
    largest: float | None = setting(
        None,
        "Networks whose training would take more operations are left out, so that large ratios serve the small ones.",
        unit="FLOP",
        gt=0,
        le=1e30,
    )
    batch_size: int = setting(16, "Windows of text in each update.", unit="windows", ge=1, le=65_536)
    seq_len: int = setting(128, "Length of a window.", unit="tokens", ge=8, le=65_536)
    seed: int = setting(0, "The same seed gives the same networks.", ge=0, le=2**31 - 1)
    muon_lr: float = setting(0.03, "Peak learning rate of the matrices (Muon).", group=OPTIMIZER, gt=0, le=1)
    adam_lr: float = setting(
        6e-3,
        "Peak learning rate of embedding and head (AdamW) at a width of 128; wider networks take less.",
        group=OPTIMIZER,
        gt=0,
        le=1,
    )
    val_tokens: int = setting(
        65_536, "Validation tokens that each loss is measured on.", unit="tokens", group=REPORTS, ge=64
    )
    threads: int | None = setting(None, "Processor threads of each network.", group=MACHINE, ge=1, le=1024)

    def of(self, depth: int, ratio: float, vocab_size: int) -> PretrainConfig:
        """The pretraining of one network of the ladder."""
        shared = self.model_dump(
            include={"batch_size", "seq_len", "seed", "muon_lr", "adam_lr", "val_tokens"}
        )
        given = {"depth": depth, "tokens_per_parameter": ratio, "max_seq_len": max(16, self.seq_len)}
        return PretrainConfig.model_validate(shared | given).resolved(vocab_size)

    def ladder(self, vocab_size: int) -> dict[str, PretrainConfig]:
        """The pretrainings by name."""
        found = {}
        for depth in self.depths:
            for ratio in self.ratios:
                one = self.of(depth, ratio, vocab_size)
                flops = FLOPS * one.network(vocab_size).n_parameters * one.n_tokens
                if self.largest is None or flops <= self.largest:
                    found[f"depth{depth}-ratio{ratio:g}"] = one
        return found


def networks(config: ScalingConfig, workspace: Workspace) -> list[str]:
    from core_ml.tokenizer.tokenizer import Tokenizer

    return list(config.ladder(Tokenizer.load(workspace.input("tokenizer").file("tokenizer.json")).vocab_size))


def train(name: str, config: ScalingConfig, workspace: Workspace) -> Iterator[Event]:
    """One network from nothing to its loss. One that cannot be trained makes no point, and is left out of the law.

    There is no state to go back to, and beginning again would repeat every update to the same end.
    """
    import torch

    from core_ml.model import device
    from core_ml.model.gpt import GPT
    from core_ml.tokenizer.tokenizer import Tokenizer
    from core_ml.training.evaluate import Validation
    from core_ml.training.guard import Spoilt
    from core_ml.training.loss import backward
    from core_ml.training.mixture import opened
    from core_ml.training.optim import optimizers
    from core_ml.training.schedule import lr_share
    from core_ml.training.update import Update

    device.use_threads(config.threads)
    tokenizer = Tokenizer.load(workspace.input("tokenizer").file("tokenizer.json"))
    mixture = yield from opened(workspace, tokenizer, 0.05, config.seed, None)
    one = config.ladder(tokenizer.vocab_size)[name]
    batches = mixture.batches(one.seq_len, one.batch_size, one.seed)
    target = device.choose()
    torch.manual_seed(one.seed)
    model = GPT(one.network(tokenizer.vocab_size)).to(target)
    update = Update(
        model,
        optimizers(model, one.muon_lr, one.adam_lr),
        lambda step: lr_share(step - 1, one.steps, one.schedule, one.warmup, one.cooldown),
        notes={},
    )
    for step in range(1, one.steps + 1):
        ids = torch.from_numpy(batches.batch(step)).to(target)
        try:
            told = update(step, backward(model, ids, device.tokens_at_once(target)))
        except Spoilt as spoilt:
            yield Log(f"{name} was given up at update {step} of {one.steps}: {spoilt.reason}", "warning")
            return
        for event in told:
            if isinstance(event, Log):
                yield replace(event, message=f"{name}: {event.message}")
        yield Progress(step, one.steps, message=f"training {name}")
    validation = Validation(mixture.windows(one.seq_len, one.val_tokens), tokenizer)
    loss = yield from validation.measure(model)
    if not math.isfinite(loss):
        yield Log(f"{name} was given up: its loss on validation text is {loss}", "warning")
        return
    tokens = one.n_tokens
    point = {"n_parameters": model.config.n_parameters, "tokens": tokens, "loss": loss, "depth": one.n_layer}
    assert workspace.shard_dir is not None
    (workspace.shard_dir / POINT).write_text(json.dumps(point))
    epochs = tokens / mixture.n_tokens
    yield Log(
        f"{name}: {loss:.4f} bits per byte with {point['n_parameters']:,} parameters and {tokens:,} tokens"
    )
    if epochs > 4:
        yield Log(f"{name} read its text {epochs:.1f} times, and a law of fresh text may not hold", "warning")


def conclude(name: str, config: ScalingConfig, workspace: Workspace) -> Iterator[Event]:
    """The law of all networks, with intervals, and what it proposes."""
    folders = workspace.shards("train")
    rows = [json.loads((folder / POINT).read_text()) for folder in folders if (folder / POINT).exists()]
    given_up = [folder.name for folder in folders if not (folder / POINT).exists()]
    points = [Point(row["n_parameters"], row["tokens"], row["loss"]) for row in rows]
    said = _given_up(given_up)
    if said:
        yield Log(said[0], "warning")
        if len(points) < FEWEST:
            raise UserError(
                f"{len(points)} of {len(folders)} networks could be trained, and a law needs {FEWEST}",
                hint="Lower muon_lr and adam_lr, or add depths and ratios.",
            )
    law = fit(points)
    yield Progress(0, None, message="drawing again")
    laws = bootstrap(points, DRAWS, config.seed)
    n_parameters, tokens = law.best(config.budget)
    best = [other.best(config.budget) for other in laws] or [(n_parameters, tokens)]
    sizes, reads = interval([n for n, _ in best]), interval([d for _, d in best])
    yield _figure(rows, law)
    summary = {
        "alpha": round(law.alpha, 3),
        "beta": round(law.beta, 3),
        "floor": round(law.floor, 4),
        "n_networks": len(points),
        "budget_flop": config.budget,
        "proposed_parameters": round(n_parameters),
        "proposed_tokens": round(tokens),
        "proposed_loss": round(law.loss(n_parameters, tokens), 4),
        "law": {"floor": law.floor, "a": law.a, "alpha": law.alpha, "b": law.b, "beta": law.beta},
    }
    findings = _findings(points, law, laws, config.budget, sizes, reads)
    yield Summary({**summary, "findings": [*findings, *said]})


def _given_up(names: list[str]) -> list[str]:
    """A sentence about the networks that are not in the law, where there are any."""
    if not names:
        return []
    listed = ", ".join(names)
    return [f"Not in the law, since training gave no numbers any more: {listed}. Lower muon_lr and adam_lr."]


def _findings(
    points: list[Point],
    law: Law,
    laws: list[Law],
    budget: float,
    sizes: tuple[float, float],
    reads: tuple[float, float],
) -> list[str]:
    n_parameters, tokens = law.best(budget)
    misses = [abs(law.loss(p.n_parameters, p.tokens) / p.loss - 1) for p in points]
    said = [
        f"For {budget:.2g} operations: {n_parameters:,.0f} parameters ({sizes[0]:,.0f} to {sizes[1]:,.0f}) and "
        f"{tokens:,.0f} tokens ({reads[0]:,.0f} to {reads[1]:,.0f}), {tokens / n_parameters:.1f} tokens for each.",
        f"Loss falls as {law.floor:.2f} + {law.a:.3g} / N^{law.alpha:.2f} + {law.b:.3g} / D^{law.beta:.2f} bits a "
        f"byte; the {len(points)} networks lie within {max(misses):.1%} of it.",
    ]
    reach = max(FLOPS * p.n_parameters * p.tokens for p in points)
    if budget > 100 * reach:
        said.append(
            f"The budget is {budget / reach:,.0f} times the largest network's: so far beyond the ladder the law is a "
            "guess; add depths."
        )
    if len(laws) < DRAWS / 2 or sizes[1] > 10 * sizes[0]:
        said.append("The ladder is too short to say much: the interval spans more than a factor of ten.")
    return said


def _figure(rows: list[dict[str, Any]], law: Law) -> Figure:
    """Loss over operations, a curve for each size, with the law's best in grey."""
    traces: list[dict[str, Any]] = []
    for depth in sorted({row["depth"] for row in rows}):
        own = sorted((row for row in rows if row["depth"] == depth), key=lambda row: row["tokens"])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{own[0]['n_parameters'] / 1e6:.2g} M",
                "x": [FLOPS * row["n_parameters"] * row["tokens"] for row in own],
                "y": [row["loss"] for row in own],
            }
        )
    spent = sorted(FLOPS * row["n_parameters"] * row["tokens"] for row in rows)
    steps = [spent[0] * (10 * spent[-1] / spent[0]) ** (k / 40) for k in range(41)]
    best = {
        "type": "scatter",
        "mode": "lines",
        "name": "best split",
        "line": {"dash": "dash", "color": "#8f999e"},
    }
    traces.append({**best, "x": steps, "y": [law.loss(*law.best(flops)) for flops in steps]})
    layout = {
        "xaxis": {"type": "log", "title": {"text": "operations (FLOP)"}},
        "yaxis": {"title": {"text": "bits per byte"}},
    }
    text = (
        f"Ten times the operations bring the loss from {law.loss(*law.best(spent[-1])):.3f} to "
        f"{law.loss(*law.best(10 * spent[-1])):.3f} bits per byte, by the law."
    )
    return Figure("scaling", len(rows), "Loss for what was spent", {"data": traces, "layout": layout}, text)


def cost(config: ScalingConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    vocab_size = next((s["vocab_size"] for s in inputs.get("tokenizer", []) if "vocab_size" in s), 1024)
    ladder = config.ladder(vocab_size).values()
    shapes = [(one.network(vocab_size), one) for one in ladder]
    flops = sum(network.flops_per_token(one.seq_len) * one.n_tokens for network, one in shapes)
    largest = max((network.n_parameters for network, _ in shapes), default=0)
    n = len(shapes)
    return Cost(
        seconds=10.0 * n + flops / CORE_FLOPS,
        memory_bytes=int(5e8 + 16 * largest),
        facts={"networks": f"{n}", "operations": f"{flops:.2g}", "time is for": "one processor core"},
    )


RECIPE = Recipe(
    kind="scaling",
    title="Scaling law",
    stage="base",
    explanation=(
        "Trains a ladder of small networks and fits how their loss falls with size and with tokens, because that "
        "tells what a large run will reach before it is paid for."
    ),
    config=ScalingConfig,
    takes={
        "tokens": Input(
            "dataset", ("tokens",), many=True, description="Packed text, which all of them read."
        ),
        "tokenizer": Input("tokenizer", description="With which it was packed."),
    },
    makes={},
    stages=(
        Stage("train", "Training the ladder", networks, train),
        Stage("fit", "Fitting the law", lambda config, workspace: ["all"], conclude),
    ),
    presets=(
        Preset(
            "small",
            "Small ladder",
            "Nine networks of up to some two million parameters: an hour of one core.",
        ),
        Preset(
            "tiny",
            "Tiny ladder",
            "Six networks in about a minute, to see the mechanism; its law says next to nothing.",
            {
                "depths": [1, 2],
                "ratios": [0.05, 0.1, 0.2],
                "seq_len": 64,
                "batch_size": 8,
                "val_tokens": 8192,
            },
        ),
    ),
    why=(
        "Why not simply train the largest network that fits?",
        "A network that is too large for its text, or a text too long for its network, wastes computing. Small "
        "networks lie on smooth curves that go on for many orders of magnitude, so an hour of them says where the "
        "best split lies.",
        "Hoffmann et al. 2022, Training compute-optimal large language models, arXiv:2203.15556",
    ),
    cost=cost,
)
