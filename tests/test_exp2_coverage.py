"""Basin coverage cannot be had without finding the basin of the true minimum."""

import dataclasses

import pytest
import torch
from torch import nn

from common.config import Exp2Config
from exp2_funnel_heatmap import visualize_heatmap
from exp2_funnel_heatmap.dataset import landscape_task
from exp2_funnel_heatmap.energy_functions import TrueField, aligned_landscape, misaligned_landscape
from exp2_funnel_heatmap.fields import Table, cell_centres, filtered
from exp2_funnel_heatmap.models import EnergyModel, Variant
from exp2_funnel_heatmap.train_flat import train_flat
from exp2_funnel_heatmap.visualize_heatmap import (
    LONGEST_STEP,
    STOP,
    Descent,
    coverage,
    decompose,
    descent_for,
    evaluation_points,
    fit_quality,
    measure_basins,
)

CONFIG = Exp2Config(grid_size=40, iterations=300, batch_size=128)
CPU = torch.device("cpu")
FIELDS = ("energies", "gradients")


class _Formula(nn.Module):
    """An energy given by a formula, as a network of one member."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, points):
        return self.formula(points)[..., None]


def _model(formula) -> EnergyModel:
    return EnergyModel(_Formula(formula), torch.zeros(1, 1), torch.ones(1, 1))


def _measure(formula, landscape, config=CONFIG):
    task = landscape_task(landscape.name, [landscape], config)
    return measure_basins(task, _model(formula), config=config, device=CPU)


def _half_rippled(points):
    """The aligned landscape with its ripples to the left of a = -1 only: coverage well between 0 and 1."""
    landscape = aligned_landscape()
    return landscape.basin(points) + torch.sigmoid(-8 * (points[..., 0] + 1)) * landscape.ripples(points).sum(
        -1
    )


def test_the_basin_without_ripples_scores_one_and_the_true_energy_almost_nothing():
    landscape = aligned_landscape()
    basin, rugged = _measure(landscape.basin, landscape), _measure(landscape, landscape)
    assert basin["coverage"].item() == 1.0
    assert rugged["coverage"].item() < 0.05
    assert rugged["ripple_r2"].item() == pytest.approx(1.0, abs=1e-3)
    assert basin["ripple_r2"].item() == pytest.approx(0.0, abs=0.05)
    assert basin["shrink"].item() == pytest.approx(1.0, abs=1e-3)


def test_constant_energy_scores_nothing():
    measured = _measure(lambda points: 0 * points.sum(-1), aligned_landscape())
    assert measured["coverage"].item() == 0.0
    assert measured["r2"].item() <= 0.0


def test_a_smooth_energy_with_the_wrong_minimum_scores_nothing_but_its_own():
    """What an underfitted or oversmoothed model is on the misaligned landscape."""
    landscape = misaligned_landscape()
    measured = _measure(landscape.basin, landscape)
    assert measured["coverage"].item() == 0.0
    assert measured["own_coverage"].item() == 1.0
    assert measured["argmin_error"].item() > 0.45


def test_an_underfitted_network_is_told_from_a_mollified_one():
    """16 ReLU units: its ripple-R^2 says that it learned no ripple, on the misaligned landscape it fails."""
    landscape = misaligned_landscape()
    config = dataclasses.replace(CONFIG, hidden_dim=16)
    task = landscape_task("misaligned", [landscape], config)
    model, _ = train_flat(task, variant=Variant(architecture="relu"), config=config, device=CPU)
    measured = measure_basins(task, model.requires_grad_(False), config=config, device=CPU)
    assert measured["ripple_r2"].item() < 0.2
    assert measured["coverage"].item() < 0.05


@pytest.mark.parametrize("tolerance", [0.1, 0.3])
def test_starts_beside_the_minimum_do_not_count(tolerance):
    """A funnel of the tolerance's radius: every start in it reaches the minimum, none counts."""
    target = torch.tensor([[0.5, -0.3]])
    starts = cell_centres(100, 3.0).float()
    near = (starts - target).square().sum(-1).sqrt() <= tolerance
    assert near.sum() > 5
    ends = torch.where(near[:, None], target, starts)
    assert coverage(starts, ends[None], target, tolerance).item() == 0.0


