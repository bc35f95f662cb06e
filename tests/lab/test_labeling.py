"""The labelling services: projects, leases, rankings handed in and taken back, settings, export."""

import json
from datetime import timedelta
from threading import Barrier, Thread

import pyarrow.parquet as pq
import pytest
from django.db import connection
from django.utils import timezone

from lab.errors import Conflict, Invalid
from lab.models import Lease, Ranking
from lab.queries import agreement
from lab.queries import artifacts as artifact_queries
from lab.queries import labeling as queries
from lab.services import accounts, artifacts
from lab.services import labeling as services
from tests.lab import making
from tests.lab.making import BEST_FIRST, rank

pytestmark = pytest.mark.django_db


@pytest.fixture
def project(tmp_home):
    return services.create_project("p", making.rollouts(), "short ones first")


def test_answers_are_shuffled_once_and_the_same_for_everybody(project):
    orders = [group.completions for group in project.groups.all()]
    assert all(sorted(order) == sorted(making.FOUR) for order in orders)
    # Three draws of 24 orders each: all three equal to the file's would come once in 13,824.
    assert orders != [making.FOUR] * 3
    for group in project.groups.all():
        assert [making.FOUR[place] for place in group.metadata["places"]] == group.completions


def test_equal_answers_are_shown_once_and_groups_without_a_choice_are_left_out(tmp_home):
    rows = [
        {"group_id": "a", "prompt": "p", "completions": ["x", "x", "y"]},
        {"group_id": "b", "prompt": "q", "completions": ["x", "x"]},
    ]
    project = services.create_project("p", making.dataset("rollouts", rows))
    assert [sorted(group.completions) for group in project.groups.all()] == [["x", "y"]]


def test_a_project_needs_rollouts_with_a_choice(tmp_home):
    prompts = making.dataset("prompts", [{"prompt": "p"}], uid="00001111")
    same = making.rollouts(completions=["x", "x"], uid="00002222")
    for source in (prompts, same):
        with pytest.raises(Invalid) as caught:
            services.create_project("p", source)
        assert caught.value.errors[0].field == "source"
    with pytest.raises(Invalid) as caught:
        services.create_project(" ", same, rankings_per_group=11)
    assert [error.field for error in caught.value.errors] == ["name", "rankings_per_group"]


def test_a_nul_that_a_model_wrote_is_shown_as_a_replacement_character(tmp_home):
    project = services.create_project("p", making.rollouts(1, ["a\0", "b"]))
    assert sorted(project.groups.get().completions) == ["a\ufffd", "b"]


def test_a_labeler_keeps_the_same_group_until_it_is_ranked(project, lea):
    first = services.next_group(project, lea)
    assert services.next_group(project, lea) == first
    services.hand_in(first, lea, BEST_FIRST)
    assert services.next_group(project, lea) != first


def test_two_labelers_never_hold_the_same_group(project, lea, lou):
    assert services.next_group(project, lea) != services.next_group(project, lou)
    rank(project, lea)
    rank(project, lou)
    rank(project, lea)
    assert services.next_group(project, lea) is None
    assert services.next_group(project, lou) is None


def test_a_project_that_wants_two_rankings_gives_each_group_to_two_labelers(tmp_home, lea, lou, account):
    project = services.create_project("p", making.rollouts(1), rankings_per_group=2)
    third = account("labeler", "third")
    assert services.next_group(project, lea) == services.next_group(project, lou)
    assert services.next_group(project, third) is None
    rank(project, lea)
    assert services.next_group(project, lea) is None
    assert services.next_group(project, third) is None
    rank(project, lou)
    assert services.next_group(project, third) is None


def test_an_expired_lease_goes_to_the_next_labeler(project, lea, lou):
    held = services.next_group(project, lea)
    Lease.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert services.next_group(project, lou) == held
    with pytest.raises(Conflict, match="somebody else"):
        services.renew(held, lea)


