"""prepare_dataset: a data set as Parquet with embedded images and a card, resumable, ready for `load_dataset`."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..files import begin_folder, only_writer, require_writable, write_picture, write_whole
from ..messages import name_text
from .catalog import DATASETS, data_options
from .findings import FILE as FINDINGS
from .findings import Findings
from .loading import load_with_findings
from .prepared import preview_name
from .rows import DataFormatError, require_literal_name
from .shard_processes import write_in_processes
from .shards import stored_rows, write_shard

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST = ".prepare.json"

# Rows per Parquet file.
SHARD_ROWS = {"image": 1000, "video": 100}


def prepare_dataset(
    name: str,
    data_dir: str | PathLike[str] | None,
    output: str | PathLike[str],
    split_by: str | None = None,
    verify: bool = False,
    push_to_hub: str | None = None,
    max_shard_rows: int | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> Path:
    """Write a data set to the folder `output`, from which `datasets.load_dataset` reads every split.

    What was repaired in the original files, or left out of them, is listed in its `findings.json`; the pictures
    `preview_<split>.png` show some rows of each split.
    Every image is decoded once to see that it is whole and has the size of its mask. Shards appear under their final
    name only when complete, so that a killed run goes on where it was when it is started again with the same inputs.
    Of several processes that write one folder, one does, and the others wait for it.

    Args:
        name, data_dir, split_by, options: as in `load_refseg`.
        verify: compare the numbers of referents and sentences with the published ones before anything is written.
        push_to_hub: a repository "user/name" to upload the finished folder to.
        max_shard_rows: rows in one Parquet file; by default 1000 referents of images, or 100 videos.
        num_proc: processes that check images and write files, each a whole file at a time; by default one for each
            processor, as far as each has a file of usual length to write.

    Returns the folder. Raises `DataFormatError`, which names file, record and remedy, for damaged input, for counts
    that differ from the published ones, and for an output folder that belongs to other inputs or options;
    `ValueError` for an unknown name or option value; and `OutputError` for an output folder that cannot be written or
    a full disk. Finished shards are left as they are. `ChildProcessError` where one of several processes was ended.
    """
    require_dataset_name(name)
    require_literal_name(output)
    require_writable(output)
    spec = DATASETS[name]
    if max_shard_rows is None:
        max_shard_rows = SHARD_ROWS[spec.kind]
    if max_shard_rows < 1:
        raise ValueError(f"max_shard_rows is {max_shard_rows}; choose at least 1.")
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}; choose at least 1.")
    split_by = spec.partition(split_by).split_by
    options = spec.complete_options(options)
    dataset, findings = load_with_findings(name, data_dir, split_by, **options)
    counts = {split: count_rows(rows) for split, rows in dataset.items()}
    if verify:
        verify_counts(name, split_by, counts, None if "splits" in options else count_total(dataset, counts))

    folder = Path(output)
    described = {option: value for option, value in options.items() if not data_options()[option].is_place}
    inputs = {"name": name, "split_by": split_by, "max_shard_rows": max_shard_rows, **described}
    _, differing = begin_folder(folder / MANIFEST, {**inputs, "rows": fingerprint_rows(dataset)}, DataFormatError)
    if differing:
        raise DataFormatError(
            f"{folder} was begun with other inputs or options (different: {', '.join(differing)}). "
            "Choose another output folder, or delete this one."
        )
    with only_writer(folder):
        shards = _find_shards(dataset, folder, max_shard_rows)
        _write_shards(shards, num_proc, SHARD_ROWS[spec.kind], f"{name} to {folder}")
        write_whole(folder / FINDINGS, findings.save)
        described_splits = {split: rows for split, rows in dataset.items() if counts[split]["referents"]}
        _write_previews(described_splits, folder, spec.title)
        _write_card(folder, name, counts, {"split_by": split_by, **described}, findings)
    if push_to_hub is not None:
        upload_dataset(folder, push_to_hub)
    return folder


def require_dataset_name(name: str) -> None:
    """Raises ValueError for what is no name of a data set that can be prepared."""
    if name not in DATASETS:
        raise ValueError(f"Unknown data set '{name_text(name)}'. Choose one of: {', '.join(DATASETS)}.")


def count_rows(rows: Dataset) -> dict[str, int]:
    """The numbers of "referents" with sentences, "sentences" and different "images" (or "videos") of a split."""
    import pyarrow.compute as pc

    if "referents" in rows.column_names:
        # One row at a time: the masks of a whole split would fill the memory.
        sentences = [
            len(referent["sentences"])
            for row in rows.select_columns("referents")
            for referent in row["referents"]
            if referent["sentences"]
        ]
        return {"referents": len(sentences), "sentences": sum(sentences), "videos": len(rows)}
    # Of a whole split they are many as Python objects.
    table = rows.select_columns(["image_id", "sentences"]).with_format("arrow")[:]
    return {
        "referents": len(rows),
        "sentences": pc.sum(pc.list_value_length(table["sentences"])).as_py() or 0,
        "images": pc.count_distinct(table["image_id"]).as_py(),
    }


def count_total(dataset: Mapping[str, Dataset], counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The counts (see `count_rows`) of all splits together; an image that several of them have counts once."""
    (*summed, unit) = next(iter(counts.values()))
    ids = {each for rows in dataset.values() for each in rows["video_id" if unit == "videos" else "image_id"]}
    return {what: sum(numbers[what] for numbers in counts.values()) for what in summed} | {unit: len(ids)}


