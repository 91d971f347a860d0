"""Planning problems in an ensemble of latent models, all members in one batch.

Shapes: S members, N states of the environment, G goals, R problems (any number for each member), E problems
of the member that has most, C candidates, T steps, A actions, d latent.

A problem's state is a pair (member, state index): each member plans in its own model.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from common.latent.model import GROUPED_PLANS, SHARED_ROWS, LatentModel
from common.minigrid.task import Task
from common.planners.problem import TEMPERATURE, PlanningProblem
from common.planners.table_model import TableModel

VECTOR = 64  # numbers; a multiple of what processors compute at once
ROLLOUT_NUMBERS = 2**24  # hidden numbers of a rollout without gradient that are in memory at once

# (states [R, 2], horizon, budget, over_time, temperature) -> the planning problem from there
MakeProblem = Callable[[Tensor, int, int, str, float], PlanningProblem]


class LatentProblems:
    """Makes planning problems of a trained model on its task.

    A member's plans are the same to the bit whatever members plan beside it: the sizes of the products that
    its latents are in depend on its own problems alone (see `_sharing`).

    Args:
        model: trained, its weights frozen.
        task: its environment; only observations and the goals that the walks reached are used.
        stride: of the jumpy level to plan over; a model without it plans without.
        device: where the model is.

    Attributes:
        latents: of all states, [S, N, d].
        goals: latents of the goals that each member's walks reached, the last repeated to fill up, [S, G, d].
        energy: of all states, [S, N].
    """

    def __init__(self, model: LatentModel, task: Task, stride: int, device: torch.device):
        self.stride, self.device = stride, device
        self.num_actions = task.world.num_actions
        self._ensemble = _Ensemble(model, task, device)
        self.latents, self.energy = self._ensemble.latents, self._ensemble.energy
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
        jumpy = str(self.stride) in self._ensemble.model.jumpy
        counts = torch.bincount(states[:, 0], minlength=len(self.latents)).tolist()
        member, index = states.to(self.device).unbind(1)
        energies = partial(self._ensemble.energies, self.latents[member, index], counts)
        return PlanningProblem(
            energies(_steps),
            num_problems=len(states),
            horizon=horizon,
            num_actions=self.num_actions,
            budget=budget,
            energy_scale=self.energy[member, index],
            over_time=over_time,
            temperature=temperature,
            jumpy_energies=energies(partial(_jumps, stride=self.stride)) if jumpy else None,
            stride=self.stride,
            device=self.device,
        )


Rollout = Callable[[LatentModel, Tensor, Tensor], Tensor]  # (model, start, actions) -> latents over time


def _steps(model: LatentModel, start: Tensor, actions: Tensor) -> Tensor:
    return model.transition.rollout(start, actions)


def _jumps(model: LatentModel, start: Tensor, actions: Tensor, stride: int) -> Tensor:
    return model.jump(start, actions, stride)


class _Ensemble:
    """A model's members alone and together, and what they know of the task: no way to the environment."""

    def __init__(self, model: LatentModel, task: Task, device: torch.device):
        self.model = model
        members = range(len(task.walks))
        self.parts = {(member,): _of_members(model, [member]) for member in members}
        # without the repetitions that fill up: how many there are depends on the other seeds
        goals = [own.unique_consecutive().to(device) for own in task.goals]
        with torch.no_grad():
            observations = task.observations.to(device)
            latents = [self.part((member,)).encoder(observations[[member]]) for member in members]
            self.goals = [own[:, here] for own, here in zip(latents, goals, strict=True)]  # [1, G, d] each
            energies = [
                self.part((member,)).energy(latents[member], self.goals[member]) for member in members
            ]
        self.latents, self.energy = torch.cat(latents), torch.cat(energies)
        parts = (model.transition, model.jumpy)
        self.unit = math.gcd(*(weight.shape[-1] for part in parts for weight in part.parameters()))

    def part(self, members: tuple[int, ...]) -> LatentModel:
        """The model of these members alone, made when first asked for."""
        if members not in self.parts:
            self.parts[members] = _of_members(self.model, list(members))
        return self.parts[members]

    def energies(self, starts: Tensor, counts: list[int], rollout: Rollout) -> Callable[[Tensor], Tensor]:
        """Energies over time [R, C, T, A] -> [R, C, T] from latents [R, d], so many of each member."""
        packings: dict[tuple[int, bool], list[_Packing]] = {}

        def evaluate(actions: Tensor) -> Tensor:
            asked = actions.shape[1], actions.requires_grad
            if asked not in packings:
                packings[asked] = [
                    _Packing(own, counts, starts) for own in _sharing(counts, self.unit, *asked)
                ]
            found: dict[int, Tensor] = {}
            for packing in packings[asked]:
                packed = packing.pack(actions).flatten(1, 2)  # [S, E C, T, A]
                start = packing.starts.repeat_interleave(actions.shape[1], 1)
                latents = rollout(self.part(packing.members), start, packed)  # [S, E C, T, d]
                for member, own in zip(packing.members, latents.split(1), strict=True):
                    energies = self.part((member,)).energy(own, self.goals[member])
                    found[member] = energies[0].unflatten(0, (-1, actions.shape[1]))
            return torch.cat([found[member] for member in sorted(found)])

        def energies(actions: Tensor) -> Tensor:
            if actions.requires_grad:
                return evaluate(actions)
            at_once = max(1, ROLLOUT_NUMBERS // (max(counts) * actions.shape[2] * 4 * starts.shape[1]))
            if at_once >= actions.shape[1]:
                return evaluate(actions)
            return torch.cat([evaluate(some) for some in actions.split(at_once, 1)], 1)

        return energies


class _Packing:
    """Problems of members that have equally many, as a batch [S, E] of these members."""

    def __init__(self, members: tuple[int, ...], counts: list[int], starts: Tensor):
        self.members = members
        self.shape = (len(members), counts[members[0]])
        first = [sum(counts[:member]) for member in members]
        self.index = None
        if sum(counts) > self.shape[0] * self.shape[1]:  # there are others
            own = torch.tensor(first, device="cpu")[:, None] + torch.arange(self.shape[1], device="cpu")
            self.index = own.flatten().to(starts.device)
        self.starts = self.pack(starts)

    def pack(self, values: Tensor) -> Tensor:
        """[R, ...] -> [S, E, ...]."""
        own = values if self.index is None else values.index_select(0, self.index)
        return own.unflatten(0, self.shape)


def _sharing(counts: list[int], unit: int, candidates: int, gradient: bool) -> list[tuple[int, ...]]:
    """Members that share a batch: those with equally many problems, so that nothing is filled up.

    What rounding depends on is then the member's own: the rows of its products, and that `unit`, a divisor
    of all widths, gives it whole vectors in elementwise operations, which compute what is left over
    otherwise. Members with the fewest rows stay alone, because a matrix is cheaper than a batch of one; so
    do those with the most rows where no gradient is asked for: sharing saves them nothing, and discrete
    plans of one member alone can be grouped by action (latent/model.py).
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for member, count in enumerate(counts):
        rows = count * candidates
        alone = rows < SHARED_ROWS or rows * unit % VECTOR or (not gradient and rows >= GROUPED_PLANS)
        if count:
            groups.setdefault((count, member if alone else -1), []).append(member)
    return [tuple(members) for members in groups.values()]


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
