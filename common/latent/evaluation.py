"""What a latent model knows before any planning: predictions, distance, descent, gradients, Jacobian.

Shapes: S seeds, N states, K source states with J target states each, M sampled rollouts, d latent, h metric,
G goals, T steps, A actions.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import MiniGridConfig
from common.jacobian_utils import rollout_jacobian_norms
from common.latent.alignment import alike, greedy_success, prediction_accuracy, random_rollouts
from common.latent.model import LatentModel
from common.latent.problems import LatentProblems
from common.minigrid.task import TASK_FIELDS, Task, data_coverage
from common.minigrid.walks import distances_from
from common.planners.gradient_fidelity import fidelity_budget, gradient_fidelity
from common.run.cache import reads_settings
from common.run.devices import measurement_device, to_float64
from common.run.random import generator
from common.run.results import Results
from common.statistics import spearman

STEPS = (1, 10, 50)  # at which predictions are judged; the last is the configuration's JUDGED_STEPS
ROLLOUTS = 512
JACOBIAN = f"jacobian_{max(STEPS)}"
JACOBIAN_STATES = 64
FIDELITY_PLANS = 64
FIDELITY_HORIZONS = (5, 10, 20, 50)
FIDELITY_HORIZON = 20  # of `gradient_fidelity` without T
PAIRS = 3000  # of states, in the scatter
RANKED_PAIRS = 2_000_000  # of states, in the rank correlation at most
RANKED_SOURCES = 1000  # states that these pairs begin in, where there are more pairs
PICTURE_TILE = 16  # side of a cell in the saved picture [pixels]
# What figures are drawn from, no metrics.
ARRAYS = ("pairs/latent", "pairs/steps", "energy", "plane")


@reads_settings(*TASK_FIELDS)
def measure_model(
    task: Task,
    model: LatentModel,
    *,
    config: MiniGridConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """Metrics, each [S], and arrays that figures of the latent are drawn from.

    accuracy_T: the prediction after T random actions is nearest to the true state, among all.
    jumpy_accuracy/stride=..: the same after one macro step.
    spearman: rank correlation of the model's and the true distance over all ordered pairs of states with a
        way between them; over RANKED_PAIRS random ones, from RANKED_SOURCES states, where there are more.
    greedy: fraction of starts from which one-step descent of the energy, as the model predicts it, arrives.
    gradient_fidelity: see common/planners/gradient_fidelity.py; mean over random plans.
    jacobian_50: geometric mean of ||dz_50/dz_0||_F over states and random actions.
    """
    world = task.world
    problems = LatentProblems(model, task, 1, device)  # without a jumpy level
    latents = problems.latents
    states, actions = random_rollouts(world, ROLLOUTS, max(STEPS), generator(0, "evaluation/rollouts"))
    with torch.no_grad():
        measured = _distances(task, model, latents)
        measured |= _accuracies(task, model, latents, states.to(device), actions.to(device))
        choice = one_step_descent(model, latents, problems.goals, world.num_actions).cpu()
    measured["greedy"] = greedy_success(world, choice, task.starts)
    measured |= _fidelities(problems, states, actions)
    measured[JACOBIAN] = _jacobian(model, latents, states, actions, world.num_actions)
    return measured | {"energy": problems.energy}


def distances_between(model: LatentModel, latents: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """The model's distance from each source to its targets: [S, N, d], [K], [K, J] -> [S, K, J]."""
    points = model.embed(latents)
    rows = [
        model.distance(points[:, source, None], points[:, others])
        for source, others in zip(sources, targets, strict=True)
    ]
    return torch.stack(rows, 1)


def one_step_descent(model: LatentModel, latents: Tensor, goals: Tensor, num_actions: int) -> Tensor:
    """The action after which the model sees the least energy: [S, N, d], goals [S, G, d] -> [S, N]."""
    one_hot = torch.eye(num_actions, device=latents.device)
    after = [
        model.energy(model.transition(latents, action.expand(*latents.shape[:2], -1)), goals)
        for action in one_hot
    ]
    return torch.stack(after, -1).argmin(-1)


