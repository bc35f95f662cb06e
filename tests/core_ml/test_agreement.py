"""Agreement of labelers, against values worked out by hand, plain loops and the `krippendorff` package."""

import random
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from scipy.stats import kendalltau

from core_ml.feedback import agreement
from core_ml.feedback.agreement import Agreement, Judgement
from core_ml.feedback.alpha import alpha


def measured(*groups):
    """Groups as (n, {labeler: order})."""
    total = Agreement()
    for n, orders in groups:
        total.add(n, [Judgement(labeler, order) for labeler, order in orders.items()])
    return total.result()


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@pytest.mark.parametrize("seed", range(8))
def test_alpha_is_that_of_the_krippendorff_package(level, seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 2 + seed, size=(2 + seed % 4, 40)).astype(float)
    ratings[1:] = np.where(rng.random(ratings[1:].shape) < 0.5, ratings[0], ratings[1:])
    ratings[rng.random(ratings.shape) < 0.3] = np.nan
    theirs = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
    assert alpha(ratings, level) == pytest.approx(theirs, abs=1e-12)


def test_alpha_by_hand():
    # Krippendorff 2011, section A: two labelers, ten units, o01 = 4, o00 = 10, o11 = 6 - 4 + ... by hand:
    # values 0 1 0 0 0 0 0 0 1 0 and 1 1 1 0 0 1 0 0 0 0; n0 = 14, n1 = 6, o01 = o10 = 4.
    ratings = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], dtype=float)
    assert alpha(ratings, "nominal") == pytest.approx(1 - 19 * 4 / (14 * 6))


def test_alpha_is_unknown_where_chance_is():
    assert alpha(np.array([[1.0, 1.0], [1.0, 1.0]]), "ordinal") is None
    assert alpha(np.array([[1.0, np.nan], [np.nan, 2.0]]), "ordinal") is None
    assert alpha(np.full((2, 2), np.nan), "nominal") is None
    with pytest.raises(ValueError, match="is not one of"):
        alpha(np.array([[3.0]]), "nominal", [1, 2])


def test_tied_answers_stand_at_the_mean_of_their_places_and_unnamed_ones_nowhere():
    assert agreement.places([[2], [0, 3], [1]], 4).tolist() == [2.5, 4.0, 1.0, 2.5]
    assert np.isnan(agreement.places([[1]], 2)[0])
    for wrong in ([[0], [2]], [[0, 0]], [[-1]]):
        with pytest.raises(ValueError, match="at most once"):
            agreement.places(wrong, 2)


def test_pairs_are_counted_by_how_two_labelers_judge_them():
    # Pairs (01)(02)(12). ada: 0>1>2. bob: 0>(1=2): same, same, one ties. Cy: 2>1>0, opposite of ada in all.
    found = measured((3, {"ada": [[0], [1], [2]], "bob": [[0], [1, 2]], "cy": [[2], [1], [0]]}))
    # ada-bob 2 of 3; ada-cy 0 of 3; bob-cy 0 of 3 (two opposite, one tied by bob alone).
    assert found["pairs"] == 9 and found["agreement"]["value"] == pytest.approx(2 / 9)
    # Ordered by both: ada-bob 2 pairs, ada-cy 3, bob-cy 2.
    assert found["pairs_ordered"] == 7 and found["agreement_ordered"]["value"] == pytest.approx(2 / 7)
    # tau-b: 2 / sqrt(3 · 2); -1; -2 / sqrt(6).
    assert found["tau_b"] == pytest.approx(-1 / 3)
    # One group has no spread to draw from.
    assert found["agreement"]["low"] is None
    assert [entry["labelers"] for entry in found["between"]] == [["ada", "bob"], ["ada", "cy"], ["bob", "cy"]]


def test_a_tie_against_a_tie_agrees_and_a_pair_that_one_does_not_name_counts_for_nothing():
    found = measured((2, {"ada": [[0, 1]], "bob": [[1, 0]]}), (2, {"ada": [[0], [1]], "bob": [[1]]}))
    assert (found["pairs"], found["agreement"]["value"]) == (1, 1.0)
    assert found["agreement_ordered"]["value"] is None and found["tau_b"] is None


def random_groups(seed, n_groups=60):
    rng = random.Random(seed)
    groups = []
    for _ in range(n_groups):
        n = rng.randint(2, 6)
        orders = {}
        for labeler in rng.sample(["ada", "bob", "cy", "di"], rng.randint(1, 4)):
            named = rng.sample(range(n), n if rng.random() < 0.8 else n - 1)
            order = []
            for index in sorted(named) if rng.random() < 0.5 else named:
                if order and rng.random() < 0.2:
                    order[-1].append(index)
                else:
                    order.append([index])
            orders[labeler] = order
        groups.append((n, orders))
    return groups


def verdict(order, i, j):
    at = {index: place for place, tied in enumerate(order) for index in tied}
    if i not in at or j not in at:
        return None
    return (at[i] > at[j]) - (at[i] < at[j])


