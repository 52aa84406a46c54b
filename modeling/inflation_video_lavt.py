"""Video LAVT that starts from a LAVT for images: for images it computes the same."""

import copy
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_video_swin_refseg import VideoSwinConfig
from .layers_refseg import PixelWordAttention
from .modeling_lavt import MultiModalFusion, PooledSentence
from .pwam_video_lavt import AddedBranches, ClipFusion, ClipWordAttention, ConcatenatedBranches, FinishedBranches
from .video_swin_refseg import VideoSwinModel

# What a model cannot change that starts from an image model.
KEPT_FIELDS = (
    "backbone_config",
    "text_config",
    "fusion_type",
    "fusion_hidden_size",
    "fusion_num_heads",
    "fusion_activation",
    "fusion_norm",
    "language_pathway",
    "gate_activation",
    "decoder_features",
    "decoder_norm",
    "decoder_hidden_size",
)


def video_model_from_image(
    model_class: type[PreTrainedModel], image_model: PreTrainedModel, num_window_frames: int, config: dict[str, Any]
) -> PreTrainedModel:
    """A new model of this class; args and errors as in `VideoLavtForReferringSegmentation.from_image_lavt`."""
    old = image_model.config
    if old.model_type != "lavt":
        raise ValueError(f"A LAVT for images is needed to start from, got a model of type {old.model_type}.")
    if old.fusion_type not in ClipFusion.LANGUAGE_MAPS:
        raise ValueError(
            f'The image model has fusion_type="{old.fusion_type}", which models of clips do not have: start from one '
            f"with {' or '.join(ClipFusion.LANGUAGE_MAPS)}."
        )
    changed = [name for name in KEPT_FIELDS if name in config and differ(config[name], getattr(old, name))]
    if changed:
        raise ValueError(f"A model that starts from an image model keeps its {', '.join(changed)}.")
    vision = inflate_swin(image_model.backbone.model, num_window_frames)
    own_fields = {field.name for field in fields(old)} - {field.name for field in fields(PreTrainedConfig)}
    kept = {name: copy.deepcopy(getattr(old, name)) for name in own_fields}
    model = model_class(model_class.config_class(**{**kept, **config, "backbone_config": vision.config}))
    model.backbone.load_encoder(vision)
    model.load_text_encoder(image_model.text_encoder)
    model.decoder.load_state_dict(image_model.decoder.state_dict())
    for index, (ours, image) in enumerate(zip(model.stages, image_model.stages, strict=True)):
        ours.decoder_norm.load_state_dict(image.decoder_norm.state_dict())
        if old.fuses(index):
            start_fusion(ours.fusion, image.fusion)
            ours.pathway.load_state_dict(image.pathway.state_dict())
    for task in model.tasks:
        if getattr(model.config, task.name) == getattr(old, task.name):
            task.load_state_dict(getattr(image_model, task.name).state_dict())
    return model.eval()


def differ(first: object, second: object) -> bool:
    """Whether two values of a field differ; a recipe gives lists for tuples."""
    return (list(first) if isinstance(first, tuple) else first) != (
        list(second) if isinstance(second, tuple) else second
    )


@torch.no_grad()
def start_fusion(fusion: ClipFusion, image: MultiModalFusion) -> None:
    """For a single frame, starts as the fusion of an image model."""
    gain = start_language_maps(fusion.language_maps, image.language_maps)
    for ours, (linear, activation, *_), factor in (
        (fusion.project_pixels, image.project_pixels, 1.0),
        (fusion.project_fused[0], image.project_fused, 1 / gain),
    ):
        start_projection(ours, factor * linear.weight, linear.bias, activation)


def start_language_maps(maps: ClipWordAttention | PooledSentence, image: PixelWordAttention | PooledSentence) -> float:
    """Starts as the image model's language maps; returns how many times their values it gives.

    What adds up in the queries is too large by its number: the keys make up for it.
    """
    if isinstance(image, PooledSentence):
        maps.load_state_dict(image.state_dict())
        return 1.0
    queries = start_projection(maps.query, image.query.weight, image.query.bias, image.query_norm)
    maps.key.weight.copy_(image.key.weight / queries)
    maps.key.bias.copy_(image.key.bias / queries)
    maps.value.load_state_dict(image.value.state_dict())
    return start_projection(maps.output, image.output.weight, image.output.bias, image.output_norm)


def start_projection(projection: AddedBranches, weight: Tensor, bias: Tensor, finish: nn.Module) -> float:
    """Starts as a projection of an image model does to a frame; returns how many times its values it gives.

    Args:
        projection: of `ClipFusion`.
        weight: (width, channels).
        bias: (width,).
        finish: the nonlinearity or normalization behind it.
    """
    has_own = isinstance(projection, FinishedBranches)
    shares = (shares_before if has_own else shares_of_a_sum)(finish, len(projection.branches))
    for branch, share in zip(projection.branches, shares, strict=True):
        first, *others = branch[:-1] if has_own else branch
        set_center_tap(first, share * weight, share * bias)
        for convolution in others:
            set_center_tap(convolution, torch.eye(len(bias)), torch.zeros_like(bias))
    for end in [branch[-1] for branch in projection.branches] if has_own else [projection.finish]:
        end.load_state_dict(finish.state_dict())
    if isinstance(projection, ConcatenatedBranches):
        projection.reduce.weight.copy_(torch.eye(len(bias)).repeat(1, len(projection.branches)))
        projection.reduce.bias.zero_()
    return sum(shares)


