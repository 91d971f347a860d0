"""Planning in experiment 8: energies of every source, gradients, budgets, episodes and their judgement."""

from dataclasses import replace

import pytest
import torch

from common.planners.problem import BudgetExceeded
from common.run.random import generator
from exp8_two_pillars.energies import CLIPPED_TO, SMOOTHED_OVER, SOURCES, make_judge, make_problem
from exp8_two_pillars.evaluate_planning import (
    Loop,
    Plans,
    judge_path,
    measure_planning,
    measure_random_policy,
    measure_straight_policy,
    planner_named,
)
from exp8_two_pillars.models import make_model
from exp8_two_pillars.parts import base_world
from exp8_two_pillars.tasks import make_tasks
from exp8_two_pillars.world import SPEED, World, maze_walls
from tests.test_exp8_models import CPU, tiny

CONFIG = tiny((0, 1), episode_length=10, plan_rollouts=32)
WORLD = base_world(CONFIG)


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(WORLD, 3, (30, 43), WORLD)


@pytest.fixture(scope="module")
def model():
    return make_model(WORLD, CONFIG, metric="infonce", stride=5).requires_grad_(False)


def plans_at_random(problems, count, horizon):
    return 2 * torch.rand(problems, count, horizon, 2, generator=generator(0, "plans")) - 1


def states_of(tasks):
    return tasks.starts.expand(2, -1, -1)


def test_a_model_is_asked_for_each_problems_own_start_and_goal(tasks, model):
    judge = make_judge("model", WORLD, model, states_of(tasks), tasks)
    actions = plans_at_random(6, 4, 10)
    found = judge.energies(actions)
    assert found.shape == (6, 4, 2) and judge.stride == 5
    for problem, candidate in ((0, 0), (4, 2), (5, 3)):
        seed, task = divmod(problem, 3)
        pictures = WORLD.picture(torch.stack((tasks.starts[task], tasks.goals[task])))
        start, goal = model.encode(pictures.expand(2, -1, -1)).unbind(1)
        rolled = model.roll(start[:, None], actions[None, None, problem, candidate].expand(2, -1, -1, -1))
        expected = model.energy(rolled, goal[:, None])[seed, 0]
        torch.testing.assert_close(found[problem, candidate], expected)


def test_the_simulator_judges_the_true_pictures(tasks, model):
    judge = make_judge("simulator", WORLD, model, states_of(tasks), tasks)
    actions = plans_at_random(6, 2, 10)
    true = WORLD.rollout(tasks.starts[1], actions[4, 1])[1:]
    goal = model.encode(WORLD.picture(tasks.goals[1]).expand(2, 1, -1))
    expected = model.energy(model.encode(WORLD.picture(true).expand(2, -1, -1))[:, None], goal)[1, 0]
    torch.testing.assert_close(judge.energies(actions)[4, 1], expected)


def test_true_values_with_the_models_gradient(tasks, model, float64):
    """Values are the simulator's; the gradient is the chain of the model's steps at the true latents."""
    tasks, model = tasks.to(torch.float64), make_model(WORLD, CONFIG, metric="infonce", stride=5).double()
    model.requires_grad_(False)
    actions = plans_at_random(6, 1, 10).double().requires_grad_()
    judge = make_judge("true_value", WORLD, model, states_of(tasks), tasks)
    true = make_judge("simulator", WORLD, model, states_of(tasks), tasks)
    torch.testing.assert_close(judge.energies(actions), true.energies(actions)[..., 4::5])
    (found,) = torch.autograd.grad(judge.energies(actions)[..., -1].sum(), actions)
    states = WORLD.rollout(tasks.starts, actions[:3, 0].detach())
    latents = model.encode(WORLD.picture(states[:, ::5]).expand(2, -1, -1, -1))[:1]  # of the first seed
    blocks = model.blocks(actions[None, :3, 0].detach())
    (_, _), (to_state, to_second) = [
        model.step_jacobians(latents[:, :, k].expand(2, -1, -1), blocks[:, :, k].expand(2, -1, -1))
        for k in (0, 1)
    ]
    last = latents[:, :, 2].detach().requires_grad_()
    goals = model.encode(WORLD.picture(tasks.goals).expand(2, -1, -1))
    slope = torch.autograd.grad(model.energy(last.expand(2, -1, -1)[:, :, None], goals)[0].sum(), last)[0][0]
    expected = torch.einsum("pi,pij->pj", slope, to_second[0])
    torch.testing.assert_close(found[:3, 0, 5:].flatten(1), expected)
    _, to_first = model.step_jacobians(latents[:, :, 0].expand(2, -1, -1), blocks[:, :, 0].expand(2, -1, -1))
    earlier = torch.einsum("pi,pij,pjk->pk", slope, to_state[0], to_first[0])
    torch.testing.assert_close(found[:3, 0, :5].flatten(1), earlier)


