"""Candidates of a planner: their noise, drawing them, asking for their energies, and keeping the best.

Shapes: B problems, N candidates, T steps, A actions, I iterations.

Candidates are float32 on the problem's device. All noise is drawn on the CPU from explicit generators, so a
plan does not depend on the device. A NaN energy counts as +inf; a gradient entry that is not finite as 0.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .problem import NoFinitePlan, Plan, PlanningProblem

Rollout = Callable[[Tensor], Tensor]  # actions [B, N, T, A] -> energies [B, N]


class Noise:
    """Random numbers of B problems in groups, each of which draws from a generator of its own.

    What a group gets depends on its generator and its own problems alone, whatever groups plan beside it.

    Args:
        generators: one a group, on the CPU.
        groups: [B] int64, the group of each problem, ascending.

    Raises:
        ValueError: for groups out of order or without a generator, or a generator of another device.
    """

    def __init__(self, generators: Sequence[torch.Generator], groups: Tensor):
        groups = groups.cpu()
        if groups.dim() != 1 or (groups.diff() < 0).any():
            raise ValueError("groups must be one ascending row, a number for each problem")
        if len(groups) and not 0 <= int(groups[0]) <= int(groups[-1]) < len(generators):
            raise ValueError(f"groups must lie in 0 .. {len(generators) - 1}, one a generator")
        if any(generator.device.type != "cpu" for generator in generators):
            raise ValueError("generators must be on the CPU, where noise is drawn whatever the device")
        self.generators, self.groups = tuple(generators), groups
        self.counts = torch.bincount(groups, minlength=len(generators)).tolist()

    @classmethod
    def of(cls, source: "torch.Generator | Noise", problems: int) -> "Noise":
        """The noise itself, or all problems in one group of this generator.

        Raises:
            TypeError: for anything else.
            ValueError: for the noise of another number of problems.
        """
        if isinstance(source, torch.Generator):
            return cls((source,), torch.zeros(problems, dtype=torch.int64, device="cpu"))
        if not isinstance(source, Noise):
            raise TypeError(f"noise comes from a torch.Generator or a Noise, not {type(source).__name__}")
        if len(source.groups) != problems:
            raise ValueError(f"noise of {len(source.groups)} problems, planned are {problems}")
        return source

    def select(self, problems: Tensor) -> "Noise":
        """That of some of the problems, from the same generators: [R] ascending indices."""
        return Noise(self.generators, self.groups[problems.cpu()])

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Uniform on [0, 1), float32: a shape that begins with B -> that shape."""
        return self._draw(torch.Tensor.uniform_, shape, device)

    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Standard normal, float32: a shape that begins with B -> that shape."""
        return self._draw(torch.Tensor.normal_, shape, device)

    def gumbel(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Standard Gumbel, float32: a shape that begins with B -> that shape."""
        exponential = self._draw(torch.Tensor.exponential_, shape, device)
        return exponential.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_()

    def _draw(self, fill: Callable, shape: Sequence[int], device: torch.device) -> Tensor:
        values = torch.empty(tuple(shape), dtype=torch.float32, device="cpu")
        for generator, own in zip(self.generators, values.split(self.counts), strict=True):
            fill(own, generator=generator)
        if device.type == "cuda":  # from pinned memory the host does not wait for the copy
            return values.pin_memory().to(device, non_blocking=True)
        return values.to(device)


