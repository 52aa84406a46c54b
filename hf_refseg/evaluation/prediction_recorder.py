"""Answers recorded as lines of a file of predictions, on their way from a source to a score."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from ..data.masks import encode_mask
from .prediction_lines import PredictionsHeader
from .protocol_choice import mask_threshold
from .protocols import Protocol, get_protocol
from .systems import Answer, AnswerSource
from .video import VIDEO_PROTOCOLS, label_pixels
from .video_scoring import compared_frames


class AnswerRecorder:
    """Makes lines of a file of predictions of the answers that pass, as a protocol takes them.

    Of images the mask is the one that a no-target head may hold back; under `davis_unsupervised` it is what a sentence
    wins against the others of its annotator.

    Args:
        protocol: a protocol or its name.
        threshold: foreground probability above which a pixel belongs to a mask, where the protocol names none.
    """

    def __init__(self, protocol: str | Protocol, threshold: float) -> None:
        self.is_competing = protocol == "davis_unsupervised"
        self.protocol, self.threshold = protocol, mask_threshold(protocol, threshold)
        self._lines: list[str] = []
        self._frames: dict[int, list[dict[str, Any]]] = {}
        self._video: Mapping[str, Any] = {}

    def pass_image(
        self, example: Mapping[str, Any], answers: Iterable[Answer], places: Sequence[int] | None = None
    ) -> Iterator[Answer]:
        """The answers to the sentences of an image, at all places or these."""
        places = range(len(example["texts"])) if places is None else places
        for place, answer in zip(places, answers, strict=True):
            names = {name: example[f"{name}s"][place] for name in ("ref_id", "sent_id", "text")}
            line = {"image_id": example["image_id"], **names, **self._describe(answer)}
            self._lines.append(json.dumps(line, allow_nan=False))
            yield answer

    def pass_video(
        self,
        example: Mapping[str, Any],
        places: Sequence[int],
        numbers: Iterable[int],
        answers: Iterable[Sequence[Answer]],
    ) -> Iterator[Sequence[Answer]]:
        """The answers to the sentences of a video at some places, frame by frame."""
        self._end_video()
        compared = compared_frames(example, self.protocol)
        self._video, self._frames = example, {place: [] for place in places}
        for number, of_frame in zip(numbers, answers, strict=False):
            wanted = [place for place in places if number in compared[place]]
            kept = self._compete(example, places, of_frame) if self.is_competing and wanted else of_frame
            for place, answer in zip(places, kept, strict=True):
                if place in wanted:
                    frame = {"frame": example["frame_names"][number], **self._describe(answer)}
                    self._frames[place].append(frame)
            yield of_frame

    def take_lines(self) -> list[str]:
        """The lines of what has passed since they were taken last."""
        self._end_video()
        lines, self._lines = self._lines, []
        return lines

    def _end_video(self) -> None:
        for place, frames in self._frames.items():
            if frames:
                names = {name: self._video[f"{name}s"][place] for name in ("ref_id", "sent_id", "text")}
                line = {"video_id": self._video["video_id"], **names, "frames": frames}
                self._lines.append(json.dumps(line, allow_nan=False))
        self._frames = {}

    def _describe(self, answer: Answer) -> dict[str, Any]:
        described = {
            "mask": encode_mask(answer.foreground(self.threshold)),
            "score": answer.score_at(self.threshold),
        }
        return described if answer.present is None else {**described, "present": bool(answer.present)}

    def _compete(self, example: Mapping[str, Any], places: Sequence[int], answers: Sequence[Answer]) -> list[Answer]:
        """Answers whose masks are what each sentence wins against the others of its annotator."""
        kept = list(answers)
        annotators = [example["annotators"][place] for place in places]
        for annotator in dict.fromkeys(annotators):
            rivals = [index for index, each in enumerate(annotators) if each == annotator]
            labels = label_pixels(np.stack([answers[index].competing_probabilities() for index in rivals]))
            for label, index in enumerate(rivals, start=1):
                kept[index] = Answer(mask=labels == label, score=answers[index].score_at(self.threshold))
        return kept


class RecordingSource(AnswerSource):
    """Another source, whose answers are recorded on their way."""

    def __init__(self, source: AnswerSource, recorder: AnswerRecorder) -> None:
        self.source, self.recorder = source, recorder
        self.threshold, self.gives_masks = source.threshold, source.gives_masks
        self.sees_clips = source.sees_clips
        self.images_at_once, self.num_workers = source.images_at_once, source.num_workers

    def preparation(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return self.source.preparation()

    def describe(self) -> dict[str, Any]:
        return self.source.describe()

    def answer_images(self, examples: Sequence[dict[str, Any]], resolution: str) -> Iterator[Answer]:
        answers = self.source.answer_images(examples, resolution)
        for example in examples:
            yield from self.recorder.pass_image(example, islice(answers, len(example["texts"])))

    def answer_image(self, example: dict[str, Any], places: Sequence[int], resolution: str) -> Iterator[Answer]:
        return self.recorder.pass_image(example, self.source.answer_image(example, places, resolution), places)

    def answer_video(
        self, example: dict[str, Any], places: Sequence[int], numbers: Sequence[int]
    ) -> Iterator[Sequence[Answer]]:
        answers = self.source.answer_video(example, places, numbers)
        return self.recorder.pass_video(example, places, numbers, answers)


def header_for(
    protocol: str | Protocol,
    threshold: float | None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    system: str | None = None,
) -> PredictionsHeader:
    """The header of what is recorded of answers under a protocol.

    Args:
        protocol, threshold: as of `AnswerRecorder`; without a threshold the answers are masks, to which none matters.
        dataset, split, system: as of `PredictionsHeader`.
    """
    threshold = None if threshold is None else mask_threshold(protocol, threshold)
    if protocol in VIDEO_PROTOCOLS:
        header = PredictionsHeader(threshold=threshold, competing=protocol == "davis_unsupervised")
    else:
        header = PredictionsHeader(threshold=threshold, resolution=get_protocol(protocol).resolution)
    return replace(header, dataset=dataset, split=split, system=system)
