"""The published claim, planners on aligned latents, and the two pillars with their interaction.

Shapes: S seeds, E episodes.
"""

from collections.abc import Mapping, Sequence

from common.latent.comparison import Outcomes
from common.minigrid.task import Task
from common.run.results import Results
from common.statistics import factorial_effects

# The models that are compared with all planners, by the variant that each is.
COMPARED = {"baseline": "reconstruction", "unified_published": "unified_published", "unified": "unified"}
PILLAR_PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem")
DESIGNS = {"qrl_symmetric": "two_pillars", "infonce": "two_pillars_infonce"}  # of the 2x2, by its metric


def corners(objective: str) -> dict[str, str]:
    """The variants at the corners of the 2x2 in which `objective` stands for metric alignment."""
    return {
        "none": "reconstruction",
        "spectral": "reconstruction_spectral",
        "metric": objective,
        "both": f"{objective}_spectral",
    }


def record_pillars(
    results: Results, task: Task, prefix: str, found: Mapping[str, Outcomes], horizons: Sequence[int]
) -> None:
    """`{prefix}/T=../..`: success at the corners and the effects, with 95% intervals over the same starts."""
    for horizon in horizons:
        here = f"T={horizon}"
        success = {corner: measured[f"{here}/success"] for corner, measured in found.items()}
        for corner, values in success.items():
            results.add_rate(f"{prefix}/{here}/{corner}", values, task.all_starts)
        for effect, values in factorial_effects(**success).items():
            results.add_difference(f"{prefix}/{here}/{effect}", values, task.all_starts)
