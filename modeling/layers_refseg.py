"""Blocks that several methods share."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .precision_refseg import at_least_float32

GOLDEN_RATIO = (1 + 5**0.5) / 2


class PixelNorm(nn.Module):
    """A channels-first normalization (instance, batch) for features with the channels last.

    `features` (batch, ..., channels); returns the same shape. Raises ValueError where there is a single value for each
    channel, which has no statistics: a map of one pixel with instance normalization, or with batch normalization in
    training with a batch of one.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        positions = features.flatten(1, -2).transpose(1, 2)
        batch, _, length = positions.shape
        # Processes that share their batch statistics have more values than these.
        is_lone = batch == 1 and self.training and isinstance(self.norm, nn.BatchNorm1d)
        if length == 1 and (is_lone or isinstance(self.norm, nn.InstanceNorm1d)):
            raise ValueError(
                f"{type(self.norm).__name__}: a map of one pixel has no statistics. Pass larger images, or choose the "
                'normalization "layer" (`fusion_norm` of LAVT).'
            )
        return self.norm(positions).transpose(1, 2).view(features.shape)


class TokenBatchNorm(nn.Module):
    """Batch normalization of the features of tokens; padding has no part in the statistics.

    `features` (batch, tokens, channels), `mask` (batch, tokens) with 1 = token; returns the same shape. In training
    padding becomes 0, and a batch of one token, which has no statistics, takes those of evaluation mode.

    Tokens are weighted, not picked: no shape hangs on the values of the mask, so that training can be one graph.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        if not self.norm.training:
            return self.norm(features.transpose(1, 2)).transpose(1, 2)
        is_token = (mask != 0).unsqueeze(-1)
        if isinstance(self.norm, nn.BatchNorm1d):
            return self.normalize(features, is_token)
        # Only the norm itself knows how processes share their statistics.
        return torch.zeros_like(features).masked_scatter(is_token, self.norm(features[is_token.squeeze(-1)]))

    def normalize(self, features: Tensor, is_token: Tensor) -> Tensor:
        """Batch normalization in training; `is_token` (batch, tokens, 1) bool."""
        norm, values = self.norm, at_least_float32(features).masked_fill(~is_token, 0)
        count = is_token.sum()
        is_lone = count == 1
        mean = values.sum((0, 1)) / count
        variance = ((values - mean).square() * is_token).sum((0, 1)) / count
        centers = torch.where(is_lone, norm.running_mean, mean)
        spreads = torch.where(is_lone, norm.running_var, variance)
        with torch.no_grad():
            momentum = norm.momentum * (~is_lone).to(norm.running_mean.dtype)
            unbiased = variance * count / (count - 1).clamp(min=1)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
            norm.num_batches_tracked.add_(~is_lone)
        normalized = (values - centers) * torch.rsqrt(spreads + norm.eps) * norm.weight + norm.bias
        return normalized.masked_fill(~is_token, 0).to(features.dtype)


def build_fusion_norm(kind: str, channels: int) -> nn.Module:
    """A normalization for features with the channels last: "instance", "batch", "layer" or "none"."""
    norms = {
        "instance": lambda: PixelNorm(nn.InstanceNorm1d(channels)),
        "batch": lambda: PixelNorm(nn.BatchNorm1d(channels)),
        "layer": lambda: nn.LayerNorm(channels),
        "none": nn.Identity,
    }
    return norms[kind]()


def ordinary_words(input_ids: Tensor, text_mask: Tensor | None, special_token_ids: Sequence[int]) -> Tensor:
    """Which tokens (batch, tokens) are neither special ones nor padding, bool; without a mask none is padding."""
    special = torch.tensor(special_token_ids, dtype=input_ids.dtype, device=input_ids.device)
    is_word = ~torch.isin(input_ids, special)
    return is_word if text_mask is None else is_word & (text_mask != 0)


def generator_of_draws(training: bool, device: torch.device | str = "cpu") -> torch.Generator | None:
    """None in training, where draws are torch's own; in evaluation mode draws are the same each time."""
    return None if training else torch.Generator(device).manual_seed(0)


