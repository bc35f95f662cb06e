"""The settings of reinforcement learning from human feedback, readable without torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.training.config import Compile, KeepEvery, SaveEvery

REWARD, PULL, OPTIMIZER, PPO, GOLD, REPORTS, MACHINE = (
    "Reward", "Pull to the chat model", "Optimizer", "PPO", "Gold", "Reports", "Machine",
)  # fmt: skip
OWN: dict[str, dict[str, str]] = {
    "rloo": {"reward_scale": "batch", "kl_in": "loss"},
    "grpo": {"reward_scale": "group", "kl_in": "loss"},
    "ppo": {"reward_scale": "none", "kl_in": "reward"},
}
"""What each algorithm means by an empty field."""
GradClip = Annotated[
    float,
    setting(
        1.0,
        "Longest gradient (Pascanu et al. 2013, arXiv:1211.5063); 1 as for GPT-3 (Brown et al. 2020, appendix B).",
        group=OPTIMIZER,
        gt=0,
        le=1000,
    ),
]
"""Of practice and of reward models alike."""


class RlhfConfig(RecipeConfig):
    algorithm: Literal["rloo", "grpo", "ppo"] = setting(
        "rloo",
        "Where an advantage comes from. rloo: an answer against the mean of its siblings (Ahmadian et al. 2024, "
        "arXiv:2402.14740). grpo: the same in units of the group's spread, answers weighing alike (Shao et al. 2024, "
        "arXiv:2402.03300). ppo: each token against a value head (Ouyang et al. 2022, arXiv:2203.02155).",
    )
    steps: int = setting(
        30,
        "Rounds of answering, scoring and learning. InstructGPT made 500 (256,000 answers); 30 are what a small network "
        "needs to show the effect in minutes.",
        unit="steps",
        ge=1,
        le=100_000,
    )
    prompts_per_step: int = setting(
        24,
        "Prompts of one round. Six answers to each make 144, for small memory; InstructGPT's rounds had 512.",
        ge=1,
        le=4096,
    )
    n_completions: int = setting(
        6,
        "Answers to each prompt, which are compared with each other. Between RLOO's 2 or 4 (Ahmadian et al. 2024) and "
        "GRPO's 64 (Shao et al. 2024), since few prompts are read anew each round here.",
        ge=2,
        le=64,
    )
    kl_coef: float = setting(
        0.1,
        "Pull to the chat model, per token. Without it the model finds what fools the reward model. InstructGPT: 0.02 "
        "in the reward; GRPO: 0.04 in the loss; small networks with few rankings need more.",
        ge=0,
        le=10,
    )
    lr: float = setting(
        1e-3,
        "Peak learning rate (AdamW). This lab's choice for networks of some million weights, which stand larger steps; "
        "1e-6 to 1e-5 for networks of billions.",
        gt=0,
        lt=1,
    )
    max_new_tokens: int = setting(
        48,
        "An answer is cut off here. Answers to the lab's own tasks end well before; raise it for longer ones.",
        unit="tokens",
        ge=1,
        le=8192,
    )

    ensemble: Literal["mean", "minimum", "uncertainty"] = setting(
        "mean",
        "What several reward models pay: their mean, the least of them, or the mean minus uncertainty_coef times their "
        "spread (Coste et al. 2023, arXiv:2310.02743).",
        group=REWARD,
    )
    uncertainty_coef: float = setting(
        1.0, "Spreads of the ensemble taken from its mean, with `uncertainty`.", group=REWARD, ge=0, le=100
    )
    reward_scale: Literal["batch", "group", "none"] | None = setting(
        None,
        "Spread that advantages are divided by. Empty is the algorithm's own: batch for rloo, group for grpo; ppo "
        "always whitens them over the batch's tokens (Huang et al. 2024, arXiv:2403.17031).",
        group=REWARD,
    )
    reward_normalize: bool = setting(
        False,
        "Subtract the mean of all rewards so far and divide by their spread (Zheng et al. 2023, arXiv:2307.04964).",
        group=REWARD,
    )
    reward_clip: float | None = setting(
        None,
        "Rewards further from 0 are cut to this; 5 is usual after normalizing (Zheng et al. 2023, arXiv:2307.04964).",
        group=REWARD,
        gt=0,
    )
    eos_penalty: float = setting(
        0.0,
        "Taken from the reward of an answer that was cut off; 1 is usual (Huang et al. 2024, arXiv:2403.17031).",
        group=REWARD,
        ge=0,
        le=1000,
    )
    length_penalty: float = setting(
        0.0,
        "Taken from the reward of an answer of max_new_tokens, in proportion from shorter ones: reward models like "
        "length for its own sake (Singhal et al. 2023, arXiv:2310.03716).",
        group=REWARD,
        ge=0,
        le=1000,
    )

    kl_in: Literal["loss", "reward"] | None = setting(
        None,
        "Where the pull stands. Empty is the algorithm's own: the loss for rloo here and grpo, the reward for ppo "
        "(Ziegler et al. 2019, arXiv:1909.08593).",
        group=PULL,
    )
    kl_estimator: Literal["k1", "k3", "exact"] | None = setting(
        None,
        "How it is measured at a token: the log ratio (k1), its ever positive kin (k3), or the sum over the vocabulary. "
        "Empty is k1 in the reward and k3 in the loss (Schulman 2020, Approximating KL divergence).",
        group=PULL,
    )
    kl_target: float | None = setting(
        None,
        "Distance that kl_coef is steered to, by at most 2 % a round (Ziegler et al. 2019, arXiv:1909.08593, section "
        "2.2); empty keeps kl_coef fixed.",
        unit="nats an answer",
        group=PULL,
        gt=0,
        le=10_000,
    )
    measure_kl: bool = setting(
        True,
        "Measure the distance also where nothing pulls; it costs a pass of the chat model over every round.",
        group=PULL,
    )

    clip: float = setting(
        0.2,
        "How far a token's probability ratio may move in one round (Schulman et al. 2017, arXiv:1707.06347).",
        group=OPTIMIZER,
        gt=0,
        le=1,
    )
    minibatches: int = setting(
        2,
        "Updates that one pass over a round is split into, by prompts. With the defaults one has 72 answers; "
        "InstructGPT's had 64 (Ouyang et al. 2022, appendix C.4).",
        group=OPTIMIZER,
        ge=1,
        le=64,
    )
    passes: int = setting(
        1,
        "Passes over a round's answers; InstructGPT makes 1, PPO for summaries 4 (Stiennon et al. 2020).",
        group=OPTIMIZER,
        ge=1,
        le=64,
    )
    entropy_coef: float = setting(
        0.0,
        "Reward of being undecided, per nat and token; 0 in the literature of language models.",
        group=OPTIMIZER,
        ge=0,
        le=10,
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw",
        "What moves the matrices: AdamW at lr, or Muon at muon_lr, which makes every direction of a matrix move alike. "
        "Embedding, head and norms have AdamW either way.",
        group=OPTIMIZER,
    )
    muon_lr: float = setting(
        5e-3,
        "Peak learning rate of the matrices with Muon. A quarter of the 0.02 of pretraining (Jordan et al. 2024, Muon), "
        "because practice is to stay near the chat model.",
        group=OPTIMIZER,
        gt=0,
        le=1,
    )
    lora_rank: int | None = setting(
        None,
        "Train small matrices of this rank beside the network's own, which serve as the chat model too: a fraction of "
        "the memory. Empty trains all weights.",
        group=OPTIMIZER,
        ge=1,
        le=4096,
    )
    lora_alpha: float = setting(
        16.0,
        "How strongly they count: alpha / rank times their product (Hu et al. 2021, arXiv:2106.09685; 16 as in Dettmers "
        "et al. 2023, arXiv:2305.14314).",
        group=OPTIMIZER,
        gt=0,
        le=4096,
    )
    ema: float | None = setting(
        None,
        "Weight of the past in a running average of the weights, which looks and the aligned model then have: 0.95 "
        "averages the last twenty updates. Answers to learn from are always the newest weights'.",
        group=OPTIMIZER,
        gt=0,
        lt=1,
    )
    warmup: float = setting(
        0.1,
        "Share of the rounds with a rising rate, so that AdamW's averages settle first; InstructGPT's rose for 10 rounds.",
        group=OPTIMIZER,
        ge=0,
        le=1,
    )
    cooldown: float = setting(
        1.0,
        "Share of the rounds with a falling rate. All after the rise, as PPO's usually falls to 0 in a line (Huang et al. "
        "2022, The 37 implementation details of PPO, detail 4).",
        group=OPTIMIZER,
        ge=0,
        le=1,
    )
    grad_clip: GradClip = 1.0
    spike: float | None = setting(
        20.0,
        "Updates whose gradient is so many usual spreads longer than the usual are passed over; three in a row send "
        "the run back to its last saved state. The loss tells nothing here: it stands near 0 and follows the lengths of "
        "the answers. 20 is this lab's choice: far beyond what healthy rounds vary by, so that none of them is lost.",
        group=OPTIMIZER,
        gt=0,
    )

    vf_coef: float = setting(
        0.1, "Weight of the value head's loss (Huang et al. 2024, arXiv:2403.17031).", group=PPO, ge=0, le=100
    )
    value_clip: float | None = setting(
        0.2,
        "How far a value may move in one round (Huang et al. 2024, arXiv:2403.17031); empty for no limit.",
        group=PPO,
        gt=0,
    )
    gamma: float = setting(
        1.0, "What a reward one token later is worth (Ziegler et al. 2019).", group=PPO, gt=0, le=1
    )
    gae_lambda: float = setting(
        0.95,
        "1 believes the rewards, 0 the value head (Schulman et al. 2015, arXiv:1506.02438).",
        group=PPO,
        ge=0,
        le=1,
    )

    gold: Literal["auto", "rule", "model", "rankings", "none"] = setting(
        "auto",
        "Who judges the prompts kept aside beside the reward model that pays (Gao et al. 2022, arXiv:2210.10760): the "
        "stated preference where the prompts are of our tasks, a larger reward model, or one that is fitted on people's "
        "newest rankings as the run begins. auto takes a model where one is given, else rankings, else the rule.",
        group=GOLD,
    )
    stop_early: int | None = setting(
        None,
        "Looks without a better one, by gold or else by the win rate, after which the run ends; empty never ends it.",
        unit="looks",
        group=GOLD,
        ge=1,
        le=10_000,
    )
    keep: Literal["last", "best"] = setting(
        "last",
        "Which weights become the aligned model: those of the last step or of the best look. With last the best ones "
        "become the output peak where gold or the win rate fell after them by more than chance.",
        group=GOLD,
    )
    n_sampled: int = setting(
        4,
        "Answers sampled to each prompt kept aside at each look, which proxy, gold and KL are measured on.",
        group=GOLD,
        ge=1,
        le=256,
    )

    n_watched: int = setting(
        60,
        "Prompts kept out of practice, answered greedily as the run goes on.",
        group=REPORTS,
        ge=1,
        le=10_000,
    )
    eval_every: int = setting(
        5, "Rounds between looks at those prompts.", unit="steps", group=REPORTS, ge=1, le=100_000
    )
    keep_rollouts: int | None = setting(
        1,
        "Rounds between those whose answers are kept, with each token's advantage and KL; empty keeps none.",
        unit="steps",
        group=REPORTS,
        ge=1,
        le=100_000,
    )
    seed: int = setting(0, "Order of the prompts and the draws of the answers.", ge=0, le=2**31 - 1)
    save_every: SaveEvery = 20.0
    keep_last: int = setting(
        2, "Newest saved states that are kept, beside that of the best look.", group=MACHINE, ge=2, le=1000
    )
    keep_every: KeepEvery = None
    compile: Compile = setting(
        "auto",
        "Turn the steps in which answers are sampled into one large kernel first; auto finds out by a short probe whether "
        "the run is long enough.",
        group=MACHINE,
    )
    threads: Threads = None

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.kl_coef and self.resolved["kl_in"] == "loss" and self.resolved["kl_estimator"] == "k1":
            raise ValueError(
                "kl_estimator k1 in the loss has no gradient on average (Tang and Munos 2025, arXiv:2506.09477): choose "
                "k3 or exact, or kl_in reward"
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError(
                "kl_target steers kl_coef, which is 0 and stays 0: set kl_coef to 0.05 to begin with"
            )
        if self.lora_rank is not None and self.optimizer == "muon":
            raise ValueError("adapters (lora_rank) learn by adamw: choose that optimizer, or empty lora_rank")
        return self

    @property
    def resolved(self) -> dict[str, Any]:
        """The fields that an algorithm has an opinion on, none of them empty."""
        found: dict[str, Any] = {
            name: getattr(self, name) or own for name, own in OWN[self.algorithm].items()
        }
        found["kl_estimator"] = self.kl_estimator or ("k1" if found["kl_in"] == "reward" else "k3")
        return found

    @property
    def needs_chat(self) -> bool:
        return self.measure_kl or self.kl_coef > 0
