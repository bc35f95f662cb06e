"""Models beyond the lab's own: addresses and GGUF files, added, tried and removed by pages and API."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core_ml.exchange import gguf
from lab.models import ModelAddress, ModelFile
from lab.queries import served as queries
from lab.services import artifacts, served
from tests.core_ml import models as networks
from tests.engines import KEY, running, write_checkpoint
from tests.lab import making


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another server of OpenAI's protocol, with one model, `tiny`, and a key."""
    root = tmp_path_factory.mktemp("elsewhere")
    write_checkpoint(root)
    with running(root) as url:
        yield f"{url}/v1"


@pytest.fixture
def file(tmp_home: Path) -> Path:
    folder = networks.write_checkpoint(tmp_home / "made", "chat", n_kv_head=2, d_model=64)
    target = tmp_home / "uploads" / "mine.gguf"
    gguf.save(target, folder.path, "q8_0", name="My model", role="chat")
    return target


def address(server: str, **fields: Any) -> dict[str, Any]:
    return {"url": server, "key": KEY, "local": True, "name": "theirs"} | fields


def test_an_administrator_adds_a_server_of_the_own_network_and_its_key_is_told_to_nobody(
    api: Callable[..., Any], server: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api("admin").post("/api/v1/models/addresses", address(server))
    made = answer.json()
    assert answer.status_code == 201, made
    assert (made["model"], made["problem"], made["has_key"], made["local"]) == ("tiny", "", True, True)
    kept = ModelAddress.objects.get()
    assert kept.key == KEY and kept.tried is not None
    listed = api("researcher").get("/api/v1/models/addresses")
    assert listed.json()["count"] == 1
    assert KEY not in answer.content.decode() + listed.content.decode() + caplog.text


def test_a_researcher_reaches_no_address_of_the_own_network(api: Callable[..., Any], server: str) -> None:
    told = api("researcher").post("/api/v1/models/addresses", address(server))
    assert told.status_code == 403 and "administrator" in told.json()["detail"]
    hidden = api("researcher").post("/api/v1/models/addresses", address(server, local=False))
    assert hidden.status_code == 422 and "not a public address" in hidden.json()["errors"][0]["message"]
    assert not ModelAddress.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "ftp://host/v1"}, "url"),
        ({"url": "http://user:password@127.0.0.1/v1"}, "url"),
        ({"url": "http://127.0.0.1/v1?key=1"}, "url"),
        ({"url": "http://169.254.169.254/latest", "local": False}, "url"),
        ({"key": "wrong"}, "url"),
        ({"name": "<b>"}, "name"),
        ({"url": "http://127.0.0.1:9/v1"}, "url"),
        ({"model": "a\nb"}, "model"),
    ],
)
def test_what_is_wrong_with_an_address_is_told_by_its_field(
    api: Callable[..., Any], server: str, change: dict[str, Any], field: str
) -> None:
    told = api("admin").post("/api/v1/models/addresses", address(server, **change))
    assert told.status_code == 422, told.json()
    assert told.json()["errors"][0]["field"].endswith(field)
    assert KEY not in told.content.decode() and not ModelAddress.objects.exists()


def test_a_server_that_is_off_is_kept_when_its_model_is_named_and_tried_again(
    api: Callable[..., Any], server: str
) -> None:
    made = (
        api("admin").post("/api/v1/models/addresses", address("http://127.0.0.1:9/v1", model="tiny")).json()
    )
    assert "does not answer" in made["problem"]
    ModelAddress.objects.update(url=server)
    tried = api("researcher").post(f"/api/v1/models/addresses/{made['id']}/try").json()
    assert tried["problem"] == ""
    ModelAddress.objects.update(model="gone")
    tried = api("researcher").post(f"/api/v1/models/addresses/{made['id']}/try").json()
    assert "no model 'gone'" in tried["problem"] and "tiny" in tried["problem"]


def test_who_added_a_model_removes_it_and_so_does_an_administrator(
    api: Callable[..., Any], file: Path
) -> None:
    made = api("researcher", "ada").post("/api/v1/models/files", {"path": str(file)}).json()
    assert (made["name"], made["path"]) == ("My model", str(file))
    assert api("researcher", "lin").delete(f"/api/v1/models/files/{made['id']}").status_code == 403
    assert api("researcher", "ada").delete(f"/api/v1/models/files/{made['id']}").status_code == 204
    again = api("researcher", "ada").post("/api/v1/models/files", {"path": str(file), "name": "mine"}).json()
    assert api("admin").delete(f"/api/v1/models/files/{again['id']}").status_code == 204
    assert file.exists()


def test_a_name_belongs_to_one_model(api: Callable[..., Any], file: Path, server: str) -> None:
    assert api("admin").post("/api/v1/models/addresses", address(server, name="one")).status_code == 201
    told = api("admin").post("/api/v1/models/files", {"path": str(file), "name": "one"})
    assert told.status_code == 422 and told.json()["errors"][0]["field"] == "name"


