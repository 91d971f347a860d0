"""Experiment 2 on Apple's accelerator: float32 there, and what is float64 beside it."""

import pytest
import torch

from common.config import Exp2Config
from exp2_funnel_heatmap.dataset import function_task, landscape_task
from exp2_funnel_heatmap.energy_functions import misaligned_landscape
from exp2_funnel_heatmap.evaluate_planning import (
    FUNCTION_PLANNERS,
    LANDSCAPE_PLANNERS,
    Fields,
    measure_function_fit,
    measure_function_planner,
    measure_landscape_planner,
)
from exp2_funnel_heatmap.models import Variant, make_model
from exp2_funnel_heatmap.visualize_heatmap import measure_basins
from tests.fake_mps import fake_mps  # noqa: F401 (a fixture)

CONFIG = Exp2Config(
    grid_size=6, descent_steps=40, plan_evaluations=700, budget_sweep=(500,), plan_grid=3, smooth_steps=20,
    smoothing_steps=20, polish_steps=10, functions=("ackley",), function_starts=2, cma_starts=1,
)  # fmt: skip
LANDSCAPE = landscape_task("misaligned", [misaligned_landscape()], CONFIG)
FUNCTION = function_task(2, CONFIG)


def _models(task, device):
    variants = ("flat", "helm", "helm_second_difference")
    model = {name: make_model(Variant(), (0,), task, 8, 10.0).requires_grad_(False) for name in variants}
    return {name: model[name].to(device) for name in variants}


def _measured(device):
    keys = {"config": CONFIG, "device": device}
    models = _models(LANDSCAPE, device)
    fields, functions = Fields(LANDSCAPE, models), Fields(FUNCTION, _models(FUNCTION, device))
    found = {"basins": measure_basins(LANDSCAPE, models["flat"], **keys)}
    for planner in LANDSCAPE_PLANNERS:
        found[planner] = measure_landscape_planner(LANDSCAPE, fields, planner, **keys)
    for planner in FUNCTION_PLANNERS:
        found[f"functions/{planner}"] = measure_function_planner(FUNCTION, functions, planner, **keys)
    return found | {"fit": measure_function_fit(FUNCTION, functions, **keys)}


def test_every_measurement_on_mps_is_the_cpus(fake_mps):  # noqa: F811
    there, here = _measured(fake_mps), _measured(torch.device("cpu"))
    for name, arrays in here.items():
        for key, values in arrays.items():
            found = there[name][key].cpu()  # as Run.measure takes them
            torch.testing.assert_close(found, values, rtol=0, atol=0, equal_nan=True)


def test_the_fake_would_notice(fake_mps):  # noqa: F811
    with pytest.raises(RuntimeError, match="one device"):
        _models(LANDSCAPE, fake_mps)["flat"](torch.zeros(1, 2, 2))
