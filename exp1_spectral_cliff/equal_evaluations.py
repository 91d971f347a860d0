"""Planning at equal model evaluations, over replans, and with actuators that are not exact.

A gradient step costs three rollouts: T evaluations each through a one-step model, T / N through a macro
model. So equal numbers of gradient steps, as in evaluate_planning.py, are not equal budgets; here they are.

Shapes: S seeds, P problems, T time, d state, d_a action dimension, N candidates.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from common.config import Exp1Config
from common.planners.candidates import Noise
from common.planners.continuous import make_continuous_planner
from common.planners.continuous.problem import ContinuousProblem
from common.run.cache import reads_settings
from common.run.devices import measurement_device
from common.run.progress import Progress
from common.run.random import generators
from common.run.results import Results
from exp1_spectral_cliff.analyze_spectrum import hierarchy
from exp1_spectral_cliff.dataset import System, rollout_true
from exp1_spectral_cliff.evaluate_planning import (
    REACHED,
    Problems,
    make_problems,
    plan_evaluations,
    plan_in_stages,
)
from exp1_spectral_cliff.models import Level

# Planner -> the models that it descends through, in turn; iCEM searches through the flat model instead.
# The true system itself is left out: a gradient through its integrator takes minutes a plan.
STAGES = {
    "flat": ("flat",),
    "helm": ("helm",),
    "helm_refined": ("helm", "flat"),
}
SEARCH = "icem"
COMPARED = (*STAGES, SEARCH)


class Planner(Protocol):
    """Plans from states [S, P, d] to goals [S, P, d]."""

    def __call__(
        self, states: Tensor, goals: Tensor, carried: Tensor, evaluations: float
    ) -> tuple[Tensor, Tensor]:
        """Plan at so many evaluations for each step of the horizon.

        Args:
            states: where to begin.
            goals: where to be after the horizon.
            carried: what the plan begins from, with the horizon's length at dimension 2: at first the
                problems' initial plan [S, P, T, d_a], then what the last call handed on, moved on in time.
            evaluations: of the model.

        Returns:
            actions [S, P, T, d_a] in the box, and what the next plan may begin from.
        """
        ...


def gradient_steps(stages: Sequence[Sequence[Level]], horizon: int, evaluations: float) -> int:
    """As many as so many evaluations a step of the horizon pay for, at least one for each stage."""
    affordable = int(evaluations * horizon / plan_evaluations(stages, horizon, 1) + 1e-9)
    return max(len(stages), affordable)


class Descent:
    """Gradient descent through one model after another, warm-started with its last plan."""

    def __init__(self, stages: Sequence[Sequence[Level]], rate: float):
        self.stages, self.rate = stages, rate

    def __call__(
        self, states: Tensor, goals: Tensor, carried: Tensor, evaluations: float
    ) -> tuple[Tensor, Tensor]:
        """See Planner; the plan carried is the one before tanh."""
        steps = gradient_steps(self.stages, carried.shape[2], evaluations)
        plan = plan_in_stages(self.stages, states, goals, carried, steps, self.rate)[-1]
        return torch.tanh(plan), plan


class Search:
    """iCEM through a one-step model, warm-started with its mean and its elites."""

    def __init__(self, level: Level, draws: Sequence[torch.Generator]):
        self.level, self.draws, self.planner = level, draws, make_continuous_planner(SEARCH)

    def __call__(
        self, states: Tensor, goals: Tensor, carried: Tensor, evaluations: float
    ) -> tuple[Tensor, Tensor]:
        """See Planner; carried are the plans [S P, K, T, d_a], of which a first call has none."""
        seeds, count = states.shape[:2]
        problem = ContinuousProblem(
            self._energies(states, goals),
            num_problems=seeds * count,
            horizon=carried.shape[2],
            action_size=carried.shape[3],
            budget=int(evaluations * carried.shape[2] + 1e-9),
            energy_scale=(0.5 * (states - goals).square().sum(-1)).flatten().float(),
            over_time="final",
            device=states.device,
        )
        noise = Noise(self.draws, torch.arange(seeds).repeat_interleave(count))
        first = carried.shape[:2] == states.shape[:2]
        found = self.planner(problem, noise, None if first else carried)
        return found.actions.unflatten(0, (seeds, count)).to(states), found.carried

    def _energies(self, states: Tensor, goals: Tensor):
        """Actions [S P, N, T, d_a] -> 1/2 ||s_t - goal||^2 after every step [S P, N, T]."""
        seeds, count = states.shape[:2]

        def energies(actions: Tensor) -> Tensor:
            candidates = actions.shape[1]
            own = actions.to(states).reshape(seeds, count * candidates, *actions.shape[2:])
            latents = self.level.encode(states.repeat_interleave(candidates, 1))
            targets, found = goals.repeat_interleave(candidates, 1), []
            for action in own.unbind(2):
                latents = self.level.step(latents, action)
                found.append(0.5 * (self.level.decode(latents) - targets).square().sum(-1))
            return torch.stack(found, -1).reshape(seeds * count, candidates, -1).float()

        return energies


def execute(
    system: System, planner: Planner, problems: Problems, evaluations: float, replans: int, disturbed: Tensor
) -> Tensor:
    """Plan the whole rest, execute T / replans true steps, plan again from where that led.

    Args:
        system: in which plans are executed.
        planner: each of its plans may spend the whole `evaluations` for every step that is left.
        problems: starts and goals.
        evaluations: of the model, for each step of a plan.
        replans: plans an episode.
        disturbed: what the actuators add to the actions, which stay in the box, [S, P, T, d_a].

    Returns:
        the true final distance [S, P].
    """
    states, carried, horizon = problems.starts, problems.initial, problems.initial.shape[2]
    done = 0
    for index in range(replans):
        until = horizon * (index + 1) // replans
        if until == done:
            continue
        actions, carried = planner(states, problems.goals, carried, evaluations)
        executed = (actions[:, :, : until - done] + disturbed[:, :, done:until]).clamp(-1, 1)
        states = rollout_true(system, states, executed)[..., -1, :]
        carried, done = carried[:, :, until - done :], until
    return (states - problems.goals).norm(dim=-1)


def make_planner(
    system: System, models: Mapping[str, nn.Module], name: str, config: Exp1Config, device: torch.device
) -> Planner:
    """The planner of that name in COMPARED."""
    if name == SEARCH:
        (level,) = hierarchy(system, models, "flat", device)
        return Search(level, generators(config.seeds, f"{system.name}/evaluations/{name}"))
    return Descent([hierarchy(system, models, stage, device) for stage in STAGES[name]], config.gd_lr)


@reads_settings("seeds", "planning_horizons", "num_problems", "gd_lr", "evaluation_sweep", "replan_sweep",
      "actuator_noise")  # fmt: skip
def measure_evaluations(
    system: System,
    models: Mapping[str, nn.Module],
    name: str,
    *,
    config: Exp1Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """True final distances of one planner, each [S, P].

    Returns:
        `evaluations={n}/T={T}` of one plan; at the largest n `replans={r}/T={T}`, and `noise/replans={r}/..`
        with actuators that add normal noise.
    """
    device = measurement_device(device)
    largest = max(config.evaluation_sweep)
    runs = {f"evaluations={count:g}": (count, 1, False) for count in config.evaluation_sweep}
    for noisy, prefix in ((False, ""), (True, "noise/")):
        runs |= {f"{prefix}replans={count}": (largest, count, noisy) for count in config.replan_sweep}
    measured: dict[str, Tensor] = {}
    progress = Progress(len(config.planning_horizons) * len(runs), f"{system.name}/evaluations/{name}")
    for horizon in config.planning_horizons:
        problems = make_problems(system, horizon, config)
        problems = Problems(*(value.to(device) for value in vars(problems).values()))
        disturbed = actuator_noise(system, problems, horizon, config)
        for label, (evaluations, replans, noisy) in runs.items():
            planner = make_planner(system, models, name, config, device)
            added = disturbed if noisy else torch.zeros_like(disturbed)
            found = execute(system, planner, problems, evaluations, replans, added)
            measured[f"{label}/T={horizon}"] = found
            progress.update(f"T={horizon} {label} distance={found.median().item():.2f}")
    progress.close()
    return measured


def actuator_noise(system: System, problems: Problems, horizon: int, config: Exp1Config) -> Tensor:
    """What is added to executed actions, the same for every planner: [S, P, T, d_a]."""
    draws = generators(config.seeds, f"{system.name}/actuators/T={horizon}")
    shape = problems.initial.shape[1:]
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for draw in draws]
    return config.actuator_noise * torch.stack(drawn).to(problems.initial)


def record_evaluations(results: Results, system: System, found: Mapping[str, Mapping[str, Tensor]]) -> None:
    """`{system}/{planner}/planning_distance/{..}`, medians, `/planning_success/{..}`, medians less flat's.

    The last are `{system}/{planner}_minus_flat/planning_distance/{..}`, over the same problems.
    """
    for planner, measured in found.items():
        for label, distances in measured.items():
            prefix, median = f"{system.name}/{planner}", distances.median(-1).values
            results.add(f"{prefix}/planning_distance/{label}", median, "normalised units")
            reached = (distances < REACHED).double().mean(-1)
            results.add(f"{prefix}/planning_success/{label}", reached)
            if planner != "flat":
                name = f"{prefix}_minus_flat/planning_distance/{label}"
                results.add(name, median - found["flat"][label].median(-1).values, "normalised units")
