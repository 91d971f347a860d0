"""A sweep's plan: which trials a command line asks for, and what it refuses. Without Ray."""

import re

import pytest

from common.config import EXP1_PRESETS, EXP2_PRESETS
from common.run.command_line import ConfigError, read_flags
from common.sweeps.plan import label_of, make_plan


def plan_of(*vary, flags=(), search=False, presets=EXP1_PRESETS):
    return make_plan("exp1_spectral_cliff", presets, flags, [text.split() for text in vary], search)


def test_several_fields_make_a_grid_with_every_seed_of_each_setting():
    trials = plan_of("lambda-spectral 0.01 0.1", "coarse-stride 2 4", "seeds 0 1 2").trials()
    found = {(t.config.lambda_spectral, t.config.coarse_stride, t.config.seeds) for t in trials}
    assert len(trials) == len(found) == 12
    assert found == {(weight, n, (s,)) for weight in (0.01, 0.1) for n in (2, 4) for s in (0, 1, 2)}
    assert all(t.setting.keys() == {"lambda_spectral", "coarse_stride"} for t in trials)


def test_a_trial_is_what_the_experiments_own_command_line_makes_of_its_flags():
    flags = ["--preset", "full", "--iterations", "50", "--systems", "lorenz"]
    (trial,) = plan_of("lambda-spectral 0.03", "seeds 4", flags=flags).trials()
    assert trial.config == read_flags(EXP1_PRESETS, [*flags, "--lambda-spectral", "0.03", "--seeds", "4"])


def test_one_value_of_several_numbers_is_in_quotes():
    plan = make_plan("exp1_spectral_cliff", EXP1_PRESETS, [], [["horizons", "4 8", "16"]])
    assert [trial.config.horizons for trial in plan.trials()] == [(4, 8), (16,)]


def test_seeds_alone_are_one_setting_and_nothing_at_all_is_one_trial():
    trials = plan_of("seeds 0 1").trials()
    assert [t.config.seeds for t in trials] == [(0,), (1,)] and trials[0].setting == trials[1].setting == {}
    (trial,) = plan_of(flags=["--seeds", "3", "4"]).trials()
    assert trial.config.seeds == (3, 4) and label_of(trial.setting) == "as configured"


def test_a_yes_or_no_is_varied_too():
    plan = make_plan("exp2_funnel_heatmap", EXP2_PRESETS, [], [["train-map", "True", "False"]])
    assert [trial.config.train_map for trial in plan.trials()] == [True, False]
    with pytest.raises(ConfigError, match=r"train_map .* = 'maybe': allowed: True, False"):
        make_plan("exp2_funnel_heatmap", EXP2_PRESETS, [], [["train-map", "maybe"]]).trials()


def test_ids_are_the_same_tomorrow_and_tell_every_setting_apart():
    first, again = (plan_of("lambda-spectral 0.01 0.1", "seeds 0").trials() for _ in range(2))
    other = plan_of("lambda-spectral 0.01 0.1", "seeds 0", flags=["--iterations", "7"]).trials()
    assert [t.id for t in first] == [t.id for t in again]
    assert len({t.id for t in first + other}) == 4
    assert first[0].id.startswith("lambda_spectral=0.01,seeds=0-")
    (odd,) = make_plan("e", EXP1_PRESETS, [], [["horizons", " ".join(map(str, range(1, 200)))]]).trials()
    assert re.fullmatch(r"[\w.=,+-]{1,100}", odd.id)


@pytest.mark.parametrize(
    ("vary", "flags", "words"),
    [
        (["lambda-spectra 0.1"], [], r"vary .*'lambda_spectra': allowed: .* such as lambda-spectral"),
        (["output-dir a b"], [], r"vary .*'output_dir': allowed: a setting"),
        (["lambda-spectral 0.1 -1"], [], r"lambda_spectral \(--lambda-spectral\) = -1.0: allowed: .*>= 0"),
        (["iterations 10 x"], [], r"--iterations.*'x'"),
        (["systems lorenz moon"], [], r"'moon'.*lorenz"),
        (["lambda-spectral"], [], r"allowed: a field and at least one value"),
        (["lambda-spectral 0.1 0.10"], [], r"each trial once"),
        (["iterations 5", "iterations 6"], [], r"each field once"),
        (["trajectory-length 40"], [], r"trajectory_length .* = 40: allowed: > 192"),
        (["lambda-spectral 1e-4:1e-1"], [], r"one range, and with --search"),
        (["iterations 5"], ["--iteration", "5"], r"Unrecognized options: --iteration"),
        (["iterations 5"], ["--output-dir", "x"], r"output_dir .* allowed: --sweeps-dir"),
        (["iterations 5"], ["--fresh"], r"fresh .* allowed: without it"),
        (["iterations 5"], ["--strict"], r"strict .* allowed: only with run_experiment.py"),
        (["iterations 5"], ["--replot"], r"replot"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_with_field_value_and_what_is_allowed(vary, flags, words):
    with pytest.raises(ConfigError, match=words) as refused:
        plan_of(*vary, flags=flags).trials()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        (["lambda-spectral 0.1 0.2"], "with a range to search"),
        (["lambda-spectral 0.2:0.1"], "LOW < HIGH"),
        (["lambda-spectral 0.1:0.1"], "LOW < HIGH"),
        (["lambda-spectral 0:1:log"], "LOW > 0"),
        (["lambda-spectral a:b"], "LOW:HIGH or LOW:HIGH:log, floats"),
        (["iterations 0.5:2"], "LOW:HIGH or LOW:HIGH:log, ints"),
        (["lambda-spectral 0:inf"], "both finite"),
        (["lambda-spectral -1:1"], r"lambda_spectral .* = -1.0: allowed"),
        (["lambda-spectral 0:1 0:2"], "one range"),
        (["lambda-spectral 0:1", "coarse-stride 2 x"], "'x'"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused(vary, words):
    with pytest.raises(ConfigError, match=words):
        plan_of(*vary, search=True)


def test_a_range_is_read():
    plan = plan_of("lambda-spectral 1e-4:1e-1:log", "iterations 5:50", "systems lorenz linear", search=True)
    spans = {varied.field: varied.span for varied in plan.varied}
    assert (spans["lambda_spectral"].low, spans["lambda_spectral"].log) == (1e-4, True)
    assert (spans["iterations"].high, spans["iterations"].whole, spans["iterations"].log) == (50, True, False)
    assert spans["systems"] is None and plan.varied[2].values == ("lorenz", "linear")
