"""Experiment 4 run as a user would, at tiny sizes: files, finite numbers, resume, replot, bad input."""

import shutil

import pytest

from common.latent.tuned import TUNED
from exp4_contrastive_fix.evaluate_planners import corners
from tests.experiment_runs import (
    TinyRun,
    assert_promised,
    assert_same_results,
    kill_at,
    measured,
    metrics_of,
    trained,
)

ENV, HORIZON = "Empty-5x5", 6
TINY = [
    "--environments", ENV, "--num-walks", "40", "--walk-length", "20", "--d-latent", "8", "--hidden-dim",
    "16", "--iterations", "12", "--batch-size", "16", "--planning-horizons", "4", str(HORIZON),
    "--pillar-horizons", "4", str(HORIZON), "--evaluations-per-step", "24", "--gd-steps", "3",
    "--num-episodes", "4", "--pillar-objectives", "qrl_symmetric", "infonce", "--seeds", "0", "1",
    "--device", "cpu",
]  # fmt: skip
FIGURES = {
    "exp4_contrastive_fix.png", "exp4_two_pillars.png", "exp4_metric_alignment.png", "exp4_success_rate.png",
    "exp4_pillars_over_horizon.png", "exp4_gradient_fidelity.png", "exp4_latent_space.png",
    "exp4_episode.gif", "exp4_training.png",
}  # fmt: skip
CONTROLS = (
    *TINY, "--parts", "peers", "tuned", "budgets", "penalty", "shape", "reconcile", "--planning-horizons",
    str(HORIZON), "--pillar-horizons", str(HORIZON), "--small-budgets", "8", "--penalty-sweep", "0", "0.1",
    "--dynamics-sweep", "2", "4",
)  # fmt: skip
CONTROL_FIGURES = {
    "exp4_latent_space.png", "exp4_training.png", "exp4_peers.png", "exp4_budgets.png", "exp4_penalty.png",
    "exp4_shape.png", "exp4_tuned.png",
}  # fmt: skip


RUN = TinyRun("exp4_contrastive_fix", (*TINY, "--parts", "comparison"), frozenset(FIGURES))
CONTROL_RUN = TinyRun("exp4_contrastive_fix", CONTROLS, frozenset(CONTROL_FIGURES))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("exp4")
    RUN.as_a_process(folder)
    return folder


def promised_metrics():
    """The names that users may rely on, for the tiny run's environment and horizons."""
    objectives = (
        "reconstruction", "infonce", "infonce_geometric", "next_state", "qrl_symmetric", "qrl",
        "temporal_distance", "straightening",
    )  # fmt: skip
    knowledge = ("spearman", "greedy", "accuracy_1", "accuracy_50", "gradient_fidelity")
    names = {f"{ENV}/{objective}/{name}" for objective in objectives for name in knowledge}
    measures = ("success", "spl", "final_distance", "evaluations")
    planners = ("flat_gradient", "verified_gradient", "helm", "cem", "coarse_cem", "random_shooting")
    for mode in ("open", "closed"):
        for planner in planners:
            for horizon in (4, HORIZON):
                for model in ("baseline", "unified_published", "unified"):
                    prefix = f"{ENV}/{model}/{planner}/{mode}/T={horizon}"
                    names |= {f"{prefix}/{name}" for name in measures}
        effects = ("none", "spectral", "metric", "both", "main_spectral", "main_metric", "interaction")
        for design in ("two_pillars", "two_pillars_infonce"):
            for planner in planners[:4]:
                for horizon in (4, HORIZON):
                    names |= {f"{design}/{ENV}/{planner}/{mode}/T={horizon}/{name}" for name in effects}
    return names


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = metrics_of(finished)
    assert_promised(metrics, promised_metrics())
    for name in promised_metrics():
        values = metrics[name]["values"]
        if name.endswith(("/none", "/both")):
            assert all(0.0 <= value <= 1.0 for value in values), name
        if name.endswith(("spearman", "fidelity")):
            assert all(-1.0 <= value <= 1.0 for value in values), name
        if "/open/" in name and name.endswith("/evaluations"):
            budget = 24 * int(name.split("T=")[1].split("/")[0])
            assert all(0 < value <= budget for value in values), name


def test_the_compared_models_alone(finished, tmp_path):
    """No objective and no 2x2: the same numbers, faster, and the figures that need neither."""
    RUN(tmp_path, "--objective-environments", "0", "--pillar-environments", "0", rendered=True)
    needed = {name for name in FIGURES if "pillars" not in name} - {"exp4_metric_alignment.png"}
    TinyRun(RUN.experiment, RUN.flags, frozenset(needed)).assert_figures(tmp_path)
    whole, part = metrics_of(finished), metrics_of(tmp_path)
    assert f"{ENV}/qrl/spearman" not in part
    for model in ("baseline", "unified"):
        name = f"{ENV}/{model}/helm/open/T={HORIZON}/final_distance"
        assert part[name] == whole[name]


