"""The playground's page and its search for a passage in what a model was trained on."""

import json
import re

import pytest

from lab.models import RunInput
from lab.services import artifacts
from tests.core_ml import small
from tests.lab import making

pytestmark = pytest.mark.django_db


@pytest.fixture
def model(tmp_home):
    read = making.dataset("documents", [{"id": "1", "url": "https://a.example/", "text": "The whale dives <b>deep</b> and long."}])  # fmt: skip
    run = making.run("succeeded", uid="11111111")
    RunInput.objects.create(run=run, name="documents", artifact=read)
    small.checkpoint_artifact(artifacts.out_dir(run) / "checkpoint")
    return artifacts.register(run, "checkpoint")


def data(page: str):
    return json.loads(re.search(r'<script id="play-data" type="application/json">(.*?)</script>', page)[1])


def test_models_that_speak_are_offered_with_what_the_script_must_know(browser, model):
    page = browser().get(f"/playground?model={model.pk}&prompt=%3Cb%3E&mode=completion").content.decode()
    (offered,) = data(page)["models"]
    assert (offered["id"], offered["vocab_size"], offered["bos"]) == (model.pk, 320, small.tokenizer().bos_id)
    assert "&lt;b&gt;</textarea>" in page


def test_ways_of_sampling_are_folded_away_until_a_link_names_one(browser, model):
    assert '<details class="small"><summary>More' in browser().get("/playground").content.decode()
    page = browser().get("/playground?min_p=0.1&stop=%3Cend%3E").content.decode()
    assert '<details class="small" open><summary>More' in page
    assert re.search(r'name="min_p"[^>]* value="0.1"', page) and "&lt;end&gt;</textarea>" in page


def test_reward_models_do_not_speak(browser, model):
    model.role = "reward"
    model.save()
    assert "pretrain one" in browser().get("/playground").content.decode()


def test_a_passage_is_found_in_the_documents_of_its_ancestors(browser, model):
    answer = browser().get("/playground/search", {"model": model.pk, "q": "the  WHALE dives"}).json()
    (found,) = answer["datasets"]
    assert (found["count"], found["items"][0]["passage"]) == (1, "The whale dives")
    assert found["items"][0]["after"] == " <b>deep</b> and long."
    assert browser().get("/playground/search", {"model": model.pk, "q": "not in there"}).json()["datasets"][0]["count"] == 0  # fmt: skip


@pytest.mark.parametrize(
    ("query", "status"), [({"q": "short"}, 422), ({"q": "long enough", "model": "x"}, 404)]
)
def test_a_search_for_too_little_or_in_no_model_is_refused(browser, model, query, status):
    assert browser().get("/playground/search", {"model": model.pk, **query}).status_code == status


@pytest.mark.parametrize("path", ["/playground", "/playground/search"])
def test_strangers_and_labelers_stay_outside(browser, path):
    assert browser(None).get(path)["Location"].startswith("/sign-in")
    assert browser("labeler").get(path).status_code == 403


def test_a_damaged_checkpoint_leaves_the_page_whole(browser, tmp_home):
    run = making.run("succeeded", uid="44444444")
    small.checkpoint_artifact(artifacts.out_dir(run) / "checkpoint")
    made = artifacts.register(run, "checkpoint")
    (artifacts.local_path(made) / "config.json").write_text("no json")
    assert data(browser().get("/playground").content.decode())["models"][0]["vocab_size"] is None
