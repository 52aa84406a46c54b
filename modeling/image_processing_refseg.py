"""Images and masks on their way into a model, and logits on their way back to masks at the image's own size."""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvF
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import ModelOutput, TensorType, logging

from .inference_refseg import as_probability, find_masks
from .messages_refseg import nearest_names
from .modeling_outputs_refseg import ReferringSegmentationOutput
from .picture_files_refseg import fit_longest_edge, load_picture, upright_rgb
from .pictures_refseg import as_mask, as_pixels, fetch_picture, take_nearest

logger = logging.get_logger(__name__)

# The longest side that images are resized to; no model comes near it, but a typing error would fill the memory.
MAX_SIDE = 2**14

# Options that are finite numbers: how many, which ones, and the same in words.
NUMBERS = {
    "image_mean": ((1, 3, 4), math.isfinite, "a number, or one for each color"),
    "image_std": ((1, 3, 4), lambda number: number > 0, "a number larger than 0, or one for each color"),
    "rescale_factor": ((1,), bool, "a number other than 0"),
}

# What transformers saves in the file of an image processor beside its options.
SAVED_BY_TRANSFORMERS = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")


# To mypy, which does not read transformers, it is no TypedDict.
class RefSegImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    mask_threshold (`float`, *optional*, defaults to 0.5):
        Foreground probability above which a pixel belongs to the mask.
    """

    mask_threshold: float


class RefSegImageProcessor(TorchvisionBackend):
    """Resizes images and normalizes them; masks are resized to match.

    `size` is `{"height": H, "width": W}`, to which images are resized without keeping their aspect ratio, or
    `{"longest_edge": N}`, which keeps it: the longer side becomes N, and zeros fill right and bottom to N by N, after
    the normalization and as background in masks (as SAM prepares its images).
    The defaults are those of LAVT (section 3.3): 480 by 480 pixels, antialiased bilinear, ImageNet mean and standard
    deviation; masks take the nearest pixel. Images may be PIL images of any mode, paths and URLs (EXIF orientation is
    applied), numpy arrays or torch tensors, (height, width) or with 1, 3 or 4 channels in front or behind. Integers of
    more than 8 bits are scaled as `as_8_bit` does, and so are floats: fractions of white, 0 ... 1, mean the same
    picture as levels of 0 ... 255. With `do_rescale=False` floats stay as they are, as in transformers; where they
    rescale, its own image processors take all floats for levels. NaN and infinity are an error, and so are negative
    values that would be rescaled.

    An unknown option is an error, as is a value that no image can be prepared with; of a saved image processor, which
    may be that of a newer version, an unknown option is left out, with a warning.
    """

    valid_kwargs = RefSegImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    # What an image processor has is a `SizeDict`, which transformers makes of this.
    size: SizeDict = {"height": 480, "width": 480}
    default_to_square = True
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    mask_threshold = 0.5

    def __init__(self, **kwargs: Unpack[RefSegImageProcessorKwargs]) -> None:
        self._refuse_unknown(kwargs)
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs) -> Any:
        """As in transformers; options that this version does not know are left out, with a warning."""
        unknown = cls._unknown(image_processor_dict)
        if unknown:
            logger.warning(
                f"{cls.__name__} has no option {', '.join(unknown)}, which is left out: the file is that of a newer "
                f"version, or was changed by hand{nearest_names(unknown, cls.valid_kwargs.__annotations__) or '.'}"
            )
        known = {name: value for name, value in image_processor_dict.items() if name not in unknown}
        return super().from_dict(known, **kwargs)

    @classmethod
    def _unknown(cls, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in (*cls.valid_kwargs.__annotations__, *SAVED_BY_TRANSFORMERS)]

    @classmethod
    def _refuse_unknown(cls, names: Iterable[str]) -> None:
        unknown = cls._unknown(names)
        if unknown:
            known = list(cls.valid_kwargs.__annotations__)
            raise TypeError(f"{cls.__name__} has no option {', '.join(unknown)}{nearest_names(unknown, known) or '.'}")

    def _standardize_kwargs(
        self, size: int | dict[str, int] | SizeDict | None = None, default_to_square: bool | None = None, **kwargs
    ) -> dict:
        if size is not None:
            if isinstance(size, dict | SizeDict):
                sides = dict(size)
            else:
                sides = get_size_dict(size, default_to_square=default_to_square)
            _check_size(sides)
            size = sides
        _check_options(kwargs)
        return super()._standardize_kwargs(size=size, default_to_square=default_to_square, **kwargs)

    def __call__(
        self, images: ImageInput | None = None, *args, **kwargs: Unpack[RefSegImageProcessorKwargs]
    ) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(
        self,
        images: ImageInput | None = None,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[RefSegImageProcessorKwargs],
    ) -> BatchFeature:
        """Returns `pixel_values` (batch, 3, height, width) of images, and `mask_labels` of `segmentation_maps`.

        Args:
            images: one image or a list; none where masks alone are prepared.
            segmentation_maps: a (height, width) mask or a list, positive = target and 0 = background, as large as the
                (upright) image; one per image, or again and again one per image, as for several texts; returned as
                int64 0 or 1, (batch, height, width).

        Raises:
            TypeError: something that is no image, or no mask, and an unknown option.
            ValueError: no image and no mask, or one without pixels, of another shape, of another size than its image,
                or whose values are no picture or mask.
        """
        if images is None and segmentation_maps is None:
            raise ValueError("Pass `images`, `segmentation_maps`, or both.")
        self._refuse_unknown(kwargs)
        return super().preprocess(images, segmentation_maps, **kwargs)

    def preprocess_clips(
        self,
        clips: list[list[ImageInput]] | None = None,
        segmentation_maps: list[list[ImageInput]] | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs: Unpack[RefSegImageProcessorKwargs],
    ) -> BatchFeature:
        """Prepares every frame as `preprocess` prepares an image.

        Args:
            clips: for each clip its frames; all clips are of one length. None where masks alone are prepared.
            segmentation_maps: lists of that length, of masks as large as the frames, positive = target.
            return_tensors: kind of the tensors, PyTorch's by default.

        Returns:
            `pixel_values` (clips, frames, 3, height, width) of clips, and of `segmentation_maps` `mask_labels` (maps,
            frames, height, width), int64 0 or 1.

        Raises:
            ValueError: where lengths differ, or there is nothing.
            TypeError, ValueError: as `preprocess`.
        """
        lengths = sorted({len(frames) for frames in [*(clips or []), *(segmentation_maps or [])]})
        if len(lengths) != 1 or lengths == [0]:
            raise ValueError(f"Clips and their masks need one frame at least, and equally many: got {lengths}.")
        frames, masks = (
            None if of_clips is None else [frame for clip in of_clips for frame in clip]
            for of_clips in (clips, segmentation_maps)
        )
        if any(
            len(list(_one_by_one(each, ndims))) != len(each) for each, ndims in ((frames or [], 3), (masks or [], 2))
        ):
            raise ValueError("Clips are lists of single frames and masks, not of lists or stacks of them.")
        inputs = self.preprocess(frames, segmentation_maps=masks, return_tensors="pt", **kwargs)
        data = {name: values.unflatten(0, (-1, lengths[0])) for name, values in inputs.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Paths and URLs, also in lists, as upright RGB images (PIL), by `read_image`; all else stays as it is."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(each) for each in image_url_or_urls]
        return fetch_picture(image_url_or_urls)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[ImageInput]:
        """Single images, fetched, or masks where `expected_ndims` is 2."""
        several = list(_one_by_one(images, expected_ndims))
        if not several:
            raise ValueError(f"There is no {'image' if expected_ndims == 3 else 'mask'}: pass one at least.")
        return [fetch_picture(image) for image in several] if expected_ndims == 3 else several

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        do_rescale: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """An image as a tensor (channels, height, width); versions of transformers read arrays differently."""
        if isinstance(image, Image.Image) and do_convert_rgb:
            return _as_tensor(upright_rgb(image)).to(device=device)
        if isinstance(image, Image.Image):
            image = np.asarray(load_picture(image))
        pixels = as_pixels(image, do_rescale=bool(do_rescale))
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif (input_data_format or infer_channel_dimension_format(pixels, (1, 3, 4))) == ChannelDimension.LAST:
            pixels = pixels.permute(2, 0, 1)
        return (_as_rgb(pixels) if do_convert_rgb else pixels).contiguous().to(device=device)

    def resize(self, image: Tensor, size: SizeDict, resample: PILImageResampling | None = None, **kwargs) -> Tensor:
        """Resizes images (batch, channels, height, width); those of the papers, 8-bit RGB, with PIL as the papers did.

        torchvision rounds differently in up to a fifth of the values.
        """
        height, width = size_when_resized(image.shape[-2], image.shape[-1], size)
        if tuple(image.shape[-2:]) == (height, width):
            return image
        is_on_cpu, is_8_bit = image.device.type == "cpu", image.dtype == torch.uint8
        if is_on_cpu and is_8_bit and resample == tvF.InterpolationMode.NEAREST_EXACT:
            return torch.from_numpy(take_nearest(image.numpy(), height, width))
        if not (is_on_cpu and is_8_bit and image.shape[1] == 3 and isinstance(resample, int)):
            return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)
        pictures = (Image.fromarray(array) for array in image.permute(0, 2, 3, 1).numpy())
        return torch.stack([_as_tensor(picture.resize((width, height), resample)) for picture in pictures])

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput | None,
        segmentation_maps: ImageInput | None,
        do_convert_rgb: bool,
        input_data_format: ChannelDimension,
        return_tensors: str | TensorType | None,
        device: str | torch.device | None = None,
        **kwargs,
    ) -> BatchFeature:
        data, masks = {}, None
        if segmentation_maps is not None:
            masks = [as_mask(mask) for mask in self._prepare_images_structure(segmentation_maps, expected_ndims=2)]
            data["mask_labels"] = self._preprocess_masks([mask.to(device=device) for mask in masks], **kwargs)
        if images is not None:
            pictures = images = self._prepare_images_structure(images)
            if do_convert_rgb:
                pictures = [upright_rgb(each) if isinstance(each, Image.Image) else each for each in pictures]
                images = [self._resize_picture(each, device, **kwargs) for each in pictures]
            images = self._prepare_image_like_inputs(
                images=images,
                do_convert_rgb=do_convert_rgb,
                do_rescale=kwargs["do_rescale"],
                input_data_format=input_data_format,
                device=device,
            )
            sizes = [
                (picture.height, picture.width) if isinstance(picture, Image.Image) else tuple(image.shape[-2:])
                for picture, image in zip(pictures, images, strict=True)
            ]
            _check_sizes_of_masks(masks or [], sizes)
            data.update(self._preprocess(images, return_tensors=None, **kwargs))
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _resize_picture(
        self, picture: ImageInput, device: Any, do_resize: bool, size: SizeDict, resample: Any, **kwargs
    ) -> ImageInput:
        """An RGB picture as `resize` will want it: there it would come back from a tensor, which takes as long."""
        is_picture = isinstance(picture, Image.Image) and picture.mode == "RGB" and isinstance(resample, int)
        if not (do_resize and is_picture and torch.device(device or "cpu").type == "cpu"):
            return picture
        height, width = size_when_resized(picture.height, picture.width, size)
        return picture if picture.size == (width, height) else picture.resize((width, height), resample)

    def fit(self, picture: Image.Image) -> Image.Image:
        """An RGB picture as large as `preprocess` resizes it, which then finds nothing to resize."""
        return self._resize_picture(picture, None, self.do_resize, self.size, self.resample)

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask, bool (height, width), as large as the picture that `fit` makes of its own."""
        return take_nearest(mask, *self.input_size(*mask.shape)) if isinstance(self.resample, int) else mask

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which a model sees a picture of this size, without padding."""
        return size_when_resized(height, width, self.size) if self.do_resize else (height, width)

    def _preprocess(self, images: list[Tensor], size: SizeDict, **kwargs) -> BatchFeature:
        if size.longest_edge:
            kwargs |= {"do_pad": True, "pad_size": SizeDict(height=size.longest_edge, width=size.longest_edge)}
        return super()._preprocess(images, size=size, **kwargs)

    def _preprocess_masks(self, masks: list[Tensor], **kwargs) -> list[Tensor]:
        return [mask.to(torch.int64) for mask in self._resize_masks(masks, **kwargs)]

    def _resize_masks(self, masks: list[Tensor], **kwargs) -> list[Tensor]:
        """Masks as images are resized and padded, of the nearest pixels; uint8 (height, width)."""
        unscaled = {"do_normalize": False, "do_rescale": False, "resample": tvF.InterpolationMode.NEAREST_EXACT}
        pixels = [mask.to(torch.uint8)[None] for mask in masks]  # Not viewed: pictures of one bit hold bytes of 255.
        resized = self._preprocess(pixels, return_tensors=None, **{**kwargs, **unscaled})
        return [mask.squeeze(0) for mask in resized["pixel_values"]]

    def post_process_referring_segmentation(
        self, outputs: ModelOutput, target_sizes: list[tuple[int, int]] | None = None, threshold: float | None = None
    ) -> list[dict]:
        """Turns logits into one mask per text. Where `size` is `{"longest_edge": N}`, the padding is cut off first.

        Args:
            outputs ([`ReferringSegmentationOutput`]): what the model returned.
            target_sizes: height and width of each mask, usually those of the (upright) image; the size of the logits,
                padding included, if absent.
            threshold: foreground probability above which a pixel belongs to the mask; the processor's `mask_threshold`
                if absent.

        Returns:
            A dictionary per text: `mask` (bool tensor (height, width)), `score` (the mean foreground probability
            inside the mask, 0 for an empty one) and `present` (whether the mask holds any pixel). Where the model
            has a presence head and gives the target a probability of at most 0.5, the mask is empty.

        Raises:
            ValueError: where the numbers of logits and sizes differ, a size is not two whole numbers above 0 of not
                more pixels than PIL opens (`PIL.Image.MAX_IMAGE_PIXELS`), the threshold is no probability, or the
                logits are those of clips or without a pixel.
            NotFiniteError: a logit is NaN or infinite.
        """
        sizes = _mask_sizes(outputs, target_sizes, "image")
        found = find_masks(outputs, self, sizes, threshold)
        return [{"mask": each.mask, "score": each.score, "present": each.present} for each in found]

    def post_process_referring_video_segmentation(
        self, outputs: ModelOutput, target_sizes: list[tuple[int, int]] | None = None, threshold: float | None = None
    ) -> list[dict]:
        """Turns the logits of clips (batch, frames, height, width) into one mask per text and frame.

        Arguments and errors are those of `post_process_referring_segmentation`, with one target size per text.

        Returns:
            A dictionary per text: `masks` (bool tensor (frames, height, width)), `scores` (for each frame the mean
            foreground probability inside its mask, 0 for an empty one) and `present` (whether any mask holds any
            pixel). Where a presence head gives the target a probability of at most 0.5, all masks are empty.
        """
        sizes = _mask_sizes(outputs, target_sizes, "video")
        frames = (
            ReferringSegmentationOutput(logits=logits, presence_logits=outputs.presence_logits)
            for logits in outputs.logits.unbind(1)
        )
        found = [find_masks(frame, self, sizes, threshold) for frame in frames]
        return [
            {
                "masks": torch.stack([frame.mask for frame in of_text]),
                "scores": [frame.score for frame in of_text],
                "present": any(frame.present for frame in of_text),
            }
            for of_text in zip(*found, strict=True)
        ]

    def cut_padding(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Of logits (height, width) those of the image itself, whose height and width are `size`."""
        if not self.size.longest_edge:
            return logits
        rows, columns = fit_longest_edge(*size, max(logits.shape))
        return logits[:rows, :columns]


