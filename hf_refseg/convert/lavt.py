"""Released LAVT checkpoints (both variants) as `LavtForReferringSegmentation`."""

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import AutoConfig, BertConfig, PreTrainedConfig

from ..modeling.configuration_lavt import LavtConfig
from ..modeling.modeling_lavt import LavtForReferringSegmentation
from .checkpoints import CheckpointError, load_converted, rename_tensors, state_dict_of

BLOCK = r"backbone\.layers\.(\d+)\.blocks\.(\d+)\."
OUR_BLOCK = r"backbone.model.encoder.layers.\1.blocks.\2."
FUSION = r"backbone\.layers\.(\d+)\.fusion\."
# The names in memory; saving translates Swin's to those that transformers keeps on disk.
RULES = [
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
    (FUSION + r"vis_project\.0\.(.+)", r"stages.\1.fusion.project_pixels.0.\2"),
    (FUSION + r"image_lang_att\.f_(query|key|value)\.0\.(.+)", r"stages.\1.fusion.language_maps.\2.\3"),
    (FUSION + r"image_lang_att\.W\.0\.(.+)", r"stages.\1.fusion.language_maps.output.\2"),
    (FUSION + r"project_mm\.0\.(.+)", r"stages.\1.fusion.project_fused.0.\2"),
    (r"backbone\.layers\.(\d+)\.res_gate\.0\.weight", r"stages.\1.pathway.gate.reduce.weight"),
    (r"backbone\.layers\.(\d+)\.res_gate\.2\.weight", r"stages.\1.pathway.gate.expand.weight"),
    (r"backbone\.norm(\d+)\.(.+)", r"stages.\1.decoder_norm.\2"),
    *[
        (rf"classifier\.{theirs}([12])_{scale}\.(.+)", rf"decoder.steps.{4 - scale}.{ours}\g<1>.\g<2>")
        for scale in (4, 3, 2)
        for theirs, ours in (("conv", "conv"), ("bn", "norm"))
    ],
    (r"classifier\.conv1_1\.(.+)", r"decoder.classifier.\1"),
    (r"text_encoder\.(.+)", r"text_encoder.\1"),
]
# Recomputed tables, BERT's unused pooler, and the gate of the last stage, whose output nothing reads.
DROPPED = (
    r".*relative_position_index|.*attn_mask|text_encoder\.pooler\..*|text_encoder\.embeddings\.position_ids"
    r"|backbone\.layers\.3\.res_gate\..*"
)


def convert_lavt_checkpoint(
    checkpoint: Mapping, *, text_config: PreTrainedConfig | dict | None = None, **config_overrides
) -> LavtForReferringSegmentation:
    """Turns the dictionary of a released LAVT checkpoint into a model.

    Depths, widths, heads and window are read off the tensors. The two-module variant keeps BERT under `bert_model`,
    the one-module variant ("lavt_one") under `model` with the prefix `text_encoder.`.

    Args:
        checkpoint: what `hf_refseg.convert.load_checkpoint` returns for a released file.
        text_config: configuration of the text encoder; if absent it is read off the tensors, with heads of 64 channels
            as in BERT (the tensors do not tell the number of heads).
        config_overrides: fields of [`LavtConfig`] that tensors do not tell, such as `fusion_num_heads`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: where the checkpoint is not LAVT's.
    """
    tensors = state_dict_of(checkpoint, "model")
    has_own_text_encoder = any(name.startswith("text_encoder.") for name in tensors)
    if not has_own_text_encoder:
        text = state_dict_of(checkpoint, "bert_model")
        tensors.update({f"text_encoder.{name}": tensor for name, tensor in text.items()})
    renamed = rename_tensors(_split_query_key_value(tensors), RULES, DROPPED)
    renamed = {name: _as_linear(name, tensor) for name, tensor in renamed.items()}
    if isinstance(text_config, dict):
        text_config = AutoConfig.for_model(**{"model_type": "bert", **text_config})
    config = LavtConfig(
        **{
            "backbone_config": _read_swin_config(tensors),
            "text_config": text_config or _read_text_config(tensors),
            "text_dropout": has_own_text_encoder,
            **config_overrides,
        }
    )
    model = LavtForReferringSegmentation(config)
    load_converted(model, renamed)
    return model.eval()


def _split_query_key_value(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{letter}.")] = part.clone()
        else:
            split[name] = tensor
    return split


def _as_linear(name: str, tensor: Tensor) -> Tensor:
    """1x1 convolutions over positions are linear layers here."""
    return tensor.squeeze(-1) if ".fusion." in name and tensor.ndim == 3 else tensor


def _read_swin_config(tensors: Mapping[str, Tensor]) -> dict:
    depths, heads = [], []
    while f"backbone.layers.{len(depths)}.blocks.0.norm1.weight" in tensors:
        stage = f"backbone.layers.{len(depths)}.blocks."
        depths.append(len({name[len(stage) :].split(".")[0] for name in tensors if name.startswith(stage)}))
        heads.append(_tensor(tensors, f"{stage}0.attn.relative_position_bias_table").shape[1])
    projection = _tensor(tensors, "backbone.patch_embed.proj.weight")
    table = _tensor(tensors, "backbone.layers.0.blocks.0.attn.relative_position_bias_table")
    hidden, width = _tensor(tensors, "backbone.layers.0.blocks.0.mlp.fc1.weight").shape
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


def _read_text_config(tensors: Mapping[str, Tensor]) -> BertConfig:
    vocabulary, hidden = _tensor(tensors, "text_encoder.embeddings.word_embeddings.weight").shape
    layers = {name.split(".")[3] for name in tensors if name.startswith("text_encoder.encoder.layer.")}
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=max(hidden // 64, 1),
        intermediate_size=_tensor(tensors, "text_encoder.encoder.layer.0.intermediate.dense.weight").shape[0],
        max_position_embeddings=_tensor(tensors, "text_encoder.embeddings.position_embeddings.weight").shape[0],
        type_vocab_size=_tensor(tensors, "text_encoder.embeddings.token_type_embeddings.weight").shape[0],
    )


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"the checkpoint has no tensor '{name}', which every LAVT checkpoint has.")
    return tensors[name]
