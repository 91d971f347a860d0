"""Experiment 7's quasimetric head: what it may see, what it draws, that it learns a layout's steps."""

import dataclasses

import pytest
import torch

from common.config import EXP7_PRESETS
from common.objectives import quasimetric
from common.statistics import spearman
from exp7_unseen_layouts.dataset import Layout, walk_layouts, with_agent, without_agent
from exp7_unseen_layouts.episodes import choose_episodes, true_distances
from exp7_unseen_layouts.evaluate_distance import _descend, _Distances
from exp7_unseen_layouts.evaluate_planners import member_of
from exp7_unseen_layouts.models import QuasimetricHead, SpatialModel
from exp7_unseen_layouts.train_quasimetric import MAPS, POSES, _Steps, suits, train_quasimetric

CPU = torch.device("cpu")
CONFIG = dataclasses.replace(
    EXP7_PRESETS["quick"], d_latent=8, hidden_dim=8, head_width=16, head_depth=6, head_iterations=250,
    head_learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def walked():
    layout = Layout("Empty-6x6", 0)
    return layout, walk_layouts([layout], 40, 30, seed=0)


def untrained(walks, seeds=(0,), more=()):
    """A spatial model whose codes are the walks' contents: the head needs latents, not predictions."""
    contents = [walks.maps.unique()] * len(seeds)
    if more:
        contents[0] = torch.cat([contents[0], torch.tensor(more)])
    return SpatialModel(contents, seeds, CONFIG.d_latent, CONFIG.hidden_dim)


def head_of(model, seeds=(0,), depth=6):
    with torch.no_grad():
        return QuasimetricHead(seeds, model.codes(), ~model.absent, 16, depth).requires_grad_(False)


def test_steps_are_those_of_the_walks(walked):
    _, walks = walked
    steps = _Steps.of(walks)
    assert len(steps.maps) == 1 and not walks.ended.all()
    logged = {(*before, *after[:2]) for before, after in zip(
        walks.poses[:, :-1].flatten(0, 1).tolist(), walks.poses[:, 1:].flatten(0, 1).tolist(), strict=True
    )}  # fmt: skip
    ways = set(map(tuple, torch.cat([walks.poses[:, :-1], walks.poses[:, 1:]], -1).flatten(0, 1).tolist()))
    maps, before, after = steps.draw(torch.Generator().manual_seed(0))
    assert maps.shape == (MAPS, 6, 6) and before.shape == after.shape == (MAPS, 2 * POSES, 3)
    drawn = set(map(tuple, torch.cat([before, after], -1).flatten(0, 1).tolist()))
    goal = (4, 4)
    assert {row[:5] for row in drawn} <= logged and {row for row in drawn if row[3:5] != goal} <= ways
    assert {row[5] for row in drawn if row[3:5] == goal} == {0, 1, 2, 3}, "the goal, whichever way one faces"
    assert any(tuple(pose[:2]) == goal for pose in steps.after[0].tolist())
    assert all(tuple(pose[:2]) != goal for pose in steps.before[0].tolist()), "nothing begins at the goal"


def test_the_head_sees_as_far_as_it_repeats(walked):
    _, walks = walked
    model = untrained(walks)
    head = head_of(model, depth=2)
    latents = model.encode(walks.maps[:1].long()[None]).detach()
    changed = latents.clone()
    changed[..., 0, 0, :] += 1.0
    apart = (head(latents) != head(changed)).any(-1)[0, 0].nonzero()
    assert apart.amax() == 2 and apart.amin() == 0  # one cell for each repetition, from the corner on


def test_a_pose_is_read_at_its_cell_and_direction(walked):
    _, walks = walked
    model = untrained(walks)
    head = head_of(model)
    cells = head(model.encode(walks.maps[:1].long()[None]).detach())
    poses = torch.tensor([[[[1, 2, 0], [2, 1, 0], [1, 2, 3]]]])
    points = head.embed(cells, poses)
    one_hot = torch.eye(4)[0].expand(1, 1, 1, 4)
    by_hand = head.read(torch.cat([cells[:, :, 2, 1][:, :, None], one_hot], -1))  # row 2, column 1
    torch.testing.assert_close(points[:, :, :1], by_hand)
    assert (points[0, 0, 0] != points[0, 0, 1]).any() and (points[0, 0, 0] != points[0, 0, 2]).any()


def test_a_member_is_the_same_in_company(walked):
    _, walks = walked
    more = tuple(range(10**6, 10**6 + 5))  # codes that the other member has and this one does not
    both, alone = untrained(walks, (0, 1), more), untrained(walks, (1,))
    latents = alone.encode(walks.maps[:1].long()[None]).detach()
    found = member_of(head_of(both, (0, 1)), 1)(latents)
    torch.testing.assert_close(found, head_of(alone, (1,))(latents), rtol=0, atol=0)


def test_it_learns_the_steps_of_a_layout_that_it_was_trained_in(walked):
    layout, walks = walked
    model = untrained(walks).requires_grad_(False)
    measured = {f"0/{name}": getattr(walks, name) for name in walks.__dataclass_fields__}
    head, history = train_quasimetric([measured], model, variant=None, config=CONFIG, device=CPU)
    head.requires_grad_(False)
    table = true_distances(layout)
    goal = torch.tensor([[4, 4, direction] for direction in range(4)])

    def agreement(head):
        cells = head(model.encode(walks.maps[:1].long()[None]))
        points = head.embed(cells, table.poses[None, None])[0, 0]
        ends = head.embed(cells, goal[None, None])[0, 0]
        steps = quasimetric(points[:, None], ends[None]).amin(1)
        return spearman(steps, table.distance)

    assert agreement(head) > 0.9 > agreement(head_of(model)) + 0.2
    assert history["violation"][-1].item() < 0.05


@pytest.mark.parametrize(
    ("name", "suited"),
    [("Empty-6x6", True), ("SimpleCrossingS9N1", True), ("LavaGapS5", False), ("DoorKey-5x5", False),
     ("Dynamic-Obstacles-5x5", False)],
)  # fmt: skip
def test_it_is_trained_where_maps_stay_and_episodes_end_at_the_goal_alone(name, suited):
    assert suits(walk_layouts([Layout(name, 0)], 30, 40, seed=0)) is suited


# ----------------------------------------------------------------------------------------------
# What it knows
# ----------------------------------------------------------------------------------------------


class Columns:
    """A planted head: a pose's point is its column."""

    def __call__(self, latents):
        return latents

    def embed(self, cells, poses):
        return poses[..., :1].float().expand(*poses.shape[:-1], 8)


class Truth:
    """A planted model: what MiniGrid does."""

    def __init__(self, layout):
        self.layout = layout

    def encode(self, contents):
        return torch.zeros(*contents.shape, 1)

    def step_contents(self, contents, actions):
        after = []
        for grid, action in zip(contents[0], actions[0].tolist(), strict=True):
            _, poses, _ = without_agent(grid[None])
            self.layout.reset()
            self.layout.place(poses[0])
            self.layout.step(action)
            pose = torch.tensor([self.layout.read_pose()])
            after.append(with_agent(self.layout.read_map()[None], pose, torch.zeros(1).long())[0])
        return torch.stack(after)[None]


@pytest.fixture
def episodes(walked):
    layout, _ = walked
    return choose_episodes([layout], 6, 2, "quasimetric")


def test_distances_lead_from_the_pose_to_the_goal(walked, episodes):
    layout, _ = walked
    distance = _Distances.of(Columns(), Truth(layout), episodes)
    torch.testing.assert_close(distance(episodes.pose), (4 - episodes.pose[:, 0]).float())
    beyond = episodes.pose.clone()
    beyond[:, 0] = 5
    assert (distance(beyond) == 0).all(), "a quasimetric the other way round would count these steps"


def test_descent_of_the_true_steps_arrives_and_of_their_opposite_does_not(walked, episodes):
    layout, _ = walked
    table = true_distances(layout)
    steps = {tuple(pose): float(far) for pose, far in zip(table.poses.tolist(), table.distance, strict=True)}

    def true(poses):
        return torch.tensor([steps.get(tuple(pose), 0.0) for pose in poses.tolist()])

    assert _descend(true, Truth(Layout("Empty-6x6", 0)), episodes, 20).tolist() == [1.0] * 6
    assert _descend(lambda poses: -true(poses), Truth(Layout("Empty-6x6", 0)), episodes, 20).sum() == 0
