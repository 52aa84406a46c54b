"""load_refseg: every data set of the library by its name, as a DatasetDict whose rows all have the same columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import writing_into
from ..messages import BadInputError
from ..modeling.names_refseg import nearest_names
from .masks import MASK_OVERLAPS

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, DatasetBuilder, DatasetDict, Features, IterableDataset

# The splits that each partition (split_by) of a data set has; the first partition is the default one.
REFER_SPLITS = {
    "refcoco": {"unc": ("train", "val", "testA", "testB"), "google": ("train", "val", "test")},
    "refcoco+": {"unc": ("train", "val", "testA", "testB"), "google": ("train", "val", "test")},
    "refcocog": {"umd": ("train", "val", "test"), "google": ("train", "val")},
    "refclef": {"unc": ("train", "val", "testA", "testB", "testC"), "berkeley": ("train", "val", "test")},
    "grefcoco": {"unc": ("train", "val", "testA", "testB")},
}
REFSHAPES = ("refshapes", "refshapes+", "grefshapes")
REFSHAPES_VIDEO = "refshapes_video"
# Read from their original files, see `video_loading`.
VIDEO_DATASETS = ("ref_youtube_vos", "ref_davis17", "a2d_sentences", "jhmdb_sentences")
DATASET_NAMES = (*REFER_SPLITS, *REFSHAPES, REFSHAPES_VIDEO, *VIDEO_DATASETS)
# What a video may have, because its row and its clips are in memory at once; no data set comes near.
MAX_FRAMES = 10_000
SCENE_OPTIONS = ("train_size", "val_size", "test_size", "image_size", "seed", "cache_dir")
# The options of `load_refseg` that each data set takes; those of other data sets are those of `load_dataset`.
DATASET_OPTIONS = {
    **dict.fromkeys(REFER_SPLITS, ("data_dir", "split_by", "mask_overlap", "image_dir", "cache_dir")),
    **dict.fromkeys(REFSHAPES, SCENE_OPTIONS),
    REFSHAPES_VIDEO: (*SCENE_OPTIONS, "num_frames"),
    **dict.fromkeys(VIDEO_DATASETS, ("data_dir", "cache_dir")),
    "a2d_sentences": ("data_dir", "cache_dir", "context_frames"),
}


class DataFormatError(BadInputError):
    """Files of a data set which are absent, damaged or not in the layout and format of that data set."""


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
            "ann_ids": List(Value("int64")),
            "category": Value("string"),
            "mask": {"size": List(Value("int32"), length=2), "counts": Value("string")},
            "bbox": List(Value("float64"), length=4),
            "no_target": Value("bool"),
            "sentences": List({"sent_id": Value("string"), "raw": Value("string"), "sent": Value("string")}),
        }
    )


def video_features() -> Features:
    """The columns of every video data set of the library: one row for each video, with all that it shows.

    `frame_names` are those of the original files, without ending. Of a referent's frames only some may be annotated:
    `annotated_frames` are their numbers (places in `frames`, ascending) and `masks` their masks, COCO's compressed
    run-length encoding, empty where the referent is out of sight. `annotator` is empty save where a data set scores
    the sentences of each annotator on their own (Ref-DAVIS17).
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


def load_refseg(
    name: str, data_dir: str | PathLike[str] | None = None, split_by: str | None = None, **options: Any
) -> DatasetDict:
    """Load a data set for referring segmentation; `row_features` describes its rows, `video_features` those of videos.

    Args:
        name: "refcoco", "refcoco+", "refcocog", "refclef" or "grefcoco" (original files under `data_dir`);
            "refshapes", "refshapes+" or "grefshapes" (generated); "refshapes_video" (generated videos);
            "ref_youtube_vos", "ref_davis17", "a2d_sentences" or "jhmdb_sentences" (videos, see `load_video_dataset`);
            else a folder or a Hub id that `prepare` wrote.
        data_dir: the folder that holds `<name>/` and, unless the option `image_dir` names another place, `images/`;
            for videos the data set's own folder.
        split_by: who split the data set: "unc", "google", "umd" or "berkeley"; by default the usual one.
        options: for the REFER family `mask_overlap` ("union" or "background", see `rasterize_polygons`), `image_dir`
            (any folder of COCO's train2014 images) and `cache_dir`; for RefShapes `train_size`, `val_size`,
            `test_size`, `image_size` and `seed`, for its videos `num_frames` too; otherwise those of
            `datasets.load_dataset`.

    Rows of one image are adjacent. Splits come in the order train, val, testA, testB or train, val, test.
    Raises `ValueError` for an unknown name, option or option value, and `DataFormatError`, which names file, record
    and remedy, for files that are absent, damaged or in another layout.
    """
    for folder in (data_dir, options.get("image_dir")):
        require_literal_name(folder)
    if split_by is not None and name in VIDEO_DATASETS:
        raise ValueError(f"{name} is split in one way alone: leave split_by out.")
    if (data_dir is not None or split_by is not None) and name not in (*REFER_SPLITS, *VIDEO_DATASETS):
        raise ValueError(
            f"'{name}' takes no data_dir or split_by. Leave them out, or choose one of: "
            f"{', '.join((*REFER_SPLITS, *VIDEO_DATASETS))}."
        )
    if name not in DATASET_NAMES:
        return _load_rows(name, **options)
    _require_options(name, options)
    if name in REFER_SPLITS:
        return _load_refer(name, data_dir, split_by, **options)
    if name in VIDEO_DATASETS:
        from .video_loading import load_video_dataset

        return load_video_dataset(name, data_dir, **options)
    if name == REFSHAPES_VIDEO:
        from hf_refseg.datasets_scripts.refshapes_video import build_refshapes_video

        return build_refshapes_video(**options)
    from hf_refseg.datasets_scripts.refshapes import build_refshapes

    return build_refshapes(config_name=name, **options)


