"""Experiment 3 run as a user would, at tiny sizes: files, finite numbers, resume, replot, bad input."""

import math
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from common.checkpoint import ROOT
from common.config import Exp3Config
from common.minigrid_task import make_task
from common.results import load_results
from exp3_planning_efficiency.train_flat import FlatArm, train_flat
from exp3_planning_efficiency.train_helm import HelmArm, train_helm

SCRIPT = "exp3_planning_efficiency/run_experiment.py"
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
    "exp3_paths.png", "exp3_episode.gif", "exp3_training.png",
}  # fmt: skip
PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem", "coarse_cem", "random_shooting")


def run(folder, *more, cwd=ROOT, script=SCRIPT, code=0):
    command = [sys.executable, script, *TINY, "--output-dir", str(folder), *more]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("exp3")
    run(folder, cwd=ROOT / "exp3_planning_efficiency", script="run_experiment.py")
    return folder


def promised_metrics():
    """The names that issue 4 says must exist."""
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
    return names | {
        f"ablation/Empty-5x5/{mode}/T=9/{model}/{planner}/success"
        for mode in ("open", "closed")
        for model in ("flat", "spectral", "hf", "helm")
        for planner in ("unverified", "verified")
    }


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = load_results(finished / "results")["metrics"]
    assert not promised_metrics() - set(metrics)
    for name in promised_metrics():
        values = metrics[name]["values"]
        assert len(values) == 2 and all(value is not None and math.isfinite(value) for value in values), name
        if name.endswith(("/success", "/spl")) or "/accuracy_" in name:
            assert all(0.0 <= value <= 1.0 for value in values), name
        if name.endswith("/success") and "policy" not in name:
            low, high = metrics[name]["interval95"]
            assert 0 <= low <= metrics[name]["mean"] <= high <= 1, name


def test_no_planner_spends_more_than_its_budget(finished):
    metrics = load_results(finished / "results")["metrics"]
    for env in ENVIRONMENTS:
        for planner in PLANNERS:
            for horizon in (4, 9):
                spent = metrics[f"{env}/helm/{planner}/open/T={horizon}/evaluations"]
                assert 0 < spent["max"] <= 24 * horizon, (env, planner, horizon)


def test_nobody_beats_the_shortest_path(finished):
    metrics = load_results(finished / "results")["metrics"]
    for env in ENVIRONMENTS:
        for horizon in (4, 9):
            bound = metrics[f"{env}/shortest_path/T={horizon}/success"]["mean"]
            for planner in PLANNERS:
                found = metrics[f"{env}/oracle/{planner}/closed/T={horizon}/success"]
                assert found["max"] <= bound + 1e-12


def test_every_figure_exists_and_shows_something(finished):
    import matplotlib.image
    from PIL import Image

    plots = finished / "plots"
    assert {path.name for path in plots.iterdir()} == FIGURES
    for name in FIGURES - {"exp3_episode.gif"}:
        image = matplotlib.image.imread(plots / name)
        assert min(image.shape[:2]) > 250 and image.std() > 0.05
    with Image.open(plots / "exp3_episode.gif") as animation:
        assert animation.n_frames > 1


def test_replot_draws_the_same_figures_from_saved_results(finished):
    before = {path.name: path.read_bytes() for path in (finished / "plots").iterdir()}
    for path in (finished / "plots").iterdir():
        path.unlink()
    done = run(finished, "--replot")
    assert "loss=" not in done.stderr and "measured in" not in done.stderr
    assert {path.name: path.read_bytes() for path in (finished / "plots").iterdir()} == before


def test_another_budget_plans_anew_and_trains_nothing(finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = run(tmp_path, "--evaluations-per-step", "32")
    assert "loss=" not in done.stderr
    again = {line.split()[1] for line in done.stderr.splitlines() if "measured in" in line}
    assert "Empty-5x5/planning/helm/cem/open/T=4,9:" in again and "Empty-5x5/model/helm:" not in again


def test_a_killed_run_goes_on_to_the_same_numbers(finished, tmp_path):
    """SIGKILL in the middle of it; then the same command, and every metric as if nothing had happened."""
    command = [sys.executable, str(ROOT / SCRIPT), *TINY, "--output-dir", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--checkpoint-every", "10"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "checkpoints").glob("*.pt"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "results" / "results.json").exists()
    run(tmp_path)
    before, after = (load_results(folder / "results")["metrics"] for folder in (finished, tmp_path))
    assert after == before


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
    folder = tmp_path / "new"
    command = [sys.executable, str(ROOT / SCRIPT), "--output-dir", str(folder), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert not folder.exists()


def test_walks_that_reach_no_goal_end_with_one_line(tmp_path):
    done = run(tmp_path, "--environments", "Empty-16x16", "--num-walks", "2", code=2)
    assert "Traceback" not in done.stderr and "--num-walks" in done.stderr.splitlines()[-1]


def test_arms_train_on_the_same_windows():
    """A penalty of no weight leaves flat's training as it is: its noise does not shift the batches."""
    config = Exp3Config(
        environments=("Empty-5x5",), hidden_dim=8, d_latent=4, iterations=6, num_walks=20, batch_size=16,
        coarse_stride=8,
    )  # fmt: skip
    task, device = make_task("Empty-5x5", config), torch.device("cpu")
    flat, _ = train_flat(task, arm=FlatArm(), config=config, device=device)
    arm = HelmArm(lambda_spectral=1e-30, lambda_hf=1e-30)
    other, _ = train_helm(task, arm=arm, config=config, device=device)
    for name, value in flat.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py"])
def test_the_trainings_run_on_their_own(tmp_path, script):
    run(tmp_path, cwd=ROOT / "exp3_planning_efficiency", script=script)
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "checkpoints").iterdir()}
    wanted = {"Empty-5x5-flat"} if script == "train_flat.py" else {"Empty-5x5-helm", "Empty-5x5-spectral"}
    assert wanted <= names


@pytest.mark.parametrize("observation", ["partial", "rgb"])
def test_the_other_observations_run_without_a_display(tmp_path, observation, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    run(tmp_path, "--observation", observation, "--environments", "Empty-5x5", "--study-environments", "0")
    assert "Empty-5x5/flat/accuracy_1" in load_results(tmp_path / "results")["metrics"]
