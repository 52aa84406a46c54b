"""Pictures of masks: overlays on an image, several expressions with a legend, and truth beside prediction."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Color = tuple[int, int, int]

BACKGROUND: Color = (255, 255, 255)
TEXT_COLOR: Color = (20, 20, 20)
MASK_COLOR: Color = (255, 0, 200)


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


def draw_overlay(image: Image.Image, mask: ArrayLike, color: Color = MASK_COLOR, opacity: float = 0.5) -> Image.Image:
    """Tint a mask's pixels and draw its outline.

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
    mask = _checked_mask(mask, image)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32).copy()
    pixels[mask] = (1 - opacity) * pixels[mask] + opacity * np.asarray(color, dtype=np.float32)
    pixels[_outline(mask)] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def draw_masks(
    image: Image.Image, masks: Sequence[ArrayLike], labels: Sequence[str], opacity: float = 0.5
) -> Image.Image:
    """Draw several masks, each in its own color, above a legend that names them.

    Args:
        image: any mode; it is not changed.
        masks: N boolean masks (H, W) of the image's size; later ones cover earlier ones.
        labels: N expressions, any text.
        opacity: of the tint, in [0, 1].

    Returns:
        An RGB image of the same width; the legend adds to the height.

    Raises:
        ValueError: unequal numbers of masks and labels, or as `draw_overlay`.
    """
    if len(masks) != len(labels):
        raise ValueError(f"{len(masks)} masks for {len(labels)} labels: give one for each.")
    colors = [distinct_color(index) for index in range(len(masks))]
    picture = image.convert("RGB")
    for mask, color in zip(masks, colors, strict=True):
        picture = draw_overlay(picture, mask, color, opacity)
    legend = _draw_legend(labels, colors, picture.width)
    return _stack([picture, legend])


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
        _text_cell(title, cell_width, 2 * font_size, font_size)
        for title in ("image", "sentence", "truth", "prediction")
    ]
    return _stack([_beside(titles), *(_comparison_row(row, cell_width, font_size) for row in rows)])


def distinct_color(index: int) -> Color:
    """The index-th of a row of colors that stay apart: each hue lies a golden section after the one before."""
    hue = (0.87 + index * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0 if index % 2 == 0 else 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def _comparison_row(row: ComparisonRow, cell_width: int, font_size: int) -> Image.Image:
    overlays = [draw_overlay(row.image, mask) for mask in (row.truth, row.prediction)]
    pictures = [_fit(picture, cell_width) for picture in (row.image.convert("RGB"), *overlays)]
    height = max(pictures[0].height, 5 * font_size)
    sentence = _text_cell(row.text, cell_width, height, font_size, note=f"IoU {100 * row.iou:.1f} %")
    return _beside([pictures[0], sentence, *pictures[1:]])


def _checked_mask(mask: ArrayLike, image: Image.Image) -> NDArray[np.bool_]:
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


def _fit(picture: Image.Image, width: int) -> Image.Image:
    scale = width / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _beside(cells: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Cells in a row of columns as wide as the widest, centered."""
    width = max(cell.width for cell in cells)
    height = max(cell.height for cell in cells)
    canvas = Image.new("RGB", (len(cells) * (width + gap) + gap, height + gap), BACKGROUND)
    for column, cell in enumerate(cells):
        left = gap + column * (width + gap) + (width - cell.width) // 2
        canvas.paste(cell, (left, (height - cell.height) // 2))
    return canvas


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def _draw_legend(labels: Sequence[str], colors: Sequence[Color], width: int) -> Image.Image:
    font_size = max(12, min(24, width // 30))
    entries = []
    for label, color in zip(labels, colors, strict=True):
        lines = wrap_text(label, _font(font_size), width - 3 * font_size)
        entry = Image.new("RGB", (width, round((len(lines) * 1.25 + 0.5) * font_size)), BACKGROUND)
        draw = ImageDraw.Draw(entry)
        draw.rectangle((font_size // 2, font_size // 2, 3 * font_size // 2, 3 * font_size // 2), fill=color)
        _draw_lines(draw, (2 * font_size, font_size // 3), lines, font_size)
        entries.append(entry)
    return _stack(entries) if entries else Image.new("RGB", (width, 0))


def _text_cell(text: str, width: int, height: int, font_size: int, note: str = "") -> Image.Image:
    """Wrapped text, vertically centered and cut with "..." where the cell is full; the note always fits below it."""
    lines = wrap_text(text, _font(font_size), width - font_size)
    available = max(1, int(height / (1.25 * font_size)) - (1 if note else 0))
    if len(lines) > available:
        lines = [*lines[: available - 1], lines[available - 1][:-3] + "..."]
    lines = [*lines, note] if note else lines
    cell = Image.new("RGB", (width, height), BACKGROUND)
    top = max(0, round((height - len(lines) * 1.25 * font_size) / 2))
    _draw_lines(ImageDraw.Draw(cell), (font_size // 2, top), lines, font_size)
    return cell


def _draw_lines(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], font_size: int) -> None:
    left, top = corner
    for number, line in enumerate(lines):
        draw.text((left, top + round(number * 1.25 * font_size)), line, fill=TEXT_COLOR, font=_font(font_size))


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels, inside a word only where the word alone is too long.

    Characters that no font can draw (lone surrogates, control characters) become question marks or spaces.

    Returns:
        At least one line.
    """
    drawable = "".join(character if character.isprintable() else " " for character in text.replace("\n", " "))
    lines = [""]
    for word in drawable.encode("utf-8", errors="replace").decode("utf-8").split():
        extended = f"{lines[-1]} {word}".strip()
        if font.getlength(extended) <= width:
            lines[-1] = extended
            continue
        *full, rest = _break_word(word, font, width)
        lines = [*lines, *full, rest] if lines[-1] else [*full, rest]
    return lines


def _break_word(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
