"""common/planners runs in another project: copied, with torch alone, beside a foreign package `common`."""

import shutil
import subprocess
import sys

import pytest

from common.run.files import ROOT

PLAN = """
import sys
import torch
import common
assert common.MODEL_SIZE == 1, "the project's own package"
from common.math import symlog
from {package} import PEERS, PLANNERS, make_planner
from {package}.adapter import CostModel
from {package}.candidates import Noise
from {package}.continuous import CONTINUOUS_PLANNERS, make_continuous_planner
from {package}.continuous.problem import ContinuousProblem
from {package}.control import receding_horizon
from {package}.gradient_fidelity import gradient_fidelity
from {package}.problem import PlanningProblem
from {package}.small_budgets import fitted
from {package}.table_model import TableModel

for name in PLANNERS | PEERS:
    problem = PlanningProblem(
        lambda actions: 5 - actions[..., 1].cumsum(-1), num_problems=2, horizon=6, num_actions=3,
        budget=1920, energy_scale=torch.full((2,), 5.0),
    )
    plan = make_planner(name)(problem, torch.Generator().manual_seed(0))
    assert plan.actions.eq(1).float().mean() > 0.5, name
for name in CONTINUOUS_PLANNERS:
    problem = ContinuousProblem(
        lambda actions: 10 - actions[..., 0].cumsum(-1), num_problems=2, horizon=6, action_size=1,
        budget=1920, energy_scale=torch.full((2,), 5.0),
    )
    plan = make_continuous_planner(name)(problem, torch.Generator().manual_seed(0))
    assert plan.actions.mean() > 0.5, name
heavy = {{"gymnasium", "minigrid", "scipy", "matplotlib", "tyro"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("package", ["planners", "common.planners", "mylab.parts.helm_planners"])
def test_the_copied_folder_plans_beside_a_foreign_package_named_common(tmp_path, package):
    foreign = tmp_path / "common"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("MODEL_SIZE = 1\n")
    (foreign / "math.py").write_text("def symlog(x): return x\n")
    target = tmp_path.joinpath(*package.split("."))
    for folder in target.relative_to(tmp_path).parents:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        if folder.name and folder.name != "common":
            (tmp_path / folder / "__init__.py").touch()
    shutil.copytree(ROOT / "common" / "planners", target, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "train.py").write_text(PLAN.format(package=package))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
