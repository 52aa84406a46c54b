"""Which prediction of a file answers which sentence of a data set, and what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from datasets import Dataset, IterableDataset

from ..data.clips import check_video_columns, item_of_video
from ..data.examples import checked_sentences, naming_mask, undecoded
from ..data.masks import InvalidMaskError, size_of_rle
from ..data.rows import holds_videos
from ..data.streams import read_rows
from ..messages import counted, name_text
from .prediction_files import PredictionFile
from .prediction_lines import NoMask, Prediction, PredictionError, SentenceNames, normalized
from .protocols import Protocol
from .results import Key, name_key
from .video_scoring import compared_frames

logger = logging.getLogger(__name__)

# How many examples of a fault an error shows.
SHOWN = 3


@dataclass(frozen=True)
class Sentence:
    """A sentence of a data set, and what a prediction of it has to have.

    `frames` are names and numbers of those frames of a video on which its mask is compared; None for images.
    """

    key: Key
    texts: tuple[str, ...]
    size: tuple[int, int]
    annotator: str = ""
    object_number: int = 0
    frames: tuple[tuple[str, int], ...] | None = None


@dataclass(eq=False)
class _Fault:
    """How often something is wrong, and where first."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(example)

    def __str__(self) -> str:
        return f" ({'; '.join(self.first)})"


class Match:
    """Which prediction answers which sentence, and what does not fit.

    Args:
        file: the predictions.
        sentences: those that are scored.
        kind: what the data set holds, images or videos.
        whole: whether the sentences are all of the data set, so that predictions of others are none of its.
    """

    def __init__(self, file: PredictionFile, sentences: Iterable[Sentence], kind: str, whole: bool) -> None:
        self.file, self.kind, self.whole = file, kind, whole
        self.sentences = list(sentences)
        # By sentence the place in the file and, where pictures hold several objects, the number of the object.
        self.places: dict[Key, tuple[Any, int | None]] = {}
        self.at_model_size = file.header.resolution == "model"
        self.sizes: set[tuple[int, int]] = set()
        self.holds_no_mask = False
        self.double, self.unclear, self.other_text, self.other_size, self.foreign = (_Fault() for _ in range(5))
        self.missing, self.lacking = _Fault(), _Fault()
        self._by_sent_id: dict[str, list[Sentence]] = {}
        self._by_text: dict[tuple[str | None, str], list[Sentence]] = {}
        self._by_annotator: dict[tuple[str | None, str], list[Sentence]] = {}
        for sentence in self.sentences:
            group_id, _, sent_id = sentence.key
            self._by_sent_id.setdefault(sent_id, []).append(sentence)
            self._by_annotator.setdefault((group_id, sentence.annotator), []).append(sentence)
            for text in sentence.texts:
                self._by_text.setdefault((group_id, text), []).append(sentence)
        for found in file:
            self._add(*found)
        for sentence in self.sentences:
            # Where nothing is compared, nothing has to be said.
            if sentence.key not in self.places and sentence.frames != ():
                self.missing.add(self._name(sentence))

    @property
    def left_out(self) -> int:
        """How many sentences have no prediction, or lack one on a frame."""
        return self.missing.count + self.lacking.count

    @property
    def model_size(self) -> tuple[int, int] | None:
        """The size at which empty masks are made up where the masks have a model's; None = that of the image."""
        return next(iter(self.sizes)) if self.at_model_size and len(self.sizes) == 1 else None

    def _add(self, place: Any, where: str, prediction: Prediction) -> None:
        if prediction.kind != self.kind:
            raise PredictionError(
                f"{where} is about {prediction.kind}s, the data set holds {self.kind}s. Choose the one that it is for."
            )
        found = self._find(prediction.names)
        if not found and self.whole:
            self.foreign.add(f"{where}: {_show(prediction.names)}")
        if len(found) > 1 and prediction.names.sent_id is not None:
            self.unclear.add(f"{where}: {' and '.join(self._name(each) for each in found[:2])}")
        else:
            for sentence in found:
                self._take(place, where, prediction, sentence)

    def _find(self, names: SentenceNames) -> list[Sentence]:
        if names.annotator is not None:
            return self._by_annotator.get((names.group_id, names.annotator), [])
        if names.sent_id is not None:
            found = self._by_sent_id.get(names.sent_id, [])
        elif names.text is not None:
            found = self._by_text.get((names.group_id, normalized(names.text)), [])
        else:
            found = []
        given = (names.group_id, names.ref_id)
        return [
            sentence
            for sentence in found
            if all(name in (None, own) for name, own in zip(given, sentence.key, strict=False))
        ]

    def _take(self, place: Any, where: str, prediction: Prediction, sentence: Sentence) -> None:
        if sentence.key in self.places:
            self.double.add(f"{where}: {self._name(sentence)}")
            return
        text = prediction.names.text
        if text is not None and normalized(text) not in sentence.texts:
            self.other_text.add(f"{where}: {name_text(text)}, not {name_text(sentence.texts[0])}")
        number = None if prediction.names.annotator is None else sentence.object_number
        self.places[sentence.key] = place, number
        self._check_masks(where, prediction, sentence)

    def _check_masks(self, where: str, prediction: Prediction, sentence: Sentence) -> None:
        names = {answer.frame for answer in prediction.answers}
        if sentence.frames and (lacking := [each for each in sentence.frames if not names & set(each)]):
            frames = ", ".join(name_text(name) for name, _ in lacking[:SHOWN])
            self.lacking.add(f"{self._name(sentence)}: {frames}")
        for answer in prediction.answers:
            try:
                size = answer.mask.size()
            except InvalidMaskError as error:
                raise PredictionError(f"{where}: {error}") from error
            if size is None:
                self.holds_no_mask |= isinstance(answer.mask, NoMask)
            elif self.at_model_size:
                self.sizes.add(size)
            elif size != sentence.size:
                self.other_size.add("{}: {} x {}, not {} x {}".format(where, *size, *sentence.size))
                return

    def _name(self, sentence: Sentence) -> str:
        return name_key(self.kind, sentence.key)

    def check(self, allow_missing: bool) -> None:
        """Raises `PredictionError` where predictions do not fit; warns of what is foreign or left out."""
        faults = _listed(
            ("prediction", "of a sentence that has one already; give sent_id where texts are the same", self.double),
            ("prediction", f"without telling which sentence; give {self.kind}_id and ref_id as well", self.unclear),
            ("prediction", "with another text than the sentence of the same ids", self.other_text),
            ("mask", f"of another size than the {self.kind} (height x width); resize them", self.other_size),
        )
        absent = _listed(("sentence", "without a mask on each frame that is compared", self.lacking))
        if self.missing.count:
            absent.append(f"{self.missing.count} of {len(self.sentences)} sentences have no prediction{self.missing}")
        foreign = _listed(("prediction", "of no sentence of the data set", self.foreign))
        if faults or not self.places or (absent and not allow_missing):
            remedy = "Choose the data set and split that they were made for, or correct them."
            if not faults and self.places:
                remedy += ' Or take empty masks for what is missing: --missing empty (in Python missing="empty").'
            table = "\n".join(f"  {line}" for line in absent + faults + foreign)
            raise PredictionError(f"{self.file.path} does not fit the data set. {remedy}", table)
        if self.at_model_size and len(self.sizes) != 1 and (self.holds_no_mask or self.left_out):
            raise PredictionError(
                f"{self.file.path} leaves masks out, whose size at the model is unknown: the others have "
                f"{counted(len(self.sizes), 'size')}. Write empty masks of the right size."
            )
        for line in foreign:
            logger.warning("%s: %s: not scored.", self.file.path, line)
        for line in absent:
            logger.warning("%s: %s: empty masks are scored for them.", self.file.path, line)


