"""What is shown of a system's answers: masks at a threshold, as JSON describes them, and the names of their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.masks import encode_mask, mask_to_bbox
from ..files import slug
from ..modeling.inference_refseg import FrameMask
from .systems import Answer


def shown_masks(answers: Iterable[Answer], threshold: float) -> list[FrameMask]:
    """What a system says of an image or a frame, one mask for each text, empty where it says that there is nothing."""
    found = []
    for answer in answers:
        mask, foreground = (torch.from_numpy(each(threshold)) for each in (answer.shown_mask, answer.foreground))
        found.append(FrameMask(mask, answer.score_at(threshold), bool(mask.any()), foreground, answer.present))
    return found


def describe_mask(mask: NDArray[np.bool_], score: float, present: bool) -> dict[str, Any]:
    """Score, box (x, y, width, height in pixels) and COCO run lengths of a boolean mask (height, width)."""
    return {"present": bool(present), "score": float(score), "bbox": mask_to_bbox(mask), "mask": encode_mask(mask)}


def describe_video(
    video: str, texts: Sequence[str], frames: Sequence[Sequence[dict[str, Any]]], folder: str
) -> dict[str, Any]:
    """An entry of the JSON of `hf-refseg predict`.

    Args:
        video: its file.
        texts: what was asked.
        frames: for each text what `describe_mask` says, frame by frame.
        folder: where the masks lie, a PNG for each frame.
    """
    predictions = [{"text": text, "frames": of_text} for text, of_text in zip(texts, frames, strict=True)]
    return {"video": video, "predictions": predictions, "folder": folder}


def mask_file_name(name: str, number: int, text: str) -> str:
    """What the PNG of a mask is called: by the picture, the number of the text, 1 for the first, and the text."""
    return "_".join(filter(None, [name, str(number), slug(text)])) + ".png"
