"""Released MagNet checkpoints as `MagNetForReferringSegmentation`."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedConfig

from ..modeling.configuration_magnet import MagNetConfig
from ..modeling.modeling_magnet import MagNetForReferringSegmentation
from .encoders import (
    SWIN_PROJECTIONS,
    SWIN_RULES,
    UNUSED_ENCODER_TENSORS,
    read_swin_config,
    read_text_config,
    required_shape,
    split_projections,
)
from .released_files import load_converted, rename_tensors, sizes_of_checkpoint, state_dict_of
from .torch_files import CheckpointError

# Names that become those of the other released checkpoints and of the parts here.
COMMON_NAMES = {
    "image_model.": "backbone.",
    "language_model.": "text_encoder.",
    ".fusion.": ".full.",
    ".fusions.": ".levels.",
}
STAGE = r"backbone\.layers\.(\d+)\."
ATTENTION = STAGE + r"(full|levels\.\d+)\."
OUR_ATTENTION = r"stages.\1.text_to_pixels.\2."
WORDS = r"text_encoder\.pwams\.(\d+)\."
OUR_WORDS = r"stages.\1.pixels_to_text."
PIXEL_DECODER = r"classifier\.pixel_decoder\."
PIXEL_LAYER = PIXEL_DECODER + r"transformer\.encoder\.layers\.(\d+)\."
OUR_PIXEL_LAYER = r"head.pixel_decoder.encoder.layers.\1."
PREDICTOR = r"classifier\.predictor\."
OUR_PREDICTOR = r"head.transformer."
OUR_LAYER = r"head.transformer.decoder.layers.\1."
RULES = [
    *SWIN_RULES,
    (ATTENTION + r"image_lang_att\.f_query\.1\.(.+)", OUR_ATTENTION + r"attention.query_norm.\3"),
    (ATTENTION + r"image_lang_att\.f_(query|key|value)\.0\.(.+)", OUR_ATTENTION + r"attention.\3.\4"),
    (ATTENTION + r"image_lang_att\.W\.0\.(.+)", OUR_ATTENTION + r"attention.output.\3"),
    (ATTENTION + r"image_lang_att\.W\.1\.(.+)", OUR_ATTENTION + r"attention.output_norm.\3"),
    (ATTENTION + r"vis_project\.0\.(.+)", OUR_ATTENTION + r"project_features.0.\3"),
    (ATTENTION + r"project_mm\.0\.(.+)", OUR_ATTENTION + r"project_fused.0.\3"),
    # Theirs starts with the pooling.
    (STAGE + r"pyramids\.(\d+)\.1\.weight", r"stages.\1.pyramid.\2.mlp.0.weight"),
    (STAGE + r"pyramids\.(\d+)\.2\.(.+)", r"stages.\1.pyramid.\2.mlp.1.\3"),
    (STAGE + r"pyramids\.(\d+)\.3\.weight", r"stages.\1.pyramid.\2.mlp.2.weight"),
    (STAGE + r"pyramids\.(\d+)\.5\.weight", r"stages.\1.pyramid.\2.mlp.4.weight"),
    (STAGE + r"mixer\.(.+)", r"stages.\1.text_to_pixels.mixer.\2"),
    (STAGE + r"res_gate\.(.+)", r"stages.\1.text_to_pixels.pathway.gate.\2"),
    (WORDS + r"image_lang_att\.f_(query|key|value)\.0\.(.+)", OUR_WORDS + r"\2.\3"),
    (WORDS + r"image_lang_att\.W\.0\.(.+)", OUR_WORDS + r"output.\2"),
    (WORDS + r"vis_project\.0\.(.+)", OUR_WORDS + r"project_words.0.\2"),
    (WORDS + r"project_mm\.0\.(.+)", OUR_WORDS + r"project_fused.0.\2"),
    (r"text_encoder\.res_gates\.(\d+)\.(.+)", OUR_WORDS + r"gate.\2"),
    (r"text_encoder\.(embeddings|encoder)\.(.+)", r"text_encoder.model.\1.\2"),
    (r"lang_proj\.(.+)", r"alignment.pixel_to_text.projection.\1"),
    (PIXEL_DECODER + r"input_proj\.(.+)", r"head.pixel_decoder.input_projections.\1"),
    (PIXEL_DECODER + r"transformer\.level_embed", r"head.pixel_decoder.level_embed"),
    (PIXEL_LAYER + r"self_attn\.(.+)", OUR_PIXEL_LAYER + r"self_attn.\2"),
    (PIXEL_LAYER + r"norm1\.(.+)", OUR_PIXEL_LAYER + r"self_attn_layer_norm.\2"),
    (PIXEL_LAYER + r"linear([12])\.(.+)", OUR_PIXEL_LAYER + r"fc\2.\3"),
    (PIXEL_LAYER + r"norm2\.(.+)", OUR_PIXEL_LAYER + r"final_layer_norm.\2"),
    (PIXEL_DECODER + r"mask_features\.(.+)", r"head.pixel_decoder.mask_projection.\1"),
    (PREDICTOR + r"query_feat\.(.+)", OUR_PREDICTOR + r"queries_features.\1"),
    (PREDICTOR + r"query_embed\.(.+)", OUR_PREDICTOR + r"queries_embedder.\1"),
    (PREDICTOR + r"level_embed\.(.+)", OUR_PREDICTOR + r"level_embed.\1"),
    (PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)", OUR_LAYER + r"cross_attn.\2"),
    (PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.norm\.(.+)", OUR_LAYER + r"cross_attn_layer_norm.\2"),
    (
        PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.self_attn\.([qkv]_proj)\.(.+)",
        OUR_LAYER + r"self_attn.\2.\3",
    ),
    (
        PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.self_attn\.out_proj\.(.+)",
        OUR_LAYER + r"self_attn.out_proj.\2",
    ),
    (PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.norm\.(.+)", OUR_LAYER + r"self_attn_layer_norm.\2"),
    (PREDICTOR + r"transformer_ffn_layers\.(\d+)\.linear([12])\.(.+)", OUR_LAYER + r"fc\2.\3"),
    (PREDICTOR + r"transformer_ffn_layers\.(\d+)\.norm\.(.+)", OUR_LAYER + r"final_layer_norm.\2"),
    (PREDICTOR + r"decoder_norm\.(.+)", OUR_PREDICTOR + r"decoder.layernorm.\1"),
    (PREDICTOR + r"mask_embed\.layers\.(\d+)\.(.+)", OUR_PREDICTOR + r"decoder.mask_predictor.mask_embedder.\1.0.\2"),
]
# The gate of the last stage and the norms of both encoders' stages, which nothing reads, and the classes of the query,
# of which there is one.
DROPPED = (
    UNUSED_ENCODER_TENSORS
    + r"|backbone\.layers\.3\.res_gate\..*|backbone\.norm\d\..*|text_encoder\.norms\..*"
    + r"|classifier\.predictor\.class_embed\..*"
)
FINAL_WORDS = r"text_encoder\.pwams\.3\..*|text_encoder\.res_gates\.3\..*"


def convert_magnet_checkpoint(
    checkpoint: Mapping,
    *,
    text_config: PreTrainedConfig | dict | None = None,
    text_stage_layers: Sequence[int] = (3, 6, 9, 12),
    num_attention_heads: int = 8,
    **config_overrides,
) -> MagNetForReferringSegmentation:
    """Turns the dictionary of a released MagNet checkpoint into a model, its alignment modules as released.

    Depths, widths, heads and window of Swin, the widths and layers of the head are read off the tensors.

    Args:
        checkpoint: what `hf_refseg.convert.load_checkpoint` returns for a released file.
        text_config: configuration of the text encoder; if absent it is read off the tensors, with heads of 64 channels
            as in BERT (the tensors do not tell the number of heads).
        text_stage_layers: for each stage the last layer of BERT in it, counted from 1.
        num_attention_heads: attention heads of the Mask2Former head.
        config_overrides: other fields of [`MagNetConfig`], such as `alignment_losses`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: where the checkpoint is not MagNet's.
    """
    tensors = _with_common_names(state_dict_of(checkpoint, "model"))
    with sizes_of_checkpoint():
        config = MagNetConfig(
            **{
                "backbone_config": read_swin_config(tensors),
                "text_config": read_text_config(tensors, text_config),
                "text_stage_layers": list(text_stage_layers),
                "cam_image": "released",
                "cam_language": "released",
                "num_attention_heads": num_attention_heads,
                **_read_head_sizes(tensors),
                **config_overrides,
            }
        )
    split = split_projections(tensors, *SWIN_PROJECTIONS)
    split = split_projections(split, "self_attn.in_proj_", "self_attn.{}_proj.")
    return load_converted(
        MagNetForReferringSegmentation, config, split, rename_tensors(split, RULES, _dropped(config))
    )


def _with_common_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {_common_name(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise CheckpointError("the checkpoint has both 'image_model' and 'backbone': it belongs to another method.")
    return renamed


def _common_name(name: str) -> str:
    for theirs, common in COMMON_NAMES.items():
        name = name.replace(theirs, common)
    return name


def _dropped(config: MagNetConfig) -> str:
    dropped = DROPPED
    if not config.reads_final_words:
        dropped += "|" + FINAL_WORDS
    if "pixel_to_text" not in config.alignment_losses:
        dropped += r"|lang_proj\..*"
    return dropped


def _read_head_sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    pixel_decoder, predictor = "classifier.pixel_decoder.", "classifier.predictor."
    mask_feature_size, feature_size = required_shape(tensors, pixel_decoder + "mask_features.weight", 4)[:2]
    pixel_layers, layers = pixel_decoder + "transformer.encoder.layers.", predictor + "transformer_ffn_layers."
    return {
        "mask_feature_size": mask_feature_size,
        "feature_size": feature_size,
        "pixel_decoder_layers": sum(
            name.startswith(pixel_layers) and name.endswith(".linear1.bias") for name in tensors
        ),
        "pixel_decoder_feedforward": required_shape(tensors, pixel_layers + "0.linear1.bias", 1)[0],
        "decoder_layers": sum(name.startswith(layers) and name.endswith(".linear1.bias") for name in tensors),
        "decoder_feedforward": required_shape(tensors, layers + "0.linear1.bias", 1)[0],
    }
