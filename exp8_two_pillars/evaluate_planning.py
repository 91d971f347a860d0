"""Planning in experiment 8: every plan is executed in the true world, in closed loop or blindly.

Shapes: S seeds, P tasks, L steps of an episode, s state.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.planners.candidates import Noise
from common.planners.continuous import make_continuous_planner
from common.planners.continuous.problem import ContinuousPlanner, ContinuousProblem
from common.planners.control import receding_horizon
from common.run.cache import reads_settings
from common.run.random import generators
from common.run.results import Results
from common.statistics import factorial_effects
from exp8_two_pillars.dataset import coloured_noise
from exp8_two_pillars.energies import make_judge, make_problem
from exp8_two_pillars.models import WindModel
from exp8_two_pillars.tasks import REACHED, Tasks
from exp8_two_pillars.world import SPEED, Wall, World, crosses

# Hyperparameters of the planners, chosen on the one-wall maze with seeds from 100 on.
PLANNERS: dict[str, dict[str, float]] = {
    "gradient": {}, "normalised_gradient": {}, "adam": {}, "icem": {}, "mppi": {}, "random_shooting": {},
}  # fmt: skip
OVER_TIME, TEMPERATURE = "softmin", 0.1  # a plan is judged by its nearest approach, softly
WARM_START = False  # every plan begins anew


def planner_named(name: str) -> ContinuousPlanner:
    """With this experiment's hyperparameters."""
    return make_continuous_planner(name, **PLANNERS[name])


@dataclass(frozen=True)
class Loop:
    """How plans are executed: one blindly, or half of each and then anew."""

    mode: str  # "open" or "closed"
    horizon: int  # of a plan [steps]

    @property
    def name(self) -> str:
        return f"{self.mode}/T={self.horizon}"

    def executed(self) -> int:
        """Steps of each plan."""
        return self.horizon if self.mode == "open" else self.horizon // 2


@dataclass(frozen=True)
class Plans:
    """Who plans, how plans are executed, and what they are judged by."""

    planner: str
    loop: Loop
    source: str = "model"  # see energies.py
    times: int = 1  # the budget, in multiples of the configuration's rollouts


def judge_path(states: Tensor, tasks: Tasks) -> dict[str, Tensor]:
    """What an episode came to: states [S, P, L + 1, s].

    Returns:
        success and final_success (bool: within REACHED of the goal at any time, at the end), nearest and
        distance (the least and the last [length]), steps (until first within, L where never), each [S, P].
    """
    away = tasks.away(states)  # [S, P, L + 1]
    within = away < REACHED
    first = torch.where(within.any(-1), within.int().argmax(-1), away.shape[-1] - 1)
    return {
        "success": within.any(-1), "final_success": within[..., -1], "nearest": away.amin(-1),
        "distance": away[..., -1], "steps": first,
    }  # fmt: skip


def judge_in_sight(states: Tensor, tasks: Tasks, walls: tuple[Wall, ...]) -> dict[str, Tensor]:
    """`judge_path`, but a goal behind a wall is not reached: states [S, P, L + 1, s], or positions alone."""
    positions, goals = states[..., :2], tasks.goals[:, None, :2]
    away = tasks.away(states) if tasks.with_wind else (positions - goals).norm(dim=-1)
    within = (away < REACHED) & ~crosses(positions, goals - positions, walls)
    first = torch.where(within.any(-1), within.int().argmax(-1), away.shape[-1] - 1)
    return {
        "success": within.any(-1), "final_success": within[..., -1], "nearest": away.amin(-1),
        "distance": away[..., -1], "steps": first,
    }  # fmt: skip


