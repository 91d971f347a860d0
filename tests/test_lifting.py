"""The two single files work where they are copied to: with torch alone, beside another package `common`."""

import ast
import os
import shutil
import subprocess
import sys

import pytest

from common.run.files import ROOT

USES = {
    "jacobian_utils": """
step = lambda z, a: 0.5 * z + a
state, action = lifted.rollout_jacobian_norms(step, torch.zeros(1, 3), torch.zeros(1, 2, 3), (1, 2))
assert torch.allclose(10 ** (2 * state[:, 0]), torch.tensor([0.75, 0.1875]).double()), state
assert torch.allclose(10 ** (2 * action[:, 0]), torch.tensor([3.0, 3.75]).double()), action
step.jacobians = lambda z, a: (torch.zeros(1, 3, 3), torch.ones(1, 3, 3))
assert float(lifted.step_jacobians(step, torch.zeros(1, 3), torch.zeros(1, 3))[1].sum()) == 9
""",
    "regularizers": """
weight = torch.full((3, 3), 2.0, requires_grad=True)
step = lambda z, a: z @ weight + a
states, actions = torch.zeros(4, 3), torch.zeros(4, 3)
lifted.spectral_penalty(step, states, actions).mean().backward()
assert torch.allclose(weight.grad, torch.full((3, 3), 4.0)), weight.grad
probes = torch.eye(3)[:, None].expand(-1, 4, -1)
estimate = lifted.spectral_penalty_stochastic(step, states, actions, probes)
assert torch.allclose(3 * estimate, torch.full((4,), 39.0)), estimate
assert float(lifted.hf_invariance(torch.tensor(1.0), torch.tensor(3.0))) == 4
step.jacobians = lambda z, a: (torch.zeros(4, 3, 3), torch.ones(4, 3, 3))
assert lifted.spectral_penalty(step, states, actions).tolist() == [9] * 4
""",
}


def run_beside_a_foreign_common(folder, source):
    (folder / "common").mkdir()
    (folder / "common" / "__init__.py").write_text("OWNER = 'someone else'\n", encoding="utf-8")
    script = folder / "use.py"
    script.write_text(source, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("place", ["", "mylab"], ids=["beside a script", "in a package"])
@pytest.mark.parametrize("name", USES)
def test_each_file_alone_works_beside_a_foreign_common(tmp_path, name, place):
    target = tmp_path / place
    target.mkdir(exist_ok=True)
    if place:
        (target / "__init__.py").touch()
    shutil.copy(ROOT / "common" / f"{name}.py", target)
    path = f"{place}.{name}" if place else name
    source = f"import torch\nimport common\nimport {path} as lifted\n{USES[name]}\n"
    source += "assert common.OWNER == 'someone else'\nprint('used')\n"
    done = run_beside_a_foreign_common(tmp_path, source)
    assert done.returncode == 0 and done.stdout.strip() == "used", done.stderr


@pytest.mark.parametrize("name", USES)
def test_each_file_imports_torch_and_the_standard_library_alone(name):
    tree = ast.parse((ROOT / "common" / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import needs a neighbour"
            modules = [node.module]
        else:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            root = module.partition(".")[0]
            assert root == "torch" or root in sys.stdlib_module_names, module
