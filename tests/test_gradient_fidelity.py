"""Gradient fidelity on models whose gradients are known to be exact, misleading or absent."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.latent.alignment import greedy_success
from common.minigrid.table import tabulate
from common.minigrid.walks import distances_to
from common.planners.gradient_fidelity import fidelity_budget, gradient_fidelity
from common.planners.problem import PlanningProblem
from common.run.random import generator
from tests.pose_grids import room

BATCH, HORIZON, ACTIONS = 5, 6, 3


def problem(energies):
    budget = fidelity_budget(HORIZON, ACTIONS)
    return PlanningProblem(
        energies, num_problems=BATCH, horizon=HORIZON, num_actions=ACTIONS, budget=budget,
        energy_scale=torch.ones(BATCH), over_time="final",
    )  # fmt: skip


def random_plans():
    return torch.randint(ACTIONS, (BATCH, HORIZON), generator=generator(0, "plans"))


def weights():
    return torch.randn(HORIZON, ACTIONS, generator=generator(1, "weights"))


def linear(actions):
    """An energy that is linear in the actions, as the last of T."""
    return (actions * weights()).sum((-2, -1))[..., None].expand(*actions.shape[:2], HORIZON)


def test_it_is_one_in_the_table_model():
    """The table's energy is multilinear in the actions, so the gradient knows every single swap."""
    model, distance = room(4)
    starts = (distance > 2).nonzero().squeeze(1)[:BATCH]
    task = model.problem(starts, HORIZON, fidelity_budget(HORIZON, ACTIONS), over_time="final")
    found = gradient_fidelity(task, random_plans())
    known = found[~found.isnan()]
    assert len(known) >= 2
    torch.testing.assert_close(known, torch.ones_like(known))


def test_it_spends_the_budget_that_it_says():
    instance = problem(linear)
    torch.testing.assert_close(gradient_fidelity(instance, random_plans()), torch.ones(BATCH).double())
    assert instance.evaluations == instance.budget


def test_it_is_minus_one_where_the_gradient_has_the_wrong_sign():
    """f(a) + 2 sg(..) trick: the value is linear, its gradient the negative of it."""

    def reversed_slope(actions):
        value = linear(actions)
        return 2 * value.detach() - value

    torch.testing.assert_close(
        gradient_fidelity(problem(reversed_slope), random_plans()), -torch.ones(BATCH).double()
    )


def test_no_gradient_gives_zero_and_no_change_gives_nan():
    blind = gradient_fidelity(
        problem(lambda actions: linear(actions).detach() + 0 * linear(actions)), random_plans()
    )
    torch.testing.assert_close(blind, torch.zeros(BATCH).double())
    constant = gradient_fidelity(problem(lambda actions: 0 * linear(actions)), random_plans())
    assert constant.isnan().all()


def bent(actions):
    return torch.sin(3 * linear(actions)) + linear(actions).square()


@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e8, 1e30])
def test_it_does_not_depend_on_the_unit_of_energy(unit):
    plain = gradient_fidelity(problem(bent), random_plans())
    assert plain.isfinite().all() and (plain.abs() < 0.99).any()
    scaled = gradient_fidelity(problem(lambda actions: unit * bent(actions)), random_plans())
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-5)
    constant = gradient_fidelity(problem(lambda actions: unit * (7 + 0 * linear(actions))), random_plans())
    assert constant.isnan().all()


def test_rounding_alone_foretells_nothing():
    """Energies of about 1e4 that differ in their last bits."""
    nearly = gradient_fidelity(problem(lambda actions: 1e4 + 1e-5 * linear(actions)), random_plans())
    assert nearly.isnan().all()


def test_plans_of_another_shape_and_energies_without_gradient_are_refused():
    with pytest.raises(ValueError, match="plans must be"):
        gradient_fidelity(problem(linear), random_plans()[:, 1:])
    with pytest.raises(ValueError, match="no gradient"):
        gradient_fidelity(problem(lambda actions: linear(actions).detach()), random_plans())


def test_it_agrees_with_a_loop_over_swaps():
    plans = random_plans()
    found = gradient_fidelity(problem(bent), plans)
    for row, plan in enumerate(plans):
        one_hot = F.one_hot(plan, ACTIONS).float().requires_grad_()
        energy = bent(one_hot[None, None])[0, 0, -1]
        (slope,) = torch.autograd.grad(energy, one_hot)
        predicted, actual = [], []
        for time in range(HORIZON):
            for action in set(range(ACTIONS)) - {int(plan[time])}:
                other = plan.clone()
                other[time] = action
                changed = bent(F.one_hot(other, ACTIONS).float()[None, None])[0, 0, -1]
                predicted.append(float(slope[time, action] - slope[time, plan[time]]))
                actual.append(float(changed - energy.detach()))
        assert float(found[row]) == pytest.approx(np.corrcoef(predicted, actual)[0, 1], abs=1e-4)


def test_greedy_success_follows_the_true_world():
    world = tabulate("Empty-5x5")
    distance = distances_to(world.next_state, world.goal_states)
    downhill = distance[world.next_state].argmin(1)
    starts = (distance > 0).nonzero().squeeze(1)
    turning = torch.zeros(world.num_states, dtype=torch.int64)
    torch.testing.assert_close(
        greedy_success(world, torch.stack([downhill, turning]), starts), torch.tensor([1.0, 0.0]).double()
    )
