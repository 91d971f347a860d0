"""Planning problems in an ensemble of latent models, all members in one batch.

Shapes: S members, N states of the environment, G goals, R problems (any number for each member), E problems
of the member that has most, C candidates, T steps, A actions, d latent.

A problem's state is a pair (member, state index): each member plans in its own model.
"""

import copy
from collections.abc import Callable
from functools import partial

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

    On a CPU each member has products of its own, so that its plans are the same to the bit whatever members
    plan beside it. Elsewhere all share one batch, because there a product costs its launch.

    Args:
        model: trained, its weights frozen.
        task: its environment; only observations and the goals that the walks reached are used.
        stride: of the jumpy level to plan over; a model without it plans without.
        device: where the model is.
        together: whether members share products; by default as said above.

    Attributes:
        latents: of all states, [S, N, d].
        goals: latents of the goals that each member's walks reached, the last repeated to fill up, [S, G, d].
        energy: of all states, [S, N].
    """

    def __init__(
        self,
        model: LatentModel,
        task: Task,
        stride: int,
        device: torch.device,
        together: bool | None = None,
    ):
        self.model, self.stride, self.device = model, stride, device
        self.num_actions = task.world.num_actions
        seeds = range(len(task.walks))
        shared = device.type != "cpu" if together is None else together
        blocks = [list(seeds)] if shared else [[seed] for seed in seeds]
        self._blocks = [_Block(model, task, block, device) for block in blocks]
        self.latents = torch.cat([block.latents for block in self._blocks])
        self.energy = torch.cat([block.energy for block in self._blocks])
        members = torch.arange(len(self.latents), device=device)[:, None]
        self.goals = self.latents[members, task.goals.to(device)]

    def __call__(
        self, states: Tensor, horizon: int, budget: int, over_time: str, temperature: float = TEMPERATURE
    ) -> PlanningProblem:
        """The problem from states [R, 2], (member, state), ordered by member; see PlanningProblem.

        Raises:
            ValueError: for states that are not ordered by member.
        """
        if (states[:, 0].diff() < 0).any():
            raise ValueError("states must be ordered by member")
        jumpy = str(self.stride) in self.model.jumpy
        member, index = states.to(self.device).unbind(1)
        return PlanningProblem(
            self._energies(states, _steps),
            num_problems=len(states),
            horizon=horizon,
            num_actions=self.num_actions,
            budget=budget,
            energy_scale=self.energy[member, index],
            over_time=over_time,
            temperature=temperature,
            jumpy_energies=self._energies(states, partial(_jumps, stride=self.stride)) if jumpy else None,
            stride=self.stride,
            device=self.device,
        )

    def _energies(self, states: Tensor, rollout: "Rollout") -> Callable[[Tensor], Tensor]:
        """Energies over time [R, C, T, A] -> [R, C, T] from states [R, 2], for a PlanningProblem."""
        counts = torch.bincount(states[:, 0], minlength=len(self.latents)).tolist()
        places = states[:, 1].to(self.device)
        parts, first = [], 0
        for block in self._blocks:
            own = [counts[member] for member in block.members]
            here = places[first : first + sum(own)]
            first += sum(own)
            if len(here):
                parts.append((len(here), block.energies(here, own, rollout)))
        if len(parts) == 1:
            return parts[0][1]

        def energies(actions: Tensor) -> Tensor:
            pieces = zip(parts, actions.split([count for count, _ in parts]), strict=True)
            return torch.cat([of_block(own) for (_, of_block), own in pieces])

        return energies


Rollout = Callable[[LatentModel, Tensor, Tensor], Tensor]  # (model, start, actions) -> latents over time


def _steps(model: LatentModel, start: Tensor, actions: Tensor) -> Tensor:
    return model.transition.rollout(start, actions)


def _jumps(model: LatentModel, start: Tensor, actions: Tensor, stride: int) -> Tensor:
    return model.jump(start, actions, stride)


class _Block:
    """Members that share their products, and what they know of the task.

    A member alone keeps its own goals; members together have theirs filled up to equal numbers.
    """

    def __init__(self, model: LatentModel, task: Task, members: list[int], device: torch.device):
        self.members, self.model = members, _of_members(model, members)
        goals = task.goals[members]
        if len(members) == 1:
            goals = goals.unique_consecutive(dim=1)
        with torch.no_grad():
            self.latents = self.model.encoder(task.observations[members].to(device))  # [S, N, d]
            rows = torch.arange(len(members), device=device)[:, None]
            self.goals = self.latents[rows, goals.to(device)]  # [S, G, d]
            self.energy = self.model.energy(self.latents, self.goals)  # [S, N]

    def energies(self, places: Tensor, counts: list[int], rollout: Rollout) -> Callable[[Tensor], Tensor]:
        """Energies over time [R, C, T, A] -> [R, C, T] from states [R], so many of each member."""
        slots = _Slots(counts, places.device)
        rows = torch.arange(len(counts), device=places.device)[:, None]
        start = self.latents[rows, slots.pack(places)]  # [S, E, d]

        def evaluate(actions: Tensor) -> Tensor:
            candidates = actions.shape[1]
            packed = slots.pack(actions).flatten(1, 2)  # [S, E C, T, A]
            latents = rollout(self.model, start.repeat_interleave(candidates, 1), packed)  # [S, E C, T, d]
            energies = self.model.energy(latents, self.goals)
            return slots.unpack(energies.unflatten(1, (-1, candidates)))

        def energies(actions: Tensor) -> Tensor:
            if actions.requires_grad:
                return evaluate(actions)
            numbers = start.shape[0] * start.shape[1] * actions.shape[2] * 4 * start.shape[2]
            at_once = max(1, ROLLOUT_NUMBERS // numbers)
            if at_once >= actions.shape[1]:
                return evaluate(actions)
            return torch.cat([evaluate(some) for some in actions.split(at_once, 1)], 1)

        return energies


class _Slots:
    """Where R problems lie in a batch [S, E] of S members: E is the largest count, the rest is padding.

    With equal counts, such as those of one member, the batch is the problems themselves.
    """

    def __init__(self, counts: list[int], device: torch.device):
        self.shape = (len(counts), max(counts))
        self.index = None
        if min(counts) < max(counts):
            places = [
                torch.arange(count, device="cpu") + member * max(counts)
                for member, count in enumerate(counts)
            ]
            self.index = torch.cat(places).to(device)  # in [S E]

    def pack(self, values: Tensor) -> Tensor:
        """[R, ...] -> [S, E, ...], 0 in the padding."""
        if self.index is not None:
            padded = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[1:])
            values = padded.index_copy(0, self.index, values)
        return values.unflatten(0, self.shape)

    def unpack(self, values: Tensor) -> Tensor:
        """[S, E, ...] -> [R, ...]."""
        flat = values.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)


def _of_members(model: LatentModel, members: list[int]) -> LatentModel:
    """A frozen copy of an ensemble with some of its members alone: every parameter is [S, ...]."""
    part = copy.deepcopy(model).requires_grad_(False)
    for parameter in part.parameters():
        parameter.data = parameter.data[members]
    return part


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
