"""Pictures of explanations: heat maps, words of places, impact tokens, reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from ..modeling.picture_files_refseg import stored_rgb
from .layout import (
    BACKGROUND,
    TEXT_COLOR,
    Color,
    beside,
    default_font,
    distinct_color,
    fit,
    font_of,
    side_by_side,
    stack,
    text_cell,
    wrap_text,
)

HIDDEN_COLOR: Color = (128, 128, 128)
# From the lowest value of a heat map to the highest.
HEAT_COLORS: tuple[Color, ...] = ((20, 20, 90), (0, 130, 160), (250, 210, 60), (220, 30, 20))
CELLS_PER_ROW = 5


def draw_heat_maps(
    images: Sequence[Image.Image],
    maps: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    shared_scale: bool,
    cell_width: int = 240,
) -> Image.Image:
    """Maps over an image, five in a row, each below its title; of frames, those of a frame below those before it.

    Args:
        images: the image, or the frames of a video, of any mode; they are not changed.
        maps: N arrays (images, h, w) of any size that cover the images, numpy or torch tensors on the CPU.
        titles: N texts.
        shared_scale: colors go from 0 to the largest value of all maps; else from least to largest of each, that of
            all frames.
        cell_width: width of every column in pixels.

    Returns:
        An RGB image.

    Raises:
        ValueError: no map, unequal numbers of maps and titles, or a map that is not a finite (images, h, w).
    """
    if len(maps) != len(titles) or not maps:
        raise ValueError(f"{len(maps)} maps for {len(titles)} titles: give one for each, and one at least.")
    arrays = [_checked_map(each, len(images)) for each in maps]
    ranges = [(0.0, float(max(each.max() for each in arrays)))] * len(arrays)
    if not shared_scale:
        ranges = [(float(each.min()), float(each.max())) for each in arrays]
    font_size = max(12, cell_width // 15)
    headings = [text_cell(title, cell_width, 2 * font_size, font_size) for title in titles]
    rows = []
    for image, of_image in zip(images, zip(*arrays, strict=True), strict=True):
        pictures = (_draw_heat(image, values, *limits) for values, limits in zip(of_image, ranges, strict=True))
        cells = zip(headings, pictures, strict=True)
        rows.append(_in_rows([stack([heading, fit(picture, cell_width)]) for heading, picture in cells]))
    return stack(rows)


def draw_pixel_words(
    image: Image.Image, places: ArrayLike, weights: ArrayLike, words: Sequence[str], cell_width: int = 240
) -> Image.Image:
    """Places of an image, each in its own color, beside a table of what each word weighs for them.

    Args:
        image: any mode; it is not changed.
        places: (N, 2), x and y in [0, 1].
        weights: (N, words), not negative.
        words: the words.
        cell_width: width of the image in pixels.
    """
    places, weights = np.asarray(places), np.asarray(weights, dtype=np.float64)
    colors = [distinct_color(index) for index in range(len(places))]
    picture = fit(stored_rgb(image), cell_width)
    draw = ImageDraw.Draw(picture)
    radius = max(3, cell_width // 40)
    for (x, y), color in zip(places, colors, strict=True):
        center = x * picture.width, y * picture.height
        draw.ellipse(
            (center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius),
            fill=color,
            outline=BACKGROUND,
        )
    return side_by_side([picture, _word_table(weights, words, colors)])


def draw_impact_tokens(
    image: Image.Image,
    maps: Sequence[ArrayLike],
    word_weights: Sequence[ArrayLike],
    words: Sequence[str],
    cell_width: int = 240,
) -> Image.Image:
    """Impact tokens, a row for each layer: the one that each place belongs to, and what each word weighs for them.

    Figure 6 of BTMAE.

    Args:
        image: any mode; it is not changed.
        maps: for each layer (K, h, w): how much of each place each of its K impact tokens takes.
        word_weights: for each layer (K, words), not negative.
        words: the words.
        cell_width: width of the image in pixels.

    Raises:
        ValueError: no layer, or unequal numbers of maps and weights.
    """
    if len(maps) != len(word_weights) or not maps:
        raise ValueError(
            f"{len(maps)} layers of maps for {len(word_weights)} of word weights: one for each is needed."
        )
    rows = []
    for layer, weights in zip(maps, word_weights, strict=True):
        shares = np.asarray(layer, dtype=np.float32)
        colors = [distinct_color(index) for index in range(len(shares))]
        segments = np.asarray(colors, dtype=np.uint8)[shares.argmax(0)]
        areas = Image.fromarray(segments).resize(image.size, Image.Resampling.NEAREST)
        picture = fit(Image.blend(stored_rgb(image), areas, 0.55), cell_width)
        rows.append(side_by_side([picture, _word_table(np.asarray(weights, dtype=np.float64), words, colors)]))
    return stack(rows)


def draw_word_table(weights: ArrayLike, words: Sequence[str]) -> Image.Image:
    """A table of what each word weighs for each word of a sentence, a row for each of the latter, in percent.

    Args:
        weights: (words, words), not negative.
        words: the words.
    """
    weights = np.asarray(weights, dtype=np.float64)
    font_size = 14
    labels = [text_cell(word, 10 * font_size, 2 * font_size, font_size) for word in words]
    # Above the first label stand the words of the columns.
    heading = Image.new("RGB", (10 * font_size, 2 * font_size), BACKGROUND)
    table = _word_table(weights, words, [BACKGROUND] * len(weights), font_size)
    return side_by_side([stack([heading, *labels]), table])


@dataclass(frozen=True)
class MaskedImage:
    """An image of which parts were masked.

    Attributes:
        masked_patches: bool (rows, columns), the masked parts; they cover the image.
        reconstruction: what a model takes the whole image for.
    """

    masked_patches: NDArray[np.bool_]
    reconstruction: Image.Image


@dataclass(frozen=True)
class MaskedWords:
    """A sentence of which words were masked.

    Attributes:
        words: the words.
        masked_words: whether each of them was masked.
        reconstruction: what a model takes each of them for.
    """

    words: Sequence[str]
    masked_words: Sequence[bool]
    reconstruction: Sequence[str]


def draw_reconstruction(
    image: Image.Image, masked_image: MaskedImage | None, masked_words: MaskedWords | None, cell_width: int = 240
) -> Image.Image:
    """Image and words, what of them was masked, and what a model takes them for: figure 5 of BTMAE.

    Args:
        image: any mode; it is not changed.
        masked_image: `None` = the image was not masked: it is shown alone.
        masked_words: `None` = no word was masked: none are shown.
        cell_width: width of every column in pixels.
    """
    font_size = max(12, cell_width // 15)
    whole = stored_rgb(image)
    pictures = {"image": whole, "masked": whole, "reconstruction": whole}
    if masked_image is not None:
        hidden = Image.fromarray(np.asarray(masked_image.masked_patches, dtype=np.uint8) * 255)
        masked = whole.copy()
        masked.paste(HIDDEN_COLOR, mask=hidden.resize(whole.size, Image.Resampling.NEAREST))
        pictures["masked"] = masked
        pictures["reconstruction"] = masked_image.reconstruction.convert("RGB").resize(whole.size)
    texts = ["", "", ""]
    if masked_words is not None:
        hidden_words = [
            "[M]" if is_masked else word
            for word, is_masked in zip(masked_words.words, masked_words.masked_words, strict=True)
        ]
        texts = [" ".join(each) for each in (masked_words.words, hidden_words, masked_words.reconstruction)]
    cells = []
    for (title, picture), text in zip(pictures.items(), texts, strict=True):
        heading = text_cell(title, cell_width, 2 * font_size, font_size)
        caption = text_cell(text, cell_width, 5 * font_size, font_size)
        cells.append(stack([heading, fit(picture, cell_width), caption]))
    return beside(cells)


def _checked_map(values: ArrayLike, images: int) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 3 or len(array) != images or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"Expected a map ({images}, height, width) of finite numbers, not an array of shape {array.shape}."
        )
    return array


def _draw_heat(image: Image.Image, values: NDArray[np.float32], low: float, high: float) -> Image.Image:
    """A map of any size over a gray image, in colors from `low` to `high`."""
    scaled = np.asarray(Image.fromarray(values).resize(image.size, Image.Resampling.BILINEAR))
    colors = Image.fromarray(_heat_colors((scaled - low) / max(high - low, 1e-12)))
    return Image.blend(stored_rgb(image).convert("L").convert("RGB"), colors, 0.6)


def _heat_colors(values: NDArray) -> NDArray[np.uint8]:
    """Colors (..., 3) of numbers in [0, 1]; what lies outside gets the color of the nearer end."""
    steps = np.linspace(0, 1, len(HEAT_COLORS))
    channels = [np.interp(values, steps, channel) for channel in zip(*HEAT_COLORS, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _word_table(weights: NDArray, words: Sequence[str], colors: Sequence[Color], font_size: int = 14) -> Image.Image:
    """A row for each color, a column for each word; cells are colored by weight, from 0 to the largest of all."""
    if weights.shape != (len(colors), len(words)):
        raise ValueError(f"Weights of shape {weights.shape} for {len(colors)} rows and {len(words)} words.")
    fonts, height = [font_of(word, font_size) for word in words], 2 * font_size
    labels = [wrap_text(word, font, 10 * font_size)[0] for word, font in zip(words, fonts, strict=True)]
    widths = [
        max(2 * height, round(font.getlength(label)) + font_size) for label, font in zip(labels, fonts, strict=True)
    ]
    table = Image.new("RGB", (height + sum(widths), (len(colors) + 1) * height), BACKGROUND)
    draw, left = ImageDraw.Draw(table), height
    shades = _heat_colors(weights / max(weights.max(initial=0), 1e-12))
    for row, color in enumerate(colors, start=1):
        draw.rectangle((0, row * height + 1, height - 2, (row + 1) * height - 2), fill=color)
    for column, (label, width, font) in enumerate(zip(labels, widths, fonts, strict=True)):
        draw.text((left + font_size // 4, font_size // 4), label, fill=TEXT_COLOR, font=font)
        for row in range(len(colors)):
            top = (row + 1) * height
            draw.rectangle(
                (left, top + 1, left + width - 2, top + height - 2), fill=tuple(map(int, shades[row, column]))
            )
            draw.text(
                (left + font_size // 4, top + font_size // 4),
                f"{100 * weights[row, column]:.0f}",
                fill=TEXT_COLOR if shades[row, column].mean() > 100 else BACKGROUND,
                font=default_font(font_size),
            )
        left += width
    return table


def _in_rows(cells: Sequence[Image.Image]) -> Image.Image:
    return stack([beside(cells[start : start + CELLS_PER_ROW]) for start in range(0, len(cells), CELLS_PER_ROW)])
