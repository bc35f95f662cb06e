"""Prompts read once, and sampling that is the forward pass: the numbers are those of whole rows."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core_ml.feedback import shared
from core_ml.feedback.batches import WORTH_SHARING, in_parts
from core_ml.feedback.layout import lay_out
from core_ml.feedback.remembered import sample
from core_ml.feedback.reward_model import read_rewards
from core_ml.model import device
from core_ml.model.gpt import rotate
from core_ml.sampling import compiled
from core_ml.training import lora
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


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Products in float32, so that differences are of the arithmetic and not of its rounding."""
    monkeypatch.setattr(device, "_precision", torch.float32)


def drawn(model, **how):
    ids = [prompt for prompt in PROMPTS for _ in range(N)]
    completions, recording = sample(
        model, ids, max_new_tokens=9, temperature=1.0, stop_ids=STOPS, seed=3, remember=True, **how
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
        layout, known = lay_out(PROMPTS, [answer for _, answer in rows], model.device), {}
    got = shared.token_logprobs(shared.logits(model, shared.hidden(model, layout, known), known), layout)
    (got * weights).sum().backward()
    assert got.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_some_rows_at_a_time_is_the_textbooks(weighted, dtype, monkeypatch):
    monkeypatch.setattr(shared, "CACHED", 64)
    found = []
    for normed in (shared._Normed.apply, lambda x, weight, eps, to: F.rms_norm(x, (8,), weight, eps).to(to)):
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(13, 8, generator=draws, requires_grad=True)
        weight = torch.randn(8, generator=draws, requires_grad=True) if weighted else None
        y = normed(x, weight, 1e-6, dtype)
        assert y.dtype == dtype
        y.backward(torch.randn(13, 8, generator=draws).to(dtype))
        found.append([y, x.grad, *([weight.grad] if weighted else [])])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-2 if ours.dtype == torch.bfloat16 else 1e-5)


def adapted(**changes):
    """A network whose adapters have learned something already."""
    model = small_model(340, **changes)
    for parameter in lora.adapt(model, 4, 8.0):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("remembered", [False, True])
