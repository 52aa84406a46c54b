"""JHMDB-Sentences from its list of samples, frames and puppet masks: a data set to test on."""

from __future__ import annotations

import os
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
from hf_refseg.datasets_scripts.records import AGAIN, warn_of_repeats
from hf_refseg.datasets_scripts.video import (
    VideoBuilder,
    check_size,
    checked_name,
    checked_path,
    existing_frames,
    make_referent,
    make_row,
    make_sentence,
    picture_size,
    require_file,
)
from hf_refseg.messages import name_text, short_text

LIST_FILES = ("samples_metadata.json", "jhmdb_sentences_samples_metadata.json")
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
    """JHMDB-Sentences; one split, test. `data_dir` holds `samples_metadata.json`, a list of [video, path of a frame,
    path of the mask, number of frames, sentence], and the files it names:
    `Rename_Images/<action>/<video>/<number>.png` and `puppet_mask/<action>/<video>/puppet_mask.mat`, with
    or without the leading `./jhmdb_sentences/` of the list.

    Frames are counted from 1: frame n has the mask `part_mask[:, :, n - 1]`. All frames of a video make its row; those
    that the list names are the annotated ones. `category` is the action.
    """

    @classmethod
    def annotation_files(cls, root: Path) -> list[Path]:
        present = [path for name in LIST_FILES if (path := root / name).is_file()]
        return present[:1] or [require_file(root / LIST_FILES[0], root, " or ".join(LIST_FILES))]

    @classmethod
    def mask_files(cls, root: Path) -> Iterable[Path]:
        return (root / "puppet_mask").glob("*/*/*.mat")

    def read_videos(self, root: Path) -> dict[str, list[SampledVideo]]:
        (path,) = self.annotation_files(root)
        samples = read_json(path)
        if not isinstance(samples, list) or not samples:
            raise DataFormatError(f"{path} should hold a list of samples, found {short_text(samples)}. {AGAIN}")
        videos: dict[str, SampledVideo] = {}
        for index, sample in enumerate(samples):
            _add_sample(videos, sample, root, path, f"{path}: sample at position {index}")
        listed = ((video_id, frame, text) for video_id, frame, _, _, text in samples)
        warn_of_repeats(str(path), "samples", listed, "each of them counts once")
        return {"test": list(videos.values())}

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
            for place in places:
                check_size(video.mask_file, masks.shape[:2], picture_size(frames[place], video.where), video.where)
            ref_id = f"{video.video_id}_{index}"
            referents.append(
                make_referent(
                    ref_id,
                    [make_sentence(ref_id, text, video.where)],
                    places,
                    [encode_mask(masks[:, :, place] > 0) for place in places],
                    category=video.frame_folder.parent.name,
                )
            )
        return make_row(video.video_id, names, frames, referents)


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
