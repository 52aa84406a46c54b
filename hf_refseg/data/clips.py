"""Rows of a video data set as clips and frames to train on and as videos to evaluate on, and the collator of clips."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from hf_refseg.data.examples import (
    DrawnExamples,
    checked_sentences,
    decode_row_mask,
    fingerprint,
    open_image,
    open_mask,
)
from hf_refseg.data.rows import MAX_FRAMES, VOID, DataFormatError, InvalidRowError, video_features
from hf_refseg.messages import name_text, short_text
from hf_refseg.modeling.losses_refseg import NOT_ANNOTATED

# How far the nearest other frames of a clip lie from its target frame (recipe of LAVT's journal version).
NEIGHBOR_DISTANCES = range(1, 4)


class _VideoReferents(DrawnExamples):
    """One item per referent with a sentence and an annotated frame; what is drawn depends on seed, epoch and index."""

    def __init__(self, dataset: datasets.Dataset, seed: int = 0):
        super().__init__(seed)
        self.rows = VideoRows(dataset)
        self._places = self.rows.annotated_referents()
        if len(self.rows) and not len(self._places):
            raise DataFormatError(
                "The data set has no annotated frame to train on. Choose a split with masks, such as train."
            )

    def __len__(self) -> int:
        return len(self._places)

    def _referent(self, index: int) -> tuple[dict[str, Any], dict[str, Any], random.Random]:
        """The row, the referent, and what to draw the item with."""
        index = range(len(self))[index]
        row_index, place = self._places[index]
        row = self.rows[int(row_index)]
        return row, row["referents"][place], self.generator_of(index)


class ClipExamples(_VideoReferents):
    """For training: one item per referent that has an annotated frame, a clip of `num_frames` frames.

    A clip has a target frame, drawn among the annotated ones, one frame 1 to 3 before it, one 1 to 3 after it and
    random others of the video, in order, without repetition; at the ends of the video random ones take the place of
    those that do not exist. A video of fewer frames is one whole clip whose last frame is repeated. A clip whose
    annotated frames all have an empty mask is drawn again, once, around a frame that shows the target; where no
    annotated frame does, as of sentences without any target, it stays. Sentence and frames depend on nothing but
    `seed`, the epoch and the index; `set_epoch` as in `ReferentExamples`.

    An item is {"frames": list of PIL images (RGB), "text": str (the raw sentence), "masks": bool (num_frames, H, W),
    "annotated": bool (num_frames,), "video_id": str, "ref_id": str, "sent_id": str}; the masks of frames that are not
    annotated are empty and mean nothing. The target frame is annotated, so at least one frame of each clip is.

    Raises `DataFormatError` when a column is missing or nothing is annotated, `ValueError` for less than one frame
    or more than `MAX_FRAMES` and, on access, `InvalidRowError` or `InvalidMaskError` for a row whose frames, sentence
    or masks are unusable.
    """

    def __init__(self, dataset: datasets.Dataset, num_frames: int, seed: int = 0):
        check_num_frames(num_frames)
        super().__init__(dataset, seed)
        self.num_frames = num_frames

    def __getitem__(self, index: int) -> dict[str, Any]:
        return draw_clip(*self._referent(index), self.num_frames)


class FrameExamples(_VideoReferents):
    """For training an image method on videos: one item per referent, on one of its annotated frames.

    Sentence and frame are drawn as in `ClipExamples`, which has as many items, but a frame that does not show the
    target stays: such frames teach an image method when to answer with nothing. An item has the form of those of
    `ReferentExamples`; its "image_id" is "<video id>/<frame name>", and "no_target" tells an empty mask. Errors as in
    `ClipExamples`.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        return draw_frame(*self._referent(index))


