"""Bringing in a model of others: who may, from where, and that the run makes a checkpoint like any other."""

import json

import pytest

from core_ml.workspace import Workspace
from lab.models import Artifact, Run
from lab.services import artifacts
from tests.core_ml.models import write_checkpoint
from tests.lab import making
from tests.lab.test_pages_runs import form_of

pytestmark = pytest.mark.django_db
RUNS = "/api/v1/runs"


@pytest.fixture(autouse=True)
def _home(tmp_home):
    return tmp_home


@pytest.fixture
def folder(settings):
    """A model folder below an allowed root."""
    from core_ml.exchange import huggingface

    root = settings.IMPORT_ROOTS[0]
    root.mkdir(parents=True, exist_ok=True)
    made = write_checkpoint(root / "made", "chat")
    (root / "small").mkdir()
    huggingface.save(root / "small", made)
    return root / "small"


def submit(client, **config):
    return client.post(RUNS, {"kind": "import_model", "config": config})


def test_a_folder_becomes_a_checkpoint_of_the_chosen_role(api, folder):
    from core_ml.artifact import Origin
    from core_ml.recipes.import_model import ImportModelConfig, run

    answer = submit(api(), path=str(folder), role="chat")
    assert answer.status_code == 201
    row = Run.objects.get(pk=answer.json()["id"])
    # What a worker does with it, in this process.
    place = Workspace(
        artifacts.out_dir(row),
        artifacts.state_dir(row),
        {},
        Origin(recipe=row.kind, run=row.pk),
        row.uid,
        row.name,
    )
    list(run(ImportModelConfig.model_validate(row.config), place))
    made = artifacts.register(row, "checkpoint")
    told = api().get(f"/api/v1/checkpoints/{made.pk}").json()
    assert (told["kind"], told["role"], told["name"]) == ("checkpoint", "chat", "small")
    assert told["summary"]["family"] == "nanochat"
    assert told["summary"]["source"] == str(folder)


@pytest.mark.parametrize("role", ["base", "chat"])
def test_the_page_of_an_imported_model_draws_its_network(browser, folder, role):
    from core_ml.artifact import Folder, Origin, Writer
    from core_ml.exchange.incoming import bring_in

    row = making.run("succeeded", kind="import_model", uid="44444444", name="import")
    writer = Writer(
        artifacts.out_dir(row) / "checkpoint", id="44444444-checkpoint", kind="checkpoint", role=role,
        name="small", origin=Origin(recipe="import_model", run=row.pk),
    )  # fmt: skip
    writer.finish(bring_in(folder, writer.path, role))
    assert Folder(writer.target).manifest.role == role
    artifacts.register(row, "checkpoint")
    page = browser("researcher").get("/checkpoints/44444444-checkpoint")
    assert page.status_code == 200 and "small" in page.content.decode()
    assert Artifact.objects.get().summary["vocab_size"] == 340


@pytest.mark.parametrize(
    ("config", "field", "told"),
    [
        ({"path": "/etc"}, "config.path", "there is no such file below"),
        ({"path": "../../etc"}, "config.path", "there is no such file below"),
        ({"hub": "no-owner"}, "config.hub", ""),
        ({"hub": "../x"}, "config.hub", ""),
        ({"hub": "a/b", "revision": "--x"}, "config.revision", ""),
        ({"hub": "a/b", "role": "reward"}, "config.role", ""),
        ({"hub": "a/b", "path": "/x"}, "config", "both given"),
        ({"trust_remote_code": True}, "config.trust_remote_code", "there is no field"),
    ],
)
def test_what_will_not_do_is_told_by_field(api, config, field, told):
    answer = submit(api(), **config)
    assert answer.status_code == 422
    assert any(error["field"] == field and told in error["message"] for error in answer.json()["errors"])
    assert not Run.objects.exists()


def test_a_link_to_a_folder_elsewhere_is_no_way_out(api, settings, tmp_path):
    root = settings.IMPORT_ROOTS[0]
    root.mkdir(parents=True, exist_ok=True)
    (root / "link").symlink_to(tmp_path)
    answer = submit(api(), path=str(root / "link"))
    assert answer.status_code == 422 and not Run.objects.exists()


def test_strangers_and_labelers_import_nothing(api, browser, client):
    sent = json.dumps({"kind": "import_model", "config": {"hub": "a/b"}})
    assert client.post(RUNS, sent, content_type="application/json").status_code == 401
    assert submit(api("labeler"), hub="a/b").status_code == 403
    assert client.get("/runs/new/import_model").status_code == 302
    assert browser("labeler").get("/runs/new/import_model").status_code in (302, 403)
    assert not Run.objects.exists()


def test_a_button_leads_to_the_form_and_the_form_to_a_run(browser):
    reader = browser("researcher")
    assert 'href="/runs/new/import_model"' in reader.get("/checkpoints").content.decode()
    form = reader.get("/runs/new/import_model").content.decode()
    assert (
        'name="config.hub"' in form and 'name="config.path"' in form and 'name="config.chat_tokens"' in form
    )
    answer = reader.post(
        "/runs/new/import_model", form_of("import_model", "chat", **{"config.hub": "somebody/model"})
    )
    assert answer.status_code in (302, 303)
    assert Run.objects.get().config == {
        "path": None, "hub": "somebody/model", "revision": "main", "role": "chat", "chat_tokens": False
    }  # fmt: skip
