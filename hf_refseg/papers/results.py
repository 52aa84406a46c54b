"""A table of a paper as text: its rows, the published numbers, and beside them what was measured."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..files import slug
from ..modeling.json_files_refseg import read_mapping
from .reader import FOLDER, Overrides, Row, Table, is_generated

MEASURED = FOLDER / "measured"
NOTHING = "-"
# Of metrics that no paper gives so many are shown.
FIRST_METRICS = 3


def results_name(paper: str, number: str, dataset: str) -> str:
    """The name of the file with the results of a table on a data set."""
    return f"{paper}_{slug(number)}_{dataset}.json"


def run_command(paper: str, number: str) -> str:
    """The command that shows a table, and runs it with `--dataset`."""
    return shlex.join(["hf-refseg", "table", paper, number])


def read_measured(paper: str, number: str, table: Table) -> dict[str, dict[str, Any]]:
    """What was measured of a table and comes with the library, by data set, as `TableRun.results` has it.

    Raises:
        ValueError: a file is damaged, or has a row that the table does not have.
    """
    found = {}
    for dataset in table.datasets():
        path = MEASURED / results_name(paper, number, dataset)
        if path.is_file():
            found[dataset] = read_mapping(path, "Measure the table again, or delete it.")
            for row in found[dataset]["rows"]:
                table.row(row["name"])
    return found


def published_cells(rows: Sequence[Row]) -> list[list[str]]:
    """A heading, then a line of cells for each row: its name and the published numbers."""
    named = ((split, metric) for row in rows for split, scores in row.published.items() for metric in scores)
    columns = list(dict.fromkeys(named))
    numbers = [[row.published.get(split, {}).get(metric) for row in rows] for split, metric in columns]
    heading = ["row", *(f"{split} {metric}" for split, metric in columns)]
    return [heading, *map(list, zip([row.name for row in rows], *map(with_equal_digits, numbers), strict=True))]


def with_equal_digits(numbers: Sequence[float | None]) -> list[str]:
    """Numbers of a column with as many digits behind the point as the longest, as papers print them."""
    digits = max(len(f"{number:g}".partition(".")[2]) for number in numbers if number is not None)
    return [NOTHING if number is None else f"{number:.{digits}f}" for number in numbers]


def measured_cells(rows: Sequence[Row], results: Mapping[str, Any]) -> list[list[str]]:
    """A heading, then a line of cells for each row: our numbers, steps and seeds.

    `results` are those of `TableRun.results`; rows that it does not have were not run.
    """
    found = {row["name"]: row["runs"] for row in results["rows"]}
    of_rows = [found.get(row.name, []) for row in rows]
    asked = list(dict.fromkeys(metric for row in rows for scores in row.published.values() for metric in scores))
    columns = measured_columns(asked, [run for runs in of_rows for run in runs])
    # The nearer it is to the score itself, the less the model reads.
    with_others = [metric for _, _, metric in columns[:1]]
    ours = [*(f"{split} {metric}" for _, split, metric in columns), " ".join(["shuffled", *with_others])]
    heading = [*(f"ours, {name}" for name in ours), "steps", "seeds"]
    lines = []
    for runs in of_rows:
        ended = [run for run in runs if not run["failed"]]
        scores = [[find_score(run, *column) for run in ended] for column in columns]
        shuffled = [(run["shuffled"] or {}).get(metric) for run in ended for metric in with_others]
        steps = spread([run["steps"] for run in ended], digits=0)
        lines.append([*map(spread, scores), spread(shuffled), steps, describe_seeds(runs)])
    return [heading, *lines]


def find_score(run: Mapping[str, Any], protocol: str, split: str, metric: str) -> float | None:
    return run["scores"].get(protocol, {}).get(split, {}).get(metric)


def measured_columns(asked: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Protocol, split and metric of what is shown of runs: metrics that are published, or else the first ones."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for protocol, splits in run["scores"].items():
            found |= {(protocol, split): list(metrics) for split, metrics in splits.items()}
    # A run that rows of several tables share may have been scored in other ways as well.
    shown = [(*where, metric) for where, metrics in found.items() for metric in asked if metric in metrics]
    return shown or [(*where, metric) for where, metrics in found.items() for metric in metrics[:FIRST_METRICS]]


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean and, of several, standard deviation; `NOTHING` where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 or len(set(known)) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def describe_seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """How many runs there are, and how many of them came to no end."""
    failed = sum(1 for run in runs if run["failed"])
    return f"{len(runs)}" + (f", {failed} not finite" if failed else "")


def describe_overrides(over: Row | Overrides) -> str:
    """What goes before a recipe: fields of the configuration, and options."""
    fields = [f"{name}: {json.dumps(value)}" for name, value in over.config.items()]
    return "; ".join([*fields, *(f"--{name} {json.dumps(value)}" for name, value in over.options.items())])


def change_cells(table: Table) -> list[list[str]]:
    """A heading, then a line of cells for each row: what goes before its recipe, and what does on generated scenes."""
    lines = [[describe_change(table, row), describe_small_change(row)] for row in table.rows]
    heading = ["over the recipe", "on generated scenes"]
    shown = 2 if any(small for _, small in lines) else 1
    return [cells[:shown] for cells in [heading, *lines]]


def describe_change(table: Table, row: Row) -> str:
    """The recipe where it is not the table's, that which is trained before it, and what goes before both."""
    recipes = [
        name for data, name in row.recipes.items() if not is_generated(data) and name != table.recipes.get(data)
    ]
    before = [f"after {name}" for data, name in row.starts_from.items() if not is_generated(data)]
    return "; ".join(filter(None, [*(f"recipe {name}" for name in recipes), *before, describe_overrides(row)]))


