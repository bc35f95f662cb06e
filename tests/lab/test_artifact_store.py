"""Artifacts in a store elsewhere: published whole, fetched whole, reindexed, removed."""

import shutil

import fsspec
import pytest

from core_ml.artifact import MANIFEST, Folder, Origin, Writer
from core_ml.errors import UserError
from lab.models import Artifact, Run
from lab.services import artifacts

pytestmark = pytest.mark.django_db


@pytest.fixture
def store(tmp_home, settings):
    """A store that is no folder of this machine."""
    settings.ARTIFACT_URL = "memory://lab"
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


@pytest.fixture
def made(store) -> Artifact:
    run = Run.objects.create(kind="conversations", name="a run", status="succeeded")
    origin = Origin(recipe="conversations", run=run.pk, name="a run")
    writer = Writer(
        artifacts.out_dir(run) / "problems",
        id=f"{run.uid}-problems",
        kind="dataset",
        form="problems",
        name="asked",
        origin=origin,
    )
    (writer.path / "rows").mkdir()
    (writer.path / "rows" / "problems.parquet").write_bytes(b"rows" * 1000)
    writer.finish({"n_rows": 4})
    artifacts.publish(run, "problems")
    return artifacts.register(run, "problems")


def test_an_artifact_is_fetched_when_it_is_not_here(made: Artifact):
    here = artifacts.local_path(made)
    shutil.rmtree(here)
    fetched = artifacts.local_path(made)
    Folder(fetched).verify()
    assert (fetched / "rows" / "problems.parquet").read_bytes() == b"rows" * 1000


def test_a_copy_that_was_damaged_on_the_way_is_not_taken(made: Artifact, store):
    shutil.rmtree(artifacts.local_path(made))
    store.pipe_file(f"/lab/{made.path}/rows/problems.parquet", b"rows" * 999 + b"moss")
    with pytest.raises(UserError, match="SHA-256"):
        artifacts.local_path(made)
    assert not (artifacts.out_dir(made.run) / "problems" / MANIFEST).exists()


def test_the_manifest_is_published_last(made: Artifact, store):
    names = {path.rpartition("/")[2] for path in store.find("/lab")}
    assert names == {MANIFEST, "problems.parquet"}
    newest = max(store.find("/lab", detail=True).values(), key=lambda entry: entry["created"])
    assert newest["name"].endswith(MANIFEST)


def test_the_index_is_rebuilt_from_the_store(made: Artifact):
    number = made.run.pk
    Artifact.objects.all().delete()
    Run.objects.all().delete()
    counts = artifacts.reindex()
    assert (counts["artifacts"], counts["runs"], counts["damaged"]) == (1, 1, 0)
    assert Artifact.objects.get().run.pk == number


def test_what_is_removed_is_removed_there_too(made: Artifact, store):
    artifacts.remove(made.run)
    assert store.find("/lab") == {} or store.find("/lab") == []
