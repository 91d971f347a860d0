"""Fingerprints: code is hashed and prose is not, inputs say what they are, no old result passes for new."""

import ast
import importlib
import inspect
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.config import EXP1_PRESETS, RunConfig
from common.run.cache import ConfigView, reads_settings
from common.run.files import ROOT
from common.run.fingerprint import Measured, Sources, fingerprint, identity, mark_trained
from common.run.run import Experiment, Run, Training
from common.training.ensembles import EnsembleMLP
from common.training.fit import fit
from exp1_spectral_cliff import train_flat, train_helm

SOURCES = Sources()


def cached_steps():
    """Every function of the project that declares its settings, by `module.name`."""
    found = {}
    for path in sorted([*ROOT.glob("exp[0-9]_*/*.py"), *ROOT.glob("common/**/*.py")]):
        if "@reads_settings(" in path.read_text(encoding="utf-8") and path.stem != "cache":
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for name, value in vars(module).items():
                if hasattr(value, "settings_read") and value.__module__ == module.__name__:
                    found[f"{path.parent.name}.{path.stem}.{name}"] = value
    return found


STEPS = cached_steps()


def edited(path, edit):
    """The project's sources with one file's text changed."""
    sources = Sources()
    file = ROOT / path
    sources._texts[file] = edit(sources._texts[file])
    assert sources._texts[file] != file.read_text(encoding="utf-8")
    return sources


def changed_steps(sources):
    return {name for name, step in STEPS.items() if sources.code_hash(step) != SOURCES.code_hash(step)}