def one_hot(actions: Tensor, num_actions: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Discrete actions as points of the simplex: [...] int64 -> [..., A]."""
    return torch.zeros(*actions.shape, num_actions, dtype=dtype, device=actions.device).scatter_(
        -1, actions[..., None], 1.0
    )


def uniform_policy(problem: PlanningProblem) -> Tensor:
    """The same probability for every action at every step: [B, T, A]."""
    shape = (problem.num_problems, problem.horizon, problem.num_actions)
    return torch.full(shape, 1 / problem.num_actions, dtype=torch.float32, device=problem.device)


def sample_actions(probabilities: Tensor, count: int, noise: torch.Generator | Noise) -> Tensor:
    """Independent draws from categorical distributions, by their inverse: [B, T, A] -> [B, N, T] int64."""
    batch, horizon, _ = probabilities.shape
    uniform = Noise.of(noise, batch).uniform((batch, count, horizon), probabilities.device)
    actions = torch.zeros(uniform.shape, dtype=torch.int64, device=uniform.device)
    for threshold in probabilities.cumsum(-1)[:, None].unbind(-1)[:-1]:  # the last is 1 up to rounding
        actions += uniform >= threshold
    return actions


def gumbel_noise(like: Tensor, noise: torch.Generator | Noise) -> Tensor:
    """Standard Gumbel noise of the shape, type and device of `like`, which begins with B."""
    return Noise.of(noise, len(like)).gumbel(like.shape, like.device).to(like.dtype)


def score(rollout: Rollout, actions: Tensor, num_actions: int) -> Tensor:
    """Energies of discrete candidates, without a gradient: [B, N, T] -> [B, N]."""
    return score_relaxed(rollout, one_hot(actions, num_actions))


def score_relaxed(rollout: Rollout, actions: Tensor) -> Tensor:
    """Energies of candidates of any kind, without a gradient: [B, N, T, A] -> [B, N]."""
    with torch.no_grad():
        return _finite_or_worst(rollout(actions))


def slopes_at(rollout: Rollout, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Energies [B, N] of candidates [B, N, T, A] and their gradients with respect to the entries.

    Raises:
        ValueError: in inference mode, or where the energies do not depend on the actions by autograd.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("gradients cannot be taken in torch.inference_mode(): plan under torch.no_grad()")
    with torch.enable_grad():
        actions = actions.detach().requires_grad_()
        energies = rollout(actions)
        if not energies.requires_grad:
            raise ValueError("the energies have no gradient with respect to the actions: plan without one")
        (slopes,) = torch.autograd.grad(energies.sum(), actions)
    return _finite_or_worst(energies.detach()), slopes.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Some candidates of each problem: [B, N, ...] and indices [B, K] -> [B, K, ...]."""
    shape = (*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.view(shape).expand(*index.shape, *values.shape[2:]))


def _finite_or_worst(energies: Tensor) -> Tensor:
    """Energies whose NaN are +inf."""
    return energies.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


class BestPlans:
    """The lowest-energy plan of each problem so far: discrete, or with `action_size` A of vectors.

    Attributes:
        actions: [B, T] int64, or [B, T, A] float32.
        energy: [B], +inf before the first offer.
        history: list of [B], the lowest energy after each call of `record`.
    """

    def __init__(self, num_problems: int, horizon: int, device: torch.device, action_size: int | None = None):
        shape, dtype = (num_problems, horizon), torch.int64
        if action_size is not None:
            shape, dtype = (*shape, action_size), torch.float32
        self.actions = torch.zeros(shape, dtype=dtype, device=device)
        self.energy = torch.full((num_problems,), torch.inf, dtype=torch.float32, device=device)
        self.history: list[Tensor] = []

    def offer(self, actions: Tensor, energies: Tensor) -> Tensor:
        """Keep what is lower than before: [B, N, T(, A)], [B, N] -> where a problem's plan improved, [B]."""
        lowest, index = energies.detach().min(1)
        improved = lowest < self.energy
        chosen = take(actions, index[:, None])[:, 0]
        self.actions = torch.where(improved.view(-1, *[1] * (chosen.dim() - 1)), chosen, self.actions)
        self.energy = torch.where(improved, lowest, self.energy)
        return improved

    def record(self) -> None:
        """Append the lowest energies to the history."""
        self.history.append(self.energy)

    def plan(self, problem: PlanningProblem, relaxed: Tensor | None = None) -> Plan:
        """What a planner returns; `relaxed` [B] are the energies that the relaxation gap compares with.

        Raises:
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        require_finite(self.energy.isfinite())
        gap = torch.zeros_like(self.energy) if relaxed is None else self.energy - relaxed
        return Plan(self.actions, self.energy, gap, problem.evaluations, torch.stack(self.history))


def require_finite(found: Tensor) -> None:
    """Raise NoFinitePlan that names the problems for which this is False: [B] bool."""
    if found.all():
        return
    missing = (~found).nonzero()[:, 0].tolist()
    names = ", ".join(map(str, missing[:10])) + (", .." if len(missing) > 10 else "")
    raise NoFinitePlan(
        f"no plan with a finite energy for {len(missing)} of {len(found)} problems ({names}):"
        " the model's energies are NaN or infinite"
    )
