"""What the pair of trainings share: queries on their way, the optimiser, and what is watched meanwhile.

Shapes: S members, B queries, K demonstrations, L cells, P prefix positions, D width, N queries watched.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.config import Exp6Config
from common.recursion.average import WeightAverage
from common.recursion.puzzles.task import Batch
from common.recursion.training import TRAINING_FIELDS, SegmentRunner, member_adamw
from common.run.cache import Checkpoint
from common.run.run import Run, Training
from common.training.fit import Loss, Stateful, fit
from exp6_encoder_trm.contextual import MODEL_FIELDS, ContextTRM
from exp6_encoder_trm.dataset import Puzzles, Queries, make_setting, stack_queries
from exp6_encoder_trm.decision_tree import is_hopeless
from exp6_encoder_trm.diagnostics import context_statistics, is_collapsed
from exp6_encoder_trm.evaluate import SETS, answer, measure_setting
from exp6_encoder_trm.jobs import Variant

MakeTraining = Callable[[Puzzles, Mapping[str, Variant]], Training]

log = logging.getLogger(__name__)

FIELDS = (
    *MODEL_FIELDS, *TRAINING_FIELDS, "decay_from", "kl_weight", "eval_interval", "early_stop_exact",
    "early_stop_at",
)  # fmt: skip


class RunningQueries:
    """The queries that a carry works on, with their demonstrations, which are encoded anew at every step."""

    def __init__(self, puzzles: Puzzles, runner: SegmentRunner, config: Exp6Config, device: torch.device):
        self.puzzles, self.runner, self.device, self.count = puzzles, runner, device, config.batch_size
        self.now: Queries | None = None
        self.fresh: Tensor | None = None  # [S, B] bool: which came in last

    def refill(self, draws: Sequence[torch.Generator]) -> Queries:
        """Draw a batch, whose queries the halted rows get; all queries that now run [S, B, ..]."""
        drawn = stack_queries([self.puzzles.draw(self.count, draw) for draw in draws]).to(self.device)
        self.fresh = self.runner.carry.refill(Batch(drawn.inputs, drawn.labels, drawn.groups))
        before = drawn if self.now is None else self.now
        self.now = Queries(**{
            name: torch.where(self.fresh.view(*self.fresh.shape, *[1] * (new.dim() - 2)), new, old)
            for (name, new), old in zip(drawn.tensors().items(), before.tensors().values(), strict=True)
        })  # fmt: skip
        return self.now

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {} if self.now is None else self.now.tensors()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.now = Queries(**state).to(self.device) if state else None


# ----------------------------------------------------------------------------------------------
# Gradients
# ----------------------------------------------------------------------------------------------


class GradientWatch:
    """Gradient norms of encoder and TRM before clipping, averaged from one look to the next."""

    def __init__(self, model: ContextTRM, members: int, clip_norm: float):
        self.parts = {"trm": model.trm, "encoder": model.encoder}
        self.members, self.clip_norm = members, clip_norm
        self.sums, self.count = torch.zeros(3, members, dtype=torch.float64), 0

    def record(self) -> None:
        """After a backward pass: take the norms in."""
        trm, encoder = (gradient_norm(part, self.members) for part in self.parts.values())
        clipped = (trm.square() + encoder.square()).sqrt() > (self.clip_norm or torch.inf)
        self.sums += torch.stack([trm, encoder, clipped.double()]).cpu()
        self.count += 1

    def take(self) -> dict[str, Tensor]:
        """Means since the last look, each [S]: norms, their ratio, share of steps at which it was clipped."""
        trm, encoder, clipped = self.sums / max(1, self.count)
        self.sums, self.count = torch.zeros_like(self.sums), 0
        return {
            "trm_grad_norm": trm,
            "encoder_grad_norm": encoder,
            "grad_norm_ratio": encoder / trm.clamp(min=1e-12),
            "clip_fraction": clipped,
        }

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.sums, self.count = state["sums"], int(state["count"])


def gradient_norm(part: nn.Module | None, members: int) -> Tensor:
    """Norm of each member's gradient [S], 0 where there is none: no such part, or a frozen one."""
    found = [] if part is None else [value.grad for value in part.parameters() if value.grad is not None]
    squared = [gradient.reshape(members, -1).double().square().sum(1).cpu() for gradient in found]
    return torch.stack(squared).sum(0).sqrt() if squared else torch.zeros(members, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------
# The training
# ----------------------------------------------------------------------------------------------


def warm_up_and_decay(warmup: float, iterations: int, decay_from: float) -> Callable[[int], float]:
    """What the rates are multiplied by at a step: it rises over `warmup` steps, stays, and falls to 0."""
    begin = decay_from * iterations

    def factor(step: int) -> float:
        falling = (iterations - step) / max(1.0, iterations - begin)
        return max(0.0, min(1.0, (step + 1) / max(1.0, warmup), falling))

    return factor


def optimizers(model: ContextTRM, variant: Variant, config: Exp6Config) -> list[torch.optim.Optimizer]:
    """AdamW of the TRM, and of the encoder at a rate of its own."""
    members, rate = len(config.seeds), variant.lr_scale * config.learning_rate
    made = [member_adamw(model.trm, config, members)]
    if model.encoder is not None and list(model.encoder.parameters()):
        made.append(member_adamw(model.encoder, config, members))
    for optimizer, scale in zip(made, (1.0, variant.encoder_lr_scale), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = scale * rate
    return made


class Follower:
    """What happens beside the optimiser: average of weights, the table's steps, looks, an early end."""

    def __init__(self, model: ContextTRM, puzzles: Puzzles, variant: Variant, config: Exp6Config):
        members, device = len(config.seeds), next(model.parameters()).device
        self.model, self.variant, self.config = model, variant, config
        self.clip_norm = variant.grad_clip_norm or config.clip_norm
        self.average = WeightAverage(model, config.average_decay)
        self.gradients = GradientWatch(model, members, self.clip_norm)
        self.watched = puzzles.watched().to(device).for_members(members)
        self.table = model.trm.table if model.encoder is None else model.encoder.table
        warmup = variant.warmup_scale * config.warmup
        self.factor = warm_up_and_decay(warmup, config.iterations, config.decay_from)
        self.best = 0.0  # exact accuracy of the best member at the last look

    def after_step(self, iteration: int) -> Mapping[str, Tensor] | None:
        """Average, move the table; every `eval_interval` steps look at the averaged model."""
        config = self.config
        self.average.update()
        if self.table is not None:
            rate = self.factor(iteration - 1) * config.table_learning_rate
            self.table.update(rate, config.table_weight_decay)
        if iteration % config.eval_interval and iteration != config.iterations:
            return None
        with self.average.applied():
            found = look(self.model, self.watched, config)
        self.best = float(found["eval/exact_accuracy"].max())
        return found | self.gradients.take()

    def stop(self, iteration: int) -> bool:
        """Whether the training is hopeless, asked at each look."""
        if iteration % self.config.eval_interval or self.variant.patient:
            return False
        done = iteration / self.config.iterations
        return is_hopeless(self.best, done, self.config.early_stop_exact, self.config.early_stop_at)


def fit_contextual(
    model: ContextTRM,
    loss: Loss,
    puzzles: Puzzles,
    variant: Variant,
    config: Exp6Config,
    *,
    label: str,
    checkpoint: Checkpoint | None,
    extra_state: Mapping[str, Stateful],
) -> dict[str, Tensor]:
    """Train a model in place and leave the average of its weights in it; the history (see `fit`).

    Every `eval_interval` steps the averaged model is asked the training queries, and its contexts and
    gradients are looked at.
    """
    follower = Follower(model, puzzles, variant, config)
    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=config.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=puzzles.name,
        clip_norm=follower.clip_norm or None,
        checkpoint=checkpoint,
        optimizer=lambda _: optimizers(model, variant, config),
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, follower.factor),
        extra_state={"average": follower.average, "gradients": follower.gradients, **extra_state},
        after_step=follower.after_step,
        after_backward=follower.gradients.record,
        stop=follower.stop,
    )
    follower.average.apply()
    if model.encoder is not None and any(value.requires_grad for value in model.encoder.parameters()):
        warn_of_encoder(history, label)
    return history


