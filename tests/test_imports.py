"""Who imports whom, read from the code: no circle, and the directions that keep its parts apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from places import CHECKOUT, EXAMPLES

import hf_refseg.evaluation
from hf_refseg.auto import registered_methods

# Where the modules of each package lie. Scripts are imported by their bare names.
FOLDERS = {
    "hf_refseg": "hf_refseg",
    "hf_refseg.modeling": "modeling",
    "hf_refseg.datasets_scripts": "datasets_scripts",
    "": "examples",
}
# What each part may import beside itself: a package, or single modules of it. Those not named here may import all.
MAY_IMPORT = {
    "modeling": (),
    "messages": ("modeling",),
    "files": ("modeling", "messages"),
    "datasets_scripts": (
        *("data.rows", "data.masks", "data.findings", "data.json_list"),
        *("modeling", "files", "messages"),
    ),
    "data": (
        *("visualization", "modeling", "files", "messages"),
        *("hub.dataset_card", "hub.markdown", "hub.uploads"),
    ),
    "visualization": ("modeling", "files", "messages"),
    "evaluation": ("data", "visualization", "modeling", "files", "messages", "yaml_texts"),
    "onnx": ("modeling",),
    "export": ("onnx", "datasets_scripts", "hub.markdown", "modeling", "files", "messages"),
    "labeling": (
        *("evaluation", "data", "datasets_scripts", "hub.dataset_card", "hub.markdown", "visualization"),
        *("modeling", "files", "messages", "yaml_texts"),
    ),
    "convert": ("modeling", "files", "messages"),
    "training": (
        *("data", "evaluation", "visualization", "hub", "auto", "shipped"),
        *("modeling", "files", "messages", "yaml_texts"),
    ),
    "papers": ("training", "evaluation", "hub", "data", "modeling", "files", "messages", "yaml_texts"),
    "systems": (
        *("onnx", "data", "evaluation", "hub", "training.adapters", "auto"),
        *("shipped", "modeling", "files", "messages"),
    ),
    "hub": ("training", "convert", "data", "evaluation", "auto", "modeling", "files", "messages", "yaml_texts"),
}
MODELING = CHECKOUT / "modeling"
METHODS = set(registered_methods())


@cache
def modules() -> dict[str, Path]:
    """The file of every module, the command line and the examples among them."""
    found = {"hf_refseg_cli": CHECKOUT / "hf_refseg_cli.py"}
    for package, folder in FOLDERS.items():
        for path in (CHECKOUT / folder).rglob("*.py"):
            parts = path.relative_to(CHECKOUT / folder).with_suffix("").parts
            found[".".join(filter(None, [package, *parts])).removesuffix(".__init__")] = path
    return found


@cache
def nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))))


@cache
def imported_by(module: str) -> set[str]:
    """The modules of ours that one imports: at its top, in functions or for types."""
    names: set[str] = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(names_of(node, module))
    return (names & modules().keys()) - {module}


def named_by(module: str) -> set[str]:
    """The modules of ours that one names in a text, to import them when they are asked for."""
    found = [re.fullmatch(r"(hf_refseg)?(\.[\w.]+)(:\w+)?", text) for text in texts_of(module)]
    return {f"hf_refseg{match[2]}" for match in found if match} & modules().keys()


def texts_of(module: str) -> set[str]:
    return {node.value for node in nodes(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def names_of(node: ast.ImportFrom, module: str) -> Iterator[str]:
    """The modules that one statement takes something from."""
    base = node.module or ""
    if node.level:
        is_package = modules()[module].name == "__init__.py"
        parts = module.split(".") if is_package else module.split(".")[:-1]
        base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
    for alias in node.names:
        name = f"{base}.{alias.name}"
        yield name if name in modules() else base


def within(module: str, part: str) -> bool:
    return f"{module}.".startswith(f"hf_refseg.{part}.")


def test_no_module_imports_itself_in_a_circle() -> None:
    imports = {module: imported_by(module) | named_by(module) for module in modules()}
    assert len(imports) > 100 and sum(map(len, imports.values())) > 400
    assert {"hf_refseg.data.loading", "hf_refseg.training.trainer"} <= imports["hf_refseg"]
    assert "hf_refseg.datasets_scripts.refer" in imports["hf_refseg.data.catalog"]
    # Raises CycleError, which names the circle.
    TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_each_part_imports_what_lies_below_it(part: str) -> None:
    allowed = (part, *MAY_IMPORT[part])
    wrong = {
        f"{module} imports {imported}"
        for module in modules()
        if within(module, part)
        for imported in imported_by(module)
        if not any(within(imported, each) for each in allowed)
    }
    assert wrong == set()


def test_what_travels_with_a_checkpoint_imports_its_siblings_alone_and_at_the_top() -> None:
    """transformers copies the files that `from .x import y` names, and runs them where this library is absent."""
    for module in filter(lambda name: within(name, "modeling"), modules()):
        ours = [
            node
            for node in nodes(module)
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("hf_refseg"))
        ]
        assert all(node.level == 1 and node.module and "." not in node.module for node in ours), module
        assert all(node.col_offset == 0 for node in ours), module


@pytest.mark.parametrize("part", ["data", "evaluation", "datasets_scripts"])
def test_data_and_scores_know_no_method(part: str) -> None:
    for module in filter(lambda name: within(name, part), modules()):
        files = {f"hf_refseg.modeling.{kind}_{method}" for method in METHODS for kind in ("modeling", "configuration")}
        assert not imported_by(module) & files, module
        # One of the protocols is called after a method.
        assert not texts_of(module) & (METHODS - {"lavt"}), module


def test_nothing_imports_commands_and_examples() -> None:
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {"run_ris", "run_rvs"} <= examples
    for module in modules():
        imported = imported_by(module)
        assert not imported & examples, module
        if module != "hf_refseg_cli" and not within(module, "commands"):
            assert not any(within(each, "commands") for each in imported), module


def test_a_file_that_travels_with_a_checkpoint_is_read_in_one_go() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in MODELING.glob("*.py")}
    assert len(lines) > 30
    assert {name: count for name, count in lines.items() if count > 500} == {}
    # The contract of a method, and nothing else.
    assert lines["modeling_refseg.py"] <= 300


@pytest.mark.parametrize("package", [hf_refseg, hf_refseg.evaluation], ids=lambda package: package.__name__)
def test_what_type_checkers_read_is_what_is_imported_when_it_is_asked_for(package: ModuleType) -> None:
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {each.name: node.module for node in block.body for each in node.names}
    at_once = {each.name for node in tree.body if isinstance(node, ast.ImportFrom) for each in node.names}
    assert imported.keys() == {*package.__all__} - at_once
    for name, module in imported.items():
        place = import_module(f"{package.__name__}.{module}")
        assert getattr(package, name) is getattr(place, name)
