"""RefCOCO, RefCOCO+ and RefCOCOg from the original files of the REFER collection, and what all in its format share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np

from hf_refseg.data.findings import Findings
from hf_refseg.data.masks import (
    InvalidMaskError,
    annotation_to_mask,
    check_overlap,
    encode_mask,
    encoded_size,
    mask_to_bbox,
)
from hf_refseg.data.rows import DataFormatError, ordered_splits, read_json, row_features
from hf_refseg.files import is_plain_path
from hf_refseg.messages import name_text, short_text

from .original_files import picture_size
from .plain_pickle import read_pickle
from .records import (
    AGAIN,
    checked_field,
    checked_id,
    checked_image_size,
    fingerprint_files,
    fingerprint_states,
    is_number,
    is_split_name,
    list_folder,
    usual_order,
    warn_of_repeats,
)
from .rows_builder import RowsBuilder, RowsConfig

SHORT_POLYGONS = "polygons of fewer than three points, left out beside others"


@dataclass
class ReferConfig(RowsConfig):
    """`dataset` is the folder of the files; `known_splits` are those that refs may belong to, none = any."""

    dataset: str = ""
    split_by: str = ""
    known_splits: tuple[str, ...] = ()
    mask_overlap: str = "union"
    image_dir: str = ""


class Refer(RowsBuilder):
    """One row for each ref of `refs(<split_by>).p`; see `hf_refseg.data.rows.row_features` for the columns.

    Images are referenced by their path; of each the header is read. Ids are integers or texts. Raises
    `DataFormatError` for files that are absent, damaged or inconsistent.

    Args:
        data_dir: holds the folder of the annotation files and, unless `image_dir` names another place for the images,
            one of `usual_image_dirs`, in which {dataset} stands for that name.
        dataset, split_by, mask_overlap, options: fields of `ReferConfig`.
    """

    VERSION = datasets.Version("1.1.0")
    BUILDER_CONFIG_CLASS = ReferConfig
    config: ReferConfig
    # What the file of the expressions may be called; the first that is there is read.
    REFS_NAMES: ClassVar[tuple[str, ...]] = ("refs({split_by}).p",)
    # Splits in the file of which a ref belongs to several of the data set's.
    COMBINED_SPLITS: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        data_dir: str,
        dataset: str,
        split_by: str,
        usual_image_dirs: Sequence[str],
        mask_overlap: str,
        image_dir: str | PathLike[str] | None = None,
        **options: Any,
    ):
        check_overlap(mask_overlap)
        root = Path(data_dir)
        fingerprint = fingerprint_files(self.annotation_files(root, dataset, split_by))
        places = [place.format(dataset=dataset) for place in usual_image_dirs]
        folder = find_image_dir(root, places, image_dir)
        if {"on_bad_record", "on_size_mismatch"} & options.keys():
            # Then which images are there, and in which size, decides about the rows as well.
            fingerprint += fingerprint_states(folder, (path for path in folder.rglob("*") if path.is_file()))
        super().__init__(
            data_dir=data_dir,
            dataset=dataset,
            split_by=split_by,
            mask_overlap=mask_overlap,
            image_dir=str(folder),
            fingerprint=fingerprint,
            **options,
        )

    def folders(self) -> tuple[str | None, ...]:
        return (*super().folders(), self.config.image_dir)

    def left_out(self, ref: dict[str, Any], where: str) -> str | None:
        """What is known to be wrong with a ref that is left out for it, such as "refs without a sentence"."""
        return None

    def targets_of(self, ref: dict[str, Any], instances: Instances, where: str) -> list[dict[str, Any]]:
        """The annotations whose union is the ref's mask; none for a ref without a target."""
        return [instances.annotation(checked_id(ref, "ann_id", where), where)]

    def box_of(self, targets: list[dict[str, Any]], instances: Instances, mask: np.ndarray) -> list[float]:
        """The box around the targets, whose mask (bool, H x W) has the size that was annotated."""
        return union_box([instances.bbox(target) for target in targets])

    @classmethod
    def annotation_files(cls, root: Path, dataset: str, split_by: str) -> list[Path]:
        """The file of expressions and the file of instances; raises `DataFormatError` when one is absent."""
        folder = root / dataset
        names = [name.format(split_by=split_by) for name in cls.REFS_NAMES]
        refs = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
        for path in (refs, folder / "instances.json"):
            if not path.is_file():
                expected = " or ".join(f"{dataset}/{name}" for name in names)
                raise DataFormatError(
                    f"{path} does not exist. Expected {expected}, {dataset}/instances.json under {root}; found "
                    f"{list_folder(root)}; in {dataset}/ {list_folder(folder)}. Point data_dir at the folder that "
                    f"holds '{dataset}/', or change split_by."
                )
        return [refs, folder / "instances.json"]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=row_features())

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        config = self.config
        refs_file, instances_file = self.annotation_files(Path(config.data_dir), config.dataset, config.split_by)
        instances = Instances.read(instances_file, self.findings)
        refs = read_pickle(refs_file) if refs_file.suffix == ".p" else read_json(refs_file)
        return [
            datasets.SplitGenerator(split, gen_kwargs={"refs": refs, "instances": instances, "file": refs_file})
            for split, refs in self._group_by_split(refs, refs_file).items()
        ]

    def _group_by_split(self, refs: Any, path: Path) -> dict[str, tuple[dict[str, Any], ...]]:
        """The refs of each split that is made, in the order of the splits; refs of one image follow each other."""
        if not isinstance(refs, list) or not refs:
            raise DataFormatError(f"{path} should hold a list of refs, found {type(refs).__name__}. {AGAIN}")
        by_image: dict[str, dict[str, list[dict[str, Any]]]] = {}
        ref_ids = []
        for index, ref in enumerate(refs):
            with self.findings.skipping():
                name = checked_field(ref, "split", str, f"{path}: ref at position {index}")
                where = f"{path}: ref {name_text(ref.get('ref_id'))}"
                splits = [by_image.setdefault(split, {}) for split in self._splits_of(name, where)]
                if not self._is_wanted(name):
                    continue
                if (reason := self.left_out(ref, where)) is not None:
                    self.findings.note(reason, where)
                    continue
                image_id = checked_id(ref, "image_id", where)
                ref_ids.append(checked_id(ref, "ref_id", where))
                for images in splits:
                    images.setdefault(image_id, []).append(ref)
        warn_of_repeats(str(path), "ids of refs", ref_ids, "each of the refs is a row of its own")
        found = [split for split in self.config.known_splits or usual_order(by_image) if split in by_image]
        made = ordered_splits(self.config.dataset, found, self.config.splits) if self.config.splits else found
        return {split: tuple(chain.from_iterable(by_image[split].values())) for split in made}

    def _splits_of(self, name: str, where: str) -> tuple[str, ...]:
        """The splits to which a ref of a split of the file belongs."""
        splits, known = self.COMBINED_SPLITS.get(name, (name,)), self.config.known_splits
        if known and not set(splits) <= set(known):
            raise DataFormatError(
                f"{where} is in the split {short_text(name)}, expected one of {', '.join(known)}. {AGAIN}"
            )
        if not known and not is_split_name(name):
            raise DataFormatError(
                f"{where} is in the split {short_text(name)}, which is no word, or that for all splits. Rename it."
            )
        return splits

    def _is_wanted(self, name: str) -> bool:
        wanted = self.config.splits
        return not wanted or not set(wanted).isdisjoint(self.COMBINED_SPLITS.get(name, (name,)))

    def _generate_examples(
        self, refs: tuple[dict[str, Any], ...], instances: Instances, file: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        sizes: dict[Path, tuple[int, int]] = {}
        for index, ref in enumerate(refs):
            with self.findings.skipping():
                yield index, self._row(ref, instances, sizes, f"{file}: ref {name_text(ref.get('ref_id'))}")

    def _row(
        self, ref: dict[str, Any], instances: Instances, sizes: dict[Path, tuple[int, int]], where: str
    ) -> dict[str, Any]:
        """The row of a ref; `sizes` (H, W) are those of the pictures that were opened already."""
        sentences = _sentences(ref, where)
        image = instances.image(checked_id(ref, "image_id", where), where)
        image_where = f"{where}: image {name_text(str(image['id']))} of {instances.file.name}"
        path = _image_file(Path(self.config.image_dir), image, image_where)
        if path not in sizes:
            sizes[path] = picture_size(path, where)
        size = sizes[path]
        targets = self.targets_of(ref, instances, where)
        drawn = [instances.mask(target, image, self.config.mask_overlap, self.findings) for target in targets]
        masks = [
            self.fit_mask(mask, size, f"{instances.place(target)}, on {path.name}")
            for target, mask in zip(targets, drawn, strict=True)
        ]
        union = np.logical_or.reduce([np.zeros(size, dtype=bool), *masks])
        is_as_annotated = bool(targets) and all(mask.shape == size for mask in drawn)
        return {
            "image": str(path),
            "image_id": str(image["id"]),
            "ref_id": checked_id(ref, "ref_id", where),
            "ann_ids": [str(each) for each in (ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]])],
            "category": ", ".join(dict.fromkeys(filter(None, (instances.category(each, ref) for each in targets)))),
            "mask": encode_mask(union),
            "bbox": self.box_of(targets, instances, union) if is_as_annotated else mask_to_bbox(union),
            "no_target": not targets,
            "sentences": sentences,
        }


