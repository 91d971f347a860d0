"""What the models of experiment 7 know: whole maps after many steps, distance, descent, gradients.

Shapes: S seeds, R rollouts, T steps, E episodes, B plans.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.config import Exp7Config
from common.jacobian_utils import LN10, Step, rollout_squared_norms_stochastic
from common.planners import make_planner
from common.planners.candidates import one_hot
from common.planners.gradient_fidelity import fidelity_budget, gradient_fidelity
from common.run.cache import reads_settings
from common.run.random import generator
from common.run.results import Results
from common.statistics import spearman
from exp7_unseen_layouts.dataset import ACTIONS, Layout
from exp7_unseen_layouts.episodes import (
    EPISODE_FIELDS,
    Episodes,
    by_layout,
    descend,
    episodes_of,
    execute,
    judge,
    part_of,
    success_of,
)
from exp7_unseen_layouts.evaluate_planners import (
    GRAPH_FIELDS,
    follow_values,
    graphs_of,
    member_of,
)
from exp7_unseen_layouts.latent_planning import LatentProblems
from exp7_unseen_layouts.models import SpatialModel, TransferKernel
from exp7_unseen_layouts.modes import Simulator, StateGraph, belief_model

STEPS = (1, 2, 5, 10, 20, 50)  # after which whole maps are compared
PROBES = 8  # of the stochastic estimate of a rollout's Jacobian
LATENT_PLANNERS = ("verified_gradient", "flat_gradient")  # through the flat latent


@reads_settings("seeds", "train_layouts", "test_layouts", "num_rollouts")
def measure_accuracy(
    family: str,
    part: str,
    spatial: SpatialModel,
    snapped: SpatialModel,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Whether the whole map is exact after random actions, with and without snapping on the way.

    Returns:
        `{spatial,snapped}/accuracy_{T}` [S] at each of STEPS: the share of rollouts in which every cell is.
    """
    true, actions = _true_rollouts(part_of(family, part, config), config.num_rollouts, f"{family}/{part}")
    found: dict[str, list] = {}
    for seed in range(len(config.seeds)):
        flat, whole = member_of(spatial, seed), member_of(snapped, seed)
        for name, exact in (
            ("spatial", _unsnapped(flat, true, actions)),
            ("snapped", _snapped(whole, true, actions)),
        ):
            for steps in STEPS:
                found.setdefault(f"{name}/accuracy_{steps}", []).append(exact[:, steps - 1].double().mean())
    return {name: torch.stack(values) for name, values in found.items()}


def _true_rollouts(layouts: list[Layout], count: int, stream: str) -> tuple[Tensor, Tensor]:
    """Observations [R, T + 1, H, X] and actions [R, T] of random actions from the reset, by MiniGrid."""
    draw = generator(0, f"{stream}/rollouts")
    grids, actions = [], []
    for rollout in range(count):
        layout = layouts[rollout % len(layouts)]
        layout.reset()
        allowed = torch.tensor(layout.actions)
        plan = allowed[torch.randint(len(allowed), (max(STEPS),), generator=draw)]
        seen, over = [layout.read_observation()], False
        for action in plan.tolist():
            over = over or layout.step(action)[1]
            seen.append(layout.read_observation())
        grids.append(torch.stack(seen))
        actions.append(plan)
    return torch.stack(grids), torch.stack(actions)


def _snapped(model: SpatialModel, true: Tensor, actions: Tensor) -> Tensor:
    """Whether each step's whole map is exact, every step from snapped codes: [R, T] bool."""
    state, exact = true[None, :, 0], []
    for step, action in enumerate(actions.unbind(1)):
        state = model.step_contents(state, action[None])
        exact.append((state[0] == true[:, step + 1]).flatten(1).all(1))
    return torch.stack(exact, 1)


@torch.no_grad()
def _unsnapped(model: SpatialModel, true: Tensor, actions: Tensor) -> Tensor:
    """The same with latents that are rolled on as they are, and read by the nearest code."""
    state, exact = model.encode(true[None, :, 0]), []
    one_hot = torch.nn.functional.one_hot(actions, len(ACTIONS)).float()
    for step in range(actions.shape[1]):
        state = model(state, one_hot[None, :, step]).clamp(-1e6, 1e6)
        exact.append((model.snap(state)[0] == true[:, step + 1]).flatten(1).all(1))
    return torch.stack(exact, 1)


