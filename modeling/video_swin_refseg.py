"""Video Swin transformer (https://huggingface.co/papers/2106.13230), cut into stages.

| paper | here |
| --- | --- |
| patches; here of one frame, as each needs its mask | `VideoSwinModel.embed` |
| a block: window attention, then a feed-forward network | `VideoSwinBlock` |
| windows over time and space, and their shift | `split_windows`, `shift_mask` |
| relative position bias over time and space | `VideoWindowAttention.position_bias` |
| patch merging, in space alone | `VideoSwinModel.merge` |
| a stage: phi_i of video LAVT | `VideoSwinModel.encode_stage` |
| start from a Swin transformer for images | `inflate_swin` (inflation_video_lavt) |

Beside it, image encoders that see the frames of a clip one by one (LAVT's journal version, table 8): `FrameStages`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_encoders_refseg import TIMM
from .configuration_video_swin_refseg import VideoSwinConfig
from .encoders_refseg import TimmStages, build_stage_encoder
from .layers_refseg import eager_attention_forward
from .saved_files_refseg import naming_damage
from .swin_refseg import APART, SwinStages


class VideoWindowAttention(ShiftedWindowAttention3d):
    """Attention within windows of several frames; the configuration says which kernel computes it.

    torchvision's, with its parameters and results, but without the index of relative positions as a buffer, which for
    windows of (8, 12, 12) would take 10 MB in each layer. Where a clip is smaller than a window, the window shrinks to
    it and is not shifted; a smaller height or width then reads the table at the places of the first positions of a
    whole window, as the published weights were trained.
    """

    config: PreTrainedConfig
    is_causal = False

    def define_relative_position_index(self) -> None:
        """Nothing: `position_bias` computes it."""

    def forward(self, features: Tensor) -> Tensor:
        """`features` (batch, frames, height, width, channels); returns the same shape."""
        size = features.shape[1:4]
        window = [min(pair) for pair in zip(self.window_size, size, strict=True)]
        shift = [
            0 if length <= extent else step
            for length, extent, step in zip(size, self.window_size, self.shift_size, strict=True)
        ]
        frames, rows, columns = ((-length) % extent for length, extent in zip(size, window, strict=True))
        padded = F.pad(features, (0, 0, 0, columns, 0, rows, 0, frames))
        padded_size = padded.shape[1:4]
        shifted = padded.roll([-step for step in shift], (1, 2, 3))
        attended = self.attend(split_windows(shifted, window), window, shift, padded_size)
        joined = join_windows(attended, window, padded)
        return joined.roll(shift, (1, 2, 3))[:, : size[0], : size[1], : size[2]]

    def attend(self, windows: Tensor, window: list[int], shift: list[int], size: Sequence[int]) -> Tensor:
        """Attention within `windows` (batch, windows, area, channels) of a clip of this padded size; same shape."""
        batch = windows.shape[0]
        query, key, value = (
            self.qkv(windows.flatten(0, 1)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        scores = self.position_bias(windows.shape[2])
        if any(shift):
            scores = scores + shift_mask(size, window, shift, scores)
            if batch > 1:
                scores = scores.repeat(batch, 1, 1, 1)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended, _ = attend(self, query, key, value, scores, dropout=dropout, scaling=query.shape[-1] ** -0.5)
        result = F.dropout(self.proj(attended.flatten(2)), self.dropout, self.training)
        return result.unflatten(0, (batch, -1))

    def position_bias(self, places: int) -> Tensor:
        """The relative position bias of the first `places` positions of a window, (1, heads, places, places)."""
        frames, height, width = self.window_size
        row, frame = 2 * width - 1, (2 * height - 1) * (2 * width - 1)
        place = torch.arange(places, device=self.relative_position_bias_table.device)
        number = place // (height * width) * frame + place // width % height * row + place % width
        center = (frames - 1) * frame + (height - 1) * row + width - 1
        return self.relative_position_bias_table[number[:, None] - number + center].permute(2, 0, 1).unsqueeze(0)


def split_windows(features: Tensor, window: Sequence[int]) -> Tensor:
    """(batch, frames, height, width, channels) as windows (batch, windows, area, channels)."""
    for axis, extent in zip((1, 3, 5), window, strict=True):
        features = features.unflatten(axis, (-1, extent))
    return features.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def join_windows(windows: Tensor, window: Sequence[int], like: Tensor) -> Tensor:
    """The inverse of `split_windows`, in the shape of `like`."""
    counts = [length // extent for length, extent in zip(like.shape[1:4], window, strict=True)]
    return windows.unflatten(2, list(window)).unflatten(1, counts).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(like.shape)


def shift_mask(size: Sequence[int], window: Sequence[int], shift: Sequence[int], like: Tensor) -> Tensor:
    """What keeps apart what a cyclic shift brings into one window: 0 or `APART`, (windows, 1, area, area)."""
    numbers = torch.zeros(1, 1, 1, 1, 1, device=like.device)
    for axis, (length, extent, step) in enumerate(zip(size, window, shift, strict=True)):
        parts = torch.zeros(length, device=like.device)
        if step:
            parts[-extent:] = 1
            parts[-step:] = 2
        numbers = 3 * numbers + parts.view([-1 if index == axis else 1 for index in range(-1, 4)])
    numbers = split_windows(numbers, window).squeeze(0).transpose(1, 2)
    return (numbers != numbers.transpose(1, 2)).to(like.dtype).mul(APART).unsqueeze(1)


class VideoSwinBlock(GradientCheckpointingLayer, SwinTransformerBlock):
    """A layer of the transformer: (batch, frames, height, width, channels), keeps the shape."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, "attn_layer": VideoWindowAttention})


