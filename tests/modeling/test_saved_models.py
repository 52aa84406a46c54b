"""Models and adapters that earlier versions saved load, and answer as they did."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from PIL import Image
from places import FIXTURES
from safetensors.torch import load_file
from tiny_lavt import tiny_processor
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, pipeline

import hf_refseg
from hf_refseg import AutoModelForReferringSegmentation
from hf_refseg.training.adapters import load_with_adapter

SAVED = FIXTURES / "saved"


def load(folder: Path) -> nn.Module:
    """A saved model, or a saved adapter on the model that it was trained on."""
    if not folder.name.endswith("_lora"):
        return AutoModelForReferringSegmentation.from_pretrained(folder)
    base_model = folder.with_name(folder.name.removesuffix("_lora"))
    return load_with_adapter(folder, AutoModelForReferringSegmentation.from_pretrained(base_model))


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    ["btmae", "lavt", "m3att", "magnet", "risam", "risam_lora", "risam_versioned", "unified_lavt", "video_lavt"],
)
def test_what_was_saved_answers_as_before(name: str, recwarn: pytest.WarningsRecorder) -> None:
    model = load(SAVED / name).double()
    answers = load_file(SAVED / name / "answers.safetensors")
    inputs = {key: answers[key] for key in ("input_ids", "attention_mask", "mask_labels")}
    output = model(pixel_values=answers["pixels"].double() / 64 - 2, **inputs)
    assert_close(output.logits.float(), answers["logits"], atol=1e-6, rtol=1e-5)
    losses = json.loads((SAVED / name / "losses.json").read_text(encoding="utf-8"))
    actual = {key: value.item() for key, value in output.loss_components.items()} | {"loss": output.loss.item()}
    assert actual == pytest.approx(losses, rel=1e-6)
    assert [str(warning.message) for warning in recwarn if "weights" in str(warning.message)] == []


def test_what_is_saved_says_by_which_version_and_a_newer_format_is_refused(tmp_path: Path, caplog) -> None:
    versions = {
        json.loads((SAVED / name / "config.json").read_text()).get("hf_refseg_version")
        for name in ("lavt", "risam_versioned")
    }
    assert versions == {None, "0.1.0"}
    config = AutoConfig.from_pretrained(SAVED / "lavt")
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["hf_refseg_version"] == hf_refseg.__version__ == metadata.version("hf_refseg")
    for version in ("0.99.0", "0.0.1.dev3"):
        path.write_text(json.dumps({**saved, "hf_refseg_version": version}), encoding="utf-8")
        assert AutoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict() | {"_name_or_path": ""}
    assert "hf_refseg_version" not in caplog.text
    for version, message in (
        ("1.0.0", "The lavt model was saved by hf_refseg 1.0.0, .* pip install --upgrade hf_refseg"),
        (1.0, "a version such as .* is expected"),
        ("new", "a version such as .* is expected"),
    ):
        path.write_text(json.dumps({**saved, "hf_refseg_version": version}), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            AutoConfig.from_pretrained(tmp_path)


def test_what_named_the_earlier_file_of_a_pipeline_segments_and_is_saved_with_the_present_one(tmp_path: Path) -> None:
    config = json.loads((SAVED / "video_lavt" / "config.json").read_text(encoding="utf-8"))
    before = {task: named["impl"] for task, named in config["custom_pipelines"].items()}
    assert before["referring-video-segmentation"].startswith("pipeline_video_refseg.")
    processor = tiny_processor()
    processor.max_text_length = 16  # the model has no more positions
    segment = pipeline("referring-video-segmentation", model=str(SAVED / "video_lavt"), processor=processor)
    (result,) = segment([Image.new("RGB", (20, 10))] * 2, text="red circle")
    assert [mask.size for mask in result["masks"]] == [(20, 10)] * 2
    segment.model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["custom_pipelines"]
    assert {task: named["impl"] for task, named in saved.items()} == {
        task: f"pipeline_refseg.{name.rpartition('.')[2]}" for task, name in before.items()
    }
    assert {path.name for path in tmp_path.glob("pipeline*.py")} == {"pipeline_refseg.py"}
