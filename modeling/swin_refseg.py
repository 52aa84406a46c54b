"""transformers' Swin transformer, cut into stages so that language can enter between them, on maps of any size."""

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.swin.modeling_swin import (
    SwinAttention,
    SwinLayer,
    SwinRelativePositionBias,
)
from transformers.utils import is_tracing

from .configuration_encoders_refseg import stage_widths
from .layers_refseg import eager_attention_forward, to_map
from .precision_refseg import at_least_float32

# Added to the scores of places that a shift brought together. That of the papers, -100, leaves weights of 1e-44, which
# count for nothing, but processors multiply numbers as small as these many times slower than others or zeros.
APART = -1000.0


class WindowGroup(NamedTuple):
    """Windows that hold equally many tokens of a map, once it is padded to whole windows, shifted and cut.

    Only tokens have queries, since nobody reads what padding asks for. As keys, all padded places of a window are one:
    their features are the same, so a single key with the logarithm of the sum of their exponential scores weighs as
    much as all of them.

    Args:
        places: (windows, area) the places of each window, those of tokens first.
        parts: the same of a shifted map; numbers that differ where the shift made neighbors of what is far apart.
        queries: (windows, tokens) the tokens that lie there.
        keys: the same; where windows hold padding one more, which is one past the last token of the map.
    """

    places: Tensor
    parts: Tensor | None
    queries: Tensor
    keys: Tensor


class WindowOrder(NamedTuple):
    """Where the tokens of a map lie in its windows.

    Args:
        groups: all windows.
        scatter: (tokens,) for each token, its place among the queries of all groups.
        is_padded: whether some windows hold padding.
    """

    groups: list[WindowGroup]
    scatter: Tensor
    is_padded: bool


class KeptScores(NamedTuple):
    """What `WindowScores` computed last, and what from."""

    order: WindowOrder
    table: Tensor
    scores: list[Tensor]

    def are_of(self, order: WindowOrder, table: Tensor) -> bool:
        return self.order is order and self.table.dtype == table.dtype and torch.equal(self.table, table)


class WindowScores(SwinRelativePositionBias):
    """What is added to the attention scores of windows: their relative position bias, `APART` between shifted parts.

    On a CPU it is kept, without gradients, for the last order seen. The table's values are compared, as nothing else
    tells of all changes: fused optimizers and `.data` leave no trace in the tensor. Elsewhere to compare would be to
    wait for the device, which takes longer than to compute it.
    """

    def __init__(self, num_heads: int, window_size: int) -> None:
        super().__init__(num_heads, (window_size, window_size))
        self.kept: KeptScores | None = None

    def forward(self, order: WindowOrder) -> list[Tensor]:
        """For each group of windows (1 or windows, heads, queries, keys)."""
        table = self.relative_position_bias_table
        if torch.is_grad_enabled() or is_tracing() or table.device.type != "cpu":
            return self.compute(order)
        # Read once: another thread may replace it at any time.
        kept = self.kept
        if kept is None or not kept.are_of(order, table):
            kept = KeptScores(order, table.clone(), self.compute(order))
            self.kept = kept
        return kept.scores

    def compute(self, order: WindowOrder) -> list[Tensor]:
        bias = super().forward()
        return [self.group_scores(bias, group) for group in order.groups]

    def group_scores(self, scores: Tensor, group: WindowGroup) -> Tensor:
        """Of the bias (1, heads, area, area) of whole windows that of a group, where the scores of padding are one."""
        tokens, area = group.queries.shape[1], self.window_area
        if tokens < area:
            places = group.places.unsqueeze(1)
            scores = scores.take_along_dim(places[:, :, :tokens, None], 2).take_along_dim(places[:, :, None], 3)
        if group.parts is not None:
            is_apart = group.parts[:, None, :tokens, None] != group.parts[:, None, None, :]
            scores = scores + is_apart.to(scores.dtype) * APART
        if tokens == area:
            return scores
        of_tokens, of_padding = scores.split([tokens, area - tokens], 3)
        # Half precision would be too coarse for a sum of many.
        summed = at_least_float32(of_padding).logsumexp(3, keepdim=True)
        return torch.cat([of_tokens, summed.to(scores.dtype)], 3)


