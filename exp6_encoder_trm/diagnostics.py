"""What the campaign's review found missing: contexts, gradients, and the recursion's Jacobians.

Shapes: S members, N queries, G groups, P prefix positions, D width, F = P D numbers of a context.
"""

import torch
from torch import Tensor

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


def group_means(contexts: Tensor, groups: Tensor) -> Tensor:
    """The mean context of each group that occurs, in the groups' order: [S, N, F], [N] -> [S, G, F]."""
    present, own = groups.unique(return_inverse=True)
    sums = contexts.new_zeros(len(contexts), len(present), contexts.shape[-1]).index_add_(1, own, contexts)
    return sums / torch.bincount(own)[:, None]


def is_collapsed(cosine: Tensor, cross_variance: Tensor) -> Tensor:
    """Whether an encoder says the same of all tasks; a context of zeros, which has no direction, too."""
    return ((cosine > COLLAPSE_COSINE) & (cross_variance < COLLAPSE_VARIANCE)) | (cross_variance == 0)
