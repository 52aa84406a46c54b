"""JHMDB-Sentences from its sentences or a list of samples, frames and puppet masks: a data set to test on."""

from __future__ import annotations

import os
import random
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_refseg.data.masks import MAX_PIXELS, encode_mask
from hf_refseg.data.rows import MAX_FRAMES, DataFormatError, read_json
from hf_refseg.datasets_scripts.original_files import checked_path, picture_size, read_csv, require_file
from hf_refseg.datasets_scripts.records import AGAIN, warn_of_repeats
from hf_refseg.datasets_scripts.video import (
    VideoBuilder,
    checked_name,
    existing_frames,
    make_referent,
    make_row,
    make_sentence,
)
from hf_refseg.messages import name_text, short_text

LIST_FILES = ("samples_metadata.json", "jhmdb_sentences_samples_metadata.json")
TEXT_FILE = "jhmdb_annotation.txt"
# The frames that are scored are three of each video, drawn at random once, and listed. The same come out of Python's
# generator with this seed, for all videos of the data set in the order of their names.
DRAWN_FRAMES, SEED = 3, 42
VIDEOS, FRAMES = 928, 31_838
# The paths of the list begin with the data set's own folder.
FOLDER = "jhmdb_sentences"
# Of a part of a MATLAB file: its kind, and how much of it is unpacked at a time.
PACKED = 15
PIECE = 2**20
# MATLAB's kinds of numeric arrays, as `whosmat` names them.
NUMBERS = ("uint", "int", "double", "single", "logical")


@dataclass
class SampledVideo:
    """A video of the list: where its pictures and masks lie, and the annotated frames of each sentence."""

    video_id: str
    file: Path
    frame_folder: Path
    ending: str
    mask_file: Path
    length: int
    annotated: dict[str, set[int]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.file}: video {name_text(self.video_id)}"


