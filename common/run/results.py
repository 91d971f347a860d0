"""results.json and arrays.npz: every number of a run, with what produced it.

results.json is strict JSON with the keys

    schema, experiment, preset, config, provenance, seeds
    changed    the settings that differ from the preset's
    computed_by  machines and commits of the cached steps, which may be earlier runs'
    metrics    flat name -> {unit, values (one a seed), mean, ci95 from 5 seeds on};
               interval95 over training seeds and starts where it comes from starts that seeds share, with
               several seeds; of one seed starts95, over starts alone, on which no verdict hangs; a value
               that is not finite is null, with a `reason`
    timings    what is not reproducible: seconds, megabytes
    checksums  of this file's other parts and of arrays.npz, verified before they are read
    criteria   see common/run/criteria.py
"""

import datetime
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import subprocess
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.run.command_line import DataError
from common.run.criteria import TIERS
from common.run.files import ROOT, write_atomically
from common.statistics import (
    crossed_interval,
    mean_interval,
    rate_interval,
    starts_interval,
    wilson_interval,
)

SCHEMA = 1
STARTS = "/starts"  # ends the names of arrays [S, E] that hold a metric start by start
INTERVALS = ("ci95", "interval95", "starts95")  # of a metric, where it has one
NUMBER = (int, float, type(None))
PARTS = {  # of a results.json, with their types
    "experiment": str, "preset": str, "config": dict, "provenance": dict, "seeds": list, "metrics": dict,
    "timings": dict, "criteria": list,
}  # fmt: skip
ENTRY = {"unit": str, "values": list, "mean": NUMBER}  # of a metric
ROW = {  # of a criterion
    "id": str, "tier": str, "claim": str, "metric": str, "op": str, "target": NUMBER, "measured": NUMBER,
    "passed": (bool, type(None)), "log10": bool,
}  # fmt: skip


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
            interval: 95% interval of the mean over more than the seeds.

        Raises:
            ValueError: the name is taken, or there is not one value a seed.
        """
        numbers = [float(value) for value in values]
        if name in self.metrics:
            raise ValueError(f"metric {name} is recorded twice")
        if len(numbers) != len(self.seeds):
            raise ValueError(f"metric {name} has {len(numbers)} values for {len(self.seeds)} seeds")
        self.metrics[name] = summarise(numbers, unit)
        if interval is not None and all(map(math.isfinite, interval)):
            self.metrics[name]["interval95"] = list(interval)

    def add_rate(self, name: str, success: torch.Tensor, enumerated: bool) -> None:
        """A success rate over starts that all seeds share, [S, E], with its interval; start by start as an
        array.

        Args:
            name: of the metric; the array's is `{name}/starts`.
            success: [S, E]; a share in [0, 1] where a start stands for several episodes.
            enumerated: whether these are all the starts there are.
        """
        rates = success.double()
        whole = bool(((rates == 0) | (rates == 1)).all())
        self.add(name, rates.mean(1), interval=rate_interval(rates, enumerated))
        if len(rates) == 1:
            low, high = wilson_interval(float(rates.sum()), rates.shape[1])
            self.metrics[name]["starts95"] = [low, high]
        self.metrics[name]["enumerated"] = enumerated
        self.add_array(name + STARTS, success.bool() if whole else success.float())

    def add_difference(self, name: str, difference: torch.Tensor, enumerated: bool) -> None:
        """`add_rate` of a difference over the same starts [S, E]."""
        apart = difference.double()
        self.add(name, apart.mean(1), interval=crossed_interval(apart, enumerated))
        if len(apart) == 1:
            self.metrics[name]["starts95"] = list(starts_interval(apart))
        self.metrics[name]["enumerated"] = enumerated
        self.add_array(name + STARTS, difference.float())

    def add_array(self, name: str, values: torch.Tensor | np.ndarray) -> None:
        """Record what a figure is drawn from."""
        self.arrays[name] = values.detach().cpu().numpy() if torch.is_tensor(values) else np.asarray(values)


def summarise(numbers: Sequence[float], unit: str) -> dict[str, Any]:
    """A metric's entry. The mean is over all seeds, so null where one is not finite."""
    finite = [number for number in numbers if math.isfinite(number)]
    entry: dict[str, Any] = {
        "unit": unit,
        "values": [number if math.isfinite(number) else None for number in numbers],
        "mean": None,
    }
    if len(finite) < len(numbers):
        odd = sorted({repr(number) for number in numbers if not math.isfinite(number)})
        entry["reason"] = f"{len(numbers) - len(finite)} of {len(numbers)} seeds not finite: {', '.join(odd)}"
        return entry
    entry["mean"] = math.fsum(finite) / len(finite)
    if len(finite) >= 5:
        entry["ci95"] = list(mean_interval(finite))
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
    return json.dumps(_rounded(value), allow_nan=False, separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def save_results(directory: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays.npz, then results.json with the checksums of both, each atomically."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    sums = {"arrays.npz": hashlib.sha256(packed.getbuffer()).hexdigest()}
    sums["results.json"] = checksum(content)
    text = to_json(content | {"checksums": sums})
    write_atomically(directory / "arrays.npz", lambda file: file.write(packed.getbuffer()))
    write_atomically(directory / "results.json", lambda file: file.write(text.encode()))


def checksum(content: Mapping[str, Any]) -> str:
    """Of everything in a results.json but its checksums."""
    rest = {key: _rounded(value) for key, value in content.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_results(directory: Path) -> dict[str, Any]:
    """results.json of a results folder; refuses NaN and Infinity.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is not strict JSON of this schema, lacks a part, or was changed after it was written.
    """
    path = directory / "results.json"

    def refuse(constant: str) -> None:
        raise DataError(f"{path} holds {constant}, which is not strict JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path} is not a results.json of schema {SCHEMA}")
    if (wrong := _part_of_another_kind(content)) is not None:
        raise DataError(f"{path} has no {wrong}, or of another kind: no run wrote it")
    if "checksums" in content and content["checksums"].get("results.json") != checksum(content):
        raise DataError(f"{path} was changed after the run wrote it: its checksum does not match")
    return content


def _part_of_another_kind(content: Mapping[str, Any]) -> str | None:
    """The first part of a results.json that readers could not use: absent, or a text for a number."""
    wrong = _wrong_key(content | {"checksums": content.get("checksums", {})}, PARTS | {"checksums": dict})
    if wrong is not None:
        return wrong
    if not content["seeds"] or not all(isinstance(seed, int) for seed in content["seeds"]):
        return "seeds"
    if not all(isinstance(value, NUMBER) for value in content["timings"].values()):
        return "timings"
    if any(isinstance(value, (dict, list)) for value in content["provenance"].values()):
        return "provenance"
    for name, entry in content["metrics"].items():
        intervals = [entry[key] for key in INTERVALS if key in entry] if isinstance(entry, dict) else []
        if _wrong_key(entry, ENTRY) is not None or not all(map(_are_numbers, [entry["values"], *intervals])):
            return f"metric {name[:80]}"
    for number, row in enumerate(content["criteria"]):
        if _wrong_key(row, ROW) is not None or row["tier"] not in TIERS:
            return f"criterion {number}"
    return None


def _wrong_key(value: Any, kinds: Mapping[str, Any]) -> str | None:
    """The first of these keys that a mapping lacks or holds with another type."""
    if not isinstance(value, dict):
        return "mapping"
    return next((key for key, kind in kinds.items() if not isinstance(value.get(key, ...), kind)), None)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, NUMBER) for value in values)


def load_arrays(directory: Path, results: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """arrays.npz of a results folder.

    Args:
        directory: the folder.
        results: its results.json where it is loaded, for the checksum; none given: that is read for it.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is damaged, or no such file.
    """
    path = directory / "arrays.npz"
    data = path.read_bytes()
    sums = _saved_checksums(directory) if results is None else results.get("checksums", {})
    expected = sums.get("arrays.npz")
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise DataError(
            f"{path} is not the one that results.json was written with: its checksum does not match"
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a readable archive of arrays") from error


def _saved_checksums(directory: Path) -> Mapping[str, str]:
    """Those of a results folder; none where an older run wrote it."""
    try:
        return json.loads((directory / "results.json").read_text(encoding="utf-8")).get("checksums", {})
    except (OSError, ValueError, AttributeError):
        return {}


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, device, commit and date of a run.

    The processor and torch's vector width are part of it: results differ between widths in the last digits,
    and a training carries that on.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": importlib.metadata.version("gymnasium"),
        "minigrid": importlib.metadata.version("minigrid"),
        "device": f"{device.type} ({name})",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None
        if (changes := _git("status", "--porcelain", "--untracked-files=no")) is None
        else bool(changes),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git(*args: str) -> str | None:
    """Output of a git command in this repository; None without git, or in a copy within another one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", *args], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
