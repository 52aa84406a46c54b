"""Contact sheets: referents with masks, sentences and small print, images in a grid and videos as strips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..modeling.picture_files_refseg import stored_rgb
from .layout import (
    BACKGROUND,
    TEXT_COLOR,
    Color,
    can_draw,
    cut_line,
    first_lines,
    fit,
    font_of,
    side_by_side,
    stack,
    wrap_text,
)
from .overlays import MASK_COLOR, checked_mask, draw_overlay

# Images in a row of the grid.
COLUMNS = 4
# Lines of one sentence, and of all those about a referent.
LINES_OF_SENTENCE, LINES_OF_ALL = 4, 7
# Characters of a text that are looked at: more than so many lines hold.
LONGEST_TEXT = 500
# How many times as long as wide a picture is shown at most: of a longer one the part around the mask.
LONGEST = 4
# A mask that is smaller than this share of a cell's width is easily overlooked: it gets a frame.
SMALL_MASK = 0.1
# Of the tint: the colors of objects, of which sentences speak, have to show.
OPACITY = 0.35
MARK_COLOR: Color = (190, 0, 0)
SMALL_PRINT_COLOR: Color = (110, 110, 110)
LINE_HEIGHT = 1.25
# In the place of a text that is all boxes, which would look like one that was misread.
NO_FONT = "(no font here can draw this text)"

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SheetFrame:
    """An image, of any mode, and its mask, boolean (H, W) of its size; `None` where nobody annotated it."""

    image: Image.Image
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class SheetRow:
    """A referent on a contact sheet.

    Attributes:
        frames: its image, or some frames of its video, one at least.
        sentences: those that mean it, any text.
        notes: small print, each on a line of its own, which is cut where it is too long.
        mark: what has to catch the eye, such as "no target".
    """

    frames: Sequence[SheetFrame]
    sentences: Sequence[str]
    notes: Sequence[str]
    mark: str = ""


@dataclass(frozen=True)
class _Line:
    """A line of text, and how many pixels it keeps from the line before it."""

    text: str
    font: ImageFont.FreeTypeFont
    color: Color
    gap: int


def draw_image_sheet(rows: Iterable[SheetRow], title: str, cell_width: int = 240) -> Image.Image:
    """Images in a grid, `COLUMNS` in a row, above their texts: masks are tinted, small ones in a frame as well.

    Texts are wrapped and cut. Of a picture that is more than `LONGEST` times as long as wide a part is shown. Rows are
    drawn as they come, so that the images of one line of the grid are in memory.

    Args:
        rows: one at least; of each the first frame is drawn.
        title: the line above all, any text.
        cell_width: of every column, in pixels; pictures are scaled to fit a square of that width.

    Returns:
        An RGB image of at most `COLUMNS` columns, each line about two cells high at most.

    Raises:
        ValueError: no row, or one without a frame, or a mask that is not boolean or not of its image's size.
    """
    font_size = max(12, cell_width // 15)
    remaining = iter(rows)
    groups = iter(lambda: list(islice(remaining, COLUMNS)), [])
    return _draw_sheet((_draw_grid_line(group, cell_width, font_size) for group in groups), title, font_size)


def draw_video_sheet(rows: Iterable[SheetRow], title: str, cell_width: int = 240) -> Image.Image:
    """As `draw_image_sheet`, with a strip of all frames for each row, and its text in front of them."""
    font_size = max(12, cell_width // 15)
    return _draw_sheet((_draw_strip(row, cell_width, font_size) for row in rows), title, font_size)


def _draw_sheet(lines: Iterable[Image.Image], title: str, font_size: int) -> Image.Image:
    lines = list(lines)
    if not lines:
        raise ValueError("There is nothing to draw: give one row at least.")
    width = max(line.width for line in lines)
    heading = _cut_lines([title], width, font_size, TEXT_COLOR, font_size // 2)
    return stack([_draw_text(heading, width, font_size), *lines])


def _draw_grid_line(rows: Sequence[SheetRow], width: int, font_size: int) -> Image.Image:
    _require_frames(rows)
    pictures = [_draw_frame(row.frames[0], width) for row in rows]
    height = max(picture.height for picture in pictures)
    cells = []
    for row, picture in zip(rows, pictures, strict=True):
        # Pictures stand on one line, above their texts.
        box = Image.new("RGB", (width, height), BACKGROUND)
        box.paste(picture, ((width - picture.width) // 2, height - picture.height))
        cells.append(stack([box, _draw_text(_lines_of(row, width, font_size), width, font_size)]))
    # A last row of fewer cells keeps the columns of those above.
    return side_by_side(cells)


def _draw_strip(row: SheetRow, width: int, font_size: int) -> Image.Image:
    _require_frames([row])
    text = _draw_text(_lines_of(row, width, font_size), width, font_size)
    return side_by_side([text, *(_draw_frame(frame, width) for frame in row.frames)])


def _require_frames(rows: Iterable[SheetRow]) -> None:
    if not all(row.frames for row in rows):
        raise ValueError("There is nothing to draw: give each row a frame at least.")


def _lines_of(row: SheetRow, width: int, font_size: int) -> Iterator[_Line]:
    """The mark, the sentences and the small print of a referent."""
    gap, left, notes = font_size // 3, LINES_OF_ALL, list(row.notes)
    yield from _cut_lines([row.mark] if row.mark else [], width, font_size, MARK_COLOR, gap)
    for number, sentence in enumerate(map(_drawable, row.sentences)):
        if left == 0:
            notes.insert(0, f"and {len(row.sentences) - number} more sentences")
            break
        font = font_of(sentence, font_size)
        lines = first_lines(wrap_text(sentence, font, width - font_size), min(LINES_OF_SENTENCE, left))
        left -= len(lines)
        yield from (_Line(line, font, TEXT_COLOR, 0 if place else gap) for place, line in enumerate(lines))
    if any(_shown_part(frame) != (0, 0, *frame.image.size) for frame in row.frames):
        notes.append("part of the picture")
    yield from _cut_lines(notes, width, font_size * 3 // 4, SMALL_PRINT_COLOR, gap)


def _drawable(text: str) -> str:
    """What is drawn of a text, which may be of any length."""
    text = text[:LONGEST_TEXT]
    return text if can_draw(text) else NO_FONT


def _cut_lines(texts: Iterable[str], width: int, font_size: int, color: Color, gap: int) -> Iterator[_Line]:
    """Each text on a single line, the first of them after a gap."""
    for number, text in enumerate(map(_drawable, texts)):
        font = font_of(text, font_size)
        yield _Line(cut_line(text, font, width - 2 * font_size), font, color, 0 if number else gap)


def _draw_text(lines: Iterable[_Line], width: int, font_size: int) -> Image.Image:
    lines = list(lines)
    heights = [round(LINE_HEIGHT * line.font.size) for line in lines]
    cell = Image.new("RGB", (width, sum(line.gap for line in lines) + sum(heights) + font_size // 2), BACKGROUND)
    draw, top = ImageDraw.Draw(cell), 0
    for line, height in zip(lines, heights, strict=True):
        top += line.gap
        draw.text((font_size // 2, top), line.text, fill=line.color, font=line.font)
        top += height
    return cell


def _draw_frame(frame: SheetFrame, width: int) -> Image.Image:
    left, top, right, bottom = _shown_part(frame)
    picture = fit(stored_rgb(frame.image).crop((left, top, right, bottom)), width)
    if frame.mask is None:
        return picture
    mask = _fit_mask(checked_mask(frame.mask, frame.image)[top:bottom, left:right], picture.size)
    return _frame_small(draw_overlay(picture, mask, opacity=OPACITY), mask, round(SMALL_MASK * width))


def _shown_part(frame: SheetFrame) -> Box:
    """The whole picture, or of a long one the part around the middle of the mask."""
    width, height = frame.image.size
    left, right = _section(frame.mask, 0, width, LONGEST * height)
    top, bottom = _section(frame.mask, 1, height, LONGEST * width)
    return left, top, right, bottom


def _section(mask: NDArray[np.bool_] | None, axis: int, length: int, longest: int) -> tuple[int, int]:
    """Where the part begins and ends of a side of a picture."""
    if length <= longest:
        return 0, length
    places = np.flatnonzero(mask.any(axis=axis)) if mask is not None and mask.any() else np.array([0, length - 1])
    start = min(max((int(places[0]) + int(places[-1]) - longest) // 2, 0), length - longest)
    return start, start + longest


def _fit_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another size (width, height): pixels that it covers by half or, where there is none, at all."""
    covered = np.asarray(Image.fromarray(255 * mask.astype(np.uint8)).resize(size, Image.Resampling.BOX))
    return covered > 127 if (covered > 127).any() else covered > 0


def _frame_small(picture: Image.Image, mask: NDArray[np.bool_], small: int) -> Image.Image:
    """The picture, with a frame around a mask that is smaller than so many pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0 or max(np.ptp(rows), np.ptp(columns)) >= small:
        return picture
    right, bottom = picture.width - 1, picture.height - 1
    for distance, color in ((5, BACKGROUND), (6, MASK_COLOR), (7, MASK_COLOR), (8, BACKGROUND)):
        box = (
            max(int(columns[0]) - distance, 0),
            max(int(rows[0]) - distance, 0),
            min(int(columns[-1]) + distance, right),
            min(int(rows[-1]) + distance, bottom),
        )
        ImageDraw.Draw(picture).rectangle(box, outline=color)
    return picture
