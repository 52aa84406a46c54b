"""Masks on videos as files: overlay videos, and folders of pictures whose colors tell the expressions apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps
from tqdm import tqdm

from ..files import in_place_of
from ..modeling.inference_refseg import FrameMask
from ..modeling.video_refseg import VideoFrames
from .layout import BACKGROUND
from .overlays import draw_masks

# What a folder of frames is played at: nothing in it tells.
DEFAULT_FRAMES_PER_SECOND = 25
# Expressions that one picture can tell apart, 0 being the background.
MAX_MASKS = 255
# The longest side of a picture that H.264 can hold.
MAX_SIDE = 16_384


def write_video_masks(
    frames: VideoFrames, answers: Iterable[Sequence[FrameMask]], labels: Sequence[str], folder: Path
) -> list[list[float]]:
    """Writes masks as `<folder>/00000.png`, `00001.png`, ... and, over the frames above a legend, `<folder>.mp4`.

    Pixels of the masks hold the number of the expression, see `number_masks`. One frame after the other is read, drawn
    and written; a progress bar counts them.

    Args:
        frames: the video.
        answers: for each frame a mask per label, as `segment_video` gives them.
        labels: 1 to 255 expressions, any text.
        folder: a folder that is not there yet.

    Returns:
        For each label the score on each frame, 0 where its mask is empty.

    Raises:
        OutputError: the disk is full; neither is then left behind.
        FileExistsError: another process has written the folder in the meantime.
    """
    scores: list[list[float]] = [[] for _ in labels]
    overlay_path = folder.with_name(f"{folder.name}.mp4")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        in_place_of(overlay_path) as partial_overlay,
        in_place_of(folder) as partial_folder,
        VideoWriter(partial_overlay, frames.frames_per_second) as overlay,
    ):
        partial_folder.mkdir()
        # `answers` has read the frames before: reading them again is cheaper than to keep those that wait for masks.
        pairs = zip(frames, answers, strict=True)
        progress = tqdm(pairs, desc=folder.name, total=frames.num_frames, unit="frame")
        for number, (frame, answer) in enumerate(progress):
            masks = [each.mask for each in answer]
            overlay.add(draw_masks(frame, masks, labels))
            number_masks(masks).save(partial_folder / f"{number:05}.png")
            for each, of_label in zip(answer, scores, strict=True):
                of_label.append(each.score)
    return scores


class VideoWriter:
    """A context that writes pictures of one size, one after the other, to an MP4 file.

    The video is H.264, or MPEG-4 where PyAV comes without that encoder. Odd widths and heights grow by a white pixel.

    Args:
        path: the file; any suffix.
        frames_per_second: `None` = `DEFAULT_FRAMES_PER_SECOND`.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: nothing was added, a picture is larger than a video can hold, or of another size than the first.
    """

    def __init__(self, path: Path, frames_per_second: float | None) -> None:
        try:
            import av
        except ImportError as error:
            raise ImportError("Writing videos needs PyAV: pip install 'hf_refseg[video]'.") from error
        self.av = av
        self.path = path
        self.rate = Fraction(frames_per_second or DEFAULT_FRAMES_PER_SECOND).limit_denominator(1001)
        self.size: tuple[int, int] | None = None

    def __enter__(self) -> VideoWriter:
        self.container = self.av.open(f"file:{self.path}", "w", format="mp4")
        return self

    def add(self, picture: Image.Image) -> None:
        """Writes the next picture, an RGB image."""
        if self.size is None:
            self._start(picture.size)
        if picture.size != self.size:
            raise ValueError(f"A picture of the video is {picture.size}, the first {self.size} (width, height).")
        even = ImageOps.expand(picture, (0, 0, picture.width % 2, picture.height % 2), fill=BACKGROUND)
        self.container.mux(self.stream.encode(self.av.VideoFrame.from_image(even)))

    def _start(self, size: tuple[int, int]) -> None:
        if max(size) > MAX_SIDE:
            raise ValueError(
                f"No video holds pictures of {size[0]} x {size[1]} pixels. Scale the video down, or pass fewer "
                "expressions."
            )
        self.size = size
        codec = "libx264" if "libx264" in self.av.codecs_available else "mpeg4"
        self.stream = self.container.add_stream(codec, rate=self.rate)
        self.stream.width, self.stream.height = size[0] + size[0] % 2, size[1] + size[1] % 2
        self.stream.pix_fmt = "yuv420p"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.container:
            if kind is None:
                if self.size is None:
                    raise ValueError("There is no video to write: no picture was added.")
                self.container.mux(self.stream.encode())


def number_masks(masks: Sequence[ArrayLike]) -> Image.Image:
    """One palette image of booleans (height, width): 1 in the first, 2 in the second, later ones cover earlier ones.

    The colors are those of DAVIS.

    Raises:
        ValueError: no mask or more than 255.
    """
    if not 1 <= len(masks) <= MAX_MASKS:
        raise ValueError(f"A palette image holds 1 to {MAX_MASKS} masks, got {len(masks)}.")
    numbers = np.zeros(np.asarray(masks[0]).shape, dtype=np.uint8)
    for number, mask in enumerate(masks, start=1):
        numbers[np.asarray(mask)] = number
    picture = Image.fromarray(numbers)
    picture.putpalette(davis_palette())
    return picture


def davis_palette() -> list[int]:
    """Red, green and blue of the 256 colors of DAVIS and PASCAL VOC, in a row.

    The bits of a number go to red, green and blue by turns, from the most significant bit of each down.
    """
    numbers = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    return colors.flatten().tolist()
