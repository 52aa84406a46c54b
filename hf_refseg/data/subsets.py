"""A part of the sentences of a data set, as papers train on to show how much data a method needs."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

from datasets import Dataset


def draw_sentences(rows: Dataset, number: int) -> Dataset:
    """The rows with so many of their sentences, drawn at random; those that are left without any are left out.

    The same ones are drawn each time, and of two numbers those of the smaller one are among those of the larger one.
    Rows and sentences keep their order. No image is copied where `rows` are as they were loaded.

    Raises:
        ValueError: there are fewer sentences.
    """
    sentences = rows.select_columns("sentences")[:]["sentences"]
    bounds = [0, *accumulate(map(len, sentences))]
    if number > bounds[-1]:
        raise ValueError(f"There are {bounds[-1]} sentences to train on, not {number}: lower max_train_sentences.")
    order = list(range(bounds[-1]))
    random.Random(0).shuffle(order)
    drawn = set(order[:number])
    kept = [
        [sentence for place, sentence in enumerate(of_row, start=first) if place in drawn]
        for of_row, (first, _) in zip(sentences, pairwise(bounds), strict=True)
    ]
    changed = rows.remove_columns("sentences").add_column("sentences", kept, feature=rows.features["sentences"])
    places = [place for place, of_row in enumerate(kept) if of_row]
    return changed.select_columns(rows.column_names).select(places)
