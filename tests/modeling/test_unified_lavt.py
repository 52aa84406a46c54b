"""Unified LAVT's own behavior: both encoders in training, one of them at inference."""

import pytest
import torch
from image_lavt import fused_maps, image_inputs, image_lavt
from method_tests import MethodTests
from tiny_configs import BERT, IMAGE_SWIN, SHORT_BERT, SWIN, TWO_STAGES, VIDEO_SWIN
from tiny_methods import TinyUnifiedLavt
from torch import nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import UnifiedLavtConfig, UnifiedLavtForReferringSegmentation
from hf_refseg.modeling.configuration_video_swin_refseg import VideoSwinConfig
from hf_refseg.modeling.modeling_unified_lavt import UnifiedImageFeatures
from hf_refseg.modeling.swin_refseg import SwinStages, WindowLayer
from hf_refseg.modeling.video_swin_refseg import VideoSwinBlock, VideoSwinModel


def calls_of_blocks(model: nn.Module) -> tuple[list, list]:
    """What grows with each call of a block of the encoder of images, and of that of clips."""
    images, clips = [], []
    for module in model.modules():
        if isinstance(module, WindowLayer):
            module.register_forward_hook(lambda *call: images.append(call[0]))
        if isinstance(module, VideoSwinBlock):
            module.register_forward_hook(lambda *call: clips.append(call[0]))
    return images, clips


