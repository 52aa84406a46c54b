"""Finds operations in which float64 meets a shorter format: their results are rounded, or made of rounded numbers."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RoundedOperations(TorchDispatchMode):
    """While it is active, `names` gains the name of each such operation, those of the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, arguments: tuple = (), keywords: dict | None = None) -> Any:
        result = operation(*arguments, **(keywords or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, torch.Tensor)]
        formats = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        if torch.float64 in formats and len(formats) > 1:
            self.names.append(str(operation))
        return result
