"""One Parquet file of labels: images are read, a system answers, and what became no row is told beside the rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..data.rows import DataFormatError
from ..data.shards import IMAGE_GROUP_ROWS
from ..evaluation.answering import answer_items
from ..evaluation.systems import Answer, System
from ..files import write_whole
from ..messages import message_of
from .images import ImagesToLabel
from .rows import OUTCOMES, LabelRules, label_features, rows_of_image

# Under this name a file keeps what of its images did not become rows.
METADATA = "hf_refseg.labels"
# Of image files that the rows of a group hold: so much is in the memory of the writer, and of whoever reads a stream.
GROUP_BYTES = 2**26
# What is counted: images, those among them without answers for one reason or the other, and answers.
COUNTED = ("images", "unreadable", "failed", *OUTCOMES)


@dataclass(frozen=True)
class LabelShard:
    """Images whose rows are one Parquet file.

    Attributes:
        split: theirs.
        places: theirs in the split.
        path: the file, which is there once it is whole.
    """

    split: str
    places: range
    path: Path


@dataclass(frozen=True)
class ShardTally:
    """What a file says beside its rows.

    Attributes:
        counts: how many there are of `COUNTED`.
        unreadable: the places of images that could not be read.
        failed: by the id of an image, what a system said that failed on it.
        threshold: foreground probability above which a pixel belongs to a mask; None = the system answered masks.
    """

    counts: Mapping[str, int]
    unreadable: Sequence[int]
    failed: Mapping[str, str]
    threshold: float | None

    @classmethod
    def load(cls, path: Path) -> ShardTally:
        """That of a file; raises `DataFormatError` where it is damaged."""
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException

        try:
            return cls(**json.loads(parquet.read_metadata(path).metadata[METADATA.encode()]))
        except (ArrowException, OSError, ValueError, TypeError, LookupError) as error:
            raise DataFormatError(
                f"{path} is damaged ({error}). Delete it, and start the same command again."
            ) from error


# An image with its answers, or with what the system said that failed on it.
Answered = Iterator[tuple[dict[str, Any], Iterable[Answer] | ValueError]]


def write_shard(
    system: System,
    images: ImagesToLabel,
    shard: LabelShard,
    rules: LabelRules,
    *,
    num_workers: int = 0,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Writes the file of a shard.

    Args:
        system: gives the answers.
        images: what is labeled.
        shard: which of them.
        rules: which answers become rows.
        num_workers: processes that read and prepare images.
        on_image: called behind each image.

    Raises:
        ValueError: the system fails on several images and answers about none, or its answers are of another size.
        OutputError: the disk is full.
    """
    items = _ShardItems(images, shard)
    together = answer_items(system, items, num_workers=num_workers)
    try:
        _write(shard.path, _Rows(system, images, rules, together, on_image))
    except ValueError:
        # Which of those that are answered together it was is not known, and the others are to go on.
        _write(shard.path, _Rows(system, images, rules, _answer_apart(system, items), lambda: None))


class _ShardItems(Dataset):
    """The images of a shard as `answer_items` takes them; of one that cannot be read nothing is asked."""

    def __init__(self, images: ImagesToLabel, shard: LabelShard) -> None:
        self.images, self.shard = images, shard

    def __len__(self) -> int:
        return len(self.shard.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = range(len(self))[index] + self.shard.places.start
        try:
            asked, picture = self.images.read(self.shard.split, place)
        except (OSError, ValueError):
            return {"place": place, "image": None, "texts": [], "asked": None}
        return {"place": place, "image": picture, "texts": [text.raw for text in asked.texts], "asked": asked}


def _answer_apart(system: System, items: _ShardItems) -> Answered:
    """The images one by one; raises the last ValueError where the system failed on several and answered about none."""
    failures, is_answered = [], False
    for item in map(items.__getitem__, range(len(items))):
        try:
            answers = list(system.segment(item["image"], item["texts"])) if item["texts"] else []
        except ValueError as error:
            failures.append(error)
            yield item, error
        else:
            is_answered |= bool(answers)
            yield item, answers
    if len(failures) > 1 and not is_answered:
        raise failures[-1]


class _Rows:
    """The rows of a shard, and what becomes of the rest meanwhile."""

    def __init__(
        self,
        system: System,
        images: ImagesToLabel,
        rules: LabelRules,
        answered: Answered,
        on_image: Callable[[], object],
    ) -> None:
        self.features = label_features(images.other_ids)
        self._answered, self._system, self._rules, self._on_image = answered, system, rules, on_image
        self._counts = Counter(dict.fromkeys(COUNTED, 0))
        self._unreadable: list[int] = []
        self._failed: dict[str, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for item, answers in self._answered:
            self._counts["images"] += 1
            if item["asked"] is None:
                self._counts["unreadable"] += 1
                self._unreadable.append(item["place"])
            elif isinstance(answers, ValueError):
                self._counts["failed"] += 1
                self._failed[item["asked"].image_id] = message_of(answers)
            else:
                yield from rows_of_image(item["asked"], answers, self._system.threshold, self._rules, self._counts)
            self._on_image()

    def tally(self) -> ShardTally:
        """What there was beside the rows that were given so far."""
        threshold = None if self._system.gives_masks else self._system.threshold
        return ShardTally(dict(self._counts), self._unreadable, self._failed, threshold)


def _write(path: Path, rows: _Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = rows.features.arrow_schema

    def write(partial: Path) -> None:
        with parquet.ParquetWriter(partial, schema) as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
            writer.add_key_value_metadata({METADATA: json.dumps(asdict(rows.tally()))})

    write_whole(path, write)


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in groups that are written together."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"]["bytes"])
        if len(group) == IMAGE_GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
