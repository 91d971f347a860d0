"""Planners in layouts: on the product of modes and poses of the learned model, and through the flat latent.

Terms
    open     one plan of T actions, executed blindly
    closed   replanning with horizon min(T, replan_horizon), replan_execute actions taken of each plan
    test     held-out layouts; train: layouts that the models were trained on

Shapes: S seeds, E episodes, T steps.
"""

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import Exp7Config
from common.planners import make_planner
from common.planners.belief_model import BeliefModel
from common.planners.candidates import Noise
from common.planners.problem import Plan, Planner
from common.run.cache import reads_settings
from common.run.random import generator
from common.run.results import Results
from exp7_unseen_layouts.episodes import (
    EPISODE_FIELDS,
    Episodes,
    Runner,
    by_layout,
    episodes_of,
    execute,
    judge,
)
from exp7_unseen_layouts.models import SpatialModel, TransferKernel
from exp7_unseen_layouts.modes import Simulator, State, StateGraph, belief_model, explore

log = logging.getLogger(__name__)

GRAPH_FIELDS = ("kernel_floor", "value_sweeps", "max_modes", "slack")
PLANNING_FIELDS = (
    "seeds", *EPISODE_FIELDS, *GRAPH_FIELDS, "planners", "closed_planners", "train_planners",
    "planning_horizons", "evaluations_per_step", "budget_sweep", "time_factor", "temperature",
    "replan_horizon", "replan_execute",
)  # fmt: skip
PLANNED_BY = {  # name of the planner that a compared one is made of, and its settings
    "belief_whole": ("belief", {}),
    "belief_ungrown": ("belief", {"growth": 0.0, "slack": float("inf")}),
    "belief_uncapped": ("belief", {"slack": float("inf")}),
    "oracle": ("belief", {}),
    "belief_verified": ("verified_gradient", {}),
    "cem_equal_time": ("cem", {}),
}
BUDGETED = ("belief", "cem", "cem_growing", "random_shooting")  # compared over budgets
# plan near shortest paths; others on all that the search looked at
RESTRICTED = ("belief", "belief_ungrown", "belief_uncapped", "belief_verified", "cem_growing")


def member_of(module: nn.Module, index: int) -> nn.Module:
    """One member of an ensemble, whose parameters and buffers all lead with S, as an ensemble of one."""
    alone = copy.deepcopy(module).requires_grad_(False).cpu()
    for values in (*alone.parameters(), *alone.buffers()):
        values.data = values.data[index : index + 1].clone()
    return alone


def graphs_of(simulator: Simulator, episodes: Episodes, config: Exp7Config) -> list[tuple[StateGraph, int]]:
    """The graph of each episode's layout, and its start in there: E of them; a layout is searched once."""
    found: list[tuple[StateGraph, int]] = [None] * len(episodes.layout)
    for index in episodes.layout.unique().tolist():
        own = (episodes.layout == index).nonzero().flatten().tolist()
        graph = search(
            simulator, [episodes.start(episode) for episode in own], episodes.layouts[index], config
        )
        for episode, start in zip(own, graph.starts.tolist(), strict=True):
            found[episode] = graph, start
    return found


