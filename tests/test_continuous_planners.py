"""Planners on continuous actions, on linear dynamics with quadratic energies, where the optimum is known."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.planners.candidates import Noise
from common.planners.coloured_noise import autoregressive_noise, power_law_noise
from common.planners.continuous import CONTINUOUS_PLANNERS, make_continuous_planner
from common.planners.continuous.problem import ContinuousProblem, moved_on
from common.planners.control import execute_open_loop, receding_horizon
from common.planners.problem import BudgetExceeded, NoFinitePlan
from common.planners.rounds import path_integral_weights, populations

GRADIENT_PLANNERS = ("gradient", "normalised_gradient", "adam")
SAMPLING_PLANNERS = ("icem", "mppi", "random_shooting")
DRIFT = torch.tensor([[1.0, 0.2], [-0.1, 0.95]])
PUSH = torch.tensor([[0.0, 0.1], [0.2, 0.0]])
EFFORT = 0.05  # weight of |u|^2 at every step
STARTS = torch.tensor([[0.6, -0.4], [-0.3, 0.5], [0.2, 0.7], [-0.5, -0.6]])
CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratic(starts, stride=1):
    """|x_t|^2 plus the effort so far, after every `stride` steps of x' = DRIFT x + PUSH u."""

    def energies(actions):
        state, effort, found = starts[:, None].expand(-1, actions.shape[1], -1), 0.0, []
        for action in actions.unbind(2):
            state = (DRIFT * state[..., None, :]).sum(-1) + (PUSH * action[..., None, :]).sum(-1)
            effort = effort + EFFORT * action.square().sum(-1)
            found.append(state.square().sum(-1) + effort)
        return torch.stack(found[stride - 1 :: stride], -1)

    return energies


