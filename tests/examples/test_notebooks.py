"""The notebooks run from the first cell to the last one, and hold no outputs of somebody's machine."""

import json
from pathlib import Path

import datasets
import pytest
from places import EXAMPLES
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_systems import noise, save

from hf_refseg.evaluation import EvaluationResult

NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
# What takes long, and what takes its place here.
SHORTER = {"EPOCHS = 3": "EPOCHS = 1", "train_size=24, image_size=96": "train_size=5, image_size=64"}


def cells_of(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Names of a kernel that has begun, in a folder with a tiny model where `make demo` writes one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save(Path("runs/demo"), tiny_lavt(), tiny_processor())
    noise(50, 40).save("runs/demo/example.png")
    return {"__name__": "__main__"}


def run(name: str, namespace: dict) -> None:
    for number, cell in enumerate(cells_of(EXAMPLES / "notebooks" / name), start=1):
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            for long, short in SHORTER.items():
                code = code.replace(long, short)
            exec(compile(code, f"{name}, cell {number}", "exec"), namespace)


def test_own_picture_shows_masks_probabilities_and_explanations(namespace: dict) -> None:
    run("own_picture.ipynb", namespace)
    assert [mask.shape for mask in namespace["masks"]] == [(320, 400)] * 2
    assert "word_attention_1" in namespace["pictures"]
    assert Path("mask_2.png").is_file()


@pytest.mark.slow_process
def test_fine_tune_own_data_goes_from_pictures_to_a_scored_model(namespace: dict) -> None:
    run("fine_tune_own_data.ipynb", namespace)
    assert {"train", "val", "test"} == set(namespace["data"])
    assert namespace["report"]["training"]["steps"] > 0
    for name in ("before", "after"):
        assert isinstance(namespace[name], EvaluationResult) and namespace[name].images > 0
    assert Path("runs/photos/predictions.png").is_file()


def test_notebooks_hold_no_outputs() -> None:
    text = "".join(notebook.read_text(encoding="utf-8") for notebook in NOTEBOOKS)
    assert all(text.count(long) == 1 for long in SHORTER)
    assert [path.name for path in NOTEBOOKS] == ["fine_tune_own_data.ipynb", "own_picture.ipynb"]
    for cell in (cell for notebook in NOTEBOOKS for cell in cells_of(notebook)):
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
