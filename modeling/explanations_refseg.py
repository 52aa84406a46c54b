"""What a model tells about how it came to a mask: the kinds of explanations, and the base of models that give them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeatMaps:
    """Maps over the image, each of which has its own scale.

    Args:
        maps: maps (height, width) of any size, by their titles.
    """

    maps: dict[str, Tensor]


@dataclass(frozen=True)
class WordMaps:
    """For each word how much it and each place have to do with each other.

    Args:
        maps: (tokens, height, width), not negative; all words share a scale.
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


Explanation = HeatMaps | WordMaps | PixelWords | ImpactMaps | Reconstruction


class Explainable(ABC):
    """A model that can tell how it came to a mask."""

    @abstractmethod
    def explain(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Explanation]:
        """Explanations by name, a name being a part of a file's name; none where the configuration has no such parts.

        Args:
            pixel_values: one normalized image (1, 3, height, width).
            input_ids: one text (1, tokens).
            attention_mask: (1, tokens), 1 = word.
        """


@contextmanager
def record_calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, tuple, object]]]:
    """Gives a list that grows by module, positional arguments and result of each call of one of the modules."""
    calls: list[tuple[nn.Module, tuple, object]] = []

    def record(module: nn.Module, arguments: tuple, result: object) -> None:
        calls.append((module, arguments, result))

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


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


__all__ = ["Explainable", "Explanation", "HeatMaps", "ImpactMaps", "PixelWords", "Reconstruction", "WordMaps"]
