"""Planning by gradient descent on the actions, through each model; every plan is executed in the TRUE system.

A problem is a start on the attractor and a goal that the true system reaches from this start under
other controls, so the oracle's distance is 0 by construction; random controls are the lower bound.

Shapes: S seeds, P problems, T time, d state, d_a action dimension, C points of the curve.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.config import Exp1Config
from common.run.cache import reads_settings
from common.run.devices import measurement_device
from common.run.progress import Progress
from common.run.random import generators
from common.run.results import Results
from common.run.run import Run
from exp1_spectral_cliff.analyze_spectrum import hierarchy
from exp1_spectral_cliff.dataset import System, rollout_true, simulate
from exp1_spectral_cliff.models import Level, rollout, rollout_steps

# Planner -> the variants that it descends through, in turn, each for an equal share of the gradient steps.
PLANNERS = {
    "flat": ("flat",),
    "spectral": ("spectral",),
    "helm": ("helm",),
    "helm_refined": ("helm", "flat"),
}
CURVE_POINTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # gradient steps at which a plan is executed
INITIAL_SPREAD = 0.1  # standard deviation of the first plan, before tanh
REACHED = 0.5  # distance below which a goal counts as reached [normalised units]


@dataclass(frozen=True)
class Problems:
    """Start states and goals [S, P, d], and random controls [S, P, T, d_a] for the lower bound."""

    starts: Tensor
    goals: Tensor
    random_actions: Tensor
    initial: Tensor  # first plan before tanh, [S, P, T, d_a]

    def to(self, device: torch.device) -> "Problems":
        """The same on a device."""
        return Problems(*(value.to(device) for value in vars(self).values()))


def make_problems(system: System, horizon: int, config: Exp1Config) -> Problems:
    """`num_problems` problems a seed, the same for every planner."""
    draws = generators(config.seeds, f"{system.name}/planning/T={horizon}")
    count = config.num_problems
    states, _ = simulate(system, count, 1, draws)
    starts = states[:, :, 0]
    hidden, random = (
        torch.stack([system.sample_actions(count, horizon, draw) for draw in draws]) for _ in range(2)
    )
    initial = torch.stack([
        INITIAL_SPREAD * torch.randn(hidden.shape[1:], generator=draw, dtype=torch.float64) for draw in draws
    ])  # fmt: skip
    return Problems(starts, rollout_true(system, starts, hidden)[..., -1, :], random, initial)


def descend(
    levels: Sequence[Level],
    starts: Tensor,
    goals: Tensor,
    plan: Tensor,
    steps: int,
    learning_rate: float,
    optimiser: type[torch.optim.Optimizer] = torch.optim.Adam,
) -> list[Tensor]:
    """Gradient descent on 1/2 ||s_T - goal||^2 over a = tanh(plan).

    Args:
        levels: the model.
        starts: [S, P, d].
        goals: [S, P, d].
        plan: where to begin, before tanh, [S, P, T, d_a].
        steps: gradient steps.
        learning_rate: the optimiser's.
        optimiser: Adam, or SGD for plain gradient descent.

    Returns:
        the plans (before tanh) after 0 .. `steps` steps.
    """
    return [plan for plan, _ in descent(levels, starts, goals, plan, steps, learning_rate, optimiser)]


def descent(
    levels: Sequence[Level],
    starts: Tensor,
    goals: Tensor,
    plan: Tensor,
    steps: int,
    learning_rate: float,
    optimiser: type[torch.optim.Optimizer] = torch.optim.Adam,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The plans of `descend`, each with its energy [S, P]; that of the last is not asked for, and inf."""
    plan = plan.clone().requires_grad_()
    optimizer = optimiser([plan], lr=learning_rate)
    for _ in range(steps):
        energy = 0.5 * (rollout(levels, starts, torch.tanh(plan)) - goals).square().sum(-1)
        (plan.grad,) = torch.autograd.grad(energy.sum(), plan)
        yield plan.detach().clone(), energy.detach()
        optimizer.step()
    yield plan.detach().clone(), torch.full_like(starts[..., 0], torch.inf)


def plan_in_stages(
    stages: Sequence[Sequence[Level]],
    starts: Tensor,
    goals: Tensor,
    plan: Tensor,
    steps: int,
    rate: float,
    optimiser: type[torch.optim.Optimizer] = torch.optim.Adam,
) -> list[Tensor]:
    """`descend` through one model after another, the steps shared equally; all plans on the way."""
    plans = [plan]
    for index, levels in enumerate(stages):
        share = steps * (index + 1) // len(stages) - steps * index // len(stages)
        plans += descend(levels, starts, goals, plans[-1], share, rate, optimiser)[1:]
    return plans


def true_distance(system: System, starts: Tensor, goals: Tensor, actions: Tensor) -> Tensor:
    """||s_T - goal|| after executing the actions in the true system: [S, P]."""
    return (rollout_true(system, starts, actions)[..., -1, :] - goals).norm(dim=-1)


def curve_points(steps: int) -> list[int]:
    """The gradient steps at which a plan of `steps` steps is executed."""
    return [*(point for point in CURVE_POINTS if point < steps), steps]


