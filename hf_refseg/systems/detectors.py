"""Detectors that take any text: where in an image is what it means, as boxes with scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoObjectDetectionOutput
from transformers.models.omdet_turbo.modeling_omdet_turbo import OmDetTurboObjectDetectionOutput
from transformers.models.owlvit.modeling_owlvit import OwlViTObjectDetectionOutput
from transformers.utils import ModelOutput

from ..modeling.inference_refseg import as_probability, evaluation_mode, to_model
from ..modeling.modeling_outputs_refseg import require_finite
from ..modeling.precision_refseg import at_least_float32
from .texts import encode_texts


@dataclass(frozen=True)
class Detections:
    """What a detector finds in an image for one text.

    Attributes:
        boxes: floating (detections, 4), left, top, right and bottom in pixels, inside the image.
        scores: floating (detections,), 0 to 1.
    """

    boxes: Tensor
    scores: Tensor

    def best(self) -> Detections:
        """The one of the highest score; none where there is none."""
        place = self.scores.topk(min(1, len(self.scores))).indices
        return Detections(self.boxes[place], self.scores[place])


class Detector(ABC):
    """A detector of transformers, which encodes an image once for all texts.

    A text is cut where the model's positions end.

    Args:
        model: the model, on any device; it runs in evaluation mode.
        processor: its processor.
        score_threshold: the score, 0 to 1, above which a detection counts; None = as transformers takes it for this
            detector: 0.25 for Grounding DINO, 0.3 for OMDet-Turbo, 0.1 for OWL-ViT and OWLv2.
        batch_size: texts per pass.

    Raises:
        ValueError: the threshold is no probability.
    """

    def __init__(
        self, model: Any, processor: Any, *, score_threshold: float | None = None, batch_size: int = 4
    ) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.options = {} if score_threshold is None else {"threshold": as_probability(score_threshold)}

    def detect(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Detections]:
        """What is found for each text, in their order; the image is RGB.

        Raises:
            NotFiniteError: the model answers with NaN or infinity.
        """
        pixels = to_model(self.model, self.processor.image_processor(images=image, return_tensors="pt"))
        with evaluation_mode(self.model):
            encoded = self.encode_image(**pixels)
        size = (image.height, image.width)
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            with evaluation_mode(self.model):
                outputs = self.answer(encoded, batch)
            found = self.processor.post_process_grounded_object_detection(
                outputs, target_sizes=[size] * len(batch), **self.options
            )
            yield from (_inside(each["boxes"], each["scores"], size) for each in found)

    @abstractmethod
    def encode_image(self, pixel_values: Tensor, **others: Tensor) -> Any:
        """What the model makes of an image, whatever is asked; the arguments are what the image processor makes."""

    @abstractmethod
    def answer(self, encoded: Any, texts: list[str]) -> ModelOutput:
        """The model's outputs, at least float32, about the image that was encoded: one row for each text."""

    def encode_texts(self, texts: list[str], length: int, **options: Any) -> dict[str, Tensor]:
        """Tokens of texts, at most `length` of each, on the model's device."""
        return encode_texts(self.model, self.processor.tokenizer, texts, length, **options)


def _inside(boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
    """Detections cut at the image's borders, without those beyond: where an image is padded, some lie there."""
    inside = clip_boxes_to_image(boxes, size)
    has_area = (inside[:, 2:] > inside[:, :2]).all(dim=1)
    return Detections(inside[has_area], scores[has_area])


class GroundingDino(Detector):
    """Grounding DINO and MM Grounding DINO (https://huggingface.co/papers/2303.05499 and 2401.02361).

    The score is that of the token of the text which fits best.
    """

    def encode_image(self, pixel_values: Tensor, **others: Tensor) -> tuple[dict[str, Tensor], Any]:
        inputs = {"pixel_values": pixel_values, **others}
        return inputs, self.model.model.backbone.conv_encoder(**inputs)

    def answer(self, encoded: tuple[dict[str, Tensor], Any], texts: list[str]) -> ModelOutput:
        inputs, maps = encoded
        tokens = self.encode_texts([_as_phrase(text) for text in texts], self.model.config.max_text_len, padding=True)
        repeated = {name: values.expand(len(texts), *values.shape[1:]) for name, values in inputs.items()}
        with _encoded_before(self.model.model.backbone, maps):
            outputs = self.model(**repeated, **tokens)
        logits, boxes = at_least_float32(outputs.logits), at_least_float32(outputs.pred_boxes)
        # Of what is beyond the end of a text the logits are infinite.
        require_finite(scores=logits.amax(dim=-1), boxes=boxes)
        return GroundingDinoObjectDetectionOutput(logits=logits, pred_boxes=boxes, input_ids=outputs.input_ids)


def _as_phrase(text: str) -> str:
    """A text as the model was trained on it: tokens that no full stop follows do not see each other."""
    phrase = text.strip().lower()
    return phrase if phrase.endswith(".") else f"{phrase}."


class _EncodedBefore(nn.Module):
    """Gives the maps and masks of one image for each image of a batch: all of them are that one."""

    def __init__(self, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, ...]]:
        number = len(pixel_values)
        return [tuple(each.expand(number, *each.shape[1:]) for each in of_level) for of_level in self.maps]


