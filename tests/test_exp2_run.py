"""Experiment 2 run as a user would, at tiny sizes: files, finite numbers, resume, replot, bad input."""

import shutil

import pytest

from common.run.results import load_results
from tests.experiment_runs import TinyRun, assert_promised, assert_same_results, kill_at, metrics_of, trained

TINY = [
    "--hidden-dim", "16", "--iterations", "30", "--function-iterations", "20", "--random-iterations", "20",
    "--batch-size", "32", "--grid-size", "12", "--descent-steps", "60",
    "--plan-evaluations", "700", "--budget-sweep", "500", "--plan-grid", "7", "--smooth-steps", "20",
    "--smoothing-steps", "20", "--polish-steps", "10", "--num-landscapes", "2", "--functions", "ackley",
    "himmelblau", "--dimensions", "2", "5", "--function-starts", "3", "--cma-starts", "1", "--map-lambdas",
    "1", "100", "--map-sigmas", "0.05", "--train-map", "--map-batch-size", "16", "--seeds", "0", "1",
    "--device", "cpu", "--checkpoint-every", "7",
]  # fmt: skip
FIGURES = {
    "exp2_true_energy.png", "exp2_flat_energy.png", "exp2_helm_energy.png", "exp2_flat_basin.png",
    "exp2_helm_basin.png", "exp2_contour_triplet.png", "exp2_lambda_sigma.png", "exp2_misaligned.png",
    "exp2_benchmarks.png", "exp2_3d.png", "exp2_training.png",
}  # fmt: skip


RUN = TinyRun("exp2_funnel_heatmap", tuple(TINY), frozenset(FIGURES))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("exp2")
    RUN.as_a_process(folder)
    return folder


def promised_metrics():
    """The names that users may rely on, for the tiny run's functions."""
    basins = [
        "coverage",
        "own_coverage",
        "endpoint_error",
        "argmin_error",
        "shrink",
        "r2",
        "ripple_r2",
        "ripple_gain",
    ]
    variants = ("flat", "helm_published", "helm", "helm_second_difference")
    planners = ("smoothed_flat", "smoothed_flat_hop", "mollified_descent", "multi_start")
    names = set()
    for landscape in ("aligned", "misaligned"):
        names |= {f"{landscape}/{variant}/{name}" for variant in variants for name in basins}
        names |= {
            f"{landscape}/{planner}/{name}"
            for planner in planners
            for name in ("coverage", "endpoint_error", "evaluations")
        }
    names |= {
        f"random_landscapes/{planner}/success" for planner in ("smoothed_flat_hop", "mollified_descent")
    }
    methods = [
        "flat",
        "helm",
        "mollified_descent",
        "smoothed_flat_hop",
        "cma_es",
        "cma_es_smooth",
        "multi_start",
        "true_energy",
    ]
    functions = ("ackley-2", "himmelblau-2", "ackley-5")
    return names | {f"functions/{name}/{method}/success" for name in functions for method in methods}


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = metrics_of(finished)
    assert_promised(metrics, promised_metrics())
    for name in promised_metrics():
        if name.endswith("/evaluations"):
            assert all(0 < value <= 700 for value in metrics[name]["values"]), name


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished)


def test_the_criteria_are_evaluated_and_thirty_steps_do_not_meet_them(finished):
    rows = load_results(finished / "results")["criteria"]
    assert {row["tier"] for row in rows} == {"minimum viable", "strong", "published", "beyond"}
    verdict = {row["id"]: row["passed"] for row in rows}
    assert verdict["exp2/mvp"] is False and verdict["exp2/ackley-2/reached"] is False
    assert verdict["exp2/rastrigin-2/reached"] is None


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished)


def test_kill_9_and_resume_gives_the_same_metrics(finished, tmp_path):
    """Killed at several moments of training and measuring, then run to the end."""
    total = len(list((finished / "checkpoints").glob("*.pt")))
    kill_at(RUN.command(tmp_path), tmp_path, ("1", f"{total // 2}h", str(total // 4)))
    RUN(tmp_path)
    assert_same_results(tmp_path, finished)


def test_unreadable_results_are_refused_by_replot_and_replaced_by_a_run(finished, tmp_path):
    for part in ("checkpoints", "results"):
        shutil.copytree(finished / part, tmp_path / part)
    (tmp_path / "results" / "results.json").write_text("{")
    refused = RUN(tmp_path, "--replot", code=2)
    assert refused.stderr.count("\n") == 1 and "results.json" in refused.stderr
    RUN(tmp_path)
    assert metrics_of(tmp_path) == metrics_of(finished)


def test_a_rerun_does_anew_what_changed_and_nothing_else(finished, tmp_path):
    """One function for another, in five dimensions the only one: its models and plans, no landscape's."""
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = RUN(tmp_path, "--functions", "griewank", "himmelblau", "--random-iterations", "25")
    tasks = ("functions/d=2", "functions/d=5", "random_landscapes")
    variants = ("flat", "helm_second_difference")
    assert sorted(trained(done)) == [f"{task}/{variant}" for task in tasks for variant in variants]
    before, after = metrics_of(finished), metrics_of(tmp_path)
    kept = [name for name in before if not name.startswith(("functions/", "random_landscapes/"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "functions/griewank-2/flat/success" in after


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--lambda-hf", "-1"], "--lambda-hf"),
        (["--functions", "ackley", "ackley"], "each value once"),
        (["--plan-evaluations", "301", "--smooth-steps", "100"], "--plan-evaluations"),
        (["--dimensions", "3"], "3"),
        (["--map-sigmas", "0.1", "0.05"], "--map-sigmas"),
        (["--hop-margin", "3"], "--hop-margin"),
        (["--replot"], "--replot"),
        (["--budget-sweep", "300", "--smooth-steps", "200"], "mollified_descent spends"),
        (["--polish-steps", "400"], "the budget is 1200"),
        (["--functions", "eggholder", "--dimensions", "5"], "--dimensions"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    RUN.assert_refused(tmp_path / "new", args, words)


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py"])
def test_the_trainings_run_on_their_own(tmp_path, script):
    names = RUN.trained_alone(tmp_path, script)
    wanted = "flat" if script == "train_flat.py" else "helm"
    assert {f"aligned-{wanted}", f"misaligned-{wanted}"} <= names
