"""Configuration of unified LAVT (https://huggingface.co/papers/2112.02244, journal version, section 3.2.3)."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_encoders_refseg import stage_widths, swin_b
from .configuration_refseg import EncoderConfig
from .configuration_video_lavt import VideoLavtConfig
from .configuration_video_swin_refseg import VideoSwinConfig


@strict
class UnifiedLavtConfig(VideoLavtConfig):
    r"""
    Configuration of [`UnifiedLavtForReferringSegmentation`]. With no arguments it is the main model of the paper:
    Video Swin-B for clips, Swin-B for images, BERT base. All fields of [`VideoLavtConfig`] are there as well.

    Args:
        image_backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Swin configuration of the encoder of images, with stages as many and as wide as those of `backbone_config`;
            defaults to Swin-B, window 12, drop path 0.3. The paper names no window; 12 is that of LAVT's released
            weights.
        image_streams_in_training (`str`, *optional*, defaults to `"mixed"`):
            What encodes images in training; at inference it is the encoder of images alone, as the paper says.
            `"both"`: the sum of both encoders, as of the central frame of clips (figure 7), of which inference then
            uses one part, and answers worse. `"single"`: the encoder of images alone. `"mixed"`: the one or the
            other, drawn for each image, so that every step trains both. With `"single"` images train nothing of the
            encoder of clips: a training on images alone leaves it as it is, and one on images and clips on several
            GPUs needs the option `ddp_find_unused_parameters`.

    Example:

    ```python
    >>> from hf_refseg import UnifiedLavtConfig, UnifiedLavtForReferringSegmentation

    >>> configuration = UnifiedLavtConfig(loss_type="dice")
    >>> model = UnifiedLavtForReferringSegmentation(configuration)
    ```"""

    model_type = "unified_lavt"
    citation: ClassVar[str] = """@article{yang2024language,
  title={Language-Aware Vision Transformer for Referring Segmentation},
  author={Yang, Zhao and Wang, Jiaqi and Ye, Xubing and Tang, Yansong and Chen, Kai and Zhao, Hengshuang and
          Torr, Philip H. S.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year={2024}
}"""
    sub_configs_defaults = {
        **VideoLavtConfig.sub_configs_defaults,
        "image_backbone_config": swin_b(drop_path_rate=0.3),
    }

    image_backbone_config: EncoderConfig = None
    image_streams_in_training: Literal["mixed", "both", "single"] = "mixed"

    def check_backbone(self):
        """Raises ValueError where the encoder of clips is no Video Swin transformer."""
        if self.backbone_config.model_type != VideoSwinConfig.model_type:
            raise ValueError(
                "backbone_config: unified LAVT encodes clips by a Video Swin transformer, got model_type "
                f"'{self.backbone_config.model_type}'. Pass a VideoSwinConfig, and that of images as "
                "image_backbone_config."
            )

    def validate_image_backbone(self):
        """Checks that the two encoders fit together; called on construction."""
        image = self.image_backbone_config
        if image.model_type != "swin":
            raise ValueError(
                "image_backbone_config: images are encoded by a Swin transformer, got model_type "
                f"'{image.model_type}'. Pass a SwinConfig."
            )
        if image.patch_size != self.backbone_config.patch_size:
            raise ValueError(
                f"image_backbone_config: patches have {image.patch_size} pixels for images and "
                f"{self.backbone_config.patch_size} for clips; choose the same patch_size for both."
            )
        widths = stage_widths(image)
        if widths != self.stage_widths:
            raise ValueError(
                f"image_backbone_config: the stages of the encoder of images are {widths} wide, those of the encoder "
                f"of clips {self.stage_widths}; what they encode is added up, so choose the same embed_dim and number "
                "of depths for both."
            )


__all__ = ["UnifiedLavtConfig"]
