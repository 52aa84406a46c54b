"""LAVT with MagNet's alignment module and alignment loss: the rows of MagNet's tables 3 e and 3 f and of figure 7."""

import pytest
import torch
import torch.nn.functional as F
from tiny_configs import VIDEO_SWIN
from tiny_methods import TinyLavt
from torch.testing import assert_close
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import LavtConfig, LavtForReferringSegmentation, VideoLavtConfig
from hf_refseg.modeling.cross_modal_alignment_refseg import PixelsToText, UnchangedWords
from hf_refseg.modeling.losses_refseg import pixel_to_pixel_loss, pixel_to_text_loss
from hf_refseg.modeling.modeling_lavt import AlignedStage
from hf_refseg.modeling.text_encoders_refseg import TextStages

BERT = {**TinyLavt.fields["text_config"], "num_hidden_layers": 4}
ALIGNED = {
    "fusion_type": "cross_modal_alignment",
    "text_config": BERT,
    "text_stage_layers": [1, 2, 3, 4],
    "pyramid_scales": [1, 2],
}
TASK = {"special_token_ids": [0, 1, 2, 3, 4], "mask_token_id": 4, "predictor_layers": 1}


class TestLavtAlignment(TinyLavt):
    @pytest.mark.parametrize(
        "fields",
        [
            {**ALIGNED, "alignment_loss": {"halves": ["pixel_to_pixel", "pixel_to_text"]}},
            {**ALIGNED, "pyramid_scales": [], "cam_image": "paper", "presence_head": True},
            {**ALIGNED, "cam_language": "released", "cam_num_heads": 2, "decoder_norm": "none"},
            {**ALIGNED, "mask_grounding": TASK, "alignment_loss": {"halves": ["pixel_to_pixel"]}},
            {"alignment_loss": {"halves": ["pixel_to_text"], "text_temperature": 0.2, "max_pixels": 32}},
        ],
        ids=str,
    )
    def test_every_row_trains_and_reloads(self, fields: dict, tmp_path) -> None:
        model = self.build(**fields).train()
        output = model(**self.inputs(), mask_labels=self.labels())
        assert set(output.loss_components) == set(model.loss_weights)
        output.loss.backward()
        assert [name for name, each in model.named_parameters() if each.grad is None] == []
        model.eval().save_pretrained(tmp_path)
        loaded = LavtForReferringSegmentation.from_pretrained(tmp_path)
        for name in fields.keys() - {"text_config"}:
            assert getattr(loaded.config, name) == getattr(model.config, name)
        losses = [each(**self.inputs(), mask_labels=self.labels()).loss for each in (model, loaded)]
        assert torch.equal(*losses)

    @torch.no_grad()
    def test_both_encoders_run_in_lockstep(self) -> None:
        """Equations 5 to 11, stage by stage, and LAVT's decoder on the normalized features of the modules."""
        model, inputs = self.build(**ALIGNED), self.inputs()
        mask = inputs["attention_mask"].float()
        pixels, size = model.backbone.first_stage(inputs["pixel_values"])
        words, maps = model.text_encoder.embed(inputs["input_ids"]), []
        for index, stage in enumerate(model.stages):
            assert isinstance(stage, AlignedStage)
            words = model.text_encoder.run_stage(index, words, mask)
            pyramid = [level(pixels, size) for level in stage.pyramid]
            features, following = stage.text_to_pixels(pixels, size, pyramid, words, mask)
            words = stage.pixels_to_text(words, mask, pixels, pyramid)
            maps.append(stage.decoder_norm(features).transpose(1, 2).unflatten(2, size))
            if index < 3:
                pixels, size = model.backbone.next_stage(index + 1, following, size)
        fused = model.fuse(*model.encode_inputs(**inputs))
        assert_close(fused.text_features, words)
        for actual, expected in zip(fused.maps, maps, strict=True):
            assert_close(actual, expected)
        background, foreground = model.decoder(maps).unbind(1)
        logits = F.interpolate((foreground - background)[:, None], self.size, mode="bilinear", align_corners=True)
        assert_close(model(**inputs).logits, logits[:, 0])
        # Nothing reads the words after the last stage: no loss and no presence head does.
        assert [type(stage.pixels_to_text) for stage in model.stages] == [PixelsToText] * 3 + [UnchangedWords]
        last = self.build(**ALIGNED, presence_head=True).stages[-1].pixels_to_text
        assert isinstance(last, PixelsToText)

    @torch.no_grad()
    def test_tasks_read_the_whole_text_encoder(self) -> None:
        model, inputs = self.build(**ALIGNED), self.inputs()
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        finished = model.finish_text(text, inputs["attention_mask"].float())
        expected = model.text_encoder.model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        assert_close(finished, expected, atol=1e-5, rtol=0)
        plain = self.build()
        text = plain.get_text_features(inputs["input_ids"]).last_hidden_state
        assert plain.finish_text(text, inputs["attention_mask"]) is text

    def test_the_alignment_loss_compares_the_decoder_s_last_map(self) -> None:
        model, inputs, labels = self.build(alignment_loss={"text_temperature": 0.2}), self.inputs(), self.labels()
        seen = []
        model.decoder.classifier.register_forward_pre_hook(lambda module, maps: seen.extend(maps))
        actual = model(**inputs, mask_labels=labels).loss_components["alignment"]
        words = model.get_text_features(inputs["input_ids"]).last_hidden_state
        sentences = model.alignment_loss.halves["pixel_to_text"].projection(words.mean(1))
        # All 16 x 18 features of an image take part, as they are fewer than are drawn.
        expected = pixel_to_pixel_loss(seen[0], labels, 0.1, 1024)
        expected = expected + pixel_to_text_loss(seen[0], sentences, labels, 0.2, 1024)
        assert_close(actual, expected.detach())
        assert model.loss_weights["alignment"] == 0.5
        for half in ("pixel_to_pixel", "pixel_to_text"):
            alone = self.build(alignment_loss={"halves": [half]})
            assert alone(**inputs, mask_labels=labels).loss_components["alignment"] != actual

    @pytest.mark.parametrize("fields", [{}, ALIGNED], ids=["fusion", "alignment"])
    @torch.no_grad()
    def test_it_is_saved_without_what_training_alone_needs(self, fields: dict, tmp_path) -> None:
        model = self.build(**fields, alignment_loss={})
        model.save_pretrained(tmp_path, save_auxiliary=False)
        loaded, report = LavtForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        # Of the alignment module the last stage's words, which the loss alone reads, are left out as well.
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert loaded.config.alignment_loss is None
        assert torch.equal(loaded(**self.inputs()).logits, model(**self.inputs()).logits)
        assert not any(name.startswith("alignment_loss") for name in loaded.state_dict())

    def test_it_starts_from_pretrained_encoders(self, tmp_path) -> None:
        SwinModel(SwinConfig(**TinyLavt.fields["backbone_config"])).save_pretrained(tmp_path / "swin")
        bert = BertModel(BertConfig(**BERT))
        bert.save_pretrained(tmp_path / "bert")
        fields = {name: value for name, value in ALIGNED.items() if name != "text_config"}
        model = LavtForReferringSegmentation.from_encoders(tmp_path / "swin", tmp_path / "bert", **fields)
        assert isinstance(model.text_encoder, TextStages)
        for name, value in model.text_encoder.model.state_dict().items():
            assert torch.equal(value, bert.state_dict()[name]), name

    @torch.no_grad()
    def test_attention_at_full_resolution_is_recorded_and_explained(self) -> None:
        model, inputs = self.build(**ALIGNED), self.inputs(batch=1)
        explained = model.explain(**inputs)
        aligned = [f"{what}_{stage}" for stage in (1, 2, 3) for what in ("word_attention", "words_to_pixels")]
        assert list(explained) == ["decoder_maps", *aligned, "word_attention_4"]
        model.set_attn_implementation("eager")
        output = model(**inputs, output_attentions=True)
        shapes = [(16 * 18, 6), (6, 16 * 18), (8 * 9, 6), (6, 8 * 9), (4 * 5, 6), (6, 4 * 5), (2 * 3, 6)]
        assert [tuple(weights.shape[2:]) for weights in output.attentions] == shapes


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (LavtConfig, {"pyramid_scales": [1]}, 'only with fusion_type="cross_modal_alignment"'),
        (LavtConfig, {"cam_image": "paper"}, 'only with fusion_type="cross_modal_alignment"'),
        (LavtConfig, {**ALIGNED, "language_pathway": "none"}, "language_pathway: .* other than"),
        (LavtConfig, {**ALIGNED, "gate_activation": "none"}, "gate_activation: .* other than"),
        (LavtConfig, {**ALIGNED, "fusion_norm": "layer"}, "fusion_norm: it has an effect only"),
        (LavtConfig, {**ALIGNED, "decoder_features": "E"}, "decoder_features: .* other than"),
        (LavtConfig, {**ALIGNED, "fusion_activation": "relu"}, "fusion_activation: .* other than"),
        (LavtConfig, {**ALIGNED, "text_stage_layers": [1, 2, 3, 3]}, "four rising numbers"),
        (LavtConfig, {**ALIGNED, "pyramid_scales": [2, 2]}, "different positive numbers"),
        (LavtConfig, {**ALIGNED, "cam_num_heads": 3}, "3 heads do not divide"),
        (LavtConfig, {**ALIGNED, "text_config": {"model_type": "modernbert"}}, "got model_type 'modernbert'"),
        (LavtConfig, {"alignment_loss": {"halves": []}}, "leave alignment_loss out for none"),
        (LavtConfig, {"alignment_loss": {"halves": ["pixel_to_text"] * 2}}, "name each half once"),
        (LavtConfig, {"alignment_loss": {"halves": ["pixels"]}}, "halves"),
        (LavtConfig, {"alignment_loss": {"max_pixels": 0}}, "max_pixels: at least 1"),
        (LavtConfig, {"alignment_loss": {"halves": ["pixel_to_text"], "pixel_temperature": 0.2}}, "pixel_temperature"),
        (LavtConfig, {"alignment_loss": {"weight": 1.0}}, "alignment_loss has no field weight"),
        (VideoLavtConfig, {"alignment_loss": {}}, "alignment_loss: .* only in LAVT for images"),
        (VideoLavtConfig, {"fusion_type": "cross_modal_alignment"}, "fusion_type"),
    ],
    ids=str,
)
def test_what_has_no_effect_or_does_not_fit_is_named(config_class: type, fields: dict, message: str) -> None:
    backbone = {"backbone_config": VIDEO_SWIN} if config_class is VideoLavtConfig else {}
    with pytest.raises(Exception, match=message):
        config_class(**backbone, **fields)