def search(simulator: Simulator, states: Sequence[State], layout, config: Exp7Config) -> StateGraph:
    """The graph from some states of a layout, with the configuration's limits."""
    return explore(
        simulator, states, layout.actions, slack=config.slack, sweeps=config.value_sweeps,
        max_modes=config.max_modes,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------
# Plans
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One planner as it is compared: its settings, its budget, and the states that it plans on."""

    name: str
    config: Exp7Config
    evaluations_per_step: int | None = None  # None: the configuration's

    def planner(self) -> Planner:
        """The planner itself."""
        base, settings = PLANNED_BY.get(self.name, (self.name, {}))
        if base in ("belief", "cem_growing"):
            settings = {"slack": float(self.config.slack)} | settings
        return make_planner(base, **settings)

    def plan(self, where: Sequence[tuple[StateGraph, int]], horizon: int, noise: torch.Generator) -> Plan:
        """Plans [E, T] from states of graphs: columns of their actions."""
        if self.name == "greedy":
            return follow_values(where, horizon)
        if self.name == "random_policy":
            return random_plans(where, horizon, noise)
        if self.name in RESTRICTED:
            where = [graph.restricted(start, self.config.slack) for graph, start in where]
        return self.plan_in(*belief_model(*zip(*where, strict=True)), horizon, noise)

    def plan_in(self, model: BeliefModel, starts: Tensor, horizon: int, noise: torch.Generator) -> Plan:
        """Plans in a belief model."""
        planner = self.planner()
        factor = self.config.time_factor if self.name == "cem_equal_time" else 1
        budget = (self.evaluations_per_step or self.config.evaluations_per_step) * factor * horizon
        problem = model.problem(
            starts, horizon, budget, over_time=planner.over_time, temperature=self.config.temperature
        )
        return planner(problem, Noise.of(noise, len(starts)))


def follow_values(where: Sequence[tuple[StateGraph, int]], horizon: int) -> Plan:
    """At each state the action whose expected value is least; the likeliest outcome goes on."""
    actions, evaluations = torch.zeros(len(where), horizon, dtype=torch.int64), 0
    ends = torch.zeros(len(where))
    for row, (graph, state) in enumerate(where):
        for step in range(horizon):
            expected = (graph.probabilities[state] * graph.value[graph.successors[state]]).sum(-1)
            actions[row, step] = choice = int(expected.argmin())
            state = int(graph.successors[state, choice, 0])
        ends[row] = graph.value[state]
        evaluations = horizon * graph.successors.shape[1]
    return Plan(actions, ends, torch.zeros_like(ends), evaluations, ends[None])


def random_plans(where: Sequence[tuple[StateGraph, int]], horizon: int, noise: torch.Generator) -> Plan:
    """Uniformly random actions, for no evaluation."""
    choices = where[0][0].successors.shape[1]
    actions = torch.randint(choices, (len(where), horizon), generator=noise)
    nothing = torch.zeros(len(where))
    return Plan(actions, nothing, nothing, 0, nothing[None])


def true_model(episodes: Episodes) -> tuple[BeliefModel, Tensor] | None:
    """The true dynamics of all episodes as a belief model; None where a layout cannot be enumerated."""
    tables = [episodes.tables[index] for index in episodes.layout.tolist()]
    if any(table is None for table in tables):
        return None
    sizes = torch.tensor([len(table.steps) for table in tables])
    first = sizes.cumsum(0) - sizes
    rows = [table.next_state + offset for table, offset in zip(tables, first.tolist(), strict=True)]
    steps = torch.cat([table.steps for table in tables])
    energy = steps.where(steps.isfinite(), steps[steps.isfinite()].max() + 1).float()
    successors = torch.cat(rows)[..., None]
    return BeliefModel(successors, torch.ones(successors.shape), energy, sizes), first + episodes.states


# ----------------------------------------------------------------------------------------------
# Measurement
# ----------------------------------------------------------------------------------------------


@reads_settings(*PLANNING_FIELDS)
def measure_planning(
    family: str,
    part: str,
    drawn: Mapping[str, Tensor],
    snapped: SpatialModel,
    kernel: TransferKernel,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Every planner of the configuration, open and closed loop, in the layouts of a part.

    Args:
        family: of environments.
        part: "test" or "train".
        drawn: its episodes, what `measure_episodes` found.
        snapped: the latent models, an ensemble of S.
        kernel: their transfer kernels.
        config: the fields named above.
        device: not used: graphs are searched on the cpu.

    Returns:
        `{planner}/{mode}/T={T}/{success,spl,evaluations}` [S, E] and `milliseconds` a plan, the same by
        `{planner}/budgets/{evaluations a step}` at the longest T; `value`, `shortest`, `modes`, `states`,
        `searched` [S, E] of the searches, and `search_milliseconds`; `layout` [S, E] of the episodes.
    """
    episodes = episodes_of(family, part, drawn, config)
    found = []
    for index, seed in enumerate(config.seeds):
        simulator = Simulator(member_of(snapped, index), member_of(kernel, index), config.kernel_floor)
        found.append(_Member(family, part, simulator, seed, episodes, config).measure())
    return {name: torch.stack([own[name] for own in found]) for name in found[0]}


class _Member:
    """One seed's model in the episodes of a part."""

    def __init__(
        self, family: str, part: str, simulator: Simulator, seed: int, episodes: Episodes, config: Exp7Config
    ):
        self.family, self.part, self.simulator, self.seed = family, part, simulator, seed
        self.episodes, self.config = episodes, config
        began = time.perf_counter()
        self.where = graphs_of(simulator, episodes, config)
        searches = len(episodes.layout.unique())
        self.search_milliseconds = 1e3 * (time.perf_counter() - began) / searches
        self.shortest = episodes.shortest.double()
        self.oracle = true_model(episodes)

    def measure(self) -> dict[str, Tensor]:
        """See measure_planning; of one seed, [E]."""
        config, found = self.config, {}
        planners = config.planners if self.part == "test" else config.train_planners
        greedy = self.open("greedy", max(config.planning_horizons))
        unknown = self.shortest.isnan()  # then the shortest way that was found
        self.shortest = self.shortest.where(~unknown, greedy["steps"].where(greedy["success"] > 0, torch.inf))
        for name in planners:
            for horizon in config.planning_horizons:
                if name != "oracle" or self.oracle is not None:
                    found |= _labelled(f"{name}/open/T={horizon}", self.open(name, horizon))
        horizon = max(config.planning_horizons)
        for name in BUDGETED if self.part == "test" else ():
            for budget in config.budget_sweep if name in planners else ():
                found |= _labelled(f"{name}/budgets/{budget}", self.open(name, horizon, budget))
        for name in config.closed_planners if self.part == "test" else ():
            found |= _labelled(f"{name}/closed/T={horizon}", self.closed(name, horizon))
        return found | self.searches()

    def searches(self) -> dict[str, Tensor]:
        """What the searches found."""
        graphs = [graph for graph, _ in self.where]
        return {
            "value": torch.tensor([float(graph.value[start]) for graph, start in self.where]).double(),
            "shortest": self.shortest,
            "modes": torch.tensor([float(graph.num_modes) for graph in graphs]).double(),
            "states": torch.tensor([float(len(graph.value)) for graph in graphs]).double(),
            "searched": torch.tensor([float(graph.evaluations) for graph in graphs]).double(),
            "layout": self.episodes.layout,
            "search_milliseconds": torch.tensor(self.search_milliseconds).double(),
        }

    def open(self, name: str, horizon: int, budget: int | None = None) -> dict[str, Tensor]:
        """One blind plan an episode, with `budget` evaluations a step."""
        label = f"{name}/open/T={horizon}" if budget is None else f"{name}/budgets/{budget}"
        compared, noise = Compared(name, self.config, budget), self._noise(label)
        began = time.perf_counter()
        if name == "oracle":
            plan = compared.plan_in(*self.oracle, horizon, noise)
        else:
            plan = compared.plan(self.where, horizon, noise)
        milliseconds = 1e3 * (time.perf_counter() - began) / len(self.where)
        every = range(len(self.where))
        runners = execute(
            self.episodes, every, plan.actions, [self._columns(name, episode) for episode in every]
        )
        evaluations = torch.full((len(runners),), float(plan.evaluations)).double()
        return self._judged(runners, evaluations, milliseconds, label)

    def closed(self, name: str, horizon: int) -> dict[str, Tensor]:
        """Replanning from what the environment shows."""
        label = f"{name}/closed/T={horizon}"
        compared, noise = Compared(name, self.config), self._noise(label)
        runners = [Runner(self.episodes, episode) for episode in range(len(self.where))]
        where = list(self.where)
        evaluations, plans = torch.zeros(len(runners)).double(), 0
        began = time.perf_counter()
        ahead = min(horizon, self.config.replan_horizon)
        for time_left in range(horizon, 0, -self.config.replan_execute):
            running = [episode for episode, runner in enumerate(runners) if not runner.over]
            if not running:
                break
            for episode in running:
                where[episode] = self._located(episode, runners[episode], where[episode][0])
            plan = compared.plan([where[episode] for episode in running], ahead, noise)
            evaluations[running] += plan.evaluations
            plans += len(running)
            for episode, actions in zip(running, plan.actions.tolist(), strict=True):
                columns = self._columns(name, episode)
                for action in actions[: min(self.config.replan_execute, time_left)]:
                    runners[episode].take(columns[action])
        milliseconds = 1e3 * (time.perf_counter() - began) / plans
        return self._judged(runners, evaluations, milliseconds, label)

    def _located(self, episode: int, runner: Runner, graph: StateGraph) -> tuple[StateGraph, int]:
        """The state that the environment is in; where the search did not come upon it, a new search."""
        state = runner.state()
        found = graph.find(state)
        if found is None:
            graph = search(self.simulator, [state], runner.layout, self.config)
            found = int(graph.starts[0])
        return graph, found

    def _columns(self, name: str, episode: int) -> Sequence[int]:
        """The actions that the columns of a plan mean."""
        index = int(self.episodes.layout[episode])
        return (self.episodes.tables[index] if name == "oracle" else self.episodes.layouts[index]).actions

    def _noise(self, label: str) -> torch.Generator:
        return generator(self.seed, f"{self.family}/{self.part}/{label}")

    def _judged(
        self, runners: Sequence[Runner], evaluations: Tensor, milliseconds: float, label: str
    ) -> dict[str, Tensor]:
        judged = judge(runners, self.shortest)
        log.info("%s/%s/%s: success %.2f, %.1f ms a plan", self.part, self.family, label,
                 judged["success"].mean(), milliseconds)  # fmt: skip
        return judged | {"evaluations": evaluations, "milliseconds": torch.tensor(milliseconds).double()}


def _labelled(label: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{label}/{name}": value for name, value in values.items()}


# ----------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------


def record_planning(results: Results, family: str, part: str, measured: dict[str, Tensor]) -> None:
    """`{env}/{planner}/{mode}/T={T}/{success,spl,evaluations}`, in training layouts under `train_layouts/`.

    Beside them differences of success to CEM over the same episodes, and what the searches found. Intervals
    are over training seeds and layouts: what is drawn is a layout.
    """
    prefix = family if part == "test" else f"train_layouts/{family}"
    layout = measured["layout"][0]
    for name, values in measured.items():
        label, _, kind = name.rpartition("/")
        if kind == "success":
            results.add_rate(f"{prefix}/{name}", by_layout(values, layout), enumerated=False)
            other = "/".join(["cem", *label.split("/")[1:], "success"])
            if other in measured and not label.startswith("cem/"):
                planner, *rest = label.split("/")
                difference = "/".join([prefix, f"{planner}_minus_cem", *rest, "success"])
                apart = by_layout(values - measured[other], layout)
                results.add_difference(difference, apart, enumerated=False)
        elif kind in ("spl", "evaluations", "steps"):
            unit = {"spl": "1", "evaluations": "transitions", "steps": "steps"}[kind]
            results.add(f"{prefix}/{name}", values.mean(1), unit)
        elif kind.endswith("milliseconds"):
            results.timings[f"{prefix}/{name}"] = float(values.mean())
    error = (measured["value"] - measured["shortest"]).abs()
    results.add(f"{prefix}/search/value_error", error.mean(1), "steps")
    for name, unit in (("modes", "maps"), ("states", "states"), ("searched", "model steps and kernel rows")):
        results.add(f"{prefix}/search/{name}", measured[name].mean(1), unit)
