"""A2D-Sentences from its original files: three to five annotated frames per video, each with those around it."""

from __future__ import annotations

import io
import logging
import math
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_refseg.data.masks import MAX_PIXELS, encode_mask
from hf_refseg.data.rows import MAX_FRAMES, DataFormatError
from hf_refseg.datasets_scripts.original_files import picture_size, read_csv, read_lines, require_file
from hf_refseg.datasets_scripts.records import AGAIN, list_folder, warn_of_repeats
from hf_refseg.datasets_scripts.rows_builder import RowsConfig
from hf_refseg.datasets_scripts.video import VideoBuilder, checked_name, make_referent, make_row, make_sentence
from hf_refseg.messages import name_text, one_line, short_text

SPLITS = {"0": "train", "1": "test"}
# A line of the released file that repeats another one.
COPIED_INSTANCE = ("T6bNPuKV-wY", "1 (copy)")
# Filters of HDF5 by their numbers: the one that packs, and those that are known, deflate, shuffle and fletcher32.
DEFLATE = 1
FILTERS = {DEFLATE, 2, 3}
FRAME_ENDINGS = (".jpg", ".png")
JPEG_QUALITY = 95

# For every annotated frame its file and the mask (bool, H x W) of every instance.
Annotations = dict[int, tuple[Path, dict[int, np.ndarray]]]

logger = logging.getLogger(__name__)


@dataclass
class A2dConfig(RowsConfig):
    """`context_frames`: a row holds the frames at most so far from an annotated one; None: all of the video."""

    context_frames: int | None = 8


@dataclass(frozen=True)
class _Nearby:
    """The frames at most so far from an annotated one, however long the video is; None: all frames."""

    annotated: list[int]
    context: int | None

    def __contains__(self, number: int) -> bool:
        if self.context is None:
            return True
        return number >= 1 and any(abs(number - each) <= self.context for each in self.annotated)

    def ends_with(self, number: int) -> bool:
        """Whether no later frame is nearby."""
        return self.context is not None and number >= self.annotated[-1] + self.context


@dataclass(frozen=True)
class DescribedVideo:
    """A video with its sentences, (instance, text) in the order of the file of annotations."""

    video_id: str
    file: Path
    queries: tuple[tuple[int, str], ...]

    @property
    def where(self) -> str:
        return f"{self.file}: video {name_text(self.video_id)}"


