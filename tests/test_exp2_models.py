"""Experiment 2's networks against their formulas, layer by layer."""

import dataclasses

import pytest
import torch

from common.config import Exp2Config
from common.run.random import generator
from exp2_funnel_heatmap.dataset import landscape_task
from exp2_funnel_heatmap.energy_functions import misaligned_landscape
from exp2_funnel_heatmap.models import ARCHITECTURES, Variant, make_model
from exp2_funnel_heatmap.train_helm import train_helm

CONFIG = Exp2Config(seeds=(0, 1), iterations=60, batch_size=64)
TASK = landscape_task("misaligned", [misaligned_landscape()], CONFIG)
OMEGA = 10.0


def _by_formula(network, points, architecture):
    """W_L f(.. f(W_1 a + b_1) ..) + b_L, each layer a matrix product."""
    activation = {
        "siren": lambda values: torch.sin(OMEGA * values),
        "silu": torch.nn.functional.silu,
        "fourier": torch.nn.functional.silu,
        "relu": torch.relu,
    }[architecture]
    if architecture == "fourier":
        angles = points @ network.projections
        points, network = torch.cat((torch.cos(angles), torch.sin(angles)), -1), network.network
    for layer in network.layers[:-1]:
        points = activation(points @ layer.weight + layer.bias)
    return points @ network.layers[-1].weight + network.layers[-1].bias


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_energies_and_their_gradients_are_the_formulas(architecture):
    model = make_model(Variant(architecture=architecture), CONFIG.seeds, TASK, 16, OMEGA).double()
    points = torch.randn(2, 7, 2, generator=generator(0, "test"), dtype=torch.float64).requires_grad_()
    wanted = (points, *model.parameters())
    ours, formula = model.standardised(points), _by_formula(model.network, points, architecture).squeeze(-1)
    assert ours.shape == (2, 7)
    torch.testing.assert_close(ours, formula, rtol=1e-12, atol=1e-12)
    upstream = torch.linspace(-1, 2, 14, dtype=torch.float64).view(2, 7)
    pairs = (torch.autograd.grad((value * upstream).sum(), wanted) for value in (ours, formula))
    for found, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_training_is_the_formulas_to_rounding():
    """Sixty steps of the second difference with the SIREN written out layer by layer."""
    variant = Variant("second_difference", 40.0, 0.1)
    config = dataclasses.replace(CONFIG, hidden_dim=32)
    found = []
    for formula in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if formula:
                siren = ARCHITECTURES["siren"]
                patch.setattr(siren, "forward", lambda self, points: _by_formula(self, points, "siren"))
            _, history = train_helm(TASK, variant=variant, config=config, device=torch.device("cpu"))
        found.append(history["loss"].double())
    torch.testing.assert_close(*found, rtol=2e-5, atol=0)
