"""Writes docs/papers.md: every table of the papers, how its rows are run, and what was measured of them.

What was measured is a file that `hf-refseg table PAPER TABLE --dataset DATASET` leaves in its output, such as
lavt_5_refshapes.json, copied into hf_refseg/papers/measured/.

    python benchmarks/papers_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

from hf_refseg.hub.markdown import escape, to_table
from hf_refseg.papers import Paper, Table, paper_names, read_paper
from hf_refseg.papers.reader import title_of
from hf_refseg.papers.results import (
    change_cells,
    describe_results,
    describe_source,
    explanations,
    measured_cells,
    published_cells,
    read_measured,
    run_command,
)

PAGE = Path(__file__).parents[1] / "docs" / "papers.md"
BEGINNING = """\
# The papers, table by table

Every table and figure of the papers that shows what a system scores, with the rows of the paper's own systems, also
where a part of another system is built into them, and with those of others where designs are compared; where a table
lists the state of the art, a sentence stands for the others. Below each table stands what was measured of it on
generated scenes, as far as it was, and why a row cannot be run.
`python benchmarks/papers_page.py` writes this page from `hf_refseg/papers/`.

A row is a recipe and what goes before it: fields of the model's configuration, and options of `hf-refseg train`;
"after" names the recipe that is trained first, and whose model the row goes on from. On generated scenes
(`refshapes`, `grefshapes`, `refshapes_video`) small models are trained from random weights in minutes. There an
ablation need not turn out as in the paper, which starts from pretrained encoders and trains for days. Published
numbers are of the data set and the protocol that are named above them, and so are ours. "Shuffled" is the score with
the sentences of other images: the nearer it is, the less a model reads.
[The command line](command_line.md#table) says how rows are run.

```bash
hf-refseg table --list
```
"""


def page() -> str:
    """The text of the whole page."""
    return "\n".join([BEGINNING, *(describe_paper(name, read_paper(name)) for name in paper_names())])


def describe_paper(name: str, paper: Paper) -> str:
    tables = [describe_table(name, number, table) for number, table in paper.tables.items()]
    left_out = [f"- {escape(number)}: {with_code(why)}" for number, why in paper.left_out.items()]
    ending = ["Not here:\n", *left_out, ""] if left_out else []
    return "\n".join([f"## {escape(paper.title)}\n", f"[{name}]({paper.url})\n", *tables, *ending])


def describe_table(paper: str, number: str, table: Table) -> str:
    published = published_cells(table.rows)
    recipes = ", ".join(dict.fromkeys(table.recipes.values()))
    sentences = [table.title, f"Published: {describe_source(table.rows)}.", f"Recipes: {recipes}." if recipes else ""]
    parts = [
        f"### {paper}, {escape(title_of(number))}\n",
        f"{with_code(' '.join(filter(None, sentences)))}\n",
        f"{to_markdown(published, change_cells(table))}\n",
    ]
    names = [cells[:1] for cells in published]
    for results in read_measured(paper, number, table).values():
        parts += [
            f"Measured: {escape(describe_results(results))}.\n",
            f"{to_markdown(names, measured_cells(table.rows, results))}\n",
        ]
    if notes := explanations(table, table.rows, None):
        parts.append("\n".join(f"- {with_code(note)}" for note in notes) + "\n")
    if datasets := table.datasets():
        commands = "\n".join(f"{run_command(paper, number)} --dataset {dataset}" for dataset in datasets)
        parts.append(f"```bash\n{commands}\n```\n")
    return "\n".join(parts)


def with_code(text: str) -> str:
    """Markdown that shows the text as it is, but for what stands between backticks, which is code."""
    codes = iter(re.findall("`[^`]*`", text))
    return re.sub(r"\\`.*?\\`", lambda _: next(codes), escape(text))


def to_markdown(left: list[list[str]], right: list[list[str]]) -> str:
    """A table of the cells of both, line by line."""
    heading, *lines = map(list.__add__, left, right)
    return to_table(heading, lines)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
