"""What the builders of video data sets share: a base class, checked names and pictures, masks and rows."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import DataFormatError, video_features
from hf_refseg.datasets_scripts.original_files import picture_size, read_picture
from hf_refseg.datasets_scripts.records import (
    AGAIN,
    fingerprint_files,
    fingerprint_states,
    require_characters,
    warn_of_repeats,
)
from hf_refseg.datasets_scripts.rows_builder import RowsBuilder
from hf_refseg.files import is_plain_name
from hf_refseg.messages import name_text, short_text

# The numbers in label pictures but 0, which is background. The last one are the pixels that annotators left open.
ALL_LABELS, VOID_LABEL = range(1, 256), 255


class VideoBuilder(RowsBuilder):
    """One row for each video, see `hf_refseg.data.rows.video_features`; frames are referenced by their path.

    A data set says which files it is made of (`annotation_files`, `mask_files`), which videos each split has
    (`read_videos`) and how a video becomes a row (`row`). All of them raise `DataFormatError`, which names file,
    record and remedy, for files that are absent, damaged or inconsistent. Only files of the `splits` that are made are
    looked at, none = all.
    """

    VERSION = datasets.Version("1.0.0")
    # Rows of embedded frames are large; a thousand of them (the default) would fill the memory.
    DEFAULT_WRITER_BATCH_SIZE = 20

    def __init__(self, data_dir: str, splits: tuple[str, ...] = (), **options: Any):
        fingerprint = self.fingerprint(Path(data_dir), splits)
        super().__init__(data_dir=data_dir, splits=splits, fingerprint=fingerprint, **options)

    @classmethod
    def annotation_files(cls, root: Path, splits: tuple[str, ...]) -> list[Path]:
        """The files that list videos and sentences."""
        raise NotImplementedError

    @classmethod
    def mask_files(cls, root: Path, splits: tuple[str, ...]) -> Iterable[Path]:
        """The files of the masks, and others whose content or presence decides the rows, in any order."""
        raise NotImplementedError

    @classmethod
    def fingerprint(cls, root: Path, splits: tuple[str, ...]) -> str:
        """A hash of what the annotation files hold and of the names, sizes and times of the many other files."""
        return fingerprint_files(cls.annotation_files(root, splits)) + fingerprint_states(
            root, cls.mask_files(root, splits)
        )

    def read_videos(self, root: Path) -> dict[str, list[Any]]:
        """The videos of each split, in the order of the splits."""
        raise NotImplementedError

    def row(self, video: Any) -> dict[str, Any]:
        """The row of one of the videos."""
        raise NotImplementedError

    def label_masks(
        self, frames: Sequence[Path], labels: Sequence[Path], where: str, objects: Container[int] = ALL_LABELS
    ) -> dict[int, list[dict[str, Any]]]:
        """The masks (run-length encodings) on all frames of each of the objects that is shown on some, by its number.

        There is one label picture for each frame. Raises `DataFormatError` for one that is absent, damaged or, unless
        masks are resized, of another size than its frame.
        """
        shown: list[dict[int, dict[str, Any]]] = []
        empty: list[dict[str, Any]] = []
        for frame, path in zip(frames, labels, strict=True):
            picture = self.fit_mask(read_labels(path, where), picture_size(frame, where), f"{path} ({where})")
            numbers = [number for number in np.unique(picture).tolist() if number in objects]
            shown.append({number: encode_mask(picture == number) for number in numbers})
            empty.append(encode_mask(np.zeros(picture.shape, dtype=bool)))
        return {
            number: [masks.get(number, nothing) for masks, nothing in zip(shown, empty, strict=True)]
            for number in sorted(set().union(*shown))
        }

    def label_referents(
        self, video_id: str, sentences: Mapping[int, list[dict[str, str]]], masks: Mapping[int, list], where: str
    ) -> list[dict[str, Any]]:
        """A referent for each object that has sentences; one that no label picture shows is left out, with a note."""
        for number in sorted(sentences.keys() - masks.keys()):
            self.findings.note(
                "objects that no label picture shows, left out with their sentences", f"{where}: object {number}"
            )
        return [
            make_referent(f"{video_id}_{number}", sentences[number], range(len(masks[number])), masks[number])
            for number in sentences
            if number in masks
        ]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=video_features())

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        splits = self.read_videos(Path(self.config.data_dir))
        if absent := [split for split in self.config.splits if split not in splits]:
            raise DataFormatError(
                f"{self.config.data_dir} has no videos of the split '{absent[0]}', only of {', '.join(splits)}. "
                "Download the files of that split as well, or leave it out of splits."
            )
        splits = {split: videos for split, videos in splits.items() if split in (self.config.splits or splits)}
        names = [video.video_id for videos in splits.values() for video in videos]
        warn_of_repeats(self.config.data_dir, "videos", names, "each of them is a row of every split that lists it")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"videos": tuple(videos)}) for split, videos in splits.items()
        ]

    def _generate_examples(self, videos: tuple[Any, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, video in enumerate(videos):
            with self.findings.skipping():
                yield index, self.row(video)


def checked_name(name: Any, where: str) -> str:
    """A name of a video or frame which is one plain part of a path: another one could publish a private file."""
    if not is_plain_name(name):
        raise DataFormatError(f"{where}: {short_text(name)} is no name of a video or frame. {AGAIN}")
    return name


def object_number(value: Any, where: str) -> int:
    """The number (1 to 255) of an object in label pictures, from a number or its digits."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= 255:
        raise DataFormatError(
            f"{where}: the object should be a number from 1 to 255, found {short_text(value)}. {AGAIN}"
        )
    return int(text)


