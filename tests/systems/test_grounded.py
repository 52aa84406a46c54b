"""A detector with a segmenter: masks as transformers makes them of the boxes that the detector finds, step by step."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_detectors import of_videos, tiny_grounding_dino, tiny_owlvit, tiny_sam, tiny_sam2
from tiny_systems import noise, save
from torch import nn

from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError
from hf_refseg.systems import load_system
from hf_refseg.systems.detectors import GroundingDino, Owl
from hf_refseg.systems.grounded import SEGMENTER_CLASSES, GroundedSystem, Sam, Sam2, load_segmenter
from hf_refseg.systems.kinds import SEGMENTERS

TEXTS = ["the red dog", "a cat", "dog on the left circle"]
SEGMENTER_KINDS = {"sam": (Sam, tiny_sam), "sam2": (Sam2, tiny_sam2)}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return noise(70, 40)


@pytest.fixture(scope="module")
def detector() -> tuple[Any, Any]:
    return tiny_grounding_dino()


@pytest.fixture(scope="module", params=SEGMENTER_KINDS)
def segmenter(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    return request.param, *SEGMENTER_KINDS[request.param][1]()


def system_of(detector: tuple, segmenter: tuple, score_threshold: float = 0.0, **options: Any) -> GroundedSystem:
    kind, *parts = segmenter
    segments = SEGMENTER_KINDS[kind][0](*parts, batch_size=2)
    finds = GroundingDino(*detector, score_threshold=score_threshold, batch_size=2)
    return GroundedSystem(finds, segments, name="pair", **options)


def step_by_step(
    detector: tuple, segmenter: tuple, image: Image.Image, text: str, threshold: float
) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """Masks and scores of all that transformers finds for one text, the best first."""
    size = [(image.height, image.width)]
    model, processor = detector
    inputs = processor(images=image, text=f"{text}.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    found = processor.post_process_grounded_object_detection(outputs, threshold=threshold, target_sizes=size)[0]
    order = found["scores"].argsort(descending=True)
    if not len(order):
        return [], []
    boxes = found["boxes"][order]
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, image.width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, image.height)
    kind, model, processor = segmenter
    inputs = processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        outputs = model(
            pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False
        )
    sizes = [inputs["reshaped_input_sizes"]] if kind == "sam" else []
    masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], *sizes)[0]
    return [mask[0].numpy() for mask in masks], found["scores"][order].tolist()


def assert_nearly_equal(mask: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> None:
    """Equal but for pixels of which rounding decides."""
    assert mask.shape == wanted.shape and mask.dtype == bool
    assert np.count_nonzero(mask != wanted) <= 3


def test_segmenters_of_the_table() -> None:
    assert set(SEGMENTER_CLASSES) == set(SEGMENTERS)


def test_best_box_is_the_answer(detector, segmenter, image) -> None:
    answers = list(system_of(detector, segmenter).segment(image, TEXTS))
    assert len(answers) == len(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        masks, scores = step_by_step(detector, segmenter, image, text, threshold=0.0)
        assert_nearly_equal(answer.mask, masks[0])
        assert answer.score == pytest.approx(scores[0], abs=1e-5)
        assert answer.present is True
    assert np.count_nonzero(answers[0].mask != answers[1].mask) > 10


def test_all_boxes_are_the_answer_where_asked_for(detector, segmenter, image) -> None:
    _, scores = step_by_step(detector, segmenter, image, TEXTS[0], threshold=0.0)
    # Between the third and the fourth.
    threshold = (scores[2] + scores[3]) / 2
    masks, scores = step_by_step(detector, segmenter, image, TEXTS[0], threshold)
    assert len(masks) == 3
    answer = next(system_of(detector, segmenter, threshold, instances="all").segment(image, TEXTS))
    assert_nearly_equal(answer.mask, np.any(masks, axis=0))
    assert np.count_nonzero(answer.mask) > np.count_nonzero(masks[0])
    assert answer.score == pytest.approx(scores[0], abs=1e-5)


@pytest.mark.parametrize("instances", ["all", "best"])
def test_nothing_found_is_no_target(detector, segmenter, image, instances: str) -> None:
    best = [step_by_step(detector, segmenter, image, text, threshold=0.0)[1][0] for text in TEXTS]
    second, first = sorted(best)[-2:]
    assert first - second > 1e-3
    system = system_of(detector, segmenter, (first + second) / 2, instances=instances)
    for score, answer in zip(best, system.segment(image, TEXTS), strict=True):
        assert answer.present is (score == first)
        assert answer.mask.any() == (score == first)
        assert answer.score == pytest.approx(score if score == first else 0, abs=1e-5)
        assert answer.size == (image.height, image.width)


def test_image_is_encoded_once(
    detector, segmenter, image, count_calls: Callable[[nn.Module, str], list[tuple]]
) -> None:
    calls = [count_calls(detector[0].model.backbone.conv_encoder.model, "forward")]
    calls.append(count_calls(segmenter[1].vision_encoder, "forward"))
    assert len(list(system_of(detector, segmenter).segment(image, TEXTS * 2))) == 6
    assert [len(each) for each in calls] == [1, 1]
    answers = system_of(detector, segmenter, score_threshold=1.0).segment(image, TEXTS)
    assert not any(answer.present for answer in answers)
    # Where nothing is found there is nothing to segment.
    assert [len(each) for each in calls] == [2, 1]


def test_other_words_for_instances_are_refused(detector, segmenter) -> None:
    with pytest.raises(ValueError, match="all, best, not 'both'"):
        system_of(detector, segmenter, instances="both")


def test_description_tells_systems_apart(detector, segmenter) -> None:
    described = system_of(detector, segmenter).describe()
    assert json.dumps(described) == json.dumps(system_of(detector, segmenter).describe())
    kind, model, processor = segmenter
    others = [system_of(detector, segmenter, 0.5), system_of(detector, segmenter, instances="all")]
    for changes_detector in (True, False):
        changed = deepcopy(detector[0] if changes_detector else model)
        next(changed.parameters()).data += 1
        parts = ((changed, detector[1]), segmenter) if changes_detector else (detector, (kind, changed, processor))
        others.append(system_of(*parts))
    assert all(other.describe() != described for other in others)


def test_numbers_that_are_none_are_an_error(detector, segmenter, image) -> None:
    kind, model, processor = segmenter
    weight = model.mask_decoder.iou_token.weight
    kept = weight.data.clone()
    weight.data.fill_(float("nan"))
    try:
        with pytest.raises(NotFiniteError, match="pred_masks are NaN or infinite"):
            list(system_of(detector, (kind, model, processor)).segment(image, TEXTS))
    finally:
        weight.data.copy_(kept)


@pytest.fixture(scope="module")
def built() -> dict[str, tuple[Any, Any]]:
    """Models with their processors, by their kinds."""
    return {"owlvit": tiny_owlvit(), "sam": tiny_sam(), "sam2": (sam2 := tiny_sam2()), "sam2_video": of_videos(*sam2)}


@pytest.fixture(scope="module")
def folders(built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same, saved."""
    return {kind: save(tmp_path_factory.mktemp(kind), *parts) for kind, parts in built.items()}


