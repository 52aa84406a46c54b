"""Mask Grounding: which words are masked, what its predictor sees and what it must not see, configuration, saving."""

import logging
import math
from functools import partial

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from tiny_configs import CLIP, SAM
from tiny_lavt import WORDS, tiny_processor
from torch import Tensor
from torch.testing import assert_close
from transformers import BertConfig, CLIPTextConfig, SwinConfig
from transformers.utils.logging import warning_once

from hf_refseg import (
    AutoModelForReferringSegmentation,
    LavtConfig,
    LavtForReferringSegmentation,
    RisamConfig,
    RisamForReferringSegmentation,
)
from hf_refseg.modeling import layers_refseg
from hf_refseg.modeling.configuration_refseg import MaskGroundingConfig
from hf_refseg.modeling.mask_grounding_refseg import (
    AverageToken,
    CenterToken,
    ImageTokens,
    MaskedVisionLanguage,
    MaskGrounding,
    draw_masked_words,
    mask_centers,
    mask_parts,
    parts_of,
)
from hf_refseg.modeling.modeling_outputs_refseg import FusedPass
from hf_refseg.training.optimization import train_first_text_layers

SPECIAL = [0, 1, 2, 3, 4]
SIZE = 32
PLAIN_MLM = {"image_tokens": False, "mask_encoder": "none"}
MASKED_VLM = {"mask_encoder": "none"}
PAINTING = {**MASKED_VLM, "reconstructs": "words_and_image"}


def task(**fields) -> dict:
    return {"special_token_ids": SPECIAL, "mask_token_id": 4, "predictor_layers": 1, **fields}


def build(dropout: float = 0.0, **fields) -> LavtForReferringSegmentation:
    """A tiny LAVT with the task, in evaluation mode; the same weights each time."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=SIZE,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        drop_path_rate=0.0,
    )
    bert = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
    )
    config = LavtConfig(
        backbone_config=swin,
        text_config=bert,
        gate_activation="none",
        fusion_norm="layer",
        mask_grounding=task(**fields),
    )
    return LavtForReferringSegmentation(config).eval()


def two_circles(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A bright square in each half of the image, at random heights; the sentences mean left and right in turn."""
    images = 0.1 * torch.randn(batch, 3, SIZE, SIZE, generator=generator)
    masks = torch.zeros(batch, SIZE, SIZE, dtype=torch.long)
    sides = torch.arange(batch) % 2
    for index, side in enumerate(sides.tolist()):
        for half in (0, 1):
            top, left = torch.randint(SIZE - 8, (), generator=generator), 4 + 16 * half
            images[index, :, top : top + 8, left : left + 8] += 1
            if half == side:
                masks[index, top : top + 8, left : left + 8] = 1
    sentences = torch.tensor([[2, *(WORDS.index(word) for word in ("the", "left", "circle")), 3]]).repeat(batch, 1)
    sentences[:, 2] += sides
    return {"pixel_values": images, "input_ids": sentences, "mask_labels": masks}


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return two_circles(4, torch.Generator().manual_seed(1))


def test_only_ordinary_words_are_masked_and_one_at_least():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 12, (4000, 9), generator=generator)
    attention_mask = (torch.arange(9) < torch.randint(1, 10, (4000, 1), generator=generator)).long()
    is_masked = draw_masked_words(ids, attention_mask, SPECIAL, 0.15, generator)
    ordinary = (ids > 4) & (attention_mask == 1)
    assert not (is_masked & ~ordinary).any()
    assert torch.equal(is_masked.any(1), ordinary.any(1))
    assert not ordinary.any(1).all()
    # Of n words a share of 0.15 is masked, and one more word where none was.
    words = ordinary.sum(1)
    expected = torch.where(words > 0, 0.15 * words + 0.85**words, 0).sum()
    assert abs(is_masked.sum() - expected) < 0.05 * expected
    assert draw_masked_words(ids, None, SPECIAL, 1.0, generator).equal(ids > 4)
    assert draw_masked_words(ids, attention_mask, SPECIAL, 0.0, generator).sum(1).max() == 1


