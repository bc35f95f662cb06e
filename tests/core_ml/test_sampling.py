"""Choosing tokens, and completing prompts in batches."""

import pytest
import torch

from core_ml.errors import UserError
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.sampling import generate as generating
from core_ml.sampling.choose import choose
from core_ml.sampling.generate import Completion, generate, generate_in_batches
from core_ml.sampling.settings import Sampling
from core_ml.sampling.stops import Stops

PROMPTS = [[1], [4, 8, 15, 16, 23, 42], [2, 7, 1], [9, 9]]
LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, d_model=32, max_seq_len=24))
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3)
    return model


def chosen(u: float, **options: float) -> int:
    return int(choose(LOGITS, torch.tensor([u]), Sampling(**options))[0])  # type: ignore[arg-type]


def test_a_uniform_number_picks_by_the_running_sum() -> None:
    assert [chosen(u) for u in (0.0, 0.49, 0.51, 0.79, 0.81, 0.94, 0.96)] == [0, 0, 1, 1, 2, 2, 3]
    assert chosen(1 - 2**-24) == 3


def test_temperature_zero_takes_the_most_probable() -> None:
    assert chosen(0.99, temperature=0) == 0


def test_temperature_flattens() -> None:
    # At temperature 2 the probabilities go as their square roots: .707 .548 .387 .224, sum 1.866; first 0.379.
    assert [chosen(u, temperature=2.0) for u in (0.37, 0.39)] == [0, 1]


def test_top_k_keeps_k_and_shares_out_the_rest() -> None:
    # 0.5 and 0.3 become 0.625 and 0.375.
    assert [chosen(u, top_k=2) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]


def test_top_p_keeps_the_token_that_crosses() -> None:
    # 0.5 + 0.3 is the first sum to reach 0.6.
    assert [chosen(u, top_p=0.6) for u in (0.62, 0.63, 0.999)] == [0, 1, 1]
    assert chosen(0.999, top_p=0.01) == 0


def test_frequencies_follow_the_probabilities() -> None:
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(choose(LOGITS.expand(n, 4), uniform, Sampling())[0], minlength=4) / n
    # Three standard errors of a share are at most 3 · sqrt(0.25 / 20,000) = 0.011.
    assert torch.allclose(counts, LOGITS[0].exp(), atol=0.011)


def test_a_batch_of_ragged_prompts_gives_what_each_gives_alone(model: GPT) -> None:
    together = generate(model, PROMPTS, max_new_tokens=10, temperature=0, seed=0)
    for prompt, completion in zip(PROMPTS, together, strict=True):
        alone = generate(model, [prompt], max_new_tokens=10, temperature=0, seed=0)[0]
        assert completion.ids == alone.ids
        assert completion.logprobs == pytest.approx(alone.logprobs, abs=0.02)


def test_logprobs_are_those_of_one_pass_over_the_whole(model: GPT) -> None:
    for prompt, completion in zip(PROMPTS, generate(model, PROMPTS, max_new_tokens=8, seed=3), strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + completion.ids]))[0].log_softmax(-1)
        wanted = [logprobs[len(prompt) - 1 + t, id].item() for t, id in enumerate(completion.ids)]
        # Generation multiplies in bfloat16, whose steps are 0.4 %.
        assert completion.logprobs == pytest.approx(wanted, abs=0.1)


def test_the_same_seed_gives_the_same_and_another_does_not(model: GPT) -> None:
    first, again, other = (
        [completion.ids for completion in generate(model, PROMPTS, max_new_tokens=12, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_rows_that_end_leave_without_changing_the_others(model: GPT) -> None:
    free = generate(model, PROMPTS * 4, max_new_tokens=12, seed=5)
    stops = {free[0].ids[2], free[1].ids[3], free[5].ids[1]}
    stopped = generate(model, PROMPTS * 4, max_new_tokens=12, stop_ids=stops, seed=5)
    assert any(completion.ended for completion in stopped)
    for before, after in zip(free, stopped, strict=True):
        assert after.ids == before.ids[: len(after.ids)]
        assert after.ended == (after.ids[-1] in stops)
        assert not stops.intersection(after.ids[:-1])
        assert after.ended or len(after.ids) == 12


def test_a_completion_ends_where_the_context_ends(model: GPT) -> None:
    completion = generate(model, [[1] * 20], max_new_tokens=100, seed=0)[0]
    assert len(completion.ids) == 4 and not completion.ended


@pytest.mark.parametrize("prompt", [[], [1] * 24])
def test_a_prompt_without_room_is_refused(model: GPT, prompt: list[int]) -> None:
    with pytest.raises(UserError, match="at least 1 and at most 23"):
        generate(model, [prompt], max_new_tokens=1, seed=0)


def test_between_batches_a_caller_stands_outside_the_contexts_of_sampling(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "REPORT_EVERY", 3)
    completions = [Completion() for _ in PROMPTS]
    told = []
    for indices in generate_in_batches(model, PROMPTS, completions, max_new_tokens=4, seed=0):
        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        assert all(len(completions[i].ids) == 4 for i in indices)
        told += indices
    assert sorted(told) == [0, 1, 2, 3]


def test_a_stop_string_is_found_across_tokens_and_within_one() -> None:
    stops = Stops(
        ["\u00e9t\u00e9", "END"], [b"", b"x\xc3", b"\xa9", b"t", b"\xc3\xa9y", b"aENDb", b"EN", b"D"]
    )
    assert stops.reached([1, 2, 3, 4]) and not stops.reached([1, 2, 3]) and not stops.reached([2, 3, 4])
    assert stops.reached([5]) and stops.reached([6, 7]) and not stops.reached([7, 6])
    assert stops.reached([6, 0, 7]) and not stops.reached([5, *[3] * 9])
    assert not stops.reached([99])
    assert stops.cut("an \u00e9t\u00e9 END") == "an " and stops.cut("none") == "none"
