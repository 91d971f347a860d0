"""The product of modes and poses that a learned model's own rollouts reach, as the states of a belief.

A mode is the snapped map without the agent, with what the agent carries. Within a mode the transfer kernel
moves the pose. Where the kernel says that an action changes the map, the spatial model predicts the map that
follows: a mode, new or known. The environment is not asked, and no kind of object is treated specially.

Shapes: N states, A actions, K successors, P poses of a map, M modes, F states of a level of the search.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.planners.belief_model import BeliefModel
from exp7_unseen_layouts.dataset import ACTIONS, crop, with_agent, without_agent
from exp7_unseen_layouts.models import SpatialModel, TransferKernel, kernel_of_maps, outcome_poses

GOAL = 0  # the state that is reached with the goal; every graph's first
KEPT = 4  # outcomes of an action that a belief may follow
CHANGES = 0.5  # probability from which on an action counts as changing the map
SETTLED = 1e-3  # change of a value below which value iteration ends [steps]

State = tuple[Tensor, Tensor, int]  # map [H, X], pose [3] (column, row, direction), carried


@dataclass(frozen=True)
class Simulator:
    """The learned model of one member, all that planning asks."""

    spatial: SpatialModel
    kernel: TransferKernel
    floor: float  # probability below which an outcome is left out


@dataclass(frozen=True, eq=False)
class StateGraph:
    """States, where actions lead, and how far the goal is: V(s) = min_a 1 + sum_s' P(s' | s, a) V(s')."""

    successors: Tensor  # [N, A, K] int64
    probabilities: Tensor  # [N, A, K] float32, rows sum to 1
    value: Tensor  # [N] steps to go; at most `farthest`
    mode: Tensor  # [N] int64, -1 of the goal
    pose: Tensor  # [N] int64, -1 of the goal
    maps: Tensor  # [M, H, X] int64
    carried: Tensor  # [M] int64
    starts: Tensor  # [E] int64: the states that the search began at
    known: Tensor  # [N] bool: the search looked at what actions do there
    evaluations: int  # model steps and kernel rows that the search asked for

    @property
    def num_modes(self) -> int:
        """M."""
        return len(self.maps)

    def find(self, state: State) -> int | None:
        """The number of a state, None where the search did not look at it."""
        grid, pose, carried = state
        same = (self.maps == grid.long()).flatten(1).all(1) & (self.carried == carried)
        place = (int(pose[1]) * grid.shape[1] + int(pose[0])) * 4 + int(pose[2])
        found = (same.nonzero().flatten()[:, None] == self.mode) & (self.pose == place) & self.known
        return int(found.any(0).int().argmax()) if found.any() else None

    def restricted(self, start: int, slack: int) -> tuple["StateGraph", int]:
        """The states within `slack` steps of a shortest path from a start, and the start among them.

        What lies beyond is kept where an action leads there, as states that are never left again and whose
        value is known.
        """
        near = steps_from(self, start) + self.value <= self.value[start] + slack
        near[GOAL] = True
        border = torch.zeros_like(near)
        border[self.successors[near].flatten()] = True
        keep = (near | border).nonzero().flatten()
        renumbered = torch.full((len(near),), -1).index_copy(0, keep, torch.arange(len(keep)))
        successors, probabilities = renumbered[self.successors[keep]], self.probabilities[keep]
        beyond = ~near[keep]
        successors[beyond] = torch.arange(len(keep))[beyond, None, None]
        return StateGraph(
            successors, probabilities, self.value[keep], self.mode[keep], self.pose[keep], self.maps,
            self.carried, renumbered[self.starts], self.known[keep], self.evaluations,
        ), int(renumbered[start])  # fmt: skip


def belief_model(graphs: Sequence[StateGraph], starts: Sequence[int]) -> tuple[BeliefModel, Tensor]:
    """Graphs side by side, one a problem, and the problems' starts among all their states: [B]."""
    sizes = torch.tensor([len(graph.value) for graph in graphs])
    first = sizes.cumsum(0) - sizes
    width = max(graph.successors.shape[-1] for graph in graphs)
    successors, probabilities = [], []
    for graph, offset in zip(graphs, first.tolist(), strict=True):
        more = width - graph.successors.shape[-1]
        filled = graph.successors[..., :1].expand(-1, -1, more)
        successors.append(torch.cat([graph.successors, filled], -1) + offset)
        probabilities.append(torch.nn.functional.pad(graph.probabilities, (0, more)))
    energy = torch.cat([graph.value for graph in graphs])
    model = BeliefModel(torch.cat(successors), torch.cat(probabilities), energy, sizes)
    return model, first + torch.tensor(starts)


def steps_from(graph: StateGraph, start: int) -> Tensor:
    """Least number of steps from a state to every other along any successor: [N] float, inf if none."""
    steps = torch.full((len(graph.value),), torch.inf)
    frontier, count = torch.tensor([start]), 0
    while len(frontier):
        steps[frontier] = count
        reached = torch.zeros(len(steps), dtype=torch.bool)
        followed = graph.probabilities[frontier] > 0
        reached[graph.successors[frontier][followed]] = True
        frontier = (reached & steps.isinf()).nonzero().flatten()
        count += 1
    return steps


def iterate_values(
    successors: Tensor, probabilities: Tensor, known: Tensor, sweeps: int, value: Tensor | None = None
) -> Tensor:
    """Value iteration to the goal: [N, A, K], [N, A, K], known [N] bool -> V [N], at most `sweeps`.

    States that are not known (their actions were never looked at) keep V = `sweeps`.
    """
    value = torch.full((len(known),), float(sweeps)) if value is None else value.clone()
    value[GOAL] = 0.0
    rows = known.nonzero().flatten()
    rows = rows[rows != GOAL]
    successors, probabilities = successors[rows], probabilities[rows]
    for _ in range(sweeps):
        following = (probabilities * value[successors]).sum(-1)
        better = (1 + following.amin(1)).clamp(max=float(sweeps))
        change = (value[rows] - better).abs().amax() if len(rows) else torch.tensor(0.0)
        value[rows] = better
        if change < SETTLED:
            break
    return value


# ----------------------------------------------------------------------------------------------
# The search
# ----------------------------------------------------------------------------------------------


class _Search:
    """Breadth-first search from some states in the model's own rollouts, all of a level in one batch."""

    def __init__(self, simulator: Simulator, actions: Sequence[int], shape: tuple[int, int]):
        self.simulator, self.actions, self.shape = simulator, torch.tensor(actions), shape
        self.leads_to = outcome_poses(*shape)  # [P, O]
        self.places = len(self.leads_to)  # P
        self.modes: dict[bytes, int] = {}
        self.maps: list[Tensor] = []
        self.carried: list[int] = []
        self.kernels: list[tuple[Tensor, ...]] = []  # of each mode looked at, see _look
        self.number = torch.zeros(0, self.places, dtype=torch.int64)  # [M, P], of a state; -1 for none
        self.mode, self.pose = [torch.tensor([-1])], [torch.tensor([-1])]
        self.rows = [torch.zeros(1, len(actions), 1 + KEPT, dtype=torch.int64)]  # successors
        self.odds = [torch.tensor([1.0] + [0.0] * KEPT).expand(1, len(actions), -1)]
        self.count, self.evaluations = 1, 0  # states found, the goal first

    def add_mode(self, grid: Tensor, carried: int) -> int:
        """The number of a mode, which is made where it is new."""
        key = grid.numpy().tobytes() + carried.to_bytes(2, "little")
        mode = self.modes.setdefault(key, len(self.maps))
        if mode == len(self.maps):
            self.maps.append(grid)
            self.carried.append(carried)
            self.number = torch.cat([self.number, torch.full((1, self.places), -1)])
        return mode

    def add_states(self, modes: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of states [F], and those among them that are new, each once."""
        keys = modes * self.places + poses
        flat = self.number.view(-1)
        unseen = keys[flat[keys] < 0].unique()
        fresh = self.count + torch.arange(len(unseen))
        flat[unseen] = fresh
        self.count += len(unseen)
        self.mode.append(unseen // self.places)
        self.pose.append(unseen % self.places)
        return flat[keys], fresh

    def expand(self, frontier: Tensor) -> Tensor:
        """Look at every action in the states [F] of a level; the states that are new: the next level."""
        mode, pose = torch.cat(self.mode)[frontier], torch.cat(self.pose)[frontier]
        self._look(mode.unique().tolist())
        outcomes, odds, changes, reaches = self._rows(mode, pose)
        following = self.leads_to[pose[:, None, None], outcomes]  # [F, A, KEPT]
        modes = mode[:, None, None].expand_as(following).clone()
        state, action = (changes > CHANGES).nonzero(as_tuple=True)
        if len(state):
            changed = self._change(mode[state], pose[state], self.actions[action])
            modes[state, action], following[state, action] = (part[:, None] for part in changed)
            odds[state, action] = torch.tensor([1.0] + [0.0] * (KEPT - 1))
        likely = (odds * (1 - reaches[..., None])) > 0
        first = modes[..., :1], following[..., :1]  # stands where nothing follows
        modes, following = (
            torch.where(likely, part, instead)
            for part, instead in zip((modes, following), first, strict=True)
        )
        arrives = reaches >= 1  # surely: nothing else follows
        targets = torch.zeros_like(following)
        numbers, fresh = self.add_states(modes[~arrives].flatten(), following[~arrives].flatten())
        targets[~arrives] = numbers.view(-1, KEPT)
        goal = torch.full_like(targets[..., :1], GOAL)
        self.rows.append(torch.cat([goal, targets], -1))
        self.odds.append(torch.cat([reaches[..., None], odds * (1 - reaches[..., None])], -1))
        return fresh

    def _look(self, modes: Sequence[int]) -> None:
        """The kernel of modes that were not looked at before."""
        new = [mode for mode in modes if mode >= len(self.kernels) or self.kernels[mode] is None]
        self.kernels += [None] * (len(self.maps) - len(self.kernels))
        if not new:
            return
        maps, carried = torch.stack([self.maps[mode] for mode in new]), [self.carried[mode] for mode in new]
        floor = self.simulator.floor
        odds, changes, reaches = kernel_of_maps(
            self.simulator.spatial, self.simulator.kernel, maps, torch.tensor(carried)
        )
        odds, outcomes = odds[:, :, self.actions].topk(KEPT, -1)
        odds = odds * (odds >= floor)
        odds[..., 0] = odds[..., 0].clamp(min=floor if floor else 1e-9)  # the likeliest always stays
        odds = odds / odds.sum(-1, keepdim=True)
        changes, reaches = changes[:, :, self.actions], reaches[:, :, self.actions]
        reaches = torch.where(reaches < floor, 0.0, torch.where(reaches > 1 - floor, 1.0, reaches))
        self.evaluations += maps.numel() * 4 * len(self.actions)
        for index, mode in enumerate(new):
            self.kernels[mode] = outcomes[index], odds[index], changes[index], reaches[index]

    def _rows(self, mode: Tensor, pose: Tensor) -> list[Tensor]:
        """Outcomes, their odds [F, A, KEPT], odds of a change and of the goal [F, A] of states [F]."""
        order = mode.argsort(stable=True)
        modes, counts = mode[order].unique_consecutive(return_counts=True)
        parts = [
            [part[own] for part in self.kernels[each]]
            for each, own in zip(modes.tolist(), pose[order].split(counts.tolist()), strict=True)
        ]
        back = order.argsort()
        return [torch.cat(column)[back] for column in zip(*parts, strict=True)]

    def _change(self, mode: Tensor, pose: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Modes and poses [F] that follow an action which changes the map, by the spatial model.

        A step changes 3x3 cells around the agent at most, so these alone are predicted, from 5x5.
        """
        width = self.shape[1]
        place = torch.stack([pose // 4 % width, pose // 4 // width, pose % 4], 1)
        maps = torch.stack([self.maps[each] for each in mode.tolist()])
        carried = torch.tensor([self.carried[each] for each in mode.tolist()])
        grids = with_agent(maps, place, carried)
        around = crop(grids, place[:, :2], 2)
        self.evaluations += len(mode)
        predicted = self.simulator.spatial.step_contents(around[None], action[None])[0, :, 1:-1, 1:-1]
        padded = torch.nn.functional.pad(grids, [1] * 4)
        reach = torch.arange(3)
        rows, columns = place[:, 1, None, None] + reach[:, None], place[:, 0, None, None] + reach
        padded[torch.arange(len(grids))[:, None, None], rows, columns] = predicted
        after, poses, held = without_agent(padded[:, 1:-1, 1:-1])
        gone = ~(after != padded[:, 1:-1, 1:-1]).flatten(1).any(1)  # no predicted cell holds the agent
        poses[gone], held[gone] = place[gone], carried[gone]
        after = after.contiguous()
        modes = [self.add_mode(grid, int(own)) for grid, own in zip(after, held, strict=True)]
        return torch.tensor(modes), (poses[:, 1] * width + poses[:, 0]) * 4 + poses[:, 2]

    def graph(self, sweeps: int, starts: Tensor) -> StateGraph:
        """What was found so far, with its values."""
        rows, odds = torch.cat(self.rows), torch.cat(self.odds)
        expanded = len(rows)
        successors = torch.arange(self.count)[:, None, None].expand(-1, *rows.shape[1:]).clone()
        probabilities = torch.zeros(self.count, *rows.shape[1:])
        probabilities[..., 0] = 1.0  # what was not looked at is never left
        successors[:expanded], probabilities[:expanded] = rows, odds
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        width = max(1, int((probabilities > 0).sum(-1).max()))
        successors = successors.gather(-1, order)[..., :width].contiguous()
        probabilities = probabilities[..., :width].contiguous()
        known = torch.arange(self.count) < expanded
        return StateGraph(
            successors, probabilities, iterate_values(successors, probabilities, known, sweeps),
            torch.cat(self.mode), torch.cat(self.pose), torch.stack(self.maps), torch.tensor(self.carried),
            starts, known, self.evaluations,
        )  # fmt: skip


def explore(
    simulator: Simulator,
    starts: Sequence[State],
    actions: Sequence[int],
    *,
    slack: int,
    sweeps: int,
    max_modes: int,
) -> StateGraph:
    """The states that the model reaches from some starts of one layout, level by level.

    While there is one map only, all of its states are looked at. Where maps multiply, the search ends
    `slack` steps beyond the value of the farthest start, or where there are `max_modes` of them: all shortest
    paths, and what is near them, are in it.

    Args:
        simulator: of one member.
        starts: states, of one size of map.
        actions: indices of ACTIONS that planning may use.
        slack: [steps].
        sweeps: of value iteration, at most; the largest value.
        max_modes: M at most.
    """
    if not set(actions) <= set(range(len(ACTIONS))):
        raise ValueError(f"actions = {actions!r}: must be indices of {ACTIONS}")
    search = _Search(simulator, actions, tuple(starts[0][0].shape))
    width = starts[0][0].shape[1]
    modes = torch.tensor([search.add_mode(grid.long().contiguous(), int(held)) for grid, _, held in starts])
    poses = torch.stack([torch.as_tensor(pose) for _, pose, _ in starts]).long()
    numbers, frontier = search.add_states(modes, (poses[:, 1] * width + poses[:, 0]) * 4 + poses[:, 2])
    depth, arrived, farthest = 0, False, float(sweeps)
    while len(frontier) and depth < sweeps and len(search.maps) <= max_modes:
        if arrived and len(search.maps) > 1 and farthest == sweeps:
            farthest = float(search.graph(sweeps, numbers).value[numbers].max())
        if depth > farthest + slack:
            break
        frontier = search.expand(frontier)
        arrived = arrived or bool((search.odds[-1][..., 0] > CHANGES).any())
        depth += 1
    return search.graph(sweeps, numbers)