def problem_of(starts=STARTS, horizon=12, rollouts=320, stride=1, energies=None, **options):
    return ContinuousProblem(
        energies or quadratic(starts, stride), num_problems=len(starts), horizon=horizon, action_size=2,
        budget=rollouts * (horizon // stride), stride=stride,
        **{"energy_scale": starts.square().sum(-1), "over_time": "final"} | options,
    )  # fmt: skip


def optimum(starts, horizon):
    """Of the last energy: least squares in the actions, since x_T = DRIFT^T x_0 + M u. [B, T, 2]"""
    powers = [torch.linalg.matrix_power(DRIFT, horizon - 1 - step) @ PUSH for step in range(horizon)]
    reach = torch.cat(powers, 1)  # M, [2, 2 T]
    drifted = starts @ torch.linalg.matrix_power(DRIFT, horizon).T
    normal = reach.T @ reach + EFFORT * torch.eye(2 * horizon)
    return torch.linalg.solve(normal, -(reach.T @ drifted.T)).T.unflatten(1, (horizon, 2))


def rescored(actions, starts=STARTS, **options):
    return problem_of(starts, actions.shape[1], 1, **options).rollout(actions[:, None])[:, 0]


# ----------------------------------------------------------------------------------------------
# The problem
# ----------------------------------------------------------------------------------------------


def test_rollouts_and_network_calls_are_counted_apart_and_backward_passes_twice():
    problem = problem_of(horizon=12, rollouts=10, stride=4)
    assert problem.budget == 30 and problem.rollout_cost == 3
    energy = problem.rollout(torch.zeros(4, 2, 12, 2).requires_grad_())
    assert (problem.evaluations, problem.rollouts) == (6, 2)
    energy.sum().backward()
    assert (problem.evaluations, problem.rollouts, problem.remaining) == (18, 6, 12)
    with pytest.raises(BudgetExceeded):
        problem.rollout(torch.zeros(4, 5, 12, 2))
    assert problem.evaluations == 18


def test_macro_steps_are_judged_at_their_ends():
    plans = torch.rand(4, 3, 12, 2, generator=generator()) - 0.5
    every = quadratic(STARTS)(plans)
    torch.testing.assert_close(problem_of(stride=4).rollout(plans), every[..., -1])
    temperature = 0.1 * STARTS.square().sum(-1)[:, None]
    softmin = -temperature * torch.logsumexp(-every[..., 3::4] / temperature[..., None], -1)
    expected = softmin + temperature * torch.tensor(3.0).log()
    torch.testing.assert_close(problem_of(stride=4, over_time="softmin").rollout(plans), expected)


def test_the_box_is_enforced():
    for outside in (1.01, -1.01, torch.nan):
        with pytest.raises(ValueError, match="box"):
            problem_of().rollout(torch.full((4, 1, 12, 2), outside))
    problem_of().rollout(torch.ones(4, 1, 12, 2))


def test_problems_that_make_no_sense_are_refused():
    for wrong in ({"horizon": 10, "stride": 4}, {"rollouts": 0}, {"over_time": "mean"}):
        with pytest.raises(ValueError):
            problem_of(**wrong)
    with pytest.raises(ValueError, match="action_size"):
        ContinuousProblem(
            quadratic(STARTS), num_problems=4, horizon=2, action_size=0, budget=9, energy_scale=torch.ones(4)
        )
    with pytest.raises(ValueError, match=r"\[B, N, T, A\]"):
        problem_of().rollout(torch.zeros(4, 1, 12, 3))


# ----------------------------------------------------------------------------------------------
# What holds of every planner
# ----------------------------------------------------------------------------------------------


@given(
    horizon=st.integers(1, 4), stride=st.integers(1, 3), rollouts=st.integers(4, 90), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=8)
@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_energy_budget_and_history_hold_for_any_horizon(name, horizon, stride, rollouts, seed):
    horizon *= stride
    problem = problem_of(horizon=horizon, rollouts=rollouts, stride=stride)
    plan = make_continuous_planner(name)(problem, generator(seed))
    assert plan.actions.shape == (4, horizon, 2) and plan.actions.abs().max() <= 1
    assert plan.evaluations == problem.evaluations == plan.rollouts * problem.rollout_cost <= problem.budget
    torch.testing.assert_close(plan.energy, rescored(plan.actions))
    assert torch.equal(plan.history[-1], plan.energy) and (plan.history.diff(dim=0) <= 0).all()
    assert plan.carried.shape[0] == 4 and plan.carried.shape[2:] == (horizon, 2)
    if name in SAMPLING_PLANNERS:
        assert plan.rollouts == rollouts
    else:
        assert rollouts - plan.rollouts < 3 * 16


@pytest.mark.parametrize("name", ["normalised_gradient", "adam"])
def test_gradient_planners_reach_the_known_optimum(name):
    plan = make_continuous_planner(name)(problem_of(rollouts=1300), generator())
    best = optimum(STARTS, 12)
    assert best.abs().max() < 1
    torch.testing.assert_close(plan.energy, rescored(best), atol=2e-4, rtol=0)
    torch.testing.assert_close(plan.actions, best, atol=0.03, rtol=0)


def test_plain_gradient_descent_is_that_of_the_closed_form():
    """One start, whose every step is u - rate / scale * 2 (M' (M u + x) + EFFORT u)."""
    first = torch.full((4, 1, 12, 2), 0.1)
    planner = make_continuous_planner("gradient", starts=1, rate=0.2)
    plan = planner(problem_of(rollouts=3 * 50 + 1), generator(), first)
    powers = [torch.linalg.matrix_power(DRIFT, 11 - step) @ PUSH for step in range(12)]
    reach, drifted = torch.cat(powers, 1), STARTS @ torch.linalg.matrix_power(DRIFT, 12).T
    flat, scale = first.flatten(1), STARTS.square().sum(-1, keepdim=True)
    for _ in range(50):
        slope = 2 * ((flat @ reach.T + drifted) @ reach + EFFORT * flat)
        flat = flat - 0.2 / scale * slope
    torch.testing.assert_close(plan.actions.flatten(1), flat, atol=1e-5, rtol=0)
    assert plan.rollouts == 151


def test_a_normalised_step_has_the_length_it_says_whatever_the_gradient():
    first = torch.full((4, 1, 12, 2), 0.1)
    step = make_continuous_planner("normalised_gradient", fraction=0.3, shortest=0.0).make_step(first)
    for size in (1e-30, 1.0, 1e30):
        slopes = torch.randn(first.shape, generator=generator()) * size
        moved = step(first, slopes) - first
        torch.testing.assert_close(moved.flatten(1).norm(dim=1), 0.3 * first.flatten(1).norm(dim=1))
        cosine = (moved * slopes / size).flatten(1).sum(1)
        torch.testing.assert_close(
            -cosine, moved.flatten(1).norm(dim=1) * (slopes / size).flatten(1).norm(dim=1)
        )
    assert torch.equal(step(first, torch.zeros_like(first)), first)


@pytest.mark.parametrize(("name", "above"), [("icem", 0.02), ("mppi", 0.02)])
def test_sampling_planners_come_near_the_optimum_where_shooting_does_not(name, above):
    lowest = rescored(optimum(STARTS, 12))
    energy = make_continuous_planner(name)(problem_of(rollouts=1000), generator()).energy
    shot = make_continuous_planner("random_shooting")(problem_of(rollouts=1000), generator()).energy
    assert (energy - lowest < above).all() and (shot - lowest > 2 * above).all()


def test_the_optimum_on_the_box_is_found_by_projection():
    """A goal further away than the box allows: every action that drives there stands at its bound."""

    def energies(actions):
        return 30.0 - actions.sum(-1).cumsum(-1)

    for name in GRADIENT_PLANNERS:
        planner = make_continuous_planner(name)
        plan = planner(problem_of(energies=energies, rollouts=1500, energy_scale=torch.ones(4)), generator())
        assert plan.actions.eq(1).all()


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_a_problem_alone_is_the_same_to_the_bit_in_company(name, one_thread):
    planner = make_continuous_planner(name)

    def planned(places, initial=None):
        noise = Noise([generator(place) for place in places], torch.arange(len(places)))
        initial = None if initial is None else initial[list(places)]
        return planner(problem_of(STARTS[list(places)], rollouts=150), noise, initial)

    together = planned((0, 1, 2, 3))
    again = planned((3, 1, 0, 2), moved_on(together.carried, 4))
    for place in range(4):
        alone = planned((place,))
        assert torch.equal(alone.actions[0], together.actions[place])
        assert torch.equal(alone.energy[0], together.energy[place])
        assert torch.equal(alone.carried[0], together.carried[place])
        warm = planned((place,), moved_on(together.carried, 4))
        assert torch.equal(warm.actions[0], again.actions[(3, 1, 0, 2).index(place)])


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_plans_do_not_depend_on_the_unit_of_energy(name):
    def planned(unit):
        energies = quadratic(STARTS)
        problem = problem_of(
            energies=lambda actions: unit * energies(actions), energy_scale=unit * STARTS.square().sum(-1)
        )
        return make_continuous_planner(name)(problem, generator()).actions

    assert torch.equal(planned(1), planned(1024))


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_noise_comes_from_the_generator_alone(name):
    def actions(seed):
        return make_continuous_planner(name)(problem_of(rollouts=64), generator(seed)).actions

    torch.manual_seed(0)
    first = actions(3)
    torch.manual_seed(1)
    assert torch.equal(first, actions(3)) and not torch.equal(first, actions(4))


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_the_least_budget_is_enough_and_one_rollout_less_is_told_in_a_line(name):
    planner = make_continuous_planner(name)
    least = planner.least_rollouts
    assert planner(problem_of(rollouts=least), generator()).rollouts == least
    if least > 1:
        with pytest.raises(BudgetExceeded, match=f"needs {least} rollouts of 12 evaluations") as raised:
            planner(problem_of(rollouts=least - 1), generator())
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_a_good_plan_to_begin_from_is_not_lost(name):
    best = optimum(STARTS, 12)
    planner = make_continuous_planner(name)
    cold = planner(problem_of(rollouts=12), generator()).energy
    for initial in (best[:, None], torch.stack([torch.zeros_like(best), best], 1)):
        if name == "mppi" and len(initial[0]) > 1:
            continue  # it begins from the first alone
        warm = planner(problem_of(rollouts=12), generator(), initial).energy
        assert (warm <= rescored(best) + 1e-6).all() and (warm < cold).all()
    with pytest.raises(ValueError, match="initial plans"):
        planner(problem_of(rollouts=12), generator(), best)


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_plans_that_overflow_are_passed_over_and_problems_without_any_are_named(name):
    def overflowing(actions):
        """Infinite where the first action points up, NaN where it points far up."""
        first = actions[:, :, :1, 0]
        energies = quadratic(STARTS)(actions)
        return torch.where(first > 0.3, torch.nan, torch.where(first > 0, torch.inf, energies))

    plan = make_continuous_planner(name)(problem_of(energies=overflowing), generator())
    assert plan.energy.isfinite().all() and (plan.actions[:, 0, 0] <= 0).all()
    assert plan.carried.isfinite().all()

    def hopeless(actions):
        wrong = torch.tensor([False, True, False, False])[:, None, None]
        return torch.where(wrong, torch.nan, quadratic(STARTS)(actions))

    with pytest.raises(NoFinitePlan, match=r"1 of 4 problems \(1\)"):
        make_continuous_planner(name)(problem_of(energies=hopeless), generator())


OUT_OF_RANGE = {
    "gradient": {"rate": (0.0, -1.0, torch.inf, torch.nan)},
    "normalised_gradient": {"fraction": (0.0, torch.nan), "shortest": (-0.1, 1.1)},
    "adam": {"rate": (0.0, torch.inf), "betas": ((0.5,), (1.0, 0.9), (0.5, -0.1))},
    "icem": {"rounds": (0,), "decay": (0.9, torch.inf), "elites": (0,), "kept": (-0.1, 1.1),
             "momentum": (1.0, -0.1), "deviation": (0.0, torch.inf), "exponent": (-1.0, torch.nan)},
    "mppi": {"rounds": (0,), "temperature": (0.0, torch.inf), "deviation": (0.0, torch.nan),
             "shrink": (0.0, 1.1), "correlation": (1.0, -0.1)},
    "random_shooting": {"correlation": (1.0, -0.1, torch.nan), "chunk": (0, -5)},
}  # fmt: skip
OF_GRADIENT_PLANNERS = {"starts": (0,), "screening": (1.0, -0.1), "correlation": (1.0, -0.1)}


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_every_hyperparameter_is_checked(name):
    wrong = OUT_OF_RANGE[name] | (OF_GRADIENT_PLANNERS if name in GRADIENT_PLANNERS else {})
    assert {field.name for field in dataclasses.fields(CONTINUOUS_PLANNERS[name])} == set(wrong)
    for field, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError) as raised:
                make_continuous_planner(name, **{field: value})
            assert str(raised.value).startswith(f"{field} = {value!r}")
    with pytest.raises(ValueError, match="no planner"):
        make_continuous_planner("magic")


