"""From the published planner to the verified gradient, one change at a time.

Shapes: B problems, T steps, A actions, S seeds, E episodes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp3Config
from common.latent.comparison import PLANNING_FIELDS, configured_planner, problems_of
from common.latent.model import LatentModel
from common.latent.planner_evaluation import Trial, evaluate_planner
from common.minigrid.task import Task
from common.planners.candidates import (
    BestPlans,
    Noise,
    Rollout,
    gumbel_noise,
    require_finite,
    score,
    slopes_at,
)
from common.planners.problem import Plan, Planner, PlanningProblem
from common.planners.straight_through import Chain, StraightThrough
from common.planners.verified_gradient import VerifiedGradient
from common.run.cache import reads_settings
from common.run.random import generators
from common.run.results import Results
from common.run.run import Run

RUNGS = {  # what each adds to the one before it
    "published": "published planner",
    "scaled_adam": "+ scaled Adam",
    "softmin": "+ softmin over time",
    "full_budget": "+ full budget",
    "verification": "+ verification",
    "discrete": "+ gradients at discrete plans",
    "verified_gradient": "+ expected pull-back",
}
KEPT = ("success", "evaluations", "final_distance")  # of evaluate_planner


@dataclass(frozen=True)
class RelaxedGradient(StraightThrough):
    """Adam on logits through soft Gumbel-softmax actions, as the published planner sees them.

    Without hard samples nothing is verified: the argmax of the last logits is returned. With them it is the
    best of those that were scored.
    """

    hard_samples: int = 0
    over_time: str = "final"  # what the problem should judge a plan by
    gd_steps: int | None = None  # gradient steps; none: as many as the budget pays for

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget; one rollout is left for what is returned.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where nothing of a problem had a finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        affordable = (problem.affordable(self.least_rollouts) - 1) // self.iteration_cost
        chain = Chain(self.initial_logits(problem, problem.horizon, noise))
        iterations = min(self.gd_steps or affordable, affordable)
        self.descend(problem.rollout, chain, iterations, problem.energy_scale, noise)
        return self.finish(problem, chain) if self.hard_samples else _unverified(problem, chain)

    def _sample_slope(self, rollout: Rollout, chain: Chain, noise: torch.Generator | Noise) -> Tensor:
        """The gradient of the relaxed plan's energy with respect to the logits: [B, T, A]."""
        with torch.enable_grad():
            logits = chain.logits.detach().requires_grad_()
            actions = torch.softmax((logits + gumbel_noise(logits, noise)) / self.tau, -1)
            _, slopes = slopes_at(rollout, actions[:, None])
            (slope,) = torch.autograd.grad(actions, logits, slopes[:, 0])
        return slope


def _unverified(problem: PlanningProblem, chain: Chain) -> Plan:
    """The argmax of the chain's logits; its energy serves the report and changes nothing."""
    actions = chain.logits.argmax(-1)  # [B, T]
    energy = score(problem.rollout, actions[:, None], problem.num_actions)[:, 0]
    require_finite(energy.isfinite())
    best = BestPlans(*actions.shape, problem.device)
    best.offer(actions[:, None], energy[:, None])
    best.record()
    return best.plan(problem)


def rungs(config: Exp3Config) -> dict[str, Planner]:
    """The planners of the ladder, each one change from the one before it."""
    tau, steps = config.gumbel_tau, config.gd_steps
    return {
        "published": configured_planner("flat_gradient", config),
        "scaled_adam": RelaxedGradient(tau=tau, gd_steps=steps),
        "softmin": RelaxedGradient(tau=tau, gd_steps=steps, over_time="softmin"),
        "full_budget": RelaxedGradient(tau=tau, over_time="softmin"),
        "verification": RelaxedGradient(
            tau=tau, over_time="softmin", hard_samples=StraightThrough.hard_samples
        ),
        "discrete": VerifiedGradient(tau=tau, pull_back="gumbel"),
        "verified_gradient": configured_planner("verified_gradient", config),
    }


@reads_settings(*PLANNING_FIELDS, "study_horizon")
def measure_rung(
    task: Task, model: LatentModel | None, rung: str, *, config: Exp3Config, device: torch.device
) -> dict[str, Tensor]:
    """One blind plan of study_horizon steps, KEPT of evaluate_planner, each [S, E]; the same noise each."""
    trial = Trial(
        task,
        problems_of(task, model, config.coarse_stride, device),
        rungs(config)[rung],
        config,
        noise=lambda _: generators(config.seeds, f"{task.name}/ladder"),
    )
    found = evaluate_planner(trial, "open", [config.study_horizon])[config.study_horizon]
    return {name: found[name] for name in KEPT}


def climb_ladder(run: Run, task: Task, models: dict[str, LatentModel | None]) -> None:
    """`ladder/{env}/{model}/{rung}/success` and its like, and `/gain`, success minus the rung's before."""
    for label, model in models.items():
        found = run.measure_all([
            (measure_rung, f"{task.name}/ladder/{label}/{rung}", task, model, rung) for rung in RUNGS
        ])  # fmt: skip
        record_ladder(run.results, task, label, dict(zip(RUNGS, found, strict=True)))


def record_ladder(results: Results, task: Task, label: str, found: dict[str, dict[str, Tensor]]) -> None:
    """See climb_ladder."""
    below = None
    for rung, measured in found.items():
        prefix = f"ladder/{task.name}/{label}/{rung}"
        results.add_rate(f"{prefix}/success", measured["success"], task.all_starts)
        results.add(f"{prefix}/evaluations", measured["evaluations"].mean(1), "transitions")
        results.add(f"{prefix}/final_distance", measured["final_distance"].mean(1), "steps")
        if below is not None:
            results.add_difference(f"{prefix}/gain", measured["success"] - below, task.all_starts)
        below = measured["success"]
