"""What converters share: the encoders of released checkpoints, Swin as Microsoft named it and BERT."""

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import AutoConfig, BertConfig, PreTrainedConfig

from ..messages import short_text
from .torch_files import CheckpointError, tensor_text

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

    Raises:
        CheckpointError: where one cannot be split.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if joined in name:
            names = [name.replace(joined, separate.format(letter)) for letter in "qkv"]
            if tensor.ndim == 0 or len(tensor) % 3:
                raise CheckpointError(
                    f"{tensor_text(name)} of the checkpoint has the shape {tuple(tensor.shape)}, which is not that of "
                    "three projections: it belongs to another method or version."
                )
            if doubled := [each for each in names if each in tensors]:
                raise CheckpointError(
                    f"{tensor_text(name)} and {tensor_text(doubled[0])} of the checkpoint are the same tensor of this "
                    "method: it belongs to another method or version."
                )
            split.update(zip(names, tensor.chunk(3), strict=True))
        else:
            split[name] = tensor
    return split


def read_swin_config(tensors: Mapping[str, Tensor]) -> dict:
    """Fields of a `SwinConfig` for the released tensors under `backbone.`.

    Raises:
        CheckpointError: where a tensor that every Swin has is missing.
    """
    depths: list[int] = []
    heads: list[int] = []
    while f"backbone.layers.{len(depths)}.blocks.0.norm1.weight" in tensors:
        stage = f"backbone.layers.{len(depths)}.blocks."
        depths.append(len({name[len(stage) :].split(".")[0] for name in tensors if name.startswith(stage)}))
        heads.append(required_shape(tensors, f"{stage}0.attn.relative_position_bias_table", 2)[1])
    projection = required_shape(tensors, "backbone.patch_embed.proj.weight", 4, 5)
    rows, _ = required_shape(tensors, "backbone.layers.0.blocks.0.attn.relative_position_bias_table", 2)
    hidden, width = required_shape(tensors, "backbone.layers.0.blocks.0.mlp.fc1.weight", 2)
    for place, number in enumerate(heads):
        if projection[0] * 2**place % number:
            raise CheckpointError(
                f"the checkpoint has {number} attention heads in stage {place}, which do not divide its "
                f"{projection[0] * 2**place} channels: it belongs to another method or version."
            )
    return {
        "model_type": "swin",
        "image_size": 480,
        "patch_size": projection[-1],
        "embed_dim": projection[0],
        "depths": depths,
        "num_heads": heads,
        # The table has one row for each offset between two pixels of a window: (2 * window - 1) squared.
        "window_size": (math.isqrt(rows) + 1) // 2,
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
    embeddings = "text_encoder.embeddings."
    vocabulary, hidden = required_shape(tensors, embeddings + "word_embeddings.weight", 2)
    layers = {name.split(".")[3] for name in tensors if name.startswith("text_encoder.encoder.layer.")}
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=max(hidden // 64, 1),
        intermediate_size=required_shape(tensors, "text_encoder.encoder.layer.0.intermediate.dense.weight", 2)[0],
        max_position_embeddings=required_shape(tensors, embeddings + "position_embeddings.weight", 2)[0],
        type_vocab_size=required_shape(tensors, embeddings + "token_type_embeddings.weight", 2)[0],
    )


def required_shape(tensors: Mapping[str, Tensor], name: str, *axes: int) -> tuple[int, ...]:
    """The shape of the tensor of that name, which has so many axes, none of which is empty.

    Raises:
        CheckpointError: where it is missing or has another shape.
    """
    if name not in tensors:
        raise CheckpointError(f"the checkpoint has no tensor '{name}', which every checkpoint of this method has.")
    shape = tuple(tensors[name].shape)
    if len(shape) not in axes or 0 in shape:
        raise CheckpointError(
            f"'{name}' of the checkpoint has the shape {short_text(shape)}, but {' or '.join(map(str, axes))} axes "
            "are expected: it belongs to another method or version."
        )
    return shape
