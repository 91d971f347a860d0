"""Take the training seeds of several runs together.

    cd exp4_contrastive_fix
    python run_experiment.py --preset full --output-dir ../more --seeds 3 4 5
    cd .. && python pool_seeds.py exp4_contrastive_fix more --output pooled.json --only 'two_pillars/*'

writes the metrics that all runs have, over all seeds, with intervals over the same starts computed as one
run's of all seeds would be, and the criteria that these metrics decide. Runs may differ in their seeds and
in which parts of the experiment they ran, in no other setting.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from common.run.command_line import exit_with_error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with_error(message)


def parse(args: list[str] | None = None) -> argparse.Namespace:
    """The command line; a bad one ends with one line on stderr and code 2."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of the runs, each with results/")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of metrics, all by default")
    return parser.parse_args(args)


def main() -> None:
    given = parse()  # before torch is imported
    from common.report.pooling import pool
    from common.run.files import write_atomically
    from common.run.results import load_arrays, load_results, to_json
    from common.sweeps.trial import find_experiment

    folders, output = [run.expanduser() / "results" for run in given.runs], given.output.expanduser()
    try:
        loaded = [(folder, load_results(folder)) for folder in folders]
        runs = [(results, load_arrays(folder, results)) for folder, results in loaded]
        content = pool(runs, given.only, find_experiment(loaded[0][1]["experiment"]).criteria)
        text = to_json(content)
        write_atomically(output, lambda file: file.write(text.encode()))
    except (ImportError, ValueError, OSError) as error:
        exit_with_error(str(error))
    code = {str(run["provenance"].get("git_commit")) for run in content["runs"]}
    if len(code) > 1:
        print(
            f"warning: these runs are by different code, commits {', '.join(sorted(code))}", file=sys.stderr
        )
    seeds = " ".join(map(str, content["seeds"]))
    print(f"{len(content['metrics'])} metrics of seeds {seeds}: {given.output}")


if __name__ == "__main__":
    main()