def option_names(name: str) -> tuple[str, ...]:
    """The options of `load_refseg` that a data set takes, or, of a folder or one on the Hub, of `load_dataset`."""
    if name in DATASET_OPTIONS:
        return DATASET_OPTIONS[name]
    from datasets import load_dataset
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    # Which files make which split stands in the card.
    chosen = ("path", "name", "data_dir", "data_files", "split", "config_kwargs", "version", "description")
    names = (*signature(load_dataset).parameters, *(field.name for field in fields(ParquetConfig)))
    return tuple(option for option in dict.fromkeys(names) if option not in chosen)


def _require_options(name: str, options: Iterable[str]) -> None:
    """Raises ValueError where a data set has no such option."""
    known = option_names(name)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"{name} has no option '{unknown[0]}', only {', '.join(known)}{nearest_names(unknown, known) or '.'}"
        )


def _load_refer(
    name: str,
    data_dir: str | PathLike[str] | None,
    split_by: str | None,
    mask_overlap: str = "union",
    image_dir: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> DatasetDict:
    from hf_refseg.datasets_scripts.grefcoco import GRefCoco
    from hf_refseg.datasets_scripts.refer import Refer, find_image_dir, fingerprint_files

    partitions = REFER_SPLITS[name]
    split_by = split_by or next(iter(partitions))
    if split_by not in partitions:
        raise ValueError(f"Unknown split_by '{split_by}' for {name}. Choose one of: {', '.join(partitions)}.")
    if mask_overlap not in MASK_OVERLAPS:
        raise ValueError(f"Unknown mask_overlap '{mask_overlap}'. Choose one of: {', '.join(MASK_OVERLAPS)}.")
    if data_dir is None:
        raise ValueError(f"{name} is read from its original files: pass data_dir, the folder that holds '{name}/'.")

    builder_class = GRefCoco if name == "grefcoco" else Refer
    root = Path(data_dir).resolve()
    fingerprint = fingerprint_files(builder_class.annotation_files(root, name, split_by))
    builder = builder_class(
        config_name=f"{name}_{split_by}",
        data_dir=str(root),
        cache_dir=None if cache_dir is None else str(cache_dir),
        dataset=name,
        split_by=split_by,
        mask_overlap=mask_overlap,
        image_dir=str(find_image_dir(root, name, image_dir)),
        fingerprint=fingerprint,
    )
    return build_rows(builder)


def build_rows(builder: DatasetBuilder) -> DatasetDict:
    """The splits of a builder, from its cache where it has them; raises what was wrong itself, not as a cause."""
    from datasets.exceptions import DatasetGenerationError

    try:
        with filling_cache(builder.cache_dir):
            builder.download_and_prepare()
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataFormatError | ImportError | OSError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset()


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

    try:
        yield
    except DatasetGenerationError as error:
        raise DataFormatError(
            f"{name} is damaged ({error.__cause__ or error}). Prepare it again with the same options, which names the "
            "damaged file, or download it again."
        ) from error


def _load_rows(name: str, **options: Any) -> DatasetDict:
    """A prepared folder or a data set on the Hub."""
    from datasets import load_dataset

    from .prepared import load_prepared

    folder = Path(name)
    if not folder.is_dir() and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise ValueError(
            f"Unknown data set '{name}'. Choose one of: {', '.join(DATASET_NAMES)}; or pass a folder that "
            "`hf-refseg prepare` wrote, or a Hub id such as 'user/name'."
        )
    chosen_before = sorted({"mask_overlap", "image_dir"} & options.keys())
    if chosen_before:
        raise ValueError(
            f"'{name}' is prepared and takes no {chosen_before[0]}: leave it out, it was chosen in `prepare`."
        )
    _require_options(name, options)
    if folder.is_dir():
        dataset = load_prepared(folder, **options)
    else:
        with reading_parquet(name), filling_cache(options.get("cache_dir")):
            dataset = load_dataset(name, **options)
    for split, rows in dataset.items():
        _check_columns(f"{name} ({split})", rows)
    return dataset


def _check_columns(where: str, rows: Dataset | IterableDataset) -> None:
    """Raises `DataFormatError` unless rows have the columns of this library, and, where they are there, no gaps."""
    from datasets import Dataset

    features = video_features() if "frames" in rows.column_names else row_features()
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
