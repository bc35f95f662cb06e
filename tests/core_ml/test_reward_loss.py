"""The likelihoods of rankings, held to values worked out by hand, and what learns from them."""

import math
from itertools import chain

import numpy as np
import pytest
import torch

from core_ml.errors import UserError
from core_ml.feedback.pairs import Group, Ranking
from core_ml.feedback.reward_loss import bradley_terry, n_candidates, plackett_luce
from core_ml.feedback.reward_training import Members, Trainer
from core_ml.feedback.surface import FEATURES, LENGTH, RIDGES, Surface, fit
from tests.core_ml.models import small_model, small_tokenizer

log = math.log


def worths(*alphas: float) -> torch.Tensor:
    return torch.tensor([log(alpha) for alpha in alphas], dtype=torch.float64)


def test_plackett_luce_without_ties_multiplies_the_choices():
    # Worths 1, 2, 3; the order 2 1 0 has 3/6 * 2/3 = 1/3, in two choices.
    assert plackett_luce(worths(1, 2, 3), [[[2], [1], [0]]]).item() == pytest.approx(log(3) / 2)
    # The order 0 2 1 has 1/6 * 3/5 = 1/10; both together have four choices.
    both = plackett_luce(worths(1, 2, 3), [[[2], [1], [0]], [[0], [2], [1]]])
    assert both.item() == pytest.approx((log(3) + log(10)) / 4)
    # A ranking of weight 3 counts as three of it.
    weighted = plackett_luce(worths(1, 2, 3), [[[2], [1], [0]], [[0], [2], [1]]], [3, 1])
    assert weighted.item() == pytest.approx((3 * log(3) + log(10)) / 8)
    with pytest.raises(ValueError, match="at least one ranking"):
        plackett_luce(worths(1, 2), [[[0]]])


def test_ties_have_the_probability_of_davidsons_model():
    # Two alike with d(2) = 1: 1 / (1 + 1 + sqrt(1 * 1)).
    even = torch.zeros(1, dtype=torch.float64)
    assert plackett_luce(worths(1, 1), [[[0, 1]]], log_ties=even).item() == pytest.approx(log(3))
    # Worths 4 and 9, d = 1/2: the tie has 0.5 * 6 = 3 of 4 + 9 + 3, and 1 before 0 has 9 of 16.
    half = torch.tensor([log(0.5)], dtype=torch.float64)
    assert plackett_luce(worths(4, 9), [[[0, 1]]], log_ties=half).item() == pytest.approx(log(16 / 3))
    assert plackett_luce(worths(4, 9), [[[1], [0]]], log_ties=half).item() == pytest.approx(log(16 / 9))
    with pytest.raises(ValueError, match="2 responses are tied"):
        plackett_luce(worths(1, 1), [[[0, 1]]])


def test_ties_of_several_are_sets_weighed_by_their_geometric_mean():
    # Worths 1, 8, 27 and d(2) = 1/2, d(3) = 2. Sets: 1 + 8 + 27 = 36; halves of the roots of 8, 27 and 216;
    # twice the cube root of 216, which is 12.
    ties = torch.tensor([log(0.5), log(2)], dtype=torch.float64)
    below = 36 + (math.sqrt(8) + math.sqrt(27) + math.sqrt(216)) / 2 + 12
    rewards = worths(1, 8, 27)
    assert plackett_luce(rewards, [[[0, 1, 2]]], log_ties=ties).item() == pytest.approx(log(below / 12))
    # First 1 and 2 together; what is left is one alone, which is no choice.
    tied = plackett_luce(rewards, [[[2, 1], [0]]], log_ties=ties).item()
    assert tied == pytest.approx(log(below / (math.sqrt(216) / 2)))
    # First 2; then 0 and 1 are tied, among 1, 8 and half of the root of 8.
    then = plackett_luce(rewards, [[[2], [0, 1]]], log_ties=ties).item()
    rest = 9 + math.sqrt(8) / 2
    assert then == pytest.approx((log(below / 27) + log(rest / (math.sqrt(8) / 2))) / 2)
    assert n_candidates(3, 3) == 7 and n_candidates(9, 2) == 9 + 36


def test_the_probabilities_of_all_orders_with_ties_are_one_together():
    ties = torch.tensor([0.3, -0.8], dtype=torch.float64)
    rewards = torch.tensor([0.2, -1.0, 0.7], dtype=torch.float64)
    orders = [
        [[a], [b], [c]] for a, b, c in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    ]
    orders += [[[a], [b, c]] for a, b, c in [(0, 1, 2), (1, 0, 2), (2, 0, 1)]]
    orders += [[[b, c], [a]] for a, b, c in [(0, 1, 2), (1, 0, 2), (2, 0, 1)]] + [[[0, 1, 2]]]
    n_choices = [sum(len(order[k:]) > 1 or len(order[k]) > 1 for k in range(len(order))) for order in orders]
    nlls = [plackett_luce(rewards, [order], log_ties=ties).item() * n for order, n in zip(orders, n_choices, strict=True)]  # fmt: skip
    assert sum(math.exp(-nll) for nll in nlls) == pytest.approx(1)


