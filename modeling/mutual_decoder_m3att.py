"""The mutual decoder of M3Att, M3Dec, and the interaction between its layers (sections III-A, III-B of its paper).

Section IV-A has a batch normalization and a ReLU behind all linear layers and convolutions "unless otherwise noticed".
Here the convolutions have both, but for the last one, and so have the layers that reconstruct the language; those of
attention and interaction, F_L^k, F_L^v, F_V^k, F_V^v, the output of M3Att and F_l^n, are linear alone. Equations 1 and
2 print neither, and section III-B prints each ReLU of the interaction.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_m3att import M3AttConfig
from .layers_refseg import MultiHeadAttention, TokenBatchNorm


def scaled_scores(text_features: Tensor, pixels: Tensor) -> Tensor:
    """A_mut of the keys of words and pixels (equation 1), (batch, tokens, positions)."""
    return text_features @ pixels.transpose(1, 2) * text_features.shape[-1] ** -0.5


def softmax_over_words(scores: Tensor, text_mask: Tensor) -> Tensor:
    """Scores (batch, queries, tokens) made weights of the words, padding without any; keeps the shape."""
    return scores.masked_fill((text_mask == 0).unsqueeze(1), -math.inf).softmax(-1)


class MutualAttention(nn.Module):
    """M3Att: words and pixels each gather the other modality by one matrix of scores, and are multiplied (section
    III-A, equations 1 and 2).

    `query` (batch, tokens, channels), those of words, `pixels` (batch, positions, channels); returns
    (batch, tokens, channels), the weights of pixels for each word (batch, 1, tokens, positions), and those of words
    for each pixel (batch, 1, positions, tokens).
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.word_key = nn.Linear(channels, channels)  # F_L^k
        self.word_value = nn.Linear(channels, channels)  # F_L^v
        self.pixel_key = nn.Linear(channels, channels)  # F_V^k
        self.pixel_value = nn.Linear(channels, channels)  # F_V^v
        self.output = nn.Linear(config.map_size**2, channels)

    def forward(self, query: Tensor, pixels: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = scaled_scores(self.word_key(query), self.pixel_key(pixels))  # equation 1
        of_words = scores.softmax(-1)
        vision = of_words @ self.pixel_value(pixels)  # F_V^a, equation 2a
        of_pixels = softmax_over_words(self.scores_for_language(scores, query, pixels).transpose(1, 2), text_mask)
        language = of_pixels @ self.word_value(query)  # F_L^a, equation 2b
        return self.output(vision @ language.transpose(1, 2)), of_words[:, None], of_pixels[:, None]  # F_mul

    def scores_for_language(self, scores: Tensor, query: Tensor, pixels: Tensor) -> Tensor:
        """The matrix of equation 2b, before it is transposed, (batch, tokens, positions); here that of equation 2a."""
        return scores


class IndependentMutualAttention(MutualAttention):
    """M3Att with a matrix of scores for each direction (table I, "Independent")."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__(config)
        channels = config.hidden_size
        self.second_word_key = nn.Linear(channels, channels)
        self.second_pixel_key = nn.Linear(channels, channels)

    def scores_for_language(self, scores: Tensor, query: Tensor, pixels: Tensor) -> Tensor:
        return scaled_scores(self.second_word_key(query), self.second_pixel_key(pixels))


class GenericAttention(nn.Module):
    """Language-attended vision features alone (table I, "Generic"): the first two that `MutualAttention` returns."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.word_key = nn.Linear(channels, channels)
        self.pixel_key = nn.Linear(channels, channels)
        self.pixel_value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, query: Tensor, pixels: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        of_words = scaled_scores(self.word_key(query), self.pixel_key(pixels)).softmax(-1)
        return self.output(of_words @ self.pixel_value(pixels)), of_words[:, None]


class LanguageAttention(nn.Module):
    """Vision-attended language features alone (VAL, section IV-B): for each pixel what it gathers from the words.

    Inputs as in `MutualAttention`; returns (batch, positions, channels), and the weights of words for each pixel.
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.word_key = nn.Linear(channels, channels)  # F_L^k
        self.word_value = nn.Linear(channels, channels)  # F_L^v
        self.pixel_key = nn.Linear(channels, channels)  # F_V^k
        self.output = nn.Linear(channels, channels)

    def forward(self, query: Tensor, pixels: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = scaled_scores(self.word_key(query), self.pixel_key(pixels))
        of_pixels = softmax_over_words(scores.transpose(1, 2), text_mask)
        return self.output(of_pixels @ self.word_value(query)), of_pixels[:, None]  # F_L^a


class ResidualNorm(nn.Module):
    """What a part makes of its input is added to it and normalized; both and the result have the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor, update: Tensor) -> Tensor:
        return self.norm(features + update)


class PlainNorm(ResidualNorm):
    """What a part makes of its input, alone."""

    def forward(self, features: Tensor, update: Tensor) -> Tensor:
        return self.norm(update)


ATTENTION: dict[str, type[nn.Module]] = {
    "shared": MutualAttention,
    "independent": IndependentMutualAttention,
    "generic": GenericAttention,
    "language": LanguageAttention,
}


