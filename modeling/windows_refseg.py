"""How the frames of a video of any length form clips that overlap, in bounded memory; without torch."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from PIL import Image

Frame = TypeVar("Frame")


class ClipReader(Protocol[Frame]):
    """What reads clips of `length` frames, each of which begins with the last `overlap` ones of the clip before."""

    @property
    def length(self) -> float: ...

    @property
    def overlap(self) -> int: ...

    def prepare(self, frame: Image.Image) -> Frame:
        """What is kept of a frame until no further clip holds it."""

    def add_clip(self, frames: Sequence[Frame]) -> None:
        """Adds to each of the frames, at most `length`, what the clip that they make says of it."""


def slide(reader: ClipReader[Frame], frames: Iterable[Image.Image]) -> Iterator[Frame]:
    """The frames in order, each as soon as no later clip touches it; the last clip ends with the video."""
    length, overlap = reader.length, reader.overlap
    recent: deque[Frame] = deque()
    unseen = 0  # how many of the recent frames no clip has held yet
    for frame in frames:
        # One more frame, so that even the last clip starts behind the oldest one.
        if len(recent) == length:
            yield recent.popleft()
        recent.append(reader.prepare(frame))
        unseen += 1
        if len(recent) == length and unseen >= length - overlap:
            reader.add_clip(recent)
            unseen = 0
    if unseen:
        reader.add_clip(recent)
    while recent:
        yield recent.popleft()


def usual_overlap(length: int | None) -> int:
    """How many frames neighboring clips share where nothing says so; None = the whole video is one clip."""
    return 8 if length is None else min(8, length // 2)


__all__ = ["ClipReader", "slide", "usual_overlap"]
