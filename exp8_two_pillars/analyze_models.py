"""What a model of experiment 8 knows: position errors, distances, rollout Jacobians, gradients that hold.

All is computed in float64. A small Jacobian means nothing without the position error beside it.

Shapes: S seeds, B walks, P tasks, H horizons, K steps of the model, D latent, s state.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.jacobian_utils import JacobianAccumulator, accumulate_rollout, jacobians
from common.run.cache import reads_settings
from common.run.devices import measurement_device, to_float64
from common.run.random import generator, generators
from common.run.results import Results
from common.statistics import spearman
from exp8_two_pillars.dataset import Walks, coloured_noise, make_walks
from exp8_two_pillars.energies import Judge, make_judge
from exp8_two_pillars.models import WindModel
from exp8_two_pillars.tasks import Tasks, nearest_cell
from exp8_two_pillars.world import World

STATES_A_GOAL = 64  # at which energies are ranked against the cost-to-go
MAP_POINTS = 48  # along each side of the energy maps


def frozen_double(model: WindModel, device: torch.device) -> WindModel:
    """A copy in float64 on the measurement device."""
    return to_float64(copy.deepcopy(model), measurement_device(device)).requires_grad_(False)


def evaluation_walks(world: World, config: Mapping, device: torch.device) -> Walks:
    """Unseen walks of every seed, float64."""
    walks = make_walks(world, config.seeds, config.num_states, max(config.horizons), "evaluation")
    return walks.to(measurement_device(device)).to(torch.float64)


@reads_settings("seeds", "horizons", "num_states")
def measure_model(
    world: World, model: WindModel, tasks: Tasks, *, config: Mapping, device: torch.device
) -> dict[str, Tensor]:
    """Errors, Jacobian norms and ranks of every seed's model.

    Returns:
        position_error [H, S], mean distance of the position read off the predicted latent from the true one;
        log10_jacobian_state and log10_jacobian_action [H, S, B], of that position with respect to the state
        at the start and to all actions; spearman [S], of energies to the cost-to-go, mean over the goals.
    """
    model, walks = frozen_double(model, device), evaluation_walks(world, config, device)
    starts, actions = walks.states[:, :, 0], walks.actions
    accumulator = JacobianAccumulator(starts.shape[:-1], starts.shape[-1], starts.device)
    accumulator.push(*jacobians(lambda states: model.encode(world.picture(states)), starts))
    errors, state_norms, action_norms = [], [], []
    latents = model.encode(world.picture(starts))
    for count, now in accumulate_rollout(accumulator, model.step, latents, model.blocks(actions)):
        if (horizon := count * model.stride) in config.horizons:
            true = walks.states[:, :, horizon, :2]
            errors.append((model.probe(now) - true).norm(dim=-1).mean(1))
            for found, norms in zip(
                (state_norms, action_norms),
                accumulator.log10_norms(*jacobians(model.probe, now)),
                strict=True,
            ):
                found.append(norms)
    return {
        "position_error": torch.stack(errors),
        "log10_jacobian_state": torch.stack(state_norms),
        "log10_jacobian_action": torch.stack(action_norms),
        "spearman": _rank_correlation(world, model, tasks),
    }


@torch.no_grad()
def _rank_correlation(world: World, model: WindModel, tasks: Tasks) -> Tensor:
    """Of energies at random states to the true cost-to-go, mean over the goals: [S]."""
    draw, count = generator(0, f"{world.name}/ranks"), len(tasks)
    positions = world.sample_positions(count * STATES_A_GOAL, draw)
    states = torch.cat((positions, world.sample_winds(len(positions), draw)), -1).view(
        count, STATES_A_GOAL, -1
    )
    cost = tasks.field.gather(1, nearest_cell(states[..., :2]))  # [P, M]
    weight = model.encoder.layers[0].weight
    members = len(weight)
    seen, goals = (
        model.encode(world.picture(value.to(weight)).flatten(0, -2).expand(members, -1, -1))
        for value in (states, tasks.goals)
    )
    energies = model.energy(seen.unflatten(1, (count, STATES_A_GOAL)), goals).cpu()  # [S, P, M]
    ranks = [[spearman(mine, true) for mine, true in zip(own, cost, strict=True)] for own in energies]
    return torch.tensor(ranks, dtype=torch.float64).mean(1)


@reads_settings("seeds", "horizons", "num_states")
def measure_truth(world: World, *, config: Mapping, device: torch.device) -> dict[str, Tensor]:
    """log10_jacobian_state and log10_jacobian_action [H, S, B] of the true position."""
    walks = evaluation_walks(world, config, device)
    starts, horizons = walks.states[:, :, 0], config.horizons
    accumulator = JacobianAccumulator(starts.shape[:-1], starts.shape[-1], starts.device)
    position = torch.eye(2, starts.shape[-1], dtype=torch.float64, device=starts.device)
    readout = position.expand(*starts.shape[:-1], -1, -1)
    norms = [
        accumulator.log10_norms(readout)
        for count, _ in accumulate_rollout(accumulator, world.step, starts, walks.actions)
        if count in horizons
    ]
    state, action = zip(*norms, strict=True)
    return {"log10_jacobian_state": torch.stack(state), "log10_jacobian_action": torch.stack(action)}


@reads_settings("seeds", "horizons", "gradient_noise")
def measure_gradients(
    world: World,
    model: WindModel,
    tasks: Tasks,
    source: str = "model",
    *,
    config: Mapping,
    device: torch.device,
) -> dict[str, Tensor]:
    """Gradients of the energy after T steps with respect to a plan of coloured noise.

    Returns:
        gradient_cosine [H, S, P], between the gradients at a plan and at the same plan slightly changed: 1
        says that it holds there, -1 that one direction dominates and turns; log10_gradient [H, S, P], the
        gradient's norm in units of the energy at the start.
    """
    place = measurement_device(device)
    model, tasks = frozen_double(model, device), tasks.to(place).to(torch.float64)
    members, count = len(config.seeds), len(tasks)
    draws = generators(config.seeds, f"{world.name}/gradients")
    normals = torch.stack([
        torch.randn(2, count, max(config.horizons), 2, generator=draw, dtype=torch.float64) for draw in draws
    ]).to(place)  # fmt: skip
    plans = coloured_noise(normals[:, 0])  # [S, P, T, 2]
    near = (plans + config.gradient_noise * normals[:, 1]).clamp(-1, 1)
    judge = make_judge(source, world, model, tasks.starts.expand(members, -1, -1), tasks)
    cosines, norms = [], []
    for horizon in config.horizons:
        here, there = (_gradient(judge, plan[:, :, :horizon]) for plan in (plans, near))
        cosines.append(F.cosine_similarity(here, there, dim=-1, eps=0.0).nan_to_num(0.0).view(members, count))
        norms.append((here.norm(dim=-1) / judge.scale).log10().view(members, count))
    return {"gradient_cosine": torch.stack(cosines), "log10_gradient": torch.stack(norms)}


def _gradient(judge: Judge, plans: Tensor) -> Tensor:
    """Of the last energy: [S, P, T, 2] -> [S P, 2 T]."""
    plans = plans.flatten(0, 1)[:, None].detach().requires_grad_()
    energy = judge.energies(plans)[..., -1].sum()
    return torch.autograd.grad(energy, plans)[0].flatten(1)


@reads_settings()
@torch.no_grad()
def measure_energy_map(
    world: World, model: WindModel, tasks: Tasks, *, config: Mapping, device: torch.device
) -> dict[str, Tensor]:
    """The first seed's energy to the first task's goal, over the box: [MAP_POINTS, MAP_POINTS], x first.

    Everywhere with the wind that blows at the task's start.
    """
    model, first = frozen_double(model, device), tasks.to(measurement_device(device)).to(torch.float64)
    along = torch.linspace(-1, 1, MAP_POINTS, dtype=torch.float64, device=first.starts.device)
    places = torch.cartesian_prod(along, along)
    states = torch.cat((places, first.starts[0, 2:].expand(len(places), -1)), -1)
    members = len(model.encoder.layers[0].weight)
    seen, goal = (
        model.encode(world.picture(value).expand(members, -1, -1)) for value in (states, first.goals[:1])
    )
    energies = model.energy(seen[:, None], goal)[0, 0]
    return {"energy": energies.view(MAP_POINTS, MAP_POINTS)}


# ----------------------------------------------------------------------------------------------
# From arrays to metrics
# ----------------------------------------------------------------------------------------------


def record_model(
    results: Results, prefix: str, measured: Mapping[str, Tensor], horizons: Sequence[int]
) -> None:
    """Metrics {prefix}/{quantity}/T={T}, medians over walks and means over tasks, and {prefix}/spearman."""
    for quantity, values in measured.items():
        if quantity == "spearman":
            results.add(f"{prefix}/spearman", values)
            continue
        log10 = quantity.startswith("log10")
        if values.dim() == 3:
            values = values.median(-1).values if log10 else values.mean(-1)
        results.add_array(f"{prefix}/{quantity}", values)
        for horizon, numbers in zip(horizons, values, strict=True):
            results.add(f"{prefix}/{quantity}/T={horizon}", numbers, "log10" if log10 else "1")
