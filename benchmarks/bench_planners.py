"""Planners beside stable-worldmodel's solvers: time and success; and beside the bare matrix products.

    python benchmarks/bench_planners.py [--save]

prints ratios of times measured in one process, in turn, one thread; absolute times are noise. The peer is
left out where the package is not importable (it is no requirement: pip install stable-worldmodel). Peak
memory is that of a process of its own for each planner, over what it had before it planned. --save writes the
ratios, a value a round, to reference/exp3_planning_efficiency/benchmark.json.

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
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from benchmarks.timing import seconds_by_round
from common.config import Exp3Config
from common.latent.model import LatentModel
from common.latent.problems import LatentProblems
from common.minigrid.task import Task, make_task
from common.planners import PLANNERS, make_planner
from common.planners.adapter import CostModel
from common.planners.cem import CEM
from common.planners.control import execute_open_loop
from common.planners.problem import Planner
from common.planners.verified_gradient import VerifiedGradient
from common.run.files import ROOT, write_atomically
from common.run.results import SCHEMA, Results, provenance, to_json
from exp3_planning_efficiency.train_flat import FlatVariant, train_flat

HORIZON, ROUNDS, REPEATS = 50, 3, 5
CPU = torch.device("cpu")
SIZES = ((1, 1), (1, 16), (16, 1), (16, 16), (16, 64), (128, 32))  # (B, N)
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
    """The flat model of experiment 3, frozen."""
    model, _ = train_flat(task, variant=FlatVariant(), config=config, device=CPU)
    return model.requires_grad_(False).eval()


def floor(model: LatentModel, rows: int) -> Callable[[], None]:
    """The products of T transitions of `rows` latents and nothing else, each as large as it comes."""
    layers = [
        (layer.weight[0], torch.randn(rows, layer.weight.shape[1])) for layer in model.transition.mlp.layers
    ]

    def products() -> None:
        for _ in range(HORIZON):
            for weight, inputs in layers:
                inputs @ weight

    return products


def peer_solvers() -> Any | None:
    """The peer's solver module, or None where it cannot be imported."""
    try:
        from stable_worldmodel import solver
    except ImportError as error:
        print(f"stable-worldmodel is not importable here ({error}): the peer's columns are left out")
        return None
    return solver


def peer_plan(
    solver_class: Any, cost_model: Any, problems: int, num_actions: int, horizon: int, **settings: Any
) -> Callable[[], Tensor]:
    """A call of the peer's solver, all problems in one batch: its actions [B, T]."""
    solver = solver_class(cost_model, batch_size=problems, **settings)
    config = SimpleNamespace(horizon=horizon, action_block=1)
    solver.configure(action_space=Discrete(num_actions), n_envs=problems, config=config)
    info = {"problem": torch.arange(problems)}

    def plan() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            return solver.solve(info)["actions"].reshape(problems, horizon).long()

    return plan


