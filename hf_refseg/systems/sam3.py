"""SAM 3 as a system: the instances that a text means, with scores (https://huggingface.co/papers/2511.16719)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from PIL import Image
from torch import Tensor
from transformers import Sam3Model, Sam3Processor
from transformers.utils import ModelOutput

from ..evaluation.systems import Answer, OneModelSystem
from ..hub.saved_models import load_any_config, load_with_processor
from ..modeling.inference_refseg import as_probability, evaluation_mode, to_model
from ..modeling.modeling_outputs_refseg import require_finite
from .kinds import check_instances
from .texts import encode_texts


class Sam3System(OneModelSystem):
    """SAM 3: a mask and a score; the mask alone says whether there is a target.

    The score of an instance is its own times the one by which the model tells that the image shows what the text means
    at all. An image is encoded once for all texts; a text is cut where the model's positions end. A checkpoint for
    videos is asked frame by frame, without its tracker.

    Args:
        model: a `Sam3Model` on any device; it runs in evaluation mode.
        processor: its `Sam3Processor`.
        name: how results name it.
        score_threshold: the score, 0 to 1, above which an instance counts; None = 0.3, as in transformers, for all of
            them, and 0 for the best one.
        instances: "all" = the mask is the union of the instances that count; "best" = that of the highest score.
        batch_size: texts per forward pass.

    Raises:
        ValueError: numbers out of range, or another word for `instances`.
    """

    gives_masks = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str = "SAM 3",
        score_threshold: float | None = None,
        instances: Literal["all", "best"] = "all",
        batch_size: int = 4,
    ) -> None:
        check_instances(instances)
        super().__init__(model, processor, name=name, batch_size=batch_size)
        self.instances = instances
        default = 0.3 if instances == "all" else 0.0
        self.score_threshold = default if score_threshold is None else as_probability(score_threshold)

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        size = (image.height, image.width)
        for outputs in self._outputs(image, texts):
            found = self.processor.post_process_instance_segmentation(
                outputs if self.instances == "all" else _best_instance(outputs),
                threshold=self.score_threshold,
                target_sizes=[size] * len(outputs.pred_logits),
            )
            yield from (_union(each["masks"], each["scores"], size) for each in found)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "instances": self.instances, "score_threshold": self.score_threshold}

    def _outputs(self, image: Image.Image, texts: Sequence[str]) -> Iterator[ModelOutput]:
        """What the model says, a batch of texts after the other."""
        inputs = to_model(self.model, self.processor(images=image, return_tensors="pt"))
        with evaluation_mode(self.model):
            encoded = self.model.get_vision_features(inputs["pixel_values"])
        longest = self.model.config.text_config.max_position_embeddings
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            # The model has no image for several texts, but a map may stand for many without a copy.
            shared = type(encoded)(
                fpn_hidden_states=_repeat(encoded.fpn_hidden_states, len(batch)),
                fpn_position_encoding=_repeat(encoded.fpn_position_encoding, len(batch)),
            )
            # The processor pads as here, but cuts nothing.
            tokens = encode_texts(self.model, self.processor.tokenizer, batch, longest, padding="max_length")
            with evaluation_mode(self.model):
                outputs = self.model(vision_embeds=shared, **tokens)
            require_finite(
                pred_masks=outputs.pred_masks,
                pred_logits=outputs.pred_logits,
                presence_logits=outputs.presence_logits,
            )
            yield outputs


def _repeat(maps: Sequence[Tensor], number: int) -> tuple[Tensor, ...]:
    return tuple(each.expand(number, -1, -1, -1) for each in maps)


def _best_instance(outputs: ModelOutput) -> ModelOutput:
    """The outputs with one instance for each text, that of the highest score."""
    best = outputs.pred_logits.argmax(dim=1)
    rows = best.new_tensor(range(len(best)))
    names = ("pred_logits", "pred_boxes", "pred_masks")
    of_best = {name: outputs[name][rows, best].unsqueeze(1) for name in names}
    return type(outputs)(**of_best, presence_logits=outputs.presence_logits)


def _union(masks: Tensor, scores: Tensor, size: tuple[int, int]) -> Answer:
    """One answer of instances: masks 0 or 1 (instances, height, width), scores (instances,); there may be none."""
    if not len(scores):
        return Answer(mask=masks.new_zeros(size, dtype=bool).cpu().numpy(), score=0.0)
    return Answer(mask=masks.bool().any(dim=0).cpu().numpy(), score=scores.max().item())


def load(name: str, *, device: str | None, dtype: str | None, **options: Any) -> Sam3System:
    """The SAM 3 of a folder or the Hub, also that of a checkpoint for videos.

    Args:
        name: folder or Hub id.
        device: such as "cpu"; None = the accelerator, if there is one.
        dtype: such as "float32"; None = as the weights were saved.
        options: those of `Sam3System`.

    Raises:
        ValueError: weights, configuration or processor are missing or damaged.
        OSError: the Hub has no such model, or cannot be reached.
    """
    model, processor = load_with_processor(
        Sam3Model, Sam3Processor, name, load_any_config(name), device=device, dtype=dtype
    )
    return Sam3System(model, processor, name=name, **options)
