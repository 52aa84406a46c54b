"""Florence-2 as a system: outlines, which it writes as tokens of places (https://huggingface.co/papers/2311.06242)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from ..data.masks import draw_polygons
from ..evaluation.systems import Answer, OneModelSystem
from ..hub.saved_models import load_any_config, load_with_processor, read_config
from ..modeling.inference_refseg import evaluation_mode, to_model
from ..modeling.modeling_outputs_refseg import require_finite
from .texts import encode_texts

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"


class FlorenceSystem(OneModelSystem):
    """Florence-2: a mask inside the outlines that the model writes; neither a score of its own nor probabilities.

    An image is encoded once for all texts. How tokens are searched is what the model's `generation_config` says, but
    never drawn at random, and at most as many as the model has positions for. Of an answer that is cut off, what is
    whole counts: points of two coordinates, outlines of three points. No outline means that there is no target.

    Args:
        model: a `Florence2ForConditionalGeneration` on any device; it runs in evaluation mode.
        processor: its `Florence2Processor`.
        name: how results name it.
        batch_size: texts per pass.

    Raises:
        ValueError: the processor does not know how outlines are written.
    """

    gives_masks = True

    def __init__(self, model: Any, processor: Any, *, name: str = "Florence-2", batch_size: int = 4) -> None:
        if "polygons" not in processor.post_processor.parse_task_config:
            raise ValueError(
                f"{name}: its processor has no post_processor_config for polygons, which says how they are written: "
                "save it as the released checkpoints have it."
            )
        super().__init__(model, processor, name=name, batch_size=batch_size)

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        pixels = to_model(self.model, self.processor.image_processor(images=image, return_tensors="pt"))
        with evaluation_mode(self.model):
            encoded = self.model.get_image_features(pixels["pixel_values"], return_dict=True).pooler_output
        require_finite(image_features=encoded)
        for start in range(0, len(texts), self.batch_size):
            for tokens in self._write(encoded, texts[start : start + self.batch_size]):
                mask = mask_of_tokens(self.processor, tokens, image.height, image.width)
                yield Answer(mask=mask, present=bool(mask.any()))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "generation": self.model.generation_config.to_dict()}

    def _write(self, encoded: Tensor, texts: Sequence[str]) -> Tensor:
        """The tokens (texts, positions) that the model answers with, about an image that is encoded already."""
        longest = self.model.config.text_config.max_position_embeddings
        processor, tokenizer = self.processor, self.processor.tokenizer
        # As the processor itself puts it, which would make each text an image of its own.
        of_image = processor.image_token * processor.num_image_tokens
        prompts = [processor.task_prompts_with_input[TASK].format(input=text.strip()) for text in texts]
        whole = [f"{of_image}{tokenizer.bos_token}{prompt}{tokenizer.eos_token}" for prompt in prompts]
        inputs = encode_texts(self.model, tokenizer, whole, longest, add_special_tokens=False, padding=True)
        with evaluation_mode(self.model):
            embedded = self.model.get_input_embeddings()(inputs["input_ids"])
            seen = encoded.expand(len(texts), -1, -1).to(embedded.dtype)
            places = self.model.get_placeholder_mask(inputs["input_ids"], embedded, seen)
            read = self.model.get_encoder()(
                inputs_embeds=embedded.masked_scatter(places, seen), attention_mask=inputs["attention_mask"]
            )
            require_finite(text_features=read.last_hidden_state)
            return self.model.generate(
                encoder_outputs=read,
                attention_mask=inputs["attention_mask"],
                max_new_tokens=longest,
                do_sample=False,
            )


def mask_of_tokens(processor: Florence2Processor, tokens: Tensor, height: int, width: int) -> NDArray[np.bool_]:
    """The mask, boolean (height, width), that an answer means; empty where it has no outline.

    Args:
        processor: knows the tokens.
        tokens: whole numbers (positions,), also those that begin, end and pad a text.
        height: of the image.
        width: of the image.
    """
    found = processor.post_process_generation(sequence=tokens, task=TASK, image_size=(width, height))
    outlines = [outline for of_object in found[TASK]["polygons"] for outline in of_object]
    points = [list(zip(outline[0::2], outline[1::2], strict=True)) for outline in outlines]
    return draw_polygons([each for each in points if _is_outline(each, height, width)], height, width)


def _is_outline(points: Sequence[tuple[int, int]], height: int, width: int) -> bool:
    """Whether points enclose anything; letters, too, may spell places, of which there are none in the image."""
    return len(points) >= 3 and all(x < width and y < height for x, y in points)


def load(name: str, *, device: str | None, dtype: str | None, **options: Any) -> FlorenceSystem:
    """The Florence-2 of a folder or the Hub.

    Args:
        name: folder or Hub id.
        device: such as "cpu"; None = the accelerator, if there is one.
        dtype: such as "float32"; None = as the weights were saved.
        options: those of `FlorenceSystem`.

    Raises:
        ValueError: weights, configuration or processor are missing or damaged, or as the code beside them has them.
        OSError: the Hub has no such model, or cannot be reached.
    """
    text_config = read_config(name).get("text_config")
    if isinstance(text_config, dict) and text_config.get("model_type") == "florence2_language":
        raise ValueError(
            f"{name} is Florence-2 for code of its own, under other names than in transformers: take the same model "
            "from florence-community, such as florence-community/Florence-2-base-ft."
        )
    model, processor = load_with_processor(
        Florence2ForConditionalGeneration, Florence2Processor, name, load_any_config(name), device=device, dtype=dtype
    )
    return FlorenceSystem(model, processor, name=name, **options)