def _listed(*faults: tuple[str, str, _Fault]) -> list[str]:
    """How often each fault is there, and where first, after a noun for what is at fault and what it is."""
    return [f"{counted(fault.count, noun)} {what}{fault}" for noun, what, fault in faults if fault.count]


def sentences_of(
    dataset: Dataset | IterableDataset, protocol: str | Protocol, max_examples: int | None
) -> Iterator[Sentence]:
    """The sentences of all images or videos, or the first ones; no image is opened."""
    if holds_videos(dataset):
        check_video_columns(dataset)
        columns = ["video_id", "frame_names", "referents"]
        for row in islice(read_rows(dataset.select_columns(columns)), max_examples):
            yield from _sentences_of_video(row, protocol)
        return
    rows = read_rows(undecoded(dataset).select_columns(["image_id", "ref_id", "mask", "sentences"]))
    for _, of_image in islice(groupby(rows, key=itemgetter("image_id")), max_examples):
        for row in of_image:
            with naming_mask(row):
                size = size_of_rle(row["mask"])
            for sentence in checked_sentences(row):
                key = row["image_id"], row["ref_id"], sentence["sent_id"]
                yield Sentence(key, _texts(sentence), size)


def _sentences_of_video(row: dict[str, Any], protocol: str | Protocol) -> Iterator[Sentence]:
    example = item_of_video({**row, "frames": row["frame_names"]})
    described = [referent for referent in row["referents"] if referent["sentences"]]
    sentences = (
        (number, referent, sentence)
        for number, referent in enumerate(described, start=1)
        for sentence in referent["sentences"]
    )
    for (number, referent, sentence), compared in zip(sentences, compared_frames(example, protocol), strict=True):
        key = row["video_id"], referent["ref_id"], sentence["sent_id"]
        frames = tuple((row["frame_names"][frame], frame) for frame in sorted(compared))
        size = size_of_rle(referent["masks"][0])
        yield Sentence(key, _texts(sentence), size, sentence["annotator"], number, frames)


def _texts(sentence: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(normalized(sentence[name]) for name in ("raw", "sent") if sentence[name]))


def _show(names: SentenceNames) -> str:
    given = (names.group_id, names.ref_id, names.sent_id, names.text, names.annotator)
    return ", ".join(name_text(name) for name in given if name is not None)