def _check_size(size: Mapping[str, Any]) -> None:
    are_sides = (
        isinstance(side, Integral) and side is not True and 0 < int(side) <= MAX_SIDE for side in size.values()
    )
    if set(size) not in ({"height", "width"}, {"longest_edge"}) or not all(are_sides):
        raise ValueError(
            f'`size` is {{"height": ..., "width": ...}} or {{"longest_edge": ...}} in pixels, not '
            f"{reprlib.repr(dict(size))}: whole numbers from 1 to {MAX_SIDE}."
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that no image can be prepared with; None stands for none."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name.startswith("do_") and not isinstance(value, bool):
            raise ValueError(f"`{name}` is True or False, not {reprlib.repr(value)}.")
    for name, (counts, is_possible, wanted) in NUMBERS.items():
        value = given.get(name, 1)
        numbers = value if isinstance(value, list | tuple) else [value]
        are_finite = all(isinstance(number, Real) and math.isfinite(number) for number in numbers)
        if len(numbers) not in counts or not are_finite or not all(map(is_possible, numbers)):
            raise ValueError(f"`{name}` is {wanted}, not {reprlib.repr(value)}.")
    if given.get("resample", 0) not in (*PILImageResampling, *tvF.InterpolationMode):
        raise ValueError(f"`resample` is the number of one of PIL's filters, not {reprlib.repr(given['resample'])}.")
    for name in given.keys() & {"crop_size", "pad_size"}:
        value = given[name]
        sides = dict(value).values() if isinstance(value, dict | SizeDict) else [value]
        if not all(isinstance(side, Integral) and int(side) > 0 for side in sides if side is not None):
            raise ValueError(f"`{name}` has sides of 1 pixel at least, not {reprlib.repr(value)}.")
    as_probability(given.get("mask_threshold", 0.5))


def _mask_sizes(
    outputs: ModelOutput, target_sizes: list[tuple[int, int]] | None, kind: Literal["image", "video"]
) -> list[tuple[int, int]]:
    """Height and width of the masks of each text; raises ValueError where logits or sizes are none of such masks."""
    shape = tuple(outputs.logits.shape)
    if len(shape) != (3 if kind == "image" else 4):
        raise ValueError(
            f"Logits of shape {shape} are not those of {kind}s: masks of images come from "
            "`post_process_referring_segmentation`, those of clips from `post_process_referring_video_segmentation`."
        )
    if 0 in shape[1:]:
        raise ValueError(f"Logits of shape {shape} hold no pixel: pass a model's own.")
    if target_sizes is None:
        return [shape[-2:]] * len(outputs.logits)
    sizes = [_as_size(size) for size in (target_sizes if isinstance(target_sizes, Iterable) else [target_sizes])]
    if len(sizes) != len(outputs.logits):
        raise ValueError(f"Pass one target size per text: got {len(sizes)} sizes for {len(outputs.logits)} texts.")
    return sizes


def size_when_resized(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    return fit_longest_edge(height, width, size.longest_edge) if size.longest_edge else (size.height, size.width)


def _as_tensor(picture: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, height, width); NumPy moves the channels several times as fast as PyTorch."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)))


def _as_rgb(image: Tensor) -> Tensor:
    """Makes an image (1, 3 or 4, height, width) RGB; transparency is left out, as in PIL images."""
    if image.shape[0] not in (1, 3, 4):
        raise ValueError(f"`input_data_format` says that there are {image.shape[0]} channels, not 1, 3 or 4.")
    return image[:3].expand(3, -1, -1)


def _as_size(size: Any) -> tuple[int, int]:
    """Height and width out of a sequence, an array or a tensor."""
    try:
        height, width = (int(side) for side in size)
        is_whole = all(int(side) == side for side in size)
    except (TypeError, ValueError, OverflowError):
        height = width = 0
        is_whole = False
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    if not is_whole or min(height, width) < 1 or height * width > limit:
        raise ValueError(
            f"A target size is the height and width of a mask, whole numbers from 1 on and at most {limit} pixels "
            f"together, not {reprlib.repr(size)}."
        )
    return height, width


def _one_by_one(images: Any, ndims: int) -> Iterator[Any]:
    """Single images, or masks, out of lists of them, lists of such lists, and arrays of one axis more than theirs."""
    for each in images if isinstance(images, list | tuple) else [images]:
        for image in each if isinstance(each, list | tuple) else [each]:
            yield from image if isinstance(image, np.ndarray | Tensor) and image.ndim == ndims + 1 else [image]


def _check_sizes_of_masks(masks: list[Tensor], sizes: list[tuple[int, int]]) -> None:
    """`sizes` are height and width of the images."""
    if len(masks) % len(sizes):
        raise ValueError(f"There are {len(masks)} masks for {len(sizes)} images: pass one for each.")
    for index, mask in enumerate(masks):
        wanted = sizes[index % len(sizes)]
        if mask.shape != wanted:
            raise ValueError(
                f"Mask {index} has {mask.shape[0]} x {mask.shape[1]} pixels (height x width), its image "
                f"{wanted[0]} x {wanted[1]} (as it stands upright): pass a mask of the image's own size."
            )


__all__ = ["RefSegImageProcessor", "size_when_resized"]
