"""Observations as a reference and its differences: layers, losses and gradients of the rows themselves."""

import pytest
import torch

from common.config import Exp3Config
from common.latent.model import Encoder
from common.latent.observations import Observations, observations, take
from common.minigrid.task import make_task
from common.training.ensembles import EnsembleLinear

SEEDS = (0, 1)


@pytest.fixture(scope="module", params=["Empty-8x8", "KeyCorridorS3R1"])
def table(request):
    """The first is sparse, the second dense: [S, N, F] float64."""
    config = Exp3Config(seeds=SEEDS, num_walks=200, walk_length=20)
    return make_task(request.param, config).observations.double()


def layer(features, outputs):
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return EnsembleLinear(features, outputs, generators).double()


def gradients(loss, *tensors):
    weights = torch.rand(loss.shape, generator=torch.Generator().manual_seed(0), dtype=loss.dtype)
    return torch.autograd.grad((weights * loss).sum(), tensors)


def test_the_form_is_chosen_by_how_much_differs(table):
    chosen = observations(table)
    most = (table[0] != table[0].median(0).values).sum(1).max()
    assert (chosen.dense is None) == (most < table.shape[-1] / 8)
    assert chosen.shape == table.shape


def test_rows_and_selected_rows_are_the_tables(table):
    chosen = observations(table)
    torch.testing.assert_close(chosen.rows, table, rtol=1e-12, atol=1e-12)
    positions = torch.randint(table.shape[1], (2, 7))
    expected = torch.stack([rows[index] for rows, index in zip(table, positions, strict=True)])
    torch.testing.assert_close(chosen.select(positions).rows, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        chosen.select(positions).select(positions[:, :3] % 7).rows, take(expected, positions[:, :3] % 7)
    )


def test_a_layer_of_a_list_is_the_layer_of_its_rows(table):
    first, chosen = layer(table.shape[-1], 16), observations(table)
    found, expected = chosen.through(first), first(table)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    parameters = list(first.parameters())
    for by_list, by_rows in zip(gradients(found, *parameters), gradients(expected, *parameters), strict=True):
        torch.testing.assert_close(by_list, by_rows, rtol=1e-11, atol=1e-11)


def test_the_squared_error_of_a_list_is_that_of_its_rows(table):
    last = layer(16, table.shape[-1])
    hidden = torch.randn(2, 40, 16, dtype=torch.float64, requires_grad=True)
    shown = observations(table).select(torch.randint(table.shape[1], (2, 40)))
    found, expected = shown.squared_error(hidden, last), (last(hidden) - shown.rows).square().mean((1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [hidden, *last.parameters()]
    for by_list, by_rows in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(by_list, by_rows, rtol=1e-11, atol=1e-12)


def test_a_perfect_reconstruction_has_no_error_but_rounding():
    """Of float32, times the variance of the observations, 1."""
    rows = torch.zeros(2, 50, 60)
    rows[:, torch.arange(50), torch.arange(50)] = 1.0
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True).clamp(min=1e-3)
    last = layer(50, 60).float()
    with torch.no_grad():
        last.weight.copy_(rows)
        last.bias.zero_()
    error = observations(rows).squared_error(torch.eye(50).expand(2, -1, -1), last)
    assert error.abs().max() < 1e-6


def test_an_encoder_of_a_list_is_the_encoder_of_its_rows(table):
    encoder = Encoder(SEEDS, table.shape[-1], 16, 6).double()
    torch.testing.assert_close(encoder(observations(table)), encoder(table), rtol=1e-10, atol=1e-12)


def test_members_whose_scales_differ_share_no_values():
    """A feature that one member's walks never saw vary is centred alone."""
    raw = torch.eye(40).repeat(1, 3)[:, :100]
    scaled = torch.stack([raw, (raw - 0.3) / torch.linspace(0.1, 2, 100)])
    chosen = observations(scaled)
    assert isinstance(chosen, Observations) and chosen.dense is None
    torch.testing.assert_close(chosen.rows, scaled)
