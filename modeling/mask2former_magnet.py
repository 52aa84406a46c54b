"""Mask2Former's head as MagNet has it: its pixel decoder over all stages, and its masked-attention decoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerPreTrainedModel
from transformers import initialization as init
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    Mask2FormerTransformerModule,
)

from .layers_refseg import eager_attention_forward


class PixelDecoderLayer(Mask2FormerPixelDecoderEncoderLayer):
    """Mask2Former's layer without dropout, and without its look in training at whether all values are finite.

    No graph could hold that; and it finds nothing that it could mend, behind a layer norm.
    """

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, output_attentions: bool = False, **places: Any
    ) -> tuple[Tensor, ...]:
        attended, weights = self.self_attn(
            hidden_states=hidden_states,
            attention_mask=attention_mask,
            encoder_hidden_states=hidden_states,
            encoder_attention_mask=attention_mask,
            output_attentions=output_attentions,
            **places,
        )
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        changed = self.fc2(self.activation_fn(self.fc1(hidden_states)))
        outputs = (self.final_layer_norm(hidden_states + changed),)
        return (*outputs, weights.transpose(1, 0)) if output_attentions else outputs


class PixelDecoder(Mask2FormerPixelDecoder):
    """Mask2Former's pixel decoder, its deformable attention over the last `levels` stages instead of three.

    With three of four stages, a configuration with `common_stride=4` joins the first one as Mask2Former does.
    """

    def __init__(self, config: Mask2FormerConfig, widths: list[int], levels: int) -> None:
        super().__init__(config, widths)
        size, self.num_feature_levels = config.feature_size, levels
        self.level_embed = nn.Parameter(torch.empty(levels, size))
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, size, 1), nn.GroupNorm(32, size)) for width in widths[: -levels - 1 : -1]
        )
        self.encoder.layers = nn.ModuleList(PixelDecoderLayer(config) for _ in self.encoder.layers)
        for layer in self.encoder.layers:
            layer.self_attn = Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(
                size, config.num_attention_heads, n_levels=levels, n_points=4
            )


class MaskedCrossAttention(nn.MultiheadAttention):
    """PyTorch's multi-head attention with its parts called, where PyTorch reads the weight of one past its forward.

    A weight may lie on disk or on other devices until its module is called. `query`, `key` and `value` are (positions,
    batch, channels), `attn_mask` (batch * heads, queries, keys) True = not attended to. Returns the shape of `query`.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, key_padding_mask: None = None
    ) -> tuple[Tensor, None]:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(features, weight, bias).unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3)
            for features, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        is_attended = ~attn_mask.unflatten(0, (-1, self.num_heads))
        dropout = self.dropout if self.training else 0.0
        attended, _ = eager_attention_forward(self, query, key, value, is_attended, self.head_dim**-0.5, dropout)
        return self.out_proj(attended.flatten(2).transpose(0, 1)), None


class MaskDecoderLayer(Mask2FormerMaskedAttentionDecoderLayer):
    """Mask2Former's layer, called with the features of its own level alone, where Mask2Former hands over all levels.

    Reentrant checkpointing follows tensors, not lists of them.
    """

    def forward(
        self, queries: Tensor, positions: Tensor, query_positions: Tensor, features: Tensor, is_hidden: Tensor
    ) -> Tensor:
        of_level = ([positions], query_positions, [features])
        return super().forward(queries, 0, None, *of_level, encoder_attention_mask=is_hidden)[0]


class MaskDecoder(Mask2FormerTransformerModule):
    """Mask2Former's masked-attention decoder, its embeddings called, where Mask2Former reads their weights.

    `multi_scale_features`: maps (batch, channels, height, width), coarsest first; `mask_features` the same, at the
    size of the masks. Returns the mask logits (batch, queries, height, width) before the first layer and after each.

    Its layers are called here: none is ever left out, for which some versions of transformers draw random numbers
    even in evaluation.
    """

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config.feature_size, config)
        self.decoder.layers = nn.ModuleList(MaskDecoderLayer(config) for _ in self.decoder.layers)
        for layer in self.decoder.layers:
            layer.cross_attn = MaskedCrossAttention(config.hidden_dim, config.num_attention_heads, config.dropout)

    def forward(self, multi_scale_features: list[Tensor], mask_features: Tensor) -> tuple[Tensor, ...]:
        device, batch = mask_features.device, mask_features.shape[0]
        levels = self.level_embed(torch.arange(self.num_feature_levels, device=device))
        queries = torch.arange(self.queries_features.num_embeddings, device=device)[:, None].expand(-1, batch)
        features, positions = [], []
        for maps, project, level in zip(multi_scale_features, self.input_projections, levels, strict=True):
            features.append((project(maps).flatten(2) + level[:, None]).permute(2, 0, 1))
            places = self.position_embedder(maps.shape, maps.device, maps.dtype, None)
            positions.append(places.flatten(2).permute(2, 0, 1))
        sizes = [maps.shape[-2:] for maps in multi_scale_features]
        states, query_positions = self.queries_features(queries), self.queries_embedder(queries)
        logits, is_hidden = self._predict(states, mask_features, sizes[0])
        masks = [logits]
        for number, layer in enumerate(self.decoder.layers):
            level, following = number % len(sizes), (number + 1) % len(sizes)
            states = layer(states, positions[level], query_positions, features[level], is_hidden)
            logits, is_hidden = self._predict(states, mask_features, sizes[following])
            masks.append(logits)
        return tuple(masks)

    def _predict(self, states: Tensor, mask_features: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Mask logits, and (batch * heads, queries, positions) where the queries of the next layer do not look."""
        logits, is_hidden = self.decoder.mask_predictor(self.decoder.layernorm(states), mask_features, size)
        # A query whose mask is empty looks everywhere.
        return logits, is_hidden & ~is_hidden.all(-1, keepdim=True)


class MaskHead(Mask2FormerPreTrainedModel):
    """Mask2Former's pixel decoder and its masked-attention decoder, which are called one by one."""

    def __init__(self, config: Mask2FormerConfig, widths: list[int], pixel_decoder_levels: int) -> None:
        super().__init__(config)
        self.pixel_decoder = PixelDecoder(config, widths, pixel_decoder_levels)
        self.transformer = MaskDecoder(config)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Mask2Former's attention has one kernel."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialization of layers; queries, levels and deformable attention start as in Mask2Former.

        Not by all versions of transformers: some start queries with small values, and levels with none.
        """
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            module.reset_parameters()
        elif isinstance(module, PixelDecoder):
            init.normal_(module.level_embed)
            # In custom code transformers passes over modules that hold no parameter themselves.
            for layer in module.encoder.layers:
                super()._init_weights(layer.self_attn)
        else:
            super()._init_weights(module)


__all__ = ["MaskHead"]
