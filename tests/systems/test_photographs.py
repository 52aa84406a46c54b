"""Every kind of system, tiny and with random weights, answers every sentence about 17 real photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from places import REAL_DATA
from tiny_detectors import (
    tiny_grounding_dino,
    tiny_mm_grounding_dino,
    tiny_omdet_turbo,
    tiny_owlv2,
    tiny_owlvit,
    tiny_sam,
    tiny_sam2,
)
from tiny_florence import tiny_florence
from tiny_lavt import tiny_processor
from tiny_methods import (
    TinyBtmae,
    TinyLavt,
    TinyM3Att,
    TinyMagNet,
    TinyMethod,
    TinyRisam,
    TinyUnifiedLavt,
    TinyVideoLavt,
)
from tiny_systems import save, tiny_clipseg, tiny_sam3

from hf_refseg import RefSegImageProcessor, load_refseg
from hf_refseg.auto import registered_methods
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.evaluation import evaluate_predictions, evaluate_system
from hf_refseg.evaluation.prediction_files import writing_predictions
from hf_refseg.evaluation.prediction_recorder import header_for
from hf_refseg.systems import KINDS, load_system
from hf_refseg.systems.kinds import DETECTORS, SEGMENTERS
from hf_refseg.training.adapters import add_adapter

PHOTOGRAPHS = REAL_DATA / "refcoco_mini"
pytestmark = pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason=f"no photographs in {PHOTOGRAPHS}; set HF_REFSEG_REAL_DATA"
)
METHODS = (TinyBtmae, TinyLavt, TinyM3Att, TinyMagNet, TinyRisam, TinyUnifiedLavt, TinyVideoLavt)
OTHERS = (tiny_clipseg, tiny_florence, tiny_sam3)
SLOW = {tiny_florence}
PAIRS = (
    (tiny_grounding_dino, tiny_sam),
    (tiny_mm_grounding_dino, tiny_sam2),
    (tiny_owlv2, tiny_sam),
    (tiny_owlvit, tiny_sam2),
    (tiny_omdet_turbo, tiny_sam),
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """All of them, a quarter as large, with all sentences about them."""
    root = tmp_path_factory.mktemp("photographs")
    folder, lines = root / "photos", []
    folder.mkdir()
    for name, split_by in (("refcoco", "unc"), ("refcocog", "google")):
        splits = load_refseg(name, PHOTOGRAPHS, split_by, cache_dir=root / "cache")
        for row in (row for rows in splits.values() for row in rows):
            row["image"].convert("RGB").reduce(4).save(folder / f"{row['image_id']}.png")
            texts = [sentence["raw"] for sentence in row["sentences"]]
            mask = encode_mask(decode_mask(row["mask"])[::4, ::4])
            of_row = {"ref_id": f"{name} {row['ref_id']}", "texts": texts, "rle": mask, "split": "val"}
            lines.append({"file_name": f"{row['image_id']}.png", **of_row})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return load_refseg("folder", folder, splits=["val"], cache_dir=root / "cache")["val"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluate(name: str, photographs: Dataset, **options: Any) -> None:
    """Scores a system, and its answers once more from the file that they are written to."""
    system = load_system(name, device="cpu", **options)
    (answer,) = system.segment(photographs[0]["image"], ["the left dog"])
    assert system.gives_masks is (answer.mask is not None)
    with writing_predictions("answers.jsonl", header_for("original", system.threshold)) as write_lines:
        found = evaluate_system(system, photographs, bootstrap_samples=0, progress=False, write_lines=write_lines)
    assert (found.images, found.sentences) == (17, 68)
    assert len({(record["ref_id"], record["sent_id"]) for record in found.records}) == 68
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in lines[1:]] == [record["text"] for record in found.records]
    assert len({line["mask"]["counts"] for line in lines[1:]}) > 17
    read = evaluate_predictions("answers.jsonl", photographs, bootstrap_samples=0, progress=False)
    assert (read.metrics, read.records) == (found.metrics, found.records)


def half_of_a_picture(name: str, image: Image.Image) -> float:
    """The threshold above which half of an image is foreground: random weights call all of it so, or nothing."""
    (answer,) = load_system(name, device="cpu").segment(image, ["the left dog"])
    return float(np.median(answer.probabilities))


def save_method(folder: Path, tiny: TinyMethod) -> str:
    processor = tiny_processor()
    height, width = tiny.size
    processor.image_processor = RefSegImageProcessor(size={"height": height, "width": width})
    return save(folder, tiny.build(), processor)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_ours(method: type[TinyMethod], photographs: Dataset) -> None:
    name = save_method(Path("model"), method())
    evaluate(name, photographs, threshold=half_of_a_picture(name, photographs[0]["image"]))


def test_an_adapter_of_ours(photographs: Dataset) -> None:
    base = load_system(save_method(Path("base"), TinyLavt()), device="cpu")
    name = save(Path("adapter"), add_adapter(base.model, lora_rank=2), base.processor)
    evaluate(name, photographs, threshold=half_of_a_picture(name, photographs[0]["image"]))


@pytest.mark.parametrize(
    "build", [pytest.param(build, marks=[pytest.mark.slow_process] if build in SLOW else []) for build in OTHERS]
)
def test_a_model_of_others(build: Callable[[], tuple[Any, Any]], photographs: Dataset) -> None:
    model, processor = build()
    if model.can_generate():
        # Random weights end no answer by themselves.
        model.generation_config.exponential_decay_length_penalty = (4, 4.0)
    evaluate(save(Path("model"), model, processor), photographs, batch_size=16)


@pytest.mark.parametrize(("detector", "segmenter"), PAIRS)
def test_a_detector_with_a_segmenter(
    detector: Callable[[], tuple[Any, Any]], segmenter: Callable[[], tuple[Any, Any]], photographs: Dataset
) -> None:
    names = (save(Path(name), *build()) for name, build in (("detector", detector), ("segmenter", segmenter)))
    evaluate("+".join(names), photographs, score_threshold=0.0)


def test_no_kind_is_missing() -> None:
    assert {method.model_class for method in METHODS} == set(registered_methods().values())
    types = [[build()[0].config.model_type for build in pair] for pair in PAIRS]
    assert {detector for detector, _ in types} == set(DETECTORS)
    # The checkpoints of SAM 2 are those for videos, of which images take a part.
    assert {segmenter for _, segmenter in types} == set(SEGMENTERS) - {"sam2_video"}
    others = {build()[0].config.model_type for build in OTHERS}
    assert all(len(others & set(kind.model_types)) == 1 for kind in KINDS) and len(others) == len(KINDS)
