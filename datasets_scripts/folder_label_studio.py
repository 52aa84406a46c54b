"""Own pictures annotated with Label Studio: its export named JSON, a list of tasks with all that annotators did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_refseg.data.masks import InvalidMaskError
from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import name_text, short_text
from hf_refseg.modeling.video_refseg import IMAGE_SUFFIXES

from .drawn_shapes import (
    THREE_OR_MORE,
    Brush,
    Ellipse,
    Size,
    checked_number,
    checked_points,
    checked_size,
    corners_of,
)
from .folder_exports import (
    AnnotatedPicture,
    ExportedPictures,
    Shape,
    begins_with,
    exported_parts,
    json_files,
    naming_shape,
    once_each,
    read_export,
    referents_of,
    split_of,
    written_sentences,
)
from .folder_records import FolderFormat, FolderReading, FolderRecord, MaskSource, Polygons
from .records import checked_field

# Keys of the export named JSON-MIN.
MIN_KEYS = {"annotator", "annotation_id", "lead_time"}
# Coordinates are percents of the picture's sides. Some reach out of it, none so far.
FARTHEST = 1000
CANCELED = "tasks that nobody has annotated, or that were skipped, which are left out"
SEVERAL = "tasks with several annotations, the first of which counts"
EMPTY = "tasks without a region, which are left out"
OTHER_RESULTS = "results that are no region with an area, label or sentence, which are left out"
UNLINKED = "sentences that belong to no region, which are left out"


def find_label_studio(root: Path) -> list[Path]:
    """The JSON files of a folder that begin as Label Studio's lists of tasks do."""
    return [file for file in json_files(root) if is_task_list(file)]


def is_task_list(file: Path) -> bool:
    """Whether a JSON file begins as a list of tasks, in either of the two forms."""
    return begins_with(file, "[", {"annotations", *MIN_KEYS})


def read_label_studio(reading: FolderReading) -> list[FolderRecord]:
    """The referents of all tasks; raises `DataFormatError` for a bad one, or a file in another form."""
    pictures = ExportedPictures(reading)
    records: list[FolderRecord] = []
    for file in reading.files:
        for place, task in enumerate(read_export(file)):
            with reading.findings.skipping():
                name = str(checked_field(task, "id", (int, str), f"{file}: task at position {place}"))
                for picture in annotated_pictures(task, name, file, reading, pictures):
                    records += referents_of(picture, reading)
    return once_each(records, reading.findings)


def annotated_pictures(
    task: Any, name: str, file: Path, reading: FolderReading, pictures: ExportedPictures
) -> Iterator[AnnotatedPicture]:
    """The picture of a task with its regions, by the first annotation that was submitted; none where there is none."""
    where = f"{file}: task {name_text(name)}"
    if "annotations" not in task:
        raise DataFormatError(
            f"{where} has no 'annotations', as in the export JSON-MIN, which does not say which sentence belongs to "
            "which region. Export the project as JSON."
        )
    annotations = checked_field(task, "annotations", list, where)
    submitted = [each for each in annotations if not (isinstance(each, dict) and each.get("was_cancelled"))]
    if not submitted:
        reading.findings.note(CANCELED, where)
        return
    if len(submitted) > 1:
        reading.findings.note(SEVERAL, where)
    shapes = regions_of(checked_field(submitted[0], "result", list, where), where, reading)
    if not shapes:
        reading.findings.note(EMPTY, where)
        return
    path = pictures.find(picture_name(checked_field(task, "data", dict, where), where), file.parent, where)
    # One picture may be that of several tasks.
    shapes = [replace(shape, name=f"{name}-{shape.name}") for shape in shapes]
    yield AnnotatedPicture(path, shapes, split_of(file, reading.root))


def picture_name(data: dict[str, Any], where: str) -> str:
    """The path or address of a task's picture: 'image', or else the one value that looks like a picture's."""
    if "image" in data:
        return checked_field(data, "image", str, where)
    named = {key: value for key, value in data.items() if isinstance(value, str) and _is_picture(value)}
    if len(named) != 1:
        raise DataFormatError(
            f"{where}: {len(named) or 'none'} of its data ({', '.join(map(name_text, list(data)[:8])) or 'nothing'}) "
            "are addresses of pictures. Name the one that was annotated 'image'."
        )
    return next(iter(named.values()))


def _is_picture(address: str) -> bool:
    parts = exported_parts(address)
    return bool(parts) and Path(parts[-1]).suffix.lower() in IMAGE_SUFFIXES