def test_two_responses_without_ties_are_bradley_terry_and_smoothing_is_the_same():
    rewards = torch.tensor([0.4, -0.9], dtype=torch.float64)
    for smoothing in (0.0, 0.2):
        luce = plackett_luce(rewards, [[[0], [1]]], label_smoothing=smoothing)
        terry = bradley_terry(rewards, [(0, 1)], label_smoothing=smoothing)
        assert luce.item() == pytest.approx(terry.item())
    # 0.8 of log(1 + e^-1.3) and 0.2 of log(1 + e^1.3).
    by_hand = 0.8 * log(1 + math.exp(-1.3)) + 0.2 * log(1 + math.exp(1.3))
    assert terry.item() == pytest.approx(by_hand)
    # Among three, the two left behind share the fifth: 0.2 * (log 1 + log 2) / 2 beside 0.8 * log 3; then as above.
    smoothed = plackett_luce(worths(1, 2, 3), [[[2], [1], [0]]], label_smoothing=0.2).item()
    first = log(6) - 0.8 * log(3) - 0.1 * log(2)
    second = log(3) - 0.8 * log(2)
    assert smoothed == pytest.approx((first + second) / 2)


def test_rankings_count_alike_however_many_pairs_they_order():
    tokenizer, group = small_tokenizer(), Group("g", "p", ("a", "b", "c"))
    group.rankings = [
        Ranking("ada", False, ((0,), (1,), (2,))),
        Ranking("eve", False, ((2,), (0, 1)), weight=0.5),
    ]
    model = small_model(tokenizer.vocab_size, value_head=True)
    trainer = Trainer(tokenizer, [group], model.config.max_seq_len)
    with torch.no_grad():
        from core_ml.feedback.reward_model import read_rewards

        a, b, c = read_rewards(model, trainer.rows[0]).tolist()
        loss, _ = trainer.loss(model, [0])
    nll = lambda d: log(1 + math.exp(-d))  # noqa: E731
    ada = (nll(a - b) + nll(a - c) + nll(b - c)) / 3
    eve = (nll(c - a) + nll(c - b)) / 2
    assert loss.item() == pytest.approx((ada + 0.5 * eve) / 1.5, rel=1e-5)


def test_ties_teach_plackett_luce_and_how_common_they_are_is_learned():
    tokenizer = small_tokenizer()
    tied = Group("g", "p", ("a", "b"), [Ranking("ada", False, ((0, 1),))])
    other = Group(
        "h", "q", ("a", "b"), [Ranking("ada", False, ((0, 1),)), Ranking("x", False, ((0,), (1,)), weight=0)]
    )
    assert Trainer(tokenizer, [tied], 64).groups == []
    trainer = Trainer(tokenizer, [tied, other], 64, loss="plackett_luce")
    assert (len(trainer.groups), trainer.largest_tie) == (2, 2)
    assert len(trainer.groups[1].rankings) == 1  # without weight, without a voice
    members = Members(small_model(tokenizer.vocab_size), 1, trainer.largest_tie, seed=0)
    optimizer = members.optimizer(0.05, 0.0)
    for _ in range(30):
        loss, accuracy = trainer.loss(members.members[0], [0, 1], members.log_ties)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert members.log_ties.item() > 0.5 and loss.item() < log(3) - 0.2
    assert accuracy == 0.5
    many = Group("g", "p", tuple(str(i) for i in range(16)), [Ranking("ada", False, (tuple(range(16)),))])
    with pytest.raises(UserError, match="use bradley_terry"):
        Trainer(tokenizer, [many], 64, loss="plackett_luce")


def test_members_share_the_body_and_differ_in_head_and_order():
    tokenizer = small_tokenizer()
    start = small_model(tokenizer.vocab_size)
    first, second = Members(start, 2, 1, seed=3).members
    assert torch.equal(first.blocks[0].qkv.weight, second.blocks[0].qkv.weight)
    assert first.value_head.weight.any() and not torch.equal(
        first.value_head.weight, second.value_head.weight
    )
    again = Members(start, 2, 1, seed=3).members[1]
    assert torch.equal(again.value_head.weight, second.value_head.weight)
    groups = [Group(str(i), "p", ("a", "b"), [Ranking("ada", False, ((0,), (1,)))]) for i in range(12)]
    plan = Trainer(tokenizer, groups, 64).plan(2, 120, seed=0, n_members=2)
    orders = [[step.groups for step in plan if step.member == member] for member in (0, 1)]
    assert orders[0] != orders[1]
    assert all(sorted(chain(*order)) == sorted(list(range(12)) * 2) for order in orders)
    assert [step.member for step in plan[:4]] == [0, 1, 0, 1]


