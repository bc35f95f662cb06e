"""What a pretraining run can be told, and the settings that every kind of training shares; readable without torch."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.model import families
from core_ml.model.config import GPTConfig, check_heads, sizes_of, width_share
from core_ml.training.schedule import Schedule

DATA, NETWORK, OPTIMIZER, REPORTS, MACHINE = "Data", "Network", "Optimizer", "Reports", "Machine"
CORE_FLOPS = 1.5e11
"""What one processor core does of a small network's operations in a second, measured."""

# What any recipe that trains may offer: it names those that it heeds, where its form wants them and with its own
# default. `None` is "off" for those that may be it.
ScheduleName = Annotated[
    Schedule,
    setting("wsd", "wsd warms up, stays and cools down; cosine falls all the way.", group=OPTIMIZER),
]
Warmup = Annotated[
    float, setting(0.02, "Share of the steps over which the rate rises.", group=OPTIMIZER, ge=0, le=1)
]
Cooldown = Annotated[
    float, setting(0.5, "Share of the steps over which wsd falls.", group=OPTIMIZER, ge=0, le=1)
]
GradClip = Annotated[
    float | None,
    setting(None, "Longest gradient; longer ones are scaled down.", group=OPTIMIZER, gt=0),
]
Ema = Annotated[
    float | None,
    setting(
        None,
        "Weight of the past in a running average of the weights, which is then measured and published: 0.99 "
        "averages the last hundred updates.",
        group=OPTIMIZER,
        gt=0,
        lt=1,
    ),
]
Spike = Annotated[
    float | None,
    setting(
        10.0,
        "Updates whose loss stands so many usual spreads above the usual are passed over; three in a row send the "
        "run back to its last saved state.",
        group=OPTIMIZER,
        gt=0,
    ),
]
Publish = Literal["last", "best"]
Weights = list[Annotated[float, Field(gt=0)]]
SaveEvery = Annotated[float, setting(20.0, "Between two saved states.", unit="s", group=MACHINE, ge=0)]
KeepLast = Annotated[int, setting(2, "Newest saved states that are kept.", group=MACHINE, ge=2, le=1000)]
KeepEvery = Annotated[
    int | None,
    setting(None, "States at multiples of this step are kept as well.", unit="steps", group=MACHINE, ge=1),
]
Compile = Annotated[
    Literal["auto", "on", "off"],
    setting(
        "auto",
        "Turn the layers into large kernels first; auto finds out by a short probe whether the run is long enough, "
        "and leaves a network that is sharded, and batches of like length, as they are.",
        group=MACHINE,
    ),
]
Recompute = Annotated[
    bool,
    setting(
        False,
        "Keep each layer's input only and make the rest anew in the backward pass: a third slower, for networks "
        "that do not fit in memory otherwise.",
        group=MACHINE,
    ),
]
Processes = Annotated[
    int | None,
    setting(
        None,
        "Processes that share each update, under torchrun; by default one for each GPU, one without.",
        group=MACHINE,
        ge=1,
        le=1024,
    ),
]


