"""How the evaluator scores videos: masks are compared frame by frame as they are predicted, and numbers kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.clips import VideoExamples
from ..data.masks import decode_mask, encode_mask, foreground_share
from ..data.rows import DataFormatError
from ..data.video_streams import StreamedVideos
from ..messages import name_text, short_text
from ..visualization import ComparisonStrip, StripFrame, spread
from .protocols import Protocol, mask_counts
from .record_scores import video_intervals, video_scores
from .results import EvaluationResult, Key, Record, Scored, all_records, key_of, name_record, naming_not_finite
from .systems import Answer, AnswerSource
from .video import (
    MASK_THRESHOLD,
    ObjectMatcher,
    ScoredMask,
    SequenceScores,
    a2d_mean_iou,
    coco_statistics,
    label_pixels,
    score_frame_davis,
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

    @property
    def examples(self) -> int:
        return self.videos


@dataclass
class _Sequence:
    """What is compared of one video: who it is, its true masks by frame number, and what was found so far.

    It is a sentence, or an object that nobody describes.
    """

    record: Record
    references: dict[int, dict[str, Any]]
    scores: list[tuple[float, float]] = field(default_factory=list, kw_only=True)


@dataclass
class _Sentence(_Sequence):
    """A sentence about a video, and its place in the video's item."""

    place: int


# The sentences of an annotator about a video, and the objects that their answers are compared with.
_Group = tuple[list[_Sentence], list[_Sequence]]


class VideoScoring:
    """Scores answers about videos by one protocol, each sentence on its own.

    Args:
        protocol: `"davis"` or `"a2d"`; of `UnsupervisedScoring` `"davis_unsupervised"`.
    """

    kind = "video"
    examples = VideoExamples
    streamed_examples = StreamedVideos

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    def portion_size(self, source: AnswerSource) -> int:
        """How many videos are answered together: they differ in length."""
        return 1

    def describe(self) -> dict[str, Any]:
        """What the scores of an answer depend on."""
        return {"protocol": self.protocol}

    def score(
        self, source: AnswerSource, read: Callable[[Any], dict[str, Any]], keys: Iterable[tuple[int, Any]]
    ) -> Iterator[tuple[int, dict[str, Any], Scored]]:
        """The scores of videos, one after the other; as `ImageScoring.score`, and raises as `score_video`."""
        for number, key in keys:
            example = read(key)
            with naming_not_finite(self.kind, example):
                scored = self.score_video(example, source)
            yield number, example, scored

    def score_video(self, example: dict[str, Any], source: AnswerSource) -> Scored:
        """What is found about a video.

        Raises:
            ValueError: no frame of a referent is annotated, or a mask does not have its frame's size; the message
                names the sentence.
            NotFiniteError: an answer holds NaN or infinity.
        """
        sequences, detections = _sequences(example), []
        for number, answers in _go_through(example, source, sequences, sequences):
            for sequence, answer in zip(sequences, answers, strict=True):
                if number in sequence.references:
                    self._score_frame(sequence, number, answer)
                    if self.protocol == "a2d":
                        detections.append(_detection(sequence, number, answer))
        return Scored([_finished(sequence, self.protocol) for sequence in sequences], detections)

    def result(self, scored: Sequence[Scored], samples: int, seed: int, **common: Any) -> EvaluationResult:
        """What the scores of all videos say; `samples` resamples of videos for the intervals."""
        records = all_records(scored)
        metrics = video_scores(records, self.protocol)
        if self.protocol == "a2d":
            metrics["mAP"] = _mean_average_precision([found for each in scored for found in each.detections])
        return VideoEvaluationResult(
            metrics=metrics,
            intervals=video_intervals(records, self.protocol, samples=samples, seed=seed) if samples else {},
            protocol=self.protocol,
            videos=len(scored),
            frames=sum(record["frames"] for record in records),
            records=records,
            **common,
        )

    def draw(
        self, example: dict[str, Any], source: AnswerSource, drawn: Mapping[Key, Record]
    ) -> dict[Key, ComparisonStrip]:
        """Those sentences about a video that are drawn, by what names them, on up to four annotated frames."""
        sequences = [sequence for sequence in _sequences(example) if key_of(sequence.record) in drawn]
        if not sequences:
            return {}
        masks = (
            (number, [answer.shown_mask(MASK_THRESHOLD) for answer in answers])
            for number, answers in _go_through(example, source, sequences, sequences)
        )
        return _draw_strips(example, sequences, masks, drawn)

    def _score_frame(self, sequence: _Sequence, number: int, answer: Answer) -> None:
        reference = sequence.references[number]
        with _naming_frame(sequence, number):
            mask = answer.shown_mask(MASK_THRESHOLD)
            sequence.scores.append(FRAME_SCORES[self.protocol](mask, decode_mask(reference)))


