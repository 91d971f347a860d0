"""What a model of experiment 8 promises of its own plans: nothing too much where it is right."""

import dataclasses

import pytest
import torch

from common.config import EXP8_PRESETS
from exp8_two_pillars.evaluate_planning import measure_first_plans

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
