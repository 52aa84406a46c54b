"""CLIPSeg as a system: a probability for every pixel (https://huggingface.co/papers/2112.10003)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature, CLIPSegForImageSegmentation, CLIPSegProcessor

from ..evaluation.systems import Answer, BatchedSystem
from ..hub.saved_models import load_any_config, load_with_processor
from ..modeling.inference_refseg import PreparedImage, as_probability, evaluation_mode, to_model
from ..modeling.modeling_outputs_refseg import require_finite
from ..modeling.precision_refseg import at_least_float32
from .texts import encode_texts


class ClipSegSystem(BatchedSystem):
    """CLIPSeg: probabilities; neither a score of its own nor a word on whether there is a target.

    The processor stretches each image to the square that the model sees, so that its logits are stretched back. An
    image is encoded once for all texts; a text is cut where the model's positions end.

    Args:
        model: a `CLIPSegForImageSegmentation` on any device; it runs in evaluation mode.
        processor: its `CLIPSegProcessor`.
        name: how results name it.
        threshold: foreground probability above which a pixel belongs to a mask where a protocol names none.
        batch_size: texts, and images, per forward pass.

    Raises:
        ValueError: the threshold is no probability.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str = "CLIPSeg", threshold: float = 0.5, batch_size: int = 16
    ) -> None:
        super().__init__(model, processor, name=name, batch_size=batch_size)
        self.threshold = as_probability(threshold)

    def segment_images(self, prepared: Sequence[PreparedImage], resolution: str) -> Iterator[Answer]:
        images = [image for image in prepared if image.texts]
        asked = [(index, text) for index, image in enumerate(images) for text in image.texts]
        layers = self._encode_images(images) if images else []
        for start in range(0, len(asked), self.batch_size):
            indices, texts = zip(*asked[start : start + self.batch_size], strict=True)
            logits = self._decode([layer[list(indices)] for layer in layers], list(texts))
            for index, each in zip(indices, logits, strict=True):
                yield _answer(each, tuple(each.shape) if resolution == "model" else images[index].size)

    def _encode_images(self, images: Sequence[PreparedImage]) -> list[Tensor]:
        """Those layers of the image encoder that are decoded, floating (images, tokens, channels)."""
        inputs = BatchFeature({"pixel_values": torch.cat([image.pixel_values for image in images])})
        with evaluation_mode(self.model):
            encoded = self.model.clip.get_image_features(**to_model(self.model, inputs), output_hidden_states=True)
        # The first of the hidden states is what the embeddings say.
        return [encoded.hidden_states[layer + 1] for layer in self.model.extract_layers]

    def _decode(self, layers: list[Tensor], texts: list[str]) -> Tensor:
        """The logits at the size that the model sees, floating (texts, height, width), of an image for each text."""
        longest = self.model.config.text_config.max_position_embeddings
        inputs = encode_texts(self.model, self.processor.tokenizer, texts, longest, padding=True)
        with evaluation_mode(self.model):
            condition = self.model.get_conditional_embeddings(len(texts), **inputs)
            logits = self.model.decoder(layers, condition).logits
        require_finite(logits=logits)
        return at_least_float32(logits)


def _answer(logits: Tensor, size: tuple[int, int]) -> Answer:
    """The answer of this size of logits (height, width)."""
    stretched = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return Answer(probabilities=stretched.sigmoid().cpu().numpy())


def load(name: str, *, device: str | None, dtype: str | None, **options: Any) -> ClipSegSystem:
    """The CLIPSeg of a folder or the Hub.

    Args:
        name: folder or Hub id.
        device: such as "cpu"; None = the accelerator, if there is one.
        dtype: such as "float32"; None = as the weights were saved.
        options: those of `ClipSegSystem`.

    Raises:
        ValueError: weights, configuration or processor are missing or damaged.
        OSError: the Hub has no such model, or cannot be reached.
    """
    model, processor = load_with_processor(
        CLIPSegForImageSegmentation, CLIPSegProcessor, name, load_any_config(name), device=device, dtype=dtype
    )
    return ClipSegSystem(model, processor, name=name, **options)
