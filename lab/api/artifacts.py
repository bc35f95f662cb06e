"""Artifacts of any kind: what one is, where it comes from, and its files, with range requests."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from ninja import Router, Schema

from core_ml.artifact import MANIFEST, Folder
from lab.api.base import ArtifactId, Limit, Offset, Page, Words, answers, page
from lab.models import Artifact
from lab.queries import artifacts as queries

router = Router(tags=["artifacts"])
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
CHUNK = 1 << 18


class FileOut(Schema):
    path: str
    size: int
    sha256: str


class ArtifactOut(Schema):
    id: str
    kind: str
    form: str
    role: str
    name: str
    size: int
    summary: dict[str, Any]
    run: int | None
    output: str
    note: str
    created: datetime

    @staticmethod
    def resolve_run(artifact: Any) -> int | None:
        found: int | None = artifact.run_id
        return found


class ArtifactWhole(ArtifactOut):
    files: list[FileOut]
    origin: dict[str, Any]

    @staticmethod
    def resolve_files(artifact: Any) -> Any:
        return artifact.manifest.get("files", [])

    @staticmethod
    def resolve_origin(artifact: Any) -> Any:
        return artifact.manifest.get("origin", {})


def find(id: str, kind: str | None = None) -> Artifact:
    return get_object_or_404(queries.visible(kind), pk=id)


@router.get("", response=answers(Page[ArtifactOut]))
def list_artifacts(
    request: HttpRequest, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Datasets, tokenizers and checkpoints, the newest first."""
    return page(queries.visible(q=q), limit, offset)


@router.get("/{id}", response=answers(ArtifactWhole))
def get_artifact(request: HttpRequest, id: ArtifactId) -> Artifact:
    return find(id)


@router.get("/{id}/lineage", response=answers(dict[str, Any]))
def artifact_lineage(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """Every run and artifact that it comes from or has led to: nodes, and edges in the order of the life."""
    return queries.lineage(find(id))


@router.get("/{id}/files/{path:name}", response=answers(None))
def download(request: HttpRequest, id: ArtifactId, name: str) -> Any:
    """One file, whole or by a range of its bytes. Only names in the manifest exist."""
    artifact = find(id)
    folder = Folder(queries.path(artifact))
    if name != MANIFEST and all(file.path != name for file in folder.manifest.files):
        raise Http404
    return send(request, folder.path / name, f"{artifact.name}-{Path(name).name}", _tag(folder, name))


def _tag(folder: Folder, name: str) -> str:
    return next((file.sha256[:32] for file in folder.manifest.files if file.path == name), folder.manifest.id)


def send(request: HttpRequest, path: Path, filename: str, tag: str) -> HttpResponse | StreamingHttpResponse:
    """A file as an attachment; a browser must never take it for a page of ours."""
    size = path.stat().st_size
    asked = request.headers.get("Range")
    span = _span(asked, size) if asked and request.headers.get("If-Range") in (None, f'"{tag}"') else None
    response: Any
    if span == "unsatisfiable":
        response = HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    elif isinstance(span, tuple):
        first, last = span
        response = StreamingHttpResponse(_bytes(path.open("rb"), first, last), status=206)
        response["Content-Range"] = f"bytes {first}-{last}/{size}"
        response["Content-Length"] = str(last - first + 1)
    else:
        response = FileResponse(path.open("rb"))
        response["Content-Length"] = str(size)
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = f'"{tag}"'
    return attached(response, filename)


def attached(response: Any, filename: str) -> Any:
    """A response as a file to keep, which no browser takes for anything else."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", filename).strip("-.") or "file"
    response["Content-Disposition"] = f'attachment; filename="{safe}"'
    response["Content-Type"] = "application/octet-stream"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _span(asked: str, size: int) -> tuple[int, int] | str | None:
    """First and last byte of a single range; None for what is no such range, which is answered whole."""
    match = RANGE.fullmatch(asked.strip())
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
        return (start, end) if int(last) and size else "unsatisfiable"
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None
    return (start, end) if start < size else "unsatisfiable"


def _bytes(file: BinaryIO, first: int, last: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        left = last - first + 1
        while left and (chunk := file.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk
