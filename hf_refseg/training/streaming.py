"""Training on rows that are streamed: what is streamed of a data set, and what a run cannot do then."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, IterableDataset

from ..data.loading import load_refseg
from .arguments import RefSegTrainingArguments
from .data_arguments import ImageDataArguments, VideoDataArguments


def load_with_stream(
    name: str, options: dict[str, Any], arguments: ImageDataArguments | VideoDataArguments
) -> dict[str, Dataset | IterableDataset]:
    """The splits of a data set, as streams all but those that are scored: these are read again and again."""
    streams = load_refseg(name, **options)
    tested = streams if arguments.test_splits is None else arguments.test_splits
    scored = [
        split for split in streams if split in (arguments.eval_split, *tested) and split != arguments.train_split
    ]
    loaded = load_refseg(name, **{**options, "streaming": False, "splits": scored}) if scored else {}
    return {**streams, **loaded}


def place_in_stream(training: RefSegTrainingArguments) -> dict[str, int]:
    """The options of `StreamedExamples` that say in which order this process reads, and which part."""
    seed = training.seed if training.data_seed is None else training.data_seed
    return {"seed": seed, "rank": training.process_index, "nodes": training.world_size}


def check_streaming(arguments: ImageDataArguments | VideoDataArguments, training: RefSegTrainingArguments) -> None:
    """Raises ValueError for options that go by epochs where rows are streamed: how many these are is not known."""
    if not arguments.streaming:
        return
    if training.max_steps <= 0:
        raise ValueError("streaming: how many rows there are is not known, nor how long an epoch is: give max_steps.")
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if getattr(training, name) == "epoch":
            raise ValueError(
                f"streaming: {name} is epoch, but how long one is is not known: say steps, with "
                f"{name.replace('strategy', 'steps')}, or no."
            )
    if training.learning_rate_drops is not None:
        raise ValueError("streaming: learning_rate_drops are epochs, and how long one is is not known: leave it out.")
