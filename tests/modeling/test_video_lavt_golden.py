"""Video Swin and video LAVT against the numbers of the reference implementations, and released checkpoints."""

import json
import re

import pytest
import torch
from places import FIXTURES
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from hf_refseg import VideoLavtConfig, VideoLavtForReferringSegmentation
from hf_refseg.convert import CheckpointError, convert_video_lavt_checkpoint
from hf_refseg.modeling.configuration_video_swin_refseg import VideoSwinConfig
from hf_refseg.modeling.modeling_video_lavt import ClipFusion
from hf_refseg.modeling.video_swin_refseg import VideoSwinModel
from hf_refseg_cli import app

FOLDER = FIXTURES / "video_lavt"
INDEX = json.loads((FOLDER / "index.json").read_text())
CASES = ("clip", "batch", "image")
INDEX_BUFFER = "backbone.layers.0.blocks.0.attn.relative_position_index"
PATCHES = "backbone.patch_embed.proj.weight"
TABLE = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"


def released_checkpoint() -> dict:
    return {"model": load_file(FOLDER / "model.safetensors")}


def golden_model(**config_overrides) -> VideoLavtForReferringSegmentation:
    return convert_video_lavt_checkpoint(
        released_checkpoint(), text_config=INDEX["config"]["bert"], **config_overrides
    )


