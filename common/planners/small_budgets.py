"""Planners in forms that fit small budgets: fewer candidates a round, so that there are rounds to learn from.

Settings of CEM, hill climbing and the straight-through chain say how many candidates a round has. That
suits hundreds of rollouts; at 16 it leaves one round or two. iCEM and MPPI say how many rounds there are,
and fit as they are; so does coarse CEM, whose coarse rounds are cheap; random shooting has nothing to learn,
and the flat gradient nothing to fit.
"""

from dataclasses import replace

from .cem import CEM
from .hill_climbing import HillClimbing
from .problem import BACKWARD_COST, Planner
from .straight_through import StraightThrough

ROUNDS = 4  # that a budget should pay for
FEWEST = 8  # candidates of a round of CEM or hill climbing; fewer tell too little


def fitted(planner: Planner, rollouts: int) -> Planner:
    """The planner with settings that leave about ROUNDS rounds in so many rollouts a problem.

    With the settings that planners have by default it is the planner itself from 128 rollouts on. CEM and
    hill climbing keep 8 candidates a round, so that at 8 rollouts they are random shooting; CEM's elites
    are a quarter of its population at most. A chain gives up hard samples first, then gradient samples; its
    smallest form takes one gradient an iteration, so that 4 rollouts are enough for it.
    """
    share = rollouts // ROUNDS
    if isinstance(planner, CEM) and planner.coarse_share == 0:
        population = min(planner.population, max(FEWEST, share))
        return replace(planner, population=population, elites=min(planner.elites, max(1, population // 4)))
    if isinstance(planner, HillClimbing):
        return replace(planner, swaps=min(planner.swaps, max(FEWEST, share)))
    if isinstance(planner, StraightThrough):
        share = (rollouts - 1) // ROUNDS  # one rollout serves the relaxation gap
        gradients = max(1, min(planner.gradient_samples, share // (1 + BACKWARD_COST)))
        hard = max(0, share - (1 + BACKWARD_COST) * gradients)
        return replace(planner, gradient_samples=gradients, hard_samples=min(planner.hard_samples, hard))
    return planner
