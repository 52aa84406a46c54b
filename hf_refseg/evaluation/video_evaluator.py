"""Streaming evaluation of a model on videos: masks are compared frame by frame as they are predicted, numbers kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from tqdm.auto import tqdm

from ..data.clips import VideoExamples
from ..data.masks import decode_mask, encode_mask
from ..data.rows import DataFormatError
from ..files import write_json
from ..messages import short_text
from ..modeling.inference_refseg import FrameMask, segment_video
from ..modeling.modeling_outputs_refseg import NotFiniteError
from ..visualization import ComparisonStrip, StripFrame, spread
from .evaluator import Record, check_at_least_one, evaluation_mode, shuffle_among_groups
from .protocols import mask_counts
from .video import (
    MASK_THRESHOLD,
    ScoredMask,
    SequenceScores,
    a2d_mean_iou,
    check_video_protocol,
    coco_statistics,
    score_frame_davis,
    video_intervals,
    video_scores,
)


@dataclass(frozen=True)
class VideoEvaluationResult:
    """What `evaluate_video_model` found.

    Attributes:
        metrics: scores in percent. Protocol `davis`: J&F, J, F, J-recall, J-decay, F-recall and F-decay; protocol
            `a2d`: oIoU, mIoU, Pr@0.5 to Pr@0.9 and mAP.
        intervals: 95 % bootstrap interval `(low, high)` over videos, in percent, for every score but mAP; empty when
            none were asked for.
        protocol: the protocol's name.
        videos: number of videos.
        sentences: number of sentences.
        frames: number of comparisons of two masks: the annotated frames of each sentence, added up.
        seconds: wall-clock time.
        records: one dict per sequence (a sentence about a video) with `video_id`, `ref_id`, `sent_id`, `annotator`,
            `text`, `frames` (how many were scored), and as shares in [0, 1] for `davis` the names of `metrics`, for
            `a2d` `iou` (their mean) and the lists `intersections` and `unions` in pixels, one number per frame.
            `video_scores` makes scores of any part of them.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    protocol: str
    videos: int
    sentences: int
    frames: int
    seconds: float
    records: list[Record]

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything to a JSON file; a file that is there stays whole until the new one is."""
        write_json(path, asdict(self))


@dataclass(frozen=True)
class _Reading:
    """How a model goes through a video, as in `segment_video`."""

    window: int | None
    overlap: int | None
    per_frame: bool


@dataclass
class _Sequence:
    """One sentence about one video: who it is, its true masks by frame number, and what was found so far."""

    record: Record
    references: dict[int, dict[str, Any]]
    scores: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class _Detections:
    """Run-length encodings of true masks and answers by image id, which average precision ranks over the data set."""

    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: list[ScoredMask] = field(default_factory=list)

    def add(self, image_id: str, reference: dict[str, Any], answer: FrameMask) -> None:
        self.references[image_id] = reference
        if answer.present:
            self.predictions.append(ScoredMask(image_id, encode_mask(np.asarray(answer.mask)), float(answer.score)))


def evaluate_video_model(
    model: nn.Module,
    processor: Any,
    dataset: Dataset,
    protocol: str = "davis",
    *,
    window: int | None = None,
    overlap: int | None = None,
    per_frame: bool = False,
    batch_size: int = 16,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
    max_videos: int | None = None,
) -> VideoEvaluationResult:
    """Score a model on every sentence of a video data set, on the annotated frames, at their own size.

    Args:
        model: a model that takes clips, or one that takes images and goes frame by frame; its training mode is
            restored.
        processor: the model's processor.
        dataset: rows of `load_refseg`, see `video_features`.
        protocol: `"davis"` or `"a2d"`.
        window: frames that the model sees at a time; None = the whole video as one clip.
        overlap: frames that windows share; by default 8, or half a smaller window.
        per_frame: go frame by frame also with a model that takes clips. As such a model sees no other frame, only the
            annotated ones are read.
        batch_size: sentences that go through a video together; it changes speed and memory, not the scores.
        bootstrap_samples: resamples (of videos) for the 95 % intervals; 0 = no intervals.
        seed: of the resampling.
        progress: show a progress bar over the videos.
        device: where to run, the model is moved there; None = where it is.
        max_videos: stop after so many videos; None = all.

    Raises:
        ValueError: unknown protocol, numbers out of range, no video, or a referent without annotated frames or with a
            mask that does not have its frame's size (the message names video, sentence and frame).
        NotFiniteError: the model answers with NaN or infinity (the message names the video).
    """
    check_video_protocol(protocol)
    check_at_least_one(batch_size=batch_size, max_videos=max_videos)
    if bootstrap_samples < 0:
        raise ValueError(f"bootstrap_samples must not be negative, not {bootstrap_samples}; 0 = no intervals.")
    if len(dataset) == 0:
        raise ValueError("There is nothing to evaluate: the data set has no row.")
    if device is not None:
        model.to(device)
    start = time.perf_counter()
    examples = VideoExamples(dataset)
    videos = len(examples) if max_videos is None else min(max_videos, len(examples))
    reading, detections = _Reading(window, overlap, per_frame), _Detections()
    records: list[Record] = []
    with evaluation_mode(model):
        for index in tqdm(range(videos), desc=f"evaluate ({protocol})", unit="video", disable=not progress):
            example = examples[index]
            for first in range(0, len(example["texts"]), batch_size):
                sequences = _sequences(example, range(first, min(first + batch_size, len(example["texts"]))))
                try:
                    _score_sequences(model, processor, example, sequences, reading, protocol, detections)
                except NotFiniteError as error:
                    raise NotFiniteError(f"Video {short_text(example['video_id'])}: {error}") from error
                records += [_finished(sequence, protocol) for sequence in sequences]
    if not records:
        raise ValueError("There is nothing to evaluate: no video has a sentence.")
    metrics = video_scores(records, protocol)
    if protocol == "a2d":
        metrics["mAP"] = 100 * coco_statistics(detections.references, detections.predictions)[0]
    intervals = {}
    if bootstrap_samples:
        intervals = video_intervals(records, protocol, samples=bootstrap_samples, seed=seed)
    return VideoEvaluationResult(
        metrics=metrics,
        intervals=intervals,
        protocol=protocol,
        videos=videos,
        sentences=len(records),
        frames=sum(record["frames"] for record in records),
        seconds=time.perf_counter() - start,
        records=records,
    )


def with_shuffled_video_sentences(dataset: Dataset, seed: int = 0) -> Dataset:
    """The same videos and masks, every referent with the sentences of a referent of another video.

    A model that reads must score far lower on it: what is left is what it can guess from the video alone.

    Args:
        dataset: rows of `load_refseg`, see `video_features`; it is not changed.
        seed: of the permutation.

    Raises:
        ValueError: one video holds more than half of the referents, so that no such permutation exists.
    """
    # Without the frames, which stay as they are.
    column = dataset.select_columns("referents").flatten_indices()
    counts = [len(referents) for referents in column["referents"]]
    sentences = [referent["sentences"] for referents in column["referents"] for referent in referents]
    source = shuffle_among_groups(np.repeat(np.arange(len(counts)), counts).tolist(), "video", seed)
    first_referents = np.cumsum(counts) - counts

    def replace(row: dict[str, Any], index: int) -> dict[str, Any]:
        sources = source[first_referents[index] :]
        referents = [
            {**referent, "sentences": sentences[sources[place]]} for place, referent in enumerate(row["referents"])
        ]
        return {"referents": referents}

    shuffled = column.map(replace, with_indices=True, keep_in_memory=True, features=column.features)
    joined = concatenate_datasets([dataset.remove_columns("referents"), shuffled], axis=1)
    return joined.select_columns(dataset.column_names)


def predict_video_cases(
    model: nn.Module,
    processor: Any,
    dataset: Dataset,
    records: Sequence[Record],
    *,
    window: int | None = None,
    overlap: int | None = None,
    per_frame: bool = False,
) -> list[ComparisonStrip]:
    """Predict single sequences again, for `hf_refseg.visualization.draw_strips`.

    Args:
        model: as in `evaluate_video_model`, as are the others.
        processor: the model's processor.
        dataset: the data set the records come from.
        records: some of `VideoEvaluationResult.records`.
        window: as in the evaluation.
        overlap: as in the evaluation.
        per_frame: as in the evaluation.

    Returns:
        One strip of up to four annotated frames, evenly spread, per record, in the records' order.

    Raises:
        ValueError: a record's sentence is not in the data set.
    """
    reading = _Reading(window, overlap, per_frame)
    wanted = {_key(record): record for record in records}
    video_ids = {record["video_id"] for record in records}
    rows = [row for row, video_id in enumerate(dataset["video_id"]) if video_id in video_ids]
    examples = VideoExamples(dataset.select(rows))
    strips: dict[tuple[str, str, str], list[StripFrame]] = {}
    with evaluation_mode(model):
        for index in range(len(examples)):
            example = examples[index]
            sequences = _sequences(example, range(len(example["texts"])))
            chosen = [sequence for sequence in sequences if _key(sequence.record) in wanted]
            if chosen:
                strips |= _draw_sequences(model, processor, example, chosen, reading)
    missing = [key for key in wanted if key not in strips]
    if missing:
        raise ValueError(f"{_describe(missing[0])} is not in this data set.")
    return [ComparisonStrip(record["text"], _note(record), strips[_key(record)]) for record in records]


def _sequences(example: dict[str, Any], places: range) -> list[_Sequence]:
    """The sentences at these places among those of the video."""
    sequences = []
    for place in places:
        record = {
            "video_id": example["video_id"],
            "ref_id": example["ref_ids"][place],
            "sent_id": example["sent_ids"][place],
            "annotator": example["annotators"][place],
            "text": example["texts"][place],
        }
        numbers, masks = example["annotated_frames"][place], example["masks"][place]
        if not numbers:
            raise DataFormatError(
                f"{_describe(_key(record))}: no frame is annotated, so there is nothing to compare with. Choose a "
                "split that comes with masks."
            )
        sequences.append(_Sequence(record, dict(zip(numbers, masks, strict=True))))
    return sequences


def _predict(
    model: nn.Module, processor: Any, example: dict[str, Any], sequences: Sequence[_Sequence], reading: _Reading
) -> Iterator[tuple[int, list[FrameMask]]]:
    """Frame number and one answer per sequence, frame by frame, up to the last annotated one."""
    frames = example["frames"]
    annotated = sorted({number for sequence in sequences for number in sequence.references})
    alone = reading.per_frame or not model.config.takes_clips
    numbers = annotated if alone else range(len(frames))
    answers = segment_video(
        model,
        processor,
        (frames[number] for number in numbers),
        [sequence.record["text"] for sequence in sequences],
        window=reading.window,
        overlap=reading.overlap,
        per_frame=reading.per_frame,
        threshold=MASK_THRESHOLD,
    )
    for number, frame_answers in zip(numbers, answers, strict=True):
        yield number, frame_answers
        if number == annotated[-1]:
            return


def _score_sequences(
    model: nn.Module,
    processor: Any,
    example: dict[str, Any],
    sequences: Sequence[_Sequence],
    reading: _Reading,
    protocol: str,
    detections: _Detections,
) -> None:
    score = {"davis": score_frame_davis, "a2d": mask_counts}[protocol]
    for number, answers in _predict(model, processor, example, sequences, reading):
        for sequence, answer in zip(sequences, answers, strict=True):
            if number not in sequence.references:
                continue
            reference = sequence.references[number]
            key = _key(sequence.record)
            try:
                sequence.scores.append(score(answer.mask, decode_mask(reference)))
            except ValueError as error:
                raise ValueError(f"{_describe(key)}, frame {number}: {error}") from error
            if protocol == "a2d":
                detections.add(f"{key}, frame {number}", reference, answer)


def _finished(sequence: _Sequence, protocol: str) -> Record:
    first, second = map(list, zip(*sequence.scores, strict=True))
    record = {**sequence.record, "frames": len(first)}
    if protocol == "davis":
        return {**record, **SequenceScores(first, second).measures()}
    return {**record, "iou": a2d_mean_iou(sequence.scores), "intersections": first, "unions": second}


def _draw_sequences(
    model: nn.Module, processor: Any, example: dict[str, Any], sequences: Sequence[_Sequence], reading: _Reading
) -> dict[tuple[str, str, str], list[StripFrame]]:
    """Some annotated frames of each sequence, with truth and prediction."""
    shown = [spread(sorted(sequence.references)) for sequence in sequences]
    strips: dict[tuple[str, str, str], list[StripFrame]] = {_key(sequence.record): [] for sequence in sequences}
    for number, answers in _predict(model, processor, example, sequences, reading):
        for sequence, numbers, answer in zip(sequences, shown, answers, strict=True):
            if number in numbers:
                truth, prediction = decode_mask(sequence.references[number]), np.asarray(answer.mask)
                strips[_key(sequence.record)].append(StripFrame(example["frames"][number], truth, prediction))
    return strips


def _note(record: Record) -> str:
    return f"J&F {100 * record['J&F']:.1f} %" if "J&F" in record else f"mean IoU {100 * record['iou']:.1f} %"


def _key(record: Record) -> tuple[str, str, str]:
    return record["video_id"], record["ref_id"], record["sent_id"]


def _describe(key: tuple[str, ...]) -> str:
    """How an error names a sequence."""
    return "Video {}, reference {}, sentence {}".format(*map(short_text, key))
