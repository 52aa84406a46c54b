"""Videos: reading them frame by frame, and masks on every frame of videos of any length in bounded memory."""

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from numbers import Integral
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging

from .image_processing_refseg import as_probability, open_image, upright_rgb
from .modeling_outputs_refseg import ReferringSegmentationOutput
from .pixels_refseg import check_array
from .precision_refseg import at_least_float32
from .saved_files_refseg import one_line
from .texts_refseg import as_sentences

logger = logging.get_logger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class VideoFileError(ValueError):
    """A video file that is damaged, too large, or of a kind that cannot be read; it is named."""


class VideoFrames:
    """The frames of a video, read one after the other and kept nowhere: iterating gives RGB images of one size.

    It may be iterated several times, each from the first frame; `len` is known unless a video file does not tell it.

    Args:
        source: a folder of image files, taken in natural order of their names (frame2 before frame10); a video file,
            which PyAV decodes as a stream; or a sequence of PIL images, or of uint8 arrays or tensors (height, width,
            3); or another [`VideoFrames`].

    Attributes:
        size: width and height of every (upright) frame, in pixels.
        num_frames: how many frames there are, `None` where a video file does not tell.
        frames_per_second: `None` where it is unknown, as for folders.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ImportError: a video file needs PyAV, which is not installed.
        TypeError: none of these.
        ValueError: no frame, a damaged file, one without video or of an unknown codec, a frame beyond PIL's limit of
            pixels, or, while iterating, a frame of another size than the first; the file is named.
    """

    def __init__(self, source: "str | PathLike[str] | Sequence[Image.Image | np.ndarray] | VideoFrames") -> None:
        if isinstance(source, VideoFrames):
            self._source = source._source
        elif isinstance(source, Sized) and not isinstance(source, str | Mapping):
            self._source = _FrameList(source)
        elif not isinstance(source, str | PathLike):
            kind = type(source).__name__
            raise TypeError(f"A video is a file, a folder of frames or a list of frames, not {kind}.")
        elif Path(source).is_dir():
            self._source = _FrameFolder(Path(source))
        else:
            self._source = _VideoFile(Path(source))
        self.num_frames: int | None = self._source.num_frames
        self.frames_per_second: float | None = self._source.frames_per_second
        with closing(iter(self._source)) as frames:
            self.size: tuple[int, int] = next(frames).size

    def __len__(self) -> int:
        if self.num_frames is None:
            raise TypeError(f"{self._source.name} does not tell how many frames it has.")
        return self.num_frames

    def __iter__(self) -> Iterator[Image.Image]:
        for number, frame in enumerate(self._source):
            if frame.size != self.size:
                raise ValueError(
                    f"{self._source.name}: frame {number} has {_by(frame.size)} pixels, the first {_by(self.size)}. "
                    "All frames of a video need one size."
                )
            yield frame


class _FrameList:
    name = "The list of frames"
    frames_per_second = None

    def __init__(self, frames: Sequence[Image.Image | np.ndarray]) -> None:
        if not len(frames):
            raise ValueError("The list of frames is empty: pass one frame at least.")
        self.frames, self.num_frames = frames, len(frames)

    def __iter__(self) -> Iterator[Image.Image]:
        for frame in self.frames:
            if not isinstance(frame, Image.Image):
                frame = Image.fromarray(_checked_array(frame))
            yield upright_rgb(frame)


def _checked_array(frame: Any) -> np.ndarray:
    if not isinstance(frame, np.ndarray | Tensor):
        raise TypeError(f"A frame is a PIL image, an array or a tensor, not {type(frame).__name__}.")
    if frame.dtype not in (np.dtype(np.uint8), torch.uint8) or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(
            f"A frame is {frame.dtype} of shape {tuple(frame.shape)}: pass uint8 (height, width, 3), or PIL images."
        )
    check_array(frame)
    return frame.cpu().numpy() if isinstance(frame, Tensor) else frame


class _FrameFolder:
    frames_per_second = None

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        self.paths = sorted((path for path in files if not path.name.startswith(".")), key=_natural_order)
        self.num_frames = len(self.paths)
        if not self.paths:
            raise ValueError(
                f"{folder} holds no frames: image files ({', '.join(IMAGE_SUFFIXES)}) are expected there."
            )

    def __iter__(self) -> Iterator[Image.Image]:
        return (open_image(path) for path in self.paths)


