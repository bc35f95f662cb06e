"""The leaderboard out of the lab's own tables, against counts by hand and an independent fit."""

import gzip
import json
import math

import numpy as np
import pytest

from core_ml.evaluation import arena
from lab.models import Battle, Contender, Vote
from lab.queries import judges, ratings
from tests.lab import fights

pytestmark = pytest.mark.django_db
ARENA = "/api/v1/arena"


@pytest.fixture
def lea(account):
    return account("labeler", "lea")


@pytest.fixture
def three():
    return [fights.contender(name) for name in ("A-1", "B-1", "C-1")]


def test_four_wins_in_five_are_odds_of_four_on_an_anchored_scale(lea, three):
    a, b, _ = three
    Contender.objects.filter(pk=b.pk).update(is_anchor=True)
    fights.many(lea, [(a, b, "left")] * 2 + [(b, a, "right")] * 2 + [(a, b, "right")])
    board = ratings.leaderboard()
    rows = {row.contender.name: row.rating for row in board.rows}
    assert rows["B-1"].points == rows["B-1"].low == rows["B-1"].high == 1000
    assert rows["A-1"].points == pytest.approx(1000 + 400 * math.log10(4))
    assert rows["A-1"].low < rows["A-1"].points < rows["A-1"].high
    assert rows["C-1"] is None and board.rows[-1].contender.name == "C-1"
    assert (board.n_votes, board.n_battles, board.anchor) == (5, 5, b)


def test_wins_count_ties_and_both_bad_as_half(lea, three):
    a, b, c = three
    fights.many(
        lea, [(a, b, "left"), (b, a, "left"), (a, b, "tie"), (b, a, "bad"), (a, c, "left"), (c, b, "left")]
    )
    board = ratings.leaderboard()
    table = {one.name: cells for one, cells in ratings.wins(board)}
    names = [row.contender.name for row in board.rows]
    [cell] = [cell for name, cell in zip(names, table["A-1"], strict=True) if name == "B-1"]
    assert (cell.share, cell.n, cell.shade) == (0.5, 4, 3)
    [cell] = [cell for name, cell in zip(names, table["C-1"], strict=True) if name == "A-1"]
    assert (cell.share, cell.n, cell.shade) == (0.0, 1, 0)


def test_nothing_is_counted_again_until_there_is_a_vote(lea, three, monkeypatch):
    a, b, _ = three
    fights.many(lea, [(a, b, "left"), (a, b, "right")])
    calls = []
    real = arena.leaderboard
    monkeypatch.setattr(arena, "leaderboard", lambda *given, **more: calls.append(1) or real(*given, **more))
    ratings._fitted.cache_clear()
    first = ratings.leaderboard()
    Contender.objects.filter(pk=a.pk).update(name="renamed")
    told = {row.contender.pk: row.rating for row in first.rows}
    assert {row.contender.pk: row.rating for row in ratings.leaderboard().rows} == told and len(calls) == 1
    assert {row.contender.name for row in ratings.leaderboard().rows} == {"renamed", "B-1", "C-1"}
    fights.many(lea, [(a, b, "left")])
    assert ratings.leaderboard().n_votes == 3 and len(calls) == 2
    Contender.objects.filter(pk=b.pk).update(is_anchor=True)
    assert ratings.leaderboard().anchor == b and len(calls) == 3


def test_judges_count_only_where_asked_for_and_votes_that_were_not_blind_never(lea, three):
    a, b, _ = three
    fights.many(lea, [(a, b, "left")] * 3 + [(a, b, "right")])
    battle = Battle.objects.first()
    Vote.objects.create(battle=battle, kind="judge", judge="J", outcome="right")
    Vote.objects.filter(battle=Battle.objects.last(), kind="human").update(counts=False)
    assert [ratings.leaderboard(voters).n_votes for voters in ratings.VOTERS] == [3, 1, 4]
    assert ratings.counts() == {"people": 3, "judges": 1, "not_blind": 1}
    assert ratings.leaderboard("all").n_battles == 3, "two votes on one battle are not independent"