class UnsupervisedScoring(VideoScoring):
    """Scores answers about videos by protocol `davis_unsupervised`: all sentences of an annotator compete for pixels.

    See `label_pixels` and `ObjectMatcher`. An object counts for the annotators who describe it, one that nobody
    describes for all of them. A sentence about an object that is on no frame competes with the others, but there is
    no object to compare. Arguments as of `VideoScoring`.
    """

    def score_video(self, example: dict[str, Any], source: AnswerSource) -> Scored:
        """As `VideoScoring.score_video`, a record of each object; a sentence scores what its object does.

        Raises:
            ValueError: as there, or an annotator has two sentences about one object.
        """
        sequences = _sequences(example)
        groups = [(group, _objects(group, example)) for group in _by_annotator(sequences)]
        compared = [(group, objects) for group, objects in groups if objects]
        matchers = [ObjectMatcher(len(group), len(objects)) for group, objects in compared]
        for number, maps in _label(example, source, compared):
            void = _void(example, number, maps[0].shape)
            for (_, objects), matcher, labels in zip(compared, matchers, maps, strict=True):
                matcher.add(labels, _references(objects, number, labels), void)
        for (group, objects), matcher in zip(compared, matchers, strict=True):
            for sequence, (answer, scores) in zip(objects, matcher.match(), strict=True):
                # Where there are fewer answers than objects, empty ones join, which are nobody's.
                matched = group[answer].record["ref_id"] if answer < len(group) else ""
                sequence.record["matched_ref_id"] = matched
                sequence.scores = list(zip(scores.region_similarities, scores.contour_accuracies, strict=True))
        undescribed = [sequence for _, objects in groups for sequence in objects if not sequence.record["text"]]
        scored = [sequence for sequence in (*sequences, *undescribed) if sequence.scores]
        return Scored([_finished(sequence, self.protocol) for sequence in scored])

    def draw(
        self, example: dict[str, Any], source: AnswerSource, drawn: Mapping[Key, Record]
    ) -> dict[Key, ComparisonStrip]:
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
                for number, (labels,) in _label(example, source, [(group, objects)])
            )
            strips |= _draw_strips(example, chosen, masks, drawn)
        return strips


def _detection(sequence: _Sequence, number: int, answer: Answer) -> dict[str, Any]:
    """What average precision ranks of a frame: run-length encodings of the true mask and of the answer, if any."""
    mask = answer.shown_mask(MASK_THRESHOLD)
    return {
        "image_id": f"{key_of(sequence.record)}, frame {number}",
        "reference": sequence.references[number],
        "prediction": encode_mask(mask) if mask.any() else None,
        "score": answer.score_at(MASK_THRESHOLD),
    }


def _mean_average_precision(detections: Sequence[dict[str, Any]]) -> float:
    """In percent, of what `_detection` makes of all frames."""
    references = {found["image_id"]: found["reference"] for found in detections}
    predictions = [
        ScoredMask(found["image_id"], found["prediction"], found["score"])
        for found in detections
        if found["prediction"] is not None
    ]
    return 100 * coco_statistics(references, predictions)[0]