def test_what_sampling_records_of_an_adapted_network_is_a_fresh_pass_of_the_merged_one(changes, remembered):
    model = adapted(**changes)
    rows, completions, recording = drawn(model)
    told = [logprob for done in completions for logprob in done.logprobs]
    with torch.no_grad():
        fresh = by_whole_rows(lora.merged(model), rows).tolist()
        base = by_whole_rows(small_model(340, **changes), rows).tolist()
    assert told == pytest.approx(fresh, abs=1e-5)
    assert told != pytest.approx(base, abs=0.1)
    wanted = by_whole_rows(model, rows)
    weights = torch.randn(len(wanted), generator=torch.Generator().manual_seed(0))
    (wanted * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    layout, known = lay_out(PROMPTS, [answer for _, answer in rows], model.device), {}
    if remembered:
        layout, known = recording.of(rows, range(len(rows)), N, model.device)
    got = shared.token_logprobs(shared.logits(model, shared.hidden(model, layout, known), known), layout)
    (got * weights).sum().backward()
    assert got.tolist() == pytest.approx(fresh, abs=1e-5)
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == gradients.keys() and all(name[-2:] in (".a", ".b") for name in learned)
    for name, gradient in gradients.items():
        found = model.get_parameter(name).grad
        assert torch.allclose(found, gradient, atol=1e-5 * gradient.abs().max().item()), name


def test_an_adapted_layers_known_product_is_looked_up_and_not_computed():
    model = adapted()
    rows, _, recording = drawn(model)
    layout, known = recording.of(rows, range(len(rows)), N, model.device)
    asked = []
    for block in model.blocks:
        for name in lora.LAYERS:
            getattr(block, name).register_forward_hook(lambda *_: asked.append(1))
    shared.hidden(model, layout, known)
    assert not asked


def test_compiled_steps_record_what_plain_ones_do_and_each_round_goes_on_with_the_same_graph(monkeypatch):
    steps = []
    graph = compiled._run
    monkeypatch.setattr(compiled, "_run", lambda *step: steps.append(1) or graph(*step))
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seed in range(3):  # weights that have moved are another round's
        model = small_model(340, seed=seed)
        rows, completions, recording = drawn(model)
        assert not steps
        others, others_told, other = drawn(model, compiles=True)
        assert len(steps) > 2 and others == rows
        steps.clear()
        assert recording.order == other.order and recording.outputs.keys() == other.outputs.keys()
        for name, parts in recording.outputs.items():
            assert torch.allclose(torch.cat(other.outputs[name]), torch.cat(parts), atol=1e-5), name
        for one, another in zip(completions, others_told, strict=True):
            assert another.logprobs == pytest.approx(one.logprobs, abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= n_graphs + 1


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


def test_a_group_whose_answers_all_ended_at_once_is_learned_from_beside_longer_ones():
    """As when a policy is about to learn to say nothing."""
    model = small_model(340)
    rows, _, _ = drawn(model)
    stops = {answer[0] for _, answer in rows[N:]}
    ids = [prompt for prompt, _ in rows]
    completions, recording = sample(
        model, ids, max_new_tokens=9, temperature=1.0, stop_ids=stops, seed=3, remember=True
    )
    rows = [(prompt, done.ids) for prompt, done in zip(ids, completions, strict=True)]
    lengths = [len(answer) for _, answer in rows]
    assert max(lengths[:N]) > 1 and lengths[N:] == [1] * N
    layout, known = recording.of(rows, range(N, 2 * N), N, model.device)
    got = shared.token_logprobs(shared.logits(model, shared.hidden(model, layout, known), known), layout)
    assert got.tolist() == pytest.approx(by_whole_rows(model, rows[N:]).tolist(), abs=1e-5)
    got.sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)
    looked_up = shared.token_logprobs(recording.logits(model, rows[N:], N, known), layout)
    assert looked_up.tolist() == pytest.approx(got.tolist(), abs=1e-5)


def test_answers_are_drawn_as_without_remembering():
    from core_ml.sampling.generate import generate

    model = small_model(340)
    rows, _, _ = drawn(model)
    plain = generate(
        model, [prompt for prompt, _ in rows], max_new_tokens=9, temperature=1.0, stop_ids=STOPS, seed=3
    )
    assert [done.ids for done in plain] == [answer for _, answer in rows]


def test_a_known_product_is_looked_up_and_not_computed():
    def more(computed):
        return replace(computed, parts=[part + 1 for part in computed.parts])

    model = small_model(340)
    rows, _, recording = drawn(model)
    layout, known = recording.of(rows, range(len(rows)), N, model.device)
    with torch.no_grad():
        sound = shared.logits(model, shared.hidden(model, layout, known), known)
        spoilt = known | {(0, "up"): more(known[0, "up"])}
        states = shared.hidden(model, layout, spoilt)
        # What stands after the spoilt matrix is known as well: only a layer's inner part can tell, and none is read.
        assert torch.equal(shared.logits(model, states, known)[2:], sound[2:])
        spoilt = known | {(-1, "head"): more(known[-1, "head"])}
        assert torch.allclose(shared.logits(model, states, spoilt)[2:], sound[2:] + 1)


LONG = list(range(4, 4 + WORTH_SHARING))
REWARDED = [
    (LONG, [20, 21, 22]), ([30, 31], [32, 33]), (LONG, [23]), ([40] * 9, [41, 42]), ([], [50, 51, 52, 53]),
    ([40] * 9, [43]), ([40] * 9, [44, 45, 46, 47, 48]), ([30, 31], [34, 35, 36]), ([60] * 9, [61]), ([60] * 9, [62, 63]),
]  # fmt: skip


def test_parts_hold_every_row_once_and_no_more_than_the_budget():
    for budget in (1, 20, 1000):
        parts = list(in_parts(REWARDED, budget, n_head=2))
        assert sorted(n for part in parts for n in part.numbers) == list(range(len(REWARDED)))
        for part in parts:
            assert part.n_tokens <= budget or len(part.prompts) == 1
            whole = [prompt for prompt in part.prompts for _ in range(part.k or 1)]
            for number, begin, answer in zip(
                part.numbers, whole, part.answers or [[]] * len(whole), strict=True
            ):
                assert begin + answer == [*REWARDED[number][0], *REWARDED[number][1]]
    # All the short prompts stand with their answers, and two groups of two answers share one part.
    assert [(part.k, len(part.prompts)) for part in parts] == [(0, 3), (2, 2), (3, 1)]


def test_a_prompt_that_is_a_small_part_of_its_rows_is_not_read_apart():
    answers = [list(range(20, 60)), list(range(60, 100))]
    for prompt, k in ((LONG, 2), (LONG[:-1], 0), ([*LONG[:4]], 0)):
        assert [part.k for part in in_parts([(prompt, answer) for answer in answers], 1000, n_head=2)] == [k]
    long = [answer * 4 for answer in answers]
    assert [part.k for part in in_parts([(LONG, answer) for answer in long], 1000, n_head=2)] == [0]


EQUAL = [(LONG, [20 + row, 21, 22]) for row in range(3)] + [([30, 31 + row], [40]) for row in range(3)]


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(("rewarded", "budget"), [(REWARDED, 1), (REWARDED, 1000), (EQUAL, 1000)])
def test_rewards_and_their_gradients_are_those_of_whole_rows(changes, rewarded, budget, monkeypatch):
    monkeypatch.setattr("core_ml.feedback.reward_model.tokens_at_once", lambda device: budget)
    model = small_model(340, value_head=True, **changes)
    torch.nn.init.normal_(model.value_head.weight)
    weights = torch.randn(len(rewarded), generator=torch.Generator().manual_seed(0))

    def gradients(rewards):
        (rewards * weights).sum().backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    rows = [torch.tensor([prompt + answer]) for prompt, answer in rewarded]
    wanted = torch.cat([model.value(model.hidden(row)[:, -1]) for row in rows])
    expected = gradients(wanted)
    got = read_rewards(model, rewarded)
    assert got.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    for name, gradient in gradients(got).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5 * expected[name].abs().max().item()), name


