"""MagNet: the mask-grounded network for referring segmentation (https://huggingface.co/papers/2312.12198).

| paper | here |
| --- | --- |
| section 3.1 | `MagNetForReferringSegmentation` |
| section 3.2, figure 3 | `MaskGrounding` (mask_grounding_refseg) |
| section 3.2, the learnable mask token | `MaskToken` (mask_grounding_refseg) |
| equation 1 | `MaskGrounding` (mask_grounding_refseg), `WordTokens` (mask_grounding_refseg) |
| equation 2 | `ImageTokens` (mask_grounding_refseg) |
| equation 3 | `CenterToken` (mask_grounding_refseg) |
| equation 4 | `MaskedTokenPredictor` (mask_grounding_refseg), `reconstructed_word_loss` (losses_refseg) |
| figure 4 | `CrossModalAlignment` (cross_modal_alignment_refseg) |
| equation 5 | `encode_in_lockstep` (cross_modal_alignment_refseg) |
| equation 6 | `PyramidLevel` (cross_modal_alignment_refseg) |
| equation 7 | `CrossModalAttention` (layers_refseg) |
| equations 8 and 10 | `PixelsToText` (cross_modal_alignment_refseg) |
| equation 9 | `TextToPixels` (cross_modal_alignment_refseg), `enlarge` (cross_modal_alignment_refseg) |
| equation 11 | `PyramidPathway` (cross_modal_alignment_refseg) |
| equation 12 | `CrossModalAlignmentLoss` (alignment_loss_refseg) |
| equation 13 | `PixelToPixelAlignment` (alignment_loss_refseg), `pixel_to_pixel_loss` (losses_refseg) |
| equation 14 | `PixelToTextAlignment` (alignment_loss_refseg), `pixel_to_text_loss` (losses_refseg) |
| equation 15 | `MagNetForReferringSegmentation` |
| table 3 a | `MaskGroundingConfig` (configuration_refseg), `MaskedVisionLanguage` (mask_grounding_refseg) |
| table 3 b | `AverageToken` (mask_grounding_refseg), `CenterToken` (mask_grounding_refseg) |
| table 3 e, LAVT with the module | `AlignedStage` (modeling_lavt) |
| table 3 f, LAVT with the loss | `AlignmentLoss` (alignment_loss_refseg) |

The head is that of the released weights, a Mask2Former with one query (`MaskHead`). Where they differ from the paper,
the configuration's `cam_image` and `cam_language` choose. As released, each direction of equation 7 has projections of
its own, and what it attends to is multiplied with the features; the multi-head attention that the paper cites shares
the scores of both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import OutputRecorder

from .alignment_loss_refseg import CrossModalAlignmentLoss
from .configuration_magnet import MagNetConfig
from .cross_modal_alignment_refseg import (
    CrossModalAlignment,
    encode_in_lockstep,
    explain_alignment,
    finish_in_stages,
)
from .encoders_refseg import build_stage_encoder
from .explanations_refseg import Explainable, Explanation
from .layers_refseg import AttentionKernel, GateProjection, build_mask_bias, resize, to_map
from .losses_refseg import cross_entropy, dice_loss
from .mask2former_magnet import MaskHead
from .modeling_outputs_refseg import ALWAYS_GIVEN, DecoderOutput, FusedFeatures, ImageFeatures, RecordedOutput
from .modeling_refseg import RefSegPreTrainedModel
from .text_encoders_refseg import TextStages


@dataclass
class MagNetDecoderOutput(DecoderOutput):
    """The logits, and what the alignment losses compare.

    Args:
        mask_logits (`tuple[torch.FloatTensor]`):
            The masks of the query before and after each layer of the masked-attention decoder, (batch, 1, height,
            width) at the size of the pixel features; the last one becomes the logits.
        pixel_features (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
            What the pixel decoder makes of the fused maps, at the size of the finest of them.
        text_features (`torch.FloatTensor` of shape `(batch, tokens, channels)`): those of the fused features.
        text_mask (`torch.FloatTensor` of shape `(batch, tokens)`): the same.
    """

    mask_logits: tuple[Tensor, ...] = ALWAYS_GIVEN
    pixel_features: Tensor = ALWAYS_GIVEN
    text_features: Tensor = ALWAYS_GIVEN
    text_mask: Tensor = ALWAYS_GIVEN


class MagNetForReferringSegmentation(RefSegPreTrainedModel, Explainable):
    """MagNet (section 3): Swin and BERT in lockstep, aligned after each stage, and a Mask2Former head.

    `hidden_states` are the fused maps of the stages. `attentions` are those of the alignment modules at full
    resolution, stage by stage: of the pixels to the words, (batch, 1, positions, tokens), and, with
    `cam_language="paper"`, of the words to the pixels, (batch, 1, tokens, positions).

    Example:

    ```python
    >>> from hf_refseg import MagNetForReferringSegmentation

    >>> model = MagNetForReferringSegmentation.from_encoders(
    ...     "microsoft/swin-base-patch4-window12-384-in22k", "google-bert/bert-base-uncased"
    ... )
    ```"""

    config: MagNetConfig
    fuses_in_encoder = True
    _can_record_outputs = {
        "multimodal_hidden_states": [],
        "multimodal_attentions": OutputRecorder(AttentionKernel, index=1, layer_name="full"),
    }
    _no_split_modules = [
        *("WindowLayer", "BertEmbeddings", "BertLayer", "CrossModalAlignment", "PixelDecoder", "MaskDecoder")
    ]

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__(config)
        self.backbone = build_stage_encoder(config.backbone_config)
        self.text_encoder = TextStages(config.text_config, config.text_stage_layers)
        self.stages = nn.ModuleList(CrossModalAlignment(config, stage) for stage in range(len(config.stage_widths)))
        self.head = MaskHead(config.head_config, config.stage_widths, config.pixel_decoder_stages)
        self.mask_bias = build_mask_bias(config.mask_prior)
        self.alignment = CrossModalAlignmentLoss(
            config.alignment_losses,
            config.pixel_temperature,
            config.text_temperature,
            config.alignment_pixels,
            config.text_config.hidden_size,
            config.mask_feature_size,
        )
        self.loss_weights = {"cross_entropy": config.cross_entropy_weight, "dice": config.dice_weight}
        if config.alignment_losses:
            self.loss_weights["alignment"] = config.alignment_weight
        self.add_tasks(config.stage_widths[-1], config.text_config.hidden_size)
        self.post_init()

    def load_text_encoder(self, pretrained: PreTrainedModel) -> None:
        self.text_encoder.load_encoder(pretrained)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GateProjection):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """P_1: all that the encoder computes before language enters."""
        pixels, size = self.backbone.first_stage(pixel_values)
        return ImageFeatures(maps=(to_map(pixels, size),), image_size=tuple(pixel_values.shape[-2:]))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """O_1: the words after BERT's first stage, before the image enters, (batch, tokens, channels)."""
        return self.text_encoder.run_stage(0, self.text_encoder.embed(input_ids), attention_mask)

    def finish_text(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """The rest of BERT, without the image; for tasks that read a sentence alone."""
        return finish_in_stages(self.text_encoder, text, text_mask)

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """Both encoders in lockstep with the alignment modules (equations 5 to 11)."""
        maps, text = encode_in_lockstep(self.backbone, self.text_encoder, self.stages, image.maps[0], text, text_mask)
        return FusedFeatures(maps=maps, text_features=text, text_mask=text_mask)

    def decode(self, fused: FusedFeatures, image_size: tuple[int, ...]) -> MagNetDecoderOutput:
        """The one query's mask logits at the input size, (batch, height, width)."""
        pixels = self.head.pixel_decoder(list(fused.maps))
        scales = list(pixels.multi_scale_features[:3])
        products = self.head.transformer(scales, pixels.mask_features)
        masks = tuple(self.mask_bias(each) for each in products)
        return MagNetDecoderOutput(
            logits=resize(masks[-1], image_size, align_corners=True).squeeze(1),
            mask_logits=masks,
            pixel_features=pixels.mask_features,
            text_features=fused.text_features,
            text_mask=fused.text_mask,
        )

    def compute_losses(self, output: MagNetDecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """The unweighted losses of equation 15 but that of Mask Grounding; `alignment` is equation 12."""
        logits = output.logits
        losses = {"cross_entropy": cross_entropy(logits, mask_labels), "dice": dice_loss(logits, mask_labels)}
        if self.config.alignment_losses:
            losses["alignment"] = self.alignment(
                output.pixel_features, output.text_features, output.text_mask, mask_labels
            )
        return losses

    def explain_output(self, output: RecordedOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """The alignment of each stage (figure 4): the words that pixels attend to, and the pixels that words do."""
        return explain_alignment(self.config, output.attentions, output.hidden_states, text_mask)


__all__ = ["MagNetConfig", "MagNetForReferringSegmentation"]
