"""Streaming evaluation of any system on images or videos: only numbers are kept of its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from torch import nn
from tqdm.auto import tqdm

from ..data.clips import VideoExamples
from ..data.examples import ImageExamples, undecoded
from ..data.rows import holds_videos
from ..data.streams import StreamedImages
from ..data.video_streams import StreamedVideos, undecoded_videos
from ..messages import BadInputError
from ..modeling.inference_refseg import WHOLE_VIDEO, VideoWindow
from ..visualization import ComparisonRow, ComparisonStrip
from .image_scoring import ImageScoring
from .portions import KeptPortions, Share, in_portions, keeping_portions
from .prediction_recorder import AnswerRecorder, RecordingSource
from .protocol_choice import find_protocol
from .protocols import Protocol
from .results import EvaluationResult, Key, Record, Scored, all_records, count_sentences, key_of, name_record
from .systems import AnswerSource, ModelSystem, System, SystemSource
from .video_scoring import UnsupervisedScoring, VideoScoring

Examples = ImageExamples | StreamedImages | VideoExamples | StreamedVideos


def evaluate_model(
    model: nn.Module,
    processor: Any,
    dataset: Dataset | IterableDataset,
    protocol: str | Protocol | None = None,
    *,
    window: VideoWindow | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    **options: Any,
) -> EvaluationResult:
    """Score a model of this library on every sentence of a data set, as `evaluate_system` scores any system.

    Args:
        model: follows the library's contract, for videos of images or clips; its training mode is restored.
        processor: the model's processor.
        dataset, protocol: as of `evaluate_system`.
        window: how the model goes through a video; by default the whole of it is one clip.
        batch_size: sentences per forward pass; it changes speed and memory, not the scores.
        device: where to run, the model is moved there; None = where it is.
        options: the others of `evaluate_system`.

    Raises:
        ValueError: as `evaluate_system`, or a window for images.
    """
    check_at_least_one(batch_size=batch_size)
    if device is not None:
        model.to(device)
    system = _model_system(model, processor, dataset, window, batch_size)
    return evaluate_system(system, dataset, protocol, **options)


def evaluate_system(
    system: System,
    dataset: Dataset | IterableDataset,
    protocol: str | Protocol | None = None,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
    max_examples: int | None = None,
    num_workers: int = 0,
    state: PartialState | None = None,
    unfinished: Path | None = None,
    write_lines: Callable[[Sequence[str]], None] | None = None,
) -> EvaluationResult:
    """Score a system on every sentence of a data set of images or videos, of these on the annotated frames.

    Args:
        system: what answers.
        dataset: rows of `load_refseg`, streamed ones as well; those of one image adjacent.
        protocol: a protocol or its name, of images by default `"original"`; of videos `"davis"` (the default),
            `"davis_unsupervised"` or `"a2d"`.
        bootstrap_samples: resamples (of images or videos) for the 95 % intervals; 0 = no intervals.
        seed: of the resampling.
        progress: show a progress bar over the images or videos.
        max_examples: stop after so many images or videos; None = all.
        num_workers: processes that read images, or the frames of videos, ahead; 0 = this one reads what it needs.
        state: the processes that share the images or videos, such as those of `join_processes`. Each of them has to
            come here, and gets the result of all. None = this process does all by itself.
        unfinished: a folder where the scores so far are kept, so that a run that is cut off goes on with them;
            `forget_portions` removes it when the result is written. None = nothing is kept.
        write_lines: takes the lines of a file of predictions, in the end, portion after portion in the data set's
            order, such as what `writing_predictions` gives. Of several processes each has to pass something, and the
            first one's is called.

    Returns:
        An `ImageEvaluationResult` or a `VideoEvaluationResult`.

    Raises:
        ValueError: unknown protocol, or one that needs the size at which a model sees images of a system that has
            none, numbers out of range, nothing to evaluate, a referent in a video without annotated frames, a mask
            that does not have the size of its image or frame, two sentences of an annotator about one object under
            `"davis_unsupervised"` (the message names video and sentence), or an `unfinished` folder of an evaluation
            of something else.
        OSError: the `unfinished` folder cannot be made.
        ImportError: a package that the protocol needs is not installed.
        NotFiniteError: the system answers with NaN or infinity (the message names the image or video).
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, not {num_workers}; 0 = no further process.")
    return evaluate_answers(
        SystemSource(system, num_workers),
        dataset,
        protocol,
        bootstrap_samples=bootstrap_samples,
        seed=seed,
        progress=progress,
        max_examples=max_examples,
        state=state,
        unfinished=unfinished,
        write_lines=write_lines,
    )


