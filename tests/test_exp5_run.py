"""Experiment 5 run as a user would, at tiny sizes: files, finite numbers, resume, bad input, folders."""

import dataclasses
import json
import shutil

import pytest
import torch

from common.config import EXP5_PRESETS
from common.recursion.puzzles.folders import write_folder
from common.run.results import load_arrays
from exp5_feudal_hrm.dataset import make_task
from exp5_feudal_hrm.models import make_feudal_hrm, make_hrm
from exp5_feudal_hrm.train_baseline import BASELINES, train_baseline
from tests.experiment_runs import (
    TinyRun,
    assert_promised,
    assert_same_results,
    kill_at,
    measured,
    metrics_of,
    trained,
)

TINY = [
    "--width", "8", "--inner-multiple", "8", "--iterations", "6", "--batch-size", "8", "--segments", "4",
    "--manager-period", "2", "--train-puzzles", "24", "--test-puzzles", "10", "--warmup", "2",
    "--period-sweep", "1", "2", "--weight-sweep", "0.1", "0.5", "--larger-tasks", "sudoku_6x6",
    "--larger-width", "8", "--larger-iterations", "3", "--larger-batch-size", "4", "--checkpoint-every", "2",
    "--recursion-puzzles", "4", "--recursion-segments", "5", "--gradient-puzzles", "2",
    "--seeds", "0", "1", "--device", "cpu",
]  # fmt: skip
TASKS = {
    "sudoku_4x4": EXP5_PRESETS["quick"].variants,
    "sudoku_6x6": ("baseline_segment", "directional_segment"),
}
FIGURES = {"exp5_sweep.png"} | {
    f"exp5_{name.replace('.', f'{task}.')}"
    for name in ("feudal_hrm.png", "training.png", "goals.png", "recursion.png", "halting.png",
                 "gradients.png", "puzzle.png", "puzzle.gif")
    for task in ("", "_sudoku_6x6")
}  # fmt: skip
FEW = (
    "--variants", "baseline", "directional", "--weight-sweep", "0.1", "--period-sweep", "2",
    "--larger-variants", "baseline_segment",
)  # fmt: skip
RUN = TinyRun("exp5_feudal_hrm", tuple(TINY), frozenset(FIGURES))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete tiny run with two seeds, from inside the experiment's folder."""
    folder = tmp_path_factory.mktemp("exp5")
    RUN.as_a_process(folder)
    return folder


def promised_metrics():
    """The names that users may rely on."""
    names = set()
    for task, variants in TASKS.items():
        for variant in variants:
            prefix = f"{task}/{variant}"
            names |= {f"{prefix}/{name}" for name in ("exact", "accuracy", "steps")}
            names |= {f"{prefix}/exact/segment={k}" for k in (1, 2, 3, 4)}
            if not variant.startswith("baseline"):
                names |= {
                    f"{prefix}/feudal/{name}"
                    for name in ("cosine", "cosine_centred", "cosine_constant", "cosine_swapped", "gate",
                                 "emissions", "consumed")
                }  # fmt: skip
            if variant in ("baseline", "baseline_segment"):  # whose recursion is followed; it solves nothing
                names |= {
                    f"{prefix}/recursion/{name}"
                    for name in ("residual/unsolved/segment=4", "log10_jacobian/unsolved/T=4",
                                 "growth/unsolved", "singular_value/unsolved", "wrong_fixed_point")
                }  # fmt: skip
                names |= {
                    f"{prefix}/gradient_{name}/{length}/segment=4"
                    for name in ("cosine", "ratio") for length in ("segment", "all")
                }  # fmt: skip
                names |= {f"{prefix}/halting/{name}_minus_q/exact" for name in ("residual", "jacobian")}
    names |= {f"sudoku_4x4/{name}_minus_baseline/exact" for name in TASKS["sudoku_4x4"] if name != "baseline"}
    names |= {f"sweep/{cell}/exact" for cell in ("0.1/2", "0.5/2", "0.1/1")}
    return names | {"sweep/best_weight/gain", "sweep/best_period/gain"}


def test_every_promised_metric_exists_and_is_finite(finished):
    assert_promised(metrics_of(finished), promised_metrics())


def test_histories_have_the_documents_names(finished):
    arrays = load_arrays(finished / "results")
    for name in ("lm_loss", "feudal_loss", "accuracy", "exact_accuracy", "steps"):
        assert arrays[f"sudoku_4x4/directional/history/train/{name}"].shape == (6, 2), name
    assert "sudoku_4x4/baseline/history/train/feudal_loss" not in arrays


