"""What RISAM is compared with: other fusion modules, ViT-Det's neck, SAM's mask decoder and SAM as it is."""

import math

import pytest
import torch
from slow_attention import slow_heads, slow_softmax
from tiny_configs import CLIP, SAM
from tiny_methods import TinyRisam
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel, SamConfig, SamModel, SamVisionConfig, SamVisionModel

from hf_refseg import RisamConfig, RisamForReferringSegmentation
from hf_refseg.modeling.comparisons_risam import (
    BidirectionalCrossModal,
    JointTransformerEncoder,
    SimplePyramid,
    SpatialDynamicFusion,
)
from hf_refseg.modeling.sam_decoder_risam import WordPromptedSamDecoder

BASELINE = {"feature_enhancement": "neck", "fusion_type": "none", "mask_decoder": "sam_words"}
SIZES = {"hidden_size": 32, "num_attention_heads": 4}


def tiny_config(**overrides) -> RisamConfig:
    return RisamConfig(**{"backbone_config": SAM, "text_config": CLIP, **SIZES, **overrides})


def whole_sam(**decoder) -> SamModel:
    """A tiny SAM model whose decoder is shaped like that of the pretrained one."""
    torch.manual_seed(0)
    vision = {**SAM, "output_channels": 32, "num_pos_feats": 16}
    config = SamConfig(
        vision_config={name: value for name, value in vision.items() if name != "model_type"},
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 8},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 256, **decoder},
    )
    sam = SamModel(config).eval()
    # As they start, they are too small to be seen in what the decoder makes.
    nn.init.normal_(sam.prompt_encoder.no_mask_embed.weight)
    nn.init.normal_(sam.shared_image_embedding.positional_embedding)
    for parameter in sam.mask_decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return sam


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> tuple[SamModel, str, str]:
    """A SAM model, and the folders where it and a text encoder are saved."""
    folder, sam = tmp_path_factory.mktemp("encoders"), whole_sam()
    sam.save_pretrained(folder / "sam")
    CLIPTextModel(CLIPTextConfig(**CLIP)).save_pretrained(folder / "clip")
    return sam, str(folder / "sam"), str(folder / "clip")


@torch.no_grad()
def test_sam_s_decoder_is_that_of_the_pretrained_model_with_words_as_its_prompts(encoders) -> None:
    sam, vision, text = encoders
    model = RisamForReferringSegmentation.from_encoders(vision, text, mask_decoder="sam_words", **SIZES)
    pixels, words = torch.randn(2, 32, 8, 8), torch.randn(2, 5, 32)
    expected, _ = sam.mask_decoder(
        image_embeddings=pixels,
        image_positional_embeddings=sam.get_image_wide_positional_embeddings().expand(2, -1, -1, -1),
        sparse_prompt_embeddings=words[:, None],
        dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
        multimask_output=False,
    )
    assert_close(model.mask_decoder(pixels, words, torch.ones(2, 5)), expected[:, 0, 0])


@torch.no_grad()
def test_padding_is_no_prompt_of_sam_s_decoder() -> None:
    torch.manual_seed(0)
    decoder = WordPromptedSamDecoder(tiny_config(mask_decoder="sam_words")).eval()
    pixels, words = torch.randn(1, 32, 4, 4), torch.randn(1, 6, 32)
    mask = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    assert_close(decoder(pixels, words, mask), decoder(pixels, words[:, :3], mask[:, :3]))
    assert not torch.allclose(decoder(pixels, words, torch.ones(1, 6)), decoder(pixels, words, mask))


def test_sam_alone_trains_a_linear_layer_and_its_mask_decoder(encoders) -> None:
    sam, vision, text = encoders
    model = RisamForReferringSegmentation.from_encoders(vision, text, **BASELINE, **SIZES)
    inputs = TinyRisam().inputs()
    with torch.no_grad():
        (features,) = model.get_image_features(inputs["pixel_values"]).maps
        assert_close(features, sam.get_image_embeddings(inputs["pixel_values"]))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    linear = {"fusion.0.project_words.weight", "fusion.0.project_words.bias"}
    assert linear < trained
    assert {name.split(".")[0] for name in trained - linear} == {"mask_decoder"}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1.0)
    model(**inputs, mask_labels=TinyRisam().labels()).loss.backward()
    optimizer.step()
    assert {name for name, value in model.named_parameters() if not torch.equal(value, before[name])} <= trained
    assert not torch.equal(model.fusion[0].project_words.weight, before["fusion.0.project_words.weight"])


def test_a_decoder_that_is_not_there_or_has_other_sizes_is_named(encoders, tmp_path) -> None:
    _, vision, text = encoders
    SamVisionModel(SamVisionConfig(**SAM)).save_pretrained(tmp_path / "vision")
    fields = {"mask_decoder": "sam_words", **SIZES}
    with pytest.raises(ValueError, match=r"vision is of model_type 'sam_vision_model', which has none: pass a whole"):
        RisamForReferringSegmentation.from_encoders(str(tmp_path / "vision"), text, **fields)
    with pytest.raises(ValueError, match="num_attention_heads is 4, here 2"):
        RisamForReferringSegmentation.from_encoders(vision, text, **{**fields, "num_attention_heads": 2})


