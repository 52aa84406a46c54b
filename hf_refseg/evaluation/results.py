"""What an evaluation finds, whatever it is of: scores, their intervals, and a record of each sentence."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from ..files import write_json
from ..messages import short_text

Record = dict[str, Any]
# The image or the video, the reference and the sentence.
Key = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
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

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything to a JSON file; a file that is there stays whole until the new one is."""
        write_json(path, asdict(self))


def key_of(record: Record) -> Key:
    """What names the sentence of a record."""
    return record["video_id" if "video_id" in record else "image_id"], record["ref_id"], record["sent_id"]


def name_record(record: Record) -> str:
    """How an error names the sentence of a record."""
    kind = "Video" if "video_id" in record else "Image"
    return "{} {}, reference {}, sentence {}".format(kind, *map(short_text, key_of(record)))