# ----------------------------------------------------------------------------------------------
# What holds of one
# ----------------------------------------------------------------------------------------------


def recorded(asked):
    def energies(actions):
        asked.append(actions.detach().clone())
        return quadratic(STARTS)(actions)

    return energies


def test_screened_starts_are_the_best_of_those_drawn():
    asked = []
    planner = make_continuous_planner("gradient", starts=4, screening=0.5)
    plan = planner(problem_of(energies=recorded(asked), rollouts=320), generator())
    drawn, started = asked[0], asked[1]
    assert drawn.shape[1] == 160 and started.shape[1] == 4 and plan.rollouts == 160 + 4 * (3 * 13 + 1)
    energies = quadratic(STARTS)(drawn)[..., -1].sort(1).values
    torch.testing.assert_close(quadratic(STARTS)(started)[..., -1], energies[:, :4])


def test_icem_keeps_elites_and_asks_its_mean_last():
    """Elites that stay are not asked again, and the last candidate of the last round is the mean."""
    asked = []
    planner = make_continuous_planner("icem", rounds=3, momentum=0.0)
    plan = planner(problem_of(energies=recorded(asked), rollouts=100), generator())
    assert [len(plans[0]) for plans in asked] == populations(100, 3, 1.25)
    pool, known = asked[0], quadratic(STARTS)(asked[0])[..., -1]
    kept = pool.gather(1, known.topk(3, largest=False).indices[..., None, None].expand(-1, -1, 12, 2))
    pool = torch.cat([kept, asked[1]], 1)
    known = quadratic(STARTS)(pool)[..., -1]
    elites = pool.gather(1, known.topk(8, largest=False).indices[..., None, None].expand(-1, -1, 12, 2))
    torch.testing.assert_close(asked[2][:, -1], elites.mean(1))
    assert plan.carried.shape[1] == 1 + 3


