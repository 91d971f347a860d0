"""The systems of experiment 1, with their true steps, and trajectories drawn from them.

Shapes: S seeds, B batch, T time, d state dimension, d_a action dimension. States are normalised to
zero mean and unit variance over the stationary distribution (Lorenz), so errors are relative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.chaos import lorenz, runge_kutta
from common.config import Exp1Config
from common.run.random import generator, generators

# ----------------------------------------------------------------------------------------------
# Controlled Lorenz
# ----------------------------------------------------------------------------------------------

INNER_STEP = 0.02  # largest step of the integrator [time units]
BURN_IN = 10.0  # time until trajectories are on the attractor [time units]
LONGEST_HOLD = 8  # a control is held for 1 .. 8 steps


def _forced_lorenz(state: Tensor, force: Tensor, dt: float) -> Tensor:
    """The state after dt, in equal inner steps of at most INNER_STEP: [..., 3], [...] -> [..., 3]."""
    inner_steps = math.ceil(dt / INNER_STEP - 1e-9)
    state = state.movedim(-1, 0).contiguous()
    state = runge_kutta(lambda at: lorenz(at, force), state, dt / inner_steps, inner_steps)
    return state.movedim(0, -1).contiguous()


@dataclass(frozen=True)
class LorenzSystem:
    """dx/dt = sigma (y - x) + c u, dy/dt = x (rho - z) - y, dz/dt = x y - beta z, with u in [-1, 1]."""

    name: str
    dt: float  # length of one step [time units]
    control_gain: float  # c
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # of the stationary distribution, for normalisation
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    d_state: int = 3
    d_action: int = 1

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The true step in normalised coordinates: [..., 3], [..., 1] -> [..., 3]."""
        mean, std = states.new_tensor(self.mean), states.new_tensor(self.std)
        force = self.control_gain * actions.squeeze(-1)
        return (_forced_lorenz(states * std + mean, force, self.dt) - mean) / std

    def sample_starts(self, count: int, draw: torch.Generator) -> Tensor:
        """Starts near the attractor, to be burnt in: [count, 3]."""
        raw = torch.randn(count, 3, generator=draw, dtype=torch.float64) * 5 + torch.tensor([0.0, 0.0, 25.0])
        return (raw - torch.tensor(self.mean)) / torch.tensor(self.std)

    def sample_actions(self, count: int, length: int, draw: torch.Generator) -> Tensor:
        """Uniform controls, each held for a random 1 .. LONGEST_HOLD steps: [count, length, 1]."""
        values = 2 * torch.rand(count, length, generator=draw, dtype=torch.float64) - 1
        holds = torch.randint(1, LONGEST_HOLD + 1, (count, length), generator=draw)
        steps = torch.arange(length).expand(count, -1).contiguous()
        return values.gather(1, torch.searchsorted(holds.cumsum(1), steps, right=True))[..., None]

    @property
    def burn_in(self) -> int:
        return math.ceil(BURN_IN / self.dt)


def _normalised_lorenz(name: str, dt: float, control_gain: float) -> LorenzSystem:
    """The system with the mean and deviation of its own stationary distribution."""
    raw = LorenzSystem(name, dt, control_gain)
    states, _ = simulate(raw, 512, 100, [generator(0, f"normalisation/{dt}/{control_gain}")])
    mean, std = states.mean((0, 1, 2)), states.std((0, 1, 2))
    return LorenzSystem(name, dt, control_gain, tuple(mean.tolist()), tuple(std.tolist()))


# ----------------------------------------------------------------------------------------------
# Linear expansive system
# ----------------------------------------------------------------------------------------------

PUBLISHED_LINEAR_NORM = 1712.0  # ||ds_T/da||_F at T = 50, the documents' figure
PUBLISHED_LINEAR_HORIZON = 50


