"""An image LAVT that clip models start from, and what to compare of them."""

import torch
from tiny_configs import BERT, SWIN
from torch import Tensor, nn

from hf_refseg import LavtConfig, LavtForReferringSegmentation


def image_lavt(**overrides) -> LavtForReferringSegmentation:
    """Its stages with shifted windows have maps of two windows by three for images of 128 by 192 pixels."""
    torch.manual_seed(0)
    backbone = {**SWIN, "depths": [1, 1, 2, 1], "drop_path_rate": 0.1}
    model = LavtForReferringSegmentation(LavtConfig(backbone_config=backbone, text_config=BERT, **overrides)).eval()
    for name, parameter in model.named_parameters():
        if "relative_position_bias_table" in name or name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)  # new models have zeros there
        if ".gate." in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def fused_maps(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the decoder reads."""
    return model.fuse(*model.encode_inputs(**inputs)).maps


def image_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    ids = torch.randint(5, 90, (2, 6), generator=generator)
    return {
        "pixel_values": torch.randn(2, 3, 128, 192, generator=generator),
        "input_ids": ids,
        "attention_mask": mask,
    }
