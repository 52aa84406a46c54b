"""Training on several data sets at once, without any image that is in a val or test split of one of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import overload

from datasets import Dataset, DatasetDict, concatenate_datasets

from ..messages import BadInputError
from .catalog import COCO, collections
from .prepared import find_specs
from .rows import DataFormatError, read_json

logger = logging.getLogger(__name__)


class LeakageError(BadInputError):
    """Training data that holds images of val or test splits."""


@dataclass(frozen=True)
class TrainingPart:
    """What one data set gives to the training, and what was dropped from its training split.

    Attributes:
        rows: referents that are left.
        images: different images that are left.
        dropped_rows: referents that were dropped along with their images.
        dropped_images: different images that were dropped.
    """

    rows: int
    images: int
    dropped_rows: int = 0
    dropped_images: int = 0

    def describe_dropped(self) -> str:
        """How much of the training split was dropped, as the beginning of a sentence."""
        return (
            f"{self.dropped_images:,} of {self.images + self.dropped_images:,} training images, with "
            f"{self.dropped_rows:,} of {self.rows + self.dropped_rows:,} referents,"
        )


def join_training_splits(
    data: Mapping[str, DatasetDict], *, train_split: str = "train", listed: Set[str] = frozenset()
) -> tuple[Dataset, dict[str, TrainingPart]]:
    """One training split of several data sets, without the images that are in another split of any of them.

    Images are compared by the collections that know them (see `image_collections`) and their ids there; no image is
    opened or copied. What is left keeps its order: one data set after the other.

    Args:
        data: data sets of `load_refseg` by the name that they were loaded by. One is filtered by its own other
            splits as well: RefCOCOg (google) has images that are in train and in val.
        train_split: the split to train on; all other splits are held out.
        listed: ids of further images of COCO that are held out, see `read_leakage_list`.

    Returns:
        The rows, in the columns that all data sets have, and for each data set what is left and what was dropped.

    Raises:
        ValueError: no data set, one without the training split, or a list although no image is known to be COCO's.
        DataFormatError: a data set lacks a column with the ids of its images in another collection.

    Warns of a data set whose collection is unknown: its images are compared with each other alone.
    """
    if not data:
        raise ValueError("There is no data set to train on: name at least one.")
    for name, splits in data.items():
        if train_split not in splits:
            raise ValueError(f"{name} has no split '{train_split}', only {', '.join(splits)}.")
    columns_of = {name: image_collections(name) for name in data}
    if listed and not any(COCO in columns.values() for columns in columns_of.values()):
        raise ValueError(
            f"The list holds ids of {COCO}, but the images of {', '.join(data)} come from elsewhere. Leave it out."
        )
    for name, columns in columns_of.items():
        if columns["image_id"] not in collections():
            logger.warning(
                f"Where the images of {name} come from is unknown: they are compared with each other alone."
            )
    held_out: dict[str, set[str]] = defaultdict(set, {COCO: set(listed)})
    for name, splits in data.items():
        for split, rows in splits.items():
            require_ids(f"{name} ({split})", rows, columns_of[name])
            if split != train_split:
                for column, collection in columns_of[name].items():
                    held_out[collection].update(filter(None, image_ids_of(rows, column)))
    filtered = {
        name: drop_images(splits[train_split], find_held_out(splits[train_split], columns_of[name], held_out))
        for name, splits in data.items()
    }
    joined = [rows.remove_columns([*columns_of[name].keys() - {"image_id"}]) for name, (rows, _) in filtered.items()]
    return concatenate_datasets(joined), {name: part for name, (_, part) in filtered.items()}


def find_held_out(rows: Dataset, columns: Mapping[str, str], held_out: Mapping[str, Set[str]]) -> set[str]:
    """The `image_id`s of the images that are held out.

    Args:
        rows: of a data set.
        columns: its columns with ids, and the collection of each.
        held_out: ids that are held out, by collection.
    """
    image_ids = image_ids_of(rows)
    return {
        image_id
        for column, collection in columns.items()
        for image_id, known_as in zip(image_ids, image_ids_of(rows, column), strict=True)
        if known_as in held_out.get(collection, ())
    }


def drop_images(rows: Dataset, held_out: Set[str]) -> tuple[Dataset, TrainingPart]:
    """The rows of all other images, in their order, and how many those and the dropped ones are."""
    image_ids = image_ids_of(rows)
    kept = [index for index, image_id in enumerate(image_ids) if image_id not in held_out]
    images = set(image_ids)
    dropped_images = len(images & held_out)
    part = TrainingPart(len(kept), len(images) - dropped_images, len(image_ids) - len(kept), dropped_images)
    return rows.select(kept), part


@overload
def image_ids_of(rows: Dataset) -> list[str]: ...
@overload
def image_ids_of(rows: Dataset, column: str) -> list[str | None]: ...
def image_ids_of(rows: Dataset, column: str = "image_id") -> Sequence[str | None]:
    """The id of each row's image in a column of ids; only this column is read."""
    return rows.select_columns(column)[:][column]


def require_ids(where: str, rows: Dataset, columns: Mapping[str, str]) -> None:
    """Raises `DataFormatError` where rows lack one of the columns of `image_collections`."""
    for column, collection in columns.items():
        if column not in rows.column_names:
            raise DataFormatError(
                f"{where} lacks the column {column}, by which its images are known in {collection}: held out ones "
                "would not be found. Prepare it again with `hf-refseg prepare`."
            )


def image_collections(name: str) -> dict[str, str]:
    """The columns with ids of a data set's images, `image_id` first, and by column the collection that they are from.

    Args:
        name: as in `load_refseg`. What a prepared folder or a data set on the Hub was made from stands in its card.

    Returns:
        The `collection` and `other_ids` of its record in the catalog. For a data set from elsewhere or of an unknown
        collection this is its own name: nothing is known to share its images then.

    Raises:
        As `find_specs`.
    """
    spec = next(iter(find_specs(name)), None)
    return {"image_id": name} if spec is None else {"image_id": spec.collection or name, **spec.other_ids}


def image_collection(name: str) -> str:
    """The collection that `image_collections` tells of `image_id`; raises as it."""
    return image_collections(name)["image_id"]


def read_leakage_list(path: str | PathLike[str]) -> frozenset[str]:
    """The image ids in a JSON list of integers, such as the published one of all images of COCO train2014 that are in
    some val or test split of RefCOCO, RefCOCO+ or RefCOCOg (10,113 ids).

    Raises:
        DataFormatError: the file holds something else.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no leakage list {path}: name a JSON file of COCO image ids.")
    image_ids = read_json(Path(path))
    if not isinstance(image_ids, list) or not image_ids or not all(type(image_id) is int for image_id in image_ids):
        raise DataFormatError(f"{path} should hold a JSON list of image ids (integers). Name another file.")
    return frozenset(map(str, image_ids))
