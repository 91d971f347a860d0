"""What the campaign's review found missing: contexts, gradients, and the recursion's Jacobians.

Shapes: S members, N queries, G groups, P prefix positions, L cells, D width, F = P D numbers of a context,
R probes, T cycles.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.config import Exp6Config
from common.jacobian_utils import Step, rollout_squared_norms_stochastic
from common.recursion.losses import cross_entropy
from common.recursion.model import States
from common.run.cache import reads_settings
from common.run.random import generator
from exp6_encoder_trm.contextual import ContextTRM
from exp6_encoder_trm.dataset import Augmentation, Puzzles, Queries, Setting, ask, augmented, group_means

PROBES = 4  # of a stochastic norm
QUERIES = 32  # at which Jacobians and gradients are taken
AUGMENTATIONS = 8  # versions of each group under which its context is compared
COLLAPSE_COSINE, COLLAPSE_VARIANCE = 0.95, 0.01  # above and below which an encoder has collapsed


def context_statistics(contexts: Tensor, groups: Tensor) -> dict[str, Tensor]:
    """How contexts differ between tasks and within them, each [S].

    Args:
        contexts: [S, N, F].
        groups: of the queries, [N] int64.

    Returns:
        context_rms: root mean square of all numbers.
        context_cross_variance: variance of the groups' means, averaged over the F numbers.
        context_within_variance: variance around the group's mean, averaged over queries and numbers.
        context_cosine: mean cosine of the means of two different groups.
    """
    means = group_means(contexts, groups)  # [S, G, F]
    own = groups.unique(return_inverse=True)[1]
    unit = torch.nn.functional.normalize(means, dim=-1)
    count = means.shape[1]
    # the sum of all cosines without each with itself
    cosines = (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / max(1, count * (count - 1))
    return {
        "context_rms": contexts.square().mean((1, 2)).sqrt(),
        "context_cross_variance": means.var(1, correction=0).mean(-1),
        "context_within_variance": (contexts - means[:, own]).square().mean((1, 2)),
        "context_cosine": cosines,
    }


def is_collapsed(cosine: Tensor, cross_variance: Tensor) -> Tensor:
    """Whether an encoder says the same of all tasks; a context of zeros, which has no direction, too."""
    return ((cosine > COLLAPSE_COSINE) & (cross_variance < COLLAPSE_VARIANCE)) | (cross_variance == 0)


# ----------------------------------------------------------------------------------------------
# Contexts
# ----------------------------------------------------------------------------------------------


@reads_settings("seeds", "most_demos")
@torch.no_grad()
def measure_contexts(
    setting: Setting, model: ContextTRM, *, config: Exp6Config, device: torch.device
) -> dict[str, Tensor]:
    """The contexts of the training queries, and how they move when a task is turned or recoloured.

    Returns:
        `context_statistics`; means: of each group [S, G, F]; augmented_variance: around a group's mean over
        its versions, averaged [S].
    """
    watched = setting.watched().to(device).for_members(len(config.seeds))
    contexts = model.encode(watched).context.flatten(2)  # [S, N, F]
    groups = watched.groups[0]
    versions = []
    for number in range(AUGMENTATIONS):
        moved = augmented(setting.train, Augmentation(), generator(number, "diagnostics/augmentation"))
        queries = ask(moved, moved.queries(), config.most_demos).to(device).for_members(len(config.seeds))
        versions.append(group_means(model.encode(queries).context.flatten(2), groups))
    return {
        **context_statistics(contexts, groups),
        "means": group_means(contexts, groups),
        "augmented_variance": torch.stack(versions).var(0, correction=0).mean((1, 2)),
    }


# ----------------------------------------------------------------------------------------------
# The recursion's Jacobians
# ----------------------------------------------------------------------------------------------


def one_cycle(model: ContextTRM, states: States, injected: Tensor) -> States:
    """The states after one cycle, with its graph: `cycles_L` calls of the low level, one of the high."""
    trm = model.trm
    z_H, z_L = states
    for _ in range(trm.sizes.cycles_L):
        z_L = trm.level_L(z_L, z_H + injected, trm.turns)
    return States(trm.level_H(z_H, z_L, trm.turns), z_L)


@reads_settings("seeds", "jacobian_cycles")
def measure_jacobians(
    puzzles: Puzzles, model: ContextTRM, *, config: Exp6Config, device: torch.device
) -> dict[str, Tensor]:
    """log10 of ||d state_T / d state_0||_F and of ||d state_T / d context||_F over T cycles.

    The context is one, which every cycle reads. Each norm is divided by the root of the number of columns, so
    that the identity has norm 1.

    Returns:
        state, context: [S, len(jacobian_cycles)], means over queries of the logs of the squares' means over
        probes.
    """
    queries = some_queries(puzzles).to(device).for_members(len(config.seeds))
    with torch.no_grad():
        context = model.encode(queries).context  # [S, N, P, D]
    width, places = model.trm.sizes.width, context.shape[2:]

    def step(state: Tensor, action: Tensor) -> Tensor:
        injected = model.inject(queries.inputs, action.unflatten(2, places))
        return one_cycle(model, States.unflatten(state, width), injected).flatten()

    begin = model.trm.initial(queries.inputs.shape[1]).flatten().clone()
    probes = torch.stack(
        [torch.randn(PROBES, *begin.shape[1:], generator=generator(seed, "probes")) for seed in config.seeds],
        1,
    ).to(device)  # [R, S, N, d]
    found: dict[str, list[Tensor]] = {"state": [], "context": []}
    for cycles in config.jacobian_cycles:
        flat = context.flatten(2)
        actions = flat[:, :, None].expand(-1, -1, cycles, -1)
        log_state, _ = rollout_squared_norms_stochastic(step, begin, actions, probes)
        logs = (log_state, shared_squared_norm(step, begin, flat, cycles, probes).log())
        for values, log, columns in zip(found.values(), logs, (begin.shape[-1], flat.shape[-1]), strict=True):
            values.append((log - math.log(columns)).mean(1) / (2 * math.log(10)))
    return {name: torch.stack(values, 1) for name, values in found.items()}


def shared_squared_norm(step: Step, state: Tensor, action: Tensor, steps: int, probes: Tensor) -> Tensor:
    """Unbiased estimate of ||d z_T / d a||_F^2 of one action that every step reads: [..., d_a] -> [...].

    Args:
        step: (state, action) -> state.
        state: z_0 [..., d].
        action: a [..., d_a].
        steps: T.
        probes: [R, ..., d], of which E v v^T = I.
    """
    leaf = action.detach().clone().requires_grad_(True)
    for _ in range(steps):
        state = step(state, leaf)
    pulled = [torch.autograd.grad(state, leaf, probe, retain_graph=True)[0] for probe in probes]
    return torch.stack(pulled).square().sum(-1).mean(0)


def some_queries(puzzles: Puzzles) -> Queries:
    """QUERIES of the training queries, evenly spaced among all."""
    watched = puzzles.watched()
    stride = max(1, len(watched) // QUERIES)
    return watched.map(lambda value: value[::stride][:QUERIES])


@reads_settings("seeds", "gradient_cycles", "answer_loss")
def measure_encoder_gradient(
    puzzles: Puzzles, model: ContextTRM, *, config: Exp6Config, device: torch.device
) -> dict[str, Tensor]:
    """Norm of the loss's gradient in the encoder over the number of cycles that it is followed back through.

    Of one segment with as many cycles as the largest of `gradient_cycles`, from the initial states.

    Returns:
        norm: [S, len(gradient_cycles)]; zeros for a model whose context has no parameters.
    """
    queries = some_queries(puzzles).to(device).for_members(len(config.seeds))
    trm, members = model.trm, len(config.seeds)
    own = [] if model.encoder is None else list(model.encoder.parameters())
    sizes, begin = trm.sizes, trm.initial(queries.inputs.shape[1])
    norms = []
    trm.sizes = replace(sizes, cycles_H=max(config.gradient_cycles))
    for parameter in own:
        parameter.requires_grad_(True)
    try:
        for cycles in config.gradient_cycles if own else ():
            injected = model.inject(queries.inputs, model.encode(queries).context)
            logits, _ = trm.read(trm.segment(begin, injected, gradient=cycles))
            loss = cross_entropy(logits, queries.labels, config.answer_loss == "softmax").mean(1).sum()
            gradients = torch.autograd.grad(loss, own, materialize_grads=True)
            norms.append(sum(part.reshape(members, -1).square().sum(1) for part in gradients).sqrt())
    finally:
        trm.sizes = sizes
        for parameter in own:
            parameter.requires_grad_(False)
    empty = torch.zeros(members, len(config.gradient_cycles))
    return {"norm": torch.stack(norms, 1) if norms else empty}


def principal_plane(points: Sequence[Tensor]) -> list[Tensor]:
    """Several sets of points on the first two principal axes of the first: [N, F] each -> [N, 2] each."""
    centre = points[0].mean(0)
    _, _, axes = torch.linalg.svd(points[0] - centre, full_matrices=False)
    return [(part - centre) @ axes[:2].mT for part in points]
