"""Does the gradient explode, and does clipping help? The encoder trained through 1, 2, 4, 8 cycles.

The founding document's E5 supposes that gradients through the encoder explode. A segment's gradient follows
its last cycle alone, which hides how they grow; here it is followed further.
"""

from collections.abc import Mapping
from dataclasses import replace

from common.config import Exp6Config
from common.run.run import Run
from exp6_encoder_trm.dataset import Setting
from exp6_encoder_trm.evaluate import measure_setting
from exp6_encoder_trm.jobs import JOBS, Variant
from exp6_encoder_trm.pretrain_encoder import encoder_trainings

TERMS = ("encoder_grad_norm", "trm_grad_norm", "clip_fraction")


def study_variants(config: Exp6Config) -> Mapping[str, Variant]:
    """E1 and the clipped E5, with the gradient followed through so many cycles."""
    return {
        f"{name}_through_{cycles}": replace(JOBS[name].changes, gradient=cycles, patient=True)
        for name in ("E1", "E5")
        for cycles in config.gradient_cycles
    }


def run_gradient_study(run: Run, setting: Setting) -> None:
    """Train on a segment of as many cycles as are followed at most, one segment a query."""
    variants = study_variants(run.config)
    with run.having(cycles_high=max(run.config.gradient_cycles), segments=1):
        models = run.train(encoder_trainings(setting, variants))
        steps = [
            (measure_setting, f"{setting.name}/answers/{name}", setting, model, variants[name].context)
            for name, model in models.items()
        ]
        found = run.measure_all(steps)
    right = {name: measured["train"][:, :, -1] for name, measured in zip(models, found, strict=True)}
    for cycles in run.config.gradient_cycles:
        clipped, plain = (right[f"{name}_through_{cycles}"].double() for name in ("E5", "E1"))
        metric = f"{setting.name}/clipping_through_{cycles}/train_exact"
        run.results.add_difference(metric, clipped - plain, enumerated=True)
    for name in models:
        prefix = f"{setting.name}/{name}"
        run.results.add_rate(f"{prefix}/train_exact", right[name], enumerated=True)
        for term in TERMS:
            run.results.add(f"{prefix}/{term}", run.results.arrays[f"{prefix}/history/{term}"].mean(0))
