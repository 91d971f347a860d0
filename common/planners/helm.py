"""HELM: plan coarsely over the jumpy model, then refine on the fine one.

Shapes: B problems, N candidates, T steps, A actions, M macro steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.planners.candidates import score
from common.planners.problem import Plan, PlanningProblem
from common.planners.straight_through import Chain, StraightThrough, affordable_iterations


@dataclass(frozen=True)
class Helm(StraightThrough):
    """A straight-through chain over T actions in the jumpy model, refined by one on the fine model.

    A macro step stands for `stride` steps, so a coarse iteration costs a stride-th of a fine one and its
    gradient passes a stride-th of the transitions. Both stages verify in their own model; the plan and its
    energy are the fine model's.

    coarse="repeat" is the documents' coarse stage: one action for every `stride` steps, repeated, and
    evaluated on the fine model. It is what a problem without a jumpy model gets, or with a horizon
    below its stride.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by

    coarse: str = "jumpy"  # "jumpy" or "repeat"
    coarse_share: float = 0.5  # of the budget, for the coarse stage
    carry: float = 0.5  # of the coarse logits, into the fine stage; less leaves it more to decide

    def __post_init__(self):
        super().__post_init__()
        if self.coarse not in ("jumpy", "repeat"):
            raise ValueError(f"coarse is 'jumpy' or 'repeat', not {self.coarse!r}")
        if not 0 <= self.coarse_share < 1:
            raise ValueError("the coarse stage's share of the budget lies in [0, 1)")

    def __call__(self, problem: PlanningProblem, generator: torch.Generator) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it does not pay for one fine iteration, the coarse plan and the gap.
        """
        chain = self._coarse_stage(problem, generator)
        rollouts = problem.remaining // problem.horizon - 1
        iterations = affordable_iterations(rollouts, self.iteration_cost)
        self.descend(problem.rollout, chain, iterations, problem.energy_scale, generator)
        return self.finish(problem, chain)

    def _coarse_stage(self, problem: PlanningProblem, generator: torch.Generator) -> Chain:
        """The chain that the fine stage runs on: coarse logits, and the best coarse plan, scored finely."""
        jumpy = self.coarse == "jumpy" and problem.macro_steps > 0
        repeats = 1 if jumpy else problem.stride
        cost = self.iteration_cost * (problem.macro_steps if jumpy else problem.horizon)

        def stretch(values: Tensor, axis: int) -> Tensor:  # [.., T / repeats, ..] -> [.., T, ..]
            return values.repeat_interleave(repeats, axis).narrow(axis, 0, problem.horizon)

        def rollout(actions: Tensor) -> Tensor:
            return (problem.coarse_rollout if jumpy else problem.rollout)(stretch(actions, 2))

        fine_minimum = (self.iteration_cost + 2) * problem.horizon  # an iteration, the coarse plan, the gap
        spend = min(int(self.coarse_share * problem.budget), problem.remaining - fine_minimum)
        iterations = max(spend // cost, 0)
        coarse = Chain(self.initial_logits(problem, -(-problem.horizon // repeats), generator))
        self.descend(rollout, coarse, iterations, problem.energy_scale, generator)
        fine = Chain(self.carry * stretch(coarse.logits, 1))
        if iterations:
            plans = stretch(coarse.best.actions, 1)[:, None]
            fine.offer(plans, score(problem.rollout, plans, problem.num_actions))
            fine.best.record()
        return fine
