"""What a file of predictions says, checked: its header, the sentences that its lines answer, and their masks."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data.masks import InvalidMaskError, annotation_to_mask, decode_mask, encoded_size, size_of_rle
from ..messages import BadInputError, name_text, short_text
from ..modeling.picture_files_refseg import PictureError, open_picture, picture_faults

FORMAT, VERSION = "hf_refseg-predictions", 1
RESOLUTIONS = ("original", "model")
NAMES = ("ref_id", "sent_id", "text")
ANSWER = ("mask", "score", "present")


class PredictionError(BadInputError):
    """A file of predictions that is damaged, or does not fit what it is scored on; the message names file and line."""


@dataclass(frozen=True, kw_only=True)
class PredictionsHeader:
    """The first line of a file of predictions: how the masks were made, as far as its writer says.

    Attributes:
        dataset: name of the data set.
        split: its split.
        system: what made the masks; results name it.
        threshold: foreground probability in [0, 1] above which a pixel belongs to a mask; None = no such thing, or
            unknown.
        resolution: the size of the masks: `"original"`, that of their image; or `"model"`, that at which the model
            sees it.
        competing: whether the sentences of an annotator about a video competed for its pixels, as under
            `davis_unsupervised`.
    """

    dataset: str | None = None
    split: str | None = None
    system: str | None = None
    threshold: float | None = None
    resolution: Literal["original", "model"] = "original"
    competing: bool = False

    def line(self) -> str:
        """The header as a line of JSON."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, allow_nan=False)


