"""Picture files: whatever Pillow and its decoders stumble over is the fault of the picture, and says so."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

from .saved_files_refseg import one_line


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
        raise LargePictureError(f"too large to open: {one_line(error).rstrip('.')}") from error
    except Exception as error:
        # On damaged data decoders raise errors of any class, each its own.
        raise PictureError(f"damaged or no image ({one_line(error)})") from error


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
    is_from_file = isinstance(image, ImageFile.ImageFile) and image.filename
    return os.fsdecode(image.filename) if is_from_file else "The image"


__all__ = [
    "LargePictureError",
    "PictureError",
    "load_picture",
    "naming_picture",
    "open_picture",
    "picture_faults",
    "picture_name",
]
