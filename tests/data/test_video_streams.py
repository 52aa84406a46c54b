"""Streamed videos and their examples: the same as those that are loaded, shared out, and shuffled."""

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader, IterableDataset

from hf_refseg.data.clips import ClipExamples, FrameExamples, VideoExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError, InvalidRowError
from hf_refseg.data.video_streams import StreamedClips, StreamedFrames, StreamedVideos

SIZES = {"train_size": 6, "val_size": 2, "test_size": 1, "image_size": 64, "num_frames": 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos to train on, in three files."""
    root = tmp_path_factory.mktemp("videos")
    return prepare_dataset(
        "refshapes_video", None, root / "shapes", max_shard_rows=2, cache_dir=str(root / "cache"), **SIZES
    )


@pytest.fixture(scope="module")
def train(prepared: Path) -> datasets.IterableDataset:
    return load_refseg(str(prepared), streaming=True)["train"]


@pytest.fixture(scope="module")
def loaded(prepared: Path) -> datasets.Dataset:
    return load_refseg(str(prepared), cache_dir=str(prepared.parent / "read"))["train"]


def names(examples: StreamedFrames, epoch: int = 0) -> list[tuple[str, str]]:
    """Video and referent of the items of an epoch."""
    items = ((item.get("video_id", item.get("image_id")), item["ref_id"]) for item in examples.items_of_epoch(epoch))
    return [(video.split("/")[0], referent) for video, referent in items]


@pytest.fixture(scope="module")
def all_names(loaded: datasets.Dataset) -> list[tuple[str, str]]:
    items = map(ClipExamples(loaded, 2).__getitem__, range(len(ClipExamples(loaded, 2))))
    return sorted((item["video_id"], item["ref_id"]) for item in items)


def test_streamed_clips_and_frames_are_those_of_the_referents(train, loaded, all_names) -> None:
    clips = {(item["video_id"], item["ref_id"]): item for item in StreamedClips(train, 3).items_of_epoch(0)}
    assert sorted(clips) == all_names
    for item in map(ClipExamples(loaded, 3).__getitem__, range(len(all_names))):
        streamed = clips[item["video_id"], item["ref_id"]]
        assert streamed.keys() == item.keys() and len(streamed["frames"]) == 3
        assert streamed["masks"].shape == item["masks"].shape and streamed["annotated"].any()
    # All frames of a video are one clip, in which only the sentence is drawn.
    whole = {(item["video_id"], item["ref_id"]): item for item in StreamedClips(train, 4).items_of_epoch(0)}
    for item in map(ClipExamples(loaded, 4).__getitem__, range(len(all_names))):
        streamed = whole[item["video_id"], item["ref_id"]]
        assert streamed["frames"] == item["frames"] and np.array_equal(streamed["masks"], item["masks"])
    (frame, *_), expected = StreamedFrames(train).items_of_epoch(0), FrameExamples(loaded)[0]
    assert frame.keys() == expected.keys() and frame["image"].size == expected["image"].size
    assert sorted(names(StreamedFrames(train))) == all_names


def test_the_order_and_what_is_drawn_follow_from_seed_and_epoch(train, all_names) -> None:
    def drawn(seed: int, epoch: int) -> list[tuple[str, str, str]]:
        items = StreamedFrames(train, seed).items_of_epoch(epoch)
        return [(item["image_id"], item["ref_id"], item["sent_id"]) for item in items]

    first = drawn(3, 0)
    assert drawn(3, 0) == first
    for other in (drawn(3, 1), drawn(4, 0)):
        assert sorted(name for _, name, _ in other) == sorted(name for _, name, _ in first)
        assert [name for _, name, _ in other] != [name for _, name, _ in first]
        assert sorted(other) != sorted(first)


def test_referents_of_one_video_do_not_follow_each_other(train, all_names) -> None:
    """One video at a time is read to its end; of several the next one is drawn."""

    def changes(buffer_size: int) -> int:
        videos = [video for video, _ in names(StreamedClips(train, 2, buffer_size=buffer_size))]
        assert len(videos) == len(all_names)
        return sum(first != second for first, second in pairwise(videos))

    assert changes(1) == 5 < changes(6)


@pytest.mark.parametrize("nodes", [2, 3])
def test_nodes_see_videos_of_their_own_that_make_the_whole(train, all_names, nodes) -> None:
    """Three files divide evenly among three nodes; of two nodes each takes every other video."""
    parts = [names(StreamedClips(train, 2, rank=rank, nodes=nodes)) for rank in range(nodes)]
    assert sorted(chain.from_iterable(parts)) == all_names
    assert {len({video for video, _ in part}) for part in parts} == {6 // nodes}
    drawn = [
        {item["ref_id"]: item["sent_id"] for item in StreamedClips(train, 2, 0, rank, nodes).items_of_epoch(0)}
        for rank, nodes in [(0, 1), *((rank, nodes) for rank in range(nodes))]
    ]
    assert dict(chain.from_iterable(part.items() for part in drawn[1:])) == drawn[0]


class OneEpoch(IterableDataset):
    """The referents of an epoch, as each worker process of a DataLoader sees its own."""

    def __init__(self, examples: StreamedFrames) -> None:
        self.examples = examples

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from names(self.examples)


def test_workers_see_videos_of_their_own(train, all_names) -> None:
    workers = DataLoader(OneEpoch(StreamedClips(train, 2)), None, num_workers=2)
    assert sorted(map(tuple, workers)) == all_names


def test_streamed_videos_are_those_that_are_loaded(prepared, loaded) -> None:
    stream = load_refseg(str(prepared), streaming=True)["train"]
    pairs = zip(StreamedVideos(stream), VideoExamples(loaded), strict=True)
    for streamed, expected in pairs:
        frames, wanted = list(streamed.pop("frames")), list(expected.pop("frames"))
        assert streamed == expected and frames == wanted


def test_a_stream_without_end_says_where_nothing_is_annotated(train, loaded, all_names) -> None:
    examples = iter(StreamedClips(train, 2))
    epochs = [sorted(next(examples)["ref_id"] for _ in all_names) for _ in range(2)]
    assert epochs == [sorted(ref_id for _, ref_id in all_names)] * 2

    def without_masks(row: dict) -> dict:
        return {"referents": [{**each, "annotated_frames": [], "masks": []} for each in row["referents"]]}

    unlabeled = train.map(without_masks, features=train.features)
    with pytest.raises(ValueError, match="finds no referent with a sentence and an annotated frame: choose a split"):
        next(iter(StreamedClips(unlabeled, 2)))


def test_what_is_no_video_or_has_gaps_is_named(train) -> None:
    with pytest.raises(ValueError, match="num_frames is 0"):
        StreamedClips(train, 0)
    for stream in (StreamedFrames, StreamedVideos):
        with pytest.raises(DataFormatError, match=r"no column frame_names.*Load a video data set"):
            stream(train.remove_columns("frame_names"))
        for column in ("frames", "referents"):
            gaps = train.map(lambda row, name=column: {name: None}, features=train.features)
            with pytest.raises(InvalidRowError, match=rf"Row train-\S+ has no {column}. Remove it"):
                next(iter(stream(gaps)))
