"""The tests themselves: what several of them share lies in `tests/support`, so that each file can be run and moved."""

import ast
from pathlib import Path

from places import TESTS


def imported_names(path: Path) -> set[str]:
    """First parts of the names of all modules that a file imports, inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_no_test_imports_a_test() -> None:
    files = list(TESTS.rglob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")}
    assert "test_tests" in tests and len(tests) > 40
    imports = {path.relative_to(TESTS).as_posix(): imported_names(path) & {*tests, "conftest"} for path in files}
    assert {path: names for path, names in imports.items() if names} == {}
