"""One worker, one run, real child processes: claimed once, told once, ended once."""

import json
import threading
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from core_ml.artifact import Folder
from lab.errors import Conflict, Invalid
from lab.models import Artifact, Run
from lab.queries import runs as queries
from lab.services import artifacts, claims, runs
from worker import supervisor
from worker.execution import execute

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = {"n_conversations": 200, "n_problems": 40, "n_held_out": 6}


@pytest.fixture(autouse=True)
def _home(tmp_home, monkeypatch):
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # these tests are the worker


def submit(**changes):
    return runs.submit(kind="conversations", config=SMALL | changes)


def supervise(run, leaving=lambda: False):
    held = claims.claim_run(run.pk, "test")
    assert held is not None
    execute(held, leaving)
    run.refresh_from_db()
    return run


def test_a_run_succeeds_and_its_artifacts_are_whole():
    run = supervise(submit())
    assert run.status == "succeeded", run.error
    assert run.summary["n_conversations"] == 200
    assert {a.output for a in run.artifacts.all()} == {"conversations", "problems", "held_out"}
    for artifact in run.artifacts.all():
        Folder(artifacts.local_path(artifact)).verify()
    assert run.attempts.get().outcome == "succeeded"


def test_it_ignores_a_second_delivery():
    run = submit()
    supervise(run)
    n_samples = run.samples.count()
    assert claims.claim_run(run.pk, "test") is None
    assert run.samples.count() == n_samples > 0


def test_two_workers_cannot_hold_one_run():
    run = submit()
    held = [claims.claim_run(run.pk, f"worker {n}") for n in range(2)]
    assert held[0] is not None and held[1] is None


def test_a_worker_that_lost_its_lease_writes_nothing():
    run = submit()
    first = claims.claim_run(run.pk, "first")
    Run.objects.filter(pk=run.pk).update(heartbeat=timezone.now() - claims.LEASE - timedelta(seconds=1))
    second = claims.claim_run(run.pk, "second")
    assert second is not None and second.attempt == 2
    with pytest.raises(claims.LostLease):
        claims.write(first, summary={"stolen": True})
    run.refresh_from_db()
    assert run.summary == {} and run.token == second.token


def test_a_run_whose_worker_fell_silent_is_taken_up_and_ends_once():
    run = submit()
    claims.claim_run(run.pk, "dead")
    Run.objects.filter(pk=run.pk).update(heartbeat=timezone.now() - claims.LEASE - timedelta(seconds=1))
    claims.sweep()
    run.refresh_from_db()
    assert run.status == "interrupted"
    assert supervise(run).status == "succeeded"
    assert [a.outcome for a in run.attempts.all()] == ["the worker fell silent", "succeeded"]


def test_what_a_dead_worker_left_unread_is_stored_and_not_done_again():
    run = submit()
    held = claims.claim_run(run.pk, "first")
    claims.begin_attempt(held)
    child = supervisor.Child(
        run.kind, supervisor.arguments(held), supervisor.event_file(held), supervisor.log_file(held)
    )
    assert child.process.wait(60) == 0
    Run.objects.filter(pk=run.pk).update(heartbeat=timezone.now() - claims.LEASE - timedelta(seconds=1))
    supervise(run)
    assert run.status == "succeeded" and run.artifacts.count() == 3
    assert not (artifacts.state_dir(run) / "attempt-2.jsonl").exists()


def test_reading_events_twice_doubles_nothing():
    run = submit()
    supervise(run)
    stored = run.samples.count(), run.log.count(), run.figures.count()
    path = artifacts.state_dir(run) / "attempt-1.jsonl"
    held = Run.objects.get(pk=run.pk)
    from lab.services import events

    again = events.read(path, held.seq, 0)
    assert again.events == []
    assert (run.samples.count(), run.log.count(), run.figures.count()) == stored


def test_a_torn_last_line_waits_for_its_end(tmp_path):
    from core_ml.events import Log, to_line
    from lab.services import events

    path = tmp_path / "events.jsonl"
    whole, torn = to_line(Log("one"), 1, 0.0) + "\n", to_line(Log("two"), 2, 0.0)
    path.write_text(whole + torn[:20])
    first = events.read(path, 0, 0)
    assert [event.message for event, _ in first.events] == ["one"]
    path.write_text(whole + torn + "\n")
    second = events.read(path, first.seq, first.offset)
    assert [event.message for event, _ in second.events] == ["two"]


