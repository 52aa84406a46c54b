"""CLIPSeg as a system answers what transformers' own model and post-processing say."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_systems import noise, save, tiny_clipseg
from transformers import SegformerImageProcessor
from transformers.modeling_outputs import SemanticSegmenterOutput

from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError
from hf_refseg.systems import load_system
from hf_refseg.systems.clipseg import ClipSegSystem

TEXTS = ["a dog", "red circle", "the cat"]


@torch.no_grad()
def logits_of(model, processor, image: Image.Image, texts: list[str]) -> torch.Tensor:
    """As the page of the model shows it."""
    return model(**processor(text=texts, images=[image] * len(texts), padding=True, return_tensors="pt")).logits


@pytest.mark.parametrize("size", [(50, 40), (20, 70), (32, 32)])
def test_masks_are_those_of_transformers(size: tuple[int, int]) -> None:
    model, processor = tiny_clipseg()
    image = noise(*size)
    logits = logits_of(model, processor, image, TEXTS)
    # Background and foreground as two classes, of which the larger logit wins.
    classes = SemanticSegmenterOutput(logits=torch.stack([torch.zeros_like(logits), logits], dim=1))
    expected = SegformerImageProcessor().post_process_semantic_segmentation(classes, [(image.height, image.width)] * 3)
    system = ClipSegSystem(model, processor, batch_size=2)
    for answer, of_transformers in zip(system.segment(image, TEXTS), expected, strict=True):
        mask = answer.foreground(system.threshold)
        assert answer.score is None and answer.present is None and 0.1 < mask.mean() < 0.9
        np.testing.assert_array_equal(mask, of_transformers.numpy() == 1)
    at_model_size = [answer.probabilities for answer in system.segment_at_model_size(image, TEXTS)]
    np.testing.assert_allclose(np.stack(at_model_size), logits.sigmoid().numpy(), atol=1e-5)


def test_an_image_is_encoded_once_and_the_model_is_left_as_it_was(count_calls) -> None:
    model, processor = tiny_clipseg()
    encoded = count_calls(model.clip.vision_model, "forward")
    model.train()
    assert len(list(ClipSegSystem(model, processor, batch_size=1).segment(noise(40, 30), TEXTS))) == 3
    assert len(encoded) == 1 and model.training


@pytest.mark.parametrize("resolution", ["original", "model"])
def test_images_that_are_answered_together_are_answered_as_alone(resolution: str, count_calls) -> None:
    model, processor = tiny_clipseg()
    system = ClipSegSystem(model, processor, batch_size=2)
    prepare = pickle.loads(pickle.dumps(system.preparation()))
    asked = [(noise(40, 30), TEXTS), (noise(30, 50), []), (noise(20, 20), TEXTS[:1])]
    alone = system.segment if resolution == "original" else system.segment_at_model_size
    expected = [answer.probabilities for image, texts in asked for answer in alone(image, texts)]
    encoded = count_calls(model.clip.vision_model, "forward")
    answers = system.segment_images([prepare(image, texts) for image, texts in asked], resolution)
    for answer, probabilities in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-5)
    assert len(encoded) == 1 and len(expected) == 4


def test_what_answers_depend_on_is_described() -> None:
    model, processor = tiny_clipseg()
    described = ClipSegSystem(model, processor).describe()
    assert json.dumps(described) == json.dumps(ClipSegSystem(model, processor).describe())
    assert ClipSegSystem(model, processor, threshold=0.4).describe() != described
    with torch.no_grad():
        model.decoder.film_mul.bias[0] += 1
    assert ClipSegSystem(model, processor).describe() != described


def test_a_text_is_cut_where_positions_end() -> None:
    system = ClipSegSystem(*tiny_clipseg())
    # A letter is a token; two of the 16 begin and end the text.
    whole, cut, shorter = system.segment(
        noise(40, 30), ["abcdefghijklmnopqrstuv", "abcdefghijklmnxyz", "abcdefghijklm"]
    )
    np.testing.assert_array_equal(whole.probabilities, cut.probabilities)
    assert not np.array_equal(whole.probabilities, shorter.probabilities)


def test_a_saved_one_answers_the_same_at_its_threshold(tmp_path) -> None:
    model, processor = tiny_clipseg()
    image = noise(40, 30)
    system = load_system(save(tmp_path, model, processor), device="cpu", threshold=0.7, batch_size=1)
    assert system.name == str(tmp_path) and system.threshold == 0.7
    # Texts one by one here too: together they are rounded otherwise, by more than is allowed below.
    expected = ClipSegSystem(model, processor, batch_size=1).segment(image, TEXTS)
    for answer, before in zip(system.segment(image, TEXTS), expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, before.probabilities, atol=1e-6)
    half = load_system(str(tmp_path), device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert next(half.segment(image, TEXTS)).probabilities.dtype == np.float32


def test_broken_weights_are_an_error() -> None:
    model, processor = tiny_clipseg()
    with torch.no_grad():
        model.decoder.film_mul.weight[0, 0] = torch.nan
    with pytest.raises(NotFiniteError):
        list(ClipSegSystem(model, processor).segment(noise(40, 30), TEXTS))
