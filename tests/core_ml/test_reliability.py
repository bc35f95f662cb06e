"""Dawid and Skene's model: simulated labelers whose reliability is known, and a plain implementation beside ours."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from core_ml.feedback.agreement import Judgement
from core_ml.feedback.reliability import consensus_order, fit, of_groups


def simulated(accuracies, n_items, n_classes, seed, per_item=None):
    """Votes of labelers who say the truth with their accuracy and otherwise one of the other classes."""
    rng = random.Random(seed)
    truth = [rng.randrange(n_classes) for _ in range(n_items)]
    votes = []
    for item, true in enumerate(truth):
        for labeler in sorted(rng.sample(range(len(accuracies)), per_item or len(accuracies))):
            wrong = [c for c in range(n_classes) if c != true]
            votes.append((item, labeler, true if rng.random() < accuracies[labeler] else rng.choice(wrong)))
    items, labelers, said = (np.array(column) for column in zip(*votes, strict=True))
    return truth, items, labelers, said


def plain(items, labelers, said, n_classes, n_iterations):
    """Dawid and Skene's equations 2.3 to 2.5, in dictionaries and without logarithms."""
    votes = list(zip(items.tolist(), labelers.tolist(), said.tolist(), strict=True))
    of_item, of_labeler = {}, {}
    for item, labeler, k in votes:
        of_item.setdefault(item, []).append((labeler, k))
        of_labeler.setdefault(labeler, []).append((item, k))
    classes = range(n_classes)
    truth = {
        item: [sum(k == c for _, k in given) / len(given) for c in classes] for item, given in of_item.items()
    }
    for _ in range(n_iterations):
        prior = [sum(row[c] for row in truth.values()) / len(truth) for c in classes]
        confusion = {}
        for labeler, given in of_labeler.items():
            for c in classes:
                total = sum(truth[item][c] for item, _ in given)
                for k in classes:
                    share = sum(truth[item][c] for item, said in given if said == k)
                    confusion[labeler, c, k] = share / total if total else 1 / n_classes
        for item, given in of_item.items():
            likely = [prior[c] * math.prod(confusion[labeler, c, k] for labeler, k in given) for c in classes]
            truth[item] = [value / sum(likely) for value in likely]
    return prior, confusion, truth


@pytest.mark.parametrize(("n_classes", "per_item"), [(2, None), (3, 4), (5, 3)])
def test_it_is_the_plain_implementation(n_classes, per_item):
    _, items, labelers, said = simulated([0.9, 0.8, 0.7, 0.6, 0.4], 150, n_classes, 3, per_item)
    found = fit(items, labelers, said, n_classes, smoothing=0, max_iterations=20, tolerance=-1)
    prior, confusion, truth = plain(items, labelers, said, n_classes, 20)
    assert len(found.log_likelihood) == 20
    assert found.prior == pytest.approx(prior, abs=1e-9)
    for (labeler, c, k), value in confusion.items():
        assert found.confusion[labeler, c, k] == pytest.approx(value, abs=1e-9)
    assert found.posterior == pytest.approx(np.array([truth[i] for i in range(150)]), abs=1e-9)


def test_the_likelihood_never_falls():
    _, items, labelers, said = simulated([0.9, 0.6, 0.5, 0.8], 200, 3, 5)
    rising = fit(items, labelers, said, 3, smoothing=0).log_likelihood
    assert all(b >= a - 1e-12 for a, b in pairwise(rising)) and len(rising) > 3


def test_known_accuracies_are_found_and_the_consensus_beats_the_majority():
    accuracies = [0.95, 0.9, 0.6, 0.5, 0.45, 0.4]
    truth, items, labelers, said = simulated(accuracies, 3000, 3, 11)
    found = fit(items, labelers, said, 3)
    measured = np.einsum("c,lcc->l", found.prior, found.confusion)
    assert measured == pytest.approx(accuracies, abs=0.03)
    votes = np.zeros((3000, 3))
    np.add.at(votes, (items, said), 1)
    right, by_majority = (np.mean(values.argmax(axis=1) == truth) for values in (found.posterior, votes))
    # Two good labelers among four poor ones: the plain majority loses what weights keep.
    assert right > by_majority + 0.03 and right > 0.93


