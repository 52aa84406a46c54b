"""A segmentation export: one label picture for each picture, and a table from labels to sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import DataFormatError, read_json
from hf_refseg.messages import name_text, short_text
from hf_refseg.modeling.messages_refseg import nearest_names

from .folder_metadata import read_records
from .folder_records import (
    SPLIT_NAMES,
    FolderFormat,
    FolderReading,
    FolderRecord,
    RunLengths,
    checked_id,
    checked_sentences,
    neighbors,
    pictures_in,
)
from .mask_pictures import read_label_picture
from .original_files import check_link

TABLES = ("labels.csv", "labels.json")
IMAGE_FOLDERS = ("images", "JPEGImages", "img")
LABEL_FOLDERS = ("labels", "masks", "SegmentationClass", "annotations")
COLUMNS = ("value", "color", "text", "texts", "category")
# The label of what is nothing.
BACKGROUND = 0


def find_labels(root: Path) -> list[Path]:
    """The table of labels."""
    return [root / name for name in TABLES if (root / name).is_file()]


def read_labels(reading: FolderReading) -> list[FolderRecord]:
    """A record for each label of each picture that has a sentence.

    The masks are drawn here already, and kept as run lengths: a picture is decoded once for all of its labels.
    """
    if len(reading.files) > 1:
        raise DataFormatError(f"{reading.root} holds {' and '.join(TABLES)}. Keep the one that counts.")
    (table,) = reading.files
    labels, are_colors = read_table(table, reading.sentence_from)
    images, masks = (_only_folder(reading.root, names) for names in (IMAGE_FOLDERS, LABEL_FOLDERS))
    pictures = {path.relative_to(images).with_suffix(""): path for path in _pictures_in(images)}
    known = sorted(map(Path.as_posix, pictures))
    records: list[FolderRecord] = []
    for path in _pictures_in(masks):
        with reading.findings.skipping():
            name = path.relative_to(masks).with_suffix("")
            if name not in pictures:
                near = neighbors(name.as_posix(), known)
                raise DataFormatError(
                    f"{path}: there is no picture of this name in {images}"
                    f"{nearest_names([name.as_posix()], near) or '.'} Give both the same name."
                )
            check_link(path, reading.root, str(path))
            records += _records_of(path, pictures[name], name, labels, are_colors, table)
    return records


def _records_of(
    path: Path,
    image: Path,
    name: Path,
    labels: dict[int, tuple[tuple[str, ...], str]],
    are_colors: bool,
    table: Path,
) -> list[FolderRecord]:
    picture = read_label_picture(path, are_colors)
    records = []
    for label in np.unique(picture).tolist():
        if label not in labels:
            if label == BACKGROUND:
                continue
            raise DataFormatError(
                f"{path} has the label {_label_text(label, are_colors)}, which {table.name} does not have. Add it, "
                "without a text where it means nothing."
            )
        sentences, category = labels[label]
        if sentences:
            records.append(
                FolderRecord(
                    where=f"{path}: label {_label_text(label, are_colors)}",
                    image=image,
                    sentences=sentences,
                    mask=RunLengths(encode_mask(picture == label), "label pictures"),
                    split=SPLIT_NAMES.get(name.parts[0].lower()) if len(name.parts) > 1 else None,
                    category=category,
                )
            )
    return records


def read_table(path: Path, sentence_from: str) -> tuple[dict[int, tuple[tuple[str, ...], str]], bool]:
    """Of each label its sentences, none where it means nothing, and category; and whether labels are colors.

    A color is counted as red * 65536 + green * 256 + blue. Raises `DataFormatError` for a bad line.
    """
    labels: dict[int, tuple[tuple[str, ...], str]] = {}
    kinds: set[str] = set()
    for where, values in _table_lines(path):
        if unknown := sorted(values.keys() - {*COLUMNS}):
            raise DataFormatError(
                f"{where}: there is no column {name_text(unknown[0])}{nearest_names(unknown[:8], COLUMNS) or '.'} "
                f"Known: {', '.join(COLUMNS)}."
            )
        given = [kind for kind in ("value", "color") if kind in values]
        if len(given) != 1 or ("text" in values and "texts" in values):
            raise DataFormatError(
                f"{where} should have either value, a number, or color, and either text or texts. Correct it."
            )
        kinds.add(given[0])
        label = _color(values["color"], where) if given == ["color"] else _number(values["value"], where)
        if label in labels:
            raise DataFormatError(
                f"{where}: the label {short_text(values[given[0]])} is there already. Join both lines (texts is a "
                "list)."
            )
        category = checked_id(values.get("category"), "category", where) or ""
        written = category if sentence_from == "category" else values.get("text", values.get("texts"))
        labels[label] = (checked_sentences(written, where) if written else (), category)
    if len(kinds) != 1 or not any(sentences for sentences, _ in labels.values()):
        raise DataFormatError(
            f"{path} should name labels by value or by color, all of them alike, and have a text for at least one."
        )
    return labels, kinds == {"color"}


def _table_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".csv":
        for where, parse in read_records(path):
            yield where, parse()
        return
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(line, dict) for line in content):
        raise DataFormatError(f"{path} should be a list of mappings, found {short_text(content)}. Correct it.")
    for index, line in enumerate(content):
        yield f"{path}: label at position {index}", {key: value for key, value in line.items() if value is not None}


def _number(value: Any, where: str) -> int:
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,5}", str(value).strip()):
        raise DataFormatError(
            f"{where}: value should be a number from 0 to 65535, found {short_text(value)}. Correct it."
        )
    return int(value)


def _color(value: Any, where: str) -> int:
    """A color, as "#ff8000", "255 128 0", "255,128,0" or [255, 128, 0], as a number."""
    text = " ".join(map(str, value)) if isinstance(value, list) and len(value) == 3 else str(value).strip()
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    parts = re.fullmatch(r"\(?(\d{1,3})[, ]+(\d{1,3})[, ]+(\d{1,3})\)?", text, re.ASCII)
    levels = [int(part) for part in parts.groups()] if parts else []
    if not levels or max(levels) > 255:
        raise DataFormatError(
            f"{where}: color should be like #ff8000 or 255 128 0, found {short_text(value)}. Correct it."
        )
    red, green, blue = levels
    return red << 16 | green << 8 | blue


def _label_text(label: int, is_color: bool) -> str:
    return f"#{label:06x}" if is_color else str(label)


def _only_folder(root: Path, names: tuple[str, ...]) -> Path:
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) != 1:
        raise DataFormatError(
            f"{root} should hold one of the folders {', '.join(names)}, found "
            f"{', '.join(path.name for path in found) or 'none'}."
        )
    return found[0]


def _pictures_in(folder: Path) -> list[Path]:
    return [folder / name for name in pictures_in(folder)]


LABELS = FolderFormat("labels", "labels.csv or labels.json with images/ and labels/", find_labels, read_labels)
