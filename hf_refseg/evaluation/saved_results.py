"""Results that `hf-refseg evaluate` wrote, read again and checked: their files may be damaged, or somebody else's."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ..data.catalog import data_options
from ..files import public_name, unique_names
from ..messages import BadInputError, counted, name_text, one_line, short_text
from .record_scores import scores_of_records
from .results import TRAINING_REGIMES, Record, find_repeated, name_record
from .video import DAVIS_MEASURES, VIDEO_PROTOCOLS

# Whether a value is right, and what it should be.
Check = tuple[Callable[[Any], bool], str]
TEXT: Check = (lambda value: isinstance(value, str), "a text")
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
COUNT: Check = (lambda value: type(value) is int and 0 <= value < 2**53, "a whole number, 0 or more")
NUMBER: Check = (
    # Whole numbers may be too large for floating ones.
    lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max,
    "a finite number",
)
COUNTS: Check = (lambda value: isinstance(value, list) and bool(value) and all(map(COUNT[0], value)), "whole numbers")
NUMBERS: Check = (
    lambda value: isinstance(value, dict) and all(map(NUMBER[0], value.values())),
    "finite numbers by the names of scores",
)
BOUNDS: Check = (
    lambda value: (
        isinstance(value, dict)
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(NUMBER[0], pair)) for pair in value.values())
    ),
    "two finite numbers by the name of each score",
)
# What is there in every result. It may also have `training_regime` and `missing`.
RESULT_FIELDS = {
    "model": TEXT,
    "dataset": TEXT,
    "split": TEXT,
    "protocol": TEXT,
    "shuffled_sentences": FLAG,
    "max_images": (lambda value: value is None or COUNT[0](value), "null or a whole number"),
    "metrics": NUMBERS,
    "intervals": BOUNDS,
    "records": (lambda value: isinstance(value, list) and bool(value), "a list of one record at least"),
}
RECORD_FIELDS = {"ref_id": TEXT, "sent_id": TEXT, "text": TEXT}
IMAGE_FIELDS = {
    "image_id": TEXT,
    **RECORD_FIELDS,
    **{"intersection": COUNT, "union": COUNT, "no_target": FLAG, "present": FLAG, "iou": NUMBER},
}
VIDEO_FIELDS = {"video_id": TEXT, **RECORD_FIELDS, "annotator": TEXT, "frames": COUNT}
DAVIS_FIELDS = {**VIDEO_FIELDS, **dict.fromkeys(DAVIS_MEASURES, NUMBER)}
# Of the protocols of videos; all others are of images.
FIELDS_OF_PROTOCOLS = {
    "davis": DAVIS_FIELDS,
    "davis_unsupervised": {**DAVIS_FIELDS, "matched_ref_id": TEXT},
    "a2d": {**VIDEO_FIELDS, "intersections": COUNTS, "unions": COUNTS, "iou": NUMBER},
}
# In percent; what a file holds is exact but for the order of sums.
ROUNDING = 1e-6


class ResultError(BadInputError):
    """A file that is no result, or a damaged one; the message names it."""


@dataclass(frozen=True)
class Condition:
    """What was scored, and how: results that agree in it can be compared, as far as their sentences are the same.

    Attributes:
        dataset: its name, of a folder the last part alone.
        options: further ones that say what the data is: names and values, as text.
        split: the name of the split.
        protocol: the protocol's name.
        shuffled: whether sentences were those of other images.
    """

    dataset: str
    options: tuple[tuple[str, str], ...]
    split: str
    protocol: str
    shuffled: bool

    @property
    def kind(self) -> str:
        """What the sentences are about: `"image"` or `"video"`."""
        return "video" if self.protocol in VIDEO_PROTOCOLS else "image"

    def describe_data(self) -> str:
        """Such as "refcocog val (split_by umd)"."""
        told = ", ".join(f"{name} {value}" for name, value in self.options)
        shuffled = ", sentences shuffled" if self.shuffled else ""
        return one_line(f"{self.dataset} {self.split}{f' ({told})' if told else ''}{shuffled}")

    def __str__(self) -> str:
        return f"{self.describe_data()}, protocol {self.protocol}"


@dataclass(frozen=True)
class SavedResult:
    """A result that `hf-refseg evaluate` wrote.

    Attributes:
        path: its file.
        system: what was scored, as the command named it.
        condition: on what, and how.
        max_images: the number of images or videos after which the evaluation stopped; None = all were scored.
        training_regime: one of `TRAINING_REGIMES`.
        metrics: scores in percent.
        intervals: their 95 % intervals, as far as there are some.
        unanswered: how many sentences had no prediction, and were scored as empty masks.
        records: one of each sentence, see `ImageEvaluationResult` and `VideoEvaluationResult`.
    """

    path: Path
    system: str
    condition: Condition
    max_images: int | None
    training_regime: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    unanswered: int
    records: list[Record]


def read_result(path: Path) -> SavedResult:
    """A result from its file.

    Raises:
        ResultError: the file is damaged or no result, it has no records, two of them are about one sentence, a value
            is missing or impossible (such as NaN), or the scores are not those of the records.
        OSError: the file cannot be read.
    """
    # Those are predictions, if anything.
    content = None if path.suffix == ".jsonl" else _read_json(path)
    if not _is_result(content):
        raise ResultError(
            f"{path} is no result of hf-refseg evaluate: expected the JSON file that it wrote. Predictions are scored "
            "first, by its --predictions, or compared with the --data that they are about."
        )
    return _checked_result(path, content)


def find_results(paths: Iterable[Path]) -> tuple[list[SavedResult], int]:
    """Results from files, and from folders all that are in them or in folders of theirs, each file once.

    Returns:
        The results in the order of the paths, of a folder by name; and the number of other JSON files in the folders.

    Raises:
        ResultError: as `read_result`; a path that does not exist, or a folder without a result. Other JSON files in
            folders are only counted, but damaged ones are an error: nothing tells what they were.
        OSError: a file cannot be read.
    """
    found: dict[Path, SavedResult] = {}
    others: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ResultError(f"There is no {path}: name a JSON file that hf-refseg evaluate wrote, or a folder.")
        if not path.is_dir():
            found.setdefault(path.resolve(), read_result(path))
            continue
        read = {file: _read_json(file) for file in sorted(path.rglob("*.json")) if file.is_file()}
        results = {file: content for file, content in read.items() if _is_result(content)}
        if not results:
            others_alone = f", only {counted(len(read), 'other JSON file')}" if read else ""
            raise ResultError(
                f"{path} holds no result of hf-refseg evaluate{others_alone}: name the folder that it wrote."
            )
        others.update(file.resolve() for file in read.keys() - results.keys())
        for file, content in results.items():
            if file.resolve() not in found:
                found[file.resolve()] = _checked_result(file, content)
    return list(found.values()), len(others)


def name_systems(results: Sequence[SavedResult]) -> list[str]:
    """A name for each result's system: as short as tells them apart, that of its file where nothing else does."""
    systems = [result.system for result in results]
    for names in ([public_name(system) for system in systems], systems):
        if len(set(names)) == len(names):
            return names
    return unique_names(str(result.path) for result in results)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is damaged ({error}). Write it again, or leave it out.") from error


