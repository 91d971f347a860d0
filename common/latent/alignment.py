"""How well a latent distance knows the steps between states, and how far predictions hold.

Shapes: S members, N states, M states in a sample, d latent, T steps, A actions.

True distances come from the tabulated environment: for evaluation only.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.minigrid.table import GridWorld

COMPARED_NUMBERS = 2**24  # distances between predictions and states that are in memory at once


def random_rollouts(
    world: GridWorld, count: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """States [M, T + 1] and actions [M, T] of random actions from random states before an episode's end.

    An episode that ends stays in its last state, as in training.
    """
    running = (~world.terminal).nonzero().squeeze(1)
    states = [running[torch.randint(len(running), (count,), generator=generator)]]
    actions = torch.randint(world.num_actions, (count, steps), generator=generator)
    for action in actions.unbind(1):
        states.append(world.next_state[states[-1], action])
    return torch.stack(states, 1), actions


def alike(observations: Tensor) -> Tensor:
    """A number for each row of [N, F] uint8, equal for equal rows: [N] int64."""
    known: dict[bytes, int] = {}
    rows = observations.cpu().contiguous().numpy()
    return torch.tensor([known.setdefault(row.tobytes(), len(known)) for row in rows])


def prediction_accuracy(
    latents: Tensor,
    rollout: Callable[[Tensor, Tensor], Tensor],
    states: Tensor,
    actions: Tensor,
    num_actions: int,
    after: Sequence[int],
    classes: Tensor | None = None,
) -> dict[int, Tensor]:
    """How often the predicted latent's nearest neighbour among all states looks like the true state.

    Args:
        latents: of all states [S, N, d].
        rollout: start [S, M, d], one-hot actions [S, M, T, A] -> predictions [S, M, T, d].
        states: true states [M, T + 1].
        actions: [M, T].
        num_actions: A.
        after: steps to judge at, each from 1 to T.
        classes: [N], equal for states with the same observation, which no encoder can tell apart; by
            default every state is its own.

    Returns:
        {steps: [S]}.
    """
    one_hot = F.one_hot(actions, num_actions).to(latents).expand(len(latents), -1, -1, -1)
    predicted = rollout(latents[:, states[:, 0]], one_hot)
    classes = torch.arange(latents.shape[1], device=latents.device) if classes is None else classes
    found = {}
    for steps in after:
        nearest = _nearest(predicted[:, :, steps - 1], latents)
        found[steps] = (classes[nearest] == classes[states[:, steps]]).cpu().double().mean(1)
    return found


def _nearest(points: Tensor, latents: Tensor) -> Tensor:
    """Which of the latents [S, N, d] each point [S, M, d] is nearest to: [S, M]."""
    at_once = max(32, COMPARED_NUMBERS // latents[..., 0].numel())
    return torch.cat([torch.cdist(some, latents).argmin(-1) for some in points.split(at_once, 1)], 1)


def greedy_success(world: GridWorld, choice: Tensor, starts: Tensor) -> Tensor:
    """The fraction of starts from which always taking a state's chosen action ever ends at a goal.

    Args:
        world: whose true transitions are followed.
        choice: [S, N] int64, one action for each state.
        starts: [E] int64.

    Returns:
        [S]. There are no more than N states to come upon, so N steps decide.
    """
    found = []
    for actions in choice:
        following = world.next_state.gather(1, actions[:, None]).squeeze(1)
        following = torch.where(world.terminal, torch.arange(world.num_states), following)
        states = starts
        for _ in range(world.num_states):
            states = following[states]
        found.append(torch.isin(states, world.goal_states).double().mean())
    return torch.stack(found)
