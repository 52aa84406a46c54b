"""Released LAVT checkpoints (both variants) as `LavtForReferringSegmentation`."""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from ..modeling.configuration_lavt import LavtConfig
from ..modeling.modeling_lavt import LavtForReferringSegmentation
from .encoders import (
    SWIN_PROJECTIONS,
    SWIN_RULES,
    UNUSED_ENCODER_TENSORS,
    read_swin_config,
    read_text_config,
    split_projections,
)
from .released_files import load_converted, rename_tensors, sizes_of_checkpoint, state_dict_of

FUSION = r"backbone\.layers\.(\d+)\.fusion\."
RULES = [
    *SWIN_RULES,
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
# The gate of the last stage, whose output nothing reads.
DROPPED = UNUSED_ENCODER_TENSORS + r"|backbone\.layers\.3\.res_gate\..*"


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
        config_overrides: fields of [`LavtConfig`] that tensors do not tell, such as `fusion_num_heads`. Without a
            `loss_type` it is that of the released training, the conference's cross-entropy.

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
    split = split_projections(tensors, *SWIN_PROJECTIONS)
    renamed = rename_tensors(split, RULES, DROPPED)
    with sizes_of_checkpoint():
        config = LavtConfig(
            **{
                "backbone_config": read_swin_config(tensors),
                "text_config": read_text_config(tensors, text_config),
                "text_dropout": has_own_text_encoder,
                "loss_type": "cross_entropy",
                **config_overrides,
            }
        )
    return load_converted(LavtForReferringSegmentation, config, split, renamed)
