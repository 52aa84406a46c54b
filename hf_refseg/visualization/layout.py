"""Text and cells of which pictures are put together: fonts that have the glyphs, lines, rows and columns."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

BACKGROUND: Color = (255, 255, 255)
TEXT_COLOR: Color = (20, 20, 20)
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
    yield default_font(size)
    yield from filter(None, (_system_font(name, size) for name in SYSTEM_FONTS))


def _has_glyphs(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = _glyph(font, NO_CHARACTER)
    return all(_glyph(font, character) != missing for character in set(text) - {" "})


@lru_cache(maxsize=10_000)
def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    picture = font.getmask(character)
    return picture.size, bytes(picture)


def _drawable(text: str) -> str:
    """A text with spaces in the place of control characters, and question marks in that of lone surrogates."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.encode("utf-8", errors="replace").decode("utf-8")


def font_of(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font for a text; Pillow's own where none has all glyphs, which draws boxes for those that it lacks."""
    return find_font(text, size) or default_font(size)


@lru_cache
def default_font(size: int) -> ImageFont.FreeTypeFont:
    # With a size it is Pillow's TrueType font, as its documentation says.
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=size))


@lru_cache
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """None where the system has no such font."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


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


def _break_word(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """At most so many lines, the last of them with "..." where others follow."""
    return list(lines) if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-3] + "..."]


def cut_line(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line of at most `width` pixels, which ends in "..." where it is cut, be it inside a word."""
    (line,) = first_lines(_break_word(" ".join(_drawable(text).split()), font, width), 1)
    return line


def draw_lines(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont,
    font_size: int,
) -> None:
    left, top = corner
    for number, line in enumerate(lines):
        draw.text((left, top + round(number * 1.25 * font_size)), line, fill=TEXT_COLOR, font=font)


def text_cell(text: str, width: int, height: int, font_size: int, note: str = "") -> Image.Image:
    """Wrapped text, vertically centered and cut with "..." where the cell is full; the note always fits below it."""
    font = font_of(text, font_size)
    lines = wrap_text(text, font, width - font_size)
    available = max(1, int(height / (1.25 * font_size)) - (1 if note else 0))
    lines = first_lines(lines, available)
    lines = [*lines, note] if note else lines
    cell = Image.new("RGB", (width, height), BACKGROUND)
    top = max(0, round((height - len(lines) * 1.25 * font_size) / 2))
    draw_lines(ImageDraw.Draw(cell), (font_size // 2, top), lines, font, font_size)
    return cell


def fit(picture: Image.Image, width: int) -> Image.Image:
    scale = width / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def beside(cells: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Cells in a row of columns as wide as the widest, centered."""
    width = max(cell.width for cell in cells)
    height = max(cell.height for cell in cells)
    canvas = Image.new("RGB", (len(cells) * (width + gap) + gap, height + gap), BACKGROUND)
    for column, cell in enumerate(cells):
        left = gap + column * (width + gap) + (width - cell.width) // 2
        canvas.paste(cell, (left, (height - cell.height) // 2))
    return canvas


def side_by_side(cells: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Cells of different widths in a row, their tops in line."""
    size = (sum(cell.width + gap for cell in cells) + gap, max(cell.height for cell in cells) + 2 * gap)
    canvas, left = Image.new("RGB", size, BACKGROUND), gap
    for cell in cells:
        canvas.paste(cell, (left, gap))
        left += cell.width + gap
    return canvas