def shares_of_a_sum(finish: nn.Module, branches: int) -> list[float]:
    """Shares of branches that are added up before a nonlinearity or normalization: the last of them is all."""
    return [0.0] * (branches - 1) + [1.0]


def shares_before(finish: nn.Module, branches: int) -> list[float]:
    """Shares of branches with a nonlinearity or normalization each, whose outputs are added up.

    A GELU learns from zero, so all but the last branch start there. A ReLU would not, but it takes any factor. A
    normalization behind a weight of zero would have a huge gradient: all branches start alike, and too much adds up.
    """
    if isinstance(finish, nn.ReLU):
        return [1 / branches] * branches
    return shares_of_a_sum(finish, branches) if isinstance(finish, nn.GELU) else [1.0] * branches


def set_center_tap(convolution: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """The convolution computes of each position what a linear layer with this weight and bias does."""
    convolution.weight.zero_()
    taps = convolution.weight.view(*weight.shape, -1)
    taps[..., taps.shape[-1] // 2] = weight
    convolution.bias.copy_(bias)


# From the names of transformers' Swin, in memory, to those of torchvision.
BLOCK_NAMES = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.o_proj.": "attn.proj.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}


def inflate_swin(image: PreTrainedModel, num_window_frames: int) -> VideoSwinModel:
    """A Video Swin transformer that starts from transformers' Swin transformer for images.

    On clips of one frame it computes the same where no stage has a map smaller than a window, and those of stages with
    shifted windows are larger. The tables of position biases are repeated along the time.

    Args:
        image: a `SwinModel`.
        num_window_frames: frames of a window.

    Raises:
        ValueError: another image encoder, or one with absolute positions or another activation than GELU.
    """
    old = image.config
    if old.model_type != "swin":
        raise ValueError(
            f"Video Swin starts from a Swin transformer (model_type 'swin'), got an image encoder of model_type "
            f"'{old.model_type}'."
        )
    if old.use_absolute_embeddings or old.hidden_act != "gelu":
        raise ValueError(
            "Video Swin has no absolute position embeddings and GELU as its activation, but the image encoder has "
            f"use_absolute_embeddings={old.use_absolute_embeddings} and hidden_act='{old.hidden_act}'."
        )
    config = VideoSwinConfig(
        patch_size=old.patch_size,
        embed_dim=old.embed_dim,
        depths=list(old.depths),
        num_heads=list(old.num_heads),
        window_size=[num_window_frames, old.window_size, old.window_size],
        mlp_ratio=old.mlp_ratio,
        drop_path_rate=old.drop_path_rate,
        dropout=old.hidden_dropout_prob,
        attention_dropout=old.attention_probs_dropout_prob,
    )
    weights = {
        f"patch_embed.{ours}": value
        for theirs, ours in (("patch_embeddings.projection.", "proj."), ("norm.", "norm."))
        for ours, value in renamed(image.embeddings.state_dict(), {theirs: ours}).items()
    }
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].unsqueeze(2)
    for index, stage in enumerate(image.encoder.layers):
        for layer, block in enumerate(stage.blocks):
            for name, value in inflate_block(block, num_window_frames).items():
                weights[f"features.{2 * index}.{layer}.{name}"] = value
    for index, (stage, _) in enumerate(pairwise(image.encoder.layers)):
        for name, value in stage.downsample.state_dict().items():
            weights[f"features.{2 * index + 1}.{name}"] = value
    model = VideoSwinModel(config)
    model.load_state_dict(weights)
    return model.eval()


def inflate_block(block: nn.Module, num_window_frames: int) -> dict[str, Tensor]:
    """The weights of a layer of transformers' Swin transformer as those of a `VideoSwinBlock`."""
    attention = block.attention
    table = attention.relative_position_bias.relative_position_bias_table.detach()
    weights = renamed(block.state_dict(), BLOCK_NAMES)
    weights["attn.relative_position_bias_table"] = table.repeat(2 * num_window_frames - 1, 1)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weights["attn.qkv.weight"] = torch.cat([projection.weight.detach() for projection in projections])
    zeros = table.new_zeros(attention.o_proj.out_features)
    weights["attn.qkv.bias"] = torch.cat(
        [zeros if projection.bias is None else projection.bias.detach() for projection in projections]
    )
    return weights


def renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Those of the weights whose names start with a key of `names`, with its value in the place of the key."""
    return {
        ours + name.removeprefix(theirs): value
        for theirs, ours in names.items()
        for name, value in weights.items()
        if name.startswith(theirs)
    }
