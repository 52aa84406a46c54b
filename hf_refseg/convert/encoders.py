"""What converters share: the encoders of released checkpoints, Swin as Microsoft named it and BERT."""

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import AutoConfig, BertConfig, PreTrainedConfig

from .checkpoints import CheckpointError

BLOCK = r"backbone\.layers\.(\d+)\.blocks\.(\d+)\."
OUR_BLOCK = r"backbone.model.encoder.layers.\1.blocks.\2."
# From released names to those in memory; saving translates Swin's to those that transformers keeps on disk.
SWIN_RULES = [
    (r"backbone\.patch_embed\.proj\.(.+)", r"backbone.model.embeddings.patch_embeddings.projection.\1"),
    (r"backbone\.patch_embed\.norm\.(.+)", r"backbone.model.embeddings.norm.\1"),
    (BLOCK + r"norm1\.(.+)", OUR_BLOCK + r"layernorm_before.\3"),
    (BLOCK + r"norm2\.(.+)", OUR_BLOCK + r"layernorm_after.\3"),
    (
        BLOCK + r"attn\.relative_position_bias_table",
        OUR_BLOCK + r"attention.relative_position_bias.relative_position_bias_table",
    ),
    (BLOCK + r"attn\.([qkv])\.(.+)", OUR_BLOCK + r"attention.\3_proj.\4"),
    (BLOCK + r"attn\.proj\.(.+)", OUR_BLOCK + r"attention.o_proj.\3"),
    (BLOCK + r"mlp\.(.+)", OUR_BLOCK + r"mlp.\3"),
    (r"backbone\.layers\.(\d+)\.downsample\.(.+)", r"backbone.model.encoder.layers.\1.downsample.\2"),
]
# Of Swin's joined projections, as `split_projections` takes them.
SWIN_PROJECTIONS = (".attn.qkv.", ".attn.{}.")
# Recomputed tables of Swin, and BERT's unused pooler.
UNUSED_ENCODER_TENSORS = (
    r".*relative_position_index|.*attn_mask|text_encoder\.pooler\..*|text_encoder\.embeddings\.position_ids"
)


def split_projections(tensors: Mapping[str, Tensor], joined: str, separate: str) -> dict[str, Tensor]:
    """The tensors with those that join the projections of query, key and value as three.

    `joined` is the part of the name that marks them; `separate` takes its place, with the letter q, k or v for "{}".
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if joined in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace(joined, separate.format(letter))] = part.clone()
        else:
            split[name] = tensor
    return split


def read_swin_config(tensors: Mapping[str, Tensor]) -> dict:
    """Fields of a `SwinConfig` for the released tensors under `backbone.`.

    Raises:
        CheckpointError: where a tensor that every Swin has is missing.
    """
    depths, heads = [], []
    while f"backbone.layers.{len(depths)}.blocks.0.norm1.weight" in tensors:
        stage = f"backbone.layers.{len(depths)}.blocks."
        depths.append(len({name[len(stage) :].split(".")[0] for name in tensors if name.startswith(stage)}))
        heads.append(required_tensor(tensors, f"{stage}0.attn.relative_position_bias_table").shape[1])
    projection = required_tensor(tensors, "backbone.patch_embed.proj.weight")
    table = required_tensor(tensors, "backbone.layers.0.blocks.0.attn.relative_position_bias_table")
    hidden, width = required_tensor(tensors, "backbone.layers.0.blocks.0.mlp.fc1.weight").shape
    return {
        "model_type": "swin",
        "image_size": 480,
        "patch_size": projection.shape[-1],
        "embed_dim": projection.shape[0],
        "depths": depths,
        "num_heads": heads,
        # The table has one row for each offset between two pixels of a window: (2 * window - 1) squared.
        "window_size": (math.isqrt(table.shape[0]) + 1) // 2,
        "mlp_ratio": hidden / width,
        "qkv_bias": "backbone.layers.0.blocks.0.attn.qkv.bias" in tensors,
        "drop_path_rate": 0.3,
    }


def read_text_config(
    tensors: Mapping[str, Tensor], given: PreTrainedConfig | dict | None = None
) -> PreTrainedConfig | BertConfig:
    """The `given` configuration or, without one, that of the released tensors under `text_encoder.`, a BERT.

    The tensors do not tell the number of heads; they have 64 channels, as in BERT.

    Raises:
        CheckpointError: where a tensor that every BERT has is missing.
    """
    if isinstance(given, dict):
        return AutoConfig.for_model(**{"model_type": "bert", **given})
    if given is not None:
        return given
    vocabulary, hidden = required_tensor(tensors, "text_encoder.embeddings.word_embeddings.weight").shape
    layers = {name.split(".")[3] for name in tensors if name.startswith("text_encoder.encoder.layer.")}
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=max(hidden // 64, 1),
        intermediate_size=required_tensor(tensors, "text_encoder.encoder.layer.0.intermediate.dense.weight").shape[0],
        max_position_embeddings=required_tensor(tensors, "text_encoder.embeddings.position_embeddings.weight").shape[
            0
        ],
        type_vocab_size=required_tensor(tensors, "text_encoder.embeddings.token_type_embeddings.weight").shape[0],
    )


def required_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor of that name.

    Raises:
        CheckpointError: where it is missing.
    """
    if name not in tensors:
        raise CheckpointError(f"the checkpoint has no tensor '{name}', which every checkpoint of this method has.")
    return tensors[name]
