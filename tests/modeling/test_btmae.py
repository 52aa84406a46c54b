"""BTMAE's own behavior: masking and reconstruction, impact tokens, what runs at inference, ablations, encoders."""

import math
from collections.abc import Callable

import pytest
import torch
from method_tests import MethodTests
from tiny_configs import SWIN
from tiny_methods import TinyBtmae
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import BtmaeConfig, BtmaeForReferringSegmentation, LavtConfig, LavtForReferringSegmentation
from hf_refseg.modeling.autoencoder_btmae import BTMAE, count_kept, draw_masked_tokens
from hf_refseg.modeling.layers_refseg import map_positions
from hf_refseg.modeling.mask_decoder_btmae import ImpactTokenAttention

TINY_BERT = TinyBtmae.fields["text_config"]
TIMM = {"model_type": "timm_backbone", "backbone": "resnet10t", "out_indices": [-4, -3, -2, -1]}
ABLATIONS = [
    {"image_autoencoder": False},
    {"word_autoencoder": False},
    {"image_autoencoder": False, "word_autoencoder": False},
    {"mask_decoder": "simple"},
    {"image_autoencoder": False, "mask_decoder": "simple"},
    {"word_autoencoder": False, "mask_decoder": "simple"},
    {"image_autoencoder": False, "word_autoencoder": False, "mask_decoder": "simple"},
    {"image_autoencoder": False, "word_autoencoder": False, "attention_encoder": "stages"},
    {"autoencoder_blocks": "single_modal"},
    {"num_impact_tokens": [4, 2]},
    {"impact_queries": "refined"},
    {"token_stride": 32},
    {"num_encoder_layers": 2},
    {"backbone_config": TIMM},
]
# These change what is trained, not what is computed of a whole image and sentence.
TRAINING_ABLATIONS = [
    {"image_masking": "patch"},
    {"image_mask_ratio": 0.75},
    {"word_mask_ratio": 0.2},
    {"num_decoder_layers": 2},
    {"cross_entropy_sigma": 2.0},
    {"loss_reduction": "sum"},
]


def is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


