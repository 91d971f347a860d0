"""Experiment 6 run as a user would, at tiny sizes: every job, the document's commands, bad input."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from common.config import EXP6_PRESETS, Exp6Config, Exp6Job
from common.run.command_line import ConfigError, read_flags
from common.run.key_values import split_pairs
from exp6_encoder_trm.criteria import CRITERIA
from exp6_encoder_trm.dataset import make_setting
from exp6_encoder_trm.decision_tree import VERDICTS, decide
from exp6_encoder_trm.document_command import FIELDS, read_command
from exp6_encoder_trm.figures import EDGES, NODES, path_taken
from exp6_encoder_trm.jobs import JOBS, Variant
from exp6_encoder_trm.pretrain_encoder import pretrain_encoder
from tests.experiment_runs import TinyRun, assert_promised, metrics_of, run_script, trained

SETTING, FAMILY = "recoloured_2x2", "colours"
SIZES = [
    "--width", "8", "--heads", "1", "--layers", "1", "--inner-multiple", "8", "--batch-size", "4",
    "--iterations", "2", "--eval-interval", "1", "--warmup", "1", "--recoloured-canvas", "2",
    "--recoloured-tasks", "2", "--recolourings", "2", "--most-demos", "2", "--device", "cpu",
]  # fmt: skip
# One of each kind; the tree asks for the first of them.
TRAINED = ("E0", "E1", "E_diag1", "E_zero", "E_identity", "E3", "E6", "E_collapsed", "tokens")
JOBS_ASKED = (*TRAINED[4:], "E_diag2")
REST = [
    "--palette", "3", "--family-iterations", "2", "--family-queries", "1", "--search-steps", "1",
    "--tuning-steps", "1",
    "--jacobian-cycles", "1", "2", "--gradient-cycles", "1", "2", "--gradient-study", "--seeds", "0", "1",
    "--jobs", *JOBS_ASKED,
]  # fmt: skip
FIGURES = {
    f"exp6_{name}.png"
    for name in ("encoder_trm", "decision_tree", "gradients", "context", "demos", "puzzles", "training")
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of four tasks on 2 x 2 cells: colours moved on by one, two, .."""
    folder = tmp_path_factory.mktemp("tasks")
    for number in range(1, 5):
        grids = np.random.default_rng(number).integers(0, 10, (4, 2, 2))
        pairs = [{"input": grid.tolist(), "output": ((grid + number) % 10).tolist()} for grid in grids]
        (folder / f"{number}.json").write_text(json.dumps({"train": pairs[:3], "test": pairs[3:]}))
    return folder


@pytest.fixture(scope="module")
def run(tasks):
    return TinyRun("exp6_encoder_trm", (*SIZES, *REST, "--data-dir", str(tasks)), frozenset(FIGURES))


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """One complete tiny run of every job with two seeds."""
    folder = tmp_path_factory.mktemp("exp6")
    run(folder, rendered=True)
    return folder


def promised_metrics():
    """The names that users may rely on."""
    exact = (
        "train_exact", "exact_at_halt", "exact_segment_1", "accuracy", "new_queries_exact", "unseen_exact",
        "unseen_pass_at_2", "encoder_grad_norm", "trm_grad_norm", "clip_fraction", "hypothesis_held",
    )  # fmt: skip
    names = {f"{SETTING}/{job}/{name}" for job in TRAINED for name in exact}
    names |= {f"{SETTING}/E_diag2/{name}" for name in (*exact[-4:], "grad_norm_ratio")}
    context = ("context_rms", "context_cross_variance", "context_cosine")
    names |= {f"{SETTING}/{job}/{name}" for job in TRAINED if job != "E_zero" for name in context}
    blind = ("E0", "E_zero", "E_identity", "E_collapsed")
    for job in TRAINED:
        if job not in blind:
            names |= {f"{SETTING}/{job}/demos={count}/exact" for count in ("1", "2", "all")}
            names |= {f"{SETTING}/{job}/swapped_demos/exact", f"{SETTING}/{job}/gradient_cycles=2"}
    for kind in ("state", "context"):
        names |= {f"{SETTING}/recursion/log10_jacobian_{kind}/T={cycles}" for cycles in (1, 2)}
    for model in ("table", "mean", "tokens", "tokens_search"):
        names |= {f"{FAMILY}/{model}/{part}_exact" for part in ("train", "unseen")}
    for label in ("copy", "majority", "tokens_voted", "tokens_tuned"):
        names.add(f"{FAMILY}/{label}/unseen_exact")
    return names | {f"{FAMILY}/tokens/unseen_pass_at_2"}