def test_a_seed_gives_the_same_words_and_processes_draw_apart(monkeypatch):
    def draw(rank: int) -> Tensor:
        monkeypatch.setattr(layers_refseg.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(layers_refseg.dist, "get_rank", lambda: rank)
        torch.manual_seed(5)
        ids = torch.full((20, 9), 7)
        return torch.stack([draw_masked_words(ids, None, SPECIAL, 0.15, None) for _ in range(2)])

    first, second = draw(0), draw(1)
    assert torch.equal(first, draw(0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_training_draws_anew_and_evaluation_does_not(batch, count_calls):
    model = build()
    calls = count_calls(model.mask_grounding, "name_masked_words")
    for mode in (True, True, True, False, False):
        model.train(mode)(**batch)
    trained, evaluated = [call[2] for call in calls[:3]], [call[2] for call in calls[3:]]
    assert any(not torch.equal(trained[0], other) for other in trained[1:])
    assert torch.equal(*evaluated)


def test_centers_are_the_mean_places_of_the_pixels():
    masks = (torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.6).long()
    masks[2] = 0
    for mask, center in zip(masks, mask_centers(masks), strict=True):
        places = [((x + 0.5) / 7, (y + 0.5) / 5) for y in range(5) for x in range(7) if mask[y, x]]
        expected = [sum(part) / len(places) for part in zip(*places, strict=True)] if places else [0.0, 0.0]
        assert_close(center, torch.tensor(expected))


def test_context_tokens_against_slow_loops():
    torch.manual_seed(0)
    maps, masks = torch.randn(2, 6, 4, 8), torch.zeros(2, 16, 32, dtype=torch.long)
    masks[0, 2:7, 9:20] = 1
    masks[1, :, 31] = 1

    def perceptron(layers: torch.nn.Sequential, values: Tensor) -> Tensor:
        first, _, second = layers
        hidden = values @ first.weight.T + first.bias
        return (0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))) @ second.weight.T + second.bias

    center = CenterToken(6, 6)
    assert_close(center(maps, masks), perceptron(center.encoder, mask_centers(masks))[:, None])

    average = AverageToken(6, 6)
    for index in range(2):
        total, area = torch.zeros(6), 0.0
        for y in range(4):
            for x in range(8):
                share = masks[index, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].float().mean()
                total, area = total + share * maps[index, :, y, x], area + share
        expected = perceptron(average.encoder, total / area)
        assert_close(average(maps, masks)[index, 0], expected)

    image = ImageTokens(6, 6, max_size=4)
    tokens = image(maps, masks)
    assert tokens.shape == (2, 16, 6)
    for y in range(4):
        for x in range(4):
            place = perceptron(image.position, torch.tensor([(x + 0.5) / 4, (y + 0.5) / 4]))
            assert_close(tokens[:, 4 * y + x], maps[:, :, y, 2 * x : 2 * x + 2].mean(2) + place)


def test_the_masked_sentence_is_what_the_text_encoder_reads(batch, count_calls):
    model = build(special_token_ids=[*SPECIAL, 5, 11])
    calls = count_calls(model, "encode_text")
    model(**batch)
    whole, masked = (call[0] for call in calls)
    assert torch.equal(whole, batch["input_ids"])
    assert masked.tolist() == [[2, 5, 4, 11, 3]] * 4


@torch.no_grad()
@pytest.mark.parametrize(
    ("setting", "sees"),
    [
        (PLAIN_MLM, ()),
        ({"image_tokens": False}, ("mask",)),
        *(
            ({**setting, "image_features": image_features}, sees)
            for image_features in ("sentence", "masked_sentence")
            for setting, sees in (
                (MASKED_VLM, ("image",)),
                ({}, ("image", "mask")),
                ({"mask_encoder": "average"}, ("image", "mask")),
                ({"image_tokens": False, "mask_encoder": "average"}, ("image", "mask")),
            )
        ),
    ],
    ids=str,
)
def test_each_setting_is_blind_to_what_it_must_not_see(batch, setting, sees):
    model = build(**setting)

    def loss(**changed) -> Tensor:
        return model(**{**batch, **changed}).loss_components["mask_grounding"]

    # Anywhere else and of another size, but no mask becomes empty.
    moved = torch.zeros_like(batch["mask_labels"])
    moved[:, :5, 20:] = 1
    assert (loss(pixel_values=batch["pixel_values"].flip(0) + 1) != loss()) == ("image" in sees)
    assert (loss(mask_labels=moved) != loss()) == ("mask" in sees)


@torch.no_grad()
def test_a_masked_word_shows_through_the_main_pass_alone(batch):
    """With `image_features="masked_sentence"` nothing that the predictor reads depends on the masked words."""
    is_masked = torch.zeros(4, 5, dtype=torch.bool)
    is_masked[:, 2] = True
    other = torch.where(is_masked, 9, batch["input_ids"])
    for image_features, shows in (("sentence", True), ("masked_sentence", False)):
        model = build(image_features=image_features)
        image = model.get_image_features(batch["pixel_values"])
        logits = []
        for ids in (batch["input_ids"], other):
            text, text_mask = model.get_text_features(ids).last_hidden_state, torch.ones(4, 5)
            fused = model.fuse(image, text, text_mask)
            forward_pass = FusedPass(None, ids, None, image, text, text_mask, batch["mask_labels"], fused)
            logits.append(model.mask_grounding.name_masked_words(model, forward_pass, is_masked))
        assert torch.equal(*logits) != shows


@torch.no_grad()
def test_padding_does_not_change_the_loss(batch):
    model = build(special_token_ids=[*SPECIAL, 5, 11])
    attention_mask = torch.ones(4, 5, dtype=torch.long)
    expected = model(**batch, attention_mask=attention_mask).loss_components["mask_grounding"]
    batch["input_ids"] = torch.nn.functional.pad(batch["input_ids"], (0, 4), value=7)
    padded = torch.nn.functional.pad(attention_mask, (0, 4))
    assert_close(model(**batch, attention_mask=padded).loss_components["mask_grounding"], expected)


@pytest.mark.parametrize("layers", [0, 1])
def test_the_mask_token_is_learned_beside_frozen_embeddings(batch, layers):
    model = build()
    train_first_text_layers(model.text_encoder, layers)
    batch["input_ids"][0, 1] = 4  # a mask token that the sentence itself holds
    before = model(**batch)
    before.loss.backward()
    assert model.mask_grounding.mask_token.change.grad.any()
    assert all(parameter.grad is None for parameter in model.get_input_embeddings().parameters())
    with torch.no_grad():
        model.mask_grounding.mask_token.change[0] += 1
    after = model(**batch)
    assert after.loss_components["mask_grounding"] != before.loss_components["mask_grounding"]
    assert torch.equal(after.logits, before.logits)


def test_a_checkpoint_without_a_learned_mask_token_computes_the_same(tmp_path, batch):
    model = build()
    expected = model(**batch)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["mask_grounding.mask_token.change"]
    save_file(tensors, path, metadata={"format": "pt"})
    loaded, report = AutoModelForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    actual = loaded(**batch)
    assert torch.equal(actual.logits, expected.logits) and torch.equal(actual.loss, expected.loss)
    assert not loaded.mask_grounding.mask_token.change.any()


def test_a_wholly_frozen_text_encoder_is_named_in_training(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    for freeze_text_encoder, warnings in ((False, 0), (True, 1)):
        warning_once.cache_clear()
        caplog.clear()
        model = RisamForReferringSegmentation(
            RisamConfig(
                backbone_config=SAM,
                text_config=CLIP,
                hidden_size=32,
                num_attention_heads=4,
                freeze_text_encoder=freeze_text_encoder,
                mask_grounding=task(),
            )
        )
        model.eval()
        assert "frozen" not in caplog.text
        model.train().train()
        assert caplog.text.count("Set freeze_text_encoder to False") == warnings


def test_samples_without_a_target_are_left_out(batch):
    model = build(special_token_ids=[*SPECIAL, 5, 11])
    half = {name: value[:2] for name, value in batch.items()}
    expected = model(**half).loss_components["mask_grounding"]
    batch["mask_labels"][2:] = 0
    assert_close(model(**batch).loss_components["mask_grounding"], expected)


@pytest.mark.parametrize("left_out", ["no target", "no ordinary word"])
def test_a_batch_with_nothing_left_gives_zero_and_zero_gradients(batch, left_out):
    model = build().train()
    if left_out == "no target":
        batch["mask_labels"][:] = 0
    else:
        batch["input_ids"][:] = 3
    model.loss_weights = dict.fromkeys(model.loss_weights, 0.0) | {"mask_grounding": 1.0}
    output = model(**batch)
    assert output.loss == 0 and output.loss_components["mask_grounding"] == 0
    output.loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and (parameter.grad == 0).all()


@pytest.mark.slow_process
def test_only_the_masks_place_tells_the_word():
    """Two like squares: image and rest of the sentence fit "left" and "right" alike."""
    accuracy = {}
    # "the" and "circle" are not masked: they could be named from the sentence alone.
    special = [*SPECIAL, 5, 11]
    for name, setting, steps in (("text only", PLAIN_MLM, 20), ("full", {"image_features": "masked_sentence"}, 40)):
        model = build(special_token_ids=special, **setting).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        for _ in range(steps):
            loss = model(**two_circles(16, generator)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        unseen = two_circles(100, generator)
        is_masked = torch.zeros(100, 5, dtype=torch.bool)
        is_masked[:, 2] = True
        predicted = model.eval().mask_grounding.predict_masked_words(model, **unseen, is_masked=is_masked)
        accuracy[name] = (predicted == unseen["input_ids"][:, 2]).float().mean().item()
    assert accuracy["text only"] == 0.5
    assert accuracy["full"] > 0.9


def test_predictions_are_those_of_the_masked_words(batch):
    model = build()
    predict = partial(model.mask_grounding.predict_masked_words, model)
    is_masked = torch.zeros(4, 5, dtype=torch.bool)
    is_masked[0, 1:4] = is_masked[2, 2] = is_masked[3, 1] = True
    predicted = predict(**batch, is_masked=is_masked)
    assert predicted.shape == (5,) and not predicted.requires_grad
    alone = {name: value[2:3] for name, value in batch.items()}
    assert torch.equal(predict(**alone, is_masked=is_masked[2:3]), predicted[3:4])


def test_words_are_needed(batch):
    model = build()
    words = model.get_text_features(batch.pop("input_ids")).last_hidden_state
    with pytest.raises(ValueError, match="pass `input_ids` instead of `text_embeds`"):
        model(**batch, text_embeds=words)


@pytest.mark.parametrize("image_features", ["sentence", "masked_sentence"])
def test_bfloat16_and_autocast_train(batch, image_features):
    expected = build(image_features=image_features)(**batch).loss_components["mask_grounding"]
    half, mixed = build(image_features=image_features), build(image_features=image_features)
    half = half.bfloat16()
    outputs = [half(**{**batch, "pixel_values": batch["pixel_values"].bfloat16()})]
    with torch.autocast("cpu", torch.bfloat16):
        outputs.append(mixed(**batch))
    for model, output in zip((half, mixed), outputs, strict=True):
        assert_close(output.loss_components["mask_grounding"].float(), expected, atol=0.05, rtol=0.05)
        output.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.mask_grounding.parameters())


def test_configurations_come_as_mappings_and_survive_saving(tmp_path):
    config = LavtConfig(mask_grounding=task(mask_encoder="average", mask_probability=0.3))
    assert config.mask_grounding == MaskGroundingConfig(**task(mask_encoder="average", mask_probability=0.3))
    config.save_pretrained(tmp_path)
    assert LavtConfig.from_pretrained(tmp_path).mask_grounding == config.mask_grounding
    assert LavtConfig.from_pretrained(tmp_path, mask_grounding=task()).mask_grounding == MaskGroundingConfig(**task())
    assert LavtConfig.from_pretrained(tmp_path, mask_grounding=None).mask_grounding is None
    assert LavtConfig().mask_grounding is None


def test_the_papers_settings_are_the_defaults():
    config = MaskGroundingConfig(special_token_ids=SPECIAL, mask_token_id=4)
    assert (config.mask_probability, config.mask_encoder, config.predictor_layers) == (0.15, "center", 8)
    assert (config.image_tokens, config.loss_weight) == (True, 1.0)


def test_token_ids_come_from_the_tokenizer():
    config = MaskGroundingConfig.for_tokenizer(tiny_processor().tokenizer, predictor_layers=4)
    assert (config.special_token_ids, config.mask_token_id, config.predictor_layers) == (SPECIAL, 4, 4)

    class WithoutMaskToken:
        mask_token_id, unk_token_id, all_special_ids = None, 9, [8, 9]

    assert MaskGroundingConfig.for_tokenizer(WithoutMaskToken()).mask_token_id == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"special_token_ids": None}, "the tokenizer's all_special_ids"),
        ({"mask_token_id": None}, "the tokenizer's mask_token_id"),
        ({"mask_encoder": "middle"}, "'center', 'average', 'none'"),
        ({"image_features": "none"}, "'sentence', 'masked_sentence'"),
        ({"mask_probability": 1.5}, "mask_probability: a probability"),
        ({"predictor_layers": 0}, "predictor_layers: at least 1"),
        ({"max_map_size": 0}, "max_map_size: at least 1"),
        ({"predictor_size": 0}, "predictor_size: at least 1"),
        ({"reconstructs": "image"}, "'words', 'words_and_image'"),
        ({"reconstructs": "words_and_image", "image_mask_probability": -0.1}, "image_mask_probability: a probability"),
        ({"image_mask_probability": 0.5}, 'image_mask_probability: .* only with reconstructs="words_and_image"'),
        ({"reconstructs": "words_and_image", "image_tokens": False}, "image_tokens=True"),
        ({**PLAIN_MLM, "image_features": "masked_sentence"}, "image_features: it has an effect only"),
        ({"image_tokens": False, "max_map_size": 4}, "max_map_size: it has an effect only with image_tokens=True"),
        ({"predictor_depth": 4}, "no field predictor_depth, only special_token_ids, mask_token_id"),
    ],
)
def test_wrong_fields_are_named(change, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        LavtConfig(mask_grounding=task(**change))


def test_a_mask_token_outside_the_vocabulary_is_named():
    with pytest.raises(ValueError, match="mask_token_id is 12, but the vocabulary has 12 tokens"):
        build(mask_token_id=12)


def test_a_narrow_predictor_reads_projected_features(batch, tmp_path):
    """Its size is that of all tokens; without one they are as wide as the map, and are not projected."""
    for fields, size in (({"predictor_size": 24}, 24), ({"predictor_size": 64}, 64), ({}, 64)):
        model = build(**fields, mask_encoder="average")
        task, image = model.mask_grounding, model.mask_grounding.context[0]
        assert task.predictor.config.hidden_size == task.predictor.classifier.in_features == size
        assert isinstance(image.projection, torch.nn.Identity) == (size == 64)
        maps, labels = torch.randn(4, 64, 2, 2), batch["mask_labels"]
        place = image.position(torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]))
        assert_close(image(maps, labels), image.projection(maps.flatten(2).transpose(1, 2)) + place)
        assert task.context[1](maps, labels).shape == (4, 1, size)
        output = model.train()(**batch)
        output.loss.backward()
        assert all(parameter.grad is not None for parameter in task.parameters())
        assert task.context[1].encoder[0].weight.grad.any()
    model = build(predictor_size=24)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForReferringSegmentation.from_pretrained(tmp_path)
    assert loaded.config.mask_grounding.predictor_size == 24
    assert torch.equal(loaded(**batch).loss, model(**batch).loss)


