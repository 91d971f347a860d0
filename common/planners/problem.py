"""What a planner sees: energies of action sequences in a world model, and a budget of model evaluations.

Shapes
    B  problems, planned together and independent of each other
    N  candidate action sequences of a problem
    T  steps of the horizon
    A  actions; a discrete action is one-hot, a relaxed one lies on the simplex
    M  macro steps of the jumpy model, floor(T / stride)

Candidates are float32, on the problem's device. There is no action mask: where an action is forbidden, give
every plan that takes it the energy +inf. Put modules in eval mode before planning (`.eval()`): dropout or
batch statistics would make the energy of a plan depend on chance and on the plans beside it.

The unit of cost is one transition of the model for one problem. A rollout of N candidates costs N T (in
the jumpy model N M), a backward pass through it twice that again, charged when it happens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .candidates import Noise

Energies = Callable[[Tensor], Tensor]  # actions [B, N, T, A] -> the energy after every step, [B, N, T]

BACKWARD_COST = 2  # of a backward pass, in forward passes
TEMPERATURE = 0.1  # of the softmin where none is given, in units of the energy scale
SMALLEST_SCALE = 1e-6  # of the energy; a start at the goal has energy 0


class BudgetExceeded(RuntimeError):
    """A planner asked for more model evaluations than its budget has left."""


class NoFinitePlan(ValueError):
    """The model gave no candidate of a problem a finite energy, so that there is nothing to return."""


def require(name: str, value: object, holds: bool, allowed: str) -> None:
    """Raise ValueError in one line for a hyperparameter out of range."""
    if not holds:
        raise ValueError(f"{name} = {value!r}: must be {allowed}")


def require_counts(**counts: int) -> None:
    """Raise ValueError in one line for a count below 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


class Problem:
    """What problems on actions of any kind share: a budget that is enforced, and how plans are judged.

    It holds functions of the model alone, so that nothing leads from a planner to the environment. Arguments
    are PlanningProblem's; `action_size` is A, the length of an action's vector.
    """

    def __init__(
        self,
        energies: Energies,
        *,
        num_problems: int,
        horizon: int,
        action_size: int,
        budget: int,
        energy_scale: Tensor,
        over_time: str,
        temperature: float,
        stride: int,
        device: torch.device | str,
    ):
        require_counts(num_problems=num_problems, horizon=horizon, budget=budget, stride=stride)
        if not 0 < temperature < math.inf:
            raise ValueError(f"the temperature must be positive and finite, not {temperature}")
        if over_time not in ("softmin", "final"):
            raise ValueError(f"over_time is 'softmin' or 'final', not {over_time!r}")
        if energy_scale.shape != (num_problems,):
            raise ValueError(
                f"energy_scale must be one number a problem, [{num_problems}], not {list(energy_scale.shape)}"
            )
        if not energy_scale.isfinite().all():
            raise ValueError("energy_scale must be finite, one number a problem")
        self.num_problems, self.horizon, self.action_size = num_problems, horizon, action_size
        self.budget, self.stride, self.over_time = budget, stride, over_time
        self.device = torch.device(device)
        self.energy_scale = energy_scale.detach().to(self.device, torch.float32).clamp(min=SMALLEST_SCALE)
        self.temperature = temperature * self.energy_scale
        self.evaluations = 0  # spent so far on each problem
        self._energies = energies

    @property
    def remaining(self) -> int:
        """Evaluations left for each problem."""
        return self.budget - self.evaluations

    @property
    def rollout_cost(self) -> int:
        """Evaluations of one rollout."""
        return self.horizon

    def affordable(self, least: int) -> int:
        """Rollouts that the budget has left for each problem.

        Raises:
            BudgetExceeded: where they are fewer than `least`.
        """
        left = self.remaining // self.rollout_cost
        if left < least:
            raise BudgetExceeded(
                f"the planner needs {least} rollouts of {self.rollout_cost} evaluations each;"
                f" {self.remaining} evaluations are left, which pay for {left}"
            )
        return left

    def _evaluate(self, energies: Energies, actions: Tensor, steps: int) -> Tensor:
        """Energies [B, N] of candidates [B, N, T, A], each of which costs `steps` transitions."""
        return self._reduce(self._over_time(energies, actions, steps))

    def _over_time(self, energies: Energies, actions: Tensor, steps: int) -> Tensor:
        """Energies after every step [B, N, steps] of such candidates, which are charged for."""
        candidates = actions.shape[1]
        expected = (self.num_problems, candidates, self.horizon, self.action_size)
        if actions.shape != expected:
            raise ValueError(f"actions must be [B, N, T, A] = {list(expected)}, not {list(actions.shape)}")
        self._charge(candidates * steps)
        over_time = _asked(energies, actions, (self.num_problems, candidates, steps))
        if over_time.requires_grad:
            over_time = _ChargeBackward.apply(over_time, self, BACKWARD_COST * candidates * steps)
        return over_time

    def _reduce(self, energies: Tensor) -> Tensor:
        """One energy of a plan, from those over time: [B, N, T] -> [B, N].

        The softmin -tau log mean_t exp(-E_t / tau) lies between the minimum and the mean. The mean rather
        than the sum, so that horizons and strides compare; the gradients are the same.
        """
        if self.over_time == "final":
            return energies[..., -1]
        temperature = self.temperature[:, None].to(energies.dtype)
        log_sum = torch.logsumexp(-energies / temperature[..., None], -1)
        return temperature * (math.log(energies.shape[-1]) - log_sum)

    def _charge(self, cost: int) -> None:
        if cost > self.remaining:
            raise BudgetExceeded(f"{cost} evaluations asked for, {self.remaining} of {self.budget} are left")
        self.evaluations += cost


