"""`hf-refseg predict` and `evaluate` with models of others."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from command_line import error_of, output_of
from PIL import Image
from tiny_systems import noise, save, tiny_clipseg, tiny_sam3

from hf_refseg.data.masks import decode_mask
from hf_refseg.systems import load_system

TEXTS = ["a dog", "red circle"]
ASKED = ("--text", TEXTS[0], "--text", TEXTS[1], "--output", "out", "--device", "cpu")
SIZES = {"--val-size": 2, "--train-size": 1, "--test-size": 1, "--image-size": 64}
SHAPES = ("refshapes", *(str(each) for size in SIZES.items() for each in size))


@pytest.fixture(scope="module", params=["clipseg", "sam3"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    build = {"clipseg": tiny_clipseg, "sam3": tiny_sam3}[request.param]
    return save(tmp_path_factory.mktemp("systems") / request.param, *build())


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in its own folder, offline, and caches data sets there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_predict_writes_what_the_system_answers(system: str) -> None:
    noise(50, 40).save("photo.png")
    printed = output_of("predict", system, "photo.png", *ASKED, "--json", "all.json").splitlines()
    ((record,), loaded) = json.loads(Path("all.json").read_text()), load_system(system, device="cpu")
    answers = loaded.segment(noise(50, 40), TEXTS)
    assert Path("out/photo_overlay.png").is_file()
    for line, predicted, answer in zip(printed, record["predictions"], answers, strict=True):
        mask = answer.shown_mask(loaded.threshold)
        np.testing.assert_array_equal(np.asarray(Image.open(predicted["file"])) == 255, mask)
        np.testing.assert_array_equal(decode_mask(predicted["mask"]), mask)
        assert predicted["score"] == pytest.approx(answer.score_at(loaded.threshold), abs=1e-5)
        assert f"score {predicted['score']:.3f}" in line


def test_predict_goes_through_a_video_frame_by_frame(system: str) -> None:
    pytest.importorskip("av")
    Path("frames").mkdir()
    frames = [noise(50, 40), noise(50, 40).rotate(180)]
    for number, frame in enumerate(frames):
        frame.save(f"frames/{number}.png")
    output_of("predict", system, "frames", "--video", *ASKED, "--json", "all.json")
    ((record,), loaded) = json.loads(Path("all.json").read_text()), load_system(system, device="cpu")
    for number, frame in enumerate(frames):
        for predicted, answer in zip(record["predictions"], loaded.segment(frame, TEXTS), strict=True):
            assert decode_mask(predicted["frames"][number]["mask"]).tolist() == answer.foreground(0.5).tolist()


def test_options_without_effect_are_refused(system: str) -> None:
    Path("frames").mkdir()
    noise(50, 40).save("frames/0.png")
    error = error_of("predict", system, "frames", "--video", *ASKED, "--window", 2)
    assert "on which window (--window) has no effect: leave it out" in error
    option = ("--instances", "best") if "clipseg" in system else ("--threshold", 0.4)
    assert f"({option[0]}) has no effect" in error_of("predict", system, "frames/0.png", *ASKED, *option)
    assert "leave out trust_remote_code" in error_of("predict", system, "frames/0.png", *ASKED, "--trust-remote-code")
    assert not Path("out").exists()


def test_evaluate_scores_a_system(system: str) -> None:
    given = () if "clipseg" in system else ("--instances", "best", "--score-threshold", 0.2)
    printed = output_of("evaluate", system, *SHAPES, *given, "--batch-size", 3, "--device", "cpu")
    (path,) = Path("runs/evaluate").rglob("*.json")
    assert path.parent.name == Path(system).name and str(path) in printed and path.with_suffix(".png").is_file()
    report = json.loads(path.read_text())
    assert report["model"] == system and report["images"] == 2
    assert report["sentences"] == len(report["records"]) > 2 and report["metrics"]["oIoU"] > 0
    assert ("instances" in report, report.get("score_threshold")) == ((True, 0.2) if given else (False, None))


def test_saved_masks_fit_any_threshold(system: str) -> None:
    """Those of probabilities belong to theirs."""
    output_of("evaluate", system, *SHAPES, "--save-predictions", "saved.jsonl", "--output", "own", "--device", "cpu")
    asked = ("evaluate", "--predictions", "saved.jsonl", *SHAPES, "--protocol", "cris", "--output", "read")
    if "clipseg" in system:
        assert "holds masks at the threshold 0.5" in error_of(*asked)
        return
    output_of(*asked)
    output_of("evaluate", system, *SHAPES, "--protocol", "cris", "--output", "own", "--device", "cpu")
    of_file, of_system = (
        json.loads(Path(folder, "refshapes_val_cris.json").read_text()) for folder in ("read", "own")
    )
    assert (of_file["metrics"], of_file["records"]) == (of_system["metrics"], of_system["records"])