class WindowAttention(SwinAttention):
    """Attention within windows.

    Queries, keys, values and results are projected token by token outside the windows, so that padding costs nothing.
    """

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int) -> None:
        super().__init__(config, dim, num_heads, config.window_size)
        self.relative_position_bias = WindowScores(num_heads, config.window_size)

    def forward(self, tokens: Tensor, order: WindowOrder) -> Tensor:
        """`tokens` (batch, tokens, channels); returns the same shape."""
        query, key, value = self.q_proj(tokens), self.k_proj(tokens), self.v_proj(tokens)
        if order.is_padded:
            # By itself: as one more row behind the tokens it makes float32 on a CPU a few percent slower.
            padding = torch.zeros_like(tokens[:, :1])
            key, value = (torch.cat(pair, 1) for pair in ((key, self.k_proj(padding)), (value, self.v_proj(padding))))
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        batch, _, channels = tokens.shape
        results = []
        for group, scores in zip(order.groups, self.relative_position_bias(order), strict=True):
            places = ((query, group.queries), (key, group.keys), (value, group.keys))
            windows = (self.split_windows(features, numbers) for features, numbers in places)
            if scores.shape[0] > 1:
                # Of a single image a view.
                scores = scores.expand(batch, *scores.shape).flatten(0, 1)
            attended, _ = attend(self, *windows, scores, dropout=dropout, scaling=self.scaling)
            results.append(attended.reshape(batch, -1, channels))
        return self.o_proj(torch.cat(results, 1).index_select(1, order.scatter))

    def split_windows(self, features: Tensor, numbers: Tensor) -> Tensor:
        """(batch, tokens, channels) as (batch * windows, heads, length, channels of a head); see `WindowGroup`."""
        windows = features.index_select(1, numbers.flatten())
        return windows.view(-1, numbers.shape[1], self.num_attention_heads, self.head_dim).transpose(1, 2)


