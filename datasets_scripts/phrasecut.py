"""PhraseCut: phrases about regions of Visual Genome's images, from its original files (https://huggingface.co/papers/2008.01187)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_refseg.data.json_list import JsonList
from hf_refseg.data.masks import InvalidMaskError, draw_polygons, encode_mask, mask_to_bbox
from hf_refseg.data.rows import DataFormatError, read_json, row_features
from hf_refseg.messages import name_text, short_text

from .original_files import picture_size
from .records import (
    AGAIN,
    checked_field,
    checked_image_size,
    fingerprint_files,
    fingerprint_states,
    is_int64,
    list_folder,
    warn_of_repeats,
)
from .rows_builder import RowsBuilder, RowsConfig

FOLDER = "VGPhraseCut_v0"
SPLITS = ("train", "val", "test", "miniv")
# As it is downloaded now, and as it was before.
IMAGE_LISTS = ("image_data_split.json", "image_data_split3000.json")
# Those of PhraseCut's own download, and of Visual Genome's two.
IMAGE_FOLDERS = ("images", "VG_100K", "VG_100K_2")


@dataclass
class PhraseCutConfig(RowsConfig):
    """`image_dir` holds the images, or Visual Genome's folders of them; empty = they lie beside the phrases."""

    image_dir: str = ""


class PhraseCut(RowsBuilder):
    """One row for each task (a phrase and the region that it means) of `refer_<split>.json`.

    The columns are those of `hf_refseg.data.rows.row_features`, and `coco_id`: the id of the image in COCO, null where
    it is none of COCO's. Masks are drawn as the authors draw them. Images are referenced by their path. Raises
    `DataFormatError` for files that are absent, damaged or inconsistent.

    Args:
        data_dir: the folder `VGPhraseCut_v0`, or the one that holds it.
        image_dir, options: fields of `PhraseCutConfig`.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = PhraseCutConfig
    config: PhraseCutConfig

    def __init__(
        self,
        data_dir: str,
        image_dir: str | PathLike[str] | None = None,
        splits: tuple[str, ...] = (),
        **options: Any,
    ):
        self.folder = find_folder(Path(data_dir))
        self.image_list = find_image_list(self.folder)
        self.phrase_files = {split: find_phrases(self.folder, split) for split in splits or SPLITS}
        places = [self.folder, Path(data_dir)] if image_dir is None else [Path(image_dir).resolve()]
        self.image_folders = find_image_folders(places)
        fingerprint = fingerprint_files([self.image_list, *self.phrase_files.values()])
        if {"on_bad_record", "on_size_mismatch"} & options.keys():
            # Then which images are there, and in which size, decides about the rows as well.
            for folder in self.image_folders:
                fingerprint += fingerprint_states(folder, folder.glob("*.jpg"))
        super().__init__(
            data_dir=data_dir,
            image_dir="" if image_dir is None else str(places[0]),
            splits=splits,
            fingerprint=fingerprint,
            **options,
        )

    def folders(self) -> tuple[str | None, ...]:
        return (*super().folders(), self.config.image_dir)

    def _info(self) -> datasets.DatasetInfo:
        features = {**row_features(), "coco_id": datasets.Value("string")}
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        images = read_images(self.image_list)
        return [
            datasets.SplitGenerator(split, gen_kwargs={"file": file, "images": images})
            for split, file in self.phrase_files.items()
        ]

    def _generate_examples(
        self, file: Path, images: dict[int, dict[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        tasks, ids = JsonList(file), []
        by_image: dict[int, list[int]] = {}
        where = None
        for number, (place, task) in enumerate(tasks):
            where = f"{file}: task at position {number}"
            with self.findings.skipping():
                image_id = checked_field(task, "image_id", int, where)
                ids.append(checked_field(task, "task_id", str, where))
                by_image.setdefault(image_id, []).append(place)
        if where is None:
            raise DataFormatError(f"{file} holds no task. Download the file again.")
        warn_of_repeats(str(file), "ids of tasks", ids, "each of the tasks is a row of its own")
        for image_id, places in by_image.items():
            picture = None
            for place in places:
                with self.findings.skipping():
                    task = tasks.decode(place)
                    where = f"{file}: task {name_text(task['task_id'])}"
                    picture = picture or self._picture(image_id, images, where)
                    yield place, self._row(task, picture, where)

    def _picture(self, image_id: int, images: dict[int, dict[str, Any]], where: str) -> Picture:
        """The image of a task."""
        if image_id not in images:
            raise DataFormatError(f"{where}: image {image_id} has no entry in {self.image_list}. {AGAIN}")
        listed, name = images[image_id], f"{self.image_list}: image {image_id}"
        listed_size = checked_image_size(listed, name)
        # Without the key, an image that other data sets hold out would be trained on.
        coco_id = None if listed.get("coco_id", "") is None else checked_field(listed, "coco_id", int, name)
        paths = [folder / f"{image_id}.jpg" for folder in self.image_folders]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise DataFormatError(f"{where}: its image {paths[0]} does not exist. Download it, or pass image_dir.")
        return Picture(path, listed_size, picture_size(path, where), coco_id)

    def _row(self, task: dict[str, Any], picture: Picture, where: str) -> dict[str, Any]:
        drawn = f"{where} (sizes: {self.image_list.name})"
        mask = self.fit_mask(draw_task(task, picture.listed_size, drawn), picture.size, drawn)
        if not mask.any():
            raise DataFormatError(f"{drawn}: its polygons show nothing of the image. {AGAIN}")
        structure = checked_field(task, "phrase_structure", dict, where)
        phrase = checked_field(task, "phrase", str, where)
        if not phrase.strip():
            raise DataFormatError(f"{where}: its phrase is empty. Write it, or remove the task.")
        return {
            "image": str(picture.path),
            "image_id": str(task["image_id"]),
            "ref_id": task["task_id"],
            "ann_ids": ids_of_annotations(task, where),
            "category": checked_field(structure, "name", str, f"{where}: phrase_structure"),
            "mask": encode_mask(mask),
            "bbox": mask_to_bbox(mask),
            "no_target": False,
            "sentences": [{"sent_id": task["task_id"], "raw": phrase, "sent": " ".join(phrase.lower().split())}],
            "coco_id": None if picture.coco_id is None else str(picture.coco_id),
        }


@dataclass(frozen=True)
class Picture:
    """An image: its file, the size (H, W) by which it was annotated and that of the file, and its id in COCO."""

    path: Path
    listed_size: tuple[int, int]
    size: tuple[int, int]
    coco_id: int | None


def draw_task(task: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels (bool, H x W) of all instances that a task means."""
    instances = checked_field(task, "Polygons", list, where)
    if not all(isinstance(polygons, list) for polygons in instances):
        raise DataFormatError(
            f"{where}: 'Polygons' should be a list of polygons for each instance, found {short_text(instances)}. "
            f"{AGAIN}"
        )
    try:
        return draw_polygons(list(chain.from_iterable(instances)), *size)
    except InvalidMaskError as error:
        raise DataFormatError(f"{where}: {error}") from error