def ranked(seed, n_groups=400, noise=(0.2, 0.5, 1.0, 30.0)):
    """Groups of four answers whose quality is their index; labelers see it through noise of their own."""
    rng = random.Random(seed)
    for number in range(n_groups):
        judgements = []
        for labeler, spread in enumerate(noise):
            seen = [-i + rng.gauss(0, spread) for i in range(4)]
            order = sorted(range(4), key=lambda i: -seen[i])
            judgements.append(Judgement(f"labeler {labeler}", [[i] for i in order]))
        yield f"g{number}", 4, judgements


def test_labelers_of_rankings_are_ordered_by_their_noise_and_a_guesser_weighs_nothing():
    found = of_groups(ranked(1))
    assert [entry["labeler"] for entry in found.as_dict()] == [f"labeler {i}" for i in range(4)]
    weights = found.weights()
    assert weights["labeler 0"] > 0.95 and weights["labeler 3"] < 0.1
    # A pair is right with probability Φ(distance / (spread √2)): for spread 1 and the mean over the six pairs.
    phi = [0.5 * (1 + math.erf(d / 2)) for d in (1, 1, 1, 2, 2, 3)]
    assert found.accuracies()["labeler 2"] == pytest.approx(np.mean(phi), abs=0.03)
    right = sum(entry.order == [[0], [1], [2], [3]] for entry in found.consensus())
    assert right > 0.95 * 400


def test_which_answer_is_called_the_first_changes_nothing():
    groups = list(ranked(2, 60))
    turned = [
        (
            id,
            n,
            [Judgement(one.labeler, [[n - 1 - i for i in tied] for tied in one.order]) for one in judgements],
        )
        for id, n, judgements in groups
    ]
    a, b = of_groups(groups), of_groups(turned)
    assert list(a.accuracies().values()) == pytest.approx(list(b.accuracies().values()))
    for one, other in zip(a.consensus(), b.consensus(), strict=True):
        mirrored = {(3 - j, 3 - i): p[::-1] for (i, j), p in other.pairs.items()}
        assert all(one.pairs[pair] == pytest.approx(mirrored[pair]) for pair in one.pairs)
        assert one.confidence == pytest.approx(other.confidence)


def test_a_tie_is_a_verdict_like_the_others_and_a_pair_nobody_named_is_left_out():
    groups = [
        ("a", 3, [Judgement(name, [[1, 0]]) for name in "xyz"]),
        ("b", 2, [Judgement(name, [[1], [0]]) for name in "xyz"]),
        ("c", 2, [Judgement("silent", [[1]])]),
    ]
    found = of_groups(groups)
    assert [(entry.group_id, entry.order) for entry in found.consensus()] == [
        ("a", [[0, 1]]),
        ("b", [[1], [0]]),
    ]
    assert sorted(found.labelers) == ["x", "y", "z"]
    assert list(next(found.consensus()).pairs) == [(0, 1)]


def test_an_order_of_three_comes_from_expected_wins():
    # Wins: 0.9 + 0.6, 0.1 + 0.9, 0.4 + 0.1; below 1.5, 0.1 + 0.5 and 0.4 + 0.5.
    pairs = {(0, 1): (0.9, 0.0, 0.1), (0, 2): (0.6, 0.0, 0.4), (1, 2): (0.9, 0.0, 0.1)}
    assert consensus_order(pairs) == [[0], [1], [2]]
    assert consensus_order(pairs | {(1, 2): (0.3, 0.4, 0.3)}) == [[0], [2, 1]]


def test_no_votes_are_refused():
    with pytest.raises(ValueError, match="no votes"):
        of_groups([("a", 2, []), ("b", 2, [Judgement("x", [[0]])])])
