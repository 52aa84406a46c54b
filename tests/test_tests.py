"""The tests import no test, so that each file can be run and moved; their processes are fresh; files lie as told."""

import ast
import re
import sys
from pathlib import Path

import pytest
from fresh_process import run_python
from places import CHECKOUT, TESTS


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


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their names alone: of two it would run one."""
    # Those of transformers' suite run by themselves.
    names = [path.name for path in TESTS.rglob("test_*.py") if path.parent.name != "transformers_suite"]
    assert sorted(names) == sorted(set(names))


def test_the_layout_that_contributors_read_is_that_of_the_files() -> None:
    page = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (layout,) = re.findall(r"```\n(modeling/.*?)```", page, re.DOTALL)
    found, part = 0, CHECKOUT
    for line in layout.splitlines():
        # A file is named beside the part that it belongs to, or in what is said of that.
        first, *others = (name.replace("<method>", "lavt") for name in re.findall(r"[\w<>]+(?:\.py|/)", line))
        part = part if line.startswith(" ") else CHECKOUT / first
        folder = part / first if line.startswith(" ") else part
        assert folder.exists(), f"CONTRIBUTING.md names {first}: {line}"
        for name in others:
            assert (part / name).exists() or (folder / name).exists(), f"CONTRIBUTING.md names {name}: {line}"
        found += 1 + len(others)
    assert found > 30


@pytest.mark.slow_process
def test_a_new_process_does_not_find_what_a_test_before_made_importable(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "left_behind.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "from importlib.util import find_spec\nprint(find_spec('left_behind'))"
    # Modules that no other test begins with: its process is a new one.
    assert run_python(code, cwd=elsewhere, imports=("this",)).split()[-1] == "None"
