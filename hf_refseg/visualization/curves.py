"""Lines over the steps of a training: losses and scores in one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from .layout import BACKGROUND, TEXT_COLOR, cut_line, distinct_color, font_of, side_by_side

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 260, 56, 16, 28, 30
FONT_SIZE, MOST_TICKS = 13, 6
GRID_COLOR = (225, 225, 225)
# Of 255.
BAND_OPACITY = 50

Curve = Sequence[tuple[float, float]]
Band = Sequence[tuple[float, float, float]]


def draw_panels(
    panels: Mapping[str, Mapping[str, Curve]], bands: Mapping[str, Mapping[str, Band]] | None = None
) -> Image.Image:
    """Panels side by side, each with the curves of its title.

    Args:
        panels: by title the curves, by name; points (step, value) in the order of the steps, at least one a curve.
        bands: by title, of curves by name, what lies around them, such as the range of several runs: (step, lowest,
            highest) in the order of the steps. None = nothing does.

    Raises:
        ValueError: a panel without curve, a curve without point, or a band around no curve.
    """
    around = {} if bands is None else bands
    _require_known("panel", around, panels)
    return side_by_side([draw_curves(curves, title, around.get(title)) for title, curves in panels.items()])


def draw_curves(curves: Mapping[str, Curve], title: str, bands: Mapping[str, Band] | None = None) -> Image.Image:
    """One panel: curves over the same steps, their names above in their colors. Arguments as of `draw_panels`."""
    if not curves or not all(curves.values()):
        raise ValueError(f"{title}: there is nothing to draw, give one point of each curve at least.")
    bands = {} if bands is None else bands
    _require_known("curve", bands, curves)
    steps, values = zip(*(point for curve in curves.values() for point in curve), strict=True)
    edges = [edge for band in bands.values() for _, *lowest_and_highest in band for edge in lowest_and_highest]
    across, along = ticks(0, max(steps)), ticks(min([*values, *edges]), max([*values, *edges]))
    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(picture)

    def place(step: float, value: float) -> tuple[float, float]:
        right = (step - across[0]) / (across[-1] - across[0])
        up = (value - along[0]) / (along[-1] - along[0])
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    for value in along:
        row = place(0, value)[1]
        draw.line([(LEFT, row), (WIDTH - RIGHT, row)], fill=GRID_COLOR)
        draw.text((LEFT - 6, row), f"{value:g}", fill=TEXT_COLOR, font=font_of("0", FONT_SIZE), anchor="rm")
    for step in across:
        column = place(step, along[0])[0]
        draw.text(
            (column, HEIGHT - BOTTOM + 6), f"{step:g}", fill=TEXT_COLOR, font=font_of("0", FONT_SIZE), anchor="ma"
        )
    _write_names(draw, title, list(curves))
    colors = {name: distinct_color(index) for index, name in enumerate(curves)}
    # It mixes colors with what is there.
    see_through = ImageDraw.Draw(picture, "RGBA")
    for name, band in bands.items():
        below = [place(step, lowest) for step, lowest, _ in band]
        above = [place(step, highest) for step, _, highest in band]
        see_through.polygon([*below, *reversed(above)], fill=(*colors[name], BAND_OPACITY))
    for name, curve in curves.items():
        points = [place(*point) for point in curve]
        draw.line(points, fill=colors[name], width=2)
        for right, up in points:
            draw.ellipse([right - 2, up - 2, right + 2, up + 2], fill=colors[name])
    return picture


def _require_known(what: str, bands: Mapping[str, object], drawn: Mapping[str, object]) -> None:
    for name in bands:
        if name not in drawn:
            raise ValueError(f"There is a band of the {what} {name}, which is not drawn: {', '.join(drawn)} are.")


def ticks(low: float, high: float) -> list[float]:
    """At most `MOST_TICKS` + 1 round numbers in equal distances, from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span))
    step = next(size * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5) if span / (size * factor) <= MOST_TICKS - 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _write_names(draw: ImageDraw.ImageDraw, title: str, names: Sequence[str]) -> None:
    right = LEFT
    for text, color in [(title, TEXT_COLOR), *((name, distinct_color(index)) for index, name in enumerate(names))]:
        font = font_of(text, FONT_SIZE)
        shown = cut_line(text, font, WIDTH - right)
        draw.text((right, 6), shown, fill=color, font=font)
        right += round(font.getlength(shown)) + 14
