"""RISAM: mutual-aware attention on frozen SAM and CLIP (Zhang et al., "Referring Image Segmentation via Mutual-Aware
Attention Features", 2024).

| paper | here |
| --- | --- |
| figure 3 | `RisamForReferringSegmentation` |
| equations 1, 2 | `MapFusion`, `FeatureEnhancement` |
| equations 3 to 5, figure 4 | `MutualAwareAttention` |
| F_c, section 3.4 | `GuidedQueryToken` |
| equations 6, 8, 9, figure 5 | `MutualAwareDecoderBlock`, `MutualAwareMaskDecoder` |
| equation 7 | `MultiHeadAttention` (layers_refseg) |
| equation 10 | `focal_loss` (losses_refseg) |
| equation 11 | `dice_loss` (losses_refseg) |
| equation 12 | `RisamForReferringSegmentation` |
| table 2, row 1 | `DeepestFeatures` |
| table 2, row 2 | `ConvolutionalFusion` |
| table 2, row 3 | `WordPromptedSamDecoder` (sam_decoder_risam) |
| table 3, row 5 | `JointTransformerEncoder` (comparisons_risam) |
| table 3, row 6 | `SpatialDynamicFusion` (comparisons_risam) |
| table 3, row 7 | `BidirectionalCrossModal` (comparisons_risam) |
| table 5, row 9 | `TwoWayDecoderBlock` |
| table 5, row 10 | `QueryToken` |
| table 6, row 11 | `PyramidEnhancement` |
| table 11, SAM | `Unfused` (comparisons_risam), `NeckFeatures` |
| figure 7 | `explain_fusion` (explanations_risam) |
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.sam.modeling_sam import SamPositionalEmbedding
from transformers.utils.output_capturing import OutputRecorder

from .comparisons_risam import (
    BidirectionalCrossModal,
    JointTransformerEncoder,
    SimplePyramid,
    SpatialDynamicFusion,
    Unfused,
)
from .configuration_risam import RisamConfig
from .encoders_refseg import SamNeckMap, build_map_encoder
from .explanations_refseg import Explainable, Explanation
from .explanations_risam import explain_fusion
from .layers_refseg import (
    AttentionKernel,
    MultiHeadAttention,
    build_mask_bias,
    map_positions,
    masked_mean,
    resize,
    sinusoidal_positions,
    to_map,
    to_tokens,
)
from .losses_refseg import dice_loss, focal_loss
from .modeling_outputs_refseg import DecoderOutput, FusedFeatures, ImageFeatures, RecordedOutput
from .modeling_refseg import RefSegPreTrainedModel
from .sam_decoder_risam import SamDecoder, WordPromptedSamDecoder, load_sam_model
from .text_encoders_refseg import build_text_encoder


def build_mlp(channels: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))


class ConvolutionNormActivation(nn.Sequential):
    """CBA: 3x3 convolution, batch normalization, GELU (section 3.2), (batch, in, h, w) to (batch, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.GELU()
        )


