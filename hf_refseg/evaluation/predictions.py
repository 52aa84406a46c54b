"""Files of predictions scored: the source of answers that they are, by every protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from ..data.masks import InvalidMaskError, size_of_rle
from ..data.rows import holds_videos
from ..messages import short_text
from .evaluator import evaluate_answers
from .prediction_files import PredictionFile, open_predictions
from .prediction_lines import NoMask, Prediction, PredictionError, StoredAnswer
from .prediction_matching import Match, sentences_of
from .protocol_choice import find_protocol, mask_threshold
from .protocols import Protocol
from .results import EvaluationResult, Key, name_key
from .systems import Answer, AnswerSource
from .video import MASK_THRESHOLD
from .video_scoring import compared_frames

MISSING = ("error", "empty")


def evaluate_predictions(
    predictions: str | PathLike[str],
    dataset: Dataset | IterableDataset,
    protocol: str | Protocol | None = None,
    *,
    missing: Literal["error", "empty"] = "error",
    max_examples: int | None = None,
    **options: Any,
) -> EvaluationResult:
    """Score the predictions of a file or folder on every sentence of a data set, as `evaluate_system` scores a system.

    Args:
        predictions: JSON Lines, COCO results or a folder of PNG files, see docs/predictions.md.
        dataset, protocol, max_examples: as of `evaluate_system`.
        missing: what becomes of sentences without a prediction: an error, or the answer of an empty mask.
        options: the others of `evaluate_system`.

    Raises:
        PredictionError: the predictions are damaged, do not fit the data set, or were made for another protocol.
        ValueError: as `evaluate_system`.
    """
    source = PredictionSource(open_predictions(predictions), dataset, protocol, missing, max_examples)
    return evaluate_answers(source, dataset, protocol, max_examples=max_examples, **options)


class PredictionSource(AnswerSource):
    """The answers of a file of predictions about a data set; one mask at a time is in memory.

    What fits no sentence is told in a warning, all other faults in an error, with numbers and examples.

    Args:
        file: the predictions.
        dataset, protocol, missing, max_examples: as of `evaluate_predictions`.

    Attributes:
        left_out: how many sentences have no prediction, or lack one on a frame, and are answered by empty masks.

    Raises:
        PredictionError: as `evaluate_predictions`.
    """

    threshold, gives_masks, sees_clips = MASK_THRESHOLD, True, False

    def __init__(
        self,
        file: PredictionFile,
        dataset: Dataset | IterableDataset,
        protocol: str | Protocol | None = None,
        missing: Literal["error", "empty"] = "error",
        max_examples: int | None = None,
    ) -> None:
        if missing not in MISSING:
            raise ValueError(f"missing is one of {', '.join(MISSING)}, not {short_text(missing)}.")
        self.file, self.missing = file, missing
        self.kind = "video" if holds_videos(dataset) else "image"
        self.protocol = find_protocol(protocol, on_videos=self.kind == "video")
        _check_header(file, self.protocol)
        match = Match(file, sentences_of(dataset, self.protocol, max_examples), self.kind, max_examples is None)
        match.check(allow_missing=missing == "empty")
        self._places, self._model_size, self.left_out = match.places, match.model_size, match.left_out

    def describe(self) -> dict[str, Any]:
        changed = self.file.path.stat().st_mtime_ns
        return {"prediction_file": str(self.file.path.resolve()), "changed": changed, "missing": self.missing}

    def answer_image(self, example: dict[str, Any], places: Sequence[int], resolution: str) -> Iterator[Answer]:
        for place in places:
            stored = self._read((example["image_id"], example["ref_ids"][place], example["sent_ids"][place]))
            answer = StoredAnswer(NoMask()) if stored is None else stored.answers[0]
            size = example["masks"][place].shape
            where = None if stored is None else self._where(example, place)
            yield self._decode(answer, self._model_size or size, where)

    def answer_video(
        self, example: dict[str, Any], places: Sequence[int], numbers: Sequence[int]
    ) -> Iterator[list[Answer]]:
        compared = compared_frames(example, self.protocol)
        stored = [self._frames(example, place) for place in places]
        for number in numbers:
            yield [
                self._on_frame(example, place, number, frames, compared[place])
                for place, frames in zip(places, stored, strict=True)
            ]

    def _on_frame(
        self,
        example: dict[str, Any],
        place: int,
        number: int,
        frames: Mapping[str | int, StoredAnswer],
        compared: set[int],
    ) -> Answer:
        size = size_of_rle(example["masks"][place][0])
        stored = frames.get(example["frame_names"][number], frames.get(number))
        if stored is None and self.missing == "error" and number in compared:
            raise PredictionError(f"{self.file.path}: {_name(example, place)} has no mask of frame {number}.")
        where = None if stored is None else self._where(example, place)
        return self._decode(stored or StoredAnswer(NoMask()), size, where)

    def _frames(self, example: dict[str, Any], place: int) -> dict[str | int, StoredAnswer]:
        stored = self._read((example["video_id"], example["ref_ids"][place], example["sent_ids"][place]))
        answers = () if stored is None else stored.answers
        return {answer.frame: answer for answer in answers if answer.frame is not None}

    def _read(self, key: Key) -> Prediction | None:
        if key not in self._places:
            return None
        place, number = self._places[key]
        stored = self.file.read(place)
        return stored if number is None else stored.of_object(number)

    def _where(self, example: dict[str, Any], place: int) -> str:
        return f"{self.file.path}, {_name(example, place)}"

    def _decode(self, stored: StoredAnswer, size: tuple[int, int], where: str | None) -> Answer:
        try:
            mask = stored.mask.decode(size)
        except InvalidMaskError as error:
            raise PredictionError(f"{where}: {error}") from error
        return Answer(mask=mask, score=stored.score, present=stored.present)


def _check_header(file: PredictionFile, protocol: str | Protocol) -> None:
    """Raises `PredictionError` for masks that were made for protocols of another kind."""
    header = file.header
    name = protocol.name if isinstance(protocol, Protocol) else protocol
    wanted = mask_threshold(protocol, MASK_THRESHOLD if header.threshold is None else header.threshold)
    if header.threshold not in (None, wanted):
        raise PredictionError(
            f"{file.path} holds masks at the threshold {header.threshold}, protocol {name} takes {wanted}. Make the "
            "masks at that threshold, or choose another protocol."
        )
    resolution = protocol.resolution if isinstance(protocol, Protocol) else "original"
    if header.resolution != resolution:
        size = {"original": "at the size of their images", "model": "at the size at which the model sees images"}
        raise PredictionError(
            f"{file.path} holds masks {size[header.resolution]}, protocol {name} compares them "
            f'{size[resolution]} (in the header resolution "{resolution}"). Make such masks (of a system with '
            f"--save-predictions --protocol {name}), or choose another protocol."
        )
    if header.competing and protocol != "davis_unsupervised":
        raise PredictionError(
            f"{file.path} holds masks of sentences that competed for pixels, which protocol {name} does not score: "
            "choose davis_unsupervised."
        )


def _name(example: Mapping[str, Any], place: int) -> str:
    kind = "video" if "video_id" in example else "image"
    return name_key(kind, (example[f"{kind}_id"], example["ref_ids"][place], example["sent_ids"][place]))
