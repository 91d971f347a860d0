"""Fingerprints: everything that the result of a cached step depends on, as one hash.

That is the settings it reads, its code, its inputs and the packages that compute.

Code is hashed, not prose: a definition's syntax tree without docstrings, comments and annotations, together
with every definition of this project that it names, directly or not. So rewording changes nothing, and
editing a loss changes the steps that use it and no others. What organises a run but computes nothing of a
result (`common/run/`, the settings' own file) is left out; settings count by their values.

An input tells what it is (`identity`): what came out of a cached step bears that step's fingerprint, every
other value is told by its type and contents.
"""

import ast
import dataclasses
import enum
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.run.files import ROOT

COMPUTING = ("torch", "numpy", "gymnasium", "minigrid", "cma")  # packages whose versions count
LARGE = 2**16  # numbers of a tensor whose digest is kept
COMPUTES = {"random.py", "devices.py"}  # the files of common/run/ whose code decides numbers

Definition = tuple[Path, str]  # a file and a top-level name in it

_READ: dict[Path, str] = {}  # every source that this process has read


# ----------------------------------------------------------------------------------------------
# Code
# ----------------------------------------------------------------------------------------------


class _Bare(ast.NodeTransformer):
    """Takes docstrings and annotations out of a syntax tree: what is left decides what the code does."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


class Code:
    """What a bare syntax tree says, and the names in it."""

    def __init__(self, node: ast.stmt):
        self.is_class = isinstance(node, ast.ClassDef)
        self.text = ast.dump(node)
        self.names = sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)})


class SourceFile:
    """One file of the project: its top-level definitions, and what the names it imports stand for."""

    def __init__(self, path: Path, text: str):
        self.path, tree = path, _Bare().visit(ast.parse(text))
        self.definitions: dict[str, list[Code]] = {}
        self.imports: dict[str, tuple[str, str]] = {}  # name -> (dotted module, name in it; "" for itself)
        self.others: list[Code] = []  # statements that define nothing, such as a registration
        for node in tree.body:
            self._read(node)

    def _read(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            self.definitions.setdefault(node.name, []).append(Code(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            code = Code(node)
            for name in names:
                self.definitions.setdefault(name, []).append(code)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                self.imports[alias.asname or whole] = (whole, "")
        elif isinstance(node, ast.ImportFrom):
            module = self._absolute(node)
            for alias in node.names:
                self.imports[alias.asname or alias.name] = (module, alias.name)
        elif not _is_guard_or_docstring(node):
            self.others.append(Code(node))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        folder = self.path.parents[node.level - 1]
        package = folder.relative_to(import_root(self.path)).parts
        return ".".join([*package, *([node.module] if node.module else [])])


@cache
def _parsed(path: Path, text: str) -> SourceFile:
    return SourceFile(path, text)


def _is_guard_or_docstring(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, the module's docstring, or a line that prepares sys.path."""
    text = ast.dump(node)
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or "'__main__'" in text or "attr='path'" in text


def import_root(path: Path) -> Path:
    """The folder from which a file is imported: the first above it that is no package."""
    folder = path.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