def _is_result(content: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(content, dict) and {"protocol", "metrics", "records"} <= content.keys()


def _checked_result(path: Path, content: Mapping[str, Any]) -> SavedResult:
    _check_fields(content, RESULT_FIELDS, str(path))
    regime, protocol, records = content.get("training_regime", "unknown"), content["protocol"], content["records"]
    if not isinstance(regime, str) or regime not in TRAINING_REGIMES:
        expected = ", ".join(TRAINING_REGIMES)
        raise ResultError(f"{path} has the training_regime {short_text(regime)}: expected one of {expected}.")
    # Of a system's own answers none are missing, and nothing is said of them.
    unanswered = content.get("missing", 0)
    _check_fields({"missing": unanswered}, {"missing": COUNT}, str(path))
    fields = FIELDS_OF_PROTOCOLS.get(protocol, IMAGE_FIELDS)
    for number, record in enumerate(records):
        _check_record(record, fields, f"{path}, record {number}")
    if (twice := find_repeated(records)) is not None:
        raise ResultError(f"{path} has two records of {name_record(twice)}. Evaluate again.")
    _check_scores(path, content)
    return SavedResult(
        path=path,
        system=content["model"],
        condition=condition_of(content),
        max_images=content["max_images"],
        training_regime=regime,
        metrics=content["metrics"],
        intervals={name: tuple(bounds) for name, bounds in content["intervals"].items()},
        unanswered=unanswered,
        records=records,
    )


def _check_record(record: Any, fields: Mapping[str, Check], where: str) -> None:
    _check_fields(record if isinstance(record, dict) else {}, fields, where)
    if unknown := record.keys() - fields.keys():
        raise ResultError(
            f"{where} has an unknown field {name_text(min(unknown))}: known are {', '.join(fields)}. Evaluate again."
        )
    if "unions" in fields and not len(record["intersections"]) == len(record["unions"]) == record["frames"]:
        raise ResultError(f"{where} has not as many intersections and unions as frames. Evaluate again.")


def _check_fields(content: Mapping[str, Any], fields: Mapping[str, Check], where: str) -> None:
    for name, (is_right, expected) in fields.items():
        if name not in content:
            raise ResultError(f"{where} has no {name}: expected {expected}. Evaluate again.")
        if not is_right(content[name]):
            raise ResultError(f"{where} has the {name} {short_text(content[name])}: expected {expected}.")


def _check_scores(path: Path, content: Mapping[str, Any]) -> None:
    """Scores that somebody changed, or records that somebody cut, would go unnoticed."""
    try:
        scores = scores_of_records(content["records"], content["protocol"])
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error
    for name, score in scores.items():
        told = content["metrics"].get(name, math.nan)
        if not abs(told - score) < ROUNDING:
            raise ResultError(
                f"{path} has the {name} {told:.6g}, but that of its records is {score:.6g}. Evaluate again."
            )


def condition_of(content: Mapping[str, Any]) -> Condition:
    """What a result is about, by what its file says of it."""
    split = content["split"]
    telling = {
        name: option
        for name, option in data_options().items()
        # `dataset` is part of the name.
        if not option.is_place and option.of_split in (None, split) and name not in ("splits", "dataset")
    }
    defaults = {name: option.default for name, option in telling.items()}
    options = {name: content[name] for name in telling if content.get(name, defaults[name]) != defaults[name]}
    return Condition(
        dataset=public_name(content["dataset"]),
        options=tuple((name, _as_text(value)) for name, value in options.items()),
        split=split,
        protocol=content["protocol"],
        shuffled=content["shuffled_sentences"],
    )


def _as_text(value: Any) -> str:
    return name_text(value) if isinstance(value, str) else short_text(value)
