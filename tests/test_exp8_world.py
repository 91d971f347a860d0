"""Experiment 8's world: walls hold, ways round have known lengths, winds stretch, tasks are what they say."""

import math

import pytest
import torch

from common.jacobian_utils import jacobians
from common.run.random import generator
from exp8_two_pillars.dataset import Walks, coloured_noise, draw_pairs, draw_windows, make_walks
from exp8_two_pillars.tasks import (
    CELLS,
    REACHED,
    Tasks,
    cell_centres,
    cost_to_go,
    interpolate,
    make_tasks,
    make_wind_tasks,
    nearest_cell,
)
from exp8_two_pillars.world import MAZES, RADIUS, SPEED, WINDS, World, crosses, maze_walls, move

S = World("s", 0.7, "lorenz", 0.008, 0.125, 0.2)
EMPTY = World("none", 0.0, "lorenz", 0.0, 0.125, 0.0)


def draw(stream="test"):
    return generator(0, stream)


def in_the_box(count, stream="positions"):
    return 2 * torch.rand(count, 2, generator=draw(stream)) - 1


@pytest.mark.parametrize("maze", MAZES)
def test_no_move_crosses_a_wall_or_leaves_the_box(maze):
    walls = maze_walls(maze, 0.7)
    at = in_the_box(4000)
    for steps in 0.15 * torch.randn(40, 4000, 2, generator=draw("steps")):
        there = move(at, steps, walls)
        assert (there.abs() <= 1).all()
        assert not crosses(at, there - at, walls).any()
        at = there


def test_a_move_stops_at_its_radius_and_slides():
    walls = maze_walls("s", 0.7)  # the first wall stands at x = -1/3, up to y = .4
    steps = torch.tensor([[0.2, 0.1], [0.2, 0.1], [-0.2, 0.1], [0.0, 0.1]])
    at = torch.tensor([[-0.45, 0.0], [-0.45, 0.9], [-0.2, 0.0], [-0.34, 0.0]])
    expected = torch.tensor([[-1 / 3 - RADIUS, 0.1], [-0.25, 1.0], [-1 / 3 + RADIUS, 0.1], [-0.34, 0.1]])
    torch.testing.assert_close(move(at, steps, walls), expected)


def test_the_corner_between_two_walls_holds():
    walls = maze_walls("spiral", 0.75)  # two of its walls meet at (.5, -.5)
    at, aim = torch.tensor([0.45, -0.45]), torch.tensor([0.1, -0.1])
    for shift in torch.linspace(-1e-4, 1e-4, 21):
        assert not crosses(at, move(at, aim + torch.tensor([shift, 0.0]), walls) - at, walls)


def test_moves_are_differentiated_as_finite_differences_say(float64):
    at, steps = in_the_box(200).double(), 0.1 * torch.randn(200, 2, generator=draw("s")).double()
    walls = maze_walls("s", 0.7)
    (found,) = jacobians(lambda taken: move(at, taken, walls), steps)  # [200, 2, 2]
    for axis, wiggle in enumerate(1e-7 * torch.eye(2)):
        difference = (move(at, steps + wiggle, walls) - move(at, steps, walls)) / 1e-7
        agrees = (difference - found[..., axis]).norm(dim=-1) < 1e-5
        assert agrees.double().mean() > 0.97  # but where a wall is just reached


def test_the_cost_to_go_without_walls_is_the_larger_of_both_distances():
    goals = in_the_box(5)
    away = (cell_centres()[None] - goals[:, None]).abs().amax(-1) / SPEED
    assert (cost_to_go(EMPTY, goals) - away).abs().max() < 2 / CELLS / SPEED


def test_the_cost_to_go_leads_round_the_walls():
    """In the S from one outer corner to the other: 1.4 up, .8 down, 1.4 up, 0.08 a step."""
    cost = cost_to_go(S, torch.tensor([[0.99, 0.99]]))[0]
    assert abs(float(cost[nearest_cell(torch.tensor([-0.99, -0.99]))]) - 3.6 / SPEED) < 1
    inside = cost_to_go(World("spiral", 0.75, "lorenz", 0, 0, 0), torch.tensor([[0.0, 0.0]]))
    assert inside.isfinite().all() and inside.max() > 50


def test_interpolation_is_exact_on_slopes_and_does_not_look_through_walls(float64):
    centres = cell_centres()
    slope = (centres @ torch.tensor([3.0, -2.0]))[None]
    at = 0.9 * in_the_box(50).double()[None]
    torch.testing.assert_close(interpolate(slope, at)[0], at[0] @ torch.tensor([3.0, -2.0]))
    field = cost_to_go(S, torch.tensor([[0.9, 0.9]])).double()
    beside = torch.tensor([[[1 / 3 - 0.01, 0.9]]])  # the goal's side of the wall is 30 steps nearer
    assert interpolate(field, beside) > interpolate(field, beside + torch.tensor([0.03, 0.0])) + 25


