"""Masks over images: one or several with a legend, and truth beside prediction, of images and of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..modeling.picture_files_refseg import stored_rgb
from .layout import (
    BACKGROUND,
    TEXT_COLOR,
    Color,
    beside,
    can_draw,
    distinct_color,
    draw_lines,
    first_lines,
    fit,
    font_of,
    stack,
    text_cell,
    wrap_text,
)

MASK_COLOR: Color = (255, 0, 200)
# Lines of an expression in the legend below a picture.
LEGEND_LINES = 6
# Colors nearer to each other than this, of 442 from black to white, are hard to tell apart.
NEAR_COLORS = 120


@dataclass(frozen=True)
class ComparisonRow:
    """One row of `draw_comparison`.

    Attributes:
        image: the photograph.
        text: the expression.
        truth: true mask, boolean (H, W), of the image's size.
        prediction: predicted mask, boolean (H, W), of the image's size.
        iou: their IoU in [0, 1].
    """

    image: Image.Image
    text: str
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    iou: float


@dataclass(frozen=True)
class StripFrame:
    """One frame of a `ComparisonStrip`: an image of any mode, true and predicted mask, boolean (H, W) of its size."""

    image: Image.Image
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]


@dataclass(frozen=True)
class ComparisonStrip:
    """One strip of `draw_strips`: an expression, a note about the prediction, and frames of one video in order."""

    text: str
    note: str
    frames: Sequence[StripFrame]


def spread(numbers: Sequence[int], count: int = 4) -> list[int]:
    """As many of the numbers as a strip shows: first, last, and between them at equal steps; all of fewer."""
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [numbers[place] for place in places]


def draw_overlay(image: Image.Image, mask: ArrayLike, color: Color = MASK_COLOR, opacity: float = 0.5) -> Image.Image:
    """Tint a mask's pixels and draw its outline, in black or white where the image is of about the mask's color.

    Args:
        image: any mode; it is not changed.
        mask: boolean (H, W) of the image's size, numpy or a torch tensor on the CPU.
        color: red, green and blue in 0 ... 255.
        opacity: of the tint, in [0, 1]; the outline is always opaque.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: the mask is not boolean or not of the image's size, or the opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], not {opacity}.")
    mask = checked_mask(mask, image)
    pixels = np.asarray(stored_rgb(image), dtype=np.float32).copy()
    outline = _outline(mask)
    is_alike = np.linalg.norm(pixels[outline] - np.asarray(color), axis=-1, keepdims=True) < NEAR_COLORS
    pixels[mask] = (1 - opacity) * pixels[mask] + opacity * np.asarray(color, dtype=np.float32)
    pixels[outline] = np.where(is_alike, _black_or_white(color), color)
    return Image.fromarray(pixels.round().astype(np.uint8))


def tint_masks(
    image: Image.Image, masks: Sequence[ArrayLike], colors: Sequence[Color], opacity: float = 0.5
) -> Image.Image:
    """Draw several masks, each in its own color; arguments and errors as of `draw_masks`.

    Returns:
        An RGB image of the same size.
    """
    picture = stored_rgb(image)
    for mask, color in zip(masks, colors, strict=True):
        picture = draw_overlay(picture, mask, color, opacity)
    return picture


def draw_masks(
    image: Image.Image,
    masks: Sequence[ArrayLike],
    labels: Sequence[str],
    opacity: float = 0.5,
    colors: Sequence[Color] | None = None,
) -> Image.Image:
    """Draw several masks, each in its own color, above a legend that names them.

    Of an expression that no font here can draw (`can_draw`) the legend shows the number, 1 for the first; of a long
    one the first `LEGEND_LINES` lines.

    Args:
        image: any mode; it is not changed.
        masks: N boolean masks (H, W) of the image's size; later ones cover earlier ones.
        labels: N expressions, any text.
        opacity: of the tint, in [0, 1].
        colors: N colors, red, green and blue in 0 ... 255; by default those of `distinct_color`.

    Returns:
        An RGB image of the same width; the legend adds to the height.

    Raises:
        ValueError: unequal numbers of masks, labels and colors, or as `draw_overlay`.
    """
    if len(masks) != len(labels):
        raise ValueError(f"{len(masks)} masks for {len(labels)} labels: give one for each.")
    colors = [distinct_color(index) for index in range(len(masks))] if colors is None else colors
    picture = tint_masks(image, masks, colors, opacity)
    return stack([picture, _draw_legend(labels, colors, picture.width)])


