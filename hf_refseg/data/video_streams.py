"""Examples of videos that are streamed: their referents as clips or frames to train on, and whole videos to score."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import datasets

from .clips import check_num_frames, check_video_columns, draw_clip, draw_frame, item_of_video
from .examples import fingerprint
from .streams import StreamedExamples, read_rows

# Videos among whose referents the next one is drawn, with all of their frames as they are stored.
SHUFFLED_VIDEOS = 32


class StreamedFrames(StreamedExamples):
    """For training: the items of `FrameExamples`, as `StreamedExamples` says; nodes and workers share videos.

    Referents are drawn among the videos in memory. Sentence and frame of a referent depend on seed, epoch, video and
    referent alone. Raises `DataFormatError` when a column is missing and, on access, as `read_rows` and
    `FrameExamples`.
    """

    unit = "referent with a sentence and an annotated frame: choose a split with masks, such as train"

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        seed: int = 0,
        rank: int = 0,
        nodes: int = 1,
        buffer_size: int = SHUFFLED_VIDEOS,
    ) -> None:
        super().__init__(undecoded_videos(dataset.reshard()), seed, rank, nodes, buffer_size)

    def items_of_epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        order = random.Random(f"{self.seed}-{epoch}")
        for row, referent in draw_referents(self.rows_of_epoch(order, 1), self.buffer_size, order):
            generator = random.Random(f"{self.seed}-{epoch}-{row['video_id']}-{referent['ref_id']}")
            yield self.draw(row, referent, generator)

    def draw(self, row: dict[str, Any], referent: dict[str, Any], generator: random.Random) -> dict[str, Any]:
        """The item of a referent."""
        return draw_frame(row, referent, generator)


class StreamedClips(StreamedFrames):
    """For training: the items of `ClipExamples`, clips of `num_frames` frames, otherwise as `StreamedFrames`.

    Raises ValueError for less than one frame or more than `MAX_FRAMES`.
    """

    def __init__(self, dataset: datasets.IterableDataset, num_frames: int, *arguments: Any, **options: Any) -> None:
        check_num_frames(num_frames)
        super().__init__(dataset, *arguments, **options)
        self.num_frames = num_frames

    def draw(self, row: dict[str, Any], referent: dict[str, Any], generator: random.Random) -> dict[str, Any]:
        return draw_clip(row, referent, generator, self.num_frames)


class StreamedVideos:
    """For evaluation: the items of `VideoExamples`, in their order.

    Raises `DataFormatError` when a column is missing and, on access, as `read_rows` and `VideoExamples`.
    """

    def __init__(self, dataset: datasets.IterableDataset) -> None:
        self.rows = undecoded_videos(dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, self.keys())

    def keys(self) -> Iterator[dict[str, Any]]:
        """What each item is read by, in order: its row, of which no frame is decoded."""
        return read_rows(self.rows)

    def __getitem__(self, key: dict[str, Any]) -> dict[str, Any]:
        return item_of_video(key)

    def fingerprint(self, key: dict[str, Any]) -> str:
        """A hash of all that the row says of an item, without the frames."""
        return fingerprint({name: key[name] for name in key if name != "frames"})


def undecoded_videos(dataset: datasets.IterableDataset) -> datasets.IterableDataset:
    """The stream with frames as bytes; raises `DataFormatError` when a column is missing."""
    check_video_columns(dataset)
    return dataset.cast_column("frames", datasets.List(datasets.Image(decode=False)))


def draw_referents(
    rows: Iterator[dict[str, Any]], buffer_size: int, order: random.Random
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each referent with a sentence and an annotated frame, with its row, out of `buffer_size` videos at a time.

    The next referent is one of a drawn video, so that those of one video do not come one after the other.
    """
    described = (
        (row, [each for each in row["referents"] if each["sentences"] and each["annotated_frames"]]) for row in rows
    )
    waiting = filter(lambda pair: pair[1], described)
    held: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    while True:
        held += islice(waiting, buffer_size - len(held))
        if not held:
            return
        place = order.randrange(len(held))
        row, referents = held[place]
        yield row, referents.pop(order.randrange(len(referents)))
        if not referents:
            del held[place]
