"""What a world model knows before any planning: accuracy, latent topology, Jacobian.

Shapes: S seeds, N states, M sampled rollouts, P pairs of states, d latent, T steps, A actions.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from common.alignment import euclidean, mean_ranks, pearson, prediction_accuracy, random_rollouts
from common.checkpoint import uses
from common.config import Exp3Config
from common.jacobian_utils import rollout_jacobian_norms
from common.latent_planning import LatentProblems
from common.minigrid_task import TASK_FIELDS, Task, data_coverage
from common.minigrid_walks import all_distances
from common.results import Results
from common.runtime import generator, measurement_device
from exp3_planning_efficiency.models import WorldModel

STEPS = (1, 10, 50)  # at which predictions are judged
ROLLOUTS = 512
JACOBIAN_STATES = 64
PAIRS = 3000  # of states, in the scatter
RANKED_PAIRS = 2_000_000  # of states, in the rank correlation at most
PICTURE_TILE = 16  # side of a cell in the saved picture [pixels]


@uses(*TASK_FIELDS)
def measure_model(
    task: Task, models: Mapping[str, WorldModel], arm: str, *, config: Exp3Config, device: torch.device
) -> dict[str, Tensor]:
    """accuracy_T, spearman, jacobian_50 and the jumpy levels' accuracy, each [S]; arrays of the topology.

    spearman: rank correlation of latent and true distance over all ordered pairs of states, one of which
    can be reached from the other; over RANKED_PAIRS random ones where there are more.
    jacobian_50: geometric mean of ||dz_50/dz_0||_F over states and random actions.
    """
    model = models[arm]
    problems = LatentProblems(model, task, 0, device)
    states, actions = random_rollouts(task.world, ROLLOUTS, max(STEPS), generator(0, "evaluation/rollouts"))
    with torch.no_grad():
        latents = problems.latents
        measured = _accuracies(task, model, latents, states.to(device), actions.to(device))
        between = euclidean(latents, latents).cpu()  # [S, N, N]
    true = all_distances(task.world.next_state)
    pairs = _pairs(true)
    steps = mean_ranks(true[pairs[:, 0], pairs[:, 1]])
    ranked = [mean_ranks(distance[pairs[:, 0], pairs[:, 1]]) for distance in between]
    measured["spearman"] = torch.tensor([pearson(ranks, steps) for ranks in ranked])
    measured["jacobian_50"] = _jacobian(model, latents, states, actions, task.world.num_actions)
    pairs = pairs[:PAIRS]
    measured["pairs/latent"] = between[:, pairs[:, 0], pairs[:, 1]]
    measured["pairs/steps"] = true[pairs[:, 0], pairs[:, 1]]
    measured["energy"] = problems.energy
    return measured


def _pairs(true: Tensor) -> Tensor:
    """Ordered pairs (from, to) with a way between them, shuffled: [at most RANKED_PAIRS, 2]."""
    pairs = (true > 0).nonzero()
    order = torch.randperm(len(pairs), generator=generator(0, "evaluation/pairs"))
    return pairs[order[:RANKED_PAIRS]]


def _accuracies(
    task: Task, model: WorldModel, latents: Tensor, states: Tensor, actions: Tensor
) -> dict[str, Tensor]:
    count = task.world.num_actions
    classes = torch.unique(task.world.observations, dim=0, return_inverse=True)[1].to(latents.device)
    found = prediction_accuracy(latents, model.transition.rollout, states, actions, count, STEPS, classes)
    measured = {f"accuracy_{steps}": value for steps, value in found.items()}
    for stride in map(int, model.jumpy):
        macro_states = states[:, : states.shape[1] // stride * stride : stride]

        def jump(start: Tensor, one_hot: Tensor, stride: int = stride) -> Tensor:
            return model.jump(start, one_hot, stride)

        found = prediction_accuracy(latents, jump, macro_states, actions[:, :stride], count, (1,), classes)
        measured[f"jumpy_accuracy/stride={stride}"] = found[1]
    return measured


def _jacobian(
    model: WorldModel, latents: Tensor, states: Tensor, actions: Tensor, num_actions: int
) -> Tensor:
    """In float64, on a copy of the transition: [S]."""
    device = measurement_device(latents.device)
    transition = copy.deepcopy(model.transition).to(device, torch.float64)
    starts = latents[:, states[:JACOBIAN_STATES, 0]].to(device, torch.float64)
    one_hot = F.one_hot(actions[:JACOBIAN_STATES], num_actions).to(device, torch.float64)
    one_hot = one_hot.expand(len(starts), -1, -1, -1)
    log10, _ = rollout_jacobian_norms(transition, starts, one_hot, [max(STEPS)])
    return 10 ** log10[0].mean(1)


def record_model(results: Results, task: Task, arm: str, measured: Mapping[str, Tensor]) -> None:
    """Metrics, and for the diagnosis the topology's arrays."""
    for name, value in measured.items():
        if name.startswith(("pairs", "energy")):
            results.add_array(f"{task.name}/{arm}/{name}", value)
        else:
            unit = "norm" if name.startswith("jacobian") else "1"
            results.add(f"{task.name}/{arm}/{name}", value, unit)


def record_task(results: Results, task: Task) -> None:
    """Coverage of the data, and what figures of the grid need."""
    world = task.world
    results.add(f"{task.name}/data_coverage", data_coverage(task), "of all reachable states")
    for name, values in {
        "position": world.position,
        "distance": task.distance,
        "starts": task.starts,
        "goals": task.goals,
        "picture": world.render(world.start_state, PICTURE_TILE),
    }.items():
        results.add_array(f"{task.name}/task/{name}", values)
