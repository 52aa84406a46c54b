"""What a model tells about how it came to a mask: the kinds of explanations, and the base of models that give them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers_refseg import AttentionKernel
from .modeling_outputs_refseg import RecordedOutput, ReferringSegmentationOutput


@dataclass(frozen=True)
class HeatMaps:
    """Maps over the image, each of which has its own scale.

    Args:
        maps: maps (height, width) of any size, by their titles; of clips (frames, height, width).
    """

    maps: dict[str, Tensor]


@dataclass(frozen=True)
class WordMaps:
    """For each word how much it and each place have to do with each other.

    Args:
        maps: (tokens, height, width), of clips (tokens, frames, height, width), not negative; all words share a scale.
    """

    maps: Tensor


@dataclass(frozen=True)
class PixelWords:
    """For a few places how much each word matters to them.

    Args:
        places: (places, 2), x and y in [0, 1].
        weights: (places, tokens), each row sums to 1.
    """

    places: Tensor
    weights: Tensor


@dataclass(frozen=True)
class WordWeights:
    """How much each word matters to each word.

    Args:
        weights: (tokens, tokens), each row sums to 1.
    """

    weights: Tensor


@dataclass(frozen=True)
class ImpactMaps:
    """Impact tokens, layer by layer (BTMAE, figure 6).

    Args:
        maps: for each layer (impact tokens, height, width), where its tokens are taken from; sums to 1 at each place.
        word_weights: for each layer (impact tokens, tokens), the words that its tokens resemble; each row sums to 1.
    """

    maps: list[Tensor]
    word_weights: list[Tensor]


@dataclass(frozen=True)
class Reconstruction:
    """What was masked and what a model takes it for (BTMAE, figure 5); None where the model has no such autoencoder.

    Args:
        pixel_values: the reconstructed image, normalized, (3, height, width).
        masked_patches: bool (rows, columns), the masked parts of the image.
        input_ids: (tokens,), the sentence with the reconstructed words in the places of the masked ones.
        masked_words: bool (tokens,).
    """

    pixel_values: Tensor | None
    masked_patches: Tensor | None
    input_ids: Tensor | None
    masked_words: Tensor | None


Explanation = HeatMaps | WordMaps | PixelWords | WordWeights | ImpactMaps | Reconstruction


class Explainable(ABC):
    """A model that can tell how it came to a mask, from the outputs that it records.

    A method says what they mean in `explain_output`, and names in `explained_outputs` what it has to be asked for
    beside hidden states and attention weights.
    """

    explained_outputs: tuple[str, ...] = ()
    # A model is called as modules are.
    __call__: Callable[..., ReferringSegmentationOutput]

    @torch.no_grad()
    def explain(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Explanation]:
        """Explanations by name, a name being a part of a file's name; none where the configuration has no such parts.

        Args:
            pixel_values: one normalized image (1, 3, height, width), or clip where the model takes clips.
            input_ids: one text (1, tokens).
            attention_mask: (1, tokens), 1 = token.
        """
        asked = dict.fromkeys(("output_hidden_states", "output_attentions", *self.explained_outputs), True)
        with eager_attention(self):
            output = self(pixel_values, input_ids, attention_mask, **asked, return_dict=True)
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.explain_output(output, text_mask)

    @abstractmethod
    def explain_output(self, output: RecordedOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """What the recorded outputs of one image or clip and one text mean; returns as `explain`.

        Args:
            output: what the model returned, with hidden states and attention weights.
            text_mask: (1, tokens), 1 = token.
        """


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Inside, each [`AttentionKernel`] of a model tells its weights, which fused kernels do not."""
    # Not that of the model alone: an adapter trains copies of modules, whose configurations are copies as well.
    configs = {id(each.config): each.config for each in model.modules() if isinstance(each, AttentionKernel)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            # For the configuration alone, not for those of the encoders inside.
            config._attn_implementation = {"": "eager"}
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = {"": before[key]}


def words_of_pixels(weights: Tensor, maps: Tensor) -> WordMaps:
    """Where each word matters: the weights (1, heads, positions, tokens) of the pixels of a map, over all heads.

    `maps` is a map of that size, (1, channels, height, width), of clips (1, frames, channels, height, width).
    """
    return WordMaps(weights[0].mean(0).T.unflatten(1, _places_of(maps)))


def pixels_of_words(weights: Tensor, maps: Tensor, text_mask: Tensor) -> WordMaps:
    """Where each word looks: its weights (1, heads, tokens, positions); padding looks nowhere.

    `maps` as in `words_of_pixels`, `text_mask` (1, tokens), 1 = token.
    """
    return WordMaps((weights[0].mean(0) * text_mask[0, :, None]).unflatten(1, _places_of(maps)))


def _places_of(maps: Tensor) -> tuple[int, ...]:
    return (*maps.shape[1:-3], *maps.shape[-2:])


def strongest_places(strength: Tensor, number: int) -> Tensor:
    """Indices (number,) of the strongest places of a map (height, width) that keep their distance from each other."""
    height, width = strength.shape
    distance = max(1, min(height, width) // 6)
    remaining, places = strength.float().clone(), []
    for _ in range(number):
        places.append(int(remaining.argmax()))
        row, column = divmod(places[-1], width)
        rows = slice(max(0, row - distance), row + distance + 1)
        remaining[rows, max(0, column - distance) : column + distance + 1] = -torch.inf
    return torch.tensor(places)


__all__ = [
    "Explainable",
    "Explanation",
    "HeatMaps",
    "ImpactMaps",
    "PixelWords",
    "Reconstruction",
    "WordMaps",
    "WordWeights",
    "pixels_of_words",
    "strongest_places",
    "words_of_pixels",
]