def evaluate_answers(
    source: AnswerSource,
    dataset: Dataset | IterableDataset,
    protocol: str | Protocol | None = None,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
    max_examples: int | None = None,
    state: PartialState | None = None,
    unfinished: Path | None = None,
    write_lines: Callable[[Sequence[str]], None] | None = None,
    title: str = "evaluate",
) -> EvaluationResult:
    """Score answers from anywhere; arguments, result and errors as of `evaluate_system`, and those of the source.

    `title` is what the progress bar is called.
    """
    scoring = _choose_scoring(source, dataset, protocol)
    check_at_least_one(max_examples=max_examples)
    if bootstrap_samples < 0:
        raise ValueError(f"bootstrap_samples must not be negative, not {bootstrap_samples}; 0 = no intervals.")
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise ValueError("There is nothing to evaluate: the data set has no row.")
    start, examples = time.perf_counter(), _examples_of(dataset, scoring)
    inputs, recorder = {}, None
    if unfinished is not None:
        inputs = {**source.describe(), **scoring.describe(), "max_examples": max_examples}
        inputs["predictions"] = write_lines is not None
    if write_lines is not None:
        recorder = AnswerRecorder(scoring.protocol, source.threshold)
        source = RecordingSource(source, recorder)
    scored: list[Scored] = []
    with keeping_portions(unfinished, inputs) as kept:
        share = Share(kept, state)
        portions = in_portions(islice(examples.keys(), max_examples), scoring.portion_size(source))
        keys = share.choose(portions, partial(_check_rows, kept, examples))
        shown = title if progress and share.is_first else None
        _score(scoring, source, examples, keys, kept, recorder, shown)
        for findings in share.gather():
            scored += [Scored(each["records"], each["detections"]) for each in findings]
            if write_lines is not None and share.is_first:
                write_lines([line for each in findings for line in each["lines"]])
    sentences = count_sentences(all_records(scored))
    if not sentences:
        raise ValueError(f"There is nothing to evaluate: no {scoring.kind} has a sentence.")
    seconds = time.perf_counter() - start
    return scoring.result(scored, bootstrap_samples, seed, sentences=sentences, seconds=seconds)


def _score(
    scoring: ImageScoring | VideoScoring,
    source: AnswerSource,
    examples: Examples,
    keys: Iterable[tuple[int, Any]],
    kept: KeptPortions,
    recorder: AnswerRecorder | None,
    title: str | None,
) -> None:
    """Scores the items of the keys, each of which comes with the number of its portion, and keeps what is found.

    A progress bar has the title; without one there is none.
    """
    if isinstance(examples, Sized):
        keys = list(keys)
    total = len(keys) if isinstance(keys, list) else None
    scored = scoring.score(source, partial(_read, examples), keys)
    shown = tqdm(scored, total=total, desc=title, unit=scoring.kind, disable=title is None)
    for number, portion in groupby(shown, key=itemgetter(0)):
        kept.keep(number, [_finding(item, each, recorder) for _, item, each in portion])


def _finding(item: dict[str, Any], scored: Scored, recorder: AnswerRecorder | None) -> dict[str, Any]:
    """What is kept of the item that was scored last."""
    lines = [] if recorder is None else recorder.take_lines()
    return {"rows": item["rows"], "records": scored.records, "detections": scored.detections, "lines": lines}


def _read(examples: Examples, key: Any) -> dict[str, Any]:
    """An item, and what tells its rows from others."""
    return {**examples[key], "rows": examples.fingerprint(key)}


def _check_rows(kept: KeptPortions, examples: Examples, number: int, keys: Sequence[Any]) -> None:
    """Raises BadInputError where a portion was kept that was found about other rows."""
    if number not in kept:
        return
    if [found["rows"] for found in kept.read(number)] != [examples.fingerprint(key) for key in keys]:
        raise BadInputError(
            f"{kept.folder} holds an unfinished evaluation of other rows. Delete the folder to begin anew."
        )


