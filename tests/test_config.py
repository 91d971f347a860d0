"""Configuration: presets are valid, bad values are refused with a message that says what is allowed."""

import dataclasses
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import config as settings
from common.config import (
    EXP1_PRESETS,
    EXP2_PRESETS,
    EXP3_PRESETS,
    EXP4_PRESETS,
    EXP5_PRESETS,
    JUDGED_STEPS,
    Exp1Config,
)
from common.latent.evaluation import STEPS
from common.run.cache import ConfigView
from common.run.command_line import ConfigError, parse_command_line
from common.run.files import ROOT

ALL_PRESETS = [value for name, value in vars(settings).items() if re.fullmatch(r"EXP\d_PRESETS", name)]
SCRIPTS = sorted(
    path
    for path in (*ROOT.glob("*.py"), *ROOT.glob("exp[0-9]_*/*.py"))
    if path.name in ("reproduce.py", "pool_seeds.py", "run_experiment.py") or path.name.startswith("train_")
)
QUICK = tuple(presets["quick"] for presets in ALL_PRESETS)
BOUNDED = [spec for spec in dataclasses.fields(Exp1Config) if spec.metadata]
NUMBERS = [spec for spec in BOUNDED if spec.type in (int, float)]


@pytest.mark.parametrize("presets", ALL_PRESETS)
def test_every_preset_is_named_as_it_says(presets):
    assert all(config.preset == name for name, config in presets.items())
    assert presets.keys() - {"published"} == {"quick", "full"}
    assert len(presets["full"].seeds) >= 3
    assert parse_command_line(presets, []) == presets["quick"], "quick is the default"


@pytest.mark.parametrize("config", QUICK)
def test_numbers_beyond_their_bounds_are_refused(config):
    for spec in (spec for spec in dataclasses.fields(config) if spec.metadata):
        low, high, above = (spec.metadata[key] for key in ("low", "high", "above"))
        beyond = {low - 1, high + 1, above} - {float("inf"), -float("inf")}
        for value in beyond:
            bad = (value,) if isinstance(spec.default, tuple) else value
            with pytest.raises(ConfigError, match=spec.name):
                dataclasses.replace(config, **{spec.name: bad})


def test_no_stride_is_longer_than_what_predictions_are_judged_on():
    assert max(STEPS) == JUDGED_STEPS


@given(st.data())
def test_a_number_is_accepted_exactly_within_its_bounds(data):
    spec = data.draw(st.sampled_from(NUMBERS), label="field")
    strategy = st.integers(-10, 10**7) if spec.type is int else st.floats(-10, 1e7)
    value = data.draw(strategy, label="value")
    low, high, above = (spec.metadata[key] for key in ("low", "high", "above"))
    allowed = low <= value <= high and value > above
    if spec.name == "hf_noise_sigma":  # below that, less than rounding is left of it
        allowed = allowed and (value == 0 or value >= 1e-6)
    # trajectory_length, coarse_stride and cascade_stride are also checked against each other
    fields = {"trajectory_length": 10**9} if spec.name.endswith("_stride") else {}
    if spec.name == "trajectory_length":
        fields = {"macro_rollouts": (1,), "coarse_stride": 1, "cascade_stride": 1}
        allowed = allowed and value > 1
    try:
        config = Exp1Config(**{**fields, spec.name: value})
    except ConfigError as error:
        assert not allowed
        assert spec.name in str(error) and repr(value) in str(error) and "allowed" in str(error)
    else:
        assert allowed
        assert getattr(config, spec.name) == value


@given(st.sampled_from(BOUNDED), st.sampled_from([float("nan"), float("inf"), "3", None, True, ()]))
def test_what_is_no_finite_number_is_refused(spec, value):
    value = (value,) if isinstance(spec.default, tuple) and value != () else value
    with pytest.raises(ConfigError, match=spec.name):
        Exp1Config(**{spec.name: value})


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_horizons_rise(values):
    rising = values == sorted(set(values))
    try:
        config = Exp1Config(horizons=tuple(values))
    except ConfigError:
        assert not rising
    else:
        assert rising and config.horizons == tuple(values)


