"""The belief model against closed forms and finite differences, and the two planners whose horizon grows."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.planners import GROWING, make_planner
from common.planners.belief import grown_horizon
from common.planners.belief_model import BeliefModel
from common.planners.candidates import one_hot
from common.planners.gradient_fidelity import fidelity_budget, gradient_fidelity
from common.planners.problem import BudgetExceeded, NoFinitePlan, PlanningProblem
from common.planners.table_model import TableModel
from tests.pose_grids import room

SMALL, STEPS = room(6)
STARTS = torch.tensor([0, 10, 37, 90])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_model(seed, sizes=(5, 3, 7), num_actions=3, width=2):
    """Blocks of random stochastic transitions: the model and its starts."""
    draw, successors, offset = generator(seed), [], 0
    for size in sizes:
        successors.append(offset + torch.randint(size, (size, num_actions, width), generator=draw))
        offset += size
    probabilities = torch.rand(offset, num_actions, width, generator=draw)
    probabilities /= probabilities.sum(-1, keepdim=True)
    energy = torch.randn(offset, generator=draw)
    sizes = torch.tensor(sizes)
    return BeliefModel(torch.cat(successors), probabilities, energy, sizes), sizes.cumsum(0) - sizes


def copies(table: TableModel, starts: torch.Tensor) -> tuple[BeliefModel, torch.Tensor]:
    """A deterministic table as a belief model, one block a start."""
    states, count = len(table.energy), len(starts)
    offsets = torch.arange(count) * states
    successors = (table.next_state.repeat(count, 1) + offsets.repeat_interleave(states)[:, None])[..., None]
    energy = table.energy.float().repeat(count)
    model = BeliefModel(successors, torch.ones(successors.shape), energy, torch.full((count,), states))
    return model, starts + offsets


def relaxed(model, count, horizon, seed):
    shape = (len(model.sizes), count, horizon, model.num_actions)
    return torch.randn(shape, generator=generator(seed)).softmax(-1)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_mass_is_conserved_and_no_step_expands_a_difference(seed):
    model, starts = random_model(seed)
    beliefs = model.beliefs(starts, relaxed(model, 1, 6, seed)[:, 0])
    assert (beliefs >= 0).all()
    for belief in beliefs:
        torch.testing.assert_close(model.sum_blocks(belief), torch.ones(3))
    first, second = (torch.rand(15, generator=generator(seed + k)) for k in (1, 2))
    weights = relaxed(model, 1, 1, seed)[:, 0, 0]
    before = model.sum_blocks((first - second).abs())
    after = model.sum_blocks((model.advance(first, weights) - model.advance(second, weights)).abs())
    assert (after <= before + 1e-5).all()


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_the_gradient_is_that_of_finite_differences(seed):
    model, starts = random_model(seed)
    model.energy, model.probabilities = model.energy.double(), model.probabilities.double()
    actions = relaxed(model, 2, 4, seed).double().requires_grad_()
    energies = model.energies(starts)
    assert torch.autograd.gradcheck(energies, (actions,), eps=1e-5, atol=1e-6)


def test_the_energy_is_the_expectation_over_all_ways():
    """Two steps by hand: E[E(s_2)] = sum over s_1, s_2 of P(s_1) P(s_2 | s_1) E(s_2)."""
    model, starts = random_model(3, sizes=(4,))
    actions = relaxed(model, 1, 2, 4)
    matrix = torch.zeros(4, 3, 4).scatter_add_(2, model.successors, model.probabilities)
    first, second = (torch.einsum("k,skt->st", weights, matrix) for weights in actions[0, 0])
    expected = torch.stack([first[0] @ model.energy, first[0] @ second @ model.energy])
    torch.testing.assert_close(model.energies(starts)(actions)[0, 0], expected)


def test_a_deterministic_model_walks_as_the_table_does():
    model, starts = copies(SMALL, STARTS)
    plans = torch.randint(3, (4, 5, 8), generator=generator(1))
    expected = SMALL.energies(STARTS)(one_hot(plans, 3))
    torch.testing.assert_close(model.energies(starts)(one_hot(plans, 3)), expected)
    soft = relaxed(model, 2, 8, 2)
    torch.testing.assert_close(model.energies(starts)(soft), SMALL.energies(STARTS)(soft))


def test_gradient_fidelity_is_1_with_and_without_chance():
    model, starts = random_model(5)
    problem = model.problem(starts, 6, fidelity_budget(6, 3), over_time="final")
    plans = torch.randint(3, (3, 6), generator=generator(2))
    torch.testing.assert_close(gradient_fidelity(problem, plans), torch.ones(3).double(), atol=1e-4, rtol=0)


def test_what_is_no_kernel_is_refused():
    model, _ = random_model(0)
    parts = (model.successors, model.probabilities, model.energy, model.sizes)
    wrong = {
        "sum to 1": (parts[0], parts[1] * 0.9, *parts[2:]),
        "block of its state": (parts[0].flip(0), *parts[1:]),
        "finite": (*parts[:2], parts[2] / 0, parts[3]),
        "blocks of 15": (*parts[:3], parts[3] - 1),
    }
    for words, arguments in wrong.items():
        with pytest.raises(ValueError, match=words):
            BeliefModel(*arguments)
    with pytest.raises(ValueError, match="in order"):
        model.energies(torch.tensor([5, 0, 8]))


# ----------------------------------------------------------------------------------------------
# Planners
# ----------------------------------------------------------------------------------------------


def test_the_horizon_grows_from_3_to_all():
    grown = [grown_horizon(index, 100, 50, 0.8, 3) for index in range(100)]
    assert grown[0] == 3 and grown == sorted(grown)
    assert grown[79:] == [50] * 21 and grown[40] == 26
    assert grown_horizon(0, 1, 2, 0.8, 3) == 2


@pytest.mark.parametrize("horizon", [12, 20])
def test_the_belief_planner_finds_shortest_ways(horizon):
    model, starts = copies(SMALL, STARTS)
    plan = make_planner("belief")(
        model.problem(starts, horizon, 320 * horizon, over_time="final"), generator()
    )
    reachable = STEPS[STARTS] <= horizon
    assert torch.equal(plan.energy == 0, reachable)
    assert plan.evaluations <= 320 * horizon


def test_the_growing_cem_is_better_than_chance():
    model, starts = copies(SMALL, STARTS)
    plan = make_planner("cem_growing")(model.problem(starts, 16, 320 * 16, over_time="final"), generator())
    alone = make_planner("random_shooting")(
        model.problem(starts, 16, 320 * 16, over_time="final"), generator()
    )
    assert plan.energy.sum() < alone.energy.sum() and plan.evaluations <= 320 * 16


@pytest.mark.parametrize("name", GROWING)
def test_the_returned_energy_is_that_of_the_returned_plan(name):
    model, starts = copies(SMALL, STARTS)
    plan = make_planner(name)(model.problem(starts, 9, 2000, over_time="final"), generator(3))
    torch.testing.assert_close(
        plan.energy, model.energies(starts)(one_hot(plan.actions, 3)[:, None])[:, 0, -1]
    )
    again = make_planner(name)(model.problem(starts, 9, 2000, over_time="final"), generator(3))
    assert torch.equal(plan.actions, again.actions)


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("horizon", [1, 2, 10])
def test_the_least_budget_is_enough_and_less_is_told_in_a_line(name, horizon):
    planner = make_planner(name)
    least = planner.least_rollouts
    plan = planner(SMALL.problem(STARTS, horizon, least * horizon, over_time="final"), generator())
    assert plan.evaluations <= least * horizon
    with pytest.raises(BudgetExceeded, match=f"needs {least} rollouts"):
        planner(SMALL.problem(STARTS, horizon, least * horizon - 1, over_time="final"), generator())


@pytest.mark.parametrize("name", GROWING)
def test_energies_that_are_not_finite_are_told(name):
    problem = PlanningProblem(
        lambda actions: actions.sum(-1) * torch.nan, num_problems=2, horizon=4, num_actions=3, budget=400,
        energy_scale=torch.ones(2), over_time="final",
    )  # fmt: skip
    with pytest.raises(NoFinitePlan):
        make_planner(name)(problem, generator())


def test_every_hyperparameter_of_belief_is_checked():
    wrong = {
        "iterations": 0, "rate": 0.0, "betas": (0.5, 1.0), "growth": 1.5, "least_horizon": 0, "slack": -1.0,
        "hard_samples": 0, "hard_every": 0,
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(GROWING["belief"])} == set(wrong)
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{name} = "):
            make_planner("belief", **{name: value})
    for name in ("growth", "least_horizon"):
        with pytest.raises(ValueError, match=f"^{name} = "):
            make_planner("cem_growing", **{name: 0})


def test_a_rollout_until_costs_its_steps_and_judges_each_problem_at_its_own():
    problem = SMALL.problem(STARTS, 8, 100)
    plans = one_hot(torch.randint(3, (4, 2, 8), generator=generator(1)), 3)
    steps = torch.tensor([1, 5, 3, 4])
    found = problem.rollout_until(plans, steps)
    assert problem.evaluations == 2 * 5 and problem.over_time == "softmin"
    over_time = SMALL.energies(STARTS)(plans)
    torch.testing.assert_close(
        found, torch.stack([over_time[b, :, step - 1] for b, step in enumerate(steps)])
    )
    for wrong in (torch.tensor([0, 1, 1, 1]), torch.tensor([9, 1, 1, 1]), torch.tensor([1])):
        with pytest.raises(ValueError, match="steps must be"):
            problem.rollout_until(plans, wrong)