@dataclass(frozen=True)
class LinearSystem:
    """s' = W s + B a with W symmetric and every eigenvalue above 1: the cliff in closed form."""

    name: str
    W: Tensor  # [d, d]
    B: Tensor  # [d, d_a]
    burn_in: int = 0

    @property
    def d_state(self) -> int:
        return self.W.shape[0]

    @property
    def d_action(self) -> int:
        return self.B.shape[1]

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The true step: [..., d], [..., d_a] -> [..., d]."""
        return states @ self.W.mT.to(states) + actions @ self.B.mT.to(states)

    def sample_starts(self, count: int, draw: torch.Generator) -> Tensor:
        """Standard normal starts: [count, d]. With standard normal actions, E x x^T = I for x = (s, a)."""
        return torch.randn(count, self.d_state, generator=draw, dtype=torch.float64)

    def sample_actions(self, count: int, length: int, draw: torch.Generator) -> Tensor:
        """Standard normal actions: [count, length, d_a]."""
        return torch.randn(count, length, self.d_action, generator=draw, dtype=torch.float64)


def linear_action_norm(W: Tensor, B: Tensor, horizon: int) -> float:
    """||ds_T/da||_F = (sum_{k<T} ||W^k B||_F^2)^(1/2), in closed form."""
    total, term = 0.0, B
    for _ in range(horizon):
        total += term.square().sum().item()
        term = W @ term
    return math.sqrt(total)


def _linear_system(name: str, d: int = 8, d_action: int = 2) -> LinearSystem:
    """Eigenvalues linspace(1.02, 1.15, 8), B scaled to the published norm at T = 50, fixed seed."""
    draw = generator(0, "linear system")
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64))
    W = basis @ torch.diag(torch.linspace(1.02, 1.15, d, dtype=torch.float64)) @ basis.mT
    B = torch.randn(d, d_action, generator=draw, dtype=torch.float64)
    return LinearSystem(
        name, W, B * PUBLISHED_LINEAR_NORM / linear_action_norm(W, B, PUBLISHED_LINEAR_HORIZON)
    )


System = LorenzSystem | LinearSystem


@cache
def make_system(name: str) -> System:
    """One of 'lorenz' (dt 0.1, c 50), 'lorenz_dt033' (dt 0.33, c 10) and 'linear'."""
    if name == "linear":
        return _linear_system(name)
    dt, control_gain = {"lorenz": (0.1, 50.0), "lorenz_dt033": (0.33, 10.0)}[name]
    return _normalised_lorenz(name, dt, control_gain)


# ----------------------------------------------------------------------------------------------
# Trajectories
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectories:
    """States [S, n, T + 1, d] and the actions between them [S, n, T, d_a]."""

    states: Tensor
    actions: Tensor

    def to(self, *args: object) -> "Trajectories":
        return Trajectories(self.states.to(*args), self.actions.to(*args))


def rollout_true(system: System, starts: Tensor, actions: Tensor) -> Tensor:
    """True states s_0 .. s_T: [..., d], [..., T, d_a] -> [..., T + 1, d]."""
    states = [starts]
    for action in actions.unbind(-2):
        states.append(system.step(states[-1], action))
    return torch.stack(states, -2)


def simulate(
    system: System, count: int, length: int, draws: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """`count` stationary trajectories for each generator: [S, n, T + 1, d] and [S, n, T, d_a], float64."""
    starts = torch.stack([system.sample_starts(count, draw) for draw in draws])
    total = system.burn_in + length
    actions = torch.stack([system.sample_actions(count, total, draw) for draw in draws])
    states = rollout_true(system, starts, actions)
    return states[..., system.burn_in :, :], actions[..., system.burn_in :, :]


def training_trajectories(system: System, config: Exp1Config) -> Trajectories:
    """What every model of a seed is trained on, float32.

    The expansive linear system leaves every bounded region, so it is observed in single steps from
    standard normal starts; num_trajectories * trajectory_length transitions either way.
    """
    count, length = config.num_trajectories, config.trajectory_length
    if isinstance(system, LinearSystem):
        count, length = count * length, 1
    draws = generators(config.seeds, f"{system.name}/training")
    return Trajectories(*simulate(system, count, length, draws)).to(torch.float32)


# The fields that shape the evaluation trajectories: every step that measures on them declares these.
EVALUATION_FIELDS = ("seeds", "horizons", "gradient_horizons", "num_jacobian_states", "num_error_states")


def evaluation_trajectories(system: System, config: Exp1Config) -> Trajectories:
    """Those on which every model of a seed is measured."""
    return unseen_trajectories(system, config, "evaluation")


def unseen_trajectories(system: System, config: Exp1Config, purpose: str) -> Trajectories:
    """Trajectories of the longest horizon that nothing was trained on, others for every purpose; float64."""
    draws = generators(config.seeds, f"{system.name}/{purpose}")
    count = max(config.num_error_states, config.num_jacobian_states)
    length = max(*config.horizons, *config.gradient_horizons)
    return Trajectories(*simulate(system, count, length, draws))


def draw_windows(
    data: Trajectories, draws: Sequence[torch.Generator], batch: int, length: int, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """Random windows of the trajectories, a batch for each seed.

    Args:
        data: training trajectories.
        draws: one generator a seed.
        batch: windows for each seed.
        length: steps of a window.
        stride: keep every stride-th state.

    Returns:
        states [S, B, length / stride + 1, d] and actions [S, B, length, d_a].
    """
    count, time = data.actions.shape[1:3]
    which = torch.stack([torch.randint(count, (batch,), generator=draw) for draw in draws])[..., None]
    first = torch.stack([torch.randint(time - length + 1, (batch,), generator=draw) for draw in draws])[
        ..., None
    ]
    member = torch.arange(len(draws))[:, None, None]
    states = data.states[member, which, first + torch.arange(0, length + 1, stride)]
    return states, data.actions[member, which, first + torch.arange(length)]


def memory_needed(config: Exp1Config) -> dict[str, float]:
    """Bytes of the largest array that each size shapes, for common.run.memory."""
    seeds, width = len(config.seeds), config.hidden_dim
    numbers = seeds * 10 * 8.0  # of a transition of every seed, state and action in float64
    longest = max(*config.horizons, *config.gradient_horizons)
    data = numbers * config.num_trajectories * config.trajectory_length
    evaluation = numbers * longest
    weights = seeds * 4.0 * 4  # each with its gradient and two moments
    batches = seeds * 4.0 * config.batch_size * (width + config.d_latent) * max(config.macro_rollouts)
    plans = seeds * 2 * 8.0 * config.num_problems * config.gd_steps * max(config.planning_horizons)
    return {
        "seeds": data,
        "num_trajectories": data,
        "trajectory_length": data,
        "num_error_states": evaluation * config.num_error_states,
        "num_jacobian_states": evaluation * config.num_jacobian_states,
        "hidden_dim": weights * width * (width + config.d_latent),
        "d_latent": weights * config.d_latent * (width + config.d_latent),
        "batch_size": batches,
        "mollified_samples": numbers * config.mollified_samples * min(8, config.num_jacobian_states),
        "num_problems": plans,
        "gd_steps": plans,
    }
