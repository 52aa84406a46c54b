"""Batches whose pixels stay bytes on their way from worker processes to the device, which normalizes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import BatchFeature
from transformers.image_utils import ChannelDimension, SizeDict
from transformers.utils import TensorType

from ..modeling.image_processing_refseg import RefSegImageProcessor, size_when_resized
from ..modeling.picture_files_refseg import is_turned, upright_rgb
from ..modeling.processing_refseg import RefSegProcessor


class FittedExamples(Dataset):
    """Examples with images, frames and masks as large as the model sees them.

    A batch of whole photographs leaves the caches of a core before they are resized. The collator's processor finds
    nothing left to resize, and its batches stay the same.

    Args:
        examples: items have an "image" (PIL, RGB) and a "mask", or "frames" and "masks".
        image_processor: that of the model.
    """

    def __init__(self, examples: Any, image_processor: RefSegImageProcessor) -> None:
        self.examples, self.image_processor = examples, image_processor

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return fit_item(self.examples[index], self.image_processor)


class FittedReferents(FittedExamples):
    """The same of `DrawnExamples`, of which a part is drawn anew in each epoch, for training."""

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch, as a `DataLoader` asks for them."""
        return [fit_item(item, self.image_processor) for item in self.examples.read(indices)]

    def set_epoch(self, epoch: int) -> None:
        """Makes the items those of this epoch, in worker processes too."""
        self.examples.set_epoch(epoch)


class FittedStream(IterableDataset):
    """The same of examples that are streamed."""

    def __init__(self, examples: IterableDataset, image_processor: RefSegImageProcessor) -> None:
        self.examples, self.image_processor = examples, image_processor

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for item in self.examples:
            yield fit_item(item, self.image_processor)


def fit_item(item: dict[str, Any], image_processor: RefSegImageProcessor) -> dict[str, Any]:
    """An item as in `FittedExamples`."""
    fit, fit_mask = image_processor.fit, image_processor.fit_mask
    if "frames" in item:
        masks = [fit_mask(mask) for mask in item["masks"]]
        return {**item, "frames": [fit(frame) for frame in item["frames"]], "masks": np.stack(masks)}
    return {**item, "image": fit(item["image"]), "mask": fit_mask(item["mask"])}


class ByteImageProcessor(RefSegImageProcessor):
    """Leaves to `finish_batch` what takes longer than decoding, and makes four or eight bytes of each one.

    Images are PIL images.
    `pixel_values` are uint8, resized and padded alone, and `mask_labels` are int8. Where images are padded
    `image_sizes` (images, 2) tell their height and width without the padding.
    """

    def _preprocess_image_like_inputs(
        self,
        images: Any,
        segmentation_maps: Any,
        do_convert_rgb: bool,
        input_data_format: ChannelDimension,
        return_tensors: str | TensorType | None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if not _are_fitted(images, segmentation_maps, **kwargs):
            return super()._preprocess_image_like_inputs(
                images, segmentation_maps, do_convert_rgb, input_data_format, return_tensors, device, **kwargs
            )
        # Straight from the pictures into the batch: on the way of all images there would be four copies in between.
        pixels = np.empty((len(images), *segmentation_maps[0].shape, 3), dtype=np.uint8)
        for place, image in enumerate(images):
            pixels[place] = image
        masks = np.stack(segmentation_maps).view(np.int8)
        data = {"pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2), "mask_labels": torch.from_numpy(masks)}
        return BatchFeature(data=data, tensor_type=return_tensors)

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> Tensor:
        return torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1)

    def _preprocess(
        self, images: list[Tensor], size: SizeDict, do_pad: bool | None = None, **kwargs: Any
    ) -> BatchFeature:
        kwargs |= {"do_rescale": False, "do_normalize": False}
        batch = super()._preprocess(images, size=size, do_pad=do_pad, **kwargs)
        # The channels stay last in memory, as PIL has them: the device moves them in no time.
        pixels = torch.stack([image.permute(1, 2, 0) for image in batch["pixel_values"]]).permute(0, 3, 1, 2)
        batch["pixel_values"] = pixels
        if size.longest_edge or do_pad:
            sizes = [_size_before_padding(image.shape[-2], image.shape[-1], size, **kwargs) for image in images]
            batch["image_sizes"] = torch.tensor(sizes).unbind()
        return batch

    def _preprocess_masks(self, masks: list[Tensor], **kwargs: Any) -> list[Tensor]:
        return [mask.view(torch.int8) for mask in self._resize_masks(masks, **kwargs)]


def _are_fitted(
    images: Any, masks: Any, size: SizeDict, do_resize: bool, do_center_crop: bool, do_pad: bool, **kwargs: Any
) -> bool:
    """Whether these are pictures and masks of `FittedExamples`, which need no more than to be put together."""
    if not (isinstance(images, list) and isinstance(masks, list) and len(images) == len(masks) > 0):
        return False
    if not do_resize or do_center_crop or do_pad or size.longest_edge:
        return False
    shape = (size.height, size.width)
    return all(
        isinstance(image, Image.Image)
        and (image.mode, image.height, image.width) == ("RGB", *shape)
        and not is_turned(image)
        for image in images
    ) and all(isinstance(mask, np.ndarray) and (mask.dtype, mask.shape) == (np.bool_, shape) for mask in masks)


def keep_bytes(processor: RefSegProcessor) -> RefSegProcessor:
    """The processor with a `ByteImageProcessor`, for a collator; `finish_batch` makes its batches a model's.

    `processor` itself stays as it is; the tokenizer is the same one.
    """
    changed = copy.copy(processor)
    changed.image_processor = ByteImageProcessor.from_dict(processor.image_processor.to_dict())
    return changed


def finish_batch(batch: Mapping[str, Any], image_processor: RefSegImageProcessor) -> Mapping[str, Any]:
    """What the processor itself would have made, of a batch after `keep_bytes`; any other batch as it is.

    Args:
        batch: on any device, where it stays.
        image_processor: that of the processor itself.
    """
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
        return batch
    names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    normalized = image_processor.rescale_and_normalize(
        pixels.contiguous(), **{name: getattr(image_processor, name) for name in names}
    )
    finished = {**batch, "pixel_values": normalized, "mask_labels": batch["mask_labels"].long()}
    sizes = finished.pop("image_sizes", None)
    if sizes is not None:
        # Padding is zero after the normalization.
        normalized.masked_fill_(_is_padding(sizes, *pixels.shape[-2:]), 0)
    return finished


def _size_before_padding(
    height: int, width: int, size: SizeDict, do_resize: bool, do_center_crop: bool, crop_size: SizeDict, **kwargs: Any
) -> tuple[int, int]:
    if do_center_crop:
        return crop_size.height, crop_size.width
    return size_when_resized(height, width, size) if do_resize else (height, width)


def _is_padding(sizes: Tensor, height: int, width: int) -> Tensor:
    """Booleans (..., 1, height, width): what lies outside of images whose height and width are `sizes` (..., 2)."""
    below = torch.arange(height, device=sizes.device)[:, None] >= sizes[..., :1, None]
    beside = torch.arange(width, device=sizes.device) >= sizes[..., 1:, None]
    return (below | beside).unsqueeze(-3)
