"""Reading the folders that `prepare_dataset` writes, each by what lies in it now."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import is_plain_path, may_be_on_hub
from ..messages import name_text, short_text
from .catalog import DATASETS, DatasetSpec
from .rows import DataFormatError, filling_cache, ordered_splits, reading_parquet, require_literal_name

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict
    from huggingface_hub import DatasetCard
    from pyarrow import Schema

AGAIN = "Prepare the data set again with the same options, or download it again."
# What metadata of another form make libraries raise.
CARD_ERRORS = (ValueError, TypeError, AttributeError, LookupError)


def preview_name(split: str) -> str:
    """The file of a prepared folder that shows some rows of a split."""
    return f"preview_{split}.png"


def is_prepared(folder: Path) -> bool:
    """Whether a folder looks like one that `prepare_dataset` wrote."""
    return (folder / "data").is_dir() and (folder / "README.md").is_file()


def load_prepared(
    folder: str | PathLike[str], splits: Iterable[str] | None = None, **options: Any
) -> DatasetDict | IterableDatasetDict:
    """The splits of a prepared folder, in the order of its card, or some of them.

    `options` are those of `datasets.load_dataset`.

    The cache of `datasets` keeps the rows under a key that follows from the files: other files under the same names,
    there or in another folder, are read anew.

    Raises:
        DataFormatError: the folder is no prepared data set, or one of its files is damaged.
        ValueError: it has no split of such a name.
        OutputError: the cache has no room for the rows.
    """
    from datasets import load_dataset

    folder = Path(folder)
    require_literal_name(folder)
    files = split_files(folder)
    if not files:
        found = ", ".join(map(name_text, sorted(path.name for path in folder.iterdir())[:8])) or "nothing"
        raise DataFormatError(
            f"{folder} is no prepared data set: expected README.md and data/*.parquet, found {found}. Finish or "
            "run `hf-refseg prepare`, or say which data set the original files are, such as 'folder' for your own "
            f"pictures: load_refseg('folder', data_dir='{folder}')."
        )
    if splits is not None:
        files = {split: files[split] for split in ordered_splits(str(folder), files, splits)}
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
        DataFormatError: the card is damaged, or lists files outside the folder.
    """
    if not is_prepared(folder):
        return {}
    patterns = _listed_patterns(folder / "README.md")
    if patterns is None:
        names = sorted(path.name for path in (folder / "data").glob("*.parquet"))
        patterns = {name.partition("-")[0]: [f"data/{name.partition('-')[0]}-*.parquet"] for name in names}
    for pattern in (pattern for globs in patterns.values() for pattern in globs):
        if not is_plain_path(pattern):
            raise DataFormatError(
                f"{folder / 'README.md'} lists files outside its folder: {short_text(pattern)}. Prepare the data set "
                "again, or correct data_files."
            )
    found = {
        str(split): sorted(path for pattern in globs for path in folder.glob(pattern))
        for split, globs in patterns.items()
    }
    return {split: paths for split, paths in found.items() if paths}


def _listed_patterns(card_file: Path) -> dict[Any, list[str]] | None:
    """The patterns of the files of each split in a card; None where it lists none."""
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs

    card = load_card(card_file)
    try:
        configs = MetadataConfigs.from_dataset_card_data(card.data)
        listed = configs[configs.get_default_config_name() or next(iter(configs))] if configs else {}
        return sanitize_patterns(listed["data_files"]) if "data_files" in listed else None
    except CARD_ERRORS as error:
        raise _damaged(card_file, error) from error


def load_card(path: Path) -> DatasetCard:
    """The card in a file; raises `DataFormatError` where it is damaged."""
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        return DatasetCard.load(path)
    except (YAMLError, *CARD_ERRORS) as error:
        raise _damaged(path, error) from error


def find_specs(name: str) -> list[DatasetSpec]:
    """The records that tell about a data set, by its name as in `load_refseg`.

    Of a prepared folder or a data set on the Hub these are all that have the title of its card, or that of the data
    set whose images it has (`source_datasets`); of one from elsewhere there are none.

    Raises:
        DataFormatError: the card of a folder is damaged.
        OSError: the card of a data set on the Hub cannot be read, neither there nor from the cache.
    """
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if name in DATASETS:
        return [DATASETS[name]]
    card_file, on_hub = Path(name, "README.md"), may_be_on_hub(name)
    if not card_file.is_file() and not on_hub:
        return []
    try:
        card = DatasetCard.load(name) if on_hub else load_card(card_file)
    except RemoteEntryNotFoundError:
        return []
    sources = card.data.get("source_datasets")
    titles = [card.data.pretty_name, *(sources if isinstance(sources, list) else [])]
    return [spec for spec in DATASETS.values() if spec.title in titles or source_name(spec.title) in titles]


def source_name(title: str) -> str:
    """How the metadata of a card name a data set whose images they have: `source_datasets`, as the Hub has it."""
    return f"extended|{title}"


def _damaged(card_file: Path, error: Exception) -> DataFormatError:
    return DataFormatError(
        f"{card_file}: its metadata are damaged ({error}). Prepare the data set again, or download it again."
    )


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
    except (ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataFormatError(f"{path} is damaged ({error}). {AGAIN}") from error
    return schema


def stored_columns(folder: Path) -> list[str]:
    """The names of the columns of a prepared data set; none where it has no files.

    Raises `DataFormatError` where the first file is damaged.
    """
    files = sorted((folder / "data").glob("*.parquet"))
    return read_schema(files[0]).names if files else []
