"""Own pictures annotated in COCO's format, as CVAT ("COCO 1.0"), Roboflow and others export it, with sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import name_text, short_text

from .drawn_shapes import Size, checked_size
from .folder_exports import (
    WITHOUT_SENTENCE,
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
from .folder_records import Box, FolderFormat, FolderReading, FolderRecord, Joined, MaskSource, Polygons, RunLengths
from .records import checked_field

# Fields of an annotation, or of its attributes, whose text is a sentence; also in the plural.
SENTENCE_FIELDS = ("sentence", "caption", "text", "description")
SENTENCE_NAMES = (*SENTENCE_FIELDS, *(f"{name}s" for name in SENTENCE_FIELDS))
BOXES = "annotations without an outline, whose box is their mask"
FEW_POINTS = "polygons of fewer than three points, which are left out"


def find_coco(root: Path) -> list[Path]:
    """The JSON files of a folder that hold annotations of images, such as annotations/instances_default.json."""
    return [file for file in json_files(root) if is_coco(file)]


def is_coco(file: Path) -> bool:
    """Whether a JSON file begins as one of COCO's format does."""
    return begins_with(file, "{", {"images", "annotations", "categories"}, without={"shapes"})


def read_coco(reading: FolderReading) -> list[FolderRecord]:
    """The referents of all files.

    Raises:
        DataFormatError: a file is damaged, a record of it is bad, or no annotation of any file has a sentence.
    """
    pictures = ExportedPictures(reading)
    records = once_each(
        (
            record
            for file in reading.files
            for picture in CocoFile(file, read_export(file), reading, pictures).annotated_pictures()
            for record in referents_of(picture, reading)
        ),
        reading.findings,
    )
    if not records and WITHOUT_SENTENCE in reading.findings.records:
        raise DataFormatError(
            f"{reading.files[0]}: no annotation has a sentence. Write it as {', '.join(SENTENCE_FIELDS)} into each "
            'annotation or its attributes, or take the names of categories for sentences: sentence_from="category".'
        )
    return records


@dataclass(frozen=True)
class CocoFile:
    """A file, its content, and the pictures of the folder."""

    file: Path
    content: Any
    reading: FolderReading
    pictures: ExportedPictures

    def annotated_pictures(self) -> Iterator[AnnotatedPicture]:
        """The pictures in the file's order, those alone that have shapes to be read; raises `DataFormatError`."""
        images = self._by_id("images")
        categories = self._by_id("categories") if "categories" in self.content else {}
        annotations: dict[str, list[tuple[str, Any]]] = {image_id: [] for image_id in images}
        for place, annotation in enumerate(checked_field(self.content, "annotations", list, str(self.file))):
            where = f"{self.file}: annotation at position {place}"
            with self.reading.findings.skipping():
                image_id = str(checked_field(annotation, "image_id", (int, str), where))
                if image_id not in images:
                    raise DataFormatError(
                        f"{where}: image {name_text(image_id)} is not listed under 'images'. Correct the id."
                    )
                annotations[image_id].append((where, annotation))
        for image_id, image in images.items():
            if annotations[image_id]:
                with self.reading.findings.skipping():
                    yield from self._annotated(image, annotations[image_id], categories)

    def _annotated(
        self, image: Any, annotations: list[tuple[str, Any]], categories: Mapping[str, Any]
    ) -> Iterator[AnnotatedPicture]:
        where = f"{self.file}: image {name_text(str(image['id']))}"
        with naming_shape(where):
            has_size = image.get("height") is not None or image.get("width") is not None
            size = checked_size(image.get("height"), image.get("width")) if has_size else None
        shapes: list[Shape] = []
        for place, annotation in annotations:
            with self.reading.findings.skipping():
                shapes += self._shapes(annotation, size, categories, place)
        # A picture that nothing is said of may be absent.
        if shapes:
            path = self.pictures.find(checked_field(image, "file_name", str, where), self.file.parent, where)
            yield AnnotatedPicture(path, shapes, split_of(self.file, self.reading.root))

    def _shapes(
        self, annotation: Any, size: Size | None, categories: Mapping[str, Any], where: str
    ) -> Iterator[Shape]:
        """The shape of an annotation; none where nothing says its sentence."""
        name = where.rpartition(" ")[2]
        if annotation.get("id") is not None:
            name = str(checked_field(annotation, "id", (int, str), where))
            where = f"{self.file}: annotation {name_text(name)}"
        sentences = annotation_sentences(annotation, where)
        # In a file of COCO's format a category is no sentence unless somebody says so.
        if sentences or self.reading.sentence_from == "category":
            labels = self._labels(annotation, categories, where)
            yield Shape(where, name, self._mask(annotation, size, where), labels, sentences)
        else:
            self.reading.findings.note(WITHOUT_SENTENCE, where)

    def _labels(self, annotation: Any, categories: Mapping[str, Any], where: str) -> tuple[str, ...]:
        if annotation.get("category_id") is None:
            return ()
        category_id = str(checked_field(annotation, "category_id", (int, str), where))
        if category_id not in categories:
            raise DataFormatError(
                f"{where}: category {name_text(category_id)} is not listed under 'categories'. Correct the id."
            )
        name = checked_field(
            categories[category_id], "name", str, f"{self.file}: category {name_text(category_id)}"
        ).strip()
        return (name,) if name else ()

    def _mask(self, annotation: Any, size: Size | None, where: str) -> MaskSource:
        """What the segmentation is, or else the box."""
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            return RunLengths(segmentation)
        if not isinstance(segmentation, list | None):
            raise DataFormatError(
                f"{where}: 'segmentation' should be a list of polygons or an RLE, found {short_text(segmentation)}. "
                "Export it again."
            )
        if not segmentation:
            if not isinstance(annotation.get("bbox"), list):
                raise DataFormatError(f"{where} has neither segmentation nor bbox. Draw its outline, or remove it.")
            self.reading.findings.note(BOXES, where)
            return Box(annotation["bbox"], size)
        if all(isinstance(part, dict) for part in segmentation):
            return Joined(tuple(RunLengths(part) for part in segmentation))
        polygons = [part for part in segmentation if not isinstance(part, list) or len(part) >= 6]
        if polygons and len(polygons) < len(segmentation):
            self.reading.findings.note(FEW_POINTS, where)
        return Polygons(polygons or segmentation, size)

    def _by_id(self, key: str) -> dict[str, Any]:
        """Records by their ids as text; raises `DataFormatError` for two of one id."""
        found: dict[str, Any] = {}
        for place, record in enumerate(checked_field(self.content, key, list, str(self.file))):
            where = f"{self.file}: {key} at position {place}"
            record_id = str(checked_field(record, "id", (int, str), where))
            if record_id in found:
                raise DataFormatError(f"{where}: another one has the id {name_text(record_id)} too. Number them anew.")
            found[record_id] = record
        return found


def annotation_sentences(annotation: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """All that stands in fields of sentences, of an annotation and of its attributes, whose names people choose."""
    attributes = annotation.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise DataFormatError(
            f"{where}: 'attributes' should be a mapping, found {short_text(attributes)}. Correct it."
        )
    named = {name.lower(): (name, value) for name, value in attributes.items()}
    found = [(name, annotation[name]) for name in SENTENCE_NAMES if name in annotation]
    found += [named[name] for name in SENTENCE_NAMES if name in named]
    sentences = [sentence for name, value in found for sentence in written_sentences(value, f"{where}: '{name}'")]
    return tuple(dict.fromkeys(sentences))


COCO = FolderFormat(
    name="coco",
    expects="a JSON file with images, annotations and categories",
    find=find_coco,
    read=read_coco,
)
