"""Whole experiments side by side: each is one trial, or one for each training seed, pooled at the end."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig
from common.report.html import Finished, read_finished
from common.report.pooling import pool_runs
from common.run.files import write_atomically
from common.run.results import checksum, load_arrays, load_results, to_json
from common.run.run import Folders
from common.sweeps.trial import FAILED, Record, Task, find_experiment, mark_of


@dataclass(frozen=True)
class Parts:
    """An experiment, the folder that it leaves its results in, and the trials that it is made of."""

    name: str
    folder: Path
    tasks: Sequence[Task]

    @property
    def pooled(self) -> Path:
        """Where the seeds' results are, taken together."""
        return self.folder / "results" / "pooled"


def make_parts(name: str, config: RunConfig, seed_by_seed: bool) -> Parts:
    """The trials of an experiment; seed by seed they lie in results/seeds/ of its folder.

    Raises:
        ValueError: a configuration that cannot run.
    """
    experiment = find_experiment(name)
    folders = Folders.of(experiment, config)
    config = dataclasses.replace(config, output_dir=folders.output, cache_dir=folders.cache)
    experiment.validate(config)
    if not seed_by_seed or len(config.seeds) == 1:
        return Parts(name, folders.output, [_task(name, config)])
    places = {seed: folders.results / "seeds" / str(seed) for seed in config.seeds}
    alone = [dataclasses.replace(config, seeds=(seed,), output_dir=place) for seed, place in places.items()]
    return Parts(name, folders.output, [_task(f"{name}, seed {each.seeds[0]}", each) for each in alone])


def _task(label: str, config: RunConfig) -> Task:
    name = label.partition(",")[0]
    mark = mark_of(find_experiment(name), config)
    return Task(label, name, config, mark, figures=True)


def finish(parts: Parts, records: Sequence[Record]) -> Finished:
    """What the experiment left, once its trials have ended; of several seeds, the figures of the first.

    Raises:
        ValueError: a trial failed, or seeds cannot be pooled.
        OSError: a file is missing or cannot be written.
    """
    failed = [record for record in records if record.state == FAILED]
    if failed:
        raise ValueError(failed[0].reason)
    if len(parts.tasks) == 1:
        return read_finished(parts.name, parts.folder)
    folders = [task.folder for task in parts.tasks]
    runs = [(load_results(folder), load_arrays(folder)) for folder in folders]
    content = pool_runs(runs, find_experiment(parts.name).criteria)
    text = to_json(content | {"checksums": {"results.json": checksum(content)}})
    write_atomically(parts.pooled / "results.json", lambda file: file.write(text.encode()))
    first = read_finished(parts.name, parts.tasks[0].config.output_dir)
    note = f"The seeds were run apart and taken together; the figures are of seed {content['seeds'][0]}."
    return Finished(parts.name, parts.folder, load_results(parts.pooled), first.figures, note)