class TestUnifiedLavt(TinyUnifiedLavt, MethodTests):
    """As every method, on images; then on clips."""

    few_layers = {
        "backbone_config": {**VIDEO_SWIN, **TWO_STAGES},
        "image_backbone_config": {**IMAGE_SWIN, **TWO_STAGES},
        "text_config": SHORT_BERT,
        "fusion_num_heads": [1, 1],
    }
    # Video LAVT's test shows all but the encoder of images, which is that of image LAVT.
    test_export_with_any_batch = None

    @pytest.mark.parametrize("kind", ["image", "clip"])
    def test_every_parameter_gets_a_gradient(self, kind: str) -> None:
        model = self.build().train()
        inputs, labels = (self.inputs(), self.labels()) if kind == "image" else (self.clips(), self.clip_labels())
        model(**inputs, mask_labels=labels).loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
        assert all(gradient.isfinite().all() for gradient in gradients.values())

    @torch.no_grad()
    def test_images_run_no_block_for_clips_and_clips_none_for_images(self) -> None:
        model = self.build()
        images, clips = calls_of_blocks(model)
        model(**self.inputs())
        assert (len(images), len(clips)) == (4, 0)
        model(**self.clips())
        assert (len(images), len(clips)) == (4, 5)
        model.train()(**self.clips())
        assert (len(images), len(clips)) == (8, 10)
        model(**self.inputs())
        assert (len(images), len(clips)) == (12, 15)

    @torch.no_grad()
    def test_encoder_features_of_clips_serve_training_and_evaluation(self) -> None:
        model, inputs = self.build(freeze_image_encoder=True), self.clips()
        pixel_values = inputs.pop("pixel_values")
        features = model.get_encoder_features(pixel_values)
        for mode in (True, False):
            model.train(mode)
            logits = []
            for image in ({"pixel_values": pixel_values}, {"encoder_features": features}):
                torch.manual_seed(0)  # the same dropout
                logits.append(model(**inputs, **image).logits)
            assert_close(*logits, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_each_encoder_serves_its_own_input(self) -> None:
        model, image, clip = self.build(), self.inputs(), self.clips()
        image_logits, clip_logits = model(**image).logits, model(**clip).logits
        assert image_logits.shape == (2, *self.size) and clip_logits.shape == (2, 3, 40, 48)
        for prefix, changed, kept, logits in (
            ("clips", clip, image, image_logits),
            ("images", image, clip, clip_logits),
        ):
            model = self.build()
            for parameter in getattr(model.backbone, prefix).parameters():
                parameter.zero_()
            assert torch.equal(model(**kept).logits, logits)
            assert not torch.equal(model(**changed).logits, clip_logits if prefix == "clips" else image_logits)

    @torch.no_grad()
    def test_in_training_the_central_frame_is_encoded_twice_and_added_up(self) -> None:
        for frames, center in ((5, 2), (4, 2), (1, 0)):
            model, features = self.build(), self.clips(frames=frames)["pixel_values"]
            clip, image = (UnifiedImageFeatures(image_size=size) for size in ((frames, 40, 48), (40, 48)))
            for stage in range(4):
                both = model.train().encode_stage(stage, features, clip)
                alone = model.eval().encode_stage(stage, features, clip)
                frame = model.encode_stage(stage, features[:, center : center + 1], image)
                expected = alone.clone()
                expected[:, center] += frame[:, 0]
                assert_close(both, expected, atol=1e-5, rtol=0)
                features = both

    def test_images_train_what_inference_uses(self) -> None:
        model = self.build(image_streams_in_training="single").train()
        images, clips = calls_of_blocks(model)
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert (len(images), len(clips)) == (4, 0)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        idle = {name for name, gradient in gradients.items() if gradient is None}
        assert idle == {f"backbone.clips.{name}" for name, _ in model.backbone.clips.named_parameters()}
        assert all(gradient.any() for gradient in gradients.values() if gradient is not None)
        # Clips still train both.
        model.zero_grad()
        model(**self.clips(), mask_labels=self.clip_labels()).loss.backward()
        assert (len(images), len(clips)) == (8, 5)
        assert all(parameter.grad.any() for parameter in model.parameters())

    @torch.no_grad()
    @pytest.mark.parametrize("encoded_before", [False, True])
    def test_what_encodes_an_image_in_training_is_said_by_the_field(self, encoded_before: bool) -> None:
        inputs, maps = self.inputs(batch=8), {}
        pixel_values = inputs["pixel_values"]
        for streams in ("both", "single", "mixed"):
            model = self.build(image_streams_in_training=streams)
            _, text, text_mask = model.encode_inputs(**inputs)
            alone = model.fuse(model.get_image_features(pixel_values), text, text_mask).maps
            model.train()
            features = model.get_encoder_features(pixel_values)
            torch.manual_seed(3)
            image = model.project_image(features if encoded_before else model.encode_image(pixel_values))
            maps[streams] = model.fuse(image, text, text_mask).maps
        assert all(map(torch.equal, maps["single"], alone))
        is_summed = image.clip_weights.bool()
        assert is_summed.any() and not is_summed.all()
        assert image.clip_weights.unique().tolist() == [0, 1]
        for both, single, mixed in zip(maps["both"], maps["single"], maps["mixed"], strict=True):
            assert_close(mixed[is_summed], both[is_summed], atol=1e-5, rtol=1e-4)
            assert_close(mixed[~is_summed], single[~is_summed], atol=1e-5, rtol=1e-4)
            assert (both - single).flatten(1).abs().amax(1).min() > 1e-3

    @torch.no_grad()
    def test_streams_are_drawn_anew_for_each_image_and_follow_the_seed(self) -> None:
        model, pixel_values = self.build(image_streams_in_training="mixed").train(), torch.randn(50, 3, 32, 32)
        torch.manual_seed(0)
        drawn = [model.get_image_features(pixel_values).clip_weights for _ in range(2)]
        torch.manual_seed(0)
        assert torch.equal(model.get_image_features(pixel_values).clip_weights, drawn[0])
        assert not torch.equal(*drawn) and 0.3 < torch.cat(drawn).mean() < 0.7
        assert model.get_image_features(self.clips()["pixel_values"]).clip_weights is None
        assert model.eval().get_image_features(pixel_values).clip_weights is None

    def test_mixed_streams_train_every_parameter(self) -> None:
        model = self.build(image_streams_in_training="mixed").train()
        torch.manual_seed(1)
        image = model.get_image_features(self.inputs()["pixel_values"])
        assert image.clip_weights.sum() == 1
        torch.manual_seed(1)
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []

    @torch.no_grad()
    def test_the_encoder_of_images_is_lavt_s(self) -> None:
        model, pixels = self.build(), self.inputs()["pixel_values"]
        stages = SwinStages(SwinConfig(**{name: value for name, value in IMAGE_SWIN.items() if name != "model_type"}))
        stages.load_state_dict(model.backbone.images.state_dict())
        tokens, size = stages.eval().embed(pixels)
        features = stages.run_stage(0, tokens, size)
        image = model.get_image_features(pixels)
        (visual,) = image.maps
        expected = visual.movedim(1, -1).unsqueeze(1)
        assert_close(features.unflatten(1, size).unsqueeze(1), expected)
        tokens, size = stages.merge(0, features, size)
        second = model.encode_stage(1, expected, image)
        assert_close(stages.run_stage(1, tokens, size).unflatten(1, size).unsqueeze(1), second)

    @torch.no_grad()
    def test_save_and_load_keep_the_logits_of_clips(self, tmp_path) -> None:
        model = self.build(bidirectional=True, pwam_structure=7)
        model.save_pretrained(tmp_path)
        loaded, report = UnifiedLavtForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        for inputs in (self.clips(), self.inputs()):
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    def test_a_model_from_an_image_model_segments_images_of_any_size_alike(self) -> None:
        image = image_lavt()
        model = UnifiedLavtForReferringSegmentation.from_image_lavt(image, num_window_frames=2, loss_type="dice")
        inputs = image_inputs()
        inputs["pixel_values"] = inputs["pixel_values"][..., :67, :90]
        with torch.no_grad():
            for ours, theirs in zip(fused_maps(model, inputs), fused_maps(image, inputs), strict=True):
                assert_close(ours, theirs, atol=1e-3, rtol=0)
            assert_close(model(**inputs).logits, image(**inputs).logits, atol=1e-4, rtol=0)
        with pytest.raises(ValueError, match="keeps its encoder"):
            UnifiedLavtForReferringSegmentation.from_image_lavt(image, image_backbone_config=IMAGE_SWIN)
        assert model.config.loss_type == "dice" and list(model.config.backbone_config.window_size) == [2, 4, 4]
        model.config.image_backbone_config.embed_dim = 1
        assert image.config.backbone_config.embed_dim != 1

    def test_from_encoders_takes_over_pretrained_weights(self, tmp_path) -> None:
        vision = VideoSwinModel(VideoSwinConfig(**VIDEO_SWIN))
        image = SwinModel(SwinConfig(**IMAGE_SWIN), add_pooling_layer=False)
        text = BertModel(BertConfig(**BERT))
        for name, encoder in (("vision", vision), ("image", image), ("text", text)):
            encoder.save_pretrained(tmp_path / name)
        paths = (tmp_path / name for name in ("vision", "text", "image"))
        model = UnifiedLavtForReferringSegmentation.from_encoders(*map(str, paths), drop_path_rate=0.2)
        assert model.config.backbone_config.drop_path_rate == model.config.image_backbone_config.drop_path_rate == 0.2
        ours, theirs = model.backbone.images.model.state_dict(), image.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        ours, theirs = model.backbone.clips.state_dict(), vision.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"image_backbone_config": {**SWIN, "embed_dim": 12}}, "choose the same embed_dim"),
            ({"image_backbone_config": {**IMAGE_SWIN, "depths": [1, 1], "num_heads": [1, 1]}}, "number of depths"),
            ({"image_backbone_config": {**IMAGE_SWIN, "patch_size": 2}}, "choose the same patch_size"),
            ({"image_backbone_config": BERT}, "Pass a SwinConfig"),
            ({"backbone_config": IMAGE_SWIN}, "Pass a VideoSwinConfig, and that of images as image_backbone_config"),
            ({"image_streams_in_training": "alone"}, "'mixed', 'both', 'single'"),
        ],
        ids=str,
    )
    def test_wrong_configurations_are_named(self, overrides: dict, message: str) -> None:
        with pytest.raises(Exception, match=message):
            self.tiny_config(**overrides)


def test_the_default_configuration_is_the_paper_s_main_model() -> None:
    config = UnifiedLavtConfig()
    assert (config.backbone_config.embed_dim, list(config.backbone_config.depths)) == (128, [2, 2, 18, 2])
    assert (config.image_backbone_config.embed_dim, config.image_backbone_config.window_size) == (128, 12)
    assert config.takes_clips and config.image_streams_in_training == "mixed"
