"""Examples of rows that are streamed: read in the order in which they come, and not by their number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, groupby
from operator import itemgetter
from typing import Any, ClassVar

import datasets
from datasets.distributed import split_dataset_by_node
from pyarrow import ArrowException
from torch.utils.data import IterableDataset, get_worker_info

from ..messages import name_text, one_line
from .examples import REQUIRED_COLUMNS, draw_item, fingerprint, item_of_image, open_image, undecoded
from .rows import DataFormatError, InvalidRowError, video_features

# Rows among which the next ones are drawn, images included.
SHUFFLED_ROWS = 1000


class StreamedExamples(IterableDataset):
    """For training: items of rows as they come, epoch after epoch without an end.

    Nodes and worker processes read rows of their own: workers share the groups of rows in the Parquet files, nodes do
    so as well where these divide evenly among them, else each takes one of so many rows. In each epoch the groups come
    in another order. The order depends on nothing but seed, epoch, and the numbers of nodes and workers.

    Args:
        rows: undecoded ones, of `load_refseg(..., streaming=True)`.
        seed: any integer.
        rank: which of the nodes this one is, from 0.
        nodes: how many there are.
        buffer_size: rows in memory, among which the next ones are drawn.
    """

    # What there is none of where nothing can be trained on.
    unit: ClassVar[str]

    def __init__(self, rows: datasets.IterableDataset, seed: int, rank: int, nodes: int, buffer_size: int) -> None:
        self.rows = rows
        self.seed, self.rank, self.nodes, self.buffer_size = seed, rank, nodes, buffer_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises ValueError where there is nothing for this node."""
        for epoch in count():
            is_empty = True
            for item in self.items_of_epoch(epoch):
                is_empty = False
                yield item
            if is_empty:
                # Further workers may well have nothing to do.
                if (worker := get_worker_info()) is None or worker.id == 0:
                    raise ValueError(
                        f"There is nothing to train on: node {self.rank} of {self.nodes} finds no {self.unit}."
                    )
                return

    def items_of_epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Those of this node and worker in one epoch, counted from 0; raises as `read_rows`."""
        raise NotImplementedError

    def rows_of_epoch(self, order: random.Random, buffer_size: int) -> Iterator[dict[str, Any]]:
        """The rows of this node and worker, drawn among so many; `order` belongs to the epoch."""
        # Not by `set_epoch` of the rows, whose number all workers share: they do not come to its end together.
        # Groups one after the other: several at once would make each epoch end with a pause of some seconds.
        shuffled = self.rows.shuffle(seed=order.getrandbits(63), buffer_size=buffer_size, max_buffer_input_shards=1)
        return read_rows(split_dataset_by_node(shuffled, self.rank, self.nodes))


class StreamedReferents(StreamedExamples):
    """For training: the items of `ReferentExamples`, as `StreamedExamples` says.

    The sentence of a row depends on seed, epoch, image and referent alone. Raises `DataFormatError` when a column is
    missing and, on access, as `read_rows` and `ReferentExamples`.
    """

    unit = "row"

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        seed: int = 0,
        rank: int = 0,
        nodes: int = 1,
        buffer_size: int = SHUFFLED_ROWS,
    ) -> None:
        super().__init__(undecoded(dataset.reshard()), seed, rank, nodes, buffer_size)

    def items_of_epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        for row in self.rows_of_epoch(random.Random(f"{self.seed}-{epoch}"), self.buffer_size):
            generator = random.Random(f"{self.seed}-{epoch}-{row['image_id']}-{row['ref_id']}")
            yield draw_item(row, generator, open_image)


class StreamedImages:
    """For evaluation: the items of `ImageExamples`, in their order.

    Raises `DataFormatError` when a column is missing and, on access, as `read_rows` and `ImageExamples`.
    """

    def __init__(self, dataset: datasets.IterableDataset) -> None:
        self.rows = undecoded(dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, self.keys())

    def keys(self) -> Iterator[list[dict[str, Any]]]:
        """What each item is read by, in order: its rows, of which nothing is decoded."""
        return (list(rows) for _, rows in groupby(read_rows(self.rows), key=itemgetter("image_id")))

    def __getitem__(self, key: list[dict[str, Any]]) -> dict[str, Any]:
        return item_of_image(key[0], key)

    def fingerprint(self, key: list[dict[str, Any]]) -> str:
        """A hash of all that the rows say of an item, without the image."""
        return fingerprint([{name: row[name] for name in row if name != "image"} for row in key])


def read_rows(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    """The rows of a stream, of which nobody has looked at all before, or some of their columns.

    Raises:
        DataFormatError: they cannot be read, or are damaged.
        InvalidRowError: a row has a gap.
    """
    columns, of = (video_features(), "video_id") if "video_id" in rows.column_names else (REQUIRED_COLUMNS, "ref_id")
    required = [name for name in columns if name in rows.column_names]
    try:
        for row in rows:
            for name in required:
                if row[name] is None:
                    raise InvalidRowError(f"Row {name_text(row[of])} has no {name}. Remove it, or write its {name}.")
            yield row
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        raise DataFormatError(
            f"The rows that are streamed cannot be read further: {one_line(str(error))}. Try again; where they are "
            "damaged, prepare the data set again or download it again."
        ) from error
