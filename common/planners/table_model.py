"""The oracle: a world model whose transitions are a table.

Shapes
    S  states of the table
    A  actions
    B  problems
    N  candidate action sequences of a problem
    T  steps of a sequence
    R  sequences, B N of them

Relaxed actions move a belief b, b_{t+1} = sum_k a_{t,k} P_k^T b_t, from the start; its energy is <b, E>.
That is exact for one-hot actions and multilinear in relaxed ones. So the gradient at a one-hot plan with
respect to a_{t,k} is the energy of the plan with action k at step t instead: both the values and the
gradient are walks through the table (`_Walk`), and only relaxed plans need the belief.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .problem import Energies, PlanningProblem


class TableModel:
    """Deterministic transitions and an energy of every state, as energies for a PlanningProblem.

    Args:
        next_state: [S, A] int64, where each action leads.
        energy: [S], finite.

    Raises:
        ValueError: for a table that leads out of itself, or energies that are not one finite number a state.
    """

    def __init__(self, next_state: Tensor, energy: Tensor):
        states, self.num_actions = next_state.shape
        if energy.shape != (states,):
            raise ValueError(f"energy must be one number a state, [{states}], not {list(energy.shape)}")
        if next_state.min() < 0 or next_state.max() >= states:
            raise ValueError("the table leads to a state that it does not have")
        if not torch.isfinite(energy).all():
            raise ValueError("energies must be finite; give unreachable states a large one")
        self.next_state, self.energy = next_state, energy

    def energies(self, starts: Tensor) -> Energies:
        """Energies after every step from the starts [B]: a function of actions [B, N, T, A] -> [B, N, T]."""

        def energies(actions: Tensor) -> Tensor:
            batch, candidates, horizon, _ = actions.shape
            if starts.shape != (batch,):
                raise ValueError(
                    f"{batch} problems from {len(starts)} starts: there must be one start a problem"
                )
            sources = starts.repeat_interleave(candidates)  # [R]
            sequences = actions.flatten(0, 1)  # [R, T, A]
            by_time = self._walk if _is_one_hot(sequences) else self.belief_energies
            return by_time(sources, sequences).view(batch, candidates, horizon)

        return energies

    def jumpy_energies(self, starts: Tensor, stride: int) -> Energies:
        """As `energies`, after every `stride` steps only: the exact jumpy model [B, N, T, A] -> [B, N, M]."""
        every_step = self.energies(starts)
        return lambda actions: every_step(actions)[..., stride - 1 :: stride]

    def problem(self, starts: Tensor, horizon: int, budget: int, **options) -> PlanningProblem:
        """The oracle's planning problem from the starts [B]; options as PlanningProblem's.

        It has a jumpy model, and the energy at the start as its scale.
        """
        stride = options.setdefault("stride", 4)
        options.setdefault("energy_scale", self.energy[starts])
        return PlanningProblem(
            self.energies(starts),
            num_problems=len(starts),
            horizon=horizon,
            num_actions=self.num_actions,
            budget=budget,
            jumpy_energies=self.jumpy_energies(starts, stride),
            device=starts.device,
            **options,
        )

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The states after one action each, [B], [B] -> [B]."""
        return self.next_state[states, actions]

    def belief_energies(self, starts: Tensor, sequences: Tensor) -> Tensor:
        """Energies after every step of relaxed sequences: [R], [R, T, A] -> [R, T], by the belief."""
        states, count = len(self.energy), len(starts)
        targets = self.next_state.flatten()  # [S A]
        energy = self.energy.to(sequences.dtype)
        belief = torch.zeros(states, count, dtype=sequences.dtype, device=sequences.device)  # [S, R]
        belief[starts, torch.arange(count, device=starts.device)] = 1.0
        by_time = []
        for weights in sequences.permute(1, 2, 0).unbind(0):  # [A, R]
            moved = (belief[:, None] * weights).flatten(0, 1)  # [S A, R]
            belief = torch.zeros_like(belief).index_add(0, targets, moved)
            by_time.append(energy @ belief)
        return torch.stack(by_time, -1)

    def _walk(self, starts: Tensor, sequences: Tensor) -> Tensor:
        energy = self.energy.to(sequences.dtype)
        return _Walk.apply(sequences, starts, self.next_state, energy)


def _is_one_hot(actions: Tensor) -> bool:
    """Whether every action [..., A] is exactly 0 but for one exact 1."""
    return bool(((actions == 0) | (actions == 1)).all()) and bool((actions.sum(-1) == 1).all())


class _Walk(torch.autograd.Function):
    """Energies [R, T] of one-hot sequences [R, T, A] from starts [R], with the belief's exact gradient.

    A walker is kept as A times its state, so that adding an action gives its entry of the flattened table;
    index_select on that is several times faster than indexing with two tensors.
    """

    @staticmethod
    def forward(ctx, sequences: Tensor, starts: Tensor, next_state: Tensor, energy: Tensor) -> Tensor:
        num_actions = next_state.shape[1]
        actions = sequences.argmax(-1).T.contiguous()  # [T, R]
        table = next_state.flatten() * num_actions  # [S A], of walkers
        walkers = [starts * num_actions]
        for action in actions:
            walkers.append(table.index_select(0, walkers[-1] + action))
        visited = torch.stack(walkers)  # [T + 1, R]
        ctx.save_for_backward(actions, visited, table, energy)
        return energy[visited[1:] // num_actions].T

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """dL/da_{t,k} = sum_{u >= t} (dL/dE_u) E(the state at u if the action at t were k).

        One walker for every (t, k) sets out at step t and takes the plan's own actions from there. A plan of
        three steps a b c from state s, say, with s.k the state that action k leads to. The walkers of
            t=0 are in   s.k   s.k.b    s.k.b.c     after steps 0, 1, 2
            t=1 are in         s.a.k    s.a.k.c     from step 1 on: before it they did not differ
            t=2 are in                  s.a.b.k
        and the loop over `time` is one column after the other. `slopes[t, k]` adds up the energies in its
        row, each times w = dL/dE of its column:
            dL/da_{0,k} = w_0 E(s.k) + w_1 E(s.k.b) + w_2 E(s.k.b.c)
            dL/da_{1,k} = w_1 E(s.a.k) + w_2 E(s.a.k.c)
            dL/da_{2,k} = w_2 E(s.a.b.k)
        """
        actions, visited, table, energy = ctx.saved_tensors
        (horizon, count), num_actions = actions.shape, len(table) // len(energy)
        energy = energy.repeat_interleave(num_actions)  # of a walker
        weights = gradient.T.contiguous()  # [T, R]
        choices = torch.arange(num_actions, device=table.device)[:, None]
        walkers = visited.new_empty(horizon, num_actions, count)
        slopes = weights.new_zeros(horizon, num_actions, count)
        for time in range(horizon):
            walkers[:time] = _look_up(table, walkers[:time] + actions[time])
            walkers[time] = _look_up(table, visited[time] + choices)
            slopes[: time + 1] += weights[time] * _look_up(energy, walkers[: time + 1])
        return slopes.permute(2, 0, 1), None, None, None


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a table [K] and an index of any shape."""
    return table.index_select(0, index.flatten()).view(index.shape)
