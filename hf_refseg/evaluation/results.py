"""What an evaluation finds, whatever it is of: scores, their intervals, and a record of each sentence."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ..files import write_json
from ..messages import short_text
from ..modeling.modeling_outputs_refseg import NotFiniteError

Record = dict[str, Any]
# The image or the video, the reference and the sentence.
Key = tuple[str, str, str]
# What a model was trained on, seen from the data set that it is scored on; in this order tables follow each other.
TRAINING_REGIMES = {
    "single": "trained on this data set alone",
    "mixed": "trained on this data set and others of referring expressions",
    "extra": "trained on other data as well, or instead",
    "unknown": "what it was trained on is unknown",
}


@dataclass(frozen=True)
class Scored:
    """All that is kept of an image or a video; JSON has types for it.

    Attributes:
        records: one for each sentence.
        detections: true and predicted masks as run-length encodings, where a protocol ranks them over the data set.
    """

    records: list[Record]
    detections: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(ABC):
    """What `evaluate_model` found.

    Attributes:
        metrics: scores in percent.
        intervals: 95 % bootstrap interval `(low, high)` in percent for the scores; empty when none were asked for.
        protocol: the protocol's name.
        sentences: number of sentences.
        seconds: wall-clock time.
        records: one dict per sentence.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    protocol: str
    sentences: int
    seconds: float
    records: list[Record]

    @property
    @abstractmethod
    def examples(self) -> int:
        """How many images or videos were scored."""

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything to a JSON file; a file that is there stays whole until the new one is."""
        write_json(path, asdict(self))


def all_records(scored: Iterable[Scored]) -> list[Record]:
    """The records of all images or videos."""
    return [record for each in scored for record in each.records]


def count_sentences(records: Sequence[Record]) -> int:
    """How many sentences there are; objects in videos that nobody describes have records without a text."""
    return sum(bool(record["text"]) for record in records)


def find_repeated(records: Sequence[Record]) -> Record | None:
    """A record whose sentence another one is about as well, if there is any."""
    times = Counter(map(key_of, records))
    return next((record for record in records if times[key_of(record)] > 1), None)


def key_of(record: Record) -> Key:
    """What names the sentence of a record."""
    return record["video_id" if "video_id" in record else "image_id"], record["ref_id"], record["sent_id"]


def name_key(kind: str, key: Key) -> str:
    """How an error names a sentence about a thing of a kind, an image or a video."""
    return "{} {}, reference {}, sentence {}".format(kind.capitalize(), *map(short_text, key))


def name_record(record: Record) -> str:
    """How an error names the sentence of a record."""
    return name_key("video" if "video_id" in record else "image", key_of(record))


@contextmanager
def naming_not_finite(kind: str, item: dict[str, Any]) -> Iterator[None]:
    """Names the image or the video, which is the `kind` of an item, in a NotFiniteError."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{kind.capitalize()} {short_text(item[f'{kind}_id'])}: {error}") from error
