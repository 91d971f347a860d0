"""Train TRM with an encoder of the demonstrations in the place of the table.

    python pretrain_encoder.py [--preset full] ...
    python pretrain_encoder.py arch.encoder_pooling_method=attention lr=3e-5 grad_clip_norm=1.0 +run_name="E6"

The first form trains what run_experiment.py would and leaves it where run_experiment.py finds it; the second
is the founding document's (see document_command.py).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp6_encoder_trm.document_command import parse_command

COMMAND = parse_command(__doc__, encoder=True) if __name__ == "__main__" else None  # before torch

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from common.config import EXP6_PRESETS, Exp6Config
from common.recursion.training import SegmentRunner
from common.run.cache import Checkpoint, reads_settings
from common.run.random import generators
from common.run.run import Experiment, Training, main_training
from exp6_encoder_trm.contextual import ContextTRM, make_model
from exp6_encoder_trm.dataset import Puzzles, check_data
from exp6_encoder_trm.jobs import Variant
from exp6_encoder_trm.training import FIELDS, RunningQueries, fit_contextual, train_alone


@reads_settings(*FIELDS)
def pretrain_encoder(
    puzzles: Puzzles,
    *,
    variant: Variant,
    config: Exp6Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "E1",
) -> tuple[ContextTRM, dict[str, Tensor]]:
    """Cross-entropy + halting / 2 + kl_weight KL, with what the encoder says as prefix.

    Args:
        puzzles: what is trained on.
        variant: encoder, rates, clipping, gradient. Variants share TRM's initial weights and the batches,
            the table's as well.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the averaged ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_model(puzzles.canvas, variant, puzzles.group_count, config).to(device)
    runner = SegmentRunner(model.trm, config)
    running = RunningQueries(puzzles, runner, config, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        queries = running.refill(draws)
        encoded = model.encode(queries, generators(config.seeds, f"{puzzles.name}/noise/{iteration}"))
        injected = model.inject(queries.inputs, encoded.context)
        segment = runner.run(draws, injected=injected, gradient=variant.gradient)
        lm_loss, q_loss = segment.lm_loss.mean(1), segment.q_loss.mean(1)
        kl = torch.zeros_like(lm_loss) if encoded.kl is None else encoded.kl
        return {
            "loss": lm_loss + 0.5 * q_loss + config.kl_weight * kl,
            "train/kl": kl,
            **runner.counts(segment),
        }

    history = fit_contextual(
        model, loss, puzzles, variant, config, label=label, checkpoint=checkpoint,
        extra_state={**runner.extra_state, "queries": running},
    )  # fmt: skip
    return model, history


def encoder_trainings(puzzles: Puzzles, variants: Mapping[str, Variant]) -> Training:
    """Those of the variants that have an encoder."""
    chosen = {name: variant for name, variant in variants.items() if variant.context != "table"}
    return Training(pretrain_encoder, puzzles.name, (puzzles,), chosen, longest=("tokens", "mean"))


if __name__ == "__main__":
    compute = partial(train_alone, variants=COMMAND.variants, training=encoder_trainings)
    alone = Experiment("exp6_encoder_trm", Path(__file__).parent, EXP6_PRESETS, compute, check=check_data)
    raise SystemExit(main_training(alone, COMMAND.config))
