"""What models tell about their masks equals what they compute, and `hf-refseg explain` draws all of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_configs import BERT, SAM, SWIN
from tiny_lavt import WORDS, tiny_lavt, tiny_processor
from torch import nn
from torch.testing import assert_close
from typer.testing import CliRunner

from hf_refseg import (
    AutoModelForReferringSegmentation,
    BtmaeConfig,
    BtmaeForReferringSegmentation,
    RefSegImageProcessor,
    RisamConfig,
    RisamForReferringSegmentation,
    add_adapter,
    load_with_adapter,
)
from hf_refseg.explain import Artist, draw_explanations, image_as_seen, unnormalized
from hf_refseg.modeling.explanations_refseg import record_calls, strongest_places
from hf_refseg.visualization import (
    MaskedImage,
    MaskedWords,
    draw_heat_maps,
    draw_impact_tokens,
    draw_pixel_words,
    draw_reconstruction,
)
from hf_refseg.visualization.explanations import HEAT_COLORS, HIDDEN_COLOR
from hf_refseg.visualization.layout import distinct_color
from hf_refseg_cli import app

TINY_BERT = {**BERT, "vocab_size": len(WORDS), "num_hidden_layers": 1, "intermediate_size": 32}
TEXT = "the left red dog"


def tiny_btmae(**overrides) -> BtmaeForReferringSegmentation:
    torch.manual_seed(0)
    sizes = {"feature_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1, "num_impact_tokens": [4, 3, 2]}
    config = {
        "backbone_config": SWIN,
        "text_config": TINY_BERT,
        "special_token_ids": [0, 1, 2, 3, 4],
        **sizes,
        **layers,
    }
    return BtmaeForReferringSegmentation(BtmaeConfig(**{**config, **overrides})).eval()


def tiny_risam(**overrides) -> RisamForReferringSegmentation:
    torch.manual_seed(0)
    text = {**TINY_BERT, "model_type": "clip_text_model", "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = {"backbone_config": SAM, "text_config": text, "hidden_size": 16, "num_attention_heads": 2}
    return RisamForReferringSegmentation(RisamConfig(**{**config, **overrides})).eval()


def padding_processor():
    processor = tiny_processor()
    processor.image_processor = RefSegImageProcessor(size={"longest_edge": 64})
    return processor


def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


def inputs_of(processor) -> dict:
    return dict(processor(photo(), TEXT, return_tensors="pt"))


@torch.no_grad()
def test_lavt_tells_its_decoder_maps_and_the_attention_it_uses() -> None:
    model, inputs = tiny_lavt(), inputs_of(tiny_processor())
    explanations = model.explain(**inputs)
    assert list(explanations) == ["decoder_maps", *(f"word_attention_{stage}" for stage in range(1, 5))]
    maps = explanations["decoder_maps"].maps
    assert {title: tuple(each.shape) for title, each in maps.items()} == {
        "Y4": (2, 2), "Y3": (4, 4), "Y2": (8, 8), "Y1": (16, 16)
    }  # fmt: skip
    with record_calls([model.decoder.steps[-1]]) as calls:
        model(**inputs)
    assert_close(maps["Y1"], calls[0][2][0].abs().mean(0))
    tokens = inputs["input_ids"].shape[1]
    for stage, size in enumerate((16, 8, 4, 2)):
        attention = explanations[f"word_attention_{stage + 1}"].maps
        assert attention.shape == (tokens, size, size)
        assert_close(attention.sum(0), torch.ones(size, size))


@torch.no_grad()
def test_the_weights_of_pixel_word_attention_are_those_it_attends_with() -> None:
    attention = tiny_lavt().stages[1].fusion.language_maps
    pixels, words, mask = torch.randn(2, 6, 32), torch.randn(2, 5, 32), torch.ones(2, 5)
    mask[1, 3:] = 0
    weights = attention.attention_weights(pixels, words, mask)
    values = attention.value(words) * mask[..., None]
    assert_close(attention(pixels, words, mask), attention.output_norm(attention.output(weights @ values)))
    assert not weights[1, :, 3:].any()


@torch.no_grad()
@pytest.mark.parametrize("language_attention", ["pixels", "shared"])
def test_risam_tells_both_directions_of_attention(language_attention: str) -> None:
    model, inputs = tiny_risam(language_attention=language_attention), inputs_of(padding_processor())
    explanations = model.explain(**inputs)
    directions = ("words_to_pixels", "pixels_to_words")
    assert list(explanations) == [f"{direction}_{block}" for block in (1, 2) for direction in directions]
    tokens = inputs["input_ids"].shape[1]
    with record_calls(model.fusion) as calls:
        model(**inputs)
    for number, (block, (pixels, words, _, _), (language_aware, vision_aware)) in enumerate(calls, start=1):
        maps = explanations[f"words_to_pixels_{number}"].maps
        places, weights = (getattr(explanations[f"pixels_to_words_{number}"], name) for name in ("places", "weights"))
        pixels, words = block.project_pixels(pixels)[0], block.project_words(words)[0]
        assert maps.shape == (tokens, 8, 8) and weights.shape == (4, tokens)
        assert_close(vision_aware[0], block.word_norm(maps.flatten(1) @ pixels + words))
        indices = (places[:, 1] * 8).long() * 8 + (places[:, 0] * 8).long()
        assert_close(language_aware[0, indices], block.pixel_norm(weights @ words + pixels[indices]))
        assert indices[0] == maps.amax(0).argmax()


@torch.no_grad()
def test_btmae_tells_its_reconstructions_and_impact_tokens() -> None:
    model, inputs = tiny_btmae(), inputs_of(tiny_processor())
    explanations = model.explain(**inputs)
    assert list(explanations) == ["reconstruction", "impact_tokens"]
    output = model(**inputs, output_reconstructions=True, output_impact_maps=True)
    reconstruction, impact = explanations.values()
    assert torch.equal(reconstruction.pixel_values, output.reconstructed_pixels[0])
    assert torch.equal(reconstruction.masked_patches, output.masked_patches[0])
    assert torch.equal(reconstruction.input_ids, output.reconstructed_ids[0])
    assert reconstruction.masked_words.sum() == 2
    assert [tuple(each.shape) for each in impact.maps] == [(4, 4, 4), (3, 4, 4), (2, 4, 4)]
    for maps, weights in zip(impact.maps, impact.word_weights, strict=True):
        assert_close(maps.sum(0), torch.ones(4, 4))
        assert_close(weights.sum(1), torch.ones(len(maps)))
    assert list(tiny_btmae(mask_decoder="simple").explain(**inputs)) == ["reconstruction"]
    neither = tiny_btmae(image_autoencoder=False, word_autoencoder=False)
    assert list(neither.explain(**inputs)) == ["impact_tokens"]


def test_strong_places_keep_their_distance() -> None:
    strength = torch.zeros(12, 12)
    strength[2, 3], strength[2, 4], strength[9, 9], strength[4, 5] = 9, 8, 7, 6
    assert strongest_places(strength, 2).tolist() == [2 * 12 + 3, 9 * 12 + 9]


def test_recorded_modules_are_left_alone() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), record_calls([layer]):
        raise RuntimeError
    with record_calls([layer]) as calls:
        layer(torch.zeros(1, 2))
    layer(torch.zeros(1, 2))
    assert len(calls) == 1


def test_heat_maps_have_the_colors_of_their_values() -> None:
    image = Image.new("RGB", (40, 20), (100, 100, 100))
    values = np.zeros((20, 40), dtype=np.float32)
    values[:, 20:] = 2
    pictures = {
        shared: np.asarray(draw_heat_maps(image, [values, values / 2], ["a", "b"], shared_scale=shared, cell_width=40))
        for shared in (True, False)
    }

    def colors(picture: np.ndarray, right: bool) -> np.ndarray:
        # Two cells of 40 pixels with gaps of 6; the map fills the lower 20 rows of each cell.
        row = picture.shape[0] - 3 - 10
        return picture[row, [6 + 30, 52 + 30] if right else [6 + 5, 52 + 5]]

    def blended(color: tuple[int, int, int]) -> np.ndarray:
        return 0.4 * 100 + 0.6 * np.asarray(color)

    for picture in pictures.values():
        assert np.abs(colors(picture, right=False) - blended(HEAT_COLORS[0])).max() <= 2
        assert np.abs(colors(picture, right=True)[0] - blended(HEAT_COLORS[-1])).max() <= 2
    assert np.abs(colors(pictures[False], right=True)[1] - blended(HEAT_COLORS[-1])).max() <= 2
    assert np.abs(colors(pictures[True], right=True)[1].astype(int) - blended(HEAT_COLORS[-1])).max() > 20


@pytest.mark.parametrize(
    ("maps", "titles"), [([], []), ([np.ones((2, 2))], []), ([np.ones(3)], ["a"]), ([np.full((2, 2), np.nan)], ["a"])]
)
def test_wrong_heat_maps_are_named(maps: list, titles: list) -> None:
    with pytest.raises(ValueError, match=r"one for each|map \(height, width\)"):
        draw_heat_maps(photo(), maps, titles, shared_scale=True)


def test_pixel_words_show_places_and_weights() -> None:
    image = Image.new("RGB", (100, 100), "gray")
    places, weights = np.array([[0.25, 0.75], [0.8, 0.2]]), np.array([[0.9, 0.1], [0.5, 0.5]])
    picture = draw_pixel_words(image, places, weights, ["dog", "red"], cell_width=100)
    for index, (x, y) in enumerate(places):
        assert picture.getpixel((6 + round(100 * x), 6 + round(100 * y))) == distinct_color(index)
    pixels = np.asarray(picture)[:, 112:].reshape(-1, 3)
    assert (pixels == HEAT_COLORS[-1]).all(1).any()
    with pytest.raises(ValueError, match="2 rows and 3 words"):
        draw_pixel_words(image, places, weights, ["a", "b", "c"])


def test_impact_tokens_color_the_places_that_they_take() -> None:
    image = Image.new("RGB", (100, 50), (0, 0, 0))
    shares = np.zeros((2, 1, 2), dtype=np.float32)
    shares[0, 0, 0] = shares[1, 0, 1] = 1
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    picture = draw_impact_tokens(image, [shares, shares], [weights, weights], ["dog", "red"], cell_width=100)
    for index, column in enumerate((20, 80)):
        expected = 0.55 * np.asarray(distinct_color(index))
        assert np.abs(np.asarray(picture.getpixel((6 + column, 30))) - expected).max() <= 2
    single = draw_impact_tokens(image, [shares], [weights], ["dog", "red"], cell_width=100)
    assert picture.height == 2 * single.height
    with pytest.raises(ValueError, match="one for each"):
        draw_impact_tokens(image, [shares], [], ["dog", "red"])


def test_reconstructions_show_what_was_masked() -> None:
    image = Image.new("RGB", (100, 100), (200, 0, 0))
    masked = MaskedImage(np.array([[True, False]]), Image.new("RGB", (100, 100), (0, 200, 0)))
    words = MaskedWords(["red", "dog"], [False, True], ["red", "circle"])
    picture = draw_reconstruction(image, masked, words, cell_width=100)
    row = 3 + 24 + 50
    lefts = [6 + column * 106 for column in range(3)]
    colors = [[picture.getpixel((left + column, row)) for column in (25, 75)] for left in lefts]
    assert colors == [[(200, 0, 0)] * 2, [HIDDEN_COLOR, (200, 0, 0)], [(0, 200, 0)] * 2]
    caption = np.asarray(picture)[3 + 24 + 100 :]
    captions = [caption[:, left : left + 100] for left in lefts]
    assert all((each < 128).any() for each in captions) and not (captions[0] == captions[1]).all()
    assert not (captions[0] == captions[2]).all()
    alone = np.asarray(draw_reconstruction(image, None, None, cell_width=100))
    assert all((alone[row, left + 25] == (200, 0, 0)).all() for left in lefts)


def test_pictures_are_as_the_model_sees_the_image() -> None:
    image, processor = photo(), tiny_processor()
    assert image_as_seen(image, processor) is image
    seen = image_as_seen(image, padding_processor())
    assert seen.size == (60, 60) and seen.crop((0, 0, 60, 48)).tobytes() == image.tobytes()
    small = image.resize((64, 64))
    pixel_values = processor(small, TEXT, return_tensors="pt")["pixel_values"][0]
    assert np.abs(np.asarray(unnormalized(pixel_values, processor), int) - np.asarray(small, int)).max() <= 1


def test_an_unknown_explanation_is_an_error() -> None:
    with pytest.raises(TypeError, match="no picture of a str"):
        Artist(tiny_processor(), photo(), []).draw("map")


def test_a_model_that_has_nothing_to_tell_says_so() -> None:
    model = tiny_risam(fusion_type="convolution")
    with pytest.raises(ValueError, match="has no parts that tell"):
        list(draw_explanations(model, padding_processor(), photo(), TEXT))
    with pytest.raises(ValueError, match="of type bert cannot tell"):
        list(draw_explanations(tiny_lavt().text_encoder, tiny_processor(), photo(), TEXT))


@pytest.mark.parametrize("build", [tiny_lavt, tiny_risam, tiny_btmae])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_command_draws_every_explanation(build, dtype: str, tmp_path: Path) -> None:
    model, processor = build(), padding_processor() if build is tiny_risam else tiny_processor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    photo().save(tmp_path / "My photo.png")
    arguments = ["explain", tmp_path / "model", tmp_path / "My photo.png", TEXT, "--dtype", dtype]
    result = CliRunner().invoke(app, [*map(str, arguments), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    names = list(model.explain(**inputs_of(processor)))
    assert result.stdout.splitlines() == [str(tmp_path / "out" / f"my-photo_{name}.png") for name in names]
    for path in result.stdout.splitlines():
        picture = Image.open(path)
        assert min(picture.size) > 50 and len(picture.getcolors(1 << 24)) > 50


@torch.no_grad()
@pytest.mark.parametrize("build", [tiny_lavt, tiny_risam, tiny_btmae])
def test_an_adapter_is_explained_like_the_model_it_is_merged_into(build, tmp_path: Path) -> None:
    base, adapter, processor = tmp_path / "base", tmp_path / "adapter", tiny_processor()
    build().save_pretrained(base)
    adapted = add_adapter(AutoModelForReferringSegmentation.from_pretrained(base))
    for parameter in adapted.parameters():
        parameter += 0.01 * parameter.requires_grad
    adapted.save_pretrained(adapter)
    merged = load_with_adapter(adapter).merge_and_unload()
    expected = {name: picture.tobytes() for name, picture in draw_explanations(merged, processor, photo(), TEXT)}
    for unmerged in (AutoModelForReferringSegmentation.from_pretrained(adapter), load_with_adapter(adapter)):
        pictures = {name: picture.tobytes() for name, picture in draw_explanations(unmerged, processor, photo(), TEXT)}
        assert pictures == expected


@pytest.mark.parametrize("limit", [20, 5])
def test_words_that_the_tokenizer_does_not_know_are_shown_as_they_were_written(limit: int, monkeypatch) -> None:
    drawn = {}

    def reconstruction(image, masked_image, masked_words):
        drawn["caption"] = masked_words
        return draw_reconstruction(image, masked_image, masked_words)

    def impact_tokens(image, maps, word_weights, words):
        drawn["words"] = words
        return draw_impact_tokens(image, maps, word_weights, words)

    monkeypatch.setattr("hf_refseg.explain.draw_reconstruction", reconstruction)
    monkeypatch.setattr("hf_refseg.explain.draw_impact_tokens", impact_tokens)
    processor = tiny_processor()
    processor.max_text_length = limit
    list(draw_explanations(tiny_btmae(), processor, photo(), "The red ZORBLE circle"))
    words = ["the", "red", "ZORBLE", "circle"][: limit - 2]
    assert drawn["words"] == ["[CLS]", *words, "[SEP]"]
    assert drawn["caption"].words == words
    assert drawn["caption"].reconstruction[2] == "ZORBLE" and not drawn["caption"].masked_words[2]


def test_the_command_names_bad_input(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.png")

    def error_of(image: Path, text: str) -> str:
        arguments = ["explain", str(tmp_path / "none"), str(image), text, "--output", str(tmp_path / "out")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and not (tmp_path / "out").exists()
        return result.stderr

    assert "expression is empty" in error_of(tmp_path / "photo.png", " ")
    assert "no such image file" in error_of(tmp_path / "other.png", "dog")
    assert "is no model" in error_of(tmp_path / "photo.png", "dog")