@pytest.mark.parametrize("wind", WINDS)
def test_winds_are_normalised_and_their_rollouts_stretch(wind):
    world = World("none", 0.0, wind, 0.008, 0.125, 0.2)
    walks = make_walks(world, [0], 300, 60)
    states = walks.states[0, :, :, 2:]
    assert states.isfinite().all()
    assert states[:, 0].mean((0,)).abs().max() < 0.3 and (states[:, 0].std((0,)) - 1).abs().max() < 0.3
    near = walks.states[0, :, 0].double()
    near[:, 2] += 1e-9
    apart = world.rollout(near, walks.actions[0].double()) - world.rollout(
        walks.states[0, :, 0].double(), walks.actions[0].double()
    )
    grown = (apart[:, -1, 2:].norm(dim=-1) / 1e-9).log().mean() / 60
    assert 0.08 < grown < 0.3  # Lyapunov exponent, per step


def test_actions_kick_the_wind_and_the_wind_pushes():
    start = torch.cat((torch.zeros(2), torch.tensor([1.0, -1.0, 0.0])))
    still = S.step(start, torch.zeros(2))
    torch.testing.assert_close(still[:2], torch.tensor([0.008, -0.008]))
    kicked = S.step(start, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(kicked[0], torch.tensor(SPEED + 0.008))
    assert (kicked[2:] - still[2:]).norm() > 0.05
    torch.testing.assert_close(S.step(start, torch.tensor([9.0, 0.0])), kicked)  # held in the box


def test_the_picture_is_a_blob_and_some_wind():
    states = torch.tensor([[-1.0, 1.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 2.0, 0.0, 0.0]])
    calm, windy = S.picture(states).view(2, 8, 8)
    assert calm.argmax() == 7 and abs(float(calm.max()) - 1) < 1e-6  # first column of x, last of y
    assert 0.02 < float((windy - calm).abs().mean()) <= 0.2
    assert torch.equal(World("s", 0.7, "lorenz", 0, 0, 0).picture(states)[0], calm.flatten())
    other = World("s", 0.7, "lorenz", 0.008, 0.125, 0.2, side=12, projection=1)
    assert other.picture(states).shape == (2, 144) and other.name == "s/lorenz_picture1"


def test_names_say_whether_there_is_a_wind():
    assert S.name == "s/lorenz" and EMPTY.name == "none/off"


def test_tasks_have_their_steps_and_the_same_places_in_another_world():
    tasks = make_tasks(S, 20, (30, 43), S)
    assert tasks.cost.min() >= 29 and tasks.cost.max() <= 44 and len(tasks) == 20
    same = make_tasks(World("none", 0.7, "lorenz", 0.0, 0.125, 0.0), 20, (30, 43), S)
    assert torch.equal(same.starts[:, :2], tasks.starts[:, :2]) and (same.cost < 26).all()
    with pytest.raises(ValueError, match="too few tasks"):
        make_tasks(EMPTY, 5, (30, 43), EMPTY)


def test_wind_tasks_can_be_reached_and_count_the_wind():
    tasks = make_wind_tasks(S, 6, 10)
    hidden = coloured_noise(torch.randn(6, 10, 2, generator=replayed(6)))
    reached = S.rollout(tasks.starts, hidden)
    torch.testing.assert_close(reached[:, -1], tasks.goals)
    assert (tasks.away(reached[None])[0, :, -1] < REACHED).all()
    blown = tasks.goals.clone()
    blown[:, 2] += 0.6
    assert (tasks.away(blown[None, :, None]) > REACHED).all()
    plain = Tasks(tasks.starts, tasks.goals, tasks.field, tasks.cost)
    assert (plain.away(blown[None, :, None]) == 0).all()


def replayed(count):
    """The generator of wind tasks, after their starts."""
    again = generator(0, f"{S.name}/tasks/with wind/10")
    S.sample_positions(count, again)
    S.sample_winds(count, again)
    return again


def clock():
    """Walks whose states say which walk and when."""
    when = torch.arange(101.0).expand(1, 50, 101)
    which = torch.arange(50.0)[None, :, None].expand(1, 50, 101)
    return Walks(torch.stack((which, when), -1), torch.zeros(1, 50, 100, 2))


def test_windows_are_runs_of_one_walk():
    states, actions = draw_windows(clock(), [draw()], 64, 40, 5)
    assert states.shape == (1, 64, 9, 2) and actions.shape == (1, 64, 40, 2)
    assert (states[..., 1].diff(dim=2) == 5).all() and (states[..., 0].diff(dim=2) == 0).all()


def test_pairs_are_geometric_and_of_one_walk():
    here, there = draw_pairs(clock(), [draw()], 20000, 0.8, 30)
    assert torch.equal(here[..., 0], there[..., 0])
    gaps = (there - here)[0, :, 1][here[0, :, 1] < 60]  # those that no walk's end cuts short
    assert gaps.min() == 1 and gaps.max() == 30
    for longer in (1, 3, 8):
        share = (gaps > longer).double().mean()
        assert abs(share - 0.8**longer) < 4 * math.sqrt(0.25 / len(gaps)) + 1e-3


def test_a_seed_walks_the_same_in_any_company(one_thread):
    alone, beside = make_walks(S, [3], 5, 12), make_walks(S, [1, 3], 5, 12)
    assert torch.equal(alone.actions[0], beside.actions[1])
    torch.testing.assert_close(alone.states[0], beside.states[1])