def verify_counts(
    name: str, split_by: str | None, counts: Mapping[str, Mapping[str, int]], total: Mapping[str, int] | None
) -> None:
    """Compare counts with the published ones; raises `DataFormatError` with a table where they differ.

    Args:
        name, split_by: the data set and who split it.
        counts: of each split, see `count_rows`.
        total: of all splits together, see `count_total`; None where some were not asked for, which are not missed.

    Raises `ValueError` when nothing is published to compare with.
    """
    from hf_refseg.hub.markdown import to_table

    spec = DATASETS[name]
    partition, named = spec.partition(split_by), f"{name} {split_by or ''}".strip()
    if not partition.published and not partition.totals:
        partitions = ((spec.name, partition) for spec in DATASETS.values() for partition in spec.partitions)
        known = ", ".join(
            " ".join(filter(None, (dataset, partition.split_by)))
            for dataset, partition in partitions
            if partition.published or partition.totals
        )
        raise ValueError(f"No counts are published for {named}: prepare it without verify. Known: {known}.")
    counted = ("referents", "sentences", "videos" if spec.kind == "video" else "images")
    comparisons = []
    for split in counts if total is None else dict.fromkeys((*partition.published, *counts)):
        found = counts.get(split, dict.fromkeys(counted, 0))
        # A split that nobody published is none of a complete copy.
        wanted = partition.published.get(split, (0, 0) if partition.published else ())
        comparisons += [(split, what, number, found[what]) for what, number in zip(counted, wanted, strict=False)]
    if total is not None:
        comparisons += [("all splits", what, number, total[what]) for what, number in partition.totals.items()]
    published = [(split, what, wanted, found) for split, what, wanted, found in comparisons if wanted is not None]
    if any(wanted != found for _, _, wanted, found in published):
        table = to_table(
            ("split", "what", "published", "found", "difference"),
            ((split, what, wanted, found, f"{found - wanted:+d}") for split, what, wanted, found in published),
        )
        raise DataFormatError(
            f"{named} is not the complete published data set. Download its annotation files again, or "
            "prepare it without verify.",
            table,
        )


def fingerprint_rows(dataset: Mapping[str, Dataset]) -> str:
    """A hash of every row of every split; an image counts with its path, or its bytes where it has no file."""
    digest = hashlib.sha256()
    for split, rows in dataset.items():
        digest.update(f"{split}: {rows.features}".encode())
        for row in stored_rows(rows):
            for image in row.pop("frames") if "frames" in row else [row.pop("image")]:
                digest.update(image["bytes"] or str(image["path"]).encode())
            digest.update(repr(row).encode())
    return digest.hexdigest()


def upload_dataset(folder: Path, repo_id: str) -> None:
    """Upload a prepared folder to the Hub's data set `repo_id`, replacing shards and pictures that are there."""
    from huggingface_hub import HfApi

    from ..hub.uploads import upload

    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    send = partial(
        api.upload_folder,
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=["README.md", FINDINGS, preview_name("*"), "data/*.parquet"],
        delete_patterns=[preview_name("*"), "data/*.parquet"],
        commit_message="Upload data set",
    )
    upload(send, folder, repo_id, "dataset")


def _find_shards(dataset: Mapping[str, Dataset], folder: Path, max_shard_rows: int) -> dict[Path, Dataset]:
    """The rows of every Parquet file, by its path."""
    shards = {}
    for split, rows in dataset.items():
        starts = range(0, len(rows), max_shard_rows)
        for index, start in enumerate(starts):
            path = folder / "data" / f"{split}-{index:05d}-of-{len(starts):05d}.parquet"
            shards[path] = rows.select(range(start, min(start + max_shard_rows, len(rows))))
    return shards


def _write_shards(shards: Mapping[Path, Dataset], num_proc: int | None, usual_rows: int, title: str) -> None:
    """Writes the shards that are missing; without `num_proc` by so many processes as have `usual_rows` to write."""
    for folder in {path.parent for path in shards}:
        folder.mkdir(exist_ok=True)
    missing = {path: rows for path, rows in shards.items() if not path.exists()}
    if num_proc is None:
        num_proc = min(os.cpu_count() or 1, math.ceil(sum(map(len, missing.values())) / usual_rows))
    num_proc = min(num_proc, len(missing))
    with tqdm(total=sum(map(len, shards.values())), desc=title, unit="row") as progress:
        for path, rows in shards.items():
            if path not in missing:
                _check_shard(path, len(rows))
                progress.update(len(rows))
        in_one = num_proc < 2
        for rows in map(write_shard, missing.values(), missing) if in_one else write_in_processes(missing, num_proc):
            progress.update(rows)


def _check_shard(path: Path, rows: int) -> None:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowInvalid

    try:
        found = parquet.read_metadata(path).num_rows
    except (ArrowInvalid, OSError) as error:
        raise DataFormatError(f"{path} is damaged ({error}). Delete it and run prepare again.") from error
    if found != rows:
        raise DataFormatError(f"{path} has {found} rows instead of {rows}. Delete it and run prepare again.")


def _write_previews(dataset: Mapping[str, Dataset], folder: Path, title: str) -> None:
    """A picture of some referents of every split."""
    from .preview import preview_dataset

    for split, rows in dataset.items():
        write_picture(folder / preview_name(split), preview_dataset(rows, title=f"{title} {split}"))


def _write_card(
    folder: Path,
    name: str,
    counts: Mapping[str, Mapping[str, int]],
    options: Mapping[str, str | int | None],
    findings: Findings,
) -> None:
    from hf_refseg.hub.dataset_card import build_dataset_card

    card = str(build_dataset_card(name, counts, options, findings))
    write_whole(folder / "README.md", lambda partial: partial.write_text(card, encoding="utf-8"))
