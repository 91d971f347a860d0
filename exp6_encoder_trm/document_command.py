"""The founding document's command lines, read as settings and a variant of this experiment.

    python pretrain.py max_train_groups=32 epochs=700 +run_name="E0"
    python pretrain_encoder.py arch.freeze_encoder=true +run_name="E_diag1_frozen_encoder"
    python pretrain_encoder.py arch.encoder_type=lpn_standard +run_name="E2_lpn"
    python pretrain_encoder.py arch.encoder_pooling_method=attention lr=3e-5 grad_clip_norm=1.0

Every flag of run_experiment.py works beside the pairs: `--preset published` has the document's sizes. Keys:

    lr, lr_warmup_steps, weight_decay, grad_clip_norm, encoder_lr_scale (0: one rate for all), ema_rate,
    puzzle_emb_lr, puzzle_emb_weight_decay, global_batch_size, seed
    epochs, eval_interval       passes through the training groups
    max_train_groups, max_eval_groups, max_demos, data_path
    arch.hidden_size, arch.num_heads, arch.L_layers, arch.H_cycles, arch.L_cycles, arch.puzzle_emb_len,
    arch.halt_max_steps, arch.halt_exploration_prob
    arch.encoder_type           standard, lpn_standard, lpn_variational, tokens, identity, zero
    arch.encoder_pooling_method of the standard encoder: mean, attention, cls
    arch.freeze_encoder         true, false
    +run_name, +project_name    what the training is called
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.config import EXP6_PRESETS, Exp6Config
from common.run.command_line import ConfigError, exit_with_error, prepare_process, read_flags, show
from common.run.key_values import boolean, flags_of, number, refuse_unknown, split_pairs
from exp6_encoder_trm.jobs import JOBS, PHASES, Context, Variant

FIELDS = {
    "lr": "learning_rate",
    "lr_warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "grad_clip_norm": "clip_norm",
    "ema_rate": "average_decay",
    "puzzle_emb_lr": "table_learning_rate",
    "puzzle_emb_weight_decay": "table_weight_decay",
    "global_batch_size": "batch_size",
    "seed": "seeds",
    "max_eval_groups": "most_unseen",
    "max_demos": "most_demos",
    "data_path": "data_dir",
    "arch.hidden_size": "width",
    "arch.num_heads": "heads",
    "arch.L_layers": "layers",
    "arch.H_cycles": "cycles_high",
    "arch.L_cycles": "cycles_low",
    "arch.puzzle_emb_len": "context_tokens",
    "arch.halt_max_steps": "segments",
    "arch.halt_exploration_prob": "exploration",
}
COUNTED = ("epochs", "eval_interval", "max_train_groups")
NAMES = ("run_name", "project_name")
OF_ENCODERS = ("arch.encoder_type", "arch.encoder_pooling_method", "arch.freeze_encoder", "encoder_lr_scale")
TYPES: tuple[Context, ...] = (
    "standard", "lpn_standard", "lpn_variational", "tokens", "identity", "zero",
)  # fmt: skip
POOLINGS: Mapping[str, Context] = {"mean": "standard", "attention": "attention", "cls": "cls"}


@dataclass(frozen=True)
class Command:
    """What a command line asks for."""

    config: Exp6Config
    variants: Mapping[str, Variant]  # by the training's name


def parse_command(description: str, encoder: bool) -> Command:
    """This process's command; a bad one ends it: one line on stderr, exit code 2.

    Args:
        description: of the script, for --help.
        encoder: whether the script trains encoders.
    """
    prepare_process()
    args = sys.argv[1:]
    if {"-h", "--help"} & set(args):
        raise SystemExit(show(description, __doc__))
    try:
        return read_command(args, encoder)
    except ConfigError as error:
        exit_with_error(str(error))


def read_command(args: Sequence[str], encoder: bool) -> Command:
    """The configuration, and the variant that pairs ask for; without pairs run_experiment.py's own variants.

    Raises:
        ConfigError: an unknown key or flag, or a bad value.
    """
    pairs, flags = split_pairs(args)
    refuse_unknown(pairs, {*FIELDS, *COUNTED, *NAMES, *(OF_ENCODERS if encoder else ())})
    config = _counted(pairs, read_flags(EXP6_PRESETS, [*flags, *flags_of(pairs, FIELDS)]))
    if not pairs:
        return Command(config, standard_variants(config, encoder))
    named = [pairs[name].strip("\"'") for name in reversed(NAMES) if name in pairs]
    variant = _encoder_variant(pairs) if encoder else JOBS["E0"].changes
    return Command(config, {"-".join(named) or ("E1" if encoder else "E0"): variant})


def standard_variants(config: Exp6Config, encoder: bool) -> dict[str, Variant]:
    """What run_experiment.py begins with: the overfit phase and the configuration's further jobs."""
    names = [name for name in JOBS if name in (*PHASES["overfit"], *config.jobs)]
    variants = {name: JOBS[name].changes for name in names}
    return {name: variant for name, variant in variants.items() if (variant.context != "table") == encoder}


def _counted(pairs: Mapping[str, str], config: Exp6Config) -> Exp6Config:
    """Groups, and epochs as optimiser steps."""
    if "max_train_groups" in pairs:
        groups = round(number("max_train_groups", pairs["max_train_groups"]))
        tasks = max(2, groups // config.recolourings)
        config = replace(config, plain_groups=groups, recoloured_tasks=tasks)
    plain = config.settings[:1] == ("plain",)
    groups = config.plain_groups if plain else config.recoloured_tasks * config.recolourings
    for key, name in (("epochs", "iterations"), ("eval_interval", "eval_interval")):
        if key in pairs:
            steps = math.ceil(number(key, pairs[key]) * groups / config.batch_size)
            config = replace(config, plain_iterations=0, **{name: steps})
    return config


def _encoder_variant(pairs: Mapping[str, str]) -> Variant:
    kind = _one_of(pairs, "arch.encoder_type", TYPES)
    pooling = _one_of(pairs, "arch.encoder_pooling_method", tuple(POOLINGS))
    if kind != "standard" and pooling != "mean":
        raise ConfigError(f"arch.encoder_pooling_method = {pooling!r}: allowed: with the standard encoder")
    scale = pairs.get("encoder_lr_scale", "0")
    return Variant(
        context=POOLINGS[pooling] if kind == "standard" else kind,
        freeze_encoder=boolean("arch.freeze_encoder", pairs.get("arch.freeze_encoder", "false")),
        encoder_lr_scale=1.0 if scale in ("0", "0.0") else number("encoder_lr_scale", scale),
    )


def _one_of(pairs: Mapping[str, str], key: str, allowed: Sequence[str]) -> str:
    """A key's value, by default the first one allowed."""
    value = pairs.get(key, allowed[0])
    if value not in allowed:
        raise ConfigError(f"{key} = {value!r}: allowed: {', '.join(allowed)}")
    return value