def control(
    system: System,
    stages: Sequence[Sequence[Level]],
    problems: Problems,
    first_plan: Tensor,
    config: Exp1Config,
) -> Tensor:
    """Closed loop: plan the whole rest, execute T / replans true steps, plan again from where that led.

    The later plans, warm-started, take half of gd_steps gradient steps.

    Args:
        system: in which plans are executed.
        stages: the models that are planned through in turn.
        problems: starts and goals.
        first_plan: the open-loop plan (before tanh), with which the closed loop begins, [S, P, T, d_a].
        config: replans, gd_steps, gd_lr.

    Returns:
        the true final distance [S, P].
    """
    state, plan, horizon = problems.starts, first_plan, first_plan.shape[2]
    steps = max(1, config.gd_steps // 2)
    for index in range(config.replans):
        length = horizon * (index + 1) // config.replans - horizon * index // config.replans
        if length == 0:
            continue
        if plan.shape[2] < horizon:
            plan = plan_in_stages(stages, state, problems.goals, plan, steps, config.gd_lr)[-1]
        state = rollout_true(system, state, torch.tanh(plan[:, :, :length]))[..., -1, :]
        plan = plan[:, :, length:]
    return (state - problems.goals).norm(dim=-1)


def plan_evaluations(stages: Sequence[Sequence[Level]], horizon: int, steps: int) -> float:
    """Model evaluations of one open-loop plan; a backward counts as two forwards."""
    return 3.0 * steps * sum(rollout_steps(levels, horizon) for levels in stages) / len(stages)


@reads_settings("seeds", "planning_horizons", "num_problems", "gd_steps", "gd_lr", "replans")
def measure_planning(
    system: System,
    models: Mapping[str, nn.Module],
    planner: str,
    *,
    config: Exp1Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """True final distances of one planner, or of random controls for the planner 'random'.

    Returns:
        open [H, S, P]; but for random also closed, sgd (plain gradient descent, open loop) [H, S, P],
        curve [H, C, S, P] over gradient steps, evaluations and milliseconds [H] of one open-loop plan
        (all problems are planned in one batch, which the milliseconds share).
    """
    device = measurement_device(device)
    stages = [hierarchy(system, models, name, device) for name in PLANNERS.get(planner, ())]
    measured: dict[str, list[Tensor]] = {}
    progress = Progress(len(config.planning_horizons), f"{system.name}/planning/{planner}")
    for horizon in config.planning_horizons:
        problems = make_problems(system, horizon, config).to(device)
        if planner == "random":
            found = {"open": true_distance(system, problems.starts, problems.goals, problems.random_actions)}
        else:
            found = _plan_one_horizon(system, stages, problems, config)
        for name, value in found.items():
            measured.setdefault(name, []).append(value)
        progress.update(f"T={horizon} open={found['open'].median().item():.2f}")
    progress.close()
    return {name: torch.stack(values) for name, values in measured.items()}


def _plan_one_horizon(
    system: System, stages: Sequence[Sequence[Level]], problems: Problems, config: Exp1Config
) -> dict[str, Tensor]:
    starts, goals, initial = problems.starts, problems.goals, problems.initial
    began = time.monotonic()
    plans = plan_in_stages(stages, starts, goals, initial, config.gd_steps, config.gd_lr)
    milliseconds = 1e3 * (time.monotonic() - began) / starts[..., 0].numel()
    points = curve_points(config.gd_steps)
    chosen = torch.cat([torch.tanh(plans[point]) for point in points], 1)  # [S, C * P, T, d_a]
    repeats = (1, len(points), 1)
    curve = true_distance(system, starts.repeat(repeats), goals.repeat(repeats), chosen)
    curve = curve.unflatten(1, (len(points), -1)).transpose(0, 1)  # [C, S, P]
    plain = plan_in_stages(stages, starts, goals, initial, config.gd_steps, config.gd_lr, torch.optim.SGD)
    return {
        "open": curve[-1],
        "closed": control(system, stages, problems, plans[-1], config),
        "sgd": true_distance(system, starts, goals, torch.tanh(plain[-1])),
        "curve": curve,
        "milliseconds": torch.tensor(milliseconds, dtype=torch.float64),
        "evaluations": torch.tensor(plan_evaluations(stages, initial.shape[2], config.gd_steps)),
    }


def compare_planners(run: Run, system: System, models: Mapping[str, nn.Module]) -> None:
    """Gradient planning through each model and random controls, executed in the true system, recorded."""
    names = ("random", *PLANNERS)
    steps = [(measure_planning, f"{system.name}/planning/{name}", system, models, name) for name in names]
    for name, measured in zip(names, run.measure_all(steps), strict=True):
        record_planning(run.results, system, name, measured, run.config)


def record_planning(
    results: Results, system: System, planner: str, measured: Mapping[str, Tensor], config: Exp1Config
) -> None:
    """Metrics {system}/{planner}/planning_{distance, success}/{open, closed, sgd}/T={T}: median, fraction."""
    prefix = f"{system.name}/{planner}"
    for loop in ("open", "closed", "sgd"):
        if loop not in measured:
            continue
        results.add_array(f"{prefix}/planning_distance/{loop}", measured[loop].median(-1).values)
        for horizon, distances in zip(config.planning_horizons, measured[loop], strict=True):
            median, reached = distances.median(-1).values, (distances < REACHED).double().mean(-1)
            results.add(f"{prefix}/planning_distance/{loop}/T={horizon}", median, "normalised units")
            results.add(f"{prefix}/planning_success/{loop}/T={horizon}", reached)
    if "curve" in measured:
        results.arrays[f"{system.name}/planning_curve_points"] = np.array(curve_points(config.gd_steps))
        results.add_array(f"{prefix}/planning_curve", measured["curve"].median(-1).values)  # [H, C, S]
        for horizon, count in zip(config.planning_horizons, measured["evaluations"], strict=True):
            counts = [count.item()] * len(config.seeds)
            results.add(f"{prefix}/planning_evaluations/T={horizon}", counts, "model evaluations")
        for horizon, value in zip(config.planning_horizons, measured["milliseconds"], strict=True):
            results.timings[f"{prefix}/milliseconds_per_plan/T={horizon}"] = value.item()
