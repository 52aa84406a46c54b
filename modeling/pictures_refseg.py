"""Pictures on their way in: paths, URLs, arrays and tensors of every kind as RGB images or pixels, and masks."""

import base64
import math
import os
from functools import lru_cache
from http.client import HTTPException
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_transforms import to_channel_dimension_format
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from .messages_refseg import reason_of
from .picture_files_refseg import (
    FRACTION_LEVELS,
    as_8_bit,
    decode_upright,
    load_picture,
    open_image,
    upright_rgb,
    white_level,
)
from .precision_refseg import at_least_float32


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
        white = white_level(lowest, largest, FRACTION_LEVELS)
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
        return decode_upright(BytesIO(_download(name)), name)
    if os.path.isfile(name):
        return open_image(Path(name))
    try:
        file = BytesIO(base64.decodebytes(name.removeprefix("data:image/").rpartition("base64,")[2].encode()))
        return decode_upright(file, "The image in base64")
    except ValueError as error:
        raise FileNotFoundError(
            f"{reason_of(name[:100])}: there is no such image file, and it is no URL and no image in base64."
        ) from error


def fetch_picture(image: Any) -> Image.Image | np.ndarray | Tensor:
    """A PIL image, array or tensor as it is; what else `read_image` reads, by it."""
    return image if isinstance(image, Image.Image | np.ndarray | Tensor) else read_image(image)


def _download(url: str) -> bytes:
    # Some servers refuse the name that Python gives itself.
    request = Request(url, headers={"User-Agent": "Mozilla/5.0 (compatible; hf_refseg)"})
    try:
        with urlopen(request, timeout=30) as response:
            return response.read()
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} cannot be downloaded: {error}") from error


def _from_array(values: np.ndarray | Tensor) -> Image.Image:
    check_array(values)
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    if values.ndim == 2:
        values = values[None]
    channels = infer_channel_dimension_format(values, num_channels=(1, 3, 4))
    pixels = as_8_bit(to_channel_dimension_format(values, ChannelDimension.LAST, channels))
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")


def take_nearest(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """As interpolation by "nearest-exact" of bytes (..., rows, columns): the same pixels, in a third of the time.

    Masks that are of this size already are returned themselves.
    """
    # Of whole lines, which lie side by side: masks out of run lengths come column by column.
    for axis, wanted in ((-1, width), (-2, height)):
        if masks.shape[axis] != wanted:
            lines = np.ascontiguousarray(masks.swapaxes(axis, -2))
            masks = lines.take(_nearest(masks.shape[axis], wanted), axis=-2).swapaxes(axis, -2)
    return masks


@lru_cache(maxsize=256)
def _nearest(side: int, wanted: int) -> np.ndarray:
    """For each of `wanted` pixels the number of the one of `side` that its center lies in."""
    numbers = torch.arange(side, dtype=torch.float32)[None, None]
    return torch.nn.functional.interpolate(numbers, wanted, mode="nearest-exact")[0, 0].long().numpy()


__all__ = ["as_mask", "as_pixels", "check_array", "fetch_picture", "read_image", "take_nearest"]
