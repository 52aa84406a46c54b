"""Pictures from files: opened, checked and brought to RGB of 8 bits, without torch.

Whatever Pillow and its decoders stumble over is the fault of the picture, and says so.
"""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from .messages_refseg import reason_of

# The value of white in integers of 8, 12 or 16 bits, and in fractions.
INTEGER_LEVELS = (255, 4095, 65535)
FRACTION_LEVELS = (1, *INTEGER_LEVELS)
# So much of white, a quarter of a level of 8 bits, floats may lie beside black and white: an image that was normalized
# and brought back is rounded.
ROUNDING = 1e-3


class PictureError(ValueError):
    """What a picture is that cannot be read, such as "damaged or no image (...)"."""


class LargePictureError(PictureError):
    """A picture has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`."""


def open_picture(file: Path | BinaryIO) -> Image.Image:
    """As `PIL.Image.open`, for every format but EPS, a program that Pillow would have Ghostscript run."""
    # Common formats are tried first, as Pillow does, those of its plugins after them.
    Image.preinit()
    Image.init()
    return Image.open(file, formats=[name for name in Image.ID if name != "EPS"])


@contextmanager
def picture_faults() -> Iterator[None]:
    """A context that opens and decodes a picture.

    Raises:
        FileNotFoundError: there is no such file.
        LargePictureError: it has too many pixels.
        PictureError: it is damaged or no picture.
    """
    try:
        with warnings.catch_warnings():
            # Of what is up to twice as large Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (FileNotFoundError, PictureError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LargePictureError(f"too large to open: {reason_of(error).rstrip('.')}") from error
    except UnidentifiedImageError as error:
        # Of what is no file its own message says a place in memory.
        raise PictureError("damaged or no image (it is in no known format)") from error
    except Exception as error:
        # On damaged data decoders raise errors of any class, each its own.
        raise PictureError(f"damaged or no image ({reason_of(error)})") from error


@contextmanager
def naming_picture(name: str) -> Iterator[None]:
    """As `picture_faults`, with errors that say `name` and what to do."""
    try:
        with picture_faults():
            yield
    except LargePictureError as error:
        raise ValueError(f"{name} is {error}. Scale it down first.") from error
    except PictureError as error:
        raise ValueError(f"{name} is {error}. Replace it with the complete file.") from error


def load_picture(image: Image.Image) -> Image.Image:
    """The image, decoded where it was only opened; raises ValueError, naming its file, where that is damaged."""
    with naming_picture(picture_name(image)):
        image.load()
    return image


def picture_name(image: Image.Image) -> str:
    """The name of the file that an image was opened from and may still be read from."""
    if isinstance(image, ImageFile.ImageFile) and image.filename:
        return os.fsdecode(image.filename)
    return "The image"


def white_level(lowest: float, largest: float, levels: tuple[int, ...]) -> float:
    """The value of white: the smallest level that holds the largest value, or, beyond all of them, this value.

    Values may lie by `ROUNDING` beside black and white, where 1 is a level.

    Raises:
        ValueError: negative values, NaN or infinity, or a largest value between 1 and 2, where 1 is a level.
    """
    rounding = ROUNDING if 1 in levels else 0
    white = next((level for level in levels if largest <= level * (1 + rounding)), largest)
    if not (lowest >= -rounding * white and largest < math.inf):
        raise ValueError(
            f"An image has values from {lowest:g} to {largest:g}: pass levels from 0 to 255, or fractions of white "
            "from 0 to 1, before they are normalized (or pass what is ready with do_rescale=False)."
        )
    # So dark is no picture of 8 bits: these are fractions that overshoot, as those that were resized do.
    if 1 in levels and white != 1 and largest < 2:
        raise ValueError(
            f"An image has values from {lowest:g} to {largest:g}, neither fractions of white nor levels from 0 to "
            "255: cut fractions off at 1."
        )
    return white


def as_8_bit(values: np.ndarray) -> np.ndarray:
    """Gray values or colors of any type as uint8, of the same shape.

    They are scaled by the smallest range that holds them, so that data of 12 bits in files of 16 bits are not black:
    that of 8, 12 or 16 bits, 0 ... 1 as well where they are no integers, or, beyond all of these, up to the largest
    value.

    Raises:
        ValueError: negative values, NaN or infinity, or, of no integers, a largest value between 1 and 2.
    """
    if values.dtype == np.uint8 or not values.size:
        return values.astype(np.uint8)
    is_whole = values.dtype.kind in "iu"
    white = white_level(values.min().item(), values.max().item(), INTEGER_LEVELS if is_whole else FRACTION_LEVELS)
    scaled = values.astype(np.float64).clip(0, white) * 255 / white
    return (scaled if is_whole else np.rint(scaled)).astype(np.uint8)


def fit_longest_edge(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    """Height and width in pixels of an image whose longer side becomes `longest_edge`; rounded as SAM rounds."""
    scale = longest_edge / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def stored_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as a new one in RGB, in the orientation in which its pixels are stored.

    Raises:
        ValueError: it has no pixel, or values that are no picture; or it was opened, but not decoded yet, and its file
            is damaged, which is named.
    """
    return decode_rgb(load_picture(image).copy())


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as RGB, turned the way its EXIF orientation says; itself where there is nothing to do.

    Raises as `stored_rgb`.
    """
    with naming_picture(picture_name(image)):
        image.load()
        if is_turned(image):
            image = ImageOps.exif_transpose(image)
    return decode_rgb(image)


def is_turned(image: Image.Image) -> bool:
    """Whether the EXIF orientation says that an image is to be turned or mirrored."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def decode_rgb(image: Image.Image) -> Image.Image:
    """As `stored_rgb`, but raises what the decoder does, for use inside of `picture_faults`; RGB stays as it is."""
    if not all(image.size):
        raise ValueError(f"An image of {image.width} x {image.height} pixels is empty: pass one with a pixel.")
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(as_8_bit(np.asarray(image)))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(path: Path) -> Image.Image:
    """A photograph as RGB, upright.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or too large; the file is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such image file.")
    return decode_upright(path, str(path))


def decode_upright(file: Path | BinaryIO, name: str) -> Image.Image:
    """The photograph in a file as RGB, upright; raises ValueError as `naming_picture`, with this name."""
    with naming_picture(name), open_picture(file) as image:
        return decode_rgb(ImageOps.exif_transpose(image))


__all__ = [
    "FRACTION_LEVELS",
    "LargePictureError",
    "PictureError",
    "as_8_bit",
    "decode_rgb",
    "decode_upright",
    "fit_longest_edge",
    "is_turned",
    "load_picture",
    "naming_picture",
    "open_image",
    "open_picture",
    "picture_faults",
    "picture_name",
    "stored_rgb",
    "upright_rgb",
    "white_level",
]
