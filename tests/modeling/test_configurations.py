"""What the configurations of all methods refuse: unknown names, options without effect, and values out of range."""

import json
import logging
import math
from dataclasses import fields
from functools import partial

import pytest
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tiny_configs import BERT, SWIN, VIDEO_SWIN
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig

from hf_refseg import (
    BtmaeForReferringSegmentation,
    LavtConfig,
    LavtForReferringSegmentation,
    M3AttForReferringSegmentation,
    RefSegImageProcessor,
    VideoLavtConfig,
    VideoLavtForReferringSegmentation,
)
from hf_refseg.auto import registered_methods
from hf_refseg.modeling.configuration_alignment_refseg import AlignmentLossConfig
from hf_refseg.modeling.configuration_recurrent_text_refseg import RecurrentTextConfig
from hf_refseg.modeling.configuration_refseg import LanguageReconstructionConfig, MaskGroundingConfig
from hf_refseg.modeling.configuration_video_swin_refseg import VideoSwinConfig

CONFIGS = {model_type: model_class.config_class for model_type, model_class in registered_methods().items()}
GROUNDING = {"special_token_ids": [0, 1], "mask_token_id": 4}
OWN_ENCODERS = {each.model_type: each for each in (RecurrentTextConfig, VideoSwinConfig)}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_an_unknown_field_is_refused_with_the_nearest_one(model_type: str) -> None:
    with pytest.raises(ValueError, match="no field freeze_image_encode; did you mean freeze_image_encoder"):
        AutoConfig.for_model(model_type, freeze_image_encode=True)
    with pytest.raises(ValueError, match="no field presense_head, zzz; did you mean presence_head"):
        CONFIGS[model_type](presense_head=True, zzz=1)


@pytest.mark.parametrize("config_class", OWN_ENCODERS.values())
def test_an_unknown_field_of_our_own_encoders_is_refused(config_class: type) -> None:
    with pytest.raises(ValueError, match="no field initializer_rang; did you mean initializer_range"):
        config_class(initializer_rang=0.1)


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("lavt", {"backbone_config": {**SWIN, "drop_path_rat": 0.1}}, "backbone_config: .*mean drop_path_rate"),
        ("lavt", {"text_config": {**BERT, "num_layers": 2}}, "text_config: BertConfig has no field num_layers"),
        ("video_lavt", {"backbone_config": {**VIDEO_SWIN, "depth": [2]}}, "VideoSwinConfig .*mean depths"),
        ("m3att", {"text_config": {"model_type": "refseg_recurrent_text", "cel": "lstm"}}, "mean cell"),
        ("m3att", {"backbone_config": {"model_type": "timm_backbone", "out_indexes": [1]}}, "mean out_indices"),
        (
            "lavt",
            {"backbone_config": {"model_type": "swim"}},
            "backbone_config: .*no model_type 'swim'; did you mean .*swin",
        ),
        ("lavt", {"backbone_config": {**SWIN, "hidden_size": 7}}, "SwinConfig has no field hidden_size"),
        ("lavt", {"drop_path_rate": 0.1}, "no field drop_path_rate.* backbone_config has drop_path_rate"),
        ("unified_lavt", {"drop_path_rate": 0.1}, "backbone_config has .*, image_backbone_config has drop_path_rate"),
    ],
    ids=str,
)
def test_names_inside_encoders_are_checked(model_type: str, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoConfig.for_model(model_type, **fields)


def test_an_encoder_takes_all_names_that_transformers_knows() -> None:
    timm = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [-3, -2, -1]}
    assert AutoConfig.for_model("m3att", backbone_config=timm).backbone_config.out_indices == [-3, -2, -1]
    swin = {**SWIN, "num_hidden_layers": 4, "output_hidden_states": True, "attn_implementation": "eager"}
    assert LavtConfig(backbone_config=swin).backbone_config.output_hidden_states


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_mapping_without_a_model_type_is_that_of_the_default_encoder(model_type: str) -> None:
    config_class = CONFIGS[model_type]
    default = config_class().backbone_config
    config = config_class(backbone_config={"initializer_range": 0.125}, **encoder_of_images(model_type))
    assert type(config.backbone_config) is type(default)
    assert config.backbone_config.initializer_range == 0.125


