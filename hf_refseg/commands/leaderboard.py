"""`hf-refseg leaderboard`: Markdown tables of results, each of which holds what can be compared alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from ..evaluation.saved_results import Condition, SavedResult


class TableKey(NamedTuple):
    """What results have in common that stand in one table: no number of another table can be compared with them."""

    condition: Condition
    training_regime: str
    max_images: int | None
    sentences: frozenset


INTRODUCTION = (
    "Scores in percent, with 95 % bootstrap intervals over images or videos. Each table is about one data set, split, "
    "protocol and kind of training data, and about the same sentences: its numbers cannot be compared with those of "
    "another one. The best first score comes first. Whether a system is better than another one is told by "
    "`hf-refseg compare`, not by whether their intervals overlap."
)


def leaderboard(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...", help="Results of `hf-refseg evaluate`: JSON files, or folders with any in them."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Markdown file.")] = Path("leaderboard.md"),
) -> None:
    """Write tables of results that mix no data sets, splits, protocols, training regimes or sentences."""
    from ..evaluation.saved_results import find_results
    from ..files import require_no_folder, require_writable, write_whole
    from ..messages import counted

    require_writable(output.parent)
    require_no_folder(output, "--output")
    found, others = find_results(results)
    tables = sort_into_tables(found)
    text = write_leaderboard(tables)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, lambda partial: partial.write_text(text, encoding="utf-8"))
    told = f"; {counted(others, 'other JSON file')} in the folders" if others else ""
    typer.echo(f"{output}  {counted(len(found), 'result')} in {counted(len(tables), 'table')}{told}")


def sort_into_tables(results: Iterable[SavedResult]) -> dict[TableKey, list[SavedResult]]:
    """The results by what they have in common, the tables of a data set next to each other.

    Raises:
        ValueError: two files hold the same answers of one system.
    """
    from ..evaluation.comparison import sentence_of
    from ..evaluation.results import TRAINING_REGIMES

    tables: dict[TableKey, list[SavedResult]] = {}
    for result in results:
        sentences = frozenset(map(sentence_of, result.records))
        table = tables.setdefault(TableKey(result.condition, result.training_regime, result.max_images, sentences), [])
        for other in table:
            if (other.system, other.records) == (result.system, result.records):
                raise ValueError(f"{other.path} and {result.path} hold the same result: leave one of them out.")
        table.append(result)
    regimes = list(TRAINING_REGIMES)

    def place(key: TableKey) -> tuple:
        partial = key.max_images or 0
        return key.condition.describe_data(), key.condition.protocol, partial, regimes.index(key.training_regime)

    return {key: tables[key] for key in sorted(tables, key=place)}


def write_leaderboard(tables: Mapping[TableKey, Sequence[SavedResult]]) -> str:
    """The Markdown of all tables."""
    from ..hub.markdown import escape

    parts, data = ["# Leaderboard", INTRODUCTION], None
    headings: list[str] = []
    for key, results in tables.items():
        if key.condition.describe_data() != data:
            data, headings = key.condition.describe_data(), []
            parts.append(f"## {escape(data)}")
        headings.append(describe_table(key))
        times = headings.count(headings[-1])
        parts.append(f"### {escape(headings[-1])}{f', other sentences ({times})' if times > 1 else ''}")
        parts.append(write_table(results))
    return "\n\n".join(parts) + "\n"


def describe_table(key: TableKey) -> str:
    """The heading of a table below that of its data."""
    from ..evaluation.results import TRAINING_REGIMES

    partial = "" if key.max_images is None else f", the first {key.max_images} {key.condition.kind}s alone"
    return f"Protocol {key.condition.protocol}, {TRAINING_REGIMES[key.training_regime]}{partial}"


def write_table(results: Sequence[SavedResult]) -> str:
    """A row for each system, and what the sentences are."""
    from ..evaluation.results import count_sentences, key_of
    from ..evaluation.saved_results import name_systems
    from ..hub.markdown import to_table
    from ..messages import counted

    first = results[0]
    groups = len({key_of(record)[0] for record in first.records})
    scores = list(dict.fromkeys(name for result in results for name in result.metrics))
    named = zip(name_systems(results), results, strict=True)
    ranked = sorted(named, key=lambda row: (-row[1].metrics[scores[0]], row[0]))
    rows = [[show_name(name, result), *(show_score(result, score) for score in scores)] for name, result in ranked]
    about = f"{counted(count_sentences(first.records), 'sentence')} about {counted(groups, first.condition.kind)}."
    return f"{about}\n\n{to_table(['system', *scores], rows)}"


def show_name(name: str, result: SavedResult) -> str:
    """A system, and how much it left out."""
    from ..messages import counted

    if not result.unanswered:
        return name
    return f"{name} ({counted(result.unanswered, 'sentence')} without a prediction, scored as empty masks)"


def show_score(result: SavedResult, score: str) -> str:
    """A score with its interval, as far as there are both."""
    if score not in result.metrics:
        return ""
    bounds = result.intervals.get(score)
    interval = "" if bounds is None else " ({:.2f} to {:.2f})".format(*bounds)
    return f"{result.metrics[score]:.2f}{interval}"