@torch.no_grad()
def look(model: ContextTRM, watched: Queries, config: Exp6Config) -> dict[str, Tensor]:
    """Accuracy on the training queries, and statistics of their contexts, each [S]."""
    answers = answer(model, watched, config.segments)
    context = model.encode(watched).context
    return {
        "eval/accuracy": answers.accuracy[:, :, -1].mean(1),
        "eval/exact_accuracy": answers.exact[:, :, -1].double().mean(1),
        **context_statistics(context.flatten(2), watched.groups[0]),
    }


def warn_of_encoder(history: Mapping[str, Tensor], label: str) -> None:
    """Say so where an encoder got no gradient, or ended with one context for all tasks."""
    starved = (history["encoder_grad_norm"] == 0).any(0)
    for member in starved.nonzero().flatten().tolist():
        log.warning("%s: the encoder of member %d gets no gradient: is its context cached?", label, member)
    cosine, variance = history["context_cosine"][-1], history["context_cross_variance"][-1]
    for member in is_collapsed(cosine, variance).nonzero().flatten().tolist():
        log.warning(
            "%s: the encoder of member %d has collapsed: contexts of different tasks have cosine %.2f and"
            " variance %.4f", label, member, cosine[member], variance[member],
        )  # fmt: skip


# ----------------------------------------------------------------------------------------------
# On its own
# ----------------------------------------------------------------------------------------------


def train_alone(run: Run, variants: Mapping[str, Variant], training: MakeTraining) -> None:
    """Train some variants on every setting, and say how right they are."""
    for name, changes in run.config.plan():
        setting = make_setting(name, run.config)
        with run.having(**changes):
            models = run.train(training(setting, variants))
        for label, model in models.items():
            step = (measure_setting, f"{setting.name}/answers/{label}", setting, model)
            found = run.measure(*step, variants[label].context)
            said = [f"{part} {float(found[part][:, :, -1].double().mean()):.3f}" for part in SETS]
            log.info("%s/%s, exact: %s", setting.name, label, ", ".join(said))
