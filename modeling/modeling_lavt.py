"""LAVT: language-aware vision transformer for referring segmentation (https://huggingface.co/papers/2112.02244).

| paper | here |
| --- | --- |
| figure 2 | `LavtForReferringSegmentation` |
| section 3.1.1, the transformer layers phi_i | `SwinStages` (swin_refseg) |
| section 3.1.1, fusion theta_i and gating unit psi_i | `FusionStage` |
| equations 1 to 5, figure 3 | `PixelWordAttention` (layers_refseg) |
| equations 6 and 7 | `MultiModalFusion` |
| equation 8, figure 4 | `LanguageGate` |
| equation 9 | `GatedPathway`, `Sum` |
| section 3.1.3, replacement and concatenation | `Replacement`, `Concatenation` |
| equation 10 | `DecoderStep` (layers_refseg), `LavtDecoder` (layers_refseg) |
| section 3.1.4, the Dice loss of two classes | `two_class_dice_loss` (losses_refseg) |
| section 3.3 | `LavtConfig` |
| table 5, without LP and without PWAM | `ClosedPathway`, `PooledSentence` |
| table 6 a | `LanguageGate` |
| table 6 b | `build_fusion_norm` (layers_refseg) |
| table 6 c | `build_pathway`, `UngatedPathway`, `FusionStage`, `VisualStage` |
| table 6 d, BCAM | `BidirectionalAttention` |
| figure 8 | `LavtForReferringSegmentation` |

Equations, sections and tables are those of the journal version. Where the released weights differ from the paper,
they are followed and a configuration field gives the paper's form (`LavtConfig`), but for `DecoderStep`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import OutputRecorder

from .alignment_loss_refseg import AlignmentLoss
from .configuration_lavt import LavtConfig
from .cross_modal_alignment_refseg import CrossModalAlignment, Lockstep, explain_alignment
from .encoders_refseg import build_stage_encoder
from .explanations_refseg import Explainable, Explanation, HeatMaps, words_of_pixels
from .layers_refseg import (
    AttentionKernel,
    DecoderStep,
    GateProjection,
    LavtDecoder,
    PixelWordAttention,
    masked_mean,
    resize,
    split_heads,
    to_map,
    to_tokens,
)
from .losses_refseg import two_class_boundary_loss, two_class_dice_loss, two_class_focal_loss, weighted_cross_entropy
from .modeling_outputs_refseg import ALWAYS_GIVEN, DecoderOutput, FusedFeatures, ImageFeatures, RecordedOutput
from .modeling_refseg import RefSegPreTrainedModel
from .pretrained_refseg import load_encoder_weights
from .tasks_refseg import TASKS
from .text_encoders_refseg import build_text_encoder
from .two_encoders_refseg import is_frozen

# Makes the multi-modal fusion of the stage of this number.
BuildFusion = Callable[[LavtConfig, int], nn.Module]
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class PooledSentence(nn.Module):
    """The mean of all words at every pixel, in the place of `PixelWordAttention` (table 5, row 3); same shapes."""

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
        self.value = nn.Linear(text_channels, channels if hidden_size is None else hidden_size)

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        sentence = self.value(masked_mean(text_features, text_mask))
        return sentence.view(-1, *[1] * (pixels.ndim - 2), sentence.shape[1]).expand(*pixels.shape[:-1], -1)


class BidirectionalAttention(PixelWordAttention):
    """Pixels ask the words, and with what these say they ask all pixels: BCAM in the place of PWAM (table 6 d).

    The paper gives no equation of BCAM, the module of another one (Hu et al., CVPR 2020). Here its two attentions
    stand in the frame of PWAM, with projections as there, so that two rows of the table differ in what is attended to.
    Shapes as in `PixelWordAttention`.
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
        super().__init__(config, channels, text_channels, num_heads, norm, hidden_size)
        width = channels if hidden_size is None else hidden_size
        self.pixel_kernel = AttentionKernel(config)
        self.context_query = nn.Linear(width, width)
        self.pixel_key = nn.Linear(channels, width)
        self.pixel_value = nn.Linear(channels, width)

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        contexts = super().forward(pixels, text_features, text_mask)  # vision guides language
        projected = (self.context_query(contexts), self.pixel_key(pixels), self.pixel_value(pixels))
        of_heads = (split_heads(features.flatten(1, -2), self.num_heads) for features in projected)
        attended, _ = self.pixel_kernel(*of_heads, None, contexts.shape[-1] ** -0.5)  # language guides vision
        return contexts + attended.reshape(contexts.shape)


