"""What models tell about their masks equals what they compute, and `hf-refseg explain` draws all of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from tiny_lavt import WORDS, tiny_lavt, tiny_processor
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
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedModel
from typer.testing import CliRunner

from hf_refseg import (
    AutoModelForReferringSegmentation,
    RefSegImageProcessor,
    add_adapter,
    load_with_adapter,
)
from hf_refseg.explain import Artist, draw_explanations, image_as_seen, unnormalized
from hf_refseg.modeling.explanations_refseg import Explanation, eager_attention, strongest_places
from hf_refseg.modeling.modeling_refseg import RefSegPreTrainedModel
from hf_refseg.visualization import (
    MaskedImage,
    MaskedWords,
    draw_heat_maps,
    draw_impact_tokens,
    draw_pixel_words,
    draw_reconstruction,
    draw_word_table,
)
from hf_refseg.visualization.explanations import HEAT_COLORS, HIDDEN_COLOR
from hf_refseg.visualization.layout import distinct_color
from hf_refseg_cli import app

TEXT = "the left red dog"
METHODS = [TinyLavt, TinyVideoLavt, TinyUnifiedLavt, TinyMagNet, TinyM3Att, TinyBtmae, TinyRisam]


def build(method: type[TinyMethod], **overrides) -> RefSegPreTrainedModel:
    """A tiny model with a word for each of the tokenizer's."""
    return method().build(text_config={**method.fields["text_config"], "vocab_size": len(WORDS)}, **overrides)


@contextmanager
def record_calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, tuple, object]]]:
    """Gives a list that grows by module, positional arguments and result of each call of one of the modules."""
    calls: list[tuple[nn.Module, tuple, object]] = []
    record = [module.register_forward_hook(lambda *call: calls.append(call)) for module in modules]
    yield calls
    for handle in record:
        handle.remove()


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
    model, inputs = build(TinyLavt), inputs_of(tiny_processor())
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
    with eager_attention(attention), record_calls([attention.kernel]) as calls:
        attended = attention(pixels, words, mask)
    ((_, _, (_, weights)),) = calls
    values = attention.value(words) * mask[..., None]
    assert_close(attended, attention.output_norm(attention.output(weights[:, 0] @ values)))
    assert not weights[1, :, :, 3:].any()


@torch.no_grad()
@pytest.mark.parametrize("cam_language", ["paper", "released"])
def test_magnet_tells_the_alignment_of_each_stage(cam_language: str) -> None:
    model, inputs = build(TinyMagNet, cam_language=cam_language), inputs_of(tiny_processor())
    explanations = model.explain(**inputs)
    directions = ("word_attention", "words_to_pixels") if cam_language == "paper" else ("word_attention",)
    assert list(explanations) == [f"{each}_{stage}" for stage in range(1, 5) for each in directions]
    tokens = inputs["input_ids"].shape[1]
    for stage, size in enumerate((16, 8, 4, 2)):
        words = explanations[f"word_attention_{stage + 1}"].maps
        assert words.shape == (tokens, size, size)
        attention = model.stages[stage].text_to_pixels.full.attention
        with record_calls([attention]) as calls:
            model(**inputs)
        _, (_, text_features, _), attended = calls[0]
        values = words.flatten(1).T @ attention.value(text_features)
        assert_close(attended, attention.output_norm(attention.output(values)))
        if cam_language == "paper":
            pixels = explanations[f"words_to_pixels_{stage + 1}"].maps
            assert pixels.shape == (tokens, size, size)
            assert_close(pixels.sum((1, 2)), torch.ones(tokens))


