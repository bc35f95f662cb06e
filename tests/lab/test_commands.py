"""The commands that people type: what they refuse, and in which words."""

import os
import socket
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from lab.management.commands import tour as command
from lab.models import Run, Tour
from lab.processes import port_is_taken

ROOT = Path(__file__).resolve().parents[2]


def manage(*arguments: str, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_told_in_one_sentence(taken_port: int, tmp_path):
    result = manage("up", LAB_HOME=str(tmp_path), LAB_PORT=str(taken_port))
    assert result.returncode == 1
    [line] = result.stderr.strip().splitlines()
    assert f"Port {taken_port} of 127.0.0.1 is taken" in line and f"LAB_PORT={taken_port + 1}" in line


@pytest.mark.parametrize("port", ["99999", "0", "http"])
def test_a_port_that_is_none_is_refused_by_its_value(port: str, tmp_path):
    result = manage("check", LAB_HOME=str(tmp_path), LAB_PORT=port)
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        == f"LAB_PORT is '{port}', and must be a number from 1 to 65535: try LAB_PORT=8000"
    )


def test_a_lab_that_runs_already_is_not_started_twice(tmp_path):
    import fcntl

    with (tmp_path / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = manage("up", LAB_HOME=str(tmp_path), LAB_PORT="1")
    assert result.returncode == 1 and "runs already" in result.stderr


def test_a_missing_python_is_told_in_one_sentence(tmp_path):
    for name in ("Makefile", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    result = subprocess.run(
        ["make", "--no-print-directory", "run", "PYTHON=no-such-python"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    [line] = result.stdout.strip().splitlines()
    assert line.startswith("Move 37 needs Python 3.11 or newer, and 'no-such-python' was not found")


@pytest.mark.django_db
def test_a_tour_of_pages_that_are_not_there_does_not_begin(tmp_path):
    with pytest.raises(CommandError, match=r"--pages names .*nowhere\.warc\.gz, and there is no such file"):
        call_command("tour", pages=tmp_path / "nowhere.warc.gz")
    assert not Tour.objects.exists()


@pytest.mark.django_db
def test_two_beginnings_are_one_too_many(tmp_path):
    with pytest.raises(CommandError, match="give one of them"):
        call_command("tour", pages=tmp_path, documents=tmp_path)


@pytest.mark.django_db
def test_a_tour_whose_stage_fails_ends_with_an_error_and_its_table(monkeypatch):
    monkeypatch.setattr(command.Command, "_lab_of_our_own", lambda self: None)

    def start_and_fail(options, account):
        tour = Tour.objects.create(status="failed", error="#1 tour-crawl failed: nothing is left of 20 pages")
        Run.objects.create(
            kind="crawl",
            name="tour-crawl",
            status="failed",
            tour=tour,
            error={"message": "nothing is left of 20 pages"},
        )
        return tour

    monkeypatch.setattr(command.tours, "start", start_and_fail)
    said = StringIO()
    with pytest.raises(CommandError, match="The tour has failed: #1 tour-crawl failed"):
        call_command("tour", stdout=said)
    table = said.getvalue()
    assert "nothing is left of 20 pages" in table and "not reached" in table


def test_a_free_port_is_free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert not port_is_taken("127.0.0.1", port)