class TestBtmae(TinyBtmae, MethodTests):
    short_text = {"text_config": {**TINY_BERT, "num_hidden_layers": 1}}
    few_layers = {**short_text, "num_impact_tokens": [2]}

    @pytest.mark.parametrize("ablation", ABLATIONS + TRAINING_ABLATIONS, ids=str)
    def test_every_ablation_trains_and_reloads(self, ablation: dict, tmp_path) -> None:
        model = self.build(**{**self.short_text, **ablation}).train()
        output = model(**self.inputs(), mask_labels=self.labels())
        assert set(output.loss_components) == set(model.loss_weights)
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        model.eval().save_pretrained(tmp_path)
        loaded = BtmaeForReferringSegmentation.from_pretrained(tmp_path)
        with torch.no_grad():
            assert_close(loaded(**self.inputs()).logits, model(**self.inputs()).logits)

    def with_common_weights(self, ablation: dict) -> tuple[nn.Module, nn.Module]:
        """The plain model and the changed one, alike wherever they have parameters in common."""
        plain, changed = self.build(), self.build(**ablation)
        shapes = {name: value.shape for name, value in changed.state_dict().items()}
        common = {name: value for name, value in plain.state_dict().items() if shapes.get(name) == value.shape}
        changed.load_state_dict(common, strict=False)
        return plain, changed

    @torch.no_grad()
    @pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
    def test_every_ablation_changes_the_logits(self, ablation: dict) -> None:
        plain, changed = self.with_common_weights(ablation)
        assert (changed(**self.inputs()).logits - plain(**self.inputs()).logits).abs().max() > 1e-5

    @torch.no_grad()
    @pytest.mark.parametrize("ablation", TRAINING_ABLATIONS, ids=str)
    def test_every_ablation_of_training_changes_the_loss_alone(self, ablation: dict) -> None:
        plain, changed = self.with_common_weights(ablation)
        expected, actual = (model(**self.inputs(), mask_labels=self.labels()) for model in (plain, changed))
        assert torch.equal(actual.logits, expected.logits)
        assert (actual.loss - expected.loss).abs() > 1e-6

    @torch.no_grad()
    def test_without_labels_no_decoder_runs_and_nothing_is_masked(self, count_calls) -> None:
        model, inputs = self.build(), self.inputs(batch=3)
        autoencoders = (model.language_to_vision, model.vision_to_language)
        decoders = [count_calls(block, "forward") for each in autoencoders for block in each.decoder]
        encoders = [count_calls(block, "forward") for each in autoencoders for block in each.encoder]
        projections = [count_calls(each.projection, "forward") for each in autoencoders]
        for mode in (True, False):
            model.train(mode)(**inputs)
        assert not any(decoders) and not any(projections)
        tokens = [[call[0].shape[1] for call in calls] for calls in encoders]
        assert tokens == [[4 * 5] * 2, [6] * 2]
        image_encoder = count_calls(model, "encode_image")
        model(**inputs, mask_labels=self.labels(3))
        assert all(len(calls) == 1 for calls in decoders + projections)
        tokens = [[call[0].shape[1] for call in calls] for calls in encoders]
        assert tokens == [[20, 20, 10, 20], [6, 6, 3, 6]]
        assert len(image_encoder) == 1

    @torch.no_grad()
    def test_evaluation_masks_the_same_each_time_and_training_does_not(self) -> None:
        model, call = self.build(), {**self.inputs(), "mask_labels": self.labels()}
        first, second = model(**call), model(**call)
        assert torch.equal(first.loss, second.loss)
        assert torch.equal(first.masked_patches, second.masked_patches)
        model.train()
        masks = [model(**call).masked_patches for _ in range(2)]
        assert not torch.equal(*masks)

    @torch.no_grad()
    def test_reconstructions_have_the_size_of_the_image_and_words_of_the_vocabulary(self) -> None:
        model, inputs = self.build(), self.inputs()
        inputs["pixel_values"] = torch.randn(2, 3, 50, 71)  # no multiple of the stride
        inputs["input_ids"][:, 0] = 2
        inputs["attention_mask"][1, 4:] = 0
        output = model(**inputs, output_reconstructions=True, output_impact_maps=True)
        assert output.loss is None and torch.equal(output.logits, model(**inputs).logits)
        assert output.reconstructed_pixels.shape == inputs["pixel_values"].shape
        assert output.masked_patches.shape == (2, 4, 5) and output.masked_patches.sum((1, 2)).tolist() == [10, 10]
        assert output.masked_words.sum(1).tolist() == [3, 2]
        assert not output.masked_words[:, 0].any() and not output.masked_words[1, 4:].any()
        assert ((output.reconstructed_ids >= 0) & (output.reconstructed_ids < TINY_BERT["vocab_size"])).all()
        kept = ~output.masked_words
        assert torch.equal(output.reconstructed_ids[kept], inputs["input_ids"][kept])
        assert [maps.shape for maps in output.impact_maps] == [(2, number, 4, 5) for number in (4, 3, 2)]
        assert all(torch.allclose(maps.sum(1), torch.ones(2, 4, 5)) for maps in output.impact_maps)
        assert [words.shape for words in output.impact_words] == [(2, number, 6) for number in (4, 3, 2)]
        assert not any(words[1, :, 4:].any() for words in output.impact_words)

    def test_reconstruction_losses_are_what_the_outputs_say(self) -> None:
        model, inputs = self.build(), self.inputs()
        output = model(**inputs, mask_labels=self.labels())
        total = sum(
            (a - b) ** 2
            for a, b in zip(
                *(values.flatten().tolist() for values in (output.reconstructed_pixels, inputs["pixel_values"])),
                strict=True,
            )
        )
        expected = total / inputs["pixel_values"].numel()
        assert output.loss_components["image_reconstruction"].item() == pytest.approx(expected, rel=1e-4)
        without = model(**inputs, output_reconstructions=True)
        assert torch.equal(without.reconstructed_ids, output.reconstructed_ids)

    def test_a_model_learns_to_reconstruct_what_is_masked(self) -> None:
        model = self.build()
        model.loss_weights |= {"iou": 0.0, "cross_entropy": 0.0}
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        first = None
        for _ in range(40):
            output = model(**self.inputs(), mask_labels=self.labels())
            first = first or output
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
        assert output.loss_components["word_reconstruction"] < 0.1 < first.loss_components["word_reconstruction"]
        assert torch.equal(output.reconstructed_ids, self.inputs()["input_ids"])
        before, after = (each.loss_components["image_reconstruction"] for each in (first, output))
        assert after < 0.9 * before

    @torch.no_grad()
    def test_losses_as_printed_are_sums_over_the_pixels_of_each_sample(self) -> None:
        """Equations 4 and 5."""
        inputs, labels = self.inputs(), self.labels()
        mean, summed = (self.build(loss_reduction=name) for name in ("mean", "sum"))
        before, after = (model(**inputs, mask_labels=labels).loss_components for model in (mean, summed))
        output = summed(**inputs, mask_labels=labels)
        squares = (output.reconstructed_pixels - inputs["pixel_values"]).square()
        assert_close(after["image_reconstruction"], squares.sum() / 2)
        probabilities = output.logits.sigmoid()
        of_right = torch.where(labels == 1, probabilities, 1 - probabilities)
        assert_close(after["cross_entropy"], -((1 - of_right) * of_right.log()).sum() / 2)
        pixels = labels[0].numel()
        assert_close(after["cross_entropy"], pixels * before["cross_entropy"])
        assert_close(after["image_reconstruction"], 3 * pixels * before["image_reconstruction"])
        assert all(torch.equal(after[name], before[name]) for name in ("iou", "word_reconstruction"))

    @torch.no_grad()
    def test_the_language_aware_encoder_is_that_of_lavt(self) -> None:
        """Row e of table 2: LAVT's encoder with impact token attention."""
        fields = {"image_autoencoder": False, "word_autoencoder": False, "attention_encoder": "stages"}
        model, inputs = self.build(**fields), self.inputs()
        shared = {name: self.fields[name] for name in ("backbone_config", "text_config")}
        lavt = LavtForReferringSegmentation(LavtConfig(**shared, decoder_norm="none")).eval()
        lavt.backbone.load_state_dict(model.backbone.state_dict())
        lavt.text_encoder.load_state_dict(model.text_encoder.state_dict())
        lavt.stages.load_state_dict(model.encoding.stages.state_dict())
        expected = lavt(**inputs, output_hidden_states=True).hidden_states[:4]
        features = model.get_encoder_features(inputs["pixel_values"])
        assert len(features.maps) == 1
        features.maps = expected
        seen = model.visual_features(features).maps
        assert_close(model(**inputs, output_hidden_states=True).hidden_states[:2], seen[:2])
        tokens = model.pixel_tokens(seen[2].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        assert_close(model(**inputs, output_hidden_states=True).hidden_states[2], tokens)
        assert model(**inputs, mask_labels=self.labels()).reconstructed_pixels is None
        # Language enters while the image is encoded, so that it reaches all maps.
        other = {**inputs, "input_ids": inputs["input_ids"].flip(1)}
        changed = model(**other, output_hidden_states=True).hidden_states[0]
        assert (changed - seen[0]).abs().max() > 1e-4
        model.set_attn_implementation("eager")
        of_stages = [weights.shape[2] for weights in model(**inputs, output_attentions=True).attentions][:5]
        assert of_stages == [16 * 18, 8 * 9, 4 * 5, 2 * 3, 4 * 5]
        model.set_attn_implementation("sdpa")
        assert not model(**inputs, output_attentions=True).attentions

    @torch.no_grad()
    def test_blocks_of_one_modality_never_meet_the_other(self) -> None:
        model = self.build(autoencoder_blocks="single_modal")
        image, tokens = model.get_image_features(self.inputs()["pixel_values"]), torch.randn(2, 6, 24)
        first, second = (model.fuse(image, text, torch.ones(2, 6)) for text in (tokens, tokens.flip(1)))
        assert torch.equal(first.maps[-1], second.maps[-1])
        assert not torch.equal(first.text_features, second.text_features)
        other = image.apply_to_tensors(lambda tensor: tensor + 1)
        assert torch.equal(model.fuse(other, tokens, torch.ones(2, 6)).text_features, first.text_features)

    @torch.no_grad()
    def test_impact_maps_come_from_the_pass_that_makes_the_mask(self, count_calls) -> None:
        model, inputs = self.build(), self.inputs(batch=9)
        inputs["pixel_values"] = inputs["pixel_values"][:1]
        calls = [count_calls(*each) for each in ((model, "fuse"), (model.mask_decoder, "forward"))]
        output = model(**inputs, output_impact_maps=True)
        assert [len(each) for each in calls] == [2, 2]
        assert [tuple(maps.shape) for maps in output.impact_maps] == [(9, number, 4, 5) for number in (4, 3, 2)]
        assert [tuple(words.shape) for words in output.impact_words] == [(9, number, 6) for number in (4, 3, 2)]
        model(**self.inputs(), mask_labels=self.labels(), output_impact_maps=True)
        assert [len(each) for each in calls] == [3, 3]

    @torch.no_grad()
    def test_later_layers_sample_what_the_layer_before_them_made(self) -> None:
        model, inputs = self.build(), self.inputs()
        before = model(**inputs, output_impact_maps=True).impact_maps
        # Which works behind the sampling of its own layer.
        for parameter in model.mask_decoder.layers[0].transformer.parameters():
            parameter.mul_(2)
        after = model(**inputs, output_impact_maps=True).impact_maps
        assert torch.equal(after[0], before[0])
        assert all((new - old).abs().max() > 1e-4 for new, old in zip(after[1:], before[1:], strict=True))

    @torch.no_grad()
    def test_impact_tokens_can_start_apart(self, tmp_path) -> None:
        alike, apart = (self.build(impact_initializer_range=each) for each in (None, 2.0))
        assert alike.state_dict().keys() == apart.state_dict().keys()
        maps = [model(**self.inputs(), output_impact_maps=True).impact_maps for model in (alike, apart)]
        for before, after in zip(*maps, strict=True):
            assert after.std(1).mean() > 2 * before.std(1).mean()
        weights = torch.cat([layer.sampling.weight.flatten() for layer in apart.mask_decoder.layers])
        assert 1.5 < weights.std() < 2.5
        apart.save_pretrained(tmp_path)
        loaded = BtmaeForReferringSegmentation.from_pretrained(tmp_path)
        assert_close(loaded(**self.inputs()).logits, apart(**self.inputs()).logits)

    def test_two_stages_are_a_matter_of_loss_weights(self) -> None:
        model = self.build().train()
        model.loss_weights |= {"iou": 0.0, "cross_entropy": 0.0}
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert not any(parameter.grad.any() for parameter in model.mask_decoder.parameters())
        assert all(parameter.grad.any() for parameter in model.language_to_vision.projection.parameters())
        model.zero_grad()
        model.loss_weights = {name: float(name in ("iou", "cross_entropy")) for name in model.loss_weights}
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert any(parameter.grad.any() for parameter in model.mask_decoder.parameters())
        assert not any(parameter.grad.any() for parameter in model.language_to_vision.decoder.parameters())

    @torch.no_grad()
    def test_patch_masking_hides_the_patches_from_the_encoder(self, count_calls) -> None:
        model, inputs = self.build(image_masking="patch"), self.inputs()
        calls = count_calls(model, "encode_image")
        output = model(**inputs, mask_labels=self.labels())
        (whole,), (masked,) = calls
        assert torch.equal(whole, inputs["pixel_values"])
        for row in range(64):
            for column in range(72):
                is_masked = output.masked_patches[:, row // 16, column // 16]
                expected = torch.where(is_masked[:, None], 0.0, whole[:, :, row, column])
                assert torch.equal(masked[:, :, row, column], expected)

    @torch.no_grad()
    @pytest.mark.parametrize("convert", [nn.Identity(), nn.SyncBatchNorm.convert_sync_batchnorm])
    def test_gray_patches_do_not_count_in_batch_statistics(self, convert: Callable) -> None:
        counted = {}
        for masking in ("token", "patch"):
            model = convert(self.build(backbone_config=TIMM, image_masking=masking)).train()
            model(**self.inputs(), mask_labels=self.labels())
            assert all(module.track_running_stats for module in model.backbone.modules() if is_batch_norm(module))
            counted[masking] = dict(model.named_buffers())
        assert any(name.startswith("backbone.") for name in counted["token"])
        assert counted["patch"].keys() == counted["token"].keys()
        assert all(torch.equal(value, counted["token"][name]) for name, value in counted["patch"].items())

    def test_words_are_reconstructed_from_ids(self) -> None:
        model, inputs = self.build(), self.inputs()
        words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        call = {"pixel_values": inputs["pixel_values"], "text_embeds": words, "mask_labels": self.labels()}
        with pytest.raises(ValueError, match="pass `input_ids` instead of `text_embeds`"):
            model(**call)
        assert self.build(word_autoencoder=False)(**call).loss.isfinite()

    @torch.no_grad()
    def test_sentences_of_one_word_have_nothing_masked(self) -> None:
        model, inputs = self.build(), self.inputs()
        inputs["input_ids"] = torch.tensor([[2, 50, 3], [2, 60, 3]])
        inputs["attention_mask"] = torch.ones(2, 3, dtype=torch.long)
        output = model(**inputs, mask_labels=self.labels())
        assert not output.masked_words.any() and output.loss_components["word_reconstruction"] == 0

    @torch.no_grad()
    def test_timm_backbones_of_any_size(self) -> None:
        model = self.build(backbone_config=TIMM)
        inputs = {**self.inputs(), "pixel_values": torch.randn(2, 3, 70, 101)}
        output = model(**inputs, output_reconstructions=True)
        assert output.logits.shape == (2, 70, 101) and output.reconstructed_pixels.shape == (2, 3, 70, 101)

    @pytest.mark.parametrize("name", ["resnet101", "darknet53"])
    def test_the_papers_timm_backbones_have_the_four_strides(self, name: str) -> None:
        with torch.device("meta"):
            model = self.build(backbone_config={**TIMM, "backbone": name})
            features = model.get_image_features(torch.zeros(1, 3, 96, 96))
        assert [each.shape[-2:] for each in features.maps] == [(24, 24), (12, 12), (6, 6)]
        assert model.backbone.widths[0] in (128, 256) and len(model.backbone.widths) == 4

    def test_other_strides_are_named(self) -> None:
        model = self.build(backbone_config={**TIMM, "out_indices": [0, 1, 2, 3]})
        with pytest.raises(ValueError, match=r"strides \(4, 8, 16, 32\).*out_indices"):
            model(**self.inputs())

    def test_from_encoders_takes_over_pretrained_weights(self, tmp_path) -> None:
        swin = SwinModel(SwinConfig(**SWIN), add_pooling_layer=False)
        bert = BertModel(BertConfig(**TINY_BERT), add_pooling_layer=False)
        swin.save_pretrained(tmp_path / "swin")
        bert.save_pretrained(tmp_path / "bert")
        folders = (str(tmp_path / "swin"), str(tmp_path / "bert"))
        model = BtmaeForReferringSegmentation.from_encoders(
            *folders, drop_path_rate=0.2, special_token_ids=[0], num_impact_tokens=[2]
        )
        inputs = self.inputs()
        words = bert.eval()(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        assert_close(model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state, words)
        image = torch.randn(1, 3, 128, 128)
        maps, states = model.backbone(image), swin.eval()(image, output_hidden_states=True).reshaped_hidden_states
        assert [each.shape[1:] for each in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
        assert_close(maps[-1], states[-1])
        assert model.config.backbone_config.drop_path_rate == 0.2
        names = dict(swin.named_parameters())
        assert all(torch.equal(value, names[name]) for name, value in model.backbone.model.named_parameters())

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"mask_decoder": "mask2former"}, "'impact_tokens', 'simple'"),
            ({"image_masking": "pixel"}, "'token', 'patch'"),
            ({"impact_queries": "all"}, "'encoder', 'refined'"),
            ({"impact_initializer_range": 0.0}, "impact_initializer_range: a number above 0"),
            ({"impact_initializer_range": -1.0}, "impact_initializer_range: at least 0"),
            (
                {"impact_initializer_range": 1.0, "mask_decoder": "simple"},
                'impact_initializer_range: it has an effect only with mask_decoder="impact_tokens"',
            ),
            ({"token_stride": 4}, "8, 16, 32"),
            ({"loss_reduction": "none"}, "'mean', 'sum'"),
            ({"attention_encoder": "lavt"}, "'tokens', 'stages'"),
            ({"autoencoder_blocks": "mae"}, "'cross_modal', 'single_modal'"),
            (
                {"attention_encoder": "stages", "image_autoencoder": False},
                "only with image_autoencoder=False and word",
            ),
            (
                {"autoencoder_blocks": "single_modal", "image_autoencoder": False, "word_autoencoder": False},
                "autoencoder_blocks: it has an effect only with an autoencoder",
            ),
            (
                {
                    "backbone_config": {"model_type": "resnet", "out_indices": [1, 2, 3, 4]},
                    "attention_encoder": "stages",
                    "image_autoencoder": False,
                    "word_autoencoder": False,
                },
                "between the stages of the image encoder, got model_type 'resnet'",
            ),
            ({"image_mask_ratio": 1.0}, "image_mask_ratio: a share between 0 and 1"),
            ({"word_mask_ratio": 0.0}, "word_mask_ratio: a share between 0 and 1"),
            ({"num_decoder_layers": 0}, "num_decoder_layers: at least 1"),
            ({"num_impact_tokens": [4, 1]}, "at least 2 for each layer"),
            ({"num_impact_tokens": []}, "at least 2 for each layer"),
            ({"hidden_size": 30}, "multiple of 4"),
            ({"special_token_ids": [0, 101]}, r"\[101\] are not in the vocabulary of 97"),
            ({"backbone_config": {**TIMM, "out_indices": [-1]}}, "four stages"),
            ({"backbone_config": {**SWIN, "depths": [1, 1], "num_heads": [1, 1]}}, "four stages"),
            (
                {"backbone_config": {"model_type": "bert"}},
                r"BTMAE reads four maps .* got model_type 'bert'",
            ),
        ],
        ids=str,
    )
    def test_wrong_configurations_are_named(self, overrides: dict, message: str) -> None:
        with pytest.raises(Exception, match=message):
            self.tiny_config(**overrides)


