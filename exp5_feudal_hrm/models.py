"""The models of experiment 5: HRM, and HRM with a head that makes goals.

Shapes: S members (seeds), D width.
"""

from collections.abc import Sequence

from common.config import Exp5Config
from common.recursion.model import HRM, Sizes
from common.recursion.puzzles.task import Puzzles
from exp5_feudal_hrm.feudal import GoalHead

MODEL_FIELDS = (
    "seeds", "width", "heads", "layers", "cycles_high", "cycles_low", "inner_multiple", "position_axes",
)  # fmt: skip


class FeudalHRM(HRM):
    """HRM whose manager sets goals; without its head it is HRM, to the bit."""

    def __init__(self, seeds: Sequence[int], sizes: Sizes, goal_dim: int, gating: bool):
        super().__init__(seeds, sizes)
        self.head = GoalHead(seeds, sizes.width, goal_dim, gating)


def sizes_of(puzzles: Puzzles, config: Exp5Config) -> Sizes:
    """The configuration's, for the puzzles' grid and tokens; with a table where there are identifiers."""
    return Sizes(
        vocabulary=puzzles.vocabulary,
        grid=puzzles.grid,
        identifiers=puzzles.num_identifiers if puzzles.num_identifiers > 1 else 0,
        width=config.width,
        heads=config.heads,
        inner_multiple=config.inner_multiple,
        layers_H=config.layers,
        layers_L=config.layers,
        cycles_H=config.cycles_high,
        cycles_L=config.cycles_low,
        position_axes=config.position_axes,
    )


def make_hrm(puzzles: Puzzles, config: Exp5Config) -> HRM:
    """An untrained HRM; every variant begins with the same weights."""
    return HRM(config.seeds, sizes_of(puzzles, config))


def make_feudal_hrm(puzzles: Puzzles, config: Exp5Config) -> FeudalHRM:
    """An untrained HRM with a goal head."""
    return FeudalHRM(config.seeds, sizes_of(puzzles, config), config.goal_dim or config.width, config.gating)
