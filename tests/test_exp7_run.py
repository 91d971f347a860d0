"""Experiment 7 run as a user would, at tiny sizes: files, finite numbers, resume, replot, bad input."""

import itertools
import shutil

import pytest

from exp7_unseen_layouts import episodes
from tests.experiment_runs import TinyRun, assert_promised, measured, metrics_of, trained

WALLS, DOORS = "SimpleCrossingS9N1", "DoorKey-5x5"
TINY = [
    "--families", WALLS, DOORS, "--latent-families", WALLS,
    "--train-families", WALLS, DOORS, "--train-layouts", "3", "--test-layouts", "2",
    "--num-walks", "3", "--walk-length", "20", "--d-latent", "6", "--hidden-dim", "8", "--kernel-width", "8",
    "--batch-size", "16", "--iterations", "4", "--kernel-iterations", "4",
    "--head-iterations", "4", "--head-width", "8", "--head-depth", "3", "--value-sweeps", "20",
    "--max-modes", "4", "--planning-horizons", "4", "6", "--evaluations-per-step", "24", "--time-factor", "2",
    "--budget-sweep", "16", "24",
    "--num-episodes", "4", "--mode-episodes", "4", "--start-distance", "2", "--latent-episodes", "2",
    "--latent-horizon", "4", "--num-rollouts", "2", "--fidelity-plans", "2", "--fidelity-horizon", "3",
    "--seeds", "0", "1", "--device", "cpu",
]  # fmt: skip
FIGURES = {
    "exp7_unseen_layouts.png", "exp7_gradient_fidelity.png", "exp7_layouts.png", "exp7_rollout_accuracy.png",
    "exp7_efficiency.png", "exp7_episode.gif", "exp7_training.png",
}  # fmt: skip
RUN = TinyRun("exp7_unseen_layouts", tuple(TINY), frozenset(FIGURES))
SEARCHED = ("belief", "greedy", "cem", "cem_growing", "cem_equal_time", "random_shooting", "random_policy")
THROUGH_LATENT = ("verified_gradient", "flat_gradient")
MEASURES = ("success", "spl", "evaluations")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("exp7")
    RUN.as_a_process(folder)
    return folder


def promised_metrics():
    """The names that users may rely on, for the tiny run's families and horizons."""
    names = set()
    for env, planner, horizon, measure in itertools.product((WALLS, DOORS), SEARCHED, (4, 6), MEASURES):
        names.add(f"{env}/{planner}/open/T={horizon}/{measure}")
    for env, planner, measure in itertools.product((WALLS, DOORS), ("belief", "greedy", "cem"), MEASURES):
        names.add(f"{env}/{planner}/closed/T=6/{measure}")
        names.add(f"train_layouts/{env}/{planner}/open/T=6/{measure}")
    names |= {f"{WALLS}/{planner}/open/T=4/{m}" for planner in THROUGH_LATENT for m in MEASURES}
    for prefix, model, steps in itertools.product(("", "train_layouts/"), ("spatial", "snapped"), (1, 50)):
        names |= {f"{prefix}{env}/{model}/accuracy_{steps}" for env in (WALLS, DOORS)}
    known = ("gradient_fidelity", "greedy", "log10_jacobian_state/T=3")
    names |= {f"{WALLS}/spatial/{name}" for name in (*known, "spearman")}
    head = ("quasimetric/spearman", "quasimetric/greedy")
    names |= {f"{prefix}{WALLS}/{name}" for prefix in ("", "train_layouts/") for name in head}
    names |= {f"{env}/belief/{name}" for env, name in itertools.product((WALLS, DOORS), known)}
    swept = ("belief", "cem", "cem_growing", "random_shooting")
    for env, planner, budget in itertools.product((WALLS, DOORS), swept, (16, 24)):
        names |= {f"{env}/{planner}/budgets/{budget}/{measure}" for measure in MEASURES}
    return names


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = metrics_of(finished)
    assert_promised(metrics, promised_metrics())
    for name in promised_metrics():
        if name.endswith("/evaluations"):
            factor = 2 if "equal_time" in name else 1
            if "/budgets/" in name:
                budget = 6 * int(name.split("/")[3])
            else:
                budget = 24 * factor * int(name.split("T=")[1].split("/")[0])
            most = budget * 6 if "/closed/" in name else budget  # of all plans of an episode
            assert all(0 <= value <= most for value in metrics[name]["values"]), name
    assert f"{DOORS}/spatial/spearman" not in metrics, "there no latent stands for the goal"


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished)


def test_every_interval_has_its_starts(finished):
    RUN.assert_starts(finished)


def test_episodes_are_found_once_for_all_that_is_measured_on_them(tmp_path, monkeypatch, one_thread):
    asked, real = [], episodes.true_distances
    monkeypatch.setattr(episodes, "true_distances", lambda layout: asked.append(layout.name) or real(layout))
    RUN(tmp_path)
    assert sorted(asked) == sorted(2 * 2 * [WALLS, DOORS]), "two layouts of each family in either part"


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished)


def test_a_rerun_does_anew_what_changed_and_nothing_else(finished, tmp_path):
    """Another pace of replanning: the plans anew, no walk, no training, no accuracy."""
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = RUN(tmp_path, "--replan-execute", "2")
    assert not trained(done)
    assert {name.rpartition("/")[2] for name in measured(done)} <= {"planning", "pictures"}
    before, after = metrics_of(finished), metrics_of(tmp_path)
    same = [name for name in before if "/closed/" not in name]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--families", "Empty-5x5", "--latent-families", "Empty-5x5"], "--families"),
        (["--families", "FourRooms"], "--latent-families"),
        (["--planners", "cem"], "--planners"),
        (["--replan-execute", "20"], "--replan-execute"),
        (["--slack", "-1"], "--slack"),
        (["--closed-planners", "belief", "oracle"], "--closed-planners"),
        (["--families", "KeyCorridorS3R1", "--latent-families", "KeyCorridorS3R1"], "--latent-families"),
        (["--replot"], "--replot"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    RUN.assert_refused(tmp_path / "new", args, words)


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py", "train_quasimetric.py"])
def test_the_trainings_run_on_their_own(tmp_path, script):
    names = RUN.trained_alone(tmp_path, script)
    wanted = {
        "train_flat.py": {"layouts-spatial"}, "train_helm.py": {"layouts-snapped", "layouts-kernel"},
        "train_quasimetric.py": {"layouts-snapped", "layouts-quasimetric"},
    }  # fmt: skip
    assert wanted[script] <= names
