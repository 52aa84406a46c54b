"""preview_dataset: some rows of a data set as a picture, so that people see whether their data is read right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from PIL import Image

from ..visualization import SheetFrame, SheetRow, draw_image_sheet, draw_video_sheet, spread
from .clips import RowFrames, VideoRows, check_annotations, open_frame_mask
from .examples import checked_sentences, open_image, open_mask, undecoded
from .rows import holds_videos

# More make a picture that viewers refuse.
MOST_ROWS = 100
# Frames of a video in a strip.
SHOWN_FRAMES = 4


def preview_dataset(dataset: Dataset, rows: int = 12, *, seed: int | None = None, title: str = "") -> Image.Image:
    """Draw referents of a data set with masks and sentences; no other rows are opened.

    Of a video up to four annotated frames are drawn, evenly spread. What has no target says so, and so does a mask
    that is empty nevertheless. The small print tells ids, sizes and how much of the picture a mask covers.

    Args:
        dataset: a split of `load_refseg`, of images or videos.
        rows: how many referents at most, 1 to 100.
        seed: what they are drawn by; `None` = they are spread evenly over the split.
        title: what the split is called in the line above.

    Returns:
        An RGB image, the same for the same arguments.

    Raises:
        ValueError: a number out of range, or no row.
        DataFormatError: a column is missing.
        InvalidRowError, InvalidMaskError: picture, sentence or mask of a row that is drawn is unusable.
    """
    if not 1 <= rows <= MOST_ROWS:
        raise ValueError(f"A preview has 1 to {MOST_ROWS} rows, not {rows}.")
    if holds_videos(dataset):
        videos = VideoRows(dataset)
        places = videos.described_referents().tolist()
        chosen = _choose(places, rows, seed)
        drawn = (_video_row(videos[row], place) for row, place in chosen)
        return draw_video_sheet(drawn, _name(title, chosen, places))
    images = undecoded(dataset)
    places = range(len(images))
    chosen = _choose(places, rows, seed)
    return draw_image_sheet((_image_row(images[row]) for row in chosen), _name(title, chosen, places))


def _name(title: str, chosen: Sequence[Any], places: Sequence[Any]) -> str:
    counts = f"{len(chosen):,} of {len(places):,} referents"
    return f"{title}: {counts}" if title else counts


def _choose(places: Sequence[Any], rows: int, seed: int | None) -> list[Any]:
    """So many places, in order."""
    if len(places) == 0:
        raise ValueError("There is nothing to draw: the data set has no referent.")
    if seed is None:
        return spread(places, rows)
    return sorted(random.Random(seed).sample(places, min(rows, len(places))))


def _image_row(row: dict[str, Any]) -> SheetRow:
    image = open_image(row)
    mask = open_mask(row, image)
    sentences = [sentence["raw"] for sentence in checked_sentences(row)]
    covered = f"{image.width} x {image.height}, mask {100 * mask.mean():.3g} %"
    mark = "no target" if row["no_target"] else "" if mask.any() else "empty mask"
    return SheetRow([SheetFrame(image, mask)], sentences, [f"ref {row['ref_id']}", covered], mark)


def _video_row(row: dict[str, Any], place: int) -> SheetRow:
    referent, frames = row["referents"][place], RowFrames(row)
    check_annotations(row, referent)
    annotated = referent["annotated_frames"]
    numbers = spread(annotated or range(len(frames)), SHOWN_FRAMES)
    shown = []
    for number in numbers:
        image = frames[number]
        shown.append(SheetFrame(image, open_frame_mask(row, referent, number, image) if annotated else None))
    size = f"{shown[0].image.width} x {shown[0].image.height}"
    empty = [
        number for number, frame in zip(numbers, shown, strict=True) if frame.mask is not None and not frame.mask.any()
    ]
    notes = [
        f"ref {referent['ref_id']}",
        f"video {row['video_id']}",
        f"{size}, {len(frames)} frames, {len(annotated)} annotated",
        f"here frames {', '.join(map(str, numbers))}",
        *([f"out of sight: {', '.join(map(str, empty))}"] if empty else []),
    ]
    sentences = [sentence["raw"] for sentence in checked_sentences(referent)]
    return SheetRow(shown, sentences, notes, "" if annotated else "no public masks")