@contextmanager
def _encoded_before(backbone: nn.Module, maps: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """The model has no argument for an image that is encoded already: its encoder gives way for a while."""
    encoder = backbone.conv_encoder
    backbone.conv_encoder = _EncodedBefore(maps)
    try:
        yield
    finally:
        backbone.conv_encoder = encoder


class Owl(Detector):
    """OWL-ViT and OWLv2 (https://huggingface.co/papers/2205.06230 and 2306.09683).

    OWLv2 sees the image padded to a square, at the right or at the bottom; its boxes are those of the square.
    """

    def encode_image(self, pixel_values: Tensor, **others: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.model.image_embedder(pixel_values)[0]
        patches = maps.flatten(1, 2)
        return patches, at_least_float32(self.model.box_predictor(patches, maps))

    def answer(self, encoded: tuple[Tensor, Tensor], texts: list[str]) -> ModelOutput:
        patches, boxes = encoded
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.encode_texts(texts, length, padding="max_length")
        queries = self.model.base_model.get_text_features(**tokens).pooler_output
        logits = at_least_float32(self.model.class_predictor(patches, queries[None])[0])
        require_finite(scores=logits, boxes=boxes)
        # A patch may be of several texts, each of which is asked alone: no text takes it from another one.
        each_alone = logits[0].T.unsqueeze(-1)
        return OwlViTObjectDetectionOutput(logits=each_alone, pred_boxes=boxes.expand(len(texts), -1, -1))


class OmDetTurbo(Detector):
    """OMDet-Turbo (https://huggingface.co/papers/2403.06892); a text is both its task and the class that it seeks."""

    def encode_image(self, pixel_values: Tensor, **others: Tensor) -> list[Tensor]:
        return self.model.encoder(self.model.vision_backbone(pixel_values), return_dict=True).extracted_states

    def answer(self, encoded: list[Tensor], texts: list[str]) -> ModelOutput:
        length = self.model.config.text_config.max_position_embeddings
        classes = self.encode_texts(texts, length, padding="max_length")
        tasks = self.encode_texts([f"Detect {text}." for text in texts], length, padding="max_length")
        # Not through the model's memory of texts: the last digits would tell whether a text was asked for before.
        read = self.model.language_backbone
        of_classes = read(classes["input_ids"], encode_type="class")[None]
        of_tasks, mask = read(tasks["input_ids"], mask=tasks["attention_mask"], encode_type="task")
        maps = [each.expand(len(texts), -1, -1, -1) for each in encoded]
        outputs = self.model.decoder(maps, of_classes, of_tasks, mask, return_dict=True)
        logits, boxes = at_least_float32(outputs.decoder_classes[-1]), at_least_float32(outputs.decoder_coords[-1])
        require_finite(scores=logits, boxes=boxes)
        one_each = torch.ones(len(texts), dtype=torch.long, device=self.model.device)
        return OmDetTurboObjectDetectionOutput(
            decoder_class_logits=logits, decoder_coord_logits=boxes, classes_structure=one_each
        )


# By the model_type of their configurations.
DETECTOR_CLASSES: dict[str, type[Detector]] = {
    "grounding-dino": GroundingDino,
    "mm-grounding-dino": GroundingDino,
    "omdet-turbo": OmDetTurbo,
    "owlv2": Owl,
    "owlvit": Owl,
}
