"""The 3D pixel-word attention module of video LAVT in its twelve structures, and what the paper compares it with.

Sections, tables and figures are those of LAVT's journal version (https://huggingface.co/papers/2112.02244). All
features are (batch, frames, height, width, channels).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_video_lavt import VideoLavtConfig
from .layers_refseg import PixelWordAttention, build_fusion_norm
from .modeling_lavt import ACTIVATIONS, MultiModalFusion, PooledSentence

Kernel = tuple[int, int, int]


class Design(NamedTuple):
    """The convolutions of a projection function (figure 6).

    Args:
        branches: branches side by side; the kernels of each, in the order in which they are applied.
        are_concatenated: whether the branches' outputs are concatenated, and their channels reduced, or added.
    """

    branches: tuple[tuple[Kernel, ...], ...]
    are_concatenated: bool = False


class Structure(NamedTuple):
    """A row of table 1: the designs of the projection functions omega_m, omega_q, omega_w and omega_o."""

    pixels: Design
    query: Design
    output: Design
    fused: Design


ELEMENT, TIME, SPACE, BOTH = (1, 1, 1), (3, 1, 1), (1, 3, 3), (3, 3, 3)
PLAIN = Design(((ELEMENT,),))
FULL = Design(((BOTH,),))
PAIR = Design(((BOTH,), (ELEMENT,)))
STRUCTURES = {
    1: Structure(PLAIN, PLAIN, PLAIN, PLAIN),
    2: Structure(Design(((TIME,),)), Design(((TIME,),)), PLAIN, PLAIN),
    3: Structure(Design(((SPACE,),)), Design(((SPACE,),)), PLAIN, PLAIN),
    4: Structure(FULL, FULL, PLAIN, PLAIN),
    5: Structure(Design(((SPACE, TIME),)), Design(((SPACE, TIME),)), PLAIN, PLAIN),
    6: Structure(Design(((TIME,), (SPACE,))), Design(((TIME,), (SPACE,))), PLAIN, PLAIN),
    7: Structure(PAIR, PAIR, PLAIN, PLAIN),
    8: Structure(PAIR._replace(are_concatenated=True), PAIR._replace(are_concatenated=True), PLAIN, PLAIN),
    9: Structure(FULL, FULL, FULL, FULL),
    10: Structure(PAIR, PAIR, PAIR, PLAIN),
    11: Structure(PAIR, PAIR, PLAIN, PAIR),
    12: Structure(PAIR, PAIR, PAIR, PAIR),
}


class FrameConvolution(nn.Conv3d):
    """A convolution over time and space for features with the channels last; keeps the size of the maps."""

    def __init__(self, channels: int, width: int, kernel: Kernel) -> None:
        super().__init__(channels, width, kernel, padding=tuple(extent // 2 for extent in kernel))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


def build_convolution(channels: int, width: int, kernel: Kernel) -> nn.Module:
    return nn.Linear(channels, width) if kernel == ELEMENT else FrameConvolution(channels, width, kernel)


def build_branch(channels: int, width: int, kernels: tuple[Kernel, ...]) -> nn.Sequential:
    """Convolutions one after the other, the first of which leads from `channels` to `width`."""
    inputs = [channels, *[width] * (len(kernels) - 1)]
    return nn.Sequential(
        *(build_convolution(each, width, kernel) for each, kernel in zip(inputs, kernels, strict=True))
    )


def build_norm_or_activation(channels: int, kind: str) -> nn.Module:
    return ACTIVATIONS[kind]() if kind in ACTIVATIONS else build_fusion_norm(kind, channels)


class AddedBranches(nn.Module):
    """A projection function as printed: convolutions side by side, added up, then nonlinearity or normalization.

    (Section 3.2.2, figure 6 c; table 1, "f + g".) Keeps the size of the maps.

    Args:
        channels: channels of the features.
        width: those of the result.
        design: the branches.
        finish: the nonlinearity ("gelu" or "relu") or the normalization ("instance", ...) behind the sum.
    """

    def __init__(self, channels: int, width: int, design: Design, finish: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(build_branch(channels, width, kernels) for kernels in design.branches)
        self.finish = build_norm_or_activation(width, finish)

    def join(self, outputs: list[Tensor]) -> Tensor:
        return sum(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.finish(self.join([branch(features) for branch in self.branches]))


class ConcatenatedBranches(AddedBranches):
    """The same with the outputs of the branches concatenated, and their channels reduced (figure 6 b, "f; g")."""

    def __init__(self, channels: int, width: int, design: Design, finish: str) -> None:
        super().__init__(channels, width, design, finish)
        self.reduce = nn.Linear(len(design.branches) * width, width)

    def join(self, outputs: list[Tensor]) -> Tensor:
        return self.reduce(torch.cat(outputs, -1))


class FinishedBranches(AddedBranches):
    """As in released weights: each branch has a nonlinearity or normalization of its own, and the sum has none."""

    def __init__(self, channels: int, width: int, design: Design, finish: str) -> None:
        super().__init__(channels, width, design, "none")
        for branch in self.branches:
            branch.append(build_norm_or_activation(width, finish))


class FinishedConcatenatedBranches(FinishedBranches, ConcatenatedBranches):
    """The same with the branches' outputs concatenated: it ends with the linear layer that reduces the channels."""


