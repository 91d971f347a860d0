"""One training loop for every module: any optimiser and schedule, resumed to the bit, S seeds at once."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.run.cache import Checkpoint
from common.run.progress import Progress
from common.run.random import generators
from common.training.member_adam import MemberAdam

log = logging.getLogger(__name__)

# loss(iteration, draws) -> terms, each [S] or of a single module []; terms["loss"] is what is minimised.
Loss = Callable[[int, Sequence[torch.Generator]], dict[str, Tensor]]
MakeOptimizers = Callable[[nn.Module], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
MakeSchedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler | None]
AfterStep = Callable[[int], Mapping[str, Tensor] | None]
AfterBackward = Callable[[], None]
Stop = Callable[[int], bool]

HISTORY_POINTS = 200
DIVERGED = 10.0  # times its first value: a loss that ends above says so


class Stateful(Protocol):
    """What a training remembers beside its module: an average of weights, a carry, a curriculum."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python values."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Go on from what `state_dict` returned."""


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
    optimizer: MakeOptimizers | None = None,
    schedule: MakeSchedule | None = None,
    extra_state: Mapping[str, Stateful] | None = None,
    after_step: AfterStep | None = None,
    after_backward: AfterBackward | None = None,
    stop: Stop | None = None,
) -> dict[str, Tensor]:
    """Train a module in place; of an ensemble, each member as if it were alone.

    The members' losses are summed, Adam acts and gradients are clipped member by member, so no member feels
    another. All randomness comes from one generator a seed, whose states are in the checkpoint: an
    interrupted training continues to the bit on the cpu. Whatever else the loss or `after_step` remembers
    from step to step has to be in `extra_state`, or it begins anew.

    Args:
        module: any module; an ensemble's parameters lead with the S dimension and its losses are [S].
        loss: called with the iteration and the S generators.
        seeds: S training seeds.
        iterations: optimiser steps.
        learning_rate: peak of the one-cycle schedule.
        label: names the training in the log.
        stream: names the random stream of the draws; variants that name the same one see the same draws.
        clip_norm: largest gradient norm of a member, of the whole module where losses are []; None for none.
        checkpoint: where to resume from and save to, and how often.
        optimizer: makes one or several of the module; by default Adam.
        schedule: makes the schedule of an optimiser, None for a constant rate; by default the one-cycle
            policy (Smith & Topin, 2018) up to `learning_rate`, which also lowers Adam's beta_1 from .95 to
            .85 and back.
        extra_state: what else is saved and restored, by name.
        after_step: called with the iteration after each optimiser step, for averages of weights and
            evaluations on the way; numbers that it returns go into the history, with `evaluation` for their
            iterations.
        after_backward: called when the gradients are there, before they are clipped.
        stop: called with the iteration after each optimiser step; where it says so the training ends.

    Returns:
        history: `iteration` [L] and every loss term [L, S]; `seconds` of training, over all sessions.

    Raises:
        FloatingPointError: a loss is not finite.
        ValueError: the checkpoint is of a training of another length.
    """
    training = _Training(module, loss, seeds, iterations, learning_rate, label, stream)
    training.prepare(optimizer, schedule, extra_state or {})
    if checkpoint is not None:
        training.resume(checkpoint)
    if not training.ended:
        progress = Progress(iterations, label, initial=training.iteration)
        while not training.ended:
            progress.update(training.step(clip_norm, after_step, after_backward))
            training.stopped = stop is not None and stop(training.iteration)
            if checkpoint is not None and (training.ended or training.iteration % checkpoint.every == 0):
                training.require_finite()
                checkpoint.save(training.state())
        progress.close(training.describe())
        training.warn_of_divergence()
    history = {name: torch.as_tensor(values) for name, values in training.history.items()}
    return {**history, "seconds": torch.tensor(training.seconds(), dtype=torch.float64)}


def one_cycle(learning_rate: float, iterations: int) -> MakeSchedule:
    """The default schedule of `fit`."""
    return lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=iterations
    )


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
        self.learning_rate = learning_rate
        self.draws = generators(seeds, f"{stream}/batches")
        self.history: dict[str, list] = {"iteration": []}
        self.iteration, self.stopped = 0, False
        self.terms: dict[str, Tensor] = {}
        self._seconds_before, self._began = 0.0, time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether all iterations are done, or it was stopped."""
        return self.stopped or self.iteration == self.iterations

    def prepare(
        self,
        optimizer: MakeOptimizers | None,
        schedule: MakeSchedule | None,
        extra_state: Mapping[str, Stateful],
    ) -> None:
        """Make optimisers and schedules."""
        made = self._adam() if optimizer is None else optimizer(self.module)
        self.optimizers = [made] if isinstance(made, torch.optim.Optimizer) else list(made)
        make = one_cycle(self.learning_rate, self.iterations) if schedule is None else schedule
        self.schedules = [made for each in self.optimizers if (made := make(each)) is not None]
        self.extra_state = extra_state

    def _adam(self) -> torch.optim.Adam:
        """The default optimiser; of an ensemble, member by member."""
        members = len(self.draws)
        if all(parameter.dim() and len(parameter) == members for parameter in self.module.parameters()):
            return MemberAdam(self.module, members, self.learning_rate)
        return torch.optim.Adam(self.module.parameters(), lr=self.learning_rate, fused=True)

    def step(
        self,
        clip_norm: float | None,
        after_step: AfterStep | None,
        after_backward: AfterBackward | None = None,
    ) -> str:
        """One optimiser step; a line for the progress where the losses are recorded, else ''."""
        self.terms = self.loss(self.iteration, self.draws)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.terms["loss"].sum().backward()
        if after_backward is not None:
            after_backward()
        if clip_norm is not None:
            if self.terms["loss"].dim():
                clip_gradients_per_member(self.module, clip_norm)
            else:
                nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm)
        for stepped in (*self.optimizers, *self.schedules):
            stepped.step()
        self.iteration += 1
        if after_step is not None:
            self._record_evaluation(after_step(self.iteration))
        every = max(1, self.iterations // HISTORY_POINTS)
        if (self.iteration - 1) % every and self.iteration != self.iterations:
            return ""
        self.require_finite()
        self.history["iteration"].append(self.iteration)
        for name, term in self.terms.items():
            self.history.setdefault(name, []).append(_numbers(term))
        return self.describe()

    def _record_evaluation(self, found: Mapping[str, Tensor] | None) -> None:
        if not found:
            return
        self.history.setdefault("evaluation", []).append(self.iteration)
        for name, value in found.items():
            self.history.setdefault(name, []).append(_numbers(torch.as_tensor(value)))

    def require_finite(self) -> None:
        """Raise FloatingPointError where a loss of the last step is not finite."""
        bad = {name: term.tolist() for name, term in self.terms.items() if not torch.isfinite(term).all()}
        if bad:
            raise FloatingPointError(f"training {self.label}: not finite at step {self.iteration}: {bad}")

    def warn_of_divergence(self) -> None:
        """Say so where the loss ended far above where it began."""
        first, last = (sum(self.history["loss"][index]) for index in (0, -1))
        if last > DIVERGED * abs(first):
            log.warning(
                "%s: the loss rose from %.2e to %.2e: a lower --learning-rate may help",
                self.label,
                first,
                last,
            )

    def describe(self) -> str:
        """The last recorded losses, averaged over seeds, as `loss=1.2e-03 spectral=4.5e+00`."""
        last = {name: self.history[name][-1] for name in self.terms if self.history.get(name)}
        return " ".join(f"{name}={sum(values) / len(values):.2e}" for name, values in last.items())

    def seconds(self) -> float:
        """Time spent, over all sessions."""
        return self._seconds_before + time.monotonic() - self._began

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on to the bit."""
        return {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "extra": {name: value.state_dict() for name, value in self.extra_state.items()},
            "draws": [draw.get_state() for draw in self.draws],
            "history": self.history,
            "iteration": self.iteration,
            "iterations": self.iterations,
            "stopped": self.stopped,
            "seconds": self.seconds(),
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, if it holds a training like this one; what does not fit is begun anew."""
        saved = checkpoint.load()
        if saved is None:
            return
        length = saved.get("iterations")
        if isinstance(length, int) and length != self.iterations:
            raise ValueError(
                f"{self.label}: its checkpoint is of {length} iterations, not of {self.iterations};"
                " allowed: the same number, or another checkpoint"
            )
        before = copy_of(self.state())
        try:
            self.restore(saved)
        except Exception as error:  # a foreign or damaged payload can fail in any way
            checkpoint.warn(error)
            self.restore(before)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, in this process or an earlier one."""
        history, iteration, seconds = state["history"], int(state["iteration"]), float(state["seconds"])
        lengths = {len(values) for name, values in history.items() if name in ("iteration", "loss")}
        if len(lengths) != 1 or not 0 <= iteration <= self.iterations:
            raise ValueError("its history is of another training")
        self.module.load_state_dict(state["module"])
        for part, saved in zip(self.optimizers, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        for part, saved in zip(self.schedules, state["schedules"], strict=True):
            part.load_state_dict(saved)
        for name, value in self.extra_state.items():
            value.load_state_dict(state["extra"][name])
        for draw, saved in zip(self.draws, state["draws"], strict=True):
            draw.set_state(saved)
        self.history, self.iteration, self._seconds_before = history, iteration, seconds
        self.stopped = bool(state.get("stopped", False))


def _numbers(term: Tensor) -> list[float]:
    """A term's values as a list, one of a single module too."""
    return term.detach().reshape(-1).cpu().tolist()


def copy_of(state: Any) -> Any:
    """A deep copy of nested dictionaries and lists of tensors and plain values."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, Mapping):
        return {key: copy_of(value) for key, value in state.items()}
    return [copy_of(value) for value in state] if isinstance(state, (list, tuple)) else state


def clip_gradients_per_member(module: nn.Module, max_norm: float) -> None:
    """Scale each member's gradient to a norm of at most `max_norm`, in place; parameters are [S, ...]."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    squared = sum(gradient.reshape(len(gradient), -1).square().sum(1) for gradient in gradients)  # [S]
    scale = (max_norm / squared.sqrt().clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
