"""Rank correlation against closed forms, prediction accuracy of planted models."""

import math

import torch

from common.latent.alignment import prediction_accuracy, random_rollouts
from common.minigrid.table import tabulate
from common.statistics import spearman


def test_spearman_of_monotone_maps_is_one_and_of_reversed_ones_minus_one():
    values = torch.randn(50)
    assert math.isclose(spearman(values, values.exp()), 1.0)
    assert math.isclose(spearman(values, -(values**3)), -1.0)


def test_spearman_without_ties_is_the_textbook_formula():
    first, second = torch.randperm(20).double(), torch.randperm(20).double()
    d = first.argsort().argsort() - second.argsort().argsort()
    assert math.isclose(spearman(first, second), 1 - 6 * int((d**2).sum()) / (20 * (400 - 1)), abs_tol=1e-12)


def test_ties_share_their_mean_rank():
    """Ranks 1.5 1.5 3 4 against 1 2 3 4: the correlation of exactly these numbers."""
    expected = torch.corrcoef(torch.tensor([[1.5, 1.5, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]))[0, 1]
    assert math.isclose(spearman(torch.tensor([0, 0, 5, 9]), torch.arange(4)), float(expected), abs_tol=1e-7)


def test_a_constant_distance_correlates_with_nothing():
    assert math.isnan(spearman(torch.ones(5), torch.arange(5)))


def test_a_model_that_knows_is_right_and_one_that_stays_is_not():
    world = tabulate("Empty-5x5")
    latents = torch.eye(world.num_states)[None]
    states, actions = random_rollouts(world, 64, 6, torch.Generator().manual_seed(0))
    assert torch.equal(world.next_state[states[:, :-1], actions], states[:, 1:])
    assert not world.terminal[states[:, 0]].any()

    def knows(start, one_hot):
        return latents[:, states[:, 1:]]

    def stays(start, one_hot):
        return start[:, :, None].expand(-1, -1, one_hot.shape[2], -1)

    right = prediction_accuracy(latents, knows, states, actions, world.num_actions, (1, 6))
    assert right[1] == right[6] == 1.0
    wrong = prediction_accuracy(latents, stays, states, actions, world.num_actions, (1, 6))
    same = (states[:, 0] == states[:, 1]).double().mean()
    assert wrong[1] == same < 0.5


def test_states_that_look_alike_count_as_one_and_a_collapsed_encoder_gains_nothing():
    world = tabulate("Empty-5x5", observation="partial")
    alike = torch.unique(world.observations, dim=0, return_inverse=True)[1]
    states, actions = random_rollouts(world, 200, 3, torch.Generator().manual_seed(0))
    by_view = torch.eye(int(alike.max()) + 1)[alike][None]
    arguments = (states, actions, world.num_actions, (3,))
    perfect = prediction_accuracy(by_view, lambda *_: by_view[:, states[:, 1:]], *arguments, alike)
    assert perfect[3] == 1.0
    assert prediction_accuracy(by_view, lambda *_: by_view[:, states[:, 1:]], *arguments)[3] < 0.9
    collapsed = torch.zeros_like(by_view)
    found = prediction_accuracy(collapsed, lambda *_: collapsed[:, states[:, 1:]], *arguments, alike)
    assert found[3] < 0.3
