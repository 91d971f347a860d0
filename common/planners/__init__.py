"""Planners on discrete actions, behind one interface, and the control loops that execute their plans."""

from typing import Any

from common.planners.cem import CEM, CoarseCEM
from common.planners.flat_gradient import FlatGradient
from common.planners.helm import Helm
from common.planners.problem import Planner
from common.planners.random_shooting import RandomShooting
from common.planners.verified_gradient import VerifiedGradient

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
