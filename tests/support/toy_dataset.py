"""A data set of gray pictures, as somebody adds one to the library: a builder and a record of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hf_refseg.data.catalog import COCO, SPLITS, DataOption, DatasetSpec, Partition
from hf_refseg.data.masks import encode_mask, mask_to_bbox
from hf_refseg.data.rows import row_features

SIDE = 8


@dataclass
class ToyConfig(datasets.BuilderConfig):
    """`gray` is the value of all pixels, `split_by` the folder of the sentences."""

    split_by: str = ""
    known_splits: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    gray: int = 100


class Toy(datasets.GeneratorBasedBuilder):
    """Each line of `<split_by>/<split>.txt` is an image id and a sentence, which means the left half of the image."""

    BUILDER_CONFIG_CLASS = ToyConfig
    config: ToyConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=row_features())

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        folder = Path(self.config.data_dir) / self.config.split_by
        return [
            datasets.SplitGenerator(split, gen_kwargs={"file": folder / f"{split}.txt"})
            for split in self.config.splits or self.config.known_splits
        ]

    def _generate_examples(self, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        mask = np.arange(SIDE) < np.full((SIDE, 1), SIDE // 2)
        picture = io.BytesIO()
        Image.new("L", (SIDE, SIDE), self.config.gray).save(picture, format="PNG")
        for index, line in enumerate(file.read_text().splitlines()):
            image_id, _, sentence = line.partition(" ")
            yield (
                index,
                {
                    "image": {"bytes": picture.getvalue(), "path": None},
                    "image_id": image_id,
                    "ref_id": str(index),
                    "ann_ids": [str(index)],
                    "category": "half",
                    "mask": encode_mask(mask),
                    "bbox": mask_to_bbox(mask),
                    "no_target": False,
                    "sentences": [{"sent_id": "0", "raw": sentence, "sent": sentence}],
                },
            )


TOY = DatasetSpec(
    name="toy",
    title="Toy Halves",
    kind="image",
    builder=f"{__name__}:Toy",
    partitions=(
        Partition(("train", "val"), "one", {"train": (3, 3), "val": (1, None)}),
        Partition(("train",), "two"),
    ),
    options=(
        DataOption("data_dir", "Folder of the sentences.", Path, is_place=True),
        DataOption("split_by", "Who split it.", str),
        SPLITS,
        DataOption("cache_dir", "Folder for the rows.", Path, is_place=True),
        DataOption("gray", "Toy Halves: value of all pixels.", least=0),
    ),
    collection=COCO,
    paper="Nobody et al., Halves",
    terms="Free for all.",
    license="cc0-1.0",
    layout=("<split_by>/<split>.txt",),
    protocol="rela",
)


def write_toy(folder: Path) -> Path:
    """The original files: five images in two partitions."""
    for name, lines in {
        "one/train.txt": ["1 left half", "2 the left", "3 left side"],
        "one/val.txt": ["4 left"],
        "two/train.txt": ["5 left half"],
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    return folder
