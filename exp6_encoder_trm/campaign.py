"""The campaign: trainings that the decision tree asks for, one after another, and what is recorded of them.

Shapes: S seeds, E queries, K segments, F numbers of a context, L looks at a training.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from common.config import Exp6Config
from common.run.results import Results
from common.run.run import Run
from exp6_encoder_trm.contextual import ContextTRM
from exp6_encoder_trm.dataset import (
    Queries,
    Setting,
    by_task,
    ceiling_without_context,
    copy_of_input,
    majority_of_demos,
)
from exp6_encoder_trm.decision_tree import VERDICT_CODES, VERDICTS, Decision, decide
from exp6_encoder_trm.diagnostics import (
    measure_contexts,
    measure_encoder_gradient,
    measure_jacobians,
    principal_plane,
)
from exp6_encoder_trm.evaluate import measure_setting, query_sets
from exp6_encoder_trm.jobs import JOBS, hypothesis_held
from exp6_encoder_trm.pretrain import table_trainings
from exp6_encoder_trm.pretrain_encoder import encoder_trainings

log = logging.getLogger(__name__)

Models = dict[str, ContextTRM]
GRADIENT_TERMS = ("encoder_grad_norm", "trm_grad_norm", "grad_norm_ratio", "clip_fraction")
CONTEXT_TERMS = (
    "context_rms", "context_cross_variance", "context_within_variance", "context_cosine",
)  # fmt: skip
DOCUMENT_ENCODERS = ("E1", "E2", "E3", "E4", "E5", "E6", "E7")
SHOWN = 6  # training queries whose answers over segments are kept for a figure


def run_campaign(run: Run, setting: Setting) -> Models:
    """Train and measure what the tree and the configuration ask for; the models by job."""
    models: Models = {}
    right: dict[str, Tensor] = {}  # training queries answered, [S, E], by job
    exact: dict[str, Tensor] = {}  # their share, [S]
    while names := next_jobs(exact, run.config):
        variants = {name: JOBS[name].changes for name in names}
        trained = run.train(table_trainings(setting, variants), encoder_trainings(setting, variants))
        steps = [
            (measure_setting, f"{setting.name}/answers/{name}", setting, model, variants[name].context)
            for name, model in trained.items()
        ]
        for name, measured in zip(trained, run.measure_all(steps), strict=True):
            right[name] = measured["train"][:, :, -1].double()
            exact[name] = right[name].mean(1)
            record_answers(run.results, setting, name, measured)
        models |= trained
    record_decisions(run.results, setting, exact, run.config)
    record_differences(run.results, setting, right)
    if "E_diag2" in run.config.jobs:
        record_gradient_question(run.results, setting)
    record_controls(run.results, setting)
    record_contexts(run, setting, models)
    return models


def next_jobs(exact: Mapping[str, Tensor], config: Exp6Config) -> list[str]:
    """Jobs not done that the configuration asks for, or the tree of a seed or of the mean over seeds."""
    asked = {JOBS[name].same_as or name for name in config.jobs}
    for decision in decisions(exact, config):
        asked |= {*decision.needs}
    return [name for name in JOBS if name in asked and name not in exact]


def decisions(exact: Mapping[str, Tensor], config: Exp6Config) -> list[Decision]:
    """Of each seed, and of the mean over seeds."""
    seeds = [
        {name: float(values[seed]) for name, values in exact.items()} for seed in range(len(config.seeds))
    ]
    mean = {name: float(values.mean()) for name, values in exact.items()}
    return [decide(values, config.phase_order) for values in (*seeds, mean)]


# ----------------------------------------------------------------------------------------------
# What is recorded
# ----------------------------------------------------------------------------------------------


def record_answers(results: Results, setting: Setting, name: str, measured: Mapping[str, Tensor]) -> None:
    """Accuracies of one job, what its training was like, and some answers."""
    prefix = f"{setting.name}/{name}"
    sets = query_sets(setting)
    for part, queries in sets.items():
        right = counted(setting, part, queries, measured[part][:, :, -1])
        results.add_rate(f"{prefix}/{part}_exact", right, enumerated=part == "train")
    results.add_rate(f"{prefix}/exact_at_halt", measured["train_at_halt"], enumerated=True)
    results.add_rate(f"{prefix}/exact_segment_1", measured["train"][:, :, 0], enumerated=True)
    results.add(f"{prefix}/accuracy", measured["train_accuracy"][:, :, -1].double().mean(1), "share of cells")
    of_two = counted(setting, "unseen", sets["unseen"], measured["unseen_pass_at_2"])
    results.add_rate(f"{prefix}/unseen_pass_at_2", of_two, enumerated=False)
    for count in ("1", "2", "all"):
        if f"demos={count}" in measured:
            results.add_rate(f"{prefix}/demos={count}/exact", measured[f"demos={count}"], enumerated=True)
    if "swapped" in measured:
        results.add_rate(f"{prefix}/swapped_demos/exact", measured["swapped"], enumerated=True)
    for term in GRADIENT_TERMS:
        history = results.arrays[f"{prefix}/history/{term}"]  # [L, S]
        results.add(f"{prefix}/{term}", history.mean(0), "mean over the training")
    steps = results.arrays[f"{prefix}/history/evaluation"][-1]
    results.add(f"{prefix}/steps_trained", [steps] * len(results.seeds), "steps")
    results.add_array(f"{prefix}/answers", measured["answers"][:1, :: _every(measured)][:, :SHOWN])


def counted(setting: Setting, part: str, queries: Queries, right: Tensor) -> Tensor:
    """What an interval is taken over: [S, E] -> all training queries as they are; else means of tasks, which
    were drawn and whose queries share their demonstrations.
    """
    if part == "train":
        return right
    groups = setting.train if part == "new_queries" else setting.unseen
    return by_task(right, queries.groups, groups.names)


def _every(measured: Mapping[str, Tensor]) -> int:
    """A stride through the training queries that shows some of them."""
    return max(1, measured["answers"].shape[1] // SHOWN)


def record_decisions(
    results: Results, setting: Setting, exact: Mapping[str, Tensor], config: Exp6Config
) -> None:
    """The verdict of each seed, and whether each hypothesis held."""
    *seeds, mean = decisions(exact, config)
    log.info("%s, mean over seeds:\n%s", setting.name, mean.explain())
    path = "; ".join(mean.explain().splitlines())
    verdicts = [VERDICTS[one.verdict] for one in seeds]
    results.add(f"{setting.name}/verdict", verdicts, f"{VERDICT_CODES}. By the means over seeds: {path}")
    record_best(results, setting, exact)
    shares = {name: values / exact["E0"].clamp(min=1e-12) for name, values in exact.items()}
    for name, share in shares.items():
        results.add(f"{setting.name}/{name}/share_of_table", share, "of E0's train exact")
        job = JOBS[name]
        other = shares[job.over] if job.over else torch.full_like(share, -1.0)
        columns = (share.tolist(), exact["E0"].tolist(), other.tolist())
        held = [hypothesis_held(job, *values) for values in zip(*columns, strict=True)]
        results.add(f"{setting.name}/{name}/hypothesis_held", held, "1 held, 0 did not")


def record_differences(results: Results, setting: Setting, right: Mapping[str, Tensor]) -> None:
    """Training queries that a job answers more than E1, and than a frozen encoder: intervals over seeds.

    Metrics {setting}/{E}_minus_{E1,E_diag1}/train_exact, and of the best encoder of the document.
    """
    encoders = [name for name in right if JOBS[name].changes.context not in ("table", "identity", "zero")]
    for base in ("E1", "E_diag1"):
        for name in encoders if base in right else ():
            if name != base:
                metric = f"{setting.name}/{name}_minus_{base}/train_exact"
                results.add_difference(metric, right[name] - right[base], enumerated=True)
    best = best_encoder(right)
    if best and "E_diag1" in right:
        metric = f"{setting.name}/best_encoder_minus_E_diag1/train_exact"
        results.add_difference(metric, right[best] - right["E_diag1"], enumerated=True)


def record_gradient_question(results: Results, setting: Setting) -> None:
    """E_diag2: E1's gradient norms, and whether they are of one size."""
    job, prefix = JOBS["E_diag2"], f"{setting.name}/E_diag2"
    for term in GRADIENT_TERMS:
        values = results.metrics[f"{setting.name}/{job.same_as}/{term}"]["values"]
        results.add(f"{prefix}/{term}", values, "mean over the training")
    ratios = results.metrics[f"{prefix}/grad_norm_ratio"]["values"]
    table = results.metrics[f"{setting.name}/E0/train_exact"]["values"]
    held = [hypothesis_held(job, *pair) for pair in zip(ratios, table, strict=True)]
    results.add(f"{prefix}/hypothesis_held", held, "1 held, 0 did not")


