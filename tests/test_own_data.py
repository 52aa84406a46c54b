"""The commands of docs/own_data.md go from real photographs to a shared model, at a tiny size, by recipes that run."""

import json
import shlex
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from folder_trees import make_metadata
from golden_lavt import FOLDER as GOLDEN_LAVT
from golden_lavt import released_checkpoint
from pages import blocks_of
from PIL import Image
from places import CHECKOUT, REAL_DATA
from tiny_lavt import tiny_processor
from tiny_methods import TinyLavt, TinyRisam
from transformers import BertTokenizer
from typer.testing import CliRunner

from hf_refseg import load_refseg
from hf_refseg.data.masks import decode_mask
from hf_refseg.training.trainer import RefSegTrainer
from hf_refseg_cli import app

PAGE = CHECKOUT / "docs" / "own_data.md"
PHOTOGRAPHS = REAL_DATA / "refcoco_mini"
# What makes the commands of the page quick, and the model of its encoders small.
QUICK = {
    "convert": ["--tokenizer", "vocab.txt", "--text-heads", "4", "--fusion-num-heads", "1", "1", "1", "1"],
    "train": shlex.split("--use_cpu --image_size 64 --num_train_epochs 1 --pictures 0 --report_to none"),
    "evaluate": ["--max-images", "1"],
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_photographs(folder: Path) -> int:
    """The 17 photographs, a quarter as large, as somebody keeps them at home; returns the number of lines."""
    lines = []
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for name, split_by in (("refcoco", "unc"), ("refcocog", "google")):
        for row in (row for rows in load_refseg(name, PHOTOGRAPHS, split_by).values() for row in rows):
            # As the page calls one of them.
            picture = "kitchen.jpg" if not lines else f"{row['image_id']}.jpg"
            row["image"].convert("RGB").reduce(4).save(folder / "images" / picture)
            mask = decode_mask(row["mask"]).astype(np.uint8) * 255
            Image.fromarray(mask).reduce(4).point(lambda gray: gray // 128 * 255).save(
                folder / "masks" / f"{len(lines)}.png"
            )
            texts = [sentence["raw"] for sentence in row["sentences"]]
            lines.append(
                {"file_name": f"images/{picture}", "mask_file_name": f"masks/{len(lines)}.png", "texts": texts}
            )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return len(lines)


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks_of(PAGE) if block.kind == "bash" for line in block.lines]


@pytest.mark.slow_process
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs in {PHOTOGRAPHS}; set HF_REFSEG_REAL_DATA")
def test_the_page_goes_from_photographs_to_a_shared_model(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    lines = write_photographs(Path("photos"))
    torch.save(released_checkpoint(), "refcoco.pth")
    words = (GOLDEN_LAVT / "vocab.txt").read_text(encoding="utf-8").splitlines()
    Path("vocab.txt").write_text("\n".join(words[:97]), encoding="utf-8")
    uploads: list[str] = []
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("hf_refseg.data.prepare.upload_dataset", lambda folder, name: uploads.append(name))
    monkeypatch.setattr(RefSegTrainer, "init_hf_repo", lambda trainer, *_, **__: None)
    monkeypatch.setattr(RefSegTrainer, "push_to_hub", lambda trainer, **_: uploads.append(trainer.args.hub_model_id))
    printed = {}
    for program, *arguments in commands():
        assert program == "hf-refseg"
        result = CliRunner().invoke(app, [*arguments, *QUICK.get(arguments[0], [])])
        assert result.exit_code == 0, f"{arguments}: {result.output}"
        printed.setdefault(arguments[0], []).append(result.stdout)
    assert set(printed) == {"preview", "prepare", "convert", "evaluate", "train", "predict"}
    splits = {line.split()[0]: line.split()[1:] for line in printed["prepare"][0].splitlines()[1:]}
    assert {split: numbers[2] for split, numbers in splits.items()} == {"train": "13", "val": "2", "test": "2"}
    assert sum(int(numbers[0]) for numbers in splits.values()) == lines == 29
    assert caplog.text.count("found 17 pictures, 68 sentences, masks from PNG.") == 1
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 300
    before, after = (next(Path("results", name).glob("*.json")) for name in ("before", "after"))
    assert json.loads(before.read_text())["metrics"].keys() == json.loads(after.read_text())["metrics"].keys()
    assert {path.suffix for path in Path("masks").iterdir()} == {".png"}
    assert "it is loaded, nothing is trained" in printed["train"][1]
    assert uploads == ["user/photos", "user/lavt-photos"]


@pytest.mark.parametrize("method", [TinyLavt, TinyRisam])
def test_the_recipes_for_own_pictures_go_on_from_a_saved_model(method: type) -> None:
    model = method().build()
    processor = tiny_processor()
    size = model.config.text_config.vocab_size
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(5, size))]
    processor.tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    model.save_pretrained("saved")
    processor.save_pretrained("saved")
    make_metadata(Path("photos"))
    recipe = f"{model.config.model_type}_folder"
    options = ["--data_dir", "photos", "--model_name_or_path", "saved", "--max_steps", "1", *QUICK["train"]]
    encoders = ["--vision_name_or_path", "null", "--text_name_or_path", "null"]
    result = CliRunner().invoke(app, ["train", recipe, *options, *encoders])
    assert result.exit_code == 0, result.output
    report = json.loads(Path("runs", recipe, "metrics.json").read_text())
    assert report["dataset"] == "folder" and report["training"]["steps"] == 1 and list(report["splits"]) == ["val"]