def regions_of(results: list[Any], where: str, reading: FolderReading) -> list[Shape]:
    """The regions of an annotation: results of one id are one region, with its labels and sentences."""
    regions: dict[str, tuple[str, dict[str, Any]]] = {}
    labels: dict[str, list[str]] = {}
    texts: list[tuple[dict[str, Any], str]] = []
    for place, result in enumerate(results):
        with reading.findings.skipping():
            here = f"{where}, result {place}"
            kind = checked_field(result, "type", str, here)
            if kind == "textarea":
                texts.append((result, here))
            elif kind in MASKS or kind == "labels":
                region = checked_field(result, "id", str, here)
                labels.setdefault(region, []).extend(_labels(result, here))
                if kind in MASKS:
                    regions.setdefault(region, (here, result))
            else:
                reading.findings.note(OTHER_RESULTS, f"{here}: {name_text(kind)}")
    sentences = _sentences_by_region(regions, texts, reading)
    shapes = []
    for region, (here, result) in regions.items():
        with reading.findings.skipping():
            own = (*sentences.get(region, ()), *_description(result, here))
            mask = read_mask(result, here)
            shapes.append(Shape(here, region, mask, tuple(dict.fromkeys(labels[region])), tuple(dict.fromkeys(own))))
    return shapes


def _sentences_by_region(
    regions: dict[str, Any], texts: list[tuple[dict[str, Any], str]], reading: FolderReading
) -> dict[str, tuple[str, ...]]:
    """What was written into text areas, by the id of the region that they have or belong to."""
    found: dict[str, tuple[str, ...]] = {}
    for result, where in texts:
        with reading.findings.skipping():
            value = checked_field(result, "value", dict, where)
            written = written_sentences(value.get("text"), f"{where}: 'text'")
            region = next((result[key] for key in ("id", "parentID") if _is_one_of(result.get(key), regions)), None)
            if region is not None:
                found[region] = found.get(region, ()) + written
            elif written:
                reading.findings.note(UNLINKED, f"{where}: {name_text(written[0])}")
    return found


def _is_one_of(region: Any, regions: dict[str, Any]) -> bool:
    return isinstance(region, str) and region in regions


def _labels(result: dict[str, Any], where: str) -> tuple[str, ...]:
    value = checked_field(result, "value", dict, where)
    return written_sentences(value.get(result["type"]), f"{where}: its labels")


def _description(result: dict[str, Any], where: str) -> tuple[str, ...]:
    """What was written to the region itself, where no text area was set up."""
    meta = result.get("meta") or {}
    if not isinstance(meta, dict):
        raise DataFormatError(f"{where}: 'meta' should be a mapping, found {short_text(meta)}. Export it again.")
    return written_sentences(meta.get("text"), f"{where}: 'meta', 'text'")


def read_mask(result: dict[str, Any], where: str) -> MaskSource:
    """The pixels of a region; raises `DataFormatError` where it is bad."""
    with naming_shape(where):
        if result.get("image_rotation"):
            raise InvalidMaskError(
                f"The picture was turned by {short_text(result['image_rotation'])} degrees when the region was drawn. "
                "Turn the picture itself, and draw it again."
            )
        size = checked_size(result.get("original_height"), result.get("original_width"))
        return MASKS[result["type"]](checked_field(result, "value", dict, where), size)


def _rectangle(value: dict[str, Any], size: Size) -> Polygons:
    corner, sides = _pair(value, "x", "y", size), _pair(value, "width", "height", size)
    return Polygons([corners_of(corner, sides, _degrees(value))], size)


def _ellipse(value: dict[str, Any], size: Size) -> Ellipse:
    radii = _pair(value, "radiusX", "radiusY", size)
    if min(radii) < 0:
        raise InvalidMaskError(f"The ellipse has the radii {radii[0]:g} and {radii[1]:g}. Draw it again.")
    return Ellipse(_pair(value, "x", "y", size), radii, _degrees(value), size)


def _polygon(value: dict[str, Any], size: Size) -> Polygons:
    height, width = size
    points = checked_points(value.get("points"), (FARTHEST, FARTHEST), THREE_OR_MORE)
    return Polygons([[side for x, y in points for side in (x / 100 * width, y / 100 * height)]], size)


def _brush(value: dict[str, Any], size: Size) -> Brush:
    if value.get("format") != "rle":
        raise InvalidMaskError(
            f"The brush's mask is in the format {short_text(value.get('format'))}, expected 'rle'. Export the project "
            "again as JSON."
        )
    return Brush(value.get("rle"), size)


def _pair(value: dict[str, Any], horizontal: str, vertical: str, size: Size) -> tuple[float, float]:
    """Two percents, of the picture's width and of its height, in pixels."""
    across, down = (checked_number(value.get(key), -FARTHEST, FARTHEST, key) for key in (horizontal, vertical))
    return across / 100 * size[1], down / 100 * size[0]


def _degrees(value: dict[str, Any]) -> float:
    return checked_number(value.get("rotation", 0), -FARTHEST, FARTHEST, "rotation")


SHAPES: dict[str, Callable[[dict[str, Any], Size], MaskSource]] = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "polygon": _polygon,
    "brush": _brush,
}
# With a control for the shape and another one for its labels, the shape's result has the shorter name.
MASKS = {f"{shape}{ending}": read for shape, read in SHAPES.items() for ending in ("", "labels")}
LABEL_STUDIO = FolderFormat(
    name="label_studio",
    expects="a JSON file with a list of Label Studio's tasks",
    find=find_label_studio,
    read=read_label_studio,
    orientation="upright",
)
