"""BTMAE: two autoencoders that mask the tokens of one modality and read the other, and impact token attention
(https://huggingface.co/papers/2311.17952).

| paper | here |
| --- | --- |
| figure 2 | `BtmaeForReferringSegmentation` |
| section 3.1: X_v, X_e | `VisualFeatures` (visual_features_btmae) |
| section 3.1: T_v, T_l | `PixelTokens` |
| section 3.2: T_v^m | `draw_masked_tokens` (autoencoder_btmae) |
| section 3.2, figure 3 a and b: steps 1 and 2, T_v^r, T_l^r | `BTMAE` (autoencoder_btmae) |
| figure 3: a block of encoder or decoder | `BtmaeBlock` (autoencoder_btmae) |
| figure 3 c | `BtmaeForReferringSegmentation.forward` |
| equations 1 to 3: S_v, X_v^r, T_v^i | `ImpactTokenAttention` (mask_decoder_btmae) |
| section 3.3: ITT | `ImpactTokenTransformer` (mask_decoder_btmae) |
| equation 4 | `image_reconstruction_loss` (losses_refseg) |
| section 3.4: the loss of words | `reconstructed_word_loss` (losses_refseg) |
| equation 5 | `iou_loss` (losses_refseg), `error_weighted_cross_entropy` (losses_refseg) |
| equation 6 | `BtmaeForReferringSegmentation` |
| table 2, LAVT's encoder | `LanguageAwareEncoding` (visual_features_btmae) |
| table 2, LAVT's decoder | `SimpleDecoder` (mask_decoder_btmae) |
| table 3, patches | `tokens_of_masked_image` |
| table 3, traditional MAE | `SingleModalBlock` (autoencoder_btmae) |
| figure 5 | `BtmaeForReferringSegmentation.reconstruct` |
| figure 6 | `BtmaeForReferringSegmentation.make_output_with_impact_maps` |

Equations, sections, tables and figures are those of the paper.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .autoencoder_btmae import (
    ATTENTION_REFINEMENTS,
    BTMAE,
    NoRefinement,
    count_kept,
    draw_masked_tokens,
)
from .configuration_btmae import BtmaeConfig
from .explanations_refseg import Explainable, Explanation, ImpactMaps, Reconstruction
from .input_checks_refseg import check_keywords
from .layers_refseg import (
    AttentionKernel,
    GateProjection,
    VocabularyHead,
    generator_of_draws,
    map_positions,
    ordinary_words,
    resize,
    sinusoidal_positions,
    to_map,
    to_tokens,
)
from .losses_refseg import (
    error_weighted_cross_entropy,
    image_reconstruction_loss,
    iou_loss,
    reconstructed_word_loss,
)
from .mask_decoder_btmae import (
    MASK_DECODERS,
    BtmaeFeatures,
    ImpactSampling,
    ImpactTokenAttention,
    ImpactTokens,
)
from .modeling_outputs_refseg import (
    ALWAYS_GIVEN,
    DecoderOutput,
    EncodedPass,
    FusedAndDecoded,
    ImageFeatures,
    ReferringSegmentationOutput,
    what_to_record,
)
from .modeling_refseg import RefSegPreTrainedModel
from .text_encoders_refseg import build_text_encoder
from .visual_features_btmae import ENCODINGS, VisualFeatures


@dataclass
class BtmaeOutput(ReferringSegmentationOutput):
    """What BTMAE returns.

    The reconstructions are there where `mask_labels` or `output_reconstructions` are given, and as far as the model
    has the autoencoders; impact maps and their words where `output_impact_maps` is given. All are detached.

    Args:
        reconstructed_pixels (`torch.FloatTensor` of shape `(batch, 3, height, width)`):
            The normalized images, as BTMAE(l->v) reconstructs them.
        masked_patches (`torch.BoolTensor` of shape `(batch, rows, columns)`): the visual tokens that were masked.
        reconstructed_ids (`torch.LongTensor` of shape `(batch, tokens)`):
            The texts; in the places of the masked words those that BTMAE(v->l) takes them for.
        masked_words (`torch.BoolTensor` of shape `(batch, tokens)`): the words that were masked.
        impact_maps (`list[torch.FloatTensor]`):
            S_v of each layer, (batch, impact tokens, rows, columns); they sum to 1 at each place.
        impact_words (`list[torch.FloatTensor]`):
            How much each impact token of a layer resembles each word, (batch, impact tokens, tokens); sums to 1.
    """

    reconstructed_pixels: Tensor | None = None
    masked_patches: Tensor | None = None
    reconstructed_ids: Tensor | None = None
    masked_words: Tensor | None = None
    impact_maps: list[Tensor] | None = None
    impact_words: list[Tensor] | None = None


@dataclass
class BtmaeDecoderOutput(DecoderOutput):
    """The logits, and what the layers of impact token attention sampled.

    Args:
        impact_tokens (`tuple[ImpactTokens]`): for each layer; none with another mask decoder.
    """

    impact_tokens: tuple[ImpactTokens, ...] = ALWAYS_GIVEN


class PixelTokens(NamedTuple):
    """The visual features as tokens.

    Args:
        encoder_pixels: X_e, (batch, positions, feature_size).
        tokens: T_v, (batch, positions, hidden_size).
        positions: the positions' encoding, (positions, hidden_size).
    """

    encoder_pixels: Tensor
    tokens: Tensor
    positions: Tensor


def tokens_of_image(
    model: "BtmaeForReferringSegmentation", image: ImageFeatures, tokens: Tensor, is_masked: Tensor
) -> Tensor:
    """Token masking: the tokens are those of the whole image."""
    return tokens


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Norms in training mode do not count what passes in here: gray patches are no images."""
    counting = [
        each
        for each in module.modules()
        if isinstance(each, nn.modules.batchnorm._NormBase) and each.training and each.track_running_stats
    ]
    for norm in counting:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in counting:
            norm.track_running_stats = True