def test_a_setting_of_the_sweep_that_a_variant_has_is_the_variant(finished):
    metrics = metrics_of(finished)
    assert metrics["sweep/0.1/2/exact"] == metrics["sudoku_4x4/directional/exact"]
    kept = {path.name.rpartition("-")[0] for path in (finished / "checkpoints").iterdir()}
    assert {"sudoku_4x4-sweep-0.5-2", "sudoku_4x4-sweep-0.1-1"} < kept
    assert "sudoku_4x4-sweep-0.1-2" not in kept


def test_every_figure_exists_and_shows_something(finished):
    RUN.assert_figures(finished)


def test_replot_draws_the_same_figures_from_saved_results(finished):
    RUN.assert_replot(finished)


def test_every_interval_has_its_starts(finished):
    RUN.assert_starts(finished)


def test_another_weight_trains_what_it_changes_alone(finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    done = RUN(tmp_path, "--weight-sweep", "0.1", "0.3")
    assert set(trained(done)) == {"sudoku_4x4/sweep/0.3/2"}
    assert set(measured(done)) == {"sudoku_4x4/sweep/0.3/2"}


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path):
    RUN(tmp_path / "whole", *FEW)
    kill_at(RUN.command(tmp_path / "killed", *FEW), tmp_path / "killed", ["2", "4h"])
    RUN(tmp_path / "killed", *FEW)
    assert_same_results(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("script", "expected"),
    [("train_baseline.py", {"baseline", "baseline_segment"}), ("train_feudal.py", {"predict", "naive"})],
)
def test_training_scripts_leave_what_the_run_finds(tmp_path, script, expected):
    names = ("--variants", "baseline", *sorted(expected - {"baseline"}), "--larger-tasks", "sudoku_6x6")
    alone = RUN.trained_alone(tmp_path, script, *names)
    assert {f"sudoku_4x4-{name}" for name in expected} <= alone


def test_bad_settings_are_refused(tmp_path):
    RUN.assert_refused(tmp_path / "a", ["--tasks", "folder"], "--data-dir")
    RUN.assert_refused(tmp_path / "b", ["--width", "12"], "width (--width) = 12")
    RUN.assert_refused(tmp_path / "c", ["--variants", "head"], "baseline")
    missing = tmp_path / "none"
    RUN.assert_refused(tmp_path / "d", ["--tasks", "folder", "--data-dir", str(missing)], "dataset.json")


def test_a_folder_in_hrms_format_trains(tmp_path):
    made = make_task(
        "sudoku_4x4", dataclasses.replace(EXP5_PRESETS["quick"], train_puzzles=12, test_puzzles=5)
    )
    write_folder(tmp_path / "data", made.train, made.test)
    settings = ("--tasks", "folder", "--data-dir", tmp_path / "data", *FEW)
    RUN(tmp_path / "out", *settings)
    metrics = metrics_of(tmp_path / "out")
    assert metrics["folder/directional/exact"]["mean"] is not None
    saved = json.loads((tmp_path / "out" / "results" / "results.json").read_text())
    assert saved["config"]["tasks"] == ["folder"]


# --- the published size ----------------------------------------------------------------------------


def test_the_published_preset_is_hrm_with_its_parameters():
    config = dataclasses.replace(EXP5_PRESETS["published"], tasks=("sudoku_9x9",))
    task = make_task("sudoku_9x9", dataclasses.replace(config, train_puzzles=2, test_puzzles=2))
    with torch.device("meta"):
        models = make_hrm(task.train, config), make_feudal_hrm(task.train, config)
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts[0] == 27_275_266
    assert counts[1] - counts[0] == 2 * 512 * 512 + 512 + 513


def test_one_step_at_full_width():
    """Of the published preset, but for two puzzles a batch: the weights move and stay finite."""
    config = dataclasses.replace(
        EXP5_PRESETS["published"], iterations=1, batch_size=2, train_puzzles=3, test_puzzles=2, warmup=0
    )
    task = make_task("sudoku_9x9", config)
    model, history = train_baseline(
        task, variant=BASELINES["baseline"], config=config, device=torch.device("cpu")
    )
    assert torch.isfinite(history["loss"]).all()
    assert all(torch.isfinite(value).all() for value in model.parameters())
    assert model.halt[..., 0].abs().min() > 0  # they were zero
