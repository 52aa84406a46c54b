"""How the evaluator scores videos: masks are compared frame by frame as they are predicted, and numbers kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ..data.clips import VideoExamples
from ..data.masks import decode_mask, encode_mask
from ..data.rows import DataFormatError
from ..modeling.inference_refseg import FrameMask, VideoWindow, segment_video
from ..visualization import ComparisonStrip, StripFrame, spread
from .protocols import mask_counts
from .results import EvaluationResult, Key, Record, key_of, name_record
from .video import (
    MASK_THRESHOLD,
    ScoredMask,
    SequenceScores,
    a2d_mean_iou,
    coco_statistics,
    score_frame_davis,
    video_intervals,
    video_scores,
)

FRAME_SCORES = {"davis": score_frame_davis, "a2d": mask_counts}


@dataclass(frozen=True, kw_only=True)
class VideoEvaluationResult(EvaluationResult):
    """What `evaluate_model` found on videos.

    The metrics of protocol `davis` are J&F, J, F, J-recall, J-decay, F-recall and F-decay, those of protocol `a2d`
    oIoU, mIoU, Pr@0.5 to Pr@0.9 and mAP, which has no interval. A record is one of a sequence (a sentence about a
    video), with `video_id`, `ref_id`, `sent_id`, `annotator`, `text`, `frames` (how many were scored), and as shares
    in [0, 1] for `davis` the names of `metrics`, for `a2d` `iou` (their mean) and the lists `intersections` and
    `unions` in pixels, one number per frame. `video_scores` makes scores of any part of them.

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
    """Scores answers about videos by one protocol.

    Args:
        model: a model.
        processor: its processor.
        protocol: `"davis"` or `"a2d"`.
        window: how the model goes through a video. As one that sees single frames knows of no other, only the
            annotated ones are then read.
        batch_size: sentences that go through a video together.
    """

    kind = "video"
    examples = VideoExamples

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
        shown = [spread(sorted(sequence.references)) for sequence in sequences]
        frames: list[list[StripFrame]] = [[] for _ in sequences]
        for number, answers in self._segment(example, sequences):
            for sequence, numbers, strip, answer in zip(sequences, shown, frames, answers, strict=True):
                if number in numbers:
                    truth = decode_mask(sequence.references[number])
                    strip.append(StripFrame(example["frames"][number], truth, answer.mask.numpy()))
        records = [drawn[key_of(sequence.record)] for sequence in sequences]
        return {
            key_of(record): ComparisonStrip(record["text"], _note(record), strip)
            for record, strip in zip(records, frames, strict=True)
        }

    def _segment(
        self, example: dict[str, Any], sequences: Sequence[_Sequence]
    ) -> Iterator[tuple[int, list[FrameMask]]]:
        """Frame number and one answer per sequence, frame by frame, up to the last annotated one."""
        frames = example["frames"]
        annotated = sorted({number for sequence in sequences for number in sequence.references})
        numbers = range(len(frames)) if self.window.shows_clips(self.model) else annotated
        answers = segment_video(
            self.model,
            self.processor,
            (frames[number] for number in numbers),
            [sequence.record["text"] for sequence in sequences],
            window=self.window,
            threshold=MASK_THRESHOLD,
        )
        for number, frame_answers in zip(numbers, answers, strict=True):
            yield number, frame_answers
            if number == annotated[-1]:
                return

    def _score_frame(self, sequence: _Sequence, number: int, answer: FrameMask) -> None:
        reference = sequence.references[number]
        try:
            sequence.scores.append(FRAME_SCORES[self.protocol](answer.mask, decode_mask(reference)))
        except ValueError as error:
            raise ValueError(f"{name_record(sequence.record)}, frame {number}: {error}") from error
        if self.protocol == "a2d":
            self.detections.add(f"{key_of(sequence.record)}, frame {number}", reference, answer)


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
    if protocol == "davis":
        return {**record, **SequenceScores(first, second).measures()}
    return {**record, "iou": a2d_mean_iou(sequence.scores), "intersections": first, "unions": second}


def _note(record: Record) -> str:
    return f"J&F {100 * record['J&F']:.1f} %" if "J&F" in record else f"mean IoU {100 * record['iou']:.1f} %"
