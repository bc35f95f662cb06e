"""What a judge's run is asked for: who judges, how much, and in which words."""

from pydantic import field_validator

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.evaluation import judge_prompt

PROMPT, ASKING = "Prompt", "Asking"


class JudgeConfig(RecipeConfig):
    model: str = setting(
        "",
        "Who judges, by its name on the page Models: a checkpoint, a file or another server's model, asked through the "
        "engine. Empty for the checkpoint that is given as an input.",
        suggest="models",
        max_length=300,
    )
    n_groups: int = setting(
        300,
        "Groups of answers to judge, drawn by the seed; fewer when the dataset has fewer.",
        ge=1,
        le=100_000,
    )
    pairs_per_group: int | None = setting(
        None, "Pairs of a group's answers that are judged; empty for all of them.", ge=1, le=10_000
    )
    ties: bool = setting(True, "The judge may say that neither answer is better.")
    use_reference: bool = setting(
        True, "Show the judge the right answer where one came with the group.", group=PROMPT
    )
    reasons: bool = setting(
        False,
        "Let the judge compare the answers in words before its verdict. Better with large models, and some hundred "
        "times as many tokens. Only of a model that is asked through the engine.",
        group=PROMPT,
    )
    template: str = setting(
        judge_prompt.TEMPLATE,
        "What the judge reads: {question}, {answer_a}, {answer_b} and {verdict}, which says how to reply, are filled "
        "in, and {reference} where there is one.",
        group=PROMPT,
        lines=12,
        max_length=20_000,
    )
    temperature: float = setting(
        0.0,
        "0 always takes the likeliest words, so that the same battle has the same verdict.",
        group=ASKING,
        ge=0,
        le=2,
    )
    max_new_tokens: int = setting(
        16,
        "A reply is cut off here; with reasons it needs some hundred.",
        unit="tokens",
        group=ASKING,
        ge=1,
        le=8192,
    )
    concurrency: int = setting(
        8, "Battles that a server is asked about at a time.", group=ASKING, ge=1, le=256
    )
    seed: int = setting(0, "Which groups and pairs are drawn.", ge=0, le=2**31 - 1)
    threads: Threads = None

    @field_validator("template")
    @classmethod
    def _shows_what_it_judges(cls, template: str) -> str:
        judge_prompt.check(template)
        return template
