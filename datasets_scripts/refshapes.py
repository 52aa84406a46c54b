"""RefShapes: generated scenes of textured shapes with sentences whose masks are computed from their exact meaning."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np
from PIL import Image

from hf_refseg.data.masks import encode_mask, mask_to_bbox
from hf_refseg.data.rows import row_features
from hf_refseg.messages import short_text

from .refshapes_drawing import draw_mask, render_scene
from .refshapes_meaning import REFSHAPES_WORDS, Expression, Scene, ShapeObject
from .refshapes_sampling import MIXTURES, Referent, sample_referents, sample_scene

# Part of the cache's key: raise it with every change of what is generated.
VERSION = datasets.Version("1.6.0")
SPLITS = ("train", "val", "test")
IMAGE_SIZES = (64, 4096)
# More scenes than this would give annotations of two splits the same ids.
MAXIMUM_SCENES = 10**9


@dataclass
class RefShapesConfig(datasets.BuilderConfig):
    """Sizes are numbers of scenes (up to four rows each), `image_size` is the side in pixels, no `splits` = all."""

    splits: tuple[str, ...] = ()
    train_size: int = 8000
    val_size: int = 500
    test_size: int = 500
    image_size: int = 128
    seed: int = 0

    def check(self) -> None:
        """Raises ValueError for a size, image size or seed that is no whole number, too small or too large."""
        self._check_number("image_size", *IMAGE_SIZES)
        self._check_number("seed", 0, 2**63)
        for split in SPLITS:
            self._check_number(f"{split}_size", 1, MAXIMUM_SCENES)

    def _check_number(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(
                f"RefShapes: {name} must be a whole number of at least {least} and at most {most}, "
                f"got {short_text(value)}"
            )


class RefShapes(datasets.GeneratorBasedBuilder):
    """Builder of the configs `refshapes`, `refshapes+` (no place words) and `grefshapes` (plural, no target).

    A scene gives up to four rows, one per referent, with one to three sentences each. The same options give the same
    bytes; scenes depend on the seed, the split and their number alone, so no two splits share one, while the three
    configs describe the same scenes in different sentences.

    Raises ValueError for sizes that are no positive whole numbers (pixels: from 64 to 4096).
    """

    BUILDER_CONFIG_CLASS = RefShapesConfig
    BUILDER_CONFIGS = [RefShapesConfig(name=name, version=VERSION) for name in MIXTURES]

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        return datasets.DatasetInfo(description=__doc__, features=row_features(), license="apache-2.0")

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        sizes = (self.config.train_size, self.config.val_size, self.config.test_size)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "size": size})
            for split, size in zip(SPLITS, sizes, strict=True)
            if split in (self.config.splits or SPLITS)
        ]

    def _generate_examples(self, split: str, size: int) -> Iterator[tuple[str, dict]]:
        for index in range(size):
            for row in make_rows(self.config.name, self.config.seed, split, index, self.config.image_size):
                yield row["ref_id"], row


def make_rows(config_name: str, seed: int, split: str, index: int, image_size: int) -> list[dict]:
    """The rows (one per referent) of one scene, as the data set holds them; the image is PNG bytes."""
    scene = sample_scene(seed, split, index)
    referents = sample_referents(config_name, scene, random.Random(f"{scene.background_seed}-{config_name}"))
    pixels, owner = render_scene(scene, image_size)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    image = {"bytes": buffer.getvalue(), "path": None}
    image_id = f"{split}-{index:06d}"
    # Four objects at most per scene, so annotation ids never meet.
    first_ann_id = (SPLITS.index(split) * 10**9 + index) * 10
    return [
        _make_row(referent, scene, owner, image, image_id, f"{image_id}-{number}", first_ann_id)
        for number, referent in enumerate(referents)
    ]


def make_scene(split: str, index: int, image_size: int) -> tuple[bytes, list[list[str]]]:
    """A scene of RefShapes as a PNG, the same one each time, and for each of its referents what may be said of it."""
    rows = make_rows("refshapes", 0, split, index, image_size)
    return rows[0]["image"]["bytes"], [[sentence["sent"] for sentence in row["sentences"]] for row in rows]


def _make_row(
    referent: Referent[Scene],
    scene: Scene,
    owner: np.ndarray,
    image: dict,
    image_id: str,
    ref_id: str,
    first_ann_id: int,
) -> dict:
    mask = draw_mask(owner, referent.targets)
    shapes = {scene.objects[i].shape for i in referent.targets}
    texts = [expression.text for _, expression in referent.expressions]
    return {
        "image": image,
        "image_id": image_id,
        "ref_id": ref_id,
        "ann_ids": [str(first_ann_id + i) for i in sorted(referent.targets)],
        "category": " ".join(sorted(shapes)),
        "mask": encode_mask(mask),
        "bbox": mask_to_bbox(mask),
        "no_target": not referent.targets,
        "sentences": [
            {"sent_id": f"{ref_id}-{number}", "raw": text, "sent": text} for number, text in enumerate(texts)
        ],
    }


__all__ = [
    "REFSHAPES_WORDS",
    "Expression",
    "RefShapes",
    "RefShapesConfig",
    "Scene",
    "ShapeObject",
    "make_rows",
    "make_scene",
    "render_scene",
    "sample_referents",
    "sample_scene",
]
