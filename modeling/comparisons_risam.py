"""What RISAM is compared with: fusion modules of other methods, and another neck (tables 3, 6 and 11).

Of the other methods' modules the paper says what they attend to and not how they are built. They stand here in its own
frame, with the projections of equation 3, the residual sums and the layer normalization of equation 5, so that what
differs between two rows of the table is the attention.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamLayerNorm

from .configuration_risam import RisamConfig
from .layers_refseg import AttentionKernel, MultiHeadAttention, resize


class Unfused(nn.Module):
    """Pixels and words as they are, the words as wide as the pixels (table 11, SAM).

    `pixels` (batch, positions, channels), `text_features` (batch, tokens, text_channels), `text_mask` (batch, tokens),
    `size` (height, width) of the map; returns both with `hidden_size` channels.
    """

    def __init__(self, config: RisamConfig, text_channels: int) -> None:
        super().__init__()
        self.project_words = nn.Linear(text_channels, config.hidden_size)

    def forward(
        self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        return pixels, self.project_words(text_features)


class JointEncoderLayer(nn.Module):
    """A layer of a transformer encoder with its norms in front; `tokens` (batch, tokens, channels) and their mask."""

    def __init__(self, config: RisamConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = MultiHeadAttention(config)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        normalized = self.attention_norm(tokens)
        tokens = tokens + self.attention(normalized, normalized, mask)
        return tokens + self.mlp(self.mlp_norm(tokens))


class JointTransformerEncoder(nn.Module):
    """TE of ReSTR: one transformer encoder over pixels and words together (table 3, row 5); shapes as in `Unfused`."""

    def __init__(self, config: RisamConfig, text_channels: int) -> None:
        super().__init__()
        self.project_words = nn.Linear(text_channels, config.hidden_size)
        self.layers = nn.ModuleList(JointEncoderLayer(config) for _ in range(config.num_attention_blocks))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([pixels, self.project_words(text_features)], 1)
        mask = torch.cat([text_mask.new_ones(pixels.shape[:2]), text_mask], 1)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        pixels, words = self.norm(tokens).split([pixels.shape[1], text_features.shape[1]], 1)
        return pixels, words


class SpatialDynamicFusion(nn.Module):
    """SDF of VLT: each pixel has a sentence vector of its own (table 3, row 6), the words stay as they are.

    It is Vision-Guided Attention without the mask of equation 4: equations 3 and 5 of the pixels alone. Shapes as in
    `Unfused`; behind both the weights of words for each pixel, (batch, 1, positions, tokens).
    """

    def __init__(self, config: RisamConfig, text_channels: int) -> None:
        super().__init__()
        channels = config.hidden_size
        self.project_pixels = nn.Linear(channels, channels, bias=False)  # W_v
        self.project_words = nn.Linear(text_channels, channels, bias=False)  # W_l
        self.pixel_norm = nn.LayerNorm(channels)

    def forward(
        self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        z_v, z_l = self.project_pixels(pixels), self.project_words(text_features)
        weights = word_weights(z_v, z_l, text_mask)
        return self.pixel_norm(self.attend_to_pixels(weights @ z_l, z_v) + z_v), z_l, weights.unsqueeze(1)

    def attend_to_pixels(self, contexts: Tensor, z_v: Tensor) -> Tensor:
        """What is added to Z_v, of the linguistic context A Z_l of each pixel; both (batch, positions, channels)."""
        return contexts


class BidirectionalCrossModal(SpatialDynamicFusion):
    """BCM of BRINet: first vision guides language, then language guides vision, one after the other (table 3, row 7).

    The linguistic context of each pixel, which is that of `SpatialDynamicFusion`, asks all pixels in its turn. The
    words themselves stay as they are, as the serial design never hands them on.
    """

    def __init__(self, config: RisamConfig, text_channels: int) -> None:
        super().__init__(config, text_channels)
        self.project_contexts = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.kernel = AttentionKernel(config)

    def attend_to_pixels(self, contexts: Tensor, z_v: Tensor) -> Tensor:
        query, pixels = self.project_contexts(contexts).unsqueeze(1), z_v.unsqueeze(1)
        attended, _ = self.kernel(query, pixels, pixels, None, z_v.shape[-1] ** -0.5)
        return attended.squeeze(2) + contexts


def word_weights(z_v: Tensor, z_l: Tensor, text_mask: Tensor) -> Tensor:
    """A of equation 3 without its mask of relevance: of the words for each pixel, (batch, positions, tokens)."""
    scores = z_v @ z_l.transpose(1, 2) * z_v.shape[-1] ** -0.5
    return scores.masked_fill(text_mask.unsqueeze(1) == 0, -math.inf).softmax(-1)


class SimplePyramid(nn.Module):
    """ViT-Det's simple feature pyramid: maps of several scales from the last map of the encoder alone (table 6).

    One map (batch, channels, h, w) in; three of half, the same and twice its stride out, at its own size again, each
    (batch, hidden_size, h, w).
    """

    def __init__(self, channels: int, hidden_size: int) -> None:
        super().__init__()
        self.finer = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden_size, 1, bias=False),
                SamLayerNorm(hidden_size, data_format="channels_first"),
                nn.Conv2d(hidden_size, hidden_size, 3, padding=1, bias=False),
                SamLayerNorm(hidden_size, data_format="channels_first"),
            )
            for width in (channels // 2, channels, channels)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        scales = (self.finer(features), features, F.max_pool2d(features, 2, ceil_mode=True))
        size = tuple(features.shape[-2:])
        return tuple(
            resize(project(maps), size, align_corners=False)
            for project, maps in zip(self.project, scales, strict=True)
        )
