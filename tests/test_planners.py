"""Every planner on the oracle, where the optimum is known; and the budget, which none can exceed."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.planners import GROWING, PEERS, PLANNERS, make_planner
from common.planners.adapter import CostModel
from common.planners.candidates import BestPlans, Noise, gumbel_noise, one_hot, sample_actions
from common.planners.control import NO_ACTION, execute_open_loop, receding_horizon
from common.planners.hill_climbing import _swapped
from common.planners.problem import BudgetExceeded, NoFinitePlan, PlanningProblem
from common.planners.small_budgets import fitted
from common.planners.straight_through import Chain
from common.planners.table_model import TableModel
from tests.pose_grids import FORWARD, RIGHT, room

SMALL, SMALL_STEPS = room(6)
ALL = PLANNERS | PEERS
VERIFYING = tuple(name for name in ALL if name != "flat_gradient")
STARTS = torch.tensor([0, 10, 37, 90])
VARIANTS = [(name, {}) for name in ALL] + [
    ("helm", {"coarse": "repeat"}),
    ("verified_gradient", {"pull_back": "gumbel", "init_sigma": 0.3, "hard_samples": 0}),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Meter:
    """Energies and jumpy energies that count independently what they are asked, backward passes twice."""

    def __init__(self, model, starts, stride=4):
        self.spent, self.count = 0, len(starts)
        self.fine = self._counted(model.energies(starts))
        self.jumpy = self._counted(model.jumpy_energies(starts, stride))

    def _counted(self, energies):
        def counted(actions):
            values = energies(actions)
            cost = values[0].numel()
            self.spent += cost
            if values.requires_grad:
                values.register_hook(lambda gradient: self._add(2 * cost))
            return values

        return counted

    def _add(self, cost):
        self.spent += cost


def metered(model, starts, horizon, budget, stride=4, **options):
    meter = Meter(model, starts, stride)
    problem = PlanningProblem(
        meter.fine, num_problems=len(starts), horizon=horizon, num_actions=model.num_actions, budget=budget,
        energy_scale=model.energy[starts], jumpy_energies=meter.jumpy, stride=stride, **options,
    )  # fmt: skip
    return problem, meter


def rescore(model, starts, actions, **options):
    """The energy of discrete plans [B, T], from a fresh problem."""
    problem = model.problem(starts, actions.shape[1], actions.shape[1], **options)
    return problem.rollout(one_hot(actions, model.num_actions)[:, None])[:, 0]


# ----------------------------------------------------------------------------------------------
# The problem and its budget
# ----------------------------------------------------------------------------------------------


def plans(count, horizon, num_problems=4):
    return one_hot(torch.randint(3, (num_problems, count, horizon), generator=generator()), 3)


def test_a_rollout_is_counted_before_it_is_computed():
    problem, meter = metered(SMALL, STARTS, horizon=5, budget=29)
    problem.rollout(plans(4, 5))
    problem.coarse_rollout(plans(4, 5))
    assert problem.evaluations == meter.spent == 4 * 5 + 4 * 1
    problem.rollout(plans(1, 5))
    with pytest.raises(BudgetExceeded):
        problem.coarse_rollout(plans(1, 5))
    assert problem.evaluations == meter.spent == 29


@pytest.mark.parametrize("way", ["rollout", "coarse_rollout"])
def test_a_backward_pass_costs_two_forward_passes_when_it_happens(way):
    problem, meter = metered(SMALL, STARTS, horizon=8, budget=1000)
    steps = {"rollout": 8, "coarse_rollout": 2}[way]
    energy = getattr(problem, way)(plans(3, 8).requires_grad_())
    assert problem.evaluations == 3 * steps
    energy.sum().backward(retain_graph=True)
    assert problem.evaluations == meter.spent == 9 * steps
    energy[0, 0].backward()  # a second pass through the same graph is paid for again
    assert problem.evaluations == meter.spent == 15 * steps


def test_a_backward_pass_beyond_the_budget_is_refused():
    problem, _ = metered(SMALL, STARTS, horizon=8, budget=23)
    energy = problem.rollout(plans(1, 8).requires_grad_())
    with pytest.raises(BudgetExceeded):
        energy.sum().backward()


def test_no_second_derivative_is_had_for_free():
    problem, _ = metered(SMALL, STARTS, horizon=2, budget=1000)
    actions = torch.full((4, 1, 2, 3), 1 / 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(problem.rollout(actions).sum(), actions, create_graph=True)


@dataclasses.dataclass(frozen=True)
class Cheat:
    """Runs another planner, then looks once more."""

    planner: object
    look: str

    def __call__(self, problem, noise):
        plan = self.planner(problem, noise)
        actions = one_hot(plan.actions, problem.num_actions)[:, None]
        for _ in range(problem.remaining // problem.horizon):
            problem.rollout(actions)
        if self.look == "backward":
            problem.budget += problem.horizon  # pays for the forward pass alone
            problem.rollout(actions.requires_grad_()).sum().backward()
        problem.rollout(actions)


@pytest.mark.parametrize("look", ["forward", "backward"])
@pytest.mark.parametrize("name", ALL)
def test_a_planner_that_evaluates_more_is_found_out(name, look):
    problem, meter = metered(SMALL, STARTS, horizon=6, budget=200)
    with pytest.raises(BudgetExceeded):
        Cheat(make_planner(name), look)(problem, generator())
    assert meter.spent <= problem.budget + 2 * problem.horizon  # the hook sees the refused backward pass


def test_a_problem_leads_to_functions_of_the_model_alone():
    problem, meter = metered(SMALL, STARTS, horizon=6, budget=200)
    held = [value for value in vars(problem).values() if callable(value)]
    assert held == [meter.fine, meter.jumpy]


def test_softmin_lies_between_minimum_and_mean_and_final_is_the_last():
    energies = torch.rand(4, 3, 5, generator=generator(), dtype=torch.float64)
    options = {
        "num_problems": 4, "horizon": 5, "num_actions": 3, "budget": 10**6, "energy_scale": torch.ones(4),
    }  # fmt: skip

    def judged(**more):
        return PlanningProblem(lambda _: energies, **options, **more).rollout(torch.zeros(4, 3, 5, 3))

    assert torch.equal(judged(over_time="final"), energies[..., -1])
    softmin = judged(temperature=0.3)
    assert (softmin > energies.amin(-1)).all() and (softmin < energies.mean(-1)).all()
    torch.testing.assert_close(judged(temperature=1e-4), energies.amin(-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(judged(temperature=1e4), energies.mean(-1), atol=1e-3, rtol=0)


def test_a_high_temperature_prefers_the_plan_that_comes_near_sooner():
    energies = torch.tensor([[[4.0, 1, 1, 1], [4, 4, 4, 1]]])  # equally near, sooner and later

    def judged(temperature):
        problem = PlanningProblem(
            lambda _: energies, num_problems=1, horizon=4, num_actions=3, budget=100,
            energy_scale=torch.full((1,), 10.0), temperature=temperature,
        )  # fmt: skip
        return problem.rollout(torch.zeros(1, 2, 4, 3))[0]

    sooner, later = judged(0.1)
    assert later - sooner > 0.5
    torch.testing.assert_close(*judged(1e-4), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="temperature"):
        judged(0.0)


def test_a_start_at_the_goal_has_finite_energies():
    problem = SMALL.problem(torch.tensor([143]), 4, 100)
    assert problem.rollout(plans(3, 4, 1)).isfinite().all()


@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"stride": 0}, {"budget": 0}, {"over_time": "mean"}])
def test_problems_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        SMALL.problem(STARTS, **{"horizon": 5, "budget": 10, **wrong})


def test_no_macro_step_no_coarse_rollout():
    with pytest.raises(ValueError, match="jumpy"):
        SMALL.problem(STARTS, 3, 100).coarse_rollout(plans(1, 3))


# ----------------------------------------------------------------------------------------------
# What holds of every planner
# ----------------------------------------------------------------------------------------------


@given(
    horizon=st.integers(1, 11),
    stride=st.integers(1, 5),
    rollouts=st.integers(16, 60),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=8)
@pytest.mark.parametrize(("name", "how"), VARIANTS)
def test_energy_budget_and_history_hold_for_any_horizon(name, how, horizon, stride, rollouts, seed):
    planner = make_planner(name, **how)
    problem, meter = metered(SMALL, STARTS, horizon, rollouts * horizon, stride, over_time=planner.over_time)
    plan = planner(problem, generator(seed))
    assert plan.actions.shape == (4, horizon) and plan.actions.dtype == torch.int64
    assert plan.evaluations == problem.evaluations == meter.spent <= problem.budget
    fresh = rescore(SMALL, STARTS, plan.actions, over_time=planner.over_time)
    torch.testing.assert_close(plan.energy, fresh)
    assert plan.history.shape[1] == 4 and plan.history.isfinite().all()
    if name in VERIFYING:
        torch.testing.assert_close(plan.history[-1], plan.energy)
        assert (plan.history.diff(dim=0) <= 0).all()
    if name in ("cem", "random_shooting", "hill_climbing", "icem", "mppi"):
        assert plan.relaxation_gap.eq(0).all()


@pytest.mark.parametrize(("name", "how"), VARIANTS)
def test_noise_comes_from_the_generator_alone(name, how):
    planner = make_planner(name, **how)

    def actions(seed):
        return planner(SMALL.problem(STARTS, 10, 3200, over_time=planner.over_time), generator(seed)).actions

    torch.manual_seed(0)
    first = actions(3)
    torch.manual_seed(1)
    assert torch.equal(first, actions(3))
    assert not torch.equal(first, actions(4))


@pytest.mark.parametrize(("name", "how"), VARIANTS)
def test_problems_do_not_see_each_other(name, how):
    """A problem's plan depends on its place's noise and on itself, not on the other problems."""
    planner = make_planner(name, **how)

    def planned(starts):
        problem = SMALL.problem(torch.tensor(starts), 10, 3200, over_time=planner.over_time)
        return planner(problem, generator())

    here, elsewhere = planned([0, 10, 37]), planned([0, 90, 4])
    assert torch.equal(here.actions[0], elsewhere.actions[0])
    assert not torch.equal(here.energy[1:], elsewhere.energy[1:])


@pytest.mark.parametrize(("name", "how"), VARIANTS)
def test_permuted_problems_with_permuted_noise_give_permuted_plans(name, how):
    planner, order = make_planner(name, **how), torch.tensor([2, 0, 3, 1])

    def planned(places):
        noise = Noise([generator(int(place)) for place in places], torch.arange(4))
        return planner(SMALL.problem(STARTS[places], 9, 2880, over_time=planner.over_time), noise)

    plan, permuted = planned(torch.arange(4)), planned(order)
    assert torch.equal(permuted.actions, plan.actions[order])
    torch.testing.assert_close(permuted.energy, plan.energy[order])


@pytest.mark.parametrize("name", ALL)
def test_plans_do_not_depend_on_the_unit_of_energy(name):
    planner = make_planner(name, **({"gd_lr": 0.1 / 1024} if name == "flat_gradient" else {}))
    larger = TableModel(SMALL.next_state, SMALL.energy * 1024)
    plan = planner(larger.problem(STARTS, 10, 3200, over_time=planner.over_time), generator())
    planner = make_planner(name)
    same = planner(SMALL.problem(STARTS, 10, 3200, over_time=planner.over_time), generator())
    assert torch.equal(plan.actions, same.actions)


@pytest.mark.parametrize("name", VERIFYING)
def test_the_goal_is_reached_where_that_is_easy(name):
    starts = torch.nonzero((SMALL_STEPS > 0) & (SMALL_STEPS <= 7))[:, 0]
    plan = make_planner(name)(SMALL.problem(starts, 30, 320 * 30), generator())
    ends = execute_open_loop(lambda states, actions: _step(SMALL, states, actions), starts, plan.actions)
    assert ends.done.float().mean() > 0.98


def test_repeated_actions_reach_what_lies_straight_ahead():
    model, distance = room(9)
    start = torch.tensor([8 * 4])  # in the row of the goal, facing it
    assert distance[start] == 8
    plan = make_planner("helm", coarse="repeat")(model.problem(start, 8, 320 * 8), generator())
    assert plan.actions.eq(FORWARD).all()


@pytest.mark.parametrize("name", ALL)
def test_a_budget_that_pays_for_nothing_is_refused(name):
    planner = make_planner(name)
    with pytest.raises(BudgetExceeded):
        planner(SMALL.problem(STARTS, 10, 9, over_time=planner.over_time), generator())


def test_planners_are_had_by_name_with_hyperparameters_that_they_have():
    assert make_planner("verified_gradient", tau=0.5).tau == 0.5
    with pytest.raises(ValueError, match="no planner"):
        make_planner("magic")
    with pytest.raises(TypeError):
        make_planner("cem", tau=0.5)
    for wrong in ({"coarse": "none"}, {"coarse_share": 1.0}, {"pull_back": "none"}, {"gradient_samples": 0}):
        with pytest.raises(ValueError):
            make_planner("helm", **wrong)


# ----------------------------------------------------------------------------------------------
# What holds of one
# ----------------------------------------------------------------------------------------------


def test_flat_gradient_returns_its_argmax_unverified():
    """On an energy that rewards relaxed actions it returns a plan that a look would have shown to be bad."""

    def energies(actions):  # best half way between the first two actions, where no discrete plan is
        return 1 - 4 * actions[..., 0] * actions[..., 1] - 0.5 * actions[..., 2]

    problem = PlanningProblem(
        energies, num_problems=1, horizon=1, num_actions=3, budget=320, energy_scale=torch.ones(1),
        over_time="final",
    )  # fmt: skip
    plan = make_planner("flat_gradient")(problem, generator())
    assert plan.history.shape == (50, 1) and plan.evaluations == 151
    assert plan.actions.item() != 2 and plan.energy == 1 and plan.relaxation_gap > 0.1


def test_flat_gradient_takes_plain_gradient_steps():
    """Without noise to speak of (tau large) its one step is -lr times the softmax's gradient."""
    slopes = torch.tensor([3.0, -1.0, 1.0])
    problem = PlanningProblem(
        lambda actions: (actions * slopes).sum(-1), num_problems=1, horizon=1, num_actions=3, budget=4,
        energy_scale=torch.ones(1), over_time="final",
    )  # fmt: skip
    plan = make_planner("flat_gradient", tau=1e4)(problem, generator())
    assert plan.evaluations == 4 and plan.actions.item() == 1
    torch.testing.assert_close(plan.history[0, 0], slopes.mean(), atol=1e-2, rtol=0)


