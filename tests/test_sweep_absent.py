"""Without Ray, Optuna, TensorBoard and W&B experiments run, and who asks for these is told so in a line."""

import subprocess
import sys
import textwrap

import pytest

from common.run.files import ROOT
from common.run.results import load_results
from tests.toy_experiment import write_toy

# Blocks the imports, then runs one script after the other as a user would.
_WITHOUT = textwrap.dedent("""
    import importlib.abc, runpy, sys

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("ray", "optuna", "tensorboard", "tensorboardX", "wandb", "grpc"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    for line in sys.argv[1:]:
        sys.argv = line.split("|")
        sys.path.insert(0, sys.argv[0].rpartition("/")[0])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            print("code 0")
        except SystemExit as end:
            print("code", end.code or 0, flush=True)
""")


@pytest.mark.skipif(sys.platform == "win32", reason="takes paths apart at /")
def test_the_base_install_runs_experiments_and_says_what_the_rest_needs(tmp_path, monkeypatch):
    toy = write_toy(tmp_path)
    monkeypatch.setenv("HELM_ROOT", str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    places = ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache"]
    sweep = [ROOT / "sweep.py", "exp9_toy", "--vary", "noise", "0.2", "--metric", "toy/clean/error"]
    search = ["--vary", "iterations", "5:9", "--search", "optuna", "--sweeps-dir", tmp_path / "sweeps"]
    calls = [
        [toy / "run_experiment.py", *places],
        [*sweep, "--list"],
        [*sweep, "--sweeps-dir", tmp_path / "sweeps"],
        [*sweep, *search],
        [ROOT / "reproduce.py", "--workers", "2", "--output-dir", tmp_path / "report"],
        [toy / "run_experiment.py", *places, "--tracker", "tensorboard"],
    ]  # fmt: skip
    lines = ["|".join(map(str, call)) for call in calls]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, *lines], capture_output=True, text=True, timeout=300
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code")]
    assert codes == ["code 0", "code 0", *["code 2"] * 4], done.stderr
    assert load_results(tmp_path / "out" / "results")["experiment"] == "exp9_toy"
    assert done.stderr.count("ray is not installed: pip install -r requirements-sweep.txt") == 2
    assert done.stderr.count("optuna is not installed: pip") == 1
    assert "Traceback" not in done.stderr
