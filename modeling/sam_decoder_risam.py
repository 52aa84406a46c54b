"""SAM's own mask decoder in the place of RISAM's: with the words as its prompts, or with the mean word alone."""

import torch
from torch import Tensor, nn
from transformers import SamMaskDecoderConfig, SamModel
from transformers.models.sam.configuration_sam import SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding, SamTwoWayAttentionBlock

from .configuration_risam import RisamConfig
from .layers_refseg import masked_mean, pixel_centers
from .pretrained_refseg import read_encoder_config
from .saved_files_refseg import naming_damage

# What makes two mask decoders of SAM the same one but for their weights.
SHAPE = (
    "hidden_size",
    "num_attention_heads",
    "mlp_dim",
    "num_hidden_layers",
    "attention_downsample_rate",
    "num_multimask_outputs",
)


def build_sam_decoder(config: RisamConfig, num_multimask_outputs: int) -> SamMaskDecoder:
    """transformers' mask decoder of SAM, without the head that judges its masks."""
    decoder = SamMaskDecoder(
        SamMaskDecoderConfig(
            hidden_size=config.hidden_size,
            mlp_dim=8 * config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_multimask_outputs=num_multimask_outputs,
            attn_implementation=config._attn_implementation,
        )
    )
    decoder.iou_prediction_head = nn.Identity()
    return decoder


