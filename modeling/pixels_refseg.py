"""Pixels in arrays and tensors: images and masks that are checked, and brought to 8 bits."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .pictures_refseg import load_picture
from .precision_refseg import at_least_float32

# The value of white in integers of 8, 12 or 16 bits, and in fractions.
INTEGER_LEVELS = (255, 4095, 65535)
FRACTION_LEVELS = (1, *INTEGER_LEVELS)
# So much of white, a quarter of a level of 8 bits, floats may lie beside black and white: an image that was normalized
# and brought back is rounded.
ROUNDING = 1e-3


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
    if isinstance(values, np.ndarray):
        is_target, is_wrong = values > 0, ~((values >= 0) & (values < math.inf))
    else:
        # Unsigned integers of more than 8 bits know no comparison but this one.
        is_target = values != 0
        is_wrong = ~((values >= 0) & (values < math.inf)) if values.dtype.is_signed else torch.tensor(False)
    if is_wrong.any():
        raise ValueError("A mask holds negative values, NaN or infinity: pass 0 for the background, 1 for the target.")
    return torch.as_tensor(is_target)


__all__ = ["as_8_bit", "as_mask", "as_pixels", "check_array"]