def test_a_verifying_planner_is_not_fooled_by_relaxed_actions():
    def energies(actions):
        return 1 - 4 * actions[..., 0] * actions[..., 1] - 0.5 * actions[..., 1]

    for name in ("verified_gradient", "helm"):
        problem = PlanningProblem(
            energies, num_problems=3, horizon=2, num_actions=3, budget=640, energy_scale=torch.ones(3)
        )
        plan = make_planner(name)(problem, generator())
        assert plan.actions.eq(1).all(), "action 1 is the best discrete one at every step"
        torch.testing.assert_close(plan.energy, torch.full((3,), 0.5))
        assert (plan.relaxation_gap > 0).all(), "the relaxed actions look better than they are"


def test_the_expected_pull_back_is_the_gradient_of_the_expected_energy():
    """Exact on the average, where the energy is multilinear: the relaxed energy's own gradient."""
    starts, horizon = torch.tensor([0, 37]), 5
    logits = torch.randn(2, horizon, 3, generator=generator())
    relaxed = logits.clone().requires_grad_()
    SMALL.belief_energies(starts, relaxed.softmax(-1))[:, -1].sum().backward()

    def average(pull_back):
        chain = make_planner("verified_gradient", gradient_samples=20_000, pull_back=pull_back)
        problem = SMALL.problem(starts, horizon, 10**6, over_time="final")
        return chain._sample_slope(problem.rollout, Chain(logits), generator())

    torch.testing.assert_close(average("expected"), relaxed.grad, atol=0.015, rtol=0)
    assert (average("gumbel") - relaxed.grad).abs().max() > 0.03, "straight-through Gumbel is biased"


