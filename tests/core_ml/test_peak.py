"""Looks over the distance from the chat model: which one was best, whether it fell since, and in whose judgement."""

import math

import numpy as np
import pytest

from core_ml.evaluation.overoptimization import z_below_best
from core_ml.feedback.peak import below_best, best_look, differences, fell, findings, measures, over_kl

N = 60


def looks(golds, kls=None, spread=0.3, **more):
    """Looks whose prompts differ by `spread` in the same way each time, and a little anew."""
    rng = np.random.default_rng(0)
    prompts = spread * rng.standard_normal(N)
    kls = kls or [i * i / 4 for i in range(len(golds))]
    return [
        {"step": 5 * i, "rewards": [float(i)] * N, "judged": {}, "sampled": {
            "proxy": [float(i)] * N, "gold": (gold + (prompts + 0.1 * rng.standard_normal(N)) * (i > 0)).tolist(), "kl": kl}, **more}
        for i, (gold, kl) in enumerate(zip(golds, kls, strict=True))
    ]  # fmt: skip


def test_answers_are_compared_with_the_chat_models_own_prompt_by_prompt():
    # Means 2 and 5 of two answers each, the chat model's 1 and 6, in units of 2.
    assert differences([1, 3, 4, 6], [1, 6], 2.0, 2) == [0.5, -0.5]
    assert differences([1, 3], [2], 0.0, 2) == [0]  # all alike: no spread to divide by
    told = measures({"proxy": [0.5, -0.5], "kl": 2.0})
    assert told == {"proxy_z": 0, "proxy_z_sem": pytest.approx(math.sqrt(0.5) / math.sqrt(2)), "kl": 2.0}


def test_gold_that_rises_and_falls_has_its_best_look_at_the_top():
    found = looks([0, 0.4, 0.6, 0.5, 0.2, -0.2])
    assert best_look(found) == 2 and fell(found)
    assert not fell(looks([0, 0.4, 0.6, 0.59])) and not fell(looks([0, 0.4, 0.6]))
    fitted = over_kl(found)
    # d = i / 2: the curve turns near the third point, and zero is crossed before the last.
    assert 0.7 < fitted.peak_d < 1.4 and fitted.bends_down
    assert (
        fitted.measured_peak.index == 2 and fitted.peak_interval[0] < fitted.peak_d < fitted.peak_interval[1]
    )
    said = findings(found, "the stated preference", "last")
    assert "Gold was highest at √KL 1.00" in said[0] and said[0].startswith("Judged by the stated preference")
    assert said[1].startswith("Practice did harm after step 10 (gold +0.") and said[1].endswith(
        "the output peak has the weights of that step."
    )
    assert findings(found, "the stated preference", "best")[1].endswith(
        "the aligned model has the weights of that step."
    )


def test_a_model_that_only_grew_worse_is_not_published_twice():
    found = looks([0, -0.5, -1.0])
    assert best_look(found) == 0 and fell(found)
    assert findings(found, "a gold model", "last")[-1].endswith("the model at the start is the better one.")


def test_the_best_of_many_looks_that_are_all_alike_is_not_taken_for_a_peak():
    rng = np.random.default_rng(7)
    taken = 0
    for _ in range(200):
        found = [{"step": i, "sampled": {"gold": rng.standard_normal(N).tolist()}} for i in range(20)]
        taken += fell(found)
    assert taken < 20  # without the correction every third would be


def test_the_fall_is_told_in_standard_errors_of_the_difference():
    golds = [[0.0] * 4, [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 2.0, 2.0]]
    found = [{"step": i, "sampled": {"gold": gold}} for i, gold in enumerate(golds)]
    # Falls of 1, 2, 1 and 2: mean 1.5, spread √(1/3), error √(1/3) / 2; the floor of √0.5 / 4 is less.
    assert below_best(found) == pytest.approx(1.5 / (math.sqrt(1 / 3) / 2)) and fell(found)
    assert below_best(found[:2]) == 0 and not fell(found[:1])
    # 1.96 for one look beside the best, and the 0.025 of each of five for five.
    assert z_below_best(2) == pytest.approx(1.95996, abs=1e-4) and z_below_best(6) == pytest.approx(
        2.5758, abs=1e-4
    )


def test_without_gold_the_win_rate_decides_and_without_kl_there_is_no_curve():
    found = looks([0, 0, 0])
    for look, rewards in zip(found, (0.0, 1.0, -1.0), strict=True):
        look["sampled"].pop("gold")
        look["rewards"] = [rewards] * N
    assert best_look(found) == 1 and fell(found) and over_kl(found) is None
    assert findings(found, None, "last") == [
        "Practice did harm after step 5 (win rate 100% there, 0% at the end): the output peak has the weights of that step."
    ]
    found = looks([0, 0.1, 0.2])
    found[1]["sampled"]["kl"] = None
    assert over_kl(found) is None
