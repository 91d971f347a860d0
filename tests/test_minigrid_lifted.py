"""common/minigrid copied out of the repository, beside somebody else's package `common`."""

import shutil
import subprocess
import sys

from common.minigrid.task import random_stream
from common.run.files import ROOT
from common.run.random import generator

SCRIPT = """
import common, sys
from types import SimpleNamespace
from minigrid_table.table import tabulate, verify_against_live
from minigrid_table.task import check_environments, make_task
from minigrid_table.walks import collect_walks, distances_from

settings = SimpleNamespace(
    environments=("Empty-5x5",), seeds=(0, 1), layout_seed=0, observation="full", drop_action="auto",
    num_walks=20, walk_length=10, num_episodes=5,
)
check_environments(settings)
task = make_task("Empty-5x5", settings)
assert task.world.render(3).any() and verify_against_live(task.world, 50, 0)["observation"] == 0
assert common.MINE and not any(name.startswith("common.") for name in sys.modules)
print(task.world.num_states, task.observations.sum().item(), task.walks[1].states.sum().item())
"""


def run(script, folder):
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_folder_works_beside_a_foreign_package_common(tmp_path):
    shutil.copytree(ROOT / "common" / "minigrid", tmp_path / "minigrid_table")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    at_home = SCRIPT.replace("minigrid_table", "common.minigrid")
    at_home = "\n".join(line for line in at_home.splitlines() if "MINE" not in line)
    assert run(SCRIPT, tmp_path) == run(at_home, ROOT), "the same tables and the same random numbers"


def test_streams_are_the_repositorys():
    for seed, stream in ((0, "walks"), (7, "Empty-8x8/walks"), (2**62, "")):
        assert random_stream(seed, stream).initial_seed() == generator(seed, stream).initial_seed()
