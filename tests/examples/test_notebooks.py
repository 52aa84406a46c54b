"""The notebooks run from the first cell to the last one, and hold no outputs of somebody's machine."""

import json
from pathlib import Path

import datasets
import pytest
from fresh_process import run_python
from places import EXAMPLES

from hf_refseg.evaluation import EvaluationResult

NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
# What takes long, and what takes its place here.
SHORTER = {"EPOCHS = 3": "EPOCHS = 1", "train_size=24, image_size=96": "train_size=5, image_size=64"}


def cells_of(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def pieces_of(name: str) -> list[str]:
    """The code of the cells, one after the other, with what is shorter in its place."""
    codes = [
        "".join(cell["source"]) for cell in cells_of(EXAMPLES / "notebooks" / name) if cell["cell_type"] == "code"
    ]
    for long, short in SHORTER.items():
        codes = [code.replace(long, short) for code in codes]
    return codes


@pytest.mark.slow_process
def test_own_picture_shows_masks_probabilities_and_explanations(tmp_path: Path) -> None:
    """In a process that has imported nothing of ours, as a kernel that has begun."""
    checks = """
    assert [mask.shape for mask in masks] == [(400, 400)] * 2
    assert all(0 < mask.sum() < mask.size // 2 for mask in masks)
    assert "word_attention_1" in pictures
    """
    run_python(*pieces_of("own_picture.ipynb"), checks, cwd=tmp_path, imports=("transformers.pipelines",))
    assert (tmp_path / "mask_2.png").is_file()


@pytest.mark.slow_process
def test_fine_tune_own_data_goes_from_pictures_to_a_scored_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    namespace: dict = {"__name__": "__main__"}
    for number, code in enumerate(pieces_of("fine_tune_own_data.ipynb"), start=1):
        exec(compile(code, f"code {number}", "exec"), namespace)
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
