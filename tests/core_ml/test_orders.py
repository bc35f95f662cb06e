"""Held-out groups in the labelers' order and in the reward model's, as a reward run keeps them."""

import pyarrow.parquet as pq
import pytest

from core_ml.feedback import orders
from core_ml.feedback.pairs import Group, Ranking
from core_ml.recipes.reward import RewardConfig, run
from tests.core_ml.models import ranking, workspace, write_checkpoint, write_dataset


def group(*rankings, id="g", n=4, simulated=False):
    return Group(id, "p", tuple("abcd"[:n]), [Ranking("ada", simulated, order) for order in rankings])


def test_one_ranking_is_its_own_order_and_two_are_joined_by_wins_less_losses():
    assert orders.merged([[[1], [0, 2], [3]]]) == [[1], [0, 2], [3]]
    # Net wins of a, b, c: 2 + 0, 0 + 2, -2 - 2.
    assert orders.merged([[[0], [1], [2]], [[1], [0], [2]]]) == [[0, 1], [2]]
    # b is ranked by nobody, and all tied is an order without pairs.
    assert orders.merged([[[2], [0]]]) == [[2], [0]]
    assert orders.merged([[[0, 1, 2]]]) == [[0, 1, 2]]


def test_pairs_agree_where_scores_fall_as_the_order_does_and_equal_scores_agree_with_nothing():
    row = orders.compared(group(((1,), (0, 2), (3,))), [0.5, 0.9, 1.0, 0.5])
    # Of (1,0) (1,2) (1,3) (0,3) (2,3): right, wrong, right, equal, right.
    assert (row["pairs"], row["agree"], row["rankings"], row["simulated"]) == (5, 3, 1, 0)


def test_the_worst_come_first_and_no_more_than_allowed_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(orders, "MAX_GROUPS", 3)
    monkeypatch.setattr(orders, "BATCH", 2)
    one = ((0,), (1,), (2,))
    groups = [group(one, id=name, n=3) for name in ("right", "wrong", "half", "also right")]
    groups += [group(((0, 1, 2),), id="all tied", n=3)]
    scores = [[3, 2, 1], [1, 2, 3], [3, 1, 2], [9, 5, 1], [1, 2, 3]]
    orders.write(tmp_path / orders.FILE, groups, scores)
    rows = pq.read_table(tmp_path / orders.FILE).to_pylist()
    assert [row["group_id"] for row in rows] == ["wrong", "half", "also right"]
    assert [row["agree"] for row in rows] == [0, 2, 3]


def test_groups_too_wide_to_read_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(orders, "MAX_COMPLETIONS", 2)
    orders.write(tmp_path / orders.FILE, [group(((0,), (1,), (2,)), n=3)], [[1, 2, 3]])
    assert pq.read_table(tmp_path / orders.FILE).num_rows == 0


def test_a_reward_run_keeps_its_held_out_groups_on_the_scale_that_it_is_used_on(tmp_path):
    from core_ml import artifact
    from core_ml.feedback.reward_model import RewardModel

    texts = ["no", "yes", "It is so."]
    rows = [ranking(f"g{i}", f"Is {i} a number?", texts, [[1], [2], [0]], simulated=True) for i in range(12)]
    inputs = {
        "checkpoint": write_checkpoint(tmp_path, "chat"),
        "rankings": write_dataset(tmp_path, "rankings", rows),
    }
    config = RewardConfig(epochs=1, tokens_per_step=600, held_out_share=0.25, threads=1)
    list(run(config, workspace(tmp_path / "run", inputs)))
    folder = artifact.Folder(tmp_path / "run" / "out" / "checkpoint")
    kept = pq.read_table(folder.file(orders.FILE)).to_pylist()
    assert len(kept) == folder.manifest.summary["n_held_out_prompts"] == 3
    assert all(row["labelers_order"] == [[1], [2], [0]] and row["simulated"] == 1 for row in kept)
    prompt = next(row["prompt"] for row in rows if row["group_id"] == kept[0]["group_id"])
    # bfloat16 rounds what is padded differently to about three digits.
    assert kept[0]["scores"] == pytest.approx(RewardModel.load(folder).score([prompt] * 3, texts), abs=0.05)
