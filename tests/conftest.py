"""Fixtures shared by the tests."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script of the repository as a user would, warnings of our own code as errors."""

    def run(script: str, *args: str, cwd: Path = ROOT, code: int = 0) -> subprocess.CompletedProcess:
        command: Sequence[str] = [sys.executable, "-W", "error::UserWarning:common", script, *args]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
