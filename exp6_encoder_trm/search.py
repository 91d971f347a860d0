"""Search on the context at test time: the demonstrations are questions whose answers are known.

As in Latent Program Networks (Bonnet & Macfarlane, arXiv 2411.08706): the context of an unseen task is moved
by gradient until it answers the task's own demonstrations, each left out of the context in its turn. The
gradient goes through the whole recursion.

Shapes: S members, E queries, K demonstrations, P prefix positions, L cells, D width.
"""

import copy

import torch
from torch import Tensor

from common.config import Exp6Config
from common.recursion.losses import cross_entropy
from common.run.cache import reads_settings
from exp6_encoder_trm.contextual import ContextTRM
from exp6_encoder_trm.dataset import Queries, Setting, left_out
from exp6_encoder_trm.evaluate import answer, unseen_sets
from exp6_encoder_trm.synthetic import Generalisation

TUNED_AT_ONCE = 32  # queries


def left_out_loss(model: ContextTRM, contexts: Tensor, queries: Queries, config: Exp6Config) -> Tensor:
    """Cross-entropy of each demonstration's answer, through every segment: [S, E K].

    Args:
        model: S members.
        contexts: of each demonstration without itself, [S, E K, P, D].
        queries: the demonstrations as queries [S, E K, ..].
        config: the search's.
    """
    injected = model.inject(queries.inputs, contexts)
    states = model.trm.initial(injected.shape[1])
    for _ in range(config.segments):
        states = model.trm.segment(states, injected, gradient="all")
    logits, _ = model.trm.read(states)
    return cross_entropy(logits, queries.labels, config.answer_loss == "softmax")


def search(model: ContextTRM, queries: Queries, config: Exp6Config) -> Tensor:
    """Contexts [S, E, P, D] after the search; where a query has one demonstration, as encoded.

    A shift is added to the context of all demonstrations and to each that leaves one out, where these are
    not zero; Adam moves it, with a step of `search_rate` root mean squares of the query's own context.
    """
    asked, counts = left_out(queries)
    with torch.no_grad():
        whole, partial = model.encode(queries).context, model.encode(asked).context
    demos = queries.shown.shape[-1]
    scale = whole.square().mean((2, 3), keepdim=True).sqrt()
    shift = torch.zeros_like(whole, requires_grad=True)  # in units of the scale
    optimizer = torch.optim.Adam([shift], lr=config.search_rate)
    for _ in range(config.search_steps):
        spread = (scale * shift).repeat_interleave(demos, 1)
        losses = left_out_loss(model, shifted(partial, spread), asked, config)
        optimizer.zero_grad()
        (losses * counts).sum().backward()
        optimizer.step()
    return shifted(whole, scale * shift.detach())


def shifted(context: Tensor, shift: Tensor) -> Tensor:
    """The shift added where a context says anything; a place without a demonstration stays zero."""
    return context + shift * (context != 0).any(-1, keepdim=True)


@reads_settings(
    "seeds",
    "segments",
    "puzzle_seed",
    "family_queries",
    "answer_loss",
    "search_steps",
    "search_rate",
    "tuning_steps",
    "tuning_rate",
)
def measure_search(
    family: Generalisation | Setting, model: ContextTRM, *, config: Exp6Config, device: torch.device
) -> dict[str, Tensor]:
    """Exact [S, E] bool after the search, on training tasks and on unseen ones; `tuned`: unseen ones with
    tuned weights in its place.
    """
    found, sets = {}, unseen_sets(family, config)
    for name, part in sets.items():
        stride = max(1, len(part) // len(sets["unseen"]))  # of the training tasks' queries as many
        queries = part.map(lambda value, stride=stride: value[::stride]).to(device)
        queries = queries.for_members(len(config.seeds))
        found[name] = answer(model, queries, config.segments, search(model, queries, config)).last
    if config.tuning_steps:
        found["tuned"] = tuned_answers(model, queries, config)
    return found


# ----------------------------------------------------------------------------------------------
# Tuning
# ----------------------------------------------------------------------------------------------


def tuned_answers(model: ContextTRM, queries: Queries, config: Exp6Config) -> Tensor:
    """Exact [S, E] after the weights themselves are tuned, for each query anew, on its demonstrations.

    As in test-time training (Akyuerek et al., arXiv 2411.07279): each demonstration is left out of the
    context in its turn and answered. S E models stand side by side, TUNED_AT_ONCE queries at a time.
    """
    found = []
    for begin in range(0, queries.inputs.shape[1], TUNED_AT_ONCE):
        part = queries.map(lambda value, begin=begin: value[:, begin : begin + TUNED_AT_ONCE])
        count = part.inputs.shape[1]
        alone = part.map(lambda value: value.flatten(0, 1)[:, None])  # [S E, 1, ..]
        copies = spread(model, count)
        tune(copies, alone, config)
        found.append(answer(copies, alone, config.segments).last.view(-1, count))
    return torch.cat(found, 1)


def spread(model: ContextTRM, copies: int) -> ContextTRM:
    """Each of S members so many times, one after another, with weights of its own: S copies members."""
    other = copy.deepcopy(model)
    for value in (*other.parameters(), *other.buffers()):
        if len(value) == model.trm.members and value is not other.trm.turns:
            value.data = value.data.repeat_interleave(copies, 0)
    return other.requires_grad_(True)


def tune(model: ContextTRM, queries: Queries, config: Exp6Config) -> None:
    """Adam on every member's weights, in place; queries [S, 1, ..]."""
    asked, counts = left_out(queries)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.tuning_rate)
    for _ in range(config.tuning_steps):
        losses = left_out_loss(model, model.encode(asked).context, asked, config)
        optimizer.zero_grad()
        (losses * counts).sum().backward()
        optimizer.step()