@torch.no_grad()
@pytest.mark.parametrize("attention_type", ["shared", "generic", "language"])
def test_m3att_tells_mutual_attention_and_interaction(attention_type: str) -> None:
    directions = {"generic": "words_to_pixels", "language": "word_attention"}
    ablation = {"interaction_type": "plain"} if attention_type in directions else {}
    model, inputs = build(TinyM3Att, attention_type=attention_type, **ablation), inputs_of(tiny_processor())
    explanations = model.explain(**inputs)
    if ablation:
        assert list(explanations) == [f"{directions[attention_type]}_{layer}" for layer in (1, 2, 3)]
        return
    decoder, tokens = model.mutual_decoder, inputs["input_ids"].shape[1]
    of_layers = [[f"words_to_pixels_{layer}", f"word_attention_{layer}"] for layer in (1, 2, 3)]
    assert list(explanations) == [*of_layers[0], "interaction_1", *of_layers[1], "interaction_2", *of_layers[2]]
    layers = [decoder.first_layer.mutual_attention, *(layer.mutual_attention for layer in decoder.layers)]
    with record_calls([*layers, *decoder.interactions]) as calls:
        model(**inputs)
    for number, layer in enumerate(layers, start=1):
        _, (query, pixels, _), (mutual, *_) = next(call for call in calls if call[0] is layer)
        to_pixels, to_words = (explanations[name].maps.flatten(1) for name in of_layers[number - 1])
        assert to_pixels.shape == to_words.shape == (tokens, 16)
        vision, language = to_pixels @ layer.pixel_value(pixels), to_words.T @ layer.word_value(query)
        assert_close(mutual, layer.output(vision @ language.transpose(1, 2)))
    for number, interaction in enumerate(decoder.interactions, start=1):
        _, (decoded, _, mask), (changed, language, _) = next(call for call in calls if call[0] is interaction)
        gathered = explanations[f"interaction_{number}"].weights @ interaction.value(language).relu()
        assert_close(changed, interaction.inject(decoded, gathered, mask))


@torch.no_grad()
@pytest.mark.parametrize("language_attention", ["pixels", "shared"])
def test_risam_tells_both_directions_of_attention(language_attention: str) -> None:
    model, inputs = build(TinyRisam, language_attention=language_attention), inputs_of(padding_processor())
    explanations = model.explain(**inputs)
    directions = ("words_to_pixels", "pixels_to_words")
    assert list(explanations) == [f"{direction}_{block}" for block in (1, 2) for direction in directions]
    tokens = inputs["input_ids"].shape[1]
    with record_calls(model.fusion) as calls:
        model(**inputs)
    for number, (block, (pixels, words, _, _), (language_aware, vision_aware, *_)) in enumerate(calls, start=1):
        maps = explanations[f"words_to_pixels_{number}"].maps
        places, weights = (getattr(explanations[f"pixels_to_words_{number}"], name) for name in ("places", "weights"))
        pixels, words = block.project_pixels(pixels)[0], block.project_words(words)[0]
        assert maps.shape == (tokens, 8, 8) and weights.shape == (4, tokens)
        assert_close(vision_aware[0], block.word_norm(maps.flatten(1) @ pixels + words))
        indices = (places[:, 1] * 8).long() * 8 + (places[:, 0] * 8).long()
        assert_close(language_aware[0, indices], block.pixel_norm(weights @ words + pixels[indices]))
        assert indices[0] == maps.amax(0).argmax()


@torch.no_grad()
def test_risam_tells_the_attention_of_the_fusion_modules_that_it_is_compared_with() -> None:
    inputs = inputs_of(padding_processor())
    tokens, is_word = inputs["input_ids"].shape[1], inputs["attention_mask"][0].bool()
    told = {}
    for kind in ("transformer_encoder", "spatial_dynamic", "bidirectional", "convolution", "none"):
        told[kind] = build(TinyRisam, fusion_type=kind).explain(**inputs)
    assert list(told["transformer_encoder"]) == ["words_to_pixels_1", "words_to_pixels_2"]
    assert list(told["spatial_dynamic"]) == list(told["bidirectional"]) == ["word_attention_1", "word_attention_2"]
    assert told["convolution"] == told["none"] == {}
    for kind in ("spatial_dynamic", "bidirectional"):
        model = build(TinyRisam, fusion_type=kind)
        with record_calls(model.fusion) as calls:
            model(**inputs)
        for explanation, (_, _, (*_, weights)) in zip(told[kind].values(), calls, strict=True):
            assert_close(explanation.maps.flatten(1).T, weights[0, 0])
            assert_close(explanation.maps.sum(0), torch.ones(8, 8))
    model = build(TinyRisam, fusion_type="transformer_encoder")
    with record_calls([layer.attention for layer in model.fusion[0].layers]) as calls:
        model(**inputs)
    for explanation, (attention, (query, memory, mask), _) in zip(
        told["transformer_encoder"].values(), calls, strict=True
    ):
        projected = (attention.query(query), attention.key(memory))
        query, key = (each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for each in projected)
        scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(
            mask[:, None, None] == 0, -torch.inf
        )
        expected = scores.softmax(-1)[0].mean(0)[64:, :64] * is_word[:, None]
        assert explanation.maps.shape == (tokens, 8, 8)
        assert_close(explanation.maps.flatten(1), expected)