def reworded(text):
    """Every docstring said in other words, a comment more, an annotation less."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        if documented and ast.get_docstring(node) is not None:
            node.body[0].value.value = "In other words."
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.unparse(tree) + "\n# a comment\n"


def test_there_are_steps():
    assert len(STEPS) >= 15


@pytest.mark.parametrize(
    "path",
    [
        "common/run/random.py", "common/run/devices.py", "common/run/run.py", "common/training/fit.py",
        "common/regularizers.py", "common/latent/training.py", "exp1_spectral_cliff/models.py",
    ],
)  # fmt: skip
def test_rewording_changes_no_fingerprint(path):
    assert changed_steps(edited(path, reworded)) == set()


@pytest.mark.parametrize(
    ("path", "before", "after", "steps"),
    [
        ("common/regularizers.py", "minus - 2 * centre).square()", "minus - 2 * centre).abs()",
         {"exp2_funnel_heatmap.train_helm.train_helm"}),
        ("common/regularizers.py", "(centre - perturbed).square()", "(centre - perturbed).abs()",
         {"exp2_funnel_heatmap.train_helm.train_helm", "exp3_planning_efficiency.train_helm.train_helm",
          "exp4_contrastive_fix.train_helm.train_helm"}),
        ("common/objectives.py", "return (distances - 1).relu().square()",
         "return (distances - 2).relu().square()",
         {"exp4_contrastive_fix.train_helm.train_helm", "exp4_contrastive_fix.train_head.train_head",
          "exp7_unseen_layouts.train_quasimetric.train_quasimetric",
          "exp8_two_pillars.train_flat.train_flat", "exp8_two_pillars.train_helm.train_helm"}),
        ("common/run/results.py", "SCHEMA = 1", "SCHEMA = 2", set()),
    ],
)  # fmt: skip
def test_editing_a_loss_changes_exactly_the_steps_that_use_it(path, before, after, steps):
    assert changed_steps(edited(path, lambda text: text.replace(before, after))) == steps


def test_a_default_of_a_planner_changes_every_step_that_plans():
    sources = edited(
        "common/planners/cem.py", lambda text: text.replace("elites: int = 4", "elites: int = 5")
    )
    assert {name.rpartition(".")[2] for name in changed_steps(sources)} == {
        "measure_planner",
        "measure_settings",
        "measure_at_budget",
        "measure_rung",
        "measure_sweep",
        "measure_planning",
        "measure_latent",
        "measure_pictures",
    }


def test_a_file_edited_during_a_run_keeps_its_mark(tmp_path):
    """The code that runs is what was read at the start, whatever is saved meanwhile."""
    package = tmp_path / "toy_edited"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "steps.py").write_text("def step():\n    return 1\n")
    sources = Sources([tmp_path])
    step = (package / "steps.py", "step")
    before = sources._hash_from(step)
    (package / "steps.py").write_text("def step():\n    return 2\n")
    assert sources._hash_from(step) == before
    assert Sources([tmp_path])._hash_from(step) == before, "this process goes on running what it imported"
    assert Sources([tmp_path], read={})._hash_from(step) != before, "a later process does not"


# --- inputs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    values: torch.Tensor
    label: str = "a"
    _scratch: object = None


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1, 2), (1, 1.0), ("a", "b"), (None, 0), ((1, 2), (2, 1)), ({"a": 1}, {"a": 2}),
        (torch.zeros(2), torch.zeros(3)), (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.ones(2), -torch.ones(2)), (np.zeros(2), np.ones(2)), (torch.tensor(1.0), torch.tensor(2.0)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (Data(torch.zeros(2)), Data(torch.ones(2))), (Data(torch.zeros(2)), Data(torch.zeros(2), "b")),
        (Measured({}, "one"), Measured({}, "two")), (train_flat.train_flat, train_helm.train_helm),
    ],
)  # fmt: skip
def test_different_inputs_differ_and_equal_ones_agree(value, other):
    assert identity(value, SOURCES) != identity(other, SOURCES)
    assert identity(value, SOURCES) == identity(value, SOURCES)


def test_a_large_tensor_is_looked_at_once_and_again_when_it_changes():
    sources, value = Sources(), torch.zeros(2**17)
    first = identity(value, sources)
    assert identity(value, sources) == first and len(sources.digests) == 1
    value[0] = 1.0
    assert identity(value, sources) != first


def test_private_fields_and_the_order_of_a_mapping_do_not_count():
    assert identity(Data(torch.zeros(2)), SOURCES) == identity(Data(torch.zeros(2), _scratch=1), SOURCES)
    assert identity({"a": 1, "b": 2}, SOURCES) == identity({"b": 2, "a": 1}, SOURCES)


def test_an_input_that_cannot_be_told_is_refused_in_one_line():
    with pytest.raises(TypeError, match="among the inputs of a cached step: allowed") as refused:
        identity((value for value in ()), SOURCES)
    assert "\n" not in str(refused.value)


def test_a_trained_module_bears_its_mark_until_a_parameter_is_changed():
    module = mark_trained(EnsembleMLP((0,), (2, 1), "test"), "abc")
    assert identity(module, SOURCES) == "trained abc"
    with torch.no_grad():
        next(module.parameters()).add_(1.0)
    assert "abc" not in identity(module, SOURCES)


def test_a_trained_module_that_is_trained_again_loses_its_mark():
    module = mark_trained(EnsembleMLP((0,), (2, 1), "test").requires_grad_(False), "abc")
    module.requires_grad_(True)
    fit(
        module, lambda iteration, draws: {"loss": module(torch.ones(1, 4, 2)).square().mean((1, 2))},
        seeds=(0,), iterations=1, learning_rate=0.1, label="test", stream="test",
    )  # fmt: skip
    assert "abc" not in identity(module, SOURCES)


def test_a_module_of_nobody_is_told_by_its_weights():
    first, again, other = (EnsembleMLP((seed,), (2, 1), "test") for seed in (0, 0, 1))
    assert identity(first, SOURCES) == identity(again, SOURCES) != identity(other, SOURCES)


# --- steps ----------------------------------------------------------------------------------------


def mark(step, *inputs, **changes):
    config = replace(EXP1_PRESETS["quick"], **changes)
    return fingerprint(step, ConfigView(config, step.settings_read), inputs, SOURCES)


def test_a_planning_field_does_not_retrain_and_a_training_field_does():
    for step in (train_flat.train_flat, train_helm.train_helm):
        assert mark(step) == mark(step, gd_steps=7, planning_horizons=(3,), num_problems=2)
        assert mark(step) != mark(step, hidden_dim=64)
        assert mark(step) != mark(step, seeds=(0, 1))
        assert mark(step, torch.zeros(1)) != mark(step, torch.ones(1))
    assert mark(train_flat.train_flat) != mark(train_helm.train_helm)


def test_a_setting_that_a_step_does_not_declare_is_an_error():
    view = ConfigView(EXP1_PRESETS["quick"], ("seeds",))
    assert view.seeds == (0,)
    with pytest.raises(AttributeError, match="'iterations' is not declared"):
        _ = view.iterations


@reads_settings("checkpoint_every")
def double(value, *, config, device):
    """Twice an input, and what the configuration says."""
    return {"twice": 2 * value, "every": torch.tensor(config.checkpoint_every)}


@reads_settings("seeds")
def train_line(factor, *, variant, config, device, checkpoint, label):
    """A module that no data were needed for."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, factor * variant)
    seconds = torch.tensor(0.0, dtype=torch.float64)
    return module, {"iteration": torch.tensor([1]), "loss": torch.zeros(1, 1), "seconds": seconds}