class VideoSwinModel(PreTrainedModel):
    """torchvision's Video Swin transformer with patches of one frame, without its final normalization.

    It runs at once, or stage by stage so that language can enter between the stages. Features have the channels last.
    """

    config: VideoSwinConfig
    base_model_prefix = "video_swin"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["VideoSwinBlock"]
    _input_embed_layer = "patch_embed"

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__(config)
        encoder = SwinTransformer3d(
            patch_size=[1, config.patch_size, config.patch_size],
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_size=list(config.window_size),
            mlp_ratio=config.mlp_ratio,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            stochastic_depth_prob=config.drop_path_rate,
            norm_layer=nn.LayerNorm,
            block=VideoSwinBlock,
        )
        self.patch_embed = encoder.patch_embed
        self.dropout = encoder.pos_drop
        # Stages and, between them, patch mergings.
        self.features = encoder.features
        for module in self.features.modules():
            if isinstance(module, VideoWindowAttention):
                module.config = config
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv3d):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, ShiftedWindowAttention3d):
            init.trunc_normal_(module.relative_position_bias_table, std=self.config.initializer_range)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `VideoSwinModel` of the same configuration."""
        self.load_state_dict(pretrained.state_dict())

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Patches (batch, frames, height, width, channels) of clips (batch, frames, 3, height, width); odd sizes are
        padded."""
        return self.dropout(self.patch_embed(pixel_values.transpose(1, 2)))

    def run_stage(self, index: int, features: Tensor) -> Tensor:
        """The transformer layers of one stage; keeps the shape of `features`."""
        return self.features[2 * index](features)

    def merge(self, index: int, features: Tensor) -> Tensor:
        """Patch merging after a stage: half the height and width (rounded up), twice the channels."""
        return self.features[2 * index + 1](features)

    def encode_stage(self, index: int, features: Tensor) -> Tensor:
        """A whole stage: `features` are those of the stage before, for the first one the clips that `embed` takes."""
        patches = self.embed(features) if index == 0 else self.merge(index - 1, features)
        return self.run_stage(index, patches)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """The features of all stages of clips (batch, frames, 3, height, width), as `hidden_states`.

        Each is (batch, frames, height, width, channels); the last one is also the `last_hidden_state`.
        """
        features, stages = pixel_values, []
        for index in range(len(self.config.depths)):
            features = self.encode_stage(index, features)
            stages.append(features)
        return BaseModelOutput(last_hidden_state=features, hidden_states=tuple(stages))