class SamDecoder(nn.Module):
    """SAM's mask decoder with one output token and the mean word as its prompt.

    `pixels` (batch, channels, h, w), `text_features` (batch, tokens, channels), `text_mask` (batch, tokens); returns
    logits (batch, 4 h, 4 w).
    """

    def __init__(self, config: RisamConfig) -> None:
        super().__init__()
        self.decoder = build_sam_decoder(config, num_multimask_outputs=0)
        positions = SamVisionConfig(num_pos_feats=config.hidden_size // 2)
        # SAM's own; the configuration's is meant for weights that are loaded over it.
        positions.scale = 1.0
        self.positions = SamPositionalEmbedding(positions)

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        masks, _ = self.decoder(
            image_embeddings=pixels,
            image_positional_embeddings=self.image_positions(pixels),
            sparse_prompt_embeddings=masked_mean(text_features, text_mask)[:, None, None],
            dense_prompt_embeddings=pixels.new_zeros(1),
            multimask_output=False,
        )
        return masks[:, 0, 0]

    def image_positions(self, pixels: Tensor) -> Tensor:
        """Position of each pixel's center, (batch, channels, h, w)."""
        height, width = pixels.shape[-2:]
        grid = pixel_centers(height, width, pixels.device, pixels.dtype).unflatten(0, (height, width)).to(pixels.dtype)
        return self.positions(grid).permute(2, 0, 1).expand_as(pixels)


class MaskedTwoWayBlock(SamTwoWayAttentionBlock):
    """SAM's two-way block, where nothing attends to the tokens that are masked out.

    SAM knows no padding among its prompts, so transformers' block masks the pixels alone; here `attention_similarity`,
    (batch, 1, 1, tokens), is added to the scores of tokens. Shapes as in transformers.
    """

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_point_embedding: Tensor,
        key_point_embedding: Tensor,
        attention_similarity: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        places, pixel_places, mask = query_point_embedding, key_point_embedding, attention_similarity
        if self.skip_first_layer_pe:
            tokens, _ = self.self_attn(queries, queries, queries, attention_similarity=mask)
        else:
            placed = queries + places
            attended, _ = self.self_attn(placed, placed, queries, attention_similarity=mask)
            tokens = queries + attended
        tokens = self.layer_norm1(tokens)
        attended, _ = self.cross_attn_token_to_image(tokens + places, keys + pixel_places, keys)
        tokens = self.layer_norm2(tokens + attended)
        tokens = self.layer_norm3(tokens + self.mlp(tokens))
        attended, _ = self.cross_attn_image_to_token(
            keys + pixel_places, tokens + places, tokens, attention_similarity=mask
        )
        return tokens, self.layer_norm4(keys + attended), attended


class UnreadMaskHead(nn.Module):
    """Stands for the head of an output token whose mask nobody reads: as many channels, and nothing to train."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[..., : self.channels]


class WordPromptedSamDecoder(SamDecoder):
    """SAM's mask decoder as it is pretrained, whose prompts are the words; shapes as in `SamDecoder`.

    All of SAM's output tokens are there, since they attend to each other; the mask is that of the first, which SAM
    gives where a single one is asked for. What SAM's prompt encoder says of places and of an absent mask is not
    trained.
    """

    def __init__(self, config: RisamConfig) -> None:
        super().__init__(config)
        channels = config.hidden_size
        self.decoder = build_sam_decoder(config, SamMaskDecoderConfig().num_multimask_outputs)
        transformer, heads = self.decoder.transformer, self.decoder.output_hypernetworks_mlps
        transformer.layers = nn.ModuleList(
            MaskedTwoWayBlock(self.decoder.config, skip_first_layer_pe=layer.skip_first_layer_pe)
            for layer in transformer.layers
        )
        for index in range(1, len(heads)):
            heads[index] = UnreadMaskHead(channels // 8)
        frequencies = self.positions.positional_embedding.detach()
        del self.positions.positional_embedding
        self.positions.register_buffer("positional_embedding", frequencies)
        self.register_buffer("no_mask", torch.zeros(channels))

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        output_mask = text_mask.new_ones(text_mask.shape[0], 1 + self.decoder.num_mask_tokens)
        is_token = torch.cat([output_mask, text_mask], 1)[:, None, None] != 0
        scores = torch.zeros_like(is_token, dtype=pixels.dtype)
        masks, _ = self.decoder(
            image_embeddings=pixels,
            image_positional_embeddings=self.image_positions(pixels),
            sparse_prompt_embeddings=text_features.unsqueeze(1),
            dense_prompt_embeddings=self.no_mask[:, None, None],
            multimask_output=False,
            attention_similarity=scores.masked_fill(~is_token, torch.finfo(pixels.dtype).min),
        )
        return masks[:, 0, 0]

    @torch.no_grad()
    def load_sam(self, sam: SamModel) -> None:
        """Takes over the mask decoder of a SAM model, its places and what it adds where there is no mask.

        Raises:
            ValueError: that decoder has other sizes.
        """
        own, theirs = self.decoder.config, sam.config.mask_decoder_config
        differing = [
            f"{name} is {getattr(theirs, name)}, here {getattr(own, name)}"
            for name in SHAPE
            if getattr(theirs, name) != getattr(own, name)
        ]
        if differing:
            raise ValueError(
                f'mask_decoder="sam_words": the SAM model has a mask decoder of other sizes: {"; ".join(differing)}. '
                "Set hidden_size and num_attention_heads to those of SAM."
            )
        weights = sam.mask_decoder.state_dict()
        self.decoder.load_state_dict({name: weights[name] for name in self.decoder.state_dict()})
        self.positions.positional_embedding.copy_(sam.shared_image_embedding.positional_embedding)
        self.no_mask.copy_(sam.prompt_encoder.no_mask_embed.weight[0])


def load_sam_model(name_or_path: str) -> SamModel:
    """A whole SAM model, with its mask decoder.

    Raises:
        ValueError: what lies there is no whole SAM model, or a file of it is damaged.
        OSError: there is no such model, or the Hub cannot be reached.
    """
    kind = read_encoder_config(name_or_path, "").model_type
    if kind != "sam":
        raise ValueError(
            f'mask_decoder="sam_words" starts from the mask decoder of SAM, but {name_or_path} is of model_type '
            f"'{kind}', which has none: pass a whole SAM model, such as facebook/sam-vit-huge, as the image encoder."
        )
    with naming_damage(name_or_path, {}):
        return SamModel.from_pretrained(name_or_path)