def test_clipping_changes_gradients_and_no_value(tasks, model):
    actions = plans_at_random(6, 2, 20).requires_grad_()
    plain, clipped = (
        make_judge(source, WORLD, model, states_of(tasks), tasks) for source in ("model", "clipped")
    )
    torch.testing.assert_close(plain.energies(actions), clipped.energies(actions))
    large = torch.autograd.grad(1e6 * clipped.energies(actions).sum(), actions)[0]
    larger = torch.autograd.grad(1e6 * plain.energies(actions).sum(), actions)[0]
    assert large.abs().max() < 1e-3 * larger.abs().max() and CLIPPED_TO < 1e6
    small = torch.autograd.grad(1e-6 * clipped.energies(actions).sum(), actions)[0]
    torch.testing.assert_close(small, 1e-12 * larger, atol=1e-12, rtol=1e-3)


def test_smoothing_averages_and_is_charged(tasks, model):
    judge = make_judge("smoothed", WORLD, model, states_of(tasks), tasks)
    plain = make_judge("model", WORLD, model, states_of(tasks), tasks)
    actions = torch.zeros(6, 1, 10, 2)
    assert (judge.energies(actions) - plain.energies(actions)).abs().max() > 1e-6
    problem = make_problem(judge, 10, 32, "final", 0.1)
    problem.rollout(actions.expand(-1, 32 // SMOOTHED_OVER, -1, -1))
    with pytest.raises(BudgetExceeded):
        problem.rollout(actions)


def test_the_true_cost_falls_along_the_way(tasks):
    judge = make_judge("cost_to_go", World("none", 0.0, "lorenz", 0, 0, 0), None, states_of(tasks), tasks)
    towards = (tasks.goals[:, :2] - tasks.starts[:, :2]).sign()[:, None, None].expand(-1, 1, 5, -1)
    costs = judge.energies(towards.repeat(2, 1, 1, 1))[:, 0]
    assert costs.shape == (6, 5) and judge.stride == 1


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_plans_within_its_budget(source, tasks, model):
    found = measure_planning(
        WORLD, model, tasks, Plans("random_shooting", Loop("closed", 10), source), config=CONFIG, device=CPU
    )
    assert found["states"].shape == (2, 3, 11, 2 + WORLD.d_wind)
    steps = 1 if source in ("simulator", "calm", "cost_to_go") else 5
    count = 32 // (SMOOTHED_OVER if source == "smoothed" else 1)
    assert found["evaluations"] == count * 10 // steps and found["rollouts"] == 32


def test_an_unknown_source_is_refused(tasks, model):
    with pytest.raises(ValueError, match="no source"):
        make_judge("hope", WORLD, model, states_of(tasks), tasks)


def test_with_the_true_cost_every_goal_is_reached():
    """So that a failure is the model's or the distance's."""
    open_ = World("none", 0.0, "lorenz", 0.0, 0.0, 0.0)
    tasks = make_tasks(open_, 6, (8, 15), open_)
    config = tiny((0,), episode_length=30, plan_rollouts=100)
    unused = make_model(open_, config, metric="none")
    for planner in ("icem", "normalised_gradient"):
        plans = Plans(planner, Loop("closed", 10), "cost_to_go")
        found = measure_planning(open_, unused, tasks, plans, config=config, device=CPU)
        outcome = judge_path(found["states"], tasks, open_.walls)
        assert outcome["success"].all(), planner
        assert (outcome["steps"] >= tasks.cost - 0.2 / SPEED - 2).all()


def test_a_seed_plans_the_same_in_any_company(tasks, model, one_thread):
    alone = make_model(WORLD, tiny((1,)), metric="infonce", stride=5).requires_grad_(False)
    plans = Plans("icem", Loop("open", 10))
    beside = measure_planning(WORLD, model, tasks, plans, config=CONFIG, device=CPU)
    config = tiny((1,), episode_length=10, plan_rollouts=32)
    single = measure_planning(WORLD, alone, tasks, plans, config=config, device=CPU)
    torch.testing.assert_close(beside["states"][1:], single["states"])


def test_paths_are_judged_by_nearest_and_by_last(tasks):
    goals = tasks.goals[:, None].repeat(2, 1, 4, 1).view(2, 3, 4, -1)
    away = torch.tensor([1.0, 0.1, 0.5, 0.3])
    path = goals.clone()
    path[..., 0] += away
    found = judge_path(path, tasks, ())
    assert found["success"].all() and not found["final_success"].any()
    assert (found["steps"] == 1).all()
    torch.testing.assert_close(found["nearest"], torch.full((2, 3), 0.1))
    torch.testing.assert_close(found["distance"], torch.full((2, 3), 0.3))
    path[..., 0] += 5
    found = judge_path(path, tasks, ())
    assert not found["success"].any() and (found["steps"] == 3).all()


def test_a_goal_behind_a_wall_is_not_reached(tasks):
    goal = torch.tensor([0.1, -0.9])
    one = replace(tasks, goals=torch.cat((goal, tasks.goals[0, 2:]))[None])
    path = one.goals.repeat(1, 3, 1)[None]
    path[..., :2] = torch.tensor([[-0.5, -0.9], [-0.05, -0.9], [0.15, -0.9]])  # the wall stands at 0
    walls = maze_walls("one_wall", 0.5)
    assert judge_path(path, one, ())["steps"] == 1
    assert judge_path(path, one, walls)["steps"] == 2
    hidden = judge_path(path[:, :, :2], one, walls)
    assert not hidden["success"].any() and hidden["nearest"] < 0.2


def test_a_random_policy_looks_at_nothing(tasks):
    found = measure_random_policy(WORLD, tasks, config=CONFIG, device=CPU)
    assert found["states"].shape == (2, 3, 11, 2 + WORLD.d_wind)


def test_walking_straight_arrives_where_no_wall_stands():
    open_ = World("none", 0.0, "lorenz", 0.0, 0.0, 0.0)
    one_wall = World("one_wall", 0.7, "lorenz", 0.0, 0.0, 0.0)
    config = tiny((0, 1), episode_length=40)
    for world, arrives in ((open_, True), (one_wall, False)):
        tasks = make_tasks(one_wall, 6, (25, 35), one_wall)
        states = measure_straight_policy(world, tasks, config=config, device=CPU)["states"]
        assert states.shape == (2, 6, 41, 2 + world.d_wind)
        found = judge_path(states, tasks, world.walls)
        assert found["final_success"].all() if arrives else not found["success"].any()


def test_half_of_a_closed_plan_is_executed():
    assert Loop("closed", 20).executed() == 10 and Loop("open", 20).executed() == 20
    assert planner_named("icem") == planner_named("icem")


def test_a_calm_judge_does_not_see_the_wind(tasks, model):
    """Where no wind pushes, two winds lead to the same place; by `simulator` they are not judged the same."""
    still = World("s", 0.7, "lorenz", 0.0, 0.125, 0.2)
    actions = plans_at_random(6, 1, 5)
    blown = tasks.starts.clone()
    blown[:, 2:] = blown[:, 2:].roll(1, 0)
    for source, same in (("calm", True), ("simulator", False)):
        found = [
            make_judge(source, still, model, starts.expand(2, -1, -1), tasks).energies(actions)
            for starts in (tasks.starts, blown)
        ]
        assert torch.allclose(*found, atol=1e-6) is same, source