class PlanningProblem(Problem):
    """B planning problems on discrete actions in one world model; a planner's only view of the world.

    Args:
        energies: float32 actions [B, N, T, A] -> the energy after every step [B, N, T]: one number a step,
            also where only the last counts (over_time="final"). Independent between problems and between
            candidates, and differentiable where a planner takes gradients. A NaN counts as +inf. A model of
            another dtype casts inside: `lambda actions: model(actions.double())`.
        num_problems: B.
        horizon: T.
        num_actions: A.
        budget: transition evaluations that may be spent on each problem.
        energy_scale: [B], what counts as a large difference of energy; the energy at the start does. What is
            below 1e-6, such as the energy at a goal, counts as that.
        over_time: "softmin" judges a plan by the softmin of its T energies (reach the goal at any time),
            "final" by the last.
        temperature: of the softmin, in units of energy_scale. A low one judges a plan by its nearest approach
            to the goal alone, a high one also by how soon it comes near.
        jumpy_energies: actions [B, N, M * stride, A] -> the energy after every macro step [B, N, M], each
            of which stands for `stride` steps. The last T mod stride actions are not in it.
        stride: steps of a macro step.
        device: where candidates are made.

    Raises:
        ValueError: for a horizon, stride or budget below 1, a temperature that is not positive, an unknown
            `over_time`, or energy scales of another shape or that are not finite.
    """

    def __init__(
        self,
        energies: Energies,
        *,
        num_problems: int,
        horizon: int,
        num_actions: int,
        budget: int,
        energy_scale: Tensor,
        over_time: str = "softmin",
        temperature: float = TEMPERATURE,
        jumpy_energies: Energies | None = None,
        stride: int = 4,
        device: torch.device | str = "cpu",
    ):
        require_counts(num_actions=num_actions)
        super().__init__(
            energies,
            num_problems=num_problems,
            horizon=horizon,
            action_size=num_actions,
            budget=budget,
            energy_scale=energy_scale,
            over_time=over_time,
            temperature=temperature,
            stride=stride,
            device=device,
        )
        self.num_actions, self._jumpy_energies = num_actions, jumpy_energies

    @property
    def macro_steps(self) -> int:
        """M, 0 where there is no jumpy model or the horizon is shorter than its stride."""
        return 0 if self._jumpy_energies is None else self.horizon // self.stride

    def rollout(self, actions: Tensor) -> Tensor:
        """Energy of each candidate by the model, [B, N, T, A] -> [B, N]. Costs N T.

        Raises:
            BudgetExceeded: before computing, here or in the backward pass, where the budget is too small.
            ValueError: for actions of another shape, or where the energies are not one number a step.
            TypeError: where the model does not take float32 candidates.
        """
        return self._evaluate(self._energies, actions, self.horizon)

    def rollout_until(self, actions: Tensor, steps: Tensor) -> Tensor:
        """Energy after the first `steps` steps of each problem's candidates, whatever `over_time` says.

        The rest of the actions is not looked at. Costs N max(steps), for every problem.

        Args:
            actions: [B, N, T, A].
            steps: [B] int64, in 1 .. T.

        Raises:
            BudgetExceeded: as `rollout` does.
            ValueError: for steps out of range, or actions of another shape.
        """
        longest = int(steps.max())
        if steps.shape != (self.num_problems,) or not 1 <= int(steps.min()) <= longest <= self.horizon:
            raise ValueError(f"steps must be [{self.num_problems}] numbers in 1 .. {self.horizon}")
        found = self._over_time(lambda whole: self._energies(whole[:, :, :longest]), actions, longest)
        last = (steps - 1)[:, None, None].expand(-1, found.shape[1], 1)
        return found.gather(2, last)[..., 0]

    def coarse_rollout(self, actions: Tensor) -> Tensor:
        """Energy of each candidate by the jumpy model, [B, N, T, A] -> [B, N]. Costs N M.

        Raises:
            BudgetExceeded: as `rollout` does.
            ValueError: where there is no macro step.
        """
        if self._jumpy_energies is None or self.macro_steps == 0:
            raise ValueError("this problem has no jumpy model, or a horizon below its stride")
        jumpy, used = self._jumpy_energies, self.macro_steps * self.stride
        return self._evaluate(lambda whole: jumpy(whole[:, :, :used]), actions, self.macro_steps)


