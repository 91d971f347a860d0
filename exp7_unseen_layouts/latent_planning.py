"""Planning through the flat model's latents, as the field does it: the distance to the goal's latent.

Shapes: B problems, N candidates, T steps, A actions, H, X of a map, G goal observations, d channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.planners.problem import PlanningProblem
from exp7_unseen_layouts.dataset import ACTIONS, Layout, with_agent
from exp7_unseen_layouts.episodes import Episodes
from exp7_unseen_layouts.models import SpatialModel

MAPS_AT_ONCE = 512  # whole maps in a rollout without a gradient; bounds the memory
LARGEST = 1e3  # of a latent's numbers in a rollout: without a bound, one that explodes has no finite energy


def goal_grids(layout: Layout) -> Tensor:
    """Observations of a layout's goal: the agent there, facing every way: [4, H, X] contents.

    Where the map has a cell on which an episode ends with a reward, found by stepping onto it.

    Raises:
        ValueError: the map has no such cell.
    """
    layout.reset()
    cells = [cell for cell in zip(*torch.where(layout.read_map() > 0), strict=True)]
    for row, column in (map(int, cell) for cell in cells):
        for direction, (dx, dy) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
            if not _stands(layout, row - dy, column - dx):
                continue
            layout.reset()
            layout.place((column - dx, row - dy, direction))
            reached, _ = layout.step(ACTIONS.index("forward"))
            if reached:
                layout.reset()
                grid, place = layout.read_map(), torch.tensor([[column, row, way] for way in range(4)])
                return with_agent(grid.expand(4, -1, -1), place, torch.zeros(4, dtype=torch.int64))
    raise ValueError(f"{layout.name} has no cell on which an episode ends with a reward")


def _stands(layout: Layout, row: int, column: int) -> bool:
    """Whether the agent can stand there."""
    grid = layout.core.grid
    if not (0 <= row < grid.height and 0 <= column < grid.width):
        return False
    thing = grid.get(column, row)
    return thing is None or thing.can_overlap()


@dataclass(frozen=True, eq=False)
class LatentProblems:
    """Planning problems of some episodes in one member's latents, all of one size of map."""

    model: SpatialModel
    latents: Tensor  # [B, H, X, d] of the present observations
    goals: Tensor  # [B, G, H, X, d]
    actions: tuple[int, ...]  # indices of ACTIONS, of the columns of a plan

    @classmethod
    def of(cls, model: SpatialModel, episodes: Episodes, chosen: Sequence[int]) -> "LatentProblems":
        """Those of the chosen episodes, from their starts."""
        grids, goals, known = [], [], {}
        for episode in chosen:
            index = int(episodes.layout[episode])
            layout = episodes.layouts[index]
            if index not in known:
                known[index] = goal_grids(layout)
            goals.append(known[index])
            grid, pose, held = episodes.start(episode)
            grids.append(with_agent(grid[None], pose[None], torch.tensor([held]))[0])
        with torch.no_grad():
            latents, goals = (model.encode(torch.stack(part)[None])[0] for part in (grids, goals))
        return cls(model, latents, goals, layout.actions)

    def distance(self, latents: Tensor) -> Tensor:
        """Half the squared distance to the nearest goal observation: [B, N, H, X, d] -> [B, N]."""
        apart = latents[:, :, None] - self.goals[:, None]
        return 0.5 * apart.square().sum((-1, -2, -3)).amin(-1)

    def energies(self, actions: Tensor) -> Tensor:
        """Distances after every step, unsnapped: [B, N, T, A] -> [B, N, T]."""
        at_once = max(1, MAPS_AT_ONCE // len(self.latents))
        if actions.requires_grad or at_once >= actions.shape[1]:
            return self._rollout(actions)
        return torch.cat([self._rollout(some) for some in actions.split(at_once, 1)], 1)

    def step(self, latents: Tensor, actions: Tensor) -> Tensor:
        """One step as plans are rolled out, kept within LARGEST: [1, N, H, X, d], [1, N, A] -> the former."""
        return self.model(latents, actions).clamp(-LARGEST, LARGEST)

    def spread(self, actions: Tensor) -> Tensor:
        """Plans over the layouts' actions as plans over all ACTIONS: [..., A'] -> [..., A]."""
        every = actions.new_zeros(*actions.shape[:-1], len(ACTIONS))
        every[..., list(self.actions)] = actions
        return every

    def _states(self, actions: Tensor) -> Iterator[Tensor]:
        """Latents [1, B N, H, X, d] after each step of plans [B, N, T, A']."""
        state = self.latents.repeat_interleave(actions.shape[1], 0)[None]
        for step in self.spread(actions).flatten(0, 1).unbind(1):
            state = self.step(state, step[None])
            yield state

    def _rollout(self, actions: Tensor) -> Tensor:
        states = (state[0].unflatten(0, actions.shape[:2]) for state in self._states(actions))
        return torch.stack([self.distance(state) for state in states], -1)

    @torch.no_grad()
    def saturated(self, actions: Tensor) -> Tensor:
        """The share of a latent's numbers that are at LARGEST after plans [B, T, A']: a number."""
        *_, last = self._states(actions[:, None])
        return (last.abs() >= LARGEST).double().mean()

    def problem(self, horizon: int, budget: int, **options) -> PlanningProblem:
        """The planning problem; the distance at the start is its scale."""
        with torch.no_grad():
            scale = self.distance(self.latents[:, None])[:, 0]
        return PlanningProblem(
            self.energies, num_problems=len(self.latents), horizon=horizon, num_actions=len(self.actions),
            budget=budget, energy_scale=scale, **options,
        )  # fmt: skip