def independent_draws(places: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers in [0, 1), one for each of `places`, of any shape and type, on its device.

    `generator`, one on the CPU, gives the same numbers each time. Without one they are torch's own, which a run that
    resumes brings back, moved on by the rank of the process: processes of one training start from the same seed, and
    would mask the same places.
    """
    if generator is not None:
        return torch.rand(places.shape, generator=generator).to(places.device)
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    # Multiples of the golden ratio lie far apart on the circle, however many they are.
    return (torch.rand(places.shape, device=places.device) + rank * GOLDEN_RATIO % 1) % 1


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention without a fused kernel, as transformers' interface wants it: the result, and the weights.

    `attention_mask` is True = attend, or is added to the scores.
    """
    # There are fewer queries than scores to scale; keys that lie in order need no copy in columns for the product.
    scores = (query * scaling) @ key.contiguous().transpose(-1, -2)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = F.dropout(scores.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class AttentionKernel(nn.Module):
    """Attention by the kernel that the configuration names, without projections.

    A module of its own, so that what it returns can be recorded. Takes `query` (batch, heads, queries, channels of a
    head), `key` and `value` (batch, heads, keys, channels), and a mask that is True = attend, or is added to the
    scores. Returns (batch, queries, heads, channels), and the weights (batch, heads, queries, keys): None unless the
    configuration's `attn_implementation` is "eager".
    """

    is_causal = False

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor | None]:
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return attend(self, query, key, value, attention_mask, scaling=scaling)


def split_heads(features: Tensor, num_heads: int) -> Tensor:
    """Features (batch, positions, channels) as those of heads, (batch, heads, positions, channels / heads)."""
    return features.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class PixelWordAttention(nn.Module):
    """For every pixel, the words that matter to it: the language maps G_i (LAVT, section 3.1.2, equations 1 to 5).

    Shapes: `pixels` V_i (batch, ..., channels), `text_features` L (batch, tokens, text_channels), `text_mask` (batch,
    tokens) with 1 = word. Returns (batch, ..., hidden_size), which is that of `pixels` unless a number is given. The
    configuration says which kernel computes the attention.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        channels: int,
        text_channels: int,
        num_heads: int,
        norm: str,
        hidden_size: int | None = None,
    ) -> None:
        super().__init__()
        width = channels if hidden_size is None else hidden_size
        self.kernel = AttentionKernel(config)
        self.num_heads = num_heads
        self.query = nn.Linear(channels, width)  # omega_q, with the normalization behind it
        self.query_norm = build_fusion_norm(norm, width)
        self.key = nn.Linear(text_channels, width)  # omega_k
        self.value = nn.Linear(text_channels, width)  # omega_v
        self.output = nn.Linear(width, width)  # omega_w, with the normalization behind it
        self.output_norm = build_fusion_norm(norm, width)

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        query = self.query_norm(self.query(pixels)).flatten(1, -2)  # equation 1
        key = self.key(text_features) * text_mask.unsqueeze(-1)  # equation 2
        value = self.value(text_features) * text_mask.unsqueeze(-1)  # equation 3
        of_heads = (split_heads(features, self.num_heads) for features in (query, key, value))
        added_scores = (1e4 * text_mask - 1e4)[:, None, None, :]
        # The scale is that of all channels, also with several heads.
        attended, _ = self.kernel(*of_heads, added_scores, query.shape[-1] ** -0.5)  # equation 4
        return self.output_norm(self.output(attended.reshape(*pixels.shape[:-1], -1)))  # equation 5


class CrossModalAttention(nn.Module):
    """One direction of cross-attention between words and image: features times what they attend to on the other side.

    (MagNet, equation 7.) Shapes: `features` (batch, positions, channels), `others` (batch, other_positions,
    other_channels), `other_mask` (batch, other_positions) with 1 = attend. Returns (batch, positions, channels).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        channels: int,
        other_channels: int,
        norm: str = "layer",
        activation: type[nn.Module] = nn.GELU,
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        self.attention = PixelWordAttention(config, channels, other_channels, num_heads=num_heads, norm=norm)
        self.project_features = nn.Sequential(nn.Linear(channels, channels), activation())
        self.project_fused = nn.Sequential(nn.Linear(channels, channels), activation())

    def forward(self, features: Tensor, others: Tensor, other_mask: Tensor) -> Tensor:
        return self.project_fused(self.project_features(features) * self.attention(features, others, other_mask))


class VocabularyHead(nn.Linear):
    """A linear layer with an output for each word; a class of its own, since it is resized with the vocabulary."""


class GateProjection(nn.Linear):
    """A linear layer without bias; a class of its own, since it starts from other values than linear layers do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, bias=False)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (batch, height * width, channels) as a map (batch, channels, height, width), in channels-last memory."""
    return tokens.view(tokens.shape[0], *size, tokens.shape[2]).permute(0, 3, 1, 2)


def to_tokens(maps: Tensor) -> Tensor:
    """Maps (batch, channels, height, width) as tokens (batch, height * width, channels).

    Of clips, (batch, frames, channels, height, width), the tokens of all frames.
    """
    return maps.movedim(-3, -1).flatten(1, -2)


def resize(maps: Tensor, size: tuple[int, ...], *, align_corners: bool) -> Tensor:
    """Bilinear resizing of (batch, channels, height, width) to a height and width.

    Corners are aligned in the papers' decoders, and not in SAM's.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return _DenseGradient.apply(F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners))


class _DenseGradient(torch.autograd.Function):
    """The same maps, whose gradient goes on as one block of memory.

    Where maps are joined along their channels, the gradient of each is a slice, on which PyTorch's bilinear resizing
    takes ten times as long.
    """

    @staticmethod
    def forward(context: Any, maps: Tensor) -> Tensor:
        return maps.view_as(maps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        is_channels_last = gradient.stride(1) == 1
        return gradient.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)


def pixel_centers(height: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The places (x, y) of the pixels of an image, row by row, (height * width, 2), in [0, 1].

    They are computed in `dtype`, in float32 where that is a shorter format.
    """
    precise = torch.promote_types(dtype, torch.float32)
    rows, columns = ((torch.arange(length, device=device, dtype=precise) + 0.5) / length for length in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """The mean of features (batch, positions, channels) where `mask` (batch, positions) is 1, (batch, channels)."""
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return (features * weights.unsqueeze(-1)).sum(1)


def sinusoidal_positions(features: Tensor) -> Tensor:
    """Sines and cosines of the positions along the second axis of (batch, positions, channels): (positions, channels).

    The channels are even in number; device and type are those of `features`.
    """
    positions, channels = features.shape[1:]
    precise = torch.promote_types(features.dtype, torch.float32)
    steps = torch.arange(0, channels, 2, device=features.device, dtype=precise)
    angles = torch.arange(positions, device=features.device)[:, None] * torch.exp(steps * (-math.log(1e4) / channels))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(features.dtype)


def map_positions(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Sines and cosines of the rows, then of the columns, of the tokens of a map.

    `tokens` (batch, positions, channels), whose channels are a multiple of 4; returns (positions, channels).
    """
    height, width = size
    half = tokens.shape[2] // 2
    rows, columns = (sinusoidal_positions(tokens[:1, :length, :half]) for length in size)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)], -1).flatten(0, 1)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of several heads, with a projection for query, key, value and result each.

    (RISAM, equation 7, in each head.)

    The configuration says how many channels and heads (`hidden_size`, `num_attention_heads`), and which kernel.
    `query` (batch, queries, channels), `memory` (batch, keys, channels), `memory_mask` (batch, keys) with 1 = attend;
    returns (batch, queries, channels). Every memory needs one key at least that is attended.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.kernel = AttentionKernel(config)
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        projected = (self.query(query), self.key(memory), self.value(memory))
        query, key, value = (split_heads(features, self.num_heads) for features in projected)
        mask = None if memory_mask is None else (memory_mask != 0)[:, None, None, :]
        attended, _ = self.kernel(query, key, value, mask, query.shape[-1] ** -0.5)
        return self.output(attended.flatten(2))


class DecoderStep(nn.Module):
    """rho_i: joins the coarser map Y_{i+1} with the features of a stage to Y_i (LAVT, section 3.1.4, equation 10).

    Both, and the result, are maps (batch, channels, height, width), or those of clips (batch, frames, channels,
    height, width), whose frames are joined one by one. As in released weights, a normalization and a ReLU stand behind
    the second convolution as well; the paper has them between the two alone.
    """

    def __init__(self, coarse_channels: int, channels: int, hidden_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(coarse_channels + channels, hidden_size, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden_size)
        self.conv2 = nn.Conv2d(hidden_size, hidden_size, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden_size)

    def forward(self, coarse: Tensor, features: Tensor) -> Tensor:
        images, frames = features.flatten(0, -4), features.shape[:-3]
        maps = torch.cat([resize(coarse.flatten(0, -4), images.shape[-2:], align_corners=True), images], 1)
        maps = F.relu(self.norm1(self.conv1(maps)), inplace=True)
        return F.relu(self.norm2(self.conv2(maps)), inplace=True).unflatten(0, frames)


class MaskClassifier(nn.Conv2d):
    """The 1x1 convolution from maps to logits: one map of them, or one of the background and one of the foreground."""

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__(channels, maps, 1)


class MaskBias(nn.Module):
    """A number that is added to all logits, for masks that are products and have no bias of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.bias


def build_mask_bias(mask_prior: float | None) -> nn.Module:
    """What makes logits of products start at a prior; without one they stay as they are."""
    return nn.Identity() if mask_prior is None else MaskBias()


def start_at_prior(module: nn.Module, mask_prior: float) -> None:
    """Sets the bias of a new `MaskClassifier` or `MaskBias` so that logits of 0 mean this foreground probability."""
    log_odds = math.log(mask_prior / (1 - mask_prior))
    if isinstance(module, MaskClassifier) and module.out_channels == 2:
        init.copy_(module.bias, torch.tensor([-log_odds / 2, log_odds / 2]))
    elif isinstance(module, MaskClassifier | MaskBias):
        init.constant_(module.bias, log_odds)


class LavtDecoder(nn.Module):
    """From the features of the stages, finest first, to background and foreground maps (LAVT, equation 10).

    `features`: maps as in `DecoderStep`. Returns (images, 2, height, width) at the finest map's size, where the frames
    of all clips are images in a row.
    Raises ValueError for less than two stages.
    """

    def __init__(self, widths: list[int], hidden_size: int) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(
                f"The decoder joins two stages at least, the configuration leaves it {len(widths)}: add a stage to "
                'backbone_config, or let it read all of them (decoder_features="F").'
            )
        coarse_to_fine = widths[::-1]
        coarse_widths = [coarse_to_fine[0]] + [hidden_size] * (len(widths) - 2)
        self.steps = nn.ModuleList(
            DecoderStep(coarse, width, hidden_size)
            for coarse, width in zip(coarse_widths, coarse_to_fine[1:], strict=True)
        )
        self.classifier = MaskClassifier(hidden_size, 2)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.join(features))

    def join(self, features: list[Tensor]) -> Tensor:
        """Y_1, (images, channels, height, width), which the classifier reads; args and images as of `forward`."""
        *finer, maps = features  # Y_4 = F_4
        for step, skip in zip(self.steps, reversed(finer), strict=True):
            maps = step(maps, skip)  # Y_i, equation 10
        return maps.flatten(0, -4)
