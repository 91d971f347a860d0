"""The saturation criterion cannot be had by forgetting: planted models fail it."""

import copy

import pytest
import torch

from common.config import Exp1Config
from common.run.criteria import evaluate
from common.run.results import Results, summarise
from exp1_spectral_cliff.analyze_spectrum import measure_spectrum, record_spectrum
from exp1_spectral_cliff.criteria import SATURATION
from exp1_spectral_cliff.dataset import evaluation_trajectories
from tests.exact_model import SYSTEM, ExactModel

CONFIG = Exp1Config(num_jacobian_states=16, num_error_states=256)
CPU = torch.device("cpu")


class ConstantModel(ExactModel):
    """Answers the mean state, whatever happened."""

    def step(self, latents, blocks):
        return 0.0 * latents


class ExactThenMean(ExactModel):
    """Exact up to T = 20, then the mean: a clock rides along as a fourth coordinate."""

    def encode(self, states):
        return torch.cat((states, torch.zeros_like(states[..., :1])), -1)

    def decode(self, latents):
        return latents[..., :3]

    def step(self, latents, blocks):
        state, clock = latents[..., :3], latents[..., 3:]
        alive = (clock < 20).to(state)
        return torch.cat((alive * super().step(state, blocks), clock + 1), -1)


@pytest.fixture(scope="module")
def data():
    return evaluation_trajectories(SYSTEM, CONFIG)


@pytest.fixture(scope="module")
def flat_spectrum(data):
    return measure_spectrum(SYSTEM, {"flat": ExactModel()}, "flat", data, config=CONFIG, device=CPU)


class BlindModel(ExactModel):
    """Answers to the recent actions and knows nothing of the start."""

    def step(self, latents, blocks):
        return 0.0 * latents + 0.55 * blocks


def verdicts(model, data, flat_spectrum):
    """The saturation criteria with a model in HELM's place."""
    results = Results("test", CONFIG.seeds)
    record_spectrum(results, SYSTEM, "flat", flat_spectrum, CONFIG.horizons)
    spectrum = measure_spectrum(SYSTEM, {"flat": model}, "flat", data, config=CONFIG, device=CPU)
    record_spectrum(results, SYSTEM, "helm", spectrum, CONFIG.horizons)
    rows = evaluate(SATURATION, results.metrics)
    return {row["id"].removeprefix("lorenz/saturation").strip("/") or "whole": row["passed"] for row in rows}


def test_a_constant_model_fails(data, flat_spectrum):
    found = verdicts(ConstantModel(), data, flat_spectrum)
    assert found["error_T4"] is False and found["error_T50"] is False and found["responds"] is False
    assert found["whole"] is False


def test_exact_then_mean_fails(data, flat_spectrum):
    found = verdicts(ExactThenMean(), data, flat_spectrum)
    assert found["error_T4"] is True, "it is exact where it is easy"
    assert found["error_T50"] is False and found["responds"] is False
    assert found["whole"] is False


def test_a_model_that_only_answers_to_recent_actions_fails(data, flat_spectrum):
    found = verdicts(BlindModel(), data, flat_spectrum)
    assert found["error_T4"] is False and found["whole"] is False
    assert found["responds"] is False, "a response counts only of a model that predicts"


def test_saturation_is_not_claimed_where_the_far_horizons_were_not_measured():
    small = {"log10_jacobian_state": 0.1, "log10_jacobian_action": 0.1, "nrmse": 0.1}
    metrics = {f"lorenz/helm/{name}/T=4": summarise([value], "1") for name, value in small.items()}
    assert evaluate(SATURATION, metrics)[-1]["passed"] is None


def test_an_exact_model_fails_by_exploding(data, flat_spectrum):
    found = verdicts(copy.deepcopy(ExactModel()), data, flat_spectrum)
    assert found["state"] is False and found["action"] is False
    assert found["error_T4"] is True