def weighted(weights: list[float], vectors: list[Tensor]) -> Tensor:
    return sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("fusion", [SpatialDynamicFusion, BidirectionalCrossModal])
def test_serial_fusions_attend_to_words_and_then_to_pixels(fusion: type[nn.Module]) -> None:
    torch.manual_seed(0)
    block, scale = fusion(tiny_config(), 12).eval(), math.sqrt(32)
    pixels, words = torch.randn(6, 32), torch.randn(5, 12)
    z_v = [block.project_pixels.weight @ pixel for pixel in pixels]
    z_l = [block.project_words.weight @ word for word in words]
    expected = []
    for pixel in z_v:
        added = weighted(slow_softmax([float(pixel @ word) / scale for word in z_l[:4]]), z_l[:4])
        if fusion is BidirectionalCrossModal:
            query = block.project_contexts.weight @ added
            added = added + weighted(slow_softmax([float(query @ other) / scale for other in z_v]), z_v)
        expected.append(block.pixel_norm(pixel + added))
    mask = torch.tensor([[1.0, 1, 1, 1, 0]])  # the last word is padding
    made, unchanged, weights = block(pixels[None], words[None], mask, (2, 3))
    assert_close(made[0], torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert_close(unchanged[0], torch.stack(z_l))
    assert weights.shape == (1, 1, 6, 5) and not weights[..., 4].any()


@torch.no_grad()
def test_a_joint_encoder_attends_from_pixels_and_words_to_both() -> None:
    torch.manual_seed(0)
    encoder = JointTransformerEncoder(tiny_config(num_attention_blocks=2), 12).eval()
    assert len(encoder.layers) == 2
    pixels, words = torch.randn(6, 32), torch.randn(4, 12)
    tokens = torch.cat([pixels, encoder.project_words(words)])
    for layer in encoder.layers:
        normalized = layer.attention_norm(tokens)
        tokens = tokens + slow_heads(layer.attention, normalized, normalized)
        tokens = tokens + layer.mlp[2](nn.functional.gelu(layer.mlp[0](layer.mlp_norm(tokens))))
    padded = torch.cat([words, torch.full((2, 12), 50.0)])[None]
    made = encoder(pixels[None], padded, torch.tensor([[1.0, 1, 1, 1, 0, 0]]), (2, 3))
    assert_close(made[0][0], encoder.norm(tokens[:6]), atol=1e-5, rtol=1e-4)
    assert_close(made[1][0, :4], encoder.norm(tokens[6:]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_pyramid_holds_half_the_same_and_twice_the_stride_of_one_map() -> None:
    torch.manual_seed(0)
    pyramid, features = SimplePyramid(6, 8).eval(), torch.randn(1, 6, 3, 5)
    upsampled = torch.zeros(1, 3, 6, 10)
    for row in range(3):
        for column in range(5):
            patch = torch.einsum("i,iohw->ohw", features[0, :, row, column], pyramid.finer.weight)
            upsampled[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = patch
    upsampled += pyramid.finer.bias[:, None, None]
    pooled = torch.zeros(1, 6, 2, 3)  # an odd row or column has a place of its own
    for row in range(2):
        for column in range(3):
            part = features[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            pooled[0, :, row, column] = part.flatten(1).amax(1)
    resized = [
        nn.functional.interpolate(project(maps), size=(3, 5), mode="bilinear", align_corners=False)
        for project, maps in zip(pyramid.project, (upsampled, features, pooled), strict=True)
    ]
    for made, expected in zip(pyramid(features), resized, strict=True):
        assert_close(made, expected)


@torch.no_grad()
def test_the_neck_of_vit_det_reads_the_last_map_alone() -> None:
    enhancement = TinyRisam().build(feature_enhancement="vit_det").feature_enhancement
    shallow, middle, deep = (torch.randn(1, 24, 4, 4) for _ in range(3))
    made = enhancement((shallow, middle, deep))
    assert torch.equal(enhancement((middle, shallow, deep)), made)
    assert not torch.allclose(enhancement((shallow, middle, middle)), made)


@pytest.mark.parametrize("fusion_type", ["transformer_encoder", "spatial_dynamic", "bidirectional", "none"])
def test_every_weight_of_a_fusion_learns_also_where_nobody_reads_its_words(fusion_type: str) -> None:
    guidance = {} if fusion_type == "none" else {"linguistic_guidance": False}
    model = TinyRisam().build(fusion_type=fusion_type, **guidance).train()
    model(**TinyRisam().inputs(), mask_labels=TinyRisam().labels()).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.fusion.named_parameters()}
    # The bias of keys adds the same to all scores of a query.
    assert [name for name, grad in gradients.items() if not grad.any() and not name.endswith("key.bias")] == []