class JhmdbSentences(VideoBuilder):
    """JHMDB-Sentences; one split, test. `data_dir` holds

    - `Rename_Images/<action>/<video>/<number>.png` and `puppet_mask/<action>/<video>/puppet_mask.mat`,
    - `samples_metadata.json` (or `jhmdb_sentences_samples_metadata.json`), a list of [video, path of a frame, path of
      the mask, number of frames, sentence], whose paths may begin with `./jhmdb_sentences/`;
    - or, where there is no such list, `jhmdb_annotation.txt` (CSV: video_id, query): the frames that are scored are
      then drawn as those of the list were, see `draw_frames`, which a note says.

    Frames are counted from 1: frame n has the mask `part_mask[:, :, n - 1]`. All frames of a video make its row; those
    that are scored are the annotated ones. `category` is the action.
    """

    @classmethod
    def annotation_files(cls, root: Path, splits: tuple[str, ...]) -> list[Path]:
        names = (*LIST_FILES, TEXT_FILE)
        present = [path for name in names if (path := root / name).is_file()]
        return present[:1] or [require_file(root / LIST_FILES[0], root, " or ".join(names))]

    @classmethod
    def mask_files(cls, root: Path, splits: tuple[str, ...]) -> Iterable[Path]:
        yield from (root / "puppet_mask").glob("*/*/*.mat")
        # How many frames there are decides which of them are drawn.
        yield from (root / "Rename_Images").glob("*/*")

    def read_videos(self, root: Path) -> dict[str, list[SampledVideo]]:
        (path,) = self.annotation_files(root, self.config.splits)
        videos = self._read_sentences(path, root) if path.name == TEXT_FILE else self._read_samples(path, root)
        return {"test": videos}

    def _read_samples(self, path: Path, root: Path) -> list[SampledVideo]:
        samples = read_json(path)
        if not isinstance(samples, list) or not samples:
            raise DataFormatError(f"{path} should hold a list of samples, found {short_text(samples)}. {AGAIN}")
        videos: dict[str, SampledVideo] = {}
        added = []
        for index, sample in enumerate(samples):
            with self.findings.skipping():
                _add_sample(videos, sample, root, path, f"{path}: sample at position {index}")
                added.append((sample[0], sample[1], sample[4]))
        warn_of_repeats(str(path), "samples", added, "each of them counts once")
        return list(videos.values())

    def _read_sentences(self, path: Path, root: Path) -> list[SampledVideo]:
        folders = _video_folders(root / "Rename_Images")
        lines = [(where, row) for where, row in read_csv(path) if row != ["video_id", "query"]]
        if not lines:
            raise DataFormatError(f"{path} lists no video. {AGAIN}")
        texts: dict[str, list[str]] = {}
        for where, row in lines:
            with self.findings.skipping():
                if len(row) != 2:
                    raise DataFormatError(f"{where} should be video_id and query, found {short_text(row)}. {AGAIN}")
                if row[0] not in folders:
                    raise DataFormatError(
                        f"{where}: video {name_text(row[0])} has no folder {root / 'Rename_Images'}/<action>/<video>. "
                        "Download the frames of all videos."
                    )
                texts.setdefault(row[0], []).append(row[1])
        videos = []
        for video_id in sorted(texts):
            with self.findings.skipping():
                videos.append(_listed_video(folders[video_id], texts[video_id], root, path))
        self._choose_frames(videos, path)
        return videos

    def _choose_frames(self, videos: list[SampledVideo], path: Path) -> None:
        """Makes the drawn frames of each video the annotated ones of all its sentences, and says so."""
        drawn = draw_frames([video.length for video in videos])
        for video, numbers in zip(videos, drawn, strict=True):
            for frames in video.annotated.values():
                frames.update(numbers)
        total = sum(video.length for video in videos)
        if (len(videos), total) == (VIDEOS, FRAMES):
            consequence = "they are those of the list"
        else:
            consequence = (
                f"they are others than those of the list, as {VIDEOS} videos of {FRAMES} frames are published"
            )
        self.findings.note(
            f"frames to score that are drawn, as {LIST_FILES[0]} is not here",
            f"{path}: {DRAWN_FRAMES} of each of {len(videos)} videos of {total} frames; {consequence}",
        )

    def row(self, video: SampledVideo) -> dict[str, Any]:
        names = [f"{number:05d}" for number in range(1, video.length + 1)]
        frames = existing_frames((video.frame_folder / f"{name}{video.ending}" for name in names), video.where)
        masks = read_puppet_masks(video.mask_file, video.where)
        if masks.shape[2] < max(map(max, video.annotated.values())):
            raise DataFormatError(
                f"{video.mask_file} ({video.where}) has masks of {masks.shape[2]} frames; frame "
                f"{max(map(max, video.annotated.values()))} is listed. Download the file again."
            )
        referents = []
        for index, (text, numbers) in enumerate(video.annotated.items()):
            places = [number - 1 for number in sorted(numbers)]
            ref_id = f"{video.video_id}_{index}"
            referents.append(
                make_referent(
                    ref_id,
                    [make_sentence(ref_id, text, video.where)],
                    places,
                    [self._frame_mask(masks[:, :, place], frames[place], video) for place in places],
                    category=video.frame_folder.parent.name,
                )
            )
        return make_row(video.video_id, names, frames, referents)

    def _frame_mask(self, mask: np.ndarray, frame: Path, video: SampledVideo) -> dict[str, Any]:
        size = picture_size(frame, video.where)
        return encode_mask(self.fit_mask(mask > 0, size, f"{video.mask_file} ({video.where})"))


def draw_frames(lengths: Iterable[int]) -> list[list[int]]:
    """Up to three frames, counted from 1, of each of the videos of these lengths, which all count for all that follow.

    For the 928 videos of the data set in the order of their names they are the 2,784 frames that are scored.
    """
    drawn = random.Random(SEED)
    return [sorted(drawn.sample(range(1, length + 1), min(DRAWN_FRAMES, length))) for length in lengths]


def _video_folders(images: Path) -> dict[str, Path]:
    """The folder of the frames of each video, by its name; raises `DataFormatError` where two actions have it."""
    folders: dict[str, Path] = {}
    for folder in sorted(images.glob("*/*")):
        # The release holds hidden folders of the computer on which it was made.
        if folder.is_dir() and not folder.name.startswith(".") and not folder.parent.name.startswith("."):
            if folder.name in folders:
                raise DataFormatError(
                    f"{folder} and {folders[folder.name]} are both of one video. Delete the folder that is wrong."
                )
            folders[folder.name] = folder
    return folders


