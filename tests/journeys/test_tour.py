"""One model's whole life at its smallest, through the real stack, a person's judgement included."""

import time
from itertools import pairwise

import pytest

from tests.journeys.stack import Lab, lab, until


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("tour")) as started:
        yield started


@pytest.fixture(scope="module")
def toured(running: Lab) -> dict:
    answer = running.client("admin").post("/tours", json={"small": True})
    assert answer.status_code == 201, answer.text
    tour = answer.json()["id"]
    until(lambda: running.get(f"/tours/{tour}")["status"] != "running", 300, running.words)
    return running.get(f"/tours/{tour}")


def runs_of(running: Lab) -> dict:
    """By name without the tour's: "rlhf", and "rlhf-2" of the second turn."""
    items = running.get("/runs?limit=50")["items"]
    return {run["name"].removeprefix("tour-"): run for run in items if run["name"].startswith("tour-")}


def test_every_stage_succeeds(toured: dict, running: Lab):
    assert toured["status"] == "succeeded", toured
    runs = runs_of(running)
    assert list(reversed(runs)) == [
        "crawl", "conversations", "tokenizer", "pretrain", "sft",
        "rollouts", "reward", "rlhf", "rollouts-2", "reward-2", "rlhf-2", "evaluate",
    ]  # fmt: skip
    assert {run["status"] for run in runs.values()} == {"succeeded"}


def test_in_is_kept_and_dropped_and_failed_at_each_stage_of_the_crawl(toured: dict, running: Lab):
    documents = running.get(f"/datasets/{runs_of(running)['crawl']['outputs']['documents']}")
    funnel = documents["summary"]["funnel"]
    assert len(funnel) == 8
    for stage in funnel:
        assert stage["in"] == stage["kept"] + stage["dropped"] + stage["failed"]
    for before, after in pairwise(funnel):
        assert after["in"] == before["kept"]


def test_the_whole_life_is_one_lineage(toured: dict, running: Lab):
    runs = runs_of(running)
    lineage = running.get(f"/checkpoints/{runs['rlhf-2']['outputs']['checkpoint']}/lineage")
    ids = {node["number"] for node in lineage["nodes"] if node["type"] == "run"}
    assert ids == {run["id"] for run in runs.values()}
    assert sum(node["type"] == "project" for node in lineage["nodes"]) == 2


def test_the_second_turn_learns_from_new_answers_and_is_measured_on_them(toured: dict, running: Lab):
    runs = runs_of(running)
    first, second = (prompts_of(running, runs[name]) for name in ("rollouts", "rollouts-2"))
    assert len(first) == len(second) == 12 and not first & second
    told = runs["reward-2"]["summary"]
    assert told["n_groups"] > runs["reward"]["summary"]["n_groups"]
    assert [one["name"] for one in told["by_rankings"]] == [
        project["name"] for project in reversed(running.get("/labeling/projects")["items"])
    ]
    card = runs["evaluate"]["summary"]
    assert card["models"] == ["base", "chat", "aligned", "aligned 2"]
    assert [one["judge"] for one in card["rewards"]] == ["tour-reward", "tour-reward-2"]


def prompts_of(running: Lab, run: dict) -> set[str]:
    rows = running.get(f"/datasets/{run['outputs']['rollouts']}/rows?limit=50")["items"]
    return {row["prompt"] for row in rows}


def test_simulated_rankings_are_marked_as_such(toured: dict, running: Lab):
    for project in running.get("/labeling/projects")["items"]:
        whole = running.get(f"/labeling/projects/{project['id']}")
        assert any(labeler["simulated"] for labeler in whole["labelers"])
    for name in ("reward", "reward-2"):
        summary = runs_of(running)[name]["summary"]
        assert summary["n_rankings_simulated"] > 0 == summary["n_rankings_people"]


def test_the_models_answer_a_real_openai_client(toured: dict, running: Lab):
    from openai import OpenAI

    client = OpenAI(base_url=f"{running.url}/v1", api_key=running.api.headers["Authorization"].split()[1])
    names = [model.id for model in client.models.list()]
    assert {"tour-pretrain", "tour-sft", "tour-rlhf", "tour-rlhf-2"} <= set(names)
    answer = client.chat.completions.create(
        model="tour-sft",
        messages=[{"role": "user", "content": "What is 3 + 4?"}],
        max_tokens=8,
        logprobs=True,
    )
    assert answer.usage.completion_tokens > 0


def test_a_second_start_finds_everything_where_it_was(toured: dict, running: Lab):
    before = runs_of(running)
    assert running.stop() == 0
    running.start()
    assert runs_of(running) == before


def test_the_lineage_survives_the_loss_of_the_database(toured: dict, running: Lab):
    before = runs_of(running)
    aligned = before["rlhf-2"]["outputs"]["checkpoint"]
    lineage = running.get(f"/checkpoints/{aligned}/lineage")
    running.stop()
    running.manage("flush", "--no-input")
    said = running.manage("reindex")
    assert f"{len(before)} lost runs" in said and " 0 manifests could not be read" in said
    running.start()
    after = runs_of(running)
    kept = ("id", "uid", "kind", "name", "status", "config", "inputs", "outputs")
    assert {name: [run[key] for key in kept] for name, run in after.items()} == {
        name: [run[key] for key in kept] for name, run in before.items()
    }
    again = running.get(f"/checkpoints/{aligned}/lineage")
    assert again["edges"] == lineage["edges"]


def test_a_cancelled_training_run_stops_and_goes_on_where_it_was(toured: dict, running: Lab):
    inputs = runs_of(running)["pretrain"]["inputs"]
    run = running.submit("pretrain", {"steps": 20_000}, preset="tiny", inputs=inputs)
    until(lambda: ((running.get(f"/runs/{run}")["progress"] or {}).get("step") or 0) > 20, 90, running.words)
    begun = time.monotonic()
    assert running.api.post(f"/runs/{run}/cancel", json={}).status_code == 200
    cancelled = running.wait(run)
    print(f"cancelled in {time.monotonic() - begun:.2f} s")
    assert cancelled["status"] == "cancelled"
    reached = cancelled["progress"]["step"]
    assert running.api.post(f"/runs/{run}/resume", json={}).status_code == 200
    until(lambda: (running.get(f"/runs/{run}")["progress"] or {}).get("step", 0) > reached, 90, running.words)

    def steps() -> list[int]:
        return running.get(f"/runs/{run}/metrics?name=loss&max_points=5000")["loss"]["steps"]

    # Points are written a little after the progress that passes them.
    until(lambda: any(step > reached for step in steps()), 90, running.words)
    told = steps()
    assert told == sorted(set(told)) and told[0] == 1
    running.api.post(f"/runs/{run}/cancel", json={})
    assert running.wait(run)["status"] == "cancelled"
