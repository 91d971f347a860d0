"""One training loop for every experiment: Adam, one-cycle rate, resumed to the bit, S seeds at once."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.run.cache import Checkpoint
from common.run.progress import Progress
from common.run.random import generators

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
        stream: names the random stream of the draws; variants that name the same one see the same draws.
        clip_norm: largest gradient norm of a member; None for no clipping.
        checkpoint: where to resume from and save to, and how often.

    Returns:
        history: `iteration` [L] and every loss term [L, S]; `seconds` of training, over all sessions.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    training = _Training(module, loss, seeds, iterations, learning_rate, label, stream)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        training.restore(saved)
    if training.iteration < iterations:
        progress = Progress(iterations, label, initial=training.iteration)
        while training.iteration < iterations:
            progress.update(training.step(clip_norm))
            last = training.iteration == iterations
            if checkpoint is not None and (last or training.iteration % checkpoint.every == 0):
                training.require_finite()
                checkpoint.save(training.state())
        progress.close(training.describe())
    history = {name: torch.as_tensor(values) for name, values in training.history.items()}
    return {**history, "seconds": torch.tensor(training.seconds(), dtype=torch.float64)}


class _Training:
    """A training between two optimiser steps: what a checkpoint holds."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        seeds: Sequence[int],
        iterations: int,
        learning_rate: float,
        label: str,
        stream: str,
    ):
        self.module, self.loss, self.iterations, self.label = module, loss, iterations, label
        self.optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, learning_rate, total_steps=iterations
        )
        self.draws = generators(seeds, f"{stream}/batches")
        self.history: dict[str, list] = {"iteration": []}
        self.iteration = 0
        self.terms: dict[str, Tensor] = {}
        self._seconds_before, self._began = 0.0, time.monotonic()

    def step(self, clip_norm: float | None) -> str:
        """One optimiser step; a line for the progress where the losses are recorded, else ''."""
        self.terms = self.loss(self.iteration, self.draws)
        self.optimizer.zero_grad(set_to_none=True)
        self.terms["loss"].sum().backward()
        if clip_norm is not None:
            clip_gradients_per_member(self.module, clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.iteration += 1
        every = max(1, self.iterations // HISTORY_POINTS)
        if (self.iteration - 1) % every and self.iteration != self.iterations:
            return ""
        self.require_finite()
        self.history["iteration"].append(self.iteration)
        for name, term in self.terms.items():
            self.history.setdefault(name, []).append(term.detach().cpu().tolist())
        return self.describe()

    def require_finite(self) -> None:
        """Raise FloatingPointError where a loss of the last step is not finite."""
        bad = {name: term.tolist() for name, term in self.terms.items() if not torch.isfinite(term).all()}
        if bad:
            raise FloatingPointError(f"training {self.label}: not finite at step {self.iteration}: {bad}")

    def describe(self) -> str:
        """The last recorded terms, averaged over seeds, as `loss=1.2e-03 spectral=4.5e+00`."""
        last = {name: values[-1] for name, values in self.history.items() if name != "iteration" and values}
        return " ".join(f"{name}={sum(values) / len(values):.2e}" for name, values in last.items())

    def seconds(self) -> float:
        """Time spent, over all sessions."""
        return self._seconds_before + time.monotonic() - self._began

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on to the bit."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "draws": [draw.get_state() for draw in self.draws],
            "history": self.history,
            "iteration": self.iteration,
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, in this process or an earlier one."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for draw, saved in zip(self.draws, state["draws"], strict=True):
            draw.set_state(saved)
        self.history, self.iteration = state["history"], state["iteration"]
        self._seconds_before = state["seconds"]


def clip_gradients_per_member(module: nn.Module, max_norm: float) -> None:
    """Scale each member's gradient to a norm of at most `max_norm`, in place."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    squared = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)  # [S]
    scale = (max_norm / squared.sqrt().clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
