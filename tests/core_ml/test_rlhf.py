"""Reinforcement learning against a reward model: its arithmetic, and the recipe."""

import pyarrow.parquet as pq
import pytest
import torch

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Figure, Log, Metric, Resumed, Sample, Summary
from core_ml.feedback import layout as layout_module
from core_ml.feedback import remembered, shared
from core_ml.feedback.layout import lay_out
from core_ml.feedback.losses import Moments
from core_ml.feedback.policy import Actor, Before, backward, look_back, parts
from core_ml.feedback.practice import Method, credit
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.rewards import Shaping, combined
from core_ml.feedback.rlhf_report import reward_over_kl
from core_ml.feedback.rollout import Rollouts, practise, prompts_of_step
from core_ml.model import checkpoint
from core_ml.model.device import autocast
from core_ml.recipes.rlhf import RlhfConfig, run
from core_ml.sampling import compiled
from tests.core_ml.models import small_model, small_tokenizer, workspace, write_checkpoint, write_dataset


def test_the_logprobs_of_answers_are_those_of_the_whole_rows():
    model = small_model(340)
    rows = [([4, 5, 6], [7, 8]), ([9], [10, 11, 12, 13]), ([14, 15], [16])]
    layout = lay_out([prompt for prompt, _ in rows], [answer for _, answer in rows], model.device)
    assert layout.targets.tolist() == [7, 8, 10, 11, 12, 13, 16]
    with autocast(model.device):
        logits = shared.logits(model, shared.hidden(model, layout))
    got = shared.token_logprobs(logits, layout).tolist()
    wanted = []
    with torch.no_grad():
        for prompt, answer in rows:
            logprobs = model(torch.tensor([prompt + answer])).log_softmax(-1)[0]
            wanted += [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
    assert got == pytest.approx(wanted, abs=0.05)  # products are in bfloat16 here, in float32 there


def test_every_prompt_is_practised_once_in_each_pass():
    prompts = [Prompt(str(i)) for i in range(10)]
    steps = [prompts_of_step(prompts, step, 4, seed=3) for step in range(1, 6)]
    texts = [prompt.text for step in steps for prompt in step]
    assert sorted(texts[:10]) == sorted(texts[10:]) == sorted(prompt.text for prompt in prompts)
    assert texts[:10] != texts[10:]
    assert len(prompts_of_step(prompts, 1, 25, seed=3)) == 25


def practised(policy, chat, method, rows, rewards, n_updates, **terms):
    """Update a policy on the same answers again and again; returns what was known before and after."""
    rollouts = Rollouts(2, ["a", "a"], rows, ["yes", "no"], [True, True], [])
    actor = Actor(policy, values=method.algorithm == "ppo")
    optimizer = torch.optim.AdamW(actor.parameters(), 3e-3)
    before = look_back(actor, chat, rollouts)
    advantages, returns = credit(method, torch.tensor([rewards]), before, 0.0)
    for _ in range(n_updates):
        learned = backward(
            actor, chat, rollouts, before, advantages, returns, [0, 1], method.terms(0.0), fresh=False
        )
        optimizer.step()
        optimizer.zero_grad()
    return before, look_back(actor, chat, rollouts), learned


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "ppo"])
def test_one_batch_learned_again_and_again_makes_the_better_answer_the_likely_one(algorithm):
    tokenizer = small_tokenizer()
    policy, chat = small_model(tokenizer.vocab_size), small_model(tokenizer.vocab_size)
    rows = [([4, 5], tokenizer.encode("yes")), ([4, 5], tokenizer.encode("no"))]
    method = Method(algorithm=algorithm, clip=1.0, value_clip=None, vf_coef=1.0)
    before, after, learned = practised(policy, chat, method, rows, [1.0, -1.0], 40)
    assert before.measures()["kl"] == pytest.approx(0, abs=1e-5)
    assert after.measures()["kl"] > 0
    assert after.old[0].sum() > before.old[0].sum() + 0.5
    assert after.old[1].sum() < before.old[1].sum() - 0.5
    if algorithm == "ppo":
        # Without discount a token's return is its answer's reward. The head learns the batch by heart, but for the
        # first token of each, whose state is the same prompt's: the best value there is 0, at an error of 1/2.
        n_tokens = sum(len(answer) for _, answer in rows)
        assert learned.value_loss == pytest.approx(2 * 0.5 / n_tokens, abs=0.04)
        for values, reward in zip(after.values, (1.0, -1.0), strict=True):
            assert values[0].item() == pytest.approx(0, abs=0.3)
            assert values[1:].tolist() == pytest.approx([reward] * (len(values) - 1), abs=0.5)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("room", [340 * 4, 100], ids=["chunks of four rows", "pieces of groups, row by row"])
