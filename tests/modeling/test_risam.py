"""RISAM's own behavior: attention and its masks, ablations, encoders, sizes, what is trained."""

import math

import pytest
import torch
from method_tests import MethodTests
from slow_attention import slow_heads
from tiny_configs import CLIP, SAM
from tiny_methods import TinyRisam
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, CLIPTextConfig, CLIPTextModel, SamVisionConfig, SamVisionModel

from hf_refseg import RisamConfig, RisamForReferringSegmentation
from hf_refseg.modeling.configuration_encoders_refseg import map_indices
from hf_refseg.modeling.modeling_risam import FeatureEnhancement, MutualAwareAttention, MutualAwareMaskDecoder

# SAM's neck as wide as all that follows it, as in the pretrained model.
NECK = {"feature_enhancement": "neck", "backbone_config": {**SAM, "output_channels": 32}}
TIMM = {"model_type": "timm_backbone", "backbone": "resnet10t", "out_indices": [-3, -2, -1]}
ABLATIONS = [
    {"feature_enhancement": "none"},
    {"fusion_type": "convolution"},
    {"mask_decoder": "sam"},
    {"num_attention_blocks": 1},
    {"num_attention_blocks": 3},
    {"relevance_threshold": 0.5},
    {"relevance_threshold": None},
    {"language_attention": "shared"},
    {"token_to_image_attention": True},
    {"linguistic_guidance": False},
    {"num_decoder_blocks": 1},
    {"pixel_positions": "sine"},
    {"mask_feature_sizes": [12, 20]},
    {"feature_enhancement": "vit_det"},
    {"fusion_type": "transformer_encoder"},
    {"fusion_type": "spatial_dynamic"},
    {"fusion_type": "bidirectional"},
    {"fusion_type": "none", "num_attention_blocks": 2},
    {"mask_decoder": "sam_words"},
    NECK,
    {**NECK, "fusion_type": "none", "mask_decoder": "sam_words"},
    {"backbone_config": TIMM},
    {"focal_loss_weight": 1.0, "dice_loss_weight": 0.0},
]


