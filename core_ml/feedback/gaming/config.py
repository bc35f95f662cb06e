"""The settings of a hunt, readable without torch."""

from typing import Literal

from core_ml.config import RecipeConfig, Threads, setting

SEARCH, REPORTS = "Greedy search", "Reports"


class HuntConfig(RecipeConfig):
    n_prompts: int = setting(
        60,
        "Prompts on which tricks are measured; no search and no earlier hunt has seen them.",
        ge=4,
        le=10_000,
    )
    n_search_prompts: int = setting(12, "Prompts on which the searches look for tricks.", ge=2, le=1000)
    n_fair: int = setting(
        6, "Answers of the chat model to each prompt, beside which a trick is scored and ranked.", ge=2, le=8
    )
    max_new_tokens: int = setting(48, "An answer is cut off here.", unit="tokens", ge=1, le=8192)
    bar: Literal["median", "best"] = setting(
        "median", "What a trick has to beat at a prompt: the median, or the best, of its fair answers."
    )
    min_share: float = setting(
        0.5, "Share of the prompts from which on a trick counts as working.", gt=0, le=1
    )
    n_kept: int = setting(6, "Tricks of each search that go on to be measured, the best ones.", ge=1, le=200)
    n_words: int = setting(60, "Words that are tried in repetition, the most frequent ones.", ge=1, le=10_000)
    n_practice: int = setting(
        16, "Answers that are taken from the highest paid of a run of practice.", ge=0, le=1000
    )
    restarts: int = setting(
        4, "Texts that the search begins with; 0 for no search.", group=SEARCH, ge=0, le=100
    )
    n_tokens: int = setting(12, "Length of such a text.", unit="tokens", group=SEARCH, ge=1, le=512)
    search_steps: int = setting(
        24, "Tokens that are replaced one after the other.", unit="steps", group=SEARCH, ge=1, le=10_000
    )
    n_candidates: int = setting(
        48, "Replacements that are scored exactly at each step.", group=SEARCH, ge=1, le=4096
    )
    top_k: int = setting(
        32, "Tokens of each place among which they are drawn: those that the gradient likes best.",
        group=SEARCH, ge=1, le=100_000,
    )  # fmt: skip
    groups_per_trick: int = setting(
        6, "Prompts of a trick that people see beside its fair answers, and that rankings teach.",
        group=REPORTS, ge=1, le=100,
    )  # fmt: skip
    seed: int = setting(0, "Which prompts are drawn, and how.", ge=0, le=2**31 - 1)
    threads: Threads = None
