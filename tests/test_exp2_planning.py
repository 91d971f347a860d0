"""Mollified descent and its baselines on energies with known minima, and what they may spend."""

import dataclasses

import pytest
import torch

from common.config import Exp2Config
from common.run.command_line import ConfigError
from common.run.results import Results
from exp2_funnel_heatmap.dataset import function_task, landscape_task
from exp2_funnel_heatmap.energy_functions import (
    BenchmarkFunction,
    TrueField,
    aligned_landscape,
    distance_to_minimum,
    misaligned_landscape,
)
from exp2_funnel_heatmap.evaluate_planning import (
    FUNCTION_PLANNERS,
    LANDSCAPE_PLANNERS,
    Fields,
    HeldOut,
    check_planning,
    errors,
    held_out,
    record_functions,
    run_planner,
)
from exp2_funnel_heatmap.fields import cell_centres
from exp2_funnel_heatmap.models import EnergyModel
from exp2_funnel_heatmap.mollified_descent import (
    LONG_MEMORY,
    SHORT_MEMORY,
    adam_descent,
    cma_es,
    mollified_descent,
    multi_start,
    setting,
    single_descent,
    smoothed_flat,
    smoothed_flat_hop,
    smoothed_gradient,
    trust,
)

CONFIG = Exp2Config(seeds=(0,))
MISALIGNED = misaligned_landscape()
STARTS = cell_centres(8, 3.0)[None]


class Counted:
    """A field that counts what it is asked, a gradient as three."""

    def __init__(self, energy):
        self.field, self.spent = TrueField([energy]), 0

    def __call__(self, points):
        self.spent += points.shape[1]
        return self.field(points)

    def gradient(self, points):
        self.spent += 3 * points.shape[1]
        return self.field.gradient(points)

    def member(self, index):
        return self


def _setting(error: float = 0.0, config: Exp2Config = CONFIG, stream: str = "test"):
    return setting(config, torch.full((1,), error), torch.ones(1), stream)


def _success(points):
    return (distance_to_minimum(points, MISALIGNED.minimisers) < 0.05).double().mean().item()


PLANNERS = {
    "mollified_descent": lambda smooth, flat, *rest: mollified_descent(smooth, flat, *rest),
    "smoothed_flat": lambda smooth, flat, *rest: smoothed_flat(flat, *rest),
    "smoothed_flat_hop": lambda smooth, flat, *rest: smoothed_flat_hop(flat, *rest),
    "multi_start": lambda smooth, flat, *rest: multi_start(flat, *rest),
    "single": lambda smooth, flat, *rest: single_descent(flat, *rest),
    "cma_es": lambda smooth, flat, *rest: cma_es(flat, *rest),
}


@pytest.mark.parametrize("budget", [700, 3001])
@pytest.mark.parametrize("planner", PLANNERS)
def test_a_planner_reports_what_it_spent_and_keeps_to_the_budget(planner, budget):
    smooth, flat = Counted(MISALIGNED.mollified(0.4)), Counted(MISALIGNED)
    starts = STARTS[:, :3]
    plan = PLANNERS[planner](smooth, flat, starts, budget, _setting())
    assert plan.evaluations <= budget
    spent = (smooth.spent + flat.spent) / starts.shape[1]
    if planner == "cma_es":  # reports the most that a start has spent
        assert 0.8 * plan.evaluations < spent <= plan.evaluations
    else:
        assert spent == plan.evaluations
    assert plan.points.shape == starts.shape and (plan.points.abs() <= 3.0).all()


def test_on_the_closed_form_landscape_the_hop_finds_what_the_funnel_misses():
    """The smoothed minimum is half a ripple off; one descent on the rugged energy is trapped."""
    smooth, flat = TrueField([MISALIGNED.mollified(0.5)]), TrueField([MISALIGNED])
    assert _success(single_descent(smooth, STARTS, 6000, _setting()).points) == 0.0
    assert _success(single_descent(flat, STARTS, 6000, _setting()).points) < 0.1
    assert _success(mollified_descent(smooth, flat, STARTS, 6000, _setting()).points) >= 0.98


def test_a_flat_model_whose_error_exceeds_the_ripples_is_not_believed():
    smooth, flat = TrueField([MISALIGNED.mollified(0.5)]), TrueField([MISALIGNED])
    config = dataclasses.replace(CONFIG, smooth_starts=1)
    plan = mollified_descent(smooth, flat, STARTS, 6000, _setting(1e6, config))
    assert (plan.points - MISALIGNED.mollified(0.5).minimisers).norm(dim=-1).max() < 0.1


