"""The one way from a model to masks: of images, and of videos of any length in bounded memory.

Here alone inputs go to a model, it runs in evaluation mode, its answers have to be finite, and threshold, presence
head and wanted size make masks of them.
"""

import math
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from numbers import Integral
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import BatchFeature
from transformers.utils import ModelOutput

from .modeling_outputs_refseg import ReferringSegmentationOutput, join_features, require_finite
from .picture_files_refseg import upright_rgb
from .precision_refseg import at_least_float32
from .windows_refseg import slide, usual_overlap

# Images of so many pixels together are encoded at once, or a single one: four of 480 by 480, one of 1024 by 1024.
PIXELS_AT_ONCE = 2**20


@dataclass(frozen=True)
class FrameMask:
    """What a text means in an image, or on a frame of a video.

    Attributes:
        mask: bool (height, width) at the wanted size.
        score: the mean foreground probability inside the mask, 0 for an empty one.
        present: whether the mask holds any pixel.
        foreground: bool (height, width), what the mask is where no presence head holds it back.
        is_found: whether the presence head says that there is a target; `None` in a model without one.
    """

    mask: Tensor
    score: float
    present: bool
    foreground: Tensor
    is_found: bool | None

    def cpu(self) -> "FrameMask":
        """The same on the CPU."""
        return replace(self, mask=self.mask.cpu(), foreground=self.foreground.cpu())


@dataclass(frozen=True)
class ProbabilityMap:
    """How probably each pixel of an image, or of a frame, belongs to what a text means.

    Attributes:
        probabilities: floating (height, width) at the wanted size, 0 to 1.
        is_found: whether the presence head says that there is a target; `None` in a model without one.
    """

    probabilities: Tensor
    is_found: bool | None

    def mask(self, threshold: float) -> FrameMask:
        """The pixels whose probability exceeds a threshold."""
        foreground = self.probabilities > threshold
        mask = torch.zeros_like(foreground) if self.is_found is False else foreground
        present = bool(mask.any())
        score = self.probabilities[mask].mean().item() if present else 0.0
        return FrameMask(mask, score, present, foreground, self.is_found)

    def cpu(self) -> "ProbabilityMap":
        """The same on the CPU."""
        return replace(self, probabilities=self.probabilities.cpu())


@dataclass(frozen=True)
class VideoWindow:
    """How a model goes through a video: in clips, each of which starts with the last frames of the one before.

    Attributes:
        frames: frames per clip; `None` = the whole video as one clip, all of which is in memory then.
        overlap: frames that neighboring clips share, less than `frames`; by default 8, or half a smaller window.
        per_frame: whether a model that takes clips sees single images nevertheless.

    Raises:
        ValueError: numbers out of range.
    """

    frames: int | None = 32
    overlap: int | None = None
    per_frame: bool = False

    def __post_init__(self) -> None:
        are_whole = all(isinstance(number, Integral) for number in (self.frames, self.overlap) if number is not None)
        if are_whole and self.overlap is None:
            object.__setattr__(self, "overlap", usual_overlap(self.frames))
        limit = math.inf if self.frames is None else self.frames
        if not are_whole or self.overlap is None or not 0 <= self.overlap < limit:
            raise ValueError(
                "Window and overlap are whole numbers, the overlap at least 0 and less than the window: got "
                f"{self.overlap} and {self.frames} frames."
            )

    def shows_clips(self, model: nn.Module) -> bool:
        """Whether the model sees clips, rather than one frame at a time."""
        return model.config.takes_clips and not self.per_frame


SOME_FRAMES, WHOLE_VIDEO = VideoWindow(), VideoWindow(frames=None)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; afterwards every module is back in its own mode (frozen parts as well)."""
    # A model that is in this mode is left alone: for each image, its modules would take as long as a small model does.
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def to_model(model: nn.Module, inputs: BatchFeature) -> BatchFeature:
    """What a processor made, on the model's device, and what are no whole numbers in the type of its weights."""
    parameter = next(model.parameters())
    return inputs.to(parameter.device, parameter.dtype)


def as_probability(threshold: Any) -> float:
    """A threshold as a float; raises ValueError where it is no number from 0 to 1."""
    try:
        number = float(threshold)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"A threshold is a probability, from 0 to 1, not {reprlib.repr(threshold)}.")
    return number


def find_targets(outputs: ModelOutput) -> Tensor | None:
    """What the presence head says, a boolean (texts,): there is a target where its probability exceeds 0.5."""
    return None if outputs.presence_logits is None else outputs.presence_logits > 0