def encoder_of_images(model_type: str) -> dict:
    """What goes with an encoder of clips of the default size."""
    swin = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
    return {"image_backbone_config": swin} if model_type == "unified_lavt" else {}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_saved_configuration_of_a_newer_version_loses_what_is_unknown(
    model_type: str, tmp_path, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    CONFIGS[model_type]().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved |= {"presence_heads": True, "auto_map": {"AutoConfig": "configuration.Own"}}
    saved["text_config"]["position_embedding_type"] = "absolute"
    path.write_text(json.dumps(saved), encoding="utf-8")
    config = CONFIGS[model_type].from_pretrained(tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if "no field" in record.getMessage()]
    assert "presence_heads" in warning and "did you mean presence_head" in warning and "auto_map" not in warning
    assert "presence_heads" not in config.to_dict() and config.auto_map == saved["auto_map"]
    # What others save beside the fields of their encoders stays.
    assert config.text_config.position_embedding_type == "absolute"


@pytest.mark.parametrize("key", ["backbone_config", "text_config"])
def test_an_unknown_field_inside_a_saved_encoder_is_named(key: str, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    encoder = getattr(LavtConfig(), key)
    encoder.position_embedding_kind = "absolute"
    LavtConfig(**{key: encoder}).save_pretrained(tmp_path)
    AutoConfig.from_pretrained(tmp_path)
    assert not [record for record in caplog.records if "position_embedding_kind" in record.getMessage()]
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved[key] |= {"initializer_rang": 0.1, **{f"other_{number}": 1 for number in range(9)}}
    path.write_text(json.dumps(saved), encoding="utf-8")
    AutoConfig.from_pretrained(tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert warning.startswith(f"{key}: ") and "initializer_rang, other_0" in warning and "other_4" not in warning
    assert "; did you mean initializer_range" in warning


def test_an_unknown_option_of_the_image_processor_is_refused() -> None:
    with pytest.raises(TypeError, match="no option mask_treshold; did you mean mask_threshold"):
        RefSegImageProcessor(mask_treshold=0.3)
    with pytest.raises(TypeError, match="no option mask_treshold; did you mean mask_threshold"):
        RefSegImageProcessor()(Image.new("RGB", (4, 4)), mask_treshold=0.3)


def test_a_saved_image_processor_of_a_newer_version_loses_what_is_unknown(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    RefSegImageProcessor(mask_threshold=0.3).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**saved, "mask_thresholds": [0.1]}), encoding="utf-8")
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if "no option" in record.getMessage()]
    assert "mask_thresholds" in warning and "did you mean mask_threshold" in warning
    assert loaded.mask_threshold == 0.3 and "mask_thresholds" not in loaded.to_dict()


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_configuration_is_made_of_its_own_mapping(model_type: str, tmp_path) -> None:
    config = CONFIGS[model_type](presence_head=True)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path, freeze_text_encoder=False)
    given_at_loading = ("_name_or_path", "transformers_version")
    changed = {
        name
        for name, value in loaded.to_dict().items()
        if name not in given_at_loading and value != config.to_dict().get(name)
    }
    assert changed == ({"freeze_text_encoder"} if config.freeze_text_encoder else set())
    assert CONFIGS[model_type](**loaded.to_dict()).to_dict() == loaded.to_dict()


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("btmae", {"image_autoencoder": False, "word_autoencoder": False, "num_encoder_layers": 2}),
        ("btmae", {"mask_decoder": "simple", "num_impact_tokens": [4, 3, 2]}),
        ("risam", {"mask_decoder": "sam", "num_decoder_blocks": 3}),
        ("lavt", {"fusion_type": "pooled_sentence", "fusion_num_heads": [1, 2, 4, 8]}),
    ],
    ids=str,
)
def test_an_ablation_may_leave_the_sizes_of_what_it_leaves_out(model_type: str, fields: dict) -> None:
    config = AutoConfig.for_model(model_type, **fields)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("lavt", {"presence_loss_weight": 2.0}, "presence_loss_weight: .*only with presence_head=True"),
        ("lavt", {"fusion_type": "pooled_sentence", "fusion_norm": "batch"}, "fusion_norm: .*pixel_word"),
        ("lavt", {"language_pathway": False, "gate_activation": "sigmoid"}, "gate_activation: "),
        ("lavt", {"loss_type": "dice", "class_weights": [1, 2]}, "class_weights: .*cross_entropy"),
        ("lavt", {"boundary_loss_weight": 0.5}, "boundary_loss_weight: .*dice_boundary"),
        ("lavt", {"freeze_text_encoder": True, "text_dropout": False}, "text_dropout: "),
        ("lavt", {"mask_grounding": {**GROUNDING, "image_tokens": False, "max_map_size": 4}}, "max_map_size: "),
        ("video_lavt", {"fusion_type": "pooled_sentence", "fusion_norm": "layer"}, "bidirectional"),
        ("magnet", {"alignment_losses": ["pixel_to_text"], "pixel_temperature": 1}, "pixel_temperature: "),
        ("magnet", {"alignment_losses": ["pixel_to_pixel"], "text_temperature": 1}, "text_temperature: "),
        ("magnet", {"alignment_losses": [], "alignment_pixels": 8}, "alignment_pixels: "),
        ("magnet", {"alignment_losses": [], "alignment_weight": 1}, "alignment_weight: "),
        ("m3att", {"num_decoder_layers": 1, "interaction_type": "plain"}, "interaction_type: "),
        ("risam", {"fusion_type": "convolution", "relevance_threshold": 0.5}, "relevance_threshold: "),
        ("btmae", {"image_autoencoder": False, "image_masking": "patch"}, "image_masking: "),
        ("btmae", {"word_autoencoder": False, "word_mask_ratio": 0.3}, "word_mask_ratio: "),
        ("btmae", {"mask_decoder": "simple", "impact_queries": "refined"}, "impact_queries: "),
    ],
    ids=str,
)
def test_an_option_without_effect_is_refused(model_type: str, fields: dict, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        AutoConfig.for_model(model_type, **fields)
    # A configuration that an earlier version saved stays readable.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **fields}), encoding="utf-8")
    AutoConfig.from_pretrained(tmp_path)


def test_an_option_without_effect_of_a_task_is_refused_where_a_saved_model_gets_it(tmp_path) -> None:
    AutoConfig.for_model("lavt").save_pretrained(tmp_path)
    task = {**GROUNDING, "image_tokens": False}
    assert not AutoConfig.from_pretrained(tmp_path, mask_grounding=task).mask_grounding.image_tokens
    with pytest.raises(ValueError, match="max_map_size: it has an effect only with image_tokens=True"):
        AutoConfig.from_pretrained(tmp_path, mask_grounding={**task, "max_map_size": 4})


@pytest.mark.parametrize("model_type", CONFIGS)
def test_conditions_name_fields_that_exist(model_type: str) -> None:
    config_class = CONFIGS[model_type]
    assert set(config_class.effective_with) <= set(config_class.__dataclass_fields__)


@pytest.mark.parametrize("model_class", [BtmaeForReferringSegmentation, M3AttForReferringSegmentation])
def test_stochastic_depth_of_an_encoder_that_has_none_is_refused(model_class: type) -> None:
    with pytest.raises(ValueError, match="drop_path_rate: timm/resnet10t has no stochastic depth"):
        model_class.from_encoders("timm/resnet10t", "nowhere", drop_path_rate=0.3)


def test_the_words_side_follows_norm_and_activation() -> None:
    fields = {"backbone_config": VIDEO_SWIN, "text_config": BERT, "bidirectional": True}
    default = VideoLavtForReferringSegmentation(VideoLavtConfig(**fields)).word_updates[0].attention
    assert [type(module).__name__ for module in (default.attention.query_norm, default.attention.output_norm)] == [
        "LayerNorm",
        "LayerNorm",
    ]
    assert type(default.project_features[1]).__name__ == type(default.project_fused[1]).__name__ == "GELU"
    config = VideoLavtConfig(**fields, fusion_norm="none", fusion_activation="relu")
    other = VideoLavtForReferringSegmentation(config).word_updates[0].attention
    assert type(other.attention.query_norm).__name__ == type(other.attention.output_norm).__name__ == "Identity"
    assert type(other.project_features[1]).__name__ == type(other.project_fused[1]).__name__ == "ReLU"
    with pytest.raises(ValueError, match='fusion_norm: padding would enter the "batch" statistics'):
        VideoLavtConfig(**fields, fusion_norm="batch")


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("lavt", {"decoder_hidden_size": 0}, "decoder_hidden_size: at least 1"),
        ("lavt", {"loss_type": "dice_boundary", "boundary_loss_weight": -1.0}, "boundary_loss_weight: .*at least 0"),
        ("lavt", {"presence_head": True, "presence_loss_weight": float("nan")}, "presence_loss_weight: "),
        ("magnet", {"dice_weight": -0.5}, "dice_weight: .*at least 0"),
        ("magnet", {"mask_feature_size": 0}, "mask_feature_size: at least 1"),
        ("magnet", {"feature_size": 0}, "feature_size: at least 1"),
        ("magnet", {"num_attention_heads": 0}, "num_attention_heads: at least 1"),
        ("m3att", {"cross_entropy_weight": -1}, "cross_entropy_weight: "),
        ("m3att", {"num_attention_heads": 0}, "num_attention_heads: at least 1"),
        ("risam", {"hidden_size": 0}, "hidden_size: at least 1"),
        ("risam", {"focal_loss_weight": -1}, "focal_loss_weight: "),
        ("btmae", {"iou_loss_weight": -1}, "iou_loss_weight: "),
        ("btmae", {"feature_size": 0}, "feature_size: at least 1"),
        ("btmae", {"intermediate_size": 0}, "intermediate_size: at least 1"),
        ("btmae", {"cross_entropy_sigma": -1}, "cross_entropy_sigma: "),
        ("lavt", {"language_reconstruction": {"loss_weight": -1}}, "loss_weight: "),
        ("lavt", {"fusion_dropout": 1.5}, "fusion_dropout: a probability"),
        ("lavt", {"initializer_range": -0.1}, "initializer_range: "),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(model_type: str, fields: dict, message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        AutoConfig.for_model(model_type, **fields)


# Endings of the names of fields that may be 0; of the others one may be, and one may be negative.
MAY_BE_ZERO = (
    "_weight",
    "_sigma",
    "_range",
    "_scale",
    "_threshold",
    "_probability",
    "_rate",
    "dropout",
    "_id",
    "_ids",
)
TAKEN = {("m3att", "num_encoder_layers", 0), ("m3att", "interaction_scale", -3)}
KINDS = {
    **{kind: partial(config_class, is_saved=True) for kind, config_class in {**CONFIGS, **OWN_ENCODERS}.items()},
    "mask_grounding": partial(MaskGroundingConfig, special_token_ids=[5], mask_token_id=1),
    "language_reconstruction": LanguageReconstructionConfig,
    "alignment_loss": AlignmentLossConfig,
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_takes_a_number_out_of_its_range(kind: str) -> None:
    """All fields of ours with numbers, or lists of them; saved, so that none is refused for having no effect."""
    make, inherited = KINDS[kind], {field.name for field in fields(PreTrainedConfig)}
    config = make()
    # Built once: only the number differs.
    encoders = {key: getattr(config, key) for key in getattr(config, "sub_configs_defaults", ())}
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in inherited}
    tried = 0
    for name, value in values.items():
        if type(value) not in (int, float, list, tuple):
            continue
        wrong = [math.nan, math.inf, -math.inf, -3]
        wrong += [] if name.endswith(MAY_BE_ZERO) else [0]
        wrong += [1.5] if name.endswith(("dropout", "_rate", "_probability")) else []
        # Making so many would take hours.
        wrong += [10**7] if name.endswith("layers") else []
        for number in (each for each in wrong if (kind, name, each) not in TAKEN):
            tried += 1
            with pytest.raises((ValueError, StrictDataclassError), match=name):
                make(**encoders, **{name: [number] * len(value) if isinstance(value, list | tuple) else number})
    assert tried > 5


@pytest.mark.parametrize("number", [math.nan, -3, 0])
@pytest.mark.parametrize(
    ("model_type", "encoder", "names"),
    [
        ("lavt", "backbone_config", ("embed_dim", "depths", "num_heads", "patch_size", "window_size", "mlp_ratio")),
        ("btmae", "text_config", ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")),
        ("video_lavt", "backbone_config", ("embed_dim", "depths", "window_size", "mlp_ratio")),
        ("unified_lavt", "image_backbone_config", ("embed_dim", "num_channels")),
        ("risam", "backbone_config", ("hidden_size", "image_size", "output_channels")),
        ("risam", "text_config", ("intermediate_size", "num_attention_heads")),
    ],
)
def test_sizes_inside_encoders_are_checked(model_type: str, encoder: str, names: tuple, number: float) -> None:
    default = getattr(CONFIGS[model_type](), encoder)
    for name in names:
        value = getattr(default, name)
        wrong = [number] * len(value) if isinstance(value, list | tuple) else number
        with pytest.raises((ValueError, StrictDataclassError), match=name):
            AutoConfig.for_model(model_type, **{encoder: {**default.to_dict(), name: wrong}})


@pytest.mark.parametrize("number", [math.nan, math.inf, -0.1, 1, 1.5])
@pytest.mark.parametrize(
    ("model_type", "encoder", "name"),
    [
        ("lavt", "backbone_config", "drop_path_rate"),
        ("magnet", "backbone_config", "hidden_dropout_prob"),
        ("m3att", "text_config", "attention_probs_dropout_prob"),
        ("risam", "text_config", "attention_dropout"),
    ],
)
def test_dropout_inside_encoders_is_a_probability(model_type: str, encoder: str, name: str, number: float) -> None:
    default = getattr(CONFIGS[model_type](), encoder)
    with pytest.raises((ValueError, StrictDataclassError), match=rf"{encoder}: {name}|'{name}'"):
        AutoConfig.for_model(model_type, **{encoder: {**default.to_dict(), name: number}})


def test_a_field_that_is_given_when_a_model_is_loaded_is_checked_as_well(tmp_path) -> None:
    LavtConfig().save_pretrained(tmp_path)
    assert LavtConfig.from_pretrained(tmp_path, fusion_dropout=0.5).fusion_dropout == 0.5
    for fields_given in ({"fusion_dropout": 1.5}, {"backbone_config": {"embed_dim": -3}}):
        with pytest.raises((ValueError, StrictDataclassError), match=r"fusion_dropout|embed_dim"):
            AutoConfig.from_pretrained(tmp_path, **fields_given)


@pytest.mark.parametrize(("stages", "decoder_features"), [(2, "V"), (1, "F")])
def test_a_decoder_of_a_single_stage_is_refused(stages: int, decoder_features: str) -> None:
    swin = {**SWIN, "depths": [1] * stages, "num_heads": [1] * stages}
    config = LavtConfig(
        backbone_config=swin, text_config=BERT, fusion_num_heads=[1] * stages, decoder_features=decoder_features
    )
    with pytest.raises(ValueError, match=r'leaves it 1: add a stage to backbone_config, or .*decoder_features="F"'):
        LavtForReferringSegmentation(config)