@pytest.mark.parametrize("kind", ["sam", "sam2", "sam2_video"])
def test_pair_is_loaded_by_its_name(built, folders, image, kind: str) -> None:
    name = f"{folders['owlvit']}+{folders[kind]}"
    system = load_system(name, device="cpu", score_threshold=0.0, instances="all", batch_size=3)
    assert system.name == name
    # The checkpoint for videos holds the weights of the one for images.
    of_images = kind.removesuffix("_video")
    segments = SEGMENTER_KINDS[of_images][0](*built[of_images])
    expected = GroundedSystem(Owl(*built["owlvit"], score_threshold=0.0), segments, name=name, instances="all")
    for answer, wanted in zip(system.segment(image, TEXTS), expected.segment(image, TEXTS), strict=True):
        assert_nearly_equal(answer.mask, wanted.mask)
        assert answer.score == pytest.approx(wanted.score, abs=1e-5)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_half_precision_answers_as_single_does(folders, image, kind: str) -> None:
    boxes = torch.tensor([[3.0, 4.0, 30.0, 35.0], [10.0, 10.0, 60.0, 20.0], [0.0, 0.0, 70.0, 40.0]])
    both = (load_segmenter(folders[kind], "cpu", dtype, batch_size=2) for dtype in ("float32", "bfloat16"))
    for single, half in zip(*(segmenter.segment(image, boxes) for segmenter in both), strict=True):
        assert single.shape == half.shape == (40, 70)
        assert (single != half).float().mean() < 0.1


def test_damaged_and_missing_files_of_a_segmenter_are_named(built, folders, tmp_path: Path) -> None:
    model, processor = built["sam"]
    model.save_pretrained(tmp_path)
    name = f"{folders['owlvit']}+{tmp_path}"
    with pytest.raises(ValueError, match=r"holds a model, but no processor"):
        load_system(name, device="cpu")
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:50], encoding="utf-8")
    with pytest.raises(ValueError, match=r"processor_config.json"):
        load_system(name, device="cpu")
    path.write_text(whole.replace('"longest_edge"', '"farthest_edge"'), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{tmp_path}: no processor can be made of its files"):
        load_system(name, device="cpu")
