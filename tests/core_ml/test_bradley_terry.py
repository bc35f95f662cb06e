"""Ratings against numbers worked out by hand, and on real votes against independent fits."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core_ml.evaluation import arena
from core_ml.evaluation import bradley_terry as bt

LOG2 = math.log(2)
SCORES = {"left": 1.0, "right": 0.0, "model_a": 1.0, "model_b": 0.0}


def games(*rows: tuple[int, int, float], m: int = 2, covariates: Any = None) -> bt.Comparisons:
    first, second, score = zip(*rows, strict=True)
    extra = None if covariates is None else np.array(covariates, dtype=float)
    return bt.Comparisons(np.array(first), np.array(second), np.array(score, dtype=float), m, extra)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        pytest.skip(f"the shared data has no {path.parent.name}/{path.name}")
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def as_games(rows: list[dict[str, Any]], a: str, b: str) -> tuple[bt.Comparisons, list[str]]:
    names = sorted({row[a] for row in rows} | {row[b] for row in rows})
    place = {name: i for i, name in enumerate(names)}
    triples = [(place[row[a]], place[row[b]], SCORES.get(row["winner"], 0.5)) for row in rows]
    return games(*triples, m=len(names)), names


def test_two_wins_of_three_are_odds_of_two_to_one() -> None:
    fitted = bt.fit(games((0, 1, 1), (0, 1, 1), (1, 0, 1)))
    assert fitted.ratings == pytest.approx([LOG2 / 2, -LOG2 / 2])


def test_a_tie_is_half_a_win_for_each() -> None:
    """Three wins and two ties are 4 to 1; the sides do not matter."""
    fitted = bt.fit(games((0, 1, 1), (1, 0, 0), (0, 1, 1), (0, 1, 0.5), (1, 0, 0.5)))
    assert fitted.ratings[0] - fitted.ratings[1] == pytest.approx(math.log(4))


def test_a_chain_of_three_models_adds_up() -> None:
    """0 against 1 is 2 to 1 and 1 against 2 is 4 to 1, so 0 against 2 is 8 to 1."""
    rows = [(0, 1, 1)] * 2 + [(1, 0, 1)] + [(1, 2, 1)] * 4 + [(2, 1, 1)]
    fitted = bt.fit(games(*rows, m=3))
    assert fitted.ratings[0] - fitted.ratings[2] == pytest.approx(math.log(8))
    points = arena.to_points(fitted.ratings, 1)
    # 400 points for odds of ten to one.
    assert points == pytest.approx([1000 + 400 * math.log10(2), 1000, 1000 - 400 * math.log10(4)])
    assert arena.to_points(fitted.ratings, None).mean() == pytest.approx(1000)


def test_who_only_wins_has_no_finite_rating_unless_a_prior_holds_it() -> None:
    always = games((0, 1, 1), (0, 1, 1))
    assert not bt.is_connected(always)
    with pytest.raises(ValueError, match="only wins"):
        bt.fit(always)
    # By symmetry r and -r: 2·(1 - s(2r)) = s(r) - 1/2, with s the sigmoid and one tie with an average model each.
    r = bt.fit(always, prior=1.0).ratings[0]
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert 2 * (1 - s(2 * r)) == pytest.approx(s(r) - 0.5)
    assert not arena.leaderboard(always).is_finite


def test_a_circle_of_wins_is_connected_and_leaves_all_equal() -> None:
    circle = games((0, 1, 1), (1, 2, 1), (2, 0, 1), m=3)
    assert bt.is_connected(circle)
    assert bt.fit(circle).ratings == pytest.approx([0, 0, 0])


def test_davidson_by_hand() -> None:
    """Two models have as many parameters as outcomes: 8 wins, 2 defeats, 4 ties give ln 4 and nu = 4 / sqrt(8·2)."""
    ratings, nu = bt.davidson(games(*[(0, 1, 1)] * 8, *[(1, 0, 1)] * 2, *[(0, 1, 0.5)] * 4))
    assert ratings[0] - ratings[1] == pytest.approx(math.log(4))
    assert nu == pytest.approx(1.0)
    assert bt.davidson(games((0, 1, 1), (1, 0, 1)))[1] == 0.0


def test_davidsons_weights_are_repetitions_and_a_prior_keeps_ratings_finite() -> None:
    rows = games((0, 1, 1), (1, 0, 1), (0, 1, 0.5))
    ratings, nu = bt.davidson(rows, np.array([8.0, 2.0, 4.0]))
    assert (ratings[0] - ratings[1], nu) == (pytest.approx(math.log(4)), pytest.approx(1.0))
    assert bt.davidson(rows, np.array([8.0, 2.0, 4.0]), start=(ratings, nu))[1] == pytest.approx(1.0)
    always = games((0, 1, 1), (0, 1, 1), (0, 2, 1), (2, 1, 0.5), (1, 2, 1), m=3)
    with pytest.raises(ValueError, match="give a prior"):
        bt.davidson(always)
    ratings, nu = bt.davidson(always, prior=0.5)
    assert ratings[0] > max(ratings[1:]) and np.isfinite(ratings).all() and 0 < nu < 5


def test_a_leaderboard_may_give_ties_a_probability_of_their_own() -> None:
    """8 wins, 2 defeats and 4 ties: ln 4 apart by Davidson, ln (10 / 4) where a tie is half a win for each."""
    rows = games(*[(0, 1, 1)] * 8, *[(1, 0, 1)] * 2, *[(0, 1, 0.5)] * 4)
    half, own = (arena.leaderboard(rows, anchor=1, draws=50, ties=ties) for ties in ("half", "model"))
    assert half.ratings[0].points == pytest.approx(1000 + arena.ELO * math.log(10 / 4))
    assert own.ratings[0].points == pytest.approx(1000 + arena.ELO * math.log(4))
    assert own.ratings[0].low < own.ratings[0].points < own.ratings[0].high
    # nu is 1, so that two equal models tie in a third of votes.
    assert (half.tie_share, own.tie_share) == (None, pytest.approx(1 / 3))
    tied = arena.leaderboard(games((0, 1, 0.5), (1, 0, 0.5)), draws=5, ties="model")
    assert tied.tie_share is None and tied.ratings[0].points == pytest.approx(1000)


def test_weights_are_repetitions() -> None:
    one = games((0, 1, 1), (1, 0, 1))
    assert bt.fit(one, np.array([3.0, 1.0])).ratings == pytest.approx([math.log(3) / 2, -math.log(3) / 2])


def test_style_control_takes_out_what_length_explains() -> None:
    """Equal models of which the longer answer wins 3 of 4 times: the rating is 0 and the effect ln 3."""
    rows = [(0, 1, 1)] * 3 + [(0, 1, 0)] + [(0, 1, 0)] * 3 + [(0, 1, 1)]
    longer = [[1.0]] * 4 + [[-1.0]] * 4
    fitted = bt.fit(games(*rows, covariates=longer))
    assert fitted.ratings == pytest.approx([0, 0])
    assert fitted.coefficients == pytest.approx([math.log(3)])
    shown = arena.style_covariates(np.array([[30, 0, 1, 0]]), np.array([[10, 0, 0, 0]]))
    assert shown.tolist() == [[1.0, 0.0, 1.0, 0.0]]  # (30 - 10) / 40 over its own spread


def test_a_leaderboard_tells_what_is_left_without_style_beside_the_rating() -> None:
    """Model 0 beats 1 by 3 to 1, and the longer answer wins every time but for a few votes: style explains it."""
    rows = [(0, 1, 1.0)] * 30 + [(0, 1, 0.0)] * 10
    longer = np.array([[200, 0, 0, 0]] * 29 + [[100, 0, 0, 0]] * 11)
    shown = arena.style_covariates(longer, [[300, 0, 0, 0]] - longer)
    board = arena.leaderboard(games(*rows, covariates=shown), anchor=1, draws=50)
    first, second = board.ratings
    assert first.points == pytest.approx(1000 + 400 * math.log10(3))
    assert first.low < first.points < first.high and first.n_votes == 40
    assert (second.points, second.low, second.high) == (1000, 1000, 1000)
    assert first.styled is not None and abs(first.styled - 1000) < abs(first.points - 1000)
    length, *others = board.effects
    assert length.name == "length" and length.low > 0
    assert [effect.value for effect in others] == pytest.approx([0, 0, 0])


def test_style_counts_markdown_and_not_what_is_code() -> None:
    text = "# A\n\n**bold** and __more__\n- one\n2. two\n```\n# no heading\n- no item\n```\n"
    assert arena.style(text) == (len(text), 1, 2, 2)


def test_ranks_are_shared_where_intervals_overlap() -> None:
    assert arena.shared_ranks([90, 80, 10, 0], [110, 95, 20, 5]) == [1, 1, 3, 4]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """40 arenas of two models at odds of 2 to 1: the 95 % interval holds ln 2 in 34 of them or more."""
    held = 0
    for seed in range(40):
        won = np.random.default_rng(seed).random(200) < 2 / 3
        found = games(*[(0, 1, float(win)) for win in won])
        _, drawn, _ = bt.bootstrap(found, 60, seed)
        low, high = np.quantile(drawn[:, 0] - drawn[:, 1], (0.025, 0.975))
        held += low <= LOG2 <= high
    assert held >= 34


def test_votes_of_one_battle_are_drawn_together() -> None:
    rows = [(0, 1, 1.0)] * 30 + [(0, 1, 0.0)] * 30
    apart = bt.bootstrap(games(*rows), 200)[1][:, 0].std()
    together = bt.bootstrap(games(*rows), 200, clusters=np.arange(60) // 10)[1][:, 0].std()
    assert together > 2 * apart  # sqrt(10) times in theory


def test_the_next_pair_is_where_a_vote_tells_most() -> None:
    """Model 2 has no vote: both pairs with it gain, by symmetry equally, and far more than the pair known well."""
    known = games(*[(0, 1, 1), (1, 0, 1)] * 50, m=3)
    gains = arena.pair_gains(known)
    assert gains[0, 2] == pytest.approx(gains[1, 2]) and gains[0, 2] > 20 * gains[0, 1]
    # By hand, with no votes at all: variance 4 each, w = 1/4, |Cv|² = 32, v'Cv = 8: 8 / (1 + 2).
    nothing = bt.Comparisons(np.zeros(0, int), np.zeros(0, int), np.zeros(0), 2)
    assert arena.pair_gains(nothing)[0, 1] == pytest.approx(8 / 3)
    chance = np.random.default_rng(0)
    drawn = [arena.next_pair(known, [0, 1, 2], chance) for _ in range(200)]
    assert sum(2 in pair for pair in drawn) > 180
    assert 60 < sum(pair[0] == 2 for pair in drawn) < 140  # the sides are drawn too
    assert {frozenset(arena.next_pair(known, [0, 1], chance)) for _ in range(9)} == {frozenset((0, 1))}
    with pytest.raises(ValueError, match="2 models"):
        arena.next_pair(known, [1, 1], chance)


def test_chosen_pairs_narrow_the_ratings_faster_than_pairs_at_random() -> None:
    """The summed variance of the ratings under the true strengths, over 4 arenas of 8 models and 120 votes."""
    truth = np.linspace(-4, 4, 8)
    spread = {"chosen": 0.0, "random": 0.0}
    for way, seed in [(way, seed) for way in spread for seed in range(4)]:
        chance = np.random.default_rng(seed)
        rows = [(i, (i + 1) % 8, 0.5) for i in range(8)]
        for _ in range(120):
            if way == "chosen":
                i, j = arena.next_pair(games(*rows, m=8), range(8), chance)
            else:
                i, j = chance.choice(8, 2, replace=False)
            rows.append((int(i), int(j), float(chance.random() < 1 / (1 + math.exp(truth[j] - truth[i])))))
        information = np.zeros((8, 8))
        for i, j, _ in rows:
            v = np.eye(8)[i] - np.eye(8)[j]
            information += np.outer(v, v) / (2 + 2 * math.cosh(truth[i] - truth[j]))
        spread[way] += np.trace(np.linalg.pinv(information))
    assert spread["chosen"] < 0.9 * spread["random"]


def test_votes_that_would_tell_two_models_apart_are_counted_by_hand() -> None:
    """30 of 50: d = ln 1.5, s = 1 / (50 · 0.24), so that n = (1.96² / d² - 12) / 0.24 = 47.3 more."""
    found = games(*[(0, 1, 1.0)] * 30, *[(0, 1, 0.0)] * 20)
    assert arena.votes_needed(found, 0, 1) == arena.votes_needed(found, 1, 0) == 48
    more = games(*[(0, 1, 1.0)] * 59, *[(0, 1, 0.0)] * 39)
    assert arena.votes_needed(more, 0, 1) == 0
    assert arena.votes_needed(games(*[(0, 1, 1.0)] * 5, *[(0, 1, 0.0)] * 5), 0, 1) is None


REAL = [
    ("pref-llmfao", "crowd-comparisons", "left", "right"),
    ("pref-mtbench", "human-votes", "model_a", "model_b"),
    ("pref-mtbench", "gpt4-pair-votes", "model_a", "model_b"),
]


@pytest.mark.parametrize(("folder", "name", "a", "b"), REAL)
def test_ratings_of_real_votes_are_those_of_evalica_and_choix(
    shared: Path, folder: str, name: str, a: str, b: str
) -> None:
    evalica = pytest.importorskip("evalica")
    choix = pytest.importorskip("choix")
    rows = read(shared / folder / f"{name}.jsonl.gz")
    found, names = as_games(rows, a, b)
    ours = bt.fit(found).ratings
    won = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [row[a] for row in rows],
        [row[b] for row in rows],
        [won[score] for score in found.score],
        tolerance=1e-12,
        limit=10_000,
    )
    logs = np.log(theirs.scores.reindex(names).to_numpy())
    assert ours == pytest.approx(logs - logs.mean(), abs=5e-4)
    # choix knows no ties: two wins for one of ours that was decided, one for each side of a tie.
    pairs = []
    for i, j, score in zip(found.first, found.second, found.score, strict=True):
        pairs += [(i, j)] * round(2 * score) + [(j, i)] * round(2 - 2 * score)
    assert ours == pytest.approx(choix.ilsr_pairwise(len(names), pairs, alpha=0), abs=5e-4)
    assert arena.to_points(ours, 0)[0] == 1000


@pytest.mark.parametrize(("folder", "name", "a", "b"), REAL[1:2])
def test_davidsons_likelihood_is_highest_where_it_says(
    shared: Path, folder: str, name: str, a: str, b: str
) -> None:
    """Against scipy's own search over the same likelihood, written out plainly."""
    optimize = pytest.importorskip("scipy.optimize")
    found, names = as_games(read(shared / folder / f"{name}.jsonl.gz"), a, b)
    ratings, nu = bt.davidson(found)

    def minus_log_likelihood(theta: np.ndarray) -> float:
        strong = np.exp(theta[:-1])
        one, two = strong[found.first], strong[found.second]
        tied = np.exp(theta[-1]) * np.sqrt(one * two)
        chance = np.where(found.score == 1, one, np.where(found.score == 0, two, tied)) / (one + two + tied)
        return -float(np.log(chance).sum())

    best = optimize.minimize(minus_log_likelihood, np.zeros(len(names) + 1), tol=1e-10).x
    assert ratings == pytest.approx(best[:-1] - best[:-1].mean(), abs=5e-4)
    assert math.log(nu) == pytest.approx(best[-1], abs=5e-4)
