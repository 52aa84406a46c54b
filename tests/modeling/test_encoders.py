"""Every method takes every encoder that its paper's design permits, and says of the others why not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_configs import BERT, SAM, SWIN, VIDEO_SWIN
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from hf_refseg import AutoModelForReferringSegmentation, BtmaeForReferringSegmentation, RisamForReferringSegmentation
from hf_refseg.modeling.configuration_encoders_refseg import OFFSET_POSITIONS, longest_text
from hf_refseg.modeling.encoders_refseg import build_map_encoder, build_stage_encoder
from hf_refseg.modeling.text_encoders_refseg import TextStages, build_text_encoder

WORDS = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 4}
LAYERS = {**WORDS, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32}
# The numbers of special tokens that are no 0 by default lie outside so small a vocabulary.
SPECIAL = {**LAYERS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXTS = {
    "bert": LAYERS,
    "clip_text_model": SPECIAL,
    "deberta-v2": {**LAYERS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"vocab_size": 97, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24},
    "electra": {**LAYERS, "embedding_size": 12},
    "modernbert": {**SPECIAL, "cls_token_id": 1, "sep_token_id": 2},
    "refseg_recurrent_text": WORDS,
    "roberta": LAYERS,
    "siglip_text_model": SPECIAL,
    "t5": {"vocab_size": 97, "d_model": 16, "num_layers": 4, "num_heads": 2, "d_kv": 8, "d_ff": 24},
}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 16,
}
DINOV2 = {name: value for name, value in VIT.items() if name != "intermediate_size"}
CONVNEXT = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
SAM2 = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "fpn_hidden_size": 8,
}
# By name: the fields, and which layers or stages give three and four maps.
PLAIN = {
    "clip_vision_model": (VIT, None),
    "dinov2": (DINOV2, [1, 2, 3, 4]),
    "dinov3_vit": (VIT, [1, 2, 3, 4]),
    "sam_vision_model": (SAM, None),
    "siglip_vision_model": (VIT, None),
    "timm/test_vit4": ({}, [-4, -3, -2, -1]),
}
HIERARCHICAL = {
    "dinov3_convnext": (CONVNEXT, [1, 2, 3, 4]),
    "sam2_vision_model": (SAM2, None),
    "swin": (SWIN, None),
    "swinv2": (SWIN, [1, 2, 3, 4]),
    "timm/test_convnext": ({}, [0, 1, 2, 3]),
    "timm/test_resnet": ({}, [1, 2, 3, 4]),
}
HEADS = {"hidden_size": 16, "num_attention_heads": 2}
METHODS = {
    "btmae": {
        **HEADS,
        "feature_size": 16,
        "intermediate_size": 16,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "num_impact_tokens": [2],
        "special_token_ids": [0],
    },
    "lavt": {},
    "m3att": {
        **HEADS,
        "image_size": 64,
        "num_encoder_layers": 1,
        "encoder_feedforward": 16,
        "decoder_hidden_size": 16,
        "num_decoder_layers": 1,
    },
    "magnet": {
        "text_stage_layers": [1, 2, 3, 4],
        "pyramid_scales": [1],
        "feature_size": 32,
        "mask_feature_size": 16,
        "num_attention_heads": 2,
        "pixel_decoder_layers": 1,
        "pixel_decoder_feedforward": 16,
        "decoder_layers": 1,
        "decoder_feedforward": 16,
    },
    "risam": {
        **HEADS,
        "freeze_image_encoder": False,
        "freeze_text_encoder": False,
        "num_attention_blocks": 1,
        "num_decoder_blocks": 1,
    },
    "video_lavt": {},
}
STRIDES = (4, 8, 16, 32)
SIZES = ((1024, 1024), (70, 101))
NUM_MAPS = {"btmae": 4, "lavt": 4, "m3att": 3, "magnet": 4, "risam": 3}
READ_MAPS = ("btmae", "m3att", "risam")
FUSE_BETWEEN_STAGES = ("lavt", "magnet")
CAN_BE_CUT = ("swin", "timm/test_convnext", "timm/test_resnet")
OPEN_TEXTS = ("bert", "clip_text_model", "distilbert", "roberta", "siglip_text_model")


def image_fields(name: str, maps: int) -> dict[str, Any]:
    """An image encoder's configuration that names so many maps."""
    fields, indices = {**PLAIN, **HIERARCHICAL}[name]
    library, _, model = name.rpartition("/")
    kind = {"model_type": "timm_backbone", "backbone": model} if library else {"model_type": name}
    return {**fields, **kind, **({} if indices is None else {"out_indices": indices[-maps:]})}


