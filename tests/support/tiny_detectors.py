"""Tiny detectors, SAM and SAM 2 with random weights and their processors, as transformers makes them."""

from typing import Any

import torch
from tiny_systems import CLIP_WORDS, END, START, clip_tokenizer, drawn_anew
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    DetrImageProcessor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    OmDetTurboConfig,
    OmDetTurboForObjectDetection,
    OmDetTurboProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    SwinConfig,
)

# Grounding DINO knows the numbers of the tokens that part phrases.
_BERT_TOKENS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
_WORDS = ["a", "the", "left", "right", "red", "dog", "cat", "circle", "on"]

Loaded = tuple[PreTrainedModel, ProcessorMixin]


def tiny_grounding_dino() -> Loaded:
    """Sees images at 64 pixels of the shorter side, reads 32 tokens."""
    return _grounding_dino(GroundingDinoForObjectDetection, GroundingDinoConfig)


def tiny_mm_grounding_dino() -> Loaded:
    """As `tiny_grounding_dino`."""
    return _grounding_dino(MMGroundingDinoForObjectDetection, MMGroundingDinoConfig)


def tiny_owlv2() -> Loaded:
    """Sees images padded to a square of 48 pixels, reads 16 tokens, one for each letter."""
    model = _built(Owlv2ForObjectDetection, Owlv2Config(**_owl_sizes()))
    return model, Owlv2Processor(Owlv2ImageProcessor(size={"height": 48, "width": 48}), clip_tokenizer())


def tiny_owlvit() -> Loaded:
    """As `tiny_owlv2`, but stretches images."""
    model = _built(OwlViTForObjectDetection, OwlViTConfig(**_owl_sizes()))
    return model, OwlViTProcessor(OwlViTImageProcessor(size={"height": 48, "width": 48}), clip_tokenizer())


def tiny_omdet_turbo() -> Loaded:
    """Sees images stretched to 64 x 64, reads 40 tokens, one for each letter."""
    config = OmDetTurboConfig(
        backbone_config=_swin(),
        text_config=CLIPTextConfig(**_clip_sizes(40, 32)),
        image_size=64,
        num_queries=10,
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=32,
        text_projection_out_dim=32,
        task_encoder_hidden_dim=16,
        class_embed_dim=32,
        encoder_hidden_dim=16,
        vision_features_channels=[16] * 3,
        encoder_in_channels=[16, 32, 64],
        encoder_attention_heads=2,
        encoder_dim_feedforward=16,
        decoder_hidden_dim=16,
        decoder_num_heads=2,
        decoder_num_layers=2,
        decoder_dim_feedforward=16,
    )
    image_processor = DetrImageProcessor(size={"height": 64, "width": 64}, do_pad=False)
    return _built(OmDetTurboForObjectDetection, config), OmDetTurboProcessor(image_processor, clip_tokenizer())


def tiny_sam() -> Loaded:
    """Sees images at 64 pixels of the longer side, padded to a square."""
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "mlp_dim": 16,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config=_mask_decoder(),
    )
    image_processor = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return _built(SamModel, config), SamProcessor(image_processor)


def tiny_sam2() -> Loaded:
    """Sees images stretched to 64 x 64."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [],
    }
    config = Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        # Else rounding decides which of several masks it is.
        mask_decoder_config={**_mask_decoder(), "dynamic_multimask_via_stability": False},
    )
    return _built(Sam2Model, config, std=0.15), Sam2Processor(Sam2ImageProcessor(size={"height": 64, "width": 64}))


def of_videos(model: Sam2Model, processor: Sam2Processor) -> Loaded:
    """A SAM 2 with the weights of this one, and those with which a model remembers frames."""
    config = Sam2VideoConfig(
        vision_config=model.config.vision_config.to_dict(),
        prompt_encoder_config={
            **model.config.prompt_encoder_config.to_dict(),
            "model_type": "sam2_video_prompt_encoder",
        },
        mask_decoder_config={**model.config.mask_decoder_config.to_dict(), "model_type": "sam2_video_mask_decoder"},
        image_size=64,
        memory_attention_hidden_size=16,
        memory_attention_num_layers=1,
        memory_attention_num_attention_heads=1,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=16,
        memory_encoder_output_channels=8,
        mask_downsampler_embed_dim=16,
        memory_fuser_embed_dim=16,
        memory_fuser_intermediate_dim=16,
    )
    with_memory = Sam2VideoModel(config).eval()
    with_memory.load_state_dict(model.state_dict(), strict=False)
    frames = Sam2VideoVideoProcessor(size={"height": 64, "width": 64})
    return with_memory, Sam2VideoProcessor(processor.image_processor, frames)


def _grounding_dino(model_class: type[PreTrainedModel], config_class: type) -> Loaded:
    text = {
        "model_type": "bert",
        "vocab_size": 1100,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    config = config_class(
        backbone_config=_swin(),
        text_config=text,
        num_queries=10,
        max_text_len=32,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
    )
    model = _built(model_class, config)
    # Of as many channels the products would be so large that all scores are 0 or 1.
    model.model.decoder.layer_norm.weight.data *= 0.2
    image_processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return model, GroundingDinoProcessor(image_processor, _bert_tokenizer())


def _owl_sizes() -> dict[str, Any]:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 8,
    }
    return {"text_config": _clip_sizes(16, 16), "vision_config": vision, "projection_dim": 16}


def _swin() -> SwinConfig:
    return SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
    )


def _mask_decoder() -> dict[str, int]:
    return {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }


def _bert_tokenizer() -> BertTokenizer:
    vocab = _BERT_TOKENS | {word: 200 + index for index, word in enumerate(_WORDS)}
    used = set(vocab.values())
    unused = {f"[unused{number}]": number for number in range(1100) if number not in used}
    # One that keeps capitals, so that a test sees who makes them small.
    return BertTokenizer(vocab=vocab | unused, do_lower_case=False)


def _clip_sizes(length: int, channels: int) -> dict[str, int]:
    return {
        "vocab_size": len(CLIP_WORDS),
        "hidden_size": channels,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": length,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }


def _built(model_class: type[PreTrainedModel], config: PreTrainedConfig, std: float = 0.3) -> PreTrainedModel:
    """The same weights each time."""
    torch.manual_seed(0)
    return drawn_anew(model_class(config), std)