class FrameStages(nn.Module):
    """An image encoder that sees each frame of a clip by itself, stage by stage (LAVT, table 8)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.images = build_stage_encoder(config)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained encoder of the same configuration."""
        self.images.load_encoder(pretrained)

    def encode_stage(self, index: int, features: Tensor) -> Tensor:
        """As in `VideoSwinModel`."""
        return encode_frames(self.images, index, features.flatten(0, 1)).unflatten(0, features.shape[:2])


def encode_frames(encoder: SwinStages | TimmStages, index: int, features: Tensor) -> Tensor:
    """A stage of an image encoder on frames, (frames, height, width, channels).

    `features` are those of the stage before, for the first one images (frames, 3, height, width).
    """
    if index == 0:
        tokens, size = encoder.first_stage(features)
    else:
        tokens, size = encoder.next_stage(index, features.flatten(1, 2), tuple(features.shape[1:3]))
    return tokens.unflatten(1, size)


def build_clip_encoder(config: PreTrainedConfig) -> VideoSwinModel | FrameStages:
    """An encoder of clips that is run stage by stage: a Video Swin transformer, or an image encoder for each frame."""
    return (VideoSwinModel if config.model_type == VideoSwinConfig.model_type else FrameStages)(config)


def kind_of_encoder(name_or_path: str) -> str:
    """The model type of a pretrained encoder on the Hub or on disk; "timm_backbone" of timm's.

    Raises:
        ValueError: a damaged file.
        OSError: there is no such encoder, or the Hub cannot be reached.
    """
    if name_or_path.startswith("torchvision/"):
        return VideoSwinConfig.model_type
    if name_or_path.startswith("timm/"):
        return TIMM
    with naming_damage(name_or_path, {}):
        found, _ = PreTrainedConfig.get_config_dict(name_or_path)
    return str(found.get("model_type"))


def load_pretrained_video_swin(name_or_path: str, drop_path_rate: float) -> VideoSwinModel:
    """A pretrained Video Swin transformer.

    Args:
        name_or_path: "torchvision/swin3d_t", "torchvision/swin3d_s" or "torchvision/swin3d_b" (trained on Kinetics
            400), or a folder that `VideoSwinModel.save_pretrained` wrote.
        drop_path_rate: its stochastic depth in training.

    Raises:
        ValueError: a folder or a name on the Hub that holds another model.
    """
    name = str(name_or_path)
    if name.startswith("torchvision/"):
        return video_swin_of_torchvision(
            get_model(name.removeprefix("torchvision/"), weights="DEFAULT"), drop_path_rate
        )
    with naming_damage(name, {}):
        found, _ = PreTrainedConfig.get_config_dict(name)
        model_type = found.get("model_type")
    if model_type != VideoSwinConfig.model_type:
        raise ValueError(
            f"{name} holds a model of type {model_type}, no Video Swin transformer: pass "
            '"torchvision/swin3d_b", or a folder that VideoSwinModel.save_pretrained wrote.'
        )
    with naming_damage(name, {}):
        return VideoSwinModel.from_pretrained(name, drop_path_rate=drop_path_rate)


def video_swin_of_torchvision(encoder: SwinTransformer3d, drop_path_rate: float) -> VideoSwinModel:
    """torchvision's model with patches of a single frame each.

    Their kernel is the sum of the original one over its frames, so that a still clip has the same patches as before.
    """
    stages = encoder.features[::2]
    projection, block = encoder.patch_embed.proj, stages[0][0]
    config = VideoSwinConfig(
        patch_size=projection.kernel_size[-1],
        embed_dim=projection.out_channels,
        depths=[len(stage) for stage in stages],
        num_heads=[stage[0].attn.num_heads for stage in stages],
        window_size=list(block.attn.window_size),
        mlp_ratio=block.mlp[0].out_features / projection.out_channels,
        drop_path_rate=drop_path_rate,
    )
    model = VideoSwinModel(config)
    weights = encoder.state_dict()
    weights["patch_embed.proj.weight"] = projection.weight.detach().sum(2, keepdim=True)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


# Saved folders carry the code.
VideoSwinModel.register_for_auto_class("AutoModel")

__all__ = ["VideoSwinModel"]
