"""Pictures of how a model came to a mask, from what the model's `explain` tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatchmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .hub.model_card import plain_model
from .modeling.explanations_refseg import (
    Explainable,
    Explanation,
    HeatMaps,
    ImpactMaps,
    PixelWords,
    Reconstruction,
    WordMaps,
    WordWeights,
)
from .modeling.inference_refseg import evaluation_mode, to_model
from .modeling.modeling_outputs_refseg import require_finite
from .modeling.picture_files_refseg import upright_rgb
from .visualization import (
    MaskedImage,
    MaskedWords,
    draw_heat_maps,
    draw_impact_tokens,
    draw_pixel_words,
    draw_reconstruction,
    draw_word_table,
    spread,
)


def can_explain(model: nn.Module) -> bool:
    """Whether a model's method can tell how it came to a mask; a configuration may still leave nothing to tell."""
    return isinstance(plain_model(model), Explainable)


def draw_explanations(
    model: PreTrainedModel | PeftModel,
    processor: ProcessorMixin,
    image: Image.Image | Sequence[Image.Image],
    text: str,
    shown_frames: int = 4,
) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of each explanation that the model gives of an image or a clip, and a text.

    Where the processor pads images to squares, the pictures show the padding as well. Words that the tokenizer does
    not know are shown as they stand in the text.

    Args:
        model: any of this library, also with an adapter, which is explained as it is.
        processor: the model's.
        image: an image of any mode; or a clip, the frames that a model sees at once, where it takes clips.
        text: the expression.
        shown_frames: frames of a clip that pictures show, spread evenly over it.

    Raises:
        ValueError: the method cannot be explained, or its configuration has nothing to tell, or a clip is given to a
            model that takes images.
        NotFiniteError: an explanation holds NaN or infinity.
    """
    model = plain_model(model)
    if not can_explain(model):
        raise ValueError(f"A model of type {model.config.model_type} cannot tell how it came to a mask.")
    given: dict[str, Any]
    if isinstance(image, Image.Image):
        frames = [upright_rgb(image)]
        given = {"images": frames[0]}
    elif model.config.takes_clips:
        frames = [upright_rgb(each) for each in image]
        given = {"videos": frames}
    else:
        raise ValueError(f"A model of type {model.config.model_type} takes images: pass a single frame, not a clip.")
    inputs = to_model(model, processor(text=text, return_tensors="pt", **given))
    with evaluation_mode(model):
        explanations = model.explain(**inputs)
    if not explanations:
        raise ValueError(
            f"This model of type {model.config.model_type} has no parts that tell how it came to a mask: its "
            "configuration replaces them all."
        )
    words = tokens_of(processor.tokenizer, text, inputs["input_ids"][0].tolist())
    shown = {number: image_as_seen(frames[number], processor) for number in spread(range(len(frames)), shown_frames)}
    artist = Artist(processor, shown, words)
    for name, explanation in explanations.items():
        yield name, artist.draw(explanation)


class Artist:
    """Draws explanations of any kind.

    Args:
        processor: the model's.
        frames: the frames to show of those that the model saw, by their numbers; an image is frame 0.
        words: the tokens that the model saw.
    """

    def __init__(self, processor: ProcessorMixin, frames: Mapping[int, Image.Image], words: Sequence[str]) -> None:
        self.processor = processor
        self.frames = dict(frames)
        self.words = list(words)

    @property
    def image(self) -> Image.Image:
        """The image, or the first frame."""
        return self.frames[0]

    def shown(self, maps: Tensor) -> NDArray[np.float32]:
        """Maps (frames, height, width), or one (height, width) of an image, of the frames that are shown."""
        return to_array(maps.reshape(-1, *maps.shape[-2:])[list(self.frames)])

    @singledispatchmethod
    def draw(self, explanation: Explanation) -> Image.Image:
        """The picture of an explanation."""
        raise TypeError(f"There is no picture of a {type(explanation).__name__}.")

    @draw.register
    def _(self, explanation: HeatMaps) -> Image.Image:
        maps = [self.shown(each) for each in explanation.maps.values()]
        return draw_heat_maps(list(self.frames.values()), maps, list(explanation.maps), shared_scale=False)

    @draw.register
    def _(self, explanation: WordMaps) -> Image.Image:
        maps = [self.shown(each) for each in explanation.maps]
        return draw_heat_maps(list(self.frames.values()), maps, self.words, shared_scale=True)

    @draw.register
    def _(self, explanation: PixelWords) -> Image.Image:
        places, weights = to_array(explanation.places), to_array(explanation.weights)
        return draw_pixel_words(self.image, places, weights, self.words)

    @draw.register
    def _(self, explanation: WordWeights) -> Image.Image:
        return draw_word_table(to_array(explanation.weights), self.words)

    @draw.register
    def _(self, explanation: ImpactMaps) -> Image.Image:
        maps, weights = ([to_array(each) for each in part] for part in (explanation.maps, explanation.word_weights))
        return draw_impact_tokens(self.image, maps, weights, self.words)

    @draw.register
    def _(self, explanation: Reconstruction) -> Image.Image:
        masked_image = masked_words = None
        if explanation.pixel_values is not None and explanation.masked_patches is not None:
            picture = unnormalized(explanation.pixel_values, self.processor)
            masked_image = MaskedImage(explanation.masked_patches.cpu().numpy(), picture)
        if explanation.input_ids is not None and explanation.masked_words is not None:
            masked = explanation.masked_words.tolist()
            reconstructed = self.processor.tokenizer.convert_ids_to_tokens(explanation.input_ids.tolist())
            predicted = [
                new if is_masked else old
                for old, is_masked, new in zip(self.words, masked, reconstructed, strict=True)
            ]
            special = self.processor.tokenizer.all_special_tokens
            shown = [triple for triple in zip(self.words, masked, predicted, strict=True) if triple[0] not in special]
            masked_words = MaskedWords(
                words=[word for word, _, _ in shown],
                masked_words=[is_masked for _, is_masked, _ in shown],
                reconstruction=[word for _, _, word in shown],
            )
        return draw_reconstruction(self.image, masked_image, masked_words)


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str, input_ids: Sequence[int]) -> list[str]:
    """The tokens of a text; in the place of an unknown one what stands there in the text.

    Args:
        tokenizer: the tokenizer.
        text: the whole text.
        input_ids: what a processor with this tokenizer made of it, which may be cut.
    """
    tokens = tokenizer.convert_ids_to_tokens(input_ids)
    if not tokenizer.is_fast:
        return tokens
    places = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][: len(tokens)]
    return [
        text[start:end] if number == tokenizer.unk_token_id and end > start else token
        for number, token, (start, end) in zip(input_ids, tokens, places, strict=True)
    ]


def image_as_seen(image: Image.Image, processor: ProcessorMixin) -> Image.Image:
    """The image, on a black square where the processor pads images to squares."""
    if not processor.image_processor.size.longest_edge:
        return image
    square = Image.new("RGB", (max(image.size),) * 2)
    square.paste(image)
    return square


def unnormalized(pixel_values: Tensor, processor: ProcessorMixin) -> Image.Image:
    """A normalized image (3, height, width) as a picture; what lies outside of 0 ... 255 is cut off."""
    mean, deviation = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    require_finite(explanations=pixel_values)
    colors = (pixel_values.float().cpu() * deviation + mean).clamp(0, 1) * 255
    return Image.fromarray(colors.round().byte().permute(1, 2, 0).numpy())


def to_array(values: Tensor) -> NDArray[np.float32]:
    require_finite(explanations=values)
    return values.float().cpu().numpy()
