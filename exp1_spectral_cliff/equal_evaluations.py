"""Planning at equal model evaluations, over replans, and with actuators that are not exact.

A gradient step costs three rollouts: T evaluations each through a one-step model, T / N through a macro
model. So equal numbers of gradient steps, as in evaluate_planning.py, are not equal budgets; here they are,
over all plans of an episode. Every planner returns the best plan that it scored in its model, and descents
of few steps take long ones, so that all can reach as far.

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
from common.planners.problem import BACKWARD_COST
from common.run.cache import reads_settings
from common.run.devices import measurement_device
from common.run.progress import Progress
from common.run.random import generators
from common.run.results import Results
from common.run.run import Run
from exp1_spectral_cliff.analyze_spectrum import hierarchy
from exp1_spectral_cliff.dataset import System, rollout_true
from exp1_spectral_cliff.evaluate_planning import REACHED, Problems, descent, make_problems
from exp1_spectral_cliff.models import Level, rollout_steps

# Planner -> the models that it descends through, in turn; iCEM searches through the flat model instead.
# The true system itself is left out: a gradient through its integrator takes minutes a plan.
STAGES = {
    "flat": ("flat",),
    "helm": ("helm",),
    "helm_refined": ("helm", "flat"),
}
SEARCH = "icem"
COMPARED = (*STAGES, SEARCH)
PLANNED_THROUGH = ("flat", "helm")  # the models that all of them need
GRADIENT_COST = 1 + BACKWARD_COST  # of one gradient step, in rollouts


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


def gradient_steps(levels: Sequence[Level], horizon: int, evaluations: float) -> int:
    """As many as so many evaluations a step of the horizon pay for, at least one."""
    return max(1, int(evaluations * horizon / (GRADIENT_COST * rollout_steps(levels, horizon)) + 1e-9))


class Descent:
    """Adam through one model after another, each for an equal share of the evaluations.

    Warm-started with its last plan. `travel` is the rate times the steps of a stage, as far as a plan can
    move before tanh.
    """

    def __init__(self, stages: Sequence[Sequence[Level]], travel: float):
        self.stages, self.travel = stages, travel

    def __call__(
        self, states: Tensor, goals: Tensor, carried: Tensor, evaluations: float
    ) -> tuple[Tensor, Tensor]:
        """See Planner; the plan carried is the one before tanh."""
        plan = carried
        for levels in self.stages:
            steps = gradient_steps(levels, carried.shape[2], evaluations / len(self.stages))
            plan = best_of_descent(levels, states, goals, plan, steps, self.travel / steps)
        return torch.tanh(plan), plan


def best_of_descent(
    levels: Sequence[Level], states: Tensor, goals: Tensor, plan: Tensor, steps: int, rate: float
) -> Tensor:
    """The iterate of least energy 1/2 ||s_T - goal||^2 of those at which a gradient was taken.

    Of each problem: states, goals [S, P, d], plan before tanh [S, P, T, d_a] -> [S, P, T, d_a].
    """
    best, lowest = plan, torch.full_like(states[..., 0], torch.inf)
    for passed, energy in descent(levels, states, goals, plan, steps, rate):
        better = energy < lowest
        best = torch.where(better[..., None, None], passed, best)
        lowest = torch.where(better, energy, lowest)
    return best


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
        planner: what plans.
        problems: starts and goals.
        evaluations: of the model, for each step of the episode, over all its plans; a plan's share is as its
            length.
        replans: plans an episode, no more than steps.
        disturbed: what the actuators add to the actions, which stay in the box, [S, P, T, d_a].

    Returns:
        the true final distance [S, P].
    """
    states, carried, horizon = problems.starts, problems.initial, problems.initial.shape[2]
    ends = sorted({horizon * (index + 1) // replans for index in range(replans)} - {0})
    begins = [0, *ends[:-1]]
    share = evaluations * horizon / sum(horizon - begin for begin in begins)
    for begin, end in zip(begins, ends, strict=True):
        actions, carried = planner(states, problems.goals, carried, share)
        executed = (actions[:, :, : end - begin] + disturbed[:, :, begin:end]).clamp(-1, 1)
        states = rollout_true(system, states, executed)[..., -1, :]
        carried = carried[:, :, end - begin :]
    return (states - problems.goals).norm(dim=-1)


def make_planner(
    system: System, models: Mapping[str, nn.Module], name: str, config: Exp1Config, device: torch.device
) -> Planner:
    """The planner of that name in COMPARED."""
    if name == SEARCH:
        (level,) = hierarchy(system, models, "flat", device)
        return Search(level, generators(config.seeds, f"{system.name}/evaluations/{name}"))
    travel = config.gd_lr * config.gd_steps
    return Descent([hierarchy(system, models, stage, device) for stage in STAGES[name]], travel)


@reads_settings("seeds", "planning_horizons", "num_problems", "gd_steps", "gd_lr", "evaluation_sweep",
      "replan_sweep", "actuator_noise")  # fmt: skip
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
        `evaluations={n}/T={T}` of one plan; at the largest n, shared by the plans of an episode,
        `replans={r}/T={T}`, and `noise/replans={r}/..` with actuators that add normal noise.
    """
    device = measurement_device(device)
    largest = max(config.evaluation_sweep)
    runs = {f"evaluations={count:g}": (count, 1, False) for count in config.evaluation_sweep}
    for noisy, prefix in ((False, ""), (True, "noise/")):
        runs |= {f"{prefix}replans={count}": (largest, count, noisy) for count in config.replan_sweep}
    measured: dict[str, Tensor] = {}
    progress = Progress(len(config.planning_horizons) * len(runs), f"{system.name}/evaluations/{name}")
    for horizon in config.planning_horizons:
        problems = make_problems(system, horizon, config).to(device)
        disturbed = actuator_noise(system, problems, horizon, config)
        found: dict[tuple[float, int, bool], Tensor] = {}  # labels may share a setting
        for label, setting in runs.items():
            evaluations, replans, noisy = setting
            if setting not in found:
                planner = make_planner(system, models, name, config, device)
                added = disturbed if noisy else torch.zeros_like(disturbed)
                found[setting] = execute(system, planner, problems, evaluations, replans, added)
            measured[f"{label}/T={horizon}"] = found[setting]
            progress.update(f"T={horizon} {label} distance={found[setting].median().item():.2f}")
    progress.close()
    return measured


def actuator_noise(system: System, problems: Problems, horizon: int, config: Exp1Config) -> Tensor:
    """What is added to executed actions, the same for every planner: [S, P, T, d_a]."""
    draws = generators(config.seeds, f"{system.name}/actuators/T={horizon}")
    shape = problems.initial.shape[1:]
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for draw in draws]
    return config.actuator_noise * torch.stack(drawn).to(problems.initial)


def compare_at_equal_evaluations(run: Run, system: System, models: Mapping[str, nn.Module]) -> None:
    """Every planner of COMPARED on the system, recorded."""
    own = {name: models[name] for name in PLANNED_THROUGH}
    found = run.measure_all([
        (measure_evaluations, f"{system.name}/evaluations/{name}", system, own, name) for name in COMPARED
    ])  # fmt: skip
    record_evaluations(run.results, system, dict(zip(COMPARED, found, strict=True)))


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
