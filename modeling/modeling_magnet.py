"""MagNet: the mask-grounded network for referring segmentation (https://huggingface.co/papers/2312.12198).

Where the released weights differ from the paper they are followed for the image and the head; for the words the
configuration's `cam_language` chooses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import OutputRecorder

from .configuration_magnet import MagNetConfig
from .encoders_refseg import build_stage_encoder
from .explanations_refseg import Explainable, Explanation, pixels_of_words, words_of_pixels
from .layers_refseg import (
    AttentionKernel,
    CrossModalAttention,
    GateProjection,
    PixelNorm,
    generator_of_draws,
    masked_mean,
    resize,
    to_map,
    to_tokens,
)
from .losses_refseg import cross_entropy, dice_loss, pixel_to_pixel_loss, pixel_to_text_loss
from .mask2former_magnet import MaskHead
from .modeling_outputs_refseg import DecoderOutput, FusedFeatures, ImageFeatures, ReferringSegmentationOutput
from .modeling_refseg import RefSegPreTrainedModel
from .text_encoders_refseg import TextStages


class PyramidLevel(nn.Module):
    """The image pooled to a few positions, and a 3-layer MLP on them: P_i^k (equation 6).

    `pixels` (batch, height * width, channels), `size` (height, width); returns (batch, scale * scale, channels / 4).
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels, bias=False),
            nn.LayerNorm(4 * channels, eps=1e-6),
            nn.Linear(4 * channels, channels, bias=False),
            nn.GELU(),
            nn.Linear(channels, channels // 4, bias=False),
        )

    def forward(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        pooled = F.adaptive_avg_pool2d(to_map(pixels, size), self.scale)
        return self.mlp(to_tokens(pooled))


class OpenPathway(nn.Module):
    """The image features on their way into the next stage, with gated language features (equation 11).

    As released, only what the full resolution attended to is added, not the pyramid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(GateProjection(channels), nn.GELU(), GateProjection(channels), nn.Tanh())

    def forward(self, pixels: Tensor, fused: Tensor) -> Tensor:
        return pixels + self.gate(fused) * fused


class ClosedPathway(nn.Module):
    """Of the last stage: no stage follows."""

    def forward(self, pixels: Tensor, fused: Tensor) -> Tensor:
        return pixels


class TextToPixels(nn.Module):
    """The image's side of the cross-modal alignment module (equations 7, 9 and 11).

    Args of `forward`: `pixels` (batch, height * width, channels), `size` (height, width), `pyramid`: P_i^k for each
    scale, `text_features` (batch, tokens, text_channels), `text_mask` (batch, tokens) with 1 = word.
    Returns the decoder's features and the next stage's input, both shaped as `pixels`.
    """

    def __init__(self, config: MagNetConfig, stage: int) -> None:
        super().__init__()
        channels, text_channels = config.stage_widths[stage], config.text_config.hidden_size
        levels = len(config.pyramid_scales)
        self.scales = tuple(config.pyramid_scales)
        self.full = CrossModalAttention(config, channels, text_channels)
        self.levels = nn.ModuleList(CrossModalAttention(config, channels // 4, text_channels) for _ in range(levels))
        self.mixer = nn.Sequential(
            nn.Linear(channels + levels * (channels // 4), channels),
            nn.LayerNorm(channels),
            nn.Linear(channels, channels),
            nn.GELU(),
        )
        is_last = stage == len(config.stage_widths) - 1
        self.pathway = ClosedPathway() if is_last else OpenPathway(channels)

    def forward(
        self, pixels: Tensor, size: tuple[int, int], pyramid: list[Tensor], text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        full = self.full(pixels, text_features, text_mask)
        parts = [
            enlarge(attend(level, text_features, text_mask), scale, size)
            for attend, level, scale in zip(self.levels, pyramid, self.scales, strict=True)
        ]
        return self.mixer(torch.cat([*parts, full], 2)), self.pathway(pixels, full)


def enlarge(tokens: Tensor, scale: int, size: tuple[int, int]) -> Tensor:
    """Tokens (batch, scale * scale, channels) of a pooled map, resized to (batch, height * width, channels)."""
    return to_tokens(resize(to_map(tokens, (scale, scale)), size, align_corners=True))


class PixelsToText(nn.Module):
    """The words' side of the cross-modal alignment module, as in the paper (equations 7, 8 and 10).

    `text_features` (batch, tokens, channels); returns the same shape. `pixels` and `pyramid` are as in `TextToPixels`.
    """

    def __init__(self, config: MagNetConfig, stage: int) -> None:
        super().__init__()
        channels, image_channels = config.text_config.hidden_size, config.stage_widths[stage]
        levels = len(config.pyramid_scales)
        self.full = CrossModalAttention(config, channels, image_channels)
        self.levels = nn.ModuleList(CrossModalAttention(config, channels, image_channels // 4) for _ in range(levels))
        # The last layer starts close to zero, so that BERT starts close to what it was trained for, yet not at zero.
        self.mixer = nn.Sequential(
            nn.Linear((1 + levels) * channels, channels), nn.GELU(), GateProjection(channels), nn.Tanh()
        )

    def forward(self, text_features: Tensor, text_mask: Tensor, pixels: Tensor, pyramid: list[Tensor]) -> Tensor:
        parts = [
            attend(text_features, others, others.new_ones(others.shape[:2]))
            for attend, others in zip([*self.levels, self.full], [*pyramid, pixels], strict=True)
        ]
        return text_features + self.mixer(torch.cat(parts, 2))  # equation 10


class ReleasedPixelsToText(nn.Module):
    """The words' side as released: no pyramid, and BERT's additive mask, 0 for words, multiplies the queries.

    All words therefore attend to all pixels alike; as values are centered, nothing of the image reaches them. In the
    published weights the gate is zero. Shapes as in `PixelsToText`.
    """

    def __init__(self, config: MagNetConfig, stage: int) -> None:
        super().__init__()
        channels, image_channels = config.text_config.hidden_size, config.stage_widths[stage]
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(image_channels, channels)
        self.value = nn.Linear(image_channels, channels)
        self.output = nn.Linear(channels, channels)
        self.norm = PixelNorm(nn.InstanceNorm1d(channels))
        self.project_words = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.project_fused = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.gate = nn.Sequential(GateProjection(channels), nn.ReLU(), GateProjection(channels), nn.Tanh())

    def forward(self, text_features: Tensor, text_mask: Tensor, pixels: Tensor, pyramid: list[Tensor]) -> Tensor:
        additive_mask = (1e4 * text_mask - 1e4).unsqueeze(-1)
        query = self.query(text_features) * additive_mask
        key, value = self.norm(self.key(pixels)), self.norm(self.value(pixels))
        scores = text_features.shape[-1] ** -0.5 * (query @ key.transpose(1, 2))
        # Large enough to round the scores of padding, on which the numbers depend.
        scores = scores + (1e4 * additive_mask - 1e4)
        attended = self.norm(self.output(scores.softmax(-1) @ value))
        fused = self.project_fused(self.project_words(text_features) * attended)
        return text_features + self.gate(fused) * fused


class UnchangedWords(nn.Module):
    """Of the last stage where nothing reads its words."""

    def forward(self, text_features: Tensor, text_mask: Tensor, pixels: Tensor, pyramid: list[Tensor]) -> Tensor:
        return text_features


def aligns_words(config: MagNetConfig, stage: int) -> bool:
    """Whether the image enters the words: not where nothing reads them any more."""
    return stage < len(config.stage_widths) - 1 or config.reads_final_words


def build_pixels_to_text(config: MagNetConfig, stage: int) -> nn.Module:
    if not aligns_words(config, stage):
        return UnchangedWords()
    return {"paper": PixelsToText, "released": ReleasedPixelsToText}[config.cam_language](config, stage)


class CrossModalAlignment(nn.Module):
    """The cross-modal alignment module, CAM (section 3.3), after a stage of both encoders.

    Both directions read the features from before the update. Takes the pixels P_i (batch, height * width, channels),
    their (height, width), the words O_i (batch, tokens, text_channels) and `text_mask` (batch, tokens) with 1 = word.
    Returns the decoder's features, P_{i+1} and O_{i+1}.
    """

    def __init__(self, config: MagNetConfig, stage: int) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList(
            PyramidLevel(config.stage_widths[stage], scale) for scale in config.pyramid_scales
        )
        self.text_to_pixels = TextToPixels(config, stage)
        self.pixels_to_text = build_pixels_to_text(config, stage)

    def forward(
        self, pixels: Tensor, size: tuple[int, int], text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pyramid = [level(pixels, size) for level in self.pyramid]
        features, next_pixels = self.text_to_pixels(pixels, size, pyramid, text_features, text_mask)
        return features, next_pixels, self.pixels_to_text(text_features, text_mask, pixels, pyramid)


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

    mask_logits: tuple[Tensor, ...] | None = None
    pixel_features: Tensor | None = None
    text_features: Tensor | None = None
    text_mask: Tensor | None = None


class PixelToPixelAlignment(nn.Module):
    """L_P2P of the cross-modal alignment loss (equation 13)."""

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: MagNetDecoderOutput, mask_labels: Tensor) -> Tensor:
        pixels, config = output.pixel_features, self.config
        generator = generator_of_draws(self.training, pixels.device)
        return pixel_to_pixel_loss(pixels, mask_labels, config.pixel_temperature, config.alignment_pixels, generator)


class PixelToTextAlignment(nn.Module):
    """L_P2T of the cross-modal alignment loss (equation 14), with the projection of the mean word."""

    def __init__(self, config: MagNetConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.text_config.hidden_size, config.mask_feature_size)

    def forward(self, output: MagNetDecoderOutput, mask_labels: Tensor) -> Tensor:
        pixels, config = output.pixel_features, self.config
        sentences = self.projection(masked_mean(output.text_features, output.text_mask))
        generator = generator_of_draws(self.training, pixels.device)
        return pixel_to_text_loss(
            pixels, sentences, mask_labels, config.text_temperature, config.alignment_pixels, generator
        )


ALIGNMENT_LOSSES = {"pixel_to_pixel": PixelToPixelAlignment, "pixel_to_text": PixelToTextAlignment}


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
        self.head = MaskHead(config.head_config, config.stage_widths)
        self.alignment = nn.ModuleDict({name: ALIGNMENT_LOSSES[name](config) for name in config.alignment_losses})
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
        for index in range(1, len(self.stages)):
            text = self.text_encoder.run_stage(index, text, text_mask)
        return text

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """Both encoders in lockstep with the alignment modules (equations 5 to 11)."""
        (pixels,) = image.maps
        size, pixels, maps = tuple(pixels.shape[-2:]), to_tokens(pixels), []
        for index, align in enumerate(self.stages):
            if index > 0:
                pixels, size = self.backbone.next_stage(index, pixels, size)
                text = self.text_encoder.run_stage(index, text, text_mask)
            features, pixels, text = align(pixels, size, text, text_mask)
            maps.append(to_map(features, size))
        return FusedFeatures(maps=tuple(maps), text_features=text, text_mask=text_mask)

    def decode(self, fused: FusedFeatures, image_size: tuple[int, int]) -> MagNetDecoderOutput:
        """The one query's mask logits at the input size, (batch, height, width)."""
        pixels = self.head.pixel_decoder(list(fused.maps))
        scales = list(pixels.multi_scale_features[:3])
        masks = self.head.transformer(scales, pixels.mask_features).masks_queries_logits
        return MagNetDecoderOutput(
            logits=resize(masks[-1], image_size, align_corners=True).squeeze(1),
            mask_logits=tuple(masks),
            pixel_features=pixels.mask_features,
            text_features=fused.text_features,
            text_mask=fused.text_mask,
        )

    def compute_losses(self, output: MagNetDecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """The unweighted losses of equation 15 but that of Mask Grounding; `alignment` is equation 12."""
        logits = output.logits
        losses = {"cross_entropy": cross_entropy(logits, mask_labels), "dice": dice_loss(logits, mask_labels)}
        if self.config.alignment_losses:
            losses["alignment"] = sum(half(output, mask_labels) for half in self.alignment.values())
        return losses

    def explain_output(self, output: ReferringSegmentationOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """The alignment of each stage (figure 4): the words that pixels attend to, and the pixels that words do."""
        config, attentions, explanations = self.config, iter(output.attentions), {}
        for index, maps in enumerate(output.hidden_states):
            explanations[f"word_attention_{index + 1}"] = words_of_pixels(next(attentions), maps)
            if config.cam_language == "paper" and aligns_words(config, index):
                explanations[f"words_to_pixels_{index + 1}"] = pixels_of_words(next(attentions), maps, text_mask)
        return explanations


__all__ = ["MagNetConfig", "MagNetForReferringSegmentation"]
