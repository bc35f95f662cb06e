"""The API against its own description: schemathesis sends what the schemas allow and what they do not."""

import asyncio
import gc
import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import schemathesis
from asgiref.sync import sync_to_async
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.test import AsyncClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from lab.models import Artifact, LogLine, Run, Tour
from lab.services import fetch, tour
from tests.lab import making

# Real requests: each closes its connection at its end, which would lose the transaction of an ordinary test.
pytestmark = pytest.mark.django_db(transaction=True, reset_sequences=True)
EVENTS = "/api/v1/runs/{id}/events"
# Asking after the queue and the engine, which do not run here, waits a second each time.
LEFT_OUT = (EVENTS, "/api/v1/health")
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
IMPORTS = ("/api/v1/datasets", "/api/v1/tokenizers", "/api/v1/tours")
# A stream that does not end is left after so many messages, or so many seconds of silence.
N_MESSAGES, SILENCE = 4, 0.2
Change = Callable[[Any], None]


@pytest.fixture
def described(api, account, tmp_home, monkeypatch):
    """The schema, and a token to speak with; the lab holds one of each thing."""
    # Names that nobody can know lead here, which is as far as a request may go.
    local = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(fetch.network.socket, "getaddrinfo", lambda *_, **__: local)
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # no worker runs here
    assert (making.run().pk, making.run("succeeded").pk) == (1, 2)
    making.rollouts()
    making.tokenizer()
    tour.start({"small": True}, account("researcher"))
    program = api("admin")
    schema = schemathesis.openapi.from_dict(program.get("/api/v1/openapi.json").json())
    schema.app = WSGIHandler()
    yield schema, program._headers
    gc.collect()  # uploads that the client of these tests does not close, while their folder is still there


@pytest.fixture
def files(tmp_home: Path) -> list[Path]:
    """What a researcher may find in an allowed folder: good, damaged, empty, packed, and a link that leads out."""
    folder = tmp_home / "uploads"
    rows = [{"text": "the cat sees the sea"}, {"text": "a dog"}]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    contents = {
        "good.jsonl": lines,
        "good.jsonl.gz": gzip.compress(lines),
        "torn.jsonl.gz": gzip.compress(lines)[:-9],
        "torn.parquet": b"PAR1" + bytes(40),
        "torn.warc": b"WARC/1.0\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "empty": b"",
        "numbers.jsonl": b'1\n[2]\n"three"\n',
        "halves.jsonl": b'{"text": "\\ud800"}\n' + b"\xff\xfe\n" + b'{"text": null}\n',
        "deep.jsonl": b'{"text": ' + b"[" * 100_000,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows), folder / "good.parquet")
    pq.write_table(pa.table({"text": pa.array([b"\xff\x00", None], pa.binary())}), folder / "bytes.parquet")
    (folder / "folder").mkdir()
    (folder / "out").symlink_to("/etc/hostname")
    return sorted(folder.iterdir())


def test_no_request_that_the_schemas_allow_or_forbid_breaks_the_api(described):
    schema, headers = described
    n_operations = 0
    for operation in _operations(schema):
        if operation.path not in LEFT_OUT:
            n_operations += 1
            _probe(operation, headers)
    assert n_operations > 45


def test_no_file_of_the_server_breaks_an_import_or_a_tour(described, files):
    schema, headers = described
    given_paths = []
    for operation in _operations(schema):
        if operation.method.upper() != "POST" or operation.path not in IMPORTS:
            continue
        fields = ("pages", "documents") if operation.path.endswith("tours") else ("path",)
        for path in files:

            def name_it(case: Any, path: Path = path, fields: tuple[str, ...] = fields) -> None:
                Tour.objects.update(status="cancelled")
                if isinstance(case.body, dict):
                    for other in ("url", "hub"):
                        case.body.pop(other, None)
                    case.body |= dict.fromkeys(fields, str(path))
                    given_paths.append(path)

            _probe(operation, headers, name_it, modes=[GenerationMode.POSITIVE], n_examples=3)
    assert set(given_paths) == set(files)
    imported = Artifact.objects.filter(kind="dataset", manifest__origin__config__from="path")
    assert imported.count() > 3 and Tour.objects.count() > 3, "some of each were brought in"


def test_no_request_breaks_an_event_stream(described):
    schema, headers = described
    (operation,) = (found for found in _operations(schema) if found.path == EVENTS)
    LogLine.objects.bulk_create(LogLine(run_id=pk, time="2026-01-01T00:00Z", message="x") for pk in (1, 2))
    heads = []

    def listen(case: Any) -> None:
        # Every second request is for a run that exists: one that goes on, or one that has ended.
        if len(heads) % 2:
            case.path_parameters = {"id": 1 + len(heads) // 2 % 2}
        asked = case.as_transport_kwargs(headers=headers)
        status, kind, messages = asyncio.run(_listen_and_leave(asked))
        heads.append(status)
        assert status in (200, 204, 400, 404, 422), (status, asked)
        if status == 200:
            assert kind == "text/event-stream" and messages[0] == b"retry: 1000\n\n"
            assert all(message.endswith(b"\n\n") for message in messages)
        elif status != 204:
            assert kind.startswith("application/json") and set(json.loads(messages[0])) == {
                "detail",
                "errors",
            }

    _each(operation, listen, n_examples=20)
    assert {200, 404} <= set(heads)
    assert Run.objects.filter(pk__in=(1, 2)).count() == 2


async def _listen_and_leave(asked: dict[str, Any]) -> tuple[int, str, list[bytes]]:
    try:
        return await _listen(asked)
    finally:
        # The thread that asked the database outlives the loop, and PostgreSQL drops no database in use.
        await sync_to_async(connections.close_all)()


async def _listen(asked: dict[str, Any]) -> tuple[int, str, list[bytes]]:
    """Status, content type, and the first messages of a stream (or the whole body of anything else)."""
    headers = {name: value for name, value in asked["headers"].items() if isinstance(value, str)}
    request = AsyncClient().get(asked["path"], asked["query_string"], headers=headers)
    answer = await asyncio.wait_for(request, 30)
    if not answer.streaming:
        return answer.status_code, answer.headers.get("Content-Type", ""), [answer.content]
    messages: list[bytes] = []
    stream = aiter(answer.streaming_content)
    while len(messages) < N_MESSAGES:
        try:
            messages.append(await asyncio.wait_for(anext(stream), SILENCE if messages else 30))
        except (TimeoutError, StopAsyncIteration):
            break
    return answer.status_code, answer.headers["Content-Type"], messages


def _operations(schema: Any) -> list[Any]:
    return [found.ok() for found in schema.get_all_operations()]


def _probe(
    operation: Any, headers: dict[str, str], change: Change = lambda case: None, **options: Any
) -> None:
    def ask(case: Any) -> None:
        change(case)
        response = case.call(headers=headers)
        case.validate_response(response, checks=CHECKS)

    _each(operation, ask, **options)


def _each(operation: Any, act: Change, modes: Any = tuple(GenerationMode), n_examples: int = 6) -> None:
    """Call `act` with requests of both kinds: those that the schema allows, and those that it forbids."""
    for mode in modes:
        try:
            strategy = operation.as_strategy(generation_mode=mode)
        except Exception as error:
            # Where everything is allowed, nothing can be forbidden.
            if "negative" in str(error).lower() or "Impossible" in type(error).__name__:
                continue
            raise

        @settings(
            max_examples=n_examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def each(case: Any) -> None:
            act(case)

        each()
