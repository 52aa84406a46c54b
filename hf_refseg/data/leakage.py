"""Training on several data sets at once, without any image that is in a val or test split of one of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

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

    Images are compared by the collection that they come from (see `image_collection`) and their `image_id`; no image
    is opened or copied. What is left keeps its order: one data set after the other.

    Args:
        data: data sets of `load_refseg` by the name that they were loaded by. One is filtered by its own other
            splits as well: RefCOCOg (google) has images that are in train and in val.
        train_split: the split to train on; all other splits are held out.
        listed: ids of further images of COCO that are held out, see `read_leakage_list`.

    Returns:
        The rows, and for each data set what is left and what was dropped.

    Raises:
        ValueError: no data set, one without the training split, or a list although no data set is COCO's.

    Warns of a data set whose collection is unknown: its images are compared with each other alone.
    """
    if not data:
        raise ValueError("There is no data set to train on: name at least one.")
    for name, splits in data.items():
        if train_split not in splits:
            raise ValueError(f"{name} has no split '{train_split}', only {', '.join(splits)}.")
    collection_of = {name: image_collection(name) for name in data}
    if listed and COCO not in collection_of.values():
        raise ValueError(
            f"The list holds ids of {COCO}, but the images of {', '.join(data)} come from elsewhere. Leave it out."
        )
    for name, collection in collection_of.items():
        if collection not in collections():
            logger.warning(
                f"Where the images of {name} come from is unknown: they are compared with each other alone."
            )
    held_out: dict[str, set[str]] = defaultdict(set, {COCO: set(listed)})
    for name, splits in data.items():
        for split, rows in splits.items():
            if split != train_split:
                held_out[collection_of[name]].update(image_ids_of(rows))
    filtered = {name: drop_images(splits[train_split], held_out[collection_of[name]]) for name, splits in data.items()}
    joined = concatenate_datasets([rows for rows, _ in filtered.values()])
    return joined, {name: part for name, (_, part) in filtered.items()}


def drop_images(rows: Dataset, held_out: Set[str]) -> tuple[Dataset, TrainingPart]:
    """The rows of all other images, in their order, and how many those and the dropped ones are."""
    image_ids = image_ids_of(rows)
    kept = [index for index, image_id in enumerate(image_ids) if image_id not in held_out]
    images = set(image_ids)
    dropped_images = len(images & held_out)
    part = TrainingPart(len(kept), len(images) - dropped_images, len(image_ids) - len(kept), dropped_images)
    return rows.select(kept), part


def image_ids_of(rows: Dataset) -> list[str]:
    """The `image_id` of each row; only this column is read."""
    return rows.select_columns("image_id")[:]["image_id"]


def image_collection(name: str) -> str:
    """The collection within which the `image_id`s of a data set are unique; that of no other is the same one.

    Args:
        name: as in `load_refseg`. What a prepared folder or a data set on the Hub was made from stands in its card.

    Returns:
        The `collection` of its record in the catalog, or, for a data set from elsewhere or of an unknown collection,
        its own name: nothing is known to share its images then.

    Raises:
        As `find_specs`.
    """
    return next((spec.collection for spec in find_specs(name)), None) or name


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
