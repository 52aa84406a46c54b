"""What detectors find for texts: as transformers finds it for each text alone, with the image encoded once."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_detectors import (
    tiny_grounding_dino,
    tiny_mm_grounding_dino,
    tiny_omdet_turbo,
    tiny_owlv2,
    tiny_owlvit,
)
from tiny_systems import noise
from torch import Tensor, nn

from hf_refseg.modeling.inference_refseg import to_model
from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError
from hf_refseg.systems.detectors import DETECTOR_CLASSES, Detector
from hf_refseg.systems.kinds import DETECTORS

KINDS = {
    "grounding-dino": tiny_grounding_dino,
    "mm-grounding-dino": tiny_mm_grounding_dino,
    "omdet-turbo": tiny_omdet_turbo,
    "owlv2": tiny_owlv2,
    "owlvit": tiny_owlvit,
}
TEXTS = ["the red dog", "A black cat", "dog on the left circle"]
SIZE = (40, 70)


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    return request.param, *KINDS[request.param]()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return noise(SIZE[1], SIZE[0])


def detector_of(loaded: tuple[str, Any, Any], **options: Any) -> Detector:
    kind, model, processor = loaded
    return DETECTOR_CLASSES[kind](model, processor, **options)


def alone(loaded: tuple[str, Any, Any], image: Image.Image, text: str, **options: float) -> tuple[Tensor, Tensor]:
    """Boxes and scores of one text by transformers, step by step."""
    kind, model, processor = loaded
    if kind == "omdet-turbo":
        inputs = processor(images=image, text=[text], task=f"Detect {text}.", max_length=40, return_tensors="pt")
    elif kind.startswith("owl"):
        inputs = processor(images=image, text=[[text]], truncation=True, max_length=16, return_tensors="pt")
    else:
        inputs = processor(images=image, text=[[text]], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**to_model(model, inputs))
    found = processor.post_process_grounded_object_detection(outputs, target_sizes=[SIZE], **options)[0]
    return found["boxes"], found["scores"]


def inside(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """What of boxes is in the image, and which of them."""
    height, width = SIZE
    cut = torch.stack([boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]], dim=1).clone()
    cut[:, 0::2] = cut[:, 0::2].clamp(0, width)
    cut[:, 1::2] = cut[:, 1::2].clamp(0, height)
    kept = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    return cut[kept], scores[kept]


def test_detectors_of_the_table() -> None:
    assert set(DETECTOR_CLASSES) == set(DETECTORS) == set(KINDS)


def test_each_text_is_answered_as_if_alone(loaded, image) -> None:
    kind, model, processor = loaded
    # In float64: weights as large as these make much of rounding, in float32 up to 0.005 pixels between a text that is
    # read with others and the same one alone.
    loaded = kind, deepcopy(model).double(), processor
    found = list(detector_of(loaded, score_threshold=0.0, batch_size=2).detect(image, TEXTS))
    assert len(found) == len(TEXTS)
    for text, detections in zip(TEXTS, found, strict=True):
        boxes, scores = inside(*alone(loaded, image, text, threshold=0.0))
        assert len(scores) > 5
        torch.testing.assert_close(detections.boxes, boxes, atol=1e-7, rtol=0)
        # transformers gives most of these in float32 even so.
        torch.testing.assert_close(detections.scores, scores, atol=1e-6, rtol=0, check_dtype=False)
    # Otherwise nothing above would depend on the text.
    assert not torch.allclose(found[0].scores.max(), found[1].scores.max(), atol=1e-4)


def test_threshold_parts_what_counts(loaded, image) -> None:
    best = [alone(loaded, image, text, threshold=0.0) for text in TEXTS]
    highest = sorted(inside(*each)[1].max().item() for each in best)
    assert highest[2] - highest[1] > 1e-4
    between = (highest[2] + highest[1]) / 2
    found = list(detector_of(loaded, score_threshold=between).detect(image, TEXTS))
    assert sorted(len(each.scores) > 0 for each in found) == [False, False, True]
    assert all((each.scores > between).all() for each in found)


def test_threshold_is_that_of_transformers_by_default(loaded, image) -> None:
    for text, found in zip(TEXTS, detector_of(loaded).detect(image, TEXTS), strict=True):
        boxes, scores = inside(*alone(loaded, image, text))
        assert found.boxes.shape == boxes.shape
        torch.testing.assert_close(found.scores, scores, atol=1e-5, rtol=1e-4)


def test_best_is_the_one_of_the_highest_score(loaded, image) -> None:
    found = next(detector_of(loaded, score_threshold=0.0).detect(image, TEXTS))
    best = found.best()
    assert best.scores.tolist() == [found.scores.max().item()]
    assert best.boxes.tolist() == [found.boxes[found.scores.argmax()].tolist()]
    nothing = next(detector_of(loaded, score_threshold=1.0).detect(image, TEXTS))
    assert len(nothing.best().boxes) == len(nothing.best().scores) == 0


def image_encoder(kind: str, model: nn.Module) -> nn.Module:
    if kind == "omdet-turbo":
        return model.vision_backbone
    return model.base_model.vision_model if kind.startswith("owl") else model.model.backbone.conv_encoder.model


def test_image_is_encoded_once(loaded, image, count_calls: Callable[[nn.Module, str], list[tuple]]) -> None:
    kind, model, _ = loaded
    parts = dict(model.named_modules())
    calls = count_calls(image_encoder(kind, model), "forward")
    assert len(list(detector_of(loaded, batch_size=2).detect(image, TEXTS * 2))) == 6
    assert len(calls) == 1
    assert dict(model.named_modules()) == parts


def test_long_texts_are_cut(loaded, image) -> None:
    long = " ".join(["dog cat"] * 40)
    first, second = detector_of(loaded, score_threshold=0.0).detect(image, [long, f"{long} and more"])
    assert len(first.scores) > 0
    torch.testing.assert_close(first.scores, second.scores)


def test_boxes_of_the_padding_are_none(image) -> None:
    loaded = ("owlv2", *tiny_owlv2())
    boxes, _ = alone(loaded, image, TEXTS[0], threshold=0.0)
    # OWLv2 pads a wide image below.
    assert (boxes[:, 1] >= SIZE[0]).any() and (boxes[:, 3] > SIZE[0]).any()
    found = next(detector_of(loaded, score_threshold=0.0).detect(image, TEXTS))
    assert (found.boxes[:, 1] < SIZE[0]).all() and (found.boxes[:, 3] <= SIZE[0]).all()


@pytest.mark.parametrize("text", ["The RED dog", " the red dog. ", "the red dog"])
def test_grounding_dino_reads_small_letters_and_a_full_stop(image, text: str) -> None:
    loaded = ("grounding-dino", *tiny_grounding_dino())
    detector = detector_of(loaded)
    inputs = detector.processor(images=image, text="the red dog.", return_tensors="pt")
    with torch.no_grad():
        scores = detector.model(**inputs).logits.sigmoid().amax(dim=-1)[0]
    found = next(detector_of(loaded, score_threshold=0.0).detect(image, [text]))
    torch.testing.assert_close(found.scores, scores, atol=1e-5, rtol=1e-4)


def test_half_precision_answers_as_single_does(loaded, image) -> None:
    kind, _, processor = loaded
    half = detector_of((kind, KINDS[kind]()[0].to(torch.bfloat16), processor), score_threshold=0.0)
    for found, single in zip(
        half.detect(image, TEXTS), detector_of(loaded, score_threshold=0.0).detect(image, TEXTS), strict=True
    ):
        assert found.best().scores.item() == pytest.approx(single.best().scores.item(), abs=0.05)


def test_omdet_turbo_remembers_no_texts(image) -> None:
    model, processor = tiny_omdet_turbo()
    assert len(list(detector_of(("omdet-turbo", model, processor)).detect(image, TEXTS))) == len(TEXTS)
    # What it remembers was read together with other texts, and differs in the last digits.
    assert not model.language_cache_class.cache and not model.language_cache_prompt.cache


def test_numbers_that_are_none_are_an_error(loaded, image) -> None:
    kind, model, processor = loaded
    damaged = deepcopy(model)
    next(image_encoder(kind, damaged).parameters()).data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        list(detector_of((kind, damaged, processor)).detect(image, TEXTS))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_thresholds_are_probabilities(threshold: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        detector_of(("owlvit", None, None), score_threshold=threshold)