class TestRisam(TinyRisam, MethodTests):
    always_has_attentions = True
    few_layers = {"text_config": {**CLIP, "num_hidden_layers": 1}}

    @pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
    def test_every_ablation_trains_and_reloads(self, ablation: dict, tmp_path) -> None:
        model = self.build(**{**self.few_layers, **ablation}).train()
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        model.eval().save_pretrained(tmp_path)
        loaded = RisamForReferringSegmentation.from_pretrained(tmp_path)
        with torch.no_grad():
            assert_close(loaded(**self.inputs()).logits, model(**self.inputs()).logits)

    @torch.no_grad()
    @pytest.mark.parametrize("ablation", ABLATIONS[:-2], ids=str)
    def test_every_ablation_changes_the_logits(self, ablation: dict) -> None:
        plain, changed = self.build(), self.build(**ablation)
        shapes = {name: value.shape for name, value in changed.state_dict().items()}
        common = {name: value for name, value in plain.state_dict().items() if shapes.get(name) == value.shape}
        changed.load_state_dict(common, strict=False)
        if "relevance_threshold" in ablation:
            for model in (plain, changed):
                for block in model.fusion:  # so that scores reach the thresholds
                    block.project_words.weight *= 10
        assert (changed(**self.inputs()).logits - plain(**self.inputs()).logits).abs().max() > 1e-5

    def test_sam_s_decoder_knows_which_pixels_are_neighbors(self) -> None:
        decoder = self.build(mask_decoder="sam").mask_decoder
        positions = decoder.image_positions(torch.zeros(1, 32, 64, 64))[0]
        row = torch.nn.functional.normalize(positions[:, 20], dim=0)
        assert (row[:, 0] @ row[:, 1]).item() > 0.9 > (row[:, 0] @ row[:, 30]).item()

    @torch.no_grad()
    def test_the_mask_decoder_tells_places_apart_with_positions_alone(self) -> None:
        pixels, words, spread = torch.ones(1, 32, 6, 6), torch.randn(1, 3, 32), {}
        for positions in ("none", "sine"):
            decoder = self.build(pixel_positions=positions).mask_decoder
            logits = decoder(pixels, words, torch.ones(1, 3))[0].unflatten(1, (6, 4)).unflatten(0, (6, 4))
            spread[positions] = (logits - logits[:1, :, :1]).abs().max() / logits.abs().max()
        assert spread["none"] < 1e-4
        assert spread["sine"] > 1e-2

    def test_masks_are_products_of_as_many_channels_as_asked_for(self) -> None:
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in self.build(mask_feature_sizes=[12, 20]).mask_decoder.named_parameters()
        }
        assert shapes["upsample.0.weight"][:2] == (32, 12)
        assert shapes["upsample.3.weight"][:2] == (12, 20)
        assert shapes["project_query.4.weight"] == (20, 32)

    def test_another_image_size_is_named(self) -> None:
        with pytest.raises(ValueError, match=r'64 x 64 pixels, got 64 x 72.*"longest_edge": 64'):
            self.build()(**{**self.inputs(), "pixel_values": torch.zeros(2, 3, 64, 72)})

    @torch.no_grad()
    def test_a_timm_backbone_takes_any_size_and_channel_order(self) -> None:
        model = self.build(backbone_config=TIMM)
        inputs = {**self.inputs(), "pixel_values": torch.randn(2, 3, 70, 101)}
        assert model(**inputs).logits.shape == (2, 70, 101)
        swin = {**TIMM, "backbone": "swin_tiny_patch4_window7_224"}
        features = self.build(backbone_config=swin).backbone(torch.randn(1, 3, 224, 224))
        assert [each.shape[1:] for each in features] == [(192, 28, 28), (384, 14, 14), (768, 7, 7)]

    @torch.no_grad()
    @pytest.mark.parametrize(
        ("encoder", "blocks"),
        [
            ({"model_type": "timm_backbone", "backbone": "deit3_small_patch16_384"}, [3, 7, 11]),
            ({"model_type": "swin", "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}, None),
        ],
        ids=["ViT", "Swin"],
    )
    def test_encoders_of_table_7_have_shallow_middle_and_deep_maps_at_1024_pixels(self, encoder, blocks) -> None:
        config = AutoConfig.for_model(**encoder)
        if blocks is not None:
            assert map_indices(config, 3) == blocks
            config = AutoConfig.for_model(**encoder, out_indices=blocks)
        with torch.device("meta"):
            model = RisamForReferringSegmentation(RisamConfig(backbone_config=config, text_config=CLIP))
            maps = model.encode_image(torch.empty(1, 3, 1024, 1024)).maps
        assert [tuple(each.shape[2:]) for each in maps] == [(64, 64)] * 3

    def test_a_text_longer_than_the_context_is_named(self) -> None:
        inputs = {"input_ids": torch.ones(2, 33, dtype=torch.long), "attention_mask": torch.ones(2, 33)}
        with pytest.raises(ValueError, match=r"33 tokens.*at most 32.*max_text_length"):
            self.build()(**{**self.inputs(), **inputs})

    @torch.no_grad()
    def test_features_are_those_of_sam_s_global_blocks(self) -> None:
        torch.manual_seed(0)
        sam = SamVisionModel(
            SamVisionConfig(**{**SAM, "num_hidden_layers": 6, "global_attn_indexes": [0, 2, 3, 4, 5]})
        )
        config = self.tiny_config(backbone_config=sam.config)
        model = RisamForReferringSegmentation(config).eval()
        model.backbone.load_encoder(sam)
        pixels = self.inputs()["pixel_values"]
        states = sam.eval()(pixels, output_hidden_states=True).hidden_states
        expected = tuple(states[index + 1].permute(0, 3, 1, 2) for index in (2, 3, 4))
        assert_close(model.get_encoder_features(pixels).maps, expected)
        assert len(model.backbone.model.vision_encoder.layers) == 5

    def test_from_encoders_takes_over_pretrained_weights(self, tmp_path) -> None:
        sam, clip = SamVisionModel(SamVisionConfig(**SAM)), CLIPTextModel(CLIPTextConfig(**CLIP))
        sam.save_pretrained(tmp_path / "sam")
        clip.save_pretrained(tmp_path / "clip")
        model = RisamForReferringSegmentation.from_encoders(
            str(tmp_path / "sam"), str(tmp_path / "clip"), hidden_size=32
        )
        inputs = self.inputs()
        words = clip.eval()(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        assert_close(model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state, words)
        names = dict(sam.named_parameters())
        for name, parameter in model.backbone.model.named_parameters():
            assert torch.equal(parameter, names[name])
            assert not parameter.requires_grad

    def test_encoders_without_weights_start_as_transformers_starts_them(self) -> None:
        torch.manual_seed(0)
        model = RisamForReferringSegmentation.from_pretrained(None, config=self.tiny_config(), state_dict={})
        layer, width = model.text_encoder.encoder.layers[0], CLIP["hidden_size"]
        assert_close(layer.self_attn.out_proj.weight.std().item(), width**-0.5, atol=0.02, rtol=0)
        assert_close(layer.mlp.fc1.weight.std().item(), (2 * width) ** -0.5, atol=0.02, rtol=0)

    @torch.no_grad()
    def test_enhancement_runs_once_for_many_texts(self, count_calls) -> None:
        model, inputs = self.build(), self.inputs(batch=9)
        inputs["pixel_values"] = inputs["pixel_values"][:1]
        calls = [count_calls(model, name) for name in ("encode_image", "project_image", "fuse")]
        model(**inputs)
        assert [len(call) for call in calls] == [1, 1, 2]

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"language_attention": "words"}, "'pixels', 'shared'"),
            ({"mask_decoder": "mask2former"}, "'mutual_aware', 'sam', 'sam_words'"),
            ({"fusion_type": "concat"}, "'mutual_attention', 'convolution', 'transformer_encoder'"),
            ({"feature_enhancement": "fpn"}, "'cascade', 'none', 'vit_det', 'neck'"),
            ({"relevance_threshold": 1.0}, "a probability below 1"),
            ({"num_attention_blocks": 0}, "at least 1"),
            ({"hidden_size": 36}, "multiple of 8"),
            ({"backbone_config": {**SAM, "global_attn_indexes": [1, 3]}}, "second to fourth"),
            ({"backbone_config": {**TIMM, "out_indices": [-1]}}, "three stages"),
            (
                {"backbone_config": {"model_type": "bert"}},
                r"RISAM reads three maps .* got model_type 'bert'",
            ),
            ({"feature_enhancement": "neck", "backbone_config": TIMM}, "neck is that of SAM's .* 'timm_backbone'"),
            ({**NECK, "hidden_size": 24}, "hidden_size has to be that of the neck, 32 .* got 24"),
            ({"fusion_type": "none", "linguistic_guidance": False}, "no mask would follow from the text"),
            (
                {"fusion_type": "none", "linguistic_guidance": False, "presence_head": True},
                "no mask would follow from the text",
            ),
            ({"fusion_type": "none", "num_attention_blocks": 3}, 'another fusion_type than "none"'),
            ({"fusion_type": "spatial_dynamic", "relevance_threshold": None}, 'fusion_type="mutual_attention"'),
            ({"mask_decoder": "sam_words", "token_to_image_attention": True}, 'mask_decoder="mutual_aware"'),
            ({"mask_decoder": "sam", "pixel_positions": "sine"}, 'mask_decoder="mutual_aware"'),
            ({"mask_feature_sizes": [12]}, r"mask_feature_sizes: two numbers .* got \[12\]"),
            ({"mask_feature_sizes": [12, 0]}, r"mask_feature_sizes: two numbers .* got \[12, 0\]"),
            ({"text_config": {"model_type": "clip"}}, "holds an encoder of images as well"),
        ],
        ids=str,
    )
    def test_wrong_configurations_are_named(self, overrides: dict, message: str) -> None:
        with pytest.raises(Exception, match=message):
            self.tiny_config(**overrides)


