"""The small model that travels with the library reads, loads everywhere by its name, and is whole."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
from typer.testing import CliRunner

from hf_refseg import REFSHAPES_DEMO, load_refseg, load_system
from hf_refseg.evaluation import evaluate_system
from hf_refseg.shipped import NAME, find_model
from hf_refseg_cli import app

FOLDER = Path(REFSHAPES_DEMO)


def test_it_is_small_and_says_how_it_was_made() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_000_000
    model = AutoModel.from_pretrained(REFSHAPES_DEMO)
    assert model.dtype == torch.bfloat16 and model.config.model_type == "lavt"
    card = ModelCard.load(FOLDER / "README.md")
    assert card.data.datasets == ["refshapes"] and card.data.eval_results
    log = json.loads((FOLDER / "training_log.json").read_text(encoding="utf-8"))
    steps = json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))["training"]["steps"]
    assert log[-1]["step"] == steps and any("loss" in entry for entry in log)
    assert all((FOLDER / name).is_file() for name in ("predictions.png", "training_curve.png", "example.png"))
    # Its code is the library's own, and is not asked for.
    assert not list(FOLDER.glob("*.py")) and "auto_map" not in (FOLDER / "config.json").read_text(encoding="utf-8")


def test_it_reads(tmp_path: Path) -> None:
    """On scenes that it was not trained on it is as good as its card says of all of them, within what so few allow."""
    scenes = load_refseg("refshapes", train_size=1, val_size=40, test_size=1, image_size=96, cache_dir=str(tmp_path))
    scores = evaluate_system(load_system(NAME, device="cpu"), scenes["val"], bootstrap_samples=0).metrics
    told = json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))["splits"]["val"]["metrics"]
    assert scores["oIoU"] == pytest.approx(told["oIoU"], abs=12)


def test_pipeline_and_commands_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = FOLDER / "example.png"
    segment = pipeline("referring-image-segmentation", model=REFSHAPES_DEMO)
    (found,) = segment(str(picture), text="the leftmost shape")
    assert found["mask"].size == Image.open(picture).size
    assert AutoProcessor.from_pretrained(REFSHAPES_DEMO).max_text_length == 20
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["predict", NAME, str(picture), "--text", "the leftmost shape", "--output", "masks"])
    assert run.exit_code == 0, run.output
    assert any(path.suffix == ".png" for path in Path("masks").iterdir())
    assert "lavt" in CliRunner().invoke(app, ["info", NAME]).output


def test_a_training_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a new task. Its card names none of this machine's folders, nor a model of the Hub that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = ["--dataset_name", "grefshapes", "--dataset_options", '{"train_size": 2, "val_size": 1, "test_size": 1}']
    fields = ["--config", '{"presence_head": true, "presence_no_target_weight": 2}']
    short = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--bf16", "false", "--pictures", "0"]
    command = ["train", "lavt_refshapes", "--model_name_or_path", NAME, "--output_dir", "tuned", *data, *fields]
    run = CliRunner().invoke(app, [*command, *short, "--eval_strategy", "no", "--save_strategy", "no"])
    assert run.exit_code == 0, run.output
    tuned, shipped = AutoModel.from_pretrained("tuned"), AutoModel.from_pretrained(REFSHAPES_DEMO, dtype=torch.float32)
    # It is saved in bfloat16, in which small updates would be lost.
    assert {parameter.dtype for parameter in tuned.parameters()} == {torch.float32}
    trained = dict(tuned.named_parameters())
    for name, weight in shipped.named_parameters():
        assert torch.allclose(trained[name], weight, atol=2e-2), name
    assert tuned.config.presence_head and tuned.config.presence_no_target_weight == 2
    card = ModelCard.load("tuned/README.md")
    assert card.data.base_model is None and str(FOLDER) not in card.content


def test_a_folder_of_the_same_name_goes_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model(NAME) == REFSHAPES_DEMO and find_model("other") == "other"
    Path(NAME).mkdir()
    assert find_model(NAME) == NAME
