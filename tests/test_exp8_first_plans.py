"""What a model of experiment 8 promises of its own plans: nothing too much where it is right."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from common.config import EXP8_PRESETS
from common.run.results import Results
from exp8_two_pillars.comparisons import rank_explanations
from exp8_two_pillars.evaluate_planning import Loop, measure_first_plans

CPU, HORIZON = torch.device("cpu"), 8
CONFIG = dataclasses.replace(EXP8_PRESETS["quick"], seeds=(0, 1), plan_rollouts=64)


class Plane:
    """A planted world: a tenth of an action is a step, and the picture is the state."""

    name = "plane"

    def picture(self, states):
        return states

    def rollout(self, starts, actions):
        moved = starts[..., None, :] + 0.1 * actions.cumsum(-2)
        return torch.cat((starts[..., None, :], moved), -2)


@dataclasses.dataclass
class Known:
    """A planted model of it, whose steps are `reach` times as long, over blocks of `stride` actions."""

    reach: float = 1.0
    stride: int = 1

    def to(self, device):
        return self

    def encode(self, pictures):
        return pictures

    def roll(self, latents, actions):
        moved = latents[:, :, None] + self.reach * 0.1 * actions.cumsum(2)
        return moved[:, :, self.stride - 1 :: self.stride]

    def probe(self, latents):
        return latents

    def energy(self, latents, goals):
        return (latents - goals[:, :, None]).square().sum(-1)


@dataclasses.dataclass
class Two:
    """Two tasks: one step to the right, and to the left, as far as a plan can go."""

    starts: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(2, 2))
    goals: torch.Tensor = dataclasses.field(default_factory=lambda: torch.tensor([[0.8, 0.0], [-0.8, 0.0]]))

    def to(self, device):
        return self

    def __len__(self):
        return 2


def promised(model, planner="icem"):
    return measure_first_plans(Plane(), model, Two(), planner, HORIZON, config=CONFIG, device=CPU)


@pytest.mark.parametrize("planner", ["icem", "normalised_gradient", "random_shooting"])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_right_model_keeps_what_it_promises(planner, stride):
    found = promised(Known(stride=stride), planner)
    for name in ("planned_error", "optimism"):
        torch.testing.assert_close(found[name], torch.zeros(2), atol=1e-6, rtol=0)


def test_a_model_that_reaches_too_far_promises_too_much():
    found = promised(Known(reach=2.0))
    assert (found["optimism"] > 0.1).all()
    assert (
        (found["planned_error"] > 0.2) & (found["planned_error"] < 0.8)
    ).all()  # half of the way is missing


def test_ranks_are_taken_over_the_variants_seed_by_seed():
    results, variants = Results("exp8_two_pillars", [0, 1]), ["a", "b", "c"]
    planted = {  # of the three variants, in each of two seeds
        "icem/closed/T=20/success": [(0.1, 0.9), (0.5, 0.5), (0.9, 0.1)],
        "position_error/T=20": [(1.0, 1.0), (3.0, 3.0), (2.0, 2.0)],
        "icem/planned_error/T=20": [(3.0, 3.0), (2.0, 2.0), (1.0, 1.0)],
        "icem/optimism/T=20": [(0.3, 0.1), (0.2, 0.2), (0.1, 0.3)],
        "log10_jacobian_action/T=20": [(1.0, 2.0), (2.0, 1.0), (3.0, 0.0)],
        "gradient_cosine/T=20": [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)],
    }
    for quantity, rows in planted.items():
        for variant, values in zip(variants, rows, strict=True):
            results.add(f"{variant}/{quantity}", values)
    run = SimpleNamespace(results=results, config=SimpleNamespace(horizons=(20,)))
    rank_explanations(run, variants, Loop("closed", 20))
    ranks = {
        name.rpartition("/")[2]: entry["values"] for name, entry in results.metrics.items() if "ranks" in name
    }
    assert ranks["position_error"] == pytest.approx([0.5, -0.5])
    assert ranks["planned_error"] == pytest.approx([-1, 1]) and ranks["optimism"] == pytest.approx([-1, -1])
    assert ranks["log10_jacobian_action"] == pytest.approx([1, 1])
    assert ranks["gradient_cosine"] == [None, None], "of a constant there is no rank"