@dataclass(frozen=True)
class Instances:
    """`instances.json` in COCO's format, by id; every look-up raises `DataFormatError` for an absent or bad record."""

    file: Path
    images: dict[str, dict[str, Any]]
    annotations: dict[str, dict[str, Any]]
    categories: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path, findings: Findings) -> Instances:
        content = read_json(path)
        tables = [_by_id(content, key, path, findings) for key in ("images", "annotations", "categories")]
        return cls(path, *tables)

    def image(self, image_id: str, where: str) -> dict[str, Any]:
        image = self.images.get(image_id)
        if image is None:
            raise DataFormatError(f"{where}: image {name_text(image_id)} has no entry in {self.file}. {AGAIN}")
        checked_image_size(image, f"{self.file}: image {name_text(image_id)}")
        return image

    def annotation(self, ann_id: str, where: str) -> dict[str, Any]:
        if ann_id not in self.annotations:
            raise DataFormatError(f"{where}: annotation {name_text(ann_id)} does not exist in {self.file}. {AGAIN}")
        return self.annotations[ann_id]

    def place(self, annotation: dict[str, Any]) -> str:
        """Where an annotation is found."""
        return f"{self.file}: annotation {name_text(str(annotation['id']))}"

    def category(self, annotation: dict[str, Any], ref: dict[str, Any]) -> str:
        """The name of an annotation's category, or of its ref's; empty where neither has one."""
        record = next((record for record in (annotation, ref) if record.get("category_id") is not None), None)
        if record is None:
            return ""
        where = self.place(annotation)
        category_id = checked_id(record, "category_id", where)
        if category_id not in self.categories:
            raise DataFormatError(
                f"{where}: category {name_text(category_id)} is not listed under 'categories'. {AGAIN}"
            )
        return checked_field(
            self.categories[category_id], "name", str, f"{self.file}: category {name_text(category_id)}"
        )

    def bbox(self, annotation: dict[str, Any]) -> list[float]:
        where = self.place(annotation)
        box = checked_field(annotation, "bbox", list, where)
        if len(box) != 4 or not all(is_number(side) and abs(side) < 1e9 for side in box):
            raise DataFormatError(f"{where}: the bbox should be four finite numbers, found {short_text(box)}. {AGAIN}")
        return [float(side) for side in box]

    def mask(
        self, annotation: dict[str, Any], image: dict[str, Any], mask_overlap: str, findings: Findings
    ) -> np.ndarray:
        """The pixels (bool, H x W) of an annotation, in the size of its run lengths or, of polygons, of its image."""
        where = self.place(annotation)
        if str(annotation.get("image_id")) != str(image["id"]):
            raise DataFormatError(f"{where} does not belong to image {image['id']} of its ref. {AGAIN}")
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            kept = [part for part in segmentation if not _is_short_polygon(part)]
            if 0 < len(kept) < len(segmentation):
                findings.note(SHORT_POLYGONS, where)
                segmentation = kept
        try:
            height, width = encoded_size(segmentation) or (image["height"], image["width"])
            return annotation_to_mask(segmentation, height, width, mask_overlap)
        except InvalidMaskError as error:
            raise DataFormatError(f"{where}: {error}") from error


