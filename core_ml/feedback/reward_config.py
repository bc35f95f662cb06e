"""The settings of a reward model's training, readable without torch."""

from typing import Literal

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.feedback.config import GradClip
from core_ml.training.config import (
    OPTIMIZER,
    REPORTS,
    Ema,
    KeepEvery,
    KeepLast,
    Publish,
    Recompute,
    SaveEvery,
    Spike,
)

MODEL = "Model"


class RewardConfig(RecipeConfig):
    epochs: float = setting(
        3.0,
        "Times that each ranking is read. More than a few make small sets learned by heart; InstructGPT read its many "
        "once (Ouyang et al. 2022, appendix C.2), the tour's some hundred need more.",
        gt=0,
        le=100,
    )
    lr: float = setting(
        5e-4,
        "Peak learning rate (AdamW). This lab's choice for networks of some million weights; InstructGPT's 6 billion had "
        "9e-6.",
        gt=0,
        lt=1,
    )
    held_out_share: float = setting(
        0.2, "Share of the prompts whose rankings only measure the model.", gt=0, le=0.9
    )
    loss: Literal["bradley_terry", "plackett_luce"] = setting(
        "bradley_terry",
        "How a ranking is read. bradley_terry: as all the pairs that it orders, each ranking counting alike, ties "
        "left out (Ouyang et al. 2022). plackett_luce: as a row of choices, ties included (Davidson 1970, Firth et "
        "al. 2019).",
        group=MODEL,
    )
    label_smoothing: float = setting(
        0.0,
        "Share of the labels that are taken to be wrong, so that the model is less sure of itself.",
        group=MODEL,
        ge=0,
        lt=0.5,
    )
    n_members: int = setting(
        1,
        "Models that learn the same rankings from other heads and in other orders; the score is their mean, and "
        "where they differ the score is not to be trusted. Time and size grow with it.",
        group=MODEL,
        ge=1,
        le=16,
    )
    weigh_labelers: bool = setting(
        False,
        "Count each ranking by how far the other labelers bear out the one who made it (Dawid and Skene 1979). Needs "
        "groups that several labelers ranked.",
        group=MODEL,
    )
    surface_features: bool = setting(
        False,
        "Weigh length, form and repetitions by a logistic regression first, so that the network learns what those "
        "leave over. Better on few rankings, and easier to game by reinforcement learning.",
        group=MODEL,
    )
    length_control: bool = setting(
        False,
        "Keep length apart while learning and leave it out of the score: what length explains is neither learned "
        "nor rewarded (Clark et al. 2019, Dubois et al. 2024).",
        group=MODEL,
    )
    tokens_per_step: int = setting(
        4096,
        "Padded tokens of one update: some 90 answers of the tour, or 15 of its groups, in little memory. InstructGPT's had "
        "64 prompts with all their answers.",
        unit="tokens",
        group=OPTIMIZER,
        ge=64,
        le=1_000_000,
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw",
        "What moves the matrices: AdamW at lr, or Muon at muon_lr, which makes every direction of a matrix move alike. "
        "Embedding, norms and the score's head have AdamW either way.",
        group=OPTIMIZER,
    )
    muon_lr: float = setting(
        2e-3, "Peak learning rate of the matrices with Muon.", group=OPTIMIZER, gt=0, le=1
    )
    weight_decay: float = setting(
        0.01,
        "Pull of the weights to 0 (Loshchilov and Hutter 2019, arXiv:1711.05101); 0.01 is PyTorch's own.",
        group=OPTIMIZER,
        ge=0,
        le=1,
    )
    centering: float = setting(
        0.001,
        "Pull of the rewards to 0, which pairs alone leave undetermined (Eisenstein et al. 2023, arXiv:2312.09244); so "
        "weak that it fixes the zero and hardly the order.",
        group=OPTIMIZER,
        ge=0,
        le=1,
    )
    warmup: float = setting(
        0.05,
        "Share of the updates with a rising rate, so that AdamW's averages settle before large steps.",
        group=OPTIMIZER,
        ge=0,
        le=1,
    )
    cooldown: float = setting(
        0.7,
        "Share of the updates with a falling rate, after a level stretch (Hu et al. 2024, arXiv:2404.06395); long, because "
        "a reward model reads its data only a few times.",
        group=OPTIMIZER,
        ge=0,
        le=1,
    )
    grad_clip: GradClip = 1.0
    ema: Ema = None
    spike: Spike = 10.0
    eval_every: int = setting(
        25, "Updates between measurements.", unit="steps", group=REPORTS, ge=1, le=100_000
    )
    learning_curve: int = setting(
        0,
        "Models that learn from a half, a quarter, … of the rankings, to see whether more would help. All of them "
        "together take about as long as one member.",
        group=REPORTS,
        ge=0,
        le=6,
    )
    publish: Publish = setting(
        "last",
        "The weights after the last update, or those that did best on the held-out rankings, which many passes make "
        "worse again. What is told of the held-out rankings is then a little too good: they chose.",
        group=REPORTS,
    )
    seed: int = setting(0, "Which prompts are held out, and the order of the rest.", ge=0, le=2**31 - 1)
    save_every: SaveEvery = 20.0
    keep_last: KeepLast = 2
    keep_every: KeepEvery = None
    threads: Threads = None
    recompute: Recompute = False
