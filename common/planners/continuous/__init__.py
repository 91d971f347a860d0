"""Planners on actions in a box, behind the interface of those on discrete actions."""

from typing import Any

from .gradient import AdamGradient, NormalisedGradient, PlainGradient
from .icem import ContinuousICEM
from .mppi import ContinuousMPPI
from .problem import ContinuousPlanner
from .random_shooting import ContinuousShooting

CONTINUOUS_PLANNERS = {
    "gradient": PlainGradient,
    "normalised_gradient": NormalisedGradient,
    "adam": AdamGradient,
    "icem": ContinuousICEM,
    "mppi": ContinuousMPPI,
    "random_shooting": ContinuousShooting,
}


def make_continuous_planner(name: str, **hyperparameters: Any) -> ContinuousPlanner:
    """The planner of that name in CONTINUOUS_PLANNERS with these hyperparameters.

    Raises:
        ValueError: for an unknown name.
        TypeError: for a hyperparameter that the planner does not have.
    """
    if name not in CONTINUOUS_PLANNERS:
        raise ValueError(f"no planner {name!r}; there are {', '.join(CONTINUOUS_PLANNERS)}")
    return CONTINUOUS_PLANNERS[name](**hyperparameters)
