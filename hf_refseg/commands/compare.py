"""`hf-refseg compare`: which system is better on the same sentences, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from .options import Missing, check_data_options, with_data_options

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from ..evaluation import PredictionSource
    from ..evaluation.results import Record
    from ..evaluation.saved_results import Condition, SavedResult
    from ..visualization import ComparisonRow, ComparisonStrip

SHOWN_CASES = 10
# In the tables of groups; the JSON file has all scores.
SHOWN_SCORES = 2


@with_data_options
def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B...",
            help="Results of `hf-refseg evaluate`: JSON files, or folders of them; or predictions, with --data.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="A and B are predictions about it: score, compare and draw them."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of --data; val if absent.", show_default=False)] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of --data; by default as usual for the data set.", show_default=False)
    ] = None,
    *,
    data_options: dict[str, Any],
    missing: Missing = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the sentences that all have, in place of refusing others.")
    ] = False,
    breakdown: Annotated[
        bool, typer.Option("--breakdown", help="Compare groups of sentences too; see `hf-refseg evaluate`.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for what is found; by default runs/compare/<A>_<B>.")
    ] = None,
) -> None:
    """Compare systems on the same sentences: scores, differences with 95 % intervals and p-values, and single cases.

    Of folders everything is compared that all of them hold a result of. Images (or videos) are drawn for all systems
    together, so that a difference may be sure where the intervals of the scores overlap.

    With --data DATASET and its options, files or folders of predictions are scored, compared and drawn.
    """
    from ..evaluation.saved_results import name_systems
    from ..files import require_writable, slug, write_json, write_picture

    if len(results) < 2:
        raise ValueError("Name two results at least, of which each is of another system.")
    check_options(data, common, {"split": split, "protocol": protocol, "missing": missing}, data_options)
    folder = Path("runs", "compare", "_".join(slug(path.stem) for path in results)[:100]) if output is None else output
    require_writable(folder)
    predictions = None
    if data is not None:
        predictions = score_predictions(
            results, data, data_options, split=split or "val", protocol=protocol, missing=missing or "error"
        )
    reports, picture = [], None
    for found in match_results(results) if predictions is None else [predictions.results]:
        systems = dict(zip(name_systems(found), found, strict=True))
        records = common_records(systems, only_common=common)
        cases = most_different_of(systems, records)
        report = report_comparison(systems, records, cases)
        if breakdown:
            report["groups"] = report_groups(systems, records, predictions)
        if predictions is not None:
            picture = draw_cases(predictions, list(systems), cases)
        typer.echo(f"{show_report(report)}\n")
        reports.append(report)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", {"comparisons": reports})
    typer.echo(f"{folder / 'comparison.json'}")
    if picture is not None:
        write_picture(folder / "comparison.png", picture)
        typer.echo(f"{folder / 'comparison.png'}")


def check_options(
    data: str | None, common: bool, of_predictions: Mapping[str, Any], data_options: Mapping[str, Any]
) -> None:
    """Raises ValueError for options that have no effect on results, or on predictions."""
    if data is not None:
        check_data_options(data, data_options)
        if common:
            raise ValueError("--common is for results: predictions are about all sentences of --data.")
    elif wrong := [name for name, value in {**of_predictions, **data_options}.items() if value is not None]:
        raise ValueError(
            f"--{wrong[0].replace('_', '-')} goes with --data: results say themselves what they are about."
        )


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions of several systems about one data set.

    Attributes:
        rows: the data set.
        sources: the answers of each system.
        results: their scores, as if they had been written.
    """

    rows: Dataset
    sources: list[PredictionSource]
    results: list[SavedResult]


def score_predictions(
    paths: Sequence[Path],
    data: str,
    options: Mapping[str, Any],
    *,
    split: str,
    protocol: str | None,
    missing: Literal["error", "empty"],
) -> ScoredPredictions:
    """Scores files or folders of predictions; raises as `load_refseg` and `evaluate_predictions`."""
    from ..data.loading import load_refseg
    from ..evaluation import PredictionSource, evaluate_answers, open_predictions
    from ..evaluation.saved_results import SavedResult, condition_of
    from .evaluate import check_protocol, choose_protocol
    from .prediction_files import check_origin

    check_protocol(protocol)
    files = [open_predictions(path) for path in paths]
    for file in files:
        check_origin(file, data, split)
    rows = load_refseg(data, **options, splits=[split])[split]
    protocol = choose_protocol(protocol, data, rows)
    dataset = " ".join(filter(None, [data, options.get("dataset")]))
    condition = condition_of(
        {**options, "dataset": dataset, "split": split, "protocol": protocol, "shuffled_sentences": False}
    )
    sources, results = [], []
    for file in files:
        source = PredictionSource(file, rows, protocol, missing)
        scored = evaluate_answers(source, rows, protocol, bootstrap_samples=0, title=file.path.name)
        sources.append(source)
        results.append(
            SavedResult(
                path=file.path,
                system=file.header.system or file.path.stem,
                condition=condition,
                max_images=None,
                training_regime="unknown",
                metrics=scored.metrics,
                intervals={},
                unanswered=source.left_out,
                records=scored.records,
            )
        )
    return ScoredPredictions(rows, sources, results)


