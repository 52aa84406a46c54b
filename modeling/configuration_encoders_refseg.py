"""What the configurations of encoders say, whatever each of them calls it."""

from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec

BERT_BASE = SubConfigSpec(config_class=AutoConfig, model_type="bert")


def swin_b(drop_path_rate: float) -> SubConfigSpec:
    """Swin-B with window 12 at 480 pixels, with this stochastic depth: the image encoder of several papers."""
    return SubConfigSpec(
        config_class=AutoConfig,
        model_type="swin",
        init_kwargs={
            "image_size": 480,
            "embed_dim": 128,
            "depths": [2, 2, 18, 2],
            "num_heads": [4, 8, 16, 32],
            "window_size": 12,
            "drop_path_rate": drop_path_rate,
        },
    )
