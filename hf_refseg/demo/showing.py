"""How the demo page shows what a system answered: masks in colors at a threshold, and a line about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..evaluation.systems import ModelSystem, System
from ..explain import can_explain, draw_explanations
from ..modeling.inference_refseg import SOME_FRAMES, FrameMask
from ..modeling.pictures_refseg import take_nearest
from ..modeling.video_refseg import VideoFrames
from ..visualization import distinct_color, draw_masks, tint_masks
from ..visualization.videos import VideoWriter
from .segmenting import Segmentation, naming_file_alone

# The longest side of a picture on the page; files have the size of the picture.
SHOWN_SIDE = 1280


def describe_masks(segmentation: Segmentation, threshold: float) -> list[str]:
    """A line about each expression: whether it is there, how sure the system is, and how large the mask is."""
    found = list(zip(*segmentation.masks(threshold), strict=True))
    describe = _describe_frames if segmentation.subject.is_video else _describe_mask
    lines = (f"{text}: {describe(masks)}" for text, masks in zip(segmentation.texts, found, strict=True))
    return [f"{number}. {line}" for number, line in enumerate(lines, start=1)]


def _describe_mask(masks: Sequence[FrameMask]) -> str:
    (found,) = masks
    if found.is_found is False:
        return "not there, says the system"
    if not found.present:
        return "no pixel"
    sure = "there, " if found.is_found else ""
    return f"{sure}score {found.score:.2f}, {100 * found.mask.float().mean():.1f} % of pixels"


def _describe_frames(masks: Sequence[FrameMask]) -> str:
    scores = [each.score for each in masks if each.present]
    counts = f"on {len(scores)} of {len(masks)} frames"
    return f"{counts}, mean score {np.mean(scores):.2f}" if scores else counts


def draw_picture(segmentation: Segmentation, threshold: float, shown: Sequence[int]) -> Image.Image:
    """The picture with the masks of the expressions of these places, no longer than `SHOWN_SIDE`."""
    (image,), (masks,) = segmentation.subject.frames, segmentation.masks(threshold)
    small = image.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    scaled = [take_nearest(masks[place].mask.numpy(), small.height, small.width) for place in shown]
    return tint_masks(small, scaled, [distinct_color(place) for place in shown])


def draw_overlay_picture(segmentation: Segmentation, threshold: float, shown: Sequence[int]) -> Image.Image:
    """The same at the picture's own size, above a legend."""
    (image,), (masks,) = segmentation.subject.frames, segmentation.masks(threshold)
    return draw_masks(image, *_shown(segmentation, masks, shown))


def write_overlay_video(segmentation: Segmentation, threshold: float, shown: Sequence[int], path: Path) -> Path:
    """Writes the video, an MP4 file, with the masks of the expressions of these places above a legend.

    Returns:
        The path.

    Raises:
        RequestError: the file that was segmented is no longer there, or damaged.
        ImportError: PyAV is not installed.
    """
    subject, frames = segmentation.subject, segmentation.subject.frames
    assert isinstance(frames, VideoFrames)  # A picture is drawn by `draw_overlay_picture`.
    with naming_file_alone(subject.path), VideoWriter(path, frames.frames_per_second) as video:
        for frame, masks in zip(frames, segmentation.masks(threshold), strict=True):
            video.add(draw_masks(frame, *_shown(segmentation, masks, shown)))
    return path


def _shown(
    segmentation: Segmentation, masks: Sequence[FrameMask], shown: Sequence[int]
) -> tuple[list[NDArray[np.bool_]], list[str], float, list[tuple[int, int, int]]]:
    """Masks, labels, opacity and colors, as `draw_masks` takes them; an expression keeps its color without others."""
    places = sorted(shown)
    arrays, labels = [masks[place].mask.numpy() for place in places], [segmentation.texts[place] for place in places]
    return arrays, labels, 0.5, [distinct_color(place) for place in places]


def tells_how(system: System, *, of_videos: bool) -> TypeGuard[ModelSystem]:
    """Whether a system can tell how it came to a mask of a picture, or of the frames of a video together."""
    if not isinstance(system, ModelSystem) or not can_explain(system.model):
        return False
    return system.sees_clips if of_videos else True


def explain(system: ModelSystem, segmentation: Segmentation, place: int) -> Iterator[tuple[Image.Image, str]]:
    """Pictures, with their names, of how a system came to the mask of one expression: where words look, and more.

    Of a video the system sees the first frames at once, of which some are drawn.

    Raises:
        ValueError: the configuration of the model has nothing to tell.
    """
    frames = segmentation.subject.frames
    seen = list(islice(frames, SOME_FRAMES.frames)) if isinstance(frames, VideoFrames) else frames[0]
    for name, picture in draw_explanations(system.model, system.processor, seen, segmentation.texts[place]):
        yield picture, name.replace("_", " ")
