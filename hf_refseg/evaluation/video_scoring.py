"""How the evaluator scores videos: masks are compared frame by frame as they are predicted, and numbers kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.clips import VideoExamples
from ..data.masks import decode_mask, encode_mask
from ..data.rows import DataFormatError
from ..data.video_streams import StreamedVideos
from ..messages import name_text, short_text
from ..modeling.inference_refseg import FrameMask, VideoWindow, segment_video, video_probabilities
from ..visualization import ComparisonStrip, StripFrame, spread
from .protocols import mask_counts
from .results import EvaluationResult, Key, Record, key_of, name_record
from .video import (
    MASK_THRESHOLD,
    ObjectMatcher,
    ScoredMask,
    SequenceScores,
    a2d_mean_iou,
    coco_statistics,
    label_pixels,
    score_frame_davis,
    video_intervals,
    video_scores,
)

FRAME_SCORES = {"davis": score_frame_davis, "a2d": mask_counts}


@dataclass(frozen=True, kw_only=True)
class VideoEvaluationResult(EvaluationResult):
    """What `evaluate_model` found on videos.

    The metrics of protocols `davis` and `davis_unsupervised` are J&F, J, F, J-recall, J-decay, F-recall and F-decay,
    those of protocol `a2d` oIoU, mIoU, Pr@0.5 to Pr@0.9 and mAP, which has no interval. A record is one of a sequence
    (a sentence about a video), with `video_id`, `ref_id`, `sent_id`, `annotator`, `text`, `frames` (how many were
    scored), and as shares in [0, 1] for the first two the names of `metrics`, for `a2d` `iou` (their mean) and the
    lists `intersections` and `unions` in pixels, one number per frame. Under `davis_unsupervised` the scores are those
    of the sentence's object, and `matched_ref_id` is the object whose sentence's answer was taken for it, empty where
    there was none left; an object that nobody describes has a record for each annotator, without a text.
    `video_scores` makes scores of any part of the records.

    Attributes:
        videos: number of videos.
        frames: number of comparisons of two masks: the annotated frames of each sentence, added up.
    """

    videos: int
    frames: int


@dataclass
class _Sequence:
    """One sentence about one video: who it is, its true masks by frame number, and what was found so far."""

    record: Record
    references: dict[int, dict[str, Any]]
    scores: list[tuple[float, float]] = field(default_factory=list)


# The sentences of an annotator about a video, and the objects that their answers are compared with.
_Group = tuple[list[_Sequence], list[_Sequence]]


@dataclass
class _Detections:
    """Run-length encodings of true masks and answers by image id, which average precision ranks over the data set."""

    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: list[ScoredMask] = field(default_factory=list)

    def add(self, image_id: str, reference: dict[str, Any], answer: FrameMask) -> None:
        self.references[image_id] = reference
        if answer.present:
            self.predictions.append(ScoredMask(image_id, encode_mask(np.asarray(answer.mask)), float(answer.score)))


class VideoScoring:
    """Scores answers about videos by one protocol, each sentence on its own.

    Args:
        model: a model.
        processor: its processor.
        protocol: `"davis"` or `"a2d"`; of `UnsupervisedScoring` `"davis_unsupervised"`.
        window: how the model goes through a video. As one that sees single frames knows of no other, only the
            annotated ones are then read.
        batch_size: sentences that go through a video together.
    """

    kind = "video"
    examples = VideoExamples
    streamed_examples = StreamedVideos

    def __init__(self, model: nn.Module, processor: Any, protocol: str, window: VideoWindow, batch_size: int) -> None:
        self.model, self.processor, self.protocol = model, processor, protocol
        self.window, self.batch_size = window, batch_size
        self.detections = _Detections()

    def score(self, example: dict[str, Any]) -> list[Record]:
        """The records of the sentences about a video.

        Raises:
            ValueError: no frame of a referent is annotated, or a mask does not have its frame's size; the message
                names the sentence.
            NotFiniteError: the model answers with NaN or infinity.
        """
        sequences, records = _sequences(example), []
        for first in range(0, len(sequences), self.batch_size):
            batch = sequences[first : first + self.batch_size]
            for number, answers in self._segment(example, batch):
                for sequence, answer in zip(batch, answers, strict=True):
                    if number in sequence.references:
                        self._score_frame(sequence, number, answer)
            records += [_finished(sequence, self.protocol) for sequence in batch]
        return records

    def result(self, records: list[Record], videos: int, samples: int, seed: int, **common: Any) -> EvaluationResult:
        """What all records say; `samples` resamples of videos for the intervals."""
        metrics = video_scores(records, self.protocol)
        if self.protocol == "a2d":
            metrics["mAP"] = 100 * coco_statistics(self.detections.references, self.detections.predictions)[0]
        return VideoEvaluationResult(
            metrics=metrics,
            intervals=video_intervals(records, self.protocol, samples=samples, seed=seed) if samples else {},
            protocol=self.protocol,
            videos=videos,
            frames=sum(record["frames"] for record in records),
            records=records,
            **common,
        )

    def draw(self, example: dict[str, Any], drawn: Mapping[Key, Record]) -> dict[Key, ComparisonStrip]:
        """Those sentences about a video that are drawn, by what names them, on up to four annotated frames."""
        sequences = [sequence for sequence in _sequences(example) if key_of(sequence.record) in drawn]
        if not sequences:
            return {}
        masks = (
            (number, [answer.mask.numpy() for answer in answers])
            for number, answers in self._segment(example, sequences)
        )
        return _draw_strips(example, sequences, masks, drawn)

    def _segment(
        self, example: dict[str, Any], sequences: Sequence[_Sequence]
    ) -> Iterator[tuple[int, list[FrameMask]]]:
        """Frame number and one answer per sequence, frame by frame, up to the last annotated one."""
        texts = [sequence.record["text"] for sequence in sequences]
        return self._go_through(example, texts, sequences, partial(segment_video, threshold=MASK_THRESHOLD))

    def _go_through(
        self,
        example: dict[str, Any],
        texts: Sequence[str],
        compared: Sequence[_Sequence],
        segment: Callable[..., Iterator[Any]],
    ) -> Iterator[tuple[int, Any]]:
        """Frame number and what is said there of the texts, up to the last frame on which something is compared."""
        frames = example["frames"]
        annotated = sorted({number for sequence in compared for number in sequence.references})
        numbers = range(len(frames)) if self.window.shows_clips(self.model) else annotated
        shown = (frames[number] for number in numbers)
        answers = segment(self.model, self.processor, shown, texts, window=self.window)
        for number, frame_answers in zip(numbers, answers, strict=True):
            yield number, frame_answers
            if number == annotated[-1]:
                return

    def _score_frame(self, sequence: _Sequence, number: int, answer: FrameMask) -> None:
        reference = sequence.references[number]
        with _naming_frame(sequence, number):
            sequence.scores.append(FRAME_SCORES[self.protocol](answer.mask, decode_mask(reference)))
        if self.protocol == "a2d":
            self.detections.add(f"{key_of(sequence.record)}, frame {number}", reference, answer)


class UnsupervisedScoring(VideoScoring):
    """Scores answers about videos by protocol `davis_unsupervised`: all sentences of an annotator compete for pixels.

    See `label_pixels` and `ObjectMatcher`. An object counts for the annotators who describe it, one that nobody
    describes for all of them. A sentence about an object that is on no frame competes with the others, but there is
    no object to compare. Arguments as of `VideoScoring`.
    """

    def score(self, example: dict[str, Any]) -> list[Record]:
        """As `VideoScoring.score`, a record of each object; a sentence scores what its object does.

        Raises:
            ValueError: as there, or an annotator has two sentences about one object.
        """
        sequences = _sequences(example)
        groups = [(group, _objects(group, example)) for group in _by_annotator(sequences)]
        for batch in _batches([(group, objects) for group, objects in groups if objects], self.batch_size):
            matchers = [ObjectMatcher(len(group), len(objects)) for group, objects in batch]
            for number, maps in self._label(example, batch):
                void = _void(example, number, maps[0].shape)
                for (_, objects), matcher, labels in zip(batch, matchers, maps, strict=True):
                    matcher.add(labels, _references(objects, number, labels), void)
            for (group, objects), matcher in zip(batch, matchers, strict=True):
                for sequence, (answer, scores) in zip(objects, matcher.match(), strict=True):
                    # Where there are fewer answers than objects, empty ones join, which are nobody's.
                    matched = group[answer].record["ref_id"] if answer < len(group) else ""
                    sequence.record["matched_ref_id"] = matched
                    sequence.scores = list(zip(scores.region_similarities, scores.contour_accuracies, strict=True))
        undescribed = [sequence for _, objects in groups for sequence in objects if not sequence.record["text"]]
        return [_finished(sequence, self.protocol) for sequence in (*sequences, *undescribed) if sequence.scores]

    def draw(self, example: dict[str, Any], drawn: Mapping[Key, Record]) -> dict[Key, ComparisonStrip]:
        """As `VideoScoring.draw`, with the answers that the evaluation took for the objects."""
        strips: dict[Key, ComparisonStrip] = {}
        for group in _by_annotator(_sequences(example)):
            objects = _objects(group, example)
            chosen = [sequence for sequence in objects if key_of(sequence.record) in drawn]
            if not chosen:
                continue
            places = {sequence.record["ref_id"]: place for place, sequence in enumerate(group)} | {"": len(group)}
            answers = [places[drawn[key_of(sequence.record)]["matched_ref_id"]] for sequence in chosen]
            masks = (
                (number, [labels == answer + 1 for answer in answers])
                for number, (labels,) in self._label(example, [(group, objects)])
            )
            strips |= _draw_strips(example, chosen, masks, drawn)
        return strips

    def _label(
        self, example: dict[str, Any], groups: Sequence[_Group]
    ) -> Iterator[tuple[int, list[NDArray[np.intp]]]]:
        """Frame number and a label map for each group, frame by frame, up to the last one with an object."""
        texts = [sequence.record["text"] for group, _ in groups for sequence in group]
        compared = [sequence for _, objects in groups for sequence in objects]
        bounds = np.cumsum([len(group) for group, _ in groups])[:-1]
        segment = partial(video_probabilities, batch_size=self.batch_size)
        for number, probabilities in self._go_through(example, texts, compared, segment):
            yield number, [label_pixels(of_group) for of_group in np.split(probabilities.numpy(), bounds)]


def _by_annotator(sequences: Sequence[_Sequence]) -> list[list[_Sequence]]:
    """The sentences of each annotator about a video, of which each is about another object."""
    groups: dict[str, dict[str, _Sequence]] = {}
    for sequence in sequences:
        record = sequence.record
        of_annotator = groups.setdefault(record["annotator"], {})
        if record["ref_id"] in of_annotator:
            whose = f"annotator {name_text(record['annotator'])}" if record["annotator"] else "no named annotator"
            raise DataFormatError(
                f"{name_record(record)} is the second one by {whose} about its object: under davis_unsupervised the "
                "sentences of an annotator compete for pixels, so each has to be about another object. Choose davis."
            )
        of_annotator[record["ref_id"]] = sequence
    return [list(of_annotator.values()) for of_annotator in groups.values()]


def _objects(group: Sequence[_Sequence], example: dict[str, Any]) -> list[_Sequence]:
    """What an annotator's answers are compared with: the described objects that are on a frame, and all others.

    An object that nobody describes has no text, and the annotator for a sentence.
    """
    annotator = group[0].record["annotator"]
    undescribed = [
        _Sequence(
            {
                "video_id": example["video_id"],
                "ref_id": referent["ref_id"],
                "sent_id": annotator,
                "annotator": annotator,
                "text": "",
            },
            dict(zip(referent["annotated_frames"], referent["masks"], strict=True)),
        )
        for referent in example["undescribed"]
        if referent["masks"]
    ]
    shown = [sequence for sequence in group if any(decode_mask(mask).any() for mask in sequence.references.values())]
    return [*shown, *undescribed]


def _batches(groups: Sequence[_Group], batch_size: int) -> Iterator[list[_Group]]:
    """Whole groups with their objects, together as many sentences as go through a video at once, or one with more."""
    batch: list[_Group] = []
    for group, objects in groups:
        if batch and sum(len(each) for each, _ in batch) + len(group) > batch_size:
            yield batch
            batch = []
        batch.append((group, objects))
    if batch:
        yield batch


def _void(example: dict[str, Any], number: int, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The pixels of a frame (H, W) that annotators left open; None where there are none."""
    if number not in example["void"]:
        return None
    void = decode_mask(example["void"][number])
    if void.shape != size:
        raise ValueError(
            f"Video {short_text(example['video_id'])}, frame {number}: what annotators left open has the size "
            f"{void.shape} (height, width), the frame {size}."
        )
    return void