@pytest.mark.parametrize("remember", [False, True])
@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_a_round_that_needs_more_room_than_there_is_gives_the_same_numbers(
    room, remember, estimator, monkeypatch
):
    tokenizer = small_tokenizer()
    method = Method(algorithm="ppo", kl_in="loss", kl_estimator=estimator, entropy_coef=0.1)
    prompts = [Prompt("What is 1 + 2?"), Prompt("Who are you?"), Prompt("Spell bal.")]

    def numbers():
        policy, chat = small_model(tokenizer.vocab_size), small_model(tokenizer.vocab_size, seed=1)
        torch.manual_seed(0)
        actor = Actor(policy, values=True)
        torch.nn.init.normal_(actor.value_head.weight)
        rollouts = practise(
            policy, tokenizer, prompts, n=4, max_new_tokens=9, temperature=1.0, seed=0, remember=remember
        )
        before = look_back(actor, chat, rollouts)
        rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        advantages, returns = credit(method, rewards, before, 0.1)
        terms = method.terms(0.1)
        learned = backward(
            actor, chat, rollouts, before, advantages, returns, range(12), terms, fresh=remember
        )
        told = {name: torch.cat(getattr(before, name)) for name in ("old", "entropy", "ref", "kl", "values")}
        told |= {"loss": learned.loss, "value_loss": torch.tensor(learned.value_loss)}
        return told | {name: p.grad for name, p in actor.named_parameters()}

    whole = numbers()
    monkeypatch.setattr(layout_module, "MAX_SCORES", room)
    tight = numbers()
    for name, values in whole.items():
        assert torch.allclose(tight[name], values, atol=2e-5 * values.abs().max().item()), name


def test_answers_are_taken_in_whole_groups_and_a_group_that_is_too_large_in_pieces(monkeypatch):
    model = small_model(340)
    rows = [([4, 5, 6], [7] * 4)] * 4 + [([4, 5], [7] * 30)] * 4
    rollouts = Rollouts(4, [""] * 8, rows, [""] * 8, [True] * 8, [])
    assert list(parts(model, rollouts, range(8))) == [(list(range(8)), 4)]
    # Two heads: the first group has 2 · (9 + 4 · 4 · 7) = 242 scores, the second 2 · (4 + 4 · 30 · 32) = 7,688.
    monkeypatch.setattr(layout_module, "MAX_SCORES", 4000)
    assert list(parts(model, rollouts, range(8))) == [([0, 1, 2, 3], 4), ([4, 5], 2), ([6, 7], 2)]
    monkeypatch.setattr(layout_module, "MAX_SCORES", 10)  # no less than an answer
    assert all(len(part) == k == 1 for part, k in parts(model, rollouts, range(8)))


def known(kl, n_tokens, values=None):
    """A round in which each token of an answer stands `kl` above the reference."""
    old = [torch.zeros(n) for n in n_tokens]
    return Before(old, [], [one - kl for one in old], [one + kl for one in old], values or [])


def test_the_pull_in_the_reward_is_taken_from_whole_answers():
    method = Method(algorithm="rloo", kl_in="reward", kl_estimator="k1", reward_scale="none")
    advantages, returns = credit(method, torch.tensor([[1.0, 1.0]]), known(0.5, [2, 6]), kl_coef=0.1)
    # 1 - 0.1 · 0.5 · 2 = 0.9 and 1 - 0.1 · 0.5 · 6 = 0.7, each against the other.
    assert [one.tolist() for one in advantages] == [pytest.approx([0.2] * 2), pytest.approx([-0.2] * 6)]
    assert returns == []
    quiet, _ = credit(
        Method(reward_scale="none"), torch.tensor([[1.0, 1.0]]), known(0.5, [2, 6]), kl_coef=0.1
    )
    assert torch.cat(quiet).abs().sum() == 0  # in the loss it is no matter of credit


