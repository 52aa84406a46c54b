"""Rows of data sets: their columns, and the errors of what is read into them or cannot become one."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import writing_into
from ..messages import BadInputError, short_text

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, Features, IterableDataset

# What a video may have, because its row and its clips are in memory at once; no data set comes near.
MAX_FRAMES = 10_000


class DataFormatError(BadInputError):
    """Files of a data set which are absent, damaged or not in the layout and format of that data set."""


class InvalidRowError(BadInputError):
    """A row that cannot become an example: an image that does not open, a mask of another size, an empty sentence."""


def row_features() -> Features:
    """The columns of every image data set of the library: one row for each referent of an image.

    `mask` is COCO's compressed run-length encoding of the union of the annotations, `bbox` is x, y, width, height in
    pixels. A referent without a target has an empty mask, `no_target` True and a `bbox` of four zeros.
    """
    from datasets import Features, Image, List, Value

    return Features(
        {
            "image": Image(),
            "image_id": Value("string"),
            "ref_id": Value("string"),
            "ann_ids": List(Value("string")),
            "category": Value("string"),
            "mask": {"size": List(Value("int32"), length=2), "counts": Value("string")},
            "bbox": List(Value("float64"), length=4),
            "no_target": Value("bool"),
            "sentences": List({"sent_id": Value("string"), "raw": Value("string"), "sent": Value("string")}),
        }
    )


# The category of a referent without sentences that are pixels of no object, but none of the background either.
VOID = "void"


def video_features() -> Features:
    """The columns of every video data set of the library: one row for each video, with all that it shows.

    `frame_names` are those of the original files, without ending. Of a referent's frames only some may be annotated:
    `annotated_frames` are their numbers (places in `frames`, ascending) and `masks` their masks, COCO's compressed
    run-length encoding, empty where the referent is out of sight. `annotator` is empty save where a data set scores
    the sentences of each annotator on their own (Ref-DAVIS17). A referent without sentences is an object that nobody
    describes, for protocols that compare all objects of a video; nothing is trained on it. One whose category is
    `VOID` is no object, but the pixels that the annotators left open.
    """
    from datasets import Features, Image, List, Value

    return Features(
        {
            "video_id": Value("string"),
            "frame_names": List(Value("string")),
            "frames": List(Image()),
            "referents": List(
                {
                    "ref_id": Value("string"),
                    "category": Value("string"),
                    "annotated_frames": List(Value("int32")),
                    "masks": List({"size": List(Value("int32"), length=2), "counts": Value("string")}),
                    "sentences": List(
                        {
                            "sent_id": Value("string"),
                            "raw": Value("string"),
                            "sent": Value("string"),
                            "annotator": Value("string"),
                        }
                    ),
                }
            ),
        }
    )


def holds_videos(rows: Dataset | IterableDataset) -> bool:
    """Whether rows are of videos, rather than of referents of images."""
    return "frames" in rows.column_names


def check_columns(where: str, rows: Dataset | IterableDataset) -> None:
    """Raises `DataFormatError` unless rows have the columns of this library.

    Nor do rows that are there have gaps, or boxes that are not four finite numbers.
    """
    from datasets import Dataset

    features = video_features() if holds_videos(rows) else row_features()
    missing = _columns(features.arrow_schema) - _columns(rows.features.arrow_schema)
    # Of a column that is not there at all its own name says enough.
    names = {name if name.split(".")[0] in rows.column_names else name.split(".")[0] for name, _ in missing}
    if names:
        raise DataFormatError(
            f"{where} is no data set for referring segmentation: it lacks the columns {', '.join(sorted(names))}, or "
            "has values of another type there. Write it with `hf-refseg prepare`."
        )
    for name in features if isinstance(rows, Dataset) else ():
        if count := rows.data[name].null_count:
            raise DataFormatError(f"{where}: {count} rows have no {name}. Remove them, or write their {name}.")
    if isinstance(rows, Dataset) and "bbox" in features and not _are_boxes(rows.data["bbox"]):
        raise DataFormatError(
            f"{where}: a bbox is not four finite numbers. Write x, y, width and height there, in pixels."
        )


def _are_boxes(column: pyarrow.ChunkedArray) -> bool:
    """Whether each list of a column without gaps is of four finite numbers."""
    import pyarrow.compute as compute

    lengths, numbers = compute.list_value_length(column), compute.list_flatten(column)
    return compute.all(compute.equal(lengths, 4)).as_py() is not False and (
        numbers.null_count == 0 and compute.all(compute.is_finite(numbers)).as_py() is not False
    )


def ordered_splits(name: str, known: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """The wanted splits in the order of those that a data set has; none known: as they are, for its files name them.

    Raises:
        ValueError: none is wanted, or one that there is not.
    """
    known, wanted = ([each] if isinstance(each, str) else list(each) for each in (known, wanted))
    if not wanted:
        raise ValueError(f"splits names no split of {name}: name some of {', '.join(known)}, or leave it out.")
    for split in wanted:
        if known and split not in known:
            raise ValueError(f"{name} has no split '{split}'. Choose one of: {', '.join(known)}.")
    return tuple(split for split in known or dict.fromkeys(wanted) if split in wanted)


def with_text_ids(rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Rows with their `ann_ids` as texts, which they were numbers of in folders that were prepared in former times."""
    import pyarrow as pa
    from datasets import Dataset, List, Value

    column = "ann_ids"
    if column not in rows.column_names or rows.features[column] != List(Value("int64")):
        return rows
    if not isinstance(rows, Dataset):
        return rows.cast_column(column, List(Value("string")))
    # `cast_column` would write all rows anew, with their images.
    texts = rows.with_format("arrow")[column][:].cast(pa.list_(pa.string()))
    return rows.remove_columns(column).add_column(column, texts, feature=List(Value("string")))