@reads_settings("seeds", "episode_length", "plan_rollouts")
def measure_planning(
    world: World,
    model: WindModel,
    tasks: Tasks,
    plans: Plans,
    *,
    config: Mapping,
    device: torch.device,
) -> dict[str, Tensor]:
    """What one planner reaches.

    Returns:
        what `judge_path` does, positions [S, P, L + 1, 2], and evaluations and rollouts of one plan.
    """
    model, tasks = model.to(device), tasks.to(device)
    members, count = len(config.seeds), len(tasks)
    never, spent = torch.zeros(1, dtype=torch.bool, device=device), {}

    def problem_at(states: Tensor, horizon: int) -> ContinuousProblem:
        judge = make_judge(plans.source, world, model, states.unflatten(0, (members, count)), tasks)
        rollouts = plans.times * config.plan_rollouts
        problem = make_problem(judge, horizon, rollouts, OVER_TIME, TEMPERATURE)
        spent.update(evaluations=torch.tensor(problem.budget), rollouts=torch.tensor(rollouts))
        return problem

    loop, groups = plans.loop, torch.arange(members).repeat_interleave(count)
    draws = generators(config.seeds, f"{world.name}/planning/{plans.planner}/{loop.name}")
    episodes = receding_horizon(
        problem_at,
        planner_named(plans.planner),
        lambda states, actions: (world.step(states, actions), never.expand(len(states))),
        tasks.starts.repeat(members, 1),
        loop.horizon if loop.mode == "open" else config.episode_length,
        loop.horizon,
        loop.executed(),
        generator=Noise(draws, groups),
        warm_start=WARM_START,
    )
    states = episodes.states.unflatten(0, (members, count))
    return judge_path(states, tasks) | {"positions": states[..., :2]} | spent


@reads_settings("seeds", "episode_length", "plan_rollouts")
def measure_paths(
    world: World,
    model: WindModel,
    tasks: Tasks,
    plans: Plans,
    *,
    config: Mapping,
    device: torch.device,
) -> dict[str, Tensor]:
    """Where one planner's episodes lead: states [S, P, L + 1, s], evaluations and rollouts of one plan."""
    model, tasks = model.to(device), tasks.to(device)
    members, count = len(config.seeds), len(tasks)
    never, spent = torch.zeros(1, dtype=torch.bool, device=device), {}

    def problem_at(states: Tensor, horizon: int) -> ContinuousProblem:
        judge = make_judge(plans.source, world, model, states.unflatten(0, (members, count)), tasks)
        rollouts = plans.times * config.plan_rollouts
        problem = make_problem(judge, horizon, rollouts, OVER_TIME, TEMPERATURE)
        spent.update(evaluations=torch.tensor(problem.budget), rollouts=torch.tensor(rollouts))
        return problem

    loop, groups = plans.loop, torch.arange(members).repeat_interleave(count)
    draws = generators(config.seeds, f"{world.name}/planning/{plans.planner}/{loop.name}")
    episodes = receding_horizon(
        problem_at,
        planner_named(plans.planner),
        lambda states, actions: (world.step(states, actions), never.expand(len(states))),
        tasks.starts.repeat(members, 1),
        loop.horizon if loop.mode == "open" else config.episode_length,
        loop.horizon,
        loop.executed(),
        generator=Noise(draws, groups),
        warm_start=WARM_START,
    )
    states = episodes.states.unflatten(0, (members, count))
    return {"states": states} | spent