def test_a_cancelled_run_ends_and_can_be_resumed():
    run = submit(n_conversations=3_000_000)
    thread = threading.Thread(target=lambda: _supervise_in_thread(run))
    thread.start()
    _until(lambda: Run.objects.get(pk=run.pk).status == "running")
    runs.cancel(run)
    thread.join(30)
    run.refresh_from_db()
    assert run.status == "cancelled"
    assert run.artifacts.count() == 0
    assert not list(artifacts.out_dir(run).glob("*")), "nothing half-finished stays"
    runs.resume(run)
    assert run.status == "queued" and run.cancel_requested is None


def test_a_queued_run_is_cancelled_at_once():
    run = submit()
    assert runs.cancel(run).status == "cancelled"
    assert claims.claim_run(run.pk, "test") is None
    with pytest.raises(Conflict):
        supervised = submit()
        supervise(supervised)
        runs.cancel(supervised)


def test_a_worker_that_leaves_gives_the_run_back():
    run = submit(n_conversations=3_000_000)
    begun = time.monotonic()
    supervise(run, leaving=lambda: time.monotonic() - begun > 2)
    assert run.status == "queued" and run.token == ""


def test_a_cancel_whose_worker_is_dead_is_finished_by_the_sweep():
    run = submit()
    claims.claim_run(run.pk, "dead")
    Run.objects.filter(pk=run.pk).update(
        heartbeat=timezone.now() - claims.LEASE - timedelta(seconds=1), cancel_requested=timezone.now()
    )
    claims.sweep()
    run.refresh_from_db()
    assert run.status == "cancelled"


def test_a_child_that_dies_again_and_again_fails_the_run_with_its_last_words():
    run = submit()
    for _ in range(claims.MAX_DEATHS):
        held = claims.claim_run(run.pk, "test")
        claims.begin_attempt(held)
        child = supervisor.Child(
            "conversations", ["--no-such-option"], None, supervisor.log_file(held), nice=0
        )
        child.process.wait()
        supervisor.follow(held, child, lambda: False)
    run.refresh_from_db()
    assert run.status == "failed"
    assert "died 3 times" in run.error["message"]
    assert any("required: --out" in line for line in run.error["log"])


def test_a_failure_names_the_field_and_what_to_do():
    documents = _documents_with_a_damaged_file()
    run = runs.submit(kind="tokenizer", inputs={"documents": documents.pk})
    supervise(run)
    assert run.status == "failed"
    assert "damaged" in run.error["message"] and run.error["traceback"] is None


def _documents_with_a_damaged_file() -> Artifact:
    run = supervise(submit())
    artifact = run.artifacts.get(output="conversations")
    path = artifacts.local_path(artifact) / "conversations.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["form"] = "documents"
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    Artifact.objects.filter(pk=artifact.pk).update(form="documents")
    artifact.refresh_from_db()
    return artifact


def test_the_index_is_rebuilt_from_the_manifests():
    run = supervise(submit())
    number, ids = run.pk, sorted(run.artifacts.values_list("id", flat=True))
    Artifact.objects.all().delete()
    Run.objects.all().delete()
    counts = artifacts.reindex()
    assert counts["artifacts"] == 3 and counts["runs"] == 1 and counts["damaged"] == 0
    again = Run.objects.get()
    assert again.pk == number and again.kind == "conversations" and again.config["n_conversations"] == 200
    assert sorted(again.artifacts.values_list("id", flat=True)) == ids
    assert artifacts.reindex()["runs"] == 0
    assert submit().pk > number


def test_a_deleted_run_can_be_brought_back_and_is_purged_later():
    run = supervise(submit())
    runs.delete(run)
    assert run.pk not in queries.recent().values_list("pk", flat=True)
    runs.restore(run)
    assert run.pk in queries.recent().values_list("pk", flat=True)
    runs.delete(run)
    Run.objects.filter(pk=run.pk).update(deleted=timezone.now() - runs.UNDO_TIME - timedelta(seconds=1))
    claims.sweep()
    assert not Run.objects.filter(pk=run.pk).exists()
    assert not artifacts.out_dir(run).exists()


