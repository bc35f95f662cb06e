"""`kill -9` of each process at a random moment of a run: it ends succeeded, once, with an undisturbed curve."""

import contextlib
import os
import random
import signal

import pytest

from tests.journeys import corpus
from tests.journeys.stack import Lab, lab, until

TRAINING = {"steps": 600, "save_every": 0.5, "eval_every": 200, "sample_every": 300}
SEED = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("kill"), LAB_LEASE_SECONDS="4") as started:
        yield started


@pytest.fixture(scope="module")
def inputs(running: Lab) -> dict[str, str]:
    """A corpus imported over the API, and a tokenizer of it."""
    documents = corpus.bring_in(running)
    tokenizer = running.succeed("tokenizer", preset="tiny", inputs={"documents": documents})
    return {"documents": documents, "tokenizer": running.output(tokenizer, "tokenizer")}


def curve(running: Lab, run: int) -> dict:
    return running.get(f"/runs/{run}/metrics?name=loss&name=val_bits_per_byte&max_points=5000")


@pytest.fixture(scope="module")
def undisturbed(running: Lab, inputs) -> dict:
    run = running.succeed("pretrain", TRAINING, preset="tiny", inputs=inputs)
    return curve(running, run["id"])


@pytest.mark.parametrize("victim", ["child", "worker", "redis", "web"])
def test_a_run_outlives_the_kill_of(victim: str, running: Lab, inputs, undisturbed):
    if victim == "redis" and os.environ.get("REDIS_URL"):
        pytest.skip("the queue is a server that is not ours to kill")
    at = random.Random(f"{SEED}:{victim}").randrange(1, TRAINING["steps"])
    print(f"KILL_SEED={SEED}: {victim} at step {at}")
    run = running.submit("pretrain", TRAINING, preset="tiny", inputs=inputs)
    until(lambda: ((running.get(f"/runs/{run}")["progress"] or {}).get("step") or 0) >= at, 90, running.words)
    pid = running.child(run) if victim == "child" else running.pid(victim)
    # A child that has just ended by itself cannot be killed any more: then this is an undisturbed run.
    was_early = at < TRAINING["steps"] // 2
    assert pid is not None or not was_early, "the run ended before it could be disturbed: make it longer"
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.kill(pid, signal.SIGKILL)

    ended = running.wait(run)
    assert ended["status"] == "succeeded", ended["error"]
    expected = 2 if victim in ("child", "worker") else 1
    assert ended["attempt"] == expected or (ended["attempt"] == 1 and not was_early)
    assert list(ended["outputs"]) == ["checkpoint"]
    assert curve(running, run) == undisturbed
    samples = [(s["step"], s["prompt"]) for s in running.get(f"/runs/{run}/samples?limit=200")["items"]]
    assert len(samples) == len(set(samples)) > 0
    until(lambda: running.pid("web") and running.get("/health")["status"] == "ok", 60, running.words)
