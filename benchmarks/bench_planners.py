"""Planning cost and success beside stable-worldmodel's solvers, and beside the bare matrix products.

    python benchmarks/bench_planners.py

prints ratios of medians measured in one process, in turn, one thread; absolute times are noise. The peer is
left out where the package is not importable (it is no requirement: pip install stable-worldmodel).

Both plan on one trained model (Empty-8x8, trained here in a minute), weights frozen, all problems in one
batch, which is the peer's best setting (its CategoricalCEM defaults to one problem at a time). The model
asked is the same; `steps` asks it step by step as a user of the peer would write it, `rollout` by this
repository's rollout, through common/planners/adapter.py.

Shapes: B problems, N candidates, T steps, A actions.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from benchmarks.timing import median_seconds
from common.config import Exp3Config
from common.latent_planning import LatentProblems
from common.minigrid_task import Task, make_task
from common.planners.adapter import CostModel
from common.planners.candidates import one_hot
from common.planners.problem import PlanningProblem
from common.world_model import LatentModel
from exp3_planning_efficiency.train_flat import FlatArm, train_flat

HORIZON, REPEATS = 50, 5
CPU = torch.device("cpu")
SIZES = ((1, 1), (1, 16), (16, 1), (16, 16), (16, 64), (128, 32))  # (B, N)
UNLIMITED = 10**12


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
    model, _ = train_flat(task, arm=FlatArm(), config=config, device=CPU)
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
    solver_class: Any, cost_model: Any, problems: int, num_actions: int, **settings: Any
) -> Callable:
    """A call of the peer's solver, all problems in one batch."""
    solver = solver_class(cost_model, batch_size=problems, **settings)
    config = SimpleNamespace(horizon=HORIZON, action_block=1)
    solver.configure(action_space=Discrete(num_actions), n_envs=problems, config=config)
    info = {"problem": torch.arange(problems)}

    def plan() -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            solver.solve(info)

    return plan


def compare(task: Task, model: LatentModel, problems: int, candidates: int, solver: Any | None) -> None:
    """One row for sampling (a round of CEM) and one for gradients, microseconds an evaluation."""
    make_problem = LatentProblems(model, task, 4, CPU)
    starts = task.starts[torch.arange(problems) % len(task.starts)]
    states = torch.stack([torch.zeros_like(starts), starts], 1)
    count = task.world.num_actions

    def fresh() -> PlanningProblem:
        return make_problem(states, HORIZON, UNLIMITED, "softmin")

    plans = torch.randint(count, (problems, candidates, HORIZON))
    problem, relaxed = fresh(), one_hot(plans, count).requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            problem.rollout(one_hot(plans, count))

    def backward() -> None:
        torch.autograd.grad(problem.rollout(relaxed).sum(), relaxed)

    sampling: dict[str, Callable] = {"floor": floor(model, problems * candidates), "ours": forward}
    gradient: dict[str, Callable] = {"floor": sampling["floor"], "ours": backward}
    if solver is not None:
        topk = max(1, candidates // 8)
        for name, cost in (
            ("steps", StepByStep(model, make_problem, starts)),
            ("rollout", CostModel(problem)),
        ):
            sampling[name] = peer_plan(
                solver.CategoricalCEMSolver,
                cost,
                problems,
                count,
                num_samples=candidates,
                n_steps=1,
                topk=topk,
            )
            gradient[name] = peer_plan(
                solver.PGDSolver, cost, problems, count, num_samples=candidates, n_steps=1
            )
    for kind, functions, evaluations in (("sampling", sampling, 1), ("gradient", gradient, 3)):
        seconds = median_seconds(functions, REPEATS)
        each = 1e6 * seconds["ours"] / (problems * candidates * HORIZON * evaluations)
        ratios = [
            f"{seconds[name] / seconds['ours']:>8.2f}" for name in ("steps", "rollout") if name in seconds
        ]
        over_floor = seconds["ours"] / (evaluations * seconds["floor"])
        print(f"{problems:>5} {candidates:>5}  {kind:<9}{each:>10.2f} {over_floor:>8.2f} {' '.join(ratios)}")


def main() -> None:
    torch.set_num_threads(1)
    config = Exp3Config(iterations=300)
    task = make_task("Empty-8x8", config)
    model, solver = train(task, config), peer_solvers()
    print(f"T {HORIZON}, d {config.d_latent}, hidden {config.hidden_dim}, one thread, median of {REPEATS};")
    print("ours: microseconds a transition evaluation; x floor: over the bare products;")
    print("peer / ours: its time for one iteration over ours, asking the model by steps and by our rollout")
    print(f"{'B':>5} {'N':>5}  {'kind':<9}{'ours [us]':>10} {'x floor':>8}  {'steps':>7} {'rollout':>8}")
    for problems, candidates in SIZES:
        compare(task, model, problems, candidates, solver)


if __name__ == "__main__":
    main()
