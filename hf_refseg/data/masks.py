"""Masks as COCO run-length encodings and polygons, checked in Python before any number reaches C code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..messages import BadInputError, short_text

MASK_OVERLAPS = ("union", "background")

# Twice PIL's default pixel limit: the size from which PIL refuses to open an image as a decompression bomb.
MAX_PIXELS = 178_956_970
# pycocotools allocates memory in proportion to the outline; no hand-drawn outline comes near this length.
MAX_OUTLINE_PIXELS = 1_000_000
# Each part of an annotation is filled on a picture of its own; no drawing needs as many large ones.
MAX_FILLED_PIXELS = 2**33


class InvalidMaskError(BadInputError):
    """A mask, polygon or run-length encoding which cannot be what its author meant."""


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a boolean mask (H, W) as `{"size": [H, W], "counts": str}`, COCO's compressed run-length encoding.

    Raises `InvalidMaskError` when the array is not boolean, not two-dimensional or empty.
    """
    from pycocotools import mask as coco_mask

    if mask.dtype != bool or mask.ndim != 2 or mask.size == 0:
        raise InvalidMaskError(
            f"Expected a boolean mask of shape (height, width), got {mask.dtype} {mask.shape}. "
            "Threshold the mask and drop extra dimensions first."
        )
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode("ascii")}


def decode_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """Decode `{"size": [H, W], "counts": ...}` into a boolean mask (H, W).

    `counts` is COCO's compressed text (str or bytes) or the uncompressed list of run lengths, which alternate between
    background and foreground in column order, background first.
    Raises `InvalidMaskError` on a size or counts of the wrong kind, on more than `MAX_PIXELS` pixels or more numbers
    than such a mask has, and when the runs do not add up to H * W.
    """
    height, width, runs = _checked_runs(rle)
    foreground = np.arange(len(runs)) % 2 == 1
    return np.repeat(foreground, runs).reshape(width, height).T


def foreground_share(rle: Mapping[str, Any]) -> float:
    """The share of foreground pixels, 0 to 1, of what `decode_mask` makes, without making it; errors as there."""
    height, width, runs = _checked_runs(rle)
    return int(runs[1::2].sum()) / (height * width)


def size_of_rle(rle: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of what `decode_mask` makes; raises `InvalidMaskError` for those of the wrong kind."""
    if not isinstance(rle, Mapping):
        raise InvalidMaskError(
            f"Expected an RLE as a mapping with size and counts, found {short_text(rle)}. Correct it."
        )
    return _checked_size(rle.get("size"), "RLE's")


def rasterize_polygons(
    polygons: Sequence[Sequence[float]], height: int, width: int, overlap: str = "union"
) -> np.ndarray:
    """Fill polygons `[x0, y0, x1, y1, ...]` (pixels) as COCO does; returns a boolean mask (height, width).

    `overlap` says what pixels inside more than one polygon become: "union" foreground, "background" background, as in
    the released evaluation of LAVT, which keeps only the pixels whose polygon count is exactly one.
    Raises `InvalidMaskError` for a polygon with an odd number of coordinates, fewer than three points, a coordinate
    that is not finite or lies further outside the image than the image's longer side, or an endless outline; for
    sides that are no positive integers or have more than `MAX_PIXELS` pixels, and for too many polygons for such an
    image.
    """
    height, width = _checked_drawing(polygons, height, width)
    return _combine((_rasterize(polygon, height, width) for polygon in polygons), height, width, overlap)


def draw_polygons(polygons: Sequence[Sequence[Sequence[float]]], height: int, width: int) -> np.ndarray:
    """Draw polygons `[[x0, y0], [x1, y1], ...]` (pixels), inside and outline; returns a boolean mask (height, width).

    Fractions of coordinates are cut off, the outline belongs to the polygon, as Pillow draws it, and a polygon of
    fewer than two points is left out: the rule of PhraseCut's masks. COCO's (`rasterize_polygons`) gives smaller ones.
    Raises `InvalidMaskError` for a point that is no pair of numbers, for coordinates, outlines, sides and too many
    polygons as `rasterize_polygons`, and for too many points for such an image.
    """
    from PIL import Image, ImageDraw

    height, width = _checked_drawing(polygons, height, width)
    outlines = [_checked_point_list(polygon, height, width) for polygon in polygons]
    # Each row of the image is compared with each edge.
    if sum(map(len, outlines)) * height > MAX_FILLED_PIXELS:
        raise InvalidMaskError(
            f"{sum(map(len, outlines))} points are too many for an image of {width} x {height} pixels. Simplify the "
            "outlines."
        )
    picture = Image.new("L", (width, height), 0)
    drawing = ImageDraw.Draw(picture)
    for points in outlines:
        if len(points) > 1:
            drawing.polygon(points.astype(np.int64).ravel().tolist(), outline=1, fill=1)
    return np.asarray(picture) != 0


def annotation_to_mask(segmentation: Any, height: int, width: int, overlap: str = "union") -> np.ndarray:
    """Turn a COCO `segmentation` (an RLE, a list of RLEs or a list of polygons) into a boolean mask (height, width).

    `overlap` as in `rasterize_polygons`. Raises `InvalidMaskError` when a part is invalid, when an RLE's size is not
    (height, width), when there is no part at all, and for sizes and numbers as there.
    """
    parts = [segmentation] if isinstance(segmentation, Mapping) else segmentation
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise InvalidMaskError(
            f"Expected polygons or an RLE as segmentation, found {short_text(segmentation)}. Draw an outline."
        )
    height, width = _checked_drawing(parts, height, width)
    return _combine((_part_to_mask(part, height, width) for part in parts), height, width, overlap)


def encoded_size(segmentation: Any) -> tuple[int, int] | None:
    """Height and width of the RLE, or of the first of the RLEs, of a COCO `segmentation`; None where it has none.

    Raises `InvalidMaskError` for a size which is none.
    """
    part = segmentation[0] if isinstance(segmentation, list) and segmentation else segmentation
    return _checked_size(part.get("size"), "RLE's") if isinstance(part, Mapping) else None


def check_filled(parts: int, height: int, width: int) -> None:
    """Raises `InvalidMaskError` for more parts of a mask than can be filled on an image of so many pixels."""
    if parts * height * width > MAX_FILLED_PIXELS:
        raise InvalidMaskError(
            f"{parts} outlines are too many for an image of {width} x {height} pixels. Join or remove some."
        )


def check_overlap(overlap: str) -> None:
    """Raises ValueError for what is none of `MASK_OVERLAPS`."""
    if overlap not in MASK_OVERLAPS:
        raise ValueError(f"Unknown mask_overlap '{overlap}'. Choose one of: {', '.join(MASK_OVERLAPS)}.")


def mask_to_bbox(mask: np.ndarray) -> list[float]:
    """The tight box `[x, y, width, height]` (pixels) around a boolean mask (H, W); four zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return [0.0, 0.0, 0.0, 0.0]
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]


