"""A PostgreSQL that breaks connections off in the middle of a run: real children, real cuts, nothing lost or doubled."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.db import connection, connections
from django.utils import timezone

from lab.models import Run
from lab.services import artifacts, claims, metrics, runs
from tests.lab import making
from worker import supervisor
from worker.execution import execute

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        "DATABASE_URL" not in os.environ,
        reason="SQLite has no connection to lose: name a PostgreSQL server in DATABASE_URL",
    ),
]
TRAINING = {"steps": 400, "eval_every": 50, "sample_every": 50, "save_every": 0.5}


@pytest.fixture(autouse=True)
def _home(tmp_home, monkeypatch):
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # these tests are the worker
    monkeypatch.setattr(supervisor, "RETRY", 0.1)  # or a quick machine's run is over after a cut or two


@pytest.fixture
def submit(text_corpus) -> Callable[[], Run]:
    documents = making.dataset("documents", [{"text": f"{n}: {text}"} for n, text in enumerate(text_corpus)])
    inputs = {"documents": documents.pk, "tokenizer": making.tokenizer().pk}
    return lambda: runs.submit(kind="pretrain", preset="tiny", config=TRAINING, inputs=inputs)


def address() -> dict:
    """Of the database under test, for a connection that Django knows nothing of."""
    known = connection.get_connection_params()
    return {key: known[key] for key in ("host", "port", "user", "password", "dbname") if known.get(key)}


def cut_all(watcher: psycopg.Connection) -> int:
    """End every connection to this database but the watcher's own; how many there were."""
    found = watcher.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return len(found.fetchall())


def work(run: Run, port: int | None = None) -> None:
    """What a worker does until the run has ended, over a connection of its own."""
    mine = connections["default"]
    if port is not None:
        mine.settings_dict = mine.settings_dict | {"HOST": "127.0.0.1", "PORT": str(port)}
    try:
        ended = False
        while not ended:
            try:
                claims.sweep()
                held = claims.claim_run(run.pk, "test")
                if held is not None:
                    execute(held, lambda: False)
                ended = Run.objects.get(pk=run.pk).status in ("succeeded", "failed")
            except Exception:  # the worker's own task and sweep are simply called again
                mine.close()
            time.sleep(0.2)
    finally:
        mine.close()


def told(run: Run) -> dict:
    """All that a run told, without what depends on the clock."""
    curves = {}
    for chunk in run.chunks.filter(level=0).order_by("name", "first_step"):
        steps, values, _ = metrics.unpack(chunk)
        so_far = curves.setdefault(chunk.name, ([], []))
        so_far[0].extend(steps.tolist())
        so_far[1].extend(values.tolist())
    bits = {name: curves[name] for name in ("loss", "val_bits_per_byte")}
    return {
        "steps": {name: steps for name, (steps, _) in curves.items()},
        "curves": bits,
        "samples": list(run.samples.values_list("step", "prompt", "text")),
        "figures": sorted(run.figures.values_list("name", flat=True)),
        "summary": sorted(run.summary),
        "log": run.log.count(),
        "artifacts": [artifact.pk.partition("-")[2] for artifact in run.artifacts.all()],
    }


@pytest.fixture(scope="module")
def remembered() -> dict:
    """What outlives the database of one test."""
    return {}


@pytest.fixture
def undisturbed(submit, remembered) -> dict:
    if not remembered:
        run = submit()
        work(run)
        run.refresh_from_db()
        assert run.status == "succeeded", run.error
        remembered |= told(run)
    return remembered


def test_connections_that_are_cut_again_and_again_cost_no_point_and_double_none(submit, undisturbed):
    run = submit()
    worker = threading.Thread(target=work, args=(run,))
    n_cuts = 0
    with psycopg.connect(**address(), autocommit=True) as watcher:
        connection.close()
        worker.start()
        while worker.is_alive():
            worker.join(0.05)
            status = watcher.execute("SELECT status FROM lab_run WHERE id = %s", [run.pk]).fetchone()[0]
            if status == "running" and n_cuts < 10:
                n_cuts += bool(cut_all(watcher))
                worker.join(0.2)
    run.refresh_from_db()
    assert n_cuts >= 3, "the run ended before it could be disturbed: make it longer"
    assert run.status == "succeeded", run.error
    assert told(run) == undisturbed
    assert list(run.attempts.values_list("outcome", flat=True)).count("succeeded") == 1


class Line:
    """A line to the database that breaks right behind a COMMIT: the server has carried it out, and nobody is told."""

    def __init__(self, host: str, port: int, breaks: Callable[[int], bool]) -> None:
        self._server = (host, port)
        self._breaks = breaks
        self.n_commits = self.n_broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @contextlib.contextmanager
    def open(self) -> Iterator["Line"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """One exchange after the other, as the protocol of a client without pipelines goes."""
        back = threading.Thread(target=self._answer, args=(client, server), daemon=True)
        back.start()
        with client, server, contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                broken = False
                if b"COMMIT" in data:
                    self.n_commits += 1
                    broken = self._breaks(self.n_commits)
                if broken:
                    self.n_broken += 1
                    client.shutdown(socket.SHUT_RDWR)
                server.sendall(data)
                if broken:
                    break
            # The server reads what was sent before it notices the end.
            server.shutdown(socket.SHUT_WR)
            back.join(5)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                with contextlib.suppress(OSError):
                    client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(submit, undisturbed):
    run = submit()
    known = address()
    line = Line(known["host"], int(known.get("port") or 5432), lambda n: n % 3 == 2)
    with line.open():
        worker = threading.Thread(target=work, args=(run, line.port))
        worker.start()
        worker.join(120)
    run.refresh_from_db()
    assert line.n_broken >= 3, "the run ended before it could be disturbed: make it longer"
    assert run.status == "succeeded", run.error
    assert told(run) == undisturbed
    assert not (artifacts.state_dir(run) / "state").exists(), "a run that succeeded needs no state"


def test_a_lease_is_kept_through_a_cut_while_files_travel(submit):
    held = claims.claim_run(submit().pk, "test")
    with psycopg.connect(**address(), autocommit=True) as watcher, supervisor.kept_alive(held):
        time.sleep(supervisor.BEAT + 0.5)  # its first heartbeat opens the connection that is cut
        connection.close()
        assert cut_all(watcher) >= 1
        cut = timezone.now()
        end = time.monotonic() + 10
        while Run.objects.get(pk=held.pk).heartbeat < cut:
            assert time.monotonic() < end, "no heartbeat came after the cut"
            time.sleep(0.1)
