"""Labelling over the API, as a labeler's browser and a researcher's program use it."""

import json
from io import BytesIO

import pyarrow.parquet as pq
import pytest

from lab.models import Group, Ranking
from lab.services import labeling as services
from tests.lab import making

pytestmark = pytest.mark.django_db
PROJECTS = "/api/v1/labeling/projects"
ORDER = [[2], [0, 3], [1]]


@pytest.fixture
def project(tmp_home):
    return services.create_project("p", making.rollouts(), "short ones first")


def test_a_researcher_makes_a_project_and_reads_its_progress(api, tmp_home):
    source = making.rollouts()
    answer = api().post(PROJECTS, {"name": "style", "source": source.pk, "rankings_per_group": 2})
    assert answer.status_code == 201
    project = api().get(f"{PROJECTS}/{answer.json()['id']}").json()
    assert (project["groups"], project["wanted"], project["rankings"]) == (3, 6, 0)
    assert project["flags"][0] == "untrue"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": "nothing"}, "source"),
        ({"name": ""}, "name"),
        ({"rankings_per_group": 0}, "rankings_per_group"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_bad_project_is_told_by_field(api, tmp_home, change, field):
    body = {"name": "style", "source": making.rollouts().pk} | change
    answer = api().post(PROJECTS, body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_a_labeler_ranks_skips_and_takes_back(api, project):
    lea = api("labeler", "lea")
    task = lea.post(f"{PROJECTS}/{project.pk}/next").json()
    assert sorted(task["completions"]) == sorted(making.FOUR)
    assert "metadata" not in task
    handed = lea.post(
        f"/api/v1/labeling/tasks/{task['id']}/ranking",
        {"order": ORDER, "flags": {"1": ["untrue"]}, "seconds": 2.5},
    )
    assert handed.status_code == 201
    second = lea.post(f"{PROJECTS}/{project.pk}/next").json()
    assert (second["mine"], second["rankings"], second["wanted"]) == (1, 1, 3)
    assert lea.post(f"/api/v1/labeling/tasks/{second['id']}/skip").status_code == 204
    undone = lea.post(f"{PROJECTS}/{project.pk}/undo").json()
    assert (undone["id"], undone["order"], undone["flags"]) == (task["id"], ORDER, {"1": ["untrue"]})
    assert not Ranking.objects.exists()


def test_nothing_left_is_204(api, project):
    lea = api("labeler", "lea")
    for _ in range(3):
        task = lea.post(f"{PROJECTS}/{project.pk}/next").json()
        lea.post(f"/api/v1/labeling/tasks/{task['id']}/ranking", {"order": ORDER})
    assert lea.post(f"{PROJECTS}/{project.pk}/next").status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"order": [[0], [1], [2]]},
        {"order": "best"},
        {"order": [[0], [1], [2], [-1]]},
        {"order": [[0], [1], [2], [3]], "seconds": -1},
        {"order": [[0], [1], [2], [3]], "flags": {"0": ["ugly"]}},
        {"order": [[True], [1], [2], [3]]},
    ],
)
def test_a_bad_ranking_is_422_and_stores_nothing(api, project, body):
    lea = api("labeler", "lea")
    task = lea.post(f"{PROJECTS}/{project.pk}/next").json()
    assert lea.post(f"/api/v1/labeling/tasks/{task['id']}/ranking", body).status_code == 422
    assert not Ranking.objects.exists()


def test_a_task_of_somebody_else_is_409_and_an_unknown_one_404(api, project):
    task = api("labeler", "lea").post(f"{PROJECTS}/{project.pk}/next").json()
    other = api("labeler", "lou")
    assert other.post(f"/api/v1/labeling/tasks/{task['id']}/ranking", {"order": ORDER}).status_code == 409
    assert other.post("/api/v1/labeling/tasks/999999/ranking", {"order": ORDER}).status_code == 404
    assert other.post(f"{PROJECTS}/999999/next").status_code == 404


def test_a_task_is_kept_for_longer_by_whom_it_is_leased_to(api, project):
    lea, lou = api("labeler", "lea"), api("labeler", "lou")
    task = lea.post(f"{PROJECTS}/{project.pk}/next").json()
    lease = f"/api/v1/labeling/tasks/{task['id']}/lease"
    first, second = (lea.post(lease).json()["expires"] for _ in range(2))
    assert first < second
    assert lou.post(lease).status_code == 409
    assert api(None).post(lease).status_code == 401
    assert lea.post("/api/v1/labeling/tasks/999999/lease").status_code == 404