@reads_settings("seeds")
def weight_of(module, *, config, device):
    """What a trained module holds."""
    return {"weight": module.weight.detach().clone()}


@pytest.fixture
def run(tmp_path):
    toy = Experiment("toy", tmp_path, {"quick": RunConfig()}, lambda run: None)
    with (made := Run(toy, RunConfig())).held():
        yield made


def test_the_same_step_of_the_same_inputs_is_done_once_and_of_others_anew(run):
    one = run.measure(double, "name", torch.ones(1))
    assert run.measure(double, "name", torch.ones(1)) is one
    assert run.measure(double, "name", torch.full((1,), 3.0))["twice"].item() == 6.0


def test_a_repeated_name_within_having_gives_the_answer_for_those_settings(run):
    before = run.measure(double, "name", torch.ones(1))
    with run.having(checkpoint_every=7):
        within = run.measure(double, "name", torch.ones(1))
    assert (before["every"].item(), within["every"].item()) == (500, 7)


def test_a_step_downstream_of_another_training_is_done_anew(run):
    """Today's forgotten `upstream=`: the model's own mark tells."""
    weights = [
        run.measure(
            weight_of, "weight", run.train(Training(train_line, f"a{factor}", (factor,), {"m": 2.0}))["m"]
        )
        for factor in (1.0, 5.0)
    ]
    assert [found["weight"].item() for found in weights] == [2.0, 10.0]


def test_the_longest_trainings_are_begun_first_and_returned_in_their_place(run, monkeypatch):
    begun = []

    @reads_settings("seeds")
    def train(factor, *, label, **others):
        begun.append(label)
        return train_line(factor, label=label, **others)

    monkeypatch.setattr("common.run.run.worker_count", lambda *_: 1)
    models = run.train(
        Training(train, "a", (1.0,), {"short": 1.0, "long": 2.0, "next": 3.0}, longest=["long"])
    )
    assert list(models) == ["short", "long", "next"] and begun == ["a/long", "a/short", "a/next"]


def test_results_are_found_again_from_another_output_folder(tmp_path):
    calls = []

    def compute(run):
        calls.append(run.measure(double, "name", torch.ones(1)))

    toy = Experiment("toy", tmp_path, {"quick": RunConfig()}, compute)
    for name in ("one", "two"):
        toy.execute(RunConfig(output_dir=tmp_path / name))
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1
    assert calls[0].fingerprint == calls[1].fingerprint


def test_every_step_is_where_its_hash_says():
    for name, step in STEPS.items():
        assert Path(inspect.getsourcefile(inspect.unwrap(step))).is_relative_to(ROOT), name
