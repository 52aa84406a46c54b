"""Configuration of MagNet (https://huggingface.co/papers/2312.12198)."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import Mask2FormerConfig

from .checks_refseg import Conditions, require_at_least_one
from .configuration_alignment_refseg import (
    AlignmentHalf,
    require_alignment_module,
    require_alignment_numbers,
    require_each_once,
)
from .configuration_encoders_refseg import BERT_BASE, require_stages, require_text_layers, stage_widths, swin_b
from .configuration_refseg import EncoderConfig, RefSegConfig


@strict
class MagNetConfig(RefSegConfig):
    r"""
    Configuration of [`MagNetForReferringSegmentation`]. With no arguments it is the main model of the paper: Swin-B,
    whose windows the paper does not name and LAVT's released weights have 12 x 12, BERT base, and a Mask2Former head
    with one query. The ablations of the paper's tables 3 e and 3 f are fields. Mask Grounding, which needs the
    tokenizer's ids, is off until `mask_grounding` is given.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Image encoder with four stages: a `SwinConfig`, or a `TimmBackboneConfig` of a model that has them;
            defaults to Swin-B, window 12, drop path 0.3.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of a text encoder whose layers take words and their mask alone, as those of BERT, RoBERTa,
            DistilBERT and CLIP do; defaults to BERT base, uncased.
        text_stage_layers (`list[int]`, *optional*, defaults to `(3, 6, 9, 12)`):
            For each stage the last layer of the text encoder in it, counted from 1.
        pyramid_scales (`list[int]`, *optional*, defaults to `(1, 2, 3, 6)`):
            Rows and columns of the pooled maps of the cross-modal alignment module (table 3 e). The full resolution is
            a scale beside them, which equations 8 and 9 do not name: with `[1]` there are two scales, with `[]`
            it is the only one.
        cam_image (`str`, *optional*, defaults to `"released"`):
            What the alignment module adds to the image's features on their way into the next stage: `"paper"`, what
            all scales and the full resolution attended to (equation 11, with the full resolution ours), or
            `"released"`, as the published weights need it: what the full resolution attended to, times a gate.
        cam_language (`str`, *optional*, defaults to `"paper"`):
            How words look at the image: `"paper"` (equations 6 to 10, with the full resolution beside the pyramid), or
            `"released"`, as the published weights need it: without a pyramid, and with a slip that keeps the image
            from all words that are no padding.
        cam_num_heads (`int`, *optional*, defaults to 1):
            Heads of the module's attention (equation 7); one as released. The words' side has them with
            `cam_language="paper"`.
        alignment_losses (`list[str]`, *optional*, defaults to `("pixel_to_pixel", "pixel_to_text")`):
            The halves of the cross-modal alignment loss (table 3 f); none, one or both.
        pixel_temperature (`float`, *optional*, defaults to 0.1):
            tau_1, of the pixel-to-pixel half.
        text_temperature (`float`, *optional*, defaults to 0.1):
            tau_2, of the pixel-to-text half.
        alignment_pixels (`int`, *optional*, defaults to 1024):
            How many pixels of the target and of the background enter the alignment loss at most, for each image.
        cross_entropy_weight (`float`, *optional*, defaults to 2.0):
            Weight of the binary cross-entropy (equation 15).
        dice_weight (`float`, *optional*, defaults to 2.0):
            Weight of the dice loss.
        alignment_weight (`float`, *optional*, defaults to 0.5):
            Weight of the cross-modal alignment loss.
        feature_size (`int`, *optional*, defaults to 256):
            Channels inside the Mask2Former head; a multiple of 32.
        mask_feature_size (`int`, *optional*, defaults to 256):
            Channels of its mask features.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Its attention heads.
        pixel_decoder_layers (`int`, *optional*, defaults to 4):
            Layers of its pixel decoder.
        pixel_decoder_stages (`int`, *optional*, defaults to 4):
            How many stages, the coarsest first, the deformable attention of the pixel decoder works on: all four, as
            released, or the three of Mask2Former itself, where a feature pyramid joins the finest one, which holds
            three quarters of all pixels.
        pixel_decoder_feedforward (`int`, *optional*, defaults to 1024):
            Hidden channels of their feed-forward networks.
        decoder_layers (`int`, *optional*, defaults to 9):
            Its masked-attention decoder layers.
        decoder_feedforward (`int`, *optional*, defaults to 2048):
            Hidden channels of their feed-forward networks.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that the gates start from.

    Example:

    ```python
    >>> from hf_refseg import MagNetConfig, MagNetForReferringSegmentation

    >>> configuration = MagNetConfig(pyramid_scales=[1, 2], alignment_losses=["pixel_to_text"])
    >>> model = MagNetForReferringSegmentation(configuration)
    ```"""

    model_type = "magnet"
    citation: ClassVar[str] = """@inproceedings{chng2024mask,
  title={Mask Grounding for Referring Image Segmentation},
  author={Chng, Yong Xien and Zheng, Henry and Han, Yizeng and Qiu, Xuchong and Huang, Gao},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2024}
}"""
    sub_configs_defaults = {"backbone_config": swin_b(drop_path_rate=0.3), "text_config": BERT_BASE}
    num_image_maps: ClassVar[int] = 4
    effective_with: ClassVar[Conditions] = {
        **RefSegConfig.effective_with,
        "pixel_temperature": (
            'with "pixel_to_pixel" among the alignment_losses',
            lambda config: "pixel_to_pixel" in config.alignment_losses,
        ),
        "text_temperature": (
            'with "pixel_to_text" among the alignment_losses',
            lambda config: "pixel_to_text" in config.alignment_losses,
        ),
        "alignment_pixels": ("with alignment_losses", lambda config: len(config.alignment_losses) > 0),
        "alignment_weight": ("with alignment_losses", lambda config: len(config.alignment_losses) > 0),
    }

    backbone_config: EncoderConfig = None
    text_config: EncoderConfig = None
    text_stage_layers: list[int] | tuple[int, ...] = (3, 6, 9, 12)
    pyramid_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    cam_image: Literal["paper", "released"] = "released"
    cam_language: Literal["paper", "released"] = "paper"
    cam_num_heads: int = 1
    alignment_losses: list[AlignmentHalf] | tuple[AlignmentHalf, ...] = ("pixel_to_pixel", "pixel_to_text")
    pixel_temperature: float | int = 0.1
    text_temperature: float | int = 0.1
    alignment_pixels: int = 1024
    cross_entropy_weight: float | int = 2.0
    dice_weight: float | int = 2.0
    alignment_weight: float | int = 0.5
    feature_size: int = 256
    mask_feature_size: int = 256
    num_attention_heads: int = 8
    pixel_decoder_layers: int = 4
    pixel_decoder_stages: Literal[3, 4] = 4
    pixel_decoder_feedforward: int = 1024
    decoder_layers: int = 9
    decoder_feedforward: int = 2048
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        require_stages(self.backbone_config, "MagNet")
        require_text_layers(self.text_config, "MagNet")

    @property
    def stage_widths(self) -> list[int]:
        """Channels of the visual features of each stage."""
        return stage_widths(self.backbone_config)

    @property
    def reads_final_words(self) -> bool:
        """Whether anything reads the words after the last stage; the masks only need those before its update."""
        return "pixel_to_text" in self.alignment_losses or self.presence_head

    @property
    def head_config(self) -> Mask2FormerConfig:
        """The head in the terms of Mask2Former."""
        return Mask2FormerConfig(
            feature_size=self.feature_size,
            hidden_dim=self.feature_size,
            mask_feature_size=self.mask_feature_size,
            num_attention_heads=self.num_attention_heads,
            encoder_layers=self.pixel_decoder_layers,
            encoder_feedforward_dim=self.pixel_decoder_feedforward,
            # Mask2Former counts the prediction before the first layer as well.
            decoder_layers=self.decoder_layers + 1,
            dim_feedforward=self.decoder_feedforward,
            num_queries=1,
            # Mask2Former counts strides from 8: with 8 a feature pyramid adds no level, with 4 it adds the finest one.
            common_stride=8 if self.pixel_decoder_stages == 4 else 4,
        )

    def validate_architecture(self):
        """Checks that the parts fit together; called on construction."""
        require_alignment_numbers(self)
        require_alignment_module(self)
        require_each_once("alignment_losses", self.alignment_losses)
        if self.alignment_pixels < 1:
            raise ValueError(f"alignment_pixels must be at least 1, got {self.alignment_pixels}.")
        require_at_least_one(
            self,
            "feature_size",
            "mask_feature_size",
            "num_attention_heads",
            "pixel_decoder_layers",
            "pixel_decoder_feedforward",
            "decoder_layers",
            "decoder_feedforward",
        )
        if self.feature_size % 32 or self.feature_size % self.num_attention_heads:
            raise ValueError(
                f"feature_size must be a multiple of 32 and of num_attention_heads ({self.num_attention_heads}), "
                f"got {self.feature_size}."
            )


__all__ = ["MagNetConfig"]