class A2dSentences(VideoBuilder):
    """A2D-Sentences; `data_dir` holds, those of the first line also under `text_annotations/`,

    - `a2d_annotation.txt` (CSV: video_id, instance_id, query), `a2d_missed_videos.txt` (videos left out) and
      `a2d_annotation_with_instances/<video>/<frame>.h5`,
    - `Release/videoset.csv` (no header; the first column is the video, the last 0 for train and 1 for test),
    - frames in `Release/frames/<video>/<number>.jpg` (or .png) or, for a video without that folder,
      `Release/clips320H/<video>.mp4`, whose frames are decoded by PyAV and embedded as JPEG.

    Frames are counted from 1, so `00023.h5` belongs to the 23rd frame of the video. An .h5 file is taken to be as
    MATLAB wrote it: `instance` lists the instances on the frame, `reMask` their masks, (instances, width, height), or
    (width, height) for a single one, which is transposed here. A referent is annotated on the frames that list its
    instance alone; one that no frame lists is left out with a warning. A video has `MAX_FRAMES` frames at most.
    """

    BUILDER_CONFIG_CLASS = A2dConfig
    config: A2dConfig

    @classmethod
    def annotation_files(cls, root: Path, splits: tuple[str, ...]) -> list[Path]:
        texts = _texts_folder(root)
        expected = "a2d_annotation.txt, a2d_missed_videos.txt and Release/videoset.csv"
        files = (texts / "a2d_annotation.txt", texts / "a2d_missed_videos.txt", root / "Release" / "videoset.csv")
        return [require_file(path, root, expected) for path in files]

    @classmethod
    def mask_files(cls, root: Path, splits: tuple[str, ...]) -> Iterable[Path]:
        yield from (_texts_folder(root) / "a2d_annotation_with_instances").glob("*/*.h5")
        # The time of a folder is that of its newest frame.
        yield from (root / "Release").glob("frames/*")
        yield from (root / "Release").glob("clips320H/*.mp4")

    def read_videos(self, root: Path) -> dict[str, list[DescribedVideo]]:
        context = self.config.context_frames
        if context is not None and (type(context) is not int or context < 0):
            raise ValueError(f"context_frames is {context!r}; choose a whole number from 0, or None for all frames.")
        annotations, missed_file, videoset = self.annotation_files(root, self.config.splits)
        missed = {line.strip().strip('"') for _, line in read_lines(missed_file)}
        queries = self._read_queries(annotations)
        split_of = _read_splits(videoset)
        splits: dict[str, list[DescribedVideo]] = {split: [] for split in SPLITS.values()}
        for video_id in (video_id for video_id in queries if video_id not in missed):
            if video_id not in split_of:
                self.findings.note(
                    f"videos that {videoset.name} does not list, left out", f"{annotations}: {video_id}"
                )
                continue
            with self.findings.skipping():
                if split_of[video_id] not in splits:
                    raise DataFormatError(
                        f"{videoset}: video {name_text(video_id)} of {annotations.name} should have 0 (train) or 1 "
                        f"(test) in the last column, found {short_text(split_of[video_id])}. {AGAIN}"
                    )
                splits[split_of[video_id]].append(DescribedVideo(video_id, annotations, tuple(queries[video_id])))
        if not any(splits.values()):
            raise DataFormatError(f"{videoset} lists none of the videos of {annotations}. {AGAIN}")
        return {split: videos for split, videos in splits.items() if videos}

    def _read_queries(self, path: Path) -> dict[str, list[tuple[int, str]]]:
        """The sentences of each video with their instances."""
        queries: dict[str, list[tuple[int, str]]] = {}
        for where, row in read_csv(path):
            if row == ["video_id", "instance_id", "query"]:
                continue
            if tuple(row[:2]) == COPIED_INSTANCE:
                self.findings.note("instances '1 (copy)', left out: another line has them", f"{where}: {row[0]}")
                continue
            with self.findings.skipping():
                if len(row) != 3 or not re.fullmatch(r"\s*[0-9]{1,9}\s*", row[1]):
                    raise DataFormatError(
                        f"{where} should be video_id, instance_id (a number) and query, found {short_text(row)}. "
                        f"{AGAIN}"
                    )
                queries.setdefault(checked_name(row[0], where), []).append((int(row[1]), row[2]))
        return queries

    def row(self, video: DescribedVideo) -> dict[str, Any]:
        root, context = Path(self.config.data_dir), self.config.context_frames
        masks = self._read_masks(_texts_folder(root) / "a2d_annotation_with_instances" / video.video_id, video.where)
        nearby = _Nearby(sorted(masks), context)
        folder = root / "Release" / "frames" / video.video_id
        if folder.is_dir():
            frames: dict[int, Any] = _listed_frames(folder, nearby, video.where)
            sizes = {number: picture_size(frames[number], video.where) for number in masks.keys() & frames.keys()}
        else:
            frames, sizes = _decoded_frames(root / "Release/clips320H" / f"{video.video_id}.mp4", nearby, video.where)
        masks = self._fit_masks(masks, sizes, video.where)
        numbers = sorted(frames)
        referents = [
            self._referent(video, instance, texts, masks, numbers)
            for instance, texts in _by_instance(video.queries).items()
        ]
        names = [f"{number:05d}" for number in numbers]
        return make_row(video.video_id, names, [frames[n] for n in numbers], [found for found in referents if found])

    def _referent(
        self, video: DescribedVideo, instance: int, texts: list[str], masks: Annotations, numbers: list[int]
    ) -> dict[str, Any] | None:
        annotated = [number for number, (_, shown) in masks.items() if instance in shown]
        if not annotated:
            self.findings.note(
                "instances that no annotated frame lists, left out with their sentences",
                f"{video.where}: instance {instance}",
            )
            return None
        ref_id = f"{video.video_id}_{instance}"
        sentences = [make_sentence(f"{ref_id}_{index}", text, video.where) for index, text in enumerate(texts)]
        places = [numbers.index(number) for number in annotated]
        shown = [encode_mask(masks[number][1][instance]) for number in annotated]
        return make_referent(ref_id, sentences, places, shown)

    def _read_masks(self, folder: Path, where: str) -> Annotations:
        paths = sorted(folder.glob("*.h5"))
        if not paths:
            raise DataFormatError(
                f"{where} has no annotations in {folder}. Download them, or list it as a missed video."
            )
        masks: Annotations = {}
        for path in paths:
            if not path.stem.isdecimal():
                raise DataFormatError(f"{path} ({where}) should be named by the number of its frame. {AGAIN}")
            number = int(path.stem)
            if number in masks:
                raise DataFormatError(
                    f"{path} and {masks[number][0].name} ({where}) are both of frame {number}. {AGAIN}"
                )
            masks[number] = (path, self._first_masks(path, where))
        return dict(sorted(masks.items()))

    def _first_masks(self, path: Path, where: str) -> dict[int, np.ndarray]:
        """The mask of every instance of a file, the first where it has several."""
        shown: dict[int, np.ndarray] = {}
        for instance, mask in read_instances(path, where):
            if instance in shown:
                self.findings.note(
                    "masks of instances that a frame lists twice, of which the first counts",
                    f"{path} ({where}): instance {instance}",
                )
            shown.setdefault(instance, mask)
        return shown

    def _fit_masks(self, masks: Annotations, sizes: dict[int, tuple[int, int]], where: str) -> Annotations:
        """The masks in the sizes of their frames; raises `DataFormatError` where such a frame does not exist."""
        fitted: Annotations = {}
        for number, (path, shown) in masks.items():
            if number not in sizes:
                raise DataFormatError(
                    f"{where}: frame {number}, which {path} annotates, is missing from the video. Download or extract "
                    "the frames of that video again."
                )
            size, place = sizes[number], f"{path} ({where})"
            fitted[number] = (path, {instance: self.fit_mask(mask, size, place) for instance, mask in shown.items()})
        return fitted


