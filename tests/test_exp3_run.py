"""Experiment 3 run as a user would, at tiny sizes: files, finite numbers, resume, replot, bad input."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from common.config import Exp3Config
from common.minigrid.task import make_task
from exp3_planning_efficiency import evaluate_planners
from exp3_planning_efficiency.ladder import CONTROLS as LADDER_CONTROLS
from exp3_planning_efficiency.ladder import RUNGS
from exp3_planning_efficiency.train_flat import train_flat
from exp3_planning_efficiency.train_helm import HelmVariant, train_helm
from tests.experiment_runs import (
    TinyRun,
    assert_promised,
    assert_same_results,
    kill_at,
    measured,
    metrics_of,
    trained,
)

ENVIRONMENTS = ("Empty-5x5", "KeyCorridorS3R1")
TINY = [
    "--environments", *ENVIRONMENTS, "--hidden-dim", "16", "--d-latent", "8", "--iterations", "30",
    "--batch-size", "32", "--num-walks", "150", "--walk-length", "20", "--num-episodes", "6",
    "--planning-horizons", "4", "9", "--study-horizon", "9", "--evaluations-per-step", "24",
    "--budget-sweep", "16", "24", "--stride-sweep", "2", "4", "--tau-sweep", "0.5", "1.0",
    "--seeds", "0", "1", "--device", "cpu",
]  # fmt: skip
FIGURES = {
    "exp3_success_rate.png", "exp3_efficiency.png", "exp3_ablation.png", "exp3_latent_topology.png",
    "exp3_paths.png", "exp3_episode.gif", "exp3_training.png", "exp3_ladder.png",
}  # fmt: skip
CONTROLS = (
    *TINY, "--environments", "Empty-5x5", "--parts", "peers", "budgets", "--planning-horizons", "9",
    "--small-budgets", "2", "8",
)  # fmt: skip
CONTROL_FIGURES = {"exp3_peers.png", "exp3_budgets.png", "exp3_latent_topology.png", "exp3_training.png"}
PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem", "coarse_cem", "random_shooting")


RUN = TinyRun("exp3_planning_efficiency", tuple(TINY), frozenset(FIGURES))
CONTROL_RUN = TinyRun("exp3_planning_efficiency", CONTROLS, frozenset(CONTROL_FIGURES))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("exp3")
    RUN.as_a_process(folder)
    return folder


def promised_metrics():
    """The names that users may rely on."""
    names = {
        f"{env}/{model}/{planner}/{mode}/T={horizon}/{name}"
        for env in ENVIRONMENTS
        for model in ("flat", "helm", "oracle")
        for planner in PLANNERS
        for mode in ("open", "closed")
        for horizon in (4, 9)
        for name in ("success", "spl", "final_distance", "evaluations")
    }
    names |= {f"{env}/random_policy/T={horizon}/success" for env in ENVIRONMENTS for horizon in (4, 9)}
    names |= {
        f"{env}/{model}/{name}"
        for env in ENVIRONMENTS
        for model in ("flat", "helm")
        for name in ("spearman", "accuracy_1", "accuracy_10", "accuracy_50", "jacobian_50")
    }
    names |= {
        f"ladder/{env}/{model}/{rung}/success"
        for env in ENVIRONMENTS
        for model in ("flat", "helm", "oracle")
        for rung in (*RUNGS, *LADDER_CONTROLS)
    }
    return names | {
        f"ablation/Empty-5x5/{mode}/T=9/{model}/{planner}/success"
        for mode in ("open", "closed")
        for model in ("flat", "spectral", "hf", "helm")
        for planner in ("unverified", "verified")
    }


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = metrics_of(finished)
    assert_promised(metrics, promised_metrics())
    for name in promised_metrics():
        if name.endswith("/success") and "policy" not in name:
            low, high = metrics[name]["interval95"]
            assert 0 <= low <= metrics[name]["mean"] <= high <= 1, name


def test_no_planner_spends_more_than_its_budget(finished):
    metrics = metrics_of(finished)
    for env in ENVIRONMENTS:
        for planner in PLANNERS:
            for horizon in (4, 9):
                spent = metrics[f"{env}/helm/{planner}/open/T={horizon}/evaluations"]
                assert 0 < max(spent["values"]) <= 24 * horizon, (env, planner, horizon)


def test_nobody_beats_the_shortest_path(finished):
    metrics = metrics_of(finished)
    for env in ENVIRONMENTS:
        for horizon in (4, 9):
            bound = metrics[f"{env}/shortest_path/T={horizon}/success"]["mean"]
            for planner in PLANNERS:
                found = metrics[f"{env}/oracle/{planner}/closed/T={horizon}/success"]
                assert max(found["values"]) <= bound + 1e-12


def test_the_controls_alone(finished, tmp_path):
    """Their metrics and figures; what the comparison measures too comes out the same; nothing is trained."""
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = CONTROL_RUN(tmp_path, rendered=True)
    assert not trained(done)
    CONTROL_RUN.assert_figures(tmp_path)
    found, whole = metrics_of(tmp_path), metrics_of(finished)
    peers = ("verified_gradient_zeroed", "verified_gradient_shuffled", "hill_climbing", "icem", "mppi")
    for model in ("flat", "helm", "oracle"):
        for mode in ("open", "closed"):
            cem = f"Empty-5x5/{model}/cem/{mode}/T=9/success"
            assert found[cem]["values"] == whole[cem]["values"]
            for peer in peers:
                own = found[f"Empty-5x5/{model}/{peer}/{mode}/T=9/success"]["mean"]
                ours = found[f"Empty-5x5/{model}/verified_gradient/{mode}/T=9/success"]["mean"]
                apart = found[f"Empty-5x5/{model}/verified_gradient_minus_{peer}/{mode}/T=9/success"]["mean"]
                assert apart == pytest.approx(ours - own)
    assert found["Empty-5x5/random_policy/T=9/success"] == whole["Empty-5x5/random_policy/T=9/success"]
    rates = {name for name in found if name.startswith("budgets/") and name.endswith("/success")}
    assert "budgets/Empty-5x5/oracle/icem/closed/T=9/budget=2/success" in rates
    assert not any("/helm/helm/" in name and "budget=2/" in name for name in rates), "it needs more"


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished)


def test_every_interval_has_its_starts(finished):
    RUN.assert_starts(finished)


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished)


def test_another_budget_plans_anew_and_trains_nothing(finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = RUN(tmp_path, "--evaluations-per-step", "32")
    assert not trained(done)
    again = measured(done)
    assert "Empty-5x5/planning/helm/cem/open/T=4,9" in again and "Empty-5x5/model/helm" not in again


def test_a_killed_run_goes_on_to_the_same_numbers(finished, tmp_path):
    """SIGKILL in the middle of it; then the same command, and every metric as if nothing had happened."""
    kill_at(RUN.command(tmp_path, "--checkpoint-every", "10"), tmp_path, ("3", "4h"))
    RUN(tmp_path)
    assert_same_results(tmp_path, finished)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--environments", "Emty-8x8"], "Empty-8x8"),
        (["--environments", "Dynamic-Obstacles-5x5"], "stochastic"),
        (["--environments", "Empty-5x5", "Empty-5x5"], "each once"),
        (["--environments", "Empty-5x5", "MiniGrid-Empty-5x5-v0"], "each environment once"),
        (["--study-horizon", "33"], "--study-horizon"),
        (["--coarse-stride", "1"], "--coarse-stride"),
        (["--observation", "smell"], "smell"),
        (["--replot"], "--replot"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    RUN.assert_refused(tmp_path / "new", args, words)


def test_walks_that_reach_no_goal_end_with_one_line(tmp_path):
    done = RUN(tmp_path, "--environments", "Empty-16x16", "--num-walks", "2", code=2)
    assert "Traceback" not in done.stderr and "--num-walks" in done.stderr.splitlines()[-1]


def test_sweeps_plan_at_what_their_labels_say_and_once_where_they_meet(monkeypatch):
    config = Exp3Config(budget_sweep=(16, 320), stride_sweep=(2, 4), tau_sweep=(0.5, 1.0))
    runs = evaluate_planners.sweep_runs(config)
    expected = {
        "budget=16/cem": ("cem", 16, 4, 1), "budget=320/helm": ("helm", 320, 4, 1),
        "stride=2/helm": ("helm", 320, 2, 1), "stride=4/helm": ("helm", 320, 4, 1),
        "tau=0.5/flat_gradient": ("flat_gradient", 320, 4, 0.5), "tau=1/helm": ("helm", 320, 4, 1),
    }  # fmt: skip
    for label, (planner, *setting) in expected.items():
        run = runs[label]
        assert (run.planner, run.budget, run.stride, run.tau) == (planner, *setting), label
    assert len(set(runs.values())) == 2 * len(PLANNERS) + 1 + 3  # a run's cache does each once

    def evaluate(trial, mode, horizons):
        told = {"tau": trial.planner.tau, "budget": trial.evaluations_per_step, "stride": trial.make_problem}
        return {horizons[0]: dict.fromkeys(("success", "evaluations", "milliseconds"), told)}

    monkeypatch.setattr(evaluate_planners, "evaluate_planner", evaluate)
    monkeypatch.setattr(evaluate_planners, "problems_of", lambda task, model, stride, device: stride)
    task, device = SimpleNamespace(name="test"), torch.device("cpu")
    run = evaluate_planners.SweepRun("helm", 24, 2, 0.5)
    found = evaluate_planners.measure_sweep(task, None, run, config=config, device=device)
    assert found["success"] == {"tau": 0.5, "budget": 24, "stride": 2}


def test_variants_train_on_the_same_windows():
    """A penalty of no weight leaves flat's training as it is: its noise does not shift the batches."""
    config = Exp3Config(
        environments=("Empty-5x5",), hidden_dim=8, d_latent=4, iterations=6, num_walks=20, batch_size=16,
        coarse_stride=8,
    )  # fmt: skip
    task, device = make_task("Empty-5x5", config), torch.device("cpu")
    flat, _ = train_flat(task, variant=None, config=config, device=device)
    variant = HelmVariant(lambda_spectral=1e-30, lambda_hf=1e-30)
    other, _ = train_helm(task, variant=variant, config=config, device=device)
    for name, value in flat.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py"])
def test_the_trainings_run_on_their_own(tmp_path, script):
    names = RUN.trained_alone(tmp_path, script)
    wanted = {"Empty-5x5-flat"} if script == "train_flat.py" else {"Empty-5x5-helm", "Empty-5x5-spectral"}
    assert wanted <= names


@pytest.mark.parametrize("observation", ["partial", "rgb"])
def test_the_other_observations_run_without_a_display(tmp_path, observation, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    RUN(tmp_path, "--observation", observation, "--environments", "Empty-5x5", "--study-environments", "0")
    assert "Empty-5x5/flat/accuracy_1" in metrics_of(tmp_path)
