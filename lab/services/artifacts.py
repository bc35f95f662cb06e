"""Artifacts in the database and in the store: registered from their manifests, published, fetched, reindexed."""

import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from django.conf import settings
from django.core.management.color import no_style
from django.db import connection, transaction
from django.utils import timezone

from core_ml.artifact import MANIFEST, Folder, Manifest
from core_ml.errors import UserError
from lab.models import Artifact, Run, RunInput
from lab.models.run import SUCCEEDED

NOT_RUNS = ("import", "labeling", "arena")
"""Origins of artifacts that people bring in or make by hand."""


def out_dir(run: Run) -> Path:
    """Where a run's outputs lie on this machine."""
    return Path(settings.ARTIFACT_ROOT) / run.uid


def state_dir(run: Run) -> Path:
    """Where a run keeps what it needs to go on, and its event files."""
    return Path(settings.RUNS_ROOT) / run.uid


def is_remote() -> bool:
    return "://" in settings.ARTIFACT_URL and not settings.ARTIFACT_URL.startswith("file://")


def publish(run: Run, output: str) -> None:
    """Upload a finished output where the store is elsewhere; takes its time, so call it outside transactions."""
    if is_remote():
        _publish(Folder(out_dir(run) / output), f"{run.uid}/{output}")


def adopt(target: Path) -> Artifact:
    """Publish and index a finished artifact that no run made: an import, or a labelling project's rankings."""
    folder = Folder(target)
    path = f"{target.parent.name}/{target.name}"
    if is_remote():
        _publish(folder, path)
    return index(folder.manifest, path, None)


def register(run: Run, output: str) -> Artifact:
    """Index a finished (and published) output of a run. Idempotent."""
    return index(Folder(out_dir(run) / output).manifest, f"{run.uid}/{output}", run)


def index(manifest: Manifest, path: str, run: Run | None) -> Artifact:
    artifact, _ = Artifact.objects.update_or_create(
        pk=manifest.id,
        defaults={
            "kind": manifest.kind,
            "form": manifest.form or "",
            "role": manifest.role or "",
            "name": manifest.name[:200],
            "path": path,
            "size": manifest.size,
            "summary": manifest.summary,
            "manifest": manifest.model_dump(mode="json"),
            "run": run,
            "output": path.rpartition("/")[2],
            "created": datetime.fromisoformat(manifest.created),
        },
    )
    return artifact


def local_path(artifact: Artifact) -> Path:
    """The artifact's folder on this machine, fetched from the store when it is not here yet."""
    target = Path(settings.ARTIFACT_ROOT) / artifact.path
    if is_remote() and not (target / MANIFEST).exists():
        _fetch(artifact.path, target)
    return target


def _publish(folder: Folder, path: str) -> None:
    """Upload the files, then the manifest: readers of the store see an artifact whole or not at all."""
    store, root = fsspec.core.url_to_fs(settings.ARTIFACT_URL)
    names = [file.path for file in folder.manifest.files]
    for name in [*names, MANIFEST]:
        target = f"{root}/{path}/{name}"
        store.makedirs(target.rpartition("/")[0], exist_ok=True)
        store.put_file(str(folder.path / name), target)


def _fetch(path: str, target: Path) -> None:
    store, root = fsspec.core.url_to_fs(settings.ARTIFACT_URL)
    # Two claimants of one run may fetch at the same time; the first to end is as good as the other.
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}.fetching")
    hidden.mkdir(parents=True)
    store.get_file(f"{root}/{path}/{MANIFEST}", str(hidden / MANIFEST))
    folder = Folder(hidden)
    for file in folder.manifest.files:
        (hidden / file.path).parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"{root}/{path}/{file.path}", str(hidden / file.path))
    folder.verify()
    if not target.exists():
        hidden.rename(target)
    shutil.rmtree(hidden, ignore_errors=True)


