"""Data sets whose sentences mean other images or videos: what a model scores there it guesses without reading."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets
from numpy.typing import NDArray

from ..data.rows import holds_videos


def with_shuffled_sentences(dataset: Dataset, seed: int = 0) -> Dataset:
    """The same images and masks, every referent with the sentences of one in another image; or so with videos.

    A model that reads must score far lower on it: what is left is what it can guess without the sentence.

    Args:
        dataset: rows of `load_refseg`; it is not changed.
        seed: of the permutation.

    Raises:
        ValueError: one image or video holds more than half of the referents, so that no such permutation exists; or
            the rows are streamed.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError("Sentences are shuffled among all rows at once: load the data set without streaming.")
    return _shuffle_videos(dataset, seed) if holds_videos(dataset) else _shuffle_images(dataset, seed)


def check_shuffling(dataset: Dataset, max_examples: int | None = None) -> None:
    """Raises ValueError as `with_shuffled_sentences` would of the first images or videos; None = of all."""
    groups: Sequence[Hashable]
    first: Iterable[Hashable]
    if holds_videos(dataset):
        described = _described(dataset.select_columns("referents").flatten_indices()["referents"])
        name, groups = "video", _videos_of(described)
        first = range(len(described))[:max_examples]
    else:
        name, groups = "image", dataset["image_id"]
        first = list(dict.fromkeys(groups))[:max_examples]
    kept = set(first)
    shuffle_among_groups([group for group in groups if group in kept], name, seed=0)


def _shuffle_images(dataset: Dataset, seed: int) -> Dataset:
    source = shuffle_among_groups(dataset["image_id"], "image", seed)
    # Flattened alone, so that joining the columns does not copy the images.
    sentences = dataset.select_columns("sentences").select(source).flatten_indices()
    return replace_column(dataset, sentences)


def _shuffle_videos(dataset: Dataset, seed: int) -> Dataset:
    # Without the frames, which stay as they are.
    column = dataset.select_columns("referents").flatten_indices()
    described = _described(column["referents"])
    sentences = [each for of_video in described for each in of_video]
    counts = [len(of_video) for of_video in described]
    source = shuffle_among_groups(_videos_of(described), "video", seed)
    first_referents = np.cumsum(counts) - counts

    def replace(row: dict[str, Any], index: int) -> dict[str, Any]:
        sources = iter(source[first_referents[index] :])
        referents = [
            {**referent, "sentences": sentences[next(sources)]} if referent["sentences"] else referent
            for referent in row["referents"]
        ]
        return {"referents": referents}

    shuffled = column.map(replace, with_indices=True, keep_in_memory=True, features=column.features)
    return replace_column(dataset, shuffled)


def _described(videos: Sequence[Sequence[dict[str, Any]]]) -> list[list[Any]]:
    """For each video the sentences of its referents; objects that nobody describes have none, and get none."""
    return [[referent["sentences"] for referent in each if referent["sentences"]] for each in videos]


def _videos_of(described: Sequence[Sequence[Any]]) -> list[int]:
    """The number of its video for each described referent."""
    return np.repeat(np.arange(len(described)), [len(of_video) for of_video in described]).tolist()


def replace_column(dataset: Dataset, column: Dataset) -> Dataset:
    joined = concatenate_datasets([dataset.remove_columns(column.column_names), column], axis=1)
    return joined.select_columns(dataset.column_names)


def shuffle_among_groups(groups: Sequence[Hashable], group_name: str, seed: int) -> NDArray[np.int64]:
    """For each row another one whose group is another: a permutation (N,).

    Args:
        groups: N names, the group of each row.
        group_name: what a group is, for the error.
        seed: of the permutation.

    Raises:
        ValueError: one group holds more than half of the rows, so that no such permutation exists.
    """
    rows_of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of_group.setdefault(group, []).append(row)
    most_rows, count = max(map(len, rows_of_group.values()), default=0), len(groups)
    if 2 * most_rows > count:
        raise ValueError(
            f"One {group_name} holds {most_rows} of the {count} referents: its sentences cannot all go to other "
            f"{group_name}s. Use a data set with more {group_name}s."
        )
    generator = np.random.default_rng(seed)
    members = list(rows_of_group.values())
    order = [
        row for group in generator.permutation(len(members)) for row in generator.permutation(members[group]).tolist()
    ]
    # Rows of one group lie side by side in `order`: a step as long as the longest such run always leaves the group.
    source = np.empty(count, dtype=np.int64)
    source[order] = np.roll(order, -most_rows)
    return source
