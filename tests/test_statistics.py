"""Intervals cover what they say, over training seeds and starts; rates and ranks against closed forms."""

import math

import pytest
import torch
from scipy.special import stdtrit

from common.statistics import (
    auroc,
    crossed_interval,
    mean_interval,
    rate_interval,
    starts_interval,
    wilson_interval,
)


def covered(seeds, starts, seed_sd, start_sd, noise_sd, trials=3000):
    """How often the crossed interval of a known mean contains it."""
    draw, hits = torch.Generator().manual_seed(0), 0
    for _ in range(trials):
        values = 0.5 + seed_sd * torch.randn(seeds, 1, generator=draw)
        values = values + start_sd * torch.randn(1, starts, generator=draw)
        values = values + noise_sd * torch.randn(seeds, starts, generator=draw)
        low, high = crossed_interval(values, enumerated=False)
        hits += low <= 0.5 <= high
    return hits / trials


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.08), (3, 0.06), (3, 0.04), (6, 0.08), (10, 0.06)])
def test_a_crossed_interval_covers_what_it_says(seeds, seed_sd):
    """100 starts; a deviation of .08 between seeds, which an interval over starts alone covers 70% of."""
    assert 0.93 <= covered(seeds, 100, seed_sd, 0.3, 0.4) <= 0.97


def test_an_interval_over_starts_alone_does_not_cover_retraining():
    draw, hits = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        values = 0.08 * torch.randn(3, 1, generator=draw) + 0.3 * torch.randn(1, 100, generator=draw)
        low, high = starts_interval(values + 0.4 * torch.randn(3, 100, generator=draw))
        hits += low <= 0.0 <= high
    assert hits / 1000 < 0.85


def test_all_starts_leave_an_interval_over_seeds():
    values = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    expected = mean_interval(values.double().mean(1).tolist())
    assert crossed_interval(values, enumerated=True) == expected != crossed_interval(values, enumerated=False)


def test_one_seed_has_no_interval():
    assert crossed_interval(torch.rand(1, 20), enumerated=False) is None
    assert rate_interval(torch.ones(1, 20), enumerated=True) is None


def test_without_a_residual_the_variances_of_seeds_and_starts_add():
    """An additive table: s2_seed / S + s2_start / E, Satterthwaite's degrees of freedom."""
    by_seed, by_start = torch.tensor([0.0, 0.3, 0.9]), torch.linspace(0, 1, 50)
    values = (by_seed[:, None] + by_start).double()
    parts = by_seed.double().var().item() / 3, by_start.double().var().item() / 50
    low, high = crossed_interval(values, enumerated=False)
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 49)
    assert (low + high) / 2 == pytest.approx(values.mean().item())
    half = float(stdtrit(degrees, 0.975)) * math.sqrt(sum(parts))
    assert (high - low) / 2 == pytest.approx(half, rel=1e-9)


def test_constant_values_have_no_width():
    assert crossed_interval(torch.full((3, 10), 0.25), enumerated=False) == (0.25, 0.25)


@pytest.mark.parametrize("enumerated", [False, True])
def test_a_rate_stays_between_0_and_1_and_holds_its_mean(enumerated):
    draw = torch.Generator().manual_seed(1)
    for _ in range(50):
        success = torch.rand(3, 12, generator=draw) < torch.rand(3, 1, generator=draw)
        low, high = rate_interval(success, enumerated)
        assert 0.0 <= low <= success.double().mean() <= high <= 1.0


def test_a_rate_of_1_from_drawn_starts_is_not_certain():
    low, high = rate_interval(torch.ones(3, 20), enumerated=False)
    assert (low, high) == (pytest.approx(wilson_interval(20, 20)[0]), 1.0)


def test_students_interval_of_five_numbers():
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (high - low) / 2 == pytest.approx(2.7764 * math.sqrt(2.5 / 5), rel=1e-4)


def test_auroc_equals_a_count_of_pairs():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (60,), generator=draw).double()  # with ties
    positive = torch.rand(60, generator=draw) < scores / 8
    above = scores[positive][:, None] - scores[~positive]
    counted = (above > 0).double() + 0.5 * (above == 0).double()
    assert auroc(scores, positive) == pytest.approx(float(counted.mean()), abs=1e-12)
    assert auroc(-scores, positive) == pytest.approx(1 - float(counted.mean()), abs=1e-12)


def test_auroc_of_perfect_constant_and_one_sided_scores():
    positive = torch.tensor([False, False, True])
    assert auroc(torch.tensor([0.0, 1.0, 2.0]), positive) == 1.0
    assert auroc(torch.zeros(3), positive) == 0.5
    assert auroc(torch.tensor([-math.inf, 0.0, math.inf]), positive) == 1.0
    assert math.isnan(auroc(torch.zeros(3), torch.ones(3, dtype=torch.bool)))