def compared_frames(example: Mapping[str, Any], protocol: str | Protocol) -> list[set[int]]:
    """For each sentence about a video the numbers of the frames on which its answer counts under a protocol.

    Raises:
        ValueError: as the scoring.
    """
    sequences = _sequences(example)
    if protocol != "davis_unsupervised":
        return [set(sequence.references) for sequence in sequences]
    compared: list[set[int]] = [set() for _ in sequences]
    for group in _by_annotator(sequences):
        numbers = {number for sequence in _objects(group, example) for number in sequence.references}
        for sequence in group:
            compared[sequence.place] = numbers
    return compared


def _go_through(
    example: dict[str, Any], source: AnswerSource, asked: Sequence[_Sentence], compared: Sequence[_Sequence]
) -> Iterator[tuple[int, Sequence[Answer]]]:
    """Frame number and an answer for each sequence asked for, up to the last frame on which something is compared."""
    annotated = sorted({number for sequence in compared for number in sequence.references})
    if not annotated:
        return
    numbers = range(len(example["frames"])) if source.sees_clips else annotated
    answers = source.answer_video(example, [sequence.place for sequence in asked], numbers)
    for number, of_frame in zip(numbers, answers, strict=True):
        yield number, of_frame
        if number == annotated[-1]:
            return


def _label(
    example: dict[str, Any], source: AnswerSource, groups: Sequence[_Group]
) -> Iterator[tuple[int, list[NDArray[np.intp]]]]:
    """Frame number and a label map for each group, frame by frame, up to the last one with an object."""
    asked = [sequence for group, _ in groups for sequence in group]
    compared = [sequence for _, objects in groups for sequence in objects]
    bounds = [0, *accumulate(len(group) for group, _ in groups)]
    for number, answers in _go_through(example, source, asked, compared):
        probabilities = [answer.competing_probabilities() for answer in answers]
        yield number, [label_pixels(np.stack(probabilities[first:last])) for first, last in pairwise(bounds)]


def _by_annotator(sequences: Sequence[_Sentence]) -> list[list[_Sentence]]:
    """The sentences of each annotator about a video, of which each is about another object."""
    groups: dict[str, dict[str, _Sentence]] = {}
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


def _objects(group: Sequence[_Sentence], example: Mapping[str, Any]) -> list[_Sequence]:
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
    shown = [sequence for sequence in group if any(map(foreground_share, sequence.references.values()))]
    return [*shown, *undescribed]


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


def _sequences(example: Mapping[str, Any]) -> list[_Sentence]:
    """The sentences about a video."""
    names = {"ref_id": "ref_ids", "sent_id": "sent_ids", "annotator": "annotators", "text": "texts"}
    columns = zip(*(example[name] for name in (*names.values(), "annotated_frames", "masks")), strict=True)
    sequences = []
    for place, (*row, numbers, masks) in enumerate(columns):
        record = {"video_id": example["video_id"], **dict(zip(names, row, strict=True))}
        if not numbers:
            raise DataFormatError(
                f"{name_record(record)}: no frame is annotated, so there is nothing to compare with. Choose a split "
                "that comes with masks."
            )
        sequences.append(_Sentence(record, dict(zip(numbers, masks, strict=True)), place))
    return sequences


def _finished(sequence: _Sequence, protocol: str) -> Record:
    first, second = map(list, zip(*sequence.scores, strict=True))
    record = {**sequence.record, "frames": len(first)}
    if protocol == "a2d":
        return {**record, "iou": a2d_mean_iou(sequence.scores), "intersections": first, "unions": second}
    return {**record, **SequenceScores(first, second).measures()}


def _note(record: Record) -> str:
    return f"J&F {100 * record['J&F']:.1f} %" if "J&F" in record else f"mean IoU {100 * record['iou']:.1f} %"
