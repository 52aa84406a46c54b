"""Image encoders by kind: those that give maps at once, and those that are run stage by stage."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoBackbone, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING
from transformers.models.sam.modeling_sam import (
    SamVisionAttention,
    SamVisionEncoder,
    SamVisionNeck,
    SamVisionSdpaAttention,
)

from .checks_refseg import names_of
from .configuration_encoders_refseg import (
    HIERARCHICAL_ENCODERS,
    PLAIN_ENCODERS,
    TIMM,
    WITHOUT_INDICES,
    is_plain,
    last_layers,
    map_indices,
    timm_features,
)
from .layers_refseg import resize, to_map
from .pretrained_refseg import load_encoder_weights, model_class_of, read_encoder_config, without_pooling
from .saved_files_refseg import naming_damage
from .swin_refseg import SwinMaps, SwinStages, pad_to_patches


class SamAttention(SamVisionSdpaAttention):
    """SAM's attention, whose kernel may change after the model was built."""

    def __init__(self, config: PreTrainedConfig, window_size: int) -> None:
        super().__init__(config, window_size)
        self.config = config

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        if self.config._attn_implementation == "eager":
            return SamVisionAttention.forward(self, hidden_states, output_attentions)
        return super().forward(hidden_states, output_attentions)


class SamStages(SamVisionEncoder):
    """transformers' SAM image encoder up to a block, without the neck; shapes as in `SamMaps`.

    Args:
        config: its configuration.
        blocks: the blocks whose outputs `forward` returns, in their order.
    """

    layers: nn.ModuleList

    def __init__(self, config: PreTrainedConfig, blocks: list[int]) -> None:
        super().__init__(config)
        self.blocks = blocks
        self.layers = self.layers[: blocks[-1] + 1]
        for layer in self.layers:
            layer.attn = SamAttention(config, layer.window_size)
        self.neck = nn.Identity()

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        features = self.patch_embed(pixel_values)
        if self.pos_embed is not None:
            features = features + self.pos_embed
        maps = []
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index in self.blocks:
                maps.append(features.permute(0, 3, 1, 2))
        return maps


class SamStagesWithNeck(SamStages):
    """All of transformers' SAM image encoder; `forward` returns what the neck makes of the last block, in a list."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config, [config.num_hidden_layers - 1])
        self.neck = SamVisionNeck(config)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        (features,) = super().forward(pixel_values)
        return [self.neck(features.permute(0, 2, 3, 1))]


@torch.no_grad()
def require_shape(module: nn.Module, shape: Sequence[int], problem: str) -> None:
    """Raises ValueError, which names the problem, where a module takes no features of a shape; nothing is computed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    without_values = {name: tensor.to("meta") for name, tensor in tensors.items()}
    features = torch.empty(shape, dtype=next(module.parameters()).dtype, device="meta")
    try:
        functional_call(module, without_values, features)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{problem} ({reason}). Set the image processor's size to one that it takes, as that of its pretraining, "
            "or choose another image encoder."
        ) from error


class MapEncoder(nn.Module):
    """An image encoder of transformers' or timm's, called `model`, that gives feature maps.

    `forward` takes images (batch, 3, height, width) and returns maps (batch, channels, height, width), finest first;
    `widths` are their channels. Raises ValueError for images of a size that the encoder cannot take.
    """

    model: PreTrainedModel
    widths: list[int]

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained encoder of the same configuration, all that is used here."""
        load_encoder_weights(self.model, pretrained)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        try:
            return self.encode(pixel_values)
        # What libraries raise for a size is as various as their models; they raise the same for other reasons, too.
        except (AssertionError, RuntimeError):
            if not pixel_values.is_meta:
                self.require_size(*pixel_values.shape[-2:])
            raise

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        """What `forward` returns, with the errors of the library that the encoder is from."""
        raise NotImplementedError

    def require_size(self, height: int, width: int) -> None:
        """Raises ValueError where the encoder takes no images of this size; nothing is computed."""
        # Of two images: in training, normalization over a batch needs more than one value.
        require_shape(self, (2, 3, height, width), f"{self.name} cannot take images of {height} x {width} pixels")

    @property
    def name(self) -> str:
        """What errors call the encoder."""
        return f"The image encoder '{self.model.config.model_type}'"


class SamImages(MapEncoder):
    """transformers' SAM image encoder, cut or whole; it takes images of the configured size alone."""

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        self.require_size(*pixel_values.shape[-2:])
        return self.model.vision_encoder(pixel_values)

    def require_size(self, height: int, width: int) -> None:
        expected = self.model.vision_encoder.image_size
        if (height, width) != (expected, expected):
            raise ValueError(
                f"This model takes images of {expected} x {expected} pixels, got {height} x {width}: set the image "
                f'processor\'s size to {{"longest_edge": {expected}}}.'
            )


