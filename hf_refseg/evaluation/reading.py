"""Items that worker processes read ahead, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

# Items that each worker process has ready or in hand. Each may hold megabytes of shared memory.
READ_AHEAD = 8


class _Read(Dataset):
    """What a function makes of a key, as a data set: there the keys come from a sampler."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        return self.read(key)


def read_ahead(read: Callable[[Any], Any], keys: Iterable[Any], num_workers: int) -> Iterator[Any]:
    """What `read` makes of each key, in their order.

    Args:
        read: runs in the worker processes; it and what it returns can be pickled.
        keys: gone through in this process, somewhat ahead.
        num_workers: how many processes read; 0 = this one, one item after the other as they are asked for.

    Raises:
        Exception: what `read` raises, in the place of its item.
    """
    if num_workers == 0:
        return map(read, keys)
    return iter(
        DataLoader(
            _Read(read),
            batch_size=None,
            sampler=keys,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            prefetch_factor=READ_AHEAD,
        )
    )


def _as_it_is(item: Any) -> Any:
    return item
