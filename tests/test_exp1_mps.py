"""Experiment 1's measurements are float64, which Apple's accelerator does not have: they run beside it."""

import pytest
import torch

from common.config import Exp1Config
from exp1_spectral_cliff import analyze_spectrum as spectrum
from exp1_spectral_cliff.dataset import evaluation_trajectories, make_system
from exp1_spectral_cliff.evaluate_planning import PLANNERS, measure_planning
from exp1_spectral_cliff.models import FlatModel, HelmModel
from tests.fake_mps import FakeMps, fake_mps  # noqa: F401 (a fixture)

CONFIG = Exp1Config(
    horizons=(1, 5, 9), gradient_horizons=(5,), num_jacobian_states=3, num_error_states=4,
    mollified_samples=64, planning_horizons=(6,), num_problems=2, gd_steps=2,
)  # fmt: skip
SYSTEM = make_system("lorenz")


def _models(device):
    sizes = (SYSTEM.d_state, SYSTEM.d_action)
    models = {name: FlatModel((0,), *sizes, 8, name) for name in ("flat", "spectral")}
    for name, stride in (("helm", 4), ("helm_coarse", 2)):
        models[name] = HelmModel((0,), *sizes, 4, 8, stride, True, name)
    return {name: model.to(device) for name, model in models.items()}


def test_the_fake_has_no_float64_and_does_not_mix_with_the_cpu(fake_mps):  # noqa: F811
    model = FlatModel((0,), 3, 1, 8, "test").to(fake_mps)
    states = torch.zeros(1, 2, 3).to(fake_mps)
    assert next(model.parameters()).device == fake_mps == states.device
    assert isinstance(model.step(states, torch.zeros(1, 2, 1, device="mps")), FakeMps)
    assert type(states.cpu()) is torch.Tensor is type(states.to("cpu"))
    for forbidden in (states.double, lambda: states.to(torch.float64), model.double):
        with pytest.raises(TypeError, match="float64"):
            forbidden()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64).to(fake_mps)
    with pytest.raises(RuntimeError, match="one device"):
        model.step(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1))


def _measured(device):
    models, data = _models(device), evaluation_trajectories(SYSTEM, CONFIG)
    keys = {"config": CONFIG, "device": device}
    found = {
        variant: spectrum.measure_spectrum(SYSTEM, models, variant, data, **keys)
        for variant in spectrum.variant_names(models)
    }
    found |= {planner: measure_planning(SYSTEM, models, planner, **keys) for planner in ("random", *PLANNERS)}
    return found | {
        "lyapunov": spectrum.measure_lyapunov(SYSTEM, data, **keys),
        "mollified": spectrum.measure_mollified(SYSTEM, data, **keys),
        "gradients": spectrum.measure_gradient_agreement(SYSTEM, models, data, **keys),
        "rollouts": spectrum.sample_rollouts(SYSTEM, models, data, **keys),
    }


def test_every_measurement_of_models_trained_on_mps_is_the_cpus(fake_mps):  # noqa: F811
    there, here = _measured(fake_mps), _measured(torch.device("cpu"))
    assert there.keys() == here.keys()
    for name, arrays in here.items():
        for key, values in arrays.items():
            if key != "milliseconds":
                assert type(there[name][key]) is torch.Tensor
                torch.testing.assert_close(there[name][key], values, rtol=0, atol=0, equal_nan=True)
