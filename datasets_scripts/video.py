"""What the builders of video data sets share: a base class, checked names and pictures, masks and rows."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import DataFormatError, video_features
from hf_refseg.datasets_scripts.records import (
    AGAIN,
    fingerprint_files,
    list_folder,
    require_characters,
    warn_of_repeats,
)
from hf_refseg.datasets_scripts.rows_builder import RowsBuilder
from hf_refseg.files import is_plain_name
from hf_refseg.messages import name_text, one_line, short_text
from hf_refseg.modeling.pictures_refseg import PictureError, open_picture, picture_faults

logger = logging.getLogger(__name__)


class VideoBuilder(RowsBuilder):
    """One row for each video, see `hf_refseg.data.rows.video_features`; frames are referenced by their path.

    A data set says which files it is made of (`annotation_files`, `mask_files`), which videos each split has
    (`read_videos`) and how a video becomes a row (`row`). All of them raise `DataFormatError`, which names file,
    record and remedy, for files that are absent, damaged or inconsistent.
    """

    VERSION = datasets.Version("1.0.0")
    # Rows of embedded frames are large; a thousand of them (the default) would fill the memory.
    DEFAULT_WRITER_BATCH_SIZE = 20

    def __init__(self, data_dir: str, **options: Any):
        super().__init__(data_dir=data_dir, fingerprint=self.fingerprint(Path(data_dir)), **options)

    @classmethod
    def annotation_files(cls, root: Path) -> list[Path]:
        """The files that list videos and sentences."""
        raise NotImplementedError

    @classmethod
    def mask_files(cls, root: Path) -> Iterable[Path]:
        """The files of the masks, and others whose content the rows hold, in any order."""
        raise NotImplementedError

    @classmethod
    def fingerprint(cls, root: Path) -> str:
        """A hash of what the annotation files hold and of the names, sizes and times of the many other files."""
        digest = hashlib.sha256(fingerprint_files(cls.annotation_files(root)).encode())
        for path in sorted(cls.mask_files(root)):
            state = path.stat()
            digest.update(f"{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def read_videos(self, root: Path) -> dict[str, list[Any]]:
        """The videos of each split, in the order of the splits."""
        raise NotImplementedError

    def row(self, video: Any) -> dict[str, Any]:
        """The row of one of the videos."""
        raise NotImplementedError

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


def require_file(path: Path, root: Path, expected: str) -> Path:
    """The path; raises `DataFormatError` with the `expected` layout when there is no such file."""
    if not path.is_file():
        raise DataFormatError(
            f"{path} does not exist. Expected {expected} under {root}; found {list_folder(root)}. Point data_dir at "
            "the folder that holds them, or download what is missing."
        )
    return path


def read_text(path: Path) -> str:
    """A text in UTF-8 or, as older Windows editors write it, in code page 1252; raises `DataFormatError` otherwise."""
    content = path.read_bytes()
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeError:
            continue
    raise DataFormatError(f"{path} is no text. Download the file again.")


def checked_name(name: Any, where: str) -> str:
    """A name of a video or frame which is one plain part of a path: another one could publish a private file."""
    if not is_plain_name(name):
        raise DataFormatError(f"{where}: {short_text(name)} is no name of a video or frame. {AGAIN}")
    return name


def checked_path(folder: Path, name: Any, prefix: str, where: str) -> Path:
    """A relative path of a record, which may begin with `prefix`, inside `folder`; one that leads out is refused."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if ".." in parts:
        raise DataFormatError(f"{where}: the path {short_text(name)} leads out of {folder}. {AGAIN}")
    if not parts or not all(map(is_plain_name, parts)):
        raise DataFormatError(f"{where}: {short_text(name)} is no path inside the data folder {folder}. {AGAIN}")
    return folder.joinpath(*(parts[1:] if parts[:1] == (prefix,) else parts))


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


def picture_size(path: Path, where: str) -> tuple[int, int]:
    """Height and width of a picture, by its header."""
    return read_picture(path, where, lambda picture: (picture.height, picture.width))


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


def label_masks(
    frames: Sequence[Path], labels: Sequence[Path], objects: Iterable[int], where: str
) -> dict[int, list[dict[str, Any]]]:
    """For each object its masks (run-length encodings) on all frames, from one label picture per frame.

    An object which none of them shows is left out with a warning. Raises `DataFormatError` for a label picture that is
    absent, damaged or of another size than its frame.
    """
    masks: dict[int, list[dict[str, Any]]] = {number: [] for number in objects}
    seen: set[int] = set()
    for frame, path in zip(frames, labels, strict=True):
        picture = read_labels(path, where)
        check_size(path, picture.shape, picture_size(frame, where), where)
        seen.update(np.unique(picture).tolist())
        for number in masks:
            masks[number].append(encode_mask(picture == number))
    for number in sorted(masks.keys() - seen):
        logger.warning(
            one_line(
                f"{where}: object {number} is in none of the label pictures in {labels[0].parent}; its sentences are "
                "left out."
            )
        )
        del masks[number]
    return masks


def check_size(path: Path, mask: tuple[int, ...], frame: tuple[int, int], where: str) -> None:
    """Raises `DataFormatError` unless the mask in the file `path` has the size (H, W) of its frame."""
    if tuple(mask) != frame:
        raise DataFormatError(
            f"{path} ({where}): the mask is {' x '.join(map(str, mask))} (height x width), its frame "
            f"{frame[0]} x {frame[1]}. Use the frames that were annotated, in their original size."
        )


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


def read_picture(path: Path, where: str, read: Callable[[Image.Image], Any]) -> Any:
    """What `read` makes of a picture that is opened, but not decoded yet."""
    try:
        with picture_faults(), open_picture(path) as picture:
            return read(picture)
    except FileNotFoundError as error:
        raise DataFormatError(f"{path} ({where}) does not exist. Download it.") from error
    except PictureError as error:
        raise DataFormatError(
            f"{path} ({where}) cannot be read as a picture: it is {error}. Download it again."
        ) from error
