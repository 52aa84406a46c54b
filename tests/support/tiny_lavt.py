"""A tiny LAVT with random weights and its processor, for tests of everything around the model."""

from functools import cache

import torch
from model_copies import ModelAsBuilt
from transformers import BertConfig, BertTokenizer, SwinConfig

from hf_refseg import LavtConfig, LavtForReferringSegmentation, RefSegImageProcessor, RefSegProcessor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "left", "right", "red", "green", "dog", "circle"]


def tiny_lavt() -> LavtForReferringSegmentation:
    """In evaluation mode; the same weights each time."""
    return _as_built().copy()


@cache
def _as_built() -> ModelAsBuilt:
    torch.manual_seed(0)
    # Building, copying, saving and loading take a time for each weight: two stages are enough for what is around it.
    backbone = SwinConfig(image_size=64, embed_dim=16, depths=[1, 1], num_heads=[1, 1], window_size=4)
    text = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    config = LavtConfig(backbone_config=backbone, text_config=text, fusion_num_heads=[1, 1])
    return ModelAsBuilt(LavtForReferringSegmentation(config).eval())


def tiny_processor() -> RefSegProcessor:
    """Resizes to 64 x 64; knows the words in `WORDS`."""
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    return RefSegProcessor(RefSegImageProcessor(size={"height": 64, "width": 64}), tokenizer)
