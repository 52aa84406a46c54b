"""Video LAVT's own behavior: clips, structures of the 3D PWAM, encoders, the way from an image model."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from image_lavt import fused_maps, image_inputs, image_lavt
from method_tests import MethodTests
from tiny_configs import BERT, SHORT_BERT, SWIN, THREE_STAGES, TWO_STAGES, VIDEO_SWIN
from tiny_methods import TinyVideoLavt
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import get_model
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import (
    LavtConfig,
    LavtForReferringSegmentation,
    VideoLavtConfig,
    VideoLavtForReferringSegmentation,
)
from hf_refseg.modeling import video_swin_refseg
from hf_refseg.modeling.configuration_video_swin_refseg import VideoSwinConfig
from hf_refseg.modeling.layers_refseg import PixelWordAttention
from hf_refseg.modeling.losses_refseg import two_class_dice_loss
from hf_refseg.modeling.mask_grounding_refseg import grounded_frame
from hf_refseg.modeling.modeling_video_lavt import UnchangedWords, WordUpdate
from hf_refseg.modeling.pwam_video_lavt import ConcatenatedBranches, VisionLanguageFusion
from hf_refseg.modeling.video_swin_refseg import (
    VideoSwinModel,
    load_pretrained_video_swin,
    video_swin_of_torchvision,
)

GROUNDING = {"special_token_ids": [0, 1, 2, 3, 4], "mask_token_id": 4, "predictor_layers": 1}
TASKS = {"presence_head": True, "mask_grounding": GROUNDING, "language_reconstruction": {}}
# Table 1 of the paper.
TABLE_1 = """
1  1x1x1         1x1x1         1x1x1         1x1x1
2  3x1x1         3x1x1         1x1x1         1x1x1
3  1x3x3         1x3x3         1x1x1         1x1x1
4  3x3x3         3x3x3         1x1x1         1x1x1
5  3x1x1o1x3x3   3x1x1o1x3x3   1x1x1         1x1x1
6  3x1x1+1x3x3   3x1x1+1x3x3   1x1x1         1x1x1
7  3x3x3+1x1x1   3x3x3+1x1x1   1x1x1         1x1x1
8  3x3x3;1x1x1   3x3x3;1x1x1   1x1x1         1x1x1
9  3x3x3         3x3x3         3x3x3         3x3x3
10 3x3x3+1x1x1   3x3x3+1x1x1   3x3x3+1x1x1   1x1x1
11 3x3x3+1x1x1   3x3x3+1x1x1   1x1x1         3x3x3+1x1x1
12 3x3x3+1x1x1   3x3x3+1x1x1   3x3x3+1x1x1   3x3x3+1x1x1
"""
STRUCTURES = range(1, 13)


class TestVideoLavt(TinyVideoLavt, MethodTests):
    """As every method, on images; then on clips."""

    few_layers = {
        "backbone_config": {**VIDEO_SWIN, **TWO_STAGES},
        "text_config": SHORT_BERT,
        "fusion_num_heads": [1, 1],
    }
    # What ablations change.
    three_stages = {
        "backbone_config": {**VIDEO_SWIN, **THREE_STAGES},
        "text_config": SHORT_BERT,
        "fusion_num_heads": [1, 1, 1],
    }

    @torch.no_grad()
    def test_clips_have_logits_for_every_frame(self) -> None:
        model, inputs = self.build(), self.clips()
        logits = model(**inputs).logits
        assert logits.shape == (2, 3, 40, 48)
        assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-3
        alone = model(**{**inputs, "pixel_values": inputs["pixel_values"][:, :1]}).logits
        assert (alone[:, 0] - logits[:, 0]).abs().max() > 1e-3  # frames see each other

    @torch.no_grad()
    def test_an_image_is_a_clip_of_one_frame(self) -> None:
        model, inputs = self.build(), self.inputs()
        expected = model(**{**inputs, "pixel_values": inputs["pixel_values"].unsqueeze(1)}).logits
        assert expected.shape == (2, 1, *self.size)
        assert torch.equal(model(**inputs).logits, expected.squeeze(1))

    @torch.no_grad()
    @pytest.mark.parametrize(("frames", "size"), [(1, (33, 50)), (5, (67, 40)), (9, (32, 32))])
    def test_any_clip_size(self, frames: int, size: tuple[int, int]) -> None:
        model = self.build()
        assert model(**self.clips(frames=frames, size=size)).logits.shape == (2, frames, *size)

    @torch.no_grad()
    def test_one_clip_with_many_texts_is_encoded_once(self, count_calls: Callable) -> None:
        model, inputs = self.build(), self.clips(batch=3)
        clip = inputs["pixel_values"][:1]
        expected = model(**{**inputs, "pixel_values": clip.expand(3, -1, -1, -1, -1)}).logits
        calls = count_calls(model, "encode_image")
        assert_close(model(**{**inputs, "pixel_values": clip}).logits, expected, atol=1e-5, rtol=0)
        assert [call[0].shape[0] for call in calls] == [1]

    @torch.no_grad()
    def test_each_frame_counts_where_memory_is_bounded(self, count_calls: Callable) -> None:
        model, inputs = self.build(), self.clips(batch=5)
        expected = model(**inputs).logits
        model.texts_per_pass = 6
        calls = count_calls(model, "fuse")
        assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=0)
        assert len(calls) == 3  # two clips of three frames at once
        model.texts_per_pass = 1
        assert model(**inputs).logits.shape == (5, 3, 40, 48)

    @torch.no_grad()
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_padding_and_the_batch_do_not_change_the_masks_of_a_clip(self, bidirectional: bool) -> None:
        model, inputs = self.build(bidirectional=bidirectional), self.clips()
        inputs["attention_mask"][1, 4:] = 0
        together = model(**inputs).logits
        for index, tokens in enumerate((6, 4)):
            alone = {name: value[index : index + 1] for name, value in inputs.items()}
            alone |= {name: alone[name][:, :tokens] for name in ("input_ids", "attention_mask")}
            assert_close(model(**alone).logits, together[index : index + 1], atol=1e-4, rtol=0)

    @torch.no_grad()
    @pytest.mark.parametrize("overrides", [{}, {"bidirectional": True, "pwam_structure": 8}, TASKS], ids=str)
    def test_save_and_load_keep_the_logits_of_clips(self, overrides: dict, tmp_path) -> None:
        model, inputs = self.build(**overrides), self.clips()
        model.save_pretrained(tmp_path)
        loaded, report = VideoLavtForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert all(getattr(loaded.config, name) == getattr(model.config, name) for name in overrides)
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    @torch.no_grad()
    def test_clips_in_bfloat16_agree_with_float32(self) -> None:
        model, inputs = self.build(), self.clips()
        expected = model(**inputs).logits
        inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
        actual = model.to(torch.bfloat16)(**inputs).logits
        assert actual.dtype == torch.bfloat16
        assert (actual.float() - expected).abs().mean() < 0.1 * expected.std()

    def test_clips_with_gradient_checkpointing_give_the_same_gradients(self, count_calls: Callable) -> None:
        plain, checkpointed = self.build().train(), self.build().train()
        checkpointed.gradient_checkpointing_enable()
        calls = count_calls(checkpointed.backbone.features[0][0].attn, "attend")
        for model in (plain, checkpointed):
            model.text_encoder.eval()
            model(**self.clips(), mask_labels=self.clip_labels()).loss.backward()
        assert len(calls) == 2  # forward, and again for the backward pass
        for (name, expected), actual in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            assert_close(actual.grad, expected.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: name + text)

    @torch.no_grad()
    def test_losses_see_annotated_frames_alone(self) -> None:
        model, inputs, labels = self.build(loss_type="dice"), self.clips(), self.clip_labels()
        labels[0, 0] = labels[1, 1:] = -100
        output = model(**inputs, mask_labels=labels)
        logits = torch.stack([output.logits[0, 1], output.logits[0, 2], output.logits[1, 0]])
        assert_close(output.loss, two_class_dice_loss(logits, self.clip_labels().flatten(0, 1)[:3]))
        partly = labels.clone()
        partly[0, 1, :5] = -100
        with pytest.raises(ValueError, match="-100 on a part of a frame"):
            model(**inputs, mask_labels=partly)
        with pytest.raises(ValueError, match="no frame of this batch is annotated"):
            model(**inputs, mask_labels=torch.full_like(labels, -100))

    @torch.no_grad()
    def test_presence_of_a_clip_that_nobody_annotated_is_unknown(self) -> None:
        model, inputs, labels = self.build(presence_head=True), self.clips(), self.clip_labels()
        labels[1] = -100
        components = model(**inputs, mask_labels=labels).loss_components
        first = {name: value[:1] for name, value in inputs.items()}
        alone = model(**first, mask_labels=labels[:1]).loss_components
        assert_close(components["presence"], alone["presence"])

    def test_training_tasks_work_on_clips(self) -> None:
        model, inputs, labels = self.build(**TASKS), self.clips(), self.clip_labels()
        labels[0, 1] = labels[1, 0] = -100
        output = model(**inputs, mask_labels=labels)
        assert set(output.loss_components) == set(model.loss_weights)
        assert output.presence_logits.shape == (2,)
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
        # Frames without annotation count as background for the tasks.
        filled = model(**inputs, mask_labels=labels.clamp(min=0)).loss_components
        for task in ("presence", "mask_grounding", "language_reconstruction"):
            assert_close(output.loss_components[task], filled[task])
        labels[0, [0, 2]] = 0
        empty = model(**inputs, mask_labels=labels).loss_components["presence"]
        targets = torch.tensor([0.0, 1.0])
        expected = nn.functional.binary_cross_entropy_with_logits(output.presence_logits, targets)
        assert_close(empty, expected.detach())

    @torch.no_grad()
    def test_words_of_clips_are_named_from_the_frame_that_shows_most_of_the_target(self) -> None:
        model, inputs = self.build(mask_grounding=GROUNDING), self.clips()
        labels = torch.zeros(2, 3, 40, 48, dtype=torch.long)
        labels[0, 1, 8:20, 10:20] = labels[0, 2, :4, :4] = labels[1, 0, 5:9, 5:9] = 1
        maps = model.fuse(*model.encode_inputs(**inputs)).maps[-1]
        chosen, masks = grounded_frame(maps, labels)
        assert torch.equal(chosen, torch.stack([maps[0, 1], maps[1, 0]]))
        assert torch.equal(masks, torch.stack([labels[0, 1], labels[1, 0]]))

    def test_masked_words_of_clips_are_named(self) -> None:
        model, inputs, labels = self.build(mask_grounding=GROUNDING), self.clips(), self.clip_labels()
        is_masked = torch.zeros(2, 6, dtype=torch.bool)
        is_masked[:, 2] = True
        named = model.mask_grounding.predict_masked_words(model, is_masked=is_masked, mask_labels=labels, **inputs)
        assert named.shape == (2,)

    @pytest.mark.parametrize("structure", STRUCTURES)
    def test_every_structure_trains_every_parameter(self, structure: int) -> None:
        model = self.build(pwam_structure=structure, bidirectional=structure % 2 == 0)
        model(**self.clips(), mask_labels=self.clip_labels()).loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
        assert all(gradient.isfinite().all() for gradient in gradients.values())

    @pytest.mark.parametrize("row", TABLE_1.strip().splitlines())
    def test_structures_have_the_convolutions_of_table_1(self, row: str) -> None:
        number, *designs = row.split()
        fusion = self.build(pwam_structure=int(number)).stages[1].fusion
        maps = fusion.language_maps
        for place, design in zip(
            (fusion.project_pixels, maps.query, maps.output, fusion.project_fused[0]), designs, strict=True
        ):
            assert describe(place) == design
        for place, kind in ((fusion.project_pixels, nn.GELU), (fusion.project_fused[0], nn.GELU)):
            assert all(isinstance(branch[-1], kind) for branch in place.branches)
        for place in (maps.query, maps.output):
            assert all(isinstance(branch[-1].norm, nn.InstanceNorm1d) for branch in place.branches)

    @pytest.mark.parametrize(
        "ablation",
        [
            {"language_pathway": False},
            {"fusion_type": "pooled_sentence"},
            {"gate_activation": "none"},
            {"fusion_norm": "layer", "pwam_structure": 8},
            {"fusion_norm": "batch"},
            {"fusion_norm": "none"},
            {"decoder_features": "E"},
            {"decoder_features": "V", "bidirectional": True},
            {"fusion_num_heads": [1, 2, 4], "fusion_dropout": 0.1},
            {"fusion_activation": "relu"},
            {"loss_type": "dice_focal"},
            {"fusion_hidden_size": 12, "language_pathway": "concatenation", "decoder_norm": "none"},
        ],
        ids=str,
    )
    def test_ablations_of_lavt_train_and_reload(self, ablation: dict, tmp_path) -> None:
        model, inputs = self.build(**{**self.three_stages, **ablation}).train(), self.clips()
        model(**inputs, mask_labels=self.clip_labels()).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        model.eval().save_pretrained(tmp_path)
        loaded = VideoLavtForReferringSegmentation.from_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    @torch.no_grad()
    def test_bidirectional_stages_update_the_words(self) -> None:
        model, inputs = self.build(bidirectional=True), self.clips()
        assert [type(update) for update in model.word_updates] == [WordUpdate] * 3 + [UnchangedWords]
        updates = self.build(bidirectional=True, decoder_features="V").word_updates
        assert [type(update) for update in updates] == [WordUpdate] * 2 + [UnchangedWords] * 2
        assert all(isinstance(update, UnchangedWords) for update in self.build().word_updates)
        logits = model(**inputs).logits
        image, text, text_mask = model.encode_inputs(**inputs)
        fused = model.fuse(image, text, text_mask)
        assert (fused.text_features - text).abs().max() > 1e-6
        # Each word sees all frames: another last frame changes the words.
        other = inputs["pixel_values"].clone()
        other[:, -1] = 0
        changed = model.fuse(model.get_image_features(other), text, text_mask)
        assert (changed.text_features - fused.text_features).abs().max() > 1e-7
        for update in model.word_updates[:3]:
            update.gate.expand.weight *= 100
        assert (model(**inputs).logits - logits).abs().max() > 1e-4

    @torch.no_grad()
    def test_a_stage_reads_the_words_as_the_one_before_it_left_them(self) -> None:
        """An update of the words takes effect from the next stage on."""
        model, inputs = self.build(bidirectional=True), self.clips()
        for update in model.word_updates[:3]:
            update.gate.expand.weight *= 100
        before = fused_maps(model, inputs)
        for number, update in enumerate(model.word_updates[:3]):
            kept = {name: value.clone() for name, value in update.state_dict().items()}
            for parameter in update.parameters():
                parameter.neg_()
            after = fused_maps(model, inputs)
            update.load_state_dict(kept)
            assert [torch.equal(*pair) for pair in zip(after, before, strict=True)] == [
                stage <= number for stage in range(4)
            ]

    @torch.no_grad()
    def test_explanations_of_an_image(self) -> None:
        inputs = {name: value[:1] for name, value in self.inputs().items()}
        explanations = self.build().explain(**inputs)
        assert explanations["word_attention_2"].maps.shape == (6, 6, 7)
        assert [tuple(maps.shape) for maps in explanations["decoder_maps"].maps.values()][-1] == (12, 14)

    @torch.no_grad()
    def test_what_is_recorded_of_clips_has_frames(self) -> None:
        model, inputs = self.build(bidirectional=True), self.clips(batch=3)
        model.set_attn_implementation("eager")
        inputs["pixel_values"] = inputs["pixel_values"][:1]
        asked = {"output_hidden_states": True, "output_attentions": True}
        at_once = model(**inputs, **asked)
        sizes = [(10, 12), (5, 6), (3, 3), (2, 2), (3, 3), (5, 6), (10, 12)]
        assert [each.shape[:2] + each.shape[3:] for each in at_once.hidden_states] == [(3, 3, *size) for size in sizes]
        expected = [
            shape for height, width in sizes[:3] for shape in ((3 * height * width, 6), (6, 3 * height * width))
        ]
        assert [tuple(each.shape[2:]) for each in at_once.attentions] == [*expected, (12, 6)]
        model.texts_per_pass = 3
        joined = model(**inputs, **asked)
        for name in ("logits", "hidden_states", "attentions"):
            assert_close(getattr(joined, name), getattr(at_once, name), atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_explanations_of_a_clip_are_those_of_its_frames(self) -> None:
        model, inputs = self.build(bidirectional=True), self.clips(batch=1)
        explanations = model.explain(**inputs)
        steps = [name for stage in (1, 2, 3) for name in (f"word_attention_{stage}", f"words_to_pixels_{stage}")]
        assert list(explanations) == ["decoder_maps", *steps, "word_attention_4"]
        maps = {name: explanations[name].maps for name in steps}
        assert {tuple(each.shape) for each in list(maps.values())[:2]} == {(6, 3, 10, 12)}
        # Each position of each frame shares itself among the words, each word among the positions of all frames.
        assert_close(maps["word_attention_2"].sum(0), torch.ones(3, 5, 6))
        assert_close(maps["words_to_pixels_2"].sum((1, 2, 3)), torch.ones(6))
        model.set_attn_implementation("eager")
        output = model(**inputs, output_hidden_states=True)
        assert_close(explanations["decoder_maps"].maps["Y1"], output.hidden_states[-1][0].abs().mean(1))

    def test_new_weights_start_as_the_encoder_s_paper_says(self) -> None:
        model = self.build()
        block = model.backbone.features[6][0]
        for weight in (block.attn.qkv.weight, block.mlp[0].weight, block.attn.relative_position_bias_table):
            assert weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert not block.attn.qkv.bias.any()
        kernel = model.stages[3].fusion.project_pixels.branches[0][0].weight
        assert kernel.abs().max().item() == pytest.approx((27 * 64) ** -0.5, rel=0.01)

    def test_from_encoders_takes_over_pretrained_weights(self, tmp_path) -> None:
        vision = VideoSwinModel(VideoSwinConfig(**VIDEO_SWIN)).eval()
        bert = BertModel(BertConfig(**BERT)).eval()
        vision.save_pretrained(tmp_path / "vision")
        bert.save_pretrained(tmp_path / "bert")
        model = VideoLavtForReferringSegmentation.from_encoders(
            tmp_path / "vision", tmp_path / "bert", loss_type="dice_boundary"
        )
        assert model.config.loss_type == "dice_boundary" and not model.training
        assert model.config.backbone_config.drop_path_rate == 0.3
        assert model.backbone.features[6][0].stochastic_depth.p == pytest.approx(0.3)
        inputs = self.clips()
        with torch.no_grad():
            expected = vision(inputs["pixel_values"]).hidden_states[0]
            (visual,) = model.get_image_features(inputs["pixel_values"]).maps
            assert_close(visual.movedim(2, -1), expected)
            words = bert(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
            assert_close(
                model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state, words
            )

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"pwam_structure": 0}, "a number from 1 to 12"),
            ({"pwam_structure": 13}, "a number from 1 to 12"),
            ({"loss_type": "iou"}, "'cross_entropy', 'dice', 'dice_focal', 'dice_boundary'"),
            ({"fusion_num_heads": [1]}, "4 in all"),
            ({"backbone_config": {"model_type": "resnet"}}, "For clips that is a VideoSwinConfig"),
            ({"backbone_config": {**VIDEO_SWIN, "window_size": [4, 4]}}, "frames, height and width"),
            ({"backbone_config": {**VIDEO_SWIN, "num_heads": [3, 1, 1, 1]}}, "3 heads do not divide"),
            ({"backbone_config": {**VIDEO_SWIN, "num_heads": [1]}}, "one number per stage"),
            ({"backbone_config": {**VIDEO_SWIN, "depths": [1], "num_heads": [1]}}, "two layers in all"),
        ],
        ids=str,
    )
    def test_wrong_configurations_are_named(self, overrides: dict, message: str) -> None:
        with pytest.raises(Exception, match=message):
            self.tiny_config(**overrides)


def by_hand(projection: nn.Module, features: Tensor) -> Tensor:
    """What a projection function computes before its nonlinearity or normalization, as printed: f + g, or [f; g]."""
    outputs = []
    for branch in projection.branches:
        output = features
        for layer in branch:
            weight = layer.weight if layer.weight.ndim == 5 else layer.weight[..., None, None, None]
            padding = [extent // 2 for extent in weight.shape[2:]]
            output = F.conv3d(output.movedim(-1, 1), weight, layer.bias, padding=padding).movedim(1, -1)
        outputs.append(output)
    if isinstance(projection, ConcatenatedBranches):
        return torch.cat(outputs, -1) @ projection.reduce.weight.T + projection.reduce.bias
    return outputs[0] + outputs[1] if len(outputs) == 2 else outputs[0]


def instance_norm(features: Tensor) -> Tensor:
    """Over all positions of a clip."""
    mean = features.mean((1, 2, 3), keepdim=True)
    variance = ((features - mean) ** 2).mean((1, 2, 3), keepdim=True)
    return (features - mean) / (variance + 1e-5).sqrt()


def clip_features(channels: int, frames: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Features of two clips, words of two texts, and their mask: the second text is shorter."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(2, 6)
    mask[1, 4:] = 0
    features = torch.randn(2, frames, 5, 6, channels, generator=generator)
    return features, torch.randn(2, 6, 32, generator=generator), mask


def attention_by_hand(module: PixelWordAttention, pixels: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Equations 2 to 4 with one head: (batch, positions, channels) of queries, before the output's projection."""
    key, value = (others @ layer.weight.T + layer.bias for layer in (module.key, module.value))
    scores = pixels @ key.transpose(1, 2) / pixels.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1) @ value


