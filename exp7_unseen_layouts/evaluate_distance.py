"""How well a quasimetric head knows the way: beside the belief's V, in layouts trained on and in others.

Shapes: S seeds, E episodes, H, X of a map, w channels of the head, h metric.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp7Config
from common.objectives import quasimetric
from common.run.cache import reads_settings
from common.run.run import Run
from common.statistics import spearman
from exp7_unseen_layouts.dataset import without_agent
from exp7_unseen_layouts.episodes import (
    EPISODE_FIELDS,
    Episodes,
    descend,
    draw_episodes,
    episodes_of,
)
from exp7_unseen_layouts.evaluate_models import record_knowledge
from exp7_unseen_layouts.evaluate_planners import member_of
from exp7_unseen_layouts.latent_planning import goal_grids
from exp7_unseen_layouts.models import QuasimetricHead, SpatialModel
from exp7_unseen_layouts.train_quasimetric import train_head


@dataclass(frozen=True)
class _Distances:
    """One member's distances from poses to the goals of some episodes."""

    head: QuasimetricHead
    cells: Tensor  # [E, H, X, w] of the episodes' maps
    goals: Tensor  # [E, 4, h]

    @classmethod
    def of(cls, head: QuasimetricHead, model: SpatialModel, episodes: Episodes) -> "_Distances":
        """Of all episodes; a layout is looked at once."""
        maps, goals = [], []
        for layout in episodes.layouts[: int(episodes.layout.max()) + 1]:
            grids, poses, _ = without_agent(goal_grids(layout))
            maps.append(grids[0])
            goals.append(poses)
        cells = head(model.encode(torch.stack(maps)[None]))
        points = head.embed(cells, torch.stack(goals)[None])[0]
        return cls(head, cells[0][episodes.layout], points[episodes.layout])

    def __call__(self, poses: Tensor) -> Tensor:
        """Steps to the nearest goal pose: [E, 3] -> [E]."""
        points = self.head.embed(self.cells[None], poses[None, :, None])[0]
        return quasimetric(points, self.goals).amin(1)


@reads_settings("seeds", *EPISODE_FIELDS, "planning_horizons")
def measure_quasimetric(
    family: str,
    part: str,
    drawn: Mapping[str, Tensor],
    snapped: SpatialModel,
    head: QuasimetricHead,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """How well the head's distance orders the starts, and where descending it leads.

    Returns:
        [S] each: `quasimetric/spearman` with the true steps; `quasimetric/greedy`, the share of starts from
        which its descent, one predicted step at a time, arrives within the longest T.
    """
    episodes = episodes_of(family, part, drawn, config)
    found: dict[str, list] = {"quasimetric/spearman": [], "quasimetric/greedy": []}
    for seed in range(len(config.seeds)):
        model, own = member_of(snapped, seed), member_of(head, seed)
        with torch.no_grad():
            distance = _Distances.of(own, model, episodes)
            agreement = spearman(distance(episodes.pose), episodes.shortest)
            arrived = _descend(distance, model, episodes, max(config.planning_horizons))
        found["quasimetric/spearman"].append(torch.tensor(agreement))
        found["quasimetric/greedy"].append(arrived.mean())
    return {name: torch.stack(values).double() for name, values in found.items()}


def _descend(distance: _Distances, model: SpatialModel, episodes: Episodes, steps: int) -> Tensor:
    """See `descend`: the distance of the pose that the model predicts."""

    def after(grids: Tensor) -> Tensor:
        predicted = [
            model.step_contents(grids[None], torch.full((1, len(grids)), action))[0]
            for action in episodes.layouts[0].actions
        ]
        return torch.stack([distance(without_agent(some)[1]) for some in predicted], 1)

    return descend(episodes, range(len(episodes.layout)), steps, after)


def compare_distances(run: Run, snapped: SpatialModel, parts: Sequence[str]) -> None:
    """Metrics `{env}/quasimetric/{spearman,greedy}`, of training layouts `train_layouts/{env}/..`."""
    head, families = train_head(run, snapped)
    for part in parts:
        drawn = draw_episodes(run, part, families)
        steps = [
            (measure_quasimetric, f"{env}/{part}/quasimetric", env, part, own, snapped, head)
            for env, own in drawn.items()
        ]
        for env, measured in zip(drawn, run.measure_all(steps), strict=True):
            record_knowledge(run.results, env, part, measured)