def sample_pairs(states: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sources [K] and for each its targets [K, J], among which are at most RANKED_PAIRS pairs with a way.

    All where N (N - 1) are no more; else the pairs of RANKED_SOURCES random sources, with as many random
    targets each as RANKED_PAIRS allows: the true distances of N^2 pairs would take hours and gigabytes.
    """
    everything = torch.arange(states)
    if states * (states - 1) <= RANKED_PAIRS:
        return everything, everything.expand(states, -1)
    sources = torch.randperm(states, generator=draw)[:RANKED_SOURCES]
    count = RANKED_PAIRS // len(sources)
    return sources, torch.stack([torch.randperm(states, generator=draw)[:count] for _ in sources])


def _distances(task: Task, model: LatentModel, latents: Tensor) -> dict[str, Tensor]:
    """Spearman, and pairs for the scatter."""
    sources, targets = sample_pairs(task.world.num_states, generator(0, "evaluation/sources"))
    true = distances_from(task.world.next_state, sources).gather(1, targets)
    between = distances_between(model, latents, sources.to(latents.device), targets.to(latents.device)).cpu()
    pairs = (true > 0).nonzero()  # (source, target) with a way between them
    order = torch.randperm(len(pairs), generator=generator(0, "evaluation/pairs"))
    start, end = pairs[order].unbind(1)
    ranked = [spearman(distance[start, end], true[start, end]) for distance in between]
    start, end = start[:PAIRS], end[:PAIRS]
    return {
        "spearman": torch.tensor(ranked),
        "pairs/latent": between[:, start, end],
        "pairs/steps": true[start, end],
    }


def _accuracies(
    task: Task, model: LatentModel, latents: Tensor, states: Tensor, actions: Tensor
) -> dict[str, Tensor]:
    count = task.world.num_actions
    classes = alike(task.world.observations).to(latents.device)
    found = prediction_accuracy(latents, model.transition.rollout, states, actions, count, STEPS, classes)
    measured = {f"accuracy_{steps}": value for steps, value in found.items()}
    for stride in map(int, model.jumpy):
        macro_states = states[:, ::stride]

        def jump(start: Tensor, one_hot: Tensor, stride: int = stride) -> Tensor:
            return model.jump(start, one_hot, stride)

        found = prediction_accuracy(latents, jump, macro_states, actions[:, :stride], count, (1,), classes)
        measured[f"jumpy_accuracy/stride={stride}"] = found[1]
    return measured


def _fidelities(problems: LatentProblems, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
    """Mean gradient fidelity over random plans, at each horizon: [S]."""
    seeds, measured = len(problems.latents), {}
    starts = torch.cartesian_prod(torch.arange(seeds), states[:FIDELITY_PLANS, 0])  # [S M, 2], by seed
    for horizon in FIDELITY_HORIZONS:
        plans = actions[:FIDELITY_PLANS, :horizon].repeat(seeds, 1)
        budget = fidelity_budget(horizon, problems.num_actions)
        found = gradient_fidelity(problems(starts, horizon, budget, "final"), plans)
        measured[f"gradient_fidelity/T={horizon}"] = found.view(seeds, -1).nanmean(1)
    measured["gradient_fidelity"] = measured[f"gradient_fidelity/T={FIDELITY_HORIZON}"]
    return measured


def _jacobian(
    model: LatentModel, latents: Tensor, states: Tensor, actions: Tensor, num_actions: int
) -> Tensor:
    """In float64, on a copy of the transition: [S]."""
    device = measurement_device(latents.device)
    transition = to_float64(copy.deepcopy(model.transition), device)
    starts = to_float64(latents[:, states[:JACOBIAN_STATES, 0]], device)
    one_hot = to_float64(F.one_hot(actions[:JACOBIAN_STATES], num_actions), device)
    one_hot = one_hot.expand(len(starts), -1, -1, -1)
    log10, _ = rollout_jacobian_norms(transition, starts, one_hot, [max(STEPS)])
    return 10 ** log10[0].mean(1)


def record_model(results: Results, task: Task, variant: str, measured: Mapping[str, Tensor]) -> None:
    """Metrics, and for the figures the latent's arrays."""
    for name, value in measured.items():
        if name in ARRAYS:
            results.add_array(f"{task.name}/{variant}/{name}", value)
        else:
            results.add(f"{task.name}/{variant}/{name}", value, "norm" if name == JACOBIAN else "1")


def record_task(results: Results, task: Task) -> None:
    """Coverage of the data, and what figures of the grid need."""
    world = task.world
    results.add(f"{task.name}/data_coverage", data_coverage(task), "of all reachable states")
    results.add(f"{task.name}/num_states", [world.num_states] * len(task.walks), "states")
    for name, values in {
        "position": world.position,
        "distance": task.distance,
        "goals": task.goals,
        "picture": world.render(world.start_state, PICTURE_TILE),
    }.items():
        results.add_array(f"{task.name}/task/{name}", values)
