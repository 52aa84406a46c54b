"""Mask2Former's head as MagNet has it: its pixel decoder over all stages, and its masked-attention decoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerPreTrainedModel
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerMaskedAttentionDecoderOutput,
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

    def __call__(
        self,
        hidden_states: Tensor,
        level: int,
        attention_mask: Tensor | None,
        positions: list[Tensor],
        query_positions: Tensor,
        features: list[Tensor],
        **options: Any,
    ) -> tuple[Tensor, ...]:
        of_level = (positions[level], query_positions, features[level])
        return super().__call__(hidden_states, attention_mask, *of_level, **options)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor,
        query_positions: Tensor,
        features: Tensor,
        **options: Any,
    ) -> tuple[Tensor, ...]:
        return super().forward(hidden_states, 0, attention_mask, [positions], query_positions, [features], **options)


class MaskDecoder(Mask2FormerTransformerModule):
    """Mask2Former's masked-attention decoder, its embeddings called, where Mask2Former reads their weights.

    `multi_scale_features`: maps (batch, channels, height, width), coarsest first; `mask_features` the same, at the
    size of the masks. Returns the output of Mask2Former's decoder.
    """

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config.feature_size, config)
        self.decoder.layers = nn.ModuleList(MaskDecoderLayer(config) for _ in self.decoder.layers)
        for layer in self.decoder.layers:
            layer.cross_attn = MaskedCrossAttention(config.hidden_dim, config.num_attention_heads, config.dropout)

    def forward(
        self, multi_scale_features: list[Tensor], mask_features: Tensor
    ) -> Mask2FormerMaskedAttentionDecoderOutput:
        device, batch = mask_features.device, mask_features.shape[0]
        levels = self.level_embed(torch.arange(self.num_feature_levels, device=device))
        queries = torch.arange(self.queries_features.num_embeddings, device=device)[:, None].expand(-1, batch)
        features, positions = [], []
        for maps, project, level in zip(multi_scale_features, self.input_projections, levels, strict=True):
            features.append((project(maps).flatten(2) + level[:, None]).permute(2, 0, 1))
            places = self.position_embedder(maps.shape, maps.device, maps.dtype, None)
            positions.append(places.flatten(2).permute(2, 0, 1))
        return self.decoder(
            inputs_embeds=self.queries_features(queries),
            multi_stage_positional_embeddings=positions,
            pixel_embeddings=mask_features,
            encoder_hidden_states=features,
            query_position_embeddings=self.queries_embedder(queries),
            feature_size_list=[maps.shape[-2:] for maps in multi_scale_features],
            return_dict=True,
        )


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
        """PyTorch's own initialization of layers; queries, levels and deformable attention start as in Mask2Former."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
        else:
            super()._init_weights(module)
        if isinstance(module, PixelDecoder):
            # In custom code transformers passes over modules that hold no parameter themselves.
            for layer in module.encoder.layers:
                super()._init_weights(layer.self_attn)


__all__ = ["MaskHead"]