def test_a_ranking_that_comes_when_others_have_the_group_is_kept_beside_theirs(project, lea, lou):
    held = services.next_group(project, lea)
    Lease.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert services.next_group(project, lou) == held
    late = services.hand_in(held, lea, BEST_FIRST, submission="late")
    assert late.extra and services.hand_in(held, lea, BEST_FIRST, submission="late") == late
    assert not services.hand_in(held, lou, BEST_FIRST[::-1]).extra
    assert {(row["labeler"], row["group_id"]) for row in services.rows(project)} == {
        ("lea", held.metadata["group_id"]),
        ("lou", held.metadata["group_id"]),
    }
    # It is one more than was asked for: two groups of three are left, as before it.
    assert queries.totals(project) == {"groups": 3, "rankings": 1, "wanted": 3}
    assert queries.own_progress(project, lea) == {"mine": 1, "groups": 3, "rankings": 1, "wanted": 3}
    assert queries.progress(project)["ranked"] == 1


def test_a_lease_is_renewed_while_somebody_is_at_work(project, lea, lou):
    held = services.next_group(project, lea)
    with pytest.raises(Conflict):
        services.renew(held, lou)
    Lease.objects.update(expires=timezone.now() + timedelta(seconds=30))
    assert services.renew(held, lea).expires > timezone.now() + services.LEASE - timedelta(seconds=30)
    # Over, and nobody else has it: it is theirs again.
    Lease.objects.update(expires=timezone.now() - timedelta(seconds=1))
    services.renew(held, lea)
    assert services.next_group(project, lou) != held
    services.skip(held, lea)
    with pytest.raises(Conflict):
        services.renew(held, lea)
    other = services.next_group(project, lea)
    services.close(project)
    with pytest.raises(Conflict, match="closed"):
        services.renew(other, lea)


def test_a_late_ranking_counts_when_nobody_else_has_the_group(project, lea):
    held = services.next_group(project, lea)
    Lease.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert services.hand_in(held, lea, BEST_FIRST).group == held


def test_what_is_not_leased_cannot_be_ranked_or_skipped(project, lea):
    group = project.groups.first()
    with pytest.raises(Conflict):
        services.hand_in(group, lea, BEST_FIRST)
    with pytest.raises(Conflict):
        services.skip(group, lea)


def test_a_group_is_ranked_once_by_a_labeler(project, lea):
    ranking = rank(project, lea)
    with pytest.raises(Conflict, match="already"):
        services.hand_in(ranking.group, lea, [[3], [2], [1], [0]])
    # The same once more is the same: a double click, or an answer that was lost on its way.
    assert services.hand_in(ranking.group, lea, BEST_FIRST) == ranking
    assert Ranking.objects.count() == 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"order": [[0], [1], [2]]}, "order"),
        ({"order": [[0], [1], [2], [3], [3]]}, "order"),
        ({"order": [[0], [1], [2], [4]]}, "order"),
        ({"order": [[0], [], [1], [2], [3]]}, "order"),
        ({"order": []}, "order"),
        ({"flags": {"4": ["untrue"]}}, "flags"),
        ({"flags": {"0": ["ugly"]}}, "flags"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
    ],
)
def test_a_ranking_that_does_not_hold_together_is_told_by_field(project, lea, given, field):
    group = services.next_group(project, lea)
    with pytest.raises(Invalid) as caught:
        services.hand_in(group, lea, **{"order": BEST_FIRST, **given})
    assert [error.field for error in caught.value.errors] == [field]
    assert not Ranking.objects.exists()


def test_ties_flags_and_all_bad_are_kept(project, lea):
    ranking = rank(
        project, lea, [[2], [0, 3], [1]], all_bad=True, flags={"1": ["untrue", "untrue"], "2": []}, seconds=3
    )
    ranking.refresh_from_db()
    assert (ranking.order, ranking.all_bad, ranking.flags) == ([[2], [0, 3], [1]], True, {"1": ["untrue"]})


def test_a_skipped_group_does_not_come_back_to_the_one_who_skipped_it(project, lea, lou):
    skipped = services.next_group(project, lea)
    services.skip(skipped, lea)
    assert services.next_group(project, lea) != skipped
    assert services.next_group(project, lou) == skipped