@torch.no_grad()
def test_btmae_tells_its_reconstructions_and_impact_tokens() -> None:
    model, inputs = build(TinyBtmae), inputs_of(tiny_processor())
    model.set_attn_implementation("eager")
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
    assert list(build(TinyBtmae, mask_decoder="simple").explain(**inputs)) == ["reconstruction"]
    neither = build(TinyBtmae, image_autoencoder=False, word_autoencoder=False)
    assert list(neither.explain(**inputs)) == ["impact_tokens"]


def test_strong_places_keep_their_distance() -> None:
    strength = torch.zeros(12, 12)
    strength[2, 3], strength[2, 4], strength[9, 9], strength[4, 5] = 9, 8, 7, 6
    assert strongest_places(strength, 2).tolist() == [2 * 12 + 3, 9 * 12 + 9]


def test_explaining_leaves_the_kernels_of_a_model_as_they_were() -> None:
    model = tiny_lavt()
    model.set_attn_implementation({"": "sdpa", "text_config": "eager"})
    configs = (model.config, model.text_encoder.config, model.backbone.model.config)
    before = [config._attn_implementation for config in configs]
    with pytest.raises(RuntimeError), eager_attention(model):
        assert [config._attn_implementation for config in configs] == ["eager", *before[1:]]
        raise RuntimeError
    assert [config._attn_implementation for config in configs] == before == ["sdpa", "eager", "sdpa"]


def test_heat_maps_have_the_colors_of_their_values() -> None:
    image = Image.new("RGB", (40, 20), (100, 100, 100))
    values = np.zeros((20, 40), dtype=np.float32)
    values[:, 20:] = 2
    pictures = {
        shared: np.asarray(
            draw_heat_maps([image], [values[None], values[None] / 2], ["a", "b"], shared_scale=shared, cell_width=40)
        )
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
    ("maps", "titles"),
    [
        ([], []),
        ([np.ones((1, 2, 2))], []),
        ([np.ones((2, 2))], ["a"]),
        ([np.ones((2, 2, 2))], ["a"]),
        ([np.full((1, 2, 2), np.nan)], ["a"]),
    ],
)
def test_wrong_heat_maps_are_named(maps: list, titles: list) -> None:
    with pytest.raises(ValueError, match=r"one for each|map \(1, height, width\)"):
        draw_heat_maps([photo()], maps, titles, shared_scale=True)


def test_maps_of_frames_lie_below_each_other_on_one_scale() -> None:
    frames = [Image.new("RGB", (40, 20), color) for color in ("white", "black")]
    values = np.stack([np.full((2, 4), 1.0), np.full((2, 4), 3.0)])
    picture = np.asarray(draw_heat_maps(frames, [values], ["a"], shared_scale=False, cell_width=40))
    row = picture.shape[0] // 2
    for frame, (shade, color) in enumerate(((255, HEAT_COLORS[0]), (0, HEAT_COLORS[-1]))):
        expected = 0.4 * shade + 0.6 * np.asarray(color)
        assert np.abs(picture[frame * row + row - 13, 26] - expected).max() <= 2


def test_words_stand_beside_their_weights() -> None:
    picture = draw_word_table(np.array([[0.9, 0.1], [0.2, 0.8]]), ["dog", "red"])
    pixels = np.asarray(picture).reshape(-1, 3)
    assert (pixels == HEAT_COLORS[-1]).all(1).any() and (np.asarray(picture)[30:, :140] < 128).any()
    with pytest.raises(ValueError, match="2 rows and 3 words"):
        draw_word_table(np.eye(2), ["a", "b", "c"])


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
        Artist(tiny_processor(), {0: photo()}, []).draw("map")


def test_a_model_that_has_nothing_to_tell_says_so() -> None:
    model = build(TinyRisam, fusion_type="convolution")
    with pytest.raises(ValueError, match="has no parts that tell"):
        list(draw_explanations(model, padding_processor(), photo(), TEXT))
    with pytest.raises(ValueError, match="of type bert cannot tell"):
        list(draw_explanations(tiny_lavt().text_encoder, tiny_processor(), photo(), TEXT))


