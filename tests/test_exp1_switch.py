"""The cascade's validated switches: against brute force, seed by seed, on planted models; a tiny run."""

import itertools
import math

import pytest
import torch

from common.config import Exp1Config
from common.run.random import generator
from exp1_spectral_cliff.analyze_spectrum import hierarchy, measure_spectrum, spectrum
from exp1_spectral_cliff.criteria import CRITERIA
from exp1_spectral_cliff.dataset import evaluation_trajectories, unseen_trajectories
from exp1_spectral_cliff.models import HelmModel
from exp1_spectral_cliff.validated_switch import choose_levels, measure_validated_cascade
from tests.exact_model import SYSTEM, ExactModel
from tests.experiment_runs import TinyRun, measured, metrics_of

CPU = torch.device("cpu")
CONFIG = Exp1Config(seeds=(0, 1), horizons=(4, 8, 64, 128), num_jacobian_states=3, num_error_states=16)
TINY = (
    "--parts", "switch", "--systems", "lorenz", "lorenz_dt033", "--hidden-dim", "16", "--d-latent", "8",
    "--iterations", "12", "--num-trajectories", "8", "--horizons", "4", "8", "20", "--num-error-states", "8",
    "--num-jacobian-states", "3", "--gradient-horizons", "5", "--seeds", "0", "1", "--device", "cpu",
)  # fmt: skip
RUN = TinyRun("exp1_spectral_cliff", TINY, frozenset({"exp1_switch.png"}))


def least_by_trying_all(errors):
    """Of one seed: [L, H]."""
    levels, horizons = errors.shape
    rising = itertools.combinations_with_replacement(range(levels), horizons)
    return min(rising, key=lambda used: sum(errors[level, h].item() for h, level in enumerate(used)))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_chosen_levels_are_the_best_of_all_that_never_fall(levels):
    errors = torch.rand(levels, 6, 20, generator=generator(levels, "test"), dtype=torch.float64)
    expected = [least_by_trying_all(errors[..., seed]) for seed in range(20)]
    assert list(map(tuple, choose_levels(errors).T.tolist())) == expected
    alone = torch.cat([choose_levels(errors[..., [seed]]) for seed in range(20)], 1)
    assert torch.equal(choose_levels(errors), alone), "a seed's choice is its own"


def test_a_level_that_changes_nothing_is_not_used():
    """Below the coarsest stride the hierarchies of two and of three levels are one."""
    errors = torch.tensor([[0.1, 0.5, 0.9, 1.4], [0.2, 0.3, 0.5, 0.9], [0.2, 0.3, 0.45, 0.8]])[..., None]
    assert choose_levels(errors).flatten().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_level_whose_rollout_is_lost_is_left(lost):
    errors = torch.tensor([[[0.1], [0.2], [lost]], [[0.3], [0.3], [0.3]]])
    assert choose_levels(errors).flatten().tolist() == [0, 0, 1]


class AlmostTrue(ExactModel):
    """Of an error that chaos soon has grown."""

    error = 0.02


@pytest.fixture(scope="module")
def models():
    sizes = SYSTEM.d_state, SYSTEM.d_action
    return {
        "flat": AlmostTrue(),
        "helm": HelmModel(CONFIG.seeds, *sizes, 8, 16, 4, True, "helm"),
        "helm_coarse": HelmModel(CONFIG.seeds, *sizes, 8, 16, 16, True, "coarse"),
    }


def test_what_is_measured_is_each_horizons_chosen_hierarchy(models):
    data, validation = (unseen_trajectories(SYSTEM, CONFIG, name) for name in ("evaluation", "validation"))
    assert torch.equal(data.states, evaluation_trajectories(SYSTEM, CONFIG).states)
    assert not torch.equal(data.states, validation.states)
    places = {"config": CONFIG, "device": CPU}
    finer = [measure_spectrum(SYSTEM, models, name, data, **places) for name in ("flat", "helm")]
    found = measure_validated_cascade(SYSTEM, models, validation, data, finer, **places)
    nested = [*finer, spectrum(hierarchy(SYSTEM, models, "cascade", CPU), data, CONFIG)]
    assert (found["levels"][0] == 0).all() and (found["levels"][-1] > 0).all(), "the test can fail"
    for (index, seed), level in zip(
        itertools.product(range(4), range(2)), found["levels"].flatten().tolist(), strict=True
    ):
        for name, values in nested[level].items():
            torch.testing.assert_close(found[name][index, seed], values[index, seed])
    assert set(found["levels"].flatten().tolist()) == {0, 1, 2}, "each is looked at"


def test_the_part_alone_trains_three_models_a_system_and_measures_four_variants(tmp_path):
    RUN(tmp_path, rendered=True)
    RUN.assert_figures(tmp_path)
    metrics = metrics_of(tmp_path)
    for system, variant in itertools.product(
        ("lorenz", "lorenz_dt033"), ("flat", "helm", "cascade", "cascade_validated")
    ):
        for horizon in (4, 8, 20):
            assert len(metrics[f"{system}/{variant}/nrmse/T={horizon}"]["values"]) == 2
    switches = [metrics[f"lorenz/cascade_validated/switch_{level}"]["values"] for level in (1, 2)]
    assert all(first <= second for first, second in zip(*switches, strict=True))
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "checkpoints").glob("*helm*")} == {
        f"{system}-{kind}"
        for system in ("lorenz", "lorenz_dt033")
        for kind in ("helm", "helm_coarse", "spectrum-helm")
    }
    assert not measured(RUN(tmp_path))


def test_every_claim_about_switches_needs_models_that_predict():
    claims = [claim for claim in CRITERIA if claim.id.startswith("exp1/switch/") and claim.metric]
    assert claims and all(any("fits" in needed for needed in claim.requires) for claim in claims)
