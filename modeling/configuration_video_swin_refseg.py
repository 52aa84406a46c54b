"""Configuration of Video Swin transformers."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_refseg import CheckedConfig

PRESETS = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
}


@strict
class VideoSwinConfig(CheckedConfig):
    """
    Configuration of [`VideoSwinModel`]. With no arguments it is Video Swin-B; [`~VideoSwinConfig.preset`] gives the
    other sizes.

    Args:
        patch_size (`int`, *optional*, defaults to 4):
            Height and width of a patch in pixels; in time it is one frame, as every frame needs its mask.
        embed_dim (`int`, *optional*, defaults to 128):
            Channels of the first stage; each further stage has twice as many.
        depths (`list[int]`, *optional*, defaults to `(2, 2, 18, 2)`):
            Layers of each stage, two at least in all.
        num_heads (`list[int]`, *optional*, defaults to `(4, 8, 16, 32)`):
            Attention heads in each stage.
        window_size (`list[int]`, *optional*, defaults to `(8, 7, 7)`):
            Frames, height and width of the attention's windows, in patches.
        mlp_ratio (`float`, *optional*, defaults to 4.0):
            Hidden channels of a layer's feed-forward network for each of its channels.
        drop_path_rate (`float`, *optional*, defaults to 0.1):
            Stochastic depth of the last layer; it grows linearly from 0 at the first.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout of patches, attention outputs and feed-forward networks.
        attention_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that weights and position tables start from.
    """

    model_type = "refseg_video_swin"

    patch_size: int = 4
    embed_dim: int = 128
    depths: list[int] | tuple[int, ...] = (2, 2, 18, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    window_size: list[int] | tuple[int, ...] = (8, 7, 7)
    mlp_ratio: float | int = 4.0
    drop_path_rate: float | int = 0.1
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    @classmethod
    def preset(cls, name: str, **fields: Any) -> "VideoSwinConfig":
        """Video Swin "tiny", "small" or "base", with other `fields`.

        Raises:
            ValueError: another name.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no Video Swin '{name}', only {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **fields})

    def validate_architecture(self):
        """Checks the sizes; called on construction."""
        if min(self.patch_size, self.embed_dim, *self.depths) < 1 or sum(self.depths) < 2:
            raise ValueError(
                f"patch_size, embed_dim and depths: at least 1 is needed, and two layers in all, got "
                f"{self.patch_size}, {self.embed_dim} and {list(self.depths)}."
            )
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"num_heads: one number per stage is needed, got {list(self.num_heads)}.")
        for stage, heads in enumerate(self.num_heads):
            if heads < 1 or self.embed_dim * 2**stage % heads:
                raise ValueError(
                    f"num_heads: {heads} heads do not divide a stage of {self.embed_dim * 2**stage} channels."
                )
        if len(self.window_size) != 3 or min(self.window_size) < 1:
            raise ValueError(
                f"window_size: frames, height and width are needed, each at least 1, got {list(self.window_size)}."
            )


__all__ = ["VideoSwinConfig"]