@pytest.mark.parametrize(("ripple", "error"), [(1.0, 0.1), (1.0, 1.0), (0.5, 1.0), (0.01, 1.0)])
def test_trust_is_the_share_of_the_posterior_mean(ripple, error):
    """Truth varies by tau around what is expected, the model errs by s: tau^2 / (tau^2 + s^2)."""
    draw = torch.Generator().manual_seed(0)
    true, noise = torch.randn(2, 1, 1, 200_000, generator=draw, dtype=torch.float64)
    found = trust(ripple * true + error * noise, torch.full((1,), error)).item()
    assert found == pytest.approx(ripple**2 / (ripple**2 + error**2), abs=0.02)


def test_the_error_of_a_near_tie_is_shrunk_away():
    """Equal ripples under a funnel, and a flat model that likes the wrong one: only shrinking finds it."""
    ripples = dataclasses.replace(aligned_landscape(), amplitudes=torch.tensor([0.6, 0.6, 0.0, 0.0]).double())
    truth = dataclasses.replace(ripples, half_width=3.0)
    wrong = truth.centre + torch.tensor([2 * torch.pi / 7, 0.0])

    def basin(points):
        return 0.02 * truth.basin(points)

    def flat(points):
        dent = 0.03 * torch.exp(-20 * (points - wrong).square().sum(-1))
        return basin(points) + truth.ripples(points).sum(-1) - dent

    fields = TrueField([basin]), TrueField([flat])
    believing, shrinking = (
        mollified_descent(*fields, STARTS, 6000, _setting(error)).points for error in (0.0, 0.03)
    )
    assert ((believing - wrong).norm(dim=-1) < 0.05).double().mean() > 0.9
    assert (distance_to_minimum(shrinking, truth.centre[None]) < 0.05).double().mean() > 0.9


def test_a_polish_reaches_the_bottom_of_its_ripple():
    """With Adam's usual memory it stops above it, by more than near ties differ."""
    field = TrueField([MISALIGNED])

    def bottom(steps, rate, memory):
        ends = adam_descent(lambda points, _: field.gradient(points), STARTS, steps, rate, 3.0, memory)
        settled = adam_descent(lambda points, _: field.gradient(points), ends, 400, 0.005, 3.0)
        return (field(ends) - field(settled)).median().item()

    assert bottom(CONFIG.polish_steps, CONFIG.polish_rate, SHORT_MEMORY) < 1e-3
    assert bottom(25, 0.05, LONG_MEMORY) > 5e-3


def test_held_out_samples_tell_the_error_and_what_of_the_ripples_is_true():
    """A flat model with twice the ripples and a constant off: half of its departure from the basin holds."""
    config = dataclasses.replace(CONFIG, seeds=(0, 1))

    def model(gain, offset):
        field = torch.nn.Module()
        field.mean = torch.zeros(2, 1)
        field.forward = lambda at: MISALIGNED.basin(at) + gain * MISALIGNED.ripples(at).sum(-1) + offset
        return field

    models = {"flat": model(2.0, 0.3), "helm_second_difference": model(0.0, 0.1)}
    known = held_out(landscape_task("misaligned", [MISALIGNED], config), models, config)
    torch.testing.assert_close(known.share, torch.full((2,), 0.5), rtol=1e-3, atol=0)
    expected = (MISALIGNED.amplitudes.square().sum() / 2 + 0.09).sqrt().float()
    torch.testing.assert_close(known.error, expected.expand(2), rtol=0.03, atol=0)


def test_a_planner_keeps_the_lowest_learned_energy_though_the_true_one_disagrees():
    """The learned energy has a spurious well: honest planners fall for it, an oracle would not."""
    well = torch.tensor([0.9, -0.6], dtype=torch.float64)

    def learned(points):
        return MISALIGNED(points) - 5 * torch.exp(-8 * (points - well).square().sum(-1))

    smooth, flat = TrueField([MISALIGNED.mollified(0.5)]), TrueField([learned])
    plan = mollified_descent(smooth, flat, STARTS, 6000, _setting())
    assert _success(plan.points) == 0.0
    assert ((plan.points - well).norm(dim=-1) < 0.15).double().mean() > 0.9


