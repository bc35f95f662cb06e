"""What labelling measures: progress, agreement, orders compared, gold and repeated groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.models import Ranking
from lab.pages import label_course
from lab.queries import agreement
from lab.queries import labeling as queries
from lab.services import accounts
from lab.services import labeling as services
from tests.lab import making
from tests.lab.making import BEST_FIRST, rank

pytestmark = pytest.mark.django_db


def gold_rows(n, gold):
    return [
        {"group_id": f"g{i}", "prompt": f"p{i}", "completions": making.FOUR, "gold": gold if i < 2 else None}
        for i in range(n)
    ]


@pytest.fixture
def project(tmp_home):
    return services.create_project("p", making.rollouts(), "short ones first")


def test_progress_counts_people_and_programs(project, lea):
    robot = accounts.simulated_labeler()
    rank(project, lea, seconds=4)
    rank(project, robot)
    services.next_group(project, lea)
    told = queries.progress(project)
    assert {key: told[key] for key in ("groups", "ranked", "rankings", "wanted", "simulated", "leased")} == {
        "groups": 3,
        "ranked": 2,
        "rankings": 2,
        "wanted": 3,
        "simulated": 1,
        "leased": 1,
    }
    parts = {part["labeler"]: part for part in told["labelers"]}
    assert parts["lea"]["median_seconds"] == 4
    assert parts["simulated"]["simulated"]


def test_pairs_and_tau_b_of_two_orders_by_hand():
    # The second swaps the last two of four: 5 of 6 pairs agree, tau = (5 - 1) / 6.
    assert queries.compare(BEST_FIRST, [[0], [1], [3], [2]]) == (5, 1, pytest.approx(4 / 6, abs=1e-6))
    assert queries.compare(BEST_FIRST, [[3], [2], [1], [0]]) == (0, 6, -1)
    # A tie of two leaves 5 ordered pairs on that side: tau-b = 5 / sqrt(6 · 5).
    assert queries.compare(BEST_FIRST, [[0], [1], [2, 3]]) == (5, 0, pytest.approx(5 / 30**0.5, abs=1e-6))
    assert queries.compare(BEST_FIRST, [[0, 1, 2, 3]]) == (0, 0, None)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=8), st.data())
def test_tau_b_agrees_with_pandas(a, data):
    pandas = pytest.importorskip("pandas")
    b = data.draw(st.lists(st.integers(0, 4), min_size=len(a), max_size=len(a)))

    def order(ranks):
        return [[i for i, rank in enumerate(ranks) if rank == value] for value in sorted(set(ranks))]

    same, opposite, tau = queries.compare(order(a), order(b))
    sign = pandas.Series(a)
    pairs = [(x, y) for x in range(len(a)) for y in range(x)]
    products = [(sign[x] - sign[y]) * (b[x] - b[y]) for x, y in pairs]
    assert (same, opposite) == (sum(p > 0 for p in products), sum(p < 0 for p in products))
    if tau is not None:
        # The Pearson correlation of the signs of all ordered pairs is tau-b.
        both = [(x, y) for x in range(len(a)) for y in range(len(a)) if x != y]
        left = pandas.Series([(a[x] > a[y]) - (a[x] < a[y]) for x, y in both], dtype=float)
        right = pandas.Series([(b[x] > b[y]) - (b[x] < b[y]) for x, y in both], dtype=float)
        assert tau == pytest.approx(left.corr(right), abs=1e-5)


def test_agreement_counts_only_groups_that_two_have_ranked(tmp_home, lea, lou):
    project = services.create_project("p", making.rollouts(3), rankings_per_group=2)
    for _ in range(3):
        rank(project, lea)
    rank(project, lou)
    rank(project, lou, [[0], [1], [3], [2]])
    told = agreement.of(project)
    # 6 of 6 pairs and 5 of 6; tau-b 1 and 4/6.
    assert (told["groups"], told["pairs"]) == (2, 12)
    assert told["agreement"] == pytest.approx(11 / 12)
    assert told["tau_b"] == pytest.approx(10 / 12, abs=1e-6)
    assert told["low"] == pytest.approx(5 / 6) and told["high"] == 1
    assert told["between"][0]["labelers"] == ["lea", "lou"]
    assert [dispute["tau_b"] for dispute in told["disputes"]] == [pytest.approx(4 / 6, abs=1e-6)]


def test_programs_that_rank_are_no_people(tmp_home, lea, lou, browser, api):
    """Lea and Lou turn all pairs of five groups around; two programs say what Lea says."""
    project = services.create_project("p", making.rollouts(5), rankings_per_group=4)
    robots = [accounts.create(name, "labeler", simulated=True) for name in ("rule", "judge")]
    for group in project.groups.all():
        for who in (lea, *robots):
            Ranking.objects.create(group=group, labeler=who, order=BEST_FIRST)
        Ranking.objects.create(group=group, labeler=lou, order=BEST_FIRST[::-1])
    told = agreement.of(project)
    # With the programs, 3 of 6 pairs of labelers would agree.
    assert (told["among"], told["agreement"], told["pairs"], told["groups"]) == ("people", 0.0, 30, 5)
    assert (told["programs"]["value"], told["programs"]["pairs"]) == (1.0, 30)
    own = {
        one["labeler"]: (one["simulated"], one["pairs"], one["agreement"]["value"])
        for one in told["labelers"]
    }
    # Each program agrees with one of two people.
    assert own == {
        "lea": (False, 30, 0.0),
        "lou": (False, 30, 0.0),
        "rule": (True, 60, 0.5),
        "judge": (True, 60, 0.5),
    }
    assert ["lea", "lou"] in [one["labelers"] for one in told["between"]] and len(told["between"]) == 5
    assert len(told["disputes"]) == 5
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    assert "Of people only. Programs agree with each other on 100.0 % of 30 pairs" in " ".join(page.split())
    found = api().get(f"/api/v1/labeling/projects/{project.pk}/agreement").json()
    assert (found["among"], found["programs"]["groups"]) == ("people", 5)


def test_programs_alone_are_said_to_tell_nothing_of_people(tmp_home, browser):
    project = services.create_project("p", making.rollouts(10), rankings_per_group=2)
    robots = [accounts.create(name, "labeler", simulated=True) for name in ("rule", "judge")]
    for group in project.groups.all():
        for who in robots:
            Ranking.objects.create(group=group, labeler=who, order=BEST_FIRST)
    told = agreement.of(project)
    assert (told["among"], told["agreement"], told["programs"]) == ("programs", 1.0, None)
    assert len(agreement.course(project)) == 2
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    assert "the agreement is theirs and says nothing about people" in page


def test_nothing_ranked_twice_has_no_agreement(project, lea):
    rank(project, lea)
    told = agreement.of(project)
    assert (told["agreement"], told["tau_b"], told["pairs"]) == (None, None, 0)


def test_gold_groups_go_to_each_labeler_and_measure_them(tmp_home, lea, lou):
    source = making.dataset("rollouts", gold_rows(12, [[0], [1], [2], [3]]))
    project = services.create_project("p", source, gold_every=2)
    for group in project.groups.filter(gold__isnull=False):
        assert [group.completions[i] for [i] in group.gold] == making.FOUR
    for who in (lea, lou):
        for _ in range(5):
            group = services.next_group(project, who)
            order = group.gold or BEST_FIRST
            if who == lou and group.gold:  # the last two turned around: 5 of 6 pairs are right
                order = [*order[:2], order[3], order[2]]
            services.hand_in(group, who, order)
    told = {one["labeler"]: one for one in queries.progress(project)["labelers"]}
    assert (told["lea"]["gold"], told["lea"]["gold_right"], told["lea"]["gold_pairs"]) == (2, 12, 12)
    assert (told["lou"]["gold"], told["lou"]["gold_right"], told["lou"]["gold_pairs"]) == (2, 10, 12)
    # Gold is neither progress nor exported.
    assert queries.totals(project) == {"groups": 10, "rankings": 6, "wanted": 10}
    assert len(services.rows(project)) == 6


def test_a_known_order_names_the_answers_that_are_shown(tmp_home):
    rows = [
        {"group_id": "a", "prompt": "p", "completions": ["x", "y", "x"], "gold": [[1], [0, 2]]},
        {"group_id": "b", "prompt": "p", "completions": ["x", "y"], "gold": [[1]]},
        {"group_id": "c", "prompt": "p", "completions": ["x", "y"], "gold": "best"},
    ]
    project = services.create_project("p", making.dataset("rollouts", rows))
    first, *others = project.groups.order_by("index")
    assert [[first.completions[i] for i in tied] for tied in first.gold] == [["y"], ["x"]]
    assert [group.gold for group in others] == [None, None]


def test_a_repeated_group_measures_agreement_with_oneself(tmp_home, lea):
    project = services.create_project("p", making.rollouts(30), repeat_every=2)
    for _ in range(14):
        lease = services.next_lease(project, lea)
        services.hand_in(lease.group, lea, [[0], [1], [3], [2]] if lease.round else BEST_FIRST)
    again = Ranking.objects.filter(round=1)
    assert again.count() >= 3
    told = queries.progress(project)["labelers"][0]
    # Each repetition turns one of its 6 pairs around.
    assert (told["repeated"], told["self_pairs"]) == (again.count(), 6 * again.count())
    assert told["self_agreement"] == pytest.approx(5 / 6)
    assert queries.totals(project)["rankings"] == 14 - again.count() == len(services.rows(project))
    order = list(Ranking.objects.order_by("id").values_list("group", "round"))
    for at, (group, round) in enumerate(order):
        if round:
            assert at - order.index((group, 0)) > 5


def test_agreement_is_told_in_parts_as_the_rankings_came_in(tmp_home, lea, lou, browser):
    """Twenty groups: alike in the first ten, opposite in the last ten; of each group all 6 pairs count."""
    found = services.create_project("p", making.rollouts(20), rankings_per_group=2)
    for i in range(20):
        group = found.groups.get(index=i)
        backwards = BEST_FIRST if i < 10 else BEST_FIRST[::-1]
        # The second ranking of a group counts its time: those of the later groups are handed in first.
        Ranking.objects.create(group=group, labeler=lea, order=BEST_FIRST)
        Ranking.objects.create(group=group, labeler=lou, order=backwards)
    parts = agreement.course(found)
    assert [(part["first"], part["last"], part["value"]) for part in parts] == [
        (1, 5, 1.0), (6, 10, 1.0), (11, 15, 0.0), (16, 20, 0.0),
    ]  # fmt: skip
    assert all(part["apart"] for part in parts)
    page = browser().get(f"/labeling/{found.pk}").content.decode()
    assert "4 of 4 parts stand apart from the whole" in page and page.count('class="dot-people"') >= 4
    # A ranking that comes later moves its group to the end, however early its number is.
    Ranking.objects.filter(group__project=found, group__index=0).last().delete()
    Ranking.objects.create(group=found.groups.get(index=0), labeler=lou, order=BEST_FIRST)
    assert [part["value"] for part in agreement.course(found)] == [1.0, 0.8, 0.0, pytest.approx(0.2)]


def test_too_few_groups_tell_no_parts_apart(tmp_home, project, lea, lou, browser):
    assert agreement.course(project) == []
    assert "Ten groups that two labelers ranked" in browser().get(f"/labeling/{project.pk}").content.decode()


def test_a_course_in_which_nothing_stands_apart_says_how_much_it_would_hide():
    parts = [
        {"first": 1, "last": 10, "value": 0.7, "low": 0.6, "high": 0.8, "apart": False},
        {"first": 11, "last": 20, "value": 0.74, "low": 0.62, "high": 0.86, "apart": False},
    ]
    found = label_course.drawn(parts, 0.72)
    assert found["finding"] == (
        "No 10 groups in a row stand apart from the whole; 11 points up or down would hardly show."
    )
