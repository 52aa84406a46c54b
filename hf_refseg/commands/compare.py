"""`hf-refseg compare`: which system is better on the same sentences, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..evaluation.saved_results import Condition, SavedResult

SHOWN_CASES = 10


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="A B...", help="Results of `hf-refseg evaluate`: JSON files, or folders of them."),
    ],
    common: Annotated[
        bool, typer.Option("--common", help="Compare the sentences that all have, in place of refusing others.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for comparison.json; by default runs/compare/<A>_<B>."),
    ] = None,
) -> None:
    """Compare systems on the same sentences: scores, differences with 95 % intervals and p-values, and single cases.

    Of folders everything is compared that all of them hold a result of. Images (or videos) are drawn for all systems
    together, so that a difference may be sure where the intervals of the scores overlap.
    """
    from ..evaluation.saved_results import name_systems
    from ..files import require_writable, slug, write_json

    if len(results) < 2:
        raise ValueError("Name two results at least, of which each is of another system.")
    folder = Path("runs", "compare", "_".join(slug(path.stem) for path in results)[:100]) if output is None else output
    require_writable(folder)
    reports = []
    for condition, found in match_results(results).items():
        report = report_comparison(condition, dict(zip(name_systems(found), found, strict=True)), only_common=common)
        typer.echo(f"{show_report(condition, report)}\n")
        reports.append(report)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", {"comparisons": reports})
    typer.echo(f"{folder / 'comparison.json'}")


def match_results(paths: Sequence[Path]) -> dict[Condition, list[SavedResult]]:
    """The results of the same that all paths have, one of each path; prints on stderr what only some of them have.

    Raises:
        ValueError: a path has two results of the same, or nothing is in all of them; or a file is no result.
    """
    from ..evaluation.saved_results import find_results

    of_paths: list[dict[Condition, SavedResult]] = []
    for path in paths:
        found: dict[Condition, SavedResult] = {}
        for result in find_results([path])[0]:
            other = found.setdefault(result.condition, result)
            if other is not result:
                raise ValueError(
                    f"{other.path} and {result.path} are both about {result.condition}: name one of them."
                )
        of_paths.append(found)
    everything = dict.fromkeys(condition for found in of_paths for condition in found)
    matched = {
        condition: [found[condition] for found in of_paths]
        for condition in everything
        if all(condition in found for found in of_paths)
    }
    if not matched:
        told = [
            f"{path} has {'; '.join(map(str, list(found)[:3]))}{' and others' if len(found) > 3 else ''}"
            for path, found in zip(paths, of_paths, strict=True)
        ]
        raise ValueError(f"Nothing was scored in all of them, on the same data by one protocol: {', '.join(told)}.")
    if left_out := [str(condition) for condition in everything if condition not in matched]:
        typer.echo(f"Left out, as not all have a result of it: {'; '.join(left_out)}", err=True)
    return matched


def report_comparison(
    condition: Condition, results: Mapping[str, SavedResult], *, only_common: bool
) -> dict[str, Any]:
    """What the JSON file tells of a comparison, by system, by pair of systems, and by sentence.

    Raises:
        ValueError: the sentences are not the same; with `only_common`, none is in all of them.
    """
    from ..evaluation import compare_records, same_sentences
    from ..evaluation.comparison import most_different
    from ..evaluation.results import count_sentences, key_of
    from ..evaluation.video import SEQUENCE_MEASURES, VIDEO_PROTOCOLS

    records = same_sentences({name: result.records for name, result in results.items()}, only_common=only_common)
    compared = compare_records(records, condition.protocol)
    kind = "video" if condition.protocol in VIDEO_PROTOCOLS else "image"
    measure = SEQUENCE_MEASURES.get(condition.protocol, "iou")
    cases = []
    for case in most_different(records, measure, SHOWN_CASES):
        record = next(iter(case.values()))
        ids = dict(zip((f"{kind}_id", "ref_id", "sent_id"), key_of(record), strict=True))
        of_systems = {name: answer[measure] for name, answer in case.items()}
        cases.append({**ids, "text": record["text"], "measure": measure, "systems": of_systems})
    systems = {
        name: {
            "file": str(result.path),
            "model": result.system,
            "sentences": count_sentences(result.records),
            "metrics": compared.metrics[name],
            "intervals": compared.intervals[name],
        }
        for name, result in results.items()
    }
    return {
        "dataset": condition.dataset,
        "options": dict(condition.options),
        "split": condition.split,
        "protocol": condition.protocol,
        "shuffled_sentences": condition.shuffled,
        "sentences": count_sentences(next(iter(records.values()))),
        f"{kind}s": compared.groups,
        "systems": systems,
        "differences": [asdict(difference) for difference in compared.differences],
        "cases": cases,
    }


def show_report(condition: Condition, report: Mapping[str, Any]) -> str:
    """The same as tables: a score is a row."""
    from ..messages import align, counted, name_text, short_text

    kind = "video" if "videos" in report else "image"
    systems, told = report["systems"], counted(report["sentences"], "sentence")
    lines = [f"{condition}: {told} about {counted(report[f'{kind}s'], kind)}"]
    for name, system in systems.items():
        if further := system["sentences"] - report["sentences"]:
            lines.append(f"{name_text(name)} has {further} more, which are left out")
    header = ("score", *map(name_text, systems))
    names = list(next(iter(systems.values()))["metrics"])
    rows = [[name, *(show_score(system, name) for system in systems.values())] for name in names]
    lines += ["", align([header, *rows])]
    pairs = dict.fromkeys((each["first"], each["second"]) for each in report["differences"])
    # Of a single pair there is nothing to correct.
    header = ("score", "difference", "95 % interval", "p", "p, corrected")[: 5 if len(pairs) > 1 else 4]
    for first, second in pairs:
        rows = [
            show_difference(each)[: len(header)]
            for each in report["differences"]
            if (each["first"], each["second"]) == (first, second)
        ]
        lines += ["", f"{name_text(second)} less {name_text(first)}", align([header, *rows])]
    if report["cases"]:
        rows = [
            [
                *(f"{100 * share:.1f}" for share in case["systems"].values()),
                f"{short_text(case['text'])} ({kind} {short_text(case[f'{kind}_id'])})",
            ]
            for case in report["cases"]
        ]
        measure = {"iou": "IoU"}.get(report["cases"][0]["measure"], report["cases"][0]["measure"])
        lines += ["", f"Where they differ most, by {measure}", align([(*map(name_text, systems), "sentence"), *rows])]
    return "\n".join(lines)


def show_score(system: Mapping[str, Any], name: str) -> str:
    """A score and its interval."""
    return f"{system['metrics'][name]:.2f} ({show_interval(system['intervals'].get(name), '.2f')})"


def show_difference(each: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table of a pair."""
    interval, p_values = show_interval(each["interval"], "+.2f"), (each["p_value"], each["corrected_p_value"])
    return each["score"], f"{each['difference']:+.2f}", interval, *(f"{p_value:.4f}" for p_value in p_values)


def show_interval(bounds: Sequence[float] | None, form: str) -> str:
    return "unknown" if bounds is None else " to ".join(format(bound, form) for bound in bounds)
