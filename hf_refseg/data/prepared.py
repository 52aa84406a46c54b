"""Reading the folders that `prepare_dataset` writes, each by what lies in it now."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yaml import YAMLError

from ..messages import name_text
from .loading import DataFormatError, filling_cache, reading_parquet

if TYPE_CHECKING:
    from datasets import DatasetDict
    from pyarrow import Schema

AGAIN = "Prepare the data set again with the same options, or download it again."
# What is raised for cards and schemas that do not say what they should.
MEANINGLESS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def is_prepared(folder: Path) -> bool:
    """Whether a folder looks like one that `prepare_dataset` wrote."""
    return (folder / "data").is_dir() and (folder / "README.md").is_file()


def load_prepared(folder: str | PathLike[str], **options: Any) -> DatasetDict:
    """The splits of a prepared folder, in the order of its card; `options` are those of `datasets.load_dataset`.

    The cache of `datasets` keeps the rows under a key that follows from the files: other files under the same names,
    there or in another folder, are read anew.

    Raises:
        DataFormatError: the folder is no prepared data set, or one of its files is damaged.
        OutputError: the cache has no room for the rows.
    """
    from datasets import load_dataset

    folder = Path(folder)
    files = split_files(folder)
    if not files:
        found = ", ".join(map(name_text, sorted(path.name for path in folder.iterdir())[:8])) or "nothing"
        raise DataFormatError(
            f"{folder} is no prepared data set: expected README.md and data/*.parquet, found {found}. Finish or "
            f"run `hf-refseg prepare`, or load original files with load_refseg('refcoco', data_dir='{folder}')."
        )
    # Given its folder alone, `load_dataset` would key the cache by the folder's name, and answer from another one of
    # that name. Given the files, by their paths and times; files copied along with their times differ in the footers.
    key = hashlib.sha256(b"".join(read_footer(path) for paths in files.values() for path in paths))
    for path in (path for paths in files.values() for path in paths):
        read_schema(path)
    patterns = {split: [glob.escape(str(path.resolve())) for path in paths] for split, paths in files.items()}
    with reading_parquet(folder), filling_cache(options.get("cache_dir")):
        return load_dataset("parquet", name=key.hexdigest()[:16], data_files=patterns, **options)


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of each split, as the card lists them, else by their names; none without a card or files.

    Raises:
        DataFormatError: the card is damaged, or lists files outside of the folder.
    """
    if not is_prepared(folder):
        return {}
    card = folder / "README.md"
    try:
        found = {
            str(split): sorted(path for pattern in patterns for path in folder.glob(pattern))
            for split, patterns in _patterns_of(card).items()
        }
    except (*MEANINGLESS, YAMLError, NotImplementedError) as error:
        raise DataFormatError(f"{card} is damaged ({error}). {AGAIN}") from error
    if any(".." in path.relative_to(folder).parts for paths in found.values() for path in paths):
        raise DataFormatError(f"{card} lists files outside of {folder}. {AGAIN}")
    return {split: paths for split, paths in found.items() if paths}


def _patterns_of(card: Path) -> Mapping[Any, list[str]]:
    """For each split the patterns of its files, relative to the card's folder."""
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    listed = configs[configs.get_default_config_name() or next(iter(configs))] if configs else {}
    if "data_files" in listed:
        return sanitize_patterns(listed["data_files"])
    splits = (path.name.partition("-")[0] for path in sorted((card.parent / "data").glob("*.parquet")))
    return {split: [f"data/{split}-*.parquet"] for split in splits}


def read_footer(path: Path) -> bytes:
    """The end of a Parquet file, which tells the size, place and extremes of every column of every group of rows.

    Raises:
        DataFormatError: the file is no Parquet file, or was cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length + 8 > size:
            raise DataFormatError(
                f"{path.parents[1]} is damaged ({path.name} was cut off, or is no Parquet file). Prepare it again "
                "with the same options, or download it again."
            )
        file.seek(size - 8 - length)
        return file.read()


def read_schema(path: Path) -> Schema:
    """The columns of a Parquet file; raises `DataFormatError` where it, or what `datasets` wrote there, is damaged."""
    from datasets import Features
    from pyarrow import ArrowException, parquet

    try:
        schema = parquet.read_schema(path)
        Features.from_arrow_schema(schema)
    except (*MEANINGLESS, ArrowException, OSError) as error:
        raise DataFormatError(f"{path} is damaged ({error}). {AGAIN}") from error
    return schema


def stored_columns(folder: Path) -> list[str]:
    """The names of the columns of a prepared data set; none where it has no files.

    Raises `DataFormatError` where the first file is damaged.
    """
    files = sorted((folder / "data").glob("*.parquet"))
    return read_schema(files[0]).names if files else []
