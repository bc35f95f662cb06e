"""A judge in a lab: its run asks the engine for a model by name, whoever runs that model, and no key is written."""

import httpx
import pytest

from core_ml.artifact import Folder
from core_ml.feedback.sets import stored
from lab.models import ModelAddress
from lab.queries import served
from lab.services import artifacts, claims, runs
from tests import engines
from tests.core_ml.judges import TEMPLATE, longer, server, write_constant_judge
from tests.lab import making
from worker import tasks
from worker.child import Child
from worker.execution import execute

pytestmark = pytest.mark.django_db(transaction=True)
THEIR_KEY = "sk-theirs-alone"


@pytest.fixture(autouse=True)
def _home(tmp_home, monkeypatch):
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # these tests are the worker


@pytest.fixture
def engine(tmp_home, settings):
    write_constant_judge(tmp_home / "artifacts" / "aaaa1111" / "checkpoint", "aaaa1111-checkpoint")
    with engines.running(tmp_home / "artifacts") as url:
        settings.ENGINE_URL, settings.ENGINE_KEY = url, engines.KEY
        yield url


@pytest.fixture
def answers(tmp_home):
    rows = [
        {"group_id": f"g{n}", "prompt": f"question {n}", "completions": ["a long answer", "short"], "order": [[0], [1]], "labeler": "lea"}
        for n in range(3)
    ]  # fmt: skip
    return making.dataset("rankings", rows)


@pytest.fixture
def address():
    with server(longer) as it:
        ModelAddress.objects.create(name="by length", url=it.url, model="m", key=THEIR_KEY, is_local=True)
        yield it


def supervised(model, answers):
    config = {"model": model, "template": TEMPLATE, "max_new_tokens": 1}
    run = runs.submit(kind="judge", config=config, inputs={"answers": answers.pk})
    execute(claims.claim_run(run.pk, "test"), lambda: False)
    run.refresh_from_db()
    assert run.status == "succeeded", run.error
    return run


def votes_of(run):
    paths = Folder(artifacts.local_path(run.artifacts.get())).files(".parquet")
    return [vote for _, _, cast in stored.votes(paths) for vote in cast]


def test_a_checkpoint_and_another_servers_model_judge_in_one_way(tmp_home, engine, answers, address):
    always = supervised("always", answers)
    assert always.summary["prefers_first"] == 1
    served.models()  # as the sweep does while a run asks
    other = supervised("by length", answers)
    assert other.summary["consistent"] == other.summary["agreement"] == 1
    assert address.keys == [f"Bearer {THEIR_KEY}"] * 6
    assert {vote.labeler for vote in votes_of(other)} == {"judge:by length"}
    assert all(vote.simulated for vote in votes_of(always) + votes_of(other))
    written = [
        path for name in ("runs", "artifacts") for path in (tmp_home / name).rglob("*") if path.is_file()
    ]
    for key in (engines.KEY, THEIR_KEY):
        assert not [path for path in written if key.encode() in path.read_bytes()]


def test_an_engine_that_was_started_anew_hears_of_addresses_while_a_run_asks_models(engine, answers, address):
    def known():
        listed = httpx.get(f"{engine}/v1/models", headers={"Authorization": f"Bearer {engines.KEY}"}).json()
        return {one["id"] for one in listed["data"]}

    run = runs.submit(kind="judge", config={"model": "by length"}, inputs={"answers": answers.pk})
    tasks._tell_engine()
    assert known() == {"always"}
    claims.claim_run(run.pk, "test")
    tasks._tell_engine()
    assert known() == {"always", "by length"}


def test_only_children_that_ask_models_are_told_the_engines_key(tmp_home, settings, monkeypatch):
    settings.ENGINE_URL, settings.ENGINE_KEY = "http://engine.example", "the key"
    monkeypatch.setenv("ENGINE_KEY", "the key")
    told = {}
    monkeypatch.setattr(
        "worker.child.subprocess.Popen", lambda command, env, **_: told.update({command[-3]: env})
    )
    for kind in ("judge", "sft"):
        Child(kind, [], None, tmp_home / "log", nice=0)
    assert (told["judge"]["ENGINE_URL"], told["judge"]["ENGINE_KEY"]) == ("http://engine.example", "the key")
    assert "ENGINE_KEY" not in told["sft"]
