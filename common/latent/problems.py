"""Planning problems in an ensemble of latent models, all members in one batch.

Shapes: S members, N states of the environment, G goals, R problems (any number for each member), E problems
of the member that has most, C candidates, T steps, A actions, d latent.

A problem's state is a pair (member, state index): each member plans in its own model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.latent.model import LatentModel
from common.minigrid.task import Task
from common.planners.problem import TEMPERATURE, PlanningProblem
from common.planners.table_model import TableModel

ROLLOUT_NUMBERS = 2**24  # hidden numbers of a rollout without gradient that are in memory at once

# (states [R, 2], horizon, budget, over_time, temperature) -> the planning problem from there
MakeProblem = Callable[[Tensor, int, int, str, float], PlanningProblem]


class LatentProblems:
    """Makes planning problems of a trained model on its task.

    Args:
        model: trained, its weights frozen.
        task: its environment; only observations and the goals that the walks reached are used.
        stride: of the jumpy level to plan over; a model without it plans without.
        device: where the model is.
    """

    def __init__(self, model: LatentModel, task: Task, stride: int, device: torch.device):
        self.model, self.stride, self.device = model, stride, device
        self.num_actions = task.world.num_actions
        with torch.no_grad():
            self.latents = model.encoder(task.observations.to(device))  # [S, N, d]
            members = torch.arange(len(self.latents), device=device)[:, None]
            self.goals = self.latents[members, task.goals.to(device)]  # [S, G, d]
            self.energy = model.energy(self.latents, self.goals)  # [S, N]

    def __call__(
        self, states: Tensor, horizon: int, budget: int, over_time: str, temperature: float = TEMPERATURE
    ) -> PlanningProblem:
        """The problem from states [R, 2], ordered by member; see PlanningProblem."""
        states = states.to(self.device)
        member, index = states.unbind(1)
        jumpy = str(self.stride) in self.model.jumpy
        return PlanningProblem(
            self._energies(states, self.model.transition.rollout),
            num_problems=len(states),
            horizon=horizon,
            num_actions=self.num_actions,
            budget=budget,
            energy_scale=self.energy[member, index],
            over_time=over_time,
            temperature=temperature,
            jumpy_energies=self._energies(states, self._jump) if jumpy else None,
            stride=self.stride,
            device=self.device,
        )

    def _jump(self, start: Tensor, actions: Tensor) -> Tensor:
        return self.model.jump(start, actions, self.stride)

    def _energies(self, states: Tensor, rollout: Callable) -> Callable[[Tensor], Tensor]:
        """Energies over time [R, C, T, A] -> [R, C, T] from states [R, 2], for a PlanningProblem."""
        member, index = states.unbind(1)
        counts = torch.bincount(member, minlength=len(self.latents))
        slot = torch.arange(len(states), device=self.device) - (counts.cumsum(0) - counts)[member]
        most = int(counts.max())
        start = self.latents.new_zeros(len(counts), most, self.latents.shape[-1])
        start[member, slot] = self.latents[member, index]  # [S, E, d]

        def evaluate(actions: Tensor) -> Tensor:
            candidates = actions.shape[1]
            packed = actions.new_zeros(len(counts), most, *actions.shape[1:])
            packed = packed.index_put((member, slot), actions).flatten(1, 2)  # [S, E C, T, A]
            latents = rollout(start.repeat_interleave(candidates, 1), packed)  # [S, E C, T, d]
            energies = self.model.energy(latents, self.goals)
            return energies.unflatten(1, (most, candidates))[member, slot]

        def energies(actions: Tensor) -> Tensor:
            if actions.requires_grad:
                return evaluate(actions)
            numbers = start.shape[0] * start.shape[1] * actions.shape[2] * 4 * start.shape[2]
            at_once = max(1, ROLLOUT_NUMBERS // numbers)
            return torch.cat([evaluate(some) for some in actions.split(at_once, 1)], 1)

        return energies


class OracleProblems:
    """The same problems in the true dynamics, with the true steps to the goal as energy: an upper bound."""

    def __init__(self, task: Task, stride: int, device: torch.device):
        finite = task.distance[task.distance.isfinite()]
        energy = task.distance.where(task.distance.isfinite(), finite.max() + 1)
        self.table = TableModel(task.world.next_state.to(device), energy.to(device))
        self.stride = stride

    def __call__(
        self, states: Tensor, horizon: int, budget: int, over_time: str, temperature: float = TEMPERATURE
    ) -> PlanningProblem:
        """The problem from states [R, 2]; see PlanningProblem."""
        starts = states[:, 1].to(self.table.energy.device)
        options = {"over_time": over_time, "temperature": temperature, "stride": self.stride}
        return self.table.problem(starts, horizon, budget, **options)
