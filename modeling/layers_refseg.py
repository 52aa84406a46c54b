"""Blocks that several methods share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """A channels-first normalization (instance, batch) for features with the channels last.

    `features` (batch, positions, channels); returns the same shape.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.transpose(1, 2)).transpose(1, 2)


def build_fusion_norm(kind: str, channels: int) -> nn.Module:
    """A normalization for features with the channels last: "instance", "batch", "layer" or "none"."""
    norms = {
        "instance": lambda: PixelNorm(nn.InstanceNorm1d(channels)),
        "batch": lambda: PixelNorm(nn.BatchNorm1d(channels)),
        "layer": lambda: nn.LayerNorm(channels),
        "none": nn.Identity,
    }
    return norms[kind]()


class PixelWordAttention(nn.Module):
    """For every pixel, the words that matter to it: the language maps (LAVT, section 3.1.2, equations 1 to 5).

    Shapes: `pixels` (batch, positions, channels), `words` (batch, tokens, text_channels), `word_mask` (batch, tokens)
    with 1 = word. Returns (batch, positions, channels).
    """

    def __init__(self, channels: int, text_channels: int, num_heads: int, norm: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.query_norm = build_fusion_norm(norm, channels)
        self.key = nn.Linear(text_channels, channels)
        self.value = nn.Linear(text_channels, channels)
        self.output = nn.Linear(channels, channels)
        self.output_norm = build_fusion_norm(norm, channels)

    def forward(self, pixels: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        query = self.query_norm(self.query(pixels))  # equation 1
        key = self.key(words) * word_mask.unsqueeze(-1)  # equation 2
        value = self.value(words) * word_mask.unsqueeze(-1)  # equation 3
        added_scores = (1e4 * word_mask - 1e4)[:, None, None, :]
        # The scale is that of all channels, also with several heads.
        attended = F.scaled_dot_product_attention(
            *(self.split_heads(features) for features in (query, key, value)),
            attn_mask=added_scores,
            scale=pixels.shape[-1] ** -0.5,
        )  # equation 4
        return self.output_norm(self.output(attended.transpose(1, 2).flatten(2)))  # equation 5

    def split_heads(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class GateProjection(nn.Linear):
    """A linear layer without bias; a class of its own, since it starts from other values than linear layers do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, bias=False)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (batch, height * width, channels) as a map (batch, channels, height, width), in channels-last memory."""
    return tokens.view(tokens.shape[0], *size, tokens.shape[2]).permute(0, 3, 1, 2)


def resize_aligned(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of (batch, channels, height, width) with aligned corners, as the papers' decoders do."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def resize_free(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of (batch, channels, height, width) without aligned corners, as SAM does."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def mean_word(words: Tensor, word_mask: Tensor) -> Tensor:
    """The mean over the words of a sentence, (batch, channels), from (batch, tokens, channels) and (batch, tokens)."""
    weights = word_mask / word_mask.sum(1, keepdim=True).clamp(min=1)
    return (words * weights.unsqueeze(-1)).sum(1)


def sinusoidal_positions(features: Tensor) -> Tensor:
    """Sines and cosines of the positions along the second axis of (batch, positions, channels): (positions, channels).

    The channels are even in number; device and type are those of `features`.
    """
    positions, channels = features.shape[1:]
    steps = torch.arange(0, channels, 2, device=features.device)
    angles = torch.arange(positions, device=features.device)[:, None] * torch.exp(steps * (-math.log(1e4) / channels))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(features.dtype)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of several heads, with a projection for query, key, value and result each.

    `query` (batch, queries, channels), `memory` (batch, keys, channels), `memory_mask` (batch, keys) with 1 = attend;
    returns (batch, queries, channels). Every memory needs one key at least that is attended.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        projected = (self.query(query), self.key(memory), self.value(memory))
        mask = None if memory_mask is None else (memory_mask != 0)[:, None, None, :]
        attended = F.scaled_dot_product_attention(*(self.split_heads(part) for part in projected), attn_mask=mask)
        return self.output(attended.transpose(1, 2).flatten(2))

    def split_heads(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
