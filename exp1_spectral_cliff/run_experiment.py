"""Experiment 1, spectral cliff: the rollout Jacobian's norm over the horizon, flat against HELM.

    python run_experiment.py                      quick preset, minutes on a laptop
    python run_experiment.py --preset full        three seeds, three systems: what the README reports
    python run_experiment.py --parts evaluations  planning at equal budgets alone

writes results/results.json, results/arrays.npz and plots/*.png; --help lists every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP1_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP1_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from torch import nn

from common.run.run import Experiment, Run, main
from exp1_spectral_cliff.analyze_spectrum import (
    measure_gradient_agreement,
    measure_lyapunov,
    measure_mollified,
    measure_spectrum,
    record_ablation,
    record_gradient_agreement,
    record_growth,
    record_linear,
    record_mollified,
    record_rollouts,
    record_spectrum,
    sample_rollouts,
    variant_names,
)
from exp1_spectral_cliff.criteria import CRITERIA
from exp1_spectral_cliff.dataset import (
    LinearSystem,
    System,
    Trajectories,
    evaluation_trajectories,
    make_system,
    memory_needed,
    training_trajectories,
)
from exp1_spectral_cliff.equal_evaluations import compare_at_equal_evaluations
from exp1_spectral_cliff.evaluate_planning import compare_planners
from exp1_spectral_cliff.figures import draw_figures
from exp1_spectral_cliff.train_flat import flat_trainings
from exp1_spectral_cliff.train_helm import helm_trainings
from exp1_spectral_cliff.validated_switch import compare_switches


def compute(run: Run) -> None:
    """Train and measure every system of the configuration."""
    config, cliff = run.config, "cliff" in run.config.parts
    for system in map(make_system, config.systems):
        if isinstance(system, LinearSystem) and not cliff:
            continue
        data = training_trajectories(system, config)
        models = run.train(flat_trainings(system, data, config), helm_trainings(system, data, config))
        if cliff:
            analyse(run, system, models)
        if isinstance(system, LinearSystem):
            continue
        if "switch" in config.parts:
            compare_switches(run, system, models)
        if "evaluations" in config.parts:
            compare_at_equal_evaluations(run, system, models)


def analyse(run: Run, system: System, models: dict[str, nn.Module]) -> None:
    """The part `cliff`."""
    evaluation = evaluation_trajectories(system, run.config)
    analyse_spectrum(run, system, models, evaluation)
    if isinstance(system, LinearSystem):
        record_linear(run.results, system, run.config)
        return
    analyse_smoothing(run, system, models, evaluation)
    compare_planners(run, system, models)


def analyse_spectrum(run: Run, system: System, models: dict[str, nn.Module], data: Trajectories) -> None:
    """Norms and errors of every variant, beside the true growth rate."""
    names = variant_names(models)
    steps = [
        (measure_spectrum, f"{system.name}/spectrum/{name}", system, models, name, data) for name in names
    ]
    spectra = dict(zip(names, run.measure_all(steps), strict=True))
    for name, found in spectra.items():
        record_spectrum(run.results, system, name, found, run.config.horizons)
    lyapunov = run.measure(measure_lyapunov, f"{system.name}/lyapunov", system, data)
    record_growth(run.results, system, spectra, lyapunov["lyapunov_exponent"], run.config.horizons)


def analyse_smoothing(run: Run, system: System, models: dict[str, nn.Module], data: Trajectories) -> None:
    """What smoothing explains: the mollified true system, gradients that hold, rollouts on the attractor."""
    record_ablation(run.results, system, run.config.horizons)
    if run.config.hf_noise_sigma > 0:
        mollified = run.measure(measure_mollified, f"{system.name}/mollified", system, data)
        record_mollified(run.results, system, mollified, run.config.horizons)
    cosines = run.measure(measure_gradient_agreement, f"{system.name}/gradients", system, models, data)
    record_gradient_agreement(run.results, system, cosines, run.config.gradient_horizons)
    rollouts = run.measure(sample_rollouts, f"{system.name}/rollouts", system, models, data)
    record_rollouts(run.results, system, rollouts)


EXPERIMENT = Experiment(
    "exp1_spectral_cliff", Path(__file__).parent, EXP1_PRESETS, compute, draw_figures, CRITERIA,
    memory=memory_needed,
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
