"""A tiny Florence-2 with random weights and its processor, as transformers makes them."""

import torch
from tiny_systems import drawn_anew
from transformers import (
    BartTokenizer,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
)

PLACES = [f"<loc_{number}>" for number in range(1000)]
_LETTERS = ["Ġ", *"abcdefghijklmnopqrstuvwxyzL<>_0123456789/.,"]


def tiny_florence() -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """Sees images stretched to 32 x 32, reads and writes 64 tokens; it writes nothing but places and an end."""
    processor = tiny_florence_processor()
    tokenizer = processor.tokenizer
    vision = {
        "model_type": "florence_vision",
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, 16],
        "num_heads": [1, 2],
        "num_groups": [1, 2],
        "window_size": 4,
        "projection_dim": 16,
        "max_position_embeddings": 10,
    }
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 64,
    }
    config = Florence2Config(image_token_id=tokenizer.image_token_id, text_config=text, vision_config=vision)
    torch.manual_seed(0)
    model = drawn_anew(Florence2ForConditionalGeneration(config))
    allowed = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(PLACES)}
    model.generation_config.suppress_tokens = [token for token in range(len(tokenizer)) if token not in allowed]
    # Else one place follows itself.
    model.generation_config.no_repeat_ngram_size = 1
    return model, processor


def tiny_florence_processor() -> Florence2Processor:
    """Knows letters, places, and what stands between outlines."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *_LETTERS]
    tokenizer = BartTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens([*PLACES, "<sep>", "<poly>", "</poly>"])
    # Of 32 pixels there are four by four patches, and one token for all of them.
    size = {"height": 32, "width": 32}
    image_processor = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False, image_seq_length=17)
    return Florence2Processor(image_processor, tokenizer, post_processor_config={"polygons": {}})