def _asked(energies: Energies, actions: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The model's energies [B, N, T or M] of these actions, at least float32."""
    try:
        found = energies(actions)
    except RuntimeError as error:
        if "dtype" in str(error) or "scalar type" in str(error):
            raise TypeError(
                f"the energies do not take {actions.dtype} candidates; cast them inside, e.g."
                f" `lambda actions: model(actions.double())` ({' '.join(str(error).split())})"
            ) from error
        raise
    if found.shape != shape:
        raise ValueError(
            f"energies must be one number a step, [B, N, steps] = {list(shape)}, not {list(found.shape)}"
        )
    return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found


class _ChargeBackward(torch.autograd.Function):
    """The identity, whose backward pass charges the problem for the rollout's."""

    @staticmethod
    def forward(ctx, energies: Tensor, problem: Problem, cost: int) -> Tensor:
        ctx.problem, ctx.cost = problem, cost
        return energies.view_as(energies)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("no create_graph: second derivatives would be free of charge")
        ctx.problem._charge(ctx.cost)
        return gradient, None, None


@dataclass(frozen=True)
class Plan:
    """What a planner returns for B problems."""

    actions: Tensor  # [B, T] int64
    energy: Tensor  # [B], of exactly these discrete actions, by the model
    relaxation_gap: Tensor  # [B], energy minus that of the relaxed actions they came from; 0 if sampled
    evaluations: int  # transition evaluations spent on each problem
    history: Tensor  # [I, B], the lowest discrete energy so far (flat_gradient: its relaxed energy)


class Planner(Protocol):
    """A frozen dataclass of hyperparameters that plans when called; noise comes from `noise` alone.

    `least_rollouts` is the smallest budget that it works with, in rollouts a problem.
    """

    @property
    def least_rollouts(self) -> int: ...

    def __call__(self, problem: PlanningProblem, noise: "torch.Generator | Noise") -> Plan:
        """Plan within the problem's budget; generators live on the CPU, one for all problems or one a group.

        Raises:
            BudgetExceeded: where the budget is below `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        ...