def _columns(schema: Iterable[pyarrow.Field], prefix: str = "") -> set[tuple[str, str]]:
    """The name of every column, those within columns as "sentences.raw", and the kind of its values."""
    import pyarrow.types as types

    kinds = {"text": (types.is_string, types.is_large_string), "number": (types.is_integer, types.is_floating)}
    found: set[tuple[str, str]] = set()
    for field in schema:
        name, kind = f"{prefix}{field.name}", field.type
        while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            kind = kind.value_type
        if types.is_struct(kind):
            found |= _columns(kind, f"{name}.")
        else:
            named = (each for each, tests in kinds.items() if any(test(kind) for test in tests))
            found.add((name, next(named, str(kind))))
    return found


def read_json(path: Path) -> Any:
    """Parse a JSON file; raises `DataFormatError` when it is damaged, or a mapping in it has a key twice."""
    with reading_json(path):
        return json.loads(path.read_bytes(), object_pairs_hook=unique_keys(path))


def unique_keys(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """What makes a dict of a mapping in a JSON file, for a decoder; raises `DataFormatError` for a key twice."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise DataFormatError(
                f"{path} has the key {short_text(repeated)} twice in one mapping. Remove one of the records."
            )
        return found

    return mapping


@contextmanager
def reading_json(path: Path) -> Iterator[None]:
    """A context that decodes a JSON file; raises `DataFormatError` when it is damaged."""
    try:
        yield
    except DataFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{path} is not valid JSON ({error}). Download the file again.") from error


def filling_cache(folder: str | PathLike[str] | None) -> AbstractContextManager[None]:
    """A context that fills the cache of `datasets` in `folder`, None = its usual one; raises as `writing_into`."""
    from datasets import config

    folder = config.HF_DATASETS_CACHE if folder is None else folder
    require_literal_name(folder)
    remedy = "Make room, or name another cache_dir (HF_DATASETS_CACHE for all data sets)"
    return writing_into(folder, remedy)


def require_literal_name(folder: str | PathLike[str] | None) -> None:
    """Raises `DataFormatError` for a folder whose name `datasets` takes for that of another one, or cannot store.

    "::" stands before the name of an archive to it, and it puts the values of environment variables in the place of
    their names; there is no way to write either of them otherwise. None is fine.
    """
    name = "" if folder is None else str(Path(folder).resolve())
    faults = {
        "holds '::', which the library datasets takes for the end of an archive's name": "::" in name,
        "holds the name of an environment variable": os.path.expandvars(name) != name,
        "is no text in UTF-8": re.search("[\ud800-\udfff]", name) is not None,
    }
    for fault, is_so in faults.items():
        if is_so:
            raise DataFormatError(f"The name of the folder {name} {fault}. Rename it, or choose another one.")


@contextmanager
def reading_parquet(name: object) -> Iterator[None]:
    """A context in which `datasets` reads the Parquet files of a data set.

    Raises:
        DataFormatError: they are damaged; it names the data set.
    """
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    try:
        yield
    except (DatasetGenerationError, ArrowInvalid) as error:
        raise DataFormatError(
            f"{name} is damaged ({error.__cause__ or error}). Prepare it again with the same options, which names the "
            "damaged file, or download it again."
        ) from error
