"""Judges for tests: a server that speaks OpenAI's protocol and judges by a rule, and a network that always says A."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from core_ml import artifact
from core_ml.evaluation.judge_prompt import SHORT
from core_ml.model import checkpoint
from core_ml.model.gpt import GPT, GPTConfig
from tests.core_ml.models import small_tokenizer

ANSWERS = re.compile(r"\nA: (?P<a>.*)\nB: (?P<b>.*)\nReply", re.DOTALL)
TEMPLATE = SHORT
"""What `answers` takes apart again."""


def answers(prompt: str) -> tuple[str, str]:
    """Both answers in a prompt of TEMPLATE."""
    match = ANSWERS.search(prompt)
    assert match, prompt
    return match["a"], match["b"]


def longer(prompt: str) -> str:
    a, b = answers(prompt)
    return "A" if len(a) > len(b) else "B" if len(b) > len(a) else "C"


class Server:
    """`asked` are the bodies of all requests and `keys` what they showed."""

    def __init__(self, judge: Callable[[str], Any]) -> None:
        self.judge = judge
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""


@contextmanager
def server(judge: Callable[[str], Any]) -> Iterator[Server]:
    """A real server on a free port. A judge that returns (status, message) refuses."""
    it = Server(judge)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            it.asked.append(body)
            it.keys.append(self.headers["authorization"])
            said = it.judge(body["messages"][0]["content"])
            status, answer = (
                200,
                {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]},
            )
            if isinstance(said, tuple):
                status, answer = said[0], {"error": {"message": said[1]}}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    it.url = f"http://127.0.0.1:{listening.server_port}/v1"
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield it
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def write_constant_judge(target: Path, id: str, letter: str = "A", name: str = "always") -> artifact.Folder:
    """A chat checkpoint that replies `letter` to everything: blocks that write nothing, and one head that matters."""
    tokenizer = small_tokenizer()
    model = GPT(
        GPTConfig(
            vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_kv_head=2, d_model=32, max_seq_len=512
        )
    )
    # Untrained blocks are the identity, so the hidden state at a prompt's end is that of its last token, always the same.
    last = tokenizer.prompt([{"role": "user", "content": "x"}])[-1]
    (favourite,) = tokenizer.encode(letter)
    with torch.no_grad():
        assert model.head is not None
        model.head.weight[favourite] = model.hidden(torch.tensor([[last]]))[0, 0]
    writer = artifact.Writer(
        target, id=id, kind="checkpoint", role="chat", name=name, origin=artifact.Origin(recipe="test")
    )
    checkpoint.save(model, tokenizer, writer.path)
    writer.finish({"n_parameters": model.config.n_parameters})
    return artifact.Folder(target)
