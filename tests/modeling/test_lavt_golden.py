"""LAVT against the numbers of the reference implementation."""

import json
import re

import numpy as np
import PIL
import pytest
import torch
from golden_lavt import (
    BERT_CONFIG,
    CASES,
    FOLDER,
    golden_case,
    golden_model,
    model_inputs,
    our_name,
    released_checkpoint,
)
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import BertTokenizer

from hf_refseg import LavtConfig, RefSegImageProcessor, RefSegProcessor
from hf_refseg.convert import convert_lavt_checkpoint
from hf_refseg.modeling.modeling_lavt import MultiModalFusion

LOSSES = {
    "cross_entropy": ("cross_entropy", "ce_weighted"),
    "dice": ("dice", "mc_dice"),
    "dice_focal": (None, "dice_focal"),
    "dice_boundary": ("boundary", "boundary_only"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_forward_matches_the_reference(case: str, attention: str) -> None:
    tensors, _ = golden_case(case)
    model = golden_model()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        words = model.get_text_features(tensors["input_ids"], tensors["attention_mask"]).last_hidden_state
        image = model.get_image_features(tensors["image"])
        features = model.fuse(image, words, tensors["attention_mask"].float()).maps
        logits = model(**model_inputs(tensors)).logits
    assert_close(words, tensors["last_hidden_state"], atol=1e-4, rtol=0)
    for index, feature in enumerate(features):
        assert_close(feature, tensors[f"features.{index}"], atol=1e-3, rtol=0)
    background, foreground = tensors["logits"].unbind(1)
    assert_close(logits, foreground - background, atol=1e-4, rtol=0)


def test_inner_values_match_the_reference() -> None:
    tensors, _ = golden_case("pad")
    model = golden_model()
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    for index, stage in enumerate(model.stages):
        stage.fusion.register_forward_hook(keep(f"stage{index + 1}.F_raw"))
        stage.fusion.register_forward_pre_hook(
            lambda module, inputs, name=f"stage{index + 1}.V": seen.__setitem__(name, inputs[0])
        )
        if index < 3:
            stage.pathway.gate.register_forward_hook(keep(f"stage{index + 1}.gate"))
    model.decoder.register_forward_hook(keep("logits_lowres"))
    with torch.no_grad():
        model(**model_inputs(tensors))
        patches, size = model.backbone.embed(tensors["image"])
    assert_close(patches.transpose(1, 2).unflatten(2, size), tensors["tap.patch_embed"], atol=1e-4, rtol=0)
    for name, value in seen.items():
        # Behind an instance normalization small differences grow.
        tolerance = 1e-3 if name.endswith(("F_raw", "gate")) else 1e-4
        assert (value - tensors[f"tap.{name}"]).abs().max() < tolerance, name
    assert len(seen) == 4 + 4 + 3 + 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_match_the_reference(case: str, loss_type: str) -> None:
    tensors, numbers = golden_case(case)
    model = golden_model(loss_type=loss_type)
    with torch.no_grad():
        output = model(**model_inputs(tensors), mask_labels=tensors["target"].long())
    component, expected = LOSSES[loss_type]
    value = output.loss if component is None else output.loss_components[component]
    assert value.item() == pytest.approx(numbers["losses"][expected], abs=1e-4)
    if loss_type == "dice_boundary":
        assert output.loss.item() == pytest.approx(numbers["losses"]["dice_boundary"], abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_gradient_norms_match_the_reference(case: str) -> None:
    tensors, numbers = golden_case(case)
    model = golden_model()
    model(**model_inputs(tensors), mask_labels=tensors["target"].long()).loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    compared = 0
    for released, expected in numbers["grad_norms"].items():
        if expected is None:  # the last gate and BERT's pooler, which do not exist here
            continue
        if ".attn.qkv." in released:
            parts = [norms[our_name(released.replace("qkv", letter))] for letter in "qkv"]
            actual = float(np.linalg.norm(parts))
        else:
            actual = norms[our_name(released)]
        # A bias in front of an instance normalization has a zero gradient, up to rounding.
        relative = 0 if re.search(r"(f_query|W)\.0\.bias", released) else 2e-3
        assert actual == pytest.approx(expected, rel=relative, abs=1e-5), released
        compared += 1
    assert compared > 130


@pytest.mark.parametrize("heads", [1, 4])
def test_fusion_unit_matches_the_reference(heads: int) -> None:
    tensors = load_file(FOLDER / "pwam_units.safetensors")
    unit = {name.removeprefix(f"h{heads}."): value for name, value in tensors.items() if name.startswith(f"h{heads}.")}
    config = LavtConfig(
        backbone_config={"model_type": "swin", "embed_dim": 32, "depths": [1], "num_heads": [1]},
        text_config={"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4},
        fusion_num_heads=[heads],
    )
    fusion = MultiModalFusion(config, 0).eval()
    names = {
        "vis_project.0": "project_pixels.0",
        "image_lang_att.f_query.0": "language_maps.query",
        "image_lang_att.f_key.0": "language_maps.key",
        "image_lang_att.f_value.0": "language_maps.value",
        "image_lang_att.W.0": "language_maps.output",
        "project_mm.0": "project_fused.0",
    }
    weights = {
        f"{ours}.{kind}": unit[f"sd.{theirs}.{kind}"].reshape(fusion.get_parameter(f"{ours}.{kind}").shape)
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
    }
    fusion.load_state_dict(weights)
    with torch.no_grad():
        result = fusion(unit["x"], unit["l"].transpose(1, 2), unit["l_mask"].squeeze(-1))
    assert_close(result, unit["y"], atol=1e-4, rtol=0)


def test_the_one_module_variant_converts_to_the_same_model() -> None:
    two = released_checkpoint()
    one = {"model": {**two["model"], **{f"text_encoder.{name}": value for name, value in two["bert_model"].items()}}}
    expected_names = {name for name, *_ in json.loads((FOLDER / "lavt_one_keys.json").read_text())["keys"]}
    assert set(one["model"]) == expected_names
    first = golden_model()
    second = convert_lavt_checkpoint(one, text_config=BERT_CONFIG)
    assert second.config.text_dropout and not first.config.text_dropout
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def released_tokenizer() -> BertTokenizer:
    words = (FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def test_tokenization_matches_the_reference() -> None:
    expected = json.loads((FOLDER / "text.json").read_text())
    processor = RefSegProcessor(RefSegImageProcessor(), released_tokenizer(), text_truncation="released")
    assert processor.max_text_length == expected["max_tokens"]
    rows = [row for row in expected["rows"] if row["sentence"].strip()]
    for row in rows:
        inputs = processor(text=row["sentence"], padding="max_length")
        assert list(inputs["input_ids"][0]) == row["input_ids"], row["sentence"]
        assert list(inputs["attention_mask"][0]) == row["attention_mask"], row["sentence"]
    together = processor(text=[row["sentence"] for row in rows], padding="max_length", return_tensors="pt")
    assert together["input_ids"].tolist() == [row["input_ids"] for row in rows]


def test_a_cut_text_keeps_its_end_token_unless_told_otherwise() -> None:
    long = next(row for row in json.loads((FOLDER / "text.json").read_text())["rows"] if not row["sep_kept"])
    ids = RefSegProcessor(RefSegImageProcessor(), released_tokenizer())(text=long["sentence"])["input_ids"][0]
    assert list(ids) == [*long["input_ids"][:19], 6]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_preprocessing_matches_the_reference(index: int) -> None:
    tensors = load_file(FOLDER / "transform_64.safetensors")
    processor = RefSegImageProcessor(size={"height": 64, "width": 64})
    picture = tensors[f"{index}.image_uint8"].numpy()
    inputs = processor(picture, tensors[f"{index}.mask_uint8"].numpy(), return_tensors="pt")
    assert torch.equal(inputs["mask_labels"][0], tensors[f"{index}.target_64"])
    pixel_values, expected = inputs["pixel_values"][0], tensors[f"{index}.pixel_values_64"]
    height, width, _ = picture.shape
    if height > width and Version(PIL.__version__) < Version("13"):
        # Pillow rounds to whole gray levels after one side, then after the other. Of such pictures, the reference
        # numbers begin with the height, as Pillow does from 13 on; earlier ones always begin with the width.
        gray_level = 1 / 255 / min(processor.image_std)
        assert_close(pixel_values, expected, atol=gray_level + 1e-6, rtol=0)
        height_first = Image.fromarray(picture).resize((width, 64), Image.Resampling.BILINEAR)
        pixel_values = processor(height_first, return_tensors="pt")["pixel_values"][0]
    assert_close(pixel_values, expected, atol=1e-6, rtol=0)
