"""How the engine is started: where it listens, to whom it answers, and what it leaves behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.engines import running, write_checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine")
    write_checkpoint(root)
    return root


def test_without_a_key_a_foreign_host_name_is_refused(root: Path) -> None:
    with running(root, key=None) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_its_unix_socket_is_for_its_owner_and_survives_a_killed_engine(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    command = [sys.executable, "-m", "core_ml.engine", "--root", str(root), "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as killed:
        assert killed.stdout is not None and killed.stdout.readline()
        killed.kill()
    assert path.exists()  # left behind
    with running(root, "--socket", str(path), key=None) as url:
        assert url == f"unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://engine") as client:
            assert client.get("/v1/models").json()["data"]
        second = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert second.returncode == 1 and "already" in second.stderr
    assert not path.exists()


def test_an_address_beyond_this_machine_needs_a_key(root: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "core_ml.engine",
        "--root",
        str(root),
        "--host",
        "0.0.0.0",
        "--port",
        "0",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "ENGINE_KEY"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2 and "--key" in ended.stderr
