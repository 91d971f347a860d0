"""One training loop for every experiment: Adam, one-cycle rate, resumed to the bit, S seeds at once."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.checkpoint import Checkpoint
from common.runtime import Progress, generators

# loss(iteration, draws) -> terms, each [S]; terms["loss"] is what is minimised.
Loss = Callable[[int, Sequence[torch.Generator]], dict[str, Tensor]]

HISTORY_POINTS = 200


def fit(
    module: nn.Module,
    loss: Loss,
    *,
    seeds: Sequence[int],
    iterations: int,
    learning_rate: float,
    label: str,
    stream: str,
    clip_norm: float | None = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int = 500,
) -> dict[str, Tensor]:
    """Train an ensemble module in place, each member as if it were alone.

    The members' losses are summed, Adam acts element by element and gradients are clipped member by
    member, so no member feels another. All randomness comes from one generator a seed, whose states
    are in the checkpoint: an interrupted training continues to the bit on the cpu.

    Args:
        module: an ensemble whose parameters lead with the S dimension.
        loss: called with the iteration and the S generators.
        seeds: S training seeds.
        iterations: optimiser steps.
        learning_rate: peak of the one-cycle schedule (Smith & Topin, 2018).
        label: names the training in the log.
        stream: names the random stream of the draws; arms that name the same one see the same draws.
        clip_norm: largest gradient norm of a member; None for no clipping.
        checkpoint: where to resume from and save to.
        checkpoint_every: iterations between saves.

    Returns:
        history: `iteration` [L] and every loss term [L, S]; `seconds` of training, over all sessions.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=iterations)
    draws = generators(seeds, f"{stream}/batches")
    history: dict[str, list] = {"iteration": []}
    start, seconds_before = 0, 0.0

    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        for draw, state in zip(draws, saved["draws"], strict=True):
            draw.set_state(state)
        history, start, seconds_before = saved["history"], saved["iteration"], saved["seconds"]

    began = time.monotonic()

    def save(iteration: int) -> None:
        if checkpoint is not None:
            checkpoint.save(
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "draws": [draw.get_state() for draw in draws],
                    "history": history,
                    "iteration": iteration,
                    "seconds": seconds_before + time.monotonic() - began,
                }
            )

    if start < iterations:
        progress = Progress(iterations, label, initial=start)
        record_every = max(1, iterations // HISTORY_POINTS)
        for iteration in range(start, iterations):
            terms = loss(iteration, draws)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].sum().backward()
            if clip_norm is not None:
                clip_gradients_per_member(module, clip_norm)
            optimizer.step()
            schedule.step()
            note = ""
            if iteration % record_every == 0 or iteration == iterations - 1:
                note = _record(history, iteration, terms, label)
            progress.update(note)
            if (iteration + 1) % checkpoint_every == 0:
                save(iteration + 1)
        progress.close(_describe(history))
        save(iterations)
    seconds = seconds_before + time.monotonic() - began if start < iterations else seconds_before
    return {
        **{name: torch.as_tensor(values) for name, values in history.items()},
        "seconds": torch.tensor(seconds, dtype=torch.float64),
    }


def _record(history: dict[str, list], iteration: int, terms: dict[str, Tensor], label: str) -> str:
    values = {name: term.detach().cpu().tolist() for name, term in terms.items()}
    if not all(torch.isfinite(term).all() for term in terms.values()):
        raise FloatingPointError(
            f"training {label}: the loss is not finite at iteration {iteration}: {values}"
        )
    history["iteration"].append(iteration)
    for name, value in values.items():
        history.setdefault(name, []).append(value)
    return _describe(history)


def _describe(history: dict[str, list]) -> str:
    """The last recorded terms, averaged over seeds, as `loss=1.2e-03 spectral=4.5e+00`."""
    terms = {name: values[-1] for name, values in history.items() if name != "iteration" and values}
    return " ".join(f"{name}={sum(values) / len(values):.2e}" for name, values in terms.items())


def clip_gradients_per_member(module: nn.Module, max_norm: float) -> None:
    """Scale each member's gradient to a norm of at most `max_norm`, in place."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    squared = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)  # [S]
    scale = (max_norm / squared.sqrt().clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
