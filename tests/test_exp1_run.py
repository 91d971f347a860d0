"""Experiment 1 run as a user would, at tiny sizes: files, finite numbers, resume, replot, bad input."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.run.files import ROOT
from common.run.results import load_results
from tests.experiment_runs import Done, TinyRun, assert_same_results, kill_at, start_interruptible

TINY = [
    "--parts", "cliff",
    "--horizons", "4", "5", "20", "50", "100", "--hidden-dim", "16", "--d-latent", "8", "--iterations", "60",
    "--num-trajectories", "8", "--num-jacobian-states", "4", "--num-error-states", "8",
    "--mollified-samples", "16", "--gradient-horizons", "5", "20", "--planning-horizons", "8", "20",
    "--num-problems", "3", "--gd-steps", "3", "--checkpoint-every", "20", "--device", "cpu",
]  # fmt: skip
FIGURES = {
    "exp1_spectral_cliff.png", "exp1_linear_cliff.png", "exp1_pareto.png", "exp1_ablation.png",
    "exp1_convergence_rate.png", "exp1_gradient_agreement.png", "exp1_rollouts.png", "exp1_training.png",
}  # fmt: skip
RUN = TinyRun("exp1_spectral_cliff", tuple(TINY), frozenset(FIGURES), least_side=300)
SEEDS = ("--seeds", "0", "1")


def promised_metrics():
    """The names that users may rely on, at the tiny run's horizons."""
    names = set()
    for horizon in (4, 5, 20, 50, 100):
        variants = {
            "lorenz": ["helm", "cascade", "helm_n1", "helm_sigma0", "helm_unbounded", "helm_one_step"]
        }
        for system in ("lorenz", "linear"):
            for variant in ("true", "flat", "spectral", "spectral_published", *variants.get(system, [])):
                quantities = ["log10_jacobian_state", "log10_jacobian_action"]
                quantities += [] if variant == "true" else ["nrmse"]
                names |= {f"{system}/{variant}/{quantity}/T={horizon}" for quantity in quantities}
        if horizon <= 50:
            names.add(f"lorenz/mollified_true/log10_jacobian_action/T={horizon}")
    for variant in ("flat", "spectral", "helm"):
        names |= {f"lorenz/{variant}/gradient_cosine/T={horizon}" for horizon in (5, 20)}
    for planner in ("flat", "spectral", "helm", "helm_refined"):
        for loop in ("open", "closed"):
            names |= {f"lorenz/{planner}/planning_distance/{loop}/T={horizon}" for horizon in (8, 20)}
    return names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("run")
    return folder, RUN.as_a_process(folder, *SEEDS)


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = load_results(finished[0] / "results")["metrics"]
    missing = promised_metrics() - set(metrics)
    assert not missing
    for name in promised_metrics():
        values = metrics[name]["values"]
        assert len(values) == 2
        # 16 samples do not always give a positive Monte-Carlo estimate; everything else is finite
        if "mollified_true" not in name:
            assert all(value is not None and math.isfinite(value) for value in values), name


def test_results_carry_their_origin_and_criteria(finished):
    results = load_results(finished[0] / "results")
    assert results["seeds"] == [0, 1] and results["preset"] == "quick"
    assert results["config"]["iterations"] == 60 and "device" not in results["config"]
    assert {"python", "torch", "numpy", "device", "git_commit", "git_dirty", "date"} <= set(
        results["provenance"]
    )
    assert {row["tier"] for row in results["criteria"]} >= {"minimum viable", "strong", "exceptional"}
    assert results["timings"]["phase_seconds"] > 0
    assert "Criteria (quick preset, 2 seeds)" in finished[1].stdout


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished[0])


def run_tiny(folder: Path, *more: str, code: int = 0) -> Done:
    """The tiny run of the linear system alone, seconds long."""
    return RUN(folder, "--systems", "linear", *more, code=code)


def test_a_second_run_trains_nothing_and_changes_nothing(finished):
    folder, _ = finished
    before = load_results(folder / "results")
    done = RUN(folder, *SEEDS)
    assert "done in" not in done.stderr and "measured in" not in done.stderr
    after = load_results(folder / "results")
    assert after["metrics"] == before["metrics"]
    assert after["timings"]["phase_seconds"] >= 0.9 * before["timings"]["phase_seconds"], "theirs count too"


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished[0])