def tiny_block_config(**overrides) -> BtmaeConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "special_token_ids": [0]}
    return BtmaeConfig(backbone_config=SWIN, text_config=TINY_BERT, **{**sizes, **overrides})


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7, 0.9])
def test_masking_keeps_the_right_number(ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    can_be_masked = torch.zeros(12, 14, dtype=torch.bool)
    for sample, number in enumerate((0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)):
        can_be_masked[sample, torch.randperm(14)[:number]] = True
    counts = torch.zeros(12, 14)
    for _ in range(200):
        is_masked = draw_masked_tokens(can_be_masked, ratio, generator)
        assert not (is_masked & ~can_be_masked).any()
        for available, masked in zip(can_be_masked.sum(1).tolist(), is_masked.sum(1).tolist(), strict=True):
            stay = math.floor(available * (1 - ratio) + 1e-6)
            assert available - masked == (min(max(stay, 1), available - 1) if available > 1 else available)
        counts += is_masked
    assert is_masked.shape[1] - is_masked[-1].sum() == count_kept(14, ratio)
    # Every token of a sample is masked equally often.
    wide = counts[-1] / 200
    assert (wide - wide.mean()).abs().max() < 0.15 and wide.min() > 0


def test_positions_of_a_map_tell_row_and_column() -> None:
    positions = map_positions(torch.zeros(1, 15, 8), (3, 5)).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = []
            for place in (row, column):
                for frequency in (1.0, 1e4 ** (-2 / 4)):
                    expected += [math.sin(place * frequency), math.cos(place * frequency)]
            assert_close(positions[row, column], torch.tensor(expected))


def slow_attention(attention, queries: list[Tensor], memory: list[Tensor]) -> list[Tensor]:
    """Multi-head attention, one query and one head at a time."""
    results = []
    for query in queries:
        heads = []
        projected = attention.query(query).chunk(attention.num_heads)
        keys = [attention.key(each).chunk(attention.num_heads) for each in memory]
        values = [attention.value(each).chunk(attention.num_heads) for each in memory]
        for head, part in enumerate(projected):
            scores = torch.stack([part @ key[head] for key in keys]) / math.sqrt(len(part))
            weights = scores.softmax(0)
            heads.append(sum(weight * value[head] for weight, value in zip(weights, values, strict=True)))
        results.append(attention.output(torch.cat(heads)))
    return results


def slow_block(block, tokens: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    attended = slow_attention(block.self_attention, tokens, tokens)
    tokens = [block.self_norm(a + b) for a, b in zip(tokens, attended, strict=True)]
    attended = slow_attention(block.cross_attention, tokens, other)
    tokens = [block.cross_norm(a + b) for a, b in zip(tokens, attended, strict=True)]
    return [token + block.feed_forward(token) for token in tokens]


@torch.no_grad()
@pytest.mark.parametrize("of_words", [False, True])
def test_steps_1_and_2_equal_a_slow_loop(of_words: bool) -> None:
    """One sentence at a time, without any padding: masked tokens are left out, then stand at their places again."""
    torch.manual_seed(0)
    autoencoder = BTMAE(tiny_block_config(num_encoder_layers=2, num_decoder_layers=2), nn.Linear(16, 7)).eval()
    nn.init.normal_(autoencoder.mask_token)
    tokens, positions, other = torch.randn(2, 8, 16), torch.randn(8, 16), torch.randn(2, 5, 16)
    lengths = [8, 5] if of_words else [8, 8]
    other_lengths = [5, 5] if of_words else [5, 3]
    is_masked = torch.zeros(2, 8, dtype=torch.bool)
    is_masked[0, [0, 3, 4, 6]] = True
    is_masked[1, [1, 2] if of_words else [2, 5, 6, 7]] = True
    token_mask, other_mask = (
        (torch.arange(size)[None] < torch.tensor(sizes)[:, None]).float()
        for size, sizes in ((8, lengths), (5, other_lengths))
    )
    masks = (token_mask, None) if of_words else (None, other_mask)
    reconstructed = autoencoder.reconstruct(tokens, positions, masks[0], is_masked, other, masks[1])
    refined = autoencoder(tokens, positions, masks[0], other, masks[1])
    for sample in range(2):
        own, memory = range(lengths[sample]), list(other[sample, : other_lengths[sample]])
        whole = [tokens[sample, place] + positions[place] for place in own]
        expected = whole
        for block in autoencoder.encoder:
            expected = slow_block(block, expected, memory)
        assert_close(refined[sample, : len(own)], torch.stack(expected), atol=1e-5, rtol=1e-4)

        kept = [place for place in own if not is_masked[sample, place]]
        encoded = [whole[place] for place in kept]
        for block in autoencoder.encoder:
            encoded = slow_block(block, encoded, memory)
        restored = []
        for place in own:
            is_there = place in kept
            token = encoded[kept.index(place)] if is_there else autoencoder.mask_token[0, 0]
            restored.append(token + positions[place])
        for block in autoencoder.decoder:
            restored = slow_block(block, restored, memory)
        expected = torch.stack([autoencoder.projection(token) for token in restored])
        assert_close(reconstructed[sample, : len(own)], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_padding_words_are_not_attended_in_step_1() -> None:
    torch.manual_seed(0)
    autoencoder = BTMAE(tiny_block_config(), nn.Linear(16, 7)).eval()
    tokens, positions, other = torch.randn(1, 6, 16), torch.randn(6, 16), torch.randn(1, 5, 16)
    mask, is_masked = torch.tensor([[1.0, 1, 1, 1, 0, 0]]), torch.tensor([[0, 1, 0, 1, 0, 0]]).bool()
    expected = autoencoder.reconstruct(tokens, positions, mask, is_masked, other, None)[:, :4]
    tokens[:, 4:] = 100.0
    assert_close(autoencoder.reconstruct(tokens, positions, mask, is_masked, other, None)[:, :4], expected)
    tokens[:, 1] = 100.0  # What is masked has no influence either.
    assert_close(autoencoder.reconstruct(tokens, positions, mask, is_masked, other, None)[:, :4], expected)


@torch.no_grad()
def test_impact_tokens_equal_equations_1_to_3() -> None:
    torch.manual_seed(0)
    layer = ImpactTokenAttention(tiny_block_config(), 3).eval()
    pixels, words = 2 * torch.randn(1, 6, 16), 2 * torch.randn(1, 4, 16)
    mask = torch.tensor([[1.0, 1, 1, 0]])
    features, sampling = [], []
    for pixel in pixels[0]:
        query = layer.query.weight @ pixel
        scores = [float(query @ (layer.key.weight @ word)) / math.sqrt(16) for word in words[0, :3]]
        weights = [math.exp(score) / sum(math.exp(each) for each in scores) for score in scores]
        attended = sum(weight * (layer.value.weight @ word) for weight, word in zip(weights, words[0], strict=False))
        features.append(layer.feed_forward(attended + pixel))  # equation 2, before f_1x1
        logits = (layer.sampling.weight @ features[-1] + layer.sampling.bias).tolist()
        sampling.append([math.exp(logit) / sum(math.exp(each) for each in logits) for logit in logits])  # equation 1
    expected = [
        sum(row[k] * feature for row, feature in zip(sampling, features, strict=True))
        / sum(row[k] for row in sampling)
        for k in range(3)
    ]  # equation 3
    masks, tokens = layer.sample(pixels, words, mask)
    assert_close(masks[0], torch.tensor(sampling), atol=1e-5, rtol=1e-4)
    assert_close(tokens[0], torch.stack(expected), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_impact_token_transformer_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    layer = ImpactTokenAttention(tiny_block_config(), 3).eval()
    refined, pixels, words = torch.randn(1, 6, 16), torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    _, tokens = layer.sample(refined, words, torch.ones(1, 4))
    transformer, tokens = layer.transformer, list(tokens[0])
    attended = slow_attention(transformer.word_attention, tokens, list(words[0]))
    tokens = [transformer.word_norm(a + b) for a, b in zip(tokens, attended, strict=True)]
    attended = slow_attention(transformer.pixel_attention, list(pixels[0]), tokens)
    expected = []
    for pixel, gathered in zip(pixels[0], attended, strict=True):
        pixel = transformer.pixel_norm(pixel + gathered)
        expected.append(transformer.output_norm(pixel + transformer.feed_forward(pixel)))
    actual, _, sampled = layer(refined, pixels, words, torch.ones(1, 4))
    assert_close(actual[0], torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert_close(sampled[0], torch.stack(tokens), atol=1e-5, rtol=1e-4)


def test_the_default_configuration_is_the_papers_main_model() -> None:
    config = BtmaeConfig()
    assert (config.image_mask_ratio, config.word_mask_ratio, list(config.num_impact_tokens)) == (0.5, 0.5, [16, 8, 2])
    with torch.device("meta"):
        model = BtmaeForReferringSegmentation(config)
    for autoencoder in (model.language_to_vision, model.vision_to_language):
        assert (len(autoencoder.encoder), len(autoencoder.decoder)) == (4, 4)
    assert model.language_to_vision.projection.out_features == 16 * 16 * 3
    assert model.vision_to_language.projection.out_features == 30522
    assert model.backbone.widths == [128, 256, 512, 1024]
    assert model.loss_weights == dict.fromkeys(
        ("iou", "cross_entropy", "image_reconstruction", "word_reconstruction"), 1.0
    )