class MapFusion(nn.Module):
    """CBA([MLP(first), MLP(second)]): equation 1, and again equation 2.

    Two maps (batch, channels, h, w) of one size in; returns (batch, hidden_size, h, w).
    """

    def __init__(self, first_channels: int, second_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.first = build_mlp(first_channels, hidden_size)
        self.second = build_mlp(second_channels, hidden_size)
        self.fuse = ConvolutionNormActivation(2 * hidden_size, hidden_size)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        both = torch.cat([self.first(first.movedim(1, -1)), self.second(second.movedim(1, -1))], -1)
        return self.fuse(both.movedim(-1, 1))


class FeatureEnhancement(nn.Module):
    """F_v from F_v1, F_v2 and F_v3 (section 3.2), all maps (batch, channels, h, w)."""

    def __init__(self, widths: list[int], hidden_size: int) -> None:
        super().__init__()
        shallow, middle, deep = widths
        self.early = MapFusion(shallow, middle, hidden_size)
        self.late = MapFusion(hidden_size, deep, hidden_size)

    def forward(self, maps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        shallow, middle, deep = maps
        return self.late(self.early(shallow, middle), deep)  # equations 1 and 2


class DeepestFeatures(nn.Module):
    """F_v3 alone in the place of `FeatureEnhancement` (table 2, row 1)."""

    def __init__(self, widths: list[int], hidden_size: int) -> None:
        super().__init__()
        self.project = build_mlp(widths[-1], hidden_size)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return self.project(maps[-1].movedim(1, -1)).movedim(-1, 1)


class PyramidEnhancement(FeatureEnhancement):
    """Equations 1 and 2 on three scales of F_v3 alone, those of ViT-Det, in the place of F_v1 to F_v3 (table 6)."""

    def __init__(self, widths: list[int], hidden_size: int) -> None:
        super().__init__([hidden_size] * 3, hidden_size)
        self.pyramid = SimplePyramid(widths[-1], hidden_size)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return super().forward(self.pyramid(maps[-1]))


class NeckFeatures(nn.Module):
    """The map of SAM's neck as it is, with nothing to train (table 11, SAM)."""

    def __init__(self, widths: list[int], hidden_size: int) -> None:
        super().__init__()

    def forward(self, maps: tuple[Tensor]) -> Tensor:
        return maps[0]


class PixelNormalizedAttention(nn.Module):
    """The attention of words to pixels, normalized over the pixels.

    Shapes: `scores` and `relevant` (batch, pixels, words); `attention`, that of pixels to words, is not used. Returns
    (batch, words, pixels).
    """

    def forward(self, scores: Tensor, relevant: Tensor, attention: Tensor) -> Tensor:
        of_pixels = scores.transpose(1, 2).contiguous()
        kept = relevant.transpose(1, 2) | (of_pixels == of_pixels.amax(-1, keepdim=True))
        return of_pixels.masked_fill(~kept, -math.inf).softmax(-1)


class SharedAttention(nn.Module):
    """The attention of words to pixels is the transposed one of pixels to words, as equation 5 is printed.

    Shapes as in `PixelNormalizedAttention`.
    """

    def forward(self, scores: Tensor, relevant: Tensor, attention: Tensor) -> Tensor:
        return attention.transpose(1, 2)


class MutualAwareAttention(nn.Module):
    """Language-aware pixels F_lav and vision-aware words F_val (section 3.3, equations 3 to 5).

    A pair of pixel and word takes part where its relevance reaches the threshold; a row that would be left without any
    pair keeps its best one. Shapes: `pixels` (batch, positions, hidden_size), `text_features` (batch, tokens,
    text_channels), `text_mask` (batch, tokens) with 1 = word, `size` (height, width) of the map. Returns both with
    hidden_size channels, then the weights of words for each pixel (batch, 1, positions, tokens), and those of pixels
    for each word (batch, 1, tokens, positions).
    """

    LANGUAGE_ATTENTION: dict[str, type[nn.Module]] = {"pixels": PixelNormalizedAttention, "shared": SharedAttention}

    def __init__(self, config: RisamConfig, text_channels: int) -> None:
        super().__init__()
        channels = config.hidden_size
        self.project_pixels = nn.Linear(channels, channels, bias=False)  # W_v
        self.project_words = nn.Linear(text_channels, channels, bias=False)  # W_l
        self.language_attention = self.LANGUAGE_ATTENTION[config.language_attention]()
        self.pixel_norm = nn.LayerNorm(channels)
        self.word_norm = nn.LayerNorm(channels)
        # A relevance is the sigmoid of a score, so the threshold on scores is its logit.
        self.relevance_threshold = config.relevance_threshold
        threshold = config.relevance_threshold or 0.0
        self.score_threshold = math.log(threshold / (1 - threshold)) if threshold > 0 else -math.inf

    def extra_repr(self) -> str:
        """What a picture of the model tells beside its parts."""
        return f"relevance_threshold={self.relevance_threshold}"

    def forward(
        self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pixels, text_features = self.project_pixels(pixels), self.project_words(text_features)  # Z_v, Z_l
        to_words, to_pixels = self.mutual_attention(pixels, text_features, text_mask)
        language_aware = self.pixel_norm(to_words @ text_features + pixels)  # equation 5
        vision_aware = self.word_norm(to_pixels @ pixels + text_features)
        return language_aware, vision_aware, to_words[:, None], to_pixels[:, None]

    def mutual_attention(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The attention of Z_v to Z_l, (batch, positions, tokens), and of Z_l to Z_v, (batch, tokens, positions)."""
        scores = pixels @ text_features.transpose(1, 2) * pixels.shape[-1] ** -0.5
        attention, relevant = self.attend(scores, text_mask)
        return attention, self.language_attention(scores, relevant, attention)

    def attend(self, scores: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """A of equation 3, and which pairs are relevant (equation 4, its cases the other way round, as the text of
        section 3.3 says); both (batch, positions, tokens).
        """
        is_word = text_mask.unsqueeze(1) != 0
        of_words = scores.masked_fill(~is_word, -math.inf)
        relevant = (of_words >= self.score_threshold) & is_word
        kept = relevant | (of_words == of_words.amax(-1, keepdim=True))
        return of_words.masked_fill(~kept, -math.inf).softmax(-1), relevant


class ConvolutionalFusion(nn.Module):
    """A convolution over pixels and mean word in the place of `MutualAwareAttention` (table 2, row 2).

    Shapes are the same; there are no weights.
    """

    def __init__(self, config: RisamConfig, text_channels: int) -> None:
        super().__init__()
        channels = config.hidden_size
        self.project_words = nn.Linear(text_channels, channels)
        self.fuse = ConvolutionNormActivation(2 * channels, channels)

    def forward(
        self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        text_features = self.project_words(text_features)
        sentence = masked_mean(text_features, text_mask).unsqueeze(1).expand_as(pixels)
        fused = self.fuse(to_map(torch.cat([pixels, sentence], -1), size))
        return to_tokens(fused), text_features


class QueryToken(nn.Module):
    """The multi-modal query F_m, alone (table 5, row 10)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, channels))  # F_m

    def forward(self, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (batch, tokens, channels) and their mask (batch, tokens), 1 = token."""
        batch = text_features.shape[0]
        return self.query.expand(batch, -1, -1), text_mask.new_ones(batch, 1)


class GuidedQueryToken(QueryToken):
    """F_c: the multi-modal query F_m in front of the words F_val with their positions (section 3.4)."""

    def forward(self, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        query, query_mask = super().forward(text_features, text_mask)
        placed = text_features + sinusoidal_positions(text_features)
        return torch.cat([query, placed], 1), torch.cat([query_mask, text_mask], 1)


class MutualAwareDecoderBlock(nn.Module):
    """A block of the mask decoder (equations 6, 8 and 9; MHSA and MHCA are equation 7 in several heads).

    The layer normalization of each sum is ours: the three equations have none.

    `pixels` (batch, positions, channels), `tokens` (batch, tokens, channels) with the query in front, `token_mask`
    (batch, tokens); returns both anew.
    """

    def __init__(self, config: RisamConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.pixel_attention = MultiHeadAttention(config)  # MHSA of F_lav
        self.token_attention = MultiHeadAttention(config)  # MHSA of F_c
        self.cross_attention = MultiHeadAttention(config)  # MHCA
        self.pixel_norm = nn.LayerNorm(channels)
        self.token_norm = nn.LayerNorm(channels)
        self.cross_norm = nn.LayerNorm(channels)

    def forward(self, pixels: Tensor, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.pixel_norm(self.pixel_attention(pixels, pixels) + pixels)  # equation 6
        tokens = self.token_norm(self.token_attention(tokens, tokens, token_mask) + tokens)  # equation 8
        tokens = self.look_at_pixels(tokens, pixels)
        return self.cross_norm(self.cross_attention(pixels, tokens, token_mask) + pixels), tokens  # equation 9

    def look_at_pixels(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """The paper's tokens do not attend to the pixels: it hurts (table 5, row 9)."""
        return tokens


class TwoWayDecoderBlock(MutualAwareDecoderBlock):
    """A block in which the tokens attend to the pixels as well (table 5, row 9)."""

    def __init__(self, config: RisamConfig) -> None:
        super().__init__(config)
        self.token_to_image_attention = MultiHeadAttention(config)
        self.token_to_image_norm = nn.LayerNorm(config.hidden_size)

    def look_at_pixels(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        return self.token_to_image_norm(self.token_to_image_attention(tokens, pixels) + tokens)


def placed_tokens(pixels: Tensor) -> Tensor:
    """A map as tokens (batch, positions, channels), to which sines and cosines of their row and column are added."""
    tokens = to_tokens(pixels)
    return tokens + map_positions(tokens, tuple(pixels.shape[-2:]))


PIXEL_TOKENS: dict[str, Callable[[Tensor], Tensor]] = {"none": to_tokens, "sine": placed_tokens}


def doubling(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    """What makes a map twice as high and wide."""
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2), nn.BatchNorm2d(out_channels), nn.GELU()


class MutualAwareMaskDecoder(nn.Module):
    """Pixels and words to logits at four times the size of the map (section 3.4).

    Each of the two blocks that enlarge the map is a transposed convolution and a batch normalization, as in the paper,
    and a GELU, which is ours.

    `pixels` (batch, channels, h, w), `text_features` (batch, tokens, channels), `text_mask` (batch, tokens); returns
    (batch, 4 h, 4 w).
    """

    def __init__(self, config: RisamConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        enlarged, final = config.mask_feature_sizes or (channels // 4, channels // 8)
        self.pixel_tokens = PIXEL_TOKENS[config.pixel_positions]
        self.query = GuidedQueryToken(channels) if config.linguistic_guidance else QueryToken(channels)
        block = TwoWayDecoderBlock if config.token_to_image_attention else MutualAwareDecoderBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.num_decoder_blocks))
        self.upsample = nn.Sequential(*doubling(channels, enlarged), *doubling(enlarged, final))
        self.project_query = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, final),
        )

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        size = pixels.shape[-2:]
        tokens, token_mask = self.query(text_features, text_mask)
        pixels = self.pixel_tokens(pixels)
        for block in self.blocks:
            pixels, tokens = block(pixels, tokens, token_mask)
        maps = self.upsample(to_map(pixels, size))
        return torch.einsum("bchw,bc->bhw", maps, self.project_query(tokens[:, 0]))


FEATURE_ENHANCEMENT: dict[str, type[nn.Module]] = {
    "cascade": FeatureEnhancement,
    "none": DeepestFeatures,
    "vit_det": PyramidEnhancement,
    "neck": NeckFeatures,
}
FUSION: dict[str, type[nn.Module]] = {
    "mutual_attention": MutualAwareAttention,
    "convolution": ConvolutionalFusion,
    "transformer_encoder": JointTransformerEncoder,
    "spatial_dynamic": SpatialDynamicFusion,
    "bidirectional": BidirectionalCrossModal,
    "none": Unfused,
}
MASK_DECODER: dict[str, type[nn.Module]] = {
    "mutual_aware": MutualAwareMaskDecoder,
    "sam": SamDecoder,
    "sam_words": WordPromptedSamDecoder,
}


def build_backbone(config: RisamConfig) -> nn.Module:
    """The image encoder: F_v1, F_v2 and F_v3, or SAM's whole with its neck."""
    if config.feature_enhancement == "neck":
        return SamNeckMap(config.backbone_config)
    return build_map_encoder(config.backbone_config, config.num_image_maps)


class RisamForReferringSegmentation(RefSegPreTrainedModel, Explainable):
    """RISAM (figure 3): frozen encoders, feature enhancement, mutual-aware attention, mutual-aware mask decoder.

    Encoder and feature enhancement do not depend on the sentence: several sentences about one image share them.

    `hidden_states` are F_lav as a map and, of each block of the mask decoder, its pixels, (batch, positions,
    channels). `attentions` are, block by block of mutual-aware attention, those of the pixels to the words, (batch, 1,
    positions, tokens), and those of the words to the pixels, (batch, 1, tokens, positions), whose rows sum to 1 but
    with `language_attention="shared"`. They are there with every `attn_implementation`.

    Example:

    ```python
    >>> from hf_refseg import RisamForReferringSegmentation

    >>> model = RisamForReferringSegmentation.from_encoders("facebook/sam-vit-huge", "openai/clip-vit-base-patch16")
    ```"""

    config: RisamConfig
    _can_record_outputs = {
        "multimodal_hidden_states": MutualAwareDecoderBlock,
        "multimodal_attentions": [
            *(OutputRecorder(MutualAwareAttention, index=index) for index in (2, 3)),
            OutputRecorder(SpatialDynamicFusion, index=2),
            OutputRecorder(AttentionKernel, index=1, layer_name="layers"),
        ],
    }
    _no_split_modules = [
        "SamVisionLayer",
        "MutualAwareAttention",
        "SpatialDynamicFusion",
        "BidirectionalCrossModal",
        "JointEncoderLayer",
        "MutualAwareDecoderBlock",
    ]

    def __init__(self, config: RisamConfig) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config)
        self.text_encoder = build_text_encoder(config.text_config)
        self.feature_enhancement = FEATURE_ENHANCEMENT[config.feature_enhancement](
            self.backbone.widths, config.hidden_size
        )
        text_widths = [config.text_config.hidden_size] + [config.hidden_size] * (config.num_fusion_modules - 1)
        self.fusion = nn.ModuleList(FUSION[config.fusion_type](config, width) for width in text_widths)
        if not config.reads_final_words and config.fusion_type == "mutual_attention":
            self.fusion[-1].word_norm = nn.Identity()
        self.mask_decoder = MASK_DECODER[config.mask_decoder](config)
        self.mask_bias = build_mask_bias(config.mask_prior)
        # omega_f and omega_d of equation 12.
        self.loss_weights = {"focal": config.focal_loss_weight, "dice": config.dice_loss_weight}
        self.maps_hold_language = config.fusion_type != "none"
        self.add_tasks(config.hidden_size, config.hidden_size)
        self.post_init()

    @classmethod
    def from_encoders(
        cls,
        vision_name_or_path: str,
        text_name_or_path: str | None,
        drop_path_rate: float | None = None,
        **config: Any,
    ) -> "RisamForReferringSegmentation":
        """As of all methods; with `mask_decoder="sam_words"` the mask decoder is that of the same SAM model."""
        model = super().from_encoders(vision_name_or_path, text_name_or_path, drop_path_rate, **config)
        if model.config.mask_decoder == "sam_words":
            model.mask_decoder.load_sam(load_sam_model(str(vision_name_or_path)))
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QueryToken):
            init.normal_(module.query, std=self.config.initializer_range)
        elif isinstance(module, SamPositionalEmbedding):
            init.normal_(module.positional_embedding, std=module.scale)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """F_v1, F_v2 and F_v3, all at the size of F_v2; with `feature_enhancement="neck"` SAM's one map."""
        maps = self.backbone(pixel_values)
        size = tuple(maps[len(maps) // 2].shape[-2:])
        maps = tuple(resize(each, size, align_corners=False) for each in maps)
        return ImageFeatures(maps=maps, image_size=tuple(pixel_values.shape[-2:]))

    def project_image(self, image: ImageFeatures) -> ImageFeatures:
        """F_v (section 3.2), (batch, hidden_size, h, w)."""
        return ImageFeatures(maps=(self.feature_enhancement(image.maps),), image_size=image.image_size)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """F_l (section 3.1), (batch, tokens, text channels)."""
        return self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """F_lav as a map, and F_val (section 3.3)."""
        (pixels,) = image.maps
        size, pixels = tuple(pixels.shape[-2:]), to_tokens(pixels)
        for block in self.fusion:
            pixels, text, *_ = block(pixels, text, text_mask, size)
        return FusedFeatures(maps=(to_map(pixels, size),), text_features=text, text_mask=text_mask)

    def decode(self, fused: FusedFeatures, image_size: tuple[int, ...]) -> DecoderOutput:
        """Logits at the input size, (batch, height, width) (section 3.4)."""
        logits = self.mask_bias(self.mask_decoder(fused.maps[-1], fused.text_features, fused.text_mask))
        return DecoderOutput(logits=resize(logits.unsqueeze(1), image_size, align_corners=False).squeeze(1))

    def compute_losses(self, output: DecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """L_f and L_d (equations 10 and 11), which `loss_weights` adds up (equation 12)."""
        return {"focal": focal_loss(output.logits, mask_labels), "dice": dice_loss(output.logits, mask_labels)}

    def explain_output(self, output: RecordedOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """The attention of each fusion module (figure 7)."""
        return explain_fusion(self.config.fusion_type, output.attentions, output.hidden_states[0], text_mask)


__all__ = ["RisamConfig", "RisamForReferringSegmentation"]
