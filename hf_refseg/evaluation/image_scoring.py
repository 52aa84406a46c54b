"""How the evaluator scores images: each is encoded once, and of its masks pixel counts are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ..data.examples import ImageExamples
from ..data.streams import StreamedImages
from ..modeling.inference_refseg import FrameMask, segment_image
from ..visualization import ComparisonRow
from .protocols import Protocol, bootstrap_intervals, count_answer, per_sample_iou, scores_from_counts
from .results import EvaluationResult, Key, Record, key_of, name_record


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


class ImageScoring:
    """Scores answers about images by one protocol.

    Args:
        model: a model.
        processor: its processor.
        protocol: how masks are compared.
        batch_size: sentences per forward pass.
    """

    kind = "image"
    examples = ImageExamples
    streamed_examples = StreamedImages

    def __init__(self, model: nn.Module, processor: Any, protocol: Protocol, batch_size: int) -> None:
        self.model, self.processor, self.protocol, self.batch_size = model, processor, protocol, batch_size

    def score(self, example: dict[str, Any]) -> list[Record]:
        """The records of the sentences about an image.

        Raises:
            ValueError: a mask does not have its image's size; the message names the sentence.
            NotFiniteError: the model answers with NaN or infinity.
        """
        masks = example["masks"]
        if self.protocol.resolution == "model" and masks:
            masks = self._as_trained_on(masks)
        size = masks[0].shape if masks else None
        records = []
        answers = self._segment(example["image"], example["texts"], size)
        for record, answer, mask in zip(self.records(example), answers, masks, strict=True):
            try:
                counts = count_answer(answer.foreground, mask, answer.is_found, self.protocol)
            except ValueError as error:
                raise ValueError(f"{name_record(record)}: {error}") from error
            records.append({**record, **dict(zip(("intersection", "union", "present"), counts, strict=True))})
        ious = per_sample_iou(**_columns(records), protocol=self.protocol) if records else []
        return [{**record, "iou": float(iou)} for record, iou in zip(records, ious, strict=True)]

    def records(self, example: dict[str, Any]) -> list[Record]:
        """What is known of each sentence about an image before it is answered."""
        names = {"ref_id": "ref_ids", "sent_id": "sent_ids", "text": "texts", "no_target": "no_targets"}
        columns = zip(*(example[name] for name in names.values()), strict=True)
        return [{"image_id": example["image_id"], **dict(zip(names, row, strict=True))} for row in columns]

    def result(self, records: list[Record], images: int, samples: int, seed: int, **common: Any) -> EvaluationResult:
        """What all records say; `samples` resamples of images for the intervals."""
        columns, intervals = _columns(records), {}
        if samples:
            groups = [record["image_id"] for record in records]
            intervals = bootstrap_intervals(
                **columns, protocol=self.protocol, groups=groups, samples=samples, seed=seed
            )
        metrics = scores_from_counts(**columns, protocol=self.protocol)
        return ImageEvaluationResult(
            metrics=metrics, intervals=intervals, protocol=self.protocol.name, images=images, records=records, **common
        )

    def draw(self, example: dict[str, Any], drawn: Mapping[Key, Record]) -> dict[Key, ComparisonRow]:
        """Those sentences about an image that are drawn, by what names them, predicted at the image's own size."""
        records = self.records(example)
        chosen = [place for place, record in enumerate(records) if key_of(record) in drawn]
        answers = self._segment(example["image"], [example["texts"][place] for place in chosen], None)
        return {
            key_of(records[place]): ComparisonRow(
                image=example["image"],
                text=example["texts"][place],
                truth=example["masks"][place],
                prediction=answer.mask.numpy(),
                iou=drawn[key_of(records[place])]["iou"],
            )
            for place, answer in zip(chosen, answers, strict=True)
        }

    def _segment(self, image: Image.Image, texts: Sequence[str], size: tuple[int, int] | None) -> Iterator[FrameMask]:
        threshold = self.protocol.mask_threshold
        return segment_image(
            self.model, self.processor, image, texts, size=size, threshold=threshold, batch_size=self.batch_size
        )

    def _as_trained_on(self, masks: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
        """The true masks as the model is trained on them, resized to its input by its processor, without padding."""
        labels = self.processor(segmentation_maps=list(masks), return_tensors="pt")["mask_labels"]
        cut = self.processor.image_processor.cut_padding
        return [cut(label, mask.shape).numpy() != 0 for label, mask in zip(labels, masks, strict=True)]


def _columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The records as the protocols take them."""
    names = {"intersections": "intersection", "unions": "union", "no_target": "no_target", "present": "present"}
    return {argument: [record[name] for record in records] for argument, name in names.items()}
