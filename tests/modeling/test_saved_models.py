"""Models and adapters that earlier versions saved load, and answer as they did."""

import json
from pathlib import Path

import pytest
import torch
from places import FIXTURES
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

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
    "name", ["btmae", "lavt", "m3att", "magnet", "risam", "risam_lora", "unified_lavt", "video_lavt"]
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
