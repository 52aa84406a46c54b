"""What encoders of transformers have in common: the class of a configuration, the configuration of a name, weights."""

import inspect

import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, TimmBackboneConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

from .saved_files_refseg import naming_damage

# Norms of the maps that only transformers' backbones have: with the weights of another of its models they start new.
NEW_PARTS = ("hidden_states_norms.",)


def load_encoder_weights(encoder: nn.Module, pretrained: PreTrainedModel) -> None:
    """Takes over the weights of a pretrained encoder of the same kind, all that is used here.

    Raises:
        ValueError: it lacks one.
    """
    weights, own = pretrained.state_dict(), encoder.state_dict()
    missing = [name for name in own if name not in weights and not name.startswith(NEW_PARTS)]
    if missing:
        raise ValueError(
            f"{type(pretrained).__name__} has no weight {missing[0]}, which {type(encoder).__name__} needs: pass an "
            "encoder of the same kind."
        )
    encoder.load_state_dict({name: weights[name] for name in own if name in weights}, strict=False)


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """transformers' model of a configuration, the encoder alone where there is also a decoder.

    Raises:
        ValueError: there is none.
    """
    for mapping in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    # Towers of models for image and text stand in none of its lists, but are named alike.
    name = f"{type(config).__name__.removesuffix('Config')}Model"
    if name not in transformers.__all__:
        raise ValueError(f"transformers has no model for a {type(config).__name__}: choose another encoder.")
    return getattr(transformers, name)


def without_pooling(model_class: type[PreTrainedModel]) -> dict[str, bool]:
    """The option of a model that leaves out what makes one vector of all its features, where it has one."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}


def read_encoder_config(name_or_path: str, part: str) -> PreTrainedConfig:
    """The configuration of a pretrained encoder, on the Hub, on disk, or "timm/NAME" with the defaults of timm.

    Args:
        name_or_path: name of the encoder, or of a model for image and text.
        part: what the encoder's configuration is called in that of such a model, "vision_config" or "text_config".
    """
    if name_or_path.startswith("timm/"):
        return TimmBackboneConfig(backbone=name_or_path.removeprefix("timm/"))
    with naming_damage(name_or_path, {}):
        config = AutoConfig.from_pretrained(name_or_path)
    return getattr(config, part) if part in config.sub_configs else config