def ids_of_annotations(task: dict[str, Any], where: str) -> list[str]:
    """The ids of the objects in Visual Genome that a task means."""
    ids = checked_field(task, "ann_ids", list, where)
    if not all(map(is_int64, ids)):
        raise DataFormatError(f"{where}: 'ann_ids' should be a list of integers, found {short_text(ids)}. {AGAIN}")
    return list(map(str, ids))


def read_images(path: Path) -> dict[int, dict[str, Any]]:
    """The list of images by their ids; raises `DataFormatError` where it is none, or an image has no id."""
    images = read_json(path)
    if not isinstance(images, list):
        raise DataFormatError(f"{path} should hold a list of images, found {type(images).__name__}. {AGAIN}")
    ids = [
        checked_field(image, "image_id", int, f"{path}: image at position {index}")
        for index, image in enumerate(images)
    ]
    warn_of_repeats(str(path), "ids of images", ids, "the last record of each counts")
    return dict(zip(ids, images, strict=True))


def find_folder(root: Path) -> Path:
    """The folder of the phrases: `VGPhraseCut_v0` in `root`, or `root` itself."""
    return root / FOLDER if (root / FOLDER).is_dir() else root


def find_image_list(folder: Path) -> Path:
    """The file with the images' sizes and ids; raises `DataFormatError` where there is none."""
    path = next((folder / name for name in IMAGE_LISTS if (folder / name).is_file()), None)
    if path is None:
        raise DataFormatError(
            f"{folder} holds neither {' nor '.join(IMAGE_LISTS)}, but {list_folder(folder)}. Point data_dir at the "
            f"folder that holds {FOLDER}/, or download the file."
        )
    return path


def find_phrases(folder: Path, split: str) -> Path:
    """The file of a split's phrases with their regions; raises `DataFormatError` where there is none."""
    path = folder / f"refer_{split}.json"
    if not path.is_file():
        given = folder / f"refer_input_{split}.json"
        instead = f"; {given.name} has phrases without their regions" if given.is_file() else ""
        raise DataFormatError(
            f"{path} does not exist{instead}. Download it, or name the splits whose files are there in splits."
        )
    return path


def find_image_folders(places: list[Path]) -> list[Path]:
    """Where images may lie: the usual folders in the places, or else the places; in them a file for each image."""
    usual = [place / name for place in places for name in IMAGE_FOLDERS]
    return [folder for folder in usual if folder.is_dir()] or places
