"""Pictures of masks (overlays, several expressions with a legend, truth beside prediction) and of explanations."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .modeling.pictures_refseg import stored_rgb

Color = tuple[int, int, int]

BACKGROUND: Color = (255, 255, 255)
TEXT_COLOR: Color = (20, 20, 20)
MASK_COLOR: Color = (255, 0, 200)
HIDDEN_COLOR: Color = (128, 128, 128)
# From the lowest value of a heat map to the highest.
HEAT_COLORS: tuple[Color, ...] = ((20, 20, 90), (0, 130, 160), (250, 210, 60), (220, 30, 20))
CELLS_PER_ROW = 5
# Lines of an expression in the legend below a picture.
LEGEND_LINES = 6
# Colors nearer to each other than this, of 442 from black to white, are hard to tell apart.
NEAR_COLORS = 120
# What systems come with and Pillow finds by name, for texts that its own font, of plain Latin letters, cannot draw.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansDevanagari-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
)
# No character, so that every font draws what it draws for characters that it does not have.
NO_CHARACTER = "\uffff"


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
    mask = _checked_mask(mask, image)
    pixels = np.asarray(stored_rgb(image), dtype=np.float32).copy()
    outline = _outline(mask)
    is_alike = np.linalg.norm(pixels[outline] - np.asarray(color), axis=-1, keepdims=True) < NEAR_COLORS
    pixels[mask] = (1 - opacity) * pixels[mask] + opacity * np.asarray(color, dtype=np.float32)
    pixels[outline] = np.where(is_alike, _black_or_white(color), color)
    return Image.fromarray(pixels.round().astype(np.uint8))


def draw_masks(
    image: Image.Image, masks: Sequence[ArrayLike], labels: Sequence[str], opacity: float = 0.5
) -> Image.Image:
    """Draw several masks, each in its own color, above a legend that names them.

    Of an expression that no font here can draw (`can_draw`) the legend shows the number, 1 for the first; of a long
    one the first `LEGEND_LINES` lines.

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
    picture = stored_rgb(image)
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
    return _stack([_draw_strip(strip, cell_width, max(12, cell_width // 15)) for strip in strips])


def draw_heat_maps(
    image: Image.Image,
    maps: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    shared_scale: bool,
    cell_width: int = 240,
) -> Image.Image:
    """Maps over an image, five in a row, each below its title.

    Args:
        image: any mode; it is not changed.
        maps: N arrays (h, w) of any size that cover the image, numpy or torch tensors on the CPU.
        titles: N texts.
        shared_scale: colors go from 0 to the largest value of all maps; else from least to largest of each map.
        cell_width: width of every column in pixels.

    Returns:
        An RGB image.

    Raises:
        ValueError: no map, unequal numbers of maps and titles, or a map that is not a finite (h, w).
    """
    if len(maps) != len(titles) or not maps:
        raise ValueError(f"{len(maps)} maps for {len(titles)} titles: give one for each, and one at least.")
    arrays = [_checked_map(each) for each in maps]
    ranges = [(0.0, max(each.max() for each in arrays))] * len(arrays)
    if not shared_scale:
        ranges = [(each.min(), each.max()) for each in arrays]
    font_size = max(12, cell_width // 15)
    cells = []
    for array, (low, high), title in zip(arrays, ranges, titles, strict=True):
        picture = _fit(_draw_heat(image, array, low, high), cell_width)
        cells.append(_stack([_text_cell(title, cell_width, 2 * font_size, font_size), picture]))
    return _in_rows(cells)


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
    picture = _fit(stored_rgb(image), cell_width)
    draw = ImageDraw.Draw(picture)
    radius = max(3, cell_width // 40)
    for (x, y), color in zip(places, colors, strict=True):
        center = x * picture.width, y * picture.height
        draw.ellipse(
            (center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius),
            fill=color,
            outline=BACKGROUND,
        )
    return _side_by_side([picture, _word_table(weights, words, colors)])


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
        picture = _fit(Image.blend(stored_rgb(image), areas, 0.55), cell_width)
        rows.append(_side_by_side([picture, _word_table(np.asarray(weights, dtype=np.float64), words, colors)]))
    return _stack(rows)


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
        heading = _text_cell(title, cell_width, 2 * font_size, font_size)
        caption = _text_cell(text, cell_width, 5 * font_size, font_size)
        cells.append(_stack([heading, _fit(picture, cell_width), caption]))
    return _beside(cells)


def distinct_color(index: int) -> Color:
    """The index-th of a row of colors that stay apart: each hue lies a golden section after the one before."""
    hue = (0.87 + index * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0 if index % 2 == 0 else 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def can_draw(text: str) -> bool:
    """Whether there is a font here that has glyphs for the whole text."""
    return find_font(text, 12) is not None


def find_font(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """A font of this size in pixels that has glyphs for the whole text: Pillow's own one, or one of the system."""
    return next((font for font in _fonts(size) if _has_glyphs(font, _drawable(text))), None)


def _fonts(size: int) -> Iterator[ImageFont.FreeTypeFont]:
    yield _default_font(size)
    yield from filter(None, (_system_font(name, size) for name in SYSTEM_FONTS))


def _has_glyphs(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = _glyph(font, NO_CHARACTER)
    return all(_glyph(font, character) != missing for character in set(text) - {" "})


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    picture = font.getmask(character)
    return picture.size, bytes(picture)


def _comparison_row(row: ComparisonRow, cell_width: int, font_size: int) -> Image.Image:
    overlays = [draw_overlay(row.image, mask) for mask in (row.truth, row.prediction)]
    pictures = [_fit(picture, cell_width) for picture in (stored_rgb(row.image), *overlays)]
    height = max(pictures[0].height, 5 * font_size)
    sentence = _text_cell(row.text, cell_width, height, font_size, note=f"IoU {100 * row.iou:.1f} %")
    return _beside([pictures[0], sentence, *pictures[1:]])


def _draw_strip(strip: ComparisonStrip, cell_width: int, font_size: int) -> Image.Image:
    cells, gap = [], Image.new("RGB", (cell_width, 6), BACKGROUND)
    for frame in strip.frames:
        truth, prediction = (
            _fit(draw_overlay(frame.image, mask), cell_width) for mask in (frame.truth, frame.prediction)
        )
        cells.append(_stack([truth, gap, prediction]))
    height = cells[0].height // 2
    title = _text_cell(strip.text, cell_width, height, font_size, note="above: truth")
    return _beside([_stack([title, _text_cell(f"below: {strip.note}", cell_width, height, font_size)]), *cells])


def _checked_map(values: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"Expected a map (height, width) of finite numbers, not an array of shape {array.shape}.")
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
    fonts, height = [_font_of(word, font_size) for word in words], 2 * font_size
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
                font=_default_font(font_size),
            )
        left += width
    return table


def _side_by_side(cells: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Cells of different widths in a row, their tops in line."""
    size = (sum(cell.width + gap for cell in cells) + gap, max(cell.height for cell in cells) + 2 * gap)
    canvas, left = Image.new("RGB", size, BACKGROUND), gap
    for cell in cells:
        canvas.paste(cell, (left, gap))
        left += cell.width + gap
    return canvas


def _in_rows(cells: Sequence[Image.Image]) -> Image.Image:
    return _stack([_beside(cells[start : start + CELLS_PER_ROW]) for start in range(0, len(cells), CELLS_PER_ROW)])


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


def _black_or_white(color: Color) -> Color:
    """Whichever of both is farther from a color."""
    return TEXT_COLOR if sum(color) > 382 else BACKGROUND


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
    for number, (label, color) in enumerate(zip(labels, colors, strict=True), start=1):
        text = label if can_draw(label) else str(number)
        font = _font_of(text, font_size)
        lines = _first_lines(wrap_text(text, font, width - 3 * font_size), LEGEND_LINES)
        entry = Image.new("RGB", (width, round((len(lines) * 1.25 + 0.5) * font_size)), BACKGROUND)
        draw = ImageDraw.Draw(entry)
        draw.rectangle((font_size // 2, font_size // 2, 3 * font_size // 2, 3 * font_size // 2), fill=color)
        _draw_lines(draw, (2 * font_size, font_size // 3), lines, font, font_size)
        entries.append(entry)
    return _stack(entries) if entries else Image.new("RGB", (width, 0))


def _text_cell(text: str, width: int, height: int, font_size: int, note: str = "") -> Image.Image:
    """Wrapped text, vertically centered and cut with "..." where the cell is full; the note always fits below it."""
    font = _font_of(text, font_size)
    lines = wrap_text(text, font, width - font_size)
    available = max(1, int(height / (1.25 * font_size)) - (1 if note else 0))
    lines = _first_lines(lines, available)
    lines = [*lines, note] if note else lines
    cell = Image.new("RGB", (width, height), BACKGROUND)
    top = max(0, round((height - len(lines) * 1.25 * font_size) / 2))
    _draw_lines(ImageDraw.Draw(cell), (font_size // 2, top), lines, font, font_size)
    return cell


def _first_lines(lines: Sequence[str], most: int) -> list[str]:
    """At most so many lines, the last of them with "..." where others follow."""
    return list(lines) if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-3] + "..."]


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont,
    font_size: int,
) -> None:
    left, top = corner
    for number, line in enumerate(lines):
        draw.text((left, top + round(number * 1.25 * font_size)), line, fill=TEXT_COLOR, font=font)


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels, inside a word only where the word alone is too long.

    Characters that no font can draw (lone surrogates, control characters) become question marks or spaces.

    Returns:
        At least one line.
    """
    lines = [""]
    for word in _drawable(text).split():
        extended = f"{lines[-1]} {word}".strip()
        if font.getlength(extended) <= width:
            lines[-1] = extended
            continue
        *full, rest = _break_word(word, font, width)
        lines = [*lines, *full, rest] if lines[-1] else [*full, rest]
    return lines


def _drawable(text: str) -> str:
    """A text with spaces in the place of control characters, and question marks in that of lone surrogates."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.encode("utf-8", errors="replace").decode("utf-8")


def _break_word(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _font_of(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font for a text; Pillow's own where none has all glyphs, which draws boxes for those that it lacks."""
    return find_font(text, size) or _default_font(size)


@lru_cache
def _default_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


@lru_cache
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """None where the system has no such font."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None
