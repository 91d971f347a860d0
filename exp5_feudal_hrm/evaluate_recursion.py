"""What experiment 5 measures of the recursion itself: it is a rollout, so does it converge, and how fast?

A segment maps the states z = (z_H, z_L), as one vector of d = 2 N D numbers, to the next ones. The embedded
puzzle, and what goals add to it, are its action. So everything that holds of a world model's rollout can be
asked of it: the relative residual ||z_k - z_{k-1}|| / ||z_k||, the Jacobian dz_k/dz_0 at every segment k, the
growth of a tangent per segment, the largest singular value of one segment.

Shapes: S seeds, E puzzles, K segments, P tangents, N positions, D width, d = 2 N D.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Exp5Config
from common.jacobian_utils import LN10, Step, largest_singular_value, tangent_rollout
from common.recursion.losses import cross_entropy, judge, log_stablemax
from common.recursion.model import Gradient, RecursiveModel, States
from common.recursion.puzzles.task import Batch
from common.recursion.rollout import everyone, roll_out
from common.run.cache import reads_settings
from common.run.random import generators
from exp5_feudal_hrm.dataset import Task
from exp5_feudal_hrm.evaluate_variants import EvaluationGoals, make_goals
from exp5_feudal_hrm.feudal import FeudalVariant
from exp5_feudal_hrm.train_baseline import BaselineVariant

REPORTED = (1, 2, 4, 8, 16, 32, 48)  # segments whose numbers are metrics; arrays have all
SINGULAR_AT = (1, 4)  # segments whose singular values are found, beside the last
SHOWN = 16  # segments of a puzzle to look at
AT_ONCE = 2**18  # numbers of one state that are linearised at once, about
POWER_ITERATIONS = 12  # the median puzzle is then within 1e-4 of the limit

# ----------------------------------------------------------------------------------------------
# The recursion as a rollout
# ----------------------------------------------------------------------------------------------


def reported(segments: int, which: Sequence[int] = REPORTED) -> list[int]:
    """Those of some segments that are among so many, and the last one."""
    return sorted({k for k in which if k < segments} | {segments})


def segment_step(model: RecursiveModel) -> Step:
    """One segment as a map of states [S, E, d] and actions: x [S, E, N D], then what goals add, if they do.

    That is [S, E, D], or [S, E, N D] where every position has a goal of its own.
    """
    width = model.sizes.width
    places = model.sizes.prefix + model.sizes.cells

    def step(flat: Tensor, action: Tensor) -> Tensor:
        injected, guide = action.split((places * width, action.shape[-1] - places * width), -1)
        return model.segment(
            States.unflatten(flat, width),
            injected.unflatten(-1, (places, width)),
            guide.unflatten(-1, (-1, width)) if guide.shape[-1] else None,
            gradient="all",
        ).flatten()

    return step


@reads_settings("seeds", "tangents", "recursion_puzzles")
def measure_recursion(
    task: Task,
    model: RecursiveModel,
    variant: BaselineVariant | FeudalVariant,
    side: Literal["train", "test"],
    segments: int,
    *,
    config: Exp5Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """A model's recursion on a side's first puzzles, followed for so many segments, with random tangents.

    Goals, where the variant has them, are those that the recursion itself leads to; the Jacobian is at these
    goals.

    Returns:
        exact [S, E, K] bool, q [S, E, K, 2] and residual [S, E, K] after each segment;
        log_tangent [S, E, K, P]: ln ||dz_k/dz_0 v|| of normal v.
    """
    batch = first_puzzles(task, side, config.recursion_puzzles, model, device)
    size, count = state_size(model), batch.inputs.shape[1]
    tangents = torch.stack(
        [
            torch.randn(config.tangents, count, size, generator=draw)
            for draw in generators(config.seeds, "tangents")
        ],
        1,
    )  # [P, S, E, d]
    actions = actions_of(model, batch, segments, make_goals(task, model, variant, config.seeds))
    rows = max(1, AT_ONCE // (model.members * size))
    blocks = zip(
        batch.labels.split(rows, 1), actions.split(rows, 1), tangents.to(device).split(rows, 2), strict=True
    )
    found = [_follow(model, *block) for block in blocks]
    return {name: torch.cat([part[name] for part in found], 1) for name in found[0]}


def first_puzzles(
    task: Task, side: Literal["train", "test"], count: int, model: RecursiveModel, device: torch.device
) -> Batch:
    """The first puzzles of a task's side, the same for every member."""
    puzzles = getattr(task, side)
    return everyone(puzzles.select(torch.arange(min(count, len(puzzles)))), model.members, device)


