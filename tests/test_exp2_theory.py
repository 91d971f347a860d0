"""The smoothing losses against the closed-form filter that their minimiser is."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from common.config import Exp2Config
from common.regularizers import hf_invariance, second_difference
from exp2_funnel_heatmap.dataset import landscape_task
from exp2_funnel_heatmap.energy_functions import aligned_landscape, misaligned_landscape
from exp2_funnel_heatmap.fields import (
    cell_centres,
    filtered,
    hf_gain,
    predicted_gain,
    second_difference_gain,
    tabulate,
)
from exp2_funnel_heatmap.models import Variant
from exp2_funnel_heatmap.train_flat import train_flat
from exp2_funnel_heatmap.train_helm import train_helm
from exp2_funnel_heatmap.visualize_heatmap import decompose, evaluation_points, mean_gain, ripple_gain

FREQUENCIES = torch.tensor([1.0, 3.0, 7.0, 8.0, 11.0], dtype=torch.float64)  # on the circle [0, 2 pi)
TINY = Exp2Config(hidden_dim=64, iterations=500, batch_size=384, learning_rate=3e-3)
CPU = torch.device("cpu")


def _loss_minimiser(penalty, weight, sigma):
    """Coefficients that minimise the loss over sums of cosines and sines, for a target of all ones: [2 K].

    The noise is integrated by Gauss-Hermite quadrature, the data by a grid, both exact here; the loss is
    quadratic, so one Newton step from 0 is its minimiser.
    """
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(60)
    nodes, node_weights = torch.from_numpy(nodes), torch.from_numpy(node_weights / node_weights.sum())
    points = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64)

    def energy(coefficients, at):
        angles = at[..., None] * FREQUENCIES
        return torch.cat((torch.cos(angles), torch.sin(angles)), -1) @ coefficients

    def loss(coefficients):
        target = energy(torch.ones_like(coefficients), points)
        centre = energy(coefficients, points)[:, None]
        plus, minus = (energy(coefficients, points[:, None] + sign * sigma * nodes) for sign in (1, -1))
        around = (plus,) if penalty is hf_invariance else (plus, minus)
        smoothness = (penalty(centre, *around) @ node_weights).mean()
        return (centre[:, 0] - target).square().mean() + weight * smoothness

    zero = torch.zeros(2 * len(FREQUENCIES), dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(loss, zero)
    return -torch.linalg.solve(torch.autograd.functional.hessian(loss, zero), slope)


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2, 0.35])
@pytest.mark.parametrize("weight", [1.0, 10.0, 100.0, 300.0])
@pytest.mark.parametrize(
    ("penalty", "gain"), [(hf_invariance, hf_gain), (second_difference, second_difference_gain)]
)
def test_exact_minimiser_is_the_filter(penalty, gain, weight, sigma):
    predicted = gain(FREQUENCIES**2, weight, sigma).repeat(2)
    torch.testing.assert_close(_loss_minimiser(penalty, weight, sigma), predicted, rtol=1e-6, atol=1e-9)


def test_published_setting_cannot_remove_a_ripple():
    squared = torch.logspace(0, 8, 50, dtype=torch.float64)
    assert (hf_gain(squared, 1.0, 0.05) >= 1 / 3).all()  # the floor 1 / (1 + 2 lambda)
    assert hf_gain(torch.tensor(49.0), 1.0, 0.05) > 0.89


@pytest.mark.parametrize(
    "variant",
    [
        Variant("hf_invariance", 1.0, 0.05),
        Variant("hf_invariance", 100.0, 0.05),
        Variant("hf_invariance", 10.0, 0.1),
        Variant("hf_invariance", 1.0, 0.35),
        Variant("second_difference", 1.0, 0.1),
        Variant("noised_inputs", 1.0, 0.1),
        Variant("gradient", 0.01),
    ],
    ids=lambda variant: f"{variant.penalty}-{variant.weight:g}-{variant.sigma:g}",
)
def test_trained_ripple_gain_is_the_filters(variant):
    """A trained SIREN, not the exact minimiser: within 5%."""
    landscape = aligned_landscape()
    task = landscape_task("aligned", [landscape], TINY)
    train = train_helm if variant.penalty in ("hf_invariance", "second_difference") else train_flat
    model, _ = train(task, variant=variant, config=TINY, device=CPU)
    measured = ripple_gain(tabulate(model, TINY.domain_range).energies, landscape)
    squared = landscape.frequencies.square().sum(-1)
    power = landscape.amplitudes.square()
    predicted = predicted_gain(variant.penalty, squared, variant.weight, variant.sigma) @ power / power.sum()
    assert measured.item() == pytest.approx(predicted.item(), rel=0.05)


@pytest.mark.parametrize("half_width", [2.0, 3.0, 4.5])
def test_the_truth_keeps_every_ripple_whatever_the_square(half_width):
    landscape = misaligned_landscape(half_width)
    energies = landscape(cell_centres(200, half_width)).view(1, 200, 200)
    assert ripple_gain(energies, landscape).item() == pytest.approx(1.0, abs=1e-6)
    assert landscape.minimisers.abs().max() < half_width


CELL = 0.05  # length of the grid's cells


def _box_minimiser(landscape, weight, sigma):
    """L_HF's exact minimiser on cells of [-3, 3]^2, free beyond the border: conjugate gradients, [G, G].

    Setting the loss's derivative to 0 gives, with m the box's indicator and p the Gaussian,
    m f + lambda (m f + (p * m) f - m (p * f) - p * (m f)) = m E.
    """
    beyond = math.ceil(4.5 * sigma / CELL)
    count = round(6 / CELL) + 2 * beyond
    side = (torch.arange(count, dtype=torch.float64) + 0.5) * CELL - 3 - beyond * CELL
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    inside = (points.abs().amax(-1) < 3).double()
    frequency = 2 * math.pi * torch.fft.fftfreq(count + beyond, CELL, dtype=torch.float64)
    kernel = torch.exp(-0.5 * sigma**2 * (frequency[:, None] ** 2 + frequency**2))

    def blurred(field):
        padded = torch.fft.fft2(field, s=kernel.shape) * kernel
        return torch.fft.ifft2(padded).real[:count, :count]

    own = inside + weight * (inside + blurred(inside))

    def applied(field):
        return own * field - weight * (inside * blurred(field) + blurred(inside * field))

    found = torch.zeros_like(inside)
    residual = inside * landscape(points)
    step = residual / own.clamp(min=1e-9)
    match, aim = (residual * step).sum(), 1e-8 * residual.norm()
    while residual.norm() > aim:
        image = applied(step)
        length = match / (step * image).sum()
        found, residual = found + length * step, residual - length * image
        scaled = residual / own.clamp(min=1e-9)
        match, before = (residual * scaled).sum(), match
        step = scaled + (match / before) * step
    return found[beyond : count - beyond, beyond : count - beyond]


@pytest.mark.parametrize("sigma", Exp2Config().map_sigmas)
@pytest.mark.parametrize("weight", Exp2Config().map_lambdas)
@pytest.mark.parametrize(
    "landscape", [aligned_landscape(), misaligned_landscape()], ids=lambda each: each.name
)
def test_the_boxs_exact_minimiser_leaves_of_ripples_what_the_filter_does(landscape, weight, sigma):
    """Over the whole map. The border bends it, which only an unweighted regression takes for ripples."""
    energies = _box_minimiser(landscape, weight, sigma)
    squared = landscape.frequencies.square().sum(-1)
    predicted = mean_gain(predicted_gain("hf_invariance", squared, weight, sigma), landscape).item()
    assert ripple_gain(energies[None], landscape).item() == pytest.approx(predicted, rel=0.01)
    centres = cell_centres(len(energies), 3.0)
    unweighted = mean_gain(decompose(energies.flatten()[None], centres, landscape)[1], landscape).item()
    assert unweighted != pytest.approx(predicted, rel=0.05) or predicted > 0.05


def test_filter_of_gain_one_returns_the_energy():
    landscape = misaligned_landscape()
    table = filtered(landscape, torch.ones_like, 3.0)
    centres = cell_centres(table.energies.shape[-1], 3.0)
    torch.testing.assert_close(table.energies.flatten().double(), landscape(centres), rtol=1e-5, atol=1e-5)
    inside = centres.abs().amax(-1) < 2.0  # the mirrored energy has a kink at the border
    slopes = table.gradient(centres[None].float())[0].double()
    torch.testing.assert_close(slopes[inside], landscape.gradient(centres[inside]), rtol=0.05, atol=0.05)


def test_gaussian_filter_is_the_closed_form_mollification():
    landscape, sigma = misaligned_landscape(), 0.2
    table = filtered(landscape, lambda squared: torch.exp(-0.5 * squared * sigma**2), 3.0)
    centres = cell_centres(table.energies.shape[-1], 3.0)
    inside = centres.abs().amax(-1) < 3.0 - 5 * sigma
    smooth = table.energies.flatten().double()[inside]
    torch.testing.assert_close(smooth, landscape.mollified(sigma)(centres[inside]), rtol=1e-4, atol=1e-4)


def test_table_interpolates_the_models_gradient():
    config = dataclasses.replace(TINY, iterations=300)
    task = landscape_task("aligned", [aligned_landscape()], config)
    model, _ = train_flat(task, variant=Variant(), config=config, device=CPU)
    points = evaluation_points(config).float()[None, :2000]
    exact, tabled = model.gradient(points), tabulate(model, 3.0).gradient(points)
    assert (tabled - exact).norm() < 0.01 * exact.norm()
