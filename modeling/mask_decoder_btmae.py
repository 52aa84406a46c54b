"""The mask decoder of BTMAE: impact token attention and the mask head (section 3.3 of its paper)."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from .autoencoder_btmae import FeedForward
from .configuration_btmae import BtmaeConfig
from .layers_refseg import (
    AttentionKernel,
    LavtDecoder,
    MaskClassifier,
    MultiHeadAttention,
    PixelWordAttention,
    resize,
    to_map,
    to_tokens,
)
from .modeling_outputs_refseg import ALWAYS_GIVEN, FusedFeatures
from .precision_refseg import at_least_float32


@dataclass
class BtmaeFeatures(FusedFeatures):
    """The refined tokens, T_v^r as the last of the maps and T_l^r as the text, and the visual features.

    Args:
        encoder_pixels (`torch.FloatTensor` of shape `(batch, positions, feature_size)`): X_e.
    """

    encoder_pixels: Tensor = ALWAYS_GIVEN


class ImpactTokens(NamedTuple):
    """What a layer of impact token attention sampled.

    Args:
        masks: the sampling masks S_v, (batch, impact tokens, h, w); they sum to 1 at each place.
        tokens: the impact tokens once they met the words, (batch, impact tokens, channels).
    """

    masks: Tensor
    tokens: Tensor


class ImpactTokenTransformer(nn.Module):
    """Fuses impact tokens with the words, then spreads them over the pixels (section 3.3, figure 3).

    `tokens` (batch, impact tokens, channels), `pixels` (batch, positions, channels), `text_features` (batch, tokens,
    channels), `text_mask` (batch, tokens); returns the pixels and the impact tokens anew.
    """

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.word_attention = MultiHeadAttention(config)
        self.word_norm = nn.LayerNorm(channels)
        self.pixel_attention = MultiHeadAttention(config)
        self.pixel_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, config.intermediate_size)
        self.output_norm = nn.LayerNorm(channels)

    def forward(
        self, tokens: Tensor, pixels: Tensor, text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens = self.word_norm(tokens + self.word_attention(tokens, text_features, text_mask))
        pixels = self.pixel_norm(pixels + self.pixel_attention(pixels, tokens))
        return self.output_norm(pixels + self.feed_forward(pixels)), tokens


class ImpactSampling(nn.Linear):
    """f_1x1, to X_v^r: how much of each pixel, (batch, positions, channels), goes into each impact token."""


class ImpactTokenAttention(nn.Module):
    """A layer of impact token attention with K impact tokens (section 3.3).

    `refined` (batch, positions, channels) are the tokens that are sampled, `pixels`, of the same shape, those that the
    samples are spread over; `text_features` (batch, tokens, channels), `text_mask` (batch, tokens). Returns the pixels
    anew, the sampling masks S_v (batch, positions, K), and the samples (batch, K, channels) once they met the words.
    The configuration says which kernel computes the attention.
    """

    def __init__(self, config: BtmaeConfig, num_tokens: int) -> None:
        super().__init__()
        channels = config.hidden_size
        self.kernel = AttentionKernel(config)
        self.query = nn.Linear(channels, channels, bias=False)  # w_Q
        self.key = nn.Linear(channels, channels, bias=False)  # w_K
        self.value = nn.Linear(channels, channels, bias=False)  # w_V
        self.feed_forward = FeedForward(channels, config.intermediate_size)
        self.sampling = ImpactSampling(channels, num_tokens)
        self.transformer = ImpactTokenTransformer(config)

    def forward(
        self, refined: Tensor, pixels: Tensor, text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        masks, tokens = self.sample(refined, text_features, text_mask)
        pixels, tokens = self.transformer(tokens, pixels, text_features, text_mask)
        return pixels, masks, tokens

    def sample(self, refined: Tensor, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """S_v and the impact tokens (equations 1 to 3)."""
        one_head = (self.query(refined)[:, None], self.key(text_features)[:, None], self.value(text_features)[:, None])
        is_word = (text_mask != 0)[:, None, None, :]
        attended, _ = self.kernel(*one_head, is_word, refined.shape[-1] ** -0.5)
        features = self.feed_forward(attended.squeeze(2) + refined)  # f_FFN(X_att), equation 2
        masks = at_least_float32(self.sampling(features)).softmax(-1)  # equation 1
        weights = masks / masks.sum(1, keepdim=True).clamp(min=1e-6)
        return masks, weights.to(features.dtype).transpose(1, 2) @ features  # equation 3


class EncoderQueries(nn.Module):
    """X_e in the channels of the tokens, (batch, positions, hidden_size), to spread the first impact tokens over."""

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.feature_size, config.hidden_size)

    def forward(self, encoder_pixels: Tensor, refined: Tensor) -> Tensor:
        return self.projection(encoder_pixels)


class RefinedQueries(nn.Module):
    """T_v^r in the place of X_e; shapes as in `EncoderQueries`."""

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()

    def forward(self, encoder_pixels: Tensor, refined: Tensor) -> Tensor:
        return refined


IMPACT_QUERIES: dict[str, type[nn.Module]] = {"encoder": EncoderQueries, "refined": RefinedQueries}


class MaskHead(nn.Module):
    """From the coarsest map to logits: resized twice, each time with the finer map added and a 3x3 convolution.

    `maps` (batch, channels, height, width), finest first; returns (batch, height, width) at the finest map's size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for _ in range(2)
        )
        self.classifier = MaskClassifier(channels, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        *finer, coarse = maps
        for step, skip in zip(self.steps, reversed(finer), strict=True):
            coarse = step(resize(coarse, skip.shape[-2:], align_corners=False) + skip)
        return self.classifier(coarse).squeeze(1)


class ImpactTokenDecoder(nn.Module):
    """Layers of impact token attention and the mask head (section 3.3).

    Returns logits (batch, height, width) at stride 4, and what each layer sampled.
    """

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        self.queries = IMPACT_QUERIES[config.impact_queries](config)
        self.layers = nn.ModuleList(ImpactTokenAttention(config, number) for number in config.num_impact_tokens)
        self.mask_head = MaskHead(config.hidden_size)

    def forward(self, fused: BtmaeFeatures) -> tuple[Tensor, tuple[ImpactTokens, ...]]:
        *finer, refined_map = fused.maps
        refined, size, samples = to_tokens(refined_map), tuple(refined_map.shape[-2:]), []
        pixels = self.queries(fused.encoder_pixels, refined)
        for layer in self.layers:
            pixels, masks, tokens = layer(refined, pixels, fused.text_features, fused.text_mask)
            refined = pixels
            samples.append(ImpactTokens(to_map(masks, size), tokens))
        return self.mask_head([*finer, to_map(pixels, size)]), tuple(samples)


class SimpleDecoder(nn.Module):
    """Pixel-word attention and LAVT's decoder in the place of `ImpactTokenDecoder` (table 2); same shapes."""

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.attention = PixelWordAttention(config, channels, channels, num_heads=1, norm="layer")
        self.decoder = LavtDecoder([channels] * 3, channels)

    def forward(self, fused: BtmaeFeatures) -> tuple[Tensor, tuple[ImpactTokens, ...]]:
        *finer, refined_map = fused.maps
        refined = to_tokens(refined_map)
        pixels = refined + self.attention(refined, fused.text_features, fused.text_mask)
        background, foreground = self.decoder([*finer, to_map(pixels, refined_map.shape[-2:])]).unbind(1)
        return foreground - background, ()


MASK_DECODERS: dict[str, type[nn.Module]] = {"impact_tokens": ImpactTokenDecoder, "simple": SimpleDecoder}


__all__ = ["MASK_DECODERS", "BtmaeFeatures", "ImpactSampling", "ImpactTokens"]