def _listed_video(folder: Path, texts: Iterable[str], root: Path, file: Path) -> SampledVideo:
    """A video of which no frame is annotated yet."""
    length = sum(path.suffix == ".png" and path.stem.isdecimal() for path in folder.iterdir())
    where = f"{file}: video {name_text(folder.name)}"
    if not 0 < length <= MAX_FRAMES:
        raise DataFormatError(
            f"{where} has {length} frames in {folder}, expected 1 to {MAX_FRAMES}, <number>.png. Download them again."
        )
    mask_file = root / "puppet_mask" / folder.parent.name / folder.name / "puppet_mask.mat"
    annotated: dict[str, set[int]] = {text: set() for text in texts}
    return SampledVideo(folder.name, file, folder, ".png", mask_file, length, annotated)


def _add_sample(videos: dict[str, SampledVideo], sample: Any, root: Path, path: Path, where: str) -> None:
    if not isinstance(sample, list) or len(sample) != 5:
        raise DataFormatError(f"{where} should be a list of five, found {short_text(sample)}. {AGAIN}")
    video_id = checked_name(sample[0], where)
    frame, mask_file = (checked_path(root, name, FOLDER, where) for name in sample[1:3])
    length, text = sample[3:]
    if type(length) is not int or not 0 < length <= MAX_FRAMES or not isinstance(text, str):
        raise DataFormatError(
            f"{where} should end in a number of frames up to {MAX_FRAMES} and a sentence, found "
            f"{short_text(sample[3:])}. {AGAIN}"
        )
    if not re.fullmatch("[0-9]{1,9}", frame.stem) or not 1 <= int(frame.stem) <= length:
        raise DataFormatError(
            f"{where}: the video has the frames 1 to {length}, but {name_text(frame.name)} is listed. {AGAIN}"
        )
    video = videos.setdefault(video_id, SampledVideo(video_id, path, frame.parent, frame.suffix, mask_file, length))
    if (video.frame_folder, video.mask_file, video.length) != (frame.parent, mask_file, length):
        raise DataFormatError(
            f"{where}: video {name_text(video_id)} has another folder, mask file or length in another sample. {AGAIN}"
        )
    video.annotated.setdefault(text, set()).add(int(frame.stem))


def read_puppet_masks(path: Path, where: str) -> np.ndarray:
    """`part_mask` (H, W, T) of a MATLAB file of version 5, the one version that is read; 0 = background.

    Raises `DataFormatError` for a file that is absent, damaged, of another version or of another content.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError, matfile_version

    require_file(path, path.parent, path.name)
    try:
        version = matfile_version(str(path))[0]
        if version == 1:
            _check_packed_size(path, where)
        # What the file says of its content is checked before any of it is read.
        found = {name: (shape, kind) for name, shape, kind in whosmat(str(path))} if version == 1 else {}
        shape, kind = found.get("part_mask", ((), "none"))
        if len(shape) != 3 or not 0 < np.prod(shape, dtype=float) <= MAX_PIXELS or not kind.startswith(NUMBERS):
            raise DataFormatError(
                f"{path} ({where}) should be a MATLAB file of version 5 with 'part_mask' (height, width, frames), "
                f"found {short_text(found) if version == 1 else 'another version'}. {AGAIN}"
            )
        return loadmat(str(path), variable_names=["part_mask"])["part_mask"]
    except DataFormatError:
        raise
    except (
        MatReadError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
        NotImplementedError,
        MemoryError,
        zlib.error,
    ) as error:
        raise DataFormatError(f"{path} ({where}) cannot be read as a MATLAB file: {error}. {AGAIN}") from error


def _check_packed_size(path: Path, where: str) -> None:
    """Raises `DataFormatError` where a MATLAB file unpacks to more than masks take, however small it says they are."""
    size = 0
    with path.open("rb") as file:
        header = file.read(128)
        tag = struct.Struct("<2I" if header.endswith(b"IM") else ">2I")
        while len(packed_tag := file.read(tag.size)) == tag.size:
            kind, length = tag.unpack(packed_tag)
            if kind != PACKED:
                file.seek(length, os.SEEK_CUR)
                continue
            packed, inflater = file.read(length), zlib.decompressobj()
            while packed:
                size += len(inflater.decompress(packed, PIECE))
                packed = inflater.unconsumed_tail
                if size > MAX_PIXELS:
                    raise DataFormatError(
                        f"{path} ({where}) unpacks to more than {MAX_PIXELS} bytes, which no masks do. {AGAIN}"
                    )