def test_strangers_get_401_and_labelers_only_what_they_need(api, project):
    one = f"{PROJECTS}/{project.pk}"
    for path in (f"{one}/next", f"{one}/undo", f"/api/v1/labeling/tasks/{Group.objects.first().pk}/ranking"):
        assert api(None).post(path, {}).status_code == 401
    labeler = api("labeler")
    assert labeler.get(PROJECTS).json()["count"] == 1
    assert labeler.get(one).status_code == 403
    assert labeler.get(f"{one}/agreement").status_code == 403
    assert labeler.post(f"{one}/export").status_code == 403
    assert labeler.post(PROJECTS, {"name": "x", "source": "y"}).status_code == 403


def test_a_closed_project_is_out_of_a_labelers_sight(api, project):
    assert api().post(f"{PROJECTS}/{project.pk}/close").json()["closed"]
    assert api("labeler").get(PROJECTS).json()["count"] == 0
    assert api("labeler").post(f"{PROJECTS}/{project.pk}/next").status_code == 204
    assert api().post(f"{PROJECTS}/{project.pk}/reopen").json()["closed"] is None


def test_agreement_and_export(api, project):
    assert api().get(f"{PROJECTS}/{project.pk}/agreement").json()["agreement"] is None
    assert api().post(f"{PROJECTS}/{project.pk}/export").status_code == 409
    task = api("labeler").post(f"{PROJECTS}/{project.pk}/next").json()
    api("labeler").post(f"/api/v1/labeling/tasks/{task['id']}/ranking", {"order": ORDER})
    made = api().post(f"{PROJECTS}/{project.pk}/export")
    assert made.status_code == 201
    assert made.json()["form"] == "rankings"
    rows = api().get(f"/api/v1/datasets/{made.json()['id']}/rows").json()
    assert rows["items"][0]["order"] == ORDER
    lines = api().get(f"{PROJECTS}/{project.pk}/export")
    assert lines["Content-Type"] == "application/x-ndjson"
    assert b"".join(lines.streaming_content).count(b"\n") == 1


@pytest.mark.parametrize("form", ["jsonl", "parquet", "trl", "trl-conversational", "openassistant"])
def test_rankings_leave_in_the_forms_of_others_as_a_project_and_as_a_dataset(api, project, form):
    task = api("labeler").post(f"{PROJECTS}/{project.pk}/next").json()
    api("labeler").post(f"/api/v1/labeling/tasks/{task['id']}/ranking", {"order": ORDER})
    made = api().post(f"{PROJECTS}/{project.pk}/export").json()
    best, *_, worst = (task["completions"][tied[0]] for tied in ORDER)
    for address in (f"{PROJECTS}/{project.pk}/export", f"/api/v1/datasets/{made['id']}/export"):
        assert api(None).get(f"{address}?form={form}").status_code == 401
        assert api("labeler").get(f"{address}?form={form}").status_code == 403
        answer = api().get(f"{address}?form={form}")
        assert answer.status_code == 200, answer.content
        data = b"".join(answer.streaming_content)
        if form == "parquet":
            (row,) = pq.read_table(BytesIO(data)).to_pylist()
            assert row["order"] == ORDER
            continue
        rows = [json.loads(line) for line in data.splitlines()]
        if form == "jsonl":
            assert rows[0]["order"] == ORDER
        elif form == "openassistant":
            ranked = {reply["text"]: reply["rank"] for reply in rows[0]["prompt"]["replies"]}
            assert ranked[best] == 0 and ranked[worst] == 2
        else:
            assert len(rows) == 5  # pairs of four answers, two of them tied
            says = (lambda one: one[0]["content"]) if "conversational" in form else (lambda one: one)
            assert {(says(row["chosen"]), says(row["rejected"])) for row in rows} >= {(best, worst)}


def test_only_rankings_have_forms_of_others(api, project):
    assert api().get(f"{PROJECTS}/{project.pk}/export?form=csv").status_code == 422
    answer = api().get(f"/api/v1/datasets/{project.source_id}/export?form=trl")
    assert answer.status_code == 422 and "rollouts" in answer.content.decode()
    assert api().get("/api/v1/datasets/nothing-here/export").status_code == 404