def _part_to_mask(part: Any, height: int, width: int) -> np.ndarray:
    if not isinstance(part, Mapping):
        return _rasterize(part, height, width)
    if _checked_size(part.get("size"), "RLE's") != (height, width):
        raise InvalidMaskError(
            f"The RLE's size is {list(part['size'])}, the image's [{height}, {width}]. "
            "The annotation belongs to another image or to another size of this one."
        )
    return decode_mask(part)


def _combine(masks: Iterable[np.ndarray], height: int, width: int, overlap: str) -> np.ndarray:
    check_overlap(overlap)
    # In column order, as COCO's masks are: any other one is copied on its way in and out.
    covered = np.zeros((height, width), dtype=bool, order="F")
    if overlap == "union":
        for mask in masks:
            covered |= mask
        return covered
    covered_twice = np.zeros_like(covered)
    for mask in masks:
        covered_twice |= covered & mask
        covered |= mask
    return covered & ~covered_twice


def _rasterize(polygon: Any, height: int, width: int) -> np.ndarray:
    from pycocotools import mask as coco_mask

    coordinates = _checked_polygon(polygon, height, width)
    return coco_mask.decode(coco_mask.frPyObjects([coordinates], height, width))[..., 0].astype(bool)


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """The coordinates as floats; pycocotools would end the process on infinite or huge ones, and guess on odd ones."""
    if not isinstance(polygon, Sequence) or not all(_is_number(value) for value in polygon):
        raise InvalidMaskError(
            f"Expected a polygon as a list of numbers, found {short_text(polygon)}. Correct the outline."
        )
    if len(polygon) % 2 or len(polygon) < 6:
        raise InvalidMaskError(
            f"A polygon has {len(polygon)} numbers; it needs an even count of at least 6 (x and y of three points). "
            "Correct or remove it."
        )
    return _checked_points(polygon, height, width).ravel().tolist()


def _checked_point_list(polygon: Any, height: int, width: int) -> np.ndarray:
    """The points (N, 2) of a polygon `[[x0, y0], [x1, y1], ...]`."""
    if not isinstance(polygon, Sequence) or not all(_is_point(point) for point in polygon):
        raise InvalidMaskError(
            f"Expected a polygon as a list of points [x, y], found {short_text(polygon)}. Correct the outline."
        )
    return _checked_points([value for point in polygon for value in point], height, width)