class MutualDecoderLayer(GradientCheckpointingLayer):
    """A layer of M3Dec (section III-A, figure 3 c); shapes as in `MutualAttention`, of which it returns the first."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        join = ResidualNorm if config.residual_connections else PlainNorm
        self.self_attention = MultiHeadAttention(config)
        self.self_join = join(channels)
        self.mutual_attention = ATTENTION[config.attention_type](config)
        self.mutual_join = join(channels)
        self.cross_attention = MultiHeadAttention(config)
        self.cross_join = join(channels)

    def forward(self, query: Tensor, pixels: Tensor, text_mask: Tensor) -> Tensor:
        query = self.self_join(query, self.self_attention(query, query, text_mask))  # F_q
        mutual, *_ = self.mutual_attention(query, pixels, text_mask)
        multimodal = self.mutual_join(query, mutual)
        return self.cross_join(query, self.cross_attention(query, multimodal, text_mask))


class LanguageDecoderLayer(MutualDecoderLayer):
    """A layer that reads vision-attended language features alone, one of each pixel (VAL, section IV-B).

    They are not added to the pixels, whose visual features would come along.
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__(config)
        self.mutual_join = nn.LayerNorm(config.hidden_size)

    def forward(self, query: Tensor, pixels: Tensor, text_mask: Tensor) -> Tensor:
        query = self.self_join(query, self.self_attention(query, query, text_mask))  # F_q
        language, _ = self.mutual_attention(query, pixels, text_mask)
        return self.cross_join(query, self.cross_attention(query, self.mutual_join(language)))


def build_decoder_layer(config: M3AttConfig) -> MutualDecoderLayer:
    return (LanguageDecoderLayer if config.attention_type == "language" else MutualDecoderLayer)(config)


class NoInteraction(nn.Module):
    """Nothing happens between two decoder layers (table II, row 1); shapes as in `PlainInteraction`."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()

    def forward(self, decoded: Tensor, language: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        return decoded, language


class PlainInteraction(nn.Module):
    """IMI*: the same words F_t are added between all decoder layers (table II, row 3).

    `decoded`, F_dec, and `language`, F_l of the interaction before, both (batch, tokens, channels); returns F'_dec and
    the F_l for the next interaction.
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))  # w_ci; FSDP shards no parameter without an axis
        self.norm = TokenBatchNorm(config.hidden_size)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        name = f"{prefix}scale"
        if name in state_dict:
            state_dict[name] = torch.atleast_1d(state_dict[name])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, decoded: Tensor, language: Tensor, text_mask: Tensor) -> tuple[Tensor, ...]:
        return self.inject(decoded, language, text_mask), language

    def inject(self, decoded: Tensor, language: Tensor, text_mask: Tensor) -> Tensor:
        """F'_dec = BN(F_dec + w_ci F_i)."""
        return self.norm(decoded + self.scale * language, text_mask)


class IterativeInteraction(PlainInteraction):
    """IMI: what the decoder asks of the language goes into it, while the language is transformed as well (section
    III-B, equation 3, figure 4); shapes as in `PlainInteraction`.

    Returns as well how much each word of the language weighs for each of the decoder's, (batch, 1, tokens, tokens).
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__(config)
        channels = config.hidden_size
        self.transform = nn.Linear(channels, channels)  # F_l^{n-1} to F_l^n
        self.query = nn.Linear(channels, channels, bias=False)  # W_a
        self.value = nn.Linear(channels, channels, bias=False)  # W'

    def forward(self, decoded: Tensor, language: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        language = self.transform(language)  # F_l
        weights = softmax_over_words(F.relu(self.query(decoded)) @ language.transpose(1, 2), text_mask)  # equation 3
        gathered = weights @ F.relu(self.value(language))  # F_i
        return self.inject(decoded, gathered, text_mask), language, weights[:, None]


INTERACTION: dict[str, type[nn.Module]] = {
    "iterative": IterativeInteraction,
    "plain": PlainInteraction,
    "none": NoInteraction,
}


class MutualDecoder(nn.Module):
    """M3Dec with an interaction between each two layers (figure 2).

    `text_features` is F_t; shapes as in `MutualAttention`.
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        interaction = INTERACTION[config.interaction_type]
        self.first_layer = build_decoder_layer(config)
        self.interactions = nn.ModuleList(interaction(config) for _ in range(config.num_decoder_layers - 1))
        self.layers = nn.ModuleList(build_decoder_layer(config) for _ in range(config.num_decoder_layers - 1))

    def forward(self, text_features: Tensor, pixels: Tensor, text_mask: Tensor) -> Tensor:
        decoded, language = self.first_layer(text_features, pixels, text_mask), text_features
        for interact, layer in zip(self.interactions, self.layers, strict=True):
            decoded, language, *_ = interact(decoded, language, text_mask)  # F'_dec, F_l
            decoded = layer(decoded, pixels, text_mask)  # F_dec
        return decoded


__all__ = [
    "GenericAttention",
    "IterativeInteraction",
    "LanguageAttention",
    "MutualAttention",
    "MutualDecoder",
    "MutualDecoderLayer",
    "PlainInteraction",
    "ResidualNorm",
]