def compare(
    task: Task, model: LatentModel, problems: int, candidates: int, solver: Any | None, results: Results
) -> None:
    """One row for CEM and one for gradients: whole planners, ROUNDS rounds of N candidates each."""
    make_problem = LatentProblems(model, task, 4, CPU)
    starts = task.starts[torch.arange(problems) % len(task.starts)]
    states = torch.stack([torch.zeros_like(starts), starts], 1)
    count, generator = task.world.num_actions, torch.Generator().manual_seed(0)

    def ours(planner: Planner, rollouts: int) -> Callable[[], object]:
        return lambda: planner(
            make_problem(states, HORIZON, rollouts * HORIZON, "softmin", TEMPERATURE), generator
        )

    elites = max(1, candidates // 8)
    cem = CEM(population=candidates, elites=elites)
    gradient = VerifiedGradient(gradient_samples=candidates, hard_samples=0)
    products = floor(model, problems * candidates)
    kinds = {  # our planner, its rollouts a candidate and round, the peer's
        "CEM": (ours(cem, ROUNDS * candidates), 1, "CategoricalCEMSolver", {"topk": elites}),
        "gradient": (ours(gradient, 3 * ROUNDS * candidates + 1), 3, "PGDSolver", {}),
    }
    for kind, (plan, cost, peer, settings) in kinds.items():
        functions: dict[str, Callable[[], object]] = {"floor": products, "ours": plan}
        if solver is not None:
            unlimited = make_problem(states, HORIZON, UNLIMITED, "softmin", TEMPERATURE)
            models = {"steps": StepByStep(model, make_problem, starts), "rollout": CostModel(unlimited)}
            settings |= {"num_samples": candidates, "n_steps": ROUNDS}
            for name, cost_model in models.items():
                functions[name] = peer_plan(
                    getattr(solver, peer), cost_model, problems, count, HORIZON, **settings
                )
        report_row(problems, candidates, kind, cost, seconds_by_round(functions, REPEATS), results)


def report_row(
    problems: int, candidates: int, kind: str, cost: int, seconds: dict[str, list[float]], results: Results
) -> None:
    """Print medians; record `{kind}/B={B}/N={N}/{over_floor,peer_steps,peer_rollout}`, one ratio a round.

    `cost` is the rollouts that a candidate takes in a round: one, or three with a gradient.
    """
    ours, forwards = seconds["ours"], ROUNDS * cost
    ratios = {
        "over_floor": [mine / (forwards * its) for mine, its in zip(ours, seconds["floor"], strict=True)]
    }
    for name in ("steps", "rollout"):
        if name in seconds:
            ratios[f"peer_{name}"] = [its / mine for mine, its in zip(ours, seconds[name], strict=True)]
    for name, rounds in ratios.items():
        results.add(f"{kind.lower()}/B={problems}/N={candidates}/{name}", rounds)
    median = statistics.median(ours)
    columns = [f"{1e6 * median / (problems * candidates * HORIZON * forwards):>10.2f}"]
    columns.append(f"{1e3 * median / problems:>9.1f}")
    columns += [f"{statistics.median(rounds):>8.2f}" for rounds in ratios.values()]
    print(f"{problems:>5} {candidates:>5}  {kind:<9}{' '.join(columns)}")


def compare_success(task: Task, model: LatentModel, solver: Any | None) -> None:
    """Success of one open-loop plan of T = 20 steps from every start, at about 320 T evaluations."""
    make_problem = LatentProblems(model, task, 4, CPU)
    starts, horizon = task.starts, 20
    states = torch.stack([torch.zeros_like(starts), starts], 1)

    def step(now: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        following = task.world.next_state[now, actions]
        return following, task.world.terminal[following]

    def report(name: str, actions: Tensor) -> None:
        last = execute_open_loop(step, starts, actions).states[:, -1]
        print(f"  {name:<44}{float(torch.isin(last, task.world.goal_states).double().mean()):.2f}")

    print(f"success on Empty-8x8, open loop, T = {horizon}, {len(starts)} starts:")
    for name in ("cem", "verified_gradient"):
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
        plan = peer_plan(getattr(solver, name), CostModel(problem), len(starts), 3, horizon, **settings)
        report(f"stable-worldmodel: {name}", plan())


def peak_memory_mb(config: Exp3Config, model: LatentModel, name: str) -> float:
    """What planning adds to this process at its peak, on Linux: one plan of T steps from every start."""

    def resident(quantity: str) -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition(f"{quantity}:")[2].split()[0]) / 2**10

    torch.set_num_threads(1)
    task = make_task("Empty-8x8", config)
    states = torch.stack([torch.zeros_like(task.starts), task.starts], 1)
    problem = LatentProblems(model, task, 4, CPU)(states, HORIZON, 320 * HORIZON, "softmin")
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    make_planner(name)(problem, torch.Generator().manual_seed(0))
    return resident("VmHWM") - before


def compare_memory(config: Exp3Config, model: LatentModel) -> None:
    """Peak memory of every planner, each in a fresh process."""
    if sys.platform != "linux":
        print("peak memory is read from /proc: left out here")
        return
    print(f"peak memory of a plan of T = {HORIZON} steps from all starts of Empty-8x8, 320 T evaluations:")
    for name in PLANNERS:
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
    saving = parser.parse_args().save
    torch.set_num_threads(1)
    config = Exp3Config(iterations=1500)
    task = make_task("Empty-8x8", config)
    model, solver = train(task, config), peer_solvers()
    print(f"T {HORIZON}, d {config.d_latent}, hidden {config.hidden_dim}, one thread, median of {REPEATS};")
    print("us: microseconds an evaluation; ms: milliseconds a plan; x floor: over the bare products;")
    print("steps, rollout: the peer's time over ours, asking the model by steps and by our rollout")
    print(f"{'B':>5} {'N':>5}  {'kind':<9}{'us':>10} {'ms':>9} {'x floor':>8} {'steps':>8} {'rollout':>8}")
    results = Results("bench_planners", range(REPEATS))
    for problems, candidates in SIZES:
        compare(task, model, problems, candidates, solver, results)
    compare_success(task, model, solver)
    compare_memory(config, model)
    if saving:
        save(results)


if __name__ == "__main__":
    main()