def _checked_points(polygon: Sequence[float], height: int, width: int) -> np.ndarray:
    """The points (N, 2) of a polygon [x0, y0, x1, y1, ...] that lies in the image, or near it."""
    margin = max(height, width)
    x_inside = all(-margin <= x <= width + margin for x in polygon[0::2])
    y_inside = all(-margin <= y <= height + margin for y in polygon[1::2])
    if not (x_inside and y_inside):
        raise InvalidMaskError(
            f"A polygon has a coordinate which is not finite or lies far outside the image of {width} x {height} "
            f"pixels: {short_text(polygon)}. Correct or remove it."
        )
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > MAX_OUTLINE_PIXELS:
        raise InvalidMaskError(
            f"A polygon's outline is longer than {MAX_OUTLINE_PIXELS} pixels in an image of {width} x {height}. "
            "Simplify or remove it."
        )
    return points


def _checked_drawing(parts: Sequence[Any], height: Any, width: Any) -> tuple[int, int]:
    """Height and width of an image on which so many parts can be drawn."""
    height, width = _checked_size((height, width), "image's")
    if not isinstance(parts, (Sequence, np.ndarray)):
        raise InvalidMaskError(f"Expected a list of polygons, found {short_text(parts)}. Draw an outline.")
    check_filled(len(parts), height, width)
    return height, width


def _checked_size(size: Any, whose: str) -> tuple[int, int]:
    """Height and width of at most `MAX_PIXELS` pixels."""
    sides = size.tolist() if isinstance(size, np.ndarray) else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(_is_integer(side) and side > 0 for side in sides):
        raise InvalidMaskError(
            f"Expected two positive integers as the {whose} size, found {short_text(size)}. Correct it."
        )
    height, width = (int(side) for side in sides)
    if height * width > MAX_PIXELS:
        raise InvalidMaskError(
            f"The {whose} size {short_text([height, width])} exceeds {MAX_PIXELS} pixels. Correct it."
        )
    return height, width


def _checked_runs(rle: Mapping[str, Any]) -> tuple[int, int, np.ndarray]:
    """Height and width of a mask, and its run lengths, which fill it."""
    height, width = size_of_rle(rle)
    runs = _run_lengths(rle.get("counts"), height * width)
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise InvalidMaskError(
            f"The runs of the RLE cover {int(runs.sum())} pixels, its size {height} x {width} has {height * width}. "
            "The counts were cut off, or belong to another size."
        )
    return height, width, runs


def _run_lengths(counts: Any, pixels: int) -> np.ndarray:
    # Eight characters are more than a number takes, and runs of no length are rare.
    if isinstance(counts, (str, bytes, Sequence)) and len(counts) > 8 * (pixels + 1):
        raise InvalidMaskError(
            f"The RLE's counts are {len(counts)} long, more than a mask of {pixels} pixels has. "
            "The counts belong to another size."
        )
    if isinstance(counts, str) and counts.isascii():
        return _decompress(counts.encode("ascii"))
    if isinstance(counts, bytes):
        return _decompress(counts)
    if isinstance(counts, Sequence) and all(_is_integer(run) and abs(run) < 2**40 for run in counts):
        return np.asarray(counts, dtype=np.int64)
    raise InvalidMaskError(
        f"Expected an RLE's counts as COCO's compressed text or a list of integers, found {short_text(counts)}. "
        "Correct it."
    )


def _decompress(counts: bytes) -> np.ndarray:
    """Run lengths (int64) from COCO's text: little-endian groups of 5 bits, from the fourth run on as differences."""
    if not counts:
        return np.zeros(0, dtype=np.int64)
    # What is no code becomes a large one.
    codes = np.frombuffer(counts, dtype=np.uint8) - np.uint8(48)
    if codes.max() > 63:
        raise InvalidMaskError("The RLE's counts hold text which no encoder writes. Encode the mask again.")
    if codes[-1] & 32:
        raise InvalidMaskError("The RLE's counts end in the middle of a number. The text was cut off.")
    # Of each number its last group and its first one.
    lasts = np.flatnonzero(codes < 32)
    firsts = np.concatenate(([0], lasts[:-1] + 1))
    lengths = lasts - firsts + 1
    if lengths.max() > 8:
        raise InvalidMaskError("The RLE's counts hold text which no encoder writes. Encode the mask again.")
    bits = 5 * (np.arange(len(codes)) - firsts.repeat(lengths))
    numbers = np.add.reduceat((codes & 31) << bits, firsts)
    # The last group says whether the number is negative.
    numbers -= (codes[lasts] & 16).astype(np.int64) << bits[lasts] + 1
    # So that the sums below stay far from what 64 bits hold.
    if np.abs(numbers).max() <= 2 * MAX_PIXELS:
        # The first run stands for itself, the second and the third begin two series of differences.
        for first in (1, 2):
            numbers[first::2] = numbers[first::2].cumsum()
    if np.abs(numbers).max() > MAX_PIXELS:
        raise InvalidMaskError(f"The RLE has a run of more than {MAX_PIXELS} pixels. Encode the mask again.")
    return numbers


def _is_point(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, (float, np.floating))


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
