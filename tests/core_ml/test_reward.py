"""Rankings, pairs, and the reward model."""

import math
import random

import pytest
import torch

from core_ml.evaluation.statistics import wilson
from core_ml.events import Figure, Metric, Resumed, Summary
from core_ml.feedback.pairs import (
    Group,
    Ranking,
)
from core_ml.feedback.reward_loss import bradley_terry
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.reward_report import findings
from core_ml.feedback.reward_training import Trainer
from core_ml.recipes.reward import RewardConfig, run
from tests.core_ml.models import (
    ranking,
    small_model,
    small_tokenizer,
    workspace,
    write_checkpoint,
    write_dataset,
)

SUM = "What is 1 + 2?"


def test_bradley_terry_of_known_rewards_is_what_the_logistic_function_says():
    rewards = torch.tensor([2.0, 0.0, -1.0])
    # -log sigmoid(d) = log(1 + e^-d): differences 2, 3 and 1 of the pairs below.
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-3)) + math.log(1 + math.exp(-1))) / 3
    assert bradley_terry(rewards, [(0, 1), (0, 2), (1, 2)]).item() == pytest.approx(by_hand, rel=1e-6)
    assert bradley_terry(rewards, [(1, 0)]).item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)
    assert bradley_terry(torch.zeros(2), [(0, 1)]).item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="at least one pair"):
        bradley_terry(rewards, [])


def test_a_reward_model_that_learned_only_length_is_told_so():
    counts = {"n_rankings_simulated": 0, "n_damaged": 0, "n_rankings": 9, "n_rankings_people": 9}
    shares = {"all": wilson(70, 100), "longer wins": wilson(72, 100), "shorter wins": wilson(28, 100)}
    said = " ".join(findings(shares, counts))
    assert "not measurably better than the rule" in said and "No held-out pair is of like length" in said
    shares["like length"] = wilson(22, 40)  # 0.40 to 0.69
    assert any(
        sentence.startswith("It has learned nothing but length") for sentence in findings(shares, counts)
    )
    shares["like length"] = wilson(32, 40)  # 0.65 to 0.90
    said = " ".join(findings(shares, counts))
    assert "learned more than length" in said and "nothing but length" not in said
    shares["all"] = wilson(52, 100)
    assert any("not measurably better than chance" in sentence for sentence in findings(shares, counts))


def groups_to_learn() -> list[dict]:
    """Thirty prompts; labelers want the whole sentence, then the bare answer, then the wrong one."""
    rows = []
    for i in range(30):
        answers = [f"{i + 1}", f"The sum is {i + 1}.", f"The sum is {i + 2}. I hope that helps."]
        rows.append(ranking(f"g{i}", f"What is {i} + 1?", answers, [[1], [0], [2]], simulated=i % 2 == 0))
    return rows


def test_it_learns_one_batch_by_heart():
    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size).with_value_head()
    group = Group("g", SUM, ("3", "The sum is 3.", "no"), [Ranking("a", False, ((1,), (0,), (2,)))])
    trainer = Trainer(tokenizer, [group], model.config.max_seq_len)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    first, _ = trainer.loss(model, [0])
    assert first.item() == pytest.approx(math.log(2), abs=1e-6)  # a new value head scores everything 0
    for _ in range(60):
        loss, accuracy = trainer.loss(model, [0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.02
    assert accuracy == 1.0


def test_scores_do_not_depend_on_what_else_is_scored():
    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size, value_head=True)
    reward = RewardModel(model, tokenizer, mean=1.0, std=2.0)
    texts = ["3", "The sum is 3.", "3", "It is called lom. I hope that helps."]
    together = reward.score([SUM] * 4, texts)
    assert together[0] == together[2]
    alone = [reward.score([SUM], [text])[0] for text in texts]
    # bfloat16 rounds padded and unpadded products alike to about three digits.
    assert together == pytest.approx(alone, abs=0.02)
    raw = RewardModel(model, tokenizer).score([SUM] * 4, texts)
    assert together == pytest.approx([(value - 1) / 2 for value in raw], abs=1e-6)


SMALL = RewardConfig(epochs=6, lr=3e-3, tokens_per_step=600, eval_every=5, held_out_share=0.3, threads=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward")
    return {
        "checkpoint": write_checkpoint(path, "chat"),
        "rankings": write_dataset(path, "rankings", groups_to_learn()),
    }


MEASURED = {"memory_gb", "tokens_per_second", "joules_per_token"}


def curve(events):
    return [
        (event.step, {name: value for name, value in event.values.items() if name not in MEASURED})
        for event in events
        if isinstance(event, Metric)
    ]


def test_it_orders_pairs_of_prompts_it_never_saw_and_says_how_sure_it_is(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    assert events[0] == Resumed(-1)
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    assert summary["val_accuracy"] > 0.85
    assert summary["val_accuracy_low"] <= summary["val_accuracy"] <= summary["val_accuracy_high"]
    assert summary["n_held_out_prompts"] == 9
    assert (summary["n_rankings_simulated"], summary["n_rankings_people"]) == (15, 15)
    assert {"held_out_pairs", "held_out_accuracy"} <= {e.name for e in events if isinstance(e, Figure)}
    from core_ml import artifact

    folder = artifact.Folder(tmp_path / "out" / "checkpoint")
    assert folder.manifest.role == "reward"
    reward = RewardModel.load(folder)
    better, worse = reward.score(
        ["What is 3 + 1?"] * 2, ["The sum is 4.", "The sum is 5. I hope that helps."]
    )
    assert better > worse


def test_a_run_on_rankings_by_length_says_that_it_learned_nothing_else(tmp_path, inputs):
    rng, rows = random.Random(0), []
    for i in range(40):
        short, *long = ("".join(rng.choices("abcdefgh ", k=k)) for k in (4, 30, 30))
        order = [[1], [2], [0]] if rng.random() < 0.5 else [[2], [1], [0]]  # of two long ones either
        rows.append(ranking(f"g{i}", f"prompt {i}", [short, *long], order))
    rankings = write_dataset(tmp_path / "by length", "rankings", rows)
    events = list(run(SMALL, workspace(tmp_path, inputs | {"rankings": rankings})))
    found = [event for event in events if isinstance(event, Summary)][-1].values
    # Of three pairs the rule has two, and half of the third.
    assert found["val_accuracy_longer_wins"] == pytest.approx(5 / 6, abs=1e-3)
    assert found["val_accuracy"] > 0.7
    assert any(
        said.startswith("It has learned nothing but length: of 12 pairs") for said in found["findings"]
    )


def test_the_same_seed_gives_the_same_losses_and_a_stopped_run_goes_on_to_the_bit(tmp_path, inputs):
    whole = curve(run(SMALL, workspace(tmp_path / "whole", inputs)))
    again = curve(run(SMALL, workspace(tmp_path / "again", inputs)))
    assert whole == again
    stopped = []
    for stop_at in (3, 7, 9):
        events = run(SMALL, workspace(tmp_path / "stopped", inputs))
        for event in events:
            stopped.append(event)
            if isinstance(event, Metric) and event.step >= stop_at:
                break
        events.close()
    stopped += list(run(SMALL, workspace(tmp_path / "stopped", inputs)))
    assert curve(stopped) == whole
    sums = [
        {file.path: file.sha256 for file in _folder(tmp_path / name).manifest.files}
        for name in ("whole", "stopped")
    ]
    assert sums[0] == sums[1]


def _folder(path):
    from core_ml import artifact

    return artifact.Folder(path / "out" / "checkpoint")