def find_foreground(outputs: ModelOutput, threshold: float) -> Tensor:
    """The pixels of the targets, at the size of the logits, padding included.

    Args:
        outputs ([`ReferringSegmentationOutput`]): what the model returned, of images or clips.
        threshold: foreground probability above which a pixel belongs to a mask.

    Returns:
        Booleans in the shape of the logits.

    Raises:
        NotFiniteError: a logit is NaN or infinite.
    """
    require_finite(logits=outputs.logits, presence_logits=outputs.presence_logits)
    foreground, found = _probabilities(outputs.logits) > threshold, find_targets(outputs)
    return foreground if found is None else foreground & found.view(-1, *[1] * (foreground.ndim - 1))


def find_masks(
    outputs: ModelOutput, image_processor: Any, sizes: Sequence[tuple[int, int]], threshold: float | None = None
) -> list[FrameMask]:
    """One mask per text, on the device of the logits.

    Args:
        outputs ([`ReferringSegmentationOutput`]): what the model returned of images.
        image_processor ([`RefSegImageProcessor`]): whose padding is cut off.
        sizes: height and width of each mask.
        threshold: as in `find_foreground`; the image processor's if absent.

    Raises:
        ValueError: the threshold is no probability.
        NotFiniteError: a logit is NaN or infinite.
    """
    threshold = image_processor.mask_threshold if threshold is None else as_probability(threshold)
    return [each.mask(threshold) for each in find_probabilities(outputs, image_processor, sizes)]


def find_probabilities(
    outputs: ModelOutput, image_processor: Any, sizes: Sequence[tuple[int, int]]
) -> Iterator[ProbabilityMap]:
    """One map per text, on the device of the logits; arguments and errors as of [`find_masks`]."""
    require_finite(logits=outputs.logits, presence_logits=outputs.presence_logits)
    found = find_targets(outputs)
    answers = [None] * len(sizes) if found is None else found.tolist()
    for logits, size, is_found in zip(outputs.logits, sizes, answers, strict=True):
        inside = at_least_float32(image_processor.cut_padding(logits, size))[None, None]
        resized = F.interpolate(inside, size, mode="bilinear", align_corners=False)[0, 0]
        yield ProbabilityMap(_probabilities(resized), is_found)


def _probabilities(logits: Tensor) -> Tensor:
    return at_least_float32(logits).sigmoid()