class SamMaps(SamImages):
    """transformers' SAM image encoder up to its fourth global-attention block, without the neck.

    Its maps are the outputs of the last `number` of the first four blocks with global attention, each (batch,
    channels, height / patch, width / patch).
    """

    def __init__(self, config: PreTrainedConfig, number: int) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config)
        blocks = list(config.global_attn_indexes[4 - number : 4])
        self.widths = [config.hidden_size] * number
        self.model.vision_encoder = SamStages(config, blocks)


class SamNeckMap(SamImages):
    """transformers' whole SAM image encoder: the one map that its neck makes of the last block."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config)
        self.widths = [config.output_channels]
        self.model.vision_encoder = SamStagesWithNeck(config)


class Sam2Maps(MapEncoder):
    """transformers' SAM 2 image encoder without its neck: the maps of its last `number` stages.

    Images are padded to whole windows of its position embeddings, the maps cut to what is no padding.
    """

    def __init__(self, config: PreTrainedConfig, number: int) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config)
        self.model.neck = nn.Identity()
        trunk = config.backbone_config
        self.widths = list(trunk.embed_dim_per_stage[-number:])
        self.stride, self.window = trunk.patch_stride[0], trunk.window_size_per_stage[0]

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        size = pixel_values.shape[-2:]
        stages = self.model.backbone(
            pad_to_patches(pixel_values, self.stride * self.window)
        ).intermediate_hidden_states
        strides = [self.stride * 2**stage for stage in range(len(stages))]
        maps = [
            features[:, : math.ceil(size[0] / stride), : math.ceil(size[1] / stride)].permute(0, 3, 1, 2)
            for features, stride in zip(stages, strides, strict=True)
        ]
        return maps[-len(self.widths) :]


class LayerMaps(MapEncoder):
    """An image tower like CLIP's or SigLIP's: the outputs of `number` layers, as far from each other as can be."""

    def __init__(self, config: PreTrainedConfig, number: int) -> None:
        super().__init__()
        self.model = model_class_of(config)(config)
        # Nothing here reads the one vector that they make of an image.
        self.model.post_layernorm = self.model.head = nn.Identity()
        self.layers = last_layers(config.num_hidden_layers, number)
        self.widths = [config.hidden_size] * number

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        images = pad_to_patches(pixel_values, self.model.config.patch_size)
        size = tuple(length // self.model.config.patch_size for length in images.shape[-2:])
        output = self.model(images, output_hidden_states=True, interpolate_pos_encoding=True)
        # A class token may stand before the patches.
        patches = (output.hidden_states[layer][:, -size[0] * size[1] :] for layer in self.layers)
        return [features.transpose(1, 2).unflatten(2, size) for features in patches]


class BackboneMaps(MapEncoder):
    """A backbone of transformers'; its configuration's `out_indices` say which stages or layers give maps.

    Images are padded to whole patches where the backbone is a plain vision transformer.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model = AutoBackbone.from_config(config)
        self.widths = list(self.model.channels)
        self.patch = config.patch_size if is_plain(config) else 1

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        return list(self.model(pad_to_patches(pixel_values, self.patch)).feature_maps)


class SyncBatchNormActivation(nn.SyncBatchNorm):
    """What a batch norm of timm's that holds an activation becomes where processes share their statistics."""

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(features)))


class TimmEncoder(MapEncoder):
    """A timm backbone; its configuration's `out_indices` say which stages or layers are read."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        features = timm_features(config.backbone)
        self.model = AutoBackbone.from_config(config, **features.options)
        self.widths = list(self.model.channels)
        self.patch = features.patch
        self.has_channels_last = features.has_channels_last
        for module in self.model.modules():
            # Some attention reads the weights of its projections past their forward, where no adapter would count.
            if "qkv_bias_separate" in vars(module):
                module.qkv_bias_separate = True

    @property
    def name(self) -> str:
        return f"timm's {self.model.config.backbone}"

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As in PyTorch, whose `SyncBatchNorm.convert_sync_batchnorm` puts the converted backbone back by this method.

        It drops the activations inside timm's batch norms; here they come into effect again.
        """
        if module is not None:
            for norm in module.modules():
                # PyTorch's own has no parts: these are the activation and the dropout of timm's.
                if type(norm) is nn.SyncBatchNorm and any(norm.children()):
                    norm.__class__ = SyncBatchNormActivation
        super().add_module(name, module)


class TimmMaps(TimmEncoder):
    """The maps of a timm backbone."""

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.model(pad_to_patches(pixel_values, self.patch)).feature_maps
        return [features.permute(0, 3, 1, 2) if self.has_channels_last else features for features in maps]


