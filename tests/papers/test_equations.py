"""The table "paper | here" at the top of a method's file: what it names is there, and cites its equations."""

import importlib
import inspect
import re
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from places import CHECKOUT

from hf_refseg.auto import registered_methods

HEADING = "| paper | here |"
NUMBERS = r"\d+(?:(?:, and |, | and | to )\d+)*"


class Entry(NamedTuple):
    """A row of such a table: what of the paper, and the names with the module that each is in, "" for its own."""

    module: str
    paper: str
    here: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.module.removeprefix('modeling_')}: {self.paper}"


def module_named(name: str) -> ModuleType:
    return importlib.import_module(f"hf_refseg.modeling.{name}")


def entries_of(module: str, docstring: str) -> list[Entry]:
    """The rows of the table in a docstring; a module in brackets is that of all names since the last one."""
    table = docstring.partition(HEADING)[2].partition("\n\n")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    entries = []
    for line in lines[1:]:
        paper, here = (cell.strip() for cell in line.strip("|").split(" | "))
        names: list[tuple[str, str]] = []
        for part, sibling in re.findall(r"([^()]+)(?:\((\w+)\))?", here):
            names += [(name, sibling) for name in re.findall(r"`([^`]+)`", part)]
        entries.append(Entry(module, paper, tuple(names)))
    return entries


def equations_in(text: str) -> set[int]:
    """The numbers of equations that a text cites: "equation 8", "equations 8 and 9", "equations 1 to 5"."""
    numbers: set[int] = set()
    # A citation may go on in the next line, of a docstring or of a comment.
    for cited in re.findall(rf"\bequations? ({NUMBERS})", re.sub(r"\s*\n[\s#]*", " ", text), re.IGNORECASE):
        for part in re.split(r", and |, | and ", cited):
            ends = [int(number) for number in part.split(" to ")]
            numbers.update(range(min(ends), max(ends) + 1))
    return numbers


def find(entry: Entry, name: str, sibling: str) -> Any:
    """What a name means in the module of the table, or in the sibling in brackets."""
    found = module_named(sibling or entry.module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


MODULES = sorted(
    path.stem
    for path in (CHECKOUT / "modeling").glob("modeling_*.py")
    if path.stem.removeprefix("modeling_") in registered_methods()
)
ENTRIES = [entry for module in MODULES for entry in entries_of(module, module_named(module).__doc__ or "")]


@pytest.mark.parametrize("module", MODULES)
def test_every_method_leads_from_its_paper_to_its_code(module: str) -> None:
    assert [entry for entry in ENTRIES if entry.module == module]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_every_name_is_there_and_cites_its_equations(entry: Entry) -> None:
    assert entry.here, "no name stands in backticks"
    sources = [inspect.getsource(find(entry, *name)) for name in entry.here]
    assert equations_in(entry.paper) <= set().union(*map(equations_in, sources))


def test_tables_and_citations_are_read_as_they_are_written() -> None:
    text = "One line.\n\n| paper | here |\n| --- | --- |\n| equations 1 to 3 | `A`, `B.c` (layers_refseg), `D` |\n"
    (entry,) = entries_of("modeling_lavt", f"{text}| section 3.1: x | `E` |\n\nMore | text |.")[:1]
    assert entry.here == (("A", "layers_refseg"), ("B.c", "layers_refseg"), ("D", ""))
    assert equations_in(entry.paper) == {1, 2, 3}
    assert equations_in("Equations 8\n    # and 9, and of equation 11 (a)") == {8, 9, 11}
    assert equations_in("equations 1, 2, and 5 to 7; section 4") == {1, 2, 5, 6, 7}
