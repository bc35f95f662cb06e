"""A shared run that loses a rank: its worker starts all of them again, and no point is lost or told twice."""

import os
import signal
import sys
import threading
import time

import pytest

from lab.models import Run
from lab.queries.metrics import curve
from lab.services import claims, runs
from tests.core_ml.test_ranks import ranks_of
from tests.lab import making
from worker import execution
from worker.child import Child

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
STEPS = 200


@pytest.fixture
def run(tmp_home, monkeypatch, text_corpus) -> Run:
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # this test is the worker
    documents = making.dataset("documents", [{"text": f"{n}: {text}"} for n, text in enumerate(text_corpus)])
    config = {
        "steps": STEPS,
        "processes": 2,
        "shard": True,
        "save_every": 0,
        "eval_every": STEPS,
        "sample_every": STEPS,
    }
    inputs = {"documents": documents.pk, "tokenizer": making.tokenizer().pk}
    return runs.submit(kind="pretrain", preset="tiny", config=config | {"threads": 1}, inputs=inputs)


def supervised(run: Run) -> threading.Thread:
    held = claims.claim_run(run.pk, "test")
    assert held is not None
    worker = threading.Thread(target=execution.execute, args=(held, lambda: False))
    worker.start()
    return worker


def test_a_run_that_loses_a_rank_goes_on_from_what_it_saved(run: Run, monkeypatch) -> None:
    children: list[Child] = []

    class Seen(Child):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            children.append(self)

    monkeypatch.setattr(execution, "Child", Seen)
    worker = supervised(run)
    end = time.monotonic() + 300
    while len(curve(run, "loss")["steps"]) < 10:
        assert time.monotonic() < end and worker.is_alive(), [child.last_words() for child in children]
        time.sleep(0.05)
    os.kill(ranks_of(children[0].process.pid)[1], signal.SIGKILL)
    worker.join(300)
    run.refresh_from_db()
    assert run.status == "queued", (run.status, run.error, children[0].last_words())

    supervised(run).join(300)
    run.refresh_from_db()
    assert run.status == "succeeded", run.error
    first, second = run.attempts.order_by("number")
    assert "died" in first.outcome and second.resumed_step >= 9
    assert curve(run, "loss")["steps"] == [*range(1, STEPS + 1)]
