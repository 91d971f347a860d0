"""What the picture of unseen layouts is drawn from: values, a belief as it spreads, the path that was taken.

Shapes: L layouts, H, X of a map, T steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.config import Exp7Config
from common.planners.candidates import one_hot
from common.run.cache import reads_settings
from common.run.random import generator
from common.run.results import Results
from exp7_unseen_layouts.dataset import AGENTS, COLOURS, STATES
from exp7_unseen_layouts.episodes import episodes_of, execute
from exp7_unseen_layouts.evaluate_planners import (
    PLANNING_FIELDS,
    Compared,
    graphs_of,
    member_of,
)
from exp7_unseen_layouts.models import SpatialModel, TransferKernel
from exp7_unseen_layouts.modes import Simulator, StateGraph, belief_model

SHOWN = 3  # layouts
BLUR = 0.5  # share of uniformly random actions in the plan whose belief is shown


@reads_settings(*PLANNING_FIELDS)
def measure_pictures(
    family: str,
    drawn: Mapping[str, Tensor],
    snapped: SpatialModel,
    kernel: TransferKernel,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Of the first seed in the first held-out layouts, one episode each.

    Returns:
        `object` [L, H, X] MiniGrid's numbers; `value` [L, H, X] of the first map, least over directions,
        nan where nobody stands or from where the goal is not reached; `belief` [L, T + 1, H, X] under the
        plan blurred by random actions; `path` [L, T + 1, 2] (column, row) as executed, after its end its
        last cell again; `success` [L].
    """
    episodes = episodes_of(family, "test", drawn, config)
    simulator = Simulator(member_of(snapped, 0), member_of(kernel, 0), config.kernel_floor)
    where = graphs_of(simulator, episodes, config)
    first = [int((episodes.layout == layout).nonzero()[0]) for layout in episodes.layout.unique()[:SHOWN]]
    chosen, horizon = [where[episode] for episode in first], max(config.planning_horizons)
    draw = generator(config.seeds[0], f"{family}/pictures")
    plan = Compared("belief", config).plan(chosen, horizon, draw)
    found: dict[str, list[Tensor]] = {"object": [], "value": [], "belief": [], "path": [], "success": []}
    for episode, (graph, start), actions in zip(first, chosen, plan.actions, strict=True):
        model, starts = belief_model([graph], [start])
        taken = one_hot(actions, model.num_actions)
        beliefs = model.beliefs(starts, ((1 - BLUR) * taken + BLUR / model.num_actions)[None])
        (runner,) = execute(episodes, [episode], actions[None])
        path = torch.tensor(runner.poses)[:, :2]
        found["path"].append(torch.cat([path, path[-1:].expand(horizon + 1 - len(path), -1)]))
        found["success"].append(torch.tensor(runner.success))
        found["object"].append(graph.maps[graph.mode[start]] // (AGENTS * STATES * COLOURS))
        here = graph.value.where(graph.mode == graph.mode[start], torch.inf)
        found["value"].append(
            _on_map(graph, here.where(here < config.value_sweeps, torch.inf), "amin", torch.inf)
        )
        found["belief"].append(torch.stack([_on_map(graph, belief, "sum", 0.0) for belief in beliefs]))
    measured = {name: torch.stack(values) for name, values in found.items()}
    measured["value"][measured["value"].isinf()] = torch.nan
    return measured


def _on_map(graph: StateGraph, values: Tensor, reduce: str, empty: float) -> Tensor:
    """Values of states [N] on the cells of a map, over directions and modes: [H, X]."""
    rows, columns = graph.maps.shape[1:]
    cell = graph.pose[1:] // 4
    grid = torch.full((rows * columns,), empty)
    return grid.scatter_reduce(0, cell, values[1:].float(), reduce).view(rows, columns)


def record_pictures(results: Results, family: str, measured: dict[str, Tensor]) -> None:
    """Arrays `{env}/pictures/{name}`."""
    for name, values in measured.items():
        results.add_array(f"{family}/pictures/{name}", values)
