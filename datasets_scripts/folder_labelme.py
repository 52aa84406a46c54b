"""Own pictures annotated with labelme, or with tools that write its files: one JSON file for each picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import short_text

from .drawn_shapes import (
    THREE_OR_MORE,
    TWO_OR_MORE,
    Ellipse,
    Line,
    PieceOfMask,
    Size,
    checked_points,
    checked_size,
    decode_base64,
)
from .folder_exports import (
    AnnotatedPicture,
    ExportedPictures,
    Shape,
    begins_with,
    json_files,
    naming_shape,
    once_each,
    read_export,
    referents_of,
    split_of,
    written_sentences,
)
from .folder_records import (
    FolderFormat,
    FolderReading,
    FolderRecord,
    HeldPicture,
    MaskSource,
    Polygons,
    checked_id,
)
from .records import checked_field

# As labelme draws a line in what it makes of its own files.
LINE_THICKNESS = 10
WITHOUT_AREA = ("point", "points")
POINTS = "points, which have no area and are left out"
OTHER_FILES = "JSON files that are not of labelme, which are not read"


def find_labelme(root: Path) -> list[Path]:
    """All JSON files of a folder, where one of them begins as labelme's files do."""
    files = json_files(root)
    return files if any(map(is_labelme, files)) else []


def is_labelme(file: Path) -> bool:
    """Whether a JSON file begins as one of labelme does."""
    return begins_with(file, "{", {"shapes", "imagePath", "imageData"})


def read_labelme(reading: FolderReading) -> list[FolderRecord]:
    """The referents of all files; raises `DataFormatError` for a bad one."""
    pictures = ExportedPictures(reading)
    records: list[FolderRecord] = []
    for file in reading.files:
        if not is_labelme(file):
            reading.findings.note(OTHER_FILES, str(file))
            continue
        with reading.findings.skipping():
            records += referents_of(annotated_picture(file, reading, pictures), reading)
    return once_each(records, reading.findings)


def annotated_picture(file: Path, reading: FolderReading, pictures: ExportedPictures) -> AnnotatedPicture:
    """The picture of a file, and its shapes."""
    content = read_export(file)
    listed = checked_field(content, "shapes", list, str(file))
    has_size = content.get("imageHeight") is not None or content.get("imageWidth") is not None
    with naming_shape(str(file)):
        size = checked_size(content.get("imageHeight"), content.get("imageWidth")) if has_size else None
    name = checked_field(content, "imagePath", str, str(file))
    image: Path | HeldPicture
    if content.get("imageData") is None or pictures.has(name):
        image = pictures.find(name, file.parent, str(file))
    else:
        embedded_picture(content, file)
        image = HeldPicture(file, read_held_picture)
    shapes: list[Shape] = []
    for number, record in enumerate(listed):
        with reading.findings.skipping():
            where = f"{file}: shape {number}"
            if isinstance(record, dict) and record.get("shape_type") in WITHOUT_AREA:
                reading.findings.note(POINTS, where)
            else:
                shapes.append(read_shape(record, str(number), size, where))
    return AnnotatedPicture(image, join_groups(shapes), split_of(file.parent, reading.root))


def read_held_picture(file: Path) -> bytes:
    """The picture that one of labelme's files holds."""
    return embedded_picture(read_export(file), file)


def embedded_picture(content: dict[str, Any], file: Path) -> bytes:
    """The picture in the content of a file; raises `DataFormatError` where it is not in base64."""
    with naming_shape(str(file)):
        return decode_base64(content.get("imageData"), "picture")


def read_shape(record: Any, name: str, size: Size | None, where: str) -> Shape:
    """A shape with its label and the sentences of its description; raises `DataFormatError` for a bad one."""
    label = checked_field(record, "label", str, where).strip()
    # Files of old versions do not say that a polygon is one.
    kind = record.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind not in MASKS:
        raise DataFormatError(
            f"{where} has the shape_type {short_text(kind)}, expected one of {', '.join(MASKS)}. Draw it as one of "
            "these."
        )
    with naming_shape(where):
        mask = MASKS[kind](record, size)
    return Shape(
        where=where,
        name=name,
        mask=mask,
        labels=(label,) if label else (),
        sentences=written_sentences(record.get("description"), f"{where}: 'description'"),
        group=checked_id(record.get("group_id"), "group_id", where),
    )


def join_groups(shapes: list[Shape]) -> list[Shape]:
    """The shapes; one without a sentence has that of its group, where the group has one alone."""
    said: dict[str | None, set[tuple[str, ...]]] = {}
    for shape in shapes:
        if shape.group is not None and shape.sentences:
            said.setdefault(shape.group, set()).add(shape.sentences)
    return [
        replace(shape, sentences=min(said[shape.group]))
        if not shape.sentences and len(said.get(shape.group, ())) == 1
        else shape
        for shape in shapes
    ]


def _polygon(record: Any, size: Size | None) -> Polygons:
    return _outline(checked_points(record.get("points"), size, THREE_OR_MORE), size)


def _rectangle(record: Any, size: Size | None) -> Polygons:
    """By two corners that lie opposite to each other; other tools write all four."""
    points = checked_points(record.get("points"), size, (2, 4))
    if len(points) == 2:
        (left, top), (right, bottom) = points
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return _outline(points, size)


def _circle(record: Any, size: Size | None) -> Ellipse:
    """By its center and a point on its edge."""
    center, edge = checked_points(record.get("points"), size, (2,))
    radius = math.dist(center, edge)
    return Ellipse(center, (radius, radius), size=size)


def _line(record: Any, size: Size | None) -> Line:
    return Line(checked_points(record.get("points"), size, TWO_OR_MORE), LINE_THICKNESS, size)


def _piece(record: Any, size: Size | None) -> PieceOfMask:
    """By the corners of the box that it fills, and a picture of it."""
    (x, y), _ = checked_points(record.get("points"), size, (2,))
    return PieceOfMask(record.get("mask"), (int(x), int(y)), size)


def _outline(points: list[tuple[float, float]], size: Size | None) -> Polygons:
    return Polygons([[side for point in points for side in point]], size)


MASKS: dict[str, Callable[[Any, Size | None], MaskSource]] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "oriented_rectangle": _polygon,
    # Rectangles that are turned, as X-AnyLabeling writes them.
    "rotation": _polygon,
    "circle": _circle,
    "line": _line,
    "linestrip": _line,
    "mask": _piece,
}
LABELME = FolderFormat(
    name="labelme",
    expects="a JSON file of labelme for each picture",
    find=find_labelme,
    read=read_labelme,
    orientation="upright",
)
