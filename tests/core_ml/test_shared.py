"""Prompts read once, and sampling that is the forward pass: the numbers are those of whole rows."""

import pytest
import torch

from core_ml.feedback import shared
from core_ml.feedback.remembered import sample
from tests.core_ml.models import small_model

PROMPTS = [[4, 5, 6, 7, 8, 9, 10], [11, 12, 13]]
N = 5
STOPS = tuple(range(50, 120))  # so many that answers end anywhere
NETWORKS = {
    "own": {},
    "grouped queries": {"n_kv_head": 1},
    "windows": {"window": 6, "window_pattern": (True, False)},
    "gated with biases": {
        "activation": "silu", "gated": True, "qkv_bias": True, "out_bias": True, "ff_bias": True,
        "attention_softcap": 20.0, "logit_softcap": 15.0, "positions": "learned",
    },
}  # fmt: skip


def drawn(model):
    ids = [prompt for prompt in PROMPTS for _ in range(N)]
    completions, recording = sample(
        model, ids, max_new_tokens=9, temperature=1.0, stop_ids=STOPS, seed=3, remember=True
    )
    return [(prompt, done.ids) for prompt, done in zip(ids, completions, strict=True)], completions, recording


def by_whole_rows(model, rows):
    found = []
    for prompt, answer in rows:
        logprobs = model(torch.tensor([prompt + answer])).log_softmax(-1)[0]
        found += [logprobs[len(prompt) + i - 1, token] for i, token in enumerate(answer)]
    return torch.stack(found)


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("remembered", [False, True])
def test_logprobs_and_gradients_are_those_of_whole_rows(changes, remembered):
    model = small_model(340, **changes)
    rows, _, recording = drawn(model)
    assert len({len(answer) for _, answer in rows}) > 2  # ragged, and some of one token only
    wanted = by_whole_rows(model, rows)
    weights = torch.randn(len(wanted), generator=torch.Generator().manual_seed(0))
    (wanted * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    if remembered:
        layout, known = recording.of(rows, range(len(rows)), N, model.device)
        assert len(known) == 4 * model.config.n_layer + 1
    else:
        layout, known = shared.lay_out(PROMPTS, [answer for _, answer in rows], model.device), {}
    got = shared.token_logprobs(shared.logits(model, shared.hidden(model, layout, known), known), layout)
    (got * weights).sum().backward()
    assert got.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5 * gradient.abs().max().item())


def test_the_recording_holds_the_samplers_own_numbers_and_those_of_some_groups():
    model = small_model(340)
    rows, completions, recording = drawn(model)
    told = [logprob for done in completions for logprob in done.logprobs]
    layout, known = recording.of(rows, range(len(rows)), N, model.device)
    got = shared.token_logprobs(recording.logits(model, rows, N, known), layout)
    assert got.tolist() == pytest.approx(told, abs=1e-5)
    second = range(N, 2 * N)
    layout, known = recording.of(rows, second, N, model.device)
    with torch.no_grad():
        got = shared.token_logprobs(shared.logits(model, shared.hidden(model, layout, known), known), layout)
    n_first = sum(len(answer) for _, answer in rows[:N])
    assert got.tolist() == pytest.approx(told[n_first:], abs=1e-5)


def test_answers_are_drawn_as_without_remembering():
    from core_ml.sampling.generate import generate

    model = small_model(340)
    rows, _, _ = drawn(model)
    plain = generate(
        model, [prompt for prompt, _ in rows], max_new_tokens=9, temperature=1.0, stop_ids=STOPS, seed=3
    )
    assert [done.ids for done in plain] == [answer for _, answer in rows]


def test_a_known_product_is_looked_up_and_not_computed():
    model = small_model(340)
    rows, _, recording = drawn(model)
    layout, known = recording.of(rows, range(len(rows)), N, model.device)
    with torch.no_grad():
        sound = shared.logits(model, shared.hidden(model, layout, known), known)
        spoilt = {name: values + 1 if name == (0, "up") else values for name, values in known.items()}
        states = shared.hidden(model, layout, spoilt)
        # What stands after the spoilt matrix is known as well: only a layer's inner part can tell, and none is read.
        assert torch.equal(shared.logits(model, states, known)[2:], sound[2:])
        spoilt = {name: values + 1 if name == (-1, "head") else values for name, values in known.items()}
        assert torch.allclose(shared.logits(model, states, spoilt)[2:], sound[2:] + 1)