@pytest.mark.parametrize(
    ("method", "dtype"),
    [*((method, "float32") for method in METHODS), (TinyLavt, "bfloat16"), (TinyM3Att, "bfloat16")],
)
def test_the_command_draws_every_explanation(method: type[TinyMethod], dtype: str, tmp_path: Path) -> None:
    model, processor = build(method), padding_processor() if method is TinyRisam else tiny_processor()
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
        # None stands for more colors than 50.
        assert min(picture.size) > 50 and picture.getcolors(50) is None


def numbers_of(explanations: dict[str, Explanation]) -> dict[str, list]:
    """What explanations hold, by name."""
    return {name: [getattr(each, field.name) for field in fields(each)] for name, each in explanations.items()}


def change(adapted: PeftModel) -> None:
    """Gives what an adapter trains other values."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_is_explained_like_the_model_it_is_merged_into(method: type[TinyMethod]) -> None:
    model, inputs = build(method), inputs_of(tiny_processor())
    model.name_or_path = "base"
    plain = numbers_of(model.explain(**inputs))
    adapted = add_adapter(model, lora_rank=2).eval()
    change(adapted)
    actual = numbers_of(adapted.explain(**inputs))
    assert actual.keys() == plain.keys()
    for name in actual:
        with pytest.raises(AssertionError):
            assert_close(actual[name], plain[name])
    assert_close(actual, numbers_of(adapted.merge_and_unload().explain(**inputs)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_loaded_adapter_is_drawn_as_it_was_trained(lora_rank: int | None, tmp_path: Path) -> None:
    base, adapter, processor = tmp_path / "base", tmp_path / "adapter", tiny_processor()

    def pictures_of(model: PreTrainedModel | PeftModel) -> dict[str, bytes]:
        return {name: picture.tobytes() for name, picture in draw_explanations(model, processor, photo(), TEXT)}

    tiny_lavt().save_pretrained(base)
    adapted = add_adapter(AutoModelForReferringSegmentation.from_pretrained(base), lora_rank=lora_rank).eval()
    before = pictures_of(adapted)
    change(adapted)
    adapted.save_pretrained(adapter)
    trained = pictures_of(adapted)
    assert trained.keys() == before.keys() and all(trained[name] != before[name] for name in trained)
    for loaded in (AutoModelForReferringSegmentation.from_pretrained(adapter), load_with_adapter(adapter)):
        assert pictures_of(loaded) == trained


def test_some_frames_of_a_clip_are_drawn() -> None:
    model, processor, frame = build(TinyVideoLavt, bidirectional=True), tiny_processor(), photo()
    frames = [frame.point(lambda value, dark=dark: value // dark) for dark in range(1, 6)]
    pictures = dict(draw_explanations(model, processor, frames, TEXT, shown_frames=2))
    image = dict(draw_explanations(model, processor, frame, TEXT))
    assert pictures.keys() == image.keys() and {"decoder_maps", "words_to_pixels_1"} < pictures.keys()
    for name, picture in pictures.items():
        assert picture.size == (image[name].width, 2 * image[name].height)
    with pytest.raises(ValueError, match="of type lavt takes images: pass a single frame"):
        list(draw_explanations(tiny_lavt(), processor, frames, TEXT))


@pytest.mark.parametrize("method", [TinyVideoLavt, TinyLavt])
def test_the_command_explains_videos_to_models_that_take_clips(method: type[TinyMethod], tmp_path: Path) -> None:
    build(method).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    frames = tmp_path / "a video"
    frames.mkdir()
    for number in range(3):
        photo().save(frames / f"{number}.png")
    arguments = ["explain", tmp_path / "model", frames, TEXT, "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if method is TinyLavt:
        assert result.exit_code == 1 and "takes images: pass a single frame" in result.stderr
        return
    assert result.exit_code == 0, result.output
    names = ["decoder_maps", *(f"word_attention_{stage}" for stage in range(1, 5))]
    assert result.stdout.splitlines() == [str(tmp_path / "out" / f"a-video_{name}.png") for name in names]
    picture = Image.open(result.stdout.splitlines()[0])
    # Three frames of the photo's form below each other, four maps beside each other.
    assert picture.width > 4 * 240 and picture.height > 3 * 192


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
    list(draw_explanations(build(TinyBtmae), processor, photo(), "The red ZORBLE circle"))
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
