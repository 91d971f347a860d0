"""Rank correlation against closed forms, prediction accuracy of planted models, pairs that are sampled."""

import math

import torch

import common.latent.alignment as alignment
import common.latent.evaluation as evaluation
from common.config import Exp3Config
from common.latent.alignment import alike, prediction_accuracy, random_rollouts
from common.latent.evaluation import distances_between, record_model, sample_pairs
from common.latent.model import LatentModel
from common.minigrid.table import tabulate
from common.minigrid.task import make_task
from common.statistics import spearman
from tests.pose_grids import all_distances


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
    classes = alike(world.observations)
    states, actions = random_rollouts(world, 200, 3, torch.Generator().manual_seed(0))
    by_view = torch.eye(int(classes.max()) + 1)[classes][None]
    arguments = (states, actions, world.num_actions, (3,))
    perfect = prediction_accuracy(by_view, lambda *_: by_view[:, states[:, 1:]], *arguments, classes)
    assert perfect[3] == 1.0
    assert prediction_accuracy(by_view, lambda *_: by_view[:, states[:, 1:]], *arguments)[3] < 0.9
    collapsed = torch.zeros_like(by_view)
    found = prediction_accuracy(collapsed, lambda *_: collapsed[:, states[:, 1:]], *arguments, classes)
    assert found[3] < 0.3


def test_states_are_alike_where_their_observations_are_equal():
    rows = torch.randint(2, (60, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found, expected = alike(rows), torch.unique(rows, dim=0, return_inverse=True)[1]
    assert torch.equal(found[:, None] == found, expected[:, None] == expected)


def test_the_nearest_state_does_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    latents, predicted = torch.randn(2, 50, 6, generator=draw), torch.randn(2, 200, 6, generator=draw)
    states, actions = torch.randint(50, (200, 2), generator=draw), torch.zeros(200, 1, dtype=torch.long)
    found = []
    for numbers in (2**24, 1):
        monkeypatch.setattr(alignment, "COMPARED_NUMBERS", numbers)
        arguments = (lambda *_: predicted[:, :, None], states, actions, 1, (1,))
        found.append(prediction_accuracy(latents, *arguments)[1])
    assert torch.equal(*found) and (found[0] > 0).any()


def test_all_pairs_are_ranked_where_they_are_few():
    sources, targets = sample_pairs(30, torch.Generator())
    assert torch.equal(sources, torch.arange(30))
    assert torch.equal(targets, torch.arange(30).expand(30, -1))


def test_of_many_pairs_a_sample_is_ranked_each_once(monkeypatch):
    monkeypatch.setattr(evaluation, "RANKED_PAIRS", 600)
    monkeypatch.setattr(evaluation, "RANKED_SOURCES", 20)
    sources, targets = sample_pairs(100, torch.Generator().manual_seed(0))
    assert len(sources.unique()) == len(sources) == 20 and targets.shape == (20, 30)
    assert all(len(row.unique()) == 30 for row in targets)
    assert targets.unique().numel() > 90  # of all states, not always the same


def test_a_sample_of_pairs_has_the_distances_and_nearly_the_correlation_of_all(monkeypatch):
    config = Exp3Config(seeds=(0, 1), num_walks=60, walk_length=20)
    task = make_task("Empty-6x6", config)
    sizes = {"d_latent": 8, "hidden_dim": 16, "transition": "action_linear"}
    model = LatentModel((0, 1), task.observations.shape[-1], task.world.num_actions, **sizes)
    model.requires_grad_(False)
    latents = model.encoder(task.observations)
    by_hand = (latents[:, :, None] - latents[:, None]).norm(dim=-1)
    true = all_distances(task.world.next_state)
    everything = evaluation._distances(task, model, latents)
    monkeypatch.setattr(evaluation, "RANKED_PAIRS", 2000)
    monkeypatch.setattr(evaluation, "RANKED_SOURCES", 40)
    sources, targets = sample_pairs(len(true), torch.Generator().manual_seed(0))
    found = distances_between(model, latents, sources, targets)
    for row, (source, others) in enumerate(zip(sources, targets, strict=True)):
        torch.testing.assert_close(found[:, row], by_hand[:, source, others])
    sampled = evaluation._distances(task, model, latents)
    assert (true >= 0).sum() > 2000
    assert sampled["pairs/latent"].shape[1] == len(sampled["pairs/steps"]) <= 2000
    assert (sampled["spearman"] - everything["spearman"]).abs().max() < 0.1


def test_a_metric_whose_name_begins_like_an_array_is_a_metric():
    recorded = {"metrics": [], "arrays": []}

    class Recorder:
        def add(self, name, value, unit):
            recorded["metrics"].append((name, unit))

        def add_array(self, name, value):
            recorded["arrays"].append(name)

    class Named:
        name = "E"

    names = ["energy", "energy_gap", "pairs/latent", "pairs/steps", "plane", "planes", "jacobian_50"]
    record_model(Recorder(), Named(), "flat", dict.fromkeys(names, torch.zeros(1)))
    assert recorded["arrays"] == [
        f"E/flat/{name}" for name in ("energy", "pairs/latent", "pairs/steps", "plane")
    ]
    assert recorded["metrics"] == [
        ("E/flat/energy_gap", "1"), ("E/flat/planes", "1"), ("E/flat/jacobian_50", "norm")
    ]  # fmt: skip