def test_the_parts_of_an_image_against_slow_loops():
    images = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    is_masked = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    masked, parts = mask_parts(images, is_masked), parts_of(images, (3, 5), part_size=2)
    assert parts.shape == (2, 15, 12)
    for row in range(3):
        for column in range(5):
            part = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected = torch.where(is_masked[:, row, column, None, None, None], 0, part)
            assert torch.equal(masked[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4], expected)
            means = part.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
            assert_close(parts[:, 5 * row + column], means.flatten(1))
    # The same parts of all frames, and none of the image that is passed.
    clips = images.unsqueeze(1).repeat(1, 3, 1, 1, 1)
    assert torch.equal(mask_parts(clips, is_masked), masked.unsqueeze(1).repeat(1, 3, 1, 1, 1))
    assert images.all()


def test_masked_vision_language_modeling_paints_masked_parts(batch, count_calls, tmp_path):
    model = build(**PAINTING)
    task = model.mask_grounding
    assert isinstance(task, MaskedVisionLanguage)
    encoded = count_calls(model, "encode_image")
    components = model(**batch).loss_components
    whole, masked = (call[0] for call in encoded)
    assert torch.equal(whole, batch["pixel_values"])
    hidden = (masked == 0) & (whole != 0)
    assert 0.2 < hidden.float().mean() < 0.9 and torch.equal(masked[~hidden], whole[~hidden])
    # Beside the words, the mean absolute difference to what is hidden: to zeros where nothing is painted.
    words = MaskGrounding.loss(task, model, forward_pass_of(model, batch))
    with torch.no_grad():
        task.paint.weight.zero_()
        task.paint.bias.zero_()
    image_loss = model(**batch).loss_components["mask_grounding"] - words
    is_hidden = hidden.all(1).unflatten(1, (2, 16)).unflatten(3, (2, 16))[:, :, 0, :, 0].flatten(1)
    parts = parts_of(whole, (2, 2), task.PART_SIZE).abs().mean(2)
    assert_close(image_loss, (parts * is_hidden).sum() / is_hidden.sum())
    model = build(**PAINTING).train()
    model(**batch).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.mask_grounding.paint.weight.grad.any()
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForReferringSegmentation.from_pretrained(tmp_path)
    assert_close(again(**batch).loss_components["mask_grounding"], components["mask_grounding"])


