"""Labels by a system: masks for any number of images, as a data set that `load_refseg` reads and models train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..evaluation.systems import System
from .folder import SHARD_IMAGES, Labeling, LabelReport
from .images import AskedImage, AskedText, DatasetImages, ImagesToLabel, Photographs, find_images
from .rows import LabelRules
from .shards import LabelShard

__all__ = [
    "AskedImage",
    "AskedText",
    "DatasetImages",
    "ImagesToLabel",
    "LabelReport",
    "LabelRules",
    "LabelShard",
    "Labeling",
    "Photographs",
    "find_images",
    "label_images",
]


def label_images(
    system: System,
    images: ImagesToLabel,
    output: str | PathLike[str],
    *,
    rules: LabelRules | None = None,
    made_by: Mapping[str, Any] | None = None,
    shard_images: int = SHARD_IMAGES,
    num_workers: int = 0,
    progress: bool = True,
) -> LabelReport | None:
    """Label images with a system; a run that was killed goes on, and several at once share the work.

    Args:
        system: gives the answers; its `threshold` is that of the masks.
        images: `Photographs` or `DatasetImages`.
        output: a new or empty folder, or one that was begun with the same.
        rules: which answers become rows; by default all that have a mask.
        made_by: what answers depend on beside the system's name; by default a "revision", a hash of all that the
            system says of itself.
        shard_images: images in one Parquet file, which is what a kill loses.
        num_workers: processes that read and prepare images.
        progress: show a progress bar over the images.

    Returns:
        What became of the images; None where other processes are still writing: the last of them finishes the folder.

    Raises:
        BadInputError: no answer became a row.
        DataFormatError: the folder belongs to something else, or is damaged.
        ValueError: a number out of range, or the system fails.
        OutputError: the folder cannot be written, or the disk is full.
    """
    if made_by is None:
        made_by = {"revision": hashlib.sha256(json.dumps(system.describe(), default=str).encode()).hexdigest()[:12]}
    labeling = Labeling(images, output, {"system": system.name, **made_by}, rules=rules, shard_images=shard_images)
    labeling.begin()
    labeling.write_all(system, num_workers=num_workers, progress=progress)
    return None if labeling.unfinished() else labeling.finish()