def existing_frames(paths: Iterable[Path], where: str) -> list[Path]:
    """The paths as a list; raises `DataFormatError` when there is none, or for the first that is no file."""
    paths = list(paths)
    if not paths:
        raise DataFormatError(f"{where} has no frames. {AGAIN}")
    for path in paths:
        if not path.is_file():
            raise DataFormatError(
                f"{where}: its frame {path} does not exist. Download the frames of that video again."
            )
    return paths


def read_labels(path: Path, where: str) -> np.ndarray:
    """The object of every pixel (uint8, H x W), 0 = none: a picture's palette indices or its gray values.

    A gray picture of 0 and 255 alone, as DAVIS 2016 has them, shows one object, 1.
    """
    mode, labels = read_picture(path, where, lambda picture: (picture.mode, np.array(picture, dtype=np.uint8)))
    if mode not in ("P", "L", "1"):
        raise DataFormatError(
            f"{path} ({where}) is a picture of mode {mode}, expected object numbers as palette indices or gray "
            "values. Put the original annotation there."
        )
    if mode == "L" and set(np.unique(labels)) <= {0, 255}:
        labels[labels == 255] = 1
    return labels


def make_sentence(sent_id: str, text: Any, where: str, annotator: str = "") -> dict[str, str]:
    """A sentence of a row: `raw` as written, `sent` in lower case with single spaces."""
    if not isinstance(text, str) or not text.strip():
        raise DataFormatError(
            f"{where}: expression {name_text(sent_id)} should be a text, found {short_text(text)}. Write it, or "
            "remove it."
        )
    for value in (sent_id, text):
        require_characters(value, f"{where}: expression {name_text(sent_id)}")
    return {"sent_id": sent_id, "raw": text.strip(), "sent": " ".join(text.lower().split()), "annotator": annotator}


def make_referent(
    ref_id: str,
    sentences: list[dict[str, str]],
    annotated_frames: Sequence[int] = (),
    masks: Sequence[dict[str, Any]] = (),
    category: str = "",
) -> dict[str, Any]:
    """A referent of a row."""
    return {
        "ref_id": ref_id,
        "category": category,
        "annotated_frames": list(annotated_frames),
        "masks": list(masks),
        "sentences": sentences,
    }


def make_row(video_id: str, frame_names: list[str], frames: Iterable[Any], referents: list[dict]) -> dict[str, Any]:
    """A row; `frames` are paths, or dicts with the "bytes" of an embedded picture and the "path" that names it."""
    stored = [str(frame) if isinstance(frame, Path) else frame for frame in frames]
    return {"video_id": video_id, "frame_names": frame_names, "frames": stored, "referents": referents}