def test_populations_fall_and_use_up_the_budget():
    assert populations(100, 3, 1.25) == [42, 32, 26]  # 2 each, the rest as 1 : .8 : .64
    assert populations(320, 4, 1.0) == [80] * 4
    for rollouts in range(1, 60):
        sizes = populations(rollouts, 5, 1.25)
        assert sum(sizes) == rollouts and sorted(sizes, reverse=True) == sizes
        assert min(sizes) >= min(2, rollouts) and len(sizes) == max(1, min(5, rollouts // 8))


def test_path_integral_weights():
    energies = torch.tensor([[1.0, 3.0, torch.inf], [5.0, 5.0, 5.0], [torch.inf, torch.nan, torch.inf]])
    weights = path_integral_weights(energies, 0.5)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, -4.0, -torch.inf]).softmax(0))
    torch.testing.assert_close(weights[1:], torch.full((2, 3), 1 / 3))


GOLDEN = {  # the first three actions of the first of two problems, and both energies
    "gradient": ([-0.1816, 0.8263, -0.2445, 0.8944, -0.0415, 0.2512], [0.37282, 0.3545]),
    "normalised_gradient": ([-0.4808, 0.7659, 0.2449, -0.0274, 0.2919, -0.0353], [0.55974, 0.44794]),
    "adam": ([-0.4368, 0.7289, 0.3048, -0.0997, 0.3403, -0.1111], [0.52651, 0.45663]),
    "icem": ([0.0538, -0.3962, 0.2513, 0.0781, 0.5737, 0.4023], [0.0766, 0.06503]),
    "mppi": ([0.0376, 0.0635, 0.3612, -0.0614, 0.1219, -0.0942], [0.05157, 0.05217]),
    "random_shooting": ([-1.0, 0.904, 0.0099, 0.655, -0.1036, 0.872], [0.53663, 0.30229]),
}


