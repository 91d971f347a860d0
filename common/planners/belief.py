"""Gradient planning without samples: descend on the expected energy over a growing horizon, and verify.

Shapes: B problems, T steps, A actions, I iterations.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .adam import Adam
from .candidates import BestPlans, Noise, sample_actions, score, slopes_at
from .problem import BACKWARD_COST, Plan, PlanningProblem, require


def grown_horizon(iteration: int, iterations: int, horizon: int, growth: float, least: int) -> int:
    """Steps looked ahead at an iteration: from `least`, all T after a share `growth` of the iterations."""
    if growth == 0:
        return horizon
    reached = math.ceil(horizon * (iteration + 1) / (growth * iterations))
    return min(max(reached, min(least, horizon)), horizon)


def grown_horizons(iteration: int, iterations: int, caps: Tensor, growth: float, least: int) -> Tensor:
    """`grown_horizon` of each problem, up to its own cap: [B] int64 -> [B] int64."""
    steps = torch.zeros_like(caps)
    for longest in caps.unique().tolist():
        steps[caps == longest] = grown_horizon(iteration, iterations, longest, growth, least)
    return steps


def capped_horizon(problem: PlanningProblem, slack: float) -> Tensor:
    """T, or less where the energy at the start, in steps to go, and `slack` more are less: [B] int64."""
    return (problem.energy_scale + slack).ceil().clamp(1, problem.horizon).long()


@dataclass(frozen=True)
class Belief:
    """Adam on logits through a = softmax(logits), no noise; hard plans drawn on the way are verified.

    For models whose energy is multilinear in the actions (BeliefModel): there <b_h, E> is the expected
    energy of plans drawn from softmax(logits), so nothing off the simplex's corners can be exploited. The
    horizon h grows from 3 to T, so that the near steps are settled first; from the last step alone a long
    plan's gradient is flat. Where energies are steps to go, it grows to those from the start and `slack`
    more: beyond, the plan has arrived, and what is left of T only adds noise.
    """

    over_time: ClassVar[str] = "final"  # what the problem should judge a plan by

    iterations: int = 120  # gradient steps, fewer where the budget ends
    rate: float = 1.0  # of Adam
    betas: tuple[float, float] = (0.7, 0.9)  # of Adam
    growth: float = 0.8  # share of the iterations after which h is T; 0: it is T from the first
    least_horizon: int = 3  # the first h
    slack: float = 4.0  # steps by which h may exceed the energy at the start; inf: h grows to T
    hard_samples: int = 4  # plans verified at a time, the likeliest among them
    hard_every: int = 6  # iterations between two verifications

    def __post_init__(self):
        require("iterations", self.iterations, self.iterations >= 1, "at least 1")
        require("rate", self.rate, 0 < self.rate < math.inf, "positive and finite")
        two = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require("betas", self.betas, two, "two numbers in [0, 1)")
        require("growth", self.growth, 0 <= self.growth <= 1, "in [0, 1]")
        require("least_horizon", self.least_horizon, self.least_horizon >= 1, "at least 1")
        require("slack", self.slack, self.slack >= 0, "at least 0")
        require("hard_samples", self.hard_samples, self.hard_samples >= 1, "at least 1")
        require("hard_every", self.hard_every, self.hard_every >= 1, "at least 1")

    @property
    def least_rollouts(self) -> int:
        """The smallest budget, in rollouts a problem: one gradient step, its verification, the last word."""
        return 2 + BACKWARD_COST + self.hard_samples

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        problem.affordable(self.least_rollouts)
        cap = capped_horizon(problem, self.slack)
        iterations = self._affordable_iterations(problem, int(cap.max()))
        shape = (problem.num_problems, problem.horizon, problem.num_actions)
        logits = torch.zeros(shape, dtype=torch.float32, device=problem.device)
        best = BestPlans(*shape[:2], problem.device)
        adam = Adam(logits, self.rate, self.betas)
        for iteration in range(iterations):
            steps = grown_horizons(iteration, iterations, cap, self.growth, self.least_horizon)
            adam.step(logits, self._slope(problem, logits, steps))
            if self._verifies(iteration, iterations):
                self._verify(problem, logits, steps, best, noise)
        best.energy = score(problem.rollout, best.actions[:, None], problem.num_actions)[:, 0]
        return best.plan(problem)

    def _verifies(self, iteration: int, iterations: int) -> bool:
        return (iteration + 1) % self.hard_every == 0 or iteration + 1 == iterations

    def _affordable_iterations(self, problem: PlanningProblem, longest: int) -> int:
        """The most iterations whose gradients and verifications the budget pays for."""
        for iterations in range(self.iterations, 1, -1):
            cost = problem.horizon
            for iteration in range(iterations):
                rollouts = 1 + BACKWARD_COST + self.hard_samples * self._verifies(iteration, iterations)
                cost += rollouts * grown_horizon(
                    iteration, iterations, longest, self.growth, self.least_horizon
                )
            if cost <= problem.remaining:
                return iterations
        return 1

    def _slope(self, problem: PlanningProblem, logits: Tensor, steps: Tensor) -> Tensor:
        """The gradient of the energy after `steps` [B] steps with respect to the logits, in its units."""
        soft = logits.softmax(-1)  # [B, T, A]
        _, slopes = slopes_at(lambda actions: problem.rollout_until(actions, steps), soft[:, None])
        slope = slopes[:, 0] / problem.energy_scale[:, None, None]
        return soft * (slope - (soft * slope).sum(-1, keepdim=True))

    def _verify(
        self, problem: PlanningProblem, logits: Tensor, steps: Tensor, best: BestPlans, noise: Noise
    ) -> None:
        """Offer the likeliest plan and others drawn from the logits, judged after `steps` [B] steps.

        An energy at a shorter horizon is higher unless the plan has arrived: of plans that arrive, the
        soonest is kept.
        """
        plans = logits.argmax(-1)[:, None]  # [B, 1, T]
        if self.hard_samples > 1:
            drawn = sample_actions(logits.softmax(-1), self.hard_samples - 1, noise)
            plans = torch.cat([plans, drawn], 1)
        energies = score(lambda actions: problem.rollout_until(actions, steps), plans, problem.num_actions)
        best.offer(plans, energies)
        best.record()