PROJECTIONS = {
    "paper": {False: AddedBranches, True: ConcatenatedBranches},
    "released": {False: FinishedBranches, True: FinishedConcatenatedBranches},
}


def build_projection(config: VideoLavtConfig, channels: int, width: int, design: Design, finish: str) -> AddedBranches:
    return PROJECTIONS[config.pwam_projection][design.are_concatenated](channels, width, design, finish)


class ClipWordAttention(PixelWordAttention):
    """For every position of a clip, the words that matter to it: the language maps of the 3D PWAM (section 3.2.2).

    As in `PixelWordAttention`, equations 1 to 5, with other projection functions omega_q and omega_w.
    """

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        channels, width, heads = (
            config.stage_widths[stage],
            config.fusion_widths[stage],
            config.fusion_num_heads[stage],
        )
        super().__init__(config, channels, config.text_config.hidden_size, heads, norm="none", hidden_size=width)
        structure = STRUCTURES[config.pwam_structure]
        self.query = build_projection(config, channels, width, structure.query, config.fusion_norm)  # omega_q
        self.output = build_projection(config, width, width, structure.output, config.fusion_norm)  # omega_w


class ClipPooledSentence(PooledSentence):
    """The mean of all words at every position of a clip, in the place of `ClipWordAttention` (table 5, row 3)."""

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        channels, width, heads = (
            config.stage_widths[stage],
            config.fusion_widths[stage],
            config.fusion_num_heads[stage],
        )
        super().__init__(config, channels, config.text_config.hidden_size, heads, config.fusion_norm, width)


class ClipFusion(MultiModalFusion):
    """The 3D PWAM: the multi-modal features F_i of a stage (section 3.2.2, figure 5 b; equations 6 and 7).

    Keeps the shape of the features.
    """

    LANGUAGE_MAPS = {"pixel_word": ClipWordAttention, "pooled_sentence": ClipPooledSentence}

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        nn.Module.__init__(self)
        structure, activation = STRUCTURES[config.pwam_structure], config.fusion_activation
        channels, width = config.stage_widths[stage], config.fusion_widths[stage]
        self.language_maps = self.LANGUAGE_MAPS[config.fusion_type](config, stage)
        self.project_pixels = build_projection(config, channels, width, structure.pixels, activation)  # omega_m
        self.project_fused = nn.Sequential(
            build_projection(config, width, channels, structure.fused, activation), nn.Dropout(config.fusion_dropout)
        )  # omega_o


class VisionLanguageFusion(nn.Module):
    """The vision-language fusion (VLF) of CM-FPN in the place of the 3D PWAM (section 4.3.2, table 9, "w/ VLF").

    A self-attention block, then a cross-attention block from the pixels to the words, whose result nothing multiplies
    with the visual features. The paper says no more; here a block is an attention with a residual and a layer
    normalization, and pixels attend to those of their own frame, whose keys and values are means over squares of
    pixels, as many at every stage, without which the first stage would need hundreds of times the memory of the last.
    `text_features` (batch, tokens, text_channels), `text_mask` (batch, tokens) with 1 = word.
    """

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        super().__init__()
        channels, heads = config.stage_widths[stage], config.fusion_num_heads[stage]
        self.square = 2 ** (len(config.stage_widths) - 1 - stage)
        self.self_attention = PixelWordAttention(config, channels, channels, heads, norm="none")
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = PixelWordAttention(config, channels, config.text_config.hidden_size, heads, norm="none")
        self.cross_norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor, text_features: Tensor, text_mask: Tensor) -> Tensor:
        frames = features.flatten(0, 1)
        # The squares at the right and at the bottom may be cut off.
        means = F.avg_pool2d(frames.movedim(-1, 1), self.square, ceil_mode=True).flatten(2).transpose(1, 2)
        seen = self.self_norm(frames + self.self_attention(frames, means, means.new_ones(means.shape[:2])))
        pixels = seen.view(features.shape)
        return self.cross_norm(pixels + self.cross_attention(pixels, text_features, text_mask))