def forward_pass_of(model: LavtForReferringSegmentation, batch: dict[str, Tensor]) -> FusedPass:
    image, text, text_mask = model.encode_inputs(batch["pixel_values"], batch["input_ids"], None)
    given = (batch["pixel_values"], batch["input_ids"], None, image, text, text_mask, batch["mask_labels"])
    return FusedPass(*given, model.fuse(image, text, text_mask))


def test_painting_reads_the_rest_of_the_image_and_the_whole_sentence(batch):
    model = build(**PAINTING)

    def painting_loss(**changed) -> Tensor:
        return model.mask_grounding.painting_loss(model, forward_pass_of(model, {**batch, **changed}))

    other = batch["input_ids"].clone()
    other[:, 2] = 9
    assert painting_loss(input_ids=other) != painting_loss()
    assert painting_loss(pixel_values=batch["pixel_values"].flip(0)) != painting_loss()
    # One image for several texts is masked for each of them.
    alone = painting_loss(pixel_values=batch["pixel_values"][:1])
    assert_close(alone, painting_loss(pixel_values=batch["pixel_values"][:1].repeat(4, 1, 1, 1)))


def test_painting_needs_the_image_itself(batch):
    model = build(**PAINTING)
    features = model.get_encoder_features(batch.pop("pixel_values"))
    with pytest.raises(ValueError, match="pass `pixel_values`, neither `image_embeds` nor `encoder_features`"):
        model(**batch, encoder_features=features)


@pytest.mark.parametrize("channels", [32, 96, 128, 1024])
def test_the_predictor_fits_every_width(channels):
    config = MaskGroundingConfig(**task(predictor_layers=1))
    grounding = MaskGrounding(config, CLIPTextConfig(hidden_size=24, vocab_size=9), 24, channels, "sdpa")
    masked = torch.tensor([[True, False]])
    logits = grounding(torch.zeros(1, 2, 24), torch.ones(1, 2), masked, torch.zeros(1, channels, 2, 2), masked[None])
    assert logits.shape == (1, 2, 9)


def test_a_loaded_model_can_take_up_the_task(tmp_path, batch):
    model = build()
    model.save_pretrained(tmp_path, save_auxiliary=False)
    again = AutoModelForReferringSegmentation.from_pretrained(tmp_path, mask_grounding=task())
    assert "mask_grounding" in again(**batch).loss_components
    assert all(parameter.isfinite().all() for parameter in again.mask_grounding.parameters())
