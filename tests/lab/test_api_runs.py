"""Runs over the API: start, list, read, stop, go on, repeat, compare, delete."""

import pytest

from lab.models import LogLine, Run
from lab.services import metrics
from tests.lab import making

pytestmark = pytest.mark.django_db
RUNS = "/api/v1/runs"


@pytest.fixture(autouse=True)
def _home(tmp_home):
    return tmp_home


def submit(api, **more):
    return api().post(RUNS, {"kind": "conversations", "preset": "tiny", "name": "talk", **more})


def test_a_run_is_started_and_told_whole(api):
    answer = submit(api, config={"seed": 3})
    assert answer.status_code == 201
    run = answer.json()
    assert (run["kind"], run["name"], run["status"], run["attempt"]) == ("conversations", "talk", "queued", 0)
    assert run["config"]["seed"] == 3
    assert (run["inputs"], run["outputs"], run["error"], run["created_by"]) == ({}, {}, None, "researcher")
    assert api().get(f"{RUNS}/{run['id']}").json() == run


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "kind"),
        ({"kind": "nothing"}, "kind"),
        ({"kind": "sft", "inputs": {"checkpoint": "x"}}, "inputs.checkpoint"),
        ({"kind": "conversations", "config": {"seed": "x"}}, "config.seed"),
        ({"kind": "conversations", "config": {"colour": 1}}, "config.colour"),
        ({"kind": "conversations", "preset": "nothing"}, "preset"),
        ({"kind": "conversations", "name": "x" * 101}, "name"),
        ({"kind": "conversations", "colour": 1}, "colour"),
        ({"kind": "conversations", "config": []}, "config"),
        ({"kind": "conversations", "inputs": {"text": "x"}}, "inputs.text"),
    ],
)
def test_what_does_not_hold_together_is_told_by_field(api, body, field):
    answer = api().post(RUNS, body)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert all(error["message"] for error in answer.json()["errors"])
    assert not Run.objects.exists()


def test_a_run_can_wait_for_another_ones_output(api):
    talk = submit(api).json()
    waiting = api().post(
        RUNS,
        {"kind": "tokenizer", "inputs": {"conversations": {"run": talk["id"], "output": "conversations"}}},
    )
    assert waiting.status_code == 201
    assert waiting.json()["waiting_for"] == [talk["id"]]
    assert waiting.json()["inputs"] == {"conversations": [{"run": talk["id"], "output": "conversations"}]}


def test_what_a_run_would_take_is_told_before_it_starts(api):
    answer = api().post(f"{RUNS}/estimate", {"kind": "conversations", "preset": "tiny"})
    assert answer.status_code == 200
    assert answer.json() is None or "seconds" in answer.json()
    assert not Run.objects.exists()


def test_lists_filter_search_and_page(api):
    for name, status in (("alpha", "failed"), ("beta", "succeeded"), ("gamma", "succeeded")):
        making.run(status, name=name)
    making.run("succeeded", kind="sft", name="delta")
    assert [run["name"] for run in api().get(RUNS).json()["items"]] == ["delta", "gamma", "beta", "alpha"]
    assert api().get(f"{RUNS}?kind=pretrain&status=succeeded").json()["count"] == 2
    assert [run["name"] for run in api().get(f"{RUNS}?q=gam").json()["items"]] == ["gamma"]
    page = api().get(f"{RUNS}?limit=1&offset=2").json()
    assert ([run["name"] for run in page["items"]], page["count"]) == (["beta"], 4)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "offset=-1", f"offset={10**22}", "status=nothing", "q=" + "x" * 201],
)
def test_a_bad_query_is_422(api, query):
    assert api().get(f"{RUNS}?{query}").status_code == 422


def test_a_list_asks_the_database_a_bounded_number_of_times(api, django_assert_max_num_queries):
    for _ in range(30):
        making.run()
    program = api()
    with django_assert_max_num_queries(8):
        assert len(program.get(RUNS).json()["items"]) == 30


