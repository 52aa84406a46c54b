"""The order of referents in training."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A random order of all indices per epoch that depends on seed and epoch alone, cut to whole batches.

    Args:
        length: number of items.
        batch_size: items per step, over all processes and accumulation steps.
        seed: any integer.

    Raises:
        ValueError: fewer items than one batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        if length < batch_size:
            raise ValueError(
                f"The training data has {length} referents, fewer than one batch of {batch_size}: lower "
                "per_device_train_batch_size, or total_train_batch_size."
            )
        self.length = length
        self.used = length // batch_size * batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.used

    def __iter__(self) -> Iterator[int]:
        drawn = random.Random(f"{self.seed}-{self.epoch}").getrandbits(63)
        generator = torch.Generator().manual_seed(drawn)
        yield from torch.randperm(self.length, generator=generator)[: self.used].tolist()
