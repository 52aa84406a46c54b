"""What the configurations of encoders say, whatever each of them calls it, and which of them a method can read."""

import inspect
import sys
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from .checks_refseg import names_of

# Image encoders by model type: those whose maps all have one stride; the others have stages, each of which halves the
# size of the one before. Of timm's the model tells.
PLAIN_ENCODERS = (
    "clip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "sam_vision_model",
    "siglip_vision_model",
)
HIERARCHICAL_ENCODERS = (
    "convnext",
    "convnextv2",
    "dinov3_convnext",
    "pvt_v2",
    "resnet",
    "sam2_vision_model",
    "swin",
    "swinv2",
)
TIMM = "timm_backbone"
# The text encoder that is ours.
RECURRENT_TEXT = "refseg_recurrent_text"
# Which maps these give is not said by `out_indices`.
WITHOUT_INDICES = ("clip_vision_model", "sam2_vision_model", "sam_vision_model", "siglip_vision_model", "swin")
# Text encoders whose first position lies one behind the number of the padding token.
OFFSET_POSITIONS = (
    "altclip_text_model",
    "camembert",
    "clap_text_model",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
FIRST_BLOCK = {1: "fourth", 2: "third", 3: "second", 4: "first"}
BERT_BASE = SubConfigSpec(config_class=AutoConfig, model_type="bert")


def swin_b(drop_path_rate: float) -> SubConfigSpec:
    """Swin-B with window 12 at 480 pixels, with this stochastic depth: the image encoder of several papers."""
    return SubConfigSpec(
        config_class=AutoConfig,
        model_type="swin",
        init_kwargs={
            "image_size": 480,
            "embed_dim": 128,
            "depths": [2, 2, 18, 2],
            "num_heads": [4, 8, 16, 32],
            "window_size": 12,
            "drop_path_rate": drop_path_rate,
        },
    )


class TextLayers(NamedTuple):
    """Where the layers of a text encoder lie that take features and a mask alone.

    Args:
        path: of their list.
        last_norm: name of the normalization behind the last of them, where there is one.
        is_causal: whether each word sees those before it alone.
    """

    path: str
    last_norm: str | None = None
    is_causal: bool = False


TEXT_LAYERS = {
    **dict.fromkeys(("bert", "camembert", "roberta", "xlm-roberta"), TextLayers("encoder.layer")),
    "distilbert": TextLayers("transformer.layer"),
    "clip_text_model": TextLayers("encoder.layers", "final_layer_norm", is_causal=True),
    "siglip_text_model": TextLayers("encoder.layers", "final_layer_norm"),
}


def require_text_layers(config: PreTrainedConfig, method: str) -> None:
    """Raises ValueError where nothing can enter between the layers of a text encoder."""
    if config.model_type not in TEXT_LAYERS:
        raise ValueError(
            f"text_config: {method} changes the words between the layers of the text encoder, got model_type "
            f"'{config.model_type}', whose layers take more than words and their mask. Those that fit are "
            f"{', '.join(sorted(TEXT_LAYERS))}."
        )


def require_text_encoder(config: PreTrainedConfig) -> None:
    """Raises ValueError where a configuration is not that of an encoder of texts alone."""
    kind = config.model_type
    if "text_config" in config.sub_configs:
        raise ValueError(f"text_config: '{kind}' holds an encoder of images as well: pass its text_config alone.")
    if config.is_encoder_decoder and kind not in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        raise ValueError(
            f"text_config: of '{kind}' transformers has no encoder without its decoder: choose an encoder, as BERT or "
            "T5's."
        )
    missing = {"vocab_size", "hidden_size"} - names_of(type(config))
    if missing:
        raise ValueError(
            f"text_config: '{kind}' is no text encoder: its configuration has no {' and no '.join(sorted(missing))}."
        )


def longest_text(config: PreTrainedConfig) -> int:
    """Most tokens of a text that a text encoder has positions for; one with relative positions takes any number."""
    if "max_position_embeddings" not in names_of(type(config)):
        return sys.maxsize
    first = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    return config.max_position_embeddings - first


class TimmFeatures(NamedTuple):
    """What timm says of the features of one of its models, those of all stages or layers, the first of them first.

    Args:
        widths: the channels of each.
        strides: the pixels along the side of a feature of each.
        can_be_cut: whether the model is a sequence of modules, which can be run in parts.
        has_channels_last: whether the channels are the last axis of the features.
        options: what it takes to be built for images of any size.
        patch: the pixels of which the sides of images have to be multiples, where it does not pad them itself.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    can_be_cut: bool
    has_channels_last: bool
    options: dict[str, bool]
    patch: int

    @property
    def is_plain(self) -> bool:
        """Whether all features have one stride, as those of a plain vision transformer."""
        return len(set(self.strides)) == 1


@lru_cache
def timm_features(name: str) -> TimmFeatures:
    """What timm says of the features of the model of this name; no weight of it is made."""
    # Here, not above: timm would cost everyone who imports this library a tenth of a second.
    import timm
    from timm.models import FeatureListNet

    with torch.device("meta"):
        model = timm.create_model(name)
        network = timm.create_model(name, features_only=True)
    arguments = inspect.signature(type(model)).parameters
    strides = tuple(stage["reduction"] for stage in model.feature_info)
    is_plain = len(set(strides)) == 1
    return TimmFeatures(
        widths=tuple(stage["num_chs"] for stage in model.feature_info),
        strides=strides,
        can_be_cut=isinstance(network, FeatureListNet),
        # Networks that know one format alone, channels first, do not name it.
        has_channels_last=getattr(network, "output_fmt", "NCHW") == "NHWC",
        options={"dynamic_img_size": True} if "dynamic_img_size" in arguments else {},
        patch=strides[0] if is_plain else required_multiple(dict(model.named_children()).get("patch_embed")),
    )


def required_multiple(embedding: nn.Module | None) -> int:
    """Of how many pixels timm's embedding of patches wants the sides of images to be multiples."""
    from timm.layers import PatchEmbed

    if isinstance(embedding, PatchEmbed) and embedding.img_size and not embedding.dynamic_img_pad:
        return embedding.patch_size[0]
    return 1


def is_plain(config: PreTrainedConfig) -> bool:
    """Whether all maps of an image encoder have one stride."""
    if config.model_type == TIMM:
        return timm_features(config.backbone).is_plain
    return config.model_type in PLAIN_ENCODERS


def map_indices(config: PreTrainedConfig, number: int) -> list[int]:
    """So many `out_indices`: of the last stages, or of layers of one stride as far from each other as can be."""
    if not is_plain(config):
        return list(range(-number, 0))
    # transformers counts the embeddings as the first.
    layers, first = (
        (len(timm_features(config.backbone).widths), 0) if config.model_type == TIMM else (config.num_hidden_layers, 1)
    )
    return [first - 1 + layer for layer in last_layers(layers, number)]


def last_layers(layers: int, number: int) -> list[int]:
    """The last layer of each of so many groups of layers that are equally large, counted from 1."""
    return [layers * (place + 1) // number for place in range(number)]


def require_maps(config: PreTrainedConfig, method: str, number: int) -> None:
    """Raises ValueError where an image encoder does not give the so many maps that a method reads."""
    kind, count = config.model_type, NUMBERS[number]
    if kind not in (*PLAIN_ENCODERS, *HIERARCHICAL_ENCODERS, TIMM):
        raise ValueError(
            f"backbone_config: {method} reads {count} maps of an image encoder, got model_type '{kind}'. Those that "
            f"give maps are {', '.join(sorted((*PLAIN_ENCODERS, *HIERARCHICAL_ENCODERS, TIMM)))}."
        )
    if kind == "sam_vision_model" and len(config.global_attn_indexes) < 4:
        raise ValueError(
            f"backbone_config: {method} reads the {FIRST_BLOCK[number]} to fourth block with global attention, got "
            f"global_attn_indexes={list(config.global_attn_indexes)}. Name four or more."
        )
    if kind == "swin" and len(config.depths) < number:
        raise ValueError(f"backbone_config: {count} stages or more are needed, got {len(config.depths)}.")
    if kind not in WITHOUT_INDICES and len(config.out_indices or ()) != number:
        encoder = "a timm backbone" if kind == TIMM else f"'{kind}'"
        raise ValueError(
            f"backbone_config: {method} reads {count} stages of {encoder}, got out_indices={config.out_indices}. Pass "
            f"for example out_indices={map_indices(config, number)}."
        )


def require_stages(config: PreTrainedConfig, method: str) -> None:
    """Raises ValueError where language cannot enter between the stages of an image encoder."""
    kind = config.model_type
    if kind == TIMM:
        features = timm_features(config.backbone)
        has_stages, can_be_cut, name = not features.is_plain, features.can_be_cut, f"'{kind}' ({config.backbone})"
    else:
        has_stages, can_be_cut, name = kind in HIERARCHICAL_ENCODERS, kind == "swin", f"'{kind}'"
    if not (has_stages and can_be_cut):
        raise ValueError(
            f"backbone_config: {method} fuses language between the stages of the image encoder, got model_type "
            f"{name}, which {'cannot be run stage by stage' if has_stages else 'has none'}. Pass a SwinConfig, or a "
            "TimmBackboneConfig of a model with stages, such as swinv2_tiny_window8_256 or convnext_tiny."
        )


def stage_widths(config: PreTrainedConfig) -> list[int]:
    """The channels behind each stage of a Swin transformer, or of those of a timm backbone that it names."""
    if config.model_type == TIMM:
        widths = timm_features(config.backbone).widths
        return [widths[index] for index in config.out_indices]
    return [config.embed_dim * 2**stage for stage in range(len(config.depths))]
