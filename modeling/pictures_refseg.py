"""Pictures on their way in: files, URLs and arrays of every kind, checked and brought to RGB of 8 bits, and masks.

Whatever Pillow and its decoders stumble over is the fault of the picture, and says so.
"""

import base64
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers.image_transforms import to_channel_dimension_format
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from .messages_refseg import reason_of
from .precision_refseg import at_least_float32

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
    is_from_file = isinstance(image, ImageFile.ImageFile) and image.filename
    return os.fsdecode(image.filename) if is_from_file else "The image"


def check_array(values: np.ndarray | Tensor) -> None:
    """Raises ValueError for what is no image of numbers: (height, width), or 1, 3 or 4 channels in front or behind."""
    shape = tuple(values.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and not {shape[0], shape[2]} & {1, 3, 4}):
        raise ValueError(
            f"An array of shape {shape} is no image: pass (height, width), or 1, 3 or 4 channels in front or behind."
        )
    if 0 in shape:
        raise ValueError(f"An image of shape {shape} has no pixel: pass one with a height and a width.")
    _check_numbers(values)


def _check_numbers(values: np.ndarray | Tensor) -> None:
    """Raises ValueError for an array or tensor that holds something else than real numbers at hand."""
    if isinstance(values, np.ndarray):
        is_right = values.dtype.kind in "buif"
    else:
        is_right = values.layout is torch.strided and not (
            values.is_meta or values.is_quantized or values.dtype.is_complex
        )
    if not is_right:
        raise ValueError(
            f"An image or mask holds real numbers, not {values.dtype} "
            f"({'a tensor on ' + str(values.device) if isinstance(values, Tensor) else 'an array'})."
        )


def _white_level(lowest: float, largest: float, levels: tuple[int, ...]) -> float:
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
    white = _white_level(values.min().item(), values.max().item(), INTEGER_LEVELS if is_whole else FRACTION_LEVELS)
    scaled = values.astype(np.float64).clip(0, white) * 255 / white
    return (scaled if is_whole else np.rint(scaled)).astype(np.uint8)


def as_pixels(values: np.ndarray | Tensor, do_rescale: bool) -> Tensor:
    """An image in an array or tensor as a tensor of the same shape, uint8 or fractions.

    With `do_rescale` fractions are scaled to 0 ... 255, and keep their gradient; without it they stay as they are.
    """
    check_array(values)
    if isinstance(values, np.ndarray):
        is_fraction = values.dtype.kind == "f"
        # Neither another order of bytes nor a negative stride, as of `image[..., ::-1]`, is known to tensors.
        values = values.astype(values.dtype.newbyteorder("=")) if is_fraction else as_8_bit(values)
        values = torch.from_numpy(values)
    elif not values.is_floating_point() and values.dtype != torch.uint8:
        values = torch.from_numpy(as_8_bit(values.cpu().numpy())).to(values.device)
    if not values.is_floating_point():
        return values
    numbers = at_least_float32(values)
    lowest, largest = numbers.min().item(), numbers.max().item()
    if do_rescale:
        white = _white_level(lowest, largest, FRACTION_LEVELS)
        return numbers.clamp(0, white) * (255 / white)
    if not (math.isfinite(lowest) and math.isfinite(largest)):
        raise ValueError(f"An image has values from {lowest:g} to {largest:g}: pass finite ones.")
    return values


def as_mask(mask: Any) -> Tensor:
    """A mask (height, width) as a boolean tensor.

    Raises:
        TypeError: no PIL image, array or tensor.
        ValueError: another shape or several channels, or a value that is negative or not finite.
    """
    if not isinstance(mask, Image.Image | np.ndarray | Tensor):
        raise TypeError(f"A mask is a PIL image, an array or a tensor, not {type(mask).__name__}.")
    values = np.asarray(load_picture(mask)) if isinstance(mask, Image.Image) else mask
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"A mask of shape {tuple(values.shape)} is no mask: pass (height, width), one channel.")
    _check_numbers(values)
    # Whatever booleans say is a mask.
    if values.dtype in (np.bool_, torch.bool):
        return torch.as_tensor(values)
    if isinstance(values, np.ndarray):
        is_target, is_wrong = values > 0, ~((values >= 0) & (values < math.inf))
    else:
        # Unsigned integers of more than 8 bits know no comparison but this one.
        is_target = values != 0
        is_wrong = ~((values >= 0) & (values < math.inf)) if values.dtype.is_signed else torch.tensor(False)
    if is_wrong.any():
        raise ValueError("A mask holds negative values, NaN or infinity: pass 0 for the background, 1 for the target.")
    return torch.as_tensor(is_target)


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
    return _decode(path, str(path))


def read_image(source: str | PathLike[str] | Image.Image | np.ndarray | Tensor) -> Image.Image:
    """A picture from wherever it comes, as an upright RGB image.

    Args:
        source: a path, a URL (http or https), an image file in base64 (also as `data:image/...`), a PIL image of any
            mode, or an array or tensor (height, width), or with 1, 3 or 4 channels in front or behind, of values that
            `as_8_bit` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the URL cannot be downloaded.
        ValueError: a damaged or too large image, one without pixels, or an array of another shape or of other values.
        TypeError: anything else.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(source)
    if not isinstance(source, str | PathLike):
        kind = type(source).__name__
        raise TypeError(f"An image is a path, a URL, a PIL image, an array or a tensor, not {kind}.")
    name = os.fspath(source)
    if name.startswith(("http://", "https://")):
        return _decode(BytesIO(_download(name)), name)
    if os.path.isfile(name):
        return open_image(Path(name))
    try:
        file = BytesIO(base64.decodebytes(name.removeprefix("data:image/").rpartition("base64,")[2].encode()))
        return _decode(file, "The image in base64")
    except ValueError as error:
        raise FileNotFoundError(
            f"{reason_of(name[:100])}: there is no such image file, and it is no URL and no image in base64."
        ) from error


def _download(url: str) -> bytes:
    # Some servers refuse the name that Python gives itself.
    request = Request(url, headers={"User-Agent": "Mozilla/5.0 (compatible; hf_refseg)"})
    try:
        with urlopen(request, timeout=30) as response:
            return response.read()
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} cannot be downloaded: {error}") from error


def _decode(file: Path | BinaryIO, name: str) -> Image.Image:
    with naming_picture(name), open_picture(file) as image:
        return decode_rgb(ImageOps.exif_transpose(image))


def _from_array(values: np.ndarray | Tensor) -> Image.Image:
    check_array(values)
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    if values.ndim == 2:
        values = values[None]
    channels = infer_channel_dimension_format(values, num_channels=(1, 3, 4))
    pixels = as_8_bit(to_channel_dimension_format(values, ChannelDimension.LAST, channels))
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")


__all__ = [
    "LargePictureError",
    "PictureError",
    "as_8_bit",
    "as_mask",
    "as_pixels",
    "check_array",
    "decode_rgb",
    "is_turned",
    "load_picture",
    "naming_picture",
    "open_image",
    "open_picture",
    "picture_faults",
    "picture_name",
    "read_image",
    "stored_rgb",
    "upright_rgb",
]
