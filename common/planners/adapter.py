"""Planning on our problems with the solvers of stable-worldmodel (CategoricalCEM, PGD).

Those ask a model for `get_cost(info, candidates)`. It is written against that protocol (github.com,
rbalestr-lab/stable-worldmodel, solver/solver.py: Costable) and does not import the package.

Shapes: B problems, N candidates, H planning steps of K actions each, A actions; T = H K.
"""

from typing import Any

from torch import Tensor

from .problem import PlanningProblem


class CostModel:
    """A PlanningProblem as the model of a stable-worldmodel solver; its evaluations are counted as ever.

    The solver's batch_size must be the number of problems: a slice of a problem is another problem.
    """

    def __init__(self, problem: PlanningProblem):
        self.problem = problem

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """Energies [B, N] of candidates [B, N, H, K A]; `info` is not needed, the problem knows its starts.

        Raises:
            ValueError: where the solver plans for a slice of the problems.
            BudgetExceeded: where it asks for more than the budget.
        """
        problem = self.problem
        if len(candidates) != problem.num_problems:
            raise ValueError(f"batch_size must be {problem.num_problems}, not {len(candidates)}")
        shape = (*candidates.shape[:2], problem.horizon, problem.num_actions)
        return problem.rollout(candidates.reshape(shape))
