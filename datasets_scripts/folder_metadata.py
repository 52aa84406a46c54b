"""`metadata.jsonl` and `metadata.csv`, in the manner of `datasets`' ImageFolder: a line is a referent of a picture."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import name_text, one_line, short_text
from hf_refseg.modeling.messages_refseg import nearest_names

from .folder_records import (
    SPLIT_NAMES,
    Box,
    FolderFormat,
    FolderReading,
    FolderRecord,
    MaskPicture,
    MaskSource,
    Polygons,
    RunLengths,
    checked_id,
    checked_sentences,
    checked_split,
)
from .original_files import read_lines, read_text

NAMES = ("metadata.jsonl", "metadata.csv")
MASK_COLUMNS = ("mask_file_name", "polygon", "polygons", "rle", "bbox")
COLUMNS = (
    "file_name",
    "text",
    "texts",
    *MASK_COLUMNS,
    "no_target",
    "split",
    "ref_id",
    "image_id",
    "category",
)
# Columns whose cells in a CSV file are JSON.
JSON_COLUMNS = ("texts", "polygon", "polygons", "rle", "bbox")
LISTS_IN_CELLS = 'Write lists as JSON, such as ["the mug", "a cup"] or [10, 20, 30, 40].'
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

logger = logging.getLogger(__name__)


def find_metadata(root: Path) -> list[Path]:
    """`metadata.jsonl` or `.csv` of a folder, or of the folders in it that are not hidden."""
    found = (path for name in NAMES for pattern in (name, f"[!.]*/{name}") for path in root.glob(pattern))
    return sorted(path for path in found if path.is_file())


def read_metadata(reading: FolderReading) -> list[FolderRecord]:
    """The records of all lines of all files: of one in the folder itself, or one for each folder in it."""
    folders = [path.parent for path in reading.files]
    if len(set(folders)) < len(folders) or (reading.root in folders and len(folders) > 1):
        names = [path.relative_to(reading.root).as_posix() for path in reading.files]
        raise DataFormatError(
            f"{reading.root} holds {' and '.join(map(name_text, names[:4]))}: one file for all, or one for each "
            "folder of a split. Keep those that count."
        )
    records: list[FolderRecord] = []
    for path in reading.files:
        columns: set[str] = set()
        for where, parse in read_records(path):
            with reading.findings.skipping():
                values = parse()
                columns |= values.keys()
                records.append(make_record(values, path.parent, where, reading))
        say_columns(path, columns)
    return records


def say_columns(path: Path, columns: set[str]) -> None:
    """Says which columns count, and which do not."""
    known = [column for column in COLUMNS if column in columns]
    unknown = sorted(columns - {*COLUMNS})
    text = f"{path}: columns {', '.join(known)}"
    if unknown:
        shown = unknown[:8]
        text += f"; not read: {', '.join(map(name_text, shown))}{nearest_names(shown, COLUMNS)}"
    logger.warning("%s", one_line(text))


def read_records(path: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Where each record stands, and what makes values by column of it; those that are not there are left out.

    Raises `DataFormatError` where the file as a whole is none.
    """
    if path.suffix == ".csv":
        yield from _csv_lines(path)
        return
    for number, line in read_lines(path):
        where = f"{path}: line {number}"
        yield where, partial(_json_values, line, where)


def make_record(values: Mapping[str, Any], folder: Path, where: str, reading: FolderReading) -> FolderRecord:
    """The record of a line; raises `DataFormatError` where it is bad."""
    if "file_name" not in values:
        raise DataFormatError(
            f"{where} has no file_name, only {_names(values)}. Name the picture by its path in the folder of this "
            "file."
        )
    split = checked_split(values.get("split"), where)
    if split is None and folder != reading.root:
        split = SPLIT_NAMES.get(folder.name.lower())
    return FolderRecord(
        where=where,
        image=reading.find_file(values["file_name"], where, [folder]),
        sentences=checked_sentences(_written(values, reading.sentence_from, where), where),
        mask=_mask(values, folder, where, reading),
        no_target=_truth(values.get("no_target", False), where),
        split=split,
        ref_id=checked_id(values.get("ref_id"), "ref_id", where),
        image_id=checked_id(values.get("image_id"), "image_id", where),
        category=checked_id(values.get("category"), "category", where) or "",
    )


