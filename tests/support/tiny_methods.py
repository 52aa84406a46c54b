"""The tiny model of every method, with random weights, and inputs and labels for it."""

import pickle
from functools import lru_cache
from typing import Any, ClassVar

import torch
from model_copies import ModelAsBuilt
from tiny_configs import BERT, CLIP, IMAGE_SWIN, SAM, SWIN, VIDEO_SWIN
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
from hf_refseg.modeling.modeling_refseg import RefSegPreTrainedModel


class TinyMethod:
    """Base of the methods; one adds the class of its model and the fields of a configuration of few parameters."""

    model_class: ClassVar[type[RefSegPreTrainedModel]]
    fields: ClassVar[dict[str, Any]]
    # Height and width of the images.
    size: ClassVar[tuple[int, int]] = (64, 72)

    def tiny_config(self, **overrides: Any) -> RefSegConfig:
        """The tiny configuration with these fields changed."""
        return self.model_class.config_class(**{**self.fields, **overrides})

    def build(self, **overrides: Any) -> RefSegPreTrainedModel:
        """The model of `tiny_config` in evaluation mode; the same weights each time."""
        return _as_built(type(self), pickle.dumps(overrides)).copy()

    def inputs(self, batch: int = 2, tokens: int = 6) -> dict[str, Tensor]:
        """Images and texts, the same each time."""
        generator = torch.Generator().manual_seed(1)
        return {
            "pixel_values": torch.randn(batch, 3, *self.size, generator=generator),
            "input_ids": torch.randint(5, 90, (batch, tokens), generator=generator),
            "attention_mask": torch.ones(batch, tokens, dtype=torch.long),
        }

    def labels(self, batch: int = 2) -> Tensor:
        """A rectangle in each image."""
        labels = torch.zeros(batch, *self.size, dtype=torch.long)
        labels[:, 10:40, 20:50] = 1
        return labels

    def training_inputs(self) -> tuple[dict[str, Tensor], Tensor]:
        """What the method is trained on: inputs and labels."""
        return self.inputs(), self.labels()


@lru_cache(maxsize=32)
def _as_built(method: type[TinyMethod], overrides: bytes) -> ModelAsBuilt:
    """Kept, since the tests of a method ask for the same few models again and again."""
    tiny = method()
    torch.manual_seed(0)
    return ModelAsBuilt(tiny.model_class(tiny.tiny_config(**pickle.loads(overrides))).eval())


class TinyClipMethod(TinyMethod):
    """Base of the methods that take clips as well as images."""

    def clips(self, batch: int = 2, frames: int = 3, size: tuple[int, int] = (40, 48)) -> dict[str, Tensor]:
        """Clips and texts, the same each time."""
        generator = torch.Generator().manual_seed(2)
        return {**self.inputs(batch), "pixel_values": torch.randn(batch, frames, 3, *size, generator=generator)}

    def clip_labels(self, batch: int = 2, frames: int = 3, size: tuple[int, int] = (40, 48)) -> Tensor:
        """A rectangle in each frame."""
        labels = torch.zeros(batch, frames, *size, dtype=torch.long)
        labels[..., 8:24, 10:30] = 1
        return labels

    def training_inputs(self) -> tuple[dict[str, Tensor], Tensor]:
        """Clips of which some frames are not annotated."""
        labels = self.clip_labels()
        labels[0, 0] = -100
        return self.clips(), labels


class TinyLavt(TinyMethod):
    model_class = LavtForReferringSegmentation
    fields = {
        "backbone_config": {**SWIN, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 2, 4], "drop_path_rate": 0.1},
        "text_config": BERT,
    }


class TinyVideoLavt(TinyClipMethod):
    model_class = VideoLavtForReferringSegmentation
    fields = {"backbone_config": VIDEO_SWIN, "text_config": BERT}
    size = (48, 56)


class TinyUnifiedLavt(TinyClipMethod):
    model_class = UnifiedLavtForReferringSegmentation
    fields = {
        "backbone_config": VIDEO_SWIN,
        "image_backbone_config": IMAGE_SWIN,
        "text_config": BERT,
        # Nothing is drawn, and what every method shows on images reaches the encoder of clips as well.
        "image_streams_in_training": "both",
    }


class TinyMagNet(TinyMethod):
    model_class = MagNetForReferringSegmentation
    head = {
        "feature_size": 32,
        "mask_feature_size": 32,
        "num_attention_heads": 4,
        "pixel_decoder_layers": 1,
        "pixel_decoder_feedforward": 48,
        "decoder_layers": 3,
        "decoder_feedforward": 48,
    }
    fields = {
        "backbone_config": {**SWIN, "num_heads": [1, 2, 2, 4], "drop_path_rate": 0.1},
        "text_config": {**BERT, "num_hidden_layers": 4},
        "text_stage_layers": [1, 2, 3, 4],
        "pyramid_scales": [1, 2],
        **head,
    }


class TinyM3Att(TinyMethod):
    model_class = M3AttForReferringSegmentation
    fields = {
        "backbone_config": {**SWIN, "embed_dim": 8},
        "text_config": {
            **BERT,
            "hidden_size": 24,
            "intermediate_size": 32,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "image_size": 64,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "encoder_feedforward": 48,
        "decoder_hidden_size": 24,
    }
    size = (64, 64)


class TinyBtmae(TinyMethod):
    model_class = BtmaeForReferringSegmentation
    fields = {
        "backbone_config": SWIN,
        "text_config": {**BERT, "hidden_size": 24, "intermediate_size": 32},
        "special_token_ids": [0, 1, 2, 3, 4],
        "feature_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "num_impact_tokens": [4, 3, 2],
    }


class TinyRisam(TinyMethod):
    model_class = RisamForReferringSegmentation
    fields = {
        "backbone_config": SAM,
        "text_config": CLIP,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "freeze_image_encoder": False,
        "freeze_text_encoder": False,
    }
    size = (64, 64)
