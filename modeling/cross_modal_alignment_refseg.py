"""MagNet's cross-modal alignment module, for all methods that run image and text encoder in lockstep.

Sections, equations and tables are those of its paper (https://huggingface.co/papers/2312.12198). The configuration of
a method has the fields `stage_widths`, `text_config`, `text_stage_layers`, `pyramid_scales`, `cam_image`,
`cam_language`, `cam_num_heads` and `reads_final_words`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .explanations_refseg import Explanation, pixels_of_words, words_of_pixels
from .layers_refseg import CrossModalAttention, GateProjection, PixelNorm, resize, to_map, to_tokens
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


class ReleasedPathway(nn.Module):
    """P_{i+1} as released: only what the full resolution attended to is added, times a gate, not the pyramid.

    `pixels` and `full` (batch, height * width, channels), `joined` (batch, height * width, all channels of
    Concat([Up(P_t2p^1), ...])); returns the shape of `pixels`.
    """

    def __init__(self, channels: int, joined_channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(GateProjection(channels), nn.GELU(), GateProjection(channels), nn.Tanh())

    def forward(self, pixels: Tensor, full: Tensor, joined: Tensor) -> Tensor:
        return pixels + self.gate(full) * full


class PyramidPathway(nn.Module):
    """P_{i+1} as in the paper (equation 11): what all scales attended to is added. Shapes as in `ReleasedPathway`."""

    def __init__(self, channels: int, joined_channels: int) -> None:
        super().__init__()
        # The last layer starts close to zero, so that the encoder starts close to what it was trained for.
        self.mixer = nn.Sequential(
            nn.Linear(joined_channels, channels), nn.GELU(), GateProjection(channels), nn.Tanh()
        )

    def forward(self, pixels: Tensor, full: Tensor, joined: Tensor) -> Tensor:
        return pixels + self.mixer(joined)  # equation 11


class ClosedPathway(nn.Module):
    """Of the last stage: no stage follows."""

    def forward(self, pixels: Tensor, full: Tensor, joined: Tensor) -> Tensor:
        return pixels


PATHWAYS: dict[str, type[nn.Module]] = {"paper": PyramidPathway, "released": ReleasedPathway}


class TextToPixels(nn.Module):
    """The image's side of the cross-modal alignment module (equations 7, 9 and 11).

    The features at full resolution are a scale beside those of the pyramid: without any scale the module is that of
    LAVT (table 3 e, "None"). The decoder reads what the released 2-layer perceptron makes of all of them.

    Args of `forward`: `pixels` (batch, height * width, channels), `size` (height, width), `pyramid`: P_i^k for each
    scale, `text_features` (batch, tokens, text_channels), `text_mask` (batch, tokens) with 1 = word.
    Returns the decoder's features and the next stage's input, both shaped as `pixels`.
    """

    def __init__(self, config: PreTrainedConfig, stage: int) -> None:
        super().__init__()
        channels, text_channels = config.stage_widths[stage], config.text_config.hidden_size
        levels, heads = len(config.pyramid_scales), config.cam_num_heads
        joined_channels = channels + levels * (channels // 4)
        self.scales = tuple(config.pyramid_scales)
        self.full = CrossModalAttention(config, channels, text_channels, num_heads=heads)
        self.levels = nn.ModuleList(
            CrossModalAttention(config, channels // 4, text_channels, num_heads=heads) for _ in range(levels)
        )
        self.mixer = nn.Sequential(
            nn.Linear(joined_channels, channels),
            nn.LayerNorm(channels),
            nn.Linear(channels, channels),
            nn.GELU(),
        )
        is_last = stage == len(config.stage_widths) - 1
        self.pathway = ClosedPathway() if is_last else PATHWAYS[config.cam_image](channels, joined_channels)

    def forward(
        self, pixels: Tensor, size: tuple[int, int], pyramid: list[Tensor], text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        full = self.full(pixels, text_features, text_mask)  # P_t2p, equation 7
        parts = [
            enlarge(attend(level, text_features, text_mask), scale, size)  # Up(P_t2p^k), equations 7 and 9
            for attend, level, scale in zip(self.levels, pyramid, self.scales, strict=True)
        ]
        joined = torch.cat([*parts, full], 2)  # equation 9
        return self.mixer(joined), self.pathway(pixels, full, joined)


def enlarge(tokens: Tensor, scale: int, size: tuple[int, int]) -> Tensor:
    """Up (equation 9): tokens (batch, scale * scale, channels) of a pooled map as (batch, positions, channels)."""
    return to_tokens(resize(to_map(tokens, (scale, scale)), size, align_corners=True))


class PixelsToText(nn.Module):
    """The words' side of the cross-modal alignment module, as in the paper (equations 7, 8 and 10).

    `text_features` (batch, tokens, channels); returns the same shape. `pixels` and `pyramid` are as in `TextToPixels`.
    """

    def __init__(self, config: PreTrainedConfig, stage: int) -> None:
        super().__init__()
        channels, image_channels = config.text_config.hidden_size, config.stage_widths[stage]
        levels, heads = len(config.pyramid_scales), config.cam_num_heads
        self.full = CrossModalAttention(config, channels, image_channels, num_heads=heads)
        self.levels = nn.ModuleList(
            CrossModalAttention(config, channels, image_channels // 4, num_heads=heads) for _ in range(levels)
        )
        # The last layer starts close to zero, so that BERT starts close to what it was trained for, yet not at zero.
        self.mixer = nn.Sequential(
            nn.Linear((1 + levels) * channels, channels), nn.GELU(), GateProjection(channels), nn.Tanh()
        )

    def forward(self, text_features: Tensor, text_mask: Tensor, pixels: Tensor, pyramid: list[Tensor]) -> Tensor:
        parts = [
            attend(text_features, others, others.new_ones(others.shape[:2]))  # O_p2t^k, equation 7
            for attend, others in zip([*self.levels, self.full], [*pyramid, pixels], strict=True)
        ]
        return text_features + self.mixer(torch.cat(parts, 2))  # equations 8 and 10


class ReleasedPixelsToText(nn.Module):
    """The words' side as released: no pyramid, and BERT's additive mask, 0 for words, multiplies the queries.

    All words therefore attend to all pixels alike; as values are centered, nothing of the image reaches them. In the
    published weights the gate is zero. Shapes as in `PixelsToText`.
    """

    def __init__(self, config: PreTrainedConfig, stage: int) -> None:
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


def aligns_words(config: PreTrainedConfig, stage: int) -> bool:
    """Whether the image enters the words: not where nothing reads them any more."""
    return stage < len(config.stage_widths) - 1 or config.reads_final_words


def build_pixels_to_text(config: PreTrainedConfig, stage: int) -> nn.Module:
    if not aligns_words(config, stage):
        return UnchangedWords()
    return {"paper": PixelsToText, "released": ReleasedPixelsToText}[config.cam_language](config, stage)


class CrossModalAlignment(nn.Module):
    """The cross-modal alignment module, CAM (section 3.3, figure 4), after a stage of both encoders.

    Both directions read the features from before the update. Takes the pixels P_i (batch, height * width, channels),
    their (height, width), the words O_i (batch, tokens, text_channels) and `text_mask` (batch, tokens) with 1 = word.
    Returns the decoder's features, P_{i+1} and O_{i+1}.
    """

    def __init__(self, config: PreTrainedConfig, stage: int) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList(
            PyramidLevel(config.stage_widths[stage], scale) for scale in config.pyramid_scales
        )
        self.text_to_pixels = TextToPixels(config, stage)
        self.pixels_to_text = build_pixels_to_text(config, stage)

    def forward(
        self, pixels: Tensor, size: tuple[int, int], text_features: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pyramid = [level(pixels, size) for level in self.pyramid]  # P_i^k, equation 6
        features, next_pixels = self.text_to_pixels(pixels, size, pyramid, text_features, text_mask)
        return features, next_pixels, self.pixels_to_text(text_features, text_mask, pixels, pyramid)


def encode_in_lockstep(
    backbone: nn.Module,
    text_encoder: TextStages,
    stages: nn.ModuleList,
    first: Tensor,
    text: Tensor,
    text_mask: Tensor,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Both encoders stage by stage, aligned after each (equations 5 to 11): the decoder's maps, and the words.

    Args:
        backbone: the image encoder in stages.
        text_encoder: the text encoder in stages.
        stages: the alignment modules.
        first: P_1 as a map (batch, channels, height, width).
        text: O_1, (batch, tokens, channels).
        text_mask: (batch, tokens), 1 = word.
    """
    size, pixels, maps = tuple(first.shape[-2:]), to_tokens(first), []
    for index, align in enumerate(stages):
        if index > 0:
            pixels, size = backbone.next_stage(index, pixels, size)  # P_i, equation 5
            text = text_encoder.run_stage(index, text, text_mask)  # O_i, equation 5
        features, pixels, text = align(pixels, size, text, text_mask)
        maps.append(to_map(features, size))
    return tuple(maps), text


