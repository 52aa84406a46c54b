"""The visual features of BTMAE: those of its image encoder alone, or of LAVT's encoder (section 3.1, table 2)."""

import math

from torch import Tensor, nn

from .configuration_btmae import BtmaeConfig
from .configuration_encoders_refseg import stage_widths
from .configuration_lavt import LavtConfig
from .encoders_refseg import build_map_encoder, build_stage_encoder
from .layers_refseg import AttentionKernel, resize, to_map
from .modeling_lavt import MultiModalFusion, build_stage, encode_with_language
from .modeling_outputs_refseg import ImageFeatures

STRIDES = (4, 8, 16, 32)


def size_at(image_size: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Height and width of the map of this stride."""
    height, width = image_size
    return math.ceil(height / stride), math.ceil(width / stride)


def require_strides(maps: tuple[Tensor, ...], image_size: tuple[int, ...]) -> None:
    """Raises ValueError where maps do not have the strides that BTMAE reads."""
    sizes = [tuple(each.shape[-2:]) for each in maps]
    expected = [size_at(image_size, stride) for stride in STRIDES]
    if sizes != expected:
        raise ValueError(
            f"BTMAE reads maps of strides {STRIDES}, here {expected}, but the image encoder gives {sizes}: choose "
            "other stages (out_indices) or another encoder."
        )


class VisualFeatures(nn.Module):
    """The maps of the encoder's stages, normalized and projected (section 3.1).

    `maps` (batch, channels, h, w) of strides 4, 8, 16 and 32; returns the first two with `hidden_size` channels, for
    the mask head, and the sum of the last three at `size` with `feature_size` channels: X_v, which is X_e.
    """

    def __init__(self, config: BtmaeConfig, widths: list[int]) -> None:
        super().__init__()
        self.token_stride = config.token_stride
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.fine = nn.ModuleList(nn.Linear(width, config.hidden_size) for width in widths[:2])
        self.fused = nn.ModuleList(nn.Linear(width, config.feature_size) for width in widths[1:])

    def forward(self, image: ImageFeatures) -> ImageFeatures:
        maps = [norm(each.permute(0, 2, 3, 1)) for norm, each in zip(self.norms, image.maps, strict=True)]
        fine = [project(each).permute(0, 3, 1, 2) for project, each in zip(self.fine, maps[:2], strict=True)]
        fused = [project(each).permute(0, 3, 1, 2) for project, each in zip(self.fused, maps[1:], strict=True)]
        size = size_at(image.image_size, self.token_stride)
        encoder_map = sum(resize(each, size, align_corners=False) for each in fused)
        return with_maps(image, (*fine, encoder_map))


class PlainEncoding(nn.Module):
    """The image encoder alone makes the visual features, before it meets any text (section 3.1).

    `backbone` is the image encoder, `visual_features` makes X_v of its maps. `encode` is what is computed of
    `pixel_values` by the encoder, `project` what of that before the text is known, and `fuse` with it.
    """

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()

    @staticmethod
    def build_backbone(config: BtmaeConfig) -> tuple[nn.Module, list[int]]:
        """The image encoder, and the channels of its maps."""
        backbone = build_map_encoder(config.backbone_config, config.num_image_maps, STRIDES)
        return backbone, backbone.widths

    def encode(self, backbone: nn.Module, pixel_values: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(backbone(pixel_values))
        require_strides(maps, tuple(pixel_values.shape[-2:]))
        return maps

    def project(self, visual_features: VisualFeatures, image: ImageFeatures) -> ImageFeatures:
        return visual_features(image)

    def fuse(
        self,
        backbone: nn.Module,
        visual_features: VisualFeatures,
        image: ImageFeatures,
        text: Tensor,
        text_mask: Tensor,
    ) -> ImageFeatures:
        return image


class LanguageAwareEncoding(nn.Module):
    """LAVT's encoder makes the visual features: language enters behind each of its stages (table 2, row e).

    Methods as in `PlainEncoding`.
    """

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        encoder = LavtConfig(
            backbone_config=config.backbone_config, text_config=config.text_config, decoder_norm="none"
        )
        self.stages = nn.ModuleList(build_stage(encoder, stage, MultiModalFusion) for stage in range(len(STRIDES)))
        for kernel in (module for module in self.stages.modules() if isinstance(module, AttentionKernel)):
            # That of the model says how attention is computed, also once it is changed.
            kernel.config = config

    @staticmethod
    def build_backbone(config: BtmaeConfig) -> tuple[nn.Module, list[int]]:
        return build_stage_encoder(config.backbone_config), stage_widths(config.backbone_config)

    def encode(self, backbone: nn.Module, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """V_1, all that the encoder computes before language enters."""
        tokens, size = backbone.first_stage(pixel_values)
        return (to_map(tokens, size),)

    def project(self, visual_features: VisualFeatures, image: ImageFeatures) -> ImageFeatures:
        return image

    def fuse(
        self,
        backbone: nn.Module,
        visual_features: VisualFeatures,
        image: ImageFeatures,
        text: Tensor,
        text_mask: Tensor,
    ) -> ImageFeatures:
        maps = encode_with_language(backbone, self.stages, image.maps[0], text, text_mask)
        require_strides(maps, image.image_size)
        return visual_features(with_maps(image, maps))


def with_maps(image: ImageFeatures, maps: tuple[Tensor, ...]) -> ImageFeatures:
    """The features of the image with other maps."""
    return ImageFeatures(maps=maps, image_size=image.image_size, pixel_values=image.pixel_values)


ENCODINGS: dict[str, type[PlainEncoding] | type[LanguageAwareEncoding]] = {
    "tokens": PlainEncoding,
    "stages": LanguageAwareEncoding,
}

__all__ = ["ENCODINGS", "VisualFeatures"]