def attention_block(**overrides) -> MutualAwareAttention:
    torch.manual_seed(0)
    config = RisamConfig(backbone_config=SAM, text_config=CLIP, hidden_size=16, **overrides)
    return MutualAwareAttention(config, 12).eval()


def slow_attention(block: MutualAwareAttention, pixels: Tensor, words: Tensor, threshold: float | None, shared: bool):
    """Equations 3 to 5 for one sample without padding, pair by pair."""
    z_v = [block.project_pixels.weight @ pixel for pixel in pixels]
    z_l = [block.project_words.weight @ word for word in words]
    score = [[float(v @ w) / math.sqrt(len(v)) for w in z_l] for v in z_v]

    def normalized(row: list[float]) -> list[float]:
        kept = [threshold is None or 1 / (1 + math.exp(-value)) >= threshold for value in row]
        if not any(kept):
            kept = [value == max(row) for value in row]
        exponentials = [math.exp(value) if keep else 0.0 for value, keep in zip(row, kept, strict=True)]
        return [value / sum(exponentials) for value in exponentials]

    to_words = [normalized(row) for row in score]
    to_pixels = [normalized([row[word] for row in score]) for word in range(len(z_l))]
    if shared:
        to_pixels = [[row[word] for row in to_words] for word in range(len(z_l))]
    lav = [sum(a * w for a, w in zip(row, z_l, strict=True)) + v for row, v in zip(to_words, z_v, strict=True)]
    val = [sum(a * v for a, v in zip(row, z_v, strict=True)) + w for row, w in zip(to_pixels, z_l, strict=True)]
    return block.pixel_norm(torch.stack(lav)), block.word_norm(torch.stack(val))


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.35, 0.6, None])
@pytest.mark.parametrize("language_attention", ["pixels", "shared"])
def test_attention_equals_the_equations(threshold: float | None, language_attention: str) -> None:
    block = attention_block(relevance_threshold=threshold, language_attention=language_attention)
    pixels, words = 3 * torch.randn(6, 16), 3 * torch.randn(4, 12)
    expected = slow_attention(block, pixels, words, threshold, language_attention == "shared")
    actual = block(pixels[None], words[None], torch.ones(1, 4), (2, 3))
    for got, wanted in zip(actual[:2], expected, strict=True):  # behind them the attention weights
        assert_close(got[0], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("language_attention", ["pixels", "shared"])
def test_nothing_is_nan_where_every_pair_is_irrelevant(language_attention: str) -> None:
    block = attention_block(relevance_threshold=0.999, language_attention=language_attention)
    pixels, words = torch.randn(2, 6, 16, requires_grad=True), torch.randn(2, 4, 12, requires_grad=True)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0]])
    outputs = block(pixels, words, mask, (2, 3))
    assert all(output.isfinite().all() for output in outputs)
    (outputs[0].square().sum() + outputs[1].square().sum()).backward()
    assert pixels.grad.isfinite().all() and words.grad.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("language_attention", ["pixels", "shared"])