def find_image_dir(root: Path, usual: Sequence[str], image_dir: str | PathLike[str] | None) -> Path:
    """The folder of the images: `image_dir`, or the first of the usual ones under `root`.

    Raises `DataFormatError` when it is absent.
    """
    folders = [root / place for place in usual] if image_dir is None else [Path(image_dir).resolve()]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataFormatError(
            f"The image folder {folders[0]} does not exist. Expected {' or '.join(usual)} under {root}, found there "
            f"{list_folder(root)}. Put the images there, or pass image_dir."
        )
    return found


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


def _is_short_polygon(part: Any) -> bool:
    """Whether it is a polygon of fewer than three points."""
    return isinstance(part, list) and len(part) < 6 and all(map(is_number, part))


def _image_file(folder: Path, image: dict[str, Any], where: str) -> Path:
    """The image's path; a name that leads out of the folder would publish a private file with the data set."""
    file_name = checked_field(image, "file_name", str, where)
    if not is_plain_path(file_name):
        raise DataFormatError(
            f"{where}: the file name {short_text(file_name)} leads out of {folder}, or is none. {AGAIN}"
        )
    path = folder / file_name
    if not path.is_file():
        raise DataFormatError(f"{where}: its file {path} does not exist. Download it, or pass another image_dir.")
    return path


def _by_id(content: Any, key: str, path: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    records = checked_field(content, key, list, str(path))
    found: list[tuple[str, dict[str, Any]]] = []
    for index, record in enumerate(records):
        with findings.skipping():
            found.append((checked_id(record, "id", f"{path}: {key} at position {index}"), record))
    warn_of_repeats(str(path), f"ids of {key}", (each for each, _ in found), "the last record of each counts")
    return dict(found)
