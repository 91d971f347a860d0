"""What a Python file imports, for the tests of the layout."""

import ast
from pathlib import Path


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a Python file imports: `from a.b import c` gives a.b and a.b.c."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules
