"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF from the original files of the REFER collection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np

from hf_refseg.data.masks import MAX_PIXELS, InvalidMaskError, annotation_to_mask, check_overlap, encode_mask
from hf_refseg.data.rows import DataFormatError, read_json, row_features
from hf_refseg.files import is_plain_name
from hf_refseg.messages import name_text, short_text

from .plain_pickle import read_pickle
from .records import (
    AGAIN,
    checked_field,
    fingerprint_files,
    list_folder,
    warn_of_repeats,
)
from .rows_builder import RowsBuilder, RowsConfig


@dataclass
class ReferConfig(RowsConfig):
    """`dataset` is the folder of the annotation files, whose refs belong to `known_splits`."""

    dataset: str = ""
    split_by: str = ""
    known_splits: tuple[str, ...] = ()
    mask_overlap: str = "union"
    image_dir: str = ""


class Refer(RowsBuilder):
    """One row for each ref of `refs(<split_by>).p`; see `hf_refseg.data.rows.row_features` for the columns.

    Images are referenced by their path. Raises `DataFormatError` for files that are absent, damaged or inconsistent.

    Args:
        data_dir: holds the folder of the annotation files and, unless `image_dir` names another place for the images,
            `usual_image_dir`.
        dataset, split_by, mask_overlap, options: fields of `ReferConfig`.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ReferConfig
    config: ReferConfig

    def __init__(
        self,
        data_dir: str,
        dataset: str,
        split_by: str,
        usual_image_dir: str,
        mask_overlap: str,
        image_dir: str | PathLike[str] | None = None,
        **options: Any,
    ):
        check_overlap(mask_overlap)
        root = Path(data_dir)
        fingerprint = fingerprint_files(self.annotation_files(root, dataset, split_by))
        super().__init__(
            data_dir=data_dir,
            dataset=dataset,
            split_by=split_by,
            mask_overlap=mask_overlap,
            image_dir=str(find_image_dir(root, usual_image_dir, image_dir)),
            fingerprint=fingerprint,
            **options,
        )

    @staticmethod
    def refs_name(split_by: str) -> str:
        """The name of the file with the expressions."""
        return f"refs({split_by}).p"

    @staticmethod
    def read_refs(path: Path) -> Any:
        """The content of the file with the expressions."""
        return read_pickle(path)

    @staticmethod
    def targets_of(ref: dict[str, Any], instances: Instances, where: str) -> list[dict[str, Any]]:
        """The annotations whose union is the ref's mask; none for a ref without a target."""
        return [instances.annotation(checked_field(ref, "ann_id", int, where), where)]

    @classmethod
    def annotation_files(cls, root: Path, dataset: str, split_by: str) -> list[Path]:
        """The file of expressions and the file of instances; raises `DataFormatError` when one is absent."""
        folder = root / dataset
        files = [folder / cls.refs_name(split_by), folder / "instances.json"]
        for path in files:
            if not path.is_file():
                expected = ", ".join(f"{dataset}/{file.name}" for file in files)
                raise DataFormatError(
                    f"{path} does not exist. Expected {expected} under {root}; found {list_folder(root)}; in "
                    f"{dataset}/ {list_folder(folder)}. Point data_dir at the folder that holds '{dataset}/', or "
                    "change split_by."
                )
        return files

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=row_features())

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        config = self.config
        refs_file, instances_file = self.annotation_files(Path(config.data_dir), config.dataset, config.split_by)
        instances = Instances.read(instances_file)
        splits = group_by_split(self.read_refs(refs_file), refs_file, config.known_splits)
        splits = {split: refs for split, refs in splits.items() if split in (config.splits or splits)}
        ref_ids = [
            checked_field(ref, "ref_id", int, f"{refs_file}: ref {name_text(ref.get('ref_id'))}")
            for ref in chain.from_iterable(splits.values())
        ]
        warn_of_repeats(str(refs_file), "ids of refs", ref_ids, "each of the refs is a row of its own")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"refs": tuple(refs), "instances": instances, "file": refs_file})
            for split, refs in splits.items()
        ]

    def _generate_examples(
        self, refs: tuple[dict[str, Any], ...], instances: Instances, file: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, ref in enumerate(refs):
            with self.findings.skipping():
                yield index, self._row(ref, instances, f"{file}: ref {name_text(ref.get('ref_id'))}")

    def _row(self, ref: dict[str, Any], instances: Instances, where: str) -> dict[str, Any]:
        image = instances.image(ref["image_id"], where)
        targets = self.targets_of(ref, instances, where)
        return {
            "image": str(_image_file(Path(self.config.image_dir), image, where)),
            "image_id": str(ref["image_id"]),
            "ref_id": str(checked_field(ref, "ref_id", int, where)),
            "ann_ids": [str(each) for each in (ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]])],
            "category": ", ".join(dict.fromkeys(instances.category(target) for target in targets)),
            "mask": encode_mask(instances.union_mask(targets, image, self.config.mask_overlap)),
            "bbox": union_box([instances.bbox(target) for target in targets]),
            "no_target": not targets,
            "sentences": _sentences(ref, where),
        }


@dataclass(frozen=True)
class Instances:
    """`instances.json` in COCO's format, by id; every look-up raises `DataFormatError` for an absent or bad record."""

    file: Path
    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]
    categories: dict[int, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Instances:
        content = read_json(path)
        tables = [_by_id(content, key, path) for key in ("images", "annotations", "categories")]
        return cls(path, *tables)

    def image(self, image_id: int, where: str) -> dict[str, Any]:
        image = self.images.get(image_id)
        if image is None:
            raise DataFormatError(f"{where}: image {image_id} has no entry in {self.file}. {AGAIN}")
        width, height = (
            checked_field(image, side, int, f"{self.file}: image {image_id}") for side in ("width", "height")
        )
        if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
            raise DataFormatError(
                f"{self.file}: image {image_id} has the size {width} x {height}; expected up to {MAX_PIXELS} pixels. "
                f"{AGAIN}"
            )
        return image

    def annotation(self, ann_id: int, where: str) -> dict[str, Any]:
        if ann_id not in self.annotations:
            raise DataFormatError(f"{where}: annotation {ann_id} does not exist in {self.file}. {AGAIN}")
        return self.annotations[ann_id]

    def category(self, annotation: dict[str, Any]) -> str:
        where = f"{self.file}: annotation {annotation['id']}"
        category_id = checked_field(annotation, "category_id", int, where)
        if category_id not in self.categories:
            raise DataFormatError(f"{where}: category {category_id} is not listed under 'categories'. {AGAIN}")
        return checked_field(self.categories[category_id], "name", str, f"{self.file}: category {category_id}")

    def bbox(self, annotation: dict[str, Any]) -> list[float]:
        where = f"{self.file}: annotation {annotation['id']}"
        box = checked_field(annotation, "bbox", list, where)
        if len(box) != 4 or not all(type(side) in (int, float) and abs(side) < 1e9 for side in box):
            raise DataFormatError(f"{where}: the bbox should be four finite numbers, found {short_text(box)}. {AGAIN}")
        return [float(side) for side in box]

    def union_mask(self, annotations: list[dict[str, Any]], image: dict[str, Any], mask_overlap: str) -> np.ndarray:
        """The pixels (boolean, height x width) of all annotations; `mask_overlap` acts inside each of them."""
        union = np.zeros((image["height"], image["width"]), dtype=bool)
        for annotation in annotations:
            where = f"{self.file}: annotation {annotation['id']}"
            if annotation.get("image_id") != image["id"]:
                raise DataFormatError(f"{where} does not belong to image {image['id']} of its ref. {AGAIN}")
            try:
                union |= annotation_to_mask(annotation.get("segmentation"), *union.shape, mask_overlap)
            except InvalidMaskError as error:
                raise DataFormatError(f"{where}: {error}") from error
        return union


def group_by_split(refs: Any, path: Path, splits: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Refs by split, in the order of `splits` without the empty ones; refs of one image follow each other."""
    if not isinstance(refs, list) or not refs:
        raise DataFormatError(f"{path} should hold a list of refs, found {type(refs).__name__}. {AGAIN}")
    by_image: dict[str, dict[int, list[dict[str, Any]]]] = {split: {} for split in splits}
    for index, ref in enumerate(refs):
        split = checked_field(ref, "split", str, f"{path}: ref at position {index}")
        if split not in by_image:
            raise DataFormatError(
                f"{path}: ref {name_text(ref.get('ref_id'))} is in the split {short_text(split)}, expected one of "
                f"{', '.join(splits)}. {AGAIN}"
            )
        image_id = checked_field(ref, "image_id", int, f"{path}: ref {name_text(ref.get('ref_id'))}")
        by_image[split].setdefault(image_id, []).append(ref)
    return {split: list(chain.from_iterable(images.values())) for split, images in by_image.items() if images}


def find_image_dir(root: Path, usual: str, image_dir: str | PathLike[str] | None) -> Path:
    """The folder of the images: `image_dir` or the usual one under `root`; raises `DataFormatError` when absent."""
    folder = root / usual if image_dir is None else Path(image_dir).resolve()
    if not folder.is_dir():
        raise DataFormatError(
            f"The image folder {folder} does not exist. Expected {usual} under {root}, found there "
            f"{list_folder(root)}. Put the images there, or pass image_dir."
        )
    return folder


def repair_text(text: str) -> str:
    """Proper text from a byte string that Python 2 pickled and Python 3 read as latin-1."""
    if text.isascii():
        return text
    for encoding in ("utf-8", "cp1252"):
        try:
            return text.encode("latin1").decode(encoding)
        except UnicodeError:
            continue
    return text


def union_box(boxes: list[list[float]]) -> list[float]:
    """The box (x, y, width, height) around all boxes; four zeros around none."""
    if len(boxes) < 2:
        return boxes[0] if boxes else [0.0, 0.0, 0.0, 0.0]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return [left, top, right - left, bottom - top]


def _sentences(ref: dict[str, Any], where: str) -> list[dict[str, str]]:
    sentences = []
    for sentence in checked_field(ref, "sentences", list, where):
        sent_id = checked_field(sentence, "sent_id", (int, str), where)
        raw, sent = (
            repair_text(checked_field(sentence, key, str, f"{where}: sentence {name_text(sent_id)}"))
            for key in ("raw", "sent")
        )
        # `raw` is what models read; a blank `sent`, of words without letters, occurs in released files.
        if not raw.strip():
            raise DataFormatError(
                f"{where}: sentence {name_text(sent_id)} is empty. Write the expression, or remove the sentence."
            )
        sentences.append({"sent_id": str(sent_id), "raw": raw, "sent": sent})
    if not sentences:
        raise DataFormatError(f"{where} has no sentence. Write one, or remove the ref.")
    return sentences


def _image_file(folder: Path, image: dict[str, Any], where: str) -> Path:
    """The image's path; a name that leads out of the folder would publish a private file with the data set."""
    file_name = checked_field(image, "file_name", str, f"{where}: image {image['id']}")
    parts = PurePosixPath(file_name).parts
    if not parts or not all(map(is_plain_name, parts)):
        raise DataFormatError(
            f"{where}: the image's file name {short_text(file_name)} leads out of {folder}, or is none. {AGAIN}"
        )
    path = folder / file_name
    if not path.is_file():
        raise DataFormatError(f"{where}: its image {path} does not exist. Download it, or pass another image_dir.")
    return path


def _by_id(content: Any, key: str, path: Path) -> dict[int, dict[str, Any]]:
    records = checked_field(content, key, list, str(path))
    ids = [
        checked_field(record, "id", int, f"{path}: {key} at position {index}") for index, record in enumerate(records)
    ]
    warn_of_repeats(str(path), f"ids of {key}", ids, "the last record of each counts")
    return dict(zip(ids, records, strict=True))
