"""What a model answers, and how right it is: with all demonstrations, with fewer, with another task's.

Shapes: S members, E queries, K demonstrations or segments, L cells, V tokens, G groups.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.config import Exp6Config
from common.recursion.carry import Halting
from common.recursion.losses import judge
from common.recursion.rollout import halting_segment, roll_out
from common.recursion.training import halting_of
from common.run.cache import reads_settings
from common.run.random import generator
from exp6_encoder_trm.contextual import ContextTRM
from exp6_encoder_trm.dataset import (
    Queries,
    Setting,
    all_dihedral,
    ask,
    colour_permutations,
    fewer_demos,
    swapped_demos,
)
from exp6_encoder_trm.jobs import Context
from exp6_encoder_trm.synthetic import Generalisation

HALTING_FIELDS = ("segments", "adaptive_halting", "exploration", "halting")
# Contexts that do not read the demonstrations.
BLIND: tuple[Context, ...] = ("table", "identity", "zero", "constant")
SETS = ("train", "new_queries", "unseen")  # of queries
VOTES = 8  # augmentations of an unseen query that vote on its answer

AT_ONCE = 2**21  # numbers of one state that are worked on at once, about


@dataclass(frozen=True)
class Answers:
    """Of E queries over K segments."""

    tokens: Tensor  # [S, E, K, L] int64
    exact: Tensor  # [S, E, K] bool
    accuracy: Tensor  # [S, E, K]: share of the cells that are right
    q: Tensor  # [S, E, K, 2]: logits of halting and of going on

    @property
    def last(self) -> Tensor:
        """Exact after all segments [S, E]."""
        return self.exact[:, :, -1]

    def at_halt(self, halting: Halting) -> Tensor:
        """Exact after the segment at which the model would halt [S, E]."""
        segment = halting_segment(self.q.clone(), halting) - 1
        return self.exact.gather(2, segment[..., None])[..., 0]


@torch.no_grad()
def answer(model: ContextTRM, queries: Queries, segments: int, context: Tensor | None = None) -> Answers:
    """Ask every query through all segments.

    Args:
        model: S members.
        queries: [S, E, ..].
        segments: K.
        context: [S, E, P, D] in the place of what the model encodes.
    """
    found: list[list[Tensor]] = []
    sizes = model.trm.sizes
    rows = max(1, AT_ONCE // (model.trm.members * sizes.width * (sizes.prefix + sizes.cells)))
    contexts = [None] * -(-queries.inputs.shape[1] // rows) if context is None else context.split(rows, 1)
    for part, given in zip(_blocks(queries, rows), contexts, strict=True):
        given = model.encode(part).context if given is None else given
        steps = []
        for states in roll_out(model.trm, model.inject(part.inputs, given), segments):
            logits, q = model.trm.read(states)
            judged = judge(logits, part.labels)
            steps.append((logits.argmax(-1), judged.exact, judged.accuracy, q))
        found.append([torch.stack(values, 2) for values in zip(*steps, strict=True)])
    return Answers(*(torch.cat(values, 1) for values in zip(*found, strict=True)))


def _blocks(queries: Queries, rows: int) -> Iterator[Queries]:
    """So many queries at once."""
    for begin in range(0, queries.inputs.shape[1], rows):
        yield queries.map(lambda value, begin=begin: value[:, begin : begin + rows])


# ----------------------------------------------------------------------------------------------
# A setting
# ----------------------------------------------------------------------------------------------


def query_sets(setting: Setting) -> dict[str, Queries]:
    """What a trained model is asked: training queries, new queries of known tasks, tasks never seen."""
    return {
        "train": setting.watched(),
        "new_queries": ask(setting.train, setting.train.queries(test=True), setting.most_demos),
        "unseen": ask(setting.unseen, setting.unseen.queries(test=True), setting.most_demos).unknown(),
    }


@reads_settings("seeds", *HALTING_FIELDS)
def measure_setting(
    setting: Setting, model: ContextTRM, context: Context, *, config: Exp6Config, device: torch.device
) -> dict[str, Tensor]:
    """Answers to every set of queries.

    Returns:
        {train, new_queries, unseen}: exact [S, E, K] bool; train_at_halt: [S, E] bool; train_accuracy:
        [S, E, K]; unseen_pass_at_2: [S, E] bool; answers: of the training queries [S, E, K, L]; of models
        that read demonstrations demos={1, 2, all} and swapped: exact [S, E] bool on training queries.
    """
    members = len(config.seeds)
    sets = {name: part.to(device).for_members(members) for name, part in query_sets(setting).items()}
    answers = {name: answer(model, part, config.segments) for name, part in sets.items()}
    found = {name: part.exact for name, part in answers.items()}
    found["train_at_halt"] = answers["train"].at_halt(halting_of(config))
    found["train_accuracy"] = answers["train"].accuracy
    found["answers"] = answers["train"].tokens
    ranked = vote(model, sets["unseen"], config.segments, generator(0, "votes"))
    found["unseen_pass_at_2"] = (ranked == sets["unseen"].labels[:, :, None]).all(3).any(2)
    if context not in BLIND:
        found |= demo_numbers(model, setting.watched(), config.segments, members, device)
    return found


def demo_numbers(
    model: ContextTRM, queries: Queries, segments: int, members: int, device: torch.device
) -> dict[str, Tensor]:
    """Exact with one, two, all demonstrations, and with those of another group: [S, E] bool each."""
    sets = {f"demos={count}": fewer_demos(queries, count) for count in (1, 2)}
    sets |= {"demos=all": queries, "swapped": swapped_demos(queries, generator(0, "swapped"))}
    return {
        name: answer(model, part.to(device).for_members(members), segments).last
        for name, part in sets.items()
    }


# ----------------------------------------------------------------------------------------------
# Voting
# ----------------------------------------------------------------------------------------------


def moved(queries: Queries, cells: Tensor, tokens: Tensor) -> Queries:
    """All grids under one symmetry of the canvas and one renaming of colours: cells [L], tokens [V]."""
    demos = tokens[queries.demos[..., cells]]
    return replace(
        queries, inputs=tokens[queries.inputs[..., cells]], labels=tokens[queries.labels[..., cells]],
        demos=demos,
    )  # fmt: skip


def vote(model: ContextTRM, queries: Queries, segments: int, draw: torch.Generator) -> Tensor:
    """The two answers that most of VOTES augmentations agree on, as ARC allows two: [S, E, 2, L].

    Each augmentation turns and recolours query and demonstrations; its answer is turned back. The first
    changes nothing and breaks ties.
    """
    device = queries.inputs.device
    turned = all_dihedral(round(queries.inputs.shape[-1] ** 0.5))
    renamed = colour_permutations(VOTES, draw, keep_black=True)
    renamed[0] = renamed[0].sort().values
    votes = []
    for number, tokens in enumerate(renamed):
        cells = turned[number % len(turned)].to(device)
        answers = answer(model, moved(queries, cells, tokens.to(device)), segments).tokens[:, :, -1]
        votes.append(tokens.argsort().to(device)[answers][..., cells.argsort()])
    every = torch.stack(votes, 2).cpu()  # [S, E, VOTES, L]
    best = [two_most_frequent(part) for part in every.flatten(0, 1)]
    return torch.stack(best).unflatten(0, every.shape[:2]).to(device)


def two_most_frequent(answers: Tensor) -> Tensor:
    """The first of ties first, the most frequent twice where there is no other: [N, L] -> [2, L]."""
    counted = Counter(tuple(answer.tolist()) for answer in answers).most_common(2)
    return torch.tensor([counted[0][0], counted[-1][0]])


# ----------------------------------------------------------------------------------------------
# Tasks never seen
# ----------------------------------------------------------------------------------------------


def unseen_sets(family: Generalisation | Setting, config: Exp6Config) -> dict[str, Queries]:
    """Queries of training tasks and of unseen ones, all pairs fresh or a setting's own."""
    if isinstance(family, Setting):
        unseen = ask(family.unseen, (family.unseen.demonstration | family.unseen.test).nonzero(),
                     family.most_demos)  # fmt: skip
        return {"train": family.watched(), "unseen": unseen.unknown()}
    draws = (generator(config.puzzle_seed, f"{family.name}/{part}") for part in ("train", "unseen"))
    train, unseen = (
        part.each(config.family_queries, draw)
        for part, draw in zip((family.train, family.unseen), draws, strict=True)
    )
    return {"train": train, "unseen": unseen.unknown()}


@reads_settings("seeds", "segments", "puzzle_seed", "family_queries")
def measure_family(
    family: Generalisation | Setting,
    model: ContextTRM,
    context: Context,
    *,
    config: Exp6Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Exact [S, E] bool on training tasks and unseen ones; of models that read demonstrations the unseen
    ones' with fewer and with swapped demonstrations as well, by a vote, and one answer of two.
    """
    members, sets = len(config.seeds), unseen_sets(family, config)
    found = {
        name: answer(model, part.to(device).for_members(members), config.segments).last
        for name, part in sets.items()
    }
    if context not in BLIND:
        found |= demo_numbers(model, sets["unseen"], config.segments, members, device)
        unseen = sets["unseen"].to(device).for_members(members)
        right = (
            vote(model, unseen, config.segments, generator(0, "votes")) == unseen.labels[:, :, None]
        ).all(3)
        found |= {"voted": right[:, :, 0], "pass_at_2": right.any(2)}
    return found
