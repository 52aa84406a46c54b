"""Answers of several systems to the same sentences, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ..modeling.picture_files_refseg import stored_rgb
from .layout import beside, fit, stack, text_cell
from .overlays import ComparisonRow, ComparisonStrip, draw_overlay


def draw_answers(systems: Mapping[str, Sequence[ComparisonRow]], cell_width: int = 200) -> Image.Image:
    """A table with the columns image, sentence and truth, and one for each system with its mask and IoU.

    Args:
        systems: by the name of a system its rows, those of all systems about the same sentences in the same order.
        cell_width: width of every column in pixels; images are scaled to fit a square of that width.

    Raises:
        ValueError: no system or no row, unequal numbers of rows, or a mask that is not boolean or not of its image's
            size.
    """
    _require_some(systems)
    font_size = max(12, cell_width // 15)
    titles = [
        text_cell(title, cell_width, 3 * font_size, font_size) for title in ("image", "sentence", "truth", *systems)
    ]
    cases = zip(*systems.values(), strict=True)
    return stack([beside(titles), *(_draw_row(rows, cell_width, font_size) for rows in cases)])


def draw_answer_strips(systems: Mapping[str, Sequence[ComparisonStrip]], cell_width: int = 200) -> Image.Image:
    """Videos below each other: beside the expression a few frames, the true masks above those of each system.

    Args:
        systems: by the name of a system its strips, those of all systems about the same sentences in the same order.
        cell_width: width of every column in pixels; frames are scaled to fit a square of that width.

    Raises:
        ValueError: no system or no strip, unequal numbers of strips, or a mask that is not boolean or not of its
            frame's size.
    """
    _require_some(systems)
    cases = [dict(zip(systems, strips, strict=True)) for strips in zip(*systems.values(), strict=True)]
    return stack([_draw_strips(strips, cell_width, max(12, cell_width // 15)) for strips in cases])


def _draw_row(rows: Sequence[ComparisonRow], cell_width: int, font_size: int) -> Image.Image:
    first = rows[0]
    pictures = [(stored_rgb(first.image), ""), (draw_overlay(first.image, first.truth), "")]
    pictures += [(draw_overlay(row.image, row.prediction), f"IoU {100 * row.iou:.1f} %") for row in rows]
    image, *others = (
        stack([fit(picture, cell_width), text_cell(note, cell_width, 2 * font_size, font_size)])
        for picture, note in pictures
    )
    sentence = text_cell(first.text, cell_width, max(image.height, 5 * font_size), font_size)
    return beside([image, sentence, *others])


def _draw_strips(strips: Mapping[str, ComparisonStrip], cell_width: int, font_size: int) -> Image.Image:
    first = next(iter(strips.values()))
    truths = [fit(draw_overlay(frame.image, frame.truth), cell_width) for frame in first.frames]
    height = max(max(truth.height for truth in truths), 4 * font_size)
    lines = [beside([text_cell(first.text, cell_width, height, font_size, note="the truth"), *truths])]
    for name, strip in strips.items():
        answers = [fit(draw_overlay(frame.image, frame.prediction), cell_width) for frame in strip.frames]
        lines.append(beside([text_cell(name, cell_width, height, font_size, note=strip.note), *answers]))
    return stack(lines)


def _require_some(systems: Mapping[str, Sequence[ComparisonRow] | Sequence[ComparisonStrip]]) -> None:
    counts = {len(rows) for rows in systems.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError("There is nothing to draw: give one sentence at least, and the same ones for each system.")