@reads_settings("seeds", "plan_rollouts")
def measure_first_plans(
    world: World,
    model: WindModel,
    tasks: Tasks,
    planner: str,
    horizon: int,
    *,
    config: Mapping,
    device: torch.device,
) -> dict[str, Tensor]:
    """What a model promises of the plans that are chosen in it at the tasks' starts, and what they do.

    A planner looks for the model's faults: errors under random actions say little of those under its own.

    Returns:
        means over the tasks [S]: `planned_error`, distance of the position read off the latent predicted for
        the plan's end from the true one; `optimism`, lowest energy of the true states on the way minus the
        lowest that was predicted, in units of the energy at the start.
    """
    model, tasks = model.to(device), tasks.to(device)
    states = tasks.starts.expand(len(config.seeds), -1, -1)  # [S, P, s]
    judge = make_judge("model", world, model, states, tasks)
    problem = make_problem(judge, horizon, config.plan_rollouts, OVER_TIME, TEMPERATURE)
    draws = generators(config.seeds, f"{world.name}/first plans/{planner}")
    groups = torch.arange(len(draws)).repeat_interleave(len(tasks))
    plan = planner_named(planner)(problem, Noise(draws, groups))
    actions = plan.actions.to(device).unflatten(0, states.shape[:2])
    with torch.no_grad():
        predicted = model.roll(model.encode(world.picture(states)), actions)  # [S, P, K, D]
        true = world.rollout(states, actions)[:, :, model.stride :: model.stride]
        away = (model.probe(predicted[:, :, -1]) - true[:, :, -1, :2]).norm(dim=-1)
        goals = model.encode(world.picture(tasks.goals).expand(len(states), -1, -1))
        kept = model.energy(model.encode(world.picture(true)), goals).amin(-1)
        missed = kept - model.energy(predicted, goals).amin(-1)
    return {"planned_error": away.mean(1), "optimism": (missed / judge.scale.view_as(missed)).mean(1)}


@reads_settings("seeds", "episode_length")
def measure_random_policy(
    world: World, tasks: Tasks, *, config: Mapping, device: torch.device
) -> dict[str, Tensor]:
    """What coloured noise reaches that looks at nothing: what `judge_path` returns."""
    draws = generators(config.seeds, f"{world.name}/random policy")
    shape = (len(tasks), config.episode_length, 2)
    actions = coloured_noise(torch.stack([torch.randn(shape, generator=draw) for draw in draws]))
    return {"states": world.rollout(tasks.starts.expand(len(draws), -1, -1), actions)}


@reads_settings("seeds", "episode_length")
def measure_straight_policy(
    world: World, tasks: Tasks, *, config: Mapping, device: torch.device
) -> dict[str, Tensor]:
    """Where walking straight at the goal leads, blind to walls and wind: states [S, P, L + 1, s], S alike."""
    states = [tasks.starts]
    for _ in range(config.episode_length):
        steps = (tasks.goals - states[-1])[:, :2] / SPEED
        states.append(world.step(states[-1], steps.clamp(-1, 1)))
    return {"states": torch.stack(states, 1).expand(len(config.seeds), -1, -1, -1)}


# ----------------------------------------------------------------------------------------------
# From arrays to metrics
# ----------------------------------------------------------------------------------------------

QUANTITIES = {"distance": "length", "nearest": "length", "steps": "steps"}  # of which medians are reported


def record_outcome(results: Results, prefix: str, measured: Mapping[str, Tensor]) -> None:
    """Metrics {prefix}/{success,final_success}, intervals over seeds and tasks, and medians over tasks."""
    for name in ("success", "final_success"):
        results.add_rate(f"{prefix}/{name}", measured[name], enumerated=False)
    for name, unit in QUANTITIES.items():
        results.add(f"{prefix}/{name}", measured[name].double().median(-1).values, unit)


def record_first_plans(results: Results, name: str, horizon: int, measured: Mapping[str, Tensor]) -> None:
    """Metrics {name}/{planned_error,optimism}/T={T}."""
    results.add(f"{name}/planned_error/T={horizon}", measured["planned_error"], "length")
    results.add(f"{name}/optimism/T={horizon}", measured["optimism"], "of the energy at the start")


def record_effects(results: Results, prefix: str, corners: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Metrics {prefix}/{effect} on success, of the 2x2's corners, with intervals over seeds and tasks."""
    success = {corner: measured["success"].double() for corner, measured in corners.items()}
    for effect, values in factorial_effects(**success).items():
        results.add_difference(f"{prefix}/{effect}", values, enumerated=False)


def record_difference(
    results: Results, name: str, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> None:
    """Metric `name`: by how much the first succeeds more often, on the same tasks."""
    apart = first["success"].double() - second["success"].double()
    results.add_difference(name, apart, enumerated=False)
