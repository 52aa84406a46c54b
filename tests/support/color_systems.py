"""Systems that find a color of the text in a picture, and count how often they are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from hf_refseg.evaluation.systems import Answer, System

CHANNELS = ("red", "green", "blue")
SAYS = {"no": False, "surely": True}
# Left, top, right and bottom, all inside.
RED_SQUARE, BLUE_SQUARE = (20, 20, 79, 79), (120, 40, 179, 99)
SIZE = (200, 120)


class ColorSystem(System):
    """The brightness of the color that a text names is the probability; of "no ..." it says that it is not there, of
    "surely ..." that it is.
    """

    name = "colors"

    def __init__(self) -> None:
        self.calls = 0

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        self.calls += 1
        pixels = np.asarray(image, dtype=np.float32) / 255
        for text in texts:
            (channel,) = (number for number, name in enumerate(CHANNELS) if name in text)
            yield Answer(probabilities=pixels[..., channel], present=SAYS.get(text.split()[0]))


class ColorMaskSystem(ColorSystem):
    """The same, as masks."""

    name = "color masks"
    gives_masks = True

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return (Answer(mask=answer.probabilities > 0.5) for answer in super().segment(image, texts))


def two_squares() -> Image.Image:
    """A bright red square on the left and a dim blue one on the right of a dark picture."""
    picture = Image.new("RGB", SIZE, (20, 20, 20))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(RED_SQUARE, fill=(230, 10, 10))
    draw.rectangle(BLUE_SQUARE, fill=(10, 10, 150))
    return picture


def square_mask(corners: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels of a square, bool (height, width)."""
    mask = np.zeros(SIZE[::-1], dtype=bool)
    left, top, right, bottom = corners
    mask[top : bottom + 1, left : right + 1] = True
    return mask
