"""RefShapes in motion: generated videos of shapes with sentences that, mostly, no single frame can answer."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from PIL import Image

from hf_refseg.data.masks import MAX_PIXELS, encode_mask
from hf_refseg.data.rows import video_features

from .refshapes import RefShapes, RefShapesConfig
from .refshapes_drawing import render_scene
from .refshapes_motion import REFSHAPES_VIDEO_WORDS, VideoScene, sample_video
from .refshapes_sampling import Referent

# Part of the cache's key: raise it with every change of what is generated.
VERSION = datasets.Version("1.0.0")
# Fewer frames leave no room for an object to come or go between the first and the last.
MINIMUM_FRAMES = 4


@dataclass
class RefShapesVideoConfig(RefShapesConfig):
    """Sizes are numbers of videos, `image_size` is the side of a frame in pixels."""

    train_size: int = 4000
    val_size: int = 300
    test_size: int = 300
    image_size: int = 96
    num_frames: int = 8

    def check(self) -> None:
        """Raises ValueError for an option that is no whole number, too small, or too large."""
        super().check()
        # All frames of a video are in memory at once.
        self._check_number("num_frames", MINIMUM_FRAMES, MAX_PIXELS // self.image_size**2)


class RefShapesVideo(RefShapes):
    """Builder of `refshapes_video`, one row per video, every frame annotated.

    About 70 % of the sentences are about motion ("the red circle moving left", "faster star", "square that appears")
    and call their object what fits another one of the video too; the others name attributes that it alone has. The
    identifier of a sentence ends in its kind, "-motion" or "-attribute", so that each can be scored on its own.

    A video has one to four referents with one to three sentences each. Objects that move cover their way from the
    first frame to the last, however many frames that are. The same options give the same bytes; a video depends on the
    seed, the split and its number alone, so no two splits share one.

    Raises ValueError for options that are no positive whole numbers (pixels: from 64 to 4096, frames: at least 4, and
    at most as many as have `MAX_PIXELS` pixels together).
    """

    BUILDER_CONFIG_CLASS = RefShapesVideoConfig
    BUILDER_CONFIGS = [RefShapesVideoConfig(name="refshapes_video", version=VERSION)]

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        return datasets.DatasetInfo(description=__doc__, features=video_features(), license="apache-2.0")

    def _generate_examples(self, split: str, size: int) -> Iterator[tuple[str, dict]]:
        for index in range(size):
            row = make_row(self.config.seed, split, index, self.config.image_size, self.config.num_frames)
            yield row["video_id"], row


def make_row(seed: int, split: str, index: int, image_size: int, num_frames: int) -> dict:
    """One video as a row of the data set: frames as PNG bytes, and the masks of every referent in every frame.

    The identifier of a sentence ends in its kind: "val-000003-1-0-motion" or "val-000003-1-0-attribute".
    """
    scene, referents = sample_video(seed, split, index, num_frames)
    images, owners = zip(*(render_frame(scene, frame, image_size) for frame in range(num_frames)), strict=True)
    video_id = f"{split}-{index:06d}"
    return {
        "video_id": video_id,
        "frame_names": [f"{frame:05d}" for frame in range(num_frames)],
        "frames": [{"bytes": _encode_png(image), "path": None} for image in images],
        "referents": [
            _make_referent(referent, scene, owners, f"{video_id}-{number}")
            for number, referent in enumerate(referents)
        ],
    }


def _make_referent(
    referent: Referent[VideoScene], scene: VideoScene, owners: Sequence[np.ndarray], ref_id: str
) -> dict:
    (target,) = referent.targets
    texts = [(f"{ref_id}-{number}-{kind}", phrase.text) for number, (kind, phrase) in enumerate(referent.expressions)]
    return {
        "ref_id": ref_id,
        "category": scene.objects[target].shape,
        "annotated_frames": list(range(scene.num_frames)),
        "masks": [encode_mask(owner == target) for owner in owners],
        "sentences": [{"sent_id": sent_id, "raw": text, "sent": text, "annotator": ""} for sent_id, text in texts],
    }


def render_frame(scene: VideoScene, frame: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one frame.

    Returns the image, (image_size, image_size, 3) uint8 RGB, and the owner of every pixel, (image_size, image_size)
    int8: the index into `scene.objects` of the object that is visible there, -1 = background.
    """
    image, owner = render_scene(scene.at_frame(frame), image_size)
    # The renderer numbers the objects of this frame; its -1 finds the last entry.
    indices = np.array([*scene.visible_objects(frame), -1], dtype=np.int8)
    return image, indices[owner]


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


__all__ = [
    "REFSHAPES_VIDEO_WORDS",
    "RefShapesVideo",
    "RefShapesVideoConfig",
    "VideoScene",
    "make_row",
    "render_frame",
    "sample_video",
]
