"""Preference sets of others, brought in as uploads and from an allowed folder."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from lab.models import Artifact

pytestmark = pytest.mark.django_db
DATASETS = "/api/v1/datasets"
VOTES = [
    {"id": 0, "prompt": 1, "model_x": 1, "model_y": 2, "worker": worker, "winner": winner}
    for worker, winner in ((1, "left"), (2, "left"), (3, "tie"))
]
PAIRS = [
    {"id": 0, "prompt": 1, "text": "why?", "model_x": 1, "result_x": "so", "model_y": 2, "result_y": "no"}
]


@pytest.fixture(autouse=True)
def _home(tmp_home):
    return tmp_home


def lines(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def upload(client, *files, **fields):
    parts = [SimpleUploadedFile(name, lines(rows)) for name, rows in files]
    return client.post(DATASETS, data={"file": parts, **fields})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "why?", "chosen": "b", "rejected": "a"},
        {"prompt": [{"role": "user", "content": "why?"}], "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "a"}]},
        {"instruction": "why?", "input": "", "response1": "a", "response2": "b", "annotator1": 2},
        {"prompt": "why?", "response 1": "a", "response 2": "b", "label": 1, "scenario": "s"},
        {"message_tree_id": "t", "prompt": {"message_id": "t", "text": "why?", "role": "prompter", "replies": [{"message_id": i, "text": i, "role": "assistant", "rank": rank} for i, rank in (("a", 1), ("b", 0))]}},
    ],
)  # fmt: skip
def test_each_form_becomes_rankings_with_the_better_answer_first(api, row):
    made = upload(api(), ("set.jsonl", [row])).json()
    assert (made["form"], made["summary"]["rankings"]) == ("rankings", 1)
    (found,) = api().get(f"{DATASETS}/{made['id']}/rows").json()["items"]
    assert (found["prompt"], found["completions"], found["order"]) == ("why?", ["a", "b"], [[1], [0]])


def test_votes_and_texts_in_two_files_come_together_and_keep_who_voted(api, tmp_home):
    made = upload(api(), ("crowd.jsonl", VOTES), ("pairs.jsonl", PAIRS), name="crowd").json()
    # One of three pairs of workers says the same; two say left against a tie.
    assert made["summary"]["agreement"]["agreement"]["value"] == pytest.approx(1 / 3)
    rows = api().get(f"{DATASETS}/{made['id']}/rows").json()["items"]
    assert [row["labeler"] for row in rows] == ["worker 1", "worker 2", "worker 3"]
    assert rows[2]["order"] == [[0, 1]]
    folder = tmp_home / "uploads" / "crowd"
    folder.mkdir()
    (folder / "crowd.jsonl").write_bytes(lines(VOTES))
    (folder / "pairs.jsonl").write_bytes(lines(PAIRS))
    made = api().post(DATASETS, {"path": str(folder), "form": "rollouts"}).json()
    assert (made["name"], made["form"], made["summary"]["rows"]) == ("crowd", "rollouts", 1)


def test_what_is_missing_or_wrong_is_named_with_the_mend(api):
    alone = upload(api(), ("crowd.jsonl", VOTES))
    assert alone.status_code == 422 and "bring its folder" in alone.json()["detail"]
    no_pair = upload(api(), ("crowd.jsonl", VOTES), ("pairs.jsonl", [PAIRS[0] | {"id": 7}]))
    assert (
        no_pair.status_code == 422 and "line 1: crowd.jsonl: the texts of pair 0" in no_pair.json()["detail"]
    )
    mixed = upload(api(), ("a.jsonl", VOTES), ("b.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}]))
    assert mixed.status_code == 422 and "2 preference sets" in mixed.json()["detail"]
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    made = upload(api(), ("t.jsonl", [good, good | {"rejected": "a"}, good])).json()
    assert made["summary"]["skipped_rows"][0]["row"] == 2
    assert "are the same" in made["summary"]["skipped_rows"][0]["reason"]
    assert Artifact.objects.count() == 1


def test_strangers_and_labelers_stay_out(api):
    for role, status in ((None, 401), ("labeler", 403)):
        assert upload(api(role), ("crowd.jsonl", VOTES), ("pairs.jsonl", PAIRS)).status_code == status


def test_the_page_takes_all_files_of_a_set_at_once(browser):
    page = browser().get("/datasets").content.decode()
    assert 'name="file" multiple' in page
    parts = [
        SimpleUploadedFile(name, lines(rows))
        for name, rows in (("crowd.jsonl", VOTES), ("pairs.jsonl", PAIRS))
    ]
    answer = browser().post("/datasets", {"file": parts, "name": "crowd"})
    made = Artifact.objects.get()
    assert answer.status_code == 302 and answer.url == f"/datasets/{made.pk}"
    assert (made.name, made.summary["set"], made.summary["rankings"]) == ("crowd", "LLMFAO", 3)
    alone = browser().post("/datasets", {"file": [SimpleUploadedFile("crowd.jsonl", lines(VOTES))]})
    assert (
        alone.status_code == 422 and "bring its folder, or all of its files at once" in alone.content.decode()
    )
    none = browser().post("/datasets", {"name": "nothing"})
    assert none.status_code == 422 and "no file was chosen" in none.content.decode()
