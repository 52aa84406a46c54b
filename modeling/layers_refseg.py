"""Blocks that several methods share."""

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


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (batch, height * width, channels) as a map (batch, channels, height, width), in channels-last memory."""
    return tokens.view(tokens.shape[0], *size, tokens.shape[2]).permute(0, 3, 1, 2)


def resize_aligned(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of (batch, channels, height, width) with aligned corners, as the papers' decoders do."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