def _by_instance(queries: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for instance, text in queries:
        grouped.setdefault(instance, []).append(text)
    return grouped


def _texts_folder(root: Path) -> Path:
    return root / "text_annotations" if (root / "text_annotations").is_dir() else root


def _read_splits(path: Path) -> dict[str, str]:
    """The split of each video: "train", "test", or what else the last column of the file says."""
    rows = [(row[0], SPLITS.get(row[-1].strip(), row[-1])) for _, row in read_csv(path)]
    split_of: dict[str, str] = {}
    for video_id, split in rows:
        if split_of.setdefault(video_id, split) != split:
            raise DataFormatError(
                f"{path}: video {name_text(video_id)} is listed twice, with different values in the last column. "
                f"{AGAIN}"
            )
    warn_of_repeats(str(path), "videos", (video_id for video_id, _ in rows), "each of them counts once")
    return split_of


def read_instances(path: Path, where: str) -> list[tuple[int, np.ndarray]]:
    """The instances of an .h5 file with their masks (bool, H x W); raises `DataFormatError` for another layout."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            instances = _own_data(file, "instance", path, where).reshape(-1)
            masks = _own_data(file, "reMask", path, where)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, zlib.error) as error:
        if isinstance(error, DataFormatError):
            raise
        raise DataFormatError(f"{path} ({where}) cannot be read as HDF5: {error}. Download it again.") from error
    masks = masks[None] if masks.ndim == 2 else masks
    if not (np.isfinite(instances) & (instances == np.round(instances)) & (np.abs(instances) < 1e9)).all():
        raise DataFormatError(
            f"{path} ({where}) lists the instances {short_text(instances.tolist())}, expected whole numbers. {AGAIN}"
        )
    numbers = [int(number) for number in instances]
    if masks.ndim != 3 or len(masks) != len(numbers):
        raise DataFormatError(
            f"{path} ({where}) lists the instances {short_text(numbers)} and has masks of the shape {masks.shape}, "
            f"expected one mask (width, height) for each of them. {AGAIN}"
        )
    return [(number, mask.T != 0) for number, mask in zip(numbers, masks, strict=True)]


def _own_data(file: Any, name: str, path: Path, where: str) -> np.ndarray:
    """A numeric dataset of the file itself; HDF5 could fetch it from any other file of this computer."""
    import h5py

    stored = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(stored, h5py.Dataset) or stored.external or stored.is_virtual:
        raise DataFormatError(f"{path} ({where}) has no dataset '{name}' of its own. {AGAIN}")
    if stored.dtype.kind not in "uifb" or not 0 < stored.nbytes <= MAX_PIXELS:
        raise DataFormatError(
            f"{path} ({where}): '{name}' should be numbers, at most {MAX_PIXELS} bytes of them, found {stored.dtype} "
            f"{stored.shape}. {AGAIN}"
        )
    if stored.chunks is not None and not _chunks_are_measured(stored):
        raise DataFormatError(f"{path} ({where}): '{name}' is larger than it says, or packed in an odd way. {AGAIN}")
    return stored[()]


def _chunks_are_measured(stored: Any) -> bool:
    """Whether the parts of an HDF5 dataset unpack to no more than they should; HDF5 unpacks whatever there is."""
    pipeline = stored.id.get_create_plist()
    filters = {pipeline.get_filter(index)[0] for index in range(pipeline.get_nfilters())}
    largest = math.prod(stored.chunks) * stored.dtype.itemsize
    if largest > MAX_PIXELS or not filters <= FILTERS:
        return False
    if DEFLATE not in filters:
        return True
    chunks = (stored.id.get_chunk_info(index).chunk_offset for index in range(stored.id.get_num_chunks()))
    unpacked = (
        zlib.decompressobj().decompress(stored.id.read_direct_chunk(place)[1], largest + 5) for place in chunks
    )
    # A checksum of four bytes may follow.
    return all(len(content) <= largest + 4 for content in unpacked)


def _listed_frames(folder: Path, nearby: _Nearby, where: str) -> dict[int, Path]:
    """The nearby frames of a folder; warns where some between its first and last are absent."""
    numbered = [
        (int(path.stem), path)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in FRAME_ENDINGS and path.stem.isdecimal()
    ]
    if not numbered:
        raise DataFormatError(
            f"{where} has no frames in {folder}, found {list_folder(folder)}. Extract the frames of that video again, "
            "or delete the folder to have them decoded from the video file."
        )
    warn_of_repeats(f"{where} ({folder})", "frames", (number for number, _ in numbered), "the last file counts")
    paths = dict(numbered)
    last = max(paths)
    if last > MAX_FRAMES:
        raise DataFormatError(
            f"{where}: the frame {paths[last]} is beyond number {MAX_FRAMES}. Number the frames of a video from 1."
        )
    absent = [number for number in range(min(paths), last) if number not in paths and number in nearby]
    if absent:
        logger.warning(
            one_line(
                f"{where}: frame {absent[0]} and {len(absent) - 1} others are absent from {folder}: clips have gaps "
                "there. Extract all frames of the video."
            )
        )
    return {number: path for number, path in paths.items() if number in nearby}


def _decoded_frames(
    path: Path, nearby: _Nearby, where: str
) -> tuple[dict[int, dict[str, Any]], dict[int, tuple[int, int]]]:
    """The nearby frames of a video file as embedded JPEGs, and their heights and widths; decoded as a stream."""
    from hf_refseg.modeling.video_refseg import VideoFrames

    if not path.is_file():
        raise DataFormatError(
            f"{where}: neither {path} nor the folder Release/frames/{path.stem} exists. Download the video, or "
            "extract its frames."
        )
    frames, sizes = {}, {}
    try:
        for number, picture in enumerate(VideoFrames(path), start=1):
            if number > MAX_FRAMES:
                raise DataFormatError(f"{path} has more than {MAX_FRAMES} frames. Put the original video there.")
            if number in nearby:
                buffer = io.BytesIO()
                picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
                frames[number] = {"bytes": buffer.getvalue(), "path": f"{number:05d}.jpg"}
                sizes[number] = (picture.height, picture.width)
            if nearby.ends_with(number):
                break
    except ValueError as error:
        raise DataFormatError(f"{where}: {error}") from error
    return frames, sizes