def test_every_wrong_field_is_told_at_once():
    with pytest.raises(Invalid) as caught:
        runs.submit(
            kind="conversations", config={"n_conversations": 1, "colour": "red"}, inputs={"nothing": "x"}
        )
    assert {error.field for error in caught.value.errors} == {
        "config.n_conversations",
        "config.colour",
        "inputs.nothing",
    }
    assert Run.objects.count() == 0


def test_a_listener_hears_each_thing_once():
    run = supervise(submit())
    first, cursor = queries.changes(run, {})
    assert first["status"]["status"] == "succeeded" and len(first["samples"]) == run.samples.count()
    again, cursor = queries.changes(run, cursor)
    assert again == {}


def _supervise_in_thread(run):
    from django.db import connection

    try:
        execute(claims.claim_run(run.pk, "thread"), lambda: False)
    finally:
        connection.close()


def _until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_what_no_database_can_keep_is_told_in_another_way(tmp_path):
    from core_ml.events import Sample, Summary, to_line
    from lab.services import events

    run = submit()
    held = claims.claim_run(run.pk, "test")
    path = tmp_path / "events.jsonl"
    told = [
        Summary({"loss": float("nan"), "best": [float("inf"), 1.0]}),
        Sample(1, "a\x00b", "c\x00", {"d": "\x00"}),
    ]
    path.write_text("".join(to_line(event, n, 0.0) + "\n" for n, event in enumerate(told, 1)))
    events.store(held, events.read(path, 0, 0))
    run.refresh_from_db()
    assert run.summary == {"loss": None, "best": [None, 1.0]}
    assert run.samples.get().prompt == "a\ufffdb"


def test_a_batch_that_was_rolled_back_is_written_whole_at_the_next_try(tmp_path, monkeypatch):
    from django.db import OperationalError

    from core_ml.events import Sample, Summary, to_line
    from lab.services import events

    held = claims.claim_run(submit().pk, "test")
    path = tmp_path / "events.jsonl"
    path.write_text(to_line(Summary({"n": 1}), 1, 0.0) + "\n" + to_line(Sample(1, "", "x"), 2, 0.0) + "\n")
    batch = events.read(path, held.seq, held.offset)
    with monkeypatch.context() as patch, pytest.raises(OperationalError):
        patch.setattr(events, "_store_rows", lambda *_: (_ for _ in ()).throw(OperationalError("gone")))
        events.store(held, batch)
    events.store(held, events.read(path, held.seq, held.offset))
    run = Run.objects.get(pk=held.pk)
    assert run.summary == {"n": 1} and run.samples.count() == 1


def test_a_fault_of_the_supervisor_fails_the_run_instead_of_coming_back_for_ever():
    run = submit()
    Run.objects.filter(pk=run.pk).update(kind="no-such-kind")
    supervise(run)
    assert run.status == "failed" and "no-such-kind" in run.error["message"]
    assert run.attempts.get().outcome == "failed"


def test_a_cancel_that_met_a_release_is_finished_by_the_sweep():
    run = submit()
    held = claims.claim_run(run.pk, "test")
    runs.cancel(held)
    claims.release(held, "the worker left")
    claims.sweep()
    run.refresh_from_db()
    assert run.status == "cancelled"


def test_undo_in_the_wrong_order_is_refused_and_the_sweep_goes_on():
    maker = supervise(submit())
    rollouts = Run.objects.create(kind="rollouts", name="takes", status="succeeded")
    rollouts.inputs.create(name="problems", artifact=maker.artifacts.get(output="problems"))
    with pytest.raises(Conflict, match="took what run"):
        runs.delete(maker)
    runs.delete(rollouts)
    runs.delete(maker)
    with pytest.raises(Conflict, match="bring that back first"):
        runs.restore(rollouts)
    Run.objects.update(deleted=timezone.now() - runs.UNDO_TIME - timedelta(seconds=1))
    claims.sweep()
    claims.sweep()
    assert Run.objects.count() == 0


def test_an_artifact_of_a_deleted_run_cannot_be_taken():
    maker = supervise(submit())
    problems = maker.artifacts.get(output="problems").pk
    runs.delete(maker)
    with pytest.raises(Invalid, match="there is no artifact"):
        runs.submit(kind="rollouts", inputs={"problems": problems, "checkpoint": problems})