def describe_small_change(row: Row) -> str:
    """On generated scenes the recipe that is trained before, and what takes the place of the changes."""
    before = [f"after {name}" for data, name in row.starts_from.items() if is_generated(data)]
    over = [] if row.generated is None else [describe_overrides(row.generated) or "nothing"]
    return "; ".join([*before, *over])


def explanations(table: Table, rows: Sequence[Row], dataset: str | None) -> list[str]:
    """What stands below a table: its note, and those of rows; why a row is not run."""
    found = [table.note] if table.note else []
    for row in rows:
        said = [row.note] if row.note else []
        if row.impossible:
            said.append(f"not run: {row.impossible}")
        elif row.same_as:
            said.append(f"the same as {row.same_as}.")
        elif row.elsewhere:
            said.append(
                f"scored on {row.dataset}, which its recipe does not train on; on generated scenes on such ones."
            )
        if row.impossible is None and row.same_as is None and dataset not in (None, *row.recipes):
            said.append(f"no recipe for {dataset}, only for {', '.join(row.recipes)}.")
        found += [f"{row.name}: {text}" for text in said]
    return found


def describe_source(rows: Sequence[Row]) -> str:
    """Of what data and protocol the published numbers are."""
    numbers = [row for row in rows if row.published]
    sources = []
    for protocol in dict.fromkeys(row.protocol for row in numbers):
        datasets = dict.fromkeys(row.dataset for row in numbers if row.protocol == protocol)
        sources.append(f"{', '.join(datasets)}, protocol {protocol}")
    return "; ".join(sources) or "no numbers"


def describe_results(results: Mapping[str, Any]) -> str:
    """Of what data and protocol our numbers are, with what options, and where they were measured."""
    runs = [run for row in results["rows"] for run in row["runs"]]
    # What a row itself is about is not that of all.
    of_runs = [{f"{name} {value}" for name, value in run["data_options"].items()} for run in runs]
    options = sorted(set.intersection(*of_runs)) if of_runs else []
    for name, value in results["options"].items():
        if name != "dataset_options":
            options.append(" ".join(value) if isinstance(value, list) else f"--{name} {json.dumps(value)}")
    protocols = dict.fromkeys(protocol for run in runs for protocol in run["scores"])
    machines = dict.fromkeys(f"{run['machine']}, torch {run['torch']}, {run['date']}" for run in runs)
    data = " ".join(filter(None, [results["dataset"], f"({', '.join(options)})" if options else ""]))
    return "; ".join([f"{data}, protocol {', '.join(protocols) or 'unknown'}", *machines])
