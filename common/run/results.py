"""results.json and arrays.npz: every number of a run, with what produced it.

results.json is strict JSON with the keys

    schema, experiment, preset, config, provenance, seeds
    changed    the settings that differ from the preset's
    metrics    flat name -> {unit, values (one a seed), mean, min, max, ci95 from 5 seeds on};
               interval95 where it comes from episodes; a value that is not finite is null, with a `reason`
    timings    what is not reproducible: seconds, megabytes
    criteria   see common/run/criteria.py
"""

import datetime
import importlib.metadata
import json
import math
import platform
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.run.cache import ROOT, write_atomically

SCHEMA = 1

# Two-sided 95% quantiles of Student's t for 4 .. 29 degrees of freedom (5 .. 30 numbers). More numbers have
# the last, at most 4% too wide.
_T_QUANTILES = (
    2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
)  # fmt: skip


@dataclass
class Results:
    """What a run measured, as it grows."""

    experiment: str
    seeds: Sequence[int]
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        name: str,
        values: torch.Tensor | Sequence[float],
        unit: str = "1",
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Record one metric.

        Args:
            name: path-like, such as lorenz/flat/nrmse/T=50.
            values: one number a seed.
            unit: "1" for a pure number.
            interval: 95% interval of the mean where it comes from more than the seeds (episodes, starts).

        Raises:
            ValueError: the name is taken, or there is not one value a seed.
        """
        numbers = [float(value) for value in values]
        if name in self.metrics:
            raise ValueError(f"metric {name} is recorded twice")
        if len(numbers) != len(self.seeds):
            raise ValueError(f"metric {name} has {len(numbers)} values for {len(self.seeds)} seeds")
        self.metrics[name] = summarise(numbers, unit)
        if interval is not None:
            self.metrics[name]["interval95"] = list(interval)

    def add_array(self, name: str, values: torch.Tensor | np.ndarray) -> None:
        """Record what a figure is drawn from."""
        self.arrays[name] = values.detach().cpu().numpy() if torch.is_tensor(values) else np.asarray(values)


def summarise(numbers: Sequence[float], unit: str) -> dict[str, Any]:
    """A metric's entry. mean, min and max are over all seeds, so null where one is not finite."""
    finite = [number for number in numbers if math.isfinite(number)]
    entry: dict[str, Any] = {
        "unit": unit,
        "values": [number if math.isfinite(number) else None for number in numbers],
        "mean": None,
        "min": None,
        "max": None,
    }
    if len(finite) < len(numbers):
        odd = sorted({repr(number) for number in numbers if not math.isfinite(number)})
        entry["reason"] = f"{len(numbers) - len(finite)} of {len(numbers)} seeds not finite: {', '.join(odd)}"
        return entry
    mean = math.fsum(finite) / len(finite)
    entry.update(mean=mean, min=min(finite), max=max(finite))
    if len(finite) >= 5:
        deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in finite) / (len(finite) - 1))
        half = _T_QUANTILES[min(len(finite), 30) - 5] * deviation / math.sqrt(len(finite))
        entry["ci95"] = [mean - half, mean + half]
    return entry


def to_json(content: dict[str, Any]) -> str:
    """Strict JSON, a line for each metric, timing and criterion; floats to 9 digits, as float32 needs."""
    parts = []
    for key, value in content.items():
        begin, end = "[]" if isinstance(value, list) else "{}"
        if isinstance(value, dict):
            entries = [f"{json.dumps(name)}: {_dump(entry)}" for name, entry in value.items()]
        elif isinstance(value, list):
            entries = [_dump(entry) for entry in value]
        else:
            parts.append(f" {json.dumps(key)}: {_dump(value)}")
            continue
        lines = ",\n".join(f"  {entry}" for entry in entries)
        parts.append(f" {json.dumps(key)}: {begin}\n{lines}\n {end}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dump(value: Any) -> str:
    return json.dumps(_rounded(value), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def save_results(directory: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays.npz, then results.json, each atomically."""
    text = to_json(content)
    write_atomically(directory / "arrays.npz", lambda file: np.savez_compressed(file, **arrays))
    write_atomically(directory / "results.json", lambda file: file.write(text.encode()))


def load_results(directory: Path) -> dict[str, Any]:
    """results.json of a results folder; refuses NaN and Infinity.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not strict JSON of this schema.
    """
    path = directory / "results.json"

    def refuse(constant: str) -> None:
        raise ValueError(f"{path} holds {constant}, which is not strict JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "metrics" not in content:
        raise ValueError(f"{path} is not a results.json of schema {SCHEMA}")
    return content


def load_arrays(directory: Path) -> dict[str, np.ndarray]:
    """arrays.npz of a results folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no such file.
    """
    path = directory / "arrays.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a readable archive of arrays") from error


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, device, commit and date of a run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": importlib.metadata.version("gymnasium"),
        "minigrid": importlib.metadata.version("minigrid"),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git(*args: str) -> str | None:
    """Output of a git command in the repository; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *args], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
