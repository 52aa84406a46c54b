"""Configuration of BTMAE (Lee et al., "Synchronizing Vision and Language: Bidirectional Token-Masking AutoEncoder for
Referring Image Segmentation", 2023)."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .checks_refseg import Conditions, require_at_least_one, require_even_heads
from .configuration_encoders_refseg import BERT_BASE, require_maps, require_stages, swin_b
from .configuration_refseg import EncoderConfig, RefSegConfig


@strict
class BtmaeConfig(RefSegConfig):
    r"""
    Configuration of [`BtmaeForReferringSegmentation`]. With no arguments it is the main model of the paper: Swin-B,
    whose windows the paper does not name and LAVT's released weights have 12 x 12, and BERT base. Each ablation of
    the paper's tables 2 and 3 and of its figure 7 is a field; training in two stages is a schedule of the loss
    weights. Row (a) of table 2 is LAVT, `model_type="lavt"`.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Image encoder that gives four maps of strides 4, 8, 16 and 32: a `SwinConfig` with four stages, a
            `TimmBackboneConfig` (`out_indices=[-4, -3, -2, -1]`), such as resnet101 or darknet53, or another one of
            transformers' with four `out_indices`. The maps of plain vision transformers (DINO, CLIP, SigLIP, SAM) have
            one stride and are resized to these. Defaults to Swin-B, window 12, drop path 0.3.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of any text encoder; defaults to BERT base, uncased.
        special_token_ids (`list[int]`, *optional*, defaults to `(0, 100, 101, 102, 103)`):
            Tokens that are never masked: the tokenizer's `all_special_ids`; defaults to those of BERT, uncased.
        feature_size (`int`, *optional*, defaults to 256):
            Channels C of the visual features X_v.
        token_stride (`int`, *optional*, defaults to 16):
            Pixels along the side of a visual token: 8, 16 or 32.
        hidden_size (`int`, *optional*, defaults to 256):
            Channels C' of the tokens of both modalities, and of the mask head.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Heads of multi-head attention.
        intermediate_size (`int`, *optional*, defaults to 1024):
            Width of the feed-forward networks.
        num_encoder_layers (`int`, *optional*, defaults to 4):
            Encoder blocks E of each autoencoder.
        num_decoder_layers (`int`, *optional*, defaults to 4):
            Decoder blocks D of each autoencoder.
        image_autoencoder (`bool`, *optional*, defaults to `True`):
            Whether there is BTMAE(l->v). Without it there is `attention_encoder` (table 2).
        word_autoencoder (`bool`, *optional*, defaults to `True`):
            Whether there is BTMAE(v->l). Without it the word tokens stay as they are (table 2).
        attention_encoder (`str`, *optional*, defaults to `"tokens"`):
            What stands in the place of BTMAE(l->v). `"tokens"`: each visual token adds what a pixel-word attention as
            in LAVT gathers from the words, once. `"stages"`: LAVT's encoder, in which language enters behind each
            stage of the image encoder; it goes without BTMAE(v->l), which would reconstruct words from an image that
            has met them (table 2, row e).
        autoencoder_blocks (`str`, *optional*, defaults to `"cross_modal"`):
            `"cross_modal"`: blocks that attend to the other modality as well. `"single_modal"`: those of a traditional
            masked autoencoder, which never meet it (table 3, the rows that mask patches).
        image_mask_ratio (`float`, *optional*, defaults to 0.5):
            Share of the visual tokens that are masked (figure 7).
        word_mask_ratio (`float`, *optional*, defaults to 0.5):
            Share of a sentence's ordinary tokens that are masked (figure 7); of two or more, one at least is masked
            and one at least stays.
        image_masking (`str`, *optional*, defaults to `"token"`):
            `"token"`: the tokens of the whole image are masked. `"patch"`: the image itself is, before its encoder
            sees it, and the tokens of its masked patches are left out as well (table 3); it takes a second pass of the
            image encoder in training.
        mask_decoder (`str`, *optional*, defaults to `"impact_tokens"`):
            `"impact_tokens"`: impact token attention (section 3.3). `"simple"`: one more pixel-word attention and
            LAVT's simple decoder (table 2).
        num_impact_tokens (`list[int]`, *optional*, defaults to `(16, 8, 2)`):
            Impact tokens K of each layer of impact token attention.
        impact_queries (`str`, *optional*, defaults to `"encoder"`):
            The pixels that the impact tokens of the first layer are spread over: the encoder's features X_e
            (`"encoder"`), or the refined tokens T_v^r (`"refined"`). The layers after it go on with its result.
        impact_initializer_range (`float`, *optional*):
            Standard deviation of the normal distribution that the 1x1 convolution which spreads the pixels over the
            impact tokens starts from (equation 1). The paper does not say; `None` = as PyTorch starts it, with which
            all impact tokens of a new model are almost the same.
        image_reconstruction_weight (`float`, *optional*, defaults to 1.0):
            Weight of the reconstruction of the normalized image (equation 4).
        word_reconstruction_weight (`float`, *optional*, defaults to 1.0):
            Weight of the reconstruction of the masked words.
        iou_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the IoU loss (equation 5).
        cross_entropy_weight (`float`, *optional*, defaults to 1.0):
            Weight of the weighted binary cross-entropy (equation 5).
        loss_reduction (`str`, *optional*, defaults to `"mean"`):
            Of the reconstruction of the image and of the weighted cross-entropy: `"mean"`, over all pixels, or
            `"sum"`, over those of each sample, as equations 4 and 5 are printed. The paper does not say what weighs
            such sums against the IoU loss, which is at most 1.
        cross_entropy_sigma (`float`, *optional*, defaults to 1.0):
            The sigma of its pixel weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that the mask tokens start from.

    Example:

    ```python
    >>> from hf_refseg import BtmaeConfig, BtmaeForReferringSegmentation

    >>> configuration = BtmaeConfig(num_impact_tokens=[8, 2])
    >>> model = BtmaeForReferringSegmentation(configuration)
    ```"""

    model_type = "btmae"
    citation: ClassVar[str] = """@article{lee2023synchronizing,
  title={Synchronizing Vision and Language: Bidirectional Token-Masking AutoEncoder for Referring Image Segmentation},
  author={Lee, Minhyeok and Lee, Dogyoon and Lee, Jungho and Cho, Suhwan and Choi, Heeseung and Kim, Ig-Jae and
          Lee, Sangyoun},
  journal={arXiv preprint},
  year={2023}
}"""
    sub_configs_defaults = {"backbone_config": swin_b(drop_path_rate=0.3), "text_config": BERT_BASE}
    num_image_maps: ClassVar[int] = 4
    effective_with: ClassVar[Conditions] = {
        **RefSegConfig.effective_with,
        **dict.fromkeys(
            ("image_mask_ratio", "image_masking", "image_reconstruction_weight"),
            ("with image_autoencoder=True", lambda config: config.image_autoencoder),
        ),
        **dict.fromkeys(
            ("word_mask_ratio", "word_reconstruction_weight"),
            ("with word_autoencoder=True", lambda config: config.word_autoencoder),
        ),
        "attention_encoder": (
            "with image_autoencoder=False and word_autoencoder=False",
            lambda config: not config.image_autoencoder and not config.word_autoencoder,
        ),
        "autoencoder_blocks": (
            "with an autoencoder",
            lambda config: config.image_autoencoder or config.word_autoencoder,
        ),
        **dict.fromkeys(
            ("impact_queries", "impact_initializer_range"),
            ('with mask_decoder="impact_tokens"', lambda config: config.mask_decoder == "impact_tokens"),
        ),
    }

    backbone_config: EncoderConfig = None
    text_config: EncoderConfig = None
    special_token_ids: list[int] | tuple[int, ...] = (0, 100, 101, 102, 103)
    feature_size: int = 256
    token_stride: Literal[8, 16, 32] = 16
    hidden_size: int = 256
    num_attention_heads: int = 8
    intermediate_size: int = 1024
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    image_autoencoder: bool = True
    word_autoencoder: bool = True
    attention_encoder: Literal["tokens", "stages"] = "tokens"
    autoencoder_blocks: Literal["cross_modal", "single_modal"] = "cross_modal"
    image_mask_ratio: float = 0.5
    word_mask_ratio: float = 0.5
    image_masking: Literal["token", "patch"] = "token"
    mask_decoder: Literal["impact_tokens", "simple"] = "impact_tokens"
    num_impact_tokens: list[int] | tuple[int, ...] = (16, 8, 2)
    impact_queries: Literal["encoder", "refined"] = "encoder"
    impact_initializer_range: float | None = None
    image_reconstruction_weight: float | int = 1.0
    word_reconstruction_weight: float | int = 1.0
    iou_loss_weight: float | int = 1.0
    cross_entropy_weight: float | int = 1.0
    cross_entropy_sigma: float | int = 1.0
    loss_reduction: Literal["mean", "sum"] = "mean"
    initializer_range: float = 0.02

    def validate_architecture(self):
        """Checks that the parts fit together; called on construction."""
        require_maps(self.backbone_config, "BTMAE", self.num_image_maps)
        if self.attention_encoder == "stages":
            require_stages(self.backbone_config, 'BTMAE with attention_encoder="stages"')
        unknown = [number for number in self.special_token_ids if not 0 <= number < self.text_config.vocab_size]
        if unknown:
            raise ValueError(
                f"special_token_ids: {unknown} are not in the vocabulary of {self.text_config.vocab_size} tokens. "
                "Pass the tokenizer's all_special_ids."
            )
        require_even_heads(self, 4)
        for name in ("image_mask_ratio", "word_mask_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: a share between 0 and 1 is needed, got {getattr(self, name)}.")
        require_at_least_one(self, "feature_size", "intermediate_size", "num_encoder_layers", "num_decoder_layers")
        if not self.num_impact_tokens or min(self.num_impact_tokens) < 2:
            raise ValueError(
                f"num_impact_tokens: a number of at least 2 for each layer is needed, got "
                f"{list(self.num_impact_tokens)}."
            )
        if self.impact_initializer_range == 0:
            raise ValueError("impact_initializer_range: a number above 0 is needed: at 0 all impact tokens are equal.")


__all__ = ["BtmaeConfig"]