def test_cancel_resume_and_clone(api):
    run = submit(api, config={"seed": 3}).json()
    assert api().post(f"{RUNS}/{run['id']}/cancel").json()["status"] == "cancelled"
    assert api().post(f"{RUNS}/{run['id']}/resume").json()["status"] == "queued"
    clone = api().post(f"{RUNS}/{run['id']}/clone", {"config": {"seed": 4}, "name": "again"})
    assert clone.status_code == 201
    assert (clone.json()["cloned_from"], clone.json()["config"]["seed"], clone.json()["name"]) == (
        run["id"],
        4,
        "again",
    )
    same = api().post(f"{RUNS}/{run['id']}/clone", data="", content_type="application/json")
    assert same.json()["config"] == run["config"]
    assert api().post(f"{RUNS}/{run['id']}/clone", {"config": {"seed": "x"}}).status_code == 422


def test_what_cannot_be_done_now_is_409(api):
    done = making.run("succeeded")
    assert api().post(f"{RUNS}/{done.pk}/cancel").status_code == 409
    assert api().post(f"{RUNS}/{done.pk}/resume").status_code == 409
    assert api().delete(f"{RUNS}/{making.run('running').pk}").status_code == 409


def test_a_deleted_run_leaves_the_list_and_can_be_brought_back(api):
    run = making.run("failed")
    assert api().delete(f"{RUNS}/{run.pk}").status_code == 204
    assert api().get(RUNS).json()["count"] == 0
    assert api().get(f"{RUNS}/{run.pk}").json()["deleted"]
    assert api().post(f"{RUNS}/{run.pk}/restore").json()["deleted"] is None
    assert api().get(RUNS).json()["count"] == 1


def test_a_run_is_renamed(api):
    run = making.run()
    assert api().patch(f"{RUNS}/{run.pk}", {"name": "better"}).json()["name"] == "better"
    for body in ({"name": ""}, {"name": "x" * 101}, {"status": "succeeded"}):
        assert api().patch(f"{RUNS}/{run.pk}", body).status_code == 422


def test_metrics_come_as_columns_from_a_step_on_and_thinned(api):
    run = making.run()
    metrics.append(run, [(step, {"loss": 1.0 / (step + 1), "lr": 0.1}) for step in range(2500)])
    told = api().get(f"{RUNS}/{run.pk}/metrics?name=loss&after_step=2496").json()
    assert told["loss"]["steps"] == [2497, 2498, 2499]
    assert set(told) == {"loss"}
    thinned = api().get(f"{RUNS}/{run.pk}/metrics?max_points=50").json()
    assert set(thinned) == {"loss", "lr"}
    assert len(thinned["loss"]["steps"]) <= 260
    assert max(thinned["loss"]["highs"]) == 1.0
    assert api().get(f"{RUNS}/{run.pk}/metrics?max_points=1").status_code == 422
    assert api().get(f"{RUNS}/{run.pk}/metrics?after_step={10**22}").status_code == 422


def test_a_value_that_is_no_number_is_null(api):
    run = making.run()
    metrics.append(run, [(0, {"loss": float("nan")}), (1, {"loss": 2.0})])
    assert api().get(f"{RUNS}/{run.pk}/metrics").json()["loss"]["values"] == [None, 2.0]


def test_samples_figures_log_and_lineage(api):
    run = making.run()
    for step in range(3):
        run.samples.create(step=step, prompt="p", text="<img onerror=alert(1)>")
    run.figures.create(name="f", step=1, title="t", content={"data": []}, finding="it falls")
    LogLine.objects.create(run=run, time=run.created, message="hello")
    samples = api().get(f"{RUNS}/{run.pk}/samples?limit=2").json()
    assert ([sample["step"] for sample in samples["items"]], samples["count"]) == ([2, 1], 3)
    assert api().get(f"{RUNS}/{run.pk}/figures").json()[0]["finding"] == "it falls"
    assert [line["message"] for line in api().get(f"{RUNS}/{run.pk}/log?n=5").json()] == ["hello"]
    assert api().get(f"{RUNS}/{run.pk}/lineage").json()["nodes"][0]["number"] == run.pk