def text_fields(kind: str) -> dict[str, Any]:
    return {**TEXTS[kind], "model_type": kind}


def build(method: str, image: dict[str, Any], text: dict[str, Any], **overrides) -> nn.Module:
    torch.manual_seed(0)
    fields = {**METHODS[method], "backbone_config": image, "text_config": text, **overrides}
    return AutoModelForReferringSegmentation.from_config(AutoConfig.for_model(method, **fields)).eval()


def inputs(size: tuple[int, int] = (64, 64)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    attention_mask = torch.ones(2, 5, dtype=torch.long)
    attention_mask[1, 3:] = 0
    return {
        "pixel_values": torch.randn(2, 3, *size, generator=generator),
        "input_ids": torch.randint(5, 90, (2, 5), generator=generator) * attention_mask,
        "attention_mask": attention_mask,
    }


def train_a_step(model: nn.Module, size: tuple[int, int] = (64, 64)) -> None:
    """Both encoders are trained: gradients reach their first layers."""
    labels = torch.zeros(2, *size, dtype=torch.long)
    labels[:, 8:40, 16:48] = 1
    output = model(**inputs(size), mask_labels=labels)
    assert output.logits.shape == labels.shape and output.loss.isfinite()
    output.loss.backward()
    words = model.get_input_embeddings().weight.grad
    first = next(parameter for name, parameter in model.backbone.named_parameters() if name.endswith("weight")).grad
    for gradient in (words, first):
        assert gradient.isfinite().all() and gradient.any()
    dead = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # Vision transformers that learned from masked patches keep the token of these, which no image without masks has.
    assert {name for name in dead if not name.endswith("mask_token")} == set()


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("method", NUM_MAPS)
def test_a_method_takes_a_text_encoder(method: str, kind: str) -> None:
    if method == "magnet" and kind not in OPEN_TEXTS:
        with pytest.raises(ValueError, match=f"between the layers of the text encoder, got model_type '{kind}'"):
            build(method, SWIN, text_fields(kind))
    else:
        train_a_step(build(method, SWIN, text_fields(kind)))


def test_models_of_clips_take_any_text_encoder_as_that_of_images_does() -> None:
    train_a_step(build("video_lavt", VIDEO_SWIN, text_fields("t5")))


@pytest.mark.parametrize("name", [*PLAIN, *HIERARCHICAL])
@pytest.mark.parametrize("method", NUM_MAPS)
def test_a_method_takes_an_image_encoder(method: str, name: str) -> None:
    image = image_fields(name, NUM_MAPS[method])
    if method in READ_MAPS or name in CAN_BE_CUT:
        train_a_step(build(method, image, text_fields("bert")))
    else:
        with pytest.raises(ValueError, match=r"between the stages of the image encoder, got model_type .* which "):
            build(method, image, text_fields("bert"))


@torch.no_grad()
@pytest.mark.parametrize("name", [*PLAIN, *HIERARCHICAL])
def test_maps_are_those_of_the_configuration_for_images_of_any_size(name: str) -> None:
    encoder = build_map_encoder(AutoConfig.for_model(**image_fields(name, 4)), 4, strides=STRIDES).eval()
    size = (64, 64) if name == "sam_vision_model" else (64, 96)
    maps = encoder(torch.randn(1, 3, *size))
    expected = [
        (width, size[0] // stride, size[1] // stride) for width, stride in zip(encoder.widths, STRIDES, strict=True)
    ]
    assert [tuple(each.shape[1:]) for each in maps] == expected


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in PLAIN if name != "sam_vision_model"])
def test_images_are_padded_to_whole_patches(name: str) -> None:
    encoder = build_map_encoder(AutoConfig.for_model(**image_fields(name, 3)), 3).eval()
    assert {tuple(each.shape) for each in encoder(torch.randn(1, 3, 60, 76))} == {(1, encoder.widths[0], 4, 5)}


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [("dinov3_convnext", (64, 31)), ("sam2_vision_model", (8, 8))])
def test_a_size_that_an_encoder_cannot_take_is_named(name: str, size: tuple[int, int]) -> None:
    encoder = build_map_encoder(AutoConfig.for_model(**image_fields(name, 3)), 3).eval()
    message = f"'{name}' cannot take images of {size[0]} x {size[1]} pixels \\(.+\\). Set the image processor's size"
    with pytest.raises(ValueError, match=message):
        encoder(torch.randn(1, 3, *size))
    with pytest.raises(ValueError, match=message):
        encoder.require_size(*size)
    encoder.require_size(64, 96)


