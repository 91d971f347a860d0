"""Models of experiment 7: a spatial latent world model, the kernel that moves a belief, a quasimetric head.

Shapes
    S  members (training seeds)
    J  codes: contents of cells, composed from what a member's training data hold
    N  samples
    H, X  height and width of a map; P = H X 4 poses, numbered (row X + column) 4 + direction
    d  channels of a cell's latent
    A  actions
    O  outcomes of an action: 9 cells around the agent x 4 directions
    M, Q, w, h  maps, poses of a map, channels of the head, its metric

Every cell has a latent of its own, from a 1x1 encoder. One step changes a cell by what stands in the 3x3
cells around it, so what is learned in one layout holds in all. Snapping puts each predicted cell onto the
nearest code, so that errors do not add up. Codes are what training saw, composed: see `composed`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Exp7Config
from common.objectives import METRIC_GROUP_SIZE, METRIC_GROUPS
from common.run.random import generators
from common.training.ensembles import EnsembleLinear, EnsembleMLP
from exp7_unseen_layouts.dataset import ACTIONS, AGENTS, COLOURS, OBJECTS, PLANES, Patches, planes_of

OUTCOMES = 9 * 4  # O
HEADS = OUTCOMES + 2  # and whether the map changes, and whether the goal is reached
FEATURES = sum(PLANES)  # of a cell, one-hot
GAIN = 2.0  # size of the kernel's inputs; at a size of 1/4 it learns walls in ten times the steps
FAR = 1e4  # distance of a code that a member does not have; exp(-FAR) is 0 in float32

MODEL_FIELDS = ("seeds", "d_latent", "hidden_dim")


# ----------------------------------------------------------------------------------------------
# The spatial latent world model
# ----------------------------------------------------------------------------------------------


def one_hot_planes(contents: Tensor) -> Tensor:
    """Cells as network input: [...] -> [..., FEATURES] float32, one-hot plane by plane."""
    planes = planes_of(contents)
    return torch.cat(
        [F.one_hot(plane, size) for plane, size in zip(planes.unbind(-1), PLANES, strict=True)], -1
    ).float()


def neighbourhoods(cells: Tensor, *, whole: bool = True) -> Tensor:
    """The 3x3 cells around each cell, side by side: [..., H, X, d] -> [..., H, X, 9 d]; 0 beyond the map.

    Of a crop that is not the whole map, around its inner cells alone: [..., H - 2, X - 2, 9 d].
    """
    padded = F.pad(cells, (0, 0, 1, 1, 1, 1)) if whole else cells
    rows, columns = padded.shape[-3] - 2, padded.shape[-2] - 2
    shifted = [padded[..., y : y + rows, x : x + columns, :] for y in range(3) for x in range(3)]
    return torch.cat(shifted, -1)


class SpatialModel(nn.Module):
    """One latent a cell: z = enc(content), z' = z + sum_k a_k W_k [(U p) * (V p)], p the 3x3 latents around.

    The transition is linear in the action and quadratic in the latents. Its codes are the encodings of
    `contents`.
    """

    def __init__(self, contents: Sequence[Tensor], seeds: Sequence[int], d_latent: int, hidden: int):
        """`contents`: of each seed the distinct contents that a cell may be snapped to, [J_s] int64."""
        super().__init__()
        most = max(map(len, contents))
        padded = torch.stack([F.pad(own, (0, most - len(own)), value=-1) for own in contents])
        self.register_buffer("contents", padded.clamp(min=0))  # [S, J]
        self.register_buffer("absent", padded < 0)  # [S, J] bool: fills up, no code
        self.encoder = EnsembleMLP(seeds, (FEATURES, hidden, d_latent), "encoder")
        draws = generators(seeds, "transition")
        self.first = EnsembleLinear(9 * d_latent, hidden, draws)
        self.second = EnsembleLinear(9 * d_latent, hidden, draws)
        self.change = EnsembleLinear(hidden, len(ACTIONS) * d_latent, draws)

    @property
    def d_latent(self) -> int:
        """d."""
        return self.encoder.layers[-1].weight.shape[-1]

    def encode(self, contents: Tensor) -> Tensor:
        """Latents of cells: [S, ...] int64 -> [S, ..., d]; 0 beyond the map, whose content is 0."""
        return self.encoder(one_hot_planes(contents)) * (contents > 0)[..., None]

    def codes(self) -> Tensor:
        """Latents of the codes: [S, J, d]."""
        return self.encode(self.contents)

    def look_up(self, codes: Tensor, positions: Tensor) -> Tensor:
        """Latents of cells whose positions among the codes are known: [S, ...] -> [S, ..., d]; 0 for -1."""
        flat = positions.flatten(1)
        found = codes.gather(1, flat.clamp(min=0)[..., None].expand(-1, -1, codes.shape[-1]))
        return (found * (flat >= 0)[..., None]).view(*positions.shape, -1)

    def forward(self, latents: Tensor, actions: Tensor, *, whole: bool = True) -> Tensor:
        """One step, unsnapped: [S, N, H, X, d], [S, N, A] -> [S, N, H, X, d].

        Of a crop that is not the whole map only the inner cells are predicted: [S, N, H - 2, X - 2, d].
        """
        around = neighbourhoods(latents, whole=whole)
        latents = latents if whole else latents[:, :, 1:-1, 1:-1]
        moved = self.change(self.first(around) * self.second(around))  # [S, N, H, X, A d]
        moved = moved.unflatten(-1, (len(ACTIONS), -1))
        return latents + (moved * actions[:, :, None, None, :, None]).sum(-2)

    def code_distances(self, latents: Tensor, codes: Tensor) -> Tensor:
        """Squared distance of each latent to each code: [S, N, d], [S, J, d] -> [S, N, J]; FAR if absent."""
        cross = latents @ codes.mT
        squared = latents.square().sum(-1, keepdim=True) - 2 * cross + codes.square().sum(-1)[:, None]
        return squared.clamp(min=0).masked_fill(self.absent[:, None], FAR)

    @torch.no_grad()
    def snap(self, latents: Tensor) -> Tensor:
        """The content of the nearest code of each cell: [S, ..., d] -> [S, ...] int64."""
        nearest = self.code_distances(latents.flatten(1, -2), self.codes()).argmin(-1)  # [S, N]
        return self.contents.gather(1, nearest).view(latents.shape[:-1])

    @torch.no_grad()
    def step_contents(self, contents: Tensor, actions: Tensor) -> Tensor:
        """One snapped step: contents [S, N, H, X], actions [S, N] -> contents [S, N, H, X] int64."""
        one_hot = F.one_hot(actions, len(ACTIONS)).float()
        known = contents > 0
        return self.snap(self(self.encode(contents), one_hot)) * known


def make_spatial_model(patches: Sequence[Patches], config: Exp7Config) -> SpatialModel:
    """A fresh model for every seed, whose codes are what the seed's patches hold, composed."""
    contents = [composed(torch.cat([own.before.flatten(), own.after.flatten()]).unique()) for own in patches]
    return SpatialModel(contents, config.seeds, config.d_latent, config.hidden_dim)