class VideoExamples(Dataset):
    """For evaluation: one item per video, with all of its sentences; no frame is opened and no mask decoded.

    An item is {"video_id": str, "frame_names": list[str], "frames": `RowFrames`} and lists with one entry per
    sentence: "texts" (raw), "ref_ids", "sent_ids", "annotators", "annotated_frames" (ascending numbers of frames)
    and "masks" (as many run-length encodings, for `decode_mask`); sentences of one referent share the last two.
    Objects that nobody describes are in "undescribed", with their "ref_id", "annotated_frames" and "masks"; "void" is
    a dict from numbers of frames to the masks of the pixels there that annotators left open.

    Raises `DataFormatError` when a column is missing and, on access, `InvalidRowError` for an empty sentence and for
    annotations of frames that do not exist.
    """

    def __init__(self, dataset: datasets.Dataset):
        self.rows = VideoRows(dataset)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return item_of_video(self.rows[range(len(self))[index]])

    def keys(self) -> Iterable[int]:
        """What each item is read by, in order."""
        return range(len(self))

    def fingerprint(self, key: int) -> str:
        """A hash of all that the rows say of an item, without the frames."""
        return fingerprint(self.rows.without_frames(key))


class VideoRows(Sequence[dict[str, Any]]):
    """The rows of a video data set with frames as bytes or paths: reading a row opens none of them.

    Raises `DataFormatError` when a column is missing.
    """

    def __init__(self, dataset: datasets.Dataset):
        check_video_columns(dataset)
        # Casting a list of images to undecoded ones would copy the data set.
        self._tables = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._tables)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        return self._tables[places].to_pylist()[0]

    def without_frames(self, index: int) -> dict[str, Any]:
        """A row but its frames."""
        return self._tables.remove_columns("frames")[index].to_pylist()[0]

    def annotated_referents(self) -> np.ndarray:
        """Row and place in it of every referent with a sentence and an annotated frame (int64, referents x 2)."""
        places, annotated = self._described_referents()
        return places[annotated > 0]

    def described_referents(self) -> np.ndarray:
        """Row and place in it of every referent with a sentence (int64, referents x 2)."""
        return self._described_referents()[0]

    def _described_referents(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and place in it of every referent with a sentence, and how many annotated frames it has."""
        import pyarrow.compute as compute

        places, numbers, first_row = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.int64)], 0
        # As Python objects the masks of a whole data set would fill the memory.
        for table in self._tables.select_columns("referents").iter(batch_size=100):
            for referents in table["referents"].chunks:
                counts = compute.list_value_length(referents).to_numpy()
                fields = [referents.flatten().field(name) for name in ("sentences", "annotated_frames")]
                sentences, annotated = (compute.list_value_length(field).to_numpy() for field in fields)
                row_numbers = np.repeat(np.arange(first_row, first_row + len(counts)), counts)
                starts = np.repeat(np.cumsum(counts) - counts, counts)
                both = np.stack([row_numbers, np.arange(len(annotated)) - starts], axis=1)
                places.append(both[sentences > 0])
                numbers.append(annotated[sentences > 0])
                first_row += len(counts)
        return np.concatenate(places), np.concatenate(numbers)


class RowFrames(Sequence[Image.Image]):
    """The frames of a row of `VideoRows` as RGB images (PIL), each opened anew when it is asked for.

    Like the images of `ReferentExamples` they stay in the orientation in which their pixels are stored. Raises
    `InvalidRowError` for a frame that is missing or damaged.
    """

    def __init__(self, row: dict[str, Any]):
        self._row = row

    def __len__(self) -> int:
        return len(self._row["frames"])

    @overload
    def __getitem__(self, number: int) -> Image.Image: ...
    @overload
    def __getitem__(self, number: slice) -> list[Image.Image]: ...
    def __getitem__(self, number: int | slice) -> Image.Image | list[Image.Image]:
        places = range(len(self))[number]
        if isinstance(places, range):
            return [self[place] for place in places]
        return open_image(_as_image_row(self._row, None, places, None))


@dataclass(frozen=True)
class ClipCollator:
    """Turns items of `ClipExamples` into a batch that a model takes; all clips have the same number of frames.

    Calls `processor(videos=..., text=..., segmentation_maps=..., return_tensors="pt")`, which gives `pixel_values`
    (B, T, 3, H, W), `input_ids`, `attention_mask` and `mask_labels` (B, T, H, W); there a frame that is not annotated
    becomes -100 all over. Raises `ValueError` for clips of different lengths.
    """

    processor: Callable[..., Any]

    def __call__(self, items: Iterable[dict[str, Any]]) -> Any:
        items = list(items)
        lengths = sorted({len(item["frames"]) for item in items})
        if len(lengths) > 1:
            raise ValueError(f"The clips of a batch have {lengths} frames. Make batches of clips of one length.")
        batch = self.processor(
            videos=[item["frames"] for item in items],
            text=[item["text"] for item in items],
            segmentation_maps=[item["masks"] for item in items],
            return_tensors="pt",
        )
        annotated = torch.from_numpy(np.stack([item["annotated"] for item in items]))
        batch["mask_labels"][~annotated] = NOT_ANNOTATED
        return batch


def check_num_frames(num_frames: int) -> None:
    """Raises ValueError for a number of frames that no clip has."""
    if not 1 <= num_frames <= MAX_FRAMES:
        raise ValueError(f"num_frames is {num_frames}; a clip has 1 to {MAX_FRAMES} frames.")


def check_video_columns(dataset: datasets.Dataset | datasets.IterableDataset) -> None:
    """Raises `DataFormatError` where a column of a video data set is missing."""
    missing = [name for name in video_features() if name not in dataset.column_names]
    if missing:
        raise DataFormatError(
            f"The data set has no column {', '.join(missing)}; found {', '.join(dataset.column_names)}. "
            "Load a video data set with hf_refseg.data.loading.load_refseg."
        )


def draw_clip(row: dict[str, Any], referent: dict[str, Any], drawn: random.Random, num_frames: int) -> dict[str, Any]:
    """An item of `ClipExamples`, of a referent with a sentence and an annotated frame; `drawn` draws its parts."""
    sentence, target = _draw_sentence_and_target(row, referent, drawn)
    chosen = _choose_frames(row, referent, target, num_frames, drawn)
    frames = RowFrames(row)
    images = [frames[number] for number in chosen]
    annotated = set(referent["annotated_frames"])
    masks = np.zeros((num_frames, images[0].height, images[0].width), dtype=bool)
    for place, number in enumerate(chosen):
        if images[place].size != images[0].size:
            raise InvalidRowError(
                f"Frame {name_text(row['frame_names'][number])} of video {name_text(row['video_id'])} has another "
                "size than the others. Put the original frame there."
            )
        if number in annotated:
            masks[place] = open_frame_mask(row, referent, number, images[place])
    return {
        "frames": images,
        "text": sentence["raw"],
        "masks": masks,
        "annotated": np.array([number in annotated for number in chosen]),
        "video_id": row["video_id"],
        "ref_id": referent["ref_id"],
        "sent_id": sentence["sent_id"],
    }


def _choose_frames(
    row: dict[str, Any], referent: dict[str, Any], target: int, num_frames: int, drawn: random.Random
) -> list[int]:
    """The numbers of the frames of a clip around the target frame, or around one that shows the target."""
    length = len(row["frames"])
    chosen = choose_clip(length, target, num_frames, drawn)
    annotated = referent["annotated_frames"]
    if any(shows_target(row, referent, number) for number in annotated if number in chosen):
        return chosen
    shown = [number for number in annotated if shows_target(row, referent, number)]
    return choose_clip(length, drawn.choice(shown), num_frames, drawn) if shown else chosen


def draw_frame(row: dict[str, Any], referent: dict[str, Any], drawn: random.Random) -> dict[str, Any]:
    """An item of `FrameExamples`, as `draw_clip` draws one of `ClipExamples`."""
    sentence, target = _draw_sentence_and_target(row, referent, drawn)
    image = RowFrames(row)[target]
    mask = open_frame_mask(row, referent, target, image)
    return {
        "image": image,
        "text": sentence["raw"],
        "mask": mask,
        "image_id": f"{row['video_id']}/{row['frame_names'][target]}",
        "ref_id": referent["ref_id"],
        "sent_id": sentence["sent_id"],
        "no_target": not mask.any(),
    }


def _draw_sentence_and_target(
    row: dict[str, Any], referent: dict[str, Any], drawn: random.Random
) -> tuple[dict[str, str], int]:
    sentences = checked_sentences(referent)
    check_annotations(row, referent)
    return drawn.choice(sentences), drawn.choice(referent["annotated_frames"])


def item_of_video(row: dict[str, Any]) -> dict[str, Any]:
    """An item of `VideoExamples`."""
    item = {"video_id": row["video_id"], "frame_names": row["frame_names"], "frames": RowFrames(row)}
    item |= {name: [] for name in ("texts", "ref_ids", "sent_ids", "annotators", "annotated_frames", "masks")}
    item |= {"undescribed": [], "void": {}}
    for referent in row["referents"]:
        check_annotations(row, referent)
        if not referent["sentences"] and referent["category"] == VOID:
            item["void"] |= zip(referent["annotated_frames"], referent["masks"], strict=True)
            continue
        if not referent["sentences"]:
            # It is there to be compared with, not to be asked for.
            item["undescribed"].append({name: referent[name] for name in ("ref_id", "annotated_frames", "masks")})
            continue
        for sentence in checked_sentences(referent):
            item["texts"].append(sentence["raw"])
            item["ref_ids"].append(referent["ref_id"])
            item["sent_ids"].append(sentence["sent_id"])
            item["annotators"].append(sentence["annotator"])
            item["annotated_frames"].append(referent["annotated_frames"])
            item["masks"].append(referent["masks"])
    return item


def choose_clip(video_length: int, target: int, num_frames: int, drawn: random.Random) -> list[int]:
    """The numbers of a clip's frames, ascending, as `ClipExamples` says; `drawn` draws them."""
    if video_length <= num_frames:
        return [*range(video_length), *[video_length - 1] * (num_frames - video_length)]
    before = [target - distance for distance in NEIGHBOR_DISTANCES if target - distance >= 0]
    after = [target + distance for distance in NEIGHBOR_DISTANCES if target + distance < video_length]
    neighbors = [drawn.choice(side) for side in (before, after) if side]
    # A clip of two frames has room for one neighbor alone.
    chosen = {target, *drawn.sample(neighbors, min(len(neighbors), num_frames - 1))}
    others = [number for number in range(video_length) if number not in chosen]
    return sorted([*chosen, *drawn.sample(others, num_frames - len(chosen))])


def check_annotations(row: dict[str, Any], referent: dict[str, Any]) -> None:
    """Raises `InvalidRowError` unless the annotated frames exist, ascend and have one mask each."""
    numbers = referent["annotated_frames"]
    ascending = all(first < second for first, second in pairwise(numbers))
    inside = not numbers or (numbers[0] >= 0 and numbers[-1] < len(row["frames"]))
    if not (ascending and inside and len(numbers) == len(referent["masks"])):
        raise InvalidRowError(
            f"Referent {name_text(referent['ref_id'])} of video {name_text(row['video_id'])} has "
            f"{len(referent['masks'])} masks for the frames {short_text(numbers)} of {len(row['frames'])}. "
            "Correct the row: ascending numbers from 0, a mask for each."
        )


def shows_target(row: dict[str, Any], referent: dict[str, Any], number: int) -> bool:
    """Whether a referent has a mask that is not empty on an annotated frame; raises `InvalidMaskError`."""
    rle = referent["masks"][referent["annotated_frames"].index(number)]
    return bool(decode_row_mask(_as_image_row(row, referent, number, rle)).any())


def open_frame_mask(row: dict[str, Any], referent: dict[str, Any], number: int, image: Image.Image) -> np.ndarray:
    """The mask of a referent on an annotated frame, bool (H, W), of the image's size; errors as `open_mask`."""
    rle = referent["masks"][referent["annotated_frames"].index(number)]
    return open_mask(_as_image_row(row, referent, number, rle), image)


def _as_image_row(row: dict[str, Any], referent: dict[str, Any] | None, number: int, mask: Any) -> dict[str, Any]:
    """One frame in the form of a row of an image data set, as which it is opened and named in errors."""
    name = f"{referent['ref_id']} of " if referent else ""
    return {
        "ref_id": f"{name}{row['video_id']} (frame {row['frame_names'][number]})",
        "image": row["frames"][number],
        "mask": mask,
    }