class MultiModalFusion(nn.Module):
    """The pixel-word attention module: the multi-modal features F_i of a stage (section 3.1.2, equations 1 to 7).

    Shapes as in `PixelWordAttention`; returns the shape of `pixels`, whatever the width inside.
    """

    LANGUAGE_MAPS: dict[str, Callable[..., nn.Module]] = {
        "pixel_word": PixelWordAttention,
        "pooled_sentence": PooledSentence,
        "bidirectional": BidirectionalAttention,
    }

    def __init__(self, config: LavtConfig, stage: int) -> None:
        super().__init__()
        channels, width = config.stage_widths[stage], config.fusion_widths[stage]
        activation = ACTIVATIONS[config.fusion_activation]
        self.language_maps = self.LANGUAGE_MAPS[config.fusion_type](
            config, channels, config.text_config.hidden_size, config.fusion_num_heads[stage], config.fusion_norm, width
        )
        self.project_pixels = nn.Sequential(nn.Linear(channels, width), activation())  # omega_m
        self.project_fused = nn.Sequential(
            nn.Linear(width, channels), activation(), nn.Dropout(config.fusion_dropout)
        )  # omega_o

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        language = self.language_maps(pixels, text_features, text_mask)  # G_i
        visual = self.project_pixels(pixels)  # equation 6
        return self.project_fused(visual * language)  # equation 7


class LanguageGate(nn.Module):
    """S_i: how much of each fused feature goes on, per element (section 3.1.3, equation 8); keeps the shape.

    gamma_i is the perceptron of `reduce` and `expand`, with a tanh behind it or what table 6 a compares.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.reduce = GateProjection(channels)
        self.expand = GateProjection(channels)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, fused: Tensor) -> Tensor:
        return self.activation(self.expand(F.relu(self.reduce(fused))))  # S_i, equation 8


class Sum(nn.Module):
    """Language supplements what the encoder sees (equation 9). Takes and gives (batch, ..., channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, visual: Tensor, language: Tensor) -> Tensor:
        return visual + language  # equation 9


class Replacement(nn.Module):
    """Language stands in the place of what the encoder sees (section 3.1.3, end). Shapes as in `Sum`."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, visual: Tensor, language: Tensor) -> Tensor:
        return language


class Concatenation(nn.Module):
    """Language stands beside what the encoder sees (section 3.1.3, end). Shapes as in `Sum`.

    The paper does not say how the channels, then twice as many, fit into the next stage; here a linear layer
    reduces them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(2 * channels, channels)

    def forward(self, visual: Tensor, language: Tensor) -> Tensor:
        return self.reduce(torch.cat([visual, language], -1))


# By `language_pathway`, whose type also names the bool that it was in earlier versions.
PATHWAYS: dict[str | bool, type[nn.Module]] = {"sum": Sum, "replacement": Replacement, "concatenation": Concatenation}


class GatedPathway(nn.Module):
    """Language features on their way into the next stage: E_i of V_i and S_i times F_i (equation 9)."""

    def __init__(self, config: LavtConfig, channels: int) -> None:
        super().__init__()
        self.gate = LanguageGate(channels, config.gate_activation)
        self.combine = PATHWAYS[config.language_pathway](channels)

    def forward(self, visual: Tensor, fused: Tensor) -> Tensor:
        return self.combine(visual, self.gate(fused) * fused)


class UngatedPathway(nn.Module):
    """E_i of V_i and F_i: equation 9 without the gate (table 6 c, "NG")."""

    def __init__(self, config: LavtConfig, channels: int) -> None:
        super().__init__()
        self.combine = PATHWAYS[config.language_pathway](channels)

    def forward(self, visual: Tensor, fused: Tensor) -> Tensor:
        return self.combine(visual, fused)


