"""Predictions on disk: the JSON Lines of this library, COCO's lists of results, and folders of mask pictures."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from ..data.json_list import JsonList
from ..data.rows import DataFormatError, unique_keys
from ..files import PARTIAL, in_place_of, require_writable, what_is_in
from ..messages import name_text, short_text
from .prediction_lines import (
    MaskPicture,
    NoMask,
    Prediction,
    PredictionError,
    PredictionsHeader,
    Segmentation,
    SentenceNames,
    StoredAnswer,
    StoredMask,
    parse_header,
    parse_line,
    parse_names,
    parse_score,
)

# In bytes; a video of `MAX_FRAMES` frames has shorter ones.
LONGEST_LINE = 2**28
# Fields of COCO's results that say nothing of a mask.
COCO_FIELDS = ("category_id", "bbox", "area", "iscrowd", "id")
# The folder that the evaluation server of Refer-YouTube-VOS wants in its archive, and those of Ref-DAVIS17.
ROOT, ANNOTATOR = "Annotations", re.compile(r"anno_(\d+)")


class PredictionFile(ABC):
    """Predictions on disk, of which one at a time is in memory.

    Attributes:
        path: the file or folder.
        header: what it says of itself.

    Raises:
        PredictionError: on access, something in it is damaged.
    """

    path: Path
    header: PredictionsHeader

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Any, str, Prediction]]:
        """Every prediction after its place and how an error names that, in the order of the file."""

    @abstractmethod
    def read(self, place: Any) -> Prediction:
        """The prediction at a place."""

    @abstractmethod
    def where(self, place: Any) -> str:
        """How an error names a place."""


class PredictionLines(PredictionFile):
    """A file of JSON Lines: a header, then a line for each sentence (docs/predictions.md). Places are bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.header = parse_header(self._decode(_read_line(file), f"{path}, line 1"), f"{path}, line 1")

    def __iter__(self) -> Iterator[tuple[int, str, Prediction]]:
        with self.path.open("rb") as file:
            _read_line(file)
            number, place = 1, file.tell()
            while line := _read_line(file):
                number += 1
                where = f"{self.path}, line {number}"
                if line.strip():
                    yield place, where, parse_line(self._decode(line, where), where)
                place = file.tell()

    def read(self, place: int) -> Prediction:
        with self.path.open("rb") as file:
            file.seek(place)
            line = _read_line(file)
        where = self.where(place)
        return parse_line(self._decode(line, where), where)

    def where(self, place: int) -> str:
        number = 1
        with self.path.open("rb") as file:
            while file.tell() < place and file.readline():
                number += 1
        return f"{self.path}, line {number}"

    def _decode(self, line: bytes, where: str) -> Any:
        if len(line) > LONGEST_LINE:
            raise PredictionError(f"{where} has more than {LONGEST_LINE} bytes: end it, and begin others.")
        try:
            return json.loads(line, object_pairs_hook=unique_keys(self.path))
        except DataFormatError as error:
            raise PredictionError(f"{where}: {error}") from error
        except (ValueError, RecursionError) as error:
            if line.endswith(b"\n") or not line:
                raise PredictionError(f"{where} is no JSON ({error}). Write a mapping on each line.") from error
            raise PredictionError(
                f"{where} is cut off: the file ends in the middle of it. Write or copy the whole file again."
            ) from error


