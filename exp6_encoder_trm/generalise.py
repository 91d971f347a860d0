"""Tasks never seen: what a table, a pooled encoder and unpooled demonstrations make of them.

Shapes: S seeds, E queries.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.config import Exp6Config, Exp6Family
from common.run.results import Results
from common.run.run import Run
from exp6_encoder_trm.dataset import Setting, copy_of_input, majority_of_demos, make_augmented_setting
from exp6_encoder_trm.evaluate import measure_family, unseen_sets
from exp6_encoder_trm.jobs import Variant
from exp6_encoder_trm.pretrain import table_trainings
from exp6_encoder_trm.pretrain_encoder import encoder_trainings
from exp6_encoder_trm.search import measure_search
from exp6_encoder_trm.synthetic import Generalisation, make_family

# Every one at the family's learning rate, clipped, and to its end.
MODELS = {
    "table": Variant(context="table", patient=True),
    "mean": Variant(context="standard", grad_clip_norm=1.0, patient=True),
    "tokens": Variant(context="tokens", grad_clip_norm=1.0, patient=True),
}


def run_family(run: Run, name: Exp6Family) -> None:
    """Train and measure every model on one family, and search on the contexts of `tokens`."""
    family = make_augmented_setting(run.config) if name == "arc" else make_family(name, run.config)
    source = family if isinstance(family, Setting) else family.train
    config = run.config
    changes = {"iterations": config.family_iterations, "learning_rate": config.family_learning_rate}
    with run.having(**changes):
        models = run.train(table_trainings(source, MODELS), encoder_trainings(source, MODELS))
        steps = [
            (measure_family, f"{name}/answers/{label}", family, model, MODELS[label].context)
            for label, model in models.items()
        ]
        steps.append((measure_search, f"{name}/search", family, models["tokens"]))
        found = dict(zip([*models, "tokens_search"], run.measure_all(steps), strict=True))
    record_family(run.results, family, found, config)


def record_family(
    results: Results,
    family: Generalisation | Setting,
    found: Mapping[str, Mapping[str, Tensor]],
    config: Exp6Config,
) -> None:
    """Exact accuracies, also of copying and of the majority, and what `tokens` and the search add."""
    queries, seeds = unseen_sets(family, config)["unseen"], len(results.seeds)
    controls = {"copy": copy_of_input(queries), "majority": majority_of_demos(queries)}
    plain = {
        label: (answers == queries.labels).all(1).expand(seeds, -1) for label, answers in controls.items()
    }
    for label, right in plain.items():
        results.add(f"{family.name}/{label}/unseen_exact", right.double().mean(1))
    for label, measured in found.items():
        prefix = f"{family.name}/{label}"
        results.add_rate(f"{prefix}/train_exact", measured["train"], enumerated=False)
        results.add_rate(f"{prefix}/unseen_exact", measured["unseen"], enumerated=False)
        for count in ("1", "2", "all"):
            if f"demos={count}" in measured:
                results.add_rate(f"{prefix}/demos={count}/exact", measured[f"demos={count}"], False)
        if "voted" in measured:
            results.add_rate(f"{prefix}_voted/unseen_exact", measured["voted"], enumerated=False)
            results.add_rate(f"{prefix}/unseen_pass_at_2", measured["pass_at_2"], enumerated=False)
        if "tuned" in measured:
            results.add_rate(f"{family.name}/tokens_tuned/unseen_exact", measured["tuned"], enumerated=False)
        if "swapped" in measured:
            results.add_rate(f"{prefix}/swapped_demos/exact", measured["swapped"], enumerated=False)
    record_differences(results, family.name, found, plain)


def record_differences(
    results: Results, name: str, found: Mapping[str, Mapping[str, Tensor]], plain: Mapping[str, Tensor]
) -> None:
    """What `tokens` and the search add on unseen tasks, query by query: to copying, to the better control,
    to another task's demonstrations, to the pooled encoder; and search, vote and tuning to `tokens`.
    """
    right = {label: measured["unseen"].double() for label, measured in found.items()}
    right |= {label: values.double() for label, values in plain.items()}
    right["controls"] = torch.maximum(right["copy"], right["majority"])
    right["swapped"] = found["tokens"]["swapped"].double()
    pairs = [(label, minus) for label in ("tokens", "tokens_search") for minus in ("copy", "controls")]
    for label, minus in (*pairs, ("tokens", "swapped"), ("tokens", "mean")):
        apart = right[label] - right[minus]
        results.add_difference(f"{name}/{label}_minus_{minus}/unseen_exact", apart, enumerated=False)
    more = {"search": right["tokens_search"], "voted": found["tokens"]["voted"].double()}
    if "tuned" in found["tokens_search"]:
        more["tuned"] = found["tokens_search"]["tuned"].double()
    for label, values in more.items():
        gained = values - right["tokens"]
        results.add_difference(f"{name}/{label}_minus_tokens/unseen_exact", gained, enumerated=False)
