"""Planners beside stable-worldmodel's solvers: time and success; and beside the bare matrix products.

    python benchmarks/bench_planners.py [--save] [--horizons 12 50] [--no-success]

prints ratios of CPU times measured in one process, in turn, one thread; absolute times are noise. The peer is
left out where the package is not importable (it is no requirement: pip install stable-worldmodel). Peak
memory is that of a process of its own for each planner, over what it had before it planned. --save writes the
ratios, a value a round, to reference/exp3_planning_efficiency/benchmark.json:
    {kind}/B={B}/N={N}/{column}          at T = 50; at another horizon T={T}/{kind}/B={B}/N={N}/{column}
with kind cem, gradient (verified gradient without hard samples) or helm (the same, half of its budget over a
jumpy level), and the columns
    over_floor     ours over the products of as many transitions, each as large as it comes
    over_one       ours over one product of as many operations
    peer_steps     the peer's time over ours, asking the model by steps (PGD for gradient and helm)
    peer_rollout   the same, asking it by our rollout
Every plan is timed with the setting up of its problems, on both sides.

Both plan on one trained model (Empty-8x8, trained here in a minute), weights frozen, all problems in one
batch, which is the peer's best setting (its CategoricalCEM defaults to one problem at a time). The model
asked is the same; `steps` asks it step by step as a user of the peer would write it, `rollout` by this
repository's rollout, through common/planners/adapter.py.

Shapes: B problems, N candidates, T steps, A actions.
"""

import argparse
import contextlib
import io
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from benchmarks.timing import seconds_by_round
from common.config import Exp3Config
from common.latent.model import JumpyTransition, LatentModel
from common.latent.problems import LatentProblems
from common.minigrid.task import Task, make_task
from common.planners import PEERS, PLANNERS, make_planner
from common.planners.adapter import CostModel
from common.planners.cem import CEM
from common.planners.control import execute_open_loop
from common.planners.helm import Helm
from common.planners.problem import Planner
from common.planners.verified_gradient import VerifiedGradient
from common.run.files import ROOT, write_atomically
from common.run.results import SCHEMA, Results, provenance, to_json
from exp3_planning_efficiency.train_flat import FlatVariant, train_flat

HORIZONS, MAIN_HORIZON, ROUNDS, REPEATS = (12, 50), 50, 3, 5
STRIDE = 4  # of the jumpy level
CPU = torch.device("cpu")
SIZES = ((1, 1), (1, 4), (1, 16), (16, 1), (16, 4), (4, 32), (16, 16), (16, 64), (128, 32))  # (B, N)
AT_ONCE = 64  # candidates that a timing plans for at least, by planning again: short calls are noise
UNLIMITED = 10**12
SAVED = ROOT / "reference" / "exp3_planning_efficiency" / "benchmark.json"
TEMPERATURE = Exp3Config().open_temperature


class StepByStep:
    """The model as a user of the peer would write it: get_cost that steps the transition T times."""

    def __init__(self, model: LatentModel, problems: LatentProblems, starts: Tensor):
        self.model, self.goals, self.start = model, problems.goals, problems.latents[0, starts]

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """Softmin energies [B, N] of candidates [B, N, T, A]."""
        latent = self.start[None, :, None].expand(-1, -1, candidates.shape[1], -1)
        energies = []
        for action in candidates[None].unbind(-2):
            latent = self.model.transition(latent, action)
            energies.append(self.model.energy(latent, self.goals)[0])
        return -torch.logsumexp(-torch.stack(energies, -1), -1)


def train(task: Task, config: Exp3Config) -> LatentModel:
    """The flat model of experiment 3, frozen, and beside it an untrained jumpy level, for timings of HELM."""
    model, _ = train_flat(task, variant=FlatVariant(), config=config, device=CPU)
    actions = STRIDE * task.world.num_actions
    jumpy = JumpyTransition((0,), config.d_latent, actions, config.hidden_dim)
    model.jumpy[str(STRIDE)] = jumpy
    return model.requires_grad_(False).eval()


def floor(model: LatentModel, rows: int, horizon: int) -> Callable[[], None]:
    """The products of T transitions of `rows` latents and nothing else, each as large as it comes."""
    layers = [
        (layer.weight[0], torch.randn(rows, layer.weight.shape[1])) for layer in model.transition.mlp.layers
    ]

    def products() -> None:
        for _ in range(horizon):
            for weight, inputs in layers:
                inputs @ weight

    return products