class StoredMask(ABC):
    """A mask as a file holds it; reading it raises `InvalidMaskError`."""

    @abstractmethod
    def size(self) -> tuple[int, int] | None:
        """Height and width; None = as large as its image, or not known before it is drawn there."""

    @abstractmethod
    def decode(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask (H, W); `size` is that of the image."""


@dataclass(frozen=True)
class NoMask(StoredMask):
    """An empty mask."""

    def size(self) -> None:
        return None

    def decode(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        return np.zeros(size, dtype=bool)


@dataclass(frozen=True)
class RunLengths(StoredMask):
    """COCO's run-length encoding."""

    rle: Mapping[str, Any]

    def size(self) -> tuple[int, int]:
        return size_of_rle(self.rle)

    def decode(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        return decode_mask(self.rle)


@dataclass(frozen=True)
class Segmentation(StoredMask):
    """COCO's `segmentation`: an RLE, a list of RLEs, or a list of polygons."""

    parts: Any

    def size(self) -> tuple[int, int] | None:
        return encoded_size(self.parts)

    def decode(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        return annotation_to_mask(self.parts, *size)


@dataclass(frozen=True)
class MaskPicture(StoredMask):
    """A picture: what is not 0 is foreground, or of a palette the pixels of one value alone."""

    path: Path
    value: int | None = None

    def size(self) -> tuple[int, int]:
        width, height = self._read(lambda picture: picture.size)
        return height, width

    def decode(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        values = self._read(np.asarray)
        if self.value is not None:
            if values.ndim != 2 or values.dtype != np.uint8:
                raise InvalidMaskError(f"{self.path} holds no numbers of objects: save it as a palette picture.")
            return values == self.value
        channels = values.reshape(*values.shape[:2], -1)
        # Of two or four channels the last one is opacity, which is not 0 in the background either.
        colors, others = np.split(channels, [1 if channels.shape[2] < 3 else 3], axis=2)
        values = colors.max(axis=2)
        if others.size and np.ptp(others) and not np.ptp(values):
            raise InvalidMaskError(
                f"{self.path} differs in its opacity alone: save the mask as 0 and one other value."
            )
        if len(found := np.unique(values)) > 2 or (len(found) == 2 and found[0] != 0):
            raise InvalidMaskError(
                f"{self.path} holds the values {short_text(found.tolist())}, a mask 0 and one other. Threshold it."
            )
        return values > 0

    def _read(self, read: Any) -> Any:
        try:
            with picture_faults(), open_picture(self.path) as picture:
                return read(picture)
        except (PictureError, OSError) as error:
            raise InvalidMaskError(f"{self.path} cannot be read: it is {error}. Write it again.") from error


@dataclass(frozen=True)
class SentenceNames:
    """Which sentence a prediction answers, as far as its file says; with an annotator alone all of theirs.

    Attributes:
        group_id: the image or the video.
        ref_id, sent_id, text, annotator: as the data set's rows have them.
    """

    group_id: str | None = None
    ref_id: str | None = None
    sent_id: str | None = None
    text: str | None = None
    annotator: str | None = None


@dataclass(frozen=True)
class StoredAnswer:
    """A mask with what else is said of it; `frame` is the name or the number of a video's frame, None of an image."""

    mask: StoredMask
    score: float | None = None
    present: bool | None = None
    frame: str | int | None = None


@dataclass(frozen=True)
class Prediction:
    """What a file says of one sentence: of an image one answer, of a video one for each frame that it names."""

    kind: Literal["image", "video"]
    names: SentenceNames
    answers: tuple[StoredAnswer, ...]

    def of_object(self, number: int) -> Prediction:
        """What pictures of all objects of a video say of one of them, by the number that it has there."""
        answers = []
        for answer in self.answers:
            assert isinstance(answer.mask, MaskPicture)  # Others hold one object each.
            answers.append(replace(answer, mask=replace(answer.mask, value=number)))
        return replace(self, answers=tuple(answers))


def parse_header(content: Any, where: str) -> PredictionsHeader:
    """A header out of JSON; raises `PredictionError`, which says `where` it stands."""
    own = [field.name for field in fields(PredictionsHeader)]
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PredictionError(
            f'{where} is no header. Begin the file with the line {{"format": "{FORMAT}", "version": {VERSION}}}.'
        )
    if content.get("version") != VERSION or isinstance(content["version"], bool):
        raise PredictionError(
            f"{where}: version {short_text(content.get('version'))} of the format is unknown, this library reads "
            f"{VERSION}. Write that, or update the library."
        )
    _check_fields(content, ("format", "version", *own), where)
    given = {name: content[name] for name in own if content.get(name) is not None}
    for name in ("dataset", "split", "system"):
        _require(isinstance(given.get(name, ""), str), where, name, given.get(name), "a text")
    resolution, competing = given.get("resolution", "original"), given.get("competing", False)
    _require(resolution in RESOLUTIONS, where, "resolution", resolution, " or ".join(RESOLUTIONS))
    _require(isinstance(competing, bool), where, "competing", competing, "a boolean")
    if "threshold" in given:
        given["threshold"] = _probability(given["threshold"], where, "threshold")
    return PredictionsHeader(**given)


def parse_line(content: Any, where: str) -> Prediction:
    """A prediction out of JSON; raises `PredictionError`, which says `where` it stands. Run lengths stay encoded."""
    if not isinstance(content, dict):
        raise PredictionError(f"{where} holds {short_text(content)}, expected a mapping with a mask.")
    if "video_id" not in content:
        _check_fields(content, ("image_id", *NAMES, *ANSWER), where)
        return Prediction("image", parse_names(content, "image_id", where), (_parse_answer(content, where),))
    _check_fields(content, ("video_id", *NAMES, "frames"), where)
    return Prediction("video", parse_names(content, "video_id", where), _parse_frames(content.get("frames"), where))


def parse_names(content: Mapping[str, Any], group: str, where: str) -> SentenceNames:
    """Which sentence is meant; raises `PredictionError` where that is too little, or of another type."""
    found = []
    for name in (group, *NAMES):
        value = content.get(name)
        is_name = isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and name != "text")
        _require(value is None or is_name, where, name, value, "a text")
        found.append(None if value is None else str(value))
    names = SentenceNames(*found)
    if names.sent_id is None and None in (names.group_id, names.text):
        raise PredictionError(f"{where} does not say which sentence it answers: give sent_id, or {group} and text.")
    return names


def parse_score(content: Mapping[str, Any], where: str) -> float | None:
    """The score of an answer; raises `PredictionError` for what is no number from 0 to 1."""
    return None if content.get("score") is None else _probability(content["score"], where, "score")


def normalized(text: str) -> str:
    """A text as texts are compared: without regard to case and spaces."""
    return " ".join(text.split()).casefold()


def _parse_frames(frames: Any, where: str) -> tuple[StoredAnswer, ...]:
    if not isinstance(frames, list) or not frames:
        raise PredictionError(f"{where}: frames is {short_text(frames)}, expected a list with an answer for each.")
    answers, seen = [], set()
    for place, content in enumerate(frames):
        of_frame = f"{where}, frames[{place}]"
        if not isinstance(content, dict):
            raise PredictionError(f"{of_frame} holds {short_text(content)}, expected a mapping with frame and mask.")
        _check_fields(content, ("frame", *ANSWER), of_frame)
        frame = content.get("frame")
        is_frame = isinstance(frame, (str, int)) and not isinstance(frame, bool)
        _require(is_frame, of_frame, "frame", frame, "the name of a frame, or its number from 0")
        if frame in seen:
            raise PredictionError(f"{of_frame} is frame {name_text(frame)} once more. Give one answer for each frame.")
        seen.add(frame)
        answers.append(_parse_answer(content, of_frame, frame))
    return tuple(answers)


def _parse_answer(content: Mapping[str, Any], where: str, frame: str | int | None = None) -> StoredAnswer:
    if "mask" not in content:
        raise PredictionError(f"{where} has no mask: give COCO's run-length encoding, or null where it is empty.")
    present = content.get("present")
    _require(present is None or isinstance(present, bool), where, "present", present, "a boolean or null")
    return StoredAnswer(_parse_mask(content["mask"], where), parse_score(content, where), present, frame)


def _parse_mask(mask: Any, where: str) -> StoredMask:
    if mask is None:
        return NoMask()
    stored = RunLengths(mask)
    with_counts = isinstance(mask, dict) and isinstance(mask.get("counts"), (str, list))
    _require(with_counts, where, "mask", mask, 'a mapping {"size": [height, width], "counts": text}')
    try:
        stored.size()
    except InvalidMaskError as error:
        raise PredictionError(f"{where}: {error}") from error
    return stored


def _check_fields(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [name for name in content if name not in known]
    if unknown:
        nearest = get_close_matches(unknown[0], known, n=1)
        meant = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}."
        raise PredictionError(f"{where} has an unknown field {name_text(unknown[0])}: {meant}")


def _probability(value: Any, where: str, name: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_probability = is_number and 0 <= value <= 1
    _require(is_probability, where, name, value, "a number from 0 to 1, or nothing")
    return float(value)


def _require(is_so: bool, where: str, name: str, value: Any, expected: str) -> None:
    if not is_so:
        raise PredictionError(f"{where}: {name} is {short_text(value)}, expected {expected}.")
