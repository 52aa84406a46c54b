"""A detector and a segmenter as a system: the text's boxes, and their masks by SAM or SAM 2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    BatchFeature,
    Sam2Model,
    Sam2Processor,
    SamModel,
    SamProcessor,
)

from ..evaluation.systems import Answer, System, hash_tensors
from ..hub.saved_models import load_any_config, load_with_processor
from ..modeling.inference_refseg import evaluation_mode
from ..modeling.modeling_outputs_refseg import require_finite
from ..modeling.precision_refseg import at_least_float32
from .detectors import DETECTOR_CLASSES, Detections, Detector
from .kinds import check_instances, split_pair


class BoxSegmenter(ABC):
    """A model that makes a mask of each box, and encodes an image once for all of them.

    Args:
        model: on any device; it runs in evaluation mode.
        processor: its processor.
        batch_size: boxes per pass.
    """

    def __init__(self, model: Any, processor: Any, *, batch_size: int = 4) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size

    def segment(self, image: Image.Image, boxes: Tensor) -> Iterator[Tensor]:
        """A mask, boolean (height, width) on the CPU, of each box (boxes, 4), in pixels of the image.

        Of the masks that the model has for a prompt this is the one for prompts that mean one thing, as boxes do.

        Raises:
            NotFiniteError: the model answers with NaN or infinity.
        """
        inputs = self.processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
        with evaluation_mode(self.model):
            encoded = self.model.get_image_embeddings(inputs["pixel_values"].to(self.model.device, self.model.dtype))
        # Positions are made of places in single precision, whatever the model's own.
        for batch in inputs["input_boxes"].to(self.model.device, torch.float32).split(self.batch_size, dim=1):
            with evaluation_mode(self.model):
                outputs = self.model(image_embeddings=encoded, input_boxes=batch, multimask_output=False)
            require_finite(pred_masks=outputs.pred_masks)
            # One at a time: an image may be large, and its boxes many.
            for logits in at_least_float32(outputs.pred_masks).split(1, dim=1):
                yield self.at_own_size(logits, inputs)[0][0, 0].cpu()

    @abstractmethod
    def at_own_size(self, masks: Tensor, inputs: BatchFeature) -> list[Tensor]:
        """For each image masks, boolean (boxes, 1, height, width), made of logits (images, boxes, 1, rows, columns).

        `inputs` is what the processor made of the images.
        """


class Sam(BoxSegmenter):
    """SAM (https://huggingface.co/papers/2304.02643), which sees the image padded to a square."""

    def at_own_size(self, masks: Tensor, inputs: BatchFeature) -> list[Tensor]:
        return self.processor.post_process_masks(masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])


class Sam2(BoxSegmenter):
    """SAM 2 (https://huggingface.co/papers/2408.00714), which sees the image stretched to a square."""

    def at_own_size(self, masks: Tensor, inputs: BatchFeature) -> list[Tensor]:
        return self.processor.post_process_masks(masks, inputs["original_sizes"])


class GroundedSystem(System):
    """A detector that says where what a text means is, and a segmenter that makes a mask of it.

    The score is the detector's, and so is the word on whether there is a target: there is none where it finds nothing.

    Args:
        detector: finds boxes.
        segmenter: makes masks of boxes.
        name: how results name it.
        instances: "best" = the mask is that of the box with the highest score, as a sentence that refers means one
            thing; "all" = the union over all boxes that count.

    Raises:
        ValueError: another word for `instances`.
    """

    gives_masks = True

    def __init__(
        self,
        detector: Detector,
        segmenter: BoxSegmenter,
        *,
        name: str,
        instances: Literal["all", "best"] = "best",
    ) -> None:
        check_instances(instances)
        self.detector, self.segmenter, self.name, self.instances = detector, segmenter, name, instances

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        found = list(self.detector.detect(image, texts))
        if self.instances == "best":
            found = [of_text.best() for of_text in found]
        boxes = torch.cat([of_text.boxes for of_text in found])
        # Begins with the first mask that is asked for, of which there may be none.
        masks = self.segmenter.segment(image, boxes)
        for of_text in found:
            yield _union(islice(masks, len(of_text.scores)), of_text, (image.height, image.width))

    def describe(self) -> dict[str, Any]:
        """As of any system, with all else that masks depend on."""
        parts: dict[str, Detector | BoxSegmenter] = {"detector": self.detector, "segmenter": self.segmenter}
        return {
            **super().describe(),
            **{part: hash_tensors(each.model.state_dict()) for part, each in parts.items()},
            **{f"{part}_processor": each.processor.to_dict() for part, each in parts.items()},
            "detector_options": self.detector.options,
            "instances": self.instances,
            "batch_sizes": [each.batch_size for each in parts.values()],
        }


def _union(masks: Iterator[Tensor], found: Detections, size: tuple[int, int]) -> Answer:
    """One answer of the masks of what is found for a text, which may be nothing."""
    union = np.zeros(size, dtype=bool)
    for mask in masks:
        union |= mask.numpy()
    score = found.scores.max().item() if len(found.scores) else 0.0
    return Answer(mask=union, score=score, present=len(found.scores) > 0)


# By the model_type of their configurations. SAM 2's checkpoints are those for videos, of which images take a part.
SEGMENTER_CLASSES: dict[str, tuple[type[BoxSegmenter], Any, Any]] = {
    "sam": (Sam, SamModel, SamProcessor),
    "sam2": (Sam2, Sam2Model, Sam2Processor),
    "sam2_video": (Sam2, Sam2Model, Sam2Processor),
}


def load(
    name: str,
    *,
    device: str | None,
    dtype: str | None,
    score_threshold: float | None = None,
    instances: Literal["all", "best"] = "best",
    batch_size: int = 4,
) -> GroundedSystem:
    """The detector and the segmenter of folders or the Hub.

    Args:
        name: "detector+segmenter", each a folder or Hub id.
        device: such as "cpu"; None = the accelerator, if there is one.
        dtype: such as "float32"; None = as the weights were saved.
        score_threshold: as of `Detector`.
        instances: as of `GroundedSystem`.
        batch_size: texts, and boxes, per pass.

    Raises:
        ValueError: weights, configuration or processor of one of them are missing or damaged, or a value is out of
            range.
        OSError: the Hub has no such model, or cannot be reached.
    """
    first, second = split_pair(name)
    detector = load_detector(first, device, dtype, score_threshold=score_threshold, batch_size=batch_size)
    segmenter = load_segmenter(second, device, dtype, batch_size=batch_size)
    return GroundedSystem(detector, segmenter, name=name, instances=instances)


def load_detector(name: str, device: str | None, dtype: str | None, **options: Any) -> Detector:
    """A detector with the options of its class; raises as `load`."""
    config = load_any_config(name)
    model, processor = load_with_processor(
        AutoModelForZeroShotObjectDetection, AutoProcessor, name, config, device=device, dtype=dtype
    )
    return DETECTOR_CLASSES[config.model_type](model, processor, **options)


def load_segmenter(name: str, device: str | None, dtype: str | None, *, batch_size: int) -> BoxSegmenter:
    """A segmenter of so many boxes per pass; raises as `load`."""
    config = load_any_config(name)
    segmenter_class, model_class, processor_class = SEGMENTER_CLASSES[config.model_type]
    model, processor = load_with_processor(
        model_class, processor_class, name, config, device=device, dtype=dtype, has_tokenizer=False
    )
    return segmenter_class(model, processor, batch_size=batch_size)
