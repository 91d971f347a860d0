"""Planners on discrete actions, behind one interface, and the control loops that execute their plans."""

from typing import Any

from .cem import CEM, CoarseCEM
from .flat_gradient import FlatGradient
from .helm import Helm
from .problem import Planner
from .random_shooting import RandomShooting
from .verified_gradient import VerifiedGradient

PLANNERS = {
    "flat_gradient": FlatGradient,
    "verified_gradient": VerifiedGradient,
    "helm": Helm,
    "cem": CEM,
    "coarse_cem": CoarseCEM,
    "random_shooting": RandomShooting,
}


def make_planner(name: str, **hyperparameters: Any) -> Planner:
    """The planner of that name in PLANNERS with these hyperparameters.

    Raises:
        ValueError: for an unknown name.
        TypeError: for a hyperparameter that the planner does not have.
    """
    if name not in PLANNERS:
        raise ValueError(f"no planner {name!r}; there are {', '.join(PLANNERS)}")
    return PLANNERS[name](**hyperparameters)