@reads_settings(
    "seeds", *EPISODE_FIELDS, *GRAPH_FIELDS, "planning_horizons", "fidelity_plans", "fidelity_horizon"
)
def measure_belief(
    family: str,
    part: str,
    drawn: Mapping[str, Tensor],
    snapped: SpatialModel,
    kernel: TransferKernel,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """What the belief model's energy is worth, and that its gradient is what its construction says.

    Returns:
        [S] each: `spearman` of V and the true steps over the starts, `greedy` the share of starts solved by
        following V for the longest T, `gradient_fidelity` and `log10_jacobian_state` at random plans.
    """
    episodes = episodes_of(family, part, drawn, config)
    name = f"belief/log10_jacobian_state/T={config.fidelity_horizon}"
    found: dict[str, list] = {
        "belief/spearman": [], "belief/greedy": [], "belief/gradient_fidelity": [], name: []
    }  # fmt: skip
    longest = max(config.planning_horizons)
    for seed in range(len(config.seeds)):
        simulator = Simulator(member_of(snapped, seed), member_of(kernel, seed), config.kernel_floor)
        where = graphs_of(simulator, episodes, config)
        value = torch.tensor([float(graph.value[start]) for graph, start in where])
        known = episodes.shortest.isfinite()
        agreement = spearman(value[known], episodes.shortest[known]) if known.sum() > 1 else float("nan")
        found["belief/spearman"].append(torch.tensor(agreement))
        followed = execute(episodes, range(len(where)), follow_values(where, longest).actions)
        found["belief/greedy"].append(success_of(followed).mean())
        model, starts = belief_model(*zip(*where[: config.fidelity_plans], strict=True))
        horizon, choices = config.fidelity_horizon, model.num_actions
        draw = generator(config.seeds[seed], f"{family}/{part}/fidelity")
        plans = torch.randint(choices, (len(starts), horizon), generator=draw)
        problem = model.problem(starts, horizon, fidelity_budget(horizon, choices), over_time="final")
        found["belief/gradient_fidelity"].append(gradient_fidelity(problem, plans).nanmean())
        probes = generator(config.seeds[seed], f"{family}/{part}/probes")
        found[name].append(_belief_expansion(where[: config.fidelity_plans], plans, probes))
    return {name: torch.stack(values).double() for name, values in found.items()}


def _belief_expansion(
    where: Sequence[tuple[StateGraph, int]], plans: Tensor, draw: torch.Generator
) -> Tensor:
    """See _expansion; of the belief model, one graph after the other."""
    found = []
    for (graph, start), plan in zip(where, plans, strict=True):
        model, starts = belief_model([graph], [start])
        found.append(
            _expansion(
                lambda belief, weights, model=model: model.advance(belief[0], weights)[None],
                model.beliefs(starts, one_hot(plan[None, :0], model.num_actions)),
                one_hot(plan[None], model.num_actions),
                draw,
            )
        )
    return torch.stack(found).mean()


def _expansion(step: Step, state: Tensor, plans: Tensor, draw: torch.Generator) -> Tensor:
    """log10 of ||dz_T/dz_0||_F over that of the identity, a mean over plans: [B, d], [B, T, A] -> a number.

    Hutchinson's estimate; 0 where a step neither expands nor contracts on the whole.
    """
    probes = torch.randint(2, (PROBES, *state.shape), generator=draw).float() * 2 - 1
    squared, _ = rollout_squared_norms_stochastic(step, state, plans, probes)
    return (squared - math.log(state.shape[-1])).mean() / (2 * LN10)


@reads_settings(
    "seeds", *EPISODE_FIELDS, "latent_episodes", "latent_horizon", "evaluations_per_step", "temperature",
    "fidelity_plans", "fidelity_horizon",
)  # fmt: skip
def measure_latent(
    family: str,
    part: str,
    drawn: Mapping[str, Tensor],
    spatial: SpatialModel,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """The flat model planned through: its distance, its descent, its gradients, and two gradient planners.

    Returns:
        `spatial/{spearman,greedy,gradient_fidelity,log10_jacobian_state/T=..,saturated/T=..}` [S] and
        `{planner}/open/T=../{success,spl,evaluations}` [S, E]; `layout` [S, E] of these.
    """
    episodes = episodes_of(family, part, drawn, config)
    found = []
    for index, seed in enumerate(config.seeds):
        model, horizon = member_of(spatial, index), config.latent_horizon
        everywhere = LatentProblems.of(model, episodes, range(len(episodes.layout)))
        distance = everywhere.distance(everywhere.latents[:, None])[:, 0]
        known = episodes.shortest.isfinite()
        own = {"spatial/spearman": torch.tensor(spearman(distance[known], episodes.shortest[known]))}
        chosen = range(min(config.latent_episodes, len(episodes.layout)))
        own["spatial/greedy"] = _descend(model, episodes, chosen, horizon).mean()
        draw = generator(seed, f"{family}/{part}/fidelity")
        own |= _latent_gradients(model, episodes, draw, config)
        problems = LatentProblems.of(model, episodes, chosen)
        for name in LATENT_PLANNERS:
            planner, noise = make_planner(name), generator(seed, f"{family}/{part}/{name}/latent")
            plan = planner(
                problems.problem(
                    horizon, horizon * config.evaluations_per_step, over_time=planner.over_time,
                    temperature=config.temperature,
                ),
                noise,
            )  # fmt: skip
            runners = execute(episodes, chosen, plan.actions)
            judged = judge(runners, episodes.shortest[: len(chosen)].double())
            judged["evaluations"] = torch.full((len(chosen),), float(plan.evaluations)).double()
            own |= {f"{name}/open/T={horizon}/{key}": values for key, values in judged.items()}
        own["layout"] = episodes.layout[: len(chosen)]
        found.append(own)
    return {name: torch.stack([own[name] for own in found]) for name in found[0]}


def _latent_gradients(
    model: SpatialModel, episodes: Episodes, draw: torch.Generator, config: Exp7Config
) -> dict[str, Tensor]:
    """At random plans: mean gradient fidelity of the latent distance, _expansion, and what is saturated."""
    problems = LatentProblems.of(model, episodes, range(min(config.fidelity_plans, len(episodes.layout))))
    horizon, choices = config.fidelity_horizon, len(problems.actions)
    plans = torch.randint(choices, (len(problems.latents), horizon), generator=draw)
    problem = problems.problem(horizon, fidelity_budget(horizon, choices), over_time="final")
    shape = problems.latents.shape[1:]

    def step(latents: Tensor, actions: Tensor) -> Tensor:
        return problems.step(latents.unflatten(-1, shape)[None], actions[None])[0].flatten(1)

    taken = one_hot(plans, choices)
    expansion = _expansion(step, problems.latents.flatten(1), problems.spread(taken), draw)
    return {
        "spatial/gradient_fidelity": gradient_fidelity(problem, plans).nanmean(),
        f"spatial/log10_jacobian_state/T={horizon}": expansion,
        f"spatial/saturated/T={horizon}": problems.saturated(taken),
    }


def _descend(model: SpatialModel, episodes: Episodes, chosen: range, steps: int) -> Tensor:
    """See `descend`: the distance is the model's, after one predicted step."""
    goals = LatentProblems.of(model, episodes, chosen)
    choices = torch.eye(len(ACTIONS))[list(goals.actions)]

    def after(grids: Tensor) -> Tensor:
        latents = model.encode(grids[None])
        predicted = [model(latents, choice.expand(1, len(grids), -1))[0, :, None] for choice in choices]
        return torch.stack([goals.distance(some)[:, 0] for some in predicted], 1)

    return descend(episodes, chosen, steps, after)


def record_knowledge(results: Results, family: str, part: str, measured: dict[str, Tensor]) -> None:
    """`{env}/{model}/{metric}`, and of the latent's planners what record_planning has of the others."""
    prefix = family if part == "test" else f"train_layouts/{family}"
    for name, values in measured.items():
        if name.endswith("/success"):
            results.add_rate(f"{prefix}/{name}", by_layout(values, measured["layout"][0]), enumerated=False)
        elif name != "layout":
            results.add(f"{prefix}/{name}", values if values.dim() == 1 else values.mean(1))
