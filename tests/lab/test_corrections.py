"""Corrections of rankings that were made elsewhere: opened at a click, settled, exported with all the rest."""

import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
from django.db import connections

from core_ml.artifact import Folder
from core_ml.feedback.pairs import read_rankings
from lab.errors import Conflict, Invalid
from lab.models import Group, Project
from lab.queries import artifacts as queries
from lab.queries import labeling, orders
from lab.queries.board import waiting_groups
from lab.services import artifacts
from lab.services import labeling as services
from tests.lab import making

pytestmark = pytest.mark.django_db
ATTACK = "<img src=x onerror=alert(1)>"
REVERSED = [[3], [2], [1], [0]]


def crowd(uid="0000eeee", n_groups=3, completions=making.FOUR):
    """A set that three labelers of elsewhere ranked, its rows not together; two of them say 0 1 2 3 and one 1 0 2 3."""
    order = [[i] for i in range(len(completions))]
    rows = [
        {"group_id": f"g{i}", "prompt": f"prompt {i} {ATTACK}", "completions": [f"{ATTACK} {one}" for one in completions], "order": order if who != "eve" else [order[1], order[0], *order[2:]], "labeler": who, "simulated": who == "eve", "seconds": 2.0, "flags": {"1": ["untrue"]} if who == "ada" else {}, "weight": 0.5, "lang": "en"}
        for who in ("ada", "bob", "eve")
        for i in range(n_groups)
    ]  # fmt: skip
    return making.dataset("rankings", rows, uid, f"crowd {ATTACK}")


def exported(project):
    return read_rankings(Folder(artifacts.local_path(services.export(project))))


def test_an_export_is_the_whole_dataset_with_the_settled_order_in_it(tmp_home, account):
    source = crowd()
    before = read_rankings(Folder(artifacts.local_path(source)))
    boss = account("researcher", "boss")
    group = services.correct(source, "g1", boss)
    assert (group.prompt, group.completions) == (before.groups[1].prompt, list(before.groups[1].completions))
    with pytest.raises(Conflict, match="nothing has been corrected"):
        services.export(group.project)
    assert waiting_groups(group.project) == (1, 1)
    services.settle(group, boss, REVERSED, "the last is the only true one")
    assert waiting_groups(group.project) == (0, 1)
    made = services.export(group.project)
    after = read_rankings(Folder(artifacts.local_path(made)))
    assert [g.id for g in after.groups] == ["g0", "g1", "g2"] and after.n_damaged == 0
    assert [len(g.rankings) for g in after.groups] == [3, 1, 3]
    assert [g.rankings for g in after.groups[::2]] == [g.rankings for g in before.groups[::2]]
    only = after.groups[1].rankings[0]
    assert (only.labeler, only.order, only.weight) == ("boss", ((3,), (2,), (1,), (0,)), 1.0)
    assert {k: made.summary[k] for k in ("rankings", "groups", "settled", "pairs", "simulated", "labelers", "seconds")} == {
        "rankings": 7, "groups": 3, "settled": 1, "pairs": 42, "simulated": 2, "labelers": 4, "seconds": 12.0
    }  # fmt: skip
    row = next(row for row in services.rows(group.project) if row["group_id"] == "g1")
    told = json.loads(row["metadata"])
    assert told["lang"] == "en" and told["settled"] and told["note"] and "weight" not in told
    # Undone, the dataset is as it was.
    services.unsettle(group)
    assert read_rankings(Folder(artifacts.local_path(source))) == before
    rows = list(services.rows(group.project))
    assert [(row["group_id"], row["labeler"], row["order"]) for row in rows] == [
        (f"g{i}", who, making.BEST_FIRST if who != "eve" else [[1], [0], [2], [3]])
        for i in range(3)
        for who in ("ada", "bob", "eve")
    ]


def written(rows, uid="0000eeee", **columns):
    """A dataset of rankings as another program may have written it, with other columns than ours."""
    source = making.dataset("rankings", rows, uid)
    path = artifacts.local_path(source) / "rankings.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.drop_columns(name) if name in table.column_names else table
        table = table if values is None else table.append_column(name, [values])
    pq.write_table(table, path)
    return source


ROW = {"group_id": "g0", "prompt": "p", "completions": ["one", "two"], "order": [[0], [1]], "labeler": "ada"}


def test_columns_that_another_program_left_out_or_added_do_no_harm(browser, tmp_home, account):
    source = written(
        [ROW, ROW | {"group_id": "g1"}], weight=[0.25, 0.5], flags=None, seconds=None, metadata=None
    )
    group = services.correct(source, "g0")
    page = browser().get(f"/labeling/{group.project_id}/groups/{group.pk}").content.decode()
    assert "ada" in page and page.count("selected") == 2
    services.settle(group, account("researcher", "boss"), [[1], [0]])
    corrected, other = exported(group.project).groups
    assert [one.weight for one in corrected.rankings] == [1.0] and [one.weight for one in other.rankings] == [
        0.5
    ]