def test_every_promised_metric_exists_and_is_finite(finished):
    metrics = metrics_of(finished)
    assert_promised(metrics, promised_metrics() | {f"{SETTING}/verdict"})
    assert set(metrics[f"{SETTING}/verdict"]["values"]) <= set(VERDICTS.values())
    assert "0 DEBUG_BASELINE" in metrics[f"{SETTING}/verdict"]["unit"]


def test_the_verdict_is_the_trees(finished):
    metrics = metrics_of(finished)
    for seed in (0, 1):
        exact = {job: metrics[f"{SETTING}/{job}/train_exact"]["values"][seed] for job in TRAINED}
        assert metrics[f"{SETTING}/verdict"]["values"][seed] == VERDICTS[decide(exact).verdict]


def test_the_identity_is_the_table_and_the_planted_collapse_is_measured(finished):
    metrics = metrics_of(finished)
    for name in ("train_exact", "new_queries_exact", "context_rms", "accuracy"):
        first, second = (metrics[f"{SETTING}/{job}/{name}"]["values"] for job in ("E0", "E_identity"))
        assert first == second
    assert metrics[f"{SETTING}/E_collapsed/context_cosine"]["mean"] == pytest.approx(1.0)
    assert metrics[f"{SETTING}/E_collapsed/context_cross_variance"]["mean"] == pytest.approx(0.0, abs=1e-12)


def test_every_figure_exists_and_shows_something(run, finished):
    run.assert_figures(finished)


def test_every_interval_has_its_starts(run, finished):
    run.assert_starts(finished)


def test_replot_draws_the_same_figures_from_saved_results(run, finished):
    run.assert_replot(finished)


def test_every_criterion_names_a_metric_of_a_whole_run(finished):
    """The tiny run's names with the published setting's, and with every family's."""
    known = {name.replace(SETTING, "recoloured_3x3") for name in metrics_of(finished)}
    known |= {name.replace("through_2", "through_8") for name in known}
    known |= {name.replace("/E6/", f"/{job}/") for name in known for job in JOBS}
    known |= {name.replace("colours/", f"{family}/") for name in known for family in ("grids", "arc")}
    for criterion in CRITERIA:
        assert criterion.metric in known, criterion.id
        assert not criterion.minus or criterion.minus in known, criterion.id


def test_the_tree_alone_trains_what_its_path_asks_for(tasks, tmp_path):
    """Without further jobs; two steps memorise nothing, so the path ends at its first node."""
    flags = (*SIZES, "--families", "--jobs", "--data-dir", str(tasks))
    done = TinyRun("exp6_encoder_trm", flags, frozenset())(tmp_path)
    assert {name.rpartition("/")[2] for name in trained(done)} == {"E0", "E1", "E_diag1", "E_zero"}
    assert "DEBUG_BASELINE: the table does not memorise" in done.stderr


# ----------------------------------------------------------------------------------------------
# The document's command lines
# ----------------------------------------------------------------------------------------------