def golden_case(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors of a case, and the inputs of the model."""
    tensors = load_file(FOLDER / f"case_{name}.safetensors")
    return tensors, {
        "pixel_values": tensors["clip"],
        "input_ids": tensors["input_ids"],
        "attention_mask": tensors["attention_mask"],
    }


def our_encoder_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of torchvision, by the mapping in the fixture's index.json."""
    ours = {}
    for name, value in weights.items():
        if name.startswith("norm.") or name.endswith("relative_position_index"):
            continue
        name = re.sub(r"layers\.(\d+)\.blocks\.", lambda match: f"features.{2 * int(match[1])}.", name)
        name = re.sub(r"layers\.(\d+)\.downsample", lambda match: f"features.{2 * int(match[1]) + 1}", name)
        ours[name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")] = value
    return ours


@torch.no_grad()
@pytest.mark.parametrize("case", ["pad", "trunc", "one_frame"])
def test_video_swin_matches_the_reference(case: str) -> None:
    folder = FIXTURES / "video_swin"
    config = json.loads((folder / "index.json").read_text())["config"]
    sizes = {name: config[name] for name in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")}
    model = VideoSwinModel(VideoSwinConfig(**sizes)).eval()
    model.load_state_dict(our_encoder_names(load_file(folder / "model.safetensors")))
    tensors = load_file(folder / f"case_{case}.safetensors")
    stages = model(tensors["clip"].transpose(1, 2)).hidden_states
    for index, features in enumerate(stages):
        frames = features.flatten(0, 1).permute(0, 3, 1, 2)
        assert_close(frames, tensors[f"stage.{index}"], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_forward_matches_the_reference(case: str) -> None:
    tensors, inputs = golden_case(case)
    model = golden_model()
    image, text, text_mask = model.encode_inputs(**inputs)
    assert_close(text, tensors["last_hidden_state"], atol=1e-4, rtol=0)
    for index, maps in enumerate(model.fuse(image, text, text_mask).maps):
        assert_close(maps.flatten(0, 1), tensors[f"features.{index}"], atol=1e-3, rtol=0)
    background, foreground = tensors["logits"].unbind(1)
    assert_close(model(**inputs).logits.flatten(0, 1), foreground - background, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_image_is_a_clip_of_one_frame() -> None:
    tensors, inputs = golden_case("image")
    inputs["pixel_values"] = inputs["pixel_values"].squeeze(1)
    background, foreground = tensors["logits"].unbind(1)
    assert_close(golden_model()(**inputs).logits, foreground - background, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss_type", ["dice", "dice_boundary", "dice_focal"])
def test_losses_match_the_reference(case: str, loss_type: str) -> None:
    tensors, inputs = golden_case(case)
    labels = tensors["target"].long().view(*inputs["pixel_values"].shape[:2], *tensors["target"].shape[1:])
    output = golden_model(loss_type=loss_type)(**inputs, mask_labels=labels)
    expected = INDEX["cases"][case]["losses"]
    assert output.loss.item() == pytest.approx(expected["mc_dice" if loss_type == "dice" else loss_type], abs=1e-4)


@torch.no_grad()
def test_fusion_unit_matches_the_reference() -> None:
    unit = load_file(FOLDER / "pwam3d_unit.safetensors")
    config = VideoLavtConfig(
        backbone_config={"embed_dim": 16, "depths": [2], "num_heads": [1]},
        text_config={"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4},
        fusion_num_heads=[1],
    )
    fusion = ClipFusion(config, 0).eval()
    places = {
        "project_pixels": ("temporal_vis_project", "spatial_vis_project"),
        "language_maps.query": ("f_query_t", "f_query_s"),
        "language_maps.output": ("W_t", "W_s"),
        "project_fused.0": ("project_mm_t", "project_mm_s"),
    }
    names = {f"{ours}.branches.{index}.0": name for ours, pair in places.items() for index, name in enumerate(pair)}
    names |= {"language_maps.key": "f_key", "language_maps.value": "f_value"}
    weights = {
        f"{ours}.{kind}": unit[f"sd.{theirs}.0.{kind}"].view_as(fusion.get_parameter(f"{ours}.{kind}"))
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    fusion.load_state_dict(weights)
    result = fusion(unit["x"], unit["l"].transpose(1, 2), unit["l_mask"].squeeze(-1))
    assert_close(result.flatten(1, 3), unit["y"], atol=1e-4, rtol=0)


def without_index(checkpoint: dict, rows: int) -> dict:
    """The checkpoint with other position tables and without the index that belongs to them."""
    tensors = {name: value for name, value in checkpoint["model"].items() if "relative_position_index" not in name}
    for name in list(tensors):
        if name.endswith("relative_position_bias_table"):
            tensors[name] = torch.randn(rows, tensors[name].shape[1])
    return {"model": tensors}


@pytest.mark.parametrize(("rows", "expected"), [(2535, [8, 7, 7]), (7935, [8, 12, 12])])
def test_released_windows_follow_from_their_tables(rows: int, expected: list[int]) -> None:
    checkpoint = without_index(released_checkpoint(), rows)
    model = convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"])
    assert list(model.config.backbone_config.window_size) == expected


def test_a_window_that_tables_leave_open_has_to_be_named() -> None:
    # (2 * 5 - 1) ** 3 and (2 * 14 - 1) ** 2 rows are as many.
    checkpoint = without_index(released_checkpoint(), 729)
    with pytest.raises(CheckpointError, match=r"pass window_size .* 41 x 2 x 2 or 5 x 5 x 5 or 1 x 14 x 14"):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"])
    with pytest.raises(CheckpointError, match=r"729 rows, but windows of 8 x 7 x 7 need 2535"):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"], window_size=(8, 7, 7))
    model = convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"], window_size=(5, 5, 5))
    assert list(model.config.backbone_config.window_size) == [5, 5, 5]
    checkpoint["model"][INDEX_BUFFER] = torch.zeros(125, 125, dtype=torch.long)
    with pytest.raises(CheckpointError, match="windows have 125 positions, those of 1 x 14 x 14 have 196"):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"], window_size=(1, 14, 14))
    with pytest.raises(CheckpointError, match="has three numbers"):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"], window_size=(5, 5))
    model = convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"])
    assert list(model.config.backbone_config.window_size) == [5, 5, 5]


def test_tables_of_no_window_are_named() -> None:
    checkpoint = without_index(released_checkpoint(), 730)
    with pytest.raises(CheckpointError, match=r"\(730 rows\) are of no square windows"):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"])


def test_other_checkpoints_are_refused() -> None:
    checkpoint = released_checkpoint()
    with pytest.raises(CheckpointError, match="no tensors under 'model'"):
        convert_video_lavt_checkpoint({"state_dict": {}})
    with pytest.raises(CheckpointError, match="relative_position_bias_table"):
        convert_video_lavt_checkpoint({"model": {k: v for k, v in checkpoint["model"].items() if k != TABLE}})
    checkpoint["model"]["backbone.layers.0.fusion.other.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"such as backbone\.layers\.0\.fusion\.other\.weight"):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("text_encoder.extra", torch.zeros(1), r"such as text_encoder\.extra"),
        (0, torch.zeros(1), "'model' of the checkpoint holds 0 of the type Tensor"),
        (TABLE, torch.tensor(1.0), rf"{TABLE}' .* has the shape \(\), but 2 axes are expected"),
        (INDEX_BUFFER, torch.tensor(1), rf"{INDEX_BUFFER}' .* has the shape \(\), but 2 axes are expected"),
        (PATCHES, torch.zeros(6, 3, 1, 4, 4, device="meta"), f"{PATCHES} is a meta tensor"),
        (PATCHES, torch.zeros(1).expand(10**8, 3, 1, 4, 4), f"{PATCHES} of shape .* needs 19200000000 bytes"),
    ],
    ids=["extra", "number as name", "0-d table", "0-d index", "meta", "expanded"],
)
def test_what_is_no_part_of_a_checkpoint_is_named(name: object, tensor: Tensor, message: str) -> None:
    checkpoint = released_checkpoint()
    checkpoint["model"][name] = tensor
    with pytest.raises(CheckpointError, match=message):
        convert_video_lavt_checkpoint(checkpoint, text_config=INDEX["config"]["bert"])


@torch.no_grad()
@pytest.mark.parametrize("window", [[], ["--window-size", 2, 4, 4]], ids=["found", "given"])
def test_the_command_line_converts_a_checkpoint(window: list, tmp_path) -> None:
    torch.save(released_checkpoint(), tmp_path / "video.pth")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{index}" for index in range(92))]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    arguments = ["convert", "video_lavt", tmp_path / "video.pth", tmp_path / "model", "--text-heads", 4]
    arguments += ["--tokenizer", tmp_path / "vocab.txt", *window]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "video_lavt" in result.stdout
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert type(model) is VideoLavtForReferringSegmentation and model.config.loss_type == "dice"
    tensors, inputs = golden_case("batch")
    background, foreground = tensors["logits"].unbind(1)
    assert_close(model(**inputs).logits.flatten(0, 1), foreground - background, atol=1e-4, rtol=0)
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor.max_text_length == 22
    assert len(processor(text="word1 " * 30)["input_ids"][0]) == 22
