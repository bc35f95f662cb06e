"""Gold against proxy: the fit finds the curve that made the points, and the best of n is what counting all subsets gives."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from core_ml.evaluation.overoptimization import best_of_n, best_of_n_kl, finding, fit, powers_of_two

D = np.linspace(0, 5, 21)


def rl(d, alpha, beta):
    return d * (alpha - beta * np.log(np.where(d > 0, d, 1)))


def test_it_finds_the_curve_of_reinforcement_learning_and_its_peak():
    found = fit(D, rl(D, 0.6, 0.5), form="rl")
    assert (found.alpha, found.beta) == (pytest.approx(0.6), pytest.approx(0.5))
    # The slope alpha - beta ln d - beta is 0 at ln d = alpha / beta - 1 = 0.2, where gold is beta d.
    assert found.peak_d == pytest.approx(math.exp(0.2))
    assert found.peak_gold == pytest.approx(0.5 * math.exp(0.2))
    assert found.r2 == pytest.approx(1) and found.bends_down and found.peak_is_inside
    assert found.measured_peak.index == 5 and found.measured_peak.d == 1.25  # 1.2214 lies between 1 and 1.25
    assert found.curve([0, 1]).tolist() == pytest.approx([0, 0.6])


def test_it_finds_the_curve_of_the_best_of_n_and_its_peak():
    d = np.array([math.sqrt(best_of_n_kl(2**i)) for i in range(9)])
    found = fit(d, d * (0.8 - 0.25 * d), form="best_of_n")
    assert (found.alpha, found.beta) == (pytest.approx(0.8), pytest.approx(0.25))
    assert found.peak_d == pytest.approx(0.8 / 0.5)
    assert found.peak_gold == pytest.approx(0.8**2 / (4 * 0.25))


def test_the_interval_of_the_peak_holds_the_true_one_about_as_often_as_it_says():
    rng, sem, held = np.random.default_rng(1), 0.05, 0
    for draw in range(100):
        noisy = rl(D, 0.6, 0.5) + sem * rng.standard_normal(len(D)) * (D > 0)
        low, high = fit(D, noisy, np.full(len(D), sem), "rl", draws=400, seed=draw).peak_interval
        held += low <= math.exp(0.2) <= high
    assert 88 <= held <= 100


def test_without_errors_the_scatter_about_the_curve_says_how_sure_the_peak_is():
    rng = np.random.default_rng(2)
    noise = rng.standard_normal(len(D)) * (D > 0)
    narrow, wide = (fit(D, rl(D, 0.6, 0.5) + size * noise, form="rl").peak_interval for size in (0.01, 0.1))
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


def test_errors_that_are_too_small_for_the_scatter_do_not_make_it_sure():
    rng = np.random.default_rng(3)
    gold = rl(D, 0.6, 0.5) + 0.1 * rng.standard_normal(len(D)) * (D > 0)
    honest, bold = (fit(D, gold, np.full(len(D), sem), "rl").peak_interval for sem in (0.1, 0.001))
    assert bold[1] - bold[0] > 0.7 * (honest[1] - honest[0])


def test_curves_redrawn_by_the_caller_take_the_place_of_the_errors():
    alphas = np.linspace(0.5, 0.7, 101)
    redrawn = np.array([rl(D, alpha, 0.5) for alpha in alphas])
    found = fit(D, rl(D, 0.6, 0.5), form="rl", redrawn=redrawn)
    assert found.alpha_interval == (pytest.approx(0.505, abs=0.003), pytest.approx(0.695, abs=0.003))
    assert found.peak_interval[0] == pytest.approx(math.exp(found.alpha_interval[0] / 0.5 - 1))


def test_a_curve_that_only_rises_has_no_peak_and_says_so():
    found = fit(D, 0.3 * D + 0.1 * D * D, form="best_of_n")
    assert found.beta < 0 and found.peak_d is None and found.peak_interval is None and not found.bends_down
    assert found.measured_peak.index == 20
    assert "does not turn by more than chance up to √KL 5.00" in finding(found)
    assert found.as_dict()["peak_d"] is None


def test_a_peak_that_is_not_certain_is_open_above():
    rng = np.random.default_rng(5)
    d = np.linspace(0, 1, 8)
    gold = 0.5 * d - 0.05 * d * d + 0.05 * rng.standard_normal(8) * (d > 0)
    found = fit(d, gold, np.full(8, 0.05), "best_of_n")
    assert not found.bends_down
    if found.peak_interval:
        assert found.peak_interval[1] == math.inf and found.as_dict()["peak_interval"][1] is None


@pytest.mark.parametrize(
    ("high", "said"),
    [(9.0, "0.90 to 9.00"), (2e11, "0.90 and open above"), (math.inf, "0.90 and open above")],
)
def test_an_end_far_beyond_what_was_measured_is_told_as_open(high, said):
    found = dataclasses.replace(fit(D, rl(D, 0.6, 0.5), form="rl"), peak_interval=(0.9, high))
    assert f"(95 % {said})" in finding(found)


def test_too_few_points_give_the_measured_peak_alone():
    found = fit([0, 1, 1.5, math.nan], [0, 0.4, 0.2, 9.0])
    assert not found.is_fitted and found.peak_d is None and found.r2 is None
    assert (found.measured_peak.index, found.measured_peak.gold) == (1, 0.4)
    assert "a curve takes at least 3 looks" in finding(found)
    with pytest.raises(ValueError, match="no curve"):
        found.curve([1])
    assert fit([], []).measured_peak is None


def test_points_left_out_do_not_move_the_index_of_the_measured_peak():
    found = fit([0, math.nan, 1, 2, 3], [0, 5.0, 0.4, 0.6, 0.1])
    assert found.measured_peak.index == 3


@pytest.mark.parametrize(("d", "gold"), [([0, 1], [0]), ([0, -1], [0, 1])])
def test_points_that_cannot_be_are_refused(d, gold):
    with pytest.raises(ValueError):
        fit(d, gold)


def test_the_kl_of_the_best_of_n():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(2) == pytest.approx(0.6931472 - 0.5)
    # The best of n has density n F^(n-1), so KL is the integral of n u^(n-1) ln(n u^(n-1)) over u.
    u = (np.arange(200_000) + 0.5) / 200_000
    density = 8 * u**7
    assert best_of_n_kl(8) == pytest.approx((density * np.log(density)).mean(), abs=1e-4)
    with pytest.raises(ValueError, match="none"):
        best_of_n_kl(0)


def test_the_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    proxy, gold = rng.standard_normal((3, 7)), rng.standard_normal((3, 7))
    for n in (1, 2, 3, 7):
        for row in range(3):
            subsets = list(itertools.combinations(range(7), n))
            wanted = np.mean([gold[row, max(some, key=lambda i: proxy[row, i])] for some in subsets])
            assert best_of_n(proxy, gold, [n])[row, 0] == pytest.approx(wanted)


def test_answers_that_the_proxy_scores_alike_share_their_chances():
    # Of three answers two are best and alike: each subset of 2 has one of them, gold 1 or 3 with equal chance.
    assert best_of_n(np.array([[5.0, 0.0, 5.0]]), np.array([[1.0, 9.0, 3.0]]), [2, 3])[
        0
    ].tolist() == pytest.approx([2, 2])


def test_n_runs_over_powers_of_two_up_to_the_largest():
    assert (
        powers_of_two(8) == [1, 2, 4, 8] and powers_of_two(12) == [1, 2, 4, 8, 12] and powers_of_two(1) == [1]
    )
    with pytest.raises(ValueError, match="1 ≤ n ≤ 2"):
        best_of_n(np.zeros((1, 2)), np.zeros((1, 2)), [4])