def test_the_pull_of_ppo_is_paid_token_by_token_and_the_reward_at_the_end():
    method = Method(algorithm="ppo", kl_in="reward", kl_estimator="k1", gae_lambda=1.0)
    values = [torch.zeros(2), torch.zeros(1)]
    advantages, returns = credit(method, torch.tensor([[1.0, -1.0]]), known(0.5, [2, 1], values), kl_coef=0.2)
    # Earned: -0.1, then 1 - 0.1; and -1 - 0.1. Returns are the sums of what is to come.
    assert [one.tolist() for one in returns] == [pytest.approx([0.8, 0.9]), pytest.approx([-1.1])]
    whole = torch.cat(advantages)
    assert whole.mean().item() == pytest.approx(0, abs=1e-6) and whole.std().item() == pytest.approx(
        1, abs=1e-3
    )


def test_advantages_are_divided_by_the_spread_that_was_asked_for():
    rewards = torch.tensor([[0.0, 2.0], [4.0, 4.0]])
    scaled = {
        scale: torch.cat(credit(Method(reward_scale=scale), rewards, known(0.0, [1] * 4), 0.0)[0]).tolist()
        for scale in ("none", "batch", "group")
    }
    assert scaled["none"] == [-2, 2, 0, 0]
    # The batch's spread: mean 2.5, squares 6.25 + 0.25 + 2.25 + 2.25 over 3.
    assert scaled["batch"] == pytest.approx([-2 / (11 / 3) ** 0.5, 2 / (11 / 3) ** 0.5, 0, 0], rel=1e-3)
    assert scaled["group"] == pytest.approx([-2 / 2**0.5, 2 / 2**0.5, 0, 0], rel=1e-3)


def test_an_ensemble_pays_its_mean_its_least_or_less_where_it_parts():
    members = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert combined(members, "mean", 1.0).tolist() == [2, 0]
    assert combined(members, "minimum", 1.0).tolist() == [1, 0]
    # The spread of 1 and 3 about their mean is 1.
    assert combined(members, "uncertainty", 0.5).tolist() == [1.5, 0]


def test_rewards_are_normalized_clipped_and_then_punished():
    scores = torch.tensor([1.0, 2.0, 3.0, 10.0])
    shaping = Shaping(normalize=True, clip=1.0, eos_penalty=0.5, length_penalty=0.2)
    got = shaping(scores, [True, True, True, False], [5, 10, 5, 10], 10, Moments({}))
    # Mean 4, spread (9 + 4 + 1 + 36) / 3 under the root; the last is cut to 1 and pays 0.5 and 0.2.
    std = (50 / 3) ** 0.5
    assert got.tolist() == pytest.approx([-3 / std - 0.1, -2 / std - 0.2, -1 / std - 0.1, 1 - 0.7], abs=1e-3)
    assert Shaping()(scores, [False] * 4, [1] * 4, 10, Moments({})).tolist() == scores.tolist()


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


ROUNDS = [
    {"reward": 0.0, "kl": 0.0, "liked": 0.2, "correct": 0.4},
    {"reward": 0.5, "kl": 1.0, "liked": 0.4, "correct": 0.4},
    {"reward": 1.0, "kl": 2.0, "liked": 0.6, "correct": 0.4},
    {"reward": 1.5, "kl": 9.0, "liked": 0.8, "correct": 0.1},
]


def test_the_reward_and_the_shares_stand_in_panels_of_their_own_over_one_axis():
    figure = reward_over_kl(ROUNDS)
    data, layout = figure.content["data"], figure.content["layout"]
    assert [(trace["name"].split()[0], trace["yaxis"]) for trace in data] == [("reward", "y"), ("liked", "y2"), ("correct", "y2")]  # fmt: skip
    assert all(trace["x"] == [0, 1, 2**0.5, 3] and "xaxis" not in trace for trace in data)
    assert "overlaying" not in layout["yaxis2"]
    assert layout["yaxis"]["domain"][0] > layout["yaxis2"]["domain"][1]  # they do not overlap
    assert layout["xaxis"]["anchor"] == "y2"


def test_the_text_of_the_figure_says_what_its_curves_come_to():
    # Means of the first and last three rounds: reward 0.5 and 1, liked 0.4 and 0.6, correct 0.4 and 0.3, KL 4.
    assert reward_over_kl(ROUNDS).finding == (
        "While the model moved to √KL 2.00, the reward went from 0.50 to 1.00, the share liked from 40% to 60%, the "
        "share correct from 40% to 30% (means of the first and last 3 rounds)."
    )


def test_without_a_stated_preference_there_is_one_panel_and_the_text_says_why():
    figure = reward_over_kl([{"reward": one["reward"], "kl": one["kl"]} for one in ROUNDS])
    assert "yaxis2" not in figure.content["layout"]
    assert len(figure.content["data"]) == 1
    assert figure.finding.endswith("No stated preference can judge these prompts.")