@torch.no_grad()
@pytest.mark.parametrize("structure", [6, 8, 10, 12])
def test_the_3d_module_as_printed_is_its_equations(structure: int) -> None:
    fusion = TestVideoLavt().build(pwam_structure=structure, pwam_projection="paper").stages[1].fusion
    features, words, mask = clip_features(16)
    maps = fusion.language_maps
    query = instance_norm(by_hand(maps.query, features))
    attended = attention_by_hand(maps, query.flatten(1, 3), words, mask).view(features.shape)
    language = instance_norm(by_hand(maps.output, attended))
    visual = F.gelu(by_hand(fusion.project_pixels, features))
    expected = F.gelu(by_hand(fusion.project_fused[0], visual * language))
    assert_close(fusion(features, words, mask), expected, atol=1e-4, rtol=1e-4)
    released = TestVideoLavt().build(pwam_structure=structure).stages[1].fusion
    # Parameters have the same names, so that weights of one form load into the other.
    released.load_state_dict(fusion.state_dict())
    assert (released(features, words, mask) - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("structure", [8, 12])
def test_a_model_as_printed_trains_every_parameter_and_is_loaded_alike(structure: int, tmp_path) -> None:
    tiny = TestVideoLavt()
    model = tiny.build(**{**tiny.few_layers, "pwam_structure": structure, "pwam_projection": "paper"})
    with torch.enable_grad():
        model(**tiny.clips(), mask_labels=tiny.clip_labels()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
    model.save_pretrained(tmp_path)
    loaded = VideoLavtForReferringSegmentation.from_pretrained(tmp_path)
    assert loaded.config.pwam_projection == "paper"
    assert torch.equal(loaded(**tiny.clips()).logits, model(**tiny.clips()).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("structure", "fields"), [(6, {}), (8, {"fusion_activation": "relu"}), (12, {"fusion_norm": "layer"})], ids=str
)
def test_a_model_as_printed_starts_from_an_image_model_alike(structure: int, fields: dict) -> None:
    image = image_lavt(**fields)
    video = VideoLavtForReferringSegmentation.from_image_lavt(image, pwam_structure=structure, pwam_projection="paper")
    assert_close(video(**image_inputs()).logits, image(**image_inputs()).logits, atol=1e-4, rtol=0)
    for ours, theirs in zip(fused_maps(video, image_inputs()), fused_maps(image, image_inputs()), strict=True):
        assert_close(ours, theirs, atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_fusion_of_cm_fpn_is_self_attention_and_cross_attention_of_each_frame() -> None:
    fusion = TestVideoLavt().build(fusion_type="vision_language").stages[2].fusion
    assert isinstance(fusion, VisionLanguageFusion)
    features, words, mask = clip_features(32)
    frames = features.flatten(0, 1)
    # Squares of two by two pixels, of which 5 x 6 pixels have three rows and three columns.
    means = torch.stack(
        [frames[:, top : top + 2, left : left + 2].mean((1, 2)) for top in (0, 2, 4) for left in (0, 2, 4)], 1
    )
    own = fusion.self_attention
    query = own.query(frames).flatten(1, 2)
    attended = own.output(attention_by_hand(own, query, means, torch.ones(means.shape[:2]))).view(frames.shape)
    seen = F.layer_norm(frames + attended, (32,)).view(features.shape)
    cross = fusion.cross_attention
    attended = cross.output(attention_by_hand(cross, cross.query(seen).flatten(1, 3), words, mask))
    expected = F.layer_norm(seen + attended.view(features.shape), (32,))
    assert_close(fusion(features, words, mask), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_model_with_the_fusion_of_cm_fpn_trains_reloads_and_explains(tmp_path) -> None:
    tiny = TestVideoLavt()
    model = tiny.build(**{**tiny.few_layers, "fusion_type": "vision_language", "bidirectional": True})
    with torch.enable_grad():
        model(**tiny.clips(), mask_labels=tiny.clip_labels()).loss.backward()
    # A bias of all scores alike does not change a softmax.
    idle = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert [name for name in idle if not name.endswith(".key.bias")] == []
    model.save_pretrained(tmp_path)
    loaded = VideoLavtForReferringSegmentation.from_pretrained(tmp_path)
    assert torch.equal(loaded(**tiny.clips()).logits, model(**tiny.clips()).logits)
    explanations = model.explain(**tiny.clips(batch=1))
    assert list(explanations) == ["decoder_maps", "word_attention_1", "words_to_pixels_1", "word_attention_2"]
    assert_close(explanations["word_attention_1"].maps.sum(0), torch.ones(3, 10, 12))


def frame_by_frame(**overrides) -> VideoLavtForReferringSegmentation:
    """A video LAVT on an image encoder (table 8)."""
    return TestVideoLavt().build(backbone_config=SWIN, **overrides)


@torch.no_grad()
@pytest.mark.parametrize(("structure", "frames_meet"), [(1, False), (12, True)])
def test_frames_of_an_image_encoder_meet_in_the_3d_module_alone(structure: int, frames_meet: bool) -> None:
    """A normalization of each position by itself leaves no other way from frame to frame."""
    model, inputs = frame_by_frame(pwam_structure=structure, fusion_norm="layer"), TestVideoLavt().clips()
    logits = model(**inputs).logits
    other = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    other["pixel_values"][:, 2] = 0
    assert torch.allclose(model(**other).logits[:, :2], logits[:, :2], atol=1e-6) is not frames_meet
    alone = {**inputs, "pixel_values": inputs["pixel_values"][:, 1]}
    assert torch.allclose(model(**alone).logits, logits[:, 1], atol=1e-5) is not frames_meet


@torch.no_grad()
def test_a_static_model_is_the_image_model_frame_by_frame() -> None:
    """Table 8, "PWAM": with the weights of an image LAVT it computes what that does of each frame."""
    image = image_lavt(fusion_norm="layer")
    config = image.config
    video = VideoLavtForReferringSegmentation(
        VideoLavtConfig(
            backbone_config=config.backbone_config,
            text_config=config.text_config,
            fusion_norm="layer",
            pwam_structure=1,
            decoder_hidden_size=config.decoder_hidden_size,
        )
    ).eval()
    names = {
        r"^backbone\.": "backbone.images.",
        r"(language_maps\.query)\.": r"\1.branches.0.0.",
        r"language_maps\.query_norm\.": "language_maps.query.branches.0.1.",
        r"(language_maps\.output)\.": r"\1.branches.0.0.",
        r"language_maps\.output_norm\.": "language_maps.output.branches.0.1.",
        r"(project_pixels|project_fused)\.0\.": r"\1.0.branches.0.0.",
        r"project_pixels\.0\.branches": "project_pixels.branches",
    }
    weights = {}
    for name, value in image.state_dict().items():
        for pattern, ours in names.items():
            name = re.sub(pattern, ours, name)
        weights[name] = value
    video.load_state_dict(weights)
    inputs = image_inputs()
    clips = torch.stack([inputs["pixel_values"], inputs["pixel_values"].flip(-1)], 1)
    logits = video(**{**inputs, "pixel_values": clips}).logits
    for frame in range(2):
        expected = image(**{**inputs, "pixel_values": clips[:, frame]}).logits
        assert_close(logits[:, frame], expected, atol=1e-5, rtol=1e-4)


def test_a_model_on_an_image_encoder_trains_and_takes_over_pretrained_weights(tmp_path) -> None:
    vision = SwinModel(SwinConfig(**SWIN), add_pooling_layer=False)
    vision.save_pretrained(tmp_path / "vision")
    BertModel(BertConfig(**SHORT_BERT)).save_pretrained(tmp_path / "bert")
    model = VideoLavtForReferringSegmentation.from_encoders(tmp_path / "vision", tmp_path / "bert", pwam_structure=4)
    assert model.config.backbone_config.model_type == "swin" and model.config.backbone_config.drop_path_rate == 0.3
    ours = model.backbone.images.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in vision.state_dict().items() if name in ours)
    tiny = TestVideoLavt()
    model(**tiny.clips(), mask_labels=tiny.clip_labels()).loss.backward()
    assert [name for name, parameter in model.backbone.named_parameters() if not parameter.grad.any()] == []
    model.save_pretrained(tmp_path / "model")
    loaded = VideoLavtForReferringSegmentation.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(**tiny.clips()).logits, model(**tiny.clips()).logits)


@torch.no_grad()
@pytest.mark.parametrize(("norm", "activation"), [("instance", "gelu"), ("layer", "relu"), ("none", "relu")])
def test_the_words_side_follows_activation_and_normalization(norm: str, activation: str) -> None:
    model = TestVideoLavt().build(bidirectional=True, fusion_norm=norm, fusion_activation=activation)
    update, (features, words, _) = model.word_updates[1], clip_features(16)
    attention, finish = update.attention.attention, {"gelu": F.gelu, "relu": F.relu}[activation]
    normalize = (lambda each: each) if norm == "none" else (lambda each: F.layer_norm(each, (32,)))
    positions = features.flatten(1, 3)
    query = normalize(attention.query(words))
    attended = attention_by_hand(attention, query, positions, torch.ones(positions.shape[:2]))
    language = normalize(attention.output(attended))
    fused = finish(update.attention.project_fused[0](finish(update.attention.project_features[0](words)) * language))
    gate = (update.gate.expand(F.relu(update.gate.reduce(fused)))).tanh()
    assert_close(update(words, features), words + gate * fused, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pwam_structure": structure, "pwam_projection": "paper"}, "pwam_projection: it has an effect only with conv")
        for structure in (1, 2, 3, 4, 5, 9)
    ]
    + [
        ({"fusion_type": "vision_language", **field}, f"{next(iter(field))}: it has an effect only with a fusion_type")
        for field in (
            {"pwam_structure": 7},
            {"fusion_hidden_size": 12},
            {"fusion_activation": "relu"},
            {"fusion_dropout": 0.1},
        )
    ]
    + [
        ({"fusion_type": "vision_language", "pwam_projection": "paper"}, "pwam_projection: it has an effect only"),
        ({"fusion_type": "vision_language", "fusion_norm": "layer"}, "fusion_norm: it has an effect only"),
        ({"pwam_projection": "printed"}, "'released', 'paper'"),
        ({"fusion_type": "attention"}, "'vision_language'"),
    ],
    ids=str,
)
def test_fields_without_effect_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        TestVideoLavt().tiny_config(**overrides)


def test_the_words_side_gives_fields_an_effect() -> None:
    config = TestVideoLavt().tiny_config(
        fusion_type="vision_language", bidirectional=True, fusion_norm="none", fusion_activation="relu"
    )
    assert (config.fusion_norm, config.fusion_activation) == ("none", "relu")


def describe(projection: nn.Module) -> str:
    """A projection function in the notation of table 1: f o g applies g first."""
    join = ";" if isinstance(projection, ConcatenatedBranches) else "+"
    branches = []
    for branch in projection.branches:
        sizes = [(1, 1, 1) if isinstance(layer, nn.Linear) else layer.kernel_size for layer in branch[:-1]]
        kernels = ["x".join(str(extent) for extent in size) for size in sizes]
        branches.append("o".join(reversed(kernels)))
    return join.join(branches)


@torch.no_grad()
@pytest.mark.parametrize(
    ("structure", "fields"),
    [
        *((structure, {}) for structure in STRUCTURES),
        (12, {"fusion_type": "pooled_sentence"}),
        (12, {"fusion_activation": "relu"}),
        (8, {"fusion_activation": "relu", "fusion_norm": "layer"}),
        (6, {"fusion_norm": "batch", "fusion_num_heads": [1, 2, 4, 8]}),
        (12, {"fusion_norm": "none", "decoder_features": "E"}),
        (10, {"decoder_features": "V", "gate_activation": "none", "presence_head": True}),
        (5, {"fusion_hidden_size": 12, "language_pathway": "replacement"}),
        (8, {"fusion_hidden_size": 12, "language_pathway": "concatenation", "decoder_norm": "none"}),
    ],
    ids=str,
)
def test_a_model_from_an_image_model_segments_images_alike(structure: int, fields: dict) -> None:
    image = image_lavt(**fields)
    video = VideoLavtForReferringSegmentation.from_image_lavt(image, pwam_structure=structure, loss_type="dice")
    assert (video.config.pwam_structure, video.config.loss_type) == (structure, "dice")
    assert list(video.config.backbone_config.window_size) == [8, 4, 4]
    assert not video.training
    expected, actual = image(**image_inputs()), video(**image_inputs())
    assert_close(actual.logits, expected.logits, atol=1e-4, rtol=0)
    # A new decoder makes small logits of large features.
    for ours, theirs in zip(fused_maps(video, image_inputs()), fused_maps(image, image_inputs()), strict=True):
        assert_close(ours, theirs, atol=1e-3, rtol=0)
    if fields.get("presence_head"):
        assert_close(actual.presence_logits, expected.presence_logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("structure", "activation"), [*((structure, "gelu") for structure in STRUCTURES), (8, "relu"), (12, "relu")]
)
def test_a_model_from_an_image_model_trains_every_parameter(structure: int, activation: str) -> None:
    image = image_lavt(fusion_activation=activation)
    video = VideoLavtForReferringSegmentation.from_image_lavt(image, num_window_frames=2, pwam_structure=structure)
    generator = torch.Generator().manual_seed(4)
    clips = torch.randn(2, 3, 3, 64, 64, generator=generator)
    labels = torch.zeros(2, 3, 64, 64, dtype=torch.long)
    labels[..., 10:40, 20:50] = 1
    video(**{**image_inputs(), "pixel_values": clips}, mask_labels=labels).loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in video.named_parameters()}
    assert [name for name, norm in norms.items() if not norm > 0] == []
    # The gradient of a normalization behind a weight of zero would be huge.
    maps = [stage.fusion.language_maps for stage in video.stages]
    branches = [branch for each in maps for place in (each.query, each.output) for branch in place.branches]
    assert all(branch[0].weight.any() for branch in branches)