def test_only_gguf_files_below_allowed_folders_are_taken(
    api: Callable[..., Any], file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "b.gguf"
    outside.write_bytes(file.read_bytes())
    (file.parent / "link.gguf").symlink_to(outside)
    (file.parent / "fake.gguf").write_bytes(b"PK" * 400)
    (file.parent / "words.txt").write_text("no model")
    for path in (outside, file.parent / "link.gguf", file.parent / "fake.gguf", file.parent / "words.txt"):
        told = api("researcher").post("/api/v1/models/files", {"path": str(path)})
        assert told.status_code == 422 and told.json()["errors"][0]["field"] == "path", path
    assert not ModelFile.objects.exists()


@pytest.mark.parametrize("path", ["/api/v1/models/addresses", "/api/v1/models/files"])
def test_strangers_and_labelers_see_and_add_no_models(api: Callable[..., Any], path: str) -> None:
    for role, status in ((None, 401), ("labeler", 403)):
        assert api(role).get(path).status_code == status
        assert api(role).post(path, {}).status_code == status


def test_the_list_for_the_engine_changes_its_version_with_what_is_in_it(
    api: Callable[..., Any], file: Path
) -> None:
    before = served.sources()
    api("researcher").post("/api/v1/models/files", {"path": str(file)})
    after = served.sources()
    assert before["version"] != after["version"] and after["version"] == served.sources()["version"]
    assert [one["path"] for one in after["files"]] == [str(file)]


def test_files_below_allowed_folders_are_found_until_they_are_added(
    api: Callable[..., Any], file: Path, db: None
) -> None:
    assert queries.found_files() == [str(file)]
    api("researcher").post("/api/v1/models/files", {"path": str(file)})
    assert queries.found_files() == []


# Pages


def test_the_page_adds_tries_and_removes_an_address_and_never_shows_its_key(
    browser: Callable[..., Any], server: str
) -> None:
    page = browser("admin")
    form = {"url": server, "key": KEY, "local": "true", "name": "theirs", "model": "", "timeout": "30"}
    shown = page.post("/models/addresses", form, follow=True).content.decode()
    assert "theirs answers, and can be asked" in shown and "key kept" in shown and KEY not in shown
    made = ModelAddress.objects.get()
    shown = page.post(f"/models/addresses/{made.pk}", {"try": "1"}, follow=True).content.decode()
    assert "theirs answers." in shown
    page.post(f"/models/addresses/{made.pk}", {"remove": "1"})
    assert not ModelAddress.objects.exists()


def test_a_form_that_will_not_do_comes_back_with_what_was_typed_but_the_key(
    browser: Callable[..., Any],
) -> None:
    form = {"url": "http://127.0.0.1/v1", "key": "sk-very-secret", "name": "<b>x</b>", "timeout": "30"}
    answer = browser("researcher").post("/models/addresses", form)
    shown = answer.content.decode()
    assert answer.status_code == 422 and "not a public address" in shown
    assert "&lt;b&gt;x&lt;/b&gt;" in shown and "sk-very-secret" not in shown
    local = browser("researcher").post("/models/addresses", form | {"local": "true", "name": "x"})
    assert local.status_code == 422 and "added by administrators" in local.content.decode()


def test_the_page_adds_and_removes_a_file(browser: Callable[..., Any], file: Path) -> None:
    page = browser("researcher")
    assert str(file) in page.get("/models").content.decode()
    shown = page.post("/models/files", {"path": str(file), "file_name": "mine"}, follow=True).content.decode()
    assert "mine can be asked from now on" in shown
    refused = page.post("/models/files", {"path": "/etc/passwd", "file_name": ""})
    assert refused.status_code == 422 and "no such file below" in refused.content.decode()
    page.post(f"/models/files/{ModelFile.objects.get().pk}/remove")
    assert not ModelFile.objects.exists()


def test_strangers_and_labelers_stay_outside(browser: Callable[..., Any]) -> None:
    assert browser(None).get("/models")["Location"].startswith("/sign-in")
    assert browser("labeler").get("/models").status_code == 403
    assert browser("labeler").post("/models/addresses", {}).status_code == 403


def test_a_checkpoint_goes_home_at_a_click_and_the_export_has_a_page(
    browser: Callable[..., Any], tmp_home: Path
) -> None:
    run = making.run("succeeded", uid="aaaa0001", kind="sft")
    networks.write_checkpoint(artifacts.out_dir(run).parent / run.uid, "chat")
    (artifacts.out_dir(run) / "chat").rename(artifacts.out_dir(run) / "checkpoint")
    made = artifacts.register(run, "checkpoint")
    page = browser("researcher")
    assert "Take it home" in page.get(f"/checkpoints/{made.pk}").content.decode()
    answer = page.post(f"/checkpoints/{made.pk}/export", {"as": "q8_0"})
    queued = made.taken_by.get().run
    assert answer["Location"] == f"/runs/{queued.pk}"
    assert (queued.kind, queued.config["precision"], queued.status) == ("export", "q8_0", "queued")
    assert page.post(f"/checkpoints/{made.pk}/export", {"as": "no"})["Location"] == f"/checkpoints/{made.pk}"
    assert browser("labeler").post(f"/checkpoints/{made.pk}/export").status_code == 403

    from core_ml.artifact import Origin, Writer

    writer = Writer(artifacts.out_dir(queued) / "export", id=f"{queued.uid}-export", kind="export", name="home", origin=Origin(recipe="export"))  # fmt: skip
    (writer.path / "m.gguf").write_bytes(b"GGUF")
    writer.finish({"format": "gguf", "precision": "q8_0", "network": "apertus", "checkpoint": made.pk, "bytes": 4, "bytes_original": 8, "bits_per_byte": 2.5, "bits_per_byte_original": 2.4, "findings": ["Half the size."]})  # fmt: skip
    exported = artifacts.register(queued, "export")
    shown = page.get(f"/exports/{exported.pk}").content.decode()
    assert "Half the size." in shown and "m.gguf" in shown and "2.5" in shown
    assert f"/exports/{exported.pk}" in page.get(f"/checkpoints/{made.pk}").content.decode()
    assert f'"{exported.pk}"' in page.get("/playground").content.decode()
    file = page.get(f"/api/v1/artifacts/{exported.pk}/files/m.gguf")
    assert b"".join(file.streaming_content) == b"GGUF"
    assert page.get("/exports/nothing").status_code == 404
    assert page.get("/search?q=home").status_code == 200