def test_a_project_is_deleted_with_its_rankings(api, project):
    assert api().delete(f"{PROJECTS}/{project.pk}").status_code == 204
    assert api().get(f"{PROJECTS}/{project.pk}").status_code == 404


def test_a_lost_answer_is_asked_for_again_and_counts_once(api, project):
    lea = api("labeler", "lea")
    task = lea.post(f"{PROJECTS}/{project.pk}/next").json()
    assert sorted(task["shown"]) == [0, 1, 2, 3]
    address, body = f"/api/v1/labeling/tasks/{task['id']}/ranking", {"order": ORDER, "submission": "abc"}
    first, second = lea.post(address, body), lea.post(address, body)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first.json()["shown"] == task["shown"]
    # Another order is another ranking, from a tab that was left open.
    assert lea.post(address, {"order": ORDER[::-1], "submission": "abd"}).status_code == 409
    assert Ranking.objects.count() == 1


def test_words_come_as_safe_html_when_asked_for(api, tmp_home):
    source = making.dataset("rollouts", [{"prompt": "<b>*x*", "completions": ["**a**", "b"]}])
    project = services.create_project("p", source)
    plain = api("labeler").post(f"{PROJECTS}/{project.pk}/next").json()
    assert plain["html"] is None
    task = api("labeler").post(f"{PROJECTS}/{project.pk}/next?html=1").json()
    assert task["html"]["prompt"] == "<p>&lt;b&gt;<em>x</em></p>\n"
    assert "<p><strong>a</strong></p>\n" in task["html"]["completions"]


def test_settings_are_changed_and_labelers_are_not_told_which_groups_are_checks(api, project):
    one = f"{PROJECTS}/{project.pk}"
    changed = api().patch(one, {"scale": 7, "flags": ["untrue"], "examples": [{"prompt": "p", "why": "w"}]})
    assert (changed.json()["scale"], changed.json()["flags"]) == (7, ["untrue"])
    assert changed.json()["examples"][0]["why"] == "w"
    assert api().patch(one, {"scale": 3}).json()["errors"][0]["field"] == "scale"
    assert api().patch(one, {"colour": 3}).status_code == 422
    assert api("labeler").patch(one, {"scale": 5}).status_code == 403
    assert api(None).patch(one, {"scale": 5}).status_code == 401
    group = Group.objects.first()
    api().post(f"/api/v1/labeling/tasks/{group.pk}/gold", {"order": [[0], [1], [2], [3]]})
    seen = str(api("labeler").get(PROJECTS).json()) + str(api("labeler").post(f"{one}/next").json())
    assert "gold" not in seen and "repeat" not in seen


def test_groups_are_made_gold_settled_and_scored(api, project):
    one, group = f"{PROJECTS}/{project.pk}", Group.objects.first()
    gold, settlement = (f"/api/v1/labeling/tasks/{group.pk}/{what}" for what in ("gold", "settlement"))
    assert api().post(gold, {"order": ORDER}).json()["gold"] == ORDER
    assert api().get(f"{one}/groups?only=gold").json()["count"] == 1
    assert api().post(gold, {"order": None}).json()["gold"] is None
    assert api().post(gold, {"order": [[0]]}).status_code == 422
    assert api().post(settlement, {"order": ORDER, "note": "n"}).json()["settled"] == ORDER
    assert api().get(f"{one}/groups?only=settled").json()["items"][0]["settled_by"]
    assert api().post(settlement, {"order": []}).status_code == 422
    assert api().delete(settlement).status_code == 204
    assert api().get(f"{one}/groups?only=settled").json()["count"] == 0
    assert api().get(f"{one}/groups").json()["items"][0]["rankings"] == 0
    assert api().post(f"{one}/uncertainty", {"scores": {"g0": 0.5}}).json() == {"groups": 1}
    assert api().get(f"{one}/groups?only=uncertain").json()["items"][0]["uncertainty"] == 0.5
    assert api().post(f"{one}/uncertainty", {"scores": {"nothing": 0.5}}).status_code == 422
    for address, body in (
        (gold, {"order": ORDER}),
        (settlement, {"order": ORDER}),
        (f"{one}/uncertainty", {"scores": {}}),
    ):
        assert api("labeler").post(address, body).status_code == 403
        assert api(None).post(address, body).status_code == 401
    assert api("labeler").get(f"{one}/groups").status_code == 403
    assert api("labeler").delete(settlement).status_code == 403
    assert api().post("/api/v1/labeling/tasks/999999/gold", {"order": None}).status_code == 404