def one_product(model: LatentModel, rows: int, horizon: int) -> Callable[[], None]:
    """One product of as many operations as T transitions of `rows` latents."""
    weights = [layer.weight[0] for layer in model.transition.mlp.layers]
    inner = max(weight.shape[0] for weight in weights)
    inputs = torch.randn(rows * horizon, inner)
    weight = torch.randn(inner, -(-sum(weight.numel() for weight in weights) // inner))
    return lambda: inputs @ weight


def peer_solvers() -> Any | None:
    """The peer's solver module, or None where it cannot be imported."""
    try:
        from stable_worldmodel import solver
    except ImportError as error:
        print(f"stable-worldmodel is not importable here ({error}): the peer's columns are left out")
        return None
    return solver


def peer_plan(
    solver_class: Any,
    make_cost: Callable[[], Any],
    problems: int,
    num_actions: int,
    horizon: int,
    **settings: Any,
) -> Callable[[], Tensor]:
    """A call of the peer's solver, all problems in one batch: its actions [B, T].

    `make_cost` makes the cost model, which belongs to what is timed.
    """
    config = SimpleNamespace(horizon=horizon, action_block=1)
    info = {"problem": torch.arange(problems)}

    def plan() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            solver = solver_class(make_cost(), batch_size=problems, **settings)
            solver.configure(action_space=Discrete(num_actions), n_envs=problems, config=config)
            return solver.solve(info)["actions"].reshape(problems, horizon).long()

    return plan


@dataclass(frozen=True)
class Case:
    """So many problems and candidates over a horizon, on the trained model."""

    task: Task
    model: LatentModel
    problems: int
    candidates: int
    horizon: int

    def functions(self, solver: Any | None) -> dict[str, tuple[int, dict[str, Callable[[], object]]]]:
        """By kind: rollouts a candidate and round, and what is timed, by column; ROUNDS rounds each."""
        elites = max(1, self.candidates // 8)
        chain = {"gradient_samples": self.candidates, "hard_samples": 0}
        kinds = {
            "cem": (
                1,
                CEM(population=self.candidates, elites=elites),
                "CategoricalCEMSolver",
                {"topk": elites},
            ),
            "gradient": (3, VerifiedGradient(**chain), "PGDSolver", {}),
            "helm": (3, Helm(**chain), "PGDSolver", {}),
        }
        size = self.problems * self.candidates
        floors = {
            "floor": floor(self.model, size, self.horizon),
            "one": one_product(self.model, size, self.horizon),
        }
        found = {}
        for kind, (cost, planner, peer, settings) in kinds.items():
            functions = floors | {"ours": self.ours(planner, cost * ROUNDS * self.candidates + (cost > 1))}
            if solver is not None:
                functions |= self.peers(getattr(solver, peer), settings)
            found[kind] = cost, functions
        return found

    def states(self) -> Tensor:
        """Starts of member 0: [B, 2]."""
        starts = self.task.starts[torch.arange(self.problems) % len(self.task.starts)]
        return torch.stack([torch.zeros_like(starts), starts], 1)

    def ours(self, planner: Planner, rollouts: int) -> Callable[[], object]:
        """A plan by one of our planners, whose budget is so many rollouts."""
        make_problem, states = LatentProblems(self.model, self.task, STRIDE, CPU), self.states()
        noise, budget = torch.Generator().manual_seed(0), rollouts * self.horizon
        return lambda: planner(make_problem(states, self.horizon, budget, "softmin", TEMPERATURE), noise)

    def peers(self, solver_class: Any, settings: dict[str, Any]) -> dict[str, Callable[[], object]]:
        """A plan by one of the peer's solvers, asking the model by steps and by our rollout."""
        make_problem, states = LatentProblems(self.model, self.task, STRIDE, CPU), self.states()
        models = {
            "steps": lambda: StepByStep(self.model, make_problem, states[:, 1]),
            "rollout": lambda: CostModel(
                make_problem(states, self.horizon, UNLIMITED, "softmin", TEMPERATURE)
            ),
        }
        shape = self.problems, self.task.world.num_actions, self.horizon
        settings = settings | {"num_samples": self.candidates, "n_steps": ROUNDS}
        return {name: peer_plan(solver_class, make, *shape, **settings) for name, make in models.items()}


def compare(case: Case, solver: Any | None, results: Results) -> None:
    """One row a kind: whole planners, ROUNDS rounds of N candidates each."""
    times = max(1, AT_ONCE // (case.problems * case.candidates))
    for kind, (cost, functions) in case.functions(solver).items():
        repeated = {name: partial(_repeat, function, times) for name, function in functions.items()}
        seconds = seconds_by_round(repeated, REPEATS, time.process_time)
        report_row(
            case, kind, cost, {name: [s / times for s in own] for name, own in seconds.items()}, results
        )


def _repeat(function: Callable[[], object], times: int) -> None:
    for _ in range(times):
        function()


def report_row(case: Case, kind: str, cost: int, seconds: dict[str, list[float]], results: Results) -> None:
    """Print medians and record the ratios, one a round (names as in the module's docstring).

    `cost` is the rollouts that a candidate takes in a round: one, or three with a gradient.
    """
    ours, forwards = seconds["ours"], ROUNDS * cost
    ratios = {
        f"over_{name}": [mine / (forwards * its) for mine, its in zip(ours, seconds[name], strict=True)]
        for name in ("floor", "one")
    }
    for name in ("steps", "rollout"):
        if name in seconds:
            ratios[f"peer_{name}"] = [its / mine for mine, its in zip(ours, seconds[name], strict=True)]
    prefix = "" if case.horizon == MAIN_HORIZON else f"T={case.horizon}/"
    for name, rounds in ratios.items():
        results.add(f"{prefix}{kind}/B={case.problems}/N={case.candidates}/{name}", rounds)
    median = statistics.median(ours)
    evaluations = case.problems * case.candidates * case.horizon * forwards
    columns = [f"{1e6 * median / evaluations:>10.2f}", f"{1e3 * median / case.problems:>9.1f}"]
    columns += [f"{statistics.median(rounds):>8.2f}" for rounds in ratios.values()]
    print(
        f"{case.horizon:>4} {case.problems:>5} {case.candidates:>5}  {kind:<9}{' '.join(columns)}", flush=True
    )


def compare_success(task: Task, model: LatentModel, solver: Any | None) -> None:
    """Success of one open-loop plan of T = 20 steps from every start, at about 320 T evaluations."""
    make_problem = LatentProblems(model, task, STRIDE, CPU)
    starts, horizon = task.starts, 20
    states = torch.stack([torch.zeros_like(starts), starts], 1)

    def step(now: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        following = task.world.next_state[now, actions]
        return following, task.world.terminal[following]

    def report(name: str, actions: Tensor) -> None:
        last = execute_open_loop(step, starts, actions).states[:, -1]
        print(f"  {name:<44}{float(torch.isin(last, task.world.goal_states).double().mean()):.2f}")

    print(f"success on Empty-8x8, open loop, T = {horizon}, {len(starts)} starts:")
    for name in ("cem", "verified_gradient", *PEERS):  # helm would need a trained jumpy level
        problem = make_problem(states, horizon, 320 * horizon, "softmin", TEMPERATURE)
        report(f"ours: {name}", make_planner(name)(problem, torch.Generator().manual_seed(0)).actions)
    if solver is None:
        return
    peers = {
        "CategoricalCEMSolver": {"num_samples": 32, "n_steps": 10, "topk": 4, "smoothing": 0.05},
        "PGDSolver": {"num_samples": 4, "n_steps": 26},  # three evaluations a step and sample
    }
    for name, settings in peers.items():
        problem = make_problem(states, horizon, UNLIMITED, "softmin", TEMPERATURE)
        plan = peer_plan(
            getattr(solver, name), partial(CostModel, problem), len(starts), 3, horizon, **settings
        )
        report(f"stable-worldmodel: {name}", plan())


def peak_memory_mb(config: Exp3Config, model: LatentModel, name: str) -> float:
    """What planning adds to this process at its peak, on Linux: one plan of T steps from every start."""

    def resident(quantity: str) -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition(f"{quantity}:")[2].split()[0]) / 2**10

    torch.set_num_threads(1)
    task = make_task("Empty-8x8", config)
    states = torch.stack([torch.zeros_like(task.starts), task.starts], 1)
    budget = 320 * MAIN_HORIZON
    problem = LatentProblems(model, task, STRIDE, CPU)(states, MAIN_HORIZON, budget, "softmin")
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    make_planner(name)(problem, torch.Generator().manual_seed(0))
    return resident("VmHWM") - before


def compare_memory(config: Exp3Config, model: LatentModel) -> None:
    """Peak memory of every planner, each in a fresh process."""
    if sys.platform != "linux":
        print("peak memory is read from /proc: left out here")
        return
    print(
        f"peak memory of a plan of T = {MAIN_HORIZON} steps from all starts of Empty-8x8, 320 T evaluations:"
    )
    for name in PLANNERS | PEERS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"  {name:<44}{pool.apply(peak_memory_mb, (config, model, name)):.0f} MB")


def save(results: Results) -> None:
    """The ratios, as documents cite them."""
    content = {
        "schema": SCHEMA,
        "experiment": results.experiment,
        "provenance": provenance(CPU),
        "seeds": list(results.seeds),
        "metrics": results.metrics,
    }
    write_atomically(SAVED, lambda file: file.write(to_json(content).encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.relative_to(ROOT)}")
    parser.add_argument("--horizons", type=int, nargs="+", default=HORIZONS, help="T [steps]")
    parser.add_argument("--no-success", action="store_true", help="times alone, no success and no memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = Exp3Config(iterations=1500)
    task = make_task("Empty-8x8", config)
    model, solver = train(task, config), peer_solvers()
    print(f"d {config.d_latent}, hidden {config.hidden_dim}, one thread, median of {REPEATS};")
    print("us: microseconds an evaluation; ms: milliseconds a plan; floor: over same-size products;")
    print("one: over one product; steps, rollout: the peer's time over ours, by steps and by our rollout")
    head = " ".join(f"{name:>8}" for name in ("floor", "one", "steps", "rollout"))
    print(f"{'T':>4} {'B':>5} {'N':>5}  {'kind':<9}{'us':>10} {'ms':>9} {head}")
    results = Results("bench_planners", range(REPEATS))
    for horizon in arguments.horizons:
        for problems, candidates in SIZES:
            compare(Case(task, model, problems, candidates, horizon), solver, results)
    if not arguments.no_success:
        compare_success(task, model, solver)
        compare_memory(config, model)
    if arguments.save:
        save(results)


if __name__ == "__main__":
    main()
