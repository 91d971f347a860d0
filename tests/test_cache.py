"""The cache's files: atomic, checked before use, weights only; one run at a time in a folder."""

import dataclasses
import io
import os
import random
import re
import subprocess
import sys
import time

import pytest
import torch

from common.config import EXP2_PRESETS, EXP3_PRESETS, EXP4_PRESETS, Exp1Config
from common.run.cache import Checkpoint, seal
from common.run.files import ROOT, FolderInUse, locked, remove_litter, write_atomically
from exp1_spectral_cliff import analyze_spectrum, equal_evaluations, evaluate_planning, train_flat, train_helm


def test_another_fingerprint_is_not_loaded(tmp_path):
    Checkpoint(tmp_path / "a.pt", "one").save({"x": torch.ones(2)})
    assert Checkpoint(tmp_path / "a.pt", "two").load() is None
    assert torch.equal(Checkpoint(tmp_path / "a.pt", "one").load()["x"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_file_is_passed_over(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark")
    checkpoint.save({"x": torch.ones(100)})
    data = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(data[: len(data) // 2] if content is None else content)
    assert checkpoint.load() is None


def put(path, content):
    """Any content under a checksum that is right."""
    packed = io.BytesIO()
    torch.save(content, packed)
    path.write_bytes(seal(packed.getvalue()))


class Malicious:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickled_code_is_executed(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark")
    put(checkpoint.path, {"fingerprint": "mark", "payload": Malicious(tmp_path / "owned")})
    assert checkpoint.load() is None
    assert not (tmp_path / "owned").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_no_damage_is_loaded(tmp_path):
    """Truncated, a bit flipped, a stretch zeroed, the pickle changed: starting anew, never other numbers."""
    checkpoint = Checkpoint(tmp_path / "a.pt", "f" * 64)
    payload = {"module": {"w": torch.randn(30, 20), "b": torch.randn(20)}, "iteration": 2, "seconds": 0.5}
    checkpoint.save(payload)
    whole, chance = checkpoint.path.read_bytes(), random.Random(0)
    for trial in range(400):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        if trial % 4 == 0:
            data = data[:at]
        elif trial % 4 == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif trial % 4 == 2:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data[whole.find(b"data.pkl") + chance.randrange(900)] = chance.randrange(256)
        checkpoint.path.write_bytes(bytes(data))
        found = checkpoint.load()
        if found is not None:
            assert all(torch.equal(found["module"][name], value) for name, value in payload["module"].items())


@pytest.mark.parametrize(
    "content", [torch.ones(2), {"fingerprint": "mark"}, {"fingerprint": "mark", "payload": 1}, []]
)
def test_a_foreign_file_is_passed_over(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark")
    put(checkpoint.path, content)
    assert checkpoint.load() is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    assert Checkpoint(tmp_path / "a.pt", "mark").load() is None


def test_the_reason_names_the_file_and_gives_no_bad_advice(tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark")
    put(checkpoint.path, {"fingerprint": "mark", "payload": Malicious(tmp_path / "owned")})
    checkpoint.load()
    assert "a.pt is not a readable checkpoint" in caplog.text and "weights_only=False" not in caplog.text
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "a.txt", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    if os.name == "posix":
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600


def test_litter_of_killed_writers_is_removed_and_of_living_ones_kept(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from common.run.files import write_atomically\n"
        "write_atomically(Path(sys.argv[2]), lambda file: (file.write(b'half'), file.flush(), os._exit(9)))"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT), str(tmp_path / "a.txt")], check=False)
    assert len(list(tmp_path.glob(".*.tmp"))) == 1

    def while_writing(file):
        remove_litter(tmp_path)
        assert len(list(tmp_path.glob(".*.tmp"))) == 1  # ours alone
        file.write(b"whole")

    write_atomically(tmp_path / "a.txt", while_writing)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_held_by_one_run(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from common.run.files import locked\n"
        "with locked(Path(sys.argv[2])):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=re.escape(str(tmp_path))), locked(tmp_path):
            pass
        holder.kill()
    for _ in range(100):  # the system lets go when the process is gone
        try:
            with locked(tmp_path):
                return
        except FolderInUse:
            time.sleep(0.05)
    raise AssertionError("the folder is still held")


# --- settings -------------------------------------------------------------------------------------


def test_every_field_belongs_to_a_step_or_to_the_run():
    """A field that no step reads would be a setting that changes nothing."""
    modules = (train_flat, train_helm, analyze_spectrum, evaluate_planning, equal_evaluations)
    steps = [f for module in modules for f in vars(module).values() if hasattr(f, "settings_read")]
    used = {field for step in steps for field in step.settings_read}
    in_variants = {  # read where the variants are made, and hashed as part of them
        "iterations", "flat_long_iterations", "lambda_spectral", "lambda_spectral_linear", "spectral_sweep",
        "hf_noise_sigma", "coarse_stride", "macro_rollouts", "cascade_stride",
    }  # fmt: skip
    of_the_run = {
        "preset", "device", "output_dir", "cache_dir", "replot", "fresh", "strict", "systems",
        "parts", "checkpoint_every", "tracker",
    }  # fmt: skip
    fields = {spec.name for spec in dataclasses.fields(Exp1Config)}
    assert fields == used | in_variants | of_the_run


@pytest.mark.parametrize("presets", [EXP2_PRESETS, EXP3_PRESETS, EXP4_PRESETS])
def test_every_field_is_read_somewhere(presets):
    """By a step, or by name in the experiment's code or the code that runs it."""
    config = presets["quick"]
    (folder,) = ROOT.glob(f"{type(config).__name__.removesuffix('Config').lower()}_*")
    code = [path.read_text(encoding="utf-8") for path in (*folder.glob("*.py"), *ROOT.glob("common/**/*.py"))]
    code = "\n".join(text for text in code if "class Exp4Config" not in text)
    for name in (spec.name for spec in dataclasses.fields(config)):
        assert re.search(rf'(?:config|settings)\.{name}\b|config, "{name}"|"config"\]\["{name}"\]', code), (
            name
        )
