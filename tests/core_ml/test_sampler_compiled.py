"""The sampler's compiled step: equal to the plain one, and used where it pays."""

from typing import Any

import pytest
import torch

from core_ml.model.gpt import GPT
from core_ml.sampling import compiled
from core_ml.sampling.products import filled_up
from core_ml.sampling.sampler import SHARING, Row, Sampler
from core_ml.sampling.step import Step
from tests.core_ml.sampled import NETWORKS, PROMPTS, network, row, run


@pytest.fixture(scope="module")
def model() -> GPT:
    return network()


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("llama-like", PROMPTS[1:2]),
        ("gemma-like", PROMPTS[1:4]),
        # Three prompts, of which one is left before the others: the compiled step sees the table of prompts change.
        ("llama-like", [*[PROMPTS[1]] * SHARING, *[PROMPTS[2]] * 6, *[PROMPTS[3]] * SHARING]),
    ],
)
def test_the_compiled_step_gives_what_the_plain_one_gives(
    name: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(prompts)
    model = network(**{**NETWORKS[name], "n_layer": 1})
    sizes = []
    graph = compiled._run
    monkeypatch.setattr(
        compiled, "_run", lambda step, ids, *rest: sizes.append(len(ids)) or graph(step, ids, *rest)
    )
    shared = n > len(PROMPTS)
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    plain, fast = (
        [row(prompt, 12 if shared and prompt is PROMPTS[3] else 20) for prompt in prompts] for _ in range(2)
    )
    for rows in (plain, fast):
        sampler: Sampler[Row] = Sampler(model)
        sampler.join(rows)
        if rows is fast:
            compiled.use(sampler._step, n, shared)
        run(sampler)
    assert sizes == [filled_up(n)] * 19
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= n_graphs + 1
    for one, other in zip(plain, fast, strict=True):
        assert one.ids == other.ids and one.last is not None and other.last is not None
        assert one.last.logprob == pytest.approx(other.last.logprob, abs=2e-5)


def test_a_step_is_compiled_for_long_jobs_only_and_what_was_measured_is_remembered(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {}
    monkeypatch.setattr(compiled.measured, "recalled", known.get)
    monkeypatch.setattr(compiled.measured, "remember", lambda what, value: known.setdefault(what, value))
    monkeypatch.setattr(compiled, "_steps", compiled.Counter())
    monkeypatch.setattr(compiled, "seconds", lambda step, n, shared: 0.003)
    probed = []
    found = {"eager": 0.003, "compiled": 0.002, "compiling": 20.0}
    monkeypatch.setattr(compiled, "probe", lambda step, n, shared: probed.append(n) or found)
    step = Sampler(model)._step
    assert not compiled.pays(step, 1, 1000) and not probed
    # 12,000 steps so far could save 0.25 · 3 ms each, as much as compiling three layers costs: now it is measured.
    assert not compiled.pays(step, 1, 11_000) and probed == [1]
    # 1 ms a step makes good for 20 s after 20,000 steps, however many jobs make them.
    assert not compiled.pays(step, 1, 8_000) and compiled.pays(step, 1, 1_000)
    assert probed == [1] and not compiled.pays(step, 8, 1000)
    # A step of shared prompts is another one.
    assert not compiled.pays(step, 1, 1000, shared=True)


def test_a_step_of_shared_prompts_is_timed_as_such_and_left_plain_when_none_are(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = Sampler(model)._step, []

    def graph(own: Step, ids: torch.Tensor, keys: Any, values: Any, turn: Any) -> torch.Tensor:
        seen.append(turn.seats is not None)
        return Step.network(own, ids, keys, values, turn)

    monkeypatch.setattr(compiled, "_run", graph)
    with torch.inference_mode():
        found = compiled.probe(step, 4, shared=True)
    assert set(seen) == {True} and all(value > 0 for value in found.values())
    # Rows that share nothing, in as many places, go on without the graph that was made for those that do.
    sampler: Sampler[Row] = Sampler(model)
    compiled.use(sampler._step, 4, shared=True)
    seen.clear()
    sampler.join([row(prompt, 4) for prompt in PROMPTS])
    run(sampler)
    assert not seen