def test_a_full_grid_has_no_list_of_cells():
    assert lay_out([[4, 5], [6, 7]], [[8, 9]] * 4, torch.device("cpu"), whole=True).prompt_cells is None
    layout = lay_out([[4, 5], [6]], [[8, 9], [10]], torch.device("cpu"), whole=True)
    assert layout.prompt_cells.tolist() == [0, 1, 2] and layout.answer_cells.tolist() == [0, 1, 2]
    mixed = [(1, 0), (0, 0)]  # all cells are filled, and not in their order
    layout = lay_out([[4], [6]], [[8], [10]], torch.device("cpu"), mixed, whole=True)
    assert layout.prompt_cells is None and layout.answer_cells.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_turned_as_the_textbook_turns_them(dtype, monkeypatch):
    monkeypatch.setattr(shared, "CACHED", 100)  # two rows at a time, and one at the end
    torch.manual_seed(0)
    x, angles = torch.randn(7, 3, 16).to(dtype).requires_grad_(), torch.randn(7, 1, 8)
    weight = torch.randn(7, 3, 16).to(dtype)
    # In float32 throughout: autograd would round the two halves of a bfloat16 gradient before it adds them.
    exact = x.detach().float().requires_grad_()
    wanted = rotate(exact, angles.cos(), angles.sin()).to(dtype)
    got = shared._Turned.apply(x, angles.cos(), angles.sin(), dtype)
    torch.testing.assert_close(got, wanted)
    (grad,) = torch.autograd.grad((got * weight).sum(), x)
    (expected,) = torch.autograd.grad((wanted * weight).sum(), exact)
    torch.testing.assert_close(grad, expected.to(dtype))