class ClosedPathway(nn.Module):
    """No language goes on into the next stage (table 5, row 2, and the last stage of all)."""

    def forward(self, visual: Tensor, fused: Tensor) -> Tensor:
        return visual


def build_pathway(config: LavtConfig, stage: int) -> nn.Module:
    """The language pathway behind a stage; that of the last one is E_4, which the decoder alone reads (table 6 c)."""
    is_last = stage == len(config.stage_widths) - 1
    if config.language_pathway == "none" or (is_last and config.decoder_features != "E"):
        return ClosedPathway()
    pathway = UngatedPathway if config.gate_activation == "none" else GatedPathway
    return pathway(config, config.stage_widths[stage])


def build_decoder_norm(config: LavtConfig, stage: int) -> nn.Module:
    """What stands between the features of a stage and the decoder; nothing where the decoder does not read them."""
    is_decoded = stage >= len(config.stage_widths) - config.num_decoder_stages
    if config.decoder_norm == "none" or not is_decoded:
        return nn.Identity()
    return nn.LayerNorm(config.stage_widths[stage])


class FusionStage(nn.Module):
    """What follows the transformer layers of a stage: fusion, language pathway, and the features for the decoder.

    `fusion` is the multi-modal fusion of the stage. Returns E_i and the decoder's features (F_i, normalized, unless
    the configuration says otherwise), both of the shape of the visual features V_i.
    """

    def __init__(self, config: LavtConfig, stage: int, fusion: nn.Module) -> None:
        super().__init__()
        self.fusion = fusion
        self.pathway = build_pathway(config, stage)
        self.decoder_features = "VFE".index(config.decoder_features)
        self.decoder_norm = build_decoder_norm(config, stage)

    def forward(self, visual: Tensor, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.fusion(visual, text_features, text_mask)
        enhanced = self.pathway(visual, fused)
        return enhanced, self.decoder_norm((visual, fused, enhanced)[self.decoder_features])


class VisualStage(nn.Module):
    """The last stage where the decoder reads V_i alone: nothing would use its fusion."""

    def __init__(self, config: LavtConfig, stage: int) -> None:
        super().__init__()
        self.decoder_norm = build_decoder_norm(config, stage)

    def forward(self, visual: Tensor, text_features: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        return visual, self.decoder_norm(visual)


class AlignedStage(CrossModalAlignment):
    """MagNet's alignment module in the place of fusion and pathway (its table 3 e); the decoder's features as here."""

    def __init__(self, config: LavtConfig, stage: int) -> None:
        super().__init__(config, stage)
        self.decoder_norm = build_decoder_norm(config, stage)

    def forward(
        self, pixels: Tensor, size: tuple[int, int], text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        features, next_pixels, next_text = super().forward(pixels, size, text_features, text_mask)
        return self.decoder_norm(features), next_pixels, next_text


def build_stage(config: LavtConfig, stage: int, fusion_class: BuildFusion) -> nn.Module:
    if config.fusion_type == "cross_modal_alignment":
        return AlignedStage(config, stage)
    if not config.fuses(stage):
        return VisualStage(config, stage)
    return FusionStage(config, stage, fusion_class(config, stage))


def encode_with_language(
    backbone: nn.Module, stages: nn.ModuleList, first: Tensor, text: Tensor, text_mask: Tensor
) -> tuple[Tensor, ...]:
    """Language-aware visual encoding (section 3.1.1): the decoder's feature maps, from V_1 as a map.

    Each stage is phi_i, layers of the `backbone` (V_i), then theta_i and psi_i, one of `stages` (F_i and E_i).
    """
    size, visual = tuple(first.shape[-2:]), to_tokens(first)
    enhanced, features = stages[0](visual, text, text_mask)
    maps = [to_map(features, size)]
    for index in range(1, len(stages)):
        visual, size = backbone.next_stage(index, enhanced, size)
        enhanced, features = stages[index](visual, text, text_mask)
        maps.append(to_map(features, size))
    return tuple(maps)


class OneWay:
    """How LAVT encodes: the words once, and the image along with them; `Lockstep` is the other way."""

    @staticmethod
    def build_text_encoder(config: LavtConfig) -> nn.Module:
        return build_text_encoder(config.text_config)

    @staticmethod
    def load_text_encoder(text_encoder: nn.Module, pretrained: PreTrainedModel) -> None:
        load_encoder_weights(text_encoder, pretrained)

    @staticmethod
    def encode_text(text_encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    @staticmethod
    def finish_text(text_encoder: nn.Module, text: Tensor, text_mask: Tensor) -> Tensor:
        return text

    @staticmethod
    def fuse(model: nn.Module, first: Tensor, text: Tensor, text_mask: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return encode_with_language(model.backbone, model.stages, first, text, text_mask), text


class MapsDecoder(LavtDecoder):
    """Hands Y_1 on as well, for a loss that compares its pixels: (images, 2 + channels, height, width)."""

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = self.join(features)
        return torch.cat([self.classifier(maps), maps], 1)


@dataclass
class LavtDecoderOutput(DecoderOutput):
    """The logits, and what the cross-modal alignment loss compares.

    Args:
        pixel_features (`torch.FloatTensor` of shape `(images, channels, height, width)`):
            Y_1, which the classifier reads, of no channels where nothing compares it; the frames of all clips are
            images in a row.
    """

    pixel_features: Tensor = ALWAYS_GIVEN


class LavtForReferringSegmentation(RefSegPreTrainedModel, Explainable):
    """LAVT for images (figure 2): language enters the visual encoder after each of its stages.

    `hidden_states` are the fused maps F_1 to F_4, then the decoder's maps Y_3 to Y_1; Y_4 is F_4. `attentions` are
    those of the pixels to the words in each stage, (batch, heads, height * width, tokens), each followed by those of
    the pixels to all pixels where `fusion_type="bidirectional"`; with `"cross_modal_alignment"` as in MagNet.

    Example:

    ```python
    >>> from hf_refseg import LavtForReferringSegmentation

    >>> model = LavtForReferringSegmentation.from_encoders(
    ...     "microsoft/swin-base-patch4-window12-384-in22k", "google-bert/bert-base-uncased", loss_type="dice"
    ... )
    ```"""

    config: LavtConfig
    _no_split_modules = ["WindowLayer", "FusionStage", "AlignedStage", "LavtDecoder", "MapsDecoder"]
    _can_record_outputs = {
        "multimodal_hidden_states": DecoderStep,
        # Those of the pyramid of the alignment module are left out.
        "multimodal_attentions": [
            OutputRecorder(AttentionKernel, index=1, layer_name=name) for name in ("language_maps", "full")
        ],
    }
    # What only the alignment loss reads, of a model that was trained with it.
    _keys_to_ignore_on_load_unexpected = [r"stages\.3\.pixels_to_text\."]
    task_classes = (*TASKS, AlignmentLoss)
    fuses_in_encoder = True
    build_backbone = staticmethod(build_stage_encoder)
    fusion_class: BuildFusion = MultiModalFusion

    def __init__(self, config: LavtConfig) -> None:
        super().__init__(config)
        self.backbone = self.build_backbone(config.backbone_config)
        self.encoding = Lockstep if config.fusion_type == "cross_modal_alignment" else OneWay
        self.text_encoder = self.encoding.build_text_encoder(config)
        self.stages = nn.ModuleList(
            build_stage(config, stage, self.fusion_class) for stage in range(len(config.stage_widths))
        )
        assert config.decoder_hidden_size is not None  # `LavtConfig` fills it in
        decoder_class = LavtDecoder if config.alignment_loss is None else MapsDecoder
        self.decoder = decoder_class(config.stage_widths[-config.num_decoder_stages :], config.decoder_hidden_size)
        self.loss_weights = {
            "cross_entropy": {"cross_entropy": 1.0},
            "dice": {"dice": 1.0},
            "dice_focal": {"dice": 1.0, "focal": 1.0},
            "dice_boundary": {"dice": 1.0, "boundary": config.boundary_loss_weight},
        }[config.loss_type]
        self.add_tasks(config.stage_widths[-1], config.text_config.hidden_size)
        self.post_init()

    def load_text_encoder(self, pretrained: PreTrainedModel) -> None:
        self.encoding.load_text_encoder(self.text_encoder, pretrained)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GateProjection):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)

    def train(self, mode: bool = True) -> "LavtForReferringSegmentation":
        super().train(mode)
        self.text_encoder.train(mode and self.config.text_dropout and not is_frozen(self.text_encoder))
        return self

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """V_1: all that the encoder computes before language enters."""
        visual, size = self.backbone.first_stage(pixel_values)
        return ImageFeatures(maps=(to_map(visual, size),), image_size=tuple(pixel_values.shape[-2:]))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The word features L (section 3.1.1), (batch, tokens, channels); with MagNet's module those of a stage."""
        return self.encoding.encode_text(self.text_encoder, input_ids, attention_mask)

    def finish_text(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """L where it meets no image; for tasks that read a sentence alone."""
        return self.encoding.finish_text(self.text_encoder, text, text_mask)

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """Language-aware visual encoding (section 3.1.1): the decoder's feature maps."""
        maps, text = self.encoding.fuse(self, image.maps[0], text, text_mask)
        return FusedFeatures(maps=maps, text_features=text, text_mask=text_mask)

    def decode(self, fused: FusedFeatures, image_size: tuple[int, ...]) -> LavtDecoderOutput:
        """Foreground minus background at the input size, (batch, height, width)."""
        decoded = self.decoder(list(fused.maps[-self.config.num_decoder_stages :]))
        background, foreground = decoded[:, :2].unbind(1)
        logits = resize((foreground - background).unsqueeze(1), image_size[-2:], align_corners=True)
        return LavtDecoderOutput(logits=logits.reshape(-1, *image_size), pixel_features=decoded[:, 2:])

    def compute_losses(self, output: DecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """The unweighted losses of the configuration's `loss_type`, each averaged over the batch."""
        return self.compare_masks(output.logits, mask_labels)

    def compare_masks(
        self, logits: Tensor, mask_labels: Tensor, is_counted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses between logits and labels of images, (images, height, width).

        `is_counted`, bool (images,), leaves some of them out.
        """
        losses: dict[str, Callable[..., Tensor]] = {
            "cross_entropy": partial(weighted_cross_entropy, class_weights=self.config.class_weights),
            "dice": two_class_dice_loss,
            "focal": two_class_focal_loss,
            "boundary": two_class_boundary_loss,
        }
        chosen = {name: loss for name, loss in losses.items() if name in self.loss_weights}
        return {name: loss(logits, mask_labels, is_counted=is_counted) for name, loss in chosen.items()}

    def explain_output(self, output: RecordedOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """The decoder's maps Y_i (figure 8), and the words that each pixel attends to in each stage."""
        if self.config.fusion_type == "cross_modal_alignment":
            maps = output.hidden_states[: len(self.stages)]
            return self.explain_decoder(output) | explain_alignment(self.config, output.attentions, maps, text_mask)
        of_words = output.attentions[:: 2 if self.config.fusion_type == "bidirectional" else 1]
        attended = enumerate(zip(of_words, output.hidden_states, strict=False), start=1)
        words = {f"word_attention_{stage}": words_of_pixels(weights, maps) for stage, (weights, maps) in attended}
        return self.explain_decoder(output) | words

    def explain_decoder(self, output: RecordedOutput) -> dict[str, Explanation]:
        """The maps Y_i, as the mean size of their values."""
        stages = len(self.stages)
        decoded = enumerate(output.hidden_states[stages - 1 :])
        return {"decoder_maps": HeatMaps({f"Y{stages - index}": maps[0].abs().mean(-3) for index, maps in decoded})}


__all__ = ["LavtConfig", "LavtForReferringSegmentation"]