def draw_comparison(rows: Sequence[ComparisonRow], cell_width: int = 240) -> Image.Image:
    """A table of examples with the columns image, sentence, truth and prediction.

    Args:
        rows: at least one; images may differ in size.
        cell_width: width of every column in pixels; images are scaled to fit a square of that width.

    Returns:
        An RGB image.

    Raises:
        ValueError: no row, or a mask that is not boolean or not of its image's size.
    """
    if not rows:
        raise ValueError("There is nothing to draw: no row was given.")
    font_size = max(12, cell_width // 15)
    titles = [
        text_cell(title, cell_width, 2 * font_size, font_size)
        for title in ("image", "sentence", "truth", "prediction")
    ]
    return stack([beside(titles), *(_comparison_row(row, cell_width, font_size) for row in rows)])


def draw_strips(strips: Sequence[ComparisonStrip], cell_width: int = 240) -> Image.Image:
    """Videos below each other: beside the expression a few frames, with the true mask above the predicted one.

    Args:
        strips: at least one, each with at least one frame.
        cell_width: width of every column in pixels; frames are scaled to fit a square of that width.

    Returns:
        An RGB image.

    Raises:
        ValueError: no strip or no frame, or a mask that is not boolean or not of its frame's size.
    """
    if not strips or not all(strip.frames for strip in strips):
        raise ValueError("There is nothing to draw: give one strip at least, and a frame for each.")
    return stack([_draw_strip(strip, cell_width, max(12, cell_width // 15)) for strip in strips])


def _comparison_row(row: ComparisonRow, cell_width: int, font_size: int) -> Image.Image:
    overlays = [draw_overlay(row.image, mask) for mask in (row.truth, row.prediction)]
    pictures = [fit(picture, cell_width) for picture in (stored_rgb(row.image), *overlays)]
    height = max(pictures[0].height, 5 * font_size)
    sentence = text_cell(row.text, cell_width, height, font_size, note=f"IoU {100 * row.iou:.1f} %")
    return beside([pictures[0], sentence, *pictures[1:]])


def _draw_strip(strip: ComparisonStrip, cell_width: int, font_size: int) -> Image.Image:
    cells, gap = [], Image.new("RGB", (cell_width, 6), BACKGROUND)
    for frame in strip.frames:
        truth, prediction = (
            fit(draw_overlay(frame.image, mask), cell_width) for mask in (frame.truth, frame.prediction)
        )
        cells.append(stack([truth, gap, prediction]))
    height = cells[0].height // 2
    title = text_cell(strip.text, cell_width, height, font_size, note="above: truth")
    return beside([stack([title, text_cell(f"below: {strip.note}", cell_width, height, font_size)]), *cells])


def checked_mask(mask: ArrayLike, image: Image.Image) -> NDArray[np.bool_]:
    """A mask as an array; raises ValueError unless it is boolean and of the image's size."""
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != (image.height, image.width):
        raise ValueError(
            f"Expected a boolean mask of the image's size {(image.height, image.width)} (height, width), "
            f"not {mask.dtype} of shape {mask.shape}."
        )
    return mask


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's outermost pixels, thicker on larger images so that they survive scaling down."""
    thickness = 1 + min(mask.shape) // 300
    eroded = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MinFilter(2 * thickness + 1))
    return mask & ~np.asarray(eroded, dtype=bool)


def _black_or_white(color: Color) -> Color:
    """Whichever of both is farther from a color."""
    return TEXT_COLOR if sum(color) > 382 else BACKGROUND


def _draw_legend(labels: Sequence[str], colors: Sequence[Color], width: int) -> Image.Image:
    font_size = max(12, min(24, width // 30))
    entries = []
    for number, (label, color) in enumerate(zip(labels, colors, strict=True), start=1):
        text = label if can_draw(label) else str(number)
        font = font_of(text, font_size)
        lines = first_lines(wrap_text(text, font, width - 3 * font_size), LEGEND_LINES)
        entry = Image.new("RGB", (width, round((len(lines) * 1.25 + 0.5) * font_size)), BACKGROUND)
        draw = ImageDraw.Draw(entry)
        draw.rectangle((font_size // 2, font_size // 2, 3 * font_size // 2, 3 * font_size // 2), fill=color)
        draw_lines(draw, (2 * font_size, font_size // 3), lines, font, font_size)
        entries.append(entry)
    return stack(entries) if entries else Image.new("RGB", (width, 0))