def best_encoder(right: Mapping[str, Tensor]) -> str | None:
    """The document's encoder with the largest mean; None where none was run."""
    found = [name for name in DOCUMENT_ENCODERS if name in right]
    return max(found, key=lambda name: float(right[name].mean()), default=None)


def record_best(results: Results, setting: Setting, exact: Mapping[str, Tensor]) -> None:
    """The document's encoder, E1 to E7, with the largest mean; it is chosen by what is reported here."""
    if best := best_encoder(exact):
        results.add(f"{setting.name}/best_encoder/train_exact", exact[best], f"exact; {best}")
        share = exact[best] / exact["E0"].clamp(min=1e-12)
        results.add(f"{setting.name}/best_encoder/share_of_table", share, f"of E0's train exact; {best}")


def record_controls(results: Results, setting: Setting) -> None:
    """What needs no model: copying, the demonstrations' majority, the best answer without a context."""
    for part, queries in query_sets(setting).items():
        for label, answers in (("copy", copy_of_input(queries)), ("majority", majority_of_demos(queries))):
            right = (answers == queries.labels).all(1)[None].double()
            rate = float(counted(setting, part, queries, right).mean())
            results.add(f"{setting.name}/{label}/{part}_exact", [rate] * len(results.seeds))
    ceiling = ceiling_without_context(setting.watched())
    results.add(f"{setting.name}/without_context/train_ceiling", [ceiling] * len(results.seeds))
    shown = setting.watched()
    stride = max(1, len(shown) // SHOWN)
    for name in ("inputs", "labels", "demos", "shown"):
        results.add_array(f"{setting.name}/queries/{name}", getattr(shown, name)[::stride][:SHOWN])


def record_contexts(run: Run, setting: Setting, models: Models) -> None:
    """Statistics of every job's contexts; a plane through those of the first seed."""
    names = [name for name in models if JOBS[name].changes.context != "zero"]
    steps = [(measure_contexts, f"{setting.name}/contexts/{name}", setting, models[name]) for name in names]
    for name, measured in zip(names, run.measure_all(steps), strict=True):
        prefix = f"{setting.name}/{name}"
        for term in (*CONTEXT_TERMS, "augmented_variance"):
            run.results.add(f"{prefix}/{term}", measured[term])
        (plane,) = principal_plane([measured["means"][0]])
        run.results.add_array(f"{prefix}/plane", plane)
        run.results.add_array(f"{prefix}/context_values", _sample(measured["means"][0]))


def _sample(means: Tensor, count: int = 2000) -> Tensor:
    """Numbers of the contexts, for a histogram: evenly spaced among all."""
    flat = means.flatten()
    return flat[:: max(1, len(flat) // count)]


def measure_recursion(run: Run, setting: Setting, models: Models) -> None:
    """Jacobians of the recursion over cycles, and the encoder's gradient over cycles followed back."""
    names = [name for name in ("E1", "E0", "tokens") if name in models]
    steps = [(measure_jacobians, f"{setting.name}/jacobians/{name}", setting, models[name]) for name in names]
    for name, measured in zip(names, run.measure_all(steps), strict=True):
        place = "recursion" if name == "E1" else f"{name}/recursion"
        for kind, values in measured.items():
            for cycles, value in zip(run.config.jacobian_cycles, values.unbind(1), strict=True):
                metric = f"{setting.name}/{place}/log10_jacobian_{kind}/T={cycles}"
                run.results.add(metric, value, "log10 of norm / sqrt(columns)")
    encoders = [name for name, model in models.items() if has_parameters(model)]
    gradients = [
        (measure_encoder_gradient, f"{setting.name}/gradient/{name}", setting, models[name])
        for name in encoders
    ]
    for name, measured in zip(encoders, run.measure_all(gradients), strict=True):
        for cycles, value in zip(run.config.gradient_cycles, measured["norm"].unbind(1), strict=True):
            run.results.add(f"{setting.name}/{name}/gradient_cycles={cycles}", value, "norm")
        growth = measured["norm"][:, -1] / measured["norm"][:, 0].clamp(min=1e-12)
        run.results.add(f"{setting.name}/{name}/gradient_growth", growth, "last norm / first")


def has_parameters(model: ContextTRM) -> bool:
    """Whether an encoder can learn."""
    return model.encoder is not None and bool(list(model.encoder.parameters()))