def composed(contents: Tensor) -> Tensor:
    """Contents that were seen [N], and every agent that was seen on everything that agents stood on: [J].

    A red key may never have been carried through a green door in training; both parts were seen.
    """
    contents = contents[contents > 0]
    stood_on = contents[contents % AGENTS > 0]
    things, agents = (stood_on - stood_on % AGENTS).unique(), (stood_on % AGENTS).unique()
    return torch.cat([contents, (things[:, None] + agents).flatten()]).unique()


def prediction_losses(
    model: SpatialModel, codes: Tensor, predicted: Tensor, positions: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Squared error and InfoNCE of predicted cells, each averaged over the cells: [S], [S].

    Args:
        model: whose codes are the negatives: every content that its data hold, each once.
        codes: `model.codes()`.
        predicted: [S, N, H, X, d].
        positions: of what is really there among the codes, [S, N, H, X]; -1 beyond the map does not count.
        temperature: of the InfoNCE, -log softmax_j(-|z^ - c_j|^2 / temperature) at the true j.
    """
    flat, true = predicted.flatten(1, -2), positions.flatten(1)
    weight = (true >= 0).float()
    weight = weight / weight.sum(1, keepdim=True)
    target = model.look_up(codes.detach(), true)
    squared = ((flat - target).square().sum(-1) * weight).sum(1)
    logits = -model.code_distances(flat, codes) / temperature
    entropy = F.cross_entropy(logits.flatten(0, 1), true.flatten().clamp(min=0), reduction="none")
    return squared, (entropy.view_as(true) * weight).sum(1)


def sizes(codes: Tensor, present: Tensor) -> Tensor:
    """Root mean square of each member's codes: [S, J, d], [S, J] bool -> [S]; one by one, to the bit."""
    own = [some[there] for some, there in zip(codes, present, strict=True)]
    return torch.stack([values.square().mean().sqrt() for values in own])


# ----------------------------------------------------------------------------------------------
# The transfer kernel
# ----------------------------------------------------------------------------------------------


class TransferKernel(nn.Module):
    """Where an action takes a pose: P(s' | s, a), read from the 3x3 latents of the map around the agent.

    For each direction and action a softmax over the 9 cells around the agent times 4 directions. Every row
    sums to 1, so that a belief's mass is conserved: b' = sum_k a_k P_k^T b. Beside it two probabilities: that
    the action changes the map (or what is carried), and that it reaches the goal.
    """

    def __init__(self, seeds: Sequence[int], codes: Tensor, present: Tensor, width: int):
        """`codes` [S, J, d] of the spatial model, `present` [S, J] bool: their size is the inputs' unit."""
        super().__init__()
        self.register_buffer("unit", sizes(codes, present)[:, None, None] / GAIN)
        inputs = 9 * codes.shape[-1] + OBJECTS + COLOURS
        self.net = EnsembleMLP(seeds, (inputs, width, width, 4 * len(ACTIONS) * HEADS), "kernel")

    def forward(self, around: Tensor, carried: Tensor) -> Tensor:
        """Logits: latents around [S, N, 9 d], what is carried [S, N] -> [S, N, 4, A, HEADS]."""
        kind = F.one_hot(carried // COLOURS, OBJECTS)
        colour = F.one_hot(carried % COLOURS, COLOURS)
        found = self.net(torch.cat([around / self.unit, kind.to(around), colour.to(around)], -1))
        return found.unflatten(-1, (4, len(ACTIONS), HEADS))


def outcome_losses(logits: Tensor, outcome: Tensor, changed: Tensor, reached: Tensor) -> dict[str, Tensor]:
    """Cross-entropies of logged transitions: logits [S, N, HEADS], the rest [S, N] -> by name, each [S]."""
    members = len(logits)
    moves = F.cross_entropy(
        logits[..., :OUTCOMES].flatten(0, 1), outcome.flatten(), reduction="none"
    ).view_as(outcome)
    terms = {"moves": moves.mean(1)}
    for name, position, truth in (("changes", OUTCOMES, changed), ("goals", OUTCOMES + 1, reached)):
        found = F.binary_cross_entropy_with_logits(logits[..., position], truth.float(), reduction="none")
        terms[name] = found.view(members, -1).mean(1)
    return terms


def outcomes_of(before: Tensor, after: Tensor) -> Tensor:
    """Numbers of outcomes: poses (column, row, direction) before and after [..., 3] -> [...] in [0, O)."""
    shift = after[..., :2] - before[..., :2] + 1
    return (shift[..., 1] * 3 + shift[..., 0]) * 4 + after[..., 2]


def outcome_poses(rows: int, columns: int) -> Tensor:
    """The pose that each outcome means from each pose, clamped to the map: [P, O] int64."""
    row, column = torch.arange(rows)[:, None, None, None], torch.arange(columns)[None, :, None, None]
    shift = torch.arange(9)
    new_row = (row + shift[None, None, :, None] // 3 - 1).clamp(0, rows - 1)
    new_column = (column + shift[None, None, :, None] % 3 - 1).clamp(0, columns - 1)
    poses = (new_row * columns + new_column) * 4 + torch.arange(4)  # [H, X, 9, 4]
    return poses.flatten(2).repeat_interleave(4, 1).reshape(rows * columns * 4, OUTCOMES)


@torch.no_grad()
def kernel_of_maps(
    model: SpatialModel, kernel: TransferKernel, maps: Tensor, carried: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel of whole maps without the agent, of one member.

    Args:
        model: one member's (S = 1).
        kernel: one member's.
        maps: [M, H, X] contents.
        carried: [M].

    Returns:
        probabilities of the outcomes [M, P, A, O], that the map changes [M, P, A], that the goal is
        reached [M, P, A].
    """
    if (maps % AGENTS).any():
        raise ValueError("a map must be without its agent: the kernel puts it at every pose itself")
    cells = maps.shape[1] * maps.shape[2]
    around = neighbourhoods(maps[..., None]).flatten(0, 2)  # [M H X, 9] contents
    rows = torch.cat([around, carried.repeat_interleave(cells)[:, None]], 1)
    rows, which = rows.unique(dim=0, return_inverse=True)  # modes of a layout share most of their cells
    latents = model.encode(rows[None, :, :9]).flatten(2)  # [1, U, 9 d]
    logits = kernel(latents, rows[None, :, 9])[0][which]
    logits = logits.view(len(maps), cells * 4, len(ACTIONS), HEADS)
    odds = logits[..., OUTCOMES:].sigmoid()
    return logits[..., :OUTCOMES].softmax(-1), odds[..., 0], odds[..., 1]


# ----------------------------------------------------------------------------------------------
# The quasimetric head
# ----------------------------------------------------------------------------------------------


class QuasimetricHead(nn.Module):
    """psi(map, pose): a recurrent 3x3 convolution spreads what stands where, then the pose is read off it.

        c_0 = 0, c_{k+1} = rms(c_k + silu(W p(c_k) + U p(z))),  psi = MLP(c_K at the agent, its direction)

    p: the 3x3 cells around. K times 1 cell is how far a wall is seen.
    """

    def __init__(self, seeds: Sequence[int], codes: Tensor, present: Tensor, width: int, depth: int):
        """`codes` [S, J, d] of the spatial model, `present` [S, J] bool: their size is the inputs' unit."""
        super().__init__()
        self.register_buffer("unit", sizes(codes, present).view(-1, 1, 1, 1, 1))
        self.depth = depth
        draws = generators(seeds, "quasimetric")
        self.given = EnsembleLinear(9 * codes.shape[-1], width, draws)
        self.spread = EnsembleLinear(9 * width, width, draws)
        self.read = EnsembleMLP(
            seeds, (width + 4, 2 * width, METRIC_GROUPS * METRIC_GROUP_SIZE), "quasimetric/read"
        )
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