def test_undo_gives_the_last_group_back_with_what_was_ranked(project, lea, lou):
    first = rank(project, lea)
    second = rank(project, lea, [[3], [2], [1], [0]])
    at_hand = services.next_group(project, lea)
    undone = services.undo(project, lea)
    assert (undone.group, undone.order) == (second.group, [[3], [2], [1], [0]])
    assert services.next_group(project, lea) == second.group
    assert services.next_group(project, lou) == at_hand
    services.undo(project, lea)
    assert services.next_group(project, lea) == first.group
    with pytest.raises(Conflict):
        services.undo(project, lea)


def test_a_closed_project_takes_nothing_more_until_it_is_opened_again(project, lea):
    group = services.next_group(project, lea)
    services.close(project)
    assert services.next_group(project, lea) is None
    with pytest.raises(Conflict):
        services.hand_in(group, lea, BEST_FIRST)
    services.reopen(project)
    assert services.next_group(project, lea) == group


@pytest.mark.django_db(transaction=True)
def test_labelers_who_ask_in_the_same_instant_get_different_groups(tmp_home, account):
    project = services.create_project("p", making.rollouts(4))
    labelers = [account("labeler", f"l{i}") for i in range(4)]
    barrier, got = Barrier(4), []

    def ask(labeler):
        try:
            barrier.wait()
            got.append(services.next_group(project, labeler).pk)
        finally:
            connection.close()

    threads = [Thread(target=ask, args=[labeler]) for labeler in labelers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(project.groups.values_list("pk", flat=True))


def test_the_export_is_an_artifact_like_any_other(project, lea):
    robot = accounts.simulated_labeler()
    rank(project, lea, [[1], [0, 2], [3]], flags={"3": ["nonsense"]}, seconds=2.5)
    rank(project, robot)
    artifact = services.export(project, lea)
    folder = artifact_queries.path(artifact)
    rows = pq.read_table(folder / "rankings.parquet").to_pylist()
    assert sorted(row["simulated"] for row in rows) == [False, True]
    mine = next(row for row in rows if not row["simulated"])
    assert (mine["order"], mine["labeler"]) == ([[1], [0, 2], [3]], "lea")
    assert json.loads(mine["flags"]) == {"3": ["nonsense"]}
    assert json.loads(mine["metadata"])["task"] == "add"
    assert sorted(json.loads(mine["metadata"])["shown"]) == [0, 1, 2, 3]
    assert [row["group_id"] for row in rows] == sorted(row["group_id"] for row in rows)
    # 6 pairs less the tie, and 6.
    assert artifact.summary["pairs"] == 11
    assert artifact.manifest["origin"]["inputs"] == {"rollouts": [project.source_id]}
    assert artifacts.reindex() == {"artifacts": 2, "runs": 0, "inputs": 0, "damaged": 0}


def test_nothing_ranked_cannot_be_exported(project, lea):
    with pytest.raises(Conflict):
        services.export(project, lea)


def test_each_labeler_sees_an_order_of_their_own_and_it_is_recorded(tmp_home, account):
    project = services.create_project("p", making.rollouts(1), rankings_per_group=10)
    seen = {}
    for name in "abcdefgh":
        who = account("labeler", name)
        lease = services.next_lease(project, who)
        assert services.next_lease(project, who).shown == lease.shown
        seen[name] = lease.shown
        services.hand_in(lease.group, who, BEST_FIRST)
    assert all(sorted(shown) == [0, 1, 2, 3] for shown in seen.values())
    # Eight draws of 24 orders: that all are one order would come once in 24 to the seventh.
    assert len({tuple(shown) for shown in seen.values()}) > 1
    assert {one.labeler.username: one.shown for one in Ranking.objects.all()} == seen


def test_a_submission_counts_once_also_after_the_project_is_closed(project, lea):
    group = services.next_group(project, lea)
    first = services.hand_in(group, lea, BEST_FIRST, submission="s1")
    services.close(project)
    assert services.hand_in(group, lea, BEST_FIRST, submission="s1") == first
    services.reopen(project)
    with pytest.raises(Conflict, match="another group"):
        services.hand_in(services.next_group(project, lea), lea, BEST_FIRST, submission="s1")
    assert Ranking.objects.count() == 1


def test_uncertain_groups_come_first_and_unlike_each_other(tmp_home, lea):
    prompts = ["count the red cars", "count the red cars!", "name a tall tree", "sing"]
    rows = [{"group_id": f"g{i}", "prompt": p, "completions": ["x", "y"]} for i, p in enumerate(prompts)]
    project = services.create_project("p", making.dataset("rollouts", rows), next_group="uncertain")
    services.set_uncertainty(project, {"g0": 0.9, "g1": 0.8, "g2": 0.7})
    got = []
    while group := services.next_group(project, lea):
        got.append(group.metadata["group_id"])
        services.hand_in(group, lea, [[0], [1]])
    # The second most uncertain asks nearly what the first one asked; what has no score comes last.
    assert got == ["g0", "g2", "g1", "g3"]
    for scores in ({"g9": 1.0}, {"g0": float("nan")}):
        with pytest.raises(Invalid):
            services.set_uncertainty(project, scores)


def test_a_project_asks_for_what_its_settings_say(project, lea):
    services.change(project, flags=["untrue"], scale=5, asks_comment=True, asks_correction=True)
    group = services.next_group(project, lea)
    marks = {"0": 5, "1": 4, "2": 2, "3": 1}
    for said, field in (
        ({"flags": {"0": ["harmful"]}, "marks": marks}, "flags"),
        ({"marks": {}}, "marks"),
        ({"marks": marks | {"0": 6}}, "marks"),
        ({"marks": marks, "comment": "x" * 10_001}, "comment"),
    ):
        with pytest.raises(Invalid) as caught:
            services.hand_in(group, lea, BEST_FIRST, **said)
        assert [error.field for error in caught.value.errors] == [field]
    services.hand_in(group, lea, BEST_FIRST, marks=marks, comment=" why ", correction="better")
    kept = json.loads(services.rows(project)[0]["metadata"])
    assert (kept["marks"], kept["comment"], kept["correction"]) == (marks, "why", "better")
    services.change(project, scale=0, asks_comment=False, asks_correction=False)
    group = services.next_group(project, lea)
    for said in ({"marks": marks}, {"comment": "x"}, {"correction": "x"}):
        with pytest.raises(Invalid):
            services.hand_in(group, lea, BEST_FIRST, **said)


@pytest.mark.parametrize(
    "change",
    [{"scale": 3}, {"flags": ["ugly"]}, {"gold_every": 1}, {"repeat_every": -1}, {"next_group": "last"}, {"examples": [{"x": "y"}]}, {"name": " "}],
)  # fmt: skip
def test_a_setting_that_will_not_do_is_told_by_field(project, change):
    with pytest.raises(Invalid) as caught:
        services.change(project, **change)
    assert [error.field for error in caught.value.errors] == list(change)


def test_a_settled_group_is_exported_in_the_order_that_was_decided(tmp_home, lea, lou, account):
    project = services.create_project("p", making.rollouts(2), rankings_per_group=2)
    for who, order in ((lea, BEST_FIRST), (lou, BEST_FIRST[::-1])):
        for _ in range(2):
            rank(project, who, order)
    disputed = project.groups.first()
    assert len(agreement.of(project)["disputes"]) == 2
    boss = account("researcher", "boss")
    services.settle(disputed, boss, [[2], [0, 1], [3]], "clear")
    rows = services.rows(project)
    assert [(row["labeler"], row["order"]) for row in rows if row["group_id"] == "g0"] == [
        ("boss", [[2], [0, 1], [3]])
    ]
    assert json.loads(rows[0]["metadata"])["note"] == "clear"
    assert [one["task"] for one in agreement.of(project)["disputes"]] != [disputed.pk]
    assert services.export(project).summary["settled"] == 1
    services.unsettle(disputed)
    assert len(services.rows(project)) == 4
    with pytest.raises(Invalid):
        services.settle(disputed, boss, [[0]])


def test_of_more_than_nine_answers_nine_are_shown(tmp_home):
    project = services.create_project("p", making.rollouts(1, [f"answer {i}" for i in range(14)]))
    assert len(set(project.groups.get().completions)) == 9
