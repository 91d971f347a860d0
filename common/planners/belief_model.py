"""A world model whose state is a belief: mass on states, moved by a row-stochastic kernel.

Shapes
    S  states of all problems together; each problem has a block of its own
    A  actions
    K  successors of a state and an action, at most
    B  problems
    N  candidate action sequences of a problem
    T  steps of a sequence

Relaxed actions move the belief b, b_{t+1} = sum_k a_{t,k} P_k^T b_t, from the start, and its energy after
every step is <b, E>. Rows of P sum to 1, so mass is conserved and no step expands a difference of beliefs in
the 1-norm. The energy is linear in the belief and multilinear in the actions: at a discrete plan the gradient
with respect to one action is the energy of taking another, exactly (gradient fidelity 1).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .problem import Energies, PlanningProblem
from .table_model import TableModel

MASS = 1e-4  # by which a row may miss 1


class BeliefModel:
    """Stochastic transitions in blocks, one block a problem, as energies for a PlanningProblem.

    Args:
        successors: [S, A, K] int64, states in the same block.
        probabilities: [S, A, K] float32; each row of K sums to 1.
        energy: [S] float32, finite.
        sizes: [B] int64, states of each block, in order.

    Raises:
        ValueError: for a row that does not sum to 1, a successor in another block, energies that are not one
            finite number a state, or blocks that are not all states.
    """

    def __init__(self, successors: Tensor, probabilities: Tensor, energy: Tensor, sizes: Tensor):
        states, self.num_actions, _ = successors.shape
        if int(sizes.sum()) != states or energy.shape != (states,):
            raise ValueError(f"there must be one energy a state, and blocks of {states} states in all")
        if not energy.isfinite().all():
            raise ValueError("energies must be finite; give unreachable states a large one")
        if (probabilities < 0).any() or ((probabilities.sum(-1) - 1).abs() > MASS).any():
            raise ValueError("each row of probabilities must sum to 1: a belief's mass is conserved")
        self.owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # [S], the problem of a state
        first = (sizes.cumsum(0) - sizes)[self.owner, None, None]
        if ((successors < first) | (successors >= first + sizes[self.owner, None, None])).any():
            raise ValueError("a successor must be in the block of its state")
        self.successors, self.probabilities, self.energy = successors, probabilities, energy
        self.sizes, self._targets = sizes, successors.flatten()
        deterministic = successors.shape[-1] == 1
        self.table = TableModel(successors[..., 0], energy) if deterministic else None

    def energies(self, starts: Tensor) -> Energies:
        """Energies after every step from the starts [B]: a function of actions [B, N, T, A] -> [B, N, T].

        Raises:
            ValueError: where a start is not in its problem's block.
        """
        if not torch.equal(self.owner[starts], torch.arange(len(self.sizes))):
            raise ValueError(f"starts must be one state in each of the {len(self.sizes)} blocks, in order")
        walk = None if self.table is None else self.table.energies(starts)

        def energies(actions: Tensor) -> Tensor:
            if walk is not None and _is_one_hot(actions):
                return walk(actions)  # exact, without touching the other states
            plans = [_BeliefRollout.apply(plan, starts, self) for plan in actions.unbind(1)]
            return torch.stack(plans, 1)

        return energies

    def problem(self, starts: Tensor, horizon: int, budget: int, **options) -> PlanningProblem:
        """The planning problem from the starts [B], with their energy as scale; options as its class's."""
        options.setdefault("energy_scale", self.energy[starts])
        return PlanningProblem(
            self.energies(starts), num_problems=len(starts), horizon=horizon, num_actions=self.num_actions,
            budget=budget, **options,
        )  # fmt: skip

    def beliefs(self, starts: Tensor, actions: Tensor) -> Tensor:
        """Beliefs after every step of one relaxed plan a problem: [B], [B, T, A] -> [T + 1, S]."""
        over_time = [self._initial(starts, actions)]
        for weights in actions.unbind(1):
            over_time.append(self.advance(over_time[-1], weights))
        return torch.stack(over_time)

    def advance(self, belief: Tensor, weights: Tensor) -> Tensor:
        """One step: a belief [S], actions [B, A] -> a belief [S]."""
        moved = (belief[:, None] * weights.index_select(0, self.owner))[..., None] * self.probabilities
        return torch.zeros_like(belief).scatter_add_(0, self._targets, moved.flatten())

    def pull_back(self, values: Tensor) -> Tensor:
        """The expectation of values [S] after each action: [S, A]."""
        following = values.index_select(0, self._targets).view(self.successors.shape)
        return (following * self.probabilities).sum(-1)

    def sum_blocks(self, values: Tensor) -> Tensor:
        """Sums over each problem's states: [S] -> [B]."""
        return values.new_zeros(len(self.sizes)).scatter_add_(0, self.owner, values)

    def _initial(self, starts: Tensor, like: Tensor) -> Tensor:
        return like.new_zeros(len(self.owner)).index_fill_(0, starts, 1.0)


def _is_one_hot(actions: Tensor) -> bool:
    return bool(((actions == 0) | (actions == 1)).all()) and bool((actions.sum(-1) == 1).all())


class _BeliefRollout(torch.autograd.Function):
    """Energies [B, T] of one relaxed plan a problem [B, T, A] by the belief; their gradient by its adjoint.

    dL/da_{t,k} = <b_t, P_k v_{t+1}>, v_t = g_t E + sum_k a_{t,k} P_k v_{t+1}, g_t = dL/dE_t.

    One candidate at a time: scattering along one axis is several times faster than along one of two.
    """

    @staticmethod
    def forward(ctx, actions: Tensor, starts: Tensor, model: BeliefModel) -> Tensor:
        beliefs = model.beliefs(starts, actions)
        ctx.model = model
        ctx.save_for_backward(actions, beliefs)
        return torch.stack([model.sum_blocks(belief * model.energy) for belief in beliefs[1:]], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        actions, beliefs = ctx.saved_tensors
        model, slopes = ctx.model, torch.empty_like(actions)
        values = torch.zeros_like(beliefs[0])
        for time in reversed(range(actions.shape[1])):
            values = values + gradient[:, time].index_select(0, model.owner) * model.energy
            pulled = model.pull_back(values)  # [S, A]
            slopes[:, time] = _sum_rows(beliefs[time][:, None] * pulled, model.owner, len(actions))
            values = (pulled * actions[:, time].index_select(0, model.owner)).sum(-1)
        return slopes, None, None


def _sum_rows(values: Tensor, owner: Tensor, problems: int) -> Tensor:
    """Sums of rows [S, A] by problem [S]: [B, A]."""
    width = values.shape[1]
    index = (owner[:, None] * width + torch.arange(width, device=owner.device)).flatten()
    return values.new_zeros(problems * width).scatter_add_(0, index, values.flatten()).view(problems, width)