def test_damaged_rankings_and_what_no_database_keeps_do_no_harm(browser, tmp_home):
    rows = [ROW | {"labeler": f"l{i}"} for i in range(3)]
    odd = '{"score": NaN, "\\u0000": "a\\u0000b", "deep": [1e999]}'
    source = written(rows, order=[[[0], [0]], [[5], [0]], [[1], [0]]], metadata=[odd] * 3)
    group = services.correct(source, "g0")
    group.refresh_from_db()
    assert group.metadata["metadata"] == {"score": None, "\ufffd": "a\ufffdb", "deep": [None]}
    page = browser().get(f"/labeling/{group.project_id}/groups/{group.pk}").content.decode()
    assert "l2" in page and "l0" not in page and "l1" not in page


def test_a_file_that_cannot_be_read_is_told_and_no_page_breaks(browser, tmp_home):
    source = written([ROW])
    group = services.correct(source, "g0")
    (artifacts.local_path(source) / "rankings.parquet").write_bytes(b"PAR1 and nothing else")
    page = browser().get(f"/labeling/{group.project_id}/groups/{group.pk}")
    assert page.status_code == 200 and "cannot be read" in page.content.decode()
    sent = {"dataset": source.pk, "group": "g1"}
    assert browser().post("/labeling/corrections", sent)["Location"] == f"/datasets/{source.pk}"
    group.settled = [[1], [0]]
    group.save()
    assert (
        browser().post(f"/labeling/{group.project_id}/export")["Location"] == f"/labeling/{group.project_id}"
    )


def test_what_another_lab_exported_is_not_the_project_that_has_its_number_here(tmp_home, account):
    project = services.create_project("ours", making.rollouts(), "", 1)
    making.rank(project, account("labeler", "lea"))
    export = services.export(project)
    source = crowd()
    source.manifest = {
        **source.manifest,
        "origin": export.manifest["origin"] | {"inputs": {"rollouts": ["elsewhere"]}},
    }
    source.save()
    assert orders.exports(project).get() == export
    assert services.correct(source, "g0").project.source == source


def test_asked_for_again_it_is_the_same_group_and_another_dataset_has_a_project_of_its_own(tmp_home, account):
    source, other = crowd(), crowd("0000ffff")
    first = services.correct(source, "g0")
    assert services.correct(source, "g0") == first
    second = services.correct(source, "g2")
    assert (second.project, second.index) == (first.project, 1)
    assert services.correct(other, "g0").project != first.project
    assert Project.objects.count() == 2


def test_what_was_exported_is_corrected_further_in_the_same_project(tmp_home, account):
    boss = account("researcher", "boss")
    first = services.correct(crowd(), "g0", boss)
    services.settle(first, boss, REVERSED)
    made = services.export(first.project)
    assert services.correct(made, "g0") == first
    later = services.correct(made, "g2", boss)
    assert later.project == first.project
    services.settle(later, boss, REVERSED)
    taught = {g.id: len(g.rankings) for g in exported(first.project).groups}
    assert taught == {"g0": 1, "g1": 3, "g2": 1}


def test_of_an_export_of_a_labelling_project_it_is_the_group_that_people_ranked(tmp_home, account):
    project = services.create_project("helpful", making.rollouts(), "", 1)
    making.rank(project, account("labeler", "lea"))
    made = services.export(project)
    id = next(iter(services.rows(project)))["group_id"]
    assert services.correct(made, id) == project.groups.get(metadata__group_id=id)
    # The project is gone, the export is not: it is a dataset like any other then.
    services.delete_project(project)
    group = services.correct(made, id)
    assert group.project.corrects and group.project.source == made


def test_a_group_of_twelve_answers_is_corrected_too(browser, tmp_home):
    source = crowd(completions=[f"answer {i}" for i in range(12)])
    group = services.correct(source, "g0")
    form = {f"place-{i}": str(12 - i) for i in range(12)}
    address = f"/labeling/{group.project_id}/groups/{group.pk}"
    assert browser().post(address, form | {"place-0": "13"}).status_code == 422
    assert browser().post(address, form).status_code == 302
    group.refresh_from_db()
    assert group.settled == [[i] for i in reversed(range(12))]


