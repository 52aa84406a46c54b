"""`hf-refseg table`: the tables of the papers, shown, and run row by row."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..papers import Table
    from ..papers.running import TableRun

OUTPUT = Path("runs", "tables")
USAGE = (
    "hf-refseg table PAPER TABLE --dataset DATASET [--rows NAME ...] [--seeds N ...] [--output DIR] "
    "[further options of hf-refseg train]"
)


def table(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PAPER [TABLE [--dataset DATASET] [--option value]]",
            help="A paper, such as lavt, a table of it, such as 5 or figure 7, and how to run it.",
            show_default=False,
        ),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the tables of all papers, and end.")] = False,
) -> None:
    """Show a table of a paper, or train and score its rows and print them beside the published numbers.

    With `--dataset`, such as refshapes (generated scenes, small models) or refcoco, each row is trained and scored:
    `--rows NAME ...` runs these alone, `--seeds 0 1 2` each row three times, `--output DIR` says where (runs/tables).
    All other options are those of `hf-refseg train` and go before those of every row, such as `--data_dir data` or
    `--max_steps 500`. What is finished is not run again; what was cut off goes on from its newest checkpoint; several
    processes may share the output.
    """
    if show_list:
        typer.echo(list_tables())
        return
    if not arguments or arguments[0].startswith("-"):
        raise typer.BadParameter("Name a paper first; --list shows all tables.", param_hint="PAPER")
    from ..papers import read_paper

    paper, *rest = arguments
    if not rest:
        typer.echo(list_tables([paper]))
        return
    if rest[0].startswith("-"):
        raise typer.BadParameter(f"Name a table of {paper} first; --list shows them.", param_hint="TABLE")
    # Some have names of several words, such as figure 7.
    words = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
    number, rest = " ".join(rest[:words]), rest[words:]
    given, further = read_options(rest)
    found = read_paper(paper).table(number)
    if given.dataset is None:
        if rest:
            where = " or ".join(found.datasets()) or "no data set, as none of its rows can be run"
            raise typer.BadParameter(f"{rest[0]} is for rows that are run: name {where}.", param_hint="--dataset")
        typer.echo(show_table(paper, number, found))
        return
    from ..papers.running import TableRun, run_table

    chosen = TableRun.of(paper, number, given.dataset, further, given.output)
    run_table(chosen, given.rows, given.seeds, typer.echo)
    typer.echo(show_results(chosen))


def read_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of the command, of which some have several values, and those that are for `hf-refseg train`."""
    parser = argparse.ArgumentParser(prog="hf-refseg table", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--dataset", help="data set to train and score the rows on")
    parser.add_argument("--rows", nargs="+", help="run these alone; all if absent")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each is a run of each row; 0 if absent")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of runs and results")
    return parser.parse_known_args(list(arguments))


def list_tables(papers: Sequence[str] | None = None) -> str:
    """A line for each table: paper, number, how many rows can be run, on what data, and what it asks."""
    from ..messages import align
    from ..papers import paper_names, read_paper

    rows = [
        (name, number, f"{len(runnable(table))} of {len(table.rows)}", ", ".join(table.datasets()), table.title)
        for name in papers or paper_names()
        for number, table in read_paper(name).tables.items()
    ]
    return align([("paper", "table", "rows that run", "on", "what it asks"), *rows])


def runnable(table: Table) -> list[str]:
    """The names of the rows that are not impossible."""
    return [row.name for row in table.rows if row.impossible is None]


def show_table(paper: str, number: str, table: Table) -> str:
    """A table as it was published, what its rows change, what was measured, and how it is run."""
    from ..messages import align
    from ..papers.results import (
        change_cells,
        describe_results,
        describe_source,
        explanations,
        measured_cells,
        published_cells,
        read_measured,
        run_command,
    )

    cells = published_cells(table.rows)
    lines = [align(map(list.__add__, cells, change_cells(table)))]
    for results in read_measured(paper, number, table).values():
        names = [[each[0]] for each in cells]
        measured = measured_cells(table.rows, results)
        lines += [f"\nMeasured: {describe_results(results)}", align(map(list.__add__, names, measured))]
    lines += explanations(table, table.rows, None)
    if table.datasets():
        lines.append(f"Run it: {run_command(paper, number)} --dataset {' | '.join(table.datasets())}")
    return "\n".join(
        [
            headline(paper, number, table),
            f"Published: {describe_source(table.rows)}",
            *lines,
        ]
    )


def headline(paper: str, number: str, table: Table) -> str:
    """What a table is, and what it asks."""
    from ..papers.reader import title_of

    title = title_of(number)
    return f"{title[0].upper()}{title[1:]} of {paper}: {table.title}"


def show_results(run: TableRun) -> str:
    """The rows of a data set with published numbers and ours."""
    from ..messages import align
    from ..papers.results import describe_results, describe_source, explanations, measured_cells, published_cells

    rows, results = run.rows(), run.results()
    return "\n".join(
        [
            f"\n{headline(run.paper, run.number, run.table)}",
            f"Published: {describe_source(rows)}",
            f"Ours: {describe_results(results)}",
            align(map(list.__add__, published_cells(rows), measured_cells(rows, results))),
            *explanations(run.table, rows, run.dataset),
            f"Results: {run.file}",
        ]
    )
