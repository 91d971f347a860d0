"""What a planner on continuous actions sees: energies of action sequences in a box, and a budget.

Shapes
    B  problems, planned together and independent of each other
    N  candidate action sequences of a problem
    T  steps of the horizon
    A  entries of an action, each in [-1, 1]
    k  steps that one transition of the model predicts: 1, or a macro step
    K  plans that a planner hands on to the next plan

The unit of cost is one transition of the model for one problem (a network call): a rollout of N candidates
costs N T / k, a backward pass through it twice that again. So models with macro steps get as many rollouts
as a one-step model at the budget rollouts * T / k, and as many network calls at its budget, rollouts * T.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..candidates import Noise
from ..problem import TEMPERATURE, Energies, Problem, require_counts


class ContinuousProblem(Problem):
    """B planning problems on actions in the box [-1, 1]^A; a planner's only view of the world.

    Args:
        energies: float32 actions [B, N, T, A] -> the energy after every transition [B, N, T / k]; otherwise
            as PlanningProblem's.
        num_problems: B.
        horizon: T, a multiple of k.
        action_size: A.
        budget: transitions of the model that may be spent on each problem.
        energy_scale: [B], what counts as a large difference of energy, as PlanningProblem's.
        stride: k.
        over_time: "softmin" or "final", as PlanningProblem's.
        temperature: of the softmin, in units of energy_scale.
        device: where candidates are made.

    Raises:
        ValueError: as PlanningProblem, and for a horizon that is no multiple of the stride.
    """

    def __init__(
        self,
        energies: Energies,
        *,
        num_problems: int,
        horizon: int,
        action_size: int,
        budget: int,
        energy_scale: Tensor,
        stride: int = 1,
        over_time: str = "softmin",
        temperature: float = TEMPERATURE,
        device: torch.device | str = "cpu",
    ):
        require_counts(action_size=action_size)
        super().__init__(
            energies,
            num_problems=num_problems,
            horizon=horizon,
            action_size=action_size,
            budget=budget,
            energy_scale=energy_scale,
            over_time=over_time,
            temperature=temperature,
            stride=stride,
            device=device,
        )
        if horizon % stride:
            raise ValueError(f"a horizon of {horizon} is no multiple of the stride {stride}")

    @property
    def rollout_cost(self) -> int:
        """Transitions of one rollout, T / k."""
        return self.horizon // self.stride

    @property
    def rollouts(self) -> int:
        """Rollouts spent so far on each problem, a backward pass counted as two."""
        return self.evaluations // self.rollout_cost

    def rollout(self, actions: Tensor) -> Tensor:
        """Energy of each candidate, [B, N, T, A] -> [B, N]. Costs N T / k.

        Raises:
            BudgetExceeded: before computing, here or in the backward pass, where the budget is too small.
            ValueError: for actions of another shape or out of the box, or where the energies are not one
                number a transition.
            TypeError: where the model does not take float32 candidates.
        """
        if not (actions.detach().abs() <= 1).all():
            raise ValueError("actions must lie in the box [-1, 1]")
        return self._evaluate(self._energies, actions, self.rollout_cost)


@dataclass(frozen=True)
class ContinuousPlan:
    """What a planner returns for B problems."""

    actions: Tensor  # [B, T, A] float32, in the box
    energy: Tensor  # [B], of exactly these actions, by the model
    evaluations: int  # transitions spent on each problem
    rollouts: int  # the same in rollouts
    history: Tensor  # [I, B], the lowest energy so far
    carried: Tensor  # [B, K, T, A], plans that the next call may begin from, the one to centre on first


class ContinuousPlanner(Protocol):
    """A frozen dataclass of hyperparameters that plans when called; noise comes from `noise` alone.

    `least_rollouts` is the smallest budget that it works with, in rollouts a problem.
    """

    @property
    def least_rollouts(self) -> int: ...

    def __call__(
        self, problem: ContinuousProblem, noise: torch.Generator | Noise, initial: Tensor | None = None
    ) -> ContinuousPlan:
        """Plan within the problem's budget.

        Args:
            problem: what is planned.
            noise: generators on the CPU: one for all problems, or a Noise with one a group. With a group a
                problem, a problem's plan does not depend on its company.
            initial: [B, K, T, A], plans to begin from: the `carried` of an earlier plan, moved on in time.

        Raises:
            BudgetExceeded: where the budget is below `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        ...


def moved_on(carried: Tensor, steps: int) -> Tensor:
    """Plans [B, K, T, A] after their first steps are done: the rest, with the box's centre behind it."""
    rest = carried[:, :, steps:]
    return torch.cat([rest, torch.zeros_like(carried[:, :, : carried.shape[2] - rest.shape[2]])], 2)
