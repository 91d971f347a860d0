"""Train the other distance: a quasimetric head that reads the steps to go off the map.

    python train_quasimetric.py [--preset full] [--latent-families FourRooms] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it. It learns by quasimetric
RL from the walks alone, as in experiment 4, on the snapped model's latents. Where the belief's V is computed
anew in each layout, this distance has to generalise.

Shapes: S seeds, M maps, Q poses of a map, H, X of a map.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP7_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP7_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp7Config
from common.objectives import lagrangian, qrl_log_weight, qrl_spread, qrl_violation, quasimetric
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from common.training.fit import fit
from exp7_unseen_layouts.batches import collect_data
from exp7_unseen_layouts.dataset import Walks, collect_walks, walks_of
from exp7_unseen_layouts.models import QuasimetricHead, SpatialModel
from exp7_unseen_layouts.train_helm import helm_trainings

MAPS, POSES = 6, 64  # of a batch, and transitions and pairs of poses in each of its maps
OFFSET, BETA, TOLERANCE = 40.0, 0.1, 0.01  # of quasimetric RL [steps, 1/steps, steps^2]
CLIP_NORM = 10.0  # largest gradient norm of a member


@dataclass(frozen=True, eq=False)
class _Steps:
    """The transitions of one family that a seed's walks hold, map by map."""

    maps: Tensor  # [m, H, X] int64 contents
    before: Sequence[Tensor]  # of each map [n, 3] poses
    after: Sequence[Tensor]
    ends: Sequence[Tensor]  # of each map [n] bool: the episode was over then

    @classmethod
    def of(cls, walks: Walks) -> "_Steps":
        """Those of episodes that were not over before."""
        running, here, poses = ~walks.ended[:, :-1], walks.map_index[:, :-1], walks.poses
        kept = [int(number) for number in here[running].unique()]
        chosen = [running & (here == number) for number in kept]
        return cls(
            walks.maps[kept].long(),
            [poses[:, :-1][own] for own in chosen],
            [poses[:, 1:][own] for own in chosen],
            [walks.ended[:, 1:][own] for own in chosen],
        )

    def draw(self, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Maps [M, H, X], and of each 2 Q transitions: poses before and after [M, 2 Q, 3].

        Where an episode ends, it does so whichever way the agent faces: there the direction is drawn.
        """
        which = torch.randint(len(self.maps), (MAPS,), generator=draw).tolist()
        rows = [torch.randint(len(self.before[number]), (2 * POSES,), generator=draw) for number in which]
        before, after, ends = (
            torch.stack([values[number][row] for number, row in zip(which, rows, strict=True)])
            for values in (self.before, self.after, self.ends)
        )
        facing = torch.randint(4, ends.shape, generator=draw)
        after = torch.cat([after[..., :2], facing.where(ends, after[..., 2])[..., None]], -1)
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
        here, there = points[:, :, :POSES], others[:, :, POSES:]  # walks begin at no goal, and end there
        spread = qrl_spread(quasimetric(here, there), OFFSET, BETA).mean((1, 2))
        total = lagrangian(spread, violation, qrl_log_weight(head.dual[:, 0]), TOLERANCE)
        return {"loss": total, "spread": spread, "violation": violation}

    history = fit(
        head, loss, seeds=config.seeds, iterations=config.head_iterations,
        learning_rate=config.head_learning_rate, label=label, stream="quasimetric", clip_norm=CLIP_NORM,
        checkpoint=checkpoint,
    )  # fmt: skip
    return head, history


def suits(walks: Walks) -> bool:
    """Whether a distance to the goal can be learned from walks map by map.

    No step changes the map, and episodes end at the goal alone: nothing else drives a dead end away from it.
    """
    running = ~walks.ended[:, :-1]
    changed = walks.map_index[:, 1:] != walks.map_index[:, :-1]
    failed = walks.ended[:, 1:] & ~walks.reached
    return not bool((running & (changed | failed)).any())


def quasimetric_trainings(walks: Sequence[Mapping[str, Tensor]], model: SpatialModel) -> Training:
    """The one head, of all these families."""
    return Training(train_quasimetric, "layouts", (walks, model), {"quasimetric": None})


def train_head(run: Run, snapped: SpatialModel) -> tuple[QuasimetricHead | None, list[str]]:
    """The head, and the families that it is trained in: of latent_families those that suit."""
    names = run.config.latent_families
    walked = run.measure_all([(collect_walks, f"{family}/walks", family) for family in names])
    seeds = run.config.seeds
    chosen = {
        family: walks for family, walks in zip(names, walked, strict=True)
        if all(suits(walks_of(walks, seed)) for seed in seeds)
    }  # fmt: skip
    if not chosen or not run.config.head_iterations:
        return None, []
    return run.train(quasimetric_trainings(list(chosen.values()), snapped))["quasimetric"], list(chosen)


def train_all(run: Run) -> None:
    """The snapped model, then the head."""
    train_head(run, run.train(helm_trainings(collect_data(run)))["snapped"])


if __name__ == "__main__":
    alone = Experiment("exp7_unseen_layouts", Path(__file__).parent, EXP7_PRESETS, train_all)
    raise SystemExit(main_training(alone, CONFIG))