def test_a_stage_moves_its_logits_by_its_travel():
    """On a steady slope Adam's steps add up to about the travel, however many there are, and never more."""
    slopes = torch.tensor([1.0, 0.0])
    for iterations in (1, 10, 100):
        chain = Chain(torch.zeros(1, 1, 2))
        make_planner("verified_gradient", travel=4.0).descend(
            lambda actions: (actions * slopes).sum((-1, -2)), chain, iterations, torch.ones(1), generator()
        )
        moved = chain.logits[0, 0]
        assert 1.9 < moved[1] < 4.001 and torch.isclose(moved[0], -moved[1])


def test_helm_repeats_without_a_jumpy_model_and_below_its_stride():
    asked = []

    def energies(actions):
        asked.append(actions.detach())
        return SMALL.energies(STARTS)(actions)

    problem = PlanningProblem(
        energies, num_problems=4, horizon=10, num_actions=3, budget=3200, energy_scale=SMALL.energy[STARTS]
    )
    make_planner("helm")(problem, generator())
    repeated = [
        torch.equal(a[:, :, 0:8:4], a[:, :, 3:8:4]) and torch.equal(a[:, :, 8], a[:, :, 9]) for a in asked
    ]
    coarse = 2 * (1600 // 70)  # iterations of 7 rollouts of 10; two calls each
    assert all(repeated[:coarse]) and not all(repeated[coarse:])
    short = make_planner("helm")(SMALL.problem(STARTS, 3, 960), generator())
    assert short.evaluations <= 960


def test_helm_spends_its_share_on_the_jumpy_model():
    coarse = []
    for share in (0.0, 0.3, 0.6):
        problem, meter = metered(SMALL, STARTS, horizon=20, budget=6400)
        counted, spent = meter.jumpy, []
        problem._jumpy_energies = lambda actions, counted=counted, spent=spent: (
            spent.append(0) or counted(actions)
        )
        make_planner("helm", coarse_share=share)(problem, generator())
        coarse.append(len(spent) // 2)
    assert coarse == [0, 1920 // 35, 3840 // 35]


@pytest.mark.parametrize("coarse", ["jumpy", "repeat"])
def test_helm_carries_its_coarse_logits_and_best_coarse_plan(coarse):
    def handed_over(carry):
        problem = SMALL.problem(STARTS, 10, 3200)
        return make_planner("helm", coarse=coarse, carry=carry)._coarse_stage(problem, generator())

    all_of_them, half = handed_over(1.0), handed_over(0.5)
    assert all_of_them.logits.abs().max() > 1
    torch.testing.assert_close(half.logits, all_of_them.logits / 2)
    assert torch.equal(half.best.actions, all_of_them.best.actions)
    torch.testing.assert_close(half.best.energy, rescore(SMALL, STARTS, half.best.actions))


def test_cem_narrows_to_its_elites():
    """The best action of every step is found, though no first sample has them all."""
    plan = make_planner("cem")(
        PlanningProblem(
            lambda actions: actions[..., 1:].sum(-1).cumsum(-1), num_problems=5, horizon=12, num_actions=3,
            budget=1200 * 12, energy_scale=torch.ones(5), over_time="final",
        ),
        generator(),
    )  # fmt: skip
    assert plan.actions.eq(0).all() and (plan.history[0] > 0).all()


def test_random_shooting_returns_the_best_of_all_chunks():
    seen = []

    def energies(actions):
        values = SMALL.energies(STARTS)(actions)
        seen.append(values[..., -1])
        return values

    problem = PlanningProblem(
        energies, num_problems=4, horizon=6, num_actions=3, budget=6 * 100, energy_scale=torch.ones(4),
        over_time="final",
    )  # fmt: skip
    plan = make_planner("random_shooting", chunk=30)(problem, generator())
    assert [len(values[0]) for values in seen] == [30, 30, 30, 10]
    torch.testing.assert_close(plan.energy, torch.cat(seen, 1).amin(1))


def test_hill_climbing_with_every_swap_climbs_to_the_top():
    """Where each action has a cost of its own at each step, T swaps find the best plan."""
    costs = torch.rand(5, 1, 6, 3, generator=generator())
    problem = PlanningProblem(
        lambda actions: (costs * actions).sum(-1).cumsum(-1), num_problems=5, horizon=6, num_actions=3,
        budget=6 * 12 * 7, energy_scale=torch.ones(5), over_time="final",
    )  # fmt: skip
    plan = make_planner("hill_climbing", swaps=99)(problem, generator())
    assert torch.equal(plan.actions, costs[:, 0].argmin(-1)) and problem.remaining == 0
    assert plan.history.shape[0] == 7, "T (A - 1) swaps a round, and the first round are random plans"


@pytest.mark.parametrize(("count", "num_actions"), [(12, 3), (5, 3), (6, 2), (6, 1)])
def test_swaps_change_one_action_each_and_differ(count, num_actions):
    plans = torch.randint(num_actions, (4, 6), generator=generator())
    swapped = _swapped(plans, count, num_actions, Noise.of(generator(1), 4))
    assert swapped.shape == (4, count, 6) and swapped.max() < num_actions and swapped.min() >= 0
    if num_actions > 1:
        assert (swapped != plans[:, None]).sum(-1).eq(1).all()
        assert all(len(own.unique(dim=0)) == count for own in swapped)


def test_hill_climbing_begins_again_where_it_is_stuck():
    """Two hills, a low one around all 0 and the top at all 1: without a restart the low one is the end."""

    def energies(actions):
        ones = actions[..., 1].sum(-1, keepdim=True)
        return torch.where(ones == 6, -5.0, ones).expand(-1, -1, 6)

    def planned(patience):
        problem = PlanningProblem(
            energies, num_problems=8, horizon=6, num_actions=2, budget=6 * 6 * 120,
            energy_scale=torch.ones(8), over_time="final",
        )  # fmt: skip
        return make_planner("hill_climbing", swaps=6, patience=patience)(problem, generator()).energy

    assert (planned(1) == -5).all() and (planned(10_000) == 0).sum() >= 4


def test_icems_plans_follow_their_probabilities_and_neighbouring_steps_agree():
    probabilities = torch.tensor([[[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]]])
    agree = {}
    for exponent in (0.0, 2.0):
        planner = make_planner("icem", exponent=exponent)
        plans = planner._draw(probabilities, 40_000, Noise.of(generator(), 1))
        torch.testing.assert_close(one_hot(plans, 3).mean(1), probabilities, atol=0.01, rtol=0)
        agree[exponent] = float((plans[..., 2] == plans[..., 3]).double().mean())
    assert abs(agree[0.0] - (0.04 + 0.25 + 0.09)) < 0.01 and agree[2.0] > 0.43
    certain = planner._draw(torch.tensor([[[0.0, 1.0, 0.0]]]), 1000, Noise.of(generator(), 1))
    assert certain.eq(1).all()


@pytest.mark.parametrize("name", ["icem", "mppi"])
def test_sampling_peers_narrow_to_the_best_action_of_every_step(name):
    best = torch.tensor([0, 2, 1, 0, 0, 2, 2, 1, 0, 1, 2, 0])
    problem = PlanningProblem(
        lambda actions: (1 - actions[:, :, torch.arange(12), best]).cumsum(-1), num_problems=5, horizon=12,
        num_actions=3, budget=1200 * 12, energy_scale=torch.ones(5), over_time="final",
    )  # fmt: skip
    plan = make_planner(name)(problem, generator())
    assert plan.actions.eq(best).all() and (plan.history[0] > 0).all() and problem.remaining == 0


@pytest.mark.parametrize("name", ["hill_climbing", "icem", "mppi", "cem", "random_shooting"])
def test_searches_use_up_their_budget(name):
    for rollouts in (16, 100, 321):
        problem = SMALL.problem(STARTS, 7, rollouts * 7)
        make_planner(name)(problem, generator())
        assert problem.remaining == 7 * (rollouts % 32 if name == "cem" and rollouts > 32 else 0)


def test_the_zeroed_gradient_pays_and_changes_nothing():
    """Its plans are those of any other gradient, and its chain stays at its first logits."""

    def planned(name, sign):
        def energies(actions):
            if actions.requires_grad:
                actions = actions * 1.0
                actions.register_hook(lambda gradient: sign * gradient)
            return counting(actions)

        return make_planner(name)(small_problem(energies, name, horizon=12), generator())

    zeroed = planned("verified_gradient_zeroed", 1.0)
    assert torch.equal(zeroed.actions, planned("verified_gradient_zeroed", -1.0).actions)
    real = planned("verified_gradient", 1.0)
    assert not torch.equal(real.actions, planned("verified_gradient", -1.0).actions)
    assert zeroed.evaluations == real.evaluations and (real.energy < zeroed.energy).all()


def test_the_shuffled_gradient_is_the_gradient_with_its_steps_in_another_order():
    chain = Chain(torch.randn(2, 9, 3, generator=generator()))
    rollout = SMALL.problem(torch.tensor([0, 37]), 9, 10**6).rollout
    real = make_planner("verified_gradient")._sample_slope(rollout, chain, generator())
    shuffled = make_planner("verified_gradient_shuffled")._sample_slope(rollout, chain, generator())
    assert not torch.equal(real, shuffled)
    for own, other in zip(real, shuffled, strict=True):
        assert sorted(map(tuple, own.tolist())) == sorted(map(tuple, other.tolist()))


# ----------------------------------------------------------------------------------------------
# Small budgets
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_least_budget_is_enough_and_one_rollout_less_is_told_in_a_line(name):
    planner = make_planner(name)
    least = planner.least_rollouts
    for rollouts in (least, least + 1):
        problem = SMALL.problem(STARTS, 10, rollouts * 10, over_time=planner.over_time)
        plan = planner(problem, generator())
        assert plan.evaluations <= 10 * rollouts
        torch.testing.assert_close(
            plan.energy, rescore(SMALL, STARTS, plan.actions, over_time=planner.over_time)
        )
    short = SMALL.problem(STARTS, 10, least * 10 - 1, over_time=planner.over_time)
    with pytest.raises(BudgetExceeded, match=f"needs {least} rollouts of 10 evaluations") as raised:
        planner(short, generator())
    assert "\n" not in str(raised.value) and short.evaluations == 0


@pytest.mark.parametrize("name", ALL)
def test_a_form_for_small_budgets_learns_in_rounds_and_is_the_planner_itself_at_large_ones(name):
    planner = make_planner(name)
    assert fitted(planner, 128) == planner
    for rollouts in (2, 4, 8, 16, 32, 64):
        small = fitted(planner, rollouts)
        assert type(small) is type(planner) and small.least_rollouts <= max(4, rollouts)
        if rollouts < small.least_rollouts:
            continue
        problem = SMALL.problem(STARTS, 10, rollouts * 10, over_time=planner.over_time)
        plan = small(problem, generator())
        assert plan.evaluations <= 10 * rollouts
        if rollouts >= 32 and (name.startswith("verified") or name in ("cem", "hill_climbing")):
            assert len(plan.history) >= 4


GOLDEN = {
    "flat_gradient": ["FFFFFFFFFFFF", "LFFFFFFFFFFF"],
    "verified_gradient": ["FFFFFFRFFFFF", "LLFFFRFFFFLL"],
    "helm": ["FFFFFRFFFFFF", "RFLLFFFFFLFF"],
    "cem": ["FFLRFFFRFFFF", "LFFFFFFFLFFR"],
    "coarse_cem": ["FRFFFFFLFFFF", "LLFFFRFFFFFR"],
    "random_shooting": ["FFFRFLFLRFRL", "LFFFFLFLRFRR"],
    "verified_gradient_zeroed": ["FFFFFFFRFFFL", "LRLFFFFFLLLR"],
    "verified_gradient_shuffled": ["FFFFFRFFFFFF", "LFLFFFRFFFRR"],
    "hill_climbing": ["FRLFFFFRFFFF", "RRFFFFRFFFFF"],
    "icem": ["FFFFFFFRFFFF", "LFFFFFFLFFFF"],
    "mppi": ["FRFFLFFFFRFF", "LFFFFFFLFFFL"],
    "belief": ["FFFFFRFFFFFL", "LFFFFFLFFFLL"],
    "cem_growing": ["FFFFFRFFFFFR", "LFFFFFLFFFLL"],
}


@pytest.mark.parametrize("name", ALL | GROWING)
def test_golden_plans(name):
    planner = make_planner(name)
    problem = SMALL.problem(torch.tensor([0, 50]), 12, 320 * 12, over_time=planner.over_time)
    plan = planner(problem, generator(7))
    assert ["".join("LRF"[action] for action in row) for row in plan.actions] == GOLDEN[name]


# ----------------------------------------------------------------------------------------------
# Candidates
# ----------------------------------------------------------------------------------------------


def test_samples_follow_their_probabilities():
    probabilities = torch.tensor([[[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]])
    samples = sample_actions(probabilities, 40_000, generator())
    assert samples.shape == (1, 40_000, 2)
    torch.testing.assert_close(one_hot(samples, 3).mean(1), probabilities, atol=0.01, rtol=0)


def test_gumbel_noise_draws_the_softmax():
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(40_000, 3)
    drawn = one_hot((logits + gumbel_noise(logits, generator())).argmax(-1), 3).mean(0)
    torch.testing.assert_close(drawn, logits[0].softmax(-1), atol=0.01, rtol=0)


def test_the_best_plan_is_kept_for_each_problem():
    best = BestPlans(2, 1, torch.device("cpu"))
    best.offer(torch.tensor([[[4], [5]], [[6], [7]]]), torch.tensor([[2.0, 1.0], [3.0, 9.0]]))
    improved = best.offer(torch.tensor([[[8]], [[9]]]), torch.tensor([[1.0], [2.5]]))
    assert improved.tolist() == [False, True]
    assert best.actions.tolist() == [[5], [9]] and best.energy.tolist() == [1.0, 2.5]


# ----------------------------------------------------------------------------------------------
# Control
# ----------------------------------------------------------------------------------------------


def _step(model, states, actions):
    states = model.step(states, actions)
    return states, model.energy[states] == 0


def test_open_loop_is_blind_and_ends_at_done():
    model, _ = room(3)
    plan = torch.tensor([[FORWARD, FORWARD, RIGHT, FORWARD, FORWARD, RIGHT], [RIGHT] * 6])
    run = execute_open_loop(lambda s, a: _step(model, s, a), torch.tensor([0, 0]), plan, evaluations=5)
    assert run.done.tolist() == [True, False] and run.steps.tolist() == [5, 6]
    assert run.actions[0].tolist() == [*plan[0, :5].tolist(), NO_ACTION]
    assert run.states.shape == (2, 7) and (run.states[0, 5:] == run.states[0, 5]).all()
    assert run.states[1].tolist() == [0, 1, 2, 3, 0, 1, 2] and run.evaluations.sum(1).tolist() == [5, 5]


@pytest.mark.parametrize("name", VERIFYING)
def test_receding_horizon_reaches_the_goal_and_finished_episodes_leave(name):
    asked = []

    def make_problem(states, horizon):
        asked.append((len(states), horizon))
        return SMALL.problem(states, horizon, 320 * horizon)

    starts = torch.tensor([0, 10, 37, 130])
    run = receding_horizon(
        make_problem, make_planner(name), lambda s, a: _step(SMALL, s, a), starts, 31, generator=generator()
    )
    assert run.done.all() and (run.steps >= SMALL_STEPS[starts]).all()
    counts = [count for count, _ in asked]
    assert counts == sorted(counts, reverse=True) and counts[0] == 4 and counts[-1] < 4
    for episode in range(4):  # the record is a walk through the table
        taken = run.actions[episode][run.actions[episode] != NO_ACTION]
        walked = SMALL.next_state[run.states[episode, : len(taken)], taken]
        assert torch.equal(walked, run.states[episode, 1 : len(taken) + 1])
        assert run.steps[episode] == len(taken)
    assert (run.evaluations.sum(1) <= -(-run.steps // 3) * 320 * 12).all()


def test_every_plan_has_the_same_horizon_and_the_episode_still_ends_on_time():
    asked = []

    def make_problem(states, horizon):
        asked.append(horizon)
        return SMALL.problem(states, horizon, 320 * horizon)

    def never(states, actions):
        return SMALL.step(states, actions), torch.zeros(len(states), dtype=torch.bool)

    run = receding_horizon(
        make_problem, make_planner("cem"), never, STARTS, 8, plan_horizon=5, execute=3, generator=generator()
    )
    assert asked == [5, 5, 5] and run.steps.eq(8).all() and not run.done.any()
    assert run.evaluations.sum(1).eq(320 * (5 + 5 + 5)).all()
    with pytest.raises(ValueError):
        receding_horizon(make_problem, make_planner("cem"), never, STARTS, 0, generator=generator())


def test_control_takes_states_of_any_shape():
    """States that are vectors: a counter that the one action moves down to zero."""

    def make_problem(states, horizon):
        assert states.shape[1:] == (2,)

        def energies(actions):
            return (states[:, None, None, 0] - actions[..., 1].cumsum(-1)).abs()

        return PlanningProblem(
            energies, num_problems=len(states), horizon=horizon, num_actions=2, budget=320 * horizon,
            energy_scale=states[:, 0],
        )  # fmt: skip

    def step(states, actions):
        states = states - torch.stack((actions.float(), torch.zeros(len(actions))), 1)
        return states, states[:, 0] <= 0

    starts = torch.tensor([[3.0, 1.0], [5.0, 2.0]])
    run = receding_horizon(make_problem, make_planner("cem"), step, starts, 9, generator=generator())
    assert run.done.all() and run.states.shape == (2, 10, 2)
    assert (run.steps >= torch.tensor([3, 5])).all()


# ----------------------------------------------------------------------------------------------
# Other libraries' solvers
# ----------------------------------------------------------------------------------------------


def foreign_solver(model, batch, samples, steps, block, num_actions, rounds):
    """Follows stable-worldmodel's protocol: candidates [B, N, H, K A], a blocked action an entry."""
    best, lowest, noise = None, None, generator()
    for _ in range(rounds):
        drawn = torch.randint(num_actions, (batch, samples, steps, block), generator=noise)
        candidates = one_hot(drawn, num_actions).reshape(batch, samples, steps, -1)
        costs = model.get_cost({"state": torch.zeros(batch, samples, 1)}, candidates)
        assert costs.shape == (batch, samples)
        cost, index = costs.min(1)
        chosen = drawn[torch.arange(batch), index].flatten(1)
        better = cost < lowest if best is not None else torch.ones_like(cost, dtype=torch.bool)
        best = torch.where(better[:, None], chosen, best) if best is not None else chosen
        lowest = torch.where(better, cost, lowest) if lowest is not None else cost
    return best, lowest


def test_a_foreign_solver_plans_on_our_problem_within_its_budget():
    problem = SMALL.problem(STARTS, 12, 5 * 20 * 12)
    actions, costs = foreign_solver(CostModel(problem), 4, 20, 4, 3, 3, rounds=5)
    assert problem.remaining == 0
    torch.testing.assert_close(costs, rescore(SMALL, STARTS, actions))
    with pytest.raises(BudgetExceeded):
        foreign_solver(CostModel(problem), 4, 1, 4, 3, 3, rounds=1)
    with pytest.raises(ValueError, match="batch_size must be 4"):
        foreign_solver(CostModel(problem), 1, 20, 4, 3, 3, rounds=1)


def test_a_foreign_gradient_solver_pays_for_its_backward_passes():
    problem = SMALL.problem(STARTS, 6, 90, over_time="final")
    actions = torch.full((4, 1, 6, 3), 1 / 3, requires_grad=True)
    for _ in range(5):
        CostModel(problem).get_cost({}, actions).sum().backward()
    assert actions.grad.abs().sum() > 0 and problem.evaluations == 5 * 3 * 6


# ----------------------------------------------------------------------------------------------
# Models and settings that users come with
# ----------------------------------------------------------------------------------------------

GRADIENT_PLANNERS = ("flat_gradient", "verified_gradient", "helm", *list(PEERS)[:2])


def small_problem(energies, name="cem", num_problems=3, horizon=6, **options):
    return PlanningProblem(
        energies, num_problems=num_problems, horizon=horizon, num_actions=3, budget=320 * horizon,
        **{"energy_scale": torch.full((num_problems,), 5.0), "over_time": ALL[name].over_time} | options,
    )  # fmt: skip


def counting(actions):
    """5 less the times that action 1 was taken so far."""
    return 5 - actions[..., 1].cumsum(-1)


def overflowing(actions):
    """States that are multiplied by 1e3 at each action 2: inf * 0 is NaN. Action 1 goes to the goal."""
    matrices = torch.stack([torch.eye(2), 0.8 * torch.eye(2), 1e3 * torch.eye(2)])
    state, energies = torch.ones(*actions.shape[:2], 2), []
    for action in actions.unbind(2):
        state = (action[..., None] * (matrices @ state[..., None, :, None])[..., 0]).sum(-2)
        energies.append(state.square().sum(-1))
    return torch.stack(energies, -1)


@pytest.mark.parametrize("name", VERIFYING)
def test_plans_that_overflow_are_passed_over(name):
    problem = small_problem(overflowing, name, num_problems=32, horizon=30)
    plan = make_planner(name)(problem, generator())
    assert plan.energy.isfinite().all() and plan.history[-1].isfinite().all()
    assert (plan.actions != 0).any(1).all()
    fresh = small_problem(overflowing, name, num_problems=32, horizon=30)
    torch.testing.assert_close(fresh.rollout(one_hot(plan.actions, 3)[:, None])[:, 0], plan.energy)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ALL)
def test_problems_without_a_finite_plan_are_named(name, bad):
    def energies(actions):
        wrong = torch.tensor([False, True, False])[:, None, None]
        return torch.where(wrong, bad + 0 * actions[..., 1], counting(actions))

    with pytest.raises(NoFinitePlan, match=r"1 of 3 problems \(1\)") as raised:
        make_planner(name)(small_problem(energies, name), generator())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [name for name in GRADIENT_PLANNERS if name != "verified_gradient_zeroed"])
def test_gradient_entries_that_are_not_finite_are_skipped(name):
    """The others still lead to the goal: the gradient by action 2 is NaN at every step."""

    def energies(actions):
        if actions.requires_grad:
            actions = actions * 1.0
            actions.register_hook(lambda gradient: gradient * torch.tensor([1.0, 1.0, torch.nan]))
        return counting(actions)

    plan = make_planner(name)(small_problem(energies, name), generator())
    assert plan.actions.eq(1).all() and plan.energy.isfinite().all()


@pytest.mark.parametrize("size", [1e25, 1e37])
@pytest.mark.parametrize("name", ["verified_gradient", "helm"])
def test_huge_gradients_do_no_harm(name, size):
    """Squares of such gradients overflow."""
    problem = small_problem(lambda actions: size * counting(actions), name)
    plan = make_planner(name)(problem, generator())
    assert plan.energy.isfinite().all() and plan.actions.eq(1).float().mean() > 0.8


@pytest.mark.parametrize("name", ["verified_gradient", "helm", "cem", "coarse_cem"])
def test_an_infinite_energy_forbids_an_action(name):
    def energies(actions):
        return torch.where(actions[..., 2].cumsum(-1) > 0.5, torch.inf, 5 - actions[..., 1].cumsum(-1))

    plan = make_planner(name)(small_problem(energies, name), generator())
    assert plan.energy.isfinite().all() and not (plan.actions == 2).any()
    assert plan.actions.eq(1).float().mean() > 0.8


OUT_OF_RANGE = {
    "flat_gradient": {"gd_steps": (0, -1), "gd_lr": (0.0, -1.0, torch.inf, torch.nan),
                      "tau": (0.0, -1.0, torch.inf, torch.nan)},
    "verified_gradient": {"travel": (0.0, -1.0, torch.nan), "betas": ((0.5,), (1.0, 0.9), (0.5, -0.1)),
                          "tau": (0.0, -1.0, torch.nan), "init_sigma": (-0.1, torch.inf),
                          "gradient_samples": (0,), "hard_samples": (-1,), "pull_back": ("none",)},
    "helm": {"coarse": ("none",), "coarse_share": (1.0, -0.1, torch.nan), "carry": (torch.nan, torch.inf)},
    "cem": {"population": (0, -3), "elites": (0,), "smoothing": (1.5, -0.1, torch.nan),
            "momentum": (1.0, 2.0, -0.1), "coarse_share": (1.0, 1.5)},
    "coarse_cem": {"coarse_share": (1.0, 1.5, -1.0)},
    "random_shooting": {"chunk": (0, -5)},
    "hill_climbing": {"swaps": (0, -1), "patience": (0,)},
    "icem": {"rounds": (0,), "decay": (0.9, torch.inf), "elites": (0,), "kept": (-0.1, 1.1),
             "momentum": (1.0, -0.1), "smoothing": (1.5, -0.1), "exponent": (-1.0, torch.nan)},
    "mppi": {"rounds": (0,), "temperature": (0.0, torch.inf), "momentum": (1.0, -0.1),
             "smoothing": (1.5, torch.nan)},
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_every_hyperparameter_is_checked(name):
    """One line that names it and its value; each field of each planner has a value that is refused."""
    planner = ALL[name]
    chain = dict.fromkeys(("helm", *list(PEERS)[:2]), OUT_OF_RANGE["verified_gradient"])
    inherited = (chain | {"coarse_cem": OUT_OF_RANGE["cem"]}).get(name, {})
    wrong = inherited | OUT_OF_RANGE.get(name, {})
    assert {field.name for field in dataclasses.fields(planner)} == set(wrong)
    for field, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError) as raised:
                make_planner(name, **{field: value})
            message = str(raised.value)
            assert message.startswith(f"{field} = {value!r}") and "\n" not in message


def test_energies_of_another_shape_are_told_in_a_line():
    for energies in (lambda a: a[..., 1].sum(-1), lambda a: a[..., 1:], lambda a: a[:, :1, :, 1]):
        with pytest.raises(ValueError, match="one number a step") as raised:
            make_planner("cem")(small_problem(energies), generator())
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"actions must be \[B, N, T, A\]"):
        small_problem(counting).rollout(torch.zeros(3, 2, 6, 4))
    with pytest.raises(ValueError, match="energy_scale must be one number a problem"):
        small_problem(counting, energy_scale=torch.ones(2))
    with pytest.raises(ValueError, match="energy_scale must be finite"):
        small_problem(counting, energy_scale=torch.tensor([1.0, torch.nan, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_a_model_of_another_dtype_casts_inside_or_is_told_so(name, dtype):
    layer = torch.nn.Linear(3, 1).to(dtype)
    with pytest.raises(TypeError, match="cast them inside") as raised:
        make_planner(name)(small_problem(lambda a: layer(a)[..., 0].cumsum(-1), name), generator())
    assert "\n" not in str(raised.value)
    problem = small_problem(lambda a: layer(a.to(dtype))[..., 0].cumsum(-1), name)
    plan = make_planner(name)(problem, generator())
    assert plan.energy.isfinite().all() and plan.evaluations == problem.evaluations


@pytest.mark.parametrize("name", ALL)
def test_another_default_dtype_changes_nothing(name):
    def plan():
        return make_planner(name)(small_problem(counting, name, stride=2), generator())

    expected = plan()
    torch.set_default_dtype(torch.float64)
    try:
        found = plan()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.actions, expected.actions) and torch.equal(found.energy, expected.energy)
    assert found.history.dtype == expected.history.dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_another_default_device_changes_nothing(name):
    """`meta` stands in for a GPU: nothing that is made there has values."""

    def plan():
        return make_planner(name)(small_problem(counting, name, energy_scale=scale), generator())

    scale = torch.full((3,), 5.0)
    expected = plan()
    with torch.device("meta"):
        found = plan()
    assert torch.equal(found.actions, expected.actions) and torch.equal(found.energy, expected.energy)


@pytest.mark.parametrize("name", ALL)
def test_inference_mode_works_or_is_told_in_a_line(name):
    with torch.inference_mode():
        problem = small_problem(counting, name)
        if name in GRADIENT_PLANNERS:
            with pytest.raises(ValueError, match="inference_mode") as raised:
                make_planner(name)(problem, generator())
            assert "\n" not in str(raised.value)
        else:
            assert make_planner(name)(problem, generator()).energy.isfinite().all()


@pytest.mark.parametrize("name", GRADIENT_PLANNERS)
def test_energies_without_a_gradient_are_told_in_a_line(name):
    with pytest.raises(ValueError, match="no gradient") as raised:
        make_planner(name)(small_problem(lambda a: counting(a.detach()), name), generator())
    assert "\n" not in str(raised.value)


# ----------------------------------------------------------------------------------------------
# Noise
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "how"), VARIANTS)
def test_a_groups_plans_depend_on_its_own_generator_and_problems_alone(name, how):
    planner = make_planner(name, **how)

    def planned(groups):  # {seed: starts} in this order
        counts = [len(own) for own in groups.values()]
        starts = torch.tensor([start for own in groups.values() for start in own])
        members = torch.arange(len(groups)).repeat_interleave(torch.tensor(counts))
        noise = Noise([generator(seed) for seed in groups], members)
        plan = planner(SMALL.problem(starts, 9, 2880, over_time=planner.over_time), noise)
        return dict(zip(groups, plan.actions.split(counts), strict=True))

    alone = planned({5: [0, 10]})[5]
    assert torch.equal(planned({5: [0, 10], 6: [37], 7: [90, 1, 2]})[5], alone)
    assert torch.equal(planned({7: [90, 1, 2], 5: [0, 10]})[5], alone)
    assert torch.equal(planned({7: [], 5: [0, 10]})[5], alone)
    others = [planned({seed: [0, 10]})[seed] for seed in (6, 8, 9)]  # two searches may find the same plans
    assert not all(torch.equal(other, alone) for other in others)


def test_a_single_group_is_the_generator_itself():
    one = Noise.of(generator(3), 4)
    assert torch.equal(one.uniform((4, 5), torch.device("cpu")), torch.rand(4, 5, generator=generator(3)))
    assert torch.equal(Noise.of(generator(3), 4).normal((4, 5), torch.device("cpu")),
                       torch.randn(4, 5, generator=generator(3)))  # fmt: skip


def test_noise_that_makes_no_sense_is_refused():
    one = [generator()]
    for wrong in (torch.tensor([0, 1]), torch.tensor([-1]), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="groups"):
            Noise(one, wrong)
    with pytest.raises(ValueError, match="ascending"):
        Noise(one * 2, torch.tensor([1, 0]))
    with pytest.raises(TypeError, match="Generator"):
        make_planner("cem")(small_problem(counting), 7)
    with pytest.raises(ValueError, match="noise of 2 problems"):
        make_planner("cem")(small_problem(counting), Noise(one, torch.zeros(2, dtype=torch.int64)))