def test_fields_that_belong_together_are_checked_together():
    with pytest.raises(ConfigError, match=r"trajectory_length .*allowed: > 192"):
        Exp1Config(trajectory_length=192)
    with pytest.raises(ConfigError, match="seeds"):
        Exp1Config(seeds=(1, 1))
    for presets, changed in (
        (EXP2_PRESETS, {"cma_starts": 65}),
        (EXP3_PRESETS, {"replan_execute": 13}),
        (EXP3_PRESETS, {"tau_sweep": (1.0, 1.0000001)}),
        (EXP3_PRESETS, {"study_horizon": 7}),
        (EXP4_PRESETS, {"pillar_horizons": (7,)}),
        (EXP5_PRESETS, {"width": 12}),
        (EXP5_PRESETS, {"variants": ("head",)}),
        (EXP5_PRESETS, {"larger_tasks": ("sudoku_4x4",)}),
    ):
        with pytest.raises(ConfigError, match=next(iter(changed))):
            dataclasses.replace(presets["quick"], **changed)


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Exp1Config().seeds = (1,)


@pytest.mark.parametrize("config", QUICK)
def test_every_field_is_explained(config):
    """--help prints the comment above each field; a field without one would print none."""
    import inspect

    for name in (spec.name for spec in dataclasses.fields(config)):
        owner = next(cls for cls in type(config).__mro__ if name in vars(cls).get("__annotations__", {}))
        lines = inspect.getsource(owner).splitlines()
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        assert lines[at - 1].strip().startswith("#"), f"{name} has no comment"


# --- command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--sed", "3"], ["--sed"]),
        (["--device", "tpu"], ["--device", "tpu", "cuda"]),
        (["--lambda-spectral", "much"], ["--lambda-spectral", "much"]),
        (["--lambda-spectral", "-1"], ["--lambda-spectral", "-1.0", ">= 0"]),
        (["--seeds"], ["--seeds", "at least one"]),
        (["--preset", "huge"], ["--preset", "huge", "quick"]),
        (["--horizons", "5", "4"], ["--horizons", "(5, 4)", "increasing"]),
        (["--preset"], ["--preset"]),
        (["stray"], ["stray"]),
    ],
)
def test_bad_flags_give_one_line_and_exit_code_2(args, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_command_line(EXP1_PRESETS, args)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)
    assert not set("│╭╰─") & set(captured.err)


PRONOUNS = {
    "which", "its", "it", "their", "they", "them", "these", "those", "this", "that", "the same",
    "in how many", "at these", "closed loop", "also", "first of",
}  # fmt: skip


@pytest.mark.parametrize("presets", ALL_PRESETS)
def test_every_sentence_of_the_help_reads_alone(presets, capsys, monkeypatch):
    """No section rule of the source, no word that points at the field above, none without an explanation."""
    monkeypatch.setenv("COLUMNS", "2000")  # a line for each field
    with pytest.raises(SystemExit) as exit_:
        parse_command_line(presets, ["--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line.strip("│| ")) for line in printed.splitlines() if "(default: " in line]
    assert len(lines) == len(dataclasses.fields(presets["quick"]))
    for text in (line[-1] for line in lines):
        start = text.lower()
        assert "---" not in text
        assert not any(re.match(rf"{word}\b", start) for word in PRONOUNS), text
        assert "of their" not in start and "of its delta" not in start, text
        assert len(text.partition("(default: ")[0].split()) >= 3, text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_help_imports_nothing_heavy(script, tmp_path):
    """Seconds, were they imported: torch, figures, environments. And a script runs from any folder."""
    code = (
        "import runpy, sys\n"
        f"sys.argv, sys.path[0] = [{str(script)!r}, '--help'], {str(script.parent)!r}\n"  # as Python does
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as exit_:\n    assert not exit_.code, exit_.code\n"
        "heavy = {'torch', 'matplotlib', 'minigrid', 'cma', 'gymnasium', 'scipy', 'PIL'} & set(sys.modules)\n"
        "raise SystemExit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--help" in done.stdout, done.stderr


def test_flags_are_laid_over_the_preset():
    config = parse_command_line(
        EXP1_PRESETS, ["--lambda-spectral", "0.5", "--preset", "full", "--seeds", "7"]
    )
    assert config == dataclasses.replace(EXP1_PRESETS["full"], lambda_spectral=0.5, seeds=(7,))
    assert parse_command_line(EXP1_PRESETS, ["--preset=full"]) == EXP1_PRESETS["full"]
    assert parse_command_line(EXP1_PRESETS, []) == EXP1_PRESETS["quick"]


def test_a_view_holds_the_declared_fields_only():
    view = ConfigView(Exp1Config(), ("seeds", "hidden_dim"))
    assert view.seeds == (0,)
    with pytest.raises(AttributeError, match="gd_steps"):
        view.gd_steps  # noqa: B018
