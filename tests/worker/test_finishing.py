"""A run that is asked to finish: it ends after the step at hand as a success, and its checkpoint is there."""

import threading
import time

import pytest

from lab.models import Run
from lab.queries.metrics import curve
from lab.services import artifacts, claims, runs
from tests.core_ml import models as small
from worker import supervisor
from worker.execution import execute

pytestmark = pytest.mark.django_db(transaction=True)
STEPS = 5000  # more than the test waits for


@pytest.fixture
def practice(tmp_home, monkeypatch):
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)  # these tests are the worker
    root = artifacts.out_dir(Run(uid="given"))
    given = {"chat": small.write_checkpoint(root, "chat")}
    given["reward"] = small.write_checkpoint(root, "reward", seed=1, value_head=True)
    problems = [{"prompt": f"What is {n} + 2?", "answer": "", "verifier": "task"} for n in range(12)]
    given["problems"] = small.write_dataset(root, "problems", problems)
    ids = {name: artifacts.adopt(folder.path).pk for name, folder in given.items()}
    return runs.submit(
        kind="rlhf",
        preset="tiny",
        config={"steps": STEPS, "eval_every": 1000, "n_watched": 4, "max_new_tokens": 4, "threads": 1},
        inputs={"checkpoint": ids["chat"], "reward": ids["reward"], "problems": ids["problems"]},
    )


def until(true, seconds=90):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_run_asked_to_finish_succeeds_with_what_it_has(practice):
    held = claims.claim_run(practice.pk, "test")
    worker = threading.Thread(target=execute, args=(held, lambda: False))
    worker.start()
    try:
        until(lambda: Run.objects.get(pk=practice.pk).progress.get("step", 0) > 0)
        runs.finish(practice)
    finally:
        worker.join(90)
    practice.refresh_from_db()
    assert practice.status == "succeeded", practice.error
    steps = curve(practice, "reward")["steps"]
    assert 0 < len(steps) < STEPS and steps == list(range(1, steps[-1] + 1))
    assert practice.progress["step"] == practice.progress["total"] == steps[-1]
    # A last look at the prompts kept aside was made there, and the checkpoint says how far it went.
    assert curve(practice, "val_reward")["steps"][-1] == steps[-1]
    made = practice.artifacts.get(output="checkpoint")
    assert made.summary["n_steps"] == steps[-1]
    assert practice.log.filter(message__contains="as asked").exists()


def test_what_was_asked_of_a_killed_child_is_asked_of_the_next_and_no_more_after_a_resume(practice):
    runs_folder = artifacts.state_dir(practice) / "state"
    Run.objects.filter(pk=practice.pk).update(status="interrupted", attempt=1)
    runs.finish(practice)
    supervisor.ask_to_finish(practice, supervisor.asked(practice)[1])
    assert (runs_folder / "finish").exists()
    Run.objects.filter(pk=practice.pk).update(status="failed")
    runs.resume(practice)
    supervisor.ask_to_finish(practice, supervisor.asked(practice)[1])
    assert not (runs_folder / "finish").exists()
