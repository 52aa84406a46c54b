"""MagNet's own behavior: ablations, the alignment module and its loss, configuration, conversion."""

import math

import pytest
import torch
import torch.nn.functional as F
from method_tests import MethodTests
from tiny_methods import TinyMagNet
from torch.testing import assert_close
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import MagNetConfig, MagNetForReferringSegmentation
from hf_refseg.modeling.layers_refseg import GateProjection
from hf_refseg.modeling.losses_refseg import pixel_to_pixel_loss, pixel_to_text_loss
from hf_refseg.modeling.modeling_outputs_refseg import FusedFeatures
from hf_refseg.modeling.text_encoders_refseg import TextStages

TINY_SWIN, TINY_BERT = TinyMagNet.fields["backbone_config"], TinyMagNet.fields["text_config"]
ABLATIONS = [
    {"pyramid_scales": []},
    {"pyramid_scales": [1]},
    {"pyramid_scales": [1, 2, 3]},
    {"pyramid_scales": [1, 2, 3, 6]},
    {"alignment_losses": []},
    {"alignment_losses": ["pixel_to_pixel"]},
    {"alignment_losses": ["pixel_to_text"], "text_temperature": 0.2, "alignment_pixels": 32},
    {"cam_language": "released"},
    {"cam_language": "released", "alignment_losses": []},
    {"cam_image": "paper", "pyramid_scales": [1, 2]},
    {"cam_image": "paper", "cam_language": "released", "cam_num_heads": 2},
    {"alignment_losses": [], "presence_head": True},
    {"pixel_decoder_stages": 3},
    {"cross_entropy_weight": 1.0, "dice_weight": 0.5, "alignment_weight": 0.1},
]