@pytest.mark.parametrize("name", CONTINUOUS_PLANNERS)
def test_golden_plans(name):
    plan = make_continuous_planner(name)(problem_of(STARTS[:2], rollouts=100), generator(7))
    actions, energies = GOLDEN[name]
    torch.testing.assert_close(plan.actions[0, :3].flatten(), torch.tensor(actions), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan.energy, torch.tensor(energies), atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------------------
# Noise
# ----------------------------------------------------------------------------------------------


def test_autoregressive_noise_has_unit_variance_and_its_correlation():
    drawn = autoregressive_noise(Noise.of(generator(), 2), (2, 20_000, 6, 1), CPU, 0.8)
    torch.testing.assert_close(drawn.std((0, 1, 3)), torch.ones(6), atol=0.02, rtol=0)
    for lag in (1, 3):
        found = (drawn[:, :, lag:] * drawn[:, :, :-lag]).mean()
        assert abs(float(found) - 0.8**lag) < 0.02


@pytest.mark.parametrize("horizon", [1, 2, 7, 8])
@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_power_law_noise_has_unit_variance_and_its_spectrum(horizon, exponent):
    drawn = power_law_noise(Noise.of(generator(), 2), (2, 20_000, horizon, 2), CPU, exponent)
    torch.testing.assert_close(drawn.std((0, 1, 3)), torch.ones(horizon), atol=0.02, rtol=0)
    power = torch.fft.rfft(drawn, dim=2).abs().square().mean((0, 1, 3))
    frequency = torch.arange(len(power)).clamp(min=1).float()
    torch.testing.assert_close(power / power[0], frequency**-exponent, atol=0.03, rtol=0.03)


# ----------------------------------------------------------------------------------------------
# Control
# ----------------------------------------------------------------------------------------------


def push(states, actions):
    states = states @ DRIFT.T + actions @ PUSH.T
    return states, states.norm(dim=1) < 0.15


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("name", ["normalised_gradient", "icem", "mppi"])
def test_receding_horizon_reaches_the_goal_and_an_episode_is_the_same_in_company(
    name, warm_start, one_thread
):
    planner = make_continuous_planner(name)

    def run(places):
        noise = Noise([generator(place) for place in places], torch.arange(len(places)))

        def make_problem(states, horizon):
            return problem_of(states, horizon, 64, over_time="softmin")

        return receding_horizon(
            make_problem,
            planner,
            push,
            STARTS[list(places)],
            40,
            8,
            3,
            generator=noise,
            warm_start=warm_start,
        )

    together = run((0, 1, 2, 3))
    assert together.done.all() and len(set(together.steps.tolist())) > 1
    assert together.actions.shape == (4, 40, 2)
    assert torch.equal((~together.actions.isnan()).all(-1).sum(1), together.steps)
    for place in range(4):
        steps, alone = together.steps[place], run((place,))
        assert steps == alone.steps[0]
        assert torch.equal(alone.actions[0, :steps], together.actions[place, :steps])
    replayed = execute_open_loop(push, STARTS[:1], together.actions[:1, : together.steps[0]])
    torch.testing.assert_close(replayed.states[0, -1], together.states[0, -1])


def test_a_warm_start_begins_where_the_last_plan_ended_and_helps():
    """At a budget too small to find a plan at once, later plans improve on earlier ones."""

    def final(warm_start):
        def make_problem(states, horizon):
            return problem_of(states, horizon, 12)

        starts = STARTS.repeat(8, 1)
        episodes = receding_horizon(
            make_problem, make_continuous_planner("normalised_gradient", starts=2),
            lambda states, actions: (push(states, actions)[0], torch.zeros(len(states), dtype=torch.bool)),
            starts, 16, 8, 2, generator=generator(), warm_start=warm_start,
        )  # fmt: skip
        return episodes.states[:, -1].norm(dim=1).mean()

    assert final(True) < 0.8 * final(False)


def test_plans_move_on_in_time_with_the_centre_behind():
    plans = torch.arange(1.0, 5.0).view(1, 1, 4, 1)
    assert moved_on(plans, 3).flatten().tolist() == [4, 0, 0, 0]
    assert moved_on(plans, 9).flatten().tolist() == [0, 0, 0, 0]