class CocoResults(PredictionFile):
    """COCO's list of results, each with the names of its sentence. Places are those of a `JsonList`.

    Of an image `segmentation` is an RLE or polygons; of a video `segmentations` has one, or null, for each frame.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.header = path, PredictionsHeader(system=path.stem)
        self._list = JsonList(path)
        # Of an element its number, for errors.
        self._numbers: dict[int, int] = {}

    def __iter__(self) -> Iterator[tuple[int, str, Prediction]]:
        for number, (place, content) in enumerate(self._list):
            self._numbers[place] = number
            where = self.where(place)
            yield place, where, _parse_result(content, where)

    def read(self, place: int) -> Prediction:
        return _parse_result(self._list.decode(place), self.where(place))

    def where(self, place: int) -> str:
        return f"{self.path}, result {self._numbers[place]} (from 0)"


class MaskFolder(PredictionFile):
    """A folder of PNG files, a mask each. Places are folders of frames, or single files.

    Of images `<sent_id>.png` or `<image_id>/<sent_id>.png`, of videos `<video_id>/<sent_id>/<frame>.png`; a folder
    `Annotations` may be around them. As of Ref-DAVIS17 they may also be `anno_<annotator>/<video_id>/<frame>.png`,
    whose values are the numbers of the described objects, from 1.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.header = path, PredictionsHeader(system=path.name)
        self._root = path / ROOT if (path / ROOT).is_dir() else path

    def __iter__(self) -> Iterator[tuple[Path, str, Prediction]]:
        files = sorted(file for file in self._root.rglob("*.png") if PARTIAL not in file.suffixes)
        if not files:
            raise PredictionError(
                f"{self.path} holds no PNG file ({what_is_in(self.path)}). Write masks as PNG files."
            )
        for file in files:
            # Opening a pipe would wait for ever.
            if not file.is_file():
                raise PredictionError(f"{file} is no file: write the mask as a PNG file, or remove it.")
        # The frames of a video lie together in a folder.
        for place in dict.fromkeys(file.parent if self._depth(file) == 3 else file for file in files):
            yield place, str(place), self.read(place)

    def read(self, place: Path) -> Prediction:
        *parents, name = place.relative_to(self._root).parts
        if len(parents) > 1:
            raise PredictionError(
                f"{place} is not where masks are looked for: name them <image_id>/<sent_id>.png, or "
                "<video_id>/<sent_id>/<frame>.png."
            )
        if place.suffix == ".png":
            names = SentenceNames(parents[0] if parents else None, sent_id=place.stem)
            return Prediction("image", names, (StoredAnswer(MaskPicture(place)),))
        of_annotator = ANNOTATOR.fullmatch(parents[0])
        names = (
            SentenceNames(name, annotator=of_annotator[1]) if of_annotator else SentenceNames(parents[0], sent_id=name)
        )
        frames = (StoredAnswer(MaskPicture(file), frame=file.stem) for file in sorted(place.glob("*.png")))
        return Prediction("video", names, tuple(frames))

    def where(self, place: Path) -> str:
        return str(place)

    def _depth(self, file: Path) -> int:
        return len(file.relative_to(self._root).parts)


def open_predictions(path: str | PathLike[str]) -> PredictionFile:
    """The predictions of a file or folder, in whichever of the known formats.

    Raises:
        PredictionError: it is in none of them, or its header is damaged.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        return MaskFolder(path)
    if not path.exists():
        raise FileNotFoundError(f"There are no predictions at {path}. Name a file or folder of predictions.")
    with path.open("rb") as file:
        begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not begin.startswith((b"{", b"[")):
        raise PredictionError(
            f"{path} begins with {short_text(begin[:20])}: it is no file of predictions. Write JSON Lines, a list of "
            "COCO results, or a folder of PNG files; unpack an archive."
        )
    return CocoResults(path) if begin.startswith(b"[") else PredictionLines(path)


@contextmanager
def writing_predictions(
    path: str | PathLike[str], header: PredictionsHeader
) -> Iterator[Callable[[Iterable[str]], None]]:
    """A context that gives what appends lines to a file of predictions; it has its name when it is complete.

    Until then it is beside it, under a name of its own (`.partial`), and holds whole lines.

    Raises:
        OutputError: the folder cannot be written, or its disk is full.
    """
    path = Path(path)
    require_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_place_of(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:

        def write(lines: Iterable[str]) -> None:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()

        write([header.line()])
        yield write


def _read_line(file: Any) -> bytes:
    return file.readline(LONGEST_LINE + 1)


def _parse_result(content: Any, where: str) -> Prediction:
    if not isinstance(content, dict):
        raise PredictionError(f"{where} is {short_text(content)}, expected a mapping with a segmentation.")
    of_video = "video_id" in content
    group, field = ("video_id", "segmentations") if of_video else ("image_id", "segmentation")
    known = (group, "ref_id", "sent_id", "text", field, "score", *COCO_FIELDS)
    unknown = [name for name in content if name not in known]
    if unknown or field not in content:
        fault = f"has an unknown field {name_text(unknown[0])}" if unknown else f"has no {field}"
        raise PredictionError(f"{where} {fault}. Known are {', '.join(known)}.")
    names, score = parse_names(content, group, where), parse_score(content, where)
    if not of_video:
        return Prediction("image", names, (StoredAnswer(_mask_of(content[field]), score),))
    if not isinstance(content[field], list) or not content[field]:
        raise PredictionError(f"{where}: {field} is {short_text(content[field])}, expected one for each frame.")
    frames = enumerate(content[field])
    return Prediction(
        "video", names, tuple(StoredAnswer(_mask_of(each), score, frame=frame) for frame, each in frames)
    )


def _mask_of(segmentation: Any) -> StoredMask:
    """COCO's `segmentation`; none, or no polygon, is an empty mask."""
    return NoMask() if segmentation in (None, []) else Segmentation(segmentation)