class TestMagNet(TinyMagNet, MethodTests):
    few_layers = {"decoder_layers": 1, "pyramid_scales": [1]}
    # It takes several times as long as others, and the test of ONNX exports it as well.
    test_export_with_any_batch = None

    # A single query attends to itself alone; deformable attention starts from places that depend on no feature.
    without_effect_at_the_start = (
        "self_attn.q_proj.weight",
        "self_attn.q_proj.bias",
        "self_attn.k_proj.weight",
        "self_attn.k_proj.bias",
        "level_embed",
    )

    def test_evaluation_draws_the_same_pixels_each_time(self) -> None:
        model, state = self.build(alignment_pixels=16), torch.get_rng_state()
        losses = [model(**self.inputs(), mask_labels=self.labels()).loss for _ in range(2)]
        assert torch.equal(*losses) and torch.equal(torch.get_rng_state(), state)

    @torch.no_grad()
    @pytest.mark.parametrize("cam_language", ["paper", "released"])
    def test_the_alignment_is_recorded_and_not_the_encoders_inside_it(self, cam_language: str) -> None:
        model, inputs = self.build(cam_language=cam_language), self.inputs()
        model.set_attn_implementation("eager")
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        positions = [16 * 18, 8 * 9, 4 * 5, 2 * 3]
        assert [states[0, 0].numel() for states in output.hidden_states] == positions
        directions = [[(number, 6), (6, number)] for number in positions]
        of_pixels_alone = cam_language == "released"
        expected = [shape for pair in directions for shape in (pair[:1] if of_pixels_alone else pair)]
        assert [tuple(weights.shape[2:]) for weights in output.attentions] == expected

    @pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
    def test_every_ablation_trains_and_reloads(self, ablation: dict, tmp_path) -> None:
        model = self.build(**{**self.few_layers, **ablation}).train()
        output = model(**self.inputs(), mask_labels=self.labels())
        assert set(output.loss_components) == set(model.loss_weights)
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        model.eval().save_pretrained(tmp_path)
        loaded = MagNetForReferringSegmentation.from_pretrained(tmp_path)
        for name, value in ablation.items():
            assert getattr(loaded.config, name) == value
        with torch.no_grad():
            assert torch.equal(loaded(**self.inputs()).logits, model(**self.inputs()).logits)

    def test_the_losses_and_their_weights_are_the_papers(self) -> None:
        model = self.build()
        assert model.loss_weights == {"cross_entropy": 2.0, "dice": 2.0, "alignment": 0.5}
        output = model(**self.inputs(), mask_labels=self.labels())
        expected = F.binary_cross_entropy_with_logits(output.logits, self.labels().float())
        assert_close(output.loss_components["cross_entropy"], expected)

    def test_the_alignment_loss_is_the_sum_of_its_halves(self) -> None:
        values = {}
        for halves in (["pixel_to_pixel"], ["pixel_to_text"], ["pixel_to_pixel", "pixel_to_text"]):
            model = self.build()
            for name in set(model.alignment) - set(halves):
                del model.alignment[name]
            output = model(**self.inputs(), mask_labels=self.labels())
            values[len(halves), halves[0]] = output.loss_components["alignment"]
        first, second, both = values.values()
        assert first > 0 and second > 0
        assert_close(both, first + second)

    def fused(self, model: MagNetForReferringSegmentation, inputs: dict) -> FusedFeatures:
        words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        return model.fuse(model.get_image_features(inputs["pixel_values"]), words, inputs["attention_mask"].float())

    @torch.no_grad()
    @pytest.mark.parametrize(("cam_language", "is_seen"), [("paper", True), ("released", False)])
    def test_the_image_reaches_the_words(self, cam_language: str, is_seen: bool) -> None:
        """In the paper's form; in the released form never, as long as nothing is padding."""
        model, inputs = self.build(cam_language=cam_language), self.inputs()
        swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
        first, second = self.fused(model, inputs).text_features, self.fused(model, swapped).text_features
        difference = (first - second).abs().amax(2)
        assert (difference > 1e-3).all() if is_seen else difference.max() < 1e-4

    @torch.no_grad()
    def test_the_words_of_the_paper_do_not_depend_on_padding(self) -> None:
        model, inputs = self.build(), self.inputs()
        padded = dict(inputs)
        for name, filling in (("input_ids", 7), ("attention_mask", 0)):
            padded[name] = F.pad(inputs[name], (0, 5), value=filling)
        words = self.fused(model, padded).text_features[:, :6]
        assert_close(words, self.fused(model, inputs).text_features, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_the_paper_adds_what_all_scales_attended_to(self) -> None:
        """Equations 9 and 11, written out; as released the pyramid does not reach the next stage."""
        generator = torch.Generator().manual_seed(5)
        pixels, words = torch.randn(2, 12, 32, generator=generator), torch.randn(2, 5, 32, generator=generator)
        mask = torch.tensor([[1.0] * 5, [1.0, 1.0, 1.0, 0.0, 0.0]])
        for cam_image in ("paper", "released"):
            align = self.build(cam_image=cam_image).stages[1]
            side, (first, *_) = align.text_to_pixels, align.pyramid
            _, following, _ = align(pixels, (3, 4), words, mask)
            pyramid = [level(pixels, (3, 4)) for level in align.pyramid]
            full = side.full(pixels, words, mask)
            if cam_image == "paper":
                grown = []
                for attend, level, scale in zip(side.levels, pyramid, (1, 2), strict=True):
                    attended = attend(level, words, mask).unflatten(1, (scale, scale)).permute(0, 3, 1, 2)
                    grown.append(F.interpolate(attended, (3, 4), mode="bilinear", align_corners=True).flatten(2))
                joined = torch.cat([*(each.transpose(1, 2) for each in grown), full], 2)
                linear, _, last, _ = side.pathway.mixer
                hidden = F.gelu(joined @ linear.weight.T + linear.bias)
                expected = pixels + torch.tanh(hidden @ last.weight.T)
            else:
                expected = pixels + side.pathway.gate(full) * full
            assert_close(following, expected)
            first.mlp[4].weight.add_(1)
            assert torch.equal(align(pixels, (3, 4), words, mask)[1], following) == (cam_image == "released")

    @torch.no_grad()
    def test_heads_of_the_alignment_attend_apart(self) -> None:
        """Equation 7 with two heads on both sides, written out head by head, as in LAVT's attention."""
        model = self.build(cam_num_heads=2)
        generator = torch.Generator().manual_seed(5)
        for attend in (model.stages[0].text_to_pixels.levels[1], model.stages[0].pixels_to_text.full):
            part = attend.attention
            features = torch.randn(1, 4, part.query.in_features, generator=generator)
            others = torch.randn(1, 6, part.key.in_features, generator=generator)
            query, key, value = part.query_norm(part.query(features)), part.key(others), part.value(others)
            width = query.shape[2]
            heads = []
            for channels in (slice(0, width // 2), slice(width // 2, width)):
                scores = query[0, :, channels] @ key[0, :, channels].T / width**0.5
                heads.append(scores.softmax(1) @ value[0, :, channels])
            attended = part.output_norm(part.output(torch.cat(heads, 1)[None]))
            expected = attend.project_fused(attend.project_features(features) * attended)
            assert_close(attend(features, others, torch.ones(1, 6)), expected)

    @pytest.mark.parametrize("cam_language", ["paper", "released"])
    def test_no_gate_starts_without_a_gradient(self, cam_language: str) -> None:
        inputs = self.inputs()
        inputs["attention_mask"][:, 4:] = 0
        model = self.build(cam_language=cam_language).train()
        model(**inputs, mask_labels=self.labels()).loss.backward()
        gates = {name: module for name, module in model.named_modules() if isinstance(module, GateProjection)}
        # Two layers of each gate: three stages of the image, four of the words; the paper's words have one.
        assert len(gates) == {"paper": 3 * 2 + 4, "released": 3 * 2 + 4 * 2}[cam_language]
        for name, gate in gates.items():
            assert gate.weight.std() < 2 * model.config.initializer_range, name
            assert gate.weight.grad.abs().max() > 0, name

    def test_mask2former_starts_from_its_own_values(self) -> None:
        # So wide that what is drawn spreads as it should, whatever the seed.
        head = self.build(feature_size=128).head
        attention = head.pixel_decoder.encoder.layers[0].self_attn
        assert attention.n_levels == 4
        assert not attention.sampling_offsets.weight.any() and attention.sampling_offsets.bias.abs().max() == 4
        assert 0.8 < head.pixel_decoder.level_embed.std() < 1.2
        assert 0.7 < head.transformer.queries_features.weight.std() < 1.3
        assert [module.in_channels for module, _ in head.pixel_decoder.input_projections] == [128, 64, 32, 16]

    def test_it_learns_two_masks(self) -> None:
        model, inputs = self.build(**self.few_layers), self.inputs()
        labels = torch.zeros(2, *self.size, dtype=torch.long)
        labels[0, :32], labels[1, 32:] = 1, 1
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        agreement, steps = 0.0, 0
        while agreement <= 0.9 and steps < 30:
            optimizer.zero_grad()
            model(**inputs, mask_labels=labels).loss.backward()
            optimizer.step()
            with torch.no_grad():
                agreement = ((model(**inputs).logits > 0) == labels).float().mean()
            steps += 1
        assert agreement > 0.9

    @torch.no_grad()
    def test_the_head_reads_the_maps_of_all_stages(self) -> None:
        model, inputs = self.build(), self.inputs(batch=1)
        fused = self.fused(model, inputs)
        pixels = model.head.pixel_decoder(list(fused.maps))
        assert [tuple(scale.shape[-2:]) for scale in pixels.multi_scale_features[:3]] == [(2, 3), (4, 5), (8, 9)]
        assert pixels.mask_features.shape == (1, 32, 16, 18)
        assert [tuple(maps.shape[1:]) for maps in fused.maps] == [(16, 16, 18), (32, 8, 9), (64, 4, 5), (128, 2, 3)]

    @torch.no_grad()
    def test_with_three_stages_a_feature_pyramid_joins_the_finest_map(self) -> None:
        model, inputs = self.build(pixel_decoder_stages=3), self.inputs(batch=1)
        decoder, maps = model.head.pixel_decoder, list(self.fused(model, inputs).maps)
        assert decoder.encoder.layers[0].self_attn.n_levels == 3
        assert [module.in_channels for module, _ in decoder.input_projections] == [128, 64, 32]
        pixels, other = decoder(maps), decoder([maps[0].flip(-1), *maps[1:]])
        assert pixels.mask_features.shape == (1, 32, 16, 18)
        assert not torch.equal(pixels.mask_features, other.mask_features)
        for scale, same in zip(pixels.multi_scale_features, other.multi_scale_features, strict=True):
            assert torch.equal(scale, same)

    def test_new_models_on_pretrained_encoders(self, tmp_path) -> None:
        torch.manual_seed(3)
        swin = SwinModel(SwinConfig(**{**TINY_SWIN, "drop_path_rate": 0.0}))
        bert = BertModel(BertConfig(**TINY_BERT))
        swin.save_pretrained(tmp_path / "swin")
        bert.save_pretrained(tmp_path / "bert")
        model = MagNetForReferringSegmentation.from_encoders(
            *(str(tmp_path / name) for name in ("swin", "bert")),
            text_stage_layers=[1, 2, 3, 4],
            pyramid_scales=[1],
            **TinyMagNet.head,
        )
        assert model.config.backbone_config.drop_path_rate == 0.3 and model.config.pyramid_scales == [1]
        for name, value in model.text_encoder.model.state_dict().items():
            assert torch.equal(value, bert.state_dict()[name]), name
        weight = swin.state_dict()["encoder.layers.3.blocks.0.mlp.fc1.weight"]
        assert torch.equal(model.backbone.model.state_dict()["encoder.layers.3.blocks.0.mlp.fc1.weight"], weight)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_in_stages_is_bert(attention: str) -> None:
    torch.manual_seed(0)
    stages = TextStages(BertConfig(**TINY_BERT, attn_implementation=attention), (1, 3, 4)).eval()
    ids, mask = torch.randint(0, 97, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    words = stages.embed(ids)
    for index in range(3):
        words = stages.run_stage(index, words, mask.float())
    expected = stages.model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert_close(words[mask == 1], expected[mask == 1], atol=1e-6, rtol=0)


FEATURES = torch.randn(3, 8, 6, 5, generator=torch.Generator().manual_seed(2))
SENTENCES = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))


def alignment_labels() -> torch.Tensor:
    labels = torch.zeros(3, 6, 5, dtype=torch.long)
    labels[0, 1:3, 1:4] = 1
    labels[1, :, :2] = 1
    labels[2, 5, 4] = 1
    return labels


def equations_13_and_14(features: torch.Tensor, sentence: torch.Tensor, label: torch.Tensor, tau: float) -> tuple:
    """Written out pixel by pixel for one sample."""
    pixels = [F.normalize(features[:, y, x], dim=0) for y in range(6) for x in range(5)]
    inside = [pixel for pixel, is_target in zip(pixels, label.flatten(), strict=True) if is_target]
    outside = [pixel for pixel, is_target in zip(pixels, label.flatten(), strict=True) if not is_target]

    def contrast(anchors: list, anchor: torch.Tensor, others: list) -> float:
        anchor, total = F.normalize(anchor, dim=0), 0.0
        for pixel in anchors:
            alike = math.exp(pixel @ anchor / tau)
            total -= math.log(alike / (alike + sum(math.exp(pixel @ other / tau) for other in others)))
        return total / len(anchors)

    means = [torch.stack(group).mean(0) for group in (inside, outside)]
    pixel_to_pixel = contrast(inside, means[0], outside) + contrast(outside, means[1], inside)
    return pixel_to_pixel, contrast(inside, sentence, outside)


def test_alignment_losses_are_the_papers_equations() -> None:
    labels = alignment_labels()
    expected = [equations_13_and_14(*sample, tau=0.2) for sample in zip(FEATURES, SENTENCES, labels, strict=True)]
    pixel_to_pixel, pixel_to_text = (sum(values) / 3 for values in zip(*expected, strict=True))
    assert pixel_to_pixel_loss(FEATURES, labels, 0.2, 1024).item() == pytest.approx(pixel_to_pixel, abs=1e-5)
    assert pixel_to_text_loss(FEATURES, SENTENCES, labels, 0.2, 1024).item() == pytest.approx(pixel_to_text, abs=1e-5)


@pytest.mark.parametrize("value", [0, 1])
def test_alignment_leaves_out_samples_without_target_or_background(value: int) -> None:
    labels = alignment_labels()
    labels[1] = value
    others = [0, 2]
    features, sentences = FEATURES.clone().requires_grad_(), SENTENCES.clone().requires_grad_()
    losses = (
        pixel_to_pixel_loss(features, labels, 0.1, 1024),
        pixel_to_text_loss(features, sentences, labels, 0.1, 1024),
    )
    assert_close(losses[0], pixel_to_pixel_loss(features[others], labels[others], 0.1, 1024))
    assert_close(losses[1], pixel_to_text_loss(features[others], sentences[others], labels[others], 0.1, 1024))
    sum(losses).backward()
    assert features.grad[others].abs().amax((1, 2, 3)).min() > 0
    assert not features.grad[1].any() and not sentences.grad[1].any()


@pytest.mark.parametrize("value", [0, 1])
def test_alignment_is_zero_where_no_sample_has_both(value: int) -> None:
    labels = torch.full((3, 6, 5), value)
    features, sentences = FEATURES.clone().requires_grad_(), SENTENCES.clone().requires_grad_()
    loss = pixel_to_pixel_loss(features, labels, 0.1, 4) + pixel_to_text_loss(features, sentences, labels, 0.1, 4)
    loss.backward()
    assert loss == 0 and not features.grad.any() and not sentences.grad.any()


def test_alignment_draws_pixels_of_the_right_side_only() -> None:
    """Target pixels all alike, background pixels all alike: whichever are drawn, the value is the same."""
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, :20, :30] = 1
    features = torch.where(
        labels[:, None] == 1, torch.tensor([1.0, 0.0])[:, None, None], torch.tensor([0.0, 1.0])[:, None, None]
    )
    drawn = 50
    loss = pixel_to_pixel_loss(features, labels, 1.0, drawn)
    assert loss.item() == pytest.approx(2 * math.log((math.e + drawn) / math.e), abs=1e-5)
    sentence = torch.tensor([[3.0, 0.0]])
    loss = pixel_to_text_loss(features, sentence, labels, 1.0, drawn)
    assert loss.item() == pytest.approx(math.log((math.e + drawn) / math.e), abs=1e-5)


def test_alignment_memory_does_not_grow_with_the_image() -> None:
    features, labels = torch.randn(1, 4, 192, 192), torch.zeros(1, 768, 768, dtype=torch.long)
    labels[:, :, :300] = 1
    sizes: list[int] = []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    with Sizes():
        loss = pixel_to_pixel_loss(features, labels, 0.1, 64)
    assert loss.isfinite()
    # All pairs of pixels would be more than 10^9 numbers; the labels are 768 * 768.
    assert sizes and max(sizes) <= 768 * 768


def test_alignment_labels_are_taken_at_the_features_places() -> None:
    labels = alignment_labels()
    enlarged = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert_close(pixel_to_pixel_loss(FEATURES, enlarged, 0.1, 99), pixel_to_pixel_loss(FEATURES, labels, 0.1, 99))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cam_language": "none"}, "cam_language"),
        ({"cam_image": "none"}, "cam_image"),
        ({"cam_num_heads": 0}, "cam_num_heads: at least 1"),
        ({"cam_num_heads": 5}, "cam_num_heads: 5 heads do not divide stages of the image encoder"),
        ({"cam_num_heads": 64}, r"cam_num_heads: 64 heads do not divide pyramids of \[32, 64, 128, 256\]"),
        ({"alignment_losses": ["pixels"]}, "alignment_losses"),
        ({"alignment_losses": ["pixel_to_text", "pixel_to_text"]}, "name each half once"),
        ({"pyramid_scales": [0, 1]}, "pyramid_scales: different positive numbers"),
        ({"pyramid_scales": [2, 2]}, "pyramid_scales: different positive numbers"),
        ({"text_stage_layers": [3, 6, 9, 11]}, "the last of them 12"),
        ({"text_stage_layers": [6, 3, 9, 12]}, "four rising numbers"),
        ({"alignment_pixels": 0}, "alignment_pixels must be at least 1"),
        ({"text_temperature": 0.0}, "a number above 0"),
        ({"feature_size": 100}, "multiple of 32"),
        ({"text_config": {"model_type": "modernbert"}}, "got model_type 'modernbert'"),
        ({"backbone_config": {"model_type": "resnet"}}, "got model_type 'resnet'"),
        ({"backbone_config": {"model_type": "swin", "depths": [2, 2], "num_heads": [2, 2]}}, "four stages"),
    ],
    ids=str,
)
def test_unfit_configurations_are_named(fields: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        MagNetConfig(**fields)


def test_the_default_configuration_is_the_papers() -> None:
    config = MagNetConfig()
    assert config.stage_widths == [128, 256, 512, 1024] and config.text_config.num_hidden_layers == 12
    head = config.head_config
    assert (head.encoder_layers, head.encoder_feedforward_dim, head.num_attention_heads) == (4, 1024, 8)
    assert (head.decoder_layers, head.dim_feedforward, head.num_queries, head.feature_size) == (10, 2048, 1, 256)
    assert (config.pixel_temperature, config.text_temperature, config.alignment_pixels) == (0.1, 0.1, 1024)