def test_a_field_given_as_it_is_changes_nothing() -> None:
    image = image_lavt(presence_head=True)
    video = VideoLavtForReferringSegmentation.from_image_lavt(
        image, fusion_num_heads=[1, 1, 1, 1], presence_head=True, attn_implementation="eager"
    )
    assert video.config._attn_implementation == "eager"
    ours, theirs = video.presence_head.state_dict(), image.presence_head.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    with pytest.raises(ValueError, match="got a model of type video_lavt"):
        VideoLavtForReferringSegmentation.from_image_lavt(video)


def test_other_models_are_no_video_swin(tmp_path) -> None:
    TestVideoLavt().build().save_pretrained(tmp_path / "whole")
    image_lavt().backbone.model.save_pretrained(tmp_path / "image")
    for folder, found in (("whole", "video_lavt"), ("image", "swin")):
        with pytest.raises(ValueError, match=f"holds a model of type {found}, no Video Swin"):
            load_pretrained_video_swin(str(tmp_path / folder), drop_path_rate=0.0)


@torch.no_grad()
def test_auto_classes_know_video_swin(tmp_path) -> None:
    config = AutoConfig.for_model(**VIDEO_SWIN)
    assert type(config) is VideoSwinConfig and config.embed_dim == VIDEO_SWIN["embed_dim"]
    encoder, clips = AutoModel.from_config(config).eval(), torch.randn(1, 2, 3, 40, 48)
    assert type(encoder) is VideoSwinModel
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(clips).last_hidden_state, encoder(clips).last_hidden_state)
    assert (tmp_path / "video_swin_refseg.py").is_file()


