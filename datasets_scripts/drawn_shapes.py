"""Masks that are drawn in annotation tools: ellipses, lines, brush strokes and pieces of mask, beside polygons.

Coordinates are pixels (x to the right, y down) from the upper left corner of the picture, so that pixel (0, 0) has its
center at (0.5, 0.5). `size` is height and width of the picture that was drawn on, None = of the one that is there.
"""

from __future__ import annotations

import binascii
import io
import math
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from hf_refseg.data.masks import MAX_PIXELS, InvalidMaskError
from hf_refseg.messages import short_text
from hf_refseg.modeling.picture_files_refseg import PictureError, open_picture, picture_faults

from .brush_rle import decode_brush
from .folder_records import Note
from .records import is_int64

Point = tuple[float, float]
Size = tuple[int, int]
# In pixels; what is thinner has none.
THINNEST = 1e-3
# How many points a shape has.
TWO_OR_MORE, THREE_OR_MORE = range(2, MAX_PIXELS), range(3, MAX_PIXELS)


@dataclass(frozen=True)
class Ellipse:
    """The pixels whose centers lie in an ellipse, which is turned clockwise about its own center."""

    kind: ClassVar[str] = "ellipses"
    center: Point
    radii: Point
    degrees: float = 0.0
    size: Size | None = None

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        height, width = self.size or (height, width)
        if min(self.radii) < THINNEST:
            return np.zeros((height, width), dtype=bool)
        (x, y), cosine, sine = self.center, math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        across, along = (1 / (radius * radius) for radius in self.radii)
        right, down = np.arange(width) + 0.5 - x, np.arange(height)[:, None] + 0.5 - y
        # Of a row the pixels lie between the two places where its quadratic form is 1, if there are such.
        square = across * cosine * cosine + along * sine * sine
        linear = 2 * (across - along) * cosine * sine * down
        constant = (across * sine * sine + along * cosine * cosine) * down * down - 1
        discriminant = linear * linear - 4 * square * constant
        reach = np.sqrt(np.maximum(discriminant, 0)) / (2 * square)
        middle = -linear / (2 * square)
        return (discriminant >= 0) & (right >= middle - reach) & (right <= middle + reach)


@dataclass(frozen=True)
class Line:
    """A line through points, so many pixels thick."""

    kind: ClassVar[str] = "lines"
    points: Sequence[Point]
    thickness: int
    size: Size | None = None

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        height, width = self.size or (height, width)
        picture = Image.new("1", (width, height))
        ImageDraw.Draw(picture).line(list(self.points), fill=1, width=self.thickness)
        return np.array(picture, dtype=bool)


@dataclass(frozen=True)
class Brush:
    """Strokes of Label Studio's brush, see `decode_brush`."""

    kind: ClassVar[str] = "brush strokes"
    rle: Any
    size: Size

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        return decode_brush(self.rle, *self.size)


@dataclass(frozen=True)
class PieceOfMask:
    """A mask of a part of the picture: a picture file in base64 whose upper left pixel lies at `corner` (x, y)."""

    kind: ClassVar[str] = "pieces of mask"
    encoded: Any
    corner: tuple[int, int]
    size: Size | None = None

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        mask = np.zeros(self.size or (height, width), dtype=bool)
        piece = _decode_piece(self.encoded, *mask.shape)
        left, top = self.corner
        bottom, right = top + piece.shape[0], left + piece.shape[1]
        if left < 0 or top < 0 or bottom > mask.shape[0] or right > mask.shape[1]:
            raise InvalidMaskError(
                f"The piece of mask lies at {left} to {right} (x) and {top} to {bottom} (y), outside of the picture "
                f"of {mask.shape[1]} x {mask.shape[0]} pixels. Draw it again."
            )
        mask[top:bottom, left:right] = piece
        return mask


def _decode_piece(encoded: Any, height: int, width: int) -> np.ndarray:
    """The pixels that are not black (bool), of a file of at most this height and width."""
    file = io.BytesIO(decode_base64(encoded, "mask"))
    try:
        with picture_faults(), open_picture(file) as picture:
            mode, (piece_width, piece_height) = picture.mode, picture.size
            # A file may say that it has more pixels than there is memory for.
            fits = piece_height <= height and piece_width <= width
            piece = np.array(picture) if fits else None
    except PictureError as error:
        raise InvalidMaskError(f"The mask in base64 is {error}. Draw it again.") from error
    if piece is None:
        raise InvalidMaskError(
            f"The piece of mask has {piece_width} x {piece_height} pixels, its picture {width} x {height}. Draw it "
            "again."
        )
    if piece.ndim != 2:
        raise InvalidMaskError(f"The mask in base64 has colors (mode {mode}). Save it in black and white.")
    return piece > 0


def decode_base64(encoded: Any, what: str) -> bytes:
    """The bytes of a text in base64; raises `InvalidMaskError` for anything else."""
    try:
        if isinstance(encoded, str):
            return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidMaskError(f"Expected a {what} as a file in base64, found {short_text(encoded)}. Save it again.")


def checked_points(values: Any, size: Size | None, counts: range | tuple[int, ...]) -> list[Point]:
    """Pairs of numbers as points.

    Args:
        size: of the picture, None = the file does not tell.
        counts: how many there may be.

    Raises:
        InvalidMaskError: anything else, another count, or a coordinate that lies further outside of the picture than
            its longer side.
    """
    is_list = isinstance(values, list) and len(values) in counts
    if not is_list or not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        expected = f"at least {counts.start}" if isinstance(counts, range) else " or ".join(map(str, counts))
        raise InvalidMaskError(f"Expected {expected} points [x, y], found {short_text(values)}. Draw the shape again.")
    # No picture that opens reaches further.
    height, width = size or (MAX_PIXELS, MAX_PIXELS)
    margin = max(height, width)
    return [
        (checked_number(x, -margin, width + margin, "x"), checked_number(y, -margin, height + margin, "y"))
        for x, y in values
    ]


def checked_number(value: Any, least: float, most: float, name: str) -> float:
    """A number as float; raises `InvalidMaskError` for anything else, NaN, or what is not between the two."""
    if type(value) not in (int, float) or not least <= value <= most:
        raise InvalidMaskError(
            f"'{name}' should be a number from {least:g} to {most:g}, found {short_text(value)}. Draw the shape again."
        )
    return float(value)


def checked_size(height: Any, width: Any) -> Size:
    """Height and width in pixels; raises `InvalidMaskError` for no positive integers, or too many pixels."""
    if not (is_int64(height) and is_int64(width) and height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise InvalidMaskError(
            f"The picture's height and width should be positive integers of at most {MAX_PIXELS} pixels together, "
            f"found {short_text(height)} and {short_text(width)}. Export it again."
        )
    return height, width


def corners_of(corner: Point, size: Point, degrees: float) -> list[float]:
    """The four corners [x0, y0, ...] of a box by its upper left one, its width and height, and a turn clockwise.

    It is turned about that corner; clockwise, as it looks where y goes down.
    """
    (x, y), (width, height) = corner, size
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        side
        for right, down in ((0, 0), (width, 0), (width, height), (0, height))
        for side in (x + right * cosine - down * sine, y + right * sine + down * cosine)
    ]
