"""Models of a hub, which here is a server of our own."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest
import torch

from core_ml.errors import UserError
from core_ml.model import checkpoint
from tests.core_ml.imported import bring, folder
from tests.core_ml.test_protocol import CHATML_TEMPLATE

COMMIT = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client asks for, over a folder; a model beside the others is gone."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = {file.name: file.read_bytes() for file in self.folder.iterdir() if file.is_file()}
        if path == "/api/models/some/model/revision/main":
            siblings = [{"rfilename": name} for name in files]
            self.answer(json.dumps({"id": "some/model", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/some/model/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith(f"/some/model/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.asked.append(name)
            self.answer(files[name])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    handler = type("Here", (Hub,), {"folder": tmp_path / "in", "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_is_downloaded_without_its_code(hub, tmp_path):
    wanted = folder(tmp_path / "in", CHATML_TEMPLATE)
    (tmp_path / "in" / "modeling_evil.py").write_text("raise SystemExit('run')")
    (tmp_path / "in" / "pytorch_model.bin").write_bytes(b"pickle")
    made = bring(tmp_path, hub="some/model", role="chat")
    assert made.manifest.name == "model"
    assert made.manifest.summary["source"] == f"some/model@{COMMIT}"
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(hub.asked)
    assert not {"modeling_evil.py", "pytorch_model.bin"} & set(hub.asked)
    model, _ = checkpoint.load(made.path, "cpu")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), wanted(ids).logits, atol=1e-4, rtol=0)


def test_a_model_that_the_hub_does_not_have_is_told(hub, tmp_path):
    folder(tmp_path / "in", None)
    with pytest.raises(UserError, match="the hub has no model some/other at main"):
        bring(tmp_path, hub="some/other")