def test_a_map_of_one_pixel_is_none_that_a_new_encoder_cannot_take() -> None:
    """In training, where its batch normalization has a single value of a single image."""
    config = AutoConfig.for_model("timm_backbone", backbone="resnet10t", out_indices=[-3, -2, -1])
    encoder = build_map_encoder(config, 3).train()
    encoder.require_size(32, 32)
    assert encoder(torch.randn(2, 3, 32, 32))[-1].shape[-2:] == (1, 1)


@torch.no_grad()
def test_a_stage_that_cannot_take_the_maps_of_an_image_is_named() -> None:
    stages = build_stage_encoder(AutoConfig.for_model(**image_fields("timm/test_convnext", 4))).eval()
    tokens, size = stages.first_stage(torch.randn(1, 3, 64, 15))
    tokens, size = stages.next_stage(1, tokens, size)
    with pytest.raises(
        ValueError, match=r"Stage 3 of timm's test_convnext cannot take what images of this size become"
    ):
        stages.next_stage(2, tokens, size)


def test_an_error_of_an_encoder_that_is_not_of_the_size_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_map_encoder(AutoConfig.for_model(**image_fields("timm/test_resnet", 3)), 3).eval()
    forward = encoder.model.forward

    def fail(images: Tensor) -> Any:
        if not images.is_meta:
            raise RuntimeError("no memory is left")
        return forward(images)

    monkeypatch.setattr(encoder.model, "forward", fail)
    with pytest.raises(RuntimeError, match="no memory is left"):
        encoder(torch.randn(1, 3, 64, 64))


@torch.no_grad()
@pytest.mark.parametrize("build_encoder", [build_stage_encoder, lambda config: build_map_encoder(config, 4)])
def test_timm_s_swin_transformers_take_any_size_as_transformers_s_do(build_encoder: Callable) -> None:
    """In the paper's setting as well; without values, as it is large."""
    config = AutoConfig.for_model("timm_backbone", backbone="swin_tiny_patch4_window7_224", out_indices=[0, 1, 2, 3])
    with torch.device("meta"):
        encoder = build_encoder(config).eval()
        shapes = {size: [tuple(each.shape[2:]) for each in encoder(torch.empty(1, 3, *size))] for size in SIZES}
    assert shapes == {
        (1024, 1024): [(256, 256), (128, 128), (64, 64), (32, 32)],
        (70, 101): [(18, 26), (9, 13), (5, 7), (3, 4)],
    }


def test_an_image_size_that_does_not_fit_is_found_when_a_model_is_built() -> None:
    image = {"model_type": "timm_backbone", "backbone": "beit_base_patch16_224", "out_indices": [3, 7, 11]}
    with torch.device("meta"):
        model = build("risam", image, text_fields("bert"))
    model.check_image_size(224, 224)
    with pytest.raises(ValueError, match=r"timm's beit_base_patch16_224 cannot take images of 1024 x 1024 .*\(224\)"):
        model.check_image_size(1024, 1024)


@torch.no_grad()
@pytest.mark.parametrize("name", CAN_BE_CUT)
def test_stages_one_by_one_are_the_whole_encoder(name: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**image_fields(name, 4))
    stages, whole = build_stage_encoder(config).eval(), build_map_encoder(config, 4).eval()
    whole.load_state_dict(stages.state_dict())
    images = torch.randn(1, 3, 60, 76)
    tokens, size = stages.first_stage(images)
    actual = [(tokens, size)]
    for index in (1, 2, 3):
        tokens, size = stages.next_stage(index, tokens, size)
        actual.append((tokens, size))
    for (tokens, size), expected in zip(actual, whole(images), strict=True):
        assert_close(tokens.transpose(1, 2).unflatten(2, size), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", OPEN_TEXTS)
@pytest.mark.parametrize("is_padded", [True, False])
def test_layers_one_by_one_are_the_whole_text_encoder(kind: str, is_padded: bool) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**text_fields(kind))
    stages, whole = TextStages(config, (1, 3, 4)).eval(), build_text_encoder(config).eval()
    stages.load_encoder(whole)
    texts = inputs()
    mask = texts["attention_mask"] if is_padded else torch.ones_like(texts["attention_mask"])
    features = stages.embed(texts["input_ids"])
    for index in range(3):
        features = stages.run_stage(index, features, mask)
    expected = whole(input_ids=texts["input_ids"], attention_mask=mask).last_hidden_state
    assert_close(features[mask != 0], expected[mask != 0])


@torch.no_grad()
@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("timm/test_vit4", "modernbert"),
        ("dinov3_vit", "t5"),
        ("siglip_vision_model", "siglip_text_model"),
        ("swinv2", "deberta-v2"),
        ("sam2_vision_model", "distilbert"),
    ],
)
def test_a_saved_model_computes_the_same(image: str, text: str, tmp_path) -> None:
    model = build("risam", image_fields(image, 3), text_fields(text))
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)