def _names(values: Mapping[str, Any]) -> str:
    """The columns of a record, for errors."""
    return ", ".join(map(name_text, list(values)[:8])) or "nothing"


def _written(values: Mapping[str, Any], sentence_from: str, where: str) -> Any:
    """What stands in the place of the sentences."""
    if sentence_from == "category":
        return values.get("category")
    if ("text" in values) == ("texts" in values):
        raise DataFormatError(
            f"{where} should have either text, a sentence, or texts, a list of them; it has {_names(values)}. Correct "
            "it."
        )
    return values["text"] if "text" in values else values["texts"]


def _mask(values: Mapping[str, Any], folder: Path, where: str, reading: FolderReading) -> MaskSource | None:
    given = [column for column in MASK_COLUMNS if column in values]
    if len(given) == 2 and "bbox" in given:
        given.remove("bbox")
        reading.findings.note("boxes beside a mask, which are not read: the mask tells the box", where)
    if len(given) > 1:
        raise DataFormatError(f"{where} has several masks: {', '.join(given)}. Keep the one that counts.")
    if not given:
        return None
    value = values[given[0]]
    match given[0]:
        case "mask_file_name":
            return MaskPicture(reading.find_file(value, where, [folder]))
        case "polygon":
            return Polygons([_flat(value, where)])
        case "polygons":
            if not isinstance(value, list):
                raise DataFormatError(f"{where}: polygons should be a list, found {short_text(value)}. Correct it.")
            return Polygons([_flat(polygon, where) for polygon in value])
        case "rle":
            return RunLengths(value)
    return Box(value)


def _flat(polygon: Any, where: str) -> list[float]:
    """A polygon as [x0, y0, x1, y1, ...], which may be written as [[x0, y0], [x1, y1], ...]."""
    if not isinstance(polygon, list):
        raise DataFormatError(
            f"{where}: a polygon should be a list of numbers or of points, found {short_text(polygon)}. Correct it."
        )
    if all(isinstance(point, list) and len(point) == 2 for point in polygon):
        return [side for point in polygon for side in point]
    return polygon


def _truth(value: Any, where: str) -> bool:
    truth = TRUTHS.get(str(value).lower())
    if truth is None:
        raise DataFormatError(
            f"{where}: no_target should be true or false, or 1 or 0, found {short_text(value)}. Correct it."
        )
    return truth


def _csv_lines(path: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    text = read_text(path)
    # Spreadsheets write semicolons where a comma is part of numbers, and tabs into texts.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [column.strip() for column in next(reader, [])]
        if len(set(columns)) < len(columns):
            raise DataFormatError(f"{path} has a column twice: {', '.join(map(name_text, columns[:12]))}. Remove one.")
        for cells in reader:
            if any(cell.strip() for cell in cells):
                where = f"{path}: line {reader.line_num}"
                yield where, partial(_csv_values, columns, cells, where)
    except csv.Error as error:
        raise DataFormatError(f"{path}: line {reader.line_num}: {error}. Write it as metadata.jsonl.") from error


def _csv_values(columns: list[str], cells: list[str], where: str) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise DataFormatError(
            f"{where} has {len(cells)} cells for {len(columns)} columns. Put a text that has commas or line breaks in "
            "double quotes."
        )
    texts = {column: cell for column, cell in zip(columns, cells, strict=True) if cell.strip()}
    return {
        column: _parse_json(cell, f"{where}: {column}", LISTS_IN_CELLS) if column in JSON_COLUMNS else cell
        for column, cell in texts.items()
    }


def _json_values(line: str, where: str) -> dict[str, Any]:
    values = _parse_json(line, where)
    if not isinstance(values, dict):
        raise DataFormatError(f"{where} should be a JSON object, found {short_text(values)}. Write the line again.")
    # Tables that lack a value in some rows fill it with null.
    return {column: value for column, value in values.items() if value is not None}


def _parse_json(text: str, where: str, remedy: str = "Write it again.") -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise DataFormatError(f"{where} has a key twice in one mapping. Remove one of them.")
        return found

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except DataFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{where} is not valid JSON ({error}). {remedy}") from error


METADATA = FolderFormat("metadata", "metadata.jsonl or metadata.csv", find_metadata, read_metadata)