def test_runs_are_compared_with_their_differences_marked(api):
    runs = [making.run(config={"lr": lr, "steps": 5}) for lr in (0.1, 0.2)]
    for run in runs:
        metrics.append(run, [(1, {"loss": 2.0})])
    told = api().get(f"{RUNS}/compare?ids={runs[0].pk},{runs[1].pk}").json()
    assert {row["field"]: row["differs"] for row in told["config"]} == {"lr": True, "steps": False}
    assert [curve["run"] for curve in told["metrics"]["loss"]] == [run.pk for run in runs]


@pytest.mark.parametrize(
    "ids", ["", "1", "1,1", "1,x", "1,-2", "1,2,3,4,5,6,7,8,9", "1,99999999999999", "998,999"]
)
def test_what_cannot_be_compared_is_told(api, ids):
    answer = api().get(f"{RUNS}/compare?ids={ids}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "ids"


def test_a_failure_is_told_without_its_traceback(api):
    run = making.run(
        "failed", error={"message": "lr is too high", "field": "lr", "hint": "try 0.1", "traceback": "T"}
    )
    assert api().get(f"{RUNS}/{run.pk}").json()["error"] == {
        "message": "lr is too high",
        "field": "lr",
        "hint": "try 0.1",
    }


@pytest.mark.parametrize(
    "id", ["0", "-1", "x", "1.5", "99999999999999999999999", "1%00", "%2e%2e", "2147483648"]
)
def test_a_number_that_is_none_is_404_or_422(api, id):
    for path in (f"{RUNS}/{id}", f"{RUNS}/{id}/metrics", f"{RUNS}/{id}/events"):
        answer = api().get(path)
        assert answer.status_code in (404, 422)
        assert "detail" in answer.json()


def test_an_unknown_run_is_404_everywhere(api):
    for path in ("", "/metrics", "/log", "/samples", "/figures", "/lineage", "/events"):
        assert api().get(f"{RUNS}/999{path}").status_code == 404
    for path in ("cancel", "resume", "clone", "restore"):
        assert api().post(f"{RUNS}/999/{path}").status_code == 404
    assert api().delete(f"{RUNS}/999").status_code == 404


def test_strangers_and_labelers_stay_out(api):
    run = making.run()
    for role, status in ((None, 401), ("labeler", 403)):
        assert api(role).post(RUNS, {"kind": "conversations"}).status_code == status
        for path in ("", f"/{run.pk}", f"/{run.pk}/metrics", f"/{run.pk}/events", "/compare?ids=1,2"):
            assert api(role).get(RUNS + path).status_code == status
        assert api(role).post(f"{RUNS}/{run.pk}/cancel").status_code == status
        assert api(role).delete(f"{RUNS}/{run.pk}").status_code == status


def test_a_tour_starts_six_runs_and_only_one_tour_at_a_time(api):
    answer = api().post("/api/v1/tours", {"small": True})
    assert answer.status_code == 201
    tour = answer.json()
    assert (tour["status"], len(tour["runs"]), tour["options"]) == ("running", 6, {"small": True})
    assert list(tour["stages"]) == ["crawl", "conversations", "tokenizer", "pretrain", "sft", "rollouts"]
    assert list(tour["stages"].values()) == tour["runs"]
    assert api().post("/api/v1/tours").status_code == 409
    assert api().get("/api/v1/tours").json()["count"] == 1
    assert api().post(f"/api/v1/tours/{tour['id']}/cancel").json()["status"] == "cancelled"
    assert api().get(f"/api/v1/tours/{tour['id']}").json()["status"] == "cancelled"
    for body in ({"seed": -1}, {"seed": "x"}, {"colour": 1}):
        assert api().post("/api/v1/tours", body).status_code == 422
    assert api("labeler").post("/api/v1/tours").status_code == 403
    assert api(None).post("/api/v1/tours").status_code == 401
