"""Draws what the protocols do differently, for docs/protocols.md; the numbers are theirs, on drawn masks.

python benchmarks/protocol_pictures.py --output docs/pictures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_refseg import evaluate_masks
from hf_refseg.files import write_picture
from hf_refseg.visualization.layout import BACKGROUND, beside, stack, text_cell

HEIGHT, WIDTH, SCALE, FONT = 120, 160, 1.4, 15
# What both masks have, the true one alone, and the predicted one alone.
BOTH, MISSED, WRONG, NEITHER = (70, 150, 80), (60, 100, 200), (220, 120, 60), (222, 222, 222)
Mask = NDArray[np.bool_]


def ellipse(x: float, y: float, across: float, down: float) -> NDArray[np.float64]:
    """How far each pixel is inside of an ellipse: 1 in its middle, 0 at its outline, negative beyond."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return 1 - np.hypot((columns - x) / across, (rows - y) / down)


def compared(prediction: Mask, truth: Mask) -> Image.Image:
    """Both masks in colors."""
    colors = np.full((*truth.shape, 3), NEITHER, dtype=np.uint8)
    colors[truth & prediction], colors[truth & ~prediction], colors[~truth & prediction] = BOTH, MISSED, WRONG
    size = int(WIDTH * SCALE), int(HEIGHT * SCALE)
    return Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)


def titled(picture: Image.Image, *lines: str) -> Image.Image:
    """A picture with lines below it."""
    texts = [text_cell(line, picture.width, FONT + 8, FONT) for line in lines]
    return stack([picture, *texts])


def iou(prediction: Mask, truth: Mask, protocol: str) -> float:
    return evaluate_masks([prediction], [truth], protocol)[
        {"rela": "gIoU", "phrasecut": "mean-IoU"}.get(protocol, "mIoU")
    ]


def thresholds() -> Image.Image:
    """The same probabilities at both thresholds."""
    truth, inside = ellipse(80, 60, 52, 38) > 0, ellipse(84, 61, 50, 38)
    probabilities = np.clip(0.42 + 0.6 * inside, 0, 1)
    pictures = []
    for protocol, threshold in (("original", 0.5), ("vlt", 0.35)):
        mask = probabilities > threshold
        title = f"{protocol}: probability > {threshold}"
        pictures.append(titled(compared(mask, truth), title, f"IoU {iou(mask, truth, protocol):.1f} %"))
    return row(pictures)


def sizes() -> Image.Image:
    """The same answer, compared at the image's own size, and at the one that a model sees."""
    truth, mask = ellipse(80, 60, 52, 7) > 0, ellipse(82, 63, 50, 7) > 0
    pictures = [
        titled(compared(mask, truth), "original: at the image's own size", f"IoU {iou(mask, truth, 'original'):.1f} %")
    ]
    small = [np.asarray(Image.fromarray(each).resize((24, 24), Image.Resampling.NEAREST)) for each in (mask, truth)]
    score = iou(small[0], small[1], "lavt")
    pictures.append(titled(compared(*small), "lavt: at the model's size", f"IoU {score:.1f} %"))
    return row(pictures)


def empty() -> Image.Image:
    """A sentence that means nothing in the image, answered rightly and wrongly."""
    nothing = np.zeros((HEIGHT, WIDTH), dtype=bool)
    pictures = []
    for title, mask in (
        ("nothing there, nothing found", nothing),
        ("nothing there, something found", ellipse(80, 60, 30, 20) > 0),
    ):
        found = {
            name: round(iou(mask, nothing, name)) for name in ("original", "lavt", "vlt", "cris", "phrasecut", "rela")
        }
        groups = {
            score: [name for name, each in found.items() if each == score] for score in sorted({*found.values()})
        }
        pictures.append(
            titled(
                compared(mask, nothing),
                title,
                *(
                    f"IoU {score} %: {', '.join(names) if len(groups) > 1 else 'all'}"
                    for score, names in groups.items()
                ),
            )
        )
    return row(pictures)


def means() -> Image.Image:
    """A large target found well and a small one found badly: which of both a mean is about."""
    large, small = ellipse(80, 60, 66, 50) > 0, ellipse(40, 60, 14, 10) > 0
    answers = [ellipse(84, 60, 66, 50) > 0, ellipse(52, 64, 14, 10) > 0]
    scores = evaluate_masks(answers, [large, small], "original")
    pictures = [
        titled(compared(mask, truth), name, f"IoU {iou(mask, truth, 'original'):.1f} %")
        for name, mask, truth in zip(("a large target", "a small one"), answers, (large, small), strict=True)
    ]
    text = (
        f"oIoU of both {scores['oIoU']:.1f} %: all pixels in one fraction. mIoU {scores['mIoU']:.1f} %: each sentence "
        "counts alike."
    )
    return row([*pictures, text_cell(text, 190, pictures[0].height, FONT)])


def row(cells: Sequence[Image.Image]) -> Image.Image:
    height = max(cell.height for cell in cells)
    padded = [Image.new("RGB", (cell.width, height), BACKGROUND) for cell in cells]
    for target, cell in zip(padded, cells, strict=True):
        target.paste(cell)
    return beside(padded, gap=14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs", "pictures"))
    output = parser.parse_args().output
    for draw in (thresholds, sizes, empty, means):
        write_picture(output / f"protocol_{draw.__name__}.png", draw())


if __name__ == "__main__":
    main()
