"""load_refseg: every data set of the library by its name, as a DatasetDict whose rows all have the same columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.names_refseg import nearest_names
from .masks import MASK_OVERLAPS
from .prepared import load_prepared
from .rows import DataFormatError, check_columns, filling_cache, reading_parquet, require_literal_name

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetDict

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
SCENE_OPTIONS = ("train_size", "val_size", "test_size", "image_size", "seed", "cache_dir")
# The options of `load_refseg` that each data set takes; those of other data sets are those of `load_dataset`.
DATASET_OPTIONS = {
    **dict.fromkeys(REFER_SPLITS, ("data_dir", "split_by", "mask_overlap", "image_dir", "cache_dir")),
    **dict.fromkeys(REFSHAPES, SCENE_OPTIONS),
    REFSHAPES_VIDEO: (*SCENE_OPTIONS, "num_frames"),
    **dict.fromkeys(VIDEO_DATASETS, ("data_dir", "cache_dir")),
    "a2d_sentences": ("data_dir", "cache_dir", "context_frames"),
}


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
    return _load_refshapes(name, **options)


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


def _load_refshapes(name: str, cache_dir: str | PathLike[str] | None = None, **options: Any) -> DatasetDict:
    from hf_refseg.datasets_scripts.refshapes import RefShapes
    from hf_refseg.datasets_scripts.refshapes_video import RefShapesVideo

    builder_class = RefShapesVideo if name == REFSHAPES_VIDEO else RefShapes
    return build_rows(
        builder_class(config_name=name, cache_dir=None if cache_dir is None else str(cache_dir), **options)
    )


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


def _load_rows(name: str, **options: Any) -> DatasetDict:
    """A prepared folder or a data set on the Hub."""
    from datasets import load_dataset

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
        check_columns(f"{name} ({split})", rows)
    return dataset
