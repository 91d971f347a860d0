"""Experiment 1's gradient planner on problems with known answers."""

import pytest
import torch

from common.config import Exp1Config
from common.run.command_line import ConfigError
from exp1_spectral_cliff import evaluate_planning
from exp1_spectral_cliff.analyze_spectrum import hierarchy
from exp1_spectral_cliff.dataset import make_system, rollout_true
from exp1_spectral_cliff.evaluate_planning import (
    control,
    curve_points,
    descend,
    make_problems,
    measure_planning,
    plan_in_stages,
)
from exp1_spectral_cliff.models import FlatModel, HelmModel, TrueLevel

CONFIG = Exp1Config(num_problems=6, gd_steps=40, planning_horizons=(8,))
SYSTEM = make_system("lorenz")
CPU = torch.device("cpu")


def _models():
    flat = FlatModel((0,), SYSTEM.d_state, SYSTEM.d_action, 16, "flat")
    return {"flat": flat, "helm": HelmModel((0,), SYSTEM.d_state, SYSTEM.d_action, 8, 16, 4, True, "helm")}


class Integrator:
    """s' = s + a / 10: the distance is convex in the actions, and any goal within T / 10 is reachable."""

    stride = 1
    name = "integrator"

    def encode(self, states):
        return states

    def decode(self, latents):
        return latents

    def step(self, latents, blocks):
        return latents + 0.1 * blocks


def test_goals_are_reachable_from_their_starts():
    problems = make_problems(SYSTEM, 8, CONFIG)
    assert problems.goals.shape == (1, 6, 3)
    again = make_problems(SYSTEM, 8, CONFIG)
    assert torch.equal(problems.starts, again.starts), "every planner sees the same problems"
    random_ends = rollout_true(SYSTEM, problems.starts, problems.random_actions)[..., -1, :]
    assert ((random_ends - problems.goals).norm(dim=-1) > 0.1).all(), "random controls do not reach them"


@pytest.mark.parametrize(("optimiser", "rate"), [(torch.optim.Adam, 0.1), (torch.optim.SGD, 1.0)])
def test_descent_solves_a_convex_problem(optimiser, rate):
    starts = torch.zeros(2, 3, 1, dtype=torch.float64)
    goals = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64).expand(2, -1)[..., None]
    plans = descend([Integrator()], starts, goals, torch.zeros(2, 3, 10, 1).double(), 300, rate, optimiser)
    assert len(plans) == 301
    reached = 0.1 * torch.tanh(plans[-1]).sum(2)
    assert (reached - goals).abs().max() < 1e-2


def test_stages_share_the_steps_and_start_where_the_last_one_ended():
    problems = make_problems(SYSTEM, 8, CONFIG)
    level = [TrueLevel(SYSTEM)]
    plans = plan_in_stages([level, level], problems.starts, problems.goals, problems.initial, 7, 0.1)
    assert len(plans) == 8
    assert torch.equal(plans[0], problems.initial)


def test_planning_through_the_true_system_beats_random_and_replanning_beats_open_loop():
    problems = make_problems(SYSTEM, 8, CONFIG)
    level = [TrueLevel(SYSTEM)]
    plan = plan_in_stages([level], problems.starts, problems.goals, problems.initial, 40, 0.1)[-1]
    distance = evaluate_planning.true_distance
    random = distance(SYSTEM, problems.starts, problems.goals, problems.random_actions)
    planned = distance(SYSTEM, problems.starts, problems.goals, torch.tanh(plan))
    closed = control(SYSTEM, [level], problems, plan, CONFIG)
    assert planned.median() < 0.5 * random.median()
    assert closed.median() <= planned.median()


def test_closed_loop_executes_every_step_once():
    problems = make_problems(SYSTEM, 8, CONFIG)
    for replans in (1, 3, 20):  # more plans than steps as well
        config = Exp1Config(num_problems=6, gd_steps=1, replans=replans)
        assert control(SYSTEM, [[TrueLevel(SYSTEM)]], problems, problems.initial, config).shape == (1, 6)


def test_the_closed_loop_begins_with_the_open_loops_plan():
    """One plan an episode is the open loop; with two, the first half is executed as planned."""
    config = Exp1Config(num_problems=2, gd_steps=3, replans=1, planning_horizons=(8,))
    measured = measure_planning(SYSTEM, _models(), "helm_refined", config=config, device=CPU)
    torch.testing.assert_close(measured["closed"], measured["open"], rtol=0, atol=0)
    twice = Exp1Config(num_problems=2, gd_steps=3, replans=2, planning_horizons=(8,))
    problems, level = make_problems(SYSTEM, 8, twice), [TrueLevel(SYSTEM)]
    planned_from = []

    def watched(stages, starts, *rest):
        planned_from.append(starts)
        return plan_in_stages(stages, starts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_planning, "plan_in_stages", watched)
        control(SYSTEM, [level], problems, problems.initial, twice)
    halfway = rollout_true(SYSTEM, problems.starts, torch.tanh(problems.initial[:, :, :4]))[..., -1, :]
    assert len(planned_from) == 1 and torch.equal(planned_from[0], halfway)


def test_every_stage_descends_whatever_the_optimiser():
    """helm_refined ends on the flat model with Adam and with plain gradient descent alike."""
    config = Exp1Config(num_problems=2, gd_steps=6, planning_horizons=(8,))
    models, problems = _models(), make_problems(SYSTEM, 8, config)
    stages = [hierarchy(SYSTEM, models, name, CPU) for name in ("helm", "flat")]
    measured = measure_planning(SYSTEM, models, "helm_refined", config=config, device=CPU)
    for key, optimiser in (("open", torch.optim.Adam), ("sgd", torch.optim.SGD)):
        plan = problems.initial
        for levels in stages:
            plan = descend(levels, problems.starts, problems.goals, plan, 3, config.gd_lr, optimiser)[-1]
        expected = evaluate_planning.true_distance(SYSTEM, problems.starts, problems.goals, torch.tanh(plan))
        torch.testing.assert_close(measured[key][0], expected, rtol=0, atol=0)
        alone = measure_planning(SYSTEM, models, "helm", config=config, device=CPU)
        assert not torch.equal(measured[key], alone[key])


def test_curve_points_end_with_the_last_step():
    assert curve_points(50) == [0, 1, 2, 5, 10, 20, 50]
    assert curve_points(7) == [0, 1, 2, 5, 7]
    assert curve_points(1) == [0, 1]


def test_evaluations_count_a_backward_twice():
    class Four(Integrator):
        stride = 4

    stages = [[Integrator()], [Integrator(), Four()]]
    # half of 10 steps through 8 fine steps, half through 2 macro steps, each times three
    assert evaluate_planning.plan_evaluations(stages, 8, 10) == 3 * (5 * 8 + 5 * 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("gradient_noise", 1e-300), ("gradient_noise", 1e300), ("gd_lr", 1e300), ("gd_lr", 1e-300),
     ("hf_noise_sigma", 1e-300), ("hf_noise_sigma", 1e300)],
)  # fmt: skip
def test_noise_and_rates_that_rounding_swallows_or_that_overflow_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}"):
        Exp1Config(**{field: value})
    assert Exp1Config(hf_noise_sigma=0.0).hf_noise_sigma == 0.0
