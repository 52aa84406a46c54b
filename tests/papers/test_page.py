"""docs/papers.md is what the files of the papers, and of what was measured, make of it."""

import json
from pathlib import Path

import papers_page
import pytest

from hf_refseg.papers import read_paper, results


def test_the_page_is_up_to_date() -> None:
    written = papers_page.PAGE.read_text(encoding="utf-8")
    assert written == papers_page.page(), "run: python benchmarks/papers_page.py"


@pytest.mark.parametrize("path", sorted(results.MEASURED.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_measured_is_of_a_table(path: Path) -> None:
    """A file that nothing reads would be a table that nobody sees."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == results.results_name(content["paper"], content["table"], content["dataset"])
    table = read_paper(content["paper"]).table(content["table"])
    assert content["dataset"] in results.read_measured(content["paper"], content["table"], table)
    assert any(row["runs"] for row in content["rows"])
