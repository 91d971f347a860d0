"""From the published planner to the verified gradient, one change at a time.

Shapes: B problems, T steps, A actions, S seeds, E episodes.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.config import Exp3Config
from common.latent.comparison import PLANNING_FIELDS, configured_planner, problems_of
from common.latent.model import LatentModel
from common.latent.planner_evaluation import Trial, evaluate_planner
from common.minigrid.task import Task
from common.planners.adam import Adam
from common.planners.candidates import Noise, Rollout, sample_actions, score
from common.planners.flat_gradient import relaxed_slope
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
    "scored": "+ best scored argmax",
    "sampled": "+ sampled plans",
    "discrete": "+ gradients at discrete plans",
    "verified_gradient": "+ expected pull-back",
}
CONTROLS = {"sampled_zeroed": "sampled"}  # the rung with its gradient put to 0: what sampling alone brings
KEPT = ("success", "evaluations", "final_distance")  # of evaluate_planner


@dataclass(frozen=True)
class RelaxedGradient(StraightThrough):
    """Adam on logits through soft Gumbel-softmax actions, as the published planner sees them.

    Where nothing is scored the argmax of the last logits is returned, as there. `scores_argmax` scores it at
    every iteration and returns the best; hard samples are scored beside it. Each costs gradient steps.
    """

    hard_samples: int = 0
    scores_argmax: bool = False
    over_time: str = "final"  # what the problem should judge a plan by
    gd_steps: int | None = None  # gradient steps; none: as many as the budget pays for
    rate: float = 0.16  # of Adam, the same however many steps there are: its travel over 50 of them
    zeroed: bool = False  # whether the gradient is paid for and put to 0

    @property
    def iteration_cost(self) -> int:
        """Rollouts that one iteration costs."""
        return super().iteration_cost + self.scores_argmax

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget; one rollout is left for what is returned.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where nothing of a problem had a finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        affordable = (problem.affordable(self.least_rollouts) - 1) // self.iteration_cost
        shape = (problem.num_problems, problem.horizon, problem.num_actions)
        chain = Chain(torch.zeros(shape, dtype=torch.float32, device=problem.device))
        adam = Adam(chain.logits, self.rate, self.betas)
        for _ in range(min(self.gd_steps or affordable, affordable)):
            slope = self._sample_slope(problem.rollout, chain, noise)
            self._score(problem, chain, noise)
            adam.step(chain.logits, slope / problem.energy_scale[:, None, None])
        if self.hard_samples or self.scores_argmax:
            return self.finish(problem, chain)
        return _unverified(problem, chain)

    def _score(self, problem: PlanningProblem, chain: Chain, noise: Noise) -> None:
        """Offer the chain its argmax and its samples, as far as they are asked for."""
        offered = [chain.logits.argmax(-1)[:, None]] if self.scores_argmax else []
        if self.hard_samples:
            offered.append(sample_actions(chain.logits.softmax(-1), self.hard_samples, noise))
        if offered:
            plans = torch.cat(offered, 1)
            chain.offer(plans, score(problem.rollout, plans, problem.num_actions))
            chain.best.record()

    def _sample_slope(self, rollout: Rollout, chain: Chain, noise: torch.Generator | Noise) -> Tensor:
        """The gradient of the relaxed plan's energy with respect to the logits: [B, T, A]."""
        _, slope = relaxed_slope(rollout, chain.logits, self.tau, noise)
        return torch.zeros_like(slope) if self.zeroed else slope


def _unverified(problem: PlanningProblem, chain: Chain) -> Plan:
    """The argmax of the chain's logits; its energy serves the report and changes nothing."""
    actions = chain.logits.argmax(-1)  # [B, T]
    energy = score(problem.rollout, actions[:, None], problem.num_actions)[:, 0]
    chain.offer(actions[:, None], energy[:, None])
    chain.best.record()
    return chain.best.plan(problem)


def rungs(config: Exp3Config) -> dict[str, Planner]:
    """The planners of the ladder and of its controls, each one change from the one before it.

    `discrete` scores the plan that its gradient is taken at in place of the argmax, which comes free, and
    moves as the verified gradient does (travel 8, at this budget a rate of .18).
    """
    tau, steps, samples = config.gumbel_tau, config.gd_steps, VerifiedGradient.hard_samples
    relaxed = RelaxedGradient(tau=tau, gd_steps=steps)
    softmin = replace(relaxed, over_time="softmin")
    whole = replace(softmin, gd_steps=None)
    scored = replace(whole, scores_argmax=True)
    sampled = replace(scored, hard_samples=samples)
    return {
        "published": configured_planner("flat_gradient", config),
        "scaled_adam": relaxed,
        "softmin": softmin,
        "full_budget": whole,
        "scored": scored,
        "sampled": sampled,
        "sampled_zeroed": replace(sampled, zeroed=True),
        "discrete": VerifiedGradient(tau=tau, pull_back="gumbel"),
        "verified_gradient": configured_planner("verified_gradient", config),
    }


@reads_settings(*PLANNING_FIELDS, "study_horizon")
def measure_rung(
    task: Task, model: LatentModel | None, rung: str, *, config: Exp3Config, device: torch.device
) -> dict[str, Tensor]:
    """One blind plan of study_horizon steps, KEPT of evaluate_planner, each [S, E].

    Generators begin alike for every rung; those that draw more from them see other numbers.
    """
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
    """`ladder/{env}/{model}/{rung}/success` and its like, and `/gain`, success minus the rung's before.

    A control's gain is what its rung loses with the gradient: `sampled_zeroed/gain` is its success minus
    the rung's own.
    """
    names = (*RUNGS, *CONTROLS)
    for label, model in models.items():
        found = run.measure_all([
            (measure_rung, f"{task.name}/ladder/{label}/{rung}", task, model, rung) for rung in names
        ])  # fmt: skip
        record_ladder(run.results, task, label, dict(zip(names, found, strict=True)))


def record_ladder(
    results: Results, task: Task, label: str, found: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """See climb_ladder."""
    compared = {above: rung for rung, above in itertools.pairwise(RUNGS)} | CONTROLS
    for rung, measured in found.items():
        prefix = f"ladder/{task.name}/{label}/{rung}"
        results.add_rate(f"{prefix}/success", measured["success"], task.all_starts)
        results.add(f"{prefix}/evaluations", measured["evaluations"].mean(1), "transitions")
        results.add(f"{prefix}/final_distance", measured["final_distance"].mean(1), "steps")
        if rung in compared:
            gain = measured["success"] - found[compared[rung]]["success"]
            results.add_difference(f"{prefix}/gain", gain, task.all_starts)
