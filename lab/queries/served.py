"""Reading which models there are beyond the lab's own, and what the engine serves of them all."""

import os
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.db.models import QuerySet

from lab.models import ModelAddress, ModelFile
from lab.queries import machine
from lab.services import served

MOST_FILES = 200
MOST_FOLDERS = 2000
ABSENT = "The engine does not answer: it is starting, or it has stopped. The terminal of make run tells."


def addresses() -> QuerySet[ModelAddress]:
    return ModelAddress.objects.select_related("created_by")


def files() -> QuerySet[ModelFile]:
    return ModelFile.objects.select_related("created_by")


def models() -> tuple[list[dict[str, Any]], str]:
    """The engine's list of everything that can be asked, or a sentence that says why there is none."""
    wanted = served.sources()
    try:
        with machine.engine_client() as client:
            answer = client.get("/v1/models", headers={"x-sources": wanted["version"]})
            if answer.status_code == 428:
                client.put("/sources", json=wanted).raise_for_status()
                answer = client.get("/v1/models", headers={"x-sources": wanted["version"]})
            answer.raise_for_status()
            return answer.json()["data"], ""
    except (httpx.HTTPError, OSError, ValueError, KeyError):
        return [], ABSENT


def found_files() -> list[str]:
    """GGUF files below the allowed folders that are not added yet."""
    known = set(ModelFile.objects.values_list("path", flat=True))
    found: list[str] = []
    n_folders = 0
    for root in settings.IMPORT_ROOTS:
        for folder, _, names in os.walk(Path(root).resolve()):
            n_folders += 1
            found += [
                path
                for name in names
                if name.lower().endswith(".gguf") and (path := f"{folder}/{name}") not in known
            ]
            if len(found) >= MOST_FILES or n_folders >= MOST_FOLDERS:
                return sorted(found[:MOST_FILES])
    return sorted(found)
