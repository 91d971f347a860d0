"""From a plan's trials to the tasks that workers get."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from common.run.run import Folders
from common.sweeps.plan import Plan, Trial
from common.sweeps.trial import Task, find_experiment, mark_of


@dataclass(frozen=True)
class TaskMaker:
    """Gives each trial its own folder below `trials`, and all of them the experiment's cache."""

    plan: Plan
    trials: Path
    figures: bool = False  # of each trial

    def task(self, trial: Trial) -> Task:
        """What a worker needs.

        Raises:
            ValueError: the configuration cannot run.
        """
        experiment = find_experiment(self.plan.experiment)
        experiment.validate(trial.config)
        cache = Folders.of(experiment, trial.config).cache
        config = dataclasses.replace(trial.config, output_dir=self.trials / trial.id, cache_dir=cache)
        return Task(
            trial.id, experiment.name, config, mark_of(experiment, trial.config), trial.setting, self.figures
        )
