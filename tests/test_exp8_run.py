"""Experiment 8 run as a user would run it: every part at tiny sizes, resumed, replotted, refused."""

import itertools

import pytest

from common.run.results import load_arrays, load_results
from tests.experiment_runs import TinyRun, assert_promised, measured, metrics_of, trained

TINY = [
    "--simulators", "simulator", "calm", "cost_to_go",
    "--iterations", "6", "--num-walks", "24", "--walk-length", "20", "--rollout-steps", "2",
    "--num-tasks", "3", "--plan-rollouts", "32", "--hidden-dim", "16", "--d-latent", "8",
    "--batch-size", "40", "--num-pairs", "16", "--num-states", "4", "--horizons", "5", "10",
    "--closed-horizons", "10", "--study-horizon", "10", "--open-horizons", "10", "--episode-length", "10",
    "--long-times", "2", "--phase-winds", "0", "1", "--phase-walls", "0.5", "0.7", "--spectral-sweep", "0.1",
]  # fmt: skip
EVERY_PART = ["--parts", "corners", "vanish", "ablation", "long", "cause", "phase", "held_out", "wind_goal"]
FIRST_FIGURES = {
    "exp8_two_pillars.png", "exp8_jacobian.png", "exp8_simulator.png", "exp8_energy.png", "exp8_episode.gif",
    "exp8_training.png",
}  # fmt: skip
FIGURES = FIRST_FIGURES | {
    "exp8_ablation.png", "exp8_long.png", "exp8_phase_diagram.png", "exp8_scenes.png", "exp8_cause.png",
    "exp8_held_out.png",
}  # fmt: skip
RUN = TinyRun("exp8_two_pillars", tuple(TINY), frozenset(FIGURES))
CORNERS = ("none", "spectral", "metric", "both")
PLANNERS = ("normalised_gradient", "icem")
LOOP = "closed/T=10"
SCENES = (
    "s/lorenz", "s/off", "none/lorenz", "none/off", "s/lorenz_near", "spiral/lorenz", "s/roessler",
    "s/lorenz96", "s/lorenz_picture1", "wind_goal",
)  # fmt: skip
ABLATED = (
    "macro_alone", "multi_step_alone", "noise_alone", "penalty_0.1", "unbounded", "without_macro",
    "without_multi_step", "without_noise", "without_bound",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run of every part."""
    folder = tmp_path_factory.mktemp("exp8")
    return folder, RUN(folder, *EVERY_PART, rendered=True)


def promised_metrics():
    names = set()
    for corner, planner, loop in itertools.product(CORNERS, PLANNERS, (LOOP, "open/T=10")):
        names |= {
            f"s/lorenz/{corner}/{planner}/{loop}/{what}" for what in ("success", "distance", "final_success")
        }
    for scene in SCENES:
        effects = ("main_spectral", "main_metric", "interaction")
        names |= {f"{scene}/{planner}/{LOOP}/{effect}" for planner in PLANNERS for effect in effects}
        names |= {f"{scene}/{corner}/icem/{LOOP}/success" for corner in CORNERS}
        if scene != "wind_goal":
            names |= {f"{scene}/random_policy/{what}" for what in ("success", "distance")}
            names |= {f"{scene}/{corner}/spearman" for corner in CORNERS}
    knowledge = ("position_error", "log10_jacobian_state", "log10_jacobian_action", "gradient_cosine")
    for corner, quantity, horizon in itertools.product(CORNERS, knowledge, (5, 10)):
        names.add(f"s/lorenz/{corner}/{quantity}/T={horizon}")
        for planner in PLANNERS:
            names |= {f"s/lorenz/{corner}/{planner}/{what}/T=10" for what in ("planned_error", "optimism")}
    for source in ("simulator", "calm", "cost_to_go"):
        names |= {f"s/lorenz/{source}/{planner}/{LOOP}/success" for planner in PLANNERS}
    names |= {f"s/lorenz/both/{planner}_calls/{LOOP}/success" for planner in PLANNERS}
    for wind, wall, corner in itertools.product(("0", "1"), ("0.5", "0.7"), CORNERS):
        names.add(f"phase/wind={wind}/detour={wall}/{corner}/success")
    for part in ABLATED:
        names |= {f"ablation/{part}{metric}/icem/{LOOP}/success" for metric in ("", "+metric")}
        names.add(f"ablation/{part}+metric/icem/{LOOP}/below_both")
    for metric in ("infonce_published", "qrl", "qrl_symmetric"):
        names |= {f"ablation/{base}+{metric}/icem/{LOOP}/success" for base in ("none", "spectral")}
    for corner, how in itertools.product(("none", "metric"), ("times=2", "width=2")):
        quantities = (f"icem/{LOOP}/success", f"icem/{LOOP}/below_both", "position_error/T=10")
        names |= {f"long/{corner}/{how}/{quantity}" for quantity in quantities}
    for corner, source in itertools.product(("none", "metric"), ("true_value", "clipped", "smoothed")):
        names.add(f"cause/{corner}/{source}/normalised_gradient/{LOOP}/success")
        names.add(f"cause/{corner}/{source}/icem_minus_normalised_gradient/{LOOP}/success")
    names.add(f"cause/both/true_value/normalised_gradient/{LOOP}/success")
    return names


def test_every_promised_metric_exists_and_is_finite(finished):
    assert_promised(metrics_of(finished[0]), promised_metrics(), seeds=1)


def test_below_both_is_what_both_reach_above_a_variant(finished):
    metrics = metrics_of(finished[0])
    for planner, variant in itertools.product(PLANNERS, ("macro_alone+metric", "none+qrl")):
        case = f"{planner}/{LOOP}"
        both, other = metrics[f"s/lorenz/both/{case}/success"], metrics[f"ablation/{variant}/{case}/success"]
        below = metrics[f"ablation/{variant}/{case}/below_both"]
        assert below["mean"] == pytest.approx(both["mean"] - other["mean"])


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished[0])


def test_a_second_run_computes_nothing_and_a_part_of_it_neither(finished, tmp_path):
    folder, _ = finished
    before = load_results(folder / "results")
    done = RUN(folder, *EVERY_PART)
    assert not trained(done) and not measured(done)
    assert load_results(folder / "results")["metrics"] == before["metrics"]
    cache = ("--cache-dir", str(folder / "checkpoints"))
    done = RUN(tmp_path, "--parts", "wind_goal", "cause", *cache)
    assert not trained(done) and not measured(done)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"exp8_training.png", "exp8_cause.png"}
    some = load_results(tmp_path / "results")["metrics"]
    assert some and all(before["metrics"][name] == entry for name, entry in some.items())


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished[0])


def test_two_seeds_have_intervals_and_the_first_is_itself_in_company(finished, tmp_path):
    RUN(tmp_path, "--seeds", "0", "1")
    RUN.assert_starts(tmp_path)
    metrics, alone = metrics_of(tmp_path), metrics_of(finished[0])
    name = f"s/lorenz/icem/{LOOP}/interaction"
    assert len(metrics[name]["values"]) == 2 and "interval95" in metrics[name]
    for name in ("s/lorenz/both/position_error/T=10", "s/lorenz/metric/spearman"):
        assert abs(metrics[name]["values"][0] - alone[name]["values"][0]) < 1e-3
    assert {path.name for path in (tmp_path / "plots").iterdir()} == FIRST_FIGURES
    assert load_arrays(tmp_path / "results")["shown/both/positions"].shape == (3, 11, 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--maze", "labyrinth"], "--maze"),
        (["--parts"], "--parts"),
        (["--closed-horizons", "12"], "multiples of 5"),
        (["--task-steps", "90", "99"], "too few tasks"),
        (["--wall-length", "1"], "--wall-length"),
        (["--parts", "corners", "held_out", "--maze", "spiral"], "spiral/lorenz twice"),
        (["--parts", "vanish", "--wind", "off"], "--wind off"),
        (["--replot"], "--replot"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    RUN.assert_refused(tmp_path / "new", args, words)


@pytest.mark.parametrize(
    "flags",
    [
        ["--wind", "off", "--maze", "one_wall", "--task-steps", "20", "34"],
        ["--wind", "roessler", "--maze", "none", "--task-steps", "10", "20", "--picture-size", "5"],
        ["--planners", "icem", "--latent-noise", "0", "--coarse-stride", "2", "--horizons", "4", "10"],
    ],
)
def test_unusual_settings_run_to_the_end(tmp_path, flags):
    RUN(tmp_path, *flags, rendered=True)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == FIRST_FIGURES


@pytest.mark.parametrize("script", ["train_flat.py", "train_helm.py"])
def test_the_trainings_run_on_their_own_and_are_reused(tmp_path, script):
    names = RUN.trained_alone(tmp_path, script)
    assert (
        names == {"s-lorenz-none", "s-lorenz-metric"}
        if "flat" in script
        else {"s-lorenz-spectral", "s-lorenz-both"}
    )
