"""A table of a paper as text: its rows, the published numbers, and beside them what was measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .reader import Overrides, Row, Table

NOTHING = "-"
# Of metrics that no paper gives so many are shown.
FIRST_METRICS = 3


def table_cells(rows: Sequence[Row], measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """A heading, then a line of cells for each row: published numbers, and ours where there are any.

    Args:
        rows: of one table.
        measured: by the name of the row its finished runs, one for each seed, as `TableRun.results` has them.
    """
    published = published_columns(rows)
    ours = measured_columns(published, [run for runs in measured.values() for run in runs])
    shown = {name: [] for row in rows for name in [row.name]} | {name: list(runs) for name, runs in measured.items()}
    has_runs = any(shown.values())
    heading = ["row", *(f"{split} {metric}" for split, metric in published)]
    heading += [f"ours, {split} {metric}" for _, split, metric in ours]
    heading += ["ours, shuffled", "steps", "seeds"] if has_runs else []
    lines = []
    for row in rows:
        numbers = [row.published.get(split, {}).get(metric) for split, metric in published]
        cells = [row.name, *(NOTHING if number is None else f"{number:g}" for number in numbers)]
        runs = [run for run in shown[row.name] if not run["failed"]]
        cells += [
            spread([run["scores"].get(protocol, {}).get(split, {}).get(metric) for run in runs])
            for protocol, split, metric in ours
        ]
        if has_runs:
            main = ours[0][2] if ours else ""
            cells += [
                spread([(run["shuffled"] or {}).get(main) for run in runs]),
                spread([run["steps"] for run in runs], 0),
            ]
            cells.append(describe_seeds(shown[row.name]))
        lines.append(cells)
    return [heading, *lines]


def published_columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Split and metric of every published number, in the paper's order."""
    named = ((split, metric) for row in rows for split, scores in row.published.items() for metric in scores)
    return list(dict.fromkeys(named))


def measured_columns(
    published: Sequence[tuple[str, str]], runs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Protocol, split and metric of what is shown of runs: metrics that are published, or else the first ones."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for protocol, splits in run["scores"].items():
            found |= {(protocol, split): list(metrics) for split, metrics in splits.items()}
    asked = list(dict.fromkeys(metric for _, metric in published))
    chosen = {
        where: [metric for metric in asked if metric in metrics] or metrics[:FIRST_METRICS]
        for where, metrics in found.items()
    }
    return [(*where, metric) for where, metrics in chosen.items() for metric in metrics]


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
    """What a row changes of its recipe: fields of the configuration, and options."""
    fields = [f"{name}: {json.dumps(value)}" for name, value in over.config.items()]
    return "; ".join([*fields, *(f"--{name} {json.dumps(value)}" for name, value in over.options.items())])


def explanations(table: Table, rows: Sequence[Row], dataset: str | None) -> list[str]:
    """What stands below a table: its note, and those of rows; why a row is not run."""
    found = [table.note] if table.note else []
    for row in rows:
        said = [row.note] if row.note else []
        if row.impossible:
            said.append(f"not run: {row.impossible}")
        elif row.same_as:
            said.append(f"the same as {row.same_as}.")
        elif dataset is not None and dataset not in row.recipes:
            said.append(f"no recipe for {dataset}, only for {', '.join(row.recipes)}.")
        found += [f"{row.name}: {text}" for text in said]
    return found


def describe_source(rows: Sequence[Row]) -> str:
    """Of what data and protocol the published numbers are."""
    sources = dict.fromkeys(f"{row.dataset}, protocol {row.protocol}" for row in rows if row.published)
    return "; ".join(sources) or "no numbers"


def describe_runs(dataset: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Of what data and protocol our numbers are, and where they were measured."""
    protocols = dict.fromkeys(protocol for run in runs for protocol in run["scores"])
    sizes = dict.fromkeys(json.dumps(run["data_options"]) for run in runs)
    machines = dict.fromkeys(f"{run['machine']}, torch {run['torch']}, {run['date']}" for run in runs)
    options = [size for size in sizes if size != "{}"]
    return f"{' '.join([dataset, *options[:1]])}, protocol {', '.join(protocols)}; {'; '.join(machines)}"