def test_what_an_image_model_computes_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="keeps its fusion_norm"):
        VideoLavtForReferringSegmentation.from_image_lavt(image_lavt(), fusion_norm="layer")
    absolute = {**SWIN, "use_absolute_embeddings": True}
    model = LavtForReferringSegmentation(LavtConfig(backbone_config=absolute, text_config=BERT))
    with pytest.raises(ValueError, match="use_absolute_embeddings=True"):
        VideoLavtForReferringSegmentation.from_image_lavt(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion_type": "bidirectional"}, 'has fusion_type="bidirectional", which models of clips do not have'),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet10t", "out_indices": [1, 2, 3, 4]}},
            "starts from a Swin transformer .* got an image encoder of model_type 'timm_backbone'",
        ),
    ],
    ids=["fusion_type", "backbone_config"],
)
def test_image_models_that_no_model_of_clips_starts_from_are_named(fields: dict, message: str) -> None:
    image = LavtForReferringSegmentation(LavtConfig(**{"backbone_config": SWIN, "text_config": BERT, **fields}))
    with pytest.raises(ValueError, match=message):
        VideoLavtForReferringSegmentation.from_image_lavt(image)


def test_training_tasks_come_along_from_an_image_model() -> None:
    image = image_lavt(**TASKS)
    video = VideoLavtForReferringSegmentation.from_image_lavt(image, mask_grounding=None)
    assert video.config.mask_grounding is None and image.config.mask_grounding is not None
    for task in ("presence_head", "language_reconstruction"):
        ours, theirs = getattr(video, task).state_dict(), getattr(image, task).state_dict()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    video.config.text_config.hidden_size = 1
    assert image.config.text_config.hidden_size == 32