class _VideoFile:
    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such video file or folder of frames.")
        self.name, self.av = str(path), _import_av()
        with self._opened() as (_, stream):
            self.num_frames = stream.frames if stream.frames > 0 else None
            self.frames_per_second = float(stream.average_rate) if stream.average_rate else None

    def __iter__(self) -> Iterator[Image.Image]:
        count = 0
        with self._opened() as (container, stream):
            for count, frame in enumerate(container.decode(stream), start=1):  # noqa: B007
                yield _upright(frame)
        if not count:
            raise self._damaged("no frame can be decoded")
        if self.num_frames is not None and count < self.num_frames:
            logger.warning(f"{self.name} says it has {self.num_frames} frames, but only {count} could be read.")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its video stream; whatever PyAV raises meanwhile is the fault of the file."""
        # Titles and the like, which nobody reads here, may be in any encoding; PyAV 19 knows that by itself.
        any_title = {"metadata_errors": "replace"} if Version(self.av.__version__).major < 19 else {}
        try:
            # The prefix, because FFmpeg takes what stands before a colon in a name for a protocol.
            file, options = f"file:{self.name}", {"protocol_whitelist": "file"}
            with self.av.open(file, options=options, **any_title) as container:
                yield container, self._video_stream(container)
        except VideoFileError:
            raise
        except Exception as error:
            raise self._damaged(error) from error

    def _video_stream(self, container: Any) -> Any:
        if not container.streams.video:
            raise VideoFileError(f"{self.name} holds no video. Pass a video file, or a folder of frames.")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None:
            raise VideoFileError(
                f"{self.name} is damaged, or of a codec that PyAV does not know. Convert it, for example to H.264, or "
                "pass a folder of frames."
            )
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None:
            if codec.width * codec.height > limit:
                size = _by((codec.width, codec.height))
                raise VideoFileError(f"{self.name} is too large: its frames have {size} pixels. Scale it down first.")
            # Frames may grow on the way.
            codec.options = {**codec.options, "max_pixels": str(limit)}
        return stream

    def _damaged(self, reason: object) -> VideoFileError:
        return VideoFileError(
            f"{self.name} is damaged or no video ({one_line(reason)}). Replace it with the complete file."
        )


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Video files need PyAV: pip install 'hf_refseg[video]', or pass a folder of frames."
        ) from error
    return av


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as an RGB image, turned by the quarters that the file asks for."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation and frame.rotation % 90 == 0 else image


def _natural_order(path: Path) -> list[str | int]:
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", path.name))]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def is_one_clip(videos: Any, frame_axes: int = 3) -> bool:
    """Whether these are the frames of one clip, or the path to one, rather than several clips.

    Frames are PIL images, and arrays or tensors of at most `frame_axes` axes.
    """
    if isinstance(videos, str | PathLike | VideoFrames):
        return True
    first = next(iter(videos), None)
    return isinstance(first, Image.Image) or (isinstance(first, np.ndarray | Tensor) and first.ndim <= frame_axes)


def as_clips(videos: Any, frame_axes: int = 3) -> list[list[Any]]:
    """One clip or several, each a sequence of frames or a path for [`VideoFrames`], as lists of frames.

    Raises:
        TypeError: something else.
        FileNotFoundError, ImportError, ValueError: as [`VideoFrames`].
    """
    if isinstance(videos, Iterator):
        videos = list(videos)
    _check_clip(videos)
    clips = [videos] if is_one_clip(videos, frame_axes) else videos
    for clip in clips:
        _check_clip(clip)
    return [list(VideoFrames(clip) if isinstance(clip, str | PathLike) else clip) for clip in clips]


def _check_clip(clip: Any) -> None:
    if not isinstance(clip, Iterable | PathLike) or isinstance(clip, bytes | Mapping | Image.Image):
        raise TypeError(f"A clip is a list, an array or a tensor of frames, or a path, not {type(clip).__name__}.")


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


__all__ = ["FrameMask", "VideoFrames", "as_clips", "is_one_clip", "segment_video"]