def remove(run: Run) -> None:
    """Delete a run's files for good: its artifacts, its saved state, its events."""
    shutil.rmtree(out_dir(run), ignore_errors=True)
    shutil.rmtree(state_dir(run), ignore_errors=True)
    if is_remote():
        store, root = fsspec.core.url_to_fs(settings.ARTIFACT_URL)
        if store.exists(f"{root}/{run.uid}"):
            store.rm(f"{root}/{run.uid}", recursive=True)


def disown(artifact: Artifact) -> None:
    """Delete an adopted artifact for good: its row first, so that nobody begins to read what is going."""
    uid = artifact.path.partition("/")[0]
    artifact.delete()
    shutil.rmtree(Path(settings.ARTIFACT_ROOT) / uid, ignore_errors=True)
    if is_remote():
        store, root = fsspec.core.url_to_fs(settings.ARTIFACT_URL)
        if store.exists(f"{root}/{uid}"):
            store.rm(f"{root}/{uid}", recursive=True)


def reindex() -> dict[str, int]:
    """Rebuild the index of artifacts, and the runs that made them, from the manifests in the store.

    Rows that exist are brought up to date; none is removed. Counts what was found and what was damaged.
    """
    counts = {"artifacts": 0, "runs": 0, "inputs": 0, "damaged": 0}
    found: list[tuple[Manifest, Run | None]] = []
    for path, manifest in _manifests():
        if manifest is None:
            counts["damaged"] += 1
            continue
        with transaction.atomic():
            run, is_new = _run_of(manifest, path.partition("/")[0])
            index(manifest, path, run)
        counts["artifacts"] += 1
        counts["runs"] += is_new
        found.append((manifest, run))
    for manifest, run in found:
        if run is not None:
            counts["inputs"] += _inputs_of(manifest, run)
    # Runs came back under their old numbers, which PostgreSQL's counter does not notice by itself.
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), [Run]):
            cursor.execute(statement)
    return counts


def _manifests() -> list[tuple[str, Manifest | None]]:
    store, root = fsspec.core.url_to_fs(settings.ARTIFACT_URL)
    found: list[tuple[str, Manifest | None]] = []
    for full in sorted(store.glob(f"{root}/*/*/{MANIFEST}")):
        path = "/".join(full.split("/")[-3:-1])
        if any(part.startswith(".") for part in path.split("/")):
            continue
        try:
            found.append((path, Manifest.model_validate_json(store.cat_file(full))))
        except (ValueError, UserError):
            found.append((path, None))
    return found


def _run_of(manifest: Manifest, uid: str) -> tuple[Run | None, bool]:
    """The run that made an artifact; a lost one is made again with its old number where that is free."""
    run = Run.objects.filter(uid=uid).first()
    if run is not None or manifest.origin.recipe in NOT_RUNS:
        return run, False
    origin = manifest.origin
    fields: dict[str, Any] = {
        "uid": uid,
        "kind": origin.recipe,
        "name": origin.name or origin.recipe,
        "config": origin.config,
        "given": origin.config,
        "status": SUCCEEDED,
        "started": datetime.fromisoformat(origin.started) if origin.started else None,
        "ended": datetime.fromisoformat(manifest.created),
        "note": "rebuilt from its artifacts",
    }
    if origin.run is not None and not Run.objects.filter(pk=origin.run).exists():
        fields["id"] = origin.run
    run = Run.objects.create(**fields)
    Run.objects.filter(pk=run.pk).update(created=fields["started"] or fields["ended"] or timezone.now())
    return run, True


def _inputs_of(manifest: Manifest, run: Run) -> int:
    n = 0
    for name, ids in manifest.origin.inputs.items():
        for position, pk in enumerate(ids):
            artifact = Artifact.objects.filter(pk=pk).first()
            if artifact is not None:
                _, is_new = RunInput.objects.get_or_create(
                    run=run, name=name, position=position, defaults={"artifact": artifact}
                )
                n += is_new
    return n