class Sources:
    """The project's sources as they were when this was made: a run hashes the code that it runs.

    Editing a file while a process runs must not put the new code's mark on the old code's result: a file is
    read once a process.
    """

    def __init__(self, roots: Sequence[Path] = (ROOT,), read: dict[Path, str] | None = None):
        """`read`: the texts that this process has read."""
        self._read = _READ if read is None else read
        self._texts: dict[Path, str] = {}
        self._hashes: dict[Definition, str] = {}
        self._files: dict[Path, SourceFile | None] = {}
        self.digests: dict[tuple[int, int], tuple[Tensor, str]] = {}  # of large tensors that were told before
        for root in roots:
            self.add(root)

    def add(self, root: Path) -> None:
        """Read every Python file of the packages below a root, those already read excepted."""
        root = root.resolve()
        for package in sorted(root.glob("*/__init__.py")):
            for path in sorted(package.parent.rglob("*.py")):
                self._take(path)
        for path in sorted(root.glob("*.py")):
            self._take(path)

    def _take(self, path: Path) -> None:
        if path not in self._read:
            self._read[path] = path.read_text(encoding="utf-8")
        self._texts.setdefault(path, self._read[path])
        self._files.clear()  # among which it may have been missed

    def file(self, path: Path) -> SourceFile | None:
        """A file of the project; None for any other."""
        if path not in self._files:
            resolved = path.resolve()
            text = self._texts.get(resolved)
            self._files[path] = None if text is None else _parsed(resolved, text)
        return self._files[path]

    def code_hash(self, function: Callable) -> str:
        """Of a function or class, and of every definition of the project that it names, directly or not."""
        function = inspect.unwrap(function)
        path = Path(inspect.getsourcefile(function)).resolve()
        if path not in self._texts and path.exists():  # a script or test beside the project
            self._take(path)
        name = function.__qualname__.partition(".")[0]
        if self.file(path) is None or name not in self.file(path).definitions:  # a notebook's cell
            return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
        return self._hash_from((path, name))

    def _hash_from(self, start: Definition) -> str:
        if start not in self._hashes:
            self._hashes[start] = self._hash_anew(start)
        return self._hashes[start]

    def _hash_anew(self, start: Definition) -> str:
        found: dict[Definition, str] = {}
        waiting, files = [start], set()
        while waiting:
            path, name = waiting.pop()
            file = self.file(path)
            if (path, name) in found or file is None or _is_left_out(path, name, file):
                continue
            if path not in files:
                files.add(path)
                for code in file.others:
                    found[path, f"line {len(found)}"] = code.text
                    waiting += self._named_by(file, code)
            codes = file.definitions[name]
            found[path, name] = " ".join(code.text for code in codes)
            for code in codes:
                waiting += self._named_by(file, code)
        root = import_root(start[0])
        lines = sorted(f"{_place(path, root)}:{name} {text}" for (path, name), text in found.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _named_by(self, file: SourceFile, code: Code) -> list[Definition]:
        """The definitions of the project that some code names."""
        found: list[Definition] = []
        for name in code.names:
            if name in file.definitions:
                found.append((file.path, name))
            elif name in file.imports:
                found += self._imported(file.path, *file.imports[name])
        return found

    def _imported(self, importer: Path, module: str, name: str) -> list[Definition]:
        """What `from module import name` stands for, all of a module where it stands for one."""
        for root in dict.fromkeys((import_root(importer), ROOT)):
            place = root.joinpath(*module.split("."))
            own = self.file(place.with_suffix(".py")) or self.file(place / "__init__.py")
            if name and own is not None and name in own.definitions:
                return [(own.path, name)]
            if name and own is not None and name in own.imports:
                return self._imported(own.path, *own.imports[name])
            part = self.file(place / f"{name}.py") or self.file(place / name / "__init__.py")
            whole = part if name else own
            if whole is not None:
                return [(whole.path, definition) for definition in whole.definitions]
        return []


def _place(path: Path, root: Path) -> str:
    """A file's name that is the same on every machine."""
    for base in (root, ROOT):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return path.name


def _is_left_out(path: Path, name: str, file: SourceFile) -> bool:
    if path.is_relative_to(ROOT / "common" / "run"):
        return path.name not in COMPUTES
    if path == ROOT / "common" / "config.py":  # its dataclasses count by the values that a step reads
        return name.endswith("_PRESETS") or any(code.is_class for code in file.definitions.get(name, ()))
    return name not in file.definitions


# ----------------------------------------------------------------------------------------------
# Inputs
# ----------------------------------------------------------------------------------------------

_MARK = "_cached_step"  # attribute of a module: (fingerprint, versions of its parameters at that time)


class Measured(dict[str, Tensor]):
    """What a cached measurement returned, by name; bears the step's fingerprint."""

    def __init__(self, arrays: Mapping[str, Tensor], fingerprint: str):
        super().__init__(arrays)
        self.fingerprint = fingerprint


def mark_trained(module: nn.Module, fingerprint: str) -> nn.Module:
    """Let a module bear the fingerprint of the step that trained it, until a parameter is changed."""
    setattr(module, _MARK, (fingerprint, _state_versions(module)))
    return module


def _state_versions(module: nn.Module) -> list[tuple[int, int]]:
    state = (*module.parameters(), *module.buffers())
    return [(id(value), value._version) for value in state]


def identity(value: Any, sources: Sources) -> str:
    """What a value is, as a short text: equal texts, equal values.

    Args:
        value: a number, text, enum, path, tensor, array, module, dataclass, function or class of the project,
            a mapping or sequence of such, or an object whose `made_of` is one; private fields of a dataclass
            (_name) do not count.
        sources: of the project, for the code of the classes that inputs are of.

    Raises:
        TypeError: for a value of another kind.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, enum.Enum, Path, range)):
        return repr(value)
    if isinstance(value, Tensor):
        return _tensor_identity(value, sources)
    if isinstance(value, (np.ndarray, np.generic)):
        return _contents(value)
    if isinstance(value, Measured):
        return f"measured {value.fingerprint}"
    if isinstance(value, nn.Module):
        return _module_identity(value, sources)
    if hasattr(value, "made_of"):
        return _digest(_class_identity(type(value), sources), identity(value.made_of, sources))
    if isinstance(value, Mapping):
        pairs = [(str(key), identity(item, sources)) for key, item in value.items()]
        return _digest(type(value).__name__, *map(repr, sorted(pairs)))
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [identity(item, sources) for item in value]
        return _digest("sequence", *(sorted(parts) if isinstance(value, (set, frozenset)) else parts))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = [spec.name for spec in dataclasses.fields(value) if not spec.name.startswith("_")]
        parts = [f"{name}={identity(getattr(value, name), sources)}" for name in named]
        return _digest(_class_identity(type(value), sources), *parts)
    if isinstance(value, torch.device):
        return "device"  # results do not depend on it but for rounding
    if inspect.isfunction(value) or inspect.isclass(value):
        return sources.code_hash(value)
    raise TypeError(
        f"a {type(value).__qualname__} among the inputs of a cached step: allowed: numbers, text, tensors,"
        " modules, dataclasses, and mappings or sequences of them"
    )


def _class_identity(kind: type, sources: Sources) -> str:
    try:
        return f"{kind.__qualname__} {sources.code_hash(kind)}"
    except (TypeError, OSError):  # of a library, or written in a test
        return kind.__qualname__


def _module_identity(module: nn.Module, sources: Sources) -> str:
    mark, versions = getattr(module, _MARK, (None, None))
    if mark is not None and versions == _state_versions(module):
        return f"trained {mark}"
    state = [f"{name} {_contents(value)}" for name, value in module.state_dict().items()]
    return _digest(repr(module), _class_identity(type(module), sources), *state)


def _tensor_identity(value: Tensor, sources: Sources) -> str:
    """Its contents, of a large tensor looked at once; its version counts what is written into it."""
    if value.numel() < LARGE or value.is_inference():
        return _contents(value)
    key = id(value), value._version
    if key not in sources.digests:
        sources.digests[key] = value, _contents(value)  # holding it keeps its id from being another's
    return sources.digests[key][1]


def _contents(value: Tensor | np.ndarray | np.generic) -> str:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        return _digest(str(value.dtype), str(tuple(value.shape)), flat.view(torch.uint8).numpy().data)
    array = np.ascontiguousarray(value)
    return _digest(str(array.dtype), str(array.shape), array.reshape(-1).view(np.uint8).data)


def _digest(*parts: str | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:32]


# ----------------------------------------------------------------------------------------------
# A step
# ----------------------------------------------------------------------------------------------


def fingerprint(step: Callable, settings: Mapping[str, Any], inputs: Sequence[Any], sources: Sources) -> str:
    """Of a cached step: its code, the settings it reads, its inputs and the packages."""
    told = [identity(value, sources) for value in inputs]
    values = {field: repr(value) for field, value in settings.items()}
    text = json.dumps([sources.code_hash(step), values, told, _versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _versions() -> list[str]:
    return [importlib.metadata.version(name) for name in COMPUTING]
