"""load_refseg: every data set of the library by its name, as a DatasetDict whose rows all have the same columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from importlib.util import find_spec
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.messages_refseg import nearest_names
from .catalog import DATASETS, DatasetSpec, data_options
from .findings import FILE as FINDINGS
from .findings import Findings
from .prepared import load_prepared
from .rows import (
    DataFormatError,
    check_columns,
    filling_cache,
    ordered_splits,
    reading_parquet,
    require_literal_name,
    with_text_ids,
)

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetDict, IterableDatasetDict


def load_refseg(
    name: str, data_dir: str | PathLike[str] | None = None, split_by: str | None = None, **options: Any
) -> DatasetDict | IterableDatasetDict:
    """Load a data set for referring segmentation; `row_features` describes its rows, `video_features` those of videos.

    Args:
        name: one of `data.catalog.DATASETS`, which says of each what it is, where its original files lie under
            `data_dir`, and which options it takes; else a folder or a Hub id that `prepare` wrote.
        data_dir: for the REFER family the folder that holds `<name>/` and, unless the option `image_dir` names another
            place, `images/`; for videos and own pictures the data set's own folder; none for a data set that is
            generated.
        split_by: who split the data set: "unc", "google", "umd" or "berkeley"; by default the usual one.
        options: for the REFER family `mask_overlap` ("union" or "background", see `rasterize_polygons`), `image_dir`
            (any folder of COCO's train2014 images) and `cache_dir`, for other people's data in its format ("refer")
            `dataset`, what it is called, as well; for PhraseCut `image_dir` (the images, or Visual Genome's folders of
            them) and `cache_dir`; for RefShapes `train_size`, `val_size`, `test_size`, `image_size` and `seed`, for
            its videos `num_frames` too; for Ref-DAVIS17 `annotations` ("semi_supervised" or "unsupervised" masks, by
            default the first that are there); for A2D-Sentences `context_frames` (8): only frames at most so far from
            an annotated one are kept, None = all; for own pictures ("folder", see docs/own_data.md) `format`,
            `sentence_from`, `orientation`, `val_share`, `test_share` and `seed`; for a prepared data set those of
            `datasets.load_dataset`, such as `streaming=True`: rows are then read as they are asked for, and not copied
            into a cache. For all data sets `splits`: the names of those that are made, by default all; for all that
            are read from original files `on_bad_record` ("error", or "skip": a damaged record is left out) and
            `on_size_mismatch` ("error", or "resize_mask": a mask of another size than its picture is resized, nearest
            neighbor).

    Rows of one image are adjacent. Splits come in the order of the catalog. Known defects of released files are
    repaired; one warning for each kind says of what, and what was left out.
    Raises `ValueError` for an unknown name, option or option value, `ImportError` for a missing package of the extra
    "video", and `DataFormatError`, which names file, record and remedy, for files that are absent, damaged or in
    another layout.
    """
    dataset, _ = load_with_findings(name, data_dir, split_by, **options)
    return dataset


def load_with_findings(
    name: str, data_dir: str | PathLike[str] | None = None, split_by: str | None = None, **options: Any
) -> tuple[DatasetDict | IterableDatasetDict, Findings]:
    """As `load_refseg`, with what was repaired in the original files or left out of them."""
    given = {"data_dir": data_dir, "split_by": split_by}
    options |= {option: value for option, value in given.items() if value is not None}
    for option in data_options().values():
        if option.is_place:
            require_literal_name(options.get(option.name))
    if name not in DATASETS:
        return _load_rows(name, **options), Findings()
    dataset, findings = build_rows(_make_builder(DATASETS[name], **options))
    findings.warn(name)
    return dataset, findings


def option_names(name: str) -> tuple[str, ...]:
    """The options of `load_refseg` that a data set takes, or, of a folder or one on the Hub, of `load_dataset`."""
    if name in DATASETS:
        return tuple(option.name for option in DATASETS[name].options)
    from datasets import load_dataset
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    # Which files make which split stands in the card.
    chosen = ("path", "name", "data_dir", "data_files", "split", "config_kwargs", "version", "description")
    names = ("splits", *signature(load_dataset).parameters, *(field.name for field in fields(ParquetConfig)))
    return tuple(option for option in dict.fromkeys(names) if option not in chosen)


def _require_options(name: str, options: Iterable[str]) -> None:
    """Raises ValueError where a data set has no such option."""
    known = option_names(name)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"{name} has no option '{unknown[0]}', only {', '.join(known)}{nearest_names(unknown, known) or '.'}"
        )


def _make_builder(
    spec: DatasetSpec, data_dir: str | PathLike[str] | None = None, split_by: str | None = None, **options: Any
) -> DatasetBuilder:
    """The builder of a data set, which has looked for its files."""
    if options.get("streaming"):
        written_by = f"hf-refseg prepare {spec.name}{' DIR' if spec.layout else ''} --output FOLDER"
        raise ValueError(
            f"{spec.name} cannot be streamed, its rows have to be made first: write them with `{written_by}`, and "
            "stream the folder."
        )
    _require_options(spec.name, options)
    partition = spec.partition(split_by)
    if data_dir is not None and not spec.layout:
        raise ValueError(f"{spec.name} is generated and takes no data_dir: leave it out.")
    options = spec.complete_options(options)
    if (wanted := options.get("splits")) is not None:
        # Where files name the splits, their builder finds out whether there are such.
        options["splits"] = ordered_splits(spec.name, partition.splits, wanted)
    if spec.package is not None and find_spec(spec.package) is None:
        raise ImportError(f"{spec.name} needs {spec.package}: pip install 'hf_refseg[video]'.")
    config_name = spec.name
    if spec.layout:
        options["data_dir"] = str(_find_files(spec, data_dir))
    if partition.split_by is not None:
        config_name = f"{spec.name}_{partition.split_by}"
        options |= {"split_by": partition.split_by, "known_splits": partition.splits}
    return spec.load_builder_class()(config_name=config_name, **spec.settings, **options)


def _find_files(spec: DatasetSpec, data_dir: str | PathLike[str] | None) -> Path:
    """The folder of the original files; what lies in it is not looked at."""
    expected = f"the folder that holds {', '.join(spec.layout)}"
    if data_dir is None:
        raise ValueError(f"{spec.name} is read from its original files: pass data_dir, {expected}.")
    root = Path(data_dir).resolve()
    if not root.is_dir():
        raise DataFormatError(f"The folder {root} does not exist. Point data_dir at {expected}.")
    return root


def build_rows(builder: DatasetBuilder) -> tuple[DatasetDict, Findings]:
    """The splits of a builder and what it found in their files, from its cache where it has them.

    Raises what was wrong itself, not as a cause.
    """
    from datasets.exceptions import DatasetGenerationError

    try:
        with filling_cache(builder.cache_dir):
            builder.download_and_prepare()
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataFormatError | ImportError | OSError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset(), Findings.load(Path(builder.cache_dir) / FINDINGS)


def _load_rows(name: str, **options: Any) -> DatasetDict | IterableDatasetDict:
    """The splits of a prepared folder or a data set on the Hub."""
    folder = Path(name)
    if not folder.is_dir() and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise ValueError(
            f"Unknown data set '{name}'. Choose one of: {', '.join(DATASETS)}; or pass a folder that "
            "`hf-refseg prepare` wrote, or a Hub id such as 'user/name'."
        )
    known = option_names(name)
    if chosen_before := [option for option in options if option in data_options() and option not in known]:
        raise ValueError(
            f"'{name}' is prepared and takes no {chosen_before[0]}: leave it out, it was chosen in `prepare`."
        )
    _require_options(name, options)
    dataset = load_prepared(folder, **options) if folder.is_dir() else _load_from_hub(name, **options)
    for split, rows in dataset.items():
        dataset[split] = with_text_ids(rows)
        check_columns(f"{name} ({split})", dataset[split])
    return dataset


def _load_from_hub(
    name: str, splits: Iterable[str] | None = None, **options: Any
) -> DatasetDict | IterableDatasetDict:
    """The splits of a data set on the Hub, or some of them: files of others are not read."""
    from datasets import load_dataset, load_dataset_builder

    with reading_parquet(name), filling_cache(options.get("cache_dir")):
        if splits is not None:
            # What else `load_dataset` takes says how rows are read, not which.
            how = signature(load_dataset).parameters.keys() - signature(load_dataset_builder).parameters.keys()
            builder = load_dataset_builder(name, **{key: value for key, value in options.items() if key not in how})
            files = {str(split): list(urls) for split, urls in builder.config.data_files.items()}
            options["data_files"] = {split: files[split] for split in ordered_splits(name, files, splits)}
        return load_dataset(name, **options)
