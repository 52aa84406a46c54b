"""Configuration of M3Att (Liu et al., "Multi-Modal Mutual Attention and Iterative Interaction for Referring Image
Segmentation", 2023)."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checks_refseg import Conditions, require_at_least_one, require_even_heads
from .configuration_encoders_refseg import BERT_BASE, require_maps, swin_b
from .configuration_recurrent_text_refseg import RecurrentTextConfig
from .configuration_refseg import EncoderConfig, LanguageReconstructionConfig, RefSegConfig


@strict
class M3AttConfig(RefSegConfig):
    r"""
    Configuration of [`M3AttForReferringSegmentation`]. With no arguments it is the best model of the paper, Swin-B at
    480 by 480 pixels and BERT base, but for a fifth convolution in the mask decoder. The example gives its other one,
    Darknet-53 at 416 by 416 pixels and a recurrent text encoder. Each ablation of the paper's tables I to III is a
    field.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Image encoder that gives three maps: a `SwinConfig`, of which the last three stages are read, a
            `TimmBackboneConfig` or another one of transformers' with three `out_indices`, or one of the towers of
            CLIP, SigLIP, SAM and SAM 2; defaults to Swin-B, window 12.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any text encoder of transformers', or a `RecurrentTextConfig`; defaults to BERT base, uncased.
        image_size (`int`, *optional*, defaults to 480):
            Height and width of the images in pixels. Layers of the attention are made for the map of this size, so
            images of another size are an error.
        max_text_length (`int`, *optional*, defaults to 20):
            Most tokens N_t of a text, special ones included; the mask decoder has a channel for each. The paper takes
            15 words for RefCOCO and RefCOCO+, 20 for RefCOCOg. Not less than that of the processor, nor more than the
            text encoder has positions for.
        fusion_stride (`int`, *optional*, defaults to 16):
            The stages' maps are joined at 1 / `fusion_stride` of the image's size.
        hidden_size (`int`, *optional*, defaults to 256):
            Width C of encoder and decoder.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Heads of all attention but the mutual one.
        num_encoder_layers (`int`, *optional*, defaults to 2):
            Transformer layers over the image.
        encoder_feedforward (`int`, *optional*, defaults to 1024):
            Hidden channels of their feed-forward networks.
        num_decoder_layers (`int`, *optional*, defaults to 3):
            Layers of the mutual decoder (table I).
        attention_type (`str`, *optional*, defaults to `"shared"`):
            `"shared"`: mutual attention whose two directions share one matrix of scores. `"independent"`: with one
            each. `"generic"`: language-attended vision features (LAV) alone (table I). `"language"`: vision-attended
            language features (VAL) alone, with which training fails, as the paper says (section IV-B).
        residual_connections (`bool`, *optional*, defaults to `True`):
            Whether the result of each part of a decoder layer is added to its input, before it is normalized.
        interaction_type (`str`, *optional*, defaults to `"iterative"`):
            What happens between two decoder layers: `"iterative"`: section III-B. `"plain"`: the words as they are
            are added. `"none"`: nothing (table II, rows 2, 3 and 1).
        interaction_scale (`float`, *optional*, defaults to 1.0):
            What the learned weight of the added language starts from.
        mask_decoder (`str`, *optional*, defaults to `"kernels"`):
            `"kernels"`: section III-D. `"concatenation"`: the sum of the decoder's words beside each pixel.
            `"decoder_output"`: the decoder's words alone, without the encoded image (table III).
        mask_decoder_convolutions (`int`, *optional*, defaults to 5):
            How many the mask decoder stacks, the last one to a single channel included: 4 as in the paper, three of
            them behind an upsampling each (figure 6); or 5, with one more before the first upsampling. All but the
            last see 3 x 3 pixels: of a map that was upsampled for 1 x 1, as figure 6 draws them, nothing would become
            finer.
            Section III-D names "four stacked convolutional layers" with upsampling between them. The default is the
            reading of this library's first version, four of `decoder_hidden_size` channels and then the one to a
            single channel, where figure 6 counts the last one among the four. It stays, so that models that were saved
            before this field was there load as they were.
        decoder_hidden_size (`int`, *optional*, defaults to 512):
            Width of the mask decoder.
        cross_entropy_weight (`float`, *optional*, defaults to 1.0):
            Weight of the loss of the masks (equation 5).
        dice_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of a dice loss of the masks beside it, which the paper does not have; 0 = without it.
        language_reconstruction (`LanguageReconstructionConfig` or `dict`, *optional*):
            As in every method, but on by default (section III-C); `None` = without it (table II, row 2).

    Example:

    ```python
    >>> from hf_refseg import M3AttConfig, M3AttForReferringSegmentation

    >>> configuration = M3AttConfig(
    ...     image_size=416,
    ...     backbone_config={"model_type": "timm_backbone", "backbone": "darknet53", "out_indices": [-3, -2, -1]},
    ...     text_config={"model_type": "refseg_recurrent_text", "vocab_size": 10000},
    ...     language_reconstruction={"sentence_vector": "final_state"},
    ...     max_text_length=15,
    ...     mask_decoder_convolutions=4,
    ... )
    >>> model = M3AttForReferringSegmentation(configuration)
    ```"""

    model_type = "m3att"
    citation: ClassVar[str] = """@article{liu2023multimodal,
  title={Multi-Modal Mutual Attention and Iterative Interaction for Referring Image Segmentation},
  author={Liu, Chang and Ding, Henghui and Zhang, Yulun and Jiang, Xudong},
  journal={IEEE Transactions on Image Processing},
  year={2023}
}"""
    image_processor_defaults: ClassVar[dict[str, Any]] = {"mask_threshold": 0.35}
    sub_configs_defaults = {"backbone_config": swin_b(drop_path_rate=0.1), "text_config": BERT_BASE}
    num_image_maps: ClassVar[int] = 3
    own_encoders: ClassVar[dict[str, type[PreTrainedConfig]]] = {RecurrentTextConfig.model_type: RecurrentTextConfig}
    effective_with: ClassVar[Conditions] = {
        **RefSegConfig.effective_with,
        "interaction_type": ("with num_decoder_layers above 1", lambda config: config.num_decoder_layers != 1),
    }

    backbone_config: EncoderConfig = None
    text_config: EncoderConfig = None
    image_size: int = 480
    max_text_length: int = 20
    fusion_stride: int = 16
    hidden_size: int = 256
    num_attention_heads: int = 8
    num_encoder_layers: int = 2
    encoder_feedforward: int = 1024
    num_decoder_layers: int = 3
    attention_type: Literal["shared", "independent", "generic", "language"] = "shared"
    residual_connections: bool = True
    interaction_type: Literal["iterative", "plain", "none"] = "iterative"
    interaction_scale: float | int = 1.0
    mask_decoder: Literal["kernels", "concatenation", "decoder_output"] = "kernels"
    mask_decoder_convolutions: Literal[4, 5] = 5
    decoder_hidden_size: int = 512
    cross_entropy_weight: float | int = 1.0
    dice_loss_weight: float | int = 0.0
    language_reconstruction: LanguageReconstructionConfig | dict | None = field(default_factory=dict)

    def __post_init__(self, is_saved: bool = False, **kwargs):
        super().__post_init__(is_saved=is_saved, **kwargs)
        positions = super().longest_text
        # Earlier versions saved models with more channels than their texts can have tokens.
        if not is_saved and self.max_text_length > positions:
            raise ValueError(
                f"max_text_length: {self.max_text_length}, but the text encoder takes texts of at most {positions} "
                "tokens: lower it."
            )

    @property
    def longest_text(self) -> int:
        """Most tokens of a text that the model takes: its mask decoder has a channel for each."""
        return min(super().longest_text, self.max_text_length)

    @property
    def map_size(self) -> int:
        """Height and width of the map of image features."""
        return self.image_size // self.fusion_stride

    def validate_architecture(self):
        """Checks that the parts fit together; called on construction."""
        require_maps(self.backbone_config, "M3Att", self.num_image_maps)
        if self.image_size < 1 or self.fusion_stride < 1 or self.image_size % self.fusion_stride:
            raise ValueError(
                f"image_size: {self.image_size} has to be a multiple of fusion_stride, {self.fusion_stride}."
            )
        require_even_heads(self, 4)
        require_at_least_one(
            self, "max_text_length", "num_decoder_layers", "encoder_feedforward", "decoder_hidden_size"
        )
        if self.num_encoder_layers < 0:
            raise ValueError(f"num_encoder_layers: at least 0 is needed, got {self.num_encoder_layers}.")


__all__ = ["M3AttConfig"]
