"""The other distance: a quasimetric head on spatial latents, which has to see the way round unseen walls.

It is trained by quasimetric RL on the walks alone, as in experiment 4, on the snapped model's latents. Where
the belief's V is computed anew in each layout, this distance is read off the map: so it has to generalise.

Shapes: S seeds, M maps, Q poses of a map, H, X of a map, d channels of a latent, w of the head, h metric.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Exp7Config
from common.objectives import METRIC_GROUP_SIZE, lagrangian, qrl_spread, qrl_violation, quasimetric
from common.run.cache import Checkpoint, reads_settings
from common.run.random import generators
from common.run.run import Run, Training
from common.statistics import spearman
from common.training.ensembles import EnsembleLinear, EnsembleMLP
from common.training.fit import fit
from exp7_unseen_layouts.dataset import (
    Walks,
    collect_walks,
    make_layouts,
    walks_of,
    with_agent,
    without_agent,
)
from exp7_unseen_layouts.episodes import (
    EPISODE_FIELDS,
    MOVES,
    Episodes,
    Runner,
    draw_episodes,
    episodes_of,
    success_of,
)
from exp7_unseen_layouts.evaluate_models import record_knowledge
from exp7_unseen_layouts.evaluate_planners import member_of
from exp7_unseen_layouts.latent_planning import goal_grids
from exp7_unseen_layouts.models import SpatialModel, neighbourhoods

GROUPS = 8  # of METRIC_GROUP_SIZE dimensions each, in the quasimetric
MAPS, POSES = 6, 64  # of a batch, and transitions and pairs of poses in each of its maps
OFFSET, BETA, TOLERANCE = 40.0, 0.1, 0.01  # of quasimetric RL [steps, 1/steps, steps^2]
LOG_WEIGHT_LIMIT, DUAL_RATE = 6.0, 10.0  # its weight stays below e^6; how much faster that learns near 0
CLIP_NORM = 10.0


class QuasimetricHead(nn.Module):
    """psi(map, pose): a recurrent 3x3 convolution spreads what stands where, then the pose is read off it.

        c_0 = 0, c_{k+1} = rms(c_k + silu(W p(c_k) + U p(z))),  psi = MLP(c_K at the agent, its direction)

    p: the 3x3 cells around. K times 1 cell is how far a wall is seen.
    """

    def __init__(self, seeds: Sequence[int], codes: Tensor, present: Tensor, width: int, depth: int):
        """`codes` [S, J, d] of the spatial model, `present` [S, J] bool: their size is the inputs' unit."""
        super().__init__()
        squared = codes.square().mean(-1).where(present, 0.0).sum(1) / present.sum(1)
        self.register_buffer("unit", squared.sqrt().view(-1, 1, 1, 1, 1))
        self.depth = depth
        draws = generators(seeds, "quasimetric")
        self.given = EnsembleLinear(9 * codes.shape[-1], width, draws)
        self.spread = EnsembleLinear(9 * width, width, draws)
        self.read = EnsembleMLP(seeds, (width + 4, 2 * width, GROUPS * METRIC_GROUP_SIZE), "quasimetric/read")
        self.dual = nn.Parameter(torch.zeros(len(seeds), 1))

    def forward(self, latents: Tensor) -> Tensor:
        """What is known at every cell of maps without their agent: [S, M, H, X, d] -> [S, M, H, X, w]."""
        given = self.given(neighbourhoods(latents / self.unit))
        cells = torch.zeros_like(given)
        for _ in range(self.depth):
            cells = cells + F.silu(self.spread(neighbourhoods(cells)) + given)
            cells = F.rms_norm(cells, cells.shape[-1:])
        return cells

    def embed(self, cells: Tensor, poses: Tensor) -> Tensor:
        """Points of poses (column, row, direction): [S, M, H, X, w], [S, M, Q, 3] -> [S, M, Q, h]."""
        column, row, direction = poses.unbind(-1)
        place = (row * cells.shape[3] + column)[..., None].expand(-1, -1, -1, cells.shape[-1])
        here = cells.flatten(2, 3).gather(2, place)
        return self.read(torch.cat([here, F.one_hot(direction, 4).to(here)], -1))

    def log_weight(self) -> Tensor:
        """Of the constraint that a step is at most 1: [S]."""
        return LOG_WEIGHT_LIMIT * torch.tanh(DUAL_RATE * self.dual[:, 0])