def test_image_models_refuse_clips() -> None:
    inputs = image_inputs()
    with pytest.raises(ValueError, match=r"shape \(2, 1, 3, 128, 192\), but this model takes images"):
        image_lavt()(**{**inputs, "pixel_values": inputs["pixel_values"].unsqueeze(1)})
    with pytest.raises(ValueError, match=r"images .* or clips \(batch, frames, 3, height, width\)"):
        TestVideoLavt().build()(**{**inputs, "pixel_values": inputs["pixel_values"][0]})


def tiny_torchvision_encoder() -> SwinTransformer3d:
    torch.manual_seed(0)
    encoder = SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=16, depths=[2, 2], num_heads=[1, 2], window_size=[4, 4, 4]
    )
    return encoder.eval()


@torch.no_grad()
def test_torchvision_s_encoder_sees_a_still_clip_as_before() -> None:
    encoder = tiny_torchvision_encoder()
    ours = video_swin_of_torchvision(encoder, drop_path_rate=0.2)
    assert ours.config.drop_path_rate == 0.2 and list(ours.config.window_size) == [4, 4, 4]
    frames = torch.randn(2, 5, 3, 44, 36)
    doubled = frames.repeat_interleave(2, 1).transpose(1, 2)  # two frames make a patch there
    expected = encoder.features(encoder.patch_embed(doubled))
    assert_close(ours(frames).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_torchvision_s_weights_load_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    encoder = tiny_torchvision_encoder()
    monkeypatch.setattr(
        video_swin_refseg, "get_model", lambda name, weights: (asked.append((name, weights)), encoder)[1]
    )
    ours = load_pretrained_video_swin("torchvision/swin3d_s", drop_path_rate=0.3)
    assert asked == [("swin3d_s", "DEFAULT")]
    assert ours.config.drop_path_rate == 0.3
    assert torch.equal(ours.features[2][1].mlp[3].weight, encoder.features[2][1].mlp[3].weight)


@pytest.mark.parametrize(("preset", "name"), [("tiny", "swin3d_t"), ("small", "swin3d_s"), ("base", "swin3d_b")])
def test_presets_are_torchvision_s_models(preset: str, name: str) -> None:
    with torch.device("meta"):
        ours = VideoSwinModel(VideoSwinConfig.preset(preset)).state_dict()
        theirs = get_model(name).state_dict()
    theirs = {key: value for key, value in theirs.items() if not key.startswith(("norm.", "head."))}
    theirs = {key: value for key, value in theirs.items() if not key.endswith("relative_position_index")}
    assert ours.keys() == theirs.keys()
    different = [key for key, value in theirs.items() if value.shape != ours[key].shape]
    assert different == ["patch_embed.proj.weight"]


def test_unknown_presets_are_named() -> None:
    with pytest.raises(ValueError, match="only tiny, small, base"):
        VideoSwinConfig.preset("large")


def test_the_default_configuration_is_the_paper_s_main_model() -> None:
    config = VideoLavtConfig()
    backbone = config.backbone_config
    assert (backbone.embed_dim, list(backbone.depths), list(backbone.window_size)) == (128, [2, 2, 18, 2], [8, 7, 7])
    assert backbone.drop_path_rate == 0.3
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (12, 768)
    assert (config.pwam_structure, config.bidirectional, config.takes_clips) == (12, False, True)
