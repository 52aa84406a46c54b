"""SAM 3 as a system answers what transformers' own model and post-processing say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_systems import drawn_anew, noise, sam3_config, save, tiny_sam3
from transformers import Sam2VideoVideoProcessor, Sam3VideoConfig, Sam3VideoModel, Sam3VideoProcessor

from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError
from hf_refseg.systems import load_system
from hf_refseg.systems.sam3 import Sam3System

TEXTS = ["a dog", "red circle", "the cat"]


@torch.no_grad()
def instances_of(model, processor, image: Image.Image, texts: list[str], **options: float) -> list[dict]:
    """As the page of the model shows it."""
    inputs = processor(images=[image] * len(texts), text=texts, return_tensors="pt")
    sizes = [(image.height, image.width)] * len(texts)
    return processor.post_process_instance_segmentation(model(**inputs), target_sizes=sizes, **options)


@pytest.mark.parametrize(("size", "threshold"), [((50, 40), None), ((20, 70), 0.2)])
def test_a_mask_is_the_union_of_the_instances_of_transformers(size: tuple[int, int], threshold: float | None) -> None:
    model, processor = tiny_sam3()
    image = noise(*size)
    options = {} if threshold is None else {"threshold": threshold}
    expected = instances_of(model, processor, image, TEXTS, **options)
    counts = [len(found["scores"]) for found in expected]
    assert max(counts) > 1 and len(set(counts)) > 1
    system = Sam3System(model, processor, score_threshold=threshold, batch_size=2)
    for answer, found in zip(system.segment(image, TEXTS), expected, strict=True):
        union = np.zeros((image.height, image.width), dtype=bool)
        for mask in found["masks"]:
            union |= mask.numpy() == 1
        np.testing.assert_array_equal(answer.mask, union)
        assert answer.score == pytest.approx(max(found["scores"].tolist(), default=0), abs=1e-5)
        assert answer.present is None


def test_the_best_instance_is_that_of_the_highest_score() -> None:
    model, processor = tiny_sam3()
    image = noise(50, 40)
    expected = instances_of(model, processor, image, TEXTS, threshold=0.0)
    system = Sam3System(model, processor, instances="best")
    for answer, found in zip(system.segment(image, TEXTS), expected, strict=True):
        best = found["scores"].argmax()
        np.testing.assert_array_equal(answer.mask, found["masks"][best].numpy() == 1)
        assert answer.score == pytest.approx(found["scores"][best].item(), abs=1e-5)
        assert not np.array_equal(answer.mask, found["masks"].amax(dim=0).numpy() == 1)


@pytest.mark.parametrize("instances", ["all", "best"])
def test_no_instance_is_an_empty_mask(instances: str) -> None:
    system = Sam3System(*tiny_sam3(), instances=instances, score_threshold=1.0)
    for answer in system.segment(noise(50, 40), TEXTS):
        assert answer.mask.shape == (40, 50) and not answer.mask.any() and answer.score == 0


def test_what_answers_depend_on_is_described() -> None:
    model, processor = tiny_sam3()
    described = Sam3System(model, processor).describe()
    assert json.dumps(described) == json.dumps(Sam3System(model, processor).describe())
    assert Sam3System(model, processor, score_threshold=0.4).describe() != described
    assert Sam3System(model, processor, instances="best", score_threshold=0.3).describe() != described


def test_an_image_is_encoded_once_and_a_long_text_is_cut(count_calls) -> None:
    model, processor = tiny_sam3()
    encoded = count_calls(model.vision_encoder, "forward")
    # A letter is a token; two of the 32 begin and end the text.
    texts = ["abcd" * 10, f"{'abcd' * 7}abzz", "abcd" * 5]
    long, cut, short = Sam3System(model, processor, instances="best", batch_size=1).segment(noise(40, 30), texts)
    np.testing.assert_array_equal(long.mask, cut.mask)
    assert long.score == cut.score != short.score
    assert len(encoded) == 1


def test_a_saved_one_answers_the_same(tmp_path) -> None:
    model, processor = tiny_sam3()
    image = noise(40, 30)
    options = {"score_threshold": 0.4, "instances": "best"}
    system = load_system(save(tmp_path, model, processor), device="cpu", batch_size=1, **options)
    expected = Sam3System(model, processor, **options).segment(image, TEXTS)
    for answer, before in zip(system.segment(image, TEXTS), expected, strict=True):
        assert answer.score == pytest.approx(before.score, abs=1e-5) and np.array_equal(answer.mask, before.mask)


def test_a_checkpoint_for_videos_answers_as_its_detector(tmp_path) -> None:
    _, processor = tiny_sam3()
    detector = sam3_config().to_dict()
    tracker = {"memory_attention_num_layers": 1, "vision_config": detector["vision_config"]}
    model = drawn_anew(Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker)))
    for_videos = Sam3VideoProcessor(processor.image_processor, Sam2VideoVideoProcessor(), processor.tokenizer)
    system = load_system(save(tmp_path, model, for_videos), device="cpu")
    frames = [noise(40, 30), noise(30, 40)]
    for frame, answers in zip(frames, system.segment_video(frames, TEXTS), strict=True):
        expected = Sam3System(model.detector_model, processor).segment(frame, TEXTS)
        for answer, of_detector in zip(answers, expected, strict=True):
            assert answer.score == pytest.approx(of_detector.score, abs=1e-5)
            np.testing.assert_array_equal(answer.mask, of_detector.mask)


def test_wrong_options_and_broken_weights_are_errors() -> None:
    model, processor = tiny_sam3()
    with pytest.raises(ValueError, match="one of all, best, not 'some'"):
        Sam3System(model, processor, instances="some")
    with pytest.raises(ValueError, match="from 0 to 1, not 2"):
        Sam3System(model, processor, score_threshold=2)
    with torch.no_grad():
        model.mask_decoder.instance_projection.bias[0] = torch.nan
    with pytest.raises(NotFiniteError):
        list(Sam3System(model, processor).segment(noise(40, 30), TEXTS))