COMMANDS = {
    "E0v2": ("pretrain.py", []),
    "E1v2": ("pretrain_encoder.py", []),
    "E_diag1_frozen_encoder": ("pretrain_encoder.py", ["arch.freeze_encoder=true"]),
    "E2_lpn": ("pretrain_encoder.py", ["arch.encoder_type=lpn_standard"]),
    "E3_lpn_var": ("pretrain_encoder.py", ["arch.encoder_type=lpn_variational"]),
    "E4_lower_lr": ("pretrain_encoder.py", ["lr=3e-5"]),
    "E5_grad_clip": ("pretrain_encoder.py", ["grad_clip_norm=1.0"]),
    "E6_combined": (
        "pretrain_encoder.py", ["lr=3e-5", "grad_clip_norm=1.0", "arch.encoder_pooling_method=attention"],
    ),
    "E7_attention": ("pretrain_encoder.py", ["arch.encoder_pooling_method=attention"]),
    "E11": ("pretrain_encoder.py", ["encoder_lr_scale=0.1", "lr_warmup_steps=4"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_campaign_runs(name, tasks, tmp_path):
    script, pairs = COMMANDS[name]
    common = ["epochs=2", "eval_interval=1", "global_batch_size=4", "max_train_groups=4", "max_eval_groups=4"]
    sizes = SIZES[: SIZES.index("--batch-size")] + SIZES[SIZES.index("--warmup") + 2 :]
    places = ["--output-dir", str(tmp_path), "--cache-dir", str(tmp_path / "c"), "--data-dir", str(tasks)]
    folder = TinyRun("exp6_encoder_trm", (), frozenset()).folder
    done = run_script(folder / script, *common, *pairs, f'+run_name="{name}"', *sizes, *places)
    assert done.returncode == 0, done.stderr
    assert f"{SETTING}/{name}, exact: train 0." in done.stderr
    assert any(path.name.startswith(f"{SETTING}-{name}-") for path in (tmp_path / "c").iterdir())


def test_pairs_become_settings_and_a_variant():
    args = ["lr=3e-5", "arch.encoder_pooling_method=attention", "grad_clip_norm=1.0", "epochs=100000",
            "eval_interval=10000", "max_train_groups=32", "global_batch_size=256", "+project_name=debug",
            "+run_name=E6", "seed=3"]  # fmt: skip
    command = read_command(args, encoder=True)
    assert command.variants == {"debug-E6": Variant(context="attention")}
    config = command.config
    assert (config.iterations, config.eval_interval) == (12500, 1250)
    assert (config.learning_rate, config.clip_norm, config.seeds, config.batch_size) == (3e-5, 1.0, (3,), 256)
    assert (config.plain_groups, config.recoloured_tasks) == (32, 8)
    scaled = read_command(["encoder_lr_scale=0.1", "arch.freeze_encoder=True"], encoder=True)
    assert scaled.variants == {"E1": Variant(encoder_lr_scale=0.1, freeze_encoder=True)}
    assert read_command(["encoder_lr_scale=0.0"], True).variants["E1"].encoder_lr_scale == 1.0


def test_without_pairs_it_is_what_run_experiment_trains():
    command = read_command(["--jobs", "tokens"], encoder=True)
    assert command.config == read_flags(EXP6_PRESETS, ["--jobs", "tokens"])
    assert command.variants == {name: JOBS[name].changes for name in ("E1", "E_diag1", "E_zero", "tokens")}
    assert read_command([], encoder=False).variants == {"E0": JOBS["E0"].changes}


def test_every_job_can_be_asked_for():
    assert set(get_args(Exp6Job)) == set(JOBS)


def test_every_key_names_a_setting():
    assert set(FIELDS.values()) <= set(Exp6Config().identity())


BAD = {
    "an unknown key": (["arch.freeze=true"], "key 'arch.freeze': no such key; allowed: arch.freeze_encoder"),
    "no value": (["lr="], "'lr=': allowed: key=value"),
    "twice": (["lr=1", "lr=2"], "key 'lr' is given twice"),
    "no number": (["epochs=many"], "epochs = 'many': allowed: numbers > 0"),
    "no boolean": (["arch.freeze_encoder=1"], "arch.freeze_encoder = '1': allowed: true, false"),
    "a pooling": (["arch.encoder_pooling_method=max"], "allowed: mean, attention, cls"),
    "pooling of LPN": (
        ["arch.encoder_type=lpn_standard", "arch.encoder_pooling_method=attention"],
        "allowed: with the standard encoder",
    ),
    "a bad setting": (["lr=-1"], "learning_rate (--learning-rate) = -1.0"),
    "an unknown flag": (["--freeze"], "--freeze"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_command_is_one_line_and_exit_code_2(case):
    args, words = BAD[case]
    folder = TinyRun("exp6_encoder_trm", (), frozenset()).folder
    done = run_script(folder / "pretrain_encoder.py", *args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr


def test_the_tables_script_knows_no_encoder():
    with pytest.raises(ConfigError, match=r"key 'arch\.freeze_encoder'"):
        read_command(["arch.freeze_encoder=true"], encoder=False)


def test_pairs_are_told_from_flags():
    assert split_pairs(["a.b=1", "--x", "y", "+c=d=e", "--z=3"]) == (
        {"a.b": "1", "c": "d=e"}, ["--x", "y", "--z=3"],
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------
# Bad input, the published size
# ----------------------------------------------------------------------------------------------


def test_a_bad_folder_is_one_line_that_names_file_and_fault(tmp_path):
    run = TinyRun("exp6_encoder_trm", (), frozenset())
    (tmp_path / "bad.json").write_text('{"train": []}')
    folder = run.folder / "run_experiment.py"
    places = ("--output-dir", tmp_path / "new", "--cache-dir", tmp_path / "c")
    for data, words in ((tmp_path, "bad.json: task bad has no list"), (tmp_path / "none", "no such folder")):
        done = run_script(folder, *places, "--data-dir", data)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--jobs", "E12"], "--jobs"),
        (["--most-demos", "1"], "--most-demos"),
        (["--width", "60"], "--width"),
        (["--settings", "recoloured", "recoloured"], "--settings"),
        (["--replot"], "--replot"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, args, words):
    TinyRun("exp6_encoder_trm", (), frozenset()).assert_refused(tmp_path / "new", args, words)


def test_one_step_at_the_published_width(tasks):
    """TRM of width 512 and its encoder of 16 tokens, three cycles of four calls, on a small grid."""
    config = replace(
        EXP6_PRESETS["published"], settings=("recoloured",), recoloured_canvas=2, recoloured_tasks=2,
        recolourings=2, most_demos=2, batch_size=2, iterations=1, seeds=(0,), data_dir=tasks, segments=1,
    )  # fmt: skip
    model, history = pretrain_encoder(
        make_setting("recoloured", config), variant=JOBS["E6"].changes, config=config,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert model.trm.sizes.width == 512 and model.trm.sizes.prefix == 16
    assert torch.isfinite(history["loss"]).all() and (history["encoder_grad_norm"] > 0).all()


# ----------------------------------------------------------------------------------------------
# The drawn tree
# ----------------------------------------------------------------------------------------------


def test_every_path_is_drawn_along_the_trees_edges():
    exact = {"E0": 0.95, "E1": 0.4, "E_diag1": 0.6, "E_zero": 0.2}
    exact |= {name: 0.5 for name in ("E4", "E5", "E7", "E6", "E2", "E3")}
    edges = {(begin, end) for begin, end, _ in EDGES}
    phases = ("hyperparameters", "architecture")
    for change in ({}, {"E0": 0.1}, {"E1": 0.9}, {"E_diag1": 0.2}, {"E6": 0.9}, {"E2": 0.9}):
        taken = path_taken(decide(exact | change), phases)
        assert taken <= edges and taken
    assert {node for edge in edges for node in edge} == set(NODES)
