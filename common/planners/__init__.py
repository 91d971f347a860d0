"""Planners on discrete actions, behind one interface, and the control loops that execute their plans."""

from typing import Any

from .belief import Belief
from .cem import CEM, CoarseCEM
from .flat_gradient import FlatGradient
from .growing_cem import GrowingCEM
from .helm import Helm
from .hill_climbing import HillClimbing
from .icem import ICEM
from .mppi import MPPI
from .problem import Planner
from .random_shooting import RandomShooting
from .verified_gradient import VerifiedGradient, VerifiedGradientShuffled, VerifiedGradientZeroed

PLANNERS = {
    "flat_gradient": FlatGradient,
    "verified_gradient": VerifiedGradient,
    "helm": Helm,
    "cem": CEM,
    "coarse_cem": CoarseCEM,
    "random_shooting": RandomShooting,
}
PEERS = {  # beside them: other searches, and a gradient planner without its gradient
    "verified_gradient_zeroed": VerifiedGradientZeroed,
    "verified_gradient_shuffled": VerifiedGradientShuffled,
    "hill_climbing": HillClimbing,
    "icem": ICEM,
    "mppi": MPPI,
}
GROWING = {  # whose horizon grows, for energies that are steps to go and stay 0 where the goal was reached
    "belief": Belief,
    "cem_growing": GrowingCEM,
}


def make_planner(name: str, **hyperparameters: Any) -> Planner:
    """The planner of that name in PLANNERS, PEERS or GROWING with these hyperparameters.

    Raises:
        ValueError: for an unknown name.
        TypeError: for a hyperparameter that the planner does not have.
    """
    known = PLANNERS | PEERS | GROWING
    if name not in known:
        raise ValueError(f"no planner {name!r}; there are {', '.join(known)}")
    return known[name](**hyperparameters)
