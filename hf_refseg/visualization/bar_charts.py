"""Bars of percentages with their intervals, under headings: the scores of groups of sentences in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .layout import BACKGROUND, TEXT_COLOR, cut_line, font_of

BAR_COLOR, INTERVAL_COLOR, GRID_COLOR = (110, 160, 220), (20, 60, 120), (225, 225, 225)
FONT_SIZE, LINE, MARGIN = 16, 26, 12
LABEL_WIDTH, PLOT_WIDTH, NOTE_WIDTH = 190, 500, 200


@dataclass(frozen=True)
class Bar:
    """One bar of `draw_bars`.

    Attributes:
        heading: what it belongs to; shown above the first bar of each.
        label: what it is about.
        value: percent, 0 to 100.
        interval: `(low, high)` in percent, drawn as a line over its end; None = no line.
        note: shown at its right.
    """

    heading: str
    label: str
    value: float
    interval: tuple[float, float] | None = None
    note: str = ""


def draw_bars(bars: Sequence[Bar], title: str) -> Image.Image:
    """A picture of horizontal bars from 0 to 100 percent, one below the other, with a line at every 20 percent.

    Args:
        bars: at least one; those of one heading together.
        title: shown at the top.

    Raises:
        ValueError: there is no bar.
    """
    if not bars:
        raise ValueError("There is nothing to draw: give one bar at least.")
    headings = [index for index, bar in enumerate(bars) if index == 0 or bars[index - 1].heading != bar.heading]
    width = 2 * MARGIN + LABEL_WIDTH + PLOT_WIDTH + NOTE_WIDTH
    height = 2 * MARGIN + LINE * (1 + len(bars) + len(headings))
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _write(draw, MARGIN, MARGIN, title, width - 2 * MARGIN)
    for percent in range(0, 101, 20):
        draw.line([(_place(percent), MARGIN + LINE), (_place(percent), height - MARGIN)], fill=GRID_COLOR)
    top = MARGIN + LINE
    for index, bar in enumerate(bars):
        if index in headings:
            _write(draw, MARGIN, top, bar.heading, LABEL_WIDTH)
            top += LINE
        _draw_bar(draw, top, bar)
        top += LINE
    return picture


def _draw_bar(draw: ImageDraw.ImageDraw, top: int, bar: Bar) -> None:
    _write(draw, 2 * MARGIN, top, bar.label, LABEL_WIDTH - 2 * MARGIN)
    draw.rectangle([_place(0), top + 4, _place(bar.value), top + LINE - 4], fill=BAR_COLOR)
    if bar.interval is not None:
        middle, (low, high) = top + LINE // 2, map(_place, bar.interval)
        draw.line([(low, middle), (high, middle)], fill=INTERVAL_COLOR, width=2)
        for end in (low, high):
            draw.line([(end, middle - 5), (end, middle + 5)], fill=INTERVAL_COLOR, width=2)
    _write(
        draw,
        _place(100) + MARGIN,
        top,
        " ".join(filter(None, [f"{bar.value:.1f}", bar.note and f"({bar.note})"])),
        NOTE_WIDTH - MARGIN,
    )


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, text: str, width: int) -> None:
    font = font_of(text, FONT_SIZE)
    draw.text((left, top + 3), cut_line(text, font, width), fill=TEXT_COLOR, font=font)


def _place(percent: float) -> int:
    return MARGIN + LABEL_WIDTH + round(PLOT_WIDTH * percent / 100)