def state_size(model: RecursiveModel) -> int:
    """d."""
    return model.initial(1).flatten().shape[-1]


@torch.no_grad()
def actions_of(
    model: RecursiveModel, batch: Batch, segments: int, goals: EvaluationGoals | None = None
) -> Tensor:
    """The actions of `segment_step` in each of K segments: [S, E, K, N D or, with goals, more]."""
    injected = model.embed_puzzles(batch.inputs, batch.identifiers)
    actions = injected.flatten(2)[:, :, None].expand(-1, -1, segments, -1)
    if goals is None:
        return actions
    states, guide, guides = model.initial(batch.inputs.shape[1]), goals.begin(batch.inputs.shape[1]), []
    for _ in range(segments):
        guides.append(guide.guide())
        states = model.segment(states, injected, guides[-1])
        guide.observe(states)
    return torch.cat([actions, torch.stack(guides, 2).flatten(3)], -1)


def _follow(model: RecursiveModel, labels: Tensor, actions: Tensor, tangents: Tensor) -> dict[str, Tensor]:
    """`measure_recursion` of a few puzzles."""
    state, found = model.initial(labels.shape[1]).flatten(), defaultdict(list)
    for after, log_norms in tangent_rollout(segment_step(model), state, actions, tangents):
        logits, q = model.read(States.unflatten(after, model.sizes.width))
        found["exact"].append(judge(logits, labels).exact)
        found["q"].append(q)
        found["residual"].append((after - state).norm(dim=-1) / after.norm(dim=-1))
        found["log_tangent"].append(log_norms.movedim(0, -1))
        state = after
    return {name: torch.stack(values, 2) for name, values in found.items()}


def log10_jacobian(log_tangent: Tensor, size: int) -> Tensor:
    """log10 of ||dz_k/dz_0||_F / sqrt(d), estimated from P tangents: [S, E, K, P] -> [S, E, K].

    It is 0 for the identity, and log10 of the mean stretch of all directions in general.
    """
    squared = torch.logsumexp(2 * log_tangent, -1) - math.log(log_tangent.shape[-1])
    return (0.5 * squared - 0.5 * math.log(size)) / LN10


def growth(log_tangent: Tensor) -> Tensor:
    """Growth of a tangent per segment over the second half of the segments, in nats: [S, E, K, P] -> [S, E].

    At a fixed point it tends to ln of the spectral radius of one segment's Jacobian.
    """
    half = log_tangent.shape[2] // 2
    after = log_tangent[:, :, -1] - log_tangent[:, :, half - 1]
    return after.mean(-1) / (log_tangent.shape[2] - half)


