"""Configuration of LAVT (https://huggingface.co/papers/2112.02244)."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .checks_refseg import Conditions, require_at_least_one
from .configuration_alignment_refseg import AlignmentLossConfig, require_alignment_module, require_alignment_numbers
from .configuration_encoders_refseg import BERT_BASE, require_stages, require_text_layers, stage_widths, swin_b
from .configuration_refseg import EncoderConfig, RefSegConfig

# Of fusion and pathway, and of what MagNet puts in their place.
OF_FUSION = (
    *("fusion_hidden_size", "fusion_num_heads", "fusion_activation", "fusion_dropout"),
    *("language_pathway", "decoder_features"),
)
OF_ALIGNMENT = ("text_stage_layers", "pyramid_scales", "cam_image", "cam_language", "cam_num_heads")


@strict
class LavtConfig(RefSegConfig):
    r"""
    Configuration of [`LavtForReferringSegmentation`]. With no arguments it is the main model of the journal version:
    Swin-B, BERT base and the Dice loss. Where released weights differ from what is printed, the defaults are theirs,
    and windows, of which nothing is printed, are 12 x 12 as there; as printed, but for a normalization and a ReLU at
    the end of each rho_i (equation 10), it is `fusion_activation="relu"`, `fusion_hidden_size=512` and
    `decoder_norm="none"`. Each ablation of the paper's tables 5 and 6 is a field, but for the grouped attention of
    table 6 d.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Image encoder: a `SwinConfig`, or a `TimmBackboneConfig` of a model with stages, those that its
            `out_indices` name; defaults to Swin-B, window 12, drop path 0.3.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of any text encoder; defaults to BERT base, uncased.
        text_dropout (`bool`, *optional*, defaults to `True`):
            Whether the text encoder's dropout is on in training. The released two-module variant trains with `False`,
            the one-module variant ("lavt_one") with `True`.
        fusion_type (`str`, *optional*, defaults to `"pixel_word"`):
            `"pixel_word"`: the pixel-word attention module (section 3.1.2). `"pooled_sentence"`: its language maps are
            replaced by the mean of all words (table 5, row 3). `"bidirectional"`: they are those of BCAM, where each
            pixel attends to all pixels as well (table 6 d). `"cross_modal_alignment"`: MagNet's module stands in the
            place of fusion and pathway, and the text encoder runs stage by stage beside the image encoder (MagNet,
            section 3.3 and table 3 e).
        fusion_hidden_size (`int`, *optional*):
            The number of channels C_i of the pixel-word attention module: of queries, keys, values, language maps and
            projected visual features (equations 1 to 6). `None` is the width of the stage, as in released weights.
            Section 3.3 says 512 for every stage, where V_i and F_i, which equation 9 adds, are as wide as the stage:
            with a number, the projection omega_o of equation 7 leads back to that width.
        fusion_num_heads (`list[int]`, *optional*, defaults to `(1, 1, 1, 1)`):
            Attention heads of the pixel-word attention, per stage.
        fusion_activation (`str`, *optional*, defaults to `"gelu"`):
            Nonlinearity of the projections of equations 6 and 7: `"gelu"` (released weights) or `"relu"` (as printed).
        fusion_norm (`str`, *optional*, defaults to `"instance"`):
            Normalization of the query and of the language maps: `"instance"`, `"layer"`, `"batch"` or `"none"`
            (table 6 b).
        fusion_dropout (`float`, *optional*, defaults to 0.0):
            Dropout after the output projection of equation 7.
        language_pathway (`str`, *optional*, defaults to `"sum"`):
            How fused features go on into the next stage: by the `"sum"` of equation 9, by `"replacement"` of the
            visual features, by `"concatenation"` with them (section 3.1.3, end), or `"none"`: they do not (table 5,
            row 2). `True` and `False` are other names of `"sum"` and `"none"`.
        gate_activation (`str`, *optional*, defaults to `"tanh"`):
            Last nonlinearity of the language gate: `"tanh"`, `"sigmoid"`, or `"none"` for a pathway without a gate
            (table 6 a and c).
        decoder_features (`str`, *optional*, defaults to `"F"`):
            Features the decoder reads: `"F"` (fused), `"E"` (after the language pathway) or `"V"` (visual, stages 2 to
            4) (table 6 c).
        decoder_norm (`str`, *optional*, defaults to `"layer"`):
            What stands between these features and the decoder: a `"layer"` normalization of each stage, as in released
            weights, or `"none"`: the decoder reads F_i itself, as equation 10 is printed. With both rho_i is that of
            released weights: a batch normalization and a ReLU stand behind its second convolution too, where section
            3.1.4 has them between the two alone.
        decoder_hidden_size (`int`, *optional*):
            Width of the decoder; defaults to half the width of the last stage, which is 512 for Swin-B.
        loss_type (`str`, *optional*, defaults to `"dice"`):
            `"dice"` (journal, sections 3.1.4 and 3.3), `"cross_entropy"` (conference), `"dice_focal"` or
            `"dice_boundary"`.
        class_weights (`list[float]`, *optional*, defaults to `(0.9, 1.1)`):
            Weights of background and foreground in the cross-entropy.
        boundary_loss_weight (`float`, *optional*, defaults to 0.05):
            Weight of the boundary loss in `"dice_boundary"`.
        text_stage_layers (`list[int]`, *optional*, defaults to `(3, 6, 9, 12)`):
            With `fusion_type="cross_modal_alignment"`, as the next four: what MagNet's configuration says of it.
        pyramid_scales (`list[int]`, *optional*, defaults to `(1, 2, 3, 6)`):
            As in MagNet.
        cam_image (`str`, *optional*, defaults to `"released"`):
            As in MagNet.
        cam_language (`str`, *optional*, defaults to `"paper"`):
            As in MagNet.
        cam_num_heads (`int`, *optional*, defaults to 1):
            As in MagNet.
        alignment_loss (`AlignmentLossConfig` or `dict`, *optional*):
            MagNet's cross-modal alignment loss (its section 3.4 and table 3 f) on the decoder's last map Y_1 and the
            words, an auxiliary task of training alone, with the loss `alignment`; `None` = without it, `{}` = with its
            defaults.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that the language gates start from.

    Example:

    ```python
    >>> from hf_refseg import LavtConfig, LavtForReferringSegmentation

    >>> configuration = LavtConfig(gate_activation="sigmoid")
    >>> model = LavtForReferringSegmentation(configuration)
    ```"""

    model_type = "lavt"
    citation: ClassVar[str] = """@inproceedings{yang2022lavt,
  title={{LAVT}: Language-Aware Vision Transformer for Referring Image Segmentation},
  author={Yang, Zhao and Wang, Jiaqi and Tang, Yansong and Chen, Kai and Zhao, Hengshuang and Torr, Philip H. S.},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2022}
}"""
    sub_configs_defaults = {"backbone_config": swin_b(drop_path_rate=0.3), "text_config": BERT_BASE}
    num_image_maps: ClassVar[int] = 4
    effective_with: ClassVar[Conditions] = {
        **RefSegConfig.effective_with,
        "text_dropout": ("with freeze_text_encoder=False", lambda config: not config.freeze_text_encoder),
        "fusion_norm": (
            'with fusion_type="pixel_word" or "bidirectional"',
            lambda config: config.fusion_type in ("pixel_word", "bidirectional"),
        ),
        "gate_activation": (
            'with a language_pathway other than "none", and a fusion_type other than "cross_modal_alignment"',
            lambda config: config.language_pathway != "none" and not config.is_aligned,
        ),
        **dict.fromkeys(
            OF_FUSION,
            ('with a fusion_type other than "cross_modal_alignment"', lambda config: not config.is_aligned),
        ),
        **dict.fromkeys(OF_ALIGNMENT, ('with fusion_type="cross_modal_alignment"', lambda config: config.is_aligned)),
        "class_weights": ('with loss_type="cross_entropy"', lambda config: config.loss_type == "cross_entropy"),
        "boundary_loss_weight": ('with loss_type="dice_boundary"', lambda config: config.loss_type == "dice_boundary"),
    }

    backbone_config: EncoderConfig = None
    text_config: EncoderConfig = None
    text_dropout: bool = True
    fusion_type: Literal["pixel_word", "pooled_sentence", "bidirectional", "cross_modal_alignment"] = "pixel_word"
    fusion_hidden_size: int | None = None
    fusion_num_heads: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    fusion_activation: Literal["gelu", "relu"] = "gelu"
    fusion_norm: Literal["instance", "layer", "batch", "none"] = "instance"
    fusion_dropout: float | int = 0.0
    language_pathway: bool | Literal["sum", "replacement", "concatenation", "none"] = "sum"
    gate_activation: Literal["tanh", "sigmoid", "none"] = "tanh"
    decoder_features: Literal["F", "E", "V"] = "F"
    decoder_norm: Literal["layer", "none"] = "layer"
    decoder_hidden_size: int | None = None
    loss_type: Literal["cross_entropy", "dice", "dice_focal", "dice_boundary"] = "dice"
    class_weights: list[float | int] | tuple[float | int, ...] = (0.9, 1.1)
    boundary_loss_weight: float | int = 0.05
    text_stage_layers: list[int] | tuple[int, ...] = (3, 6, 9, 12)
    pyramid_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    cam_image: Literal["paper", "released"] = "released"
    cam_language: Literal["paper", "released"] = "paper"
    cam_num_heads: int = 1
    alignment_loss: AlignmentLossConfig | dict | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.check_backbone()
        if self.decoder_hidden_size is None:
            self.decoder_hidden_size = self.stage_widths[-1] // 2

    def __setattr__(self, name: str, value: Any) -> None:
        # The field was a bool in earlier versions, whose files hold it.
        if name == "language_pathway" and isinstance(value, bool):
            value = "sum" if value else "none"
        super().__setattr__(name, value)

    def check_backbone(self):
        """Raises ValueError where the image encoder is of a kind that the model cannot cut into stages."""
        require_stages(self.backbone_config, "LAVT")

    @property
    def is_aligned(self) -> bool:
        """Whether MagNet's alignment module stands in the place of fusion and pathway."""
        return self.fusion_type == "cross_modal_alignment"

    @property
    def reads_final_words(self) -> bool:
        """Whether anything reads the words after the last stage; the masks only need those before its update."""
        loss = self.alignment_loss
        return self.presence_head or (isinstance(loss, AlignmentLossConfig) and "pixel_to_text" in loss.halves)

    @property
    def stage_widths(self) -> list[int]:
        """Channels of the visual features of each stage."""
        return stage_widths(self.backbone_config)

    @property
    def fusion_widths(self) -> list[int]:
        """The channels C_i inside the pixel-word attention module of each stage."""
        if self.fusion_hidden_size is None:
            return self.stage_widths
        return [self.fusion_hidden_size] * len(self.stage_widths)

    @property
    def num_decoder_stages(self) -> int:
        """How many of the last stages the decoder reads: V_1 holds no language, so it is left out (section 4.3.1)."""
        return len(self.stage_widths) - (self.decoder_features == "V")

    def fuses(self, stage: int) -> bool:
        """Whether a stage meets the language: all but the last one where the decoder reads V_i alone."""
        return stage < len(self.stage_widths) - 1 or self.decoder_features != "V"

    def validate_architecture(self):
        """Checks that the parts fit together; called on construction."""
        if len(self.fusion_num_heads) != len(self.stage_widths):
            raise ValueError(
                f"fusion_num_heads: one number per stage is needed, {len(self.stage_widths)} in all, "
                f"got {list(self.fusion_num_heads)}."
            )
        require_at_least_one(self, "decoder_hidden_size")
        if self.fusion_hidden_size is not None:
            require_at_least_one(self, "fusion_hidden_size")
        for width, heads in zip(self.fusion_widths, self.fusion_num_heads, strict=True):
            if heads < 1 or width % heads:
                raise ValueError(f"fusion_num_heads: {heads} heads do not divide a stage of {width} channels.")
        require_alignment_numbers(self)
        if self.is_aligned:
            require_text_layers(self.text_config, "MagNet's alignment module")
            require_alignment_module(self)
        if len(self.class_weights) != 2 or min(self.class_weights) <= 0:
            raise ValueError(f"class_weights: two positive numbers are needed, got {list(self.class_weights)}.")
        if self.decoder_features in ("E", "V") and self.language_pathway == "none":
            raise ValueError(
                f'decoder_features="{self.decoder_features}" holds no language without the language pathway: set '
                'language_pathway="sum", or decoder_features="F".'
            )


__all__ = ["LavtConfig"]
