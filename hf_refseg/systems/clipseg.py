"""CLIPSeg as a system: a probability for every pixel (https://huggingface.co/papers/2112.10003)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from ..evaluation.systems import Answer, System
from ..hub.saved_models import find_device, load_any_config, load_processor_of, load_weights
from ..modeling.inference_refseg import as_probability, evaluation_mode, to_model
from ..modeling.modeling_outputs_refseg import require_finite
from ..modeling.precision_refseg import at_least_float32


class ClipSegSystem(System):
    """CLIPSeg: probabilities; neither a score of its own nor a word on whether there is a target.

    The processor stretches each image to the square that the model sees, so that its logits are stretched back. An
    image is encoded once for all texts; a text is cut where the model's positions end.

    Args:
        model: a `CLIPSegForImageSegmentation` on any device; it runs in evaluation mode.
        processor: its `CLIPSegProcessor`.
        name: how results name it.
        threshold: foreground probability above which a pixel belongs to a mask where a protocol names none.
        batch_size: texts per forward pass.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str = "CLIPSeg", threshold: float = 0.5, batch_size: int = 16
    ) -> None:
        self.model, self.processor, self.name, self.batch_size = model, processor, name, batch_size
        self.threshold = as_probability(threshold)

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        for logits in self._logits(image, texts):
            stretched = F.interpolate(
                logits[None, None], (image.height, image.width), mode="bilinear", align_corners=False
            )
            yield _answer(stretched[0, 0])

    def segment_at_model_size(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return map(_answer, self._logits(image, texts))

    def _logits(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Tensor]:
        """For each text the logits at the size that the model sees, floating (height, width)."""
        model = self.model
        inputs = to_model(model, self.processor.image_processor(image, return_tensors="pt"))
        with evaluation_mode(model):
            encoded = model.clip.get_image_features(inputs["pixel_values"], output_hidden_states=True)
        # The first of the hidden states is what the embeddings say.
        layers = [encoded.hidden_states[layer + 1] for layer in model.extract_layers]
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            with evaluation_mode(model):
                condition = model.get_conditional_embeddings(len(batch), **self._encode(batch))
                shared = [layer.expand(len(batch), -1, -1) for layer in layers]
                logits = model.decoder(shared, condition).logits
            require_finite(logits=logits)
            yield from at_least_float32(logits)

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.processor.tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}


def _answer(logits: Tensor) -> Answer:
    return Answer(probabilities=logits.sigmoid().cpu().numpy())


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
    model = load_weights(CLIPSegForImageSegmentation, name, load_any_config(name), dtype).to(find_device(device))
    return ClipSegSystem(model, load_processor_of(CLIPSegProcessor, name), name=name, **options)