def test_kill_9_and_resume_gives_the_same_metrics(finished, tmp_path):
    """Killed at several moments of training and measuring, then run to the end."""
    folder, _ = finished
    total = len(list((folder / "checkpoints").glob("*.pt")))
    kill_at(RUN.command(tmp_path, *SEEDS), tmp_path, ("1h", str(total // 2), f"{total // 4}h"))
    RUN(tmp_path, *SEEDS)
    assert_same_results(tmp_path, folder)
    assert not list((tmp_path / "checkpoints").glob(".*.tmp"))


@pytest.mark.skipif(sys.platform == "win32", reason="a console interrupt cannot be sent to one process")
@pytest.mark.parametrize("script", ["run_experiment.py", "train_helm.py"])
def test_an_interrupt_stops_at_once_and_says_how_to_go_on(tmp_path, script):
    command = RUN.command(tmp_path, "--iterations", "100000", script=script)
    process = start_interruptible(command)
    try:
        while process.poll() is None and not list(tmp_path.glob("checkpoints/*.pt")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130 and "the same command goes on" in stderr
    assert "Traceback" not in stderr


def test_another_configuration_sets_earlier_results_aside(tmp_path):
    run_tiny(tmp_path)
    first = json.loads((tmp_path / "results" / "results.json").read_text())
    done = run_tiny(tmp_path, "--iterations", "30")
    assert "earlier run's results" in done.stderr
    (aside,) = (tmp_path / "results").glob("earlier-*")
    assert json.loads((aside / "results.json").read_text()) == first
    assert (aside / "exp1_linear_cliff.png").exists() and (aside / "arrays.npz").exists()
    # changing a measurement's field reuses the trainings
    done = run_tiny(tmp_path, "--iterations", "30", "--num-jacobian-states", "3")
    assert "done in" not in done.stderr and "measured in" in done.stderr
    # --fresh trains again, to the same numbers
    before = load_results(tmp_path / "results")["metrics"]
    done = run_tiny(tmp_path, "--iterations", "30", "--num-jacobian-states", "3", "--fresh")
    assert "done in" in done.stderr
    assert load_results(tmp_path / "results")["metrics"] == before


def test_a_failed_criterion_changes_the_exit_code_only_with_strict(tmp_path):
    """So few steps of training do not reach the closed form: a finding."""
    done = run_tiny(tmp_path)
    assert "NOT REPRODUCED" in done.stdout
    run_tiny(tmp_path, "--strict", code=1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--lambda-spectrum", "1"], "lambda-spectrum"),
        (["--batch-size", "0"], "--batch-size"),
        (["--device", "mps"], "mps"),
        (["--replot"], "--replot"),
        (["--seeds", "99999999999999999999"], "--seeds"),
        (["--preset", "full", "--preset", "fast"], "--preset"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    RUN.assert_refused(tmp_path / "new", args, words)


def test_a_changed_evaluation_field_measures_anew_as_a_fresh_run_would(tmp_path):
    """Data reach a measurement from outside its fields; what shapes them must be among these."""
    changed = ["--num-error-states", "9", "--horizons", "4", "60"]
    run_tiny(tmp_path / "reused")
    run_tiny(tmp_path / "reused", *changed)
    run_tiny(tmp_path / "new", *changed)
    reused, new = (load_results(tmp_path / name / "results")["metrics"] for name in ("reused", "new"))
    assert reused == new


@pytest.mark.parametrize(
    "flags",
    [
        ["--horizons", "60", "120", "--gradient-horizons", "5", "200"],
        ["--horizons", "7", "--coarse-stride", "1", "--lambda-spectral", "0", "--hf-noise-sigma", "0"],
        ["--horizons", "50", "--coarse-stride", "16", "--macro-rollouts", "1", "--spectral-sweep", "0.1"],
    ],
)
def test_unusual_settings_run_to_the_end(tmp_path, flags):
    RUN(tmp_path, "--systems", "lorenz", "--iterations", "10", *flags, rendered=True)
    assert (tmp_path / "plots" / "exp1_spectral_cliff.png").exists()


def test_a_diverging_training_is_one_line(tmp_path):
    done = run_tiny(tmp_path, "--learning-rate", "1e30", code=1)
    assert "Traceback" not in done.stderr and "not finite" in done.stderr


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_tiny(tmp_path / "file", code=2)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py"])
def test_the_trainings_run_on_their_own_and_are_reused(tmp_path, script):
    names = RUN.trained_alone(tmp_path, script, "--systems", "lorenz")
    assert "lorenz-flat" in names if script == "train_flat.py" else "lorenz-helm" in names


def test_it_runs_as_a_module_and_prints_help():
    done = subprocess.run(
        [sys.executable, "-m", "exp1_spectral_cliff.run_experiment", "--help"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    for word in ("--lambda-spectral", "--seeds", "--replot", "--fresh", "1e-3"):
        assert word in done.stdout
