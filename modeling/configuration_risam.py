"""Configuration of RISAM (Zhang et al., "Referring Image Segmentation via Mutual-Aware Attention Features", 2024)."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .checks_refseg import Conditions, require_at_least_one, require_even_heads
from .configuration_encoders_refseg import require_maps
from .configuration_refseg import EncoderConfig, RefSegConfig


@strict
class RisamConfig(RefSegConfig):
    r"""
    Configuration of [`RisamForReferringSegmentation`]. With no arguments it is the main model of the paper: the image
    encoder of SAM ViT-H and the text encoder of CLIP, both frozen. Each ablation of the paper's tables 2 to 5 is a
    field.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Image encoder that gives three maps: a `SamVisionConfig` with four global-attention blocks or more, a
            `TimmBackboneConfig` (table 7) or another one of transformers' with three `out_indices`, a `SwinConfig`, or
            one of the towers of CLIP, SigLIP and SAM 2; defaults to SAM ViT-H.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of any text encoder; defaults to that of CLIP ViT-B/16.
        freeze_image_encoder (`bool`, *optional*, defaults to `True`):
            Whether a new model trains nothing of its image encoder.
        freeze_text_encoder (`bool`, *optional*, defaults to `True`):
            The same for the text encoder.
        hidden_size (`int`, *optional*, defaults to 256):
            Width C of all that is trained.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Heads of the mask decoder's attention.
        feature_enhancement (`str`, *optional*, defaults to `"cascade"`):
            `"cascade"`: equations 1 and 2. `"none"`: the deepest features alone (table 2, row 1). `"vit_det"`:
            equations 1 and 2 on three scales of the deepest features (table 6, row 11). `"neck"`: what SAM's own neck,
            which is frozen with the encoder, makes of the last block (table 11, SAM).
        fusion_type (`str`, *optional*, defaults to `"mutual_attention"`):
            `"mutual_attention"`: section 3.3. `"convolution"`: convolutions over pixels and sentence (table 2, row 2).
            `"transformer_encoder"`, `"spatial_dynamic"`, `"bidirectional"`: TE of ReSTR, SDF of VLT, BCM of BRINet
            (table 3, rows 5 to 7). `"none"`: pixels and words enter the mask decoder as they are (table 11, SAM).
        num_attention_blocks (`int`, *optional*, defaults to 2):
            Mutual-aware attention blocks, or what stands in their place (table 4).
        relevance_threshold (`float`, *optional*, defaults to 0.35):
            Pairs of pixel and word whose relevance is lower are masked out (equation 4 and figure 8); `None` = no mask
            (table 3, row 8). The equation is printed with its cases exchanged; irrelevant pairs are to go, as the text
            says.
        language_attention (`str`, *optional*, defaults to `"pixels"`):
            What the attention from words to pixels is normalized over: `"pixels"`, or `"shared"` for the transposed
            attention of pixels to words, as equation 5 is printed.
        mask_decoder (`str`, *optional*, defaults to `"mutual_aware"`):
            `"mutual_aware"`: section 3.4. `"sam_words"`: SAM's mask decoder with the words as its prompts (table 2,
            row 3, and table 11); `from_encoders` takes its weights from the SAM model that the image encoder is part
            of. `"sam"`: the same with one output token, with the mean word alone as its prompt and from random
            weights.
        num_decoder_blocks (`int`, *optional*, defaults to 2):
            Blocks of the mask decoder.
        token_to_image_attention (`bool`, *optional*, defaults to `False`):
            Whether the decoder's tokens also attend to the pixels (table 5, row 9).
        linguistic_guidance (`bool`, *optional*, defaults to `True`):
            Whether the decoder's tokens hold the words beside the query (table 5, row 10).
        pixel_positions (`str`, *optional*, defaults to `"none"`):
            `"sine"`: sines and cosines of their row and column are added to the pixels in front of the mask decoder's
            blocks. `"none"`: what the image encoder tells of places has to do, as in the paper, whose SAM is
            pretrained.
        mask_feature_sizes (`list[int]`, *optional*):
            Channels of the map that is enlarged once, and of the one enlarged twice, whose product with the query is
            the mask. `None` = a quarter and an eighth of `hidden_size`, as in SAM; from a small `hidden_size` that is
            too few to read with.
        focal_loss_weight (`float`, *optional*, defaults to 0.5):
            Weight of the focal loss (equation 12).
        dice_loss_weight (`float`, *optional*, defaults to 0.5):
            Weight of the dice loss.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that the query token starts from.

    Example:

    ```python
    >>> from hf_refseg import RisamConfig, RisamForReferringSegmentation

    >>> configuration = RisamConfig(num_attention_blocks=1)
    >>> model = RisamForReferringSegmentation(configuration)
    ```"""

    model_type = "risam"
    citation: ClassVar[str] = """@article{zhang2024risam,
  title={{RISAM}: Referring Image Segmentation via Mutual-Aware Attention Features},
  author={Zhang, Mengxi and Liu, Yiming and Yin, Xiangjun and Yue, Huanjing and Yang, Jingyu},
  journal={arXiv preprint},
  year={2024}
}"""
    image_processor_defaults: ClassVar[dict[str, Any]] = {
        "size": {"longest_edge": 1024},
        "image_mean": IMAGENET_DEFAULT_MEAN,
        "image_std": IMAGENET_DEFAULT_STD,
        "mask_threshold": 0.35,
    }
    num_image_maps: ClassVar[int] = 3
    effective_with: ClassVar[Conditions] = {
        **RefSegConfig.effective_with,
        **dict.fromkeys(
            ("relevance_threshold", "language_attention"),
            ('with fusion_type="mutual_attention"', lambda config: config.fusion_type == "mutual_attention"),
        ),
        "num_attention_blocks": (
            'with another fusion_type than "none"',
            lambda config: config.fusion_type != "none",
        ),
        **dict.fromkeys(
            ("token_to_image_attention", "linguistic_guidance", "pixel_positions", "mask_feature_sizes"),
            ('with mask_decoder="mutual_aware"', lambda config: config.mask_decoder == "mutual_aware"),
        ),
    }
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="sam_vision_model",
            init_kwargs={
                "hidden_size": 1280,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "global_attn_indexes": [7, 15, 23, 31],
            },
        ),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_text_model"),
    }

    backbone_config: EncoderConfig = None
    text_config: EncoderConfig = None
    freeze_image_encoder: bool = True
    freeze_text_encoder: bool = True
    hidden_size: int = 256
    num_attention_heads: int = 8
    feature_enhancement: Literal["cascade", "none", "vit_det", "neck"] = "cascade"
    fusion_type: Literal[
        "mutual_attention", "convolution", "transformer_encoder", "spatial_dynamic", "bidirectional", "none"
    ] = "mutual_attention"
    num_attention_blocks: int = 2
    relevance_threshold: float | None = 0.35
    language_attention: Literal["pixels", "shared"] = "pixels"
    mask_decoder: Literal["mutual_aware", "sam", "sam_words"] = "mutual_aware"
    num_decoder_blocks: int = 2
    token_to_image_attention: bool = False
    linguistic_guidance: bool = True
    pixel_positions: Literal["none", "sine"] = "none"
    mask_feature_sizes: list[int] | tuple[int, ...] | None = None
    focal_loss_weight: float | int = 0.5
    dice_loss_weight: float | int = 0.5
    initializer_range: float = 0.02

    @property
    def reads_final_words(self) -> bool:
        """Whether anything reads the words that the last attention block makes."""
        return self.linguistic_guidance or self.mask_decoder != "mutual_aware" or self.presence_head

    @property
    def num_fusion_modules(self) -> int:
        """Fusion modules one after the other; a transformer encoder is one, with so many layers."""
        return 1 if self.fusion_type in ("transformer_encoder", "none") else self.num_attention_blocks

    def validate_architecture(self):
        """Checks that the parts fit together; called on construction."""
        require_maps(self.backbone_config, "RISAM", self.num_image_maps)
        require_even_heads(self, 8)
        if self.relevance_threshold is not None and not 0 <= self.relevance_threshold < 1:
            raise ValueError(
                f"relevance_threshold: a probability below 1, or None, is needed; got {self.relevance_threshold}."
            )
        require_at_least_one(self, "num_attention_blocks", "num_decoder_blocks")
        sizes = self.mask_feature_sizes
        if sizes is not None and (len(sizes) != 2 or min(sizes) < 1):
            raise ValueError(f"mask_feature_sizes: two numbers of at least 1 are needed, got {list(sizes)}.")
        if self.feature_enhancement == "neck":
            self.require_neck()
        if self.fusion_type == "none" and not self.linguistic_guidance:
            raise ValueError(
                'fusion_type="none": with linguistic_guidance=False no mask would follow from the text. Choose a '
                "fusion, or leave linguistic_guidance at True."
            )

    def require_neck(self) -> None:
        """Raises ValueError where the image encoder has no neck, or one that is not as wide as all that follows."""
        if self.backbone_config.model_type != "sam_vision_model":
            raise ValueError(
                f'feature_enhancement="neck": the neck is that of SAM\'s image encoder, got model_type '
                f"'{self.backbone_config.model_type}'. Pass a SamVisionConfig, or choose \"none\"."
            )
        if self.backbone_config.output_channels != self.hidden_size:
            raise ValueError(
                f'feature_enhancement="neck": hidden_size has to be that of the neck, '
                f"{self.backbone_config.output_channels} (output_channels of backbone_config), got {self.hidden_size}."
            )


__all__ = ["RisamConfig"]
