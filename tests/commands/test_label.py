"""`hf-refseg label`: photographs and data sets by a saved model, from the command line to a step of training."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from places import CHECKOUT, REAL_DATA
from tiny_lavt import tiny_lavt, tiny_processor
from typer.main import get_command
from typer.testing import CliRunner, Result

from hf_refseg import load_refseg
from hf_refseg.data.masks import decode_mask
from hf_refseg.modeling.inference_refseg import segment_image
from hf_refseg_cli import app

PHOTOGRAPHS = REAL_DATA / "refcoco_mini"
REAL = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs in {PHOTOGRAPHS}; set HF_REFSEG_REAL_DATA")
# The random model's probabilities lie around it, so that masks are neither empty nor full.
THRESHOLD = 0.455
TO_LABELS = ("--threshold", THRESHOLD, "--val-share", 0, "--output", "labels")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_lavt().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def label(*arguments: object, exit_code: int = 0) -> Result:
    result = run("label", *arguments, "--workers", 0)
    assert result.exit_code == exit_code, result.output
    return result


@REAL
@pytest.mark.slow_process
def test_real_photographs_are_labeled_and_trained_on(model: Path) -> None:
    Path("photos").mkdir()
    for path in sorted(PHOTOGRAPHS.rglob("*.jpg")):
        with Image.open(path) as photograph:
            photograph.reduce(4).save(Path("photos", path.name))
    assert len(list(Path("photos").iterdir())) == 17
    texts = ("--texts", "the left dog", "--texts", "the right circle")
    printed = label(model, "photos", *texts, "--threshold", THRESHOLD, "--output", "labels").stdout
    splits = load_refseg("labels")
    assert sum(len(rows) for rows in splits.values()) == 34 and set(splits) == {"train", "val"}
    assert [line.split() for line in printed.splitlines()][:2] == [
        ["split", "train", "val"],
        ["images", *(str(len(rows) // 2) for rows in splits.values())],
    ]
    row = splits["val"][1]
    assert row["sentences"][0]["raw"] == "the right circle"
    answers = segment_image(tiny_lavt(), tiny_processor(), row["image"], ["the right circle"], threshold=THRESHOLD)
    (answer,) = answers
    assert (decode_mask(row["mask"]) == answer.mask.numpy()).all() and 0 < answer.mask.float().mean() < 1
    assert row["score"] == pytest.approx(answer.score, abs=1e-6)
    made = json.loads(Path("labels/labels.json").read_text())
    assert made["system"] == "tiny" and len(made["revision"]) == 12 and made["threshold"] == THRESHOLD
    options = {
        **{"model_name_or_path": model, "dataset_name": "labels", "output_dir": "student", "max_steps": 1},
        **{"image_size": 64, "pictures": 0, "report_to": "none", "max_test_images": 1, "use_cpu": True},
        **{"vision_name_or_path": "null", "text_name_or_path": "null"},
    }
    result = run("train", "lavt_folder", *(part for name, value in options.items() for part in (f"--{name}", value)))
    assert result.exit_code == 0, result.output
    report = json.loads(Path("student/metrics.json").read_text())
    assert report["training"]["steps"] == 1 and report["training_data"]["labels"]["rows"] == len(splits["train"])


@REAL
def test_a_data_set_is_asked_for_its_own_sentences_and_keeps_its_collection(model: Path) -> None:
    data = ("refcoco", PHOTOGRAPHS, "--splits", "val", "--splits", "train")
    label(model, *data, "--threshold", THRESHOLD, "--output", "labels")
    rows, original = load_refseg("labels"), load_refseg("refcoco", PHOTOGRAPHS, splits=["train", "val"])
    assert list(rows) == ["train", "val"]
    sentences = {(row["image_id"], each["raw"]) for row in original["val"] for each in row["sentences"]}
    assert {(row["image_id"], row["sentences"][0]["raw"]) for row in rows["val"]} == sentences
    Path("list.json").write_text(json.dumps([int(original["train"][0]["image_id"])]))
    result = run("info", "labels", "--leakage", "--leakage-list", "list.json")
    assert result.exit_code == 1 and "1 of 1 training images" in result.stderr


def write_photos(number: int) -> Path:
    generator = np.random.default_rng(0)
    Path("photos").mkdir()
    for index in range(number):
        pixels = generator.integers(0, 256, (30, 40 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{index}.png")
    return Path("photos")


def test_a_broken_photograph_is_told_the_others_are_labeled(model: Path) -> None:
    photos = write_photos(3)
    (photos / "1.png").write_bytes(b"no picture")
    texts = photos.with_name("texts.txt")
    texts.write_text("the red dog\n\nthe green circle\n")
    command = (
        model,
        "photos",
        "--texts-file",
        texts,
        "--threshold",
        THRESHOLD,
        "--val-share",
        0,
        "--output",
        "labels",
    )
    result = label(*command, exit_code=1)
    assert "images that could not be read  1" in result.stdout and "Traceback" not in result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert "photos/1.png is damaged or no image" in line
    assert set(load_refseg("labels")["train"]["image_id"]) == {"0.png", "2.png"}
    shutil.copy(photos / "0.png", photos / "1.png")
    label(*command)
    assert set(load_refseg("labels")["train"]["image_id"]) == {"0.png", "1.png", "2.png"}


def error_of(*arguments: object) -> str:
    lines = label(*arguments, "--output", "labels", exit_code=1).stderr.splitlines()
    assert lines[-1].startswith("Error: ")
    return lines[-1]


def test_wrong_arguments_are_said(model: Path) -> None:
    photos = write_photos(2)
    text = ("--texts", "the dog")
    assert "no sentences of their own: say what to segment (--texts)" in error_of(model, photos)
    assert "no folder nowhere with photographs" in error_of(model, "nowhere", *text)
    assert "takes no split_by, only val_share" in error_of(model, photos, *text, "--split-by", "unc")
    assert "texts.txt: no such file or directory." in error_of(model, photos, "--texts-file", "texts.txt")
    Path("texts.txt").write_text("\n")
    assert "texts.txt is empty" in error_of(model, photos, "--texts-file", "texts.txt")
    assert "choose one of them" in error_of(model, photos, *text, "--texts-file", "texts.txt")
    assert "has no effect" in error_of(model, photos, *text, "--instances", "best")
    assert "nothing/there/ is no model" in error_of("nothing/there/", photos, *text)
    label(model, photos, *text, "--threshold", THRESHOLD, "--output", "labels")
    assert "different: threshold" in error_of(model, photos, *text, "--threshold", 0.4)
    Path("full").mkdir()
    Path("full/letter.txt").write_text("mine")
    assert "holds other files" in label(model, photos, *text, "--output", "full", exit_code=1).stderr


def test_files_that_other_processes_write_are_left_to_them(model: Path) -> None:
    write_photos(2)
    command = (model, "photos", "--texts", "the dog", "--shard-images", 1, *TO_LABELS)
    # Another process is at the first file.
    with FileLock("labels/.locks/train-00000-of-00002.parquet.lock"):
        printed = label(*command).stdout
    assert printed == "1 of 2 files are left to other processes, the last of which finishes labels.\n"
    assert "masks   2" in label(*command).stdout


def test_the_page_names_options_that_there_are_and_its_python_runs(model: Path) -> None:
    page = (CHECKOUT / "docs" / "labeling.md").read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True) for line in page.splitlines() if " label " in line and " --" in line]
    parts = [arguments[arguments.index("label") + 1 :] for arguments in commands]
    assert len(parts) == 7
    for arguments in parts:
        get_command(app).commands["label"].make_context("label", arguments)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    write_photos(2)
    # No mean probability of a mask lies below the threshold.
    at_any_score = code.replace('"runs/demo"', f'"{model}", threshold={THRESHOLD}').replace("0.6", str(THRESHOLD))
    exec(at_any_score.replace('"the ball"', '"the red dog"'), {})
    assert {split: len(rows) for split, rows in load_refseg("labels").items()} == {"train": 2, "val": 2}
