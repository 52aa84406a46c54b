"""Answers about many images: portions of them are read ahead by worker processes, and answered together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from torch.utils.data import Dataset

from .reading import read_ahead
from .systems import Answer, AnswerSource, System, SystemSource


def answer_items(
    system: System, items: Dataset, *, num_workers: int = 0, resolution: str = "original"
) -> Iterator[tuple[dict[str, Any], Iterator[Answer]]]:
    """What a system answers about each item of a data set, in order.

    Args:
        system: what answers.
        items: each is {"image": PIL image (RGB, upright), "texts": list of sentences, perhaps none} and whatever else;
            with worker processes items and data set can be pickled.
        num_workers: processes that read items ahead; 0 = this one reads them.
        resolution: of a `Protocol`.

    Returns:
        An iterator of items, without their images, each with an iterator that gives an answer for each of its texts.
        That one has to be used up before the next item is asked for.
    """
    numbered = ((index // system.images_at_once, index) for index in range(len(items)))
    portions = answer_portions(SystemSource(system, num_workers), items.__getitem__, numbered, resolution)
    return ((item, answers) for _, item, answers in portions)


def answer_portions(
    source: AnswerSource, read: Callable[[Any], dict[str, Any]], keys: Iterable[tuple[int, Any]], resolution: str
) -> Iterator[tuple[int, dict[str, Any], Iterator[Answer]]]:
    """Items of images with their answers, those of one portion answered together.

    Args:
        source: where the answers come from.
        read: the item of a key, as `answer_items` takes it.
        keys: the number of its portion and the key of each item, those of a portion adjacent.
        resolution: of a `Protocol`.

    Returns:
        An iterator of portions' numbers, items and answers, to be used as that of `answer_items`.
    """
    read_item = partial(_read_item, read, source.preparation())
    for number, portion in groupby(read_ahead(read_item, keys, source.num_workers), key=itemgetter(0)):
        items = [item for _, item in portion]
        answers = source.answer_images(items, resolution)
        for item in items:
            yield number, item, islice(answers, len(item["texts"]))


def _read_item(
    read: Callable[[Any], dict[str, Any]],
    prepare: Callable[[dict[str, Any]], dict[str, Any]],
    key: tuple[int, Any],
) -> tuple[int, dict[str, Any]]:
    number, own = key
    return number, prepare(read(own))