def test_what_more_votes_would_tell_stands_with_the_soonest_first(lea, three):
    """30 of 50 need 48 more on their pair (worked out in the tests of the arithmetic); a sure pair is not named."""
    a, b, c = three
    fights.many(lea, [(a, b, "left")] * 30 + [(a, b, "right")] * 20)
    [one] = ratings.undecided(ratings.leaderboard())
    assert (one.better, one.other, one.needed) == (a, b, 48)
    fights.many(lea, [(b, c, "left")] * 90 + [(b, c, "right")] * 10)
    assert [(one.better, one.other) for one in ratings.undecided(ratings.leaderboard())] == [(a, b)]


def test_style_is_taken_out_where_the_longer_answer_always_wins(lea, three):
    """The longer one of 12 wins, which is A's in 8: of its odds of 2 to 1 only half of the logarithm is left, as
    2 / (1 + e^(d + b)) = 1 / (1 + e^(b - d)) has e^(2d) near 2 for a strong effect b; a weaker one leaves some more.
    """
    a, b, _ = three
    for n in range(12):
        longer = "word " * 40 if n < 8 else "word"
        other = "word" if n < 8 else "word " * 40
        fights.fought(lea, a, b, "left" if n < 8 else "right", longer, other)
    board = ratings.leaderboard()
    best = board.rows[0]
    assert best.contender == a and best.rating.points > 1000 + 40
    others = board.rows[1].rating
    assert best.rating.styled - others.styled < 0.7 * (best.rating.points - others.points)
    [length] = [one for one in board.effects if one.name == "length"]
    assert length.low > 0
    assert best.tokens == pytest.approx((8 * 200 + 4 * 4) / 12)


def test_ratings_of_real_votes_through_the_labs_tables_are_those_of_evalica(shared, account):
    """The crowd of LLMFAO: 65 models, its voters as accounts, each comparison a battle of its own."""
    evalica = pytest.importorskip("evalica")
    path = shared / "pref-llmfao" / "crowd-comparisons.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the shared data has no {path.name}")
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    crowd, names = (
        account("labeler", "crowd"),
        sorted({row[side] for row in rows for side in ("left", "right")}),
    )
    made = {name: fights.contender(name) for name in names}
    outcomes = {"left": "left", "right": "right", "tie": "tie"}
    fights.many(crowd, [(made[row["left"]], made[row["right"]], outcomes[row["winner"]]) for row in rows])
    board = ratings.leaderboard()
    assert board.n_votes == len(rows) > 1000 and board.is_finite
    won = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [row["left"] for row in rows],
        [row["right"] for row in rows],
        [won[row["winner"]] for row in rows],
        tolerance=1e-12,
        limit=10_000,
    )
    logs = np.log(theirs.scores.reindex(names).to_numpy())
    expected = dict(zip(names, logs - logs.mean(), strict=True))
    for row in board.rows:
        logit = (row.rating.points - 1000) / arena.ELO
        assert logit == pytest.approx(expected[row.contender.name], abs=5e-4), row.contender.name
    wins = {one.name: cells for one, cells in ratings.wins(board)}
    order = [row.contender.name for row in board.rows]
    a, b = order[0], order[1]
    between = [row for row in rows if {row["left"], row["right"]} == {a, b}]
    if between:
        scores = [1 if row[row["winner"]] == a else 0 for row in between if row["winner"] != "tie"]
        expected_share = (sum(scores) + (len(between) - len(scores)) / 2) / len(between)
        assert wins[a][1].share == pytest.approx(expected_share)


