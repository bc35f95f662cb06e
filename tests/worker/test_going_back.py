"""A run that goes back while it trains: what it told of later steps counts no longer, whatever the batches were."""

import pytest

from core_ml.events import Event, Figure, Log, Metric, Resumed, Sample
from lab.queries import metrics
from lab.services import claims, events, runs

pytestmark = pytest.mark.django_db(transaction=True)

TOLD: list[Event] = [
    Resumed(-1),
    *(Metric(step, {"loss": 10.0 - step}) for step in (1, 2, 3, 4)),
    Sample(2, "q", "early"),
    Sample(4, "q", "late"),
    Figure("curve", 4, "Curve", {"data": []}, "late"),
    Resumed(2),
    Log("Back to step 2: the loss is nan", "warning"),
    *(Metric(step, {"loss": 20.0 - step}) for step in (3, 4, 5)),
]


@pytest.mark.parametrize("sizes", [[13], [8, 5], [9, 4], [3, 3, 3, 4]])
def test_later_points_are_replaced_and_not_doubled(sizes: list[int], tmp_home, monkeypatch) -> None:
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)
    run = runs.submit(
        kind="conversations", config={"n_conversations": 200, "n_problems": 40, "n_held_out": 6}
    )
    held = claims.claim_run(run.pk, "test")
    claims.begin_attempt(held)
    assert sum(sizes) == len(TOLD)
    begin = 0
    for size in sizes:
        part = [(event, 0.0) for event in TOLD[begin : begin + size]]
        begin += size
        events.store(held, events.Batch(part, held.seq + size, held.offset + size))
    curve = metrics.curve(run, "loss")
    assert curve["steps"] == [1, 2, 3, 4, 5]
    assert curve["values"] == [9.0, 8.0, 17.0, 16.0, 15.0]
    assert [sample.text for sample in run.samples.all()] == ["early"]
    assert not run.figures.exists()
    assert run.log.get().message == "Back to step 2: the loss is nan"