def finish_in_stages(text_encoder: TextStages, text: Tensor, text_mask: Tensor) -> Tensor:
    """What follows the first stage of a text encoder, without the image: (batch, tokens, channels)."""
    for index in range(1, len(text_encoder.layers_of_stages)):
        text = text_encoder.run_stage(index, text, text_mask)
    return text


class Lockstep:
    """How models with the alignment module encode: the words stage by stage, along with the image."""

    @staticmethod
    def build_text_encoder(config: PreTrainedConfig) -> TextStages:
        return TextStages(config.text_config, config.text_stage_layers)

    @staticmethod
    def load_text_encoder(text_encoder: TextStages, pretrained: PreTrainedModel) -> None:
        text_encoder.load_encoder(pretrained)

    @staticmethod
    def encode_text(text_encoder: TextStages, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return text_encoder.run_stage(0, text_encoder.embed(input_ids), attention_mask)

    finish_text = staticmethod(finish_in_stages)

    @staticmethod
    def fuse(model: nn.Module, first: Tensor, text: Tensor, text_mask: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return encode_in_lockstep(model.backbone, model.text_encoder, model.stages, first, text, text_mask)


def explain_alignment(
    config: PreTrainedConfig, attentions: Sequence[Tensor], maps: Sequence[Tensor], text_mask: Tensor
) -> dict[str, Explanation]:
    """The alignment of each stage (figure 4): the words that pixels attend to, and the pixels that words do.

    `attentions` are those at full resolution, stage by stage, those of the pixels first; `maps` those of the stages.
    """
    weights = iter(attentions)
    explanations: dict[str, Explanation] = {}
    for index, of_stage in enumerate(maps):
        explanations[f"word_attention_{index + 1}"] = words_of_pixels(next(weights), of_stage)
        if config.cam_language == "paper" and aligns_words(config, index):
            explanations[f"words_to_pixels_{index + 1}"] = pixels_of_words(next(weights), of_stage, text_mask)
    return explanations
