"""MagNet against the numbers of the reference implementation, and its released checkpoints as models."""

import json

import pytest
import torch
from places import FIXTURES
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from hf_refseg import MagNetForReferringSegmentation
from hf_refseg.convert import CheckpointError, convert_magnet_checkpoint
from hf_refseg_cli import app

FOLDER = FIXTURES / "magnet"
CONFIG = json.loads((FOLDER / "index.json").read_text())["config"]
CASES = ("even", "pad", "odd")
MASK_FEATURES = "classifier.pixel_decoder.mask_features.weight"
IN_PROJECTION = "classifier.predictor.transformer_self_attention_layers.0.self_attn.in_proj_weight"


def released_checkpoint() -> dict:
    return {"model": load_file(FOLDER / "model.safetensors")}


def golden_model(checkpoint: dict | None = None, **overrides) -> MagNetForReferringSegmentation:
    options = {
        "text_config": CONFIG["bert"],
        "text_stage_layers": CONFIG["pwam_idx"],
        "num_attention_heads": CONFIG["nheads"],
        **overrides,
    }
    return convert_magnet_checkpoint(checkpoint or released_checkpoint(), **options)


def golden_case(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors of a case, and the inputs of the model."""
    tensors = load_file(FOLDER / f"case_{name}.safetensors")
    tensors = {key.removeprefix("tap."): value for key, value in tensors.items()}
    inputs = {name: tensors[name] for name in ("input_ids", "attention_mask")}
    return tensors, {"pixel_values": tensors["image"], **inputs}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_forward_matches_the_reference(case: str, attention: str) -> None:
    tensors, inputs = golden_case(case)
    model = golden_model()
    model.set_attn_implementation(attention)
    image = model.get_image_features(inputs["pixel_values"])
    words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    fused = model.fuse(image, words, inputs["attention_mask"].float())
    for index, maps in enumerate(fused.maps):
        assert_close(maps, tensors[f"img_stage{index + 1}.mixer_out"], atol=1e-4, rtol=0)
    assert_close(fused.text_features, tensors["lang_stage4.next"], atol=1e-4, rtol=0)
    masks = model.decode(fused, image.image_size).mask_logits
    expected = [tensors[f"aux.{index}.pred_masks"] for index in range(4)] + [tensors["pred_masks"]]
    for actual, mask in zip(masks, expected, strict=True):
        assert_close(actual, mask, atol=1e-3, rtol=0)
    logits = model(**inputs).logits
    assert_close(logits.sigmoid(), tensors["semantic"].squeeze(1), atol=1e-3, rtol=0)
    assert torch.equal(logits > 0, tensors["pred_binary"].squeeze(1).bool())


@torch.no_grad()
def test_inner_values_match_the_reference() -> None:
    tensors, inputs = golden_case("pad")
    model = golden_model()
    seen: dict[str, Tensor] = {}

    def keep(index: int):
        def hook(module, arguments, output) -> None:
            seen[f"img_stage{index}.V"], _, seen[f"lang_stage{index}.O"], _ = arguments
            seen[f"lang_stage{index}.next"] = output[2]
            if index == 4:
                seen["img_stage4.E"] = output[1]

        return hook

    for index, stage in enumerate(model.stages, start=1):
        stage.register_forward_hook(keep(index))
    image = model.get_image_features(inputs["pixel_values"])
    words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    fused = model.fuse(image, words, inputs["attention_mask"].float())
    # The last stage's gate works into nothing, and there is none.
    assert torch.equal(seen.pop("img_stage4.E"), seen["img_stage4.V"])
    assert len(seen) == 3 * 4
    for name, value in seen.items():
        assert_close(value, tensors[name], atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    pixels = model.head.pixel_decoder(list(fused.maps))
    assert_close(pixels.mask_features, tensors["mask_features"], atol=1e-4, rtol=0)
    for index, scale in enumerate(pixels.multi_scale_features[:3]):
        assert_close(scale, tensors[f"multi_scale.{index}"], atol=1e-4, rtol=0)


def test_dimensions_are_read_off_the_tensors() -> None:
    config = golden_model().config
    backbone = config.backbone_config
    assert (backbone.embed_dim, list(backbone.depths)) == (CONFIG["embed_dim"], CONFIG["depths"])
    assert (list(backbone.num_heads), backbone.window_size) == (CONFIG["num_heads"], CONFIG["window_size"])
    assert (config.feature_size, config.mask_feature_size) == (CONFIG["conv_dim"], CONFIG["mask_dim"])
    assert (config.pixel_decoder_layers, config.pixel_decoder_feedforward) == (2, CONFIG["pixel_decoder_ffn"])
    assert (config.decoder_layers, config.decoder_feedforward) == (4, CONFIG["dim_feedforward"])
    assert config.cam_language == "released" and list(config.pyramid_scales) == CONFIG["psizes"]


@torch.no_grad()
def test_a_converted_model_survives_the_disk(tmp_path) -> None:
    model = golden_model()
    model.save_pretrained(tmp_path)
    loaded, report = MagNetForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    _, inputs = golden_case("pad")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_a_converted_model_may_train_without_the_alignment_loss() -> None:
    tensors, inputs = golden_case("even")
    model = golden_model(alignment_losses=[])
    assert model.num_parameters() < golden_model().num_parameters()
    assert_close(model(**inputs).logits.sigmoid(), tensors["semantic"].squeeze(1), atol=1e-3, rtol=0)


def changed(**changes: Tensor | None) -> dict:
    tensors = {**released_checkpoint()["model"], **changes}
    return {"model": {name: tensor for name, tensor in tensors.items() if tensor is not None}}


@pytest.mark.parametrize(
    ("checkpoint", "overrides", "message"),
    [
        ({"state": {}}, {}, "no tensors under 'model'"),
        (changed(**{"stem.weight": torch.zeros(1)}), {}, "such as stem.weight"),
        (changed(**{"image_model.layers.1.mixer.0.weight": None}), {}, "1 tensors are missing"),
        (changed(**{"image_model.patch_embed.proj.weight": None}), {}, "no tensor .*patch_embed.proj.weight"),
        (changed(), {"text_config": {**CONFIG["bert"], "intermediate_size": 32}}, "have another shape"),
        (changed(), {"num_attention_heads": 8}, "have another shape"),
        (changed(**{"language_model.encoder.extra": torch.zeros(1)}), {}, "such as text_encoder.encoder.extra"),
        (changed(**{"language_model.lang.bias": torch.zeros(1)}), {}, "such as text_encoder.lang.bias"),
        (changed(**{IN_PROJECTION: torch.tensor(1.0)}), {}, rf"{IN_PROJECTION} .* has the shape \(\), which"),
        (changed(**{MASK_FEATURES: torch.tensor(1.0)}), {}, rf"{MASK_FEATURES}' .* the shape \(\), but 4 axes"),
        (changed(**{MASK_FEATURES: torch.zeros(32, 32, 1, 1).to_sparse()}), {}, f"{MASK_FEATURES} is a sparse tensor"),
        (changed(**{"backbone.norm0.weight": torch.zeros(1)}), {}, "has both 'image_model' and 'backbone'"),
        ({"model": {0: torch.zeros(1)}}, {}, "'model' of the checkpoint holds 0 of the type Tensor"),
    ],
    ids=[
        *("other layout", "other method", "incomplete", "no patches", "other BERT", "other heads", "extra BERT"),
        *("extra", "0-d projection", "0-d features", "sparse features", "doubled", "number as name"),
    ],
)
def test_wrong_checkpoints_are_named(checkpoint: dict, overrides: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        golden_model(checkpoint, **overrides)


@torch.no_grad()
def test_the_command_writes_what_auto_classes_load(tmp_path) -> None:
    torch.save(released_checkpoint(), tmp_path / "magnet.pth")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *(f"word{index}" for index in range(92))]))
    paths = [tmp_path / "magnet.pth", tmp_path / "magnet", "--tokenizer", tmp_path / "vocab.txt"]
    options = ["--text-heads", 4, "--num-attention-heads", 4, "--text-stage-layers", 1, 2, 3, 4]
    result = CliRunner().invoke(app, ["convert", "magnet", *map(str, [*paths, *options])])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'magnet'}  magnet, 1.0 M parameters")
    model, processor = (
        AutoModel.from_pretrained(tmp_path / "magnet"),
        AutoProcessor.from_pretrained(tmp_path / "magnet"),
    )
    tensors, inputs = golden_case("pad")
    assert_close(model(**inputs).logits.sigmoid(), tensors["semantic"].squeeze(1), atol=1e-3, rtol=0)
    assert processor.text_truncation == "released"
    # By default BERT has twelve layers in groups of three.
    result = CliRunner().invoke(
        app, ["convert", "magnet", str(paths[0]), str(tmp_path / "other"), *map(str, paths[2:])]
    )
    assert result.exit_code == 1 and "text_stage_layers" in result.stderr and not (tmp_path / "other").exists()
