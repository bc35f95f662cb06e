"""What practice computes: log-probabilities of answers, rewards and their shaping, credit, and the losses."""

import pytest
import torch

from core_ml.feedback import layout as layout_module
from core_ml.feedback import shared
from core_ml.feedback.layout import lay_out
from core_ml.feedback.losses import Moments
from core_ml.feedback.policy import Actor, Before, backward, look_back, parts
from core_ml.feedback.practice import Method, credit
from core_ml.feedback.prompts import Prompt
from core_ml.feedback.rewards import Shaping, combined
from core_ml.feedback.rollout import Rollouts, practise, prompts_of_step
from core_ml.model.device import autocast
from tests.core_ml.models import small_model, small_tokenizer


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