def test_more_budget_helps_restarts():
    flat = TrueField([MISALIGNED])
    few, many = (multi_start(flat, STARTS, budget, _setting()).points for budget in (600, 6000))
    assert _success(few) + 0.2 < _success(many)


def test_post_hoc_smoothing_estimates_the_mollified_gradient():
    """Mean of dE(a + sigma e): within Monte-Carlo error of the closed form, away from the border."""
    points = STARTS[:, (STARTS[0].abs() < 1.5).all(-1)]
    sigma, samples = 0.3, 20_000
    estimate = smoothed_gradient(TrueField([MISALIGNED]), points, sigma, samples, _setting())
    exact = MISALIGNED.mollified(sigma).gradient(points)
    assert (estimate - exact).abs().max() < 5 * 8.0 / samples**0.5  # slopes deviate by less than 8


def test_adam_descent_and_cma_es_solve_a_bowl():
    bowl = TrueField([lambda points: (points - 1.0).square().sum(-1)])
    ends = adam_descent(lambda points, _: bowl.gradient(points), STARTS, 200, 0.2, 3.0)
    assert (ends - 1.0).abs().max() < 0.01
    found = cma_es(Counted(lambda points: (points - 1.0).square().sum(-1)), STARTS[:, :2], 1500, _setting())
    assert (found.points - 1.0).abs().max() < 0.01


def test_random_numbers_are_the_seeds_and_the_streams():
    flat = TrueField([MISALIGNED])
    first, again = (multi_start(flat, STARTS, 1000, _setting()).points for _ in range(2))
    other = multi_start(flat, STARTS, 1000, _setting(stream="other")).points
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_function_planner_runs_on_a_field_of_several_functions():
    """Members are functions x seeds; an error is measured against the member's own minimum."""
    config = dataclasses.replace(CONFIG, seeds=(0, 1), functions=("ackley", "himmelblau"))
    task = function_task(2, config)
    field = Counted(lambda points: points.square().sum(-1))
    fields = {"true": TrueField(task.energies), "flat": field, "helm_second_difference": field}
    starts, known = torch.zeros(4, 2, 2), HeldOut(torch.zeros(4), torch.ones(4))
    for planner in FUNCTION_PLANNERS:
        plan = run_planner(planner, fields, starts, 700, config, known, "test")
        assert plan.points.shape == starts.shape
    minima = torch.stack([energy.minimisers for energy in task.energies]).repeat_interleave(2, 0)
    torch.testing.assert_close(errors(task, minima), torch.zeros(4, 1, dtype=torch.float64))
    assert (errors(task, minima.flip(0)) > 0.5).all()


def _as_model(energy, members):
    """A formula as a trained ensemble that planners may see."""
    network = torch.nn.Module()
    network.forward = lambda points: energy(points)[..., None]
    return EnergyModel(network, torch.zeros(members, 1), torch.ones(members, 1))


def test_cma_es_sees_the_model_that_its_name_says():
    """Bowls in different places: cma_es ends in the flat model's, cma_es_smooth in the smooth one's."""
    task = landscape_task("misaligned", [MISALIGNED], CONFIG)
    centres = {"flat": 1.0, "helm_second_difference": -1.5}
    models = {
        name: _as_model(lambda at, centre=centre: (at - centre).square().sum(-1), 1)
        for name, centre in centres.items()
    }
    fields, known = Fields(task, models), HeldOut(torch.zeros(1), torch.ones(1))
    for planner, variant in (("cma_es", "flat"), ("cma_es_smooth", "helm_second_difference")):
        plan = run_planner(planner, fields, STARTS[:, :2].float(), 1500, CONFIG, known, "test")
        assert (plan.points - centres[variant]).abs().max() < 0.01 and plan.evaluations <= 1500


def test_a_field_is_tabulated_once_and_true_where_asked():
    task = landscape_task("misaligned", [MISALIGNED], CONFIG)
    fields = Fields(task, {"flat": _as_model(MISALIGNED, 1)})
    assert fields["flat"] is fields["flat"]
    torch.testing.assert_close(fields["true"](STARTS), MISALIGNED(STARTS))
    in_five = function_task(5, CONFIG)
    model = _as_model(lambda at: at.sum(-1), 1)
    assert Fields(in_five, {"flat": model})["flat"] is model


