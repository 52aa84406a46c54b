"""The files that a user of the demo page takes along: masks as pictures and as run lengths, and the overlay."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from PIL import Image

from ..evaluation.shown_masks import describe_mask, describe_video, mask_file_name
from ..files import slug, write_json, write_picture
from ..modeling.pipeline_refseg import as_picture
from ..visualization.videos import number_masks
from .segmenting import Segmentation
from .showing import draw_overlay_picture, write_overlay_video


def write_files(segmentation: Segmentation, threshold: float, shown: Sequence[int], folder: Path) -> list[Path]:
    """Writes what `hf-refseg predict` would write: all masks at a threshold, and the overlay of those that are shown.

    Args:
        segmentation: what a system answered.
        threshold: foreground probability above which a pixel belongs to a mask.
        shown: the places of the expressions that the overlay shows.
        folder: an empty folder.

    Returns:
        The paths of `<name>_masks.zip` (a PNG for each expression; of a video a palette PNG for each frame, whose
        pixels hold the number of the expression), of `<name>.json` (scores, boxes and COCO run lengths) and of
        `<name>_overlay.png`, or `.mp4` of a video.
    """
    name = slug(segmentation.subject.path.stem) or "masks"
    archive, description = folder / f"{name}_masks.zip", folder / f"{name}.json"
    # PNG files are compressed already.
    with ZipFile(archive, "w", ZIP_STORED) as file:
        for inside, picture in _mask_pictures(segmentation, threshold, name):
            content = io.BytesIO()
            picture.save(content, format="PNG")
            file.writestr(inside, content.getvalue())
    write_json(description, [_describe(segmentation, threshold, name)])
    if segmentation.subject.is_video:
        overlay = write_overlay_video(segmentation, threshold, shown, folder / f"{name}_overlay.mp4")
        return [archive, description, overlay]
    overlay = folder / f"{name}_overlay.png"
    write_picture(overlay, draw_overlay_picture(segmentation, threshold, shown))
    return [archive, description, overlay]


def _mask_pictures(segmentation: Segmentation, threshold: float, name: str) -> Iterator[tuple[str, Image.Image]]:
    """The name and picture of each mask, of a video of each frame."""
    for number, masks in enumerate(segmentation.masks(threshold)):
        if segmentation.subject.is_video:
            yield f"{name}/{number:05}.png", number_masks([each.mask for each in masks])
        else:
            for place, (text, each) in enumerate(zip(segmentation.texts, masks, strict=True), start=1):
                yield mask_file_name(name, place, text), as_picture(each.mask.numpy())


def _describe(segmentation: Segmentation, threshold: float, name: str) -> dict[str, Any]:
    """An entry as those of the JSON file of `hf-refseg predict`; files are those in the archive."""
    described = [
        [describe_mask(each.mask.numpy(), each.score, each.present) for each in masks]
        for masks in zip(*segmentation.masks(threshold), strict=True)
    ]
    if segmentation.subject.is_video:
        return describe_video(segmentation.subject.path.name, segmentation.texts, described, name)
    pairs = zip(segmentation.texts, described, strict=True)
    predictions = [
        {"text": text, **of_image, "file": mask_file_name(name, number, text)}
        for number, (text, (of_image,)) in enumerate(pairs, start=1)
    ]
    return {"image": segmentation.subject.path.name, "predictions": predictions}