@dataclass(frozen=True, eq=False)
class _Steps:
    """The transitions of one family that a seed's walks hold, map by map."""

    maps: Tensor  # [m, H, X] int64 contents
    before: Sequence[Tensor]  # of each map [n, 3] poses
    after: Sequence[Tensor]

    @classmethod
    def of(cls, walks: Walks) -> "_Steps":
        """Those that do not leave their map."""
        index, over = walks.map_index, walks.ended[:, :-1]
        stays = (index[:, 1:] == index[:, :-1]) & ~over
        here, poses = index[:, :-1], walks.poses
        kept = [int(number) for number in here[stays].unique()]
        chosen = [stays & (here == number) for number in kept]
        return cls(
            walks.maps[kept].long(),
            [poses[:, :-1][own] for own in chosen],
            [poses[:, 1:][own] for own in chosen],
        )

    def draw(self, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Maps [M, H, X], and of each 2 Q transitions: poses before and after [M, 2 Q, 3]."""
        which = torch.randint(len(self.maps), (MAPS,), generator=draw).tolist()
        rows = [torch.randint(len(self.before[number]), (2 * POSES,), generator=draw) for number in which]
        before, after = (
            torch.stack([poses[number][row] for number, row in zip(which, rows, strict=True)])
            for poses in (self.before, self.after)
        )
        return self.maps[which], before, after


@reads_settings("seeds", "head_width", "head_depth", "head_iterations", "head_learning_rate")
def train_quasimetric(
    walks: Sequence[Mapping[str, Tensor]],
    model: SpatialModel,
    *,
    variant: None,
    config: Exp7Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "quasimetric",
) -> tuple[QuasimetricHead, dict[str, Tensor]]:
    """Quasimetric RL (Wang et al., 2023): random pairs of a map apart, subject to d(s, s') <= 1 for a step.

    Args:
        walks: of each family, what `collect_walks` returns.
        model: the trained spatial model, which stays as it is.
        variant: none.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = model.to(device)
    with torch.no_grad():
        codes = model.codes()
    shape = config.head_width, config.head_depth
    head = QuasimetricHead(config.seeds, codes, ~model.absent, *shape).to(device)
    steps = [[_Steps.of(walks_of(found, seed)) for seed in config.seeds] for found in walks]

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        family = steps[iteration % len(steps)]
        drawn = [own.draw(draw) for own, draw in zip(family, draws, strict=True)]
        maps, before, after = (torch.stack(parts).to(device) for parts in zip(*drawn, strict=True))
        with torch.no_grad():
            latents = model.encode(maps)
        cells = head(latents)
        points, others = head.embed(cells, before), head.embed(cells, after)
        violation = qrl_violation(quasimetric(points, others)).mean((1, 2))
        here, there = points[:, :, :POSES], others[:, :, POSES:]  # an end is never where a step begins
        spread = qrl_spread(quasimetric(here, there), OFFSET, BETA).mean((1, 2))
        total = lagrangian(spread, violation, head.log_weight(), TOLERANCE)
        return {"loss": total, "spread": spread, "violation": violation}

    history = fit(
        head, loss, seeds=config.seeds, iterations=config.head_iterations,
        learning_rate=config.head_learning_rate, label=label, stream="quasimetric", clip_norm=CLIP_NORM,
        checkpoint=checkpoint,
    )  # fmt: skip
    return head, history


def still_families(config: Exp7Config) -> list[str]:
    """The families in which no map ever changes, among those that the flat model is planned through."""
    return [
        family for family in config.latent_families
        if set(make_layouts(family, 1, 0)[0][0].actions) <= set(MOVES)
    ]  # fmt: skip


def quasimetric_trainings(walks: Sequence[Mapping[str, Tensor]], model: SpatialModel) -> Training:
    """The one head, of all these families."""
    return Training(train_quasimetric, "layouts", (walks, model), {"quasimetric": None})


# ----------------------------------------------------------------------------------------------
# What it knows
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Distances:
    """One member's distances from poses to the goals of some episodes."""

    head: QuasimetricHead
    cells: Tensor  # [E, H, X, w] of the episodes' maps
    goals: Tensor  # [E, 4, h]

    @classmethod
    def of(cls, head: QuasimetricHead, model: SpatialModel, episodes: Episodes) -> "_Distances":
        """Of all episodes; a layout is looked at once."""
        maps, goals = [], []
        for layout in episodes.layouts[: int(episodes.layout.max()) + 1]:
            grids, poses, _ = without_agent(goal_grids(layout))
            maps.append(grids[0])
            goals.append(poses)
        cells = head(model.encode(torch.stack(maps)[None]))
        points = head.embed(cells, torch.stack(goals)[None])[0]
        return cls(head, cells[0][episodes.layout], points[episodes.layout])

    def __call__(self, poses: Tensor) -> Tensor:
        """Steps to the nearest goal pose: [E, 3] -> [E]."""
        points = self.head.embed(self.cells[None], poses[None, :, None])[0]
        return quasimetric(points, self.goals).amin(1)


@reads_settings("seeds", *EPISODE_FIELDS, "planning_horizons")
def measure_quasimetric(
    family: str,
    part: str,
    drawn: Mapping[str, Tensor],
    snapped: SpatialModel,
    head: QuasimetricHead,
    *,
    config: Exp7Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """How well the head's distance orders the starts, and where descending it leads.

    Returns:
        [S] each: `quasimetric/spearman` with the true steps; `quasimetric/greedy`, the share of starts from
        which its descent, one predicted step at a time, arrives within the longest T.
    """
    episodes = episodes_of(family, part, drawn, config)
    found: dict[str, list] = {"quasimetric/spearman": [], "quasimetric/greedy": []}
    for seed in range(len(config.seeds)):
        model, own = member_of(snapped, seed), member_of(head, seed)
        with torch.no_grad():
            distance = _Distances.of(own, model, episodes)
            agreement = spearman(distance(episodes.pose), episodes.shortest)
            arrived = _descend(distance, model, episodes, max(config.planning_horizons))
        found["quasimetric/spearman"].append(torch.tensor(agreement))
        found["quasimetric/greedy"].append(arrived.mean())
    return {name: torch.stack(values).double() for name, values in found.items()}


def _descend(distance: _Distances, model: SpatialModel, episodes: Episodes, steps: int) -> Tensor:
    """Success [E] of taking, step by step, the action whose predicted pose is nearest to the goal."""
    runners = [Runner(episodes, episode) for episode in range(len(episodes.layout))]
    actions = episodes.layouts[0].actions
    for _ in range(steps):
        states = [runner.state() for runner in runners]
        maps, poses, carried = zip(*states, strict=True)
        grids = with_agent(torch.stack(maps), torch.stack(poses), torch.tensor(carried))
        after = []
        for action in actions:
            predicted = model.step_contents(grids[None], torch.full((1, len(grids)), action))
            after.append(distance(without_agent(predicted[0])[1]))
        for runner, best in zip(runners, torch.stack(after, 1).argmin(1).tolist(), strict=True):
            runner.take(actions[best])
    return success_of(runners)


# ----------------------------------------------------------------------------------------------
# Both
# ----------------------------------------------------------------------------------------------


def compare_distances(run: Run, snapped: SpatialModel, parts: Sequence[str]) -> None:
    """A quasimetric head beside the belief's V, in the layouts that it was trained on and in the others."""
    families = still_families(run.config)
    if not families:
        return
    walks = run.measure_all([(collect_walks, f"{env}/walks", env) for env in families])
    head = run.train(quasimetric_trainings(walks, snapped))["quasimetric"]
    for part in parts:
        some = [env for env in families if part == "test" or env in run.config.train_families]
        steps = [
            (measure_quasimetric, f"{env}/{part}/quasimetric", env, part, drawn, snapped, head)
            for env, drawn in zip(some, draw_episodes(run, part, some), strict=True)
        ]
        for env, measured in zip(some, run.measure_all(steps), strict=True):
            record_knowledge(run.results, env, part, measured)