class TimmStages(TimmEncoder):
    """A timm backbone that is a sequence of modules, run stage by stage, as `SwinStages` is."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        network = self.model._backbone
        names = list(network)
        ends = [names.index(name) + 1 for name in network.return_layers]
        self.modules_of_stages = [slice(first, last) for first, last in pairwise([0, *ends])]

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        """The maps of all stages, one after the other."""
        tokens, size = self.first_stage(pixel_values)
        maps = [to_map(tokens, size)]
        for index in range(1, len(self.modules_of_stages)):
            tokens, size = self.next_stage(index, tokens, size)
            maps.append(to_map(tokens, size))
        return maps

    def first_stage(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """As in `SwinStages`."""
        return self.run_modules(0, pad_to_patches(pixel_values, self.patch))

    def next_stage(self, index: int, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """As in `SwinStages`."""
        return self.run_modules(index, tokens.unflatten(1, size) if self.has_channels_last else to_map(tokens, size))

    def run_modules(self, index: int, features: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The modules of a stage; `features` are as timm lays them out.

        Raises:
            ValueError: they cannot take a map of this size.
        """
        modules, maps = list(self.model._backbone.values())[self.modules_of_stages[index]], features
        try:
            for module in modules:
                maps = module(maps)
        except (AssertionError, RuntimeError):
            if not features.is_meta:
                name = f"Stage {index + 1} of {self.name}"
                require_shape(
                    nn.Sequential(*modules), features.shape, f"{name} cannot take what images of this size become"
                )
            raise
        maps = maps if self.has_channels_last else maps.permute(0, 2, 3, 1)
        return maps.flatten(1, 2), tuple(maps.shape[1:3])


class ResizedMaps(nn.Module):
    """Maps of an encoder that all have one stride, resized to those that a method reads, without any weight.

    Of a plain vision transformer the finest come from the earliest layers, as in dense prediction transformers (DPT).
    """

    def __init__(self, encoder: MapEncoder | SwinMaps, strides: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.widths = encoder.widths
        self.strides = tuple(strides)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """As in `MapEncoder`."""
        self.encoder.load_encoder(pretrained)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        height, width = pixel_values.shape[-2:]
        sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in self.strides]
        maps = self.encoder(pixel_values)
        return [resize(features, size, align_corners=False) for features, size in zip(maps, sizes, strict=True)]


# By model type; of all others transformers has a backbone.
MAP_ENCODERS: dict[str, Callable[[PreTrainedConfig, int], MapEncoder | SwinMaps]] = {
    "clip_vision_model": LayerMaps,
    "sam2_vision_model": Sam2Maps,
    "sam_vision_model": SamMaps,
    "siglip_vision_model": LayerMaps,
    "swin": SwinMaps,
}


def build_map_encoder(
    config: PreTrainedConfig, number: int, strides: Sequence[int] | None = None
) -> MapEncoder | SwinMaps | ResizedMaps:
    """An image encoder that gives so many feature maps at once, finest first.

    Args:
        config: its configuration, which `require_maps` accepts.
        number: of maps.
        strides: for each map the pixels along the side of a feature; an encoder whose maps all have one stride has
            them resized, of others they are what they are.
    """
    kind = config.model_type
    if kind in MAP_ENCODERS:
        encoder = MAP_ENCODERS[kind](config, number)
    else:
        encoder = (TimmMaps if kind == TIMM else BackboneMaps)(config)
    return encoder if strides is None or not is_plain(config) else ResizedMaps(encoder, strides)


def build_stage_encoder(config: PreTrainedConfig) -> SwinStages | TimmStages:
    """An image encoder that is run stage by stage, of a configuration which `require_stages` accepts."""
    return (TimmStages if config.model_type == TIMM else SwinStages)(config)


def load_image_encoder(
    name_or_path: str, number: int, drop_path_rate: float | None, default: float | None
) -> PreTrainedModel:
    """A pretrained image encoder that gives so many maps or stages.

    Args:
        name_or_path: on the Hub or on disk, or "timm/NAME".
        number: of the maps that are read.
        drop_path_rate: its stochastic depth in training.
        default: the stochastic depth where `drop_path_rate` is None; None for the encoder's own.

    Raises:
        ValueError: a `drop_path_rate` for an encoder that takes none, a damaged file.
        OSError: there is no such encoder, or the Hub cannot be reached.
    """
    config = read_encoder_config(name_or_path, "vision_config")
    set_drop_path(config, name_or_path, drop_path_rate, default)
    if config.model_type == TIMM:
        # Here, not above: timm would cost everyone who imports this library a tenth of a second.
        from transformers import TimmBackbone

        return TimmBackbone.from_pretrained(
            config.backbone, out_indices=map_indices(config, number), **timm_features(config.backbone).options
        )
    if config.model_type in {*PLAIN_ENCODERS, *HIERARCHICAL_ENCODERS} - {*WITHOUT_INDICES}:
        config.out_indices = map_indices(config, number)
        # Not by `AutoBackbone`, which asks the Hub even for what lies on the disk.
        model_class = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    else:
        model_class = model_class_of(config)
    with naming_damage(name_or_path, {}):
        return model_class.from_pretrained(name_or_path, config=config, **without_pooling(model_class))


def set_drop_path(config: PreTrainedConfig, name: str, rate: float | None, default: float | None) -> None:
    """Sets the stochastic depth of an image encoder; arguments and errors as in `load_image_encoder`."""
    if "drop_path_rate" not in names_of(type(config)):
        if rate is not None:
            raise ValueError(f"drop_path_rate: {name} has no stochastic depth: leave it out.")
    elif rate is not None or default is not None:
        config.drop_path_rate = default if rate is None else rate
