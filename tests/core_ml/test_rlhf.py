"""Reinforcement learning against a reward model: the recipe."""

import pyarrow.parquet as pq
import pytest
import torch

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Figure, Log, Metric, Resumed, Sample, Summary
from core_ml.feedback import remembered
from core_ml.model import checkpoint
from core_ml.recipes.rlhf import RlhfConfig, run
from core_ml.sampling import compiled
from tests.core_ml.models import workspace, write_checkpoint, write_dataset

SMALL = RlhfConfig(
    steps=6,
    prompts_per_step=4,
    n_completions=4,
    max_new_tokens=8,
    n_watched=5,
    eval_every=3,
    threads=1,
    lr=3e-3,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("rlhf")
    prompts = [f"What is {i} + {i % 9}?" for i in range(30)]
    rows = [{"prompt": p, "answer": "", "verifier": "task", "metadata": {"task": "add"}} for p in prompts]
    return {
        "checkpoint": write_checkpoint(path, "chat"),
        "reward": write_checkpoint(path, "reward", seed=1, value_head=True),
        "problems": write_dataset(path, "problems", rows),
    }


def curve(events):
    """All points but memory and speed, which depend on what else the machine did."""
    of_the_machine = {"memory_gb", "tokens_per_second"}
    return [
        (event.step, {name: value for name, value in event.values.items() if name not in of_the_machine})
        for event in events
        if isinstance(event, Metric)
    ]


def test_the_recipe_tells_reward_kl_and_the_stated_preference_at_each_step(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    assert events[0] == Resumed(-1)
    told = dict(curve(events))
    wanted = {"reward", "kl", "kl_k1", "kl_k3", "liked", "correct", "mean_tokens", "clipfrac", "entropy"}
    metrics = [values for _, values in curve(events) if "loss" in values]
    assert len(metrics) == 6
    assert all(wanted <= set(values) for values in metrics)
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-4)  # the policy begins as the chat model
    assert metrics[-1]["kl"] > 0
    assert max(told) == 6
    # The same prompts, which no update saw, at each look.
    samples = {
        step: [s.prompt for s in events if isinstance(s, Sample) and s.step == step] for step in (0, 3, 6)
    }
    assert samples[0] == samples[3] == samples[6]
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    assert {"reward_first", "reward_last", "val_liked_first", "val_liked_last", "findings"} <= set(summary)
    assert any(isinstance(event, Figure) for event in events)
    model, _ = checkpoint.load(artifact.Folder(tmp_path / "out" / "checkpoint").path)
    start, _ = checkpoint.load(inputs["checkpoint"].path)
    assert not torch.equal(model.embedding.weight, start.embedding.weight)
    assert artifact.Folder(tmp_path / "out" / "checkpoint").manifest.role == "aligned"


def test_practice_raises_the_reward_when_nothing_holds_it_back(tmp_path, inputs):
    config = SMALL.model_copy(update={"steps": 24, "kl_coef": 0.0, "prompts_per_step": 8, "eval_every": 24})
    summary = [e for e in run(config, workspace(tmp_path, inputs)) if isinstance(e, Summary)][-1].values
    assert summary["reward_last"] > summary["reward_first"]


def at_steps(events):
    """Everything measured at each step, of practice and of prompts kept aside."""
    found = {}
    for step, values in curve(events):
        found.setdefault(step, {}).update(values)
    return found


SAME_SEED = {
    "rloo": {},
    "grpo": {"algorithm": "grpo", "reward_normalize": True, "minibatches": 1, "passes": 2},
    "ppo": {"algorithm": "ppo", "kl_target": 1.0, "eos_penalty": 1.0},
    "lora": {"algorithm": "ppo", "lora_rank": 4, "ema": 0.5},
    "muon": {"algorithm": "ppo", "optimizer": "muon"},
    "compiled": {"compile": "on"},
}


@pytest.mark.parametrize("changes", SAME_SEED.values(), ids=SAME_SEED)
def test_the_same_seed_gives_the_same_curve_and_a_stopped_run_goes_on_to_the_bit(tmp_path, inputs, changes):
    config = RlhfConfig.model_validate(SMALL.model_dump() | {"steps": 4, "eval_every": 2} | changes)
    whole = curve(run(config, workspace(tmp_path / "whole", inputs)))
    assert whole == curve(run(config, workspace(tmp_path / "again", inputs)))
    stopped = []
    for stop_at in (1, 3):
        events = run(config, workspace(tmp_path / "stopped", inputs))
        for event in events:
            stopped.append(event)
            if isinstance(event, Metric) and event.step >= stop_at:
                break
        events.close()
    stopped += list(run(config, workspace(tmp_path / "stopped", inputs)))
    assert curve(stopped) == whole
    digests = [
        [
            file.sha256
            for output in ("checkpoint", "rollouts")
            for file in artifact.Folder(tmp_path / name / "out" / output).manifest.files
        ]
        for name in ("whole", "stopped")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("remembers", [True, False])
def test_whether_sampling_is_compiled_is_asked_once_for_the_whole_run(
    tmp_path, inputs, remembers, monkeypatch
):
    if not remembers:  # rounds too large to be kept
        monkeypatch.setattr(remembered, "MAX_BYTES", 0)
    asked, used = [], []
    monkeypatch.setattr(compiled, "pays", lambda step, *what: asked.append(what) or True)
    monkeypatch.setattr(compiled, "use", lambda step, *what: used.append(what))
    for event in (events := run(SMALL, workspace(tmp_path, inputs))):
        if isinstance(event, Metric) and event.step:
            break
    events.close()
    list(run(SMALL, workspace(tmp_path, inputs)))
    assert len({what[0] for what in asked}) == 1 + 2  # of practice, greedy and sampled looks
    # 16 answers of 8 tokens in each of 6 rounds, four to a prompt; looks at prompts kept aside ask for themselves.
    assert [what for what in asked if what == (16, 48, True)] == [(16, 48, True)]
    assert used.count((16, True)) >= SMALL.steps


def aligned(path, inputs, **changes):
    """The model that a run publishes, the one it began with, and what the run told."""
    config = RlhfConfig.model_validate(SMALL.model_dump() | {"steps": 3} | changes)
    events = list(run(config, workspace(path, inputs)))
    return (
        checkpoint.load(path / "out" / "checkpoint")[0],
        checkpoint.load(inputs["checkpoint"].path)[0],
        events,
    )


def test_adapters_learn_and_the_aligned_model_is_the_merged_one(tmp_path, inputs):
    model, start, events = aligned(tmp_path, inputs, lora_rank=4)
    now, before = dict(model.named_parameters()), dict(start.named_parameters())
    moved = {name for name in before if not torch.equal(now[name], before[name])}
    assert now.keys() == before.keys()
    assert moved == {f"blocks.{n}.{name}.weight" for n in range(2) for name in ("qkv", "out", "up", "down")}
    points = [values for _, values in curve(events) if "loss" in values]
    # The chat model is the same weights without the adapters, which are nothing at first and something afterwards.
    assert points[0]["kl"] == pytest.approx(0, abs=1e-5) and points[-1]["kl"] > 1e-4
    difference = now["blocks.0.up.weight"] - before["blocks.0.up.weight"]
    assert torch.linalg.matrix_rank(difference, atol=1e-6) == 4


def test_muon_moves_the_matrices_and_adamw_what_it_moved_before(tmp_path, inputs):
    by_adamw, start, _ = aligned(tmp_path / "adamw", inputs)
    by_muon, _, events = aligned(tmp_path / "muon", inputs, optimizer="muon", muon_lr=0.02)
    assert all(values["lr"] <= 0.02 for _, values in curve(events) if "lr" in values)
    moves = []
    for model in (by_adamw, by_muon):
        move = model.blocks[0].up.weight - start.blocks[0].up.weight
        moves.append(torch.linalg.svdvals(move))
        assert not torch.equal(model.embedding.weight, start.embedding.weight)
    # Every direction moves alike: the least moved half is not far behind the most moved one.
    spread = [values[len(values) // 2] / values[0] for values in moves]
    assert spread[1] > spread[0]


def test_looks_and_the_aligned_model_have_the_average_weights(tmp_path, inputs):
    newest, start, _ = aligned(tmp_path / "newest", inputs)
    averaged, _, _ = aligned(tmp_path / "averaged", inputs, ema=0.9)
    # Practice is the same, so that the average lies between the beginning and the newest weights.
    way = (newest.embedding.weight - start.embedding.weight).norm()
    assert 0 < (averaged.embedding.weight - start.embedding.weight).norm() < 0.5 * way
    still, _, events = aligned(tmp_path / "still", inputs, ema=1 - 1e-9)
    assert torch.allclose(still.embedding.weight, start.embedding.weight, atol=1e-6)
    looked = [values for _, values in curve(events) if "val_reward" in values]
    assert looked[0] == looked[-1]


def test_states_are_kept_by_the_rule(tmp_path, inputs):
    aligned(tmp_path, inputs, steps=5, eval_every=5, keep_every=2)
    kept = {path.name for path in (tmp_path / "state").glob("step-*")}
    assert {"step-00000002", "step-00000004"} <= {f"step-{int(name.split('-')[1]):08}" for name in kept}


def test_the_speed_and_the_memory_of_each_round_are_told(tmp_path, inputs):
    _, _, events = aligned(tmp_path, inputs)
    rounds = [event.values for event in events if isinstance(event, Metric) and "loss" in event.values]
    assert all(values["tokens_per_second"] > 0 and values["memory_gb"] > 0 for values in rounds)
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    assert summary["tokens"] == pytest.approx(sum(values["mean_tokens"] * 16 for values in rounds))
    assert summary["tokens_per_second"] > 0


def test_the_answers_of_each_round_are_kept_with_what_was_made_of_them(tmp_path, inputs):
    config = SMALL.model_copy(update={"steps": 3, "keep_rollouts": 2})
    events = list(run(config, workspace(tmp_path, inputs)))
    folder = artifact.Folder(tmp_path / "out" / "rollouts")
    assert folder.manifest.form == "rollouts" and folder.manifest.summary["n_rows"] == 8
    assert [path.name for path in folder.files(".parquet")] == [
        "rollouts-000001.parquet", "rollouts-000002.parquet",
    ]  # fmt: skip
    rows = pq.read_table(folder.files(".parquet")[1]).to_pylist()
    told = dict(curve(events))[2]
    rewards = [reward for row in rows for reward in row["rewards"]]
    assert sum(rewards) / len(rewards) == pytest.approx(told["reward"], rel=1e-5)
    assert sum(sum(map(sum, row["kl"])) for row in rows) / 16 == pytest.approx(told["kl"], rel=1e-4)
    for row in rows:
        for text, tokens, advantages, kl in zip(
            row["completions"], row["tokens"], row["advantages"], row["kl"], strict=True
        ):
            assert len(tokens) == len(advantages) == len(kl)
            assert len(set(advantages)) == 1  # one answer is one action
            assert text.isascii() is False or "".join(tokens).startswith(text)
        assert sum(answer[0] for answer in row["advantages"]) == pytest.approx(0, abs=1e-5)


def test_an_ensemble_is_paid_by_its_least_and_a_gold_model_only_judges(tmp_path, inputs):
    second = write_checkpoint(tmp_path / "second", "reward", seed=2, value_head=True)
    one_step = SMALL.model_copy(update={"steps": 1})
    first, other = (
        at_steps(run(one_step, workspace(tmp_path / name, {**inputs, "reward": model})))[1]
        for name, model in (("first", inputs["reward"]), ("other", second))
    )
    many = {**inputs, "reward": [inputs["reward"], second], "gold": second}
    values = at_steps(run(one_step, workspace(tmp_path / "mean", many)))
    # The answers of the first round are the same, whoever scores them.
    assert values[1]["mean_tokens"] == first["mean_tokens"]
    assert values[1]["reward"] == pytest.approx((first["reward"] + other["reward"]) / 2, rel=1e-4)
    least = one_step.model_copy(update={"ensemble": "minimum"})
    paid = at_steps(run(least, workspace(tmp_path / "least", many)))[1]["reward"]
    assert paid <= min(first["reward"], other["reward"]) + 1e-6
    assert values[1]["reward_disagreement"] > 0 and "reward_disagreement" not in first
    assert values[0]["val_win_rate"] == 0.5  # the model at the start against itself
    assert values[1]["val_gold"] != first["val_gold"]  # a model judges where one is given, else the rule


def test_without_a_pull_the_chat_model_is_asked_only_where_the_distance_is_wanted(tmp_path, inputs):
    config = SMALL.model_copy(update={"steps": 2, "kl_coef": 0.0, "measure_kl": False})
    events = list(run(config, workspace(tmp_path, inputs)))
    assert all("kl" not in values for _, values in curve(events))
    assert not any(isinstance(event, Figure) for event in events)
    rows = pq.read_table(tmp_path / "out" / "rollouts" / "rollouts-000001.parquet").to_pylist()
    assert rows[0]["kl"] is None


def test_a_loss_that_is_no_number_is_passed_over_and_told(tmp_path, inputs, monkeypatch):
    from core_ml.feedback.reward_model import RewardModel

    scores, calls = RewardModel.scores, []

    def spoilt(self, prompts, completions):
        calls.append(len(prompts))
        # A round has 16 answers, and looks at the prompts kept aside have other numbers of them.
        first = calls.count(16) == 1 and len(prompts) == 16
        return [[float("nan")] * len(prompts)] if first else scores(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "scores", spoilt)
    events = list(run(SMALL.model_copy(update={"steps": 2}), workspace(tmp_path, inputs)))
    logs = [event.message for event in events if isinstance(event, Log)]
    assert any("Update 1 was passed over: the loss is nan. It belonged to round 1." in one for one in logs)
    model, _ = checkpoint.load(tmp_path / "out" / "checkpoint")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"kl_estimator": "k1"}, "no gradient on average"),
        ({"kl_target": 5, "kl_coef": 0}, "kl_target steers kl_coef"),
        ({"algorithm": "dpo"}, "rloo"),
        ({"optimizer": "muon", "lora_rank": 4}, "learn by adamw"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_the_mend(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        RlhfConfig(**config)


def test_a_config_of_an_earlier_run_still_means_what_it_meant():
    earlier = {
        "steps": 30, "prompts_per_step": 24, "n_completions": 6, "kl_coef": 0.1, "lr": 0.001, "max_new_tokens": 48,
        "clip": 0.2, "minibatches": 2, "warmup": 0.1, "cooldown": 1.0, "grad_clip": 1.0, "n_watched": 60,
        "eval_every": 5, "seed": 0, "save_every": 20.0, "threads": None,
    }  # fmt: skip
    config = RlhfConfig(**earlier)
    assert config.algorithm == "rloo"
    assert config.resolved == {"reward_scale": "batch", "kl_in": "loss", "kl_estimator": "k3"}
    assert RlhfConfig(algorithm="ppo").resolved == {
        "reward_scale": "none", "kl_in": "reward", "kl_estimator": "k1",
    }  # fmt: skip


def test_too_few_prompts_are_refused_by_the_field_that_mends_it(tmp_path, inputs):
    with pytest.raises(UserError, match="lower it or choose more problems") as refused:
        list(run(SMALL.model_copy(update={"n_watched": 30}), workspace(tmp_path, inputs)))
    assert refused.value.field == "n_watched"


def test_a_reward_checkpoint_without_value_head_is_refused(tmp_path, inputs):
    with pytest.raises(UserError, match="no value head") as refused:
        list(run(SMALL, workspace(tmp_path, {**inputs, "reward": inputs["checkpoint"]})))
    assert refused.value.field == "reward"
