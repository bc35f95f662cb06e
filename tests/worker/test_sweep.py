"""The sweep: one duty that fails keeps none of the others from being done."""

from lab.services import arena, labeling
from lab.services import tour as tours
from worker import tasks


def test_a_run_whose_scores_cannot_be_read_stops_nothing_else(db, monkeypatch, caplog):
    done = []

    def lost() -> None:
        raise FileNotFoundError("rollouts")

    monkeypatch.setattr(tasks, "close_old_connections", lambda: None)  # this one is the test's
    monkeypatch.setattr(labeling, "take_scores", lost)
    monkeypatch.setattr(tours, "advance", lambda: done.append("tours"))
    monkeypatch.setattr(arena, "take_verdicts", lambda: done.append("verdicts"))
    monkeypatch.setattr(tasks, "_tell_engine", lambda: done.append("engine"))
    tasks.sweep()
    assert done == ["tours", "verdicts", "engine"]
    assert [record.exc_info[0] for record in caplog.records] == [FileNotFoundError]