def test_features_are_weighed_as_an_independent_logistic_regression_does():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    groups = []
    for i in range(60):
        texts = tuple("word " * int(n) + "." * int(m) for n, m in rng.integers(1, 30, (2, 2)))
        order = ((0,), (1,)) if rng.random() < 0.5 + 0.4 * (len(texts[0]) > len(texts[1])) else ((1,), (0,))
        groups.append(Group(str(i), "p", texts, [Ranking("a", False, order)]))
    names = ["characters", "marks", "variety"]
    surface = fit(groups, names, ridge=2.0)
    table = np.array([[[FEATURES[n]("p", t) for n in names] for t in g.completions] for g in groups])
    standard = (table - table.reshape(-1, 3).mean(0)) / table.reshape(-1, 3).std(0)
    assert np.abs(standard).max() < 4  # nothing is cut
    better = np.array([g.rankings[0].order[0][0] for g in groups])
    x = standard[range(60), better] - standard[range(60), 1 - better]
    # Each pair stands there twice, the other way round as well, so that the penalty is half as heavy.
    theirs = LogisticRegression(C=0.25, fit_intercept=False, tol=1e-10).fit(
        np.vstack([x, -x]), [1] * 60 + [0] * 60
    )
    assert surface.weights == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert Surface.from_dict(surface.as_dict()) == surface


def test_each_feature_says_what_it_is_named_after():
    def of(name, text, prompt="Name two red fruits."):
        return FEATURES[name](prompt, text)

    assert of("words", "an apple, a cherry") == log(5)
    assert of("new words", "red fruits: apple, apple") == log(2)  # "apple" alone is not of the prompt
    assert of("prompt taken up", "Two fruits!") == 0.5
    assert of("echo of the prompt", "Two fruits and trees") == 0.5
    # Of the fours "name two red fruits", "two red fruits are", "red fruits are apples" one is the prompt's.
    assert of("copied from the prompt", "Name two red fruits are apples") == pytest.approx(1 / 3)
    assert of("repeated sentences", "Apples. Cherries! apples. Apples?") == 0.5
    assert of("length of sentences", "One two three. Four five six!") == log(4)
    assert of("compressed", "apple " * 100) < 0.1 < of("compressed", "An apple and a cherry.")
    assert [of("template", text) for text in ("### Input", "Answer: apples", "<br>", "2 < 3 and 4 > 3")] == [
        1,
        1,
        1,
        0,
    ]
    assert (of("about itself", "I like my pie"), of("to the reader", "You like pie")) == (0.5, 1 / 3)
    assert (
        of("begins small", " apple"),
        of("begins blank", " apple"),
        of("links", "see www.example.org"),
    ) == (1, 1, 1)
    assert of("great length", "a" * 600) == 0 < of("great length", "a" * 800)
    # Nothing is undefined where there is nothing, nor by what cannot be encoded.
    for text in ("", " \n", "\ud800"):
        assert all(
            math.isfinite(feature(prompt, text)) for feature in FEATURES.values() for prompt in ("", "p")
        )


def test_the_penalty_is_the_one_that_prompts_left_out_ask_for():
    rng = np.random.default_rng(1)
    texts = [
        tuple("word " * int(n) + "!" * int(m) for n, m in rng.integers(1, 40, (2, 2))) for _ in range(80)
    ]

    def chosen(longer_wins: float) -> float:
        groups = []
        for i, (a, b) in enumerate(texts):
            first = (len(a) > len(b)) == (rng.random() < longer_wins)
            order = ((0,), (1,)) if first else ((1,), (0,))
            groups.append(Group(str(i), f"p{i}", (a, b), [Ranking("a", False, order)]))
        by_itself = fit(groups, list(FEATURES), ridge=None)
        return next(r for r in RIDGES if fit(groups, list(FEATURES), ridge=r).weights == by_itself.weights)

    assert chosen(longer_wins=1.0) == RIDGES[0]  # no exception: the surer the better
    assert chosen(longer_wins=0.5) >= 100  # nothing to learn


def test_what_is_left_out_counts_while_learning_only():
    longer = [Ranking("a", False, ((1,), (0,)))]
    groups = [Group(str(i), "p", ("a" * i, "a" * (3 * i)), longer) for i in range(1, 9)]
    surface = fit(groups, LENGTH[:1], LENGTH[:1])
    short, long = surface.scores(["p", "p"], ["aa", "a" * 20], whole=True)
    assert long > short
    assert surface.scores(["p", "p"], ["aa", "a" * 20]) == [0, 0]
    for change in ({"weights": [1, 2]}, {"std": [0]}, {"names": ["soul"]}, {"mean": [float("nan")]}):
        with pytest.raises((ValueError, TypeError)):
            Surface.from_dict(surface.as_dict() | change)
