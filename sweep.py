"""Run an experiment over settings and seeds, side by side, on this machine or on a Ray cluster.

    pip install -r requirements-sweep.txt
    python sweep.py exp1_spectral_cliff --vary lambda-spectral 0.01 0.03 0.1 --vary seeds 0 1 2 3 \\
        --metric lorenz/spectral/log10_jacobian_state/T=100
    python sweep.py exp1_spectral_cliff --vary lambda-spectral 1e-4:1e-1:log --vary seeds 0 1 \\
        --metric lorenz/spectral/nrmse/T=20 --search optuna --samples 20

Every flag of the experiment's run_experiment.py may follow, for all trials. Several --vary make a grid;
seeds are taken together, not compared. It writes sweep.json, sweep.csv and sweep.png to sweeps/NAME/, and
each trial to sweeps/NAME/trials/. The same command goes on where it was killed, and runs no finished trial
again. Trials share the experiment's cache, so what they have in common is trained once.

A failed trial does not stop the others and makes the exit code 1. Bad input ends with code 2, Ctrl-C with 130
and SIGTERM with 143.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from common.run.command_line import (
    ConfigError,
    exit_with_error,
    prepare_process,
    reject,
    say,
    show,
)
from common.run.signals import Terminated, stoppable

if TYPE_CHECKING:
    from common.run.run import Experiment
    from common.sweeps.plan import Plan
    from common.sweeps.sweep import Request

ROOT = Path(__file__).resolve().parent


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with_error(message)


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own flags, and the experiment's; a bad one ends with one line on stderr and code 2."""
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(description=__doc__, formatter_class=form, allow_abbrev=False)
    add = parser.add_argument
    add("experiment", help="such as exp1_spectral_cliff; its own flags: EXPERIMENT/run_experiment.py --help")
    add(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar=("FIELD", "VALUE"),
        help="a field and its values; one value of several numbers in quotes; with --search LOW:HIGH[:log]",
    )
    add("--metric", help="the metric of results.json that is compared")
    add("--mode", choices=("min", "max"), default="min", help="what is better (default: min)")
    add("--name", help="of the sweep (default: the experiment and what is varied)")
    add("--sweeps-dir", type=Path, default=ROOT / "sweeps", help="folder of all sweeps (default: sweeps/)")
    add("--list", action="store_true", help="print the trials and stop")
    add("--figures", action="store_true", help="draw the experiment's figures of each trial too")
    add("--workers", type=int, help="trials at a time (default: half the cores; on a cluster what it takes)")
    add("--threads", type=int, help="cores for each trial (default: cores / workers; on a cluster 1)")
    add("--gpus-per-trial", type=float, default=0.0, help="such as 0.25: four trials share one")
    add("--address", help="of a running Ray cluster: auto, HOST:PORT or ray://HOST:PORT")
    add(
        "--asha",
        metavar="CURVE",
        help="stop trials early by a training's curve, such as "
        "lorenz/helm/train/loss, smaller is better; for exploring, not for reported numbers",
    )
    add("--search", choices=("optuna",), help="let Optuna choose values from the ranges that --vary gives")
    add("--samples", type=int, default=20, help="settings that --search tries (default: 20)")
    return parser.parse_known_args(args)  # fmt: skip


def sweep(given: argparse.Namespace, flags: list[str]) -> int:
    """Plan, run what has not been run, and write what was found; the exit code."""
    from common.run.progress import configure_logging
    from common.sweeps.plan import make_plan

    configure_logging()
    experiment = _experiment(given.experiment)
    plan = make_plan(given.experiment, experiment.presets, flags, given.vary, bool(given.search))
    if given.list:
        return show(*(trial.id for trial in plan.trials()))
    request = _request(given, plan)
    from common.sweeps.sweep import run_sweep

    report = run_sweep(plan, request)
    return show(*report.texts) or (0 if report.complete else 1)


def _experiment(name: str) -> "Experiment":
    """The experiment of this name; torch is loaded with it."""
    known = sorted(path.parent.name for path in ROOT.glob("exp[0-9]*_*/run_experiment.py"))
    try:
        found = name.isidentifier() and importlib.util.find_spec(f"{name}.run_experiment")
    except ModuleNotFoundError:
        found = None
    if not found:
        raise ConfigError(f"experiment = {name!r}: allowed: {', '.join(known)}")
    from common.sweeps.trial import find_experiment

    return find_experiment(name)


def _request(given: argparse.Namespace, plan: "Plan") -> "Request":
    """What is asked of the sweep beside its plan."""
    from common.sweeps.asha import Asha
    from common.sweeps.engine import Machines
    from common.sweeps.sweep import Request

    if not given.metric:
        reject(
            "metric",
            given.metric,
            "the name of a metric in results.json, of which sweep.png shows the values",
        )
    if given.samples < 1:
        reject("samples", given.samples, "whole numbers >= 1")
    if given.search and given.asha:
        reject("asha", given.asha, "without --search, which judges by whole trials")
    name = given.name or "-".join([plan.experiment, *(varied.field for varied in plan.compared)])
    if Path(name).name != name:
        reject("name", name, "a folder's name, without a path")
    return Request(
        given.sweeps_dir.expanduser().resolve() / name, given.metric, given.mode,
        Machines(given.workers, given.address, given.threads, given.gpus_per_trial), given.figures,
        Asha(given.asha, first=plan.base.checkpoint_every) if given.asha else None,
        given.samples if given.search else None,
    )  # fmt: skip


def main() -> int:
    """The command line's end: what interrupts or fails is one line on stderr and an exit code."""
    prepare_process()
    given, flags = parse(sys.argv[1:])
    try:
        with stoppable():
            return sweep(given, flags)
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, Terminated)
        word = "terminated" if terminated else "interrupted"
        say(f"{word}: the same command goes on; what is done stays done")
        return 143 if terminated else 130
    except ValueError as error:
        exit_with_error(str(error))
    except OSError as error:
        say(f"sweep.py: error: {error}")
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    raise SystemExit(main())
