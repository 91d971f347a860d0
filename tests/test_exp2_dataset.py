"""What experiment 2's models are trained on: distribution, evenness and reproducibility of its batches."""

import pytest
import torch

from common.config import Exp2Config
from exp2_funnel_heatmap import dataset
from exp2_funnel_heatmap.dataset import Batches, function_task, landscape_task
from exp2_funnel_heatmap.energy_functions import aligned_landscape, misaligned_landscape

CONFIG = Exp2Config(seeds=(0, 1), functions=("ackley", "levy"))
LANDSCAPES = landscape_task("both", [aligned_landscape(), misaligned_landscape()], CONFIG)
FUNCTIONS = function_task(5, CONFIG)


@pytest.mark.parametrize("task", [LANDSCAPES, FUNCTIONS], ids=["landscapes", "functions"])
def test_samples_are_uniform_and_their_perturbations_normal_and_apart(task):
    batches = Batches(task, CONFIG.seeds, 256)
    drawn = [batches.draw(iteration) for iteration in range(64)]
    points, noise, _ = (torch.cat(parts, 1) for parts in zip(*drawn, strict=True))
    count, both = points.shape[1], torch.cat((points / 3.0, noise), -1)
    covariance = both.mT @ both / count
    expected = torch.tensor([1 / 3] * task.dimension + [1.0] * task.dimension).diag()
    torch.testing.assert_close(covariance, expected.expand_as(covariance), rtol=0, atol=0.02)
    torch.testing.assert_close(both.mean(1), torch.zeros_like(both[:, 0]), rtol=0, atol=0.01)
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    uniform = ((points / 3.0 + 1) / 2).flatten(2).quantile(quantiles, dim=1)
    torch.testing.assert_close(uniform, quantiles[:, None, None].expand_as(uniform), rtol=0, atol=0.01)
    normal = torch.special.ndtr(noise).quantile(quantiles, dim=1)
    torch.testing.assert_close(normal, quantiles[:, None, None].expand_as(normal), rtol=0, atol=0.01)


@pytest.mark.parametrize("task", [LANDSCAPES, FUNCTIONS], ids=["landscapes", "functions"])
def test_energies_are_the_true_ones_standardised(task):
    points, _, energies = Batches(task, CONFIG.seeds, 4096).draw(3)
    for member, energy in enumerate(energy for energy in task.energies for _ in CONFIG.seeds):
        learned = task.mean[member] + task.std[member] * energies[member]
        torch.testing.assert_close(learned, energy(points[member].double()), rtol=0, atol=1e-4)
    torch.testing.assert_close(energies.mean(1), torch.zeros(len(energies)), rtol=0, atol=0.05)
    torch.testing.assert_close(energies.std(1), torch.ones(len(energies)), rtol=0.05, atol=0)


def test_a_batch_is_the_iterations_whatever_was_drawn_before():
    """Or a resumed training would see other samples."""
    through, jumped = (Batches(LANDSCAPES, CONFIG.seeds, 96) for _ in range(2))
    drawn = [through.draw(iteration) for iteration in range(7)]
    for iteration in (6, 2, 2):
        for one, other in zip(drawn[iteration], jumped.draw(iteration), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(drawn[6][0], through.draw(7)[0])


@pytest.mark.parametrize("task", [LANDSCAPES, FUNCTIONS], ids=["landscapes", "functions"])
def test_batches_drawn_together_are_those_drawn_one_by_one(task, monkeypatch):
    """To the bit; however many are drawn at once, and where an iteration is asked for twice."""
    together = Batches(task, CONFIG.seeds, 24)
    monkeypatch.setattr(dataset, "DRAWN_TOGETHER", 1)
    alone = Batches(task, CONFIG.seeds, 24)
    for iteration in (0, 1, 2, 15, 16, 17, 40, 40, 3):
        monkeypatch.setattr(dataset, "DRAWN_TOGETHER", 16)
        drawn = together.draw(iteration)
        monkeypatch.setattr(dataset, "DRAWN_TOGETHER", 1)
        for one, other in zip(drawn, alone.draw(iteration), strict=True):
            assert torch.equal(one, other)
        drawn[0].zero_()  # what a training does to its batch is its own


def test_seeds_differ_and_energies_of_a_seed_share_its_points():
    points, noise, _ = Batches(LANDSCAPES, CONFIG.seeds, 64).draw(0)
    for drawn in (points, noise):
        assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
        assert not torch.equal(drawn[0], drawn[1])


def test_successive_batches_cancel_each_others_noise():
    """Independent samples leave 1/64 in the mean energy of 16 batches, even but unrelated batches 0.15/64.

    Eight stretches of the sequence, so that no lucky one passes.
    """
    batches = Batches(LANDSCAPES, CONFIG.seeds, 256)
    means = torch.stack([batches.draw(iteration)[2].mean(1) for iteration in range(128)]).unflatten(
        0, (8, 16)
    )
    assert means.mean(1).square().mean().sqrt() < 0.02 / 64