def _references(group: Sequence[_Sequence], number: int, labels: NDArray[np.intp]) -> dict[int, NDArray[np.bool_]]:
    """The true masks of a frame by their objects' places in a group."""
    masks = {}
    for place, sequence in enumerate(group):
        if number in sequence.references:
            with _naming_frame(sequence, number):
                masks[place] = decode_mask(sequence.references[number])
                # Of another size it could not be compared.
                mask_counts(labels > 0, masks[place])
    return masks


@contextmanager
def _naming_frame(sequence: _Sequence, number: int) -> Iterator[None]:
    """Names sentence and frame in a ValueError about the masks there."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name_record(sequence.record)}, frame {number}: {error}") from error


def _draw_strips(
    example: dict[str, Any],
    sequences: Sequence[_Sequence],
    masks: Iterator[tuple[int, Sequence[NDArray[np.bool_]]]],
    drawn: Mapping[Key, Record],
) -> dict[Key, ComparisonStrip]:
    """Strips of sequences with the masks that were predicted, frame by frame one for each of them."""
    shown = [spread(sorted(sequence.references)) for sequence in sequences]
    frames: list[list[StripFrame]] = [[] for _ in sequences]
    for number, answers in masks:
        for sequence, numbers, strip, answer in zip(sequences, shown, frames, answers, strict=True):
            if number in numbers:
                truth = decode_mask(sequence.references[number])
                strip.append(StripFrame(example["frames"][number], truth, answer))
    records = [drawn[key_of(sequence.record)] for sequence in sequences]
    return {
        key_of(record): ComparisonStrip(record["text"], _note(record), strip)
        for record, strip in zip(records, frames, strict=True)
    }


def _sequences(example: dict[str, Any]) -> list[_Sequence]:
    """The sentences about a video."""
    names = {"ref_id": "ref_ids", "sent_id": "sent_ids", "annotator": "annotators", "text": "texts"}
    columns = zip(*(example[name] for name in (*names.values(), "annotated_frames", "masks")), strict=True)
    sequences = []
    for *row, numbers, masks in columns:
        record = {"video_id": example["video_id"], **dict(zip(names, row, strict=True))}
        if not numbers:
            raise DataFormatError(
                f"{name_record(record)}: no frame is annotated, so there is nothing to compare with. Choose a split "
                "that comes with masks."
            )
        sequences.append(_Sequence(record, dict(zip(numbers, masks, strict=True))))
    return sequences


def _finished(sequence: _Sequence, protocol: str) -> Record:
    first, second = map(list, zip(*sequence.scores, strict=True))
    record = {**sequence.record, "frames": len(first)}
    if protocol == "a2d":
        return {**record, "iou": a2d_mean_iou(sequence.scores), "intersections": first, "unions": second}
    return {**record, **SequenceScores(first, second).measures()}


def _note(record: Record) -> str:
    return f"J&F {100 * record['J&F']:.1f} %" if "J&F" in record else f"mean IoU {100 * record['iou']:.1f} %"
