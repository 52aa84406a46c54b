"""Tiny models and processors to export: one that encodes an image once, and one that reads the text meanwhile."""

import torch
from tiny_configs import SAM, SHORT_BERT, SWIN
from tiny_lavt import WORDS
from transformers import BertTokenizer, PreTrainedModel

from hf_refseg import (
    LavtConfig,
    LavtForReferringSegmentation,
    RefSegImageProcessor,
    RefSegProcessor,
    RisamConfig,
    RisamForReferringSegmentation,
)

TEXT = {**SHORT_BERT, "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 16}
# Of two stages with a single layer each.
BACKBONE = {**SWIN, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}


def lavt_to_export(**fields) -> PreTrainedModel:
    """With a presence head; the same weights each time."""
    torch.manual_seed(0)
    config = {"backbone_config": BACKBONE, "text_config": TEXT, "fusion_num_heads": [1, 1], "presence_head": True}
    return LavtForReferringSegmentation(LavtConfig(**{**config, **fields})).eval()


def risam_to_export(**fields) -> PreTrainedModel:
    """Without a presence head; the same weights each time."""
    torch.manual_seed(0)
    config = {"backbone_config": SAM, "text_config": TEXT, "hidden_size": 32, "num_attention_heads": 4}
    return RisamForReferringSegmentation(RisamConfig(**{**config, "pixel_positions": "sine", **fields})).eval()


def processor_to_export(size: dict[str, int], **options) -> RefSegProcessor:
    """Takes texts of up to 9 tokens."""
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    return RefSegProcessor(RefSegImageProcessor(size=size), tokenizer, max_text_length=9, **options)
