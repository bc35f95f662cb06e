"""One batch of practice: answers to prompts, and how the stated preference judges them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from core_ml.feedback.batches import Row, as_prompt
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.remembered import Recording, sample
from core_ml.model.device import precision
from core_ml.model.gpt import GPT
from core_ml.sampling.generate import expected, rows_of
from core_ml.sampling.sampler import Row as Running
from core_ml.sampling.sampler import Sampler
from core_ml.sampling.settings import Sampling
from core_ml.tasks import judge, solve
from core_ml.tokenizer.tokenizer import Tokenizer

CRITERIA = ("liked", "correct", "complete", "short")


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Answers in the order of the prompts, `n` for each; one entry of each list for each answer."""

    n: int
    prompts: list[str]
    rows: list[Row]
    texts: list[str]
    ended: list[bool]
    logprobs: list[list[float]]
    recording: Recording | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(answer) for _, answer in self.rows]

    def judged(self) -> dict[str, list[float]]:
        """0 or 1 for each answer by criterion of the stated preference, only to prompts that it can judge."""
        judgements = [
            judge(prompt, text, ended)
            for prompt, text, ended in zip(self.prompts, self.texts, self.ended, strict=True)
            if solve(prompt) is not None
        ]
        return (
            {name: [float(getattr(j, name)) for j in judgements] for name in CRITERIA} if judgements else {}
        )

    def measures(self) -> dict[str, float]:
        """Means over the answers."""
        n = len(self.rows)
        return {
            "mean_tokens": sum(self.lengths) / n,
            "ended": sum(self.ended) / n,
            **{name: sum(values) / len(values) for name, values in self.judged().items()},
        }


def practise(
    policy: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    n: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    remember: bool = False,
    compiles: bool | None = None,
) -> Rollouts:
    """Sample `n` answers to each prompt from the policy as it is now; `remember` what that computed.

    Args:
        compiles: whether in compiled steps; None finds out.
    """
    ids = _asked(tokenizer, prompts, n)
    completions, recording = sample(
        policy,
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        stop_ids=(tokenizer.end_id,),
        seed=seed,
        remember=remember,
        compiles=compiles,
    )
    return Rollouts(
        n,
        [prompt.text for prompt in prompts for _ in range(n)],
        [(prompt, completion.ids) for prompt, completion in zip(ids, completions, strict=True)],
        [tokenizer.decode(completion.ids) for completion in completions],
        [completion.ended for completion in completions],
        [completion.logprobs for completion in completions],
        recording,
    )


def compiling_pays(
    policy: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    n: int,
    max_new_tokens: int,
    rounds: int,
) -> bool:
    """Whether compiling the steps of sampling saves more than it costs in so many rounds of prompts like these."""
    rows = rows_of(policy, _asked(tokenizer, prompts, n), Sampling(), max_new_tokens, 0)
    n_rows, n_steps, n_of_a_prompt = expected(policy, rows)
    sampler: Sampler[Running] = Sampler(policy, precision(policy.device))
    sampler.keep()
    return sampler.pays(n_rows, rounds * n_steps, n_of_a_prompt)


def _asked(tokenizer: Tokenizer, prompts: Sequence[Prompt], n: int) -> list[list[int]]:
    return [as_prompt(tokenizer, prompt.text) for prompt in prompts for _ in range(n)]


def prompts_of_step(prompts: Sequence[Prompt], step: int, n: int, seed: int) -> list[Prompt]:
    """The prompts of update `step` (the first is 1): every prompt once in each pass, in an order of the seed."""
    chosen: list[Prompt] = []
    place, end = (step - 1) * n, step * n
    while place < end:
        epoch, begin = divmod(place, len(prompts))
        order = list(range(len(prompts)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        taken = order[begin : begin + end - place]
        chosen += [prompts[i] for i in taken]
        place += len(taken)
    return chosen