@pytest.mark.parametrize(("id", "words"), [("nobody", "has no group 'nobody'"), ("alone", "no two answers")])
def test_what_cannot_be_corrected_says_why(tmp_home, id, words):
    rows = [{"group_id": "alone", "prompt": "p", "completions": ["one"], "order": [[0]], "labeler": "ada"}]
    source = making.dataset("rankings", rows, "0000eeee")
    with pytest.raises(Invalid, match=words):
        services.correct(source, id)
    with pytest.raises(Invalid, match="a dataset rollouts"):
        services.correct(making.rollouts(), "g0")
    assert not Project.objects.exists()


def test_labelers_are_not_asked_and_the_project_is_not_opened_to_them(browser, api, tmp_home, account):
    project = services.correct(crowd(), "g0").project
    lea = account("labeler", "lea")
    assert services.next_group(project, lea) is None
    assert project not in labeling.visible("labeler")
    with pytest.raises(Conflict, match="bring it in as rollouts"):
        services.reopen(project)
    assert api().post(f"/api/v1/labeling/projects/{project.pk}/reopen").status_code == 409
    assert browser().post(f"/labeling/{project.pk}/reopen").status_code == 302
    project.refresh_from_db()
    assert project.closed


def test_from_the_checkpoints_page_it_is_two_clicks_and_a_form(browser, tmp_home):
    source, head = crowd(), browser()
    sent = {"dataset": source.pk, "group": "g1"}
    answer = head.post("/labeling/corrections", sent)
    group = Group.objects.get()
    address = f"/labeling/{group.project_id}/groups/{group.pk}"
    assert answer["Location"] == address
    page = head.get(address).content.decode()
    assert ATTACK not in page and all(who in page for who in ("ada", "bob", "eve", "untrue"))
    # It begins with the order that the rankings come to.
    assert page.count("selected") == 4 and "as gold" not in page
    correction = {f"place-{i}": str(4 - i) for i in range(4)}
    assert head.post(address, correction)["Location"] == f"/labeling/{group.project_id}"
    page = head.get(f"/labeling/{group.project_id}").content.decode()
    assert "1 of 1 settled" in page and "Export the corrected dataset" in page and ATTACK not in page
    assert "corrections of rankings" in head.get("/labeling").content.decode()
    made = head.post(f"/labeling/{group.project_id}/export")["Location"]
    assert "/datasets/" in made and head.get(made).status_code == 200
    assert made.rsplit("/", 1)[-1] in head.get(f"/labeling/{group.project_id}").content.decode()


def test_strangers_labelers_and_bad_requests_are_refused(browser, api, tmp_home):
    source = crowd()
    sent = {"dataset": source.pk, "group": "g1"}
    assert browser("labeler").post("/labeling/corrections", sent).status_code in (302, 403)
    assert browser(None).post("/labeling/corrections", sent).status_code in (302, 403)
    assert browser().get("/labeling/corrections").status_code == 405
    assert browser().post("/labeling/corrections", sent | {"dataset": "nobody"}).status_code == 404
    assert (
        browser().post("/labeling/corrections", sent | {"group": "g\x009"})["Location"]
        == f"/datasets/{source.pk}"
    )
    address = "/api/v1/labeling/corrections"
    given = {"dataset": source.pk, "group_id": "g1"}
    for role, code in (("labeler", 403), (None, 401)):
        assert api(role).post(address, given, content_type="application/json").status_code == code
    for wrong in ({"dataset": "nobody"}, {"group_id": "g9"}, {"more": 1}, {"group_id": 5}):
        assert api().post(address, given | wrong, content_type="application/json").status_code == 422
    assert not Project.objects.exists()


def test_a_program_corrects_over_the_api(api, tmp_home):
    source = crowd()
    told = api().post("/api/v1/labeling/corrections", {"dataset": source.pk, "group_id": "g1"}, content_type="application/json").json()  # fmt: skip
    settled = api().post(f"/api/v1/labeling/tasks/{told['task']}/settlement", {"order": REVERSED}, content_type="application/json")  # fmt: skip
    assert settled.json()["settled"] == REVERSED
    for form in ("jsonl", "trl", "openassistant", "parquet"):
        answer = api().get(f"/api/v1/labeling/projects/{told['project']}/export?form={form}")
        assert answer.status_code == 200 and b"".join(answer.streaming_content)
    made = api().post(f"/api/v1/labeling/projects/{told['project']}/export").json()
    assert made["summary"]["settled"] == 1
    lineage = queries.lineage(queries.visible().get(pk=made["id"]))
    assert {f"artifact:{source.pk}", f"project:{told['project']}"} <= {one["id"] for one in lineage["nodes"]}


@pytest.mark.django_db(transaction=True)
def test_two_clicks_at_once_make_one_project_and_one_group(tmp_home):
    source = crowd()

    def click(_):
        try:
            return services.correct(source, "g1").pk
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(click, range(8)))
    assert len(found) == 1 and Project.objects.count() == Group.objects.count() == 1