def test_padded_words_have_no_influence(language_attention: str) -> None:
    block = attention_block(language_attention=language_attention)
    pixels, words = torch.randn(1, 6, 16), torch.randn(1, 5, 12)
    mask = torch.tensor([[1.0, 1, 1, 0, 0]])
    other = words.clone()
    other[:, 3:] = 100.0
    first, second = block(pixels, words, mask, (2, 3)), block(pixels, other, mask, (2, 3))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1][:, :3], second[1][:, :3])
    config = RisamConfig(backbone_config=SAM, text_config=CLIP, hidden_size=16)
    decoder = MutualAwareMaskDecoder(config).eval()
    maps = first[0].transpose(1, 2).unflatten(2, (2, 3))
    assert_close(decoder(maps, first[1], mask), decoder(maps, second[1], mask))


@torch.no_grad()
def test_feature_enhancement_equals_equations_1_and_2() -> None:
    torch.manual_seed(0)
    enhance = FeatureEnhancement([6, 7, 9], 8).eval()
    shallow, middle, deep = (torch.randn(1, width, 3, 4) for width in (6, 7, 9))

    def fuse(fusion: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        columns = []
        for branch, features in ((fusion.first, first), (fusion.second, second)):
            tokens = features[0].flatten(1).T
            columns.append(torch.stack([branch[2](nn.functional.gelu(branch[0](token))) for token in tokens]))
        maps = torch.cat(columns, 1).T.reshape(1, 16, 3, 4)
        convolution, norm, _ = fusion.fuse
        normalized = nn.functional.batch_norm(
            nn.functional.conv2d(maps, convolution.weight, padding=1),
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
        )
        return nn.functional.gelu(normalized)

    early = fuse(enhance.early, shallow, middle)
    assert_close(enhance((shallow, middle, deep)), fuse(enhance.late, early, deep))


@torch.no_grad()
def test_the_mask_decoder_equals_equations_6_to_9() -> None:
    torch.manual_seed(0)
    config = RisamConfig(backbone_config=SAM, text_config=CLIP, hidden_size=16, num_attention_heads=2)
    decoder = MutualAwareMaskDecoder(config).eval()
    nn.init.normal_(decoder.query.query)
    maps, words = torch.randn(1, 16, 2, 3), torch.randn(1, 4, 16)
    positions = [
        [math.sin(place * 1e4 ** (-2 * (channel // 2) / 16) + (channel % 2) * math.pi / 2) for channel in range(16)]
        for place in range(4)
    ]
    tokens = torch.cat([decoder.query.query[0], words[0] + torch.tensor(positions)])  # F_c = [F_m, F_val]
    pixels = maps[0].flatten(1).T
    for block in decoder.blocks:
        pixels = block.pixel_norm(slow_heads(block.pixel_attention, pixels, pixels) + pixels)
        tokens = block.token_norm(slow_heads(block.token_attention, tokens, tokens) + tokens)
        pixels = block.cross_norm(slow_heads(block.cross_attention, pixels, tokens) + pixels)
    upsampled = decoder.upsample(pixels.T.reshape(1, 16, 2, 3))[0]
    query = decoder.project_query(tokens[0])
    expected = sum(weight * each for weight, each in zip(query, upsampled, strict=True))
    assert_close(decoder(maps, words, torch.ones(1, 4))[0], expected, atol=1e-5, rtol=1e-4)


def test_a_larger_threshold_masks_more_pairs() -> None:
    scores, mask = torch.randn(1, 50, 8), torch.ones(1, 8)
    kept = []
    for threshold in (None, 0.2, 0.35, 0.5, 0.8):
        attention, _ = attention_block(relevance_threshold=threshold).attend(scores, mask)
        assert_close(attention.sum(-1), torch.ones(1, 50))
        kept.append((attention > 0).sum().item())
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 5


def test_the_default_configuration_is_the_paper_s_main_model() -> None:
    config = RisamConfig()
    assert (config.backbone_config.hidden_size, config.backbone_config.num_hidden_layers) == (1280, 32)
    with torch.device("meta"):
        model = RisamForReferringSegmentation(config)
    assert model.backbone.model.vision_encoder.blocks == [15, 23, 31]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert 4e6 < trained < 8e6
    encoders = (model.backbone, model.text_encoder)
    assert not any(parameter.requires_grad for encoder in encoders for parameter in encoder.parameters())
    assert isinstance(model.mask_decoder, MutualAwareMaskDecoder) and isinstance(model.fusion, nn.ModuleList)