def match_results(paths: Sequence[Path]) -> list[list[SavedResult]]:
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
                both = f"{other.path} and {result.path}"
                raise ValueError(f"{both} are both about {result.condition}: name one of them.")
        of_paths.append(found)
    everything = dict.fromkeys(condition for found in of_paths for condition in found)
    matched = [condition for condition in everything if all(condition in found for found in of_paths)]
    if not matched:
        told = [
            f"{path} has {'; '.join(map(str, list(found)[:3]))}{' and others' if len(found) > 3 else ''}"
            for path, found in zip(paths, of_paths, strict=True)
        ]
        raise ValueError(
            f"Nothing was scored in all of them, on the same data by one protocol: {', '.join(told)}. Evaluate all of "
            "them under the same names and options of data, split and protocol."
        )
    if left_out := [str(condition) for condition in everything if condition not in matched]:
        typer.echo(f"Left out, as not all have a result of it: {'; '.join(left_out)}", err=True)
    return [[found[condition] for found in of_paths] for condition in matched]


def common_records(systems: Mapping[str, SavedResult], *, only_common: bool) -> dict[str, list[Record]]:
    """The records of each system, in one order; raises as `same_sentences`."""
    from ..evaluation import same_sentences

    return same_sentences({name: result.records for name, result in systems.items()}, only_common=only_common)


def most_different_of(
    systems: Mapping[str, SavedResult], records: Mapping[str, Sequence[Record]]
) -> list[dict[str, Record]]:
    """The sentences about which systems differ most, each as the systems' records of it."""
    from ..evaluation.comparison import most_different

    return most_different(records, measure_of(protocol_of(systems)), SHOWN_CASES)


def protocol_of(systems: Mapping[str, SavedResult]) -> str:
    return next(iter(systems.values())).condition.protocol


def measure_of(protocol: str) -> str:
    """The number of a record by which an answer is good."""
    from ..evaluation.video import SEQUENCE_MEASURES

    return SEQUENCE_MEASURES.get(protocol, "iou")


def report_comparison(
    systems: Mapping[str, SavedResult],
    records: Mapping[str, Sequence[Record]],
    differing: Sequence[Mapping[str, Record]],
) -> dict[str, Any]:
    """What the JSON file tells of a comparison, by system, by pair of systems, and by sentence."""
    from ..evaluation import compare_records
    from ..evaluation.results import count_sentences, key_of

    condition = next(iter(systems.values())).condition
    compared, measure = compare_records(records, condition.protocol), measure_of(condition.protocol)
    kind, cases = condition.kind, []
    for case in differing:
        record = next(iter(case.values()))
        ids = dict(zip((f"{kind}_id", "ref_id", "sent_id"), key_of(record), strict=True))
        of_systems = {name: answer[measure] for name, answer in case.items()}
        cases.append({**ids, "text": record["text"], "measure": measure, "systems": of_systems})
    files = {
        name: {
            "file": str(result.path),
            "model": result.system,
            "sentences": count_sentences(result.records),
            "unanswered": result.unanswered,
            "metrics": compared.metrics[name],
            "intervals": compared.intervals[name],
        }
        for name, result in systems.items()
    }
    return {
        "title": str(condition),
        "dataset": condition.dataset,
        "options": dict(condition.options),
        "split": condition.split,
        "protocol": condition.protocol,
        "shuffled_sentences": condition.shuffled,
        "sentences": count_sentences(next(iter(records.values()))),
        f"{kind}s": compared.groups,
        "systems": files,
        "differences": [asdict(difference) for difference in compared.differences],
        "cases": cases,
    }


def report_groups(
    systems: Mapping[str, SavedResult],
    records: Mapping[str, Sequence[Record]],
    predictions: ScoredPredictions | None,
) -> list[dict[str, Any]]:
    """What the JSON file tells of groups of sentences; those that the data set tells need it."""
    from ..evaluation import compare_groups, describe_sentences

    descriptions = None if predictions is None else describe_sentences(predictions.rows)
    return [asdict(group) for group in compare_groups(records, protocol_of(systems), descriptions)]


