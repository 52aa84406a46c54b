"""Florence-2: outlines as the model writes them, whole or cut off, and masks as transformers' tokens mean them."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tiny_florence import PLACES, tiny_florence, tiny_florence_processor
from tiny_systems import noise, save
from torch import nn
from transformers import Florence2Processor

from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError
from hf_refseg.systems import load_system
from hf_refseg.systems.florence import TASK, FlorenceSystem, mask_of_tokens

TEXTS = ["dog", "a cat", "left"]
HEIGHT, WIDTH = 300, 420
Outline = list[tuple[float, float]]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return tiny_florence()


@pytest.fixture(scope="module")
def processor() -> Florence2Processor:
    return tiny_florence_processor()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return noise(70, 40)


def ellipse(x: float, y: float, width: float, height: float, points: int) -> Outline:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return list(zip(x + width * np.cos(angles), y + height * np.sin(angles), strict=True))


FIRST, SECOND = ellipse(120, 150, 100, 120, 24), ellipse(320, 90, 60, 70, 12)


def places_of(processor: Florence2Processor, outline: Outline, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[str]:
    """The tokens of an outline, as transformers quantizes places."""
    bins = processor.post_processor.quantize(torch.tensor(outline), size)
    return [f"<loc_{number}>" for number in bins.flatten().tolist()]


def mask_of(
    processor: Florence2Processor, tokens: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> NDArray[np.bool_]:
    written = ["</s>", "<s>", *tokens, "</s>", "<pad>", "<pad>"]
    numbers = processor.tokenizer.convert_tokens_to_ids(written)
    assert processor.tokenizer.unk_token_id not in numbers
    return mask_of_tokens(processor, torch.tensor(numbers), size[1], size[0])


def drawn(outlines: Sequence[Outline], size: tuple[int, int] = (WIDTH, HEIGHT)) -> NDArray[np.bool_]:
    """Outlines of at least three points, filled by Pillow."""
    picture = Image.new("1", size)
    for outline in outlines:
        if len(outline) > 2:
            ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in outline], outline=1, fill=1)
    return np.asarray(picture)


def middles(tokens: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Outline:
    """The points in the middle of the bins that tokens name; a coordinate without its other one is none."""
    bins = [int(token[5:-1]) + 0.5 for token in tokens]
    return [(x * size[0] / 1000, y * size[1] / 1000) for x, y in zip(bins[0::2], bins[1::2], strict=False)]


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (2500, 40)])
def test_shape_comes_back_within_a_bin(processor, size: tuple[int, int]) -> None:
    outline = ellipse(size[0] / 2, size[1] / 2, size[0] / 3, size[1] / 3, 40)
    tokens = places_of(processor, outline, size)
    # Half a bin, and the fraction of a pixel that is cut off.
    assert np.abs(np.subtract(middles(tokens, size), outline)).max(axis=0).tolist() <= [size[0] / 1999, size[1] / 1999]
    mask, wanted = mask_of(processor, tokens, size), drawn([outline], size)
    assert mask.shape == (size[1], size[0])
    assert np.count_nonzero(mask & wanted) / np.count_nonzero(mask | wanted) > 0.93
    np.testing.assert_array_equal(mask, drawn([middles(tokens, size)], size))


def test_cut_at_every_position(processor) -> None:
    first, second = places_of(processor, FIRST), places_of(processor, SECOND)
    whole = [*first, "<sep>", *second]
    assert len(whole) == 73
    for length in range(len(whole) + 1):
        tokens = whole[:length]
        outlines = [middles(tokens[:48]), middles(tokens[49:])]
        np.testing.assert_array_equal(mask_of(processor, tokens), drawn(outlines), err_msg=f"{length} tokens")
    assert np.count_nonzero(mask_of(processor, whole)) > np.count_nonzero(mask_of(processor, first)) > 0


def test_objects_between_their_marks_count_together(processor) -> None:
    first, second = places_of(processor, FIRST), places_of(processor, SECOND)
    wanted = drawn([middles(first), middles(second)])
    marked = ["<poly>", *first, "</poly>", "<poly>", *second, "</poly>"]
    np.testing.assert_array_equal(mask_of(processor, marked), wanted)
    for length in range(len(marked)):
        mask = mask_of(processor, marked[:length])
        assert not (mask & ~wanted).any() or length < 50
        # The first object is whole from its end on.
        assert length < 50 or (mask & drawn([middles(first)])).sum() == drawn([middles(first)]).sum()


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        ["<sep>"] * 5,
        ["<poly>", "</poly>", "<poly>", "</poly>"],
        ["<loc_1>", "<loc_2>", "<loc_700>", "<loc_800>", "<loc_3>"],
        list("nothing"),
        ["<loc_5>", "a", "<loc_900>", "b", "<loc_300>", "c", "<loc_2>", "d", "<loc_500>", "e", "<loc_1>"],
        # Letters, too, can spell places, of which there are none in the image.
        [*"<loc_20><loc_9999><loc_700><loc_50><loc_800><loc_900>"],
    ],
)
def test_answers_without_outline_are_empty(processor, tokens: list[str]) -> None:
    assert not mask_of(processor, tokens).any()


def test_answers_are_those_of_transformers_step_by_step(loaded, image) -> None:
    model, processor = loaded
    answers = list(FlorenceSystem(*loaded, batch_size=2).segment(image, TEXTS))
    for text, answer in zip(TEXTS, answers, strict=True):
        inputs = processor(images=image, text=TASK + text, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0]
        # It goes on until it has to end, and its answer is cut off.
        assert len(tokens) == 65
        found = processor.post_process_generation(sequence=tokens, task=TASK, image_size=image.size)[TASK]
        outlines = [list(zip(each[0::2], each[1::2], strict=True)) for each in found["polygons"][0]]
        np.testing.assert_array_equal(answer.mask, drawn(outlines, image.size))
        assert answer.present is True and answer.score is None and answer.probabilities is None
    assert (answers[0].mask != answers[1].mask).any()


def test_answer_without_outline_is_no_target(loaded, image, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = loaded
    places = processor.tokenizer.convert_tokens_to_ids(PLACES)
    monkeypatch.setattr(model.generation_config, "suppress_tokens", places)
    answers = list(FlorenceSystem(model, processor).segment(image, TEXTS))
    assert [answer.present for answer in answers] == [False] * 3
    assert not any(answer.mask.any() for answer in answers)
    assert [answer.score_at(0.5) for answer in answers] == [0.0] * 3


def test_image_is_encoded_once(loaded, image, count_calls: Callable[[nn.Module, str], list[tuple]]) -> None:
    calls = count_calls(loaded[0].model.vision_tower, "forward")
    assert len(list(FlorenceSystem(*loaded, batch_size=2).segment(image, TEXTS))) == 3
    assert len(calls) == 1


def test_long_texts_are_cut(loaded, image) -> None:
    long = "left dog " * 20
    first, second = FlorenceSystem(*loaded).segment(image, [long, f"{long} and more"])
    np.testing.assert_array_equal(first.mask, second.mask)


def test_numbers_that_are_none_are_an_error(image) -> None:
    model, processor = tiny_florence()
    next(model.model.vision_tower.parameters()).data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="image_features are NaN or infinite"):
        list(FlorenceSystem(model, processor).segment(image, TEXTS))


def test_it_is_loaded_by_its_name(loaded, image, tmp_path: Path) -> None:
    name = save(tmp_path, *loaded)
    wanted = FlorenceSystem(*loaded).segment(image, TEXTS[:2])
    system = load_system(name, device="cpu", batch_size=2)
    assert (system.name, system.batch_size) == (name, 2)
    for answer, expected in zip(system.segment(image, TEXTS[:2]), wanted, strict=True):
        np.testing.assert_array_equal(answer.mask, expected.mask)
    assert next(load_system(name, device="cpu", dtype="bfloat16").segment(image, TEXTS[:1])).present


def test_description_tells_systems_apart(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = loaded
    described = FlorenceSystem(model, processor).describe()
    assert json.dumps(described) == json.dumps(FlorenceSystem(model, processor).describe())
    assert FlorenceSystem(model, processor, batch_size=1).describe() != described
    changed = deepcopy(model)
    next(changed.parameters()).data += 1
    assert FlorenceSystem(changed, processor).describe() != described
    monkeypatch.setattr(model.generation_config, "num_beams", 3)
    assert FlorenceSystem(model, processor).describe() != described


def test_model_for_code_of_its_own_is_told_where_it_is_for_transformers(tmp_path: Path) -> None:
    text_config, vision_config = {"model_type": "florence2_language"}, {"model_type": "davit", "dim_embed": [128]}
    config = {"model_type": "florence2", "text_config": text_config, "vision_config": vision_config}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is Florence-2 for code of its own.* such as florence-community/"):
        load_system(str(tmp_path), device="cpu")


def test_processor_has_to_know_how_outlines_are_written(loaded) -> None:
    model, processor = loaded
    without = Florence2Processor(processor.image_processor, processor.tokenizer)
    with pytest.raises(ValueError, match="some/model: its processor has no post_processor_config for polygons"):
        FlorenceSystem(model, without, name="some/model")
