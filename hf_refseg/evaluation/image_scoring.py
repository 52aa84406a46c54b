"""How the evaluator scores images: each is encoded once, and of its masks pixel counts are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..data.examples import ImageExamples
from ..data.streams import StreamedImages
from ..modeling.pictures_refseg import take_nearest
from ..visualization import ComparisonRow
from .answering import answer_portions
from .protocol_choice import mask_threshold
from .protocols import Protocol, count_answer, per_sample_iou
from .record_scores import count_columns, intervals_of_records, scores_of_records
from .results import EvaluationResult, Key, Record, Scored, all_records, key_of, name_record, naming_not_finite
from .systems import Answer, AnswerSource


@dataclass(frozen=True, kw_only=True)
class ImageEvaluationResult(EvaluationResult):
    """What `evaluate_model` found on images.

    The metrics and their intervals are those of `scores_from_counts`. A record has `image_id`, `ref_id`, `sent_id`,
    `text`, `intersection` and `union` in pixels, `no_target` (whether the sentence means nothing in the image),
    `present` (whether the answer names a target), and `iou` in [0, 1].

    Attributes:
        images: number of images.
    """

    images: int

    @property
    def examples(self) -> int:
        return self.images


class ImageScoring:
    """Scores answers about images by one protocol.

    Args:
        protocol: how masks are compared.
        threshold: foreground probability above which a pixel belongs to a mask where the protocol names none.
    """

    kind = "image"
    examples = ImageExamples
    streamed_examples = StreamedImages

    def __init__(self, protocol: Protocol, threshold: float) -> None:
        self.protocol, self.threshold = protocol, mask_threshold(protocol, threshold)

    def portion_size(self, source: AnswerSource) -> int:
        """How many images are answered together."""
        return source.images_at_once

    def describe(self) -> dict[str, Any]:
        """What the scores of an answer depend on."""
        return {"protocol": asdict(self.protocol), "threshold": self.threshold}

    def score(
        self, source: AnswerSource, read: Callable[[Any], dict[str, Any]], keys: Iterable[tuple[int, Any]]
    ) -> Iterator[tuple[int, dict[str, Any], Scored]]:
        """The scores of images, one after the other.

        Args:
            source: where the answers come from.
            read: gives the item of a key.
            keys: the number of its portion and the key of each image.

        Returns:
            An iterator of portions' numbers, items without their images, and scores.

        Raises:
            ValueError: as `compare`.
            NotFiniteError: as `compare`; the message names the image.
        """
        for number, example, answers in answer_portions(source, read, keys, self.protocol.resolution):
            with naming_not_finite(self.kind, example):
                scored = Scored(self.compare(example, answers))
            yield number, example, scored

    def compare(self, example: dict[str, Any], answers: Iterable[Answer]) -> list[Record]:
        """The records of the sentences about an image, with an answer for each.

        Raises:
            ValueError: a mask does not have its image's size (the message names the sentence), or there are more or
                fewer answers than sentences.
            NotFiniteError: an answer holds NaN or infinity.
        """
        records = []
        for record, answer, mask in zip(self.records(example), answers, example["masks"], strict=True):
            if self.protocol.resolution == "model":
                # As a model is trained on it, resized to its input, without padding.
                mask = take_nearest(mask, *answer.size)
            try:
                counts = count_answer(answer.foreground(self.threshold), mask, answer.present, self.protocol)
            except ValueError as error:
                raise ValueError(f"{name_record(record)}: {error}") from error
            records.append({**record, **dict(zip(("intersection", "union", "present"), counts, strict=True))})
        if not records:
            return []
        ious = per_sample_iou(**count_columns(records), protocol=self.protocol)
        return [{**record, "iou": float(iou)} for record, iou in zip(records, ious, strict=True)]

    def records(self, example: dict[str, Any]) -> list[Record]:
        """What is known of each sentence about an image before it is answered."""
        names = {"ref_id": "ref_ids", "sent_id": "sent_ids", "text": "texts", "no_target": "no_targets"}
        columns = zip(*(example[name] for name in names.values()), strict=True)
        return [{"image_id": example["image_id"], **dict(zip(names, row, strict=True))} for row in columns]

    def result(self, scored: Sequence[Scored], samples: int, seed: int, **common: Any) -> EvaluationResult:
        """What the scores of all images say; `samples` resamples of images for the intervals."""
        records = all_records(scored)
        return ImageEvaluationResult(
            metrics=scores_of_records(records, self.protocol),
            intervals=intervals_of_records(records, self.protocol, samples=samples, seed=seed) if samples else {},
            protocol=self.protocol.name,
            images=len(scored),
            records=records,
            **common,
        )

    def draw(
        self, example: dict[str, Any], source: AnswerSource, drawn: Mapping[Key, Record]
    ) -> dict[Key, ComparisonRow]:
        """Those sentences about an image that are drawn, by what names them, answered at the image's own size."""
        keys = [key_of(record) for record in self.records(example)]
        places = [place for place, key in enumerate(keys) if key in drawn]
        answers = source.answer_image(example, places, "original") if places else []
        return {
            keys[place]: ComparisonRow(
                image=example["image"],
                text=example["texts"][place],
                truth=example["masks"][place],
                # A file may hold it as large as a model saw the image.
                prediction=take_nearest(answer.shown_mask(self.threshold), *example["masks"][place].shape),
                iou=drawn[keys[place]]["iou"],
            )
            for place, answer in zip(places, answers, strict=True)
        }
