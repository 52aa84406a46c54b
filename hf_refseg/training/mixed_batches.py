"""Images and clips in one training: both sets of examples as one, in batches of one kind each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ..data.byte_batches import FittedReferents
from ..data.clips import ClipExamples, FrameExamples
from ..data.examples import ReferentExamples


class MixedExamples(Dataset):
    """For joint training (section 3.3 of LAVT's journal version): first all images, then all clips, as one data set.

    Args:
        images: referents of images.
        clips: referents of videos, as clips or, for an image method, as single frames.
        image_share: how much of the steps of an epoch see images, in (0, 1); the others see clips.

    Raises:
        ValueError: a share out of range.
    """

    def __init__(
        self,
        images: ReferentExamples | FittedReferents,
        clips: ClipExamples | FrameExamples | FittedReferents,
        image_share: float = 0.5,
    ) -> None:
        if not 0 < image_share < 1:
            raise ValueError(f"image_share has to lie between 0 and 1, exclusive of both, got {image_share}.")
        self.images = images
        self.clips = clips
        self.image_share = image_share

    def set_epoch(self, epoch: int) -> None:
        """Makes the items those of this epoch, in worker processes too."""
        self.images.set_epoch(epoch)
        self.clips.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images) + len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        number_of_images = len(self.images)
        return self.images[index] if index < number_of_images else self.clips[index - number_of_images]


@dataclass(frozen=True)
class MixedCollator:
    """Makes a batch of items that are all images, or all clips."""

    images: Callable[[list], Any]
    clips: Callable[[list], Any]

    def __call__(self, items: Iterable[dict[str, Any]]) -> Any:
        items = list(items)
        return self.clips(items) if "frames" in items[0] else self.images(items)


class MixedSampler(Sampler[int]):
    """An order of the items of `MixedExamples` in which each step sees images alone or clips alone.

    An epoch shows each clip once, in whole batches; so many batches of images come in between that they are
    `image_share` of all (one at least). The images go on from epoch to epoch: none comes again before all have come.
    The order depends on seed and epoch alone. As a batch is that of a whole step, however many processes and
    accumulation steps share it, all of them see the same kind at a time.

    Args:
        examples: what is ordered.
        batch_size: items per step, over all processes and accumulation steps.
        seed: any integer.

    Raises:
        ValueError: fewer clips or images than one batch.
    """

    def __init__(self, examples: MixedExamples, batch_size: int, seed: int) -> None:
        self.number_of_images, self.number_of_clips = len(examples.images), len(examples.clips)
        for kind, number in (("images", self.number_of_images), ("videos", self.number_of_clips)):
            if number < batch_size:
                raise ValueError(
                    f"The training data has {number} referents of {kind}, fewer than one batch of {batch_size}: lower "
                    "per_device_train_batch_size, or total_train_batch_size."
                )
        share = examples.image_share
        self.batch_size = batch_size
        self.clip_batches = self.number_of_clips // batch_size
        self.image_batches = max(1, round(self.clip_batches * share / (1 - share)))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return (self.image_batches + self.clip_batches) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        images, clips = self._images(), self._clips()
        shows_images = [True] * self.image_batches + [False] * self.clip_batches
        random.Random(f"{self.seed}-{self.epoch}-kinds").shuffle(shows_images)
        for is_image_batch in shows_images:
            source = images if is_image_batch else clips
            for _ in range(self.batch_size):
                yield next(source)

    def _images(self) -> Iterator[int]:
        """The images from where the epoch before ended, pass after pass."""
        seen_before = self.epoch * self.image_batches * self.batch_size
        passed, first = divmod(seen_before, self.number_of_images)
        while True:
            yield from self._shuffled(self.number_of_images, f"images-{passed}")[first:]
            passed, first = passed + 1, 0

    def _clips(self) -> Iterator[int]:
        order = self._shuffled(self.number_of_clips, f"clips-{self.epoch}")
        return (self.number_of_images + index for index in order)

    def _shuffled(self, length: int, name: str) -> list[int]:
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed}-{name}").getrandbits(63))
        return torch.randperm(length, generator=generator).tolist()
