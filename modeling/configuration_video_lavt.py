"""Configuration of video LAVT (https://huggingface.co/papers/2112.02244, journal version, section 3.2)."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checks_refseg import Conditions
from .configuration_encoders_refseg import BERT_BASE, require_stages
from .configuration_lavt import LavtConfig
from .configuration_refseg import EncoderConfig
from .configuration_video_swin_refseg import VideoSwinConfig

# The rows of table 1 in which a projection function has two convolutions side by side.
SIDE_BY_SIDE = (6, 7, 8, 10, 11, 12)


@strict
class VideoLavtConfig(LavtConfig):
    r"""
    Configuration of [`VideoLavtForReferringSegmentation`]. With no arguments it is the main model of the paper: Video
    Swin-B, BERT base and the 3D pixel-word attention module of structure 12. All fields of [`LavtConfig`] are there as
    well; these differ or are new.

    Args:
        backbone_config (`VideoSwinConfig` or `dict`, *optional*):
            Video Swin configuration of the encoder; defaults to Video Swin-B, drop path 0.3.
            `VideoSwinConfig.preset("tiny")` and `("small")` give the paper's smaller ones. An image encoder as of
            [`LavtConfig`] sees each frame by itself (table 8); frames then meet in the convolutions over time of the
            3D pixel-word attention module, in the statistics of `fusion_norm` and, if updated, in the words.
        fusion_type (`str`, *optional*, defaults to `"pixel_word"`):
            `"pixel_word"`: the 3D pixel-word attention module. `"pooled_sentence"`: its language maps are replaced by
            the mean of all words. `"vision_language"`: self-attention and cross-attention, without its product of
            language and visual features ("w/ VLF", table 9).
        pwam_structure (`int`, *optional*, defaults to 12):
            Row of the paper's table 1, from 1 to 12: which convolutions the four projection functions of the 3D
            pixel-word attention module have. Structure 1 is the "naive" video LAVT of table 4.
        pwam_projection (`str`, *optional*, defaults to `"released"`):
            Where nonlinearity and normalization of these functions stand where convolutions lie side by side.
            `"released"`: behind each of them, before they are added, and nothing behind the concatenation of structure
            8. `"paper"`: once, behind the sum or the concatenation (section 3.2.2: as in the original module). The
            default is that of the released weights, which give other masks with the other. Structures 1 to 5 and 9
            have nothing side by side.
        loss_type (`str`, *optional*, defaults to `"dice"`):
            As in [`LavtConfig`]; the paper trains some models with `"dice_boundary"`.
        bidirectional (`bool`, *optional*, defaults to `False`):
            Whether each stage updates the words too ("bi-3D-PWAM", section 4.2). Their side follows
            `fusion_activation` and `fusion_norm` with a layer normalization in the place of `"instance"`, as padded
            words have no other statistics than their own; `"batch"` is an error.

    Example:

    ```python
    >>> from hf_refseg import VideoLavtConfig, VideoLavtForReferringSegmentation, VideoSwinConfig

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
        "alignment_loss": ("in LAVT for images", lambda config: False),
        "fusion_norm": (
            'with fusion_type="pixel_word" or bidirectional=True',
            lambda config: config.fusion_type == "pixel_word" or config.bidirectional,
        ),
        "fusion_activation": (
            'with a fusion_type other than "vision_language", or bidirectional=True',
            lambda config: config.has_pwam or config.bidirectional,
        ),
        "fusion_hidden_size": ('with a fusion_type other than "vision_language"', lambda config: config.has_pwam),
        "fusion_dropout": ('with a fusion_type other than "vision_language"', lambda config: config.has_pwam),
        "pwam_structure": ('with a fusion_type other than "vision_language"', lambda config: config.has_pwam),
        "pwam_projection": (
            "with convolutions side by side: pwam_structure 6 to 8 or 10 to 12, and a fusion_type other than "
            '"vision_language"',
            lambda config: config.has_pwam and config.pwam_structure in SIDE_BY_SIDE,
        ),
    }
    takes_clips: ClassVar[bool] = True
    # Without a type, as in the base: no field.
    max_text_length = 22

    backbone_config: EncoderConfig = None
    # Other kinds than LAVT's, which mypy permits no subclass.
    fusion_type: Literal["pixel_word", "pooled_sentence", "vision_language"] = "pixel_word"  # type: ignore[assignment]
    loss_type: Literal["cross_entropy", "dice", "dice_focal", "dice_boundary"] = "dice"
    pwam_structure: int = 12
    pwam_projection: Literal["released", "paper"] = "released"
    bidirectional: bool = False

    def __post_init__(self, is_saved: bool = False, **kwargs):
        super().__post_init__(is_saved=is_saved, **kwargs)
        if not is_saved and self.bidirectional and self.fusion_norm == "batch":
            raise ValueError(
                'fusion_norm: padding would enter the "batch" statistics of the words: choose "instance", "layer" or '
                '"none", or bidirectional=False.'
            )

    def check_backbone(self):
        """Raises ValueError where the encoder is no Video Swin transformer and no image encoder with stages."""
        if self.backbone_config.model_type == VideoSwinConfig.model_type:
            return
        try:
            require_stages(self.backbone_config, "video LAVT")
        except ValueError as error:
            raise ValueError(f"{error} For clips that is a VideoSwinConfig.") from error

    @property
    def has_pwam(self) -> bool:
        """Whether the stages have a 3D pixel-word attention module, or one with pooled sentences."""
        return self.fusion_type != "vision_language"

    def validate_structure(self):
        """Checks the number of the structure; called on construction."""
        if not 1 <= self.pwam_structure <= 12:
            raise ValueError(f"pwam_structure: a number from 1 to 12 is needed, got {self.pwam_structure}.")


__all__ = ["VideoLavtConfig"]