def draw_cases(
    predictions: ScoredPredictions, names: Sequence[str], cases: Sequence[Mapping[str, Record]]
) -> Image.Image | None:
    """The masks of all systems where they differ most; None where they answer alike."""
    from ..evaluation import find_cases
    from ..visualization import draw_answer_strips, draw_answers

    if not cases:
        return None
    condition = predictions.results[0].condition
    answers = {
        name: find_cases(source, predictions.rows, [case[name] for case in cases], condition.protocol)
        for name, source in zip(names, predictions.sources, strict=True)
    }
    if condition.kind == "video":
        return draw_answer_strips(cast("dict[str, list[ComparisonStrip]]", answers))
    return draw_answers(cast("dict[str, list[ComparisonRow]]", answers))


def show_report(report: Mapping[str, Any]) -> str:
    """The same as tables: a score is a row."""
    from ..messages import align, counted, name_text

    kind = "video" if "videos" in report else "image"
    systems, told = report["systems"], counted(report["sentences"], "sentence")
    lines = [f"{report['title']}: {told} about {counted(report[f'{kind}s'], kind)}"]
    for name, system in systems.items():
        if further := system["sentences"] - report["sentences"]:
            lines.append(f"{name_text(name)} has {further} more, which are left out")
        if system["unanswered"]:
            unanswered = counted(system["unanswered"], "sentence")
            lines.append(f"{name_text(name)} has no prediction for {unanswered}, scored as empty masks")
    names = list(next(iter(systems.values()))["metrics"])
    rows = [[name, *(show_score(system, name) for system in systems.values())] for name in names]
    lines += ["", align([("score", *map(name_text, systems)), *rows])]
    pairs = dict.fromkeys(map(pair_of, report["differences"]))
    # Of a single pair there is nothing to correct.
    header = ("score", "difference", "95 % interval", "p", "p, corrected")[: 5 if len(pairs) > 1 else 4]
    for pair in pairs:
        differences = [each for each in report["differences"] if pair_of(each) == pair]
        compared = [show_difference(each)[: len(header)] for each in differences]
        lines += ["", show_pair(pair), align([header, *compared])]
        if "groups" in report:
            lines += ["", f"{show_pair(pair)}, in groups of sentences", show_groups(report["groups"], pair)]
    if report["cases"]:
        lines += ["", *show_cases(report["cases"], list(systems), kind)]
    return "\n".join(lines)


def pair_of(difference: Mapping[str, Any]) -> tuple[str, str]:
    return difference["first"], difference["second"]


def show_pair(pair: tuple[str, str]) -> str:
    from ..messages import name_text

    return f"{name_text(pair[1])} less {name_text(pair[0])}"


def show_score(system: Mapping[str, Any], name: str) -> str:
    """A score and its interval."""
    return f"{system['metrics'][name]:.2f} ({show_interval(system['intervals'].get(name), '.2f')})"


def show_difference(each: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table of a pair."""
    interval, p_values = show_interval(each["interval"], "+.2f"), (each["p_value"], each["corrected_p_value"])
    return each["score"], f"{each['difference']:+.2f}", interval, *(f"{p_value:.4f}" for p_value in p_values)


def show_groups(groups: Sequence[Mapping[str, Any]], pair: tuple[str, str]) -> str:
    """A row for each group, with the first scores of a pair."""
    from ..messages import align

    of_groups = [[each for each in group["compared"]["differences"] if pair_of(each) == pair] for group in groups]
    names = list(dict.fromkeys(each["score"] for of_group in of_groups for each in of_group))[:SHOWN_SCORES]
    rows = [
        ("kind", "group", "sentences", *(title for name in names for title in (name, "95 % interval", "p, corr.")))
    ]
    for group, of_group in zip(groups, of_groups, strict=True):
        shown = {each["score"]: show_difference(each) for each in of_group}
        # A score may be about no sentence of a group.
        cells = [cell for name in names for cell in itemgetter(1, 2, 4)(shown.get(name, ("",) * 5))]
        rows.append((group["kind"], group["group"], group["sentences"], *cells))
    return align(rows)


def show_cases(cases: Sequence[Mapping[str, Any]], systems: Sequence[str], kind: str) -> list[str]:
    """A row for each of the sentences about which systems differ most."""
    from ..messages import align, name_text, short_text

    rows = [
        [
            *(f"{100 * share:.1f}" for share in case["systems"].values()),
            f"{short_text(case['text'])} ({kind} {short_text(case[f'{kind}_id'])})",
        ]
        for case in cases
    ]
    measure = {"iou": "IoU"}.get(cases[0]["measure"], cases[0]["measure"])
    return [f"Where they differ most, by {measure}", align([(*map(name_text, systems), "sentence"), *rows])]


def show_interval(bounds: Sequence[float] | None, form: str) -> str:
    return "unknown" if bounds is None else " to ".join(format(bound, form) for bound in bounds)
