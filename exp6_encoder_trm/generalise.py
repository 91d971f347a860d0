"""Tasks never seen: what a table, a pooled encoder and unpooled demonstrations make of them.

Shapes: S seeds, E queries.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.config import Exp6Config, Exp6Family
from common.run.results import Results
from common.run.run import Run
from exp6_encoder_trm.dataset import (
    Queries,
    Setting,
    by_task,
    copy_of_input,
    majority_of_demos,
    make_augmented_setting,
)
from exp6_encoder_trm.evaluate import measure_family, unseen_sets
from exp6_encoder_trm.jobs import Variant
from exp6_encoder_trm.pretrain import table_trainings
from exp6_encoder_trm.pretrain_encoder import encoder_trainings
from exp6_encoder_trm.search import measure_search
from exp6_encoder_trm.synthetic import Generalisation, answered_by, make_family

# Every one at the family's learning rate and to its end; encoders clipped. None is tuned.
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
    """Exact accuracies, also of what knows no rule, and what `tokens` and the search add.

    Every value is a task's, the mean over its queries: intervals are over seeds and tasks.
    """
    queries, seeds = unseen_sets(family, config)["unseen"], len(results.seeds)
    names = family.unseen.names if isinstance(family, Setting) else None

    def tasks(right: Tensor) -> Tensor:
        return by_task(right, queries.groups, names)

    plain = {
        label: tasks(right.expand(seeds, -1)) for label, right in right_without_model(family, queries).items()
    }
    for label, right in plain.items():
        results.add(f"{family.name}/{label}/unseen_exact", right.mean(1))
    unseen = {name: {what: tasks(values) for what, values in measured.items() if what != "train"}
              for name, measured in found.items()}  # fmt: skip
    for label, measured in unseen.items():
        prefix = f"{family.name}/{label}"
        results.add(f"{prefix}/train_exact", found[label]["train"].double().mean(1))
        metrics = {f"{prefix}/unseen_exact": "unseen", f"{prefix}_voted/unseen_exact": "voted",
                   f"{prefix}/unseen_pass_at_2": "pass_at_2", f"{prefix}/swapped_demos/exact": "swapped",
                   f"{family.name}/tokens_tuned/unseen_exact": "tuned"}  # fmt: skip
        metrics |= {f"{prefix}/demos={count}/exact": f"demos={count}" for count in ("1", "2", "all")}
        for metric, what in metrics.items():
            if what in measured:
                results.add_rate(metric, measured[what], enumerated=False)
    record_differences(results, family.name, unseen, plain)


def right_without_model(family: Generalisation | Setting, queries: Queries) -> dict[str, Tensor]:
    """Whether copying, the demonstrations' majority, a rule that was trained on answer: [E] bool each."""
    answers = {"copy": copy_of_input(queries), "majority": majority_of_demos(queries)}
    right = {label: (given == queries.labels).all(1) for label, given in answers.items()}
    if not isinstance(family, Setting):
        right["trained_rules"] = answered_by(family.train.rules, queries, family.train.side)
    return right


def record_differences(
    results: Results, name: str, found: Mapping[str, Mapping[str, Tensor]], plain: Mapping[str, Tensor]
) -> None:
    """What `tokens` and the search add on unseen tasks, task by task: to copying, to the best that knows no
    rule, to another task's demonstrations, to the pooled encoder; and search, vote and tuning to `tokens`.
    """
    right = {label: measured["unseen"] for label, measured in found.items()} | dict(plain)
    right["controls"] = torch.stack([*plain.values()]).amax(0)
    right["swapped"] = found["tokens"]["swapped"]
    pairs = [(label, minus) for label in ("tokens", "tokens_search") for minus in ("copy", "controls")]
    for label, minus in (*pairs, ("tokens", "swapped"), ("tokens", "mean")):
        apart = right[label] - right[minus]
        results.add_difference(f"{name}/{label}_minus_{minus}/unseen_exact", apart, enumerated=False)
    more = {"search": right["tokens_search"], "voted": found["tokens"]["voted"]}
    if "tuned" in found["tokens_search"]:
        more["tuned"] = found["tokens_search"]["tuned"]
    for label, values in more.items():
        gained = values - right["tokens"]
        results.add_difference(f"{name}/{label}_minus_tokens/unseen_exact", gained, enumerated=False)
