"""Chunks of points: nothing is lost, a cut leaves no trace, and a coarse view keeps every extreme."""

import math
import random

import numpy as np
import pytest

from lab.models import Run
from lab.queries import metrics as queries
from lab.services import metrics

pytestmark = pytest.mark.django_db


def a_run():
    return Run.objects.create(kind="pretrain", name="a run")


def noisy(n, seed=0):
    chance = random.Random(seed)
    return [(step, {"loss": 5 * math.exp(-step / 900) + chance.gauss(0, 0.1)}) for step in range(1, n + 1)]


def all_points(run):
    curve = queries.curve(run, "loss", max_points=10**9)
    return list(zip(curve["steps"], curve["values"], strict=True))


def rows_of(run):
    fields = (
        "name",
        "level",
        "first_step",
        "last_step",
        "n_points",
        "minimum",
        "maximum",
        "steps",
        "lows",
        "highs",
    )
    return [
        tuple(bytes(v) if isinstance(v, memoryview) else v for v in row)
        for row in run.chunks.order_by("level", "first_step").values_list(*fields)
    ]


def test_every_point_is_read_back_as_it_was_written():
    run, points = a_run(), noisy(2345)
    for start in range(0, len(points), 97):
        metrics.append(run, points[start : start + 97])
    assert all_points(run) == [(step, values["loss"]) for step, values in points]
    assert [c.n_points for c in run.chunks.filter(level=0).order_by("first_step")] == [1000, 1000, 345]


def test_a_coarse_view_is_bounded_and_keeps_the_extremes():
    run, points = a_run(), noisy(30_000)
    points[17_003] = (17_004, {"loss": 99.0})
    points[21_000] = (21_001, {"loss": -7.0})
    metrics.append(run, points)
    curve = queries.curve(run, "loss", max_points=500)
    assert len(curve["steps"]) <= 500
    assert max(curve["highs"]) == 99.0
    assert min(curve["lows"]) == -7.0
    assert curve["steps"][-1] == 30_000


def test_a_chart_of_a_long_run_reads_few_rows(django_assert_max_num_queries):
    run = a_run()
    metrics.append(run, noisy(120_000))
    assert run.chunks.filter(level=2).exists()
    with django_assert_max_num_queries(12):
        assert len(queries.curve(run, "loss", max_points=1000)["steps"]) <= 1000


@pytest.mark.parametrize("cut", [-1, 0, 1, 999, 1000, 1001, 4321, 10_000, 10_500])
def test_after_a_cut_the_rows_are_those_of_a_run_that_never_went_further(cut):
    went_on, stopped = a_run(), a_run()
    points = noisy(10_500)
    metrics.append(went_on, points)
    metrics.cut(went_on, cut)
    metrics.append(stopped, [point for point in points if point[0] <= cut])
    assert rows_of(went_on) == rows_of(stopped)


def test_going_on_after_a_cut_gives_the_curve_of_an_undisturbed_run():
    undisturbed, resumed = a_run(), a_run()
    points = noisy(12_345)
    metrics.append(undisturbed, points)
    metrics.append(resumed, points[:11_100])
    metrics.cut(resumed, 9_700)
    metrics.append(resumed, points[9_700:])
    assert rows_of(resumed) == rows_of(undisturbed)


def test_a_value_that_is_no_number_is_told_as_nothing():
    run = a_run()
    metrics.append(run, [(1, {"loss": 2.0}), (2, {"loss": math.nan}), (3, {"loss": math.inf})])
    assert queries.curve(run, "loss")["values"] == [2.0, None, None]
    assert queries.best(run, "loss", "lower") == 2.0
    assert queries.latest(run) == {"loss": None}


def test_a_range_holds_only_its_steps():
    run = a_run()
    metrics.append(run, noisy(2500))
    steps = queries.curve(run, "loss", after_step=990, before_step=1010)["steps"]
    assert steps == list(range(991, 1011))


def test_metrics_measured_now_and_then_keep_their_own_steps():
    run = a_run()
    metrics.append(run, [(s, {"loss": 1.0, **({"val": 2.0} if s % 50 == 0 else {})}) for s in range(1, 201)])
    assert queries.curve(run, "val")["steps"] == [50, 100, 150, 200]
    assert queries.names(run) == ["loss", "val"]
    assert np.isclose(queries.latest(run)["val"], 2.0)
