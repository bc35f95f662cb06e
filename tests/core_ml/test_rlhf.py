"""Reinforcement learning against a reward model: its arithmetic, and the recipe."""

import math

import pytest
import torch

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Figure, Metric, Resumed, Sample, Summary
from core_ml.feedback.batches import answer_ids, answer_logits, by_length, chosen_logprobs, pad
from core_ml.feedback.policy import (
    clipped_loss,
    entropy,
    exact_kl,
    k3,
    look_back,
    rloo_advantages,
    update,
)
from core_ml.feedback.practice import reward_over_kl
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.rollout import prompts_of_step
from core_ml.model import checkpoint
from core_ml.recipes.rlhf import RlhfConfig, run
from tests.core_ml.models import small_model, small_tokenizer, workspace, write_checkpoint, write_dataset


def test_an_advantage_is_the_reward_minus_the_mean_of_the_siblings():
    advantages = rloo_advantages(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]]))
    # 3 - (1 + 2) / 2, 1 - (3 + 2) / 2, 2 - (3 + 1) / 2.
    assert advantages.tolist() == [[1.5, -1.5, 0.0], [0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="at least 2 answers per prompt, got 1"):
        rloo_advantages(torch.ones(3, 1))


def test_k3_is_what_its_formula_gives_by_hand_and_on_average_the_kl():
    # Policy probability 0.5, reference 0.25: log ratio log 0.5, so 0.5 - log 0.5 - 1.
    value = k3(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)]))
    assert value.item() == pytest.approx(0.5 - math.log(0.5) - 1, rel=1e-6)
    assert k3(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    expected = (policy * k3(policy.log(), reference.log())).sum().item()
    by_hand = 0.7 * math.log(0.7 / 0.3) + 0.2 * math.log(0.2 / 0.3) + 0.1 * math.log(0.1 / 0.4)
    assert expected == pytest.approx(by_hand, rel=1e-5)
    assert exact_kl(policy.log()[None], reference.log()[None]).item() == pytest.approx(by_hand, rel=1e-5)
    by_hand = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert entropy(policy.log()[None]).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_clipped_loss_stops_the_gradient_where_the_ratio_has_moved_far_enough():
    old = torch.zeros(4)
    logprobs = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(1.1)], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, -1.0, 2.0])
    loss, clipfrac = clipped_loss(logprobs, old, old, advantages, clip=0.2, kl_coef=0.0)
    # Kept: min(1.5, 1.2) = 1.2; min(-1.5, -1.2) = -1.5; min(-0.5, -0.8) = -0.8; 2.2. Mean of the negatives.
    assert loss.item() == pytest.approx(-(1.2 - 1.5 - 0.8 + 2.2) / 4, rel=1e-6)
    assert clipfrac.item() == 0.5
    loss.backward()
    assert [gradient == 0 for gradient in logprobs.grad.tolist()] == [True, False, True, False]


def test_the_penalty_pulls_the_policy_to_the_chat_model():
    logprobs = torch.tensor([-1.0], requires_grad=True)
    ref = torch.tensor([-2.0])
    loss, _ = clipped_loss(logprobs, torch.tensor([-1.0]), ref, torch.zeros(1), clip=0.2, kl_coef=0.5)
    assert loss.item() == pytest.approx(0.5 * (math.exp(-1) + 1 - 1), rel=1e-6)
    loss.backward()
    assert logprobs.grad.item() > 0  # descending lowers the probability, towards the reference


def test_the_logprobs_of_answers_are_those_of_the_whole_rows():
    model = small_model(340)
    rows = [([4, 5, 6], [7, 8]), ([9], [10, 11, 12, 13]), ([14, 15], [16])]
    batch = pad(rows, model.device)
    ids = answer_ids(batch)
    assert ids.tolist() == [7, 8, 10, 11, 12, 13, 16]
    assert batch.last.tolist() == [4, 4, 2]
    got = chosen_logprobs(answer_logits(model, batch), ids).tolist()
    wanted = []
    with torch.no_grad():
        for prompt, answer in rows:
            logprobs = model(torch.tensor([prompt + answer])).log_softmax(-1)[0]
            wanted += [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
    assert got == pytest.approx(wanted, abs=0.05)  # products are in bfloat16 here, in float32 there


def test_batches_hold_everything_once_and_no_more_than_the_budget():
    import random

    lengths = [random.Random(0).randint(1, 50) for _ in range(200)]
    batches = by_length(lengths, 200, random.Random(1))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 200 for batch in batches)


def test_every_prompt_is_practised_once_in_each_pass():
    prompts = [Prompt(str(i)) for i in range(10)]
    steps = [prompts_of_step(prompts, step, 4, seed=3) for step in range(1, 6)]
    texts = [prompt.text for step in steps for prompt in step]
    assert sorted(texts[:10]) == sorted(texts[10:]) == sorted(prompt.text for prompt in prompts)
    assert texts[:10] != texts[10:]
    assert len(prompts_of_step(prompts, 1, 25, seed=3)) == 25


def test_an_update_makes_the_better_answer_likelier_and_the_worse_one_less_likely():
    tokenizer = small_tokenizer()
    policy, chat = small_model(tokenizer.vocab_size), small_model(tokenizer.vocab_size)
    rows = [([4, 5], tokenizer.encode("yes")), ([4, 5], tokenizer.encode("no"))]
    before = look_back(policy, chat, rows)
    assert before.measures()["kl"] == pytest.approx(0, abs=1e-5)
    optimizer = torch.optim.AdamW(policy.parameters(), 1e-3)
    for _ in range(10):
        update(policy, optimizer, rows, before, [1.0, -1.0], [0, 1], clip=0.2, kl_coef=0.0, grad_clip=1.0)
    after = look_back(policy, chat, rows)
    assert after.old[0].sum() > before.old[0].sum()
    assert after.old[1].sum() < before.old[1].sum()
    assert after.measures()["kl"] > 0


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
    return [(event.step, event.values) for event in events if isinstance(event, Metric)]


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
    config = SMALL.model_copy(update={"steps": 40, "kl_coef": 0.0, "prompts_per_step": 8, "eval_every": 40})
    summary = [e for e in run(config, workspace(tmp_path, inputs)) if isinstance(e, Summary)][-1].values
    assert summary["reward_last"] > summary["reward_first"]


def test_the_same_seed_gives_the_same_curve_and_a_stopped_run_goes_on_to_the_bit(tmp_path, inputs):
    whole = curve(run(SMALL, workspace(tmp_path / "whole", inputs)))
    again = curve(run(SMALL, workspace(tmp_path / "again", inputs)))
    assert whole == again
    stopped = []
    for stop_at in (2, 4):
        events = run(SMALL, workspace(tmp_path / "stopped", inputs))
        for event in events:
            stopped.append(event)
            if isinstance(event, Metric) and event.step >= stop_at:
                break
        events.close()
    stopped += list(run(SMALL, workspace(tmp_path / "stopped", inputs)))
    assert curve(stopped) == whole
    digests = [
        [file.sha256 for file in artifact.Folder(tmp_path / name / "out" / "checkpoint").manifest.files]
        for name in ("whole", "stopped")
    ]
    assert digests[0] == digests[1]


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