@pytest.mark.parametrize("seed", range(3))
def test_everything_is_as_plain_loops_and_other_libraries_have_it(seed):
    groups = random_groups(seed)
    found = measured(*groups)
    labelers = ["ada", "bob", "cy", "di"]
    units, same, both, ordered_same, ordered, taus = [], 0, 0, 0, 0, []
    mine = {labeler: [0, 0] for labeler in labelers}
    for n, orders in groups:
        for i, j in combinations(range(n), 2):
            units.append(
                [
                    np.nan if x not in orders or (v := verdict(orders[x], i, j)) is None else v
                    for x in labelers
                ]
            )
        for a, b in combinations(orders, 2):
            x, y = [], []
            for i, j in combinations(range(n), 2):
                v, w = verdict(orders[a], i, j), verdict(orders[b], i, j)
                if v is None or w is None:
                    continue
                both, same = both + 1, same + (v == w)
                ordered, ordered_same = ordered + bool(v and w), ordered_same + bool(v and v == w)
                for labeler in (a, b):
                    mine[labeler][0] += v == w
                    mine[labeler][1] += 1
            named = {i for tied in orders[a] for i in tied} & {i for tied in orders[b] for i in tied}
            for order, into in ((orders[a], x), (orders[b], y)):
                at = {index: place for place, tied in enumerate(order) for index in tied}
                into += [at[index] for index in sorted(named)]
            tau = kendalltau(x, y).statistic if len(x) > 1 else np.nan
            taus += [] if np.isnan(tau) else [tau]
    ratings = np.array(units).T
    assert found["pairs"] == both and found["agreement"]["value"] == pytest.approx(same / both)
    assert found["agreement_ordered"]["value"] == pytest.approx(ordered_same / ordered)
    assert found["tau_b"] == pytest.approx(np.mean(taus))
    for key, level in (("alpha", "ordinal"), ("alpha_nominal", "nominal")):
        theirs = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
        assert found[key]["value"] == pytest.approx(theirs)
        assert found[key]["low"] < theirs < found[key]["high"]
    stood = [
        [agreement.places(orders[x], n)[i] if x in orders else np.nan for x in labelers]
        for n, orders in groups
        for i in range(n)
    ]
    theirs = krippendorff.alpha(reliability_data=np.array(stood).T, level_of_measurement="ordinal")
    assert found["alpha_places"]["value"] == pytest.approx(theirs)
    for entry in found["labelers"]:
        alike, n_pairs = mine[entry["labeler"]]
        assert (entry["pairs"], entry["agreement"]["value"]) == (n_pairs, pytest.approx(alike / n_pairs))


def test_with_two_labelers_the_alpha_of_each_is_that_of_both():
    groups = [(n, {x: orders[x] for x in list(orders)[:2]}) for n, orders in random_groups(5)]
    groups = [(n, dict(zip("ab", orders.values(), strict=False))) for n, orders in groups]
    found = measured(*groups)
    assert found["labelers"][0]["alpha"]["value"] == pytest.approx(found["alpha"]["value"])


def test_a_careless_labeler_stands_below_the_others():
    rng = random.Random(1)
    groups = []
    for _ in range(100):
        truth = [[0], [1], [2]]
        guess = [[i] for i in rng.sample(range(3), 3)]
        groups.append((3, {"ada": truth, "bob": truth, "guesser": guess}))
    by_name = {entry["labeler"]: entry for entry in measured(*groups)["labelers"]}
    assert by_name["guesser"]["alpha"]["high"] < by_name["ada"]["alpha"]["low"]
    assert by_name["guesser"]["agreement"]["high"] < by_name["ada"]["agreement"]["low"]


def test_an_interval_is_that_of_the_groups_drawn_anew():
    # 30 groups agree and 10 do not: the share of a draw is Binomial(40, 0.75) / 40.
    groups = [(2, {"a": [[0], [1]], "b": [[0], [1]]})] * 30 + [(2, {"a": [[0], [1]], "b": [[1], [0]]})] * 10
    low, high = measured(*groups)["agreement"]["low"], measured(*groups)["agreement"]["high"]
    drawn = np.random.default_rng(7).binomial(40, 0.75, size=100_000) / 40
    assert (low, high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.026)


def test_more_groups_than_blocks_have_the_same_measure_and_like_intervals(monkeypatch):
    groups = random_groups(2, 400)
    whole = measured(*groups)
    monkeypatch.setattr(agreement, "N_BLOCKS", 100)
    blocks = measured(*groups)
    assert blocks["alpha"]["value"] == pytest.approx(whole["alpha"]["value"])
    widths = [found["alpha"]["high"] - found["alpha"]["low"] for found in (whole, blocks)]
    assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_flags_and_all_bad_are_measured_each_by_itself_also_those_that_come_late():
    total = Agreement()
    order = [[0], [1]]
    marks = []
    rng = random.Random(3)
    for number in range(50):
        a, b = ({i: ["untrue"] for i in range(2) if number > 20 and rng.random() < 0.5} for _ in range(2))
        marks += [[float(i in a), float(i in b)] for i in range(2)]
        total.add(2, [Judgement("ada", order, number < 5, a), Judgement("bob", order, number < 6, b)])
    flags = {entry["flag"]: entry for entry in total.result()["flags"]}
    theirs = krippendorff.alpha(reliability_data=np.array(marks).T, level_of_measurement="nominal")
    assert flags["untrue"]["alpha"]["value"] == pytest.approx(theirs)
    assert flags["untrue"]["agreement"]["value"] == pytest.approx(np.mean([a == b for a, b in marks]))
    assert flags["untrue"]["marked"] == np.sum(marks) and flags["untrue"]["share"] == np.mean(marks)
    assert (flags["all bad"]["agreement"]["value"], flags["all bad"]["marked"]) == (49 / 50, 11)


def test_a_second_ranking_by_one_labeler_counts_for_agreement_with_themselves_alone():
    total = Agreement()
    total.add(3, [Judgement("ada", [[0], [1], [2]]), Judgement("ada", [[0], [2], [1]])])
    found = total.result()
    assert (found["pairs"], found["groups_compared"]) == (0, 0)
    assert found["labelers"] == [
        {
            "labeler": "ada",
            "rankings": 2,
            "pairs": 0,
            "with_self": {"pairs": 3, "agreement": pytest.approx(2 / 3)},
        }
    ]


def test_nothing_to_compare_says_so():
    found = Agreement().result()
    assert found["agreement"]["value"] is None and found["alpha"]["value"] is None and found["flags"] == []