def tokens_of_masked_image(
    model: "BtmaeForReferringSegmentation", image: ImageFeatures, tokens: Tensor, is_masked: Tensor
) -> Tensor:
    """Patch masking: the tokens of the image whose masked patches are gray (table 3); `is_masked` (batch, tokens)."""
    assert image.pixel_values is not None  # `encode_image` adds them
    patches = is_masked.unflatten(1, image.maps[-1].shape[-2:])[:, None].to(image.pixel_values.dtype)
    patches = F.interpolate(patches, scale_factor=model.config.token_stride, mode="nearest")
    patches = patches[..., : image.image_size[0], : image.image_size[1]]
    with kept_statistics(model):
        masked_image = model._embed_image(image.pixel_values.masked_fill(patches != 0, 0))
    return model.embed_pixels(masked_image).tokens


IMAGE_MASKING = {"token": tokens_of_image, "patch": tokens_of_masked_image}


class BtmaeForReferringSegmentation(RefSegPreTrainedModel, Explainable):
    """BTMAE (figure 2): two autoencoders refine the tokens of both modalities, impact token attention finds the mask.

    With `mask_labels` masked tokens are reconstructed as well (step 1); without them no decoder of an autoencoder
    runs. What is masked is drawn at random in training, and is the same each time in evaluation mode.

    `hidden_states` are the maps for the mask head, T_v^r as a map and, of each layer of impact token attention, its
    pixels, (batch, positions, channels). `attentions` are (batch, heads, queries, keys) those of the autoencoders'
    encoders to the other modality, of the pixels first (of LAVT's encoder in their place those of each stage to the
    words), then of each layer of impact token attention: of the pixels to the words, of the impact tokens to the
    words, of the pixels to the impact tokens.

    Example:

    ```python
    >>> from hf_refseg import BtmaeForReferringSegmentation

    >>> model = BtmaeForReferringSegmentation.from_encoders(
    ...     "microsoft/swin-base-patch4-window12-384-in22k", "google-bert/bert-base-uncased"
    ... )
    ```"""

    config: BtmaeConfig
    explained_outputs = ("output_reconstructions", "output_impact_maps")
    _can_record_outputs = {
        "multimodal_hidden_states": ImpactTokenAttention,
        "multimodal_attentions": [
            # Of the autoencoders' encoders, of what replaces one of them or the decoder, of the decoder's layers, and
            # of the stages of LAVT's encoder.
            OutputRecorder(AttentionKernel, index=1, layer_name=name)
            for name in ("cross_attention", "attention", "layers", "stages")
        ],
    }
    _no_split_modules = [
        *("WindowLayer", "BtmaeBlock", "SingleModalBlock", "FusionStage", "ImpactTokenAttention", "MaskHead")
    ]

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__(config)
        self.encoding = ENCODINGS[config.attention_encoder](config)
        self.fuses_in_encoder = config.attention_encoder == "stages"
        self.backbone, widths = self.encoding.build_backbone(config)
        self.text_encoder = build_text_encoder(config.text_config)
        self.visual_features = VisualFeatures(config, widths)
        self.pixel_tokens = nn.Linear(config.feature_size, config.hidden_size)  # X_v to T_v
        self.word_tokens = nn.Linear(config.text_config.hidden_size, config.hidden_size)  # X_t to T_l
        self.masked_tokens = IMAGE_MASKING[config.image_masking]
        # Equation 6.
        self.loss_weights = {"iou": config.iou_loss_weight, "cross_entropy": config.cross_entropy_weight}
        if config.image_autoencoder:
            pixels = nn.Linear(config.hidden_size, 3 * config.token_stride**2)
            self.language_to_vision = BTMAE(config, pixels)
            self.loss_weights["image_reconstruction"] = config.image_reconstruction_weight
        else:
            self.language_to_vision = ATTENTION_REFINEMENTS[config.attention_encoder](config)
        if config.word_autoencoder:
            words = VocabularyHead(config.hidden_size, config.text_config.vocab_size)
            self.vision_to_language = BTMAE(config, words)
            self.loss_weights["word_reconstruction"] = config.word_reconstruction_weight
        else:
            self.vision_to_language = NoRefinement(config)
        self.mask_decoder = MASK_DECODERS[config.mask_decoder](config)
        self.add_tasks(config.hidden_size, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BTMAE):
            init.normal_(module.mask_token, std=self.config.initializer_range)
        if isinstance(module, GateProjection):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, ImpactSampling) and self.config.impact_initializer_range is not None:
            init.normal_(module.weight, std=self.config.impact_initializer_range)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """The maps of strides 4, 8, 16 and 32, and the image itself, which is to be reconstructed.

        Where language enters between the stages, the map of the first of them alone.
        """
        maps = self.encoding.encode(self.backbone, pixel_values)
        return ImageFeatures(maps=maps, image_size=tuple(pixel_values.shape[-2:]), pixel_values=pixel_values)

    def project_image(self, image: ImageFeatures) -> ImageFeatures:
        """The maps for the mask head and, behind them, X_v, which is X_e (section 3.1); with the image itself."""
        return self.encoding.project(self.visual_features, image)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The word features X_t, (batch, tokens, text channels)."""
        return self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def embed_pixels(self, image: ImageFeatures) -> PixelTokens:
        """The tokens T_v of the image, of whose maps the last is X_e."""
        encoder_map = image.maps[-1]
        encoder_pixels = to_tokens(encoder_map)
        tokens = self.pixel_tokens(encoder_pixels)
        return PixelTokens(encoder_pixels, tokens, map_positions(tokens, tuple(encoder_map.shape[-2:])))

    def embed_words(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """T_l (batch, tokens, hidden_size), and the positions' encoding."""
        tokens = self.word_tokens(text)
        return tokens, sinusoidal_positions(tokens)

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> BtmaeFeatures:
        """Step 2 of both autoencoders: T_v^r and T_l^r (section 3.2)."""
        image = self.encoding.fuse(self.backbone, self.visual_features, image, text, text_mask)
        *finer, encoder_map = image.maps
        encoder_pixels, pixels, pixel_positions = self.embed_pixels(image)
        words, word_positions = self.embed_words(text)
        refined_pixels = self.language_to_vision(pixels, pixel_positions, None, words, text_mask)
        refined_words = self.vision_to_language(words, word_positions, text_mask, pixels, None)
        return BtmaeFeatures(
            maps=(*finer, to_map(refined_pixels, tuple(encoder_map.shape[-2:]))),
            text_features=refined_words,
            text_mask=text_mask,
            encoder_pixels=encoder_pixels,
        )

    def decode(self, fused: BtmaeFeatures, image_size: tuple[int, ...]) -> BtmaeDecoderOutput:
        """Impact token attention: logits at the input size, (batch, height, width) (section 3.3)."""
        logits, impact_tokens = self.mask_decoder(fused)
        logits = resize(logits.unsqueeze(1), image_size, align_corners=False).squeeze(1)
        return BtmaeDecoderOutput(logits=logits, impact_tokens=impact_tokens)

    def compute_losses(self, output: BtmaeDecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """Equation 5."""
        logits, sigma, reduction = output.logits, self.config.cross_entropy_sigma, self.config.loss_reduction
        return {
            "iou": iou_loss(logits, mask_labels),
            "cross_entropy": error_weighted_cross_entropy(logits, mask_labels, sigma, reduction),
        }

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_labels: Tensor | None = None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: BaseModelOutputWithPooling | Tensor | None = None,
        encoder_features: ImageFeatures | None = None,
        output_reconstructions: bool = False,
        output_impact_maps: bool = False,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BtmaeOutput:
        """Segments what each text means.

        The inputs are those of [`RefSegPreTrainedModel.forward`], and:

        Args:
            output_reconstructions: mask and reconstruct image and words without `mask_labels` as well.
            output_impact_maps: return what the layers of impact token attention sampled.

        Raises:
            ValueError: as there; and where words are to be reconstructed, but `input_ids` are missing.
            TypeError: as there.
        """
        check_keywords(type(self).__name__, token_type_ids, **kwargs)
        recorded = what_to_record(self.config, output_hidden_states, output_attentions)
        image, text, text_mask = self.encode_inputs(
            pixel_values, input_ids, attention_mask, image_embeds, text_embeds, encoder_features
        )
        losses: dict[str, Tensor] = {}
        reconstructions: dict[str, Tensor] = {}
        if output_reconstructions or mask_labels is not None:
            losses, reconstructions = self.reconstruct(image, text, text_mask, input_ids)
        finish = self.make_output_with_impact_maps if output_impact_maps else self.make_output
        if mask_labels is None:
            output = self.segment(image, text, text_mask, finish, **recorded)
        else:
            given = EncodedPass(pixel_values, input_ids, attention_mask, image, text, text_mask, mask_labels)
            output = self.forward_with_loss(given, finish, losses, **recorded)
        return BtmaeOutput(**output, **reconstructions)

    def reconstruct(
        self, image: ImageFeatures, text: Tensor, text_mask: Tensor, input_ids: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Step 1 (section 3.2): the losses by name, and the reconstructions as fields of [`BtmaeOutput`].

        Arguments as those of `fuse`, and `input_ids` (batch, tokens).

        Raises:
            ValueError: there is an autoencoder for words, but `input_ids` is None.
        """
        if not (self.config.image_autoencoder or self.config.word_autoencoder):
            return {}, {}
        generator = generator_of_draws(self.training)
        _, pixels, pixel_positions = self.embed_pixels(image)
        words, word_positions = self.embed_words(text)
        losses, fields = {}, {}
        if self.config.image_autoencoder:
            everywhere = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
            is_masked = draw_masked_tokens(everywhere, self.config.image_mask_ratio, generator)
            masked = self.masked_tokens(self, image, pixels, is_masked)
            kept = count_kept(pixels.shape[1], self.config.image_mask_ratio)
            patches = self.language_to_vision(masked, pixel_positions, None, words, text_mask, is_masked, kept)
            pixel_values = self.join_patches(patches, image)
            losses["image_reconstruction"] = image_reconstruction_loss(
                pixel_values, image.pixel_values, self.config.loss_reduction
            )
            fields["reconstructed_pixels"] = pixel_values.detach()
            fields["masked_patches"] = is_masked.unflatten(1, image.maps[-1].shape[-2:])
        if self.config.word_autoencoder:
            if input_ids is None:
                raise ValueError("BTMAE reconstructs masked words: pass `input_ids` instead of `text_embeds`.")
            can_be_masked = ordinary_words(input_ids, text_mask, self.config.special_token_ids)
            is_masked = draw_masked_tokens(can_be_masked, self.config.word_mask_ratio, generator)
            logits = self.vision_to_language(words, word_positions, text_mask, pixels, None, is_masked)
            losses["word_reconstruction"] = reconstructed_word_loss(logits, input_ids, is_masked)
            fields["reconstructed_ids"] = torch.where(is_masked, logits.argmax(-1), input_ids)
            fields["masked_words"] = is_masked
        return losses, fields

    def join_patches(self, patches: Tensor, image: ImageFeatures) -> Tensor:
        """Patches (batch, positions, 3 * stride * stride) as images (batch, 3, height, width)."""
        pixel_values = F.pixel_shuffle(to_map(patches, tuple(image.maps[-1].shape[-2:])), self.config.token_stride)
        return pixel_values[..., : image.image_size[0], : image.image_size[1]]

    def make_output_with_impact_maps(self, made: FusedAndDecoded) -> BtmaeOutput:
        """With the sampling masks and the words that impact tokens resemble (figure 6)."""
        fused, decoded = made.fused, made.decoded
        is_padding = (fused.text_mask == 0)[:, None]
        words, scale = fused.text_features.transpose(1, 2).detach(), self.config.hidden_size**-0.5
        scores = (scale * sampled.tokens.detach() @ words for sampled in decoded.impact_tokens)
        return BtmaeOutput(
            **self.make_output(made),
            impact_maps=[sampled.masks.detach() for sampled in decoded.impact_tokens],
            impact_words=[each.masked_fill(is_padding, -math.inf).softmax(-1) for each in scores],
        )

    def explain_output(self, output: BtmaeOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """The reconstructions (figure 5), and the impact tokens (figure 6)."""
        explanations: dict[str, Explanation] = {}
        if self.config.image_autoencoder or self.config.word_autoencoder:
            reconstructed = (output.reconstructed_pixels, output.masked_patches)
            fields = (*reconstructed, output.reconstructed_ids, output.masked_words)
            explanations["reconstruction"] = Reconstruction(*(None if each is None else each[0] for each in fields))
        if output.impact_maps and output.impact_words:
            maps, words = ([each[0] for each in layers] for layers in (output.impact_maps, output.impact_words))
            explanations["impact_tokens"] = ImpactMaps(maps, words)
        return explanations


__all__ = ["BtmaeConfig", "BtmaeForReferringSegmentation", "BtmaeOutput"]
