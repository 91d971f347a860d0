"""The layout and import rules of the house, held by the source itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.run.files import ROOT
from tests.imports import imported_modules

EXPERIMENTS = sorted(path.name for path in ROOT.glob("exp[0-9]_*") if path.is_dir())
SOURCES = sorted(
    path
    for folder in ("common", "tests", "benchmarks", *EXPERIMENTS)
    for path in (ROOT / folder).rglob("*.py")
)


def imports(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imported_modules(path)}


def test_there_are_experiments():
    assert "exp1_spectral_cliff" in EXPERIMENTS


# Rooms of common/, each with those whose files it may import beside its own.
ROOMS = {
    "chaos": set(),
    "config": {"run.command_line"},
    "jacobian_utils": set(),
    "objectives": set(),
    "regularizers": {"jacobian_utils"},
    "statistics": set(),
    "viz_utils": {"run.files"},
    "planners": set(),
    "minigrid": set(),
    "run": {"config", "statistics", "viz_utils"},
    "training": {"run", "jacobian_utils"},
    "latent": {"config", "jacobian_utils", "minigrid", "planners", "regularizers", "run", "statistics",
               "training", "viz_utils"},
    "recursion": {"config", "jacobian_utils", "run", "statistics", "training", "viz_utils"},
    "report": {"run"},
    "sweeps": {"config", "report", "run", "statistics", "viz_utils"},
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_flow_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    used = imports(path) & set(EXPERIMENTS)
    if folder == "common":
        assert not used, "common knows no experiment"
    elif folder in EXPERIMENTS:
        assert used <= {folder}, "an experiment imports no other experiment"


@pytest.mark.parametrize("path", sorted((ROOT / "common").rglob("*.py")), ids=lambda path: path.name)
def test_rooms_of_common_import_downwards(path):
    room = path.relative_to(ROOT / "common").with_suffix("").parts[0]
    if room == "__init__":
        return
    allowed = {f"common.{name}" for name in (*ROOMS[room], room)}
    for module in imported_modules(path):
        if module.startswith("common."):
            within = any(module == name or module.startswith(f"{name}.") for name in allowed)
            parent = any(name.startswith(f"{module}.") for name in allowed)
            assert within or parent, f"{path.relative_to(ROOT)} imports {module}"


def test_nothing_shared_names_an_experiment():
    """But for the settings' own file, which has a dataclass of each."""
    for path in (ROOT / "common").rglob("*.py"):
        if path != ROOT / "common" / "config.py":
            found = re.findall(r"exp[0-9]_\w+", path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found}"


LAYERS = (
    ("energy_", "objectives", "rollouts", "feudal", "world"),
    ("dataset", "parts"),
    "models",
    "batches",
    "train_",
    "analyze_",
    "run_",
)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_layers_of_an_experiment_point_downwards(experiment):
    """run_* -> (figures, analysis, train_*) -> models -> dataset -> energies, never upwards."""

    def layer(name: str) -> int:
        analysis = LAYERS.index("analyze_")
        return next((i for i, prefix in enumerate(LAYERS) if name.startswith(prefix)), analysis)

    for path in (ROOT / experiment).glob("*.py"):
        for module in imported_modules(path):
            match = re.match(rf"{experiment}\.(\w+)$", module)
            if match and (ROOT / experiment / f"{match[1]}.py").exists():
                assert layer(match[1]) <= layer(path.stem), f"{path.name} imports {match[1]}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_run_experiment_is_thin_and_defines_no_class(experiment):
    source = (ROOT / experiment / "run_experiment.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 120
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_are_short_and_public_ones_documented(path):
    if path.relative_to(ROOT).parts[0] == "tests":
        pytest.skip("tests explain themselves by name")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            docstring = ast.get_docstring(node)
            if isinstance(node, ast.FunctionDef):
                doc_lines = len(docstring.splitlines()) if docstring else 0
                length = node.end_lineno - node.lineno + 1 - doc_lines
                assert length <= 50, f"{node.name} has {length} lines without its docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or node.name == "main", f"{node.name} has no docstring"


def test_no_hidden_state_or_machine_specifics():
    forbidden = {
        "absolute path": r"[\"'](/home|/tmp|/work|/root|/Users)/",
        "hard-coded device": r"[\"']cuda:\d",
        "bare except": r"except\s*:",
        "blanket warning filter": r"simplefilter\(|filterwarnings\([\"']ignore",
    }
    for path in SOURCES:
        if path.name == "test_layout.py":
            continue
        text = path.read_text(encoding="utf-8")
        for what, pattern in forbidden.items():
            assert not re.search(pattern, text), f"{path.name}: {what}"


def test_ruff_passes():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", package) for package in packages)


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command in readme
