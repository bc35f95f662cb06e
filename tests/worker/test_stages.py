"""Sharded runs: every shard is done once, by whichever worker, and a killed one costs no other."""

import json
import threading
from datetime import timedelta
from pydoc_data.topics import topics

import pytest
from django.db import connection
from django.utils import timezone

from lab.models import Run, Shard
from lab.services import artifacts, claims, runs
from worker import supervisor
from worker.child import Child
from worker.execution import execute
from worker.stages import help_with

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _workers(monkeypatch):
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # these tests are the workers


@pytest.fixture
def crawl(tmp_home) -> Run:
    """A crawl of four files of documents, thus of four shards to extract."""
    folder = tmp_home / "uploads" / "texts"
    folder.mkdir()
    texts = [text for _, text in sorted(topics.items()) if 1500 < len(text) < 9000][:20]
    for part in range(4):
        rows = [
            {"text": text, "url": f"http://site{part}.example/{n}"}
            for n, text in enumerate(texts[part * 5 : part * 5 + 5])
        ]
        (folder / f"part-{part}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {"source": "documents", "path": str(folder)}
    return runs.submit(kind="crawl", preset="python-docs", config=config)


def test_every_shard_of_every_stage_is_done_once(crawl: Run):
    execute(claims.claim_run(crawl.pk, "one"), lambda: False)
    crawl.refresh_from_db()
    assert crawl.status == "succeeded", crawl.error
    assert set(crawl.shards.values_list("status", "attempt")) == {("succeeded", 1)}
    assert crawl.shards.filter(stage="extract").count() == 4
    assert crawl.artifacts.get(output="documents").summary["n_pages"] == 20
    assert crawl.summary["n_pages"] == 20


def test_documents_are_packed_piece_by_piece(tmp_home):
    from tests.lab import making

    rows = [{"text": text, "url": f"http://site.example/{n}"} for n, text in enumerate(topics.values())]
    inputs = {"documents": making.dataset("documents", rows).pk, "tokenizer": making.tokenizer().pk}
    pack = runs.submit(kind="pack", inputs=inputs, config={"piece_mb": 0.001})
    execute(claims.claim_run(pack.pk, "one"), lambda: False)
    pack.refresh_from_db()
    assert pack.status == "succeeded", pack.error
    stages = ["survey", "split", "encode", "gather", "gather", "finish"]
    assert list(pack.shards.order_by("pk").values_list("stage", flat=True)) == stages
    tokens = pack.artifacts.get(output="tokens")
    assert (tokens.form, tokens.summary["n_documents"]) == ("tokens", len(topics))
    assert pack.summary["n_tokens"] == tokens.summary["n_tokens"] > 10_000


def test_a_second_worker_takes_shards_of_the_same_run(crawl: Run):
    held = claims.claim_run(crawl.pk, "holder")

    def help_out():
        try:
            while Run.objects.get(pk=crawl.pk).status in ("starting", "running"):
                help_with(held, lambda: False)
        finally:
            connection.close()

    helper = threading.Thread(target=help_out)
    helper.start()
    execute(held, lambda: False)
    helper.join(60)
    crawl.refresh_from_db()
    assert crawl.status == "succeeded", crawl.error
    assert set(crawl.shards.values_list("status", "attempt")) == {("succeeded", 1)}


def test_a_holder_that_died_leaves_its_finished_shards_to_the_next(crawl: Run):
    held = claims.claim_run(crawl.pk, "dies")
    n_done = []

    def dies_after_two() -> bool:
        n_done.append(Shard.objects.filter(run=crawl, stage="extract", status="succeeded").count())
        return n_done[-1] >= 2

    execute(held, dies_after_two)
    done = set(crawl.shards.filter(status="succeeded").values_list("pk", flat=True))
    assert len(done) >= 2
    execute(claims.claim_run(crawl.pk, "goes on"), lambda: False)
    crawl.refresh_from_db()
    assert crawl.status == "succeeded", crawl.error
    assert set(crawl.shards.filter(pk__in=done).values_list("attempt", flat=True)) == {1}
    assert not (artifacts.state_dir(crawl) / "state").exists(), "a run that succeeded needs no state"


def test_a_shard_whose_worker_fell_silent_is_taken_by_another(crawl: Run):
    held = claims.claim_run(crawl.pk, "holder")
    Shard.objects.create(
        run=crawl, stage="render", name="lost", status="running", token="t", heartbeat=timezone.now()
    )
    assert claims.claim_shard(held, "render") is None
    Shard.objects.update(heartbeat=timezone.now() - claims.LEASE - timedelta(seconds=1))
    taken = claims.claim_shard(held, "render")
    assert taken is not None and taken.name == "lost" and taken.attempt == 1
    assert claims.claim_shard(held, "render") is None


def test_a_source_that_is_missing_fails_the_run_in_one_sentence(crawl: Run, tmp_home):
    for path in (tmp_home / "uploads" / "texts").iterdir():
        path.unlink()
    execute(claims.claim_run(crawl.pk, "one"), lambda: False)
    crawl.refresh_from_db()
    assert crawl.status == "failed"
    assert crawl.error["message"] and not crawl.error.get("traceback")


def test_a_cancelled_crawl_ends_with_its_shards(crawl: Run):
    held = claims.claim_run(crawl.pk, "one")
    Run.objects.filter(pk=crawl.pk).update(cancel_requested=timezone.now())
    execute(held, lambda: False)
    crawl.refresh_from_db()
    assert crawl.status == "cancelled"
    assert not crawl.shards.filter(status__in=("queued", "running")).exists()


def test_what_a_killed_worker_did_not_read_of_a_finished_shard_is_stored(crawl: Run):
    held = claims.claim_run(crawl.pk, "dies")
    execute(held, lambda: Shard.objects.filter(run=crawl, stage="clean", status="succeeded").exists())
    held = claims.claim_run(crawl.pk, "dies too")
    claims.begin_attempt(held)
    Shard.objects.get_or_create(run=crawl, stage="finish", name="all")
    shard = claims.claim_shard(held, "finish")
    claims.begin_attempt(shard)
    arguments = [*supervisor.arguments(held), "--stage", "finish", "--shard", "all"]
    child = Child("crawl", arguments, supervisor.event_file(shard), supervisor.log_file(held))
    assert child.process.wait(60) == 0
    for model in (Run, Shard):
        model.objects.filter(status__in=claims.HELD).update(
            heartbeat=timezone.now() - claims.LEASE - timedelta(seconds=1)
        )
    execute(claims.claim_run(crawl.pk, "goes on"), lambda: False)
    crawl.refresh_from_db()
    assert crawl.status == "succeeded", crawl.error
    assert crawl.summary["n_pages"] == 20
    assert crawl.artifacts.filter(output="documents").exists()


def test_a_cancel_is_not_held_up_by_a_shard_that_nobody_holds(crawl: Run):
    held = claims.claim_run(crawl.pk, "holder")
    Shard.objects.create(run=crawl, stage="render", name="lost", status="interrupted")
    Run.objects.filter(pk=crawl.pk).update(cancel_requested=timezone.now())
    execute(held, lambda: False)
    crawl.refresh_from_db()
    assert crawl.status == "cancelled"


def test_shards_of_a_run_that_has_ended_are_left_alone(crawl: Run):
    held = claims.claim_run(crawl.pk, "holder")
    Shard.objects.create(run=crawl, stage="render", name="left")
    Run.objects.filter(pk=crawl.pk).update(status="failed")
    assert claims.claim_shard(held, "render") is None
