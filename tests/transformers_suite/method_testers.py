"""The tiny model and inputs of every method, as transformers' test classes ask for them."""

from typing import Any, ClassVar

import torch
from tiny_configs import BERT, CLIP, SAM, SWIN, VIDEO_SWIN
from torch import Tensor

from hf_refseg import (
    BtmaeForReferringSegmentation,
    LavtForReferringSegmentation,
    M3AttForReferringSegmentation,
    MagNetForReferringSegmentation,
    RisamForReferringSegmentation,
    UnifiedLavtForReferringSegmentation,
    VideoLavtForReferringSegmentation,
)
from hf_refseg.modeling.configuration_refseg import RefSegConfig


class MethodTester:
    """Base of the testers; a method adds its model class and the fields of its tiny configuration."""

    model_class: ClassVar[type]
    fields: ClassVar[dict[str, Any]]
    # Of clips how many; nothing for images.
    frames: ClassVar[tuple[int, ...]] = ()

    def __init__(self, parent: Any, batch_size: int = 2, image_size: int = 64, seq_length: int = 7) -> None:
        self.parent = parent
        self.batch_size = batch_size
        self.image_size = image_size
        self.seq_length = seq_length
        self.is_training = True

    def get_config(self) -> RefSegConfig:
        return self.model_class.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self) -> tuple[RefSegConfig, dict[str, Tensor]]:
        inputs = {
            "pixel_values": torch.randn(self.batch_size, *self.frames, 3, self.image_size, self.image_size),
            "input_ids": torch.randint(5, BERT["vocab_size"], (self.batch_size, self.seq_length)),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
        }
        return self.get_config(), inputs


class LavtTester(MethodTester):
    model_class = LavtForReferringSegmentation
    fields = {"backbone_config": SWIN, "text_config": BERT}


class VideoLavtTester(MethodTester):
    model_class = VideoLavtForReferringSegmentation
    fields = {"backbone_config": VIDEO_SWIN, "text_config": BERT}
    frames = (2,)


class UnifiedLavtTester(MethodTester):
    model_class = UnifiedLavtForReferringSegmentation
    fields = {
        "backbone_config": VIDEO_SWIN,
        "image_backbone_config": {**SWIN, "embed_dim": VIDEO_SWIN["embed_dim"]},
        "text_config": BERT,
    }


class MagNetTester(MethodTester):
    model_class = MagNetForReferringSegmentation
    fields = {
        "backbone_config": {**SWIN, "embed_dim": 8},
        "text_config": {**BERT, "num_hidden_layers": 4},
        "text_stage_layers": [1, 2, 3, 4],
        "feature_size": 32,
        "mask_feature_size": 32,
        "num_attention_heads": 4,
        "pixel_decoder_layers": 1,
        "pixel_decoder_feedforward": 48,
        "decoder_layers": 3,
        "decoder_feedforward": 48,
    }


class M3AttTester(MethodTester):
    model_class = M3AttForReferringSegmentation
    fields = {
        "backbone_config": {**SWIN, "embed_dim": 8},
        "text_config": BERT,
        "image_size": 64,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "encoder_feedforward": 48,
        "decoder_hidden_size": 24,
    }


class BtmaeTester(MethodTester):
    model_class = BtmaeForReferringSegmentation
    fields = {
        "backbone_config": SWIN,
        "text_config": BERT,
        "special_token_ids": [0, 1, 2, 3, 4],
        "feature_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "num_impact_tokens": [4, 3, 2],
    }


class RisamTester(MethodTester):
    model_class = RisamForReferringSegmentation
    fields = {
        "backbone_config": SAM,
        "text_config": CLIP,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "freeze_image_encoder": False,
        "freeze_text_encoder": False,
    }


TESTERS = (
    LavtTester,
    VideoLavtTester,
    UnifiedLavtTester,
    MagNetTester,
    M3AttTester,
    BtmaeTester,
    RisamTester,
)
