"""Configuration of video LAVT (https://huggingface.co/papers/2112.02244, journal version, section 3.2)."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checks_refseg import Conditions
from .configuration_encoders_refseg import BERT_BASE
from .configuration_lavt import LavtConfig
from .video_swin_refseg import VideoSwinConfig


@strict
class VideoLavtConfig(LavtConfig):
    r"""
    Configuration of [`VideoLavtForReferringSegmentation`]. With no arguments it is the main model of the paper: Video
    Swin-B, BERT base and the 3D pixel-word attention module of structure 12. All fields of [`LavtConfig`] are there as
    well; these differ or are new.

    Args:
        backbone_config (`VideoSwinConfig` or `dict`, *optional*):
            Video Swin configuration of the encoder; defaults to Video Swin-B, drop path 0.3.
            `VideoSwinConfig.preset("tiny")` and `("small")` give the paper's smaller ones.
        pwam_structure (`int`, *optional*, defaults to 12):
            Row of the paper's table 1, from 1 to 12: which convolutions the four projection functions of the 3D
            pixel-word attention module have.
        loss_type (`str`, *optional*, defaults to `"dice"`):
            As in [`LavtConfig`]; the paper trains some models with `"dice_boundary"`.
        bidirectional (`bool`, *optional*, defaults to `False`):
            Whether each stage updates the words too ("bi-3D-PWAM", section 4.2). Their side follows
            `fusion_activation` and `fusion_norm` with a layer normalization in the place of `"instance"`, as padded
            words have no other statistics than their own; `"batch"` is an error.

    Example:

    ```python
    >>> from hf_refseg import VideoLavtConfig, VideoLavtForReferringSegmentation
    >>> from hf_refseg.modeling.video_swin_refseg import VideoSwinConfig

    >>> configuration = VideoLavtConfig(backbone_config=VideoSwinConfig.preset("tiny"), loss_type="dice_boundary")
    >>> model = VideoLavtForReferringSegmentation(configuration)
    ```"""

    model_type = "video_lavt"
    citation: ClassVar[str] = """@article{yang2024language,
  title={Language-Aware Vision Transformer for Referring Segmentation},
  author={Yang, Zhao and Wang, Jiaqi and Ye, Xubing and Tang, Yansong and Chen, Kai and Zhao, Hengshuang and
          Torr, Philip H. S.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year={2024}
}"""
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(config_class=VideoSwinConfig, init_kwargs={"drop_path_rate": 0.3}),
        "text_config": BERT_BASE,
    }
    own_encoders: ClassVar[dict[str, type[PreTrainedConfig]]] = {VideoSwinConfig.model_type: VideoSwinConfig}
    effective_with: ClassVar[Conditions] = {
        **LavtConfig.effective_with,
        "fusion_norm": (
            'with fusion_type="pixel_word" or bidirectional=True',
            lambda config: config.fusion_type == "pixel_word" or config.bidirectional,
        ),
    }
    takes_clips: ClassVar[bool] = True
    max_text_length: ClassVar[int] = 22

    backbone_config: PreTrainedConfig | dict | None = None
    loss_type: Literal["cross_entropy", "dice", "dice_focal", "dice_boundary"] = "dice"
    pwam_structure: int = 12
    bidirectional: bool = False

    def __post_init__(self, is_saved: bool = False, **kwargs):
        super().__post_init__(is_saved=is_saved, **kwargs)
        if not is_saved and self.bidirectional and self.fusion_norm == "batch":
            raise ValueError(
                'fusion_norm: padding would enter the "batch" statistics of the words: choose "instance", "layer" or '
                '"none", or bidirectional=False.'
            )

    def check_backbone(self):
        """Raises ValueError where the encoder is no Video Swin transformer."""
        if self.backbone_config.model_type != VideoSwinConfig.model_type:
            raise ValueError(
                f"backbone_config: video LAVT fuses language between the stages of a Video Swin transformer, got "
                f"model_type '{self.backbone_config.model_type}'. Pass a VideoSwinConfig."
            )

    def validate_fusion_width(self):
        """Checks that the 3D pixel-word attention module is as wide as its stage; called on construction."""
        if self.fusion_hidden_size is not None:
            raise ValueError(
                "fusion_hidden_size: the 3D pixel-word attention module is as wide as its stage: leave it at None."
            )

    def validate_structure(self):
        """Checks the number of the structure; called on construction."""
        if not 1 <= self.pwam_structure <= 12:
            raise ValueError(f"pwam_structure: a number from 1 to 12 is needed, got {self.pwam_structure}.")


__all__ = ["VideoLavtConfig"]