def test_a_judge_is_held_against_people_and_against_itself(lea, account, three):
    """Four battles; by hand: it agrees in two of three decided ones, turns with the sides in one of four."""
    a, b, _ = three
    texts = [("long " * 9, "short"), ("long " * 9, "short"), ("short", "long " * 9), ("same", "size")]
    people = ["left", "right", "right", "tie"]
    votes = [fights.fought(lea, a, b, said, *pair) for said, pair in zip(people, texts, strict=True)]
    verdicts = [("left", "right"), ("left", "right"), ("right", "left"), ("left", "left")]
    for vote, (as_shown, swapped) in zip(votes, verdicts, strict=True):
        outcome = as_shown if as_shown != swapped else "tie"
        Vote.objects.create(
            battle=vote.battle, kind="judge", judge="J", outcome=outcome, verdicts=[as_shown, swapped]
        )
    found = judges.judges()
    [judge] = found.judges
    assert (judge.name, judge.n_votes, judge.n_shared) == ("J", 4, 4)
    assert (judge.agreement.decided.value, judge.agreement.decided.n) == (pytest.approx(2 / 3), 3)
    assert (judge.agreement.with_ties.value, judge.agreement.with_ties.n) == (0.75, 4)
    assert (judge.place.consistent.value, judge.place.first.value, judge.place.second.value) == (
        0.75,
        0.25,
        0,
    )
    assert (judge.longer.value, judge.longer.n) == (1.0, 3)
    assert (found.people_longer.value, found.people_longer.n) == (pytest.approx(2 / 3), 3)


def test_the_api_tells_it_all(api, lea, three):
    a, b, _ = three
    fights.many(lea, [(a, b, "left")] * 3 + [(a, b, "right")])
    told = api().get(f"{ARENA}/leaderboard").json()
    assert (told["n_votes"], told["finite"], told["voters"]) == (4, True, "people")
    assert told["ratings"][0]["name"] == "A-1" and told["ratings"][0]["rating"]["rank"] == 1
    assert [one["name"] for one in told["effects"]] == ["length", "headings", "bold", "list items"]
    assert told["undecided"][0]["better"] == "A-1"
    wins = api().get(f"{ARENA}/wins?voters=all").json()
    assert (wins["names"], wins["shares"][0], wins["votes"][0]) == (["A-1", "B-1"], [None, 0.75], [0, 4])
    assert api().get(f"{ARENA}/judges").json() == {"judges": [], "people_prefer_longer": None}


def test_ties_may_be_an_outcome_of_their_own_on_the_page_and_over_the_api(api, browser, lea, three):
    """8 wins, 2 defeats, 4 ties: ln 4 apart with a model of ties, ln (10 / 4) with half wins."""
    a, b, _ = three
    Contender.objects.filter(pk=b.pk).update(is_anchor=True)
    fights.many(lea, [(a, b, "left")] * 8 + [(b, a, "left")] * 2 + [(a, b, "tie"), (b, a, "bad")] * 2)
    told = {ties: api().get(f"{ARENA}/leaderboard?ties={ties}").json() for ties in ("half", "model")}
    points = {ties: one["ratings"][0]["rating"]["points"] for ties, one in told.items()}
    assert points["half"] == pytest.approx(1000 + 400 * math.log10(10 / 4))
    assert points["model"] == pytest.approx(1000 + 400 * math.log10(4))
    assert (told["half"]["tie_share"], told["model"]["tie_share"]) == (None, pytest.approx(1 / 3))
    page = browser().get("/arena/ratings?ties=model").content.decode()
    assert "Two equal models tie in 33 % of votes" in page
    assert 'href="?voters=people&amp;ties=model" aria-current="true"' in page
    assert "Two equal models tie" not in browser().get("/arena/ratings").content.decode()
    assert browser().get("/arena/ratings?ties=none").status_code == 404
    assert api().get(f"{ARENA}/leaderboard?ties=none").status_code == 422


def test_an_arena_without_votes_has_an_empty_leaderboard(api, three):
    told = api().get(f"{ARENA}/leaderboard").json()
    assert told["n_votes"] == 0 and [one["rating"] for one in told["ratings"]] == [None] * 3
    assert api().get(f"{ARENA}/wins").json() == {"names": [], "shares": [], "votes": []}


@pytest.mark.parametrize("path", ["leaderboard", "wins", "judges"])
def test_ratings_are_for_researchers_and_bad_voters_are_told(api, path):
    assert api(None).get(f"{ARENA}/{path}").status_code == 401
    assert api("labeler").get(f"{ARENA}/{path}").status_code == 403
    if path != "judges":
        answer = api().get(f"{ARENA}/{path}?voters=nobody")
        assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "voters"
