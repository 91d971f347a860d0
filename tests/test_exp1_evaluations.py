"""Planning at equal evaluations: what a budget buys, what is executed, and a tiny run of the part alone."""

from pathlib import Path

import pytest
import torch

from common.config import Exp1Config
from common.run.results import load_results
from exp1_spectral_cliff import evaluate_planning
from exp1_spectral_cliff.analyze_spectrum import hierarchy
from exp1_spectral_cliff.dataset import make_system, rollout_true
from exp1_spectral_cliff.equal_evaluations import (
    COMPARED,
    Descent,
    Search,
    actuator_noise,
    best_of_descent,
    execute,
    gradient_steps,
    make_planner,
)
from exp1_spectral_cliff.evaluate_planning import descend, make_problems
from exp1_spectral_cliff.models import FlatModel, HelmModel, rollout, rollout_steps
from tests.experiment_runs import TinyRun

CONFIG = Exp1Config(seeds=(0, 1), num_problems=3, planning_horizons=(8,))
SYSTEM = make_system("lorenz")
CPU = torch.device("cpu")
TINY = (
    "--parts", "evaluations", "--systems", "lorenz", "--hidden-dim", "16", "--d-latent", "8", "--iterations",
    "30", "--num-trajectories", "8", "--planning-horizons", "8", "--num-problems", "3", "--seeds", "0", "1",
    "--evaluation-sweep", "6", "12", "--gd-steps", "5", "--replan-sweep", "1", "3", "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def models():
    sizes = SYSTEM.d_state, SYSTEM.d_action
    flat = FlatModel(CONFIG.seeds, *sizes, 16, "flat")
    return {"flat": flat, "helm": HelmModel(CONFIG.seeds, *sizes, 8, 16, 4, True, "helm")}


@pytest.fixture(scope="module")
def problems():
    return make_problems(SYSTEM, 8, CONFIG)


def stages_of(models, *names):
    return [hierarchy(SYSTEM, models, name, CPU) for name in names]


def test_a_budget_buys_four_times_the_steps_where_macro_steps_are_four_long(models):
    (flat,), (helm,) = stages_of(models, "flat"), stages_of(models, "helm")
    assert gradient_steps(flat, 48, 150) == 50 and gradient_steps(helm, 48, 150) == 200
    assert gradient_steps(flat, 48, 1) == 1, "one at least"


@pytest.mark.parametrize("names", [("flat",), ("helm",), ("helm", "flat")])
def test_no_descent_spends_more_than_its_budget(models, problems, monkeypatch, names):
    """Counted in the rollouts that it asks for, each with its backward pass."""
    spent = []

    def counted(levels, states, actions):
        spent.append(3 * rollout_steps(levels, actions.shape[2]))
        return rollout(levels, states, actions)

    monkeypatch.setattr(evaluate_planning, "rollout", counted)
    planner = Descent(stages_of(models, *names), 5.0)
    for horizon in (4, 7, 8):
        for evaluations in (6.0, 15.0, 37.5):
            spent.clear()
            planner(problems.starts, problems.goals, problems.initial[:, :, :horizon], evaluations)
            assert 0 < sum(spent) <= evaluations * horizon
            if evaluations > 6:
                assert sum(spent) > 0.6 * evaluations * horizon, "what is left buys no further step"


def test_a_descent_returns_the_best_of_its_iterates(models, problems):
    (flat,) = stages_of(models, "flat")
    found = best_of_descent(flat, problems.starts, problems.goals, problems.initial, 7, 0.7)
    plans = descend(flat, problems.starts, problems.goals, problems.initial, 7, 0.7)[
        :7
    ]  # where gradients were

    def energy(plan):
        return 0.5 * (rollout(flat, problems.starts, torch.tanh(plan)) - problems.goals).square().sum(-1)

    torch.testing.assert_close(energy(found), torch.stack([energy(plan) for plan in plans]).amin(0))


def test_the_search_scores_what_the_flat_model_predicts_within_its_budget(models, problems):
    (levels,) = stages_of(models, "flat")
    planner = make_planner(SYSTEM, models, "icem", CONFIG, CPU)
    assert isinstance(planner, Search)
    energies = planner._energies(problems.starts, problems.goals)
    plans = torch.rand(2 * 3, 5, 8, SYSTEM.d_action, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = energies(plans)  # [S P, N, T]
    own = plans.double().unflatten(0, (2, 3))
    for candidate in range(5):
        ends = rollout(levels, problems.starts, own[:, :, candidate])
        expected = 0.5 * (ends - problems.goals).square().sum(-1)
        torch.testing.assert_close(found[:, candidate, -1], expected.flatten().float())
    actions, carried = planner(problems.starts, problems.goals, problems.initial, 15.0)
    assert actions.shape == problems.initial.shape and actions.abs().max() <= 1
    assert carried.shape[0] == 6 and carried.shape[2] == 8
    again, _ = planner(problems.starts, problems.goals, carried[:, :, 3:], 15.0)
    assert again.shape[2] == 5


def test_the_search_improves_on_its_first_round(models, problems):
    planner = make_planner(SYSTEM, models, "icem", CONFIG, CPU)
    energies = planner._energies(problems.starts, problems.goals)

    def reached(evaluations):
        made = make_planner(SYSTEM, models, "icem", CONFIG, CPU)
        actions, _ = made(problems.starts, problems.goals, problems.initial, evaluations)
        return energies(actions.flatten(0, 1)[:, None].float())[:, 0, -1].mean()

    assert reached(300.0) < reached(8.0)


def test_what_is_executed(problems):
    """All T steps whatever the number of plans; a plan's actions as they are, or disturbed and clamped."""
    seen = []

    def planner(states, goals, carried, evaluations):
        seen.append((states, carried.shape[2], evaluations))
        return torch.tanh(carried), carried

    nothing = torch.zeros_like(problems.initial)
    once = execute(SYSTEM, planner, problems, 20.0, 1, nothing)
    ends = rollout_true(SYSTEM, problems.starts, torch.tanh(problems.initial))[..., -1, :]
    torch.testing.assert_close(once, (ends - problems.goals).norm(dim=-1))
    seen.clear()
    torch.testing.assert_close(execute(SYSTEM, planner, problems, 20.0, 3, nothing), once)
    assert [length for _, length, _ in seen] == [8, 6, 3]
    assert sum(length * count for _, length, count in seen) == pytest.approx(20 * 8), "one budget for all"
    assert len({count for *_, count in seen}) == 1
    seen.clear()
    execute(SYSTEM, planner, problems, 20.0, 20, nothing)
    assert len(seen) == 8, "no more plans than steps"
    disturbed = actuator_noise(SYSTEM, problems, 8, CONFIG)
    assert disturbed.shape == problems.initial.shape
    assert disturbed.std() == pytest.approx(CONFIG.actuator_noise, rel=0.3)
    shaken = execute(SYSTEM, planner, problems, 20.0, 1, 100 * disturbed)
    bounds = (torch.tanh(problems.initial) + 100 * disturbed).clamp(-1, 1)
    ends = rollout_true(SYSTEM, problems.starts, bounds)[..., -1, :]
    torch.testing.assert_close(shaken, (ends - problems.goals).norm(dim=-1))


def test_the_part_alone(tmp_path):
    run = TinyRun("exp1_spectral_cliff", TINY, frozenset({"exp1_evaluations.png"}))
    run(tmp_path, rendered=True)
    run.assert_figures(tmp_path)
    metrics = load_results(Path(tmp_path) / "results")["metrics"]
    labels = ["evaluations=6/T=8", "evaluations=12/T=8"]
    labels += [f"{noise}replans={count}/T=8" for noise in ("", "noise/") for count in (1, 3)]
    for planner in COMPARED:
        for label in labels:
            assert min(metrics[f"lorenz/{planner}/planning_distance/{label}"]["values"]) >= 0
        one = metrics[f"lorenz/{planner}/planning_distance/replans=1/T=8"]["values"]
        assert one == metrics[f"lorenz/{planner}/planning_distance/evaluations=12/T=8"]["values"]
    flat, helm = (metrics[f"lorenz/{p}/planning_distance/{labels[0]}"]["values"] for p in ("flat", "helm"))
    apart = metrics[f"lorenz/helm_minus_flat/planning_distance/{labels[0]}"]["values"]
    assert apart == pytest.approx([h - f for h, f in zip(helm, flat, strict=True)])
    assert not any(name.startswith("lorenz/spectral") for name in metrics), "what it does not need"


def test_plans_of_less_than_a_gradient_step_are_refused(tmp_path):
    run = TinyRun("exp1_spectral_cliff", TINY, frozenset())
    run.assert_refused(
        tmp_path / "new", ["--evaluation-sweep", "12", "--replan-sweep", "1", "20"], "--replan-sweep"
    )
