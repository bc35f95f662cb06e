"""Fixtures of the whole suite. The lab under test lives in a temporary LAB_HOME of its own (see environment.py)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared data is not there: put it at {SHARED} or name it in SHARED_DATA")
    return SHARED


@pytest.fixture(autouse=True)
def _plain_static_files(settings: Any) -> None:
    """Hashed names need `collectstatic`, which tests do without."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


@pytest.fixture
def tmp_home(tmp_path: Path, settings: Any) -> Path:
    """Empty folders for artifacts, runs and uploads of one test."""
    for name in ("artifacts", "runs", "uploads"):
        (tmp_path / name).mkdir()
    settings.LAB_HOME = tmp_path
    settings.ARTIFACT_URL = str(tmp_path / "artifacts")
    settings.ARTIFACT_ROOT = tmp_path / "artifacts"
    settings.RUNS_ROOT = tmp_path / "runs"
    settings.UPLOAD_ROOT = tmp_path / "uploads"
    settings.IMPORT_ROOTS = [tmp_path / "uploads"]
    return tmp_path


@pytest.fixture
def account(db: Any) -> Callable[..., Any]:
    """account("researcher") makes (or finds) an account of that role."""
    from lab.models import Account

    def make(role: str = "researcher", name: str | None = None) -> Account:
        found = Account.objects.filter(username=name or role).first()
        return found or Account.objects.create_user(name or role, role=role)

    return make


@pytest.fixture
def browser(account: Callable[..., Any]) -> Callable[..., Any]:
    """browser("labeler") is a Django test client signed in with that role; browser(None) is a stranger."""
    from django.test import Client

    def make(role: str | None = "researcher", name: str | None = None) -> Client:
        client = Client()
        if role is not None:
            client.force_login(account(role, name))
        return client

    return make


class Api:
    """A program that speaks to the API with a bearer token."""

    def __init__(self, secret: str | None) -> None:
        from django.test import Client

        self._client = Client()
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}

    def _call(self, method: str, path: str, body: Any = None, **extra: Any) -> Any:
        headers = self._headers | extra.pop("headers", {})
        if body is not None:
            extra |= {"data": json.dumps(body), "content_type": "application/json"}
        return getattr(self._client, method)(path, headers=headers, **extra)

    def get(self, path: str, **extra: Any) -> Any:
        return self._call("get", path, **extra)

    def post(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self._call("post", path, {} if body is None and "data" not in extra else body, **extra)

    def patch(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self._call("patch", path, body, **extra)

    def delete(self, path: str, **extra: Any) -> Any:
        return self._call("delete", path, **extra)


@pytest.fixture
def api(account: Callable[..., Any]) -> Callable[..., Api]:
    """api("researcher") is a program with a token of that role; api(None) has none."""
    from lab.services import accounts

    def make(role: str | None = "researcher", name: str | None = None) -> Api:
        if role is None:
            return Api(None)
        _, secret = accounts.make_token(account(role, name), "test")
        return Api(secret)

    return make


@pytest.fixture
def text_corpus() -> list[str]:
    """A few hundred short sentences that a tiny model can learn something from."""
    subjects, verbs = ("the cat", "a dog", "the old man", "my friend"), ("sees", "likes", "finds", "has")
    things = ("a tree", "the sea", "two birds", "a red boat")
    return [f"{s} {v} {thing}." for s in subjects for v in verbs for thing in things] * 4