def test_the_controls_alone(tmp_path):
    """The penalty's sweep, the energy's shape, the two penalties reconciled, peers and small budgets."""
    CONTROL_RUN(tmp_path, rendered=True)
    CONTROL_RUN.assert_figures(tmp_path)
    metrics = metrics_of(tmp_path)
    planners = ("flat_gradient", "verified_gradient", "helm", "cem", "random_shooting")
    names = set()
    for mode in ("open", "closed"):
        for planner in planners:
            where = f"{planner}/{mode}/T={HORIZON}"
            names |= {
                f"two_pillars_qrl/{ENV}/{where}/lambda=0", f"two_pillars_qrl/{ENV}/{where}/lambda=0.1",
                f"{ENV}/reconstruction_sqrt/{where}/success", f"{ENV}/frozen_qrl/{where}/success",
                f"reconcile/{ENV}/dynamics=2/{where}/lambda=0.01",
            }  # fmt: skip
            zero, tenth = (metrics[f"two_pillars_qrl/{ENV}/{where}/lambda={w}"]["mean"] for w in ("0", "0.1"))
            gain = metrics[f"two_pillars_qrl/{ENV}/{where}/lambda=0.1_minus_0"]["mean"]
            assert gain == pytest.approx(tenth - zero)
            assert f"{ENV}/frozen_qrl_minus_reconstruction_sqrt/{where}/success" in metrics
            assert f"reconcile/{ENV}/interaction/{where}/lambda=0.01" in metrics
            qrl = metrics[f"{ENV}/qrl_penalty=0/{where}/success"]["values"]
            assert qrl == metrics[f"two_pillars_qrl/{ENV}/{where}/lambda=0"]["values"], "one model, two parts"
    for planner in TUNED:
        success = {
            name: metrics[f"tuned/{ENV}/unified/{name}/open/T={HORIZON}/success"]["mean"]
            for name in (planner, f"{planner}_default", "icem")
        }
        for other in ("default", "icem") if planner in ("verified_gradient", "helm") else ("default",):
            apart = metrics[f"tuned/{ENV}/unified/{planner}_minus_{other}/open/T={HORIZON}/success"]["mean"]
            compared = success[f"{planner}_default" if other == "default" else other]
            assert apart == pytest.approx(success[planner] - compared)
    usual = metrics[f"tuned/{ENV}/unified/helm_default/open/T={HORIZON}/success"]["values"]
    assert usual == metrics[f"{ENV}/unified/helm/open/T={HORIZON}/success"]["values"], "the peers' own"
    assert_promised(metrics, names)
    assert f"{ENV}/baseline/cem/open/T={HORIZON}/success" not in metrics


def test_the_corners_are_the_variants_that_they_are_named_after(finished):
    assert corners("infonce") == {
        "none": "reconstruction",
        "spectral": "reconstruction_spectral",
        "metric": "infonce",
        "both": "infonce_spectral",
    }
    metrics = metrics_of(finished)
    corner, plain = f"two_pillars/{ENV}/cem/closed/T={HORIZON}/none", f"{ENV}/baseline/cem/closed/T={HORIZON}"
    assert metrics[corner]["values"] == metrics[f"{plain}/success"]["values"]


def test_the_effects_are_those_of_the_corners(finished):
    metrics = metrics_of(finished)
    for design in ("two_pillars", "two_pillars_infonce"):
        prefix = f"{design}/{ENV}/cem/closed/T={HORIZON}"
        none, spectral, metric, both, interaction = (
            metrics[f"{prefix}/{name}"]["mean"]
            for name in ("none", "spectral", "metric", "both", "interaction")
        )
        assert interaction == pytest.approx(both - metric - spectral + none)
        low, high = metrics[f"{prefix}/interaction"]["interval95"]
        assert low <= interaction <= high


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished)


def test_every_interval_has_its_starts(finished):
    RUN.assert_starts(finished)


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished)


def test_a_killed_run_goes_on_to_the_same_numbers(finished, tmp_path):
    """SIGKILL in trainings and between measurements; then the same command, as if nothing had happened."""
    total = len(list((finished / "checkpoints").glob("*.pt")))
    kill_at(RUN.command(tmp_path, "--checkpoint-every", "5"), tmp_path, ("2h", str(total // 3), "3"))
    RUN(tmp_path)
    assert_same_results(tmp_path, finished)


def test_another_experiments_results_are_not_drawn(finished):
    done = TinyRun("exp3_planning_efficiency", (), frozenset())(finished, "--replot", code=2)
    assert "exp4_contrastive_fix" in done.stderr and done.stderr.count("\n") == 1


def test_a_rerun_does_anew_what_changed_and_nothing_else(finished, tmp_path):
    """Another pace of replanning: the plans anew, no training, and what ran open loop as it was."""
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = RUN(tmp_path, "--replan-execute", "2")
    assert not trained(done)
    assert measured(done) and all("/planning/" in name for name in measured(done))
    before, after = metrics_of(finished), metrics_of(tmp_path)
    same = [name for name in before if "/closed/" not in name]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--qrl-tolerance", "0"], "--qrl-tolerance"),
        (["--pillar-horizons", "7"], "--pillar-horizons"),
        (["--environments", "Dynamic-Obstacles-5x5"], "--environments"),
        (["--replot"], "--replot"),
        (["--lambda-metric", "1"], "--lambda-metric"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    RUN.assert_refused(tmp_path / "new", args, words)


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py"])
def test_the_trainings_run_on_their_own(tmp_path, script):
    names = RUN.trained_alone(tmp_path, script)
    wanted = {"reconstruction"} if script == "train_flat.py" else {"qrl", "unified", "infonce_spectral"}
    assert {f"{ENV}-{name}" for name in wanted} <= names
