"""What is trained and how: weight decay per parameter, frozen text layers, and batch statistics over all GPUs."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to: all but visual layer norms and position bias tables.

    As in LAVT's released system, everything else decays: biases, the decoder's batch norms, the whole text encoder
    (the module `text_encoder`).
    """
    undecayed = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) and "text_encoder" not in path.split(".")
        for name, _ in module.named_parameters(recurse=False)
    }
    return [
        name
        for name, _ in model.named_parameters()
        if name not in undecayed and not name.endswith("relative_position_bias_table")
    ]


def train_first_text_layers(text_encoder: PreTrainedModel, layers: int) -> None:
    """Freezes a text encoder but for its first transformer layers; its embeddings are frozen as well.

    LAVT's released system trains 10 of BERT's 12 layers.

    Raises:
        ValueError: the encoder has fewer layers, or `layers` is negative.
    """
    total = text_encoder.config.num_hidden_layers
    if not 0 <= layers <= total:
        raise ValueError(f"text_layers_trained is {layers}, but the text encoder has {total} layers.")
    text_encoder.requires_grad_(False)
    _transformer_layers(text_encoder)[:layers].requires_grad_(True)


def synchronize_batch_norm(model: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    """The model with batch norms that share their statistics among GPUs, as in LAVT's released system.

    One process, or processes on CPUs (for which PyTorch has no such layer), get the model as it is.
    """
    if world_size > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _transformer_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    total = encoder.config.num_hidden_layers
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == total:
            return module
    raise ValueError(f"text_layers_trained: {type(encoder).__name__} has no list of {total} transformer layers.")