def same_weights(ours: nn.Module, theirs: nn.Module) -> bool:
    weights = theirs.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in ours.state_dict().items())


def test_encoders_are_loaded_by_name_from_models_for_image_and_text(tmp_path) -> None:
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(vision_config=VIT, text_config=SPECIAL, projection_dim=16))
    siglip = SiglipModel(SiglipConfig(vision_config=VIT, text_config=SPECIAL))
    clip.save_pretrained(tmp_path / "clip")
    siglip.save_pretrained(tmp_path / "siglip")
    model = RisamForReferringSegmentation.from_encoders(
        tmp_path / "clip", tmp_path / "siglip", **METHODS["risam"], presence_head=True
    )
    assert same_weights(model.backbone.model, clip.vision_model)
    assert same_weights(model.text_encoder, siglip.text_model)
    assert model.config.presence_head and not model.training
    train_a_step(model)


@pytest.mark.parametrize(("name", "indices"), [("dinov2", [1, 2, 3, 4]), ("dinov3_convnext", [-4, -3, -2, -1])])
def test_a_pretrained_encoder_gives_as_many_maps_as_the_method_reads(name: str, indices: list[int], tmp_path) -> None:
    torch.manual_seed(0)
    fields, _ = {**PLAIN, **HIERARCHICAL}[name]
    vision = AutoModel.from_config(AutoConfig.for_model(name, **fields))
    vision.save_pretrained(tmp_path / "image")
    model = BtmaeForReferringSegmentation.from_encoders(
        tmp_path / "image", None, drop_path_rate=0.2, text_config=text_fields("bert"), **METHODS["btmae"]
    )
    assert model.config.backbone_config.out_indices == indices
    assert model.config.backbone_config.drop_path_rate == 0.2
    assert same_weights(model.backbone.get_submodule("encoder.model" if name == "dinov2" else "model"), vision)
    assert model.text_encoder.config.model_type == "bert"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"model_type": "clip"}}, "'clip' holds an encoder of images as well: pass its text_config"),
        ({"text_config": {"model_type": "bart"}}, "no encoder without its decoder"),
        ({"text_config": {"model_type": "vit"}}, "'vit' is no text encoder: its configuration has no vocab_size"),
        ({"backbone_config": {"model_type": "bert"}}, "RISAM reads three maps .* got model_type 'bert'. Those that"),
        (
            {"backbone_config": {**DINOV2, "model_type": "dinov2"}},
            r"three stages of 'dinov2', .* out_indices=\[1, 2, 4\]",
        ),
    ],
    ids=str,
)
def test_what_is_no_encoder_is_refused_with_the_reason(fields: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        AutoConfig.for_model("risam", **{"backbone_config": SAM, "text_config": {**BERT}, **fields})


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in OFFSET_POSITIONS if kind != "xmod"])  # which needs a language
def test_encoders_whose_positions_begin_later_take_as_many_tokens_as_they_say(kind: str) -> None:
    small = {"luke": {"entity_vocab_size": 2}, "layoutlmv3": {"coordinate_size": 4, "shape_size": 4}}.get(kind, {})
    fields = {**LAYERS, "hidden_size": 24, "num_hidden_layers": 1, "pad_token_id": 1, **small}
    config = AutoConfig.for_model(kind, **fields)
    encoder, longest = build_text_encoder(config).eval(), longest_text(config)
    assert longest == 30
    ids = torch.full((1, longest + 1), 7)
    assert encoder(input_ids=ids[:, 1:], attention_mask=torch.ones_like(ids[:, 1:])).last_hidden_state.isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match=r"index|expanded size"):
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids))


@torch.no_grad()
def test_texts_are_as_long_as_an_encoder_has_positions_for() -> None:
    lengths = {kind: longest_text(AutoConfig.for_model(**text_fields(kind))) for kind in ("bert", "roberta")}
    assert lengths == {"bert": 32, "roberta": 30}  # RoBERTa's first position is 2
    model = build("lavt", SWIN, text_fields("roberta"))
    longest = {**inputs(), "input_ids": torch.full((2, 30), 7), "attention_mask": None}
    assert model(**longest).logits.isfinite().all()
    with pytest.raises(ValueError, match="The texts have 31 tokens, the text encoder takes at most 30"):
        model(**{**longest, "input_ids": torch.full((2, 31), 7)})
    relative = build("lavt", SWIN, text_fields("t5"))
    assert relative(**{**longest, "input_ids": torch.full((2, 600), 7)}).logits.isfinite().all()
