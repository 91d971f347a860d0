"""Energies of experiment 2 against autograd, Monte Carlo and the literature."""

import math

import pytest
import torch

from exp2_funnel_heatmap.energy_functions import (
    CENTRE,
    DEFINITIONS,
    BenchmarkFunction,
    aligned_landscape,
    distance_to_minimum,
    eggholder,
    griewank,
    himmelblau,
    levy,
    misaligned_landscape,
    random_landscape,
    rastrigin,
    rippled_himmelblau,
    schwefel,
)

LANDSCAPES = [aligned_landscape(), misaligned_landscape(), random_landscape(3)]
RIPPLE_PERIOD = 2 * math.pi / 7


def _points(count: int, dimension: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return 6 * torch.rand(count, dimension, generator=draw, dtype=torch.float64) - 3


@pytest.mark.parametrize("landscape", LANDSCAPES, ids=lambda landscape: landscape.name)
def test_gradient_and_hessian_are_autograds(landscape):
    points = _points(50).requires_grad_()
    (slope,) = torch.autograd.grad(landscape(points).sum(), points)
    torch.testing.assert_close(landscape.gradient(points.detach()), slope)
    hessians = torch.stack([torch.autograd.functional.hessian(landscape, point) for point in points.detach()])
    torch.testing.assert_close(landscape.hessian(points.detach()), hessians)


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.6])
def test_mollification_is_the_gaussian_mean(sigma):
    landscape, points = misaligned_landscape(), _points(8)
    draw = torch.Generator().manual_seed(1)
    noise = sigma * torch.randn(20_000, 1, 2, generator=draw, dtype=torch.float64)
    samples = landscape(points + noise)
    error = (samples.mean(0) - landscape.mollified(sigma)(points)).abs()
    assert (error < 4.5 * samples.std(0) / len(noise) ** 0.5).all()


def test_mollifying_twice_adds_variances():
    points = _points(20)
    once, twice = aligned_landscape().mollified(0.5), aligned_landscape().mollified(0.3).mollified(0.4)
    torch.testing.assert_close(once(points), twice(points))


@pytest.mark.parametrize("landscape", LANDSCAPES, ids=lambda landscape: landscape.name)
def test_minimum_is_stationary_and_below_a_fine_grid(landscape):
    assert landscape.gradient(landscape.minimisers).norm() < 1e-12
    assert torch.linalg.eigvalsh(landscape.hessian(landscape.minimisers)).min() > 0
    side = torch.linspace(-3, 3, 701, dtype=torch.float64)
    assert landscape(landscape.minimisers) <= landscape(torch.cartesian_prod(side, side)).min()


def test_aligned_minimum_is_the_centre_and_misaligned_is_not():
    centre = torch.tensor([CENTRE], dtype=torch.float64)
    torch.testing.assert_close(aligned_landscape().minimisers, centre)
    assert distance_to_minimum(centre, misaligned_landscape().minimisers).item() > RIPPLE_PERIOD / 2


def test_random_landscapes_are_reproducible_and_differ():
    points = _points(5)
    torch.testing.assert_close(random_landscape(1)(points), random_landscape(1)(points), rtol=0, atol=0)
    assert not torch.allclose(random_landscape(1)(points), random_landscape(2)(points))


# Values from Surjanovic & Bingham's library and, for the points that are not minima, by hand.
@pytest.mark.parametrize(
    ("function", "x", "value"),
    [
        (rastrigin, [1.0, 1.0], 2.0),
        (rastrigin, [0.5], 20.25),
        (griewank, [math.pi, 0.0], math.pi**2 / 4000 + 2),
        (levy, [1.0, 1.0, 1.0], 0.0),
        (levy, [-3.0], 1.0),
        (schwefel, [420.968746] * 3, 0.0),
        (eggholder, [512.0, 404.2319], -959.6407),
        (himmelblau, [3.0, 2.0], 0.0),
        (himmelblau, [-2.805118, 3.131312], 0.0),
        (himmelblau, [0.0, 0.0], 170.0),
    ],
)
def test_published_values(function, x, value):
    assert function(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(value, abs=2e-4)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("dimension", [2, 5, 20])
def test_normalised_functions_have_their_minimum_where_they_say(name, dimension):
    if dimension not in DEFINITIONS[name].dimensions:
        with pytest.raises(ValueError, match="is not defined here"):
            BenchmarkFunction(name, dimension)
        return
    energy = BenchmarkFunction(name, dimension)
    points = _points(20_000, dimension)
    values, lowest = energy(points), energy(energy.minimisers)
    assert lowest.item() == pytest.approx(0.0, abs=1e-6)
    assert energy.minimisers.abs().max() <= 3
    assert values.std().item() == pytest.approx(1.0, abs=0.05)
    assert (values > lowest).all()
    draw = torch.Generator().manual_seed(2)
    for radius in (0.3, 0.03, 0.003):
        around = energy.minimisers + radius * torch.randn(
            2000, dimension, generator=draw, dtype=torch.float64
        )
        assert (energy(around.clamp(-3, 3)) >= lowest - 1e-6).all()


def test_rippled_himmelblau_has_one_global_minimum():
    others = torch.tensor(
        [[-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]], dtype=torch.float64
    )
    assert (himmelblau(others) < 1e-6).all()
    side = torch.linspace(-0.6, 0.6, 241, dtype=torch.float64)
    patch = torch.cartesian_prod(side, side)
    for other in others:
        assert rippled_himmelblau(other + patch).min() > 1.0


@pytest.mark.parametrize("name", DEFINITIONS)
def test_gradients_are_finite_at_minima_and_kinks(name):
    energy = BenchmarkFunction(name, 2)
    points = torch.cat([energy.minimisers, torch.zeros(1, 2, dtype=torch.float64), energy.shift[None]])
    points.requires_grad_()
    (slope,) = torch.autograd.grad(energy(points).sum(), points)
    assert torch.isfinite(slope).all()