def test_the_difference_from_cma_es_is_over_its_own_starts():
    """Mollified descent fails where CMA-ES was not tried: no part of the difference."""
    config = dataclasses.replace(CONFIG, seeds=(0, 1, 2), functions=("ackley", "levy"))
    task, starts = function_task(2, config), 8
    reached = torch.zeros(6, starts, dtype=torch.bool)
    reached[:, :2] = True
    all_of_them = {"reached": reached, "success": reached.double().mean(-1).view(2, 3)}
    two = {"reached": torch.tensor([[True, False]] * 6), "success": torch.full((2, 3), 0.5)}
    measured = {
        planner: {**(two if planner.startswith("cma_es") else all_of_them), "evaluations": torch.tensor(6000)}
        for planner in FUNCTION_PLANNERS
    }
    results = Results("test", config.seeds)
    record_functions(results, task, measured, {name: torch.ones(2, 3) for name in ("r2", "minimum_error")})
    for name in ("ackley-2", "levy-2"):
        for baseline, difference, count in (
            ("cma_es", 0.5, 2),
            ("cma_es_smooth", 0.5, 2),
            ("multi_start", 0, 8),
        ):
            prefix = f"functions/{name}/mollified_descent_minus_{baseline}"
            entry = results.metrics[f"{prefix}/success"]
            assert entry["values"] == [difference] * 3 and entry["interval95"] == [difference] * 2
            assert results.metrics[f"{prefix}/starts"]["values"] == [count] * 3
        assert results.metrics[f"functions/{name}/cma_es/success"]["values"] == [0.5] * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"plan_evaluations": 400},
        {"hop_rounds": 200, "smooth_steps": 10},
        {"plan_evaluations": 360, "budget_sweep": (360,), "smooth_starts": 9, "hop_rounds": 7},
    ],
)
def test_fewer_hops_than_rounds_are_planned_with_or_refused_before_training(changed):
    """A round without a candidate has nothing to polish, and tables refuse to be asked for nothing."""
    config = dataclasses.replace(CONFIG, **changed)
    try:
        check_planning(config)
    except ConfigError as refusal:
        assert "--plan-evaluations" in str(refusal) or "--budget-sweep" in str(refusal)
        return
    task = landscape_task("misaligned", [MISALIGNED], config)
    models = {"flat": _as_model(MISALIGNED, 1)}
    models["helm"] = models["helm_second_difference"] = _as_model(MISALIGNED.mollified(0.5), 1)
    fields, known = Fields(task, models), HeldOut(torch.ones(1), torch.ones(1))
    for planner in {*LANDSCAPE_PLANNERS, *FUNCTION_PLANNERS}:
        for budget in {min(config.budget_sweep), config.plan_evaluations}:
            plan = run_planner(planner, fields, STARTS[:, :1].float(), budget, config, known, "test")
            assert plan.points.isfinite().all() and plan.evaluations <= budget


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("function_tolerance", 100.0), ("function_tolerance", 0.31), ("tolerance", 100.0),
        ("plan_tolerance", 100.0), ("hop_sigma", 1e300), ("smooth_rate", 4.0), ("map_sigmas", (0.1, 5.0)),
        ("descent_step", 1e300), ("smoothing_sigma", 1e40),
    ],
)  # fmt: skip
def test_a_length_beyond_what_the_box_can_tell_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}"):
        dataclasses.replace(CONFIG, **{field: value})


def test_a_larger_box_takes_larger_lengths():
    wide = dataclasses.replace(CONFIG, domain_range=6.0, function_tolerance=0.6, hop_sigma=6.0)
    with pytest.raises(ConfigError, match="--function-tolerance"):
        dataclasses.replace(wide, domain_range=3.0, hop_sigma=1.0)


def test_on_the_true_ackley_function_smoothing_and_hopping_reach_the_minimum():
    """What is left to the learned model's error: on the true energy the planner succeeds."""
    energy = BenchmarkFunction("ackley", 2)
    plan = smoothed_flat_hop(TrueField([energy]), STARTS, 6000, _setting())
    assert (distance_to_minimum(plan.points, energy.minimisers) < 0.14).double().mean() > 0.95


def test_aligned_and_misaligned_share_their_basin():
    points = cell_centres(10, 3.0)
    torch.testing.assert_close(aligned_landscape().basin(points), MISALIGNED.basin(points))