class WindowLayer(SwinLayer):
    """A Swin layer that pads a map to whole windows, however small, and never shrinks window or shift.

    The order of tokens in windows depends on the map's size alone; it is kept for the last size seen.
    """

    def __init__(self, config: PreTrainedConfig, dim: int, num_heads: int, drop_path_rate: float, shift_size: int):
        super().__init__(config, dim, (0, 0), num_heads, drop_path_rate, shift_size)
        self.attention = WindowAttention(config, dim, num_heads)
        self.kept_order: tuple[tuple, WindowOrder] | None = None

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """`tokens` (batch, height * width, channels), `size` (height, width); returns the same shape."""
        # Under torch.jit.trace the sizes of tensors are tensors.
        height, width = (operator.index(length) for length in size)
        attended = self.attention(self.layernorm_before(tokens), self.window_order((height, width), tokens.device))
        tokens = tokens + self.drop_path(self.dropout(attended))
        return tokens + self.drop_path(self.dropout(self.mlp(self.layernorm_after(tokens))))

    def window_order(self, size: tuple[int, int], device: torch.device) -> WindowOrder:
        if is_tracing():
            return self.compute_window_order(size, device)
        wanted = (size, device)
        # Read once: another thread may replace it at any time.
        kept = self.kept_order
        if kept is None or kept[0] != wanted:
            # Tensors made in inference mode could not be used in training later.
            with torch.inference_mode(False):
                kept = (wanted, self.compute_window_order(size, device))
            self.kept_order = kept
        return kept[1]

    @torch.compiler.assume_constant_result
    def compute_window_order(self, size: tuple[int, int], device: torch.device) -> WindowOrder:
        """Computed without tensors, so that a graph holds the numbers and not the way to them."""
        height, width = size
        rows, columns = (np.arange(self.padded(length)) for length in size)
        is_token = (rows < height)[:, None] & (columns < width)
        number = np.where(is_token, rows[:, None] * width + columns, height * width)
        part = 2 * (rows < self.shift_size)[:, None] + (columns < self.shift_size)
        numbers, parts = (self.cut_windows(each) for each in (number, part))
        counts = [rows * columns for rows in self.tokens_along(height) for columns in self.tokens_along(width)]
        groups, queries = [], []
        for count in sorted(set(counts)):
            chosen = [index for index, each in enumerate(counts) if each == count]
            places = np.argsort(numbers[chosen] == height * width, axis=1, kind="stable")
            keys = np.take_along_axis(numbers[chosen], places, 1)[:, : count + 1]
            queries.append(keys[:, :count])
            ordered = (places, np.take_along_axis(parts[chosen], places, 1), queries[-1], keys)
            places, group_parts, *tokens = (torch.tensor(each, device=device) for each in ordered)
            groups.append(WindowGroup(places, group_parts if self.shift_size > 0 else None, *tokens))
        scatter = np.argsort(np.concatenate([each.flatten() for each in queries]))
        return WindowOrder(groups, torch.tensor(scatter, device=device), is_padded=min(counts) < self.window_size**2)

    def cut_windows(self, values: np.ndarray) -> np.ndarray:
        """Values of the places of a map, (rows, columns), shifted and cut into windows: (windows, area)."""
        shifted, window = np.roll(values, (-self.shift_size, -self.shift_size), (0, 1)), self.window_size
        windows = shifted.reshape(shifted.shape[0] // window, window, -1, window).swapaxes(1, 2)
        return windows.reshape(-1, window * window)

    def tokens_along(self, length: int) -> list[int]:
        """How many places of each window along an axis of this length hold tokens.

        Counted in plain numbers: the shapes of groups follow, which values of tensors could not give to a compiler.
        """
        padded = self.padded(length)
        is_token = [(place + self.shift_size) % padded < length for place in range(padded)]
        return [sum(is_token[start : start + self.window_size]) for start in range(0, padded, self.window_size)]

    def padded(self, length: int) -> int:
        """The length of whole windows."""
        return math.ceil(length / self.window_size) * self.window_size


def pad_to_patches(pixel_values: Tensor, patch: int) -> Tensor:
    """Images (batch, 3, height, width), below and to the right padded to multiples of so many pixels."""
    height, width = pixel_values.shape[-2:]
    return F.pad(pixel_values, (0, -width % patch, 0, -height % patch))


class StageParts(nn.Module):
    """The layers of a stage and the patch merging behind them, called one by one; named as in transformers."""

    def __init__(self, blocks: nn.ModuleList, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = downsample


class SwinStages(nn.Module):
    """transformers' Swin transformer, run stage by stage, without its final normalization.

    A fresh or pretrained `SwinModel` lies inside as `model`, so that its weights load and save as in transformers.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config, add_pooling_layer=False)
        self.model.layernorm = nn.Identity()
        first_layer = 0
        for index, stage in enumerate(list(self.model.encoder.layers)):
            blocks = nn.ModuleList(
                WindowLayer(
                    config,
                    dim=config.embed_dim * 2**index,
                    num_heads=config.num_heads[index],
                    # Stochastic depth grows linearly from the first layer of all to the last.
                    drop_path_rate=config.drop_path_rate * (first_layer + layer) / max(sum(config.depths) - 1, 1),
                    shift_size=config.window_size // 2 * (layer % 2),
                )
                for layer in range(config.depths[index])
            )
            self.model.encoder.layers[index] = StageParts(blocks, stage.downsample)
            first_layer += config.depths[index]

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `SwinModel` of the same configuration, all but its final norm."""
        weights = {name: value for name, value in pretrained.state_dict().items() if not name.startswith("layernorm.")}
        self.model.load_state_dict(weights)

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patch tokens (batch, height * width, channels) and their (height, width); odd sizes are padded.

        Absolute position embeddings are resized where the image has another size than the configuration says.
        """
        embeddings = self.model.embeddings
        if embeddings.position_embeddings is None:
            return embeddings(pixel_values)
        # transformers resizes them to whole patches alone.
        patch = embeddings.patch_size
        padded = pad_to_patches(pixel_values, patch)
        known = tuple(patch * length for length in embeddings.patch_grid)
        return embeddings(padded, interpolate_pos_encoding=tuple(padded.shape[-2:]) != known)

    def run_stage(self, index: int, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """The transformer layers of one stage; keeps the shape of `tokens`."""
        for layer in self.model.encoder.layers[index].blocks:
            tokens = layer(tokens, size)
        return tokens

    def merge(self, index: int, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Patch merging after a stage: half the size (rounded up), twice the channels."""
        height, width = size
        return self.model.encoder.layers[index].downsample(tokens, size), ((height + 1) // 2, (width + 1) // 2)

    def first_stage(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What images (batch, 3, height, width) are behind the first stage: tokens and their (height, width)."""
        tokens, size = self.embed(pixel_values)
        return self.run_stage(0, tokens, size), size

    def next_stage(self, index: int, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """What tokens from behind a stage are behind the next one, that of this index, and their (height, width)."""
        tokens, size = self.merge(index - 1, tokens, size)
        return self.run_stage(index, tokens, size), size


class SwinMaps(SwinStages):
    """transformers' Swin transformer; `forward` takes images (batch, 3, height, width), returns the maps of its last
    stages with channels first, finest first, without any normalization behind the stages.

    Args:
        config: its configuration.
        last_stages: how many stages, counted from the last, give a map.
    """

    def __init__(self, config: PreTrainedConfig, last_stages: int) -> None:
        super().__init__(config)
        self.last_stages = last_stages
        self.widths = stage_widths(config)[-last_stages:]

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        tokens, size = self.first_stage(pixel_values)
        maps = [to_map(tokens, size)]
        for index in range(1, len(self.model.encoder.layers)):
            tokens, size = self.next_stage(index, tokens, size)
            maps.append(to_map(tokens, size))
        return maps[-self.last_stages :]