class PretrainConfig(RecipeConfig):
    steps: int = setting(350, "Updates of the weights.", unit="steps", ge=1, le=10_000_000)
    batch_size: int = setting(16, "Windows of text in each update.", unit="windows", ge=1, le=65_536)
    seq_len: int = setting(
        128, "Length of a window: how far back the network learns to look.", unit="tokens", ge=8, le=65_536
    )
    seed: int = setting(
        0, "The same seed gives the same weights and the same order of text.", ge=0, le=2**31 - 1
    )
    weights: Weights | None = setting(
        None,
        "Where several datasets are read: how much of each, in their order; by default as much as each one has.",
        group=DATA,
        min_length=1,
        max_length=1000,
    )
    depth: int | None = setting(
        None,
        "One dial for the network: sets layers, width, heads and AdamW's rate, whatever their fields say.",
        group=NETWORK,
        ge=1,
        le=256,
    )
    tokens_per_parameter: float | None = setting(
        None,
        "Sets the steps from the size of the network; 20 is what Hoffmann et al. 2022 found to be the best use of "
        "computing.",
        unit="tokens",
        group=NETWORK,
        gt=0,
        le=10_000,
    )
    n_layer: int = setting(4, "Blocks of attention and feed-forward.", group=NETWORK, ge=1, le=256)
    d_model: int = setting(
        128, "Width of the residual stream; a multiple of 2 × n_head.", group=NETWORK, ge=8, le=16_384
    )
    n_head: int = setting(4, "Heads of attention.", group=NETWORK, ge=1, le=256)
    n_kv_head: int = setting(
        4,
        "Key-value heads; fewer than n_head make generation cheaper. Must divide n_head.",
        group=NETWORK,
        ge=1,
        le=256,
    )
    ff_mult: float = setting(
        3.0, "Width of the feed-forward layer, in widths of the network.", group=NETWORK, gt=0, le=16
    )
    max_seq_len: int = setting(
        512,
        "The longest text that the network can ever be asked to read.",
        unit="tokens",
        group=NETWORK,
        ge=16,
        le=1_048_576,
    )
    tie_embeddings: bool = setting(
        False, "Use the embedding as the head too: fewer parameters.", group=NETWORK
    )
    family: Literal["own", "gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "nanochat"] = (
        setting(
            "own",
            "Everything but sizes, as a published family has it. own: squared ReLU, norms without weights, also of queries, "
            "keys and embedding, and first the identity. gpt2: learned positions, layer norms, GELU, biases, tied. llama: the "
            "third, gated SiLU, rotary positions. mistral: the first, llama with a window of an eighth of max_seq_len. qwen2: "
            "llama with biased queries, keys and values. qwen3: llama with normalized queries and keys. smollm3: llama, every "
            "fourth layer without positions, tied. gemma2: gated GELU, norms around both parts, capped logits, half of "
            "max_seq_len in every second layer, tied. nanochat: own with capped logits.",
            group=NETWORK,
        )
    )
    muon_lr: float = setting(0.03, "Peak learning rate of the matrices (Muon).", group=OPTIMIZER, gt=0, le=1)
    adam_lr: float = setting(
        6e-3, "Peak learning rate of embedding and head (AdamW).", group=OPTIMIZER, gt=0, le=1
    )
    schedule: ScheduleName = "wsd"
    warmup: Warmup = 0.02
    cooldown: Cooldown = 0.5
    grad_clip: GradClip = None
    ema: Ema = None
    spike: Spike = 10.0
    val_share: float = setting(
        0.05,
        "Share of the text kept for validation, whole hosts where there are many.",
        group=REPORTS,
        gt=0,
        le=0.5,
    )
    val_tokens: int = setting(
        65_536,
        "Validation tokens that each measurement reads, at most.",
        unit="tokens",
        group=REPORTS,
        ge=64,
        le=100_000_000,
    )
    eval_every: int = setting(
        50, "Between two measurements on validation text.", unit="steps", group=REPORTS, ge=1
    )
    sample_every: int = setting(50, "Between two rounds of samples.", unit="steps", group=REPORTS, ge=1)
    sample_tokens: int = setting(48, "Length of a sample.", unit="tokens", group=REPORTS, ge=1, le=4096)
    publish: Publish = setting(
        "last", "The weights after the last update, or those that did best on validation text.", group=REPORTS
    )
    save_every: SaveEvery = 20.0
    keep_last: KeepLast = 2
    keep_every: KeepEvery = None
    shard: bool = setting(
        False,
        "Keep one share of every layer's weights and optimizer state on each process, for networks that do not fit "
        "on one GPU.",
        group=MACHINE,
    )
    threads: Threads = None
    compile: Compile = "auto"
    recompute: Recompute = False
    processes: Processes = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_heads(self.d_model, self.n_head, self.n_kv_head)
        if self.seq_len > self.max_seq_len:
            raise ValueError(
                f"seq_len {self.seq_len} is longer than max_seq_len {self.max_seq_len}: "
                "make seq_len smaller or max_seq_len larger"
            )
        return self

    def resolved(self, vocab_size: int) -> Self:
        """The config with everything that its dials set."""
        given: dict[str, Any] = {}
        if self.depth is not None:
            given |= sizes_of(self.depth)
            given["adam_lr"] = self.adam_lr * width_share(given["d_model"])
        sized = self.model_copy(update={**given, "depth": None})
        if self.tokens_per_parameter is not None:
            tokens = self.tokens_per_parameter * sized.network(vocab_size).n_parameters
            steps = max(1, math.ceil(tokens / (self.batch_size * self.seq_len)))
            sized = sized.model_copy(update={"steps": steps, "tokens_per_parameter": None})
        return sized

    @property
    def n_tokens(self) -> int:
        """What the whole run reads, its dials being resolved."""
        return self.steps * self.batch_size * self.seq_len

    def network(self, vocab_size: int) -> GPTConfig:
        sizes = GPTConfig(
            vocab_size=vocab_size,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_kv_head=self.n_kv_head,
            d_model=self.d_model,
            ff_mult=self.ff_mult,
            max_seq_len=self.max_seq_len,
            tie_embeddings=self.tie_embeddings,
        )
        return sizes if self.family == "own" else families.released(self.family, sizes)