def test_if_every_start_is_beside_the_minimum_there_is_no_coverage():
    starts = torch.zeros(5, 2)
    assert coverage(starts, starts[None], torch.zeros(1, 2), 0.1).item() == 0.0


@pytest.mark.parametrize("scale", [0.05, 20.0])
def test_shrinking_or_stretching_the_energy_changes_no_coverage(scale):
    full = _measure(_half_rippled, aligned_landscape())
    scaled = _measure(lambda points: scale * _half_rippled(points), aligned_landscape())
    assert 0.05 < full["coverage"].item() < 0.95
    assert scaled["coverage"].item() == pytest.approx(full["coverage"].item(), abs=0.01)
    assert scaled["shrink"].item() == pytest.approx(scale * full["shrink"].item(), rel=1e-3)


@pytest.mark.parametrize("every", [1, 20, 10_000])
def test_putting_stopped_points_aside_changes_no_descent(every, monkeypatch):
    """To the bit, for members that stop at different times; the reference takes every step of every point."""
    tables = [filtered(misaligned_landscape(), lambda _, gain=gain: gain, 3.0) for gain in (1.0, 0.3)]
    field = Table(
        None,
        *(torch.cat([getattr(table, part) for table in tables]) for part in ("energies", "gradients")),
        3.0,
    )
    starts = cell_centres(30, 3.0).float().expand(2, -1, -1)
    descent = Descent(400, torch.tensor([0.01, 0.01]), 3.0)
    points, moving = starts, torch.ones(2, 900, dtype=torch.bool)
    for _ in range(descent.steps):
        following, moved = descent.advance(field, points)
        points = torch.where(moving[..., None], following, points)
        moving &= moved >= STOP
    monkeypatch.setattr(visualize_heatmap, "SIFTED_EVERY", every)
    assert torch.equal(descent.run(field, starts), points)
    assert 0 < moving[1].sum() < 900 and not moving[0].all()


def test_no_step_jumps_a_barrier():
    """An energy a thousand times too steep, its shrink not divided out: steps stay short of half a ripple."""
    field = TrueField([lambda points: 1000 * aligned_landscape()(points)])
    descent = Descent(200, torch.ones(1), 3.0)
    path = descent.trace(field, cell_centres(20, 3.0)[None])
    lengths = path.diff(dim=2).square().sum(-1).sqrt()
    assert lengths.max() <= LONGEST_STEP * (1 + 1e-6)
    assert (path.abs() <= 3.0).all()


def test_the_tables_coverage_is_the_models():
    field = TrueField([_half_rippled])
    starts = cell_centres(CONFIG.grid_size, 3.0)
    ends = descent_for(torch.ones(1, dtype=torch.float64), CONFIG).run(field, starts[None])
    exact = coverage(starts, ends, aligned_landscape().minimisers, CONFIG.tolerance).item()
    tabled = _measure(_half_rippled, aligned_landscape())["coverage"].item()
    assert 0.05 < exact < 0.95
    assert tabled == pytest.approx(exact, abs=0.01)


def test_decomposition_recovers_what_was_mixed():
    landscape, points = misaligned_landscape(), evaluation_points(CONFIG)
    gains = torch.tensor([0.9, 0.3, 0.0, -0.2], dtype=torch.float64)
    values = 0.7 * landscape.basin(points) + landscape.ripples(points) @ gains + 3 * points[:, 0] - 1
    shrink, found = decompose(values[None], points, landscape)
    assert shrink.item() == pytest.approx(0.7, abs=1e-9)
    torch.testing.assert_close(found[0], gains)


def test_predicting_the_mean_has_no_r2():
    landscape, points = aligned_landscape(), evaluation_points(CONFIG)
    mean = landscape(points).mean().expand(1, len(points))
    assert fit_quality(mean, points, landscape)["r2"].item() == pytest.approx(0.0, abs=1e-3)