def select_worst_and_best(records: Sequence[Record], k: int, by: str = "iou") -> list[Record]:
    """The k records of lowest IoU, worst first, then the k of highest, best last; none twice.

    With fewer than 2k records all of them are returned. Equal IoUs keep their order. `by` names another number of the
    records to rank them by.
    """
    check_at_least_one(k=k)
    ranked = sorted(records, key=lambda record: record[by])
    return ranked[:k] + ranked[max(k, len(ranked) - k) :]


def predict_cases(
    model: nn.Module,
    processor: Any,
    dataset: Dataset | IterableDataset,
    records: Sequence[Record],
    protocol: str | Protocol | None = None,
    *,
    window: VideoWindow | None = None,
) -> list[ComparisonRow | ComparisonStrip]:
    """Ask a model of this library for single sentences again, as `find_cases` asks any source.

    Args:
        model, processor, dataset, protocol, window: as of `evaluate_model`.
        records: some of `EvaluationResult.records`; their scores are shown as the evaluation measured them.
    """
    system = _model_system(model, processor, dataset, window, batch_size=16)
    return find_cases(SystemSource(system), dataset, records, protocol)


def find_cases(
    source: AnswerSource,
    dataset: Dataset | IterableDataset,
    records: Sequence[Record],
    protocol: str | Protocol | None = None,
) -> list[ComparisonRow | ComparisonStrip]:
    """The answers to single sentences, for `draw_comparison` or `draw_strips` of `hf_refseg.visualization`.

    Args:
        source: where the answers come from.
        dataset: the data set the records come from; one that is streamed is read once more.
        records: some of `EvaluationResult.records`; their scores are shown as the evaluation measured them.
        protocol: whose mask threshold is used.

    Returns:
        In the records' order a row for each, at its image's own size, or a strip of up to four annotated frames,
        evenly spread.

    Raises:
        ValueError: a record's sentence is not in the data set.
    """
    scoring = _choose_scoring(source, dataset, protocol)
    wanted = {key_of(record): record for record in records}
    group_ids = {group_id for group_id, _, _ in wanted}
    drawn: dict[Key, ComparisonRow | ComparisonStrip] = {}
    for example in _examples_of(_select_groups(dataset, f"{scoring.kind}_id", group_ids), scoring):
        drawn |= scoring.draw(example, source, wanted)
        # A stream may go on for long.
        if len(drawn) == len(wanted):
            break
    missing = [record for key, record in wanted.items() if key not in drawn]
    if missing:
        raise ValueError(f"{name_record(missing[0])} is not in this data set.")
    return [drawn[key_of(record)] for record in records]


def _model_system(
    model: nn.Module, processor: Any, dataset: Dataset | IterableDataset, window: VideoWindow | None, batch_size: int
) -> ModelSystem:
    """A model as a system; raises ValueError for a window where the rows hold images."""
    if window is not None and not holds_videos(dataset):
        raise ValueError("The data set holds images, which take no window: leave it out.")
    return ModelSystem(model, processor, window=window or WHOLE_VIDEO, batch_size=batch_size)


def _choose_scoring(
    source: AnswerSource, dataset: Dataset | IterableDataset, protocol: str | Protocol | None
) -> ImageScoring | VideoScoring:
    """The scoring that fits the rows."""
    found = find_protocol(protocol, on_videos=holds_videos(dataset))
    # Those of videos are names.
    if isinstance(found, Protocol):
        return ImageScoring(found, source.threshold)
    return UnsupervisedScoring(found) if found == "davis_unsupervised" else VideoScoring(found)


def _examples_of(dataset: Dataset | IterableDataset, scoring: ImageScoring | VideoScoring) -> Examples:
    """What is scored together, one after the other."""
    return scoring.examples(dataset) if isinstance(dataset, Dataset) else scoring.streamed_examples(dataset)


def _select_groups(dataset: Dataset | IterableDataset, column: str, group_ids: set[str]) -> Dataset | IterableDataset:
    """The rows of images or videos of which there are such ids."""
    if isinstance(dataset, Dataset):
        return dataset.select([row for row, group_id in enumerate(dataset[column]) if group_id in group_ids])
    rows = undecoded_videos(dataset) if holds_videos(dataset) else undecoded(dataset)
    return rows.filter(group_ids.__contains__, input_columns=column)


def check_at_least_one(**numbers: int | None) -> None:
    """Raises ValueError for a number below 1; None stands for none."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}.")
