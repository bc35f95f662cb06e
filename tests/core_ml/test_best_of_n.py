"""The best of n by a proxy and what gold says of it: the arithmetic, and the recipe."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.evaluation.best_of_n import findings, sweep
from core_ml.events import Figure, Metric, Resumed, Summary
from core_ml.recipes.best_of_n import BestOfNConfig, run
from core_ml.tasks import judge
from tests.core_ml.models import workspace, write_checkpoint, write_dataset


def test_a_proxy_that_is_gold_gains_what_the_largest_of_n_normal_numbers_are_expected_to_be():
    scores = np.random.default_rng(0).standard_normal((2000, 64))
    found = sweep(scores[None], scores)
    assert found.ns == [1, 2, 4, 8, 16, 32, 64] and found.d[1] == pytest.approx(math.sqrt(math.log(2) - 0.5))
    # Expected maxima of 1, 2 and 4 normal numbers: 0, 1/√π and 1.0294.
    assert found.gold[:3].tolist() == pytest.approx([0, 1 / math.sqrt(math.pi), 1.0294], abs=0.03)
    assert found.gold.tolist() == pytest.approx(
        found.proxy.tolist()
    ) and found.gold.tolist() == pytest.approx(found.ceiling.tolist())
    assert not found.fit.bends_down and found.peak_n == 64


def test_a_proxy_with_a_blind_spot_rises_while_gold_rises_and_falls():
    rng = np.random.default_rng(1)
    gold = rng.standard_normal((400, 256))
    tricks = rng.random((400, 256)) < 0.02  # bad answers that the proxy likes best of all
    proxy = np.where(tricks, 5.0, gold + 0.3 * rng.standard_normal((400, 256)))
    gold = np.where(tricks, -2.0, gold)
    found = sweep(proxy[None], gold)
    assert (np.diff(found.proxy) > 0).all()
    assert found.fit.bends_down and 1 < found.peak_n < 256 and found.gold[-1] < 0
    low, high = found.fit.peak_interval
    assert low < found.fit.peak_d < high
    said = findings(found, "the stated preference", 1)
    assert said[-1] == f"More than {found.peak_n} answers only fool the proxy further."
    assert found.gold_sem[0] == 0 < found.gold_sem[-1] < 0.1


def test_several_proxies_choose_each_for_itself():
    rng = np.random.default_rng(2)
    gold = rng.standard_normal((100, 16))
    found = sweep(np.stack([gold, -gold]), gold)
    assert found.by_proxy[0] == pytest.approx(-found.by_proxy[1], abs=0.3)
    assert found.by_proxy[0, -1] > 1.5 and abs(found.gold[-1]) < 0.2
    assert found.gold_sem[-1] > 0.5  # which of the two it will be nobody knows


def test_without_gold_nothing_is_said_of_what_it_was_worth():
    found = sweep(np.random.default_rng(0).standard_normal((1, 10, 8)))
    assert found.gold is None and found.fit is None and found.peak_n is None
    assert "there is no gold" in findings(found, None, 1)[0]


SMALL = BestOfNConfig(n=8, n_prompts=6, max_new_tokens=8, threads=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("best-of-n")
    prompts = [f"What is {i} + {i % 9}?" for i in range(20)]
    rows = [{"prompt": p, "answer": "", "verifier": "task", "metadata": {"task": "add"}} for p in prompts]
    return {
        "checkpoint": write_checkpoint(path, "chat"),
        "reward": write_checkpoint(path, "reward", seed=1, value_head=True),
        "problems": write_dataset(path, "problems", rows),
    }


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_the_recipe_tells_proxy_and_gold_for_each_n_and_keeps_what_was_chosen(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    told = {event.step: event.values for event in of(events, Metric)}
    assert list(told) == [1, 2, 4, 8]
    assert told[1]["proxy_z"] == told[1]["gold_z"] == told[1]["kl"] == 0
    assert told[8]["kl"] == pytest.approx(math.log(8) - 7 / 8)
    rose = [told[n]["proxy_z"] for n in told]
    assert rose == sorted(rose) and rose[-1] > 1
    summary = of(events, Summary)[-1].values
    assert summary["gold"] == "the stated preference" and summary["over_kl"]["form"] == "best_of_n"
    [figure] = of(events, Figure)
    assert figure.finding == " ".join(summary["findings"])
    [path] = artifact.Folder(tmp_path / "out" / "answers").files(".parquet")
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 6 and all(len(row["completions"]) == 4 for row in rows)
    for row in rows:
        data = json.loads(row["metadata"])
        assert data["n"] == [1, 2, 4, 8] and data["proxy"] == sorted(data["proxy"])
        for text, ended, gold in zip(row["completions"], row["ended"], data["gold"], strict=True):
            assert gold == judge(row["prompt"], text, ended).score


def test_a_sweep_that_was_stopped_goes_on_to_the_same_numbers(tmp_path, inputs):
    whole = of(run(SMALL, workspace(tmp_path / "whole", inputs)), Metric)
    events = run(SMALL, workspace(tmp_path / "stopped", inputs))
    for event in events:
        if getattr(event, "message", "") == "scoring":
            break
    events.close()
    again = list(run(SMALL, workspace(tmp_path / "stopped", inputs)))
    assert again[0] == Resumed(4) and of(again, Metric) == whole
    # One that was killed while it told its figures tells all of them again, and none stands twice.
    last = list(run(SMALL, workspace(tmp_path / "stopped", inputs)))
    assert last[0] == Resumed(-1) and of(last, Metric) == whole


def test_it_needs_a_proxy_and_runs_without_gold(tmp_path, inputs):
    events = list(run(SMALL.model_copy(update={"gold": "none"}), workspace(tmp_path / "none", inputs)))
    assert "gold_z" not in of(events, Metric)[-1].values
    with pytest.raises(UserError, match="'reward' is missing"):
        list(run(SMALL, workspace(tmp_path / "no", {k: v for k, v in inputs.items() if k != "reward"})))
