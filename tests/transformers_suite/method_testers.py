"""The tiny model and inputs of every method, as transformers' test classes ask for them."""

from typing import Any, ClassVar

import torch
from tiny_configs import BERT, SWIN
from tiny_methods import (
    TinyBtmae,
    TinyLavt,
    TinyM3Att,
    TinyMagNet,
    TinyMethod,
    TinyRisam,
    TinyUnifiedLavt,
    TinyVideoLavt,
)
from torch import Tensor

from hf_refseg.modeling.configuration_refseg import RefSegConfig


class MethodTester:
    """Base of the testers; a method adds its tiny model."""

    tiny: ClassVar[type[TinyMethod]]
    # Fields of the configuration that are other ones here.
    overrides: ClassVar[dict[str, Any]] = {}
    # Of clips how many; nothing for images.
    frames: ClassVar[tuple[int, ...]] = ()

    def __init__(self, parent: Any, batch_size: int = 2, image_size: int = 64, seq_length: int = 7) -> None:
        self.parent = parent
        self.batch_size = batch_size
        self.image_size = image_size
        self.seq_length = seq_length
        self.is_training = True

    def get_config(self) -> RefSegConfig:
        return self.tiny().tiny_config(**self.overrides)

    def prepare_config_and_inputs_for_common(self) -> tuple[RefSegConfig, dict[str, Tensor]]:
        inputs = {
            "pixel_values": torch.randn(self.batch_size, *self.frames, 3, self.image_size, self.image_size),
            "input_ids": torch.randint(5, BERT["vocab_size"], (self.batch_size, self.seq_length)),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
        }
        return self.get_config(), inputs


class LavtTester(MethodTester):
    tiny = TinyLavt


class VideoLavtTester(MethodTester):
    tiny = TinyVideoLavt
    frames = (2,)


class UnifiedLavtTester(MethodTester):
    tiny = TinyUnifiedLavt


class MagNetTester(MethodTester):
    tiny = TinyMagNet
    overrides = {"backbone_config": {**SWIN, "embed_dim": 8}}


class M3AttTester(MethodTester):
    tiny = TinyM3Att


class BtmaeTester(MethodTester):
    tiny = TinyBtmae


class RisamTester(MethodTester):
    tiny = TinyRisam


TESTERS = (
    LavtTester,
    VideoLavtTester,
    UnifiedLavtTester,
    MagNetTester,
    M3AttTester,
    BtmaeTester,
    RisamTester,
)
