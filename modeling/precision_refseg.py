"""The format in which losses, and whatever half precision is too coarse for, are computed."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision, integers and booleans as float32; float64 as it is, which no loss may round."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
