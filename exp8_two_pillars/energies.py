"""What plans of experiment 8 are judged by: a model, the true dynamics, or a mixture of the two.

Shapes: S seeds, P tasks, B = S P problems, N candidates, T steps, K steps of the model, N also its stride,
D latent, s state.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.planners.continuous.problem import ContinuousProblem
from common.run.random import generator
from exp8_two_pillars.models import WindModel
from exp8_two_pillars.tasks import Tasks, interpolate
from exp8_two_pillars.world import World

SMOOTHED_OVER, SMOOTHING = 8, 0.1  # plans around a plan, and the deviation of their actions from its
CLIPPED_TO = 1.0  # norm of a latent's gradient, in units of the energy at the start

# Where predictions and gradients come from:
#   model       the model
#   simulator   the true dynamics, judged by the model's distance
#   cost_to_go  the true dynamics, judged by the true cost-to-go: what no planner has
#   true_value  the true dynamics' latents, with the model's gradient
#   clipped     the model, no latent's gradient longer than CLIPPED_TO
#   smoothed    the model, averaged over perturbed plans
SOURCES = ("model", "simulator", "cost_to_go", "true_value", "clipped", "smoothed")


@dataclass(frozen=True)
class Judge:
    """Energies of plans [B, N, T, 2] after every step of the model [B, N, K], and their cost."""

    energies: Callable[[Tensor], Tensor]
    scale: Tensor  # [B], the energy at the start
    stride: int  # environment steps between two energies
    rollouts: int = 1  # that one energy costs


def make_judge(source: str, world: World, model: WindModel, states: Tensor, tasks: Tasks) -> Judge:
    """How plans from these states [S, P, s] are judged.

    Raises:
        ValueError: for an unknown source.
    """
    if source == "cost_to_go":
        return _true_costs(world, states, tasks)
    if source not in SOURCES:
        raise ValueError(f"no source {source!r}; there are {', '.join(SOURCES)}")
    goals = model.encode(world.picture(tasks.goals).expand(len(states), -1, -1))  # [S, P, D]
    starts = model.encode(world.picture(states))
    scale = model.energy(starts[:, :, None], goals).flatten()
    roll = {
        "model": _roll_model, "simulator": _roll_truth, "true_value": _roll_both, "clipped": _roll_clipped,
        "smoothed": _roll_model,
    }[source]  # fmt: skip

    def energies(actions: Tensor) -> Tensor:
        count = actions.shape[1]
        rolled = roll(world, model, states, starts, _beside(actions, states), scale)  # [S, P N, K, D]
        found = model.energy(rolled.unflatten(1, (-1, count)).flatten(2, 3), goals)
        return found.unflatten(2, (count, -1)).flatten(0, 1)

    stride = 1 if source == "simulator" else model.stride
    if source == "smoothed":
        return Judge(_smoothed(energies), scale, stride, SMOOTHED_OVER)
    return Judge(energies, scale, stride)


def make_problem(
    judge: Judge, horizon: int, rollouts: int, over_time: str, temperature: float
) -> ContinuousProblem:
    """The planning problem of a judge, with a budget of this many rollouts."""
    return ContinuousProblem(
        judge.energies,
        num_problems=len(judge.scale),
        horizon=horizon,
        action_size=2,
        budget=max(1, rollouts // judge.rollouts) * (horizon // judge.stride),
        energy_scale=judge.scale,
        stride=judge.stride,
        over_time=over_time,
        temperature=temperature,
        device=judge.scale.device,
    )


def _beside(actions: Tensor, states: Tensor) -> Tensor:
    """Candidates of all of a member's tasks side by side: [B, N, T, 2] -> [S, P N, T, 2]."""
    return actions.unflatten(0, states.shape[:2]).flatten(1, 2)


def _repeat(values: Tensor, actions: Tensor) -> Tensor:
    """For each candidate: [S, P, f], [S, P N, ..] -> [S, P N, f]."""
    return values.repeat_interleave(actions.shape[1] // values.shape[1], 1)


# Each of these: latents after every step of the model [S, P N, K, D].


def _roll_model(
    world: World, model: WindModel, states: Tensor, starts: Tensor, actions: Tensor, scale: Tensor
) -> Tensor:
    return model.roll(_repeat(starts, actions), actions)


def _roll_truth(
    world: World, model: WindModel, states: Tensor, starts: Tensor, actions: Tensor, scale: Tensor
) -> Tensor:
    """Those of the true states' pictures."""
    true = world.rollout(_repeat(states, actions), actions)[:, :, 1:]
    return model.encode(world.picture(true))


def _roll_both(
    world: World, model: WindModel, states: Tensor, starts: Tensor, actions: Tensor, scale: Tensor
) -> Tensor:
    """Each is the true one, but a gradient passes through the model's step as if it had been predicted."""
    with torch.no_grad():
        true = _roll_truth(world, model, states, starts, actions, scale)[
            :, :, model.stride - 1 :: model.stride
        ]
    latents, found = _repeat(starts, actions), []
    for block, wanted in zip(model.blocks(actions).unbind(2), true.unbind(2), strict=True):
        predicted = model.step(latents, block)
        latents = predicted + (wanted - predicted).detach()
        found.append(latents)
    return torch.stack(found, 2)


def _roll_clipped(
    world: World, model: WindModel, states: Tensor, starts: Tensor, actions: Tensor, scale: Tensor
) -> Tensor:
    limit = CLIPPED_TO * _repeat(scale.view(*states.shape[:2], 1), actions)
    latents, found = _repeat(starts, actions), []
    for block in model.blocks(actions).unbind(2):
        latents = _ClipGradient.apply(model.step(latents, block), limit)
        found.append(latents)
    return torch.stack(found, 2)


class _ClipGradient(torch.autograd.Function):
    """The identity, whose gradients [..., D] are shortened to the norms [..., 1]."""

    @staticmethod
    def forward(ctx, latents: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(limit)
        return latents.view_as(latents)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (limit,) = ctx.saved_tensors
        norm = gradient.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return gradient * (limit / norm).clamp(max=1.0), None


def _smoothed(energies: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The mean over plans around each plan, at the same offsets for every plan."""

    def mean_energies(actions: Tensor) -> Tensor:
        horizon = actions.shape[2]
        draw = generator(0, f"smoothing/{horizon}")
        offsets = SMOOTHING * torch.randn(SMOOTHED_OVER, horizon, 2, generator=draw).to(actions)
        around = (actions[:, :, None] + offsets).clamp(-1, 1)  # [B, N, M, T, 2]
        return energies(around.flatten(1, 2)).unflatten(1, (-1, SMOOTHED_OVER)).mean(2)

    return mean_energies


def _true_costs(world: World, states: Tensor, tasks: Tasks) -> Judge:
    """Steps to the goal round the walls."""
    fields = tasks.field.repeat(len(states), 1)  # [B, C]
    scale = interpolate(fields, states[..., :2].flatten(0, 1)[:, None])[:, 0]

    def energies(actions: Tensor) -> Tensor:
        beside = _beside(actions, states)
        positions = world.rollout(_repeat(states, beside), beside)[:, :, 1:, :2]
        return interpolate(fields, positions.unflatten(1, (-1, actions.shape[1])).flatten(0, 1))

    return Judge(energies, scale, 1)
