"""What is trained and how: weight decay, Muon for matrices, frozen text layers, and batch statistics over all GPUs."""

from __future__ import annotations

import torch
from timm.optim import Muon
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

# Recurrent layers and attention hold several matrices in one parameter, one above the other.
MATRIX_LAYERS = (nn.Linear, _ConvNd, nn.RNNBase, nn.MultiheadAttention)


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


def build_muon(
    model: nn.Module, learning_rate: float, muon_learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> Muon:
    """Muon for the weights of layers that multiply by a matrix, AdamW for everything else that is trained.

    Muon (https://huggingface.co/papers/2502.16982) steps as far in all singular directions of a matrix; its steps have
    the size of AdamW's. AdamW's are embeddings, position tables, norms and biases, and weights that are hardly
    matrices, such as those of a layer with one output.

    Args:
        model: the model.
        learning_rate: AdamW's.
        muon_learning_rate: Muon's.
        weight_decay: of `decay_parameter_names`.
        betas: AdamW's.
    """
    matrices = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, MATRIX_LAYERS)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    }
    decayed = set(decay_parameter_names(model))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in matrices, name in decayed), []).append(parameter)
    return Muon(
        [
            {
                "params": parameters,
                "weight_decay": weight_decay if decays else 0.0,
                "lr": muon_learning_rate if of_matrices else learning_rate,
                "use_fallback": not of_matrices,
                "fallback_lr_scale": learning_rate / muon_learning_rate if of_matrices else 1.0,
            }
            # AdamW's first: Trainer logs the learning rate of the first group.
            for (of_matrices, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=learning_rate,
        betas=betas,
    )


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
