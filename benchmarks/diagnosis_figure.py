"""Draws runs that `hf-refseg train RECIPE --diagnose` measured beside each other, from their diagnosis.json.

    hf-refseg train m3att_refshapes --diagnose --output_dir runs/silent \\
        --config '{"mask_prior": null, "dice_loss_weight": 0}'
    hf-refseg train m3att_refshapes --diagnose --output_dir runs/prior \\
        --config '{"mask_prior": 0.04, "dice_loss_weight": 0}'
    python benchmarks/diagnosis_figure.py "no mask_prior=runs/silent" "mask_prior 0.04=runs/prior"

On the left the norm of the gradient in each step and the limit of clipping; on the right the foreground probability
on targets and elsewhere, before and after, with the share of foreground in the labels.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from hf_refseg.files import write_picture
from hf_refseg.visualization.layout import BACKGROUND, TEXT_COLOR, default_font, side_by_side, stack

WIDTH, HEIGHT, LEFT, MARGIN, FONT = 400, 250, 46, 14, 13
GRID, LIMIT = (225, 225, 225), (120, 120, 120)
TARGET, ELSEWHERE, LABELS = (20, 60, 120), (150, 190, 235), (200, 90, 40)
COLORS = ((200, 90, 40), (20, 60, 120), (60, 140, 70))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="at most three runs, as they are to be called")
    parser.add_argument("--output", type=Path, default=Path("diagnosis.png"))
    return parser.parse_args()


def place(value: float, lowest: float, highest: float) -> int:
    """The row of a pixel on a logarithmic axis."""
    share = (math.log(max(value, lowest)) - math.log(lowest)) / (math.log(highest) - math.log(lowest))
    return round(HEIGHT - 2 * MARGIN - share * (HEIGHT - 4 * MARGIN))


def panel(title: str, ticks: Sequence[float]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty panel with a logarithmic axis from the first to the last tick."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((LEFT, 4), title, fill=TEXT_COLOR, font=default_font(FONT))
    for tick in ticks:
        row = place(tick, ticks[0], ticks[-1])
        draw.line([(LEFT, row), (WIDTH - MARGIN, row)], fill=GRID)
        draw.text((4, row - FONT // 2 - 2), f"{tick:g}", fill=TEXT_COLOR, font=default_font(FONT))
    return picture, draw


def draw_norms(runs: dict[str, dict]) -> Image.Image:
    """The norm of the gradient before clipping in each step, and where it is clipped."""
    norms = [norm for run in runs.values() for norm in run["gradient_norms"]]
    limits = {run["max_grad_norm"] for run in runs.values()} - {0}
    ticks = [each for power in range(-4, 5) for each in (10.0**power, 3 * 10.0**power)]
    low = max(each for each in ticks if each <= min([*norms, *limits]))
    high = min(each for each in ticks if each >= max([*norms, *limits]))
    ticks = [each for each in ticks if low <= each <= high]
    picture, draw = panel("norm of the gradient, by step", ticks)
    for limit in limits:
        row = place(limit, low, high)
        draw.line([(LEFT, row), (WIDTH - MARGIN, row)], fill=LIMIT, width=2)
        draw.text((LEFT + 4, row + 2), f"max_grad_norm {limit:g}", fill=LIMIT, font=default_font(FONT))
    for (name, run), color in zip(runs.items(), COLORS, strict=False):
        steps = len(run["gradient_norms"])
        across = (WIDTH - LEFT - MARGIN) / max(1, steps - 1)
        line = [(LEFT + index * across, place(norm, low, high)) for index, norm in enumerate(run["gradient_norms"])]
        draw.line(line, fill=color, width=2)
        draw.text((WIDTH // 2, line[-1][1] + 10), name, fill=color, font=default_font(FONT))
    draw.text((LEFT, HEIGHT - 2 * MARGIN + 4), "1", fill=TEXT_COLOR, font=default_font(FONT))
    draw.text((WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN + 4), str(steps), fill=TEXT_COLOR, font=default_font(FONT))
    return picture


def draw_probabilities(runs: dict[str, dict]) -> Image.Image:
    """Bars of the foreground probability on targets and elsewhere, before and after, of each run."""
    low, high = 0.01, 1.0
    picture, draw = panel("foreground probability", [0.01, 0.03, 0.1, 0.3, 1.0])
    measured = [(name, each) for name, run in runs.items() for each in run["measurements"]]
    across = (WIDTH - LEFT - MARGIN) // len(measured)
    ground = place(low, low, high)
    for index, (name, each) in enumerate(measured):
        left = LEFT + index * across + 8
        for offset, (key, color) in enumerate((("on_target", TARGET), ("elsewhere", ELSEWHERE))):
            edge = left + offset * (across // 3)
            top = place(each["foreground"][key], low, high)
            draw.rectangle([edge, top, edge + across // 3 - 2, ground], fill=color)
        draw.text((left, ground + 3), f"step {each['step']}", fill=TEXT_COLOR, font=default_font(FONT))
        if index == 0 or measured[index - 1][0] != name:
            draw.text((left, MARGIN + 8), name, fill=TEXT_COLOR, font=default_font(FONT))
    row = place(measured[0][1]["foreground"]["labeled"], low, high)
    draw.line([(LEFT, row), (WIDTH - MARGIN, row)], fill=LABELS, width=2)
    return picture


def draw_legend() -> Image.Image:
    picture = Image.new("RGB", (2 * WIDTH, 24), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left = WIDTH - LEFT
    for color, text in ((TARGET, "on targets"), (ELSEWHERE, "elsewhere"), (LABELS, "share of foreground in labels")):
        draw.rectangle([left, 6, left + 10, 16], fill=color)
        draw.text((left + 15, 3), text, fill=TEXT_COLOR, font=default_font(FONT))
        left += 30 + round(default_font(FONT).getlength(text))
    return picture


def main() -> None:
    arguments = parse_arguments()
    runs = {}
    for given in arguments.runs:
        name, _, folder = given.partition("=")
        runs[name] = json.loads((Path(folder) / "diagnosis.json").read_text(encoding="utf-8"))
    panels = side_by_side([draw_norms(runs), draw_probabilities(runs)])
    write_picture(arguments.output, stack([panels, draw_legend()]).quantize(64))


if __name__ == "__main__":
    main()
