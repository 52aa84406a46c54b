"""Videos on their way in: files, folders and lists of frames, read one frame after the other."""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from .messages_refseg import reason_of
from .picture_files_refseg import open_image, upright_rgb
from .pictures_refseg import check_array

logger = logging.get_logger(__name__)

# How much longer than its frames a video may last without being taken for one that was cut off.
SECONDS_WITHOUT_FRAMES = 0.5
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


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

    _source: "_FrameList | _FrameFolder | _VideoFile"

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

    def __iter__(self) -> Generator[Image.Image, None, None]:
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

    def __iter__(self) -> Generator[Image.Image, None, None]:
        return (open_image(path) for path in self.paths)


class _VideoFile:
    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such video file or folder of frames.")
        self.name, self.av = str(path), _import_av()
        with self._opened() as (container, stream):
            self.num_frames = stream.frames if stream.frames > 0 else None
            self.frames_per_second = float(stream.average_rate) if stream.average_rate else None
            # In microseconds, and of sound as well, where there is some.
            self.seconds = container.duration / 1e6 if container.duration else 0.0

    def __iter__(self) -> Generator[Image.Image, None, None]:
        count, last_start = 0, None
        with self._opened() as (container, stream):
            for count, frame in enumerate(container.decode(stream), start=1):  # noqa: B007
                last_start = frame.time
                yield _upright(frame)
        if not count:
            raise self._damaged("no frame can be decoded")
        self._warn_of_missing_frames(count, last_start)

    def _warn_of_missing_frames(self, count: int, last_start: float | None) -> None:
        """Says that a file was cut off, by the number of frames that it tells or else, as of Matroska, its length."""
        if self.num_frames is not None and count < self.num_frames:
            logger.warning(f"{self.name} says it has {self.num_frames} frames, but only {count} could be read.")
        elif self.num_frames is None and last_start is not None and self.frames_per_second is not None:
            end = last_start + 1 / self.frames_per_second
            if end < self.seconds - SECONDS_WITHOUT_FRAMES:
                logger.warning(
                    f"{self.name} says it lasts {self.seconds:.1f} seconds, but its frames end after {end:.1f}. "
                    "Replace it with the complete file, if it was cut off."
                )

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its video stream; whatever PyAV raises meanwhile is the fault of the file."""
        # Titles and the like, which nobody reads here, may be in any encoding; PyAV 19 knows that by itself.
        any_title = {"metadata_errors": "replace"} if Version(self.av.__version__).major < 19 else {}
        try:
            # Given an open file and no protocol, FFmpeg opens nothing else: a playlist could name any file there is.
            options = {"protocol_whitelist": "none"}
            with open(self.name, "rb") as file, self.av.open(file, options=options, **any_title) as container:
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
            f"{self.name} is damaged or no video ({reason_of(reason)}). Replace it with the complete file."
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


def is_video_file(path: Path) -> bool:
    """Whether the name ends like a video file's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


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


def are_of_clips(masks: Any) -> bool:
    """Whether masks are those of the frames of clips: lists of masks in a list, or an array of four axes."""
    if isinstance(masks, np.ndarray | Tensor):
        return masks.ndim == 4
    first = masks[0] if isinstance(masks, list | tuple) and masks else None
    return isinstance(first, list | tuple) or (isinstance(first, np.ndarray | Tensor) and first.ndim == 3)


def _check_clip(clip: Any) -> None:
    if not isinstance(clip, Iterable | PathLike) or isinstance(clip, bytes | Mapping | Image.Image):
        raise TypeError(f"A clip is a list, an array or a tensor of frames, or a path, not {type(clip).__name__}.")


__all__ = ["VideoFrames", "are_of_clips", "as_clips", "is_one_clip", "is_video_file"]
