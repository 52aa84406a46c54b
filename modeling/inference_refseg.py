"""The one way from a model to masks: on every frame of videos of any length, in bounded memory."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .image_processing_refseg import as_probability
from .modeling_outputs_refseg import ReferringSegmentationOutput
from .pictures_refseg import upright_rgb
from .precision_refseg import at_least_float32
from .processing_refseg import as_sentences


@dataclass(frozen=True)
class FrameMask:
    """What a text means on one frame.

    Attributes:
        mask: bool (height, width) at the frame's own size, on the CPU.
        score: the mean foreground probability inside the mask, 0 for an empty one.
        present: whether the mask holds any pixel.
    """

    mask: Tensor
    score: float
    present: bool


def segment_video(
    model: nn.Module,
    processor: Any,
    frames: Iterable[Image.Image],
    texts: Sequence[str],
    *,
    window: int | None = 32,
    overlap: int | None = None,
    per_frame: bool = False,
    threshold: float | None = None,
) -> Iterator[list[FrameMask]]:
    """Segments what each text means on every frame of a video of any length.

    The model sees clips of `window` frames, each of which starts with the last `overlap` of the one before; the last
    one ends with the video and overlaps more. Where clips overlap, logits are averaged. No more than `window` frames
    and the one after them are in memory.

    Args:
        model: a model in evaluation mode, on any device and of any dtype. One whose `config.takes_clips` is `False`
            sees one frame at a time.
        processor: its processor.
        frames: images in order, such as [`VideoFrames`]; each is read once.
        texts: one sentence or more. Each clip is encoded once for all of them.
        window: frames per clip; `None` = the whole video as one clip, all of which is in memory then.
        overlap: frames that neighboring clips share, less than `window`; by default 8, or half a smaller window.
        per_frame: whether a model that takes clips sees single images nevertheless.
        threshold: foreground probability above which a pixel belongs to a mask; the processor's if absent.

    Returns:
        An iterator that gives for each frame, in order and as soon as no later clip touches it, a [`FrameMask`] per
        text. A presence head is asked on every clip; a mask is empty where the mean of its logits over the clips that
        hold the frame is at most 0.

    Raises:
        ValueError: no text or an empty one, a `window` or an `overlap` out of range, or a threshold that is no
            probability.
        NotFiniteError: while iterating, the model answers with NaN or infinity.
    """
    texts = as_sentences(texts)
    takes_clips = model.config.takes_clips and not per_frame
    if threshold is not None:
        threshold = as_probability(threshold)
    are_whole = all(isinstance(number, Integral) for number in (window, overlap) if number is not None)
    if are_whole and overlap is None:
        overlap = 8 if window is None else min(8, window // 2)
    if not are_whole or not 0 <= overlap < (math.inf if window is None else window):
        raise ValueError(
            "Window and overlap are whole numbers, the overlap at least 0 and less than the window: got "
            f"{overlap} and {window} frames."
        )
    if not takes_clips:
        window, overlap = 1, 0
    segmenter = _ClipSegmenter(model, processor, texts, takes_clips, threshold)
    return _slide(segmenter, frames, math.inf if window is None else window, overlap)


@dataclass
class _PendingFrame:
    """A frame that waits for further clips; the logits are sums over `num_clips` of them, one for each text."""

    pixel_values: Tensor
    size: tuple[int, int]
    logits: Tensor | float = 0.0
    presence_logits: Tensor | float | None = None
    num_clips: int = 0


class _ClipSegmenter:
    """Runs a model on clips; no gradients are kept."""

    @torch.no_grad()
    def __init__(
        self, model: nn.Module, processor: Any, texts: list[str], takes_clips: bool, threshold: float | None
    ) -> None:
        self.model, self.processor = model, processor
        self.takes_clips, self.threshold, self.num_texts = takes_clips, threshold, len(texts)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        inputs = processor(text=texts, return_tensors="pt").to(self.device)
        self.text_embeds, self.attention_mask = model.get_text_features(**inputs), inputs["attention_mask"]

    def prepare(self, frame: Image.Image) -> _PendingFrame:
        image = upright_rgb(frame)
        pixel_values = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return _PendingFrame(pixel_values.to(self.device, self.dtype), (image.height, image.width))

    @torch.no_grad()
    def add_clip(self, frames: Sequence[_PendingFrame]) -> None:
        """Adds to each frame what the model says of the clip that they make."""
        images = torch.cat([frame.pixel_values for frame in frames])
        outputs = self.model(
            pixel_values=images[None] if self.takes_clips else images,
            text_embeds=self.text_embeds,
            attention_mask=self.attention_mask,
        )
        logits = outputs.logits if self.takes_clips else outputs.logits.unsqueeze(1)
        for index, frame in enumerate(frames):
            frame.logits = frame.logits + at_least_float32(logits[:, index])
            frame.num_clips += 1
            if outputs.presence_logits is not None:
                before = 0.0 if frame.presence_logits is None else frame.presence_logits
                frame.presence_logits = before + at_least_float32(outputs.presence_logits)

    @torch.no_grad()
    def finish(self, frame: _PendingFrame) -> list[FrameMask]:
        # The sign of a sum is that of the mean.
        outputs = ReferringSegmentationOutput(
            logits=frame.logits / frame.num_clips, presence_logits=frame.presence_logits
        )
        sizes = [frame.size] * self.num_texts
        results = self.processor.post_process_referring_segmentation(outputs, sizes, self.threshold)
        return [FrameMask(result["mask"].cpu(), result["score"], result["present"]) for result in results]


def _slide(
    segmenter: _ClipSegmenter, frames: Iterable[Image.Image], window: float, overlap: int
) -> Iterator[list[FrameMask]]:
    recent: deque[_PendingFrame] = deque()
    unseen = 0  # how many of the recent frames no clip has held yet
    for frame in frames:
        # One more frame, so that even the last clip starts behind the oldest one.
        if len(recent) == window:
            yield segmenter.finish(recent.popleft())
        recent.append(segmenter.prepare(frame))
        unseen += 1
        if len(recent) == window and unseen >= window - overlap:
            segmenter.add_clip(recent)
            unseen = 0
    if unseen:
        segmenter.add_clip(recent)
    while recent:
        yield segmenter.finish(recent.popleft())


__all__ = ["FrameMask", "segment_video"]