def segment_image(
    model: nn.Module,
    processor: Any,
    image: Image.Image,
    texts: str | Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    threshold: float | None = None,
    batch_size: int = 16,
) -> Iterator[FrameMask]:
    """Segments what each text means in an image, which is encoded once.

    Args:
        model: a model on any device, of any dtype and in any mode; it runs in evaluation mode.
        processor: its processor.
        image: of any mode, upright.
        texts: a sentence or several.
        size: height and width of the masks; the image's own if absent.
        threshold: foreground probability above which a pixel belongs to a mask; the processor's if absent.
        batch_size: texts per forward pass.

    Returns:
        An iterator that gives a [`FrameMask`] on the CPU for each text.

    Raises:
        ValueError: an empty text, or a threshold that is no probability.
        NotFiniteError: the model answers with NaN or infinity.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    threshold = processor.image_processor.mask_threshold if threshold is None else as_probability(threshold)
    images, sizes = [prepare_image(processor, image, texts)], [size or (image.height, image.width)]
    for each in probabilities_of_images(model, processor, images, sizes=sizes, batch_size=batch_size):
        yield each.mask(threshold).cpu()


@dataclass(frozen=True)
class PreparedImage:
    """An image and what is asked about it on their way into a model.

    Attributes:
        pixel_values: floating (1, 3, height, width), what the processor makes of the image.
        size: height and width of the image itself.
        texts: the sentences.
    """

    pixel_values: Tensor
    size: tuple[int, int]
    texts: Sequence[str]


def prepare_image(processor: Any, image: Image.Image, texts: Sequence[str]) -> PreparedImage:
    """What a processor can do without the model, in another process as well; `image` is upright."""
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"]
    return PreparedImage(pixel_values, (image.height, image.width), texts)


def probabilities_of_images(
    model: nn.Module,
    processor: Any,
    images: Sequence[PreparedImage],
    *,
    sizes: Sequence[tuple[int, int]],
    batch_size: int = 16,
) -> Iterator[ProbabilityMap]:
    """How probably each pixel of several images belongs to what each of their texts means, on the model's device.

    Each image is encoded once. Neighbors share forward passes where the processor made them equally large.

    Args:
        model, processor: as in [`segment_image`].
        images: what `prepare_image` made.
        sizes: height and width of each image's maps.
        batch_size: texts per forward pass.

    Returns:
        An iterator that gives for each text of the first image a map, then for each of the second, and so on.

    Raises:
        ValueError: an empty text.
        NotFiniteError: in the place of an answer that is NaN or infinite.
    """
    for _, alike in groupby(range(len(images)), key=lambda place: images[place].pixel_values.shape):
        asked = [(place, text) for place in alike for text in images[place].texts]
        encoded: dict[int, Any] = {}
        for start in range(0, len(asked), batch_size):
            places, texts = zip(*asked[start : start + batch_size], strict=True)
            # The batch before has ended in the midst of an image, perhaps.
            encoded = {place: features for place, features in encoded.items() if place in places}
            unknown = [place for place in dict.fromkeys(places) if place not in encoded]
            encoded |= zip(unknown, _encode(model, [images[place].pixel_values for place in unknown]), strict=True)
            text_inputs = to_model(model, processor(text=list(texts), return_tensors="pt"))
            # A single image stays one: the model repeats it without a copy.
            shown = places[:1] if len(encoded) == 1 else places
            with evaluation_mode(model):
                outputs = model(image_embeds=join_features([encoded[place] for place in shown]), **text_inputs)
            for place, rows in groupby(range(len(places)), key=places.__getitem__):
                part = list(rows)
                of_image = _take(outputs, slice(part[0], part[-1] + 1))
                yield from find_probabilities(of_image, processor.image_processor, [sizes[place]] * len(part))


def _encode(model: nn.Module, images: Sequence[Tensor]) -> Iterator[Any]:
    """The features of each of several images of one size."""
    at_once = max(1, PIXELS_AT_ONCE // images[0][0, 0].numel()) if images else 1
    for start in range(0, len(images), at_once):
        inputs = BatchFeature({"pixel_values": torch.cat(images[start : start + at_once])})
        with evaluation_mode(model):
            features = model.get_image_features(to_model(model, inputs)["pixel_values"])
        for row in range(len(inputs["pixel_values"])):
            yield tree_map_only(Tensor, itemgetter(slice(row, row + 1)), features)


def _take(outputs: ModelOutput, rows: slice) -> ReferringSegmentationOutput:
    presence = outputs.presence_logits
    return ReferringSegmentationOutput(
        logits=outputs.logits[rows], presence_logits=None if presence is None else presence[rows]
    )


def segment_video(
    model: nn.Module,
    processor: Any,
    frames: Iterable[Image.Image],
    texts: Sequence[str],
    *,
    window: VideoWindow = SOME_FRAMES,
    threshold: float | None = None,
) -> Iterator[list[FrameMask]]:
    """Segments what each text means on every frame of a video of any length.

    The last clip ends with the video and overlaps more than the others. Where clips overlap, logits are averaged. No
    more frames than those of a clip and the one after them are in memory.

    Args:
        model: a model on any device, of any dtype and in any mode; it runs in evaluation mode. One whose
            `config.takes_clips` is `False` sees one frame at a time.
        processor: its processor.
        frames: images in order, such as [`VideoFrames`]; each is read once.
        texts: one sentence or more. Each clip is encoded once for all of them.
        window: the clips.
        threshold: foreground probability above which a pixel belongs to a mask; the processor's if absent.

    Returns:
        An iterator that gives for each frame, in order and as soon as no later clip touches it, a [`FrameMask`] on the
        CPU per text. A presence head is asked on every clip; a mask is empty where the mean of its logits over the
        clips that hold the frame is at most 0.

    Raises:
        ValueError: an empty text, or a threshold that is no probability.
        NotFiniteError: while iterating, the model answers with NaN or infinity.
    """
    if threshold is not None:
        threshold = as_probability(threshold)
    segmenter = _ClipSegmenter(model, processor, [texts], window)
    return (segmenter.masks(frame, threshold) for frame in slide(segmenter, frames))


def video_probabilities(
    model: nn.Module,
    processor: Any,
    frames: Iterable[Image.Image],
    texts: Sequence[str],
    *,
    window: VideoWindow = SOME_FRAMES,
    batch_size: int = 16,
) -> Iterator[list[ProbabilityMap]]:
    """How probably each pixel of a video belongs to what each text means.

    Args:
        model, processor, frames, texts, window: as in [`segment_video`].
        batch_size: texts per forward pass; each batch encodes a clip anew.

    Returns:
        An iterator that gives for each frame, in order and as soon as no later clip touches it, a [`ProbabilityMap`]
        on the CPU per text, at the frame's own size. A presence head is asked as in [`segment_video`].

    Raises:
        ValueError: an empty text.
        NotFiniteError: while iterating, the model answers with NaN or infinity.
    """
    batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    segmenter = _ClipSegmenter(model, processor, batches, window)
    return (segmenter.probabilities(frame) for frame in slide(segmenter, frames))


@dataclass
class _PendingFrame:
    """A frame that waits for further clips; the logits are sums over `num_clips` of them, one for each text."""

    pixel_values: Tensor
    size: tuple[int, int]
    logits: Tensor | float = 0.0
    presence_logits: Tensor | float | None = None
    num_clips: int = 0


class _ClipSegmenter:
    """Runs a model on clips."""

    def __init__(
        self, model: nn.Module, processor: Any, batches: Sequence[Sequence[str]], window: VideoWindow
    ) -> None:
        self.model, self.processor, self.takes_clips = model, processor, window.shows_clips(model)
        assert window.overlap is not None  # `VideoWindow` fills it in
        self.length: float = (window.frames or math.inf) if self.takes_clips else 1
        self.overlap = window.overlap if self.takes_clips else 0
        self.text_inputs = [self._encode(texts) for texts in batches]

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        inputs = to_model(self.model, self.processor(text=texts, return_tensors="pt"))
        with evaluation_mode(self.model):
            text_embeds = self.model.get_text_features(**inputs)
        return {"text_embeds": text_embeds, "attention_mask": inputs["attention_mask"]}

    def prepare(self, frame: Image.Image) -> _PendingFrame:
        image = upright_rgb(frame)
        inputs = to_model(self.model, self.processor(images=image, return_tensors="pt"))
        return _PendingFrame(inputs["pixel_values"], (image.height, image.width))

    def add_clip(self, frames: Sequence[_PendingFrame]) -> None:
        """Adds to each frame what the model says of the clip that they make."""
        images = torch.cat([frame.pixel_values for frame in frames])
        pixel_values = images[None] if self.takes_clips else images
        answers = [self._answer(pixel_values, inputs) for inputs in self.text_inputs]
        logits, presence_logits = zip(*answers, strict=True)
        for index, frame in enumerate(frames):
            frame.logits = frame.logits + torch.cat([of_batch[:, index] for of_batch in logits])
            frame.num_clips += 1
            if presence_logits[0] is not None:
                before = 0.0 if frame.presence_logits is None else frame.presence_logits
                frame.presence_logits = before + torch.cat(presence_logits)

    def _answer(self, pixel_values: Tensor, text_inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The logits (texts, frames, height, width), and those of the presence head, of one batch of texts."""
        with evaluation_mode(self.model):
            outputs = self.model(pixel_values=pixel_values, **text_inputs)
        logits = outputs.logits if self.takes_clips else outputs.logits.unsqueeze(1)
        presence = outputs.presence_logits
        return at_least_float32(logits), None if presence is None else at_least_float32(presence)

    def masks(self, frame: _PendingFrame, threshold: float | None) -> list[FrameMask]:
        outputs = _mean_over_clips(frame)
        sizes = [frame.size] * len(outputs.logits)
        found = find_masks(outputs, self.processor.image_processor, sizes, threshold)
        return [each.cpu() for each in found]

    def probabilities(self, frame: _PendingFrame) -> list[ProbabilityMap]:
        outputs = _mean_over_clips(frame)
        sizes = [frame.size] * len(outputs.logits)
        found = find_probabilities(outputs, self.processor.image_processor, sizes)
        return [each.cpu() for each in found]


def _mean_over_clips(frame: _PendingFrame) -> ReferringSegmentationOutput:
    # Of the presence head the sign alone matters, and that of a sum is that of the mean.
    return ReferringSegmentationOutput(logits=frame.logits / frame.num_clips, presence_logits=frame.presence_logits)


__all__ = [
    "FrameMask",
    "PreparedImage",
    "ProbabilityMap",
    "VideoWindow",
    "evaluation_mode",
    "find_foreground",
    "find_masks",
    "find_probabilities",
    "prepare_image",
    "probabilities_of_images",
    "segment_image",
    "segment_video",
    "to_model",
    "video_probabilities",
]