@reads_settings("seeds", "gradient_puzzles")
def measure_singular_values(
    task: Task,
    model: RecursiveModel,
    variant: BaselineVariant | FeudalVariant,
    segments: Sequence[int],
    *,
    config: Exp5Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """The largest singular value of one segment's Jacobian, of those that are k-th in their recursions.

    Returns:
        singular_value [S, E, K'] for the K' segments named.
    """
    batch = first_puzzles(task, "test", config.gradient_puzzles, model, device)
    count, goals = batch.inputs.shape[1], make_goals(task, model, variant, config.seeds)
    draws = generators(config.seeds, "power iteration")
    start = torch.stack([torch.randn(count, state_size(model), generator=draw) for draw in draws]).to(device)
    step, state, values = segment_step(model), model.initial(count).flatten(), []
    for k, action in enumerate(actions_of(model, batch, max(segments), goals).unbind(2), start=1):
        if k in segments:
            values.append(largest_singular_value(step, state, action, start, POWER_ITERATIONS))
        with torch.no_grad():
            state = step(state, action)
    return {"singular_value": torch.stack(values, -1)}


# ----------------------------------------------------------------------------------------------
# How good is the gradient of one step?
# ----------------------------------------------------------------------------------------------


@reads_settings("gradient_puzzles")
def measure_gradients(
    task: Task, model: RecursiveModel, segments: Sequence[int], *, config: Exp5Config, device: torch.device
) -> dict[str, Tensor]:
    """The gradient of the answer's cost after segment k: of one step against longer ones, over all weights.

    Returns:
        cosine/{segment,all}, ratio/{segment,all} [K', S]: cosine of the one-step gradient with the gradient
        through the segment and through all segments so far, and their norms over the one-step gradient's.
    """
    model = copy.deepcopy(model).requires_grad_(True)
    batch, found = first_puzzles(task, "train", config.gradient_puzzles, model, device), defaultdict(list)
    for k in segments:
        short = cost_gradient(model, batch, k, "one_step")
        for name in ("segment", "all"):
            longer = cost_gradient(model, batch, k, name)
            found[f"cosine/{name}"].append(F.cosine_similarity(short, longer, dim=-1, eps=0.0))
            found[f"ratio/{name}"].append(longer.norm(dim=-1) / short.norm(dim=-1))
    return {name: torch.stack(values) for name, values in found.items()}


def cost_gradient(model: RecursiveModel, batch: Batch, segment: int, gradient: Gradient) -> Tensor:
    """Gradient of the mean cross-entropy after a segment by all of a member's weights: [S, weights]."""
    injected = model.embed_puzzles(batch.inputs, batch.identifiers)
    states = model.initial(batch.inputs.shape[1])
    with torch.set_grad_enabled(gradient == "all"):
        for _ in range(segment - 1):
            states = model.segment(states, injected, gradient="all")
    states = model.segment(states, injected, gradient=gradient)
    cost = cross_entropy(model.read(states)[0], batch.labels).mean(1).sum()
    gradients = torch.autograd.grad(cost, list(model.parameters()), materialize_grads=True)
    return torch.cat([part.flatten(1) for part in gradients], 1)


# ----------------------------------------------------------------------------------------------
# Puzzles to look at
# ----------------------------------------------------------------------------------------------


def choose_puzzles(exact: Tensor) -> dict[str, int]:
    """Of [E, K] bool: the solved puzzle whose answer was wrong for longest, and the first unsolved one."""
    solved = exact[:, -1]
    wrong_for = torch.where(solved, (~exact).sum(1), -1)
    chosen = {"solved": int(wrong_for.argmax()), "unsolved": int((~solved).long().argmax())}
    return {name: row for name, row in chosen.items() if bool(solved[row]) == (name == "solved")}


@reads_settings("recursion_puzzles")
def sample_puzzles(
    task: Task,
    model: RecursiveModel,
    measured: Mapping[str, Tensor],
    *,
    config: Exp5Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Answers of the first seed's model without goals to one puzzle that it solves, and to one it does not.

    Args:
        task: held-out puzzles.
        model: whose recursion `measured` is.
        measured: see `measure_recursion`.

    Returns:
        {solved,unsolved}/inputs, labels [L]; after each segment answers and their probabilities [K, L], and
        residual [K]. One of the two is left out where there is none.
    """
    batch = first_puzzles(task, "test", config.recursion_puzzles, model, device)
    injected = model.embed_puzzles(batch.inputs, batch.identifiers)
    segments, found = min(SHOWN, measured["exact"].shape[2]), {}
    with torch.no_grad():
        logits = [model.read(states)[0][0] for states in roll_out(model, injected, segments)]
    probabilities, answers = log_stablemax(torch.stack(logits, 1)).exp().max(-1)  # [E, K, L]
    for name, row in choose_puzzles(measured["exact"][0]).items():
        found |= {
            f"{name}/inputs": batch.inputs[0, row],
            f"{name}/labels": batch.labels[0, row],
            f"{name}/answers": answers[row],
            f"{name}/probabilities": probabilities[row].float(),
            f"{name}/residual": measured["residual"][0, row, :segments],
        }
    return found
