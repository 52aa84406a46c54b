"""What the demo page reads, and what systems answer to it: probabilities, of which a threshold makes masks later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..evaluation.shown_masks import shown_masks
from ..evaluation.systems import Answer, System, one_answer_each
from ..messages import counted
from ..modeling.inference_refseg import FrameMask
from ..modeling.picture_files_refseg import decode_upright
from ..modeling.video_refseg import VideoFrames

# Each has a color of its own and a switch on the page.
MAX_EXPRESSIONS = 20
# Pixels of all frames and expressions together: half a GiB of float32 for each system.
MAX_PIXELS = 2**27
# What is told of work that goes on: how much of it is done, 0 to 1, and what it is.
Report = Callable[[float, str], None]


class RequestError(ValueError):
    """Something on the page is missing or too much; the message says what to do."""


@dataclass(frozen=True)
class Subject:
    """A picture or a video that is to be segmented.

    Attributes:
        path: its file, of which messages tell the name alone.
        frames: the picture alone, RGB and upright; or the frames of the video, which are read each time anew.
        size: width and height in pixels.
    """

    path: Path
    frames: Sequence[Image.Image] | VideoFrames
    size: tuple[int, int]

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return isinstance(self.frames, VideoFrames)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a system answered.

    Attributes:
        subject: the picture or video.
        texts: the expressions.
        answers: for each frame an answer to each expression, at the frame's size.
        seconds: how long the system took for it.
    """

    subject: Subject
    texts: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]
    seconds: float

    def masks(self, threshold: float) -> Iterator[list[FrameMask]]:
        """For each frame a mask for each expression; the system is not asked again."""
        return (shown_masks(of_frame, threshold) for of_frame in self.answers)


def read_expressions(text: str | None) -> tuple[str, ...]:
    """The expressions of a text, one on each line; raises `RequestError` where there is none, or too many."""
    texts = tuple(filter(None, (" ".join(line.split()) for line in (text or "").splitlines())))
    if not texts:
        raise RequestError("There is nothing to look for: type what to segment, one expression on each line.")
    if len(texts) > MAX_EXPRESSIONS:
        raise RequestError(f"These are {len(texts)} expressions: ask for at most {MAX_EXPRESSIONS} at once.")
    return texts


def read_picture(path: str | Path | None) -> Subject:
    """A picture out of its file; raises `RequestError` where there is none, or it is damaged or too large."""
    if path is None:
        raise RequestError("There is no picture: upload or paste one, or pick an example.")
    path = Path(path)
    with naming_file_alone(path):
        picture = decode_upright(path, path.name)
    return Subject(path, (picture,), picture.size)


def read_video(path: str | Path | None) -> Subject:
    """A video out of its file, of which the first frame is read.

    Raises:
        RequestError: there is none, or it is damaged or too large.
        ImportError: PyAV is not installed.
    """
    if path is None:
        raise RequestError("There is no video: upload one, or pick an example.")
    path = Path(path)
    with naming_file_alone(path):
        frames = VideoFrames(path)
    return Subject(path, frames, frames.size)


@contextmanager
def naming_file_alone(path: Path) -> Iterator[None]:
    """A context that reads a file; raises `RequestError`, which tells no folder, for what is wrong with it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RequestError(str(error).replace(str(path), path.name)) from error


def segment(system: System, subject: Subject, texts: Sequence[str], report: Report) -> Segmentation:
    """Asks a system, the only time.

    Args:
        system: answers with probabilities or masks.
        subject: the picture or video.
        texts: one expression or more.
        report: is called before and, with a video, after each frame.

    Raises:
        RequestError: there is more than can be kept; the file is damaged; or the system is, and gives other numbers.
    """
    report(0.0, "begun")
    start = time.perf_counter()
    with naming_file_alone(subject.path):
        answers = tuple(_answers(system, subject, texts, report))
    return Segmentation(subject, tuple(texts), answers, time.perf_counter() - start)


def _answers(system: System, subject: Subject, texts: Sequence[str], report: Report) -> Iterator[tuple[Answer, ...]]:
    """For each frame one answer to each text."""
    most = MAX_PIXELS // (len(texts) * subject.size[0] * subject.size[1])
    frames = subject.frames
    if not isinstance(frames, VideoFrames):
        _require_room(most, 1, "picture", texts)
        (image,) = frames
        yield tuple(one_answer_each(system.name, system.segment(image, texts), len(texts)))
        return
    num_frames = frames.num_frames
    _require_room(most, num_frames or 1, "video", texts)
    found = system.segment_video(_counted_frames(subject, most, texts), texts)
    for number, of_frame in enumerate(found, start=1):
        report(number / (num_frames or most), f"frame {number}")
        yield tuple(one_answer_each(system.name, of_frame, len(texts)))


def _counted_frames(subject: Subject, most: int, texts: Sequence[str]) -> Iterator[Image.Image]:
    """The frames of a video, which does not tell beforehand how many there are."""
    for number, frame in enumerate(subject.frames, start=1):
        _require_room(most, number, "video", texts)
        yield frame


def _require_room(most: int, frames: int, kind: str, texts: Sequence[str]) -> None:
    if frames > most:
        raise RequestError(
            f"The {kind} has too many pixels for {counted(len(texts), 'expression')} at once: scale it down"
            f"{', take a shorter part of it' if kind == 'video' else ''}, or ask for less."
        )
