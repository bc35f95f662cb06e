"""The losses of PPO, GRPO and RLOO, against numbers worked out by hand."""

import math

import pytest
import torch

from core_ml.feedback.losses import (
    Moments,
    adapted,
    clipped_losses,
    entropy,
    exact_kl,
    gae,
    grpo_advantages,
    k1,
    k3,
    rloo_advantages,
    token_weights,
    value_losses,
    whitened,
)


def test_an_advantage_is_the_reward_minus_the_mean_of_the_siblings():
    advantages = rloo_advantages(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]]))
    # 3 - (1 + 2) / 2, 1 - (3 + 2) / 2, 2 - (3 + 1) / 2.
    assert advantages.tolist() == [[1.5, -1.5, 0.0], [0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="at least 2 answers per prompt, got 1"):
        rloo_advantages(torch.ones(3, 1))


def test_grpo_counts_in_units_of_the_groups_spread():
    advantages = grpo_advantages(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]]))
    # Mean 2, spread 1 (the sum of squares 2 over 2).
    assert advantages[0].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=2e-4)
    assert advantages[1].tolist() == [0, 0, 0]
    assert grpo_advantages(torch.tensor([[4.0, 0.0]]), scale_by_std=False).tolist() == [[2.0, -2.0]]
    with pytest.raises(ValueError, match="at least 2 answers per prompt, got 1"):
        grpo_advantages(torch.ones(3, 1))


def test_gae_looks_back_from_the_end():
    advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), gamma=0.5, lam=0.5)
    # Last: 1 + 0 - 0.25 = 0.75. First: 0 + 0.5 · 0.25 - 0.5 = -0.375, plus 0.25 · 0.75.
    assert advantages.tolist() == [-0.1875, 0.75]
    assert returns.tolist() == [0.3125, 1.0]
    # With gamma and lambda 1 a return is the sum of the rewards to come, whatever the values say.
    _, returns = gae(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([9.0, -3.0, 5.0]), gamma=1.0, lam=1.0)
    assert returns.tolist() == [7.0, 6.0, 4.0]


def test_whitened_advantages_have_mean_0_and_spread_1():
    # Mean 2, spread 1.
    assert whitened(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1, 0, 1], abs=2e-4)
    assert whitened(torch.tensor([3.0])).tolist() == [3.0]


def test_k1_is_the_log_ratio_and_on_average_the_kl():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    by_hand = 0.7 * math.log(0.7 / 0.3) + 0.2 * math.log(0.2 / 0.3) + 0.1 * math.log(0.1 / 0.4)
    assert (policy * k1(policy.log(), reference.log())).sum().item() == pytest.approx(by_hand, rel=1e-5)
    assert k1(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == 2


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


def test_entropy_by_hand():
    by_hand = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log() + 3  # a constant changes nothing
    assert entropy(logits).item() == pytest.approx(by_hand, rel=1e-5)
    assert entropy(torch.zeros(1, 8)).item() == pytest.approx(math.log(8), rel=1e-6)


def test_the_clipped_loss_stops_the_gradient_where_the_ratio_has_moved_far_enough():
    logprobs = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(1.1)], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, -1.0, 2.0])
    losses, stopped = clipped_losses(logprobs, torch.zeros(4), advantages, clip=0.2)
    # Kept: min(1.5, 1.2) = 1.2; min(-1.5, -1.2) = -1.5; min(-0.5, -0.8) = -0.8; 2.2.
    assert losses.tolist() == pytest.approx([-1.2, 1.5, 0.8, -2.2], rel=1e-6)
    assert stopped.tolist() == [True, False, True, False]
    losses.sum().backward()
    assert [gradient == 0 for gradient in logprobs.grad.tolist()] == [True, False, True, False]


def test_a_value_gains_nothing_by_moving_further_than_the_clip():
    values = torch.tensor([1.0, 0.1, -1.0], requires_grad=True)
    losses = value_losses(values, torch.zeros(3), torch.tensor([2.0, 2.0, 2.0]), clip=0.2)
    # Moved to 0.2 at most: (0.2 - 2)² = 3.24 is worse than (1 - 2)²; inside the clip (0.1 - 2)² = 3.61; moving away
    # costs its whole (-1 - 2)² = 9, more than (-0.2 - 2)².
    assert losses.tolist() == pytest.approx([1.62, 1.805, 4.5], rel=1e-6)
    losses.sum().backward()
    assert values.grad.tolist() == pytest.approx([0.0, -1.9, -3.0], rel=1e-6)
    assert value_losses(values, torch.zeros(3), torch.ones(3), None).tolist() == pytest.approx([0, 0.405, 2])


def test_tokens_weigh_alike_or_answers_do():
    assert token_weights([1, 3], by_answer=False) == [0.25, 0.25]
    # Two answers of weight 1/2 each.
    assert token_weights([1, 3], by_answer=True) == pytest.approx([0.5, 1 / 6])


def test_the_coefficient_follows_its_target_by_at_most_two_percent_a_round():
    assert adapted(0.1, kl=5.0, target=5.0) == 0.1
    assert adapted(0.1, kl=50.0, target=5.0) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, kl=0.0, target=5.0) == pytest.approx(0.1 * 0.98)
    assert adapted(0.1, kl=5.5, target=5.0) == pytest.approx(0.1 * 1.01)


def test_running_moments_are_those_of_all_values_so_far():
    notes: dict[str, float] = {}
    Moments(notes).add([1.0, 2.0])
    moments = Moments(notes)  # as after a resume
    moments.add([6.0])
    # Mean 3; squares 4 + 1 + 9 over 2.
    assert notes["mean"] == pytest.approx(3)
    assert moments.std == pytest.approx(math.sqrt(7))
    assert moments.normalized(3 + math.sqrt(7)) == pytest.approx(1, abs=1e-3)
