"""Tiny models of others with random weights and their processors, saved as their makers publish them."""

import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    ViTImageProcessor,
)

# Letters inside of a word and at its end, and what begins and ends a text.
CLIP_WORDS = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
CLIP_WORDS = [*CLIP_WORDS, "<|startoftext|>", "<|endoftext|>"]
START, END = len(CLIP_WORDS) - 2, len(CLIP_WORDS) - 1


def drawn_anew(model: nn.Module, std: float = 0.3) -> nn.Module:
    """The model in evaluation mode, with weights so large that its answers depend on picture and text."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(std=std, generator=generator)
    return model.eval()


def clip_tokenizer() -> CLIPTokenizer:
    """Spells every word."""
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(CLIP_WORDS)}, merges=[])


def tiny_clipseg() -> tuple[CLIPSegForImageSegmentation, CLIPSegProcessor]:
    """Sees 32 x 32 pixels, and 16 tokens of a text."""
    text = {
        "vocab_size": len(CLIP_WORDS),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    # Its token of a class is a vector, which is not drawn anew.
    torch.manual_seed(0)
    images = ViTImageProcessor(size={"height": 32, "width": 32})
    return drawn_anew(CLIPSegForImageSegmentation(config)), CLIPSegProcessor(images, clip_tokenizer())


def sam3_config() -> Sam3Config:
    """Sees 56 x 56 pixels, and 32 tokens of a text; finds six instances."""
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_layers": 1}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "pretrain_image_size": 28,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [0],
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": len(CLIP_WORDS),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "projection_dim": 16,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    return Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config=text,
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config={**small, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )


def tiny_sam3() -> tuple[Sam3Model, Sam3Processor]:
    images = Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    return drawn_anew(Sam3Model(sam3_config())), Sam3Processor(images, clip_tokenizer())


def save(folder: Path, model, processor) -> str:
    """Saves model and processor into a folder; its name."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def noise(width: int, height: int) -> Image.Image:
    """A picture of one size, the same each time."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)
