"""Training and held-out puzzles by class: whatever a symmetry makes of one is on the same side.

Shapes: L cells.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from common.recursion.puzzles.symmetries import Symmetries
from common.recursion.puzzles.task import Puzzles
from common.run.command_line import ConfigError

PATIENCE = 5000  # candidates in a row that are of no use, before the search is given up


@dataclass(frozen=True)
class Posed:
    """One puzzle."""

    mark: bytes  # names its class
    inputs: tuple[int, ...]  # [L] tokens
    labels: tuple[int, ...]  # [L] tokens


# A class, and what makes a puzzle of it (inputs and labels, [L] each), or none.
Candidate = tuple[bytes, Callable[[], tuple[Sequence[int], Sequence[int]] | None]]


def split_by_class(
    candidates: Iterable[Candidate], *, train: int, test: int, test_share: float, seed: int, what: str
) -> tuple[list[Posed], list[Posed]]:
    """`train` puzzles and `test` held-out ones, all different, no class on both sides.

    A class is held out or not by a hash of it and the seed, so the sizes of the sets do not move it.

    Args:
        candidates: endless.
        train, test: how many puzzles.
        test_share: of the classes, in (0, 1).
        seed: of the split.
        what: names the puzzles, for the error.

    Raises:
        ConfigError: there are not so many.
    """
    sides: dict[bool, dict[tuple[int, ...], Posed]] = {False: {}, True: {}}  # by whether it is held out
    wanted, idle = {False: train, True: test}, 0
    for mark, make_puzzle in candidates:
        held_out = is_held_out(mark, seed, test_share)
        side = sides[held_out]
        made = make_puzzle() if len(side) < wanted[held_out] else None
        idle += 1
        if made is not None and tuple(made[0]) not in side:
            side[tuple(made[0])] = Posed(mark, tuple(made[0]), tuple(made[1]))
            idle = 0
        if all(len(sides[key]) == wanted[key] for key in wanted):
            break
        if idle == PATIENCE:
            raise ConfigError(
                f"{what}: found {len(sides[False])} of {train} for training and {len(sides[True])} of {test}"
                " held out; allowed: fewer puzzles, or less strict settings"
            )
    return list(sides[False].values()), list(sides[True].values())


def is_held_out(mark: bytes, seed: int, share: float) -> bool:
    """Whether a class is for testing; the same for the same seed, whatever else there is."""
    digest = hashlib.sha256(f"{seed}/split/".encode() + mark).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def puzzles_of(
    posed: Sequence[Posed], grid: tuple[int, int], symmetries: Symmetries, group_by_class: bool = False
) -> Puzzles:
    """As tensors. Groups are of one puzzle each, or of all that are of one class."""
    numbers = {mark: index for index, mark in enumerate(dict.fromkeys(one.mark for one in posed))}
    groups = [numbers[one.mark] for one in posed] if group_by_class else range(len(posed))
    return Puzzles(
        inputs=torch.tensor([one.inputs for one in posed]),
        labels=torch.tensor([one.labels for one in posed]),
        identifiers=torch.zeros(len(posed), dtype=torch.int64),
        groups=torch.tensor(groups),
        vocabulary=symmetries.vocabulary,
        num_identifiers=1,
        grid=grid,
        symmetries=symmetries,
    )
