"""Checkpoints: atomic, fingerprinted, weights only; a training resumed to the bit."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
import torch

from common.config import EXP1_PRESETS, EXP2_PRESETS, EXP3_PRESETS, EXP4_PRESETS, Exp1Config
from common.run.cache import (
    ROOT,
    Checkpoint,
    ConfigView,
    fingerprint,
    imported_modules,
    imported_project_files,
    write_atomically,
)
from common.training.ensembles import EnsembleMLP
from common.training.fit import clip_gradients_per_member, fit
from exp1_spectral_cliff import train_flat, train_helm

SEEDS = (0, 1)


def train(checkpoint, stop_at=None, seeds=SEEDS, iterations=60):
    """Fit a noisy regression; `stop_at` kills the training there, between two checkpoints."""
    module = EnsembleMLP(seeds, (2, 8, 1), "test")

    def loss(iteration, draws):
        if iteration == stop_at:
            raise KeyboardInterrupt
        inputs = torch.stack([torch.randn(16, 2, generator=draw) for draw in draws])
        error = (module(inputs) - inputs.sum(-1, keepdim=True).sin()).square().mean((1, 2))
        return {"loss": error}

    history = fit(
        module, loss, seeds=seeds, iterations=iterations, learning_rate=1e-2, label="test", stream="test",
        clip_norm=1.0, checkpoint=checkpoint,
    )  # fmt: skip
    return module.state_dict(), history


@pytest.mark.parametrize("stop_at", [3, 10, 37, 59])
def test_an_interrupted_training_resumes_to_the_bit(tmp_path, stop_at):
    expected, expected_history = train(None)
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=10)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, stop_at)
    weights, history = train(checkpoint)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert torch.equal(history["loss"], expected_history["loss"])
    again, _ = train(checkpoint, stop_at=0)  # a finished training is not entered again
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_member_does_not_feel_its_neighbours():
    together, _ = train(None)
    alone, _ = train(None, seeds=(1,))
    for name, weights in alone.items():
        torch.testing.assert_close(weights[0], together[name][1], rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_member_by_member():
    module = EnsembleMLP(SEEDS, (2, 1), "test")
    for parameter, value in zip(module.parameters(), (3.0, 4.0), strict=True):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[0].fill_(value)
        parameter.grad[1].fill_(value * 1e-3)
    clip_gradients_per_member(module, 1.0)
    norms = torch.stack([p.grad.flatten(1).square().sum(1) for p in module.parameters()]).sum(0).sqrt()
    assert norms[0].item() == pytest.approx(1.0)
    assert norms[1].item() == pytest.approx(1e-3 * (2 * 9 + 16) ** 0.5)


def test_a_loss_that_is_not_finite_is_an_error():
    module = EnsembleMLP(SEEDS, (2, 1), "test")
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(
            module,
            lambda iteration, draws: {"loss": module(torch.full((2, 1, 2), float("nan"))).sum((1, 2))},
            seeds=SEEDS,
            iterations=3,
            learning_rate=1e-2,
            label="test",
            stream="test",
        )


def test_another_fingerprint_is_not_loaded(tmp_path):
    Checkpoint(tmp_path / "a.pt", "one").save({"x": torch.ones(2)})
    assert Checkpoint(tmp_path / "a.pt", "two").load() is None
    assert torch.equal(Checkpoint(tmp_path / "a.pt", "one").load()["x"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_file_is_passed_over(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark")
    checkpoint.save({"x": torch.ones(100)})
    data = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(data[: len(data) // 2] if content is None else content)
    assert checkpoint.load() is None


class Malicious:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickled_code_is_executed(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark")
    torch.save({"fingerprint": "mark", "payload": Malicious(tmp_path / "owned")}, checkpoint.path)
    assert checkpoint.load() is None
    assert not (tmp_path / "owned").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


# --- fingerprints ---------------------------------------------------------------------------------


def mark(phase, **changes):
    import dataclasses

    config = dataclasses.replace(EXP1_PRESETS["quick"], **changes)
    return fingerprint(ConfigView(config, phase.settings_read), phase.__code__.co_filename)


def test_a_planning_field_does_not_retrain_and_a_training_field_does():
    for phase in (train_flat.train_flat, train_helm.train_helm):
        assert mark(phase) == mark(phase, gd_steps=7, planning_horizons=(3,), num_problems=2)
        assert mark(phase) != mark(phase, hidden_dim=64)
        assert mark(phase) != mark(phase, seeds=(0, 1))
    assert mark(train_flat.train_flat) != mark(train_helm.train_helm)


def test_the_sources_of_a_phase_are_what_it_imports():
    files = imported_project_files(train_helm.__file__)
    assert {
        "exp1_spectral_cliff/models.py",
        "exp1_spectral_cliff/dataset.py",
        "common/training/fit.py",
    } <= set(files)
    assert "common/config.py" not in files  # its values are in the fields
    assert "common/run/criteria.py" not in files and "exp1_spectral_cliff/figures.py" not in files


def test_every_field_belongs_to_a_phase_or_to_the_run():
    """A field that no phase reads would be a setting that changes nothing."""
    from exp1_spectral_cliff import analyze_spectrum, evaluate_planning

    modules = (train_flat, train_helm, analyze_spectrum, evaluate_planning)
    phases = [f for module in modules for f in vars(module).values() if hasattr(f, "settings_read")]
    used = {field for phase in phases for field in phase.settings_read}
    in_variants = {  # read where the variants are made, and hashed as part of them
        "iterations", "flat_long_iterations", "lambda_spectral", "lambda_spectral_linear", "spectral_sweep",
        "hf_noise_sigma", "coarse_stride", "macro_rollouts", "cascade_stride",
    }  # fmt: skip
    of_the_run = {
        "preset",
        "device",
        "output_dir",
        "replot",
        "fresh",
        "strict",
        "systems",
        "checkpoint_every",
    }
    fields = {spec.name for spec in dataclasses.fields(Exp1Config)}
    assert fields == used | in_variants | of_the_run


@pytest.mark.parametrize("presets", [EXP2_PRESETS, EXP3_PRESETS, EXP4_PRESETS])
def test_every_field_is_read_somewhere(presets):
    """By a phase, or by name in the experiment's code or the code that runs it."""
    config = presets["quick"]
    (folder,) = ROOT.glob(f"{type(config).__name__.removesuffix('Config').lower()}_*")
    code = [path.read_text(encoding="utf-8") for path in (*folder.glob("*.py"), *ROOT.glob("common/**/*.py"))]
    code = "\n".join(text for text in code if "class Exp4Config" not in text)
    for name in (spec.name for spec in dataclasses.fields(config)):
        assert re.search(rf'config\.{name}\b|config, "{name}"|"config"\]\["{name}"\]', code), name


def test_a_package_belongs_to_the_fingerprint_with_all_that_it_imports():
    """`from common.planners import make_planner` reaches every planner: their defaults decide results."""
    assert "common.planners.problem" in imported_modules(ROOT / "common" / "planners" / "cem.py")  # relative
    files = imported_project_files(str(ROOT / "exp3_planning_efficiency" / "evaluate_planners.py"))
    planners = {path.name for path in (ROOT / "common" / "planners").glob("*.py")} - {
        "adapter.py",
        "gradient_fidelity.py",
    }
    assert planners <= {Path(name).name for name in files if name.startswith("common/planners/")}
