"""The law of scaling: found again where it is known, refused where nothing can be said."""

import pytest

from core_ml.errors import UserError
from core_ml.execute import read_config
from core_ml.recipes.pretrain import RECIPE
from core_ml.training.config import PretrainConfig
from core_ml.training.scaling_law import LADDER, Law, Point, bootstrap, fit, interval

# Hoffmann et al. 2022, equation 10.
CHINCHILLA = Law(1.69, 406.4, 0.34, 410.7, 0.28)


def ladder(law: Law, noise: float = 0.0) -> list[Point]:
    sizes = [(10**k, 10**k * ratio) for k in (6, 7, 8, 9) for ratio in (5, 20, 80)]
    return [Point(n, d, law.loss(n, d) * (1 + noise * (-1) ** i)) for i, (n, d) in enumerate(sizes)]


def test_a_law_without_noise_is_found_again() -> None:
    found = fit(ladder(CHINCHILLA))
    assert found.alpha == pytest.approx(0.34, abs=0.003)
    assert found.beta == pytest.approx(0.28, abs=0.003)
    assert found.floor == pytest.approx(1.69, abs=0.03)
    assert found.loss(7e10, 1.4e12) == pytest.approx(CHINCHILLA.loss(7e10, 1.4e12), rel=0.01)


def test_the_best_split_of_a_budget_is_where_neither_more_parameters_nor_more_tokens_help() -> None:
    flops = 5.76e23  # Chinchilla's
    n, d = CHINCHILLA.best(flops)
    assert 6 * n * d == pytest.approx(flops)
    least = CHINCHILLA.loss(n, d)
    for share in (0.9, 1.1):
        assert CHINCHILLA.loss(n * share, d / share) > least


def test_noise_widens_the_interval_which_holds_the_truth() -> None:
    quiet, noisy = (
        interval([law.best(1e20)[0] for law in bootstrap(ladder(CHINCHILLA, noise), 60, 0)])
        for noise in (0.0, 0.01)
    )
    truth = CHINCHILLA.best(1e20)[0]
    assert quiet[1] - quiet[0] < noisy[1] - noisy[0]
    assert noisy[0] < truth < noisy[1]


def test_too_few_networks_or_too_much_alike_are_told() -> None:
    with pytest.raises(UserError, match="5 networks were trained, and a law needs 6"):
        fit(ladder(CHINCHILLA)[:5])
    with pytest.raises(UserError, match="all networks are of one size"):
        fit([Point(1000, 1000 * k, 5.0 / k) for k in range(1, 8)])
    with pytest.raises(UserError, match="do not fall"):
        fit([Point(10**k, 10**j, k + j + 0.0) for k in (3, 4, 5) for j in (4, 5, 6)])


@pytest.mark.parametrize(("preset", "vocab_size"), [("tour", 1024), ("hour", 1024), ("small", 8192)])
def test_the_presets_of_pretraining_are_near_what_the_ladder_would_buy(preset: str, vocab_size: int) -> None:
    config = read_config(RECIPE, {}, preset)
    assert isinstance(config, PretrainConfig)
    config = config.resolved(vocab_size)
    n, d = config.network(vocab_size).n_parameters, config.n_tokens
    best = LADDER.loss(*LADDER.best(6 * n * d))
    assert best <= LADDER.loss(n, d) < 1.02 * best
