"""M3Att: multi-modal mutual attention (Liu et al., "Multi-Modal Mutual Attention and Iterative Interaction for
Referring Image Segmentation", 2023).

| paper | here |
| --- | --- |
| section III: F_vis | `FeatureFusion` |
| section III: F_t, F'_t | `RecurrentTextEncoder` (recurrent_text_refseg) |
| section III: F_enc | `EncoderLayer` |
| equation 1: A_mut | `scaled_scores` (mutual_decoder_m3att) |
| equation 2: F_V^a, F_L^a, F_mul | `MutualAttention` (mutual_decoder_m3att) |
| table I, independent | `IndependentMutualAttention` (mutual_decoder_m3att) |
| table I, generic (LAV only) | `GenericAttention` (mutual_decoder_m3att) |
| section IV-B, VAL only | `LanguageAttention` (mutual_decoder_m3att) |
| figure 3 c: a layer of M3Dec | `MutualDecoderLayer` (mutual_decoder_m3att) |
| equation 3, figure 4: IMI, F_l, F'_dec | `IterativeInteraction` (mutual_decoder_m3att) |
| table II, IMI* | `PlainInteraction` (mutual_decoder_m3att) |
| figure 2: M3Dec, F_dec | `MutualDecoder` (mutual_decoder_m3att) |
| equation 4, figure 5: LFR, F_proj, F_rec | `LanguageReconstruction` (tasks_refseg) |
| section III-D, figure 6 | `KernelMaps`, `MaskDecoder` |
| table III: VLT, concatenation | `DecoderOutputMaps`, `ConcatenatedMaps` |
| equation 5: L_mask | `M3AttForReferringSegmentation.compute_losses` |

Equations, sections, figures and tables are those of the paper. Words are padded: `text_mask` (batch, tokens) with
1 = word goes with them everywhere, and what stands where there is no word has no influence.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import OutputRecorder

from .configuration_m3att import M3AttConfig
from .encoders_refseg import build_map_encoder
from .explanations_refseg import Explainable, Explanation, WordWeights, pixels_of_words, words_of_pixels
from .layers_refseg import MaskClassifier, MultiHeadAttention, map_positions, resize, to_map, to_tokens
from .losses_refseg import cross_entropy, dice_loss
from .modeling_outputs_refseg import DecoderOutput, FusedFeatures, ImageFeatures, RecordedOutput
from .modeling_refseg import RefSegPreTrainedModel
from .mutual_decoder_m3att import (
    GenericAttention,
    IterativeInteraction,
    LanguageAttention,
    MutualAttention,
    MutualDecoder,
    MutualDecoderLayer,
    PlainInteraction,
    ResidualNorm,
)
from .text_encoders_refseg import build_text_encoder


def build_convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """A convolution that keeps the size, batch normalization and ReLU (section IV-A)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class FeatureFusion(nn.Module):
    """F_vis from the stages' maps of one size (section III): maps (batch, channels, h, w) to (batch, hidden_size, h,
    w)."""

    def __init__(self, widths: list[int], hidden_size: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(build_convolution(width, hidden_size, 1) for width in widths)
        self.join = build_convolution(hidden_size, hidden_size, 3)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return self.join(sum(project(each) for project, each in zip(self.projections, maps, strict=True)))


class EncoderLayer(GradientCheckpointingLayer):
    """A transformer layer over the pixels (batch, positions, channels); keeps the shape."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.attention = MultiHeadAttention(config)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, config.encoder_feedforward), nn.ReLU(), nn.Linear(config.encoder_feedforward, channels)
        )
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = self.attention_norm(pixels + self.attention(pixels, pixels))
        return self.feedforward_norm(pixels + self.feedforward(pixels))


class KernelMaps(nn.Module):
    """The decoder's words as the kernels of a 1x1 convolution over the encoded image (section III-D, figure 6).

    `text_features` (batch, tokens, channels), 0 where there is none, `pixels` (batch, channels, h, w); returns
    (batch, out_channels, h, w), a channel for each token that a text may have.
    """

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        self.out_channels = config.max_text_length

    def forward(self, text_features: Tensor, pixels: Tensor) -> Tensor:
        kernels = F.pad(text_features, (0, 0, 0, self.out_channels - text_features.shape[1]))
        return torch.einsum("bnc,bchw->bnhw", kernels, pixels)


class DecoderOutputMaps(nn.Module):
    """A map out of each of the decoder's words, without the encoded image (table III, row 1); as in `KernelMaps`."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        self.out_channels = config.max_text_length
        self.project = nn.Linear(config.hidden_size, config.map_size**2, bias=False)

    def forward(self, text_features: Tensor, pixels: Tensor) -> Tensor:
        maps = self.project(text_features).unflatten(2, pixels.shape[-2:])
        return F.pad(maps, (0, 0, 0, 0, 0, self.out_channels - text_features.shape[1]))


class ConcatenatedMaps(nn.Module):
    """The sum of the decoder's words beside each pixel of the encoded image (table III, row 2); as in `KernelMaps`."""

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        self.out_channels = 2 * config.hidden_size

    def forward(self, text_features: Tensor, pixels: Tensor) -> Tensor:
        sentence = text_features.sum(1)[:, :, None, None].expand_as(pixels)
        return torch.cat([pixels, sentence], 1)


class MaskDecoder(nn.Module):
    """The decoder's words and the encoded image to logits at eight times the size of the map (section III-D).

    `text_features` (batch, tokens, channels), `pixels` (batch, channels, h, w); returns (batch, 8 h, 8 w).
    """

    MAPS: dict[str, type[nn.Module]] = {
        "kernels": KernelMaps,
        "concatenation": ConcatenatedMaps,
        "decoder_output": DecoderOutputMaps,
    }

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__()
        width, has_five = config.decoder_hidden_size, config.mask_decoder_convolutions == 5
        self.attention = MultiHeadAttention(config)
        self.join = ResidualNorm(config.hidden_size)
        self.maps = self.MAPS[config.mask_decoder](config)
        channels = self.maps.out_channels
        self.first_convolution = build_convolution(channels, width, 3) if has_five else nn.Identity()
        widths = (width if has_five else channels, width, width)
        self.convolutions = nn.ModuleList(build_convolution(each, width, 3) for each in widths)
        self.classifier = MaskClassifier(width, 1)

    def forward(self, text_features: Tensor, text_mask: Tensor, pixels: Tensor) -> Tensor:
        text_features = self.join(
            text_features, self.attention(text_features, text_features, text_mask)
        ) * text_mask.unsqueeze(-1)
        maps = self.first_convolution(self.maps(text_features, pixels))
        for convolution in self.convolutions:
            maps = convolution(F.interpolate(maps, scale_factor=2, mode="nearest"))
        return self.classifier(maps).squeeze(1)


class M3AttForReferringSegmentation(RefSegPreTrainedModel, Explainable):
    """M3Att (figure 2): transformer encoder over the image, mutual decoder with iterative interaction, mask decoder.

    Encoders and transformer encoder do not depend on the sentence: several sentences about one image share them.

    `hidden_states` are F_enc as a map and, of each decoder layer, F_dec, (batch, tokens, channels). `attentions` are,
    layer by layer, those of the words to the pixels, (batch, 1, tokens, positions), and those of the pixels to the
    words, as far as the type of attention has them; between two layers those of the iterative interaction, of the
    words of the decoder to the language, (batch, 1, tokens, tokens). They are there with every `attn_implementation`.

    Example:

    ```python
    >>> from hf_refseg import M3AttForReferringSegmentation

    >>> model = M3AttForReferringSegmentation.from_encoders(
    ...     "microsoft/swin-base-patch4-window12-384-in22k", "google-bert/bert-base-uncased"
    ... )
    ```"""

    config: M3AttConfig
    _can_record_outputs = {
        "multimodal_hidden_states": MutualDecoderLayer,
        "multimodal_attentions": [
            OutputRecorder(MutualAttention, index=1),
            OutputRecorder(MutualAttention, index=2),
            OutputRecorder(GenericAttention, index=1),
            OutputRecorder(LanguageAttention, index=1),
            OutputRecorder(IterativeInteraction, index=2),
        ],
    }
    maps_hold_language = False
    _no_split_modules = ["WindowLayer", "EncoderLayer", "MutualDecoderLayer", "LanguageDecoderLayer", "MaskDecoder"]

    def __init__(self, config: M3AttConfig) -> None:
        super().__init__(config)
        self.backbone = build_map_encoder(config.backbone_config, config.num_image_maps)
        self.text_encoder = build_text_encoder(config.text_config)
        self.feature_fusion = FeatureFusion(self.backbone.widths, config.hidden_size)
        self.transformer_encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.project_words = nn.Linear(config.text_config.hidden_size, config.hidden_size)  # F_t to C channels
        self.mutual_decoder = MutualDecoder(config)
        self.mask_decoder = MaskDecoder(config)
        self.mask_losses = {"cross_entropy": cross_entropy}
        self.loss_weights = {"cross_entropy": config.cross_entropy_weight}
        if config.dice_loss_weight:
            self.mask_losses["dice"] = dice_loss
            self.loss_weights["dice"] = config.dice_loss_weight
        self.add_tasks(config.hidden_size, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PlainInteraction):
            init.constant_(module.scale, self.config.interaction_scale)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """The maps of the three stages, all at the size of F_vis.

        Raises:
            ValueError: images of another size than the configuration's `image_size`.
        """
        expected, image_size = self.config.image_size, tuple(pixel_values.shape[-2:])
        if image_size != (expected, expected):
            raise ValueError(
                f"This model takes images of {expected} x {expected} pixels, got {image_size[0]} x {image_size[1]}: "
                f'set the image processor\'s size to {{"height": {expected}, "width": {expected}}}.'
            )
        size = (self.config.map_size, self.config.map_size)
        maps = tuple(resize(each, size, align_corners=False) for each in self.backbone(pixel_values))
        return ImageFeatures(maps=maps, image_size=image_size)

    def project_image(self, image: ImageFeatures) -> ImageFeatures:
        """F_enc (section III), (batch, hidden_size, h, w)."""
        fused = self.feature_fusion(image.maps)
        pixels, size = to_tokens(fused), tuple(fused.shape[-2:])
        pixels = pixels + map_positions(pixels, size)
        for layer in self.transformer_encoder:
            pixels = layer(pixels)
        return ImageFeatures(maps=(to_map(pixels, size),), image_size=image.image_size)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The words' features F_t, (batch, tokens, text channels)."""
        return self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """F_enc as a map, and F_dec as the features of the text (sections III-A and III-B).

        Raises:
            ValueError: more tokens than the mask decoder has channels for.
        """
        limit = self.config.max_text_length
        if text.shape[1] > limit:
            raise ValueError(
                f"The texts have {text.shape[1]} tokens, the model's max_text_length is {limit}: lower the "
                "processor's `max_text_length`."
            )
        decoded = self.mutual_decoder(self.project_words(text), to_tokens(image.maps[0]), text_mask)
        return FusedFeatures(maps=image.maps, text_features=decoded, text_mask=text_mask)

    def decode(self, fused: FusedFeatures, image_size: tuple[int, ...]) -> DecoderOutput:
        """Logits at the input size, (batch, height, width) (section III-D)."""
        logits = self.mask_decoder(fused.text_features, fused.text_mask, fused.maps[-1])
        return DecoderOutput(logits=resize(logits.unsqueeze(1), image_size, align_corners=False).squeeze(1))

    def compute_losses(self, output: DecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """L_mask, binary cross-entropy (equation 5), and a dice loss where the configuration weighs one.

        L_rec is that of a task which any method can carry.
        """
        return {name: loss(output.logits, mask_labels) for name, loss in self.mask_losses.items()}

    def explain_output(self, output: RecordedOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """The mutual attention of each layer in both directions (figure 1 b), and the interaction between layers."""
        config, maps, attentions = self.config, output.hidden_states[0], iter(output.attentions)
        explanations: dict[str, Explanation] = {}
        for layer in range(1, config.num_decoder_layers + 1):
            if layer > 1 and config.interaction_type == "iterative":
                explanations[f"interaction_{layer - 1}"] = WordWeights(next(attentions)[0, 0])
            if config.attention_type != "language":
                explanations[f"words_to_pixels_{layer}"] = pixels_of_words(next(attentions), maps, text_mask)
            if config.attention_type != "generic":
                explanations[f"word_attention_{layer}"] = words_of_pixels(next(attentions), maps)
        return explanations


class ScalesWithAxis(ConversionOps):
    """Scales of interactions as (1,), also those of earlier versions, which were saved without an axis."""

    def convert(
        self,
        input_dict: dict[str, list[Tensor]],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        (values,) = input_dict.values()
        return {full_layer_name: torch.atleast_1d(values[0])}

    @property
    def reverse_op(self) -> "ScalesWithAxis":
        return self


# By the name of the class, as PEFT would take a mapping of the model type for one that adapters need as well.
register_checkpoint_conversion_mapping(
    M3AttForReferringSegmentation.__name__, [WeightConverter("scale", "scale", [ScalesWithAxis()])], overwrite=True
)

__all__ = ["M3AttConfig", "M3AttForReferringSegmentation"]
