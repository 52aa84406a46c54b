"""Copies of a model, which take a small part of the time that building it takes."""

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn


class _WithoutTensors(pickle.Pickler):
    """Writes numbers in the place of tensors, which `tensors` collects; one that is shared stays shared."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        if id(obj) not in self.numbers:
            self.numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self.numbers[id(obj)]


class _WithTensors(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self.tensors[pid]


class ModelAsBuilt:
    """A new model and the state of PyTorch's random numbers after it was built.

    Args:
        model (`nn.Module`): the model, which must not be changed any more.
    """

    def __init__(self, model: nn.Module) -> None:
        self.random_state = torch.get_rng_state()
        file = io.BytesIO()
        pickler = _WithoutTensors(file)
        pickler.dump(model)
        self.modules, self.tensors = file.getvalue(), pickler.tensors

    def copy(self) -> nn.Module:
        """The model once more; what is drawn next is what would be drawn had it been built."""
        torch.set_rng_state(self.random_state)
        return _WithTensors(io.BytesIO(self.modules), copy.deepcopy(self.tensors)).load()
