"""What a trainer counts on the way: means of losses over steps, and pixels of masks."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from ..modeling.precision_refseg import at_least_float32


class ComponentMeans:
    """Running means of named scalars over samples, kept on their device so that no step waits for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.samples = 0

    def add(self, components: dict[str, Tensor], samples: int) -> None:
        """`components`: scalars, each a mean over `samples`."""
        for name, value in components.items():
            self.sums[name] = self.sums.get(name, 0) + at_least_float32(value.detach()) * samples
        self.samples += samples

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, which all have to call it; starts again from nothing."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        totals = accelerator.reduce(torch.cat([sums, sums.new_tensor([self.samples])]), "sum").tolist()
        self.sums, self.samples = {}, 0
        return {name: total / totals[-1] for name, total in zip(names, totals[:-1], strict=True)}


def count_pixels(predictions: Tensor, references: Tensor) -> Tensor:
    """Pixels of intersection and union, int64 (batch, 2), of boolean masks (batch, [frames,] height, width)."""
    both, either = predictions & references, predictions | references
    return torch.stack([both.flatten(1).sum(1), either.flatten(1).sum(1)], 1)
