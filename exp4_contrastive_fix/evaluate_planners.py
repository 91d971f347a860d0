"""The published claim, planners on aligned latents, and the two pillars with their interaction.

Shapes: S seeds, E episodes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from common.minigrid_task import Task
from common.planner_comparison import record_difference
from common.planner_evaluation import paired_interval
from common.results import Results

# The models that are compared with all planners, by the arm that each is.
COMPARED = {"baseline": "reconstruction", "unified_published": "unified_published", "unified": "unified"}
PILLAR_PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem")
DESIGNS = {"qrl_symmetric": "two_pillars", "infonce": "two_pillars_infonce"}  # of the 2x2, by its metric
AGAINST_CEM = ("verified_gradient", "helm")
EPISODE_TILE = 12  # side of a cell in pictures of episodes [pixels]


def corners(objective: str) -> dict[str, str]:
    """The arms at the corners of the 2x2 in which `objective` stands for metric alignment."""
    return {
        "none": "reconstruction",
        "spectral": "reconstruction_spectral",
        "metric": objective,
        "both": f"{objective}_spectral",
    }


def factorial_effects(none: Tensor, spectral: Tensor, metric: Tensor, both: Tensor) -> dict[str, Tensor]:
    """Main effects and interaction of a 2x2 design, episode by episode: four [S, E] -> each [S, E].

    A main effect is the mean of what a factor changes without and with the other; the interaction is by how
    much it changes more with the other than without.
    """
    return {
        "main_spectral": ((spectral - none) + (both - metric)) / 2,
        "main_metric": ((metric - none) + (both - spectral)) / 2,
        "interaction": (both - metric) - (spectral - none),
    }


def record_pillars(results: Results, prefix: str, success: Mapping[str, Tensor]) -> None:
    """Success at the corners [S, E] and the effects, with 95% intervals over the same starts."""
    for name, values in (success | factorial_effects(**success)).items():
        interval = paired_interval(values, torch.zeros_like(values))
        results.add(f"{prefix}/{name}", values.mean(1), "1", interval)


def record_against_cem(results: Results, prefix: str, mode: str, horizon: int, success: Mapping[str, Tensor]):
    """`{prefix}/{planner}_minus_cem/..`: paired differences of success [S, E]."""
    for planner in AGAINST_CEM:
        name = f"{prefix}/{planner}_minus_cem/{mode}/T={horizon}/success"
        record_difference(results, name, success[planner], success["cem"])


def record_pictures(results: Results, task: Task) -> None:
    """MiniGrid's picture of every state that a kept episode of the first seed passes, closed loop."""
    prefix = f"{task.name}/"
    names = [name for name in results.arrays if name.startswith(prefix) and name.endswith("/states")]
    visited = [results.arrays[name][0].ravel() for name in names if "/closed/" in name]
    states = np.unique(np.concatenate(visited))
    results.add_array(f"{task.name}/pictures/states", states)
    pictures = np.stack([task.world.render(int(state), EPISODE_TILE) for state in states])
    results.add_array(f"{task.name}/pictures/pixels", pictures)
