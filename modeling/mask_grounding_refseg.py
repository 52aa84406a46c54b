"""Mask Grounding: masked words are named from the rest of the sentence, the image and the target's mask."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEncoder, BertPreTrainedModel

from .configuration_refseg import MaskGroundingConfig
from .layers_refseg import (
    VocabularyHead,
    generator_of_draws,
    independent_draws,
    ordinary_words,
    pixel_centers,
    to_tokens,
)
from .losses_refseg import reconstructed_word_loss
from .modeling_outputs_refseg import FusedPass
from .precision_refseg import at_least_float32
from .training_task_refseg import TrainingTask


class MaskToken(nn.Module):
    """The learned token in the place of masked words (section 3.2): the vocabulary's own and a change that is learned.

    The change starts at 0. So the token is learned where the word embeddings are frozen as well. `embeddings` (batch,
    tokens, channels), `is_masked` bool (batch, tokens); keeps the shape of `embeddings`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(channels))

    def forward(self, embeddings: Tensor, is_masked: Tensor) -> Tensor:
        return embeddings + is_masked.unsqueeze(-1) * self.change


class WordTokens(nn.Module):
    """Words in the width of the image; the masked ones are marked by a learned embedding.

    `text_features` (batch, tokens, word_channels), `is_masked` (batch, tokens) bool; gives (batch, tokens, channels).
    """

    def __init__(self, word_channels: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(word_channels, channels)
        self.kind = nn.Embedding(2, channels)

    def forward(self, text_features: Tensor, is_masked: Tensor) -> Tensor:
        return self.projection(text_features) + self.kind(is_masked.long())


class ImageTokens(nn.Module):
    """P (equation 2): the pixels of a map (batch, channels, h, w), with their places.

    They are averaged to at most `max_size` x `max_size`. Returns (batch, pixels, size), projected where `size` differs
    from the channels of the map.
    """

    def __init__(self, channels: int, size: int, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size
        self.projection = nn.Identity() if size == channels else nn.Linear(channels, size)
        self.position = coordinate_mlp(size)

    def grid(self, maps: Tensor) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        height, width = (min(length, self.max_size) for length in maps.shape[-2:])
        return height, width

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        grid = self.grid(maps)
        pixels = self.projection(to_tokens(F.adaptive_avg_pool2d(maps, grid)))
        return pixels + self.position(pixel_centers(*grid, maps.device, maps.dtype).to(maps.dtype))


class CenterToken(nn.Module):
    """C, the encoded center of the target's mask (section 3.2, equation 3); returns (batch, 1, size)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.encoder = coordinate_mlp(size)

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        return self.encoder(mask_centers(mask_labels, maps.dtype).to(maps.dtype)).unsqueeze(1)


class AverageToken(nn.Module):
    """The mean of a map (batch, channels, h, w) inside the target's mask (table 3 b); returns (batch, 1, size)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(channels, size), nn.GELU(), nn.Linear(size, size))

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        is_target = (mask_labels != 0).to(torch.promote_types(maps.dtype, torch.float32))
        weights = F.adaptive_avg_pool2d(is_target, maps.shape[-2:])
        weights = weights / weights.sum((1, 2), keepdim=True).clamp(min=1e-6)
        return self.encoder(torch.einsum("bchw,bhw->bc", maps, weights.to(maps.dtype))).unsqueeze(1)


MASK_TOKENS = {"center": [CenterToken], "average": [AverageToken], "none": []}


class MaskedTokenPredictor(BertPreTrainedModel):
    """A BERT-like encoder over tokens of any origin, and a classifier over the vocabulary (section 3.2, equation 4).

    `tokens` (batch, tokens, channels), `token_mask` (batch, tokens) 1 = token; returns what the encoder makes of them,
    (batch, tokens, channels), which `classifier` reads.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = BertEncoder(config)
        self.classifier = VocabularyHead(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        tokens = self.dropout(self.norm(tokens))
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=tokens, attention_mask=token_mask.bool())
        return self.encoder(tokens, mask).last_hidden_state


class MaskGrounding(TrainingTask):
    """Names masked words from the rest of the sentence, the image and the target's mask (MagNet, section 3.2).

    Args:
        config: the task's configuration.
        text_config: that of the text encoder, which gives the vocabulary and the channels of the words.
        embedding_size: channels of the text encoder's word embeddings.
        channels: channels of the map of image features.
        attention: implementation of the predictor's attention.

    Raises:
        ValueError: a token id that the vocabulary does not have.
    """

    name = "mask_grounding"
    loss_name = "mask_grounding"
    is_for_text_encoder = True
    # Earlier versions had the vocabulary's mask token alone, which is what this starts as.
    _keys_to_ignore_on_load_missing = [r"mask_grounding\.mask_token\."]

    def __init__(
        self,
        config: MaskGroundingConfig,
        text_config: PreTrainedConfig,
        embedding_size: int,
        channels: int,
        attention: str,
    ) -> None:
        super().__init__()
        self.config = config
        mask_token_id, _ = config.token_ids
        if not 0 <= mask_token_id < text_config.vocab_size:
            raise ValueError(
                f"mask_grounding: mask_token_id is {mask_token_id}, but the vocabulary has "
                f"{text_config.vocab_size} tokens."
            )
        size = channels if config.predictor_size is None else config.predictor_size
        self.mask_token = MaskToken(embedding_size)
        self.words = WordTokens(text_config.hidden_size, size)
        image = [ImageTokens(channels, size, config.max_map_size)] if config.image_tokens else []
        mask = [token(channels, size) for token in MASK_TOKENS[config.mask_encoder]]
        self.context = nn.ModuleList([*image, *mask])
        predictor = BertConfig(
            vocab_size=text_config.vocab_size,
            hidden_size=size,
            num_hidden_layers=config.predictor_layers,
            num_attention_heads=size // 64 if size % 64 == 0 else 1,  # as in BERT
            intermediate_size=4 * size,
            attn_implementation=attention,
        )
        self.predictor = MaskedTokenPredictor(predictor)

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "MaskGrounding":
        config, embedding_size = model.config, model.get_input_embeddings().embedding_dim
        kinds = {"words": MaskGrounding, "words_and_image": MaskedVisionLanguage}
        return kinds[config.mask_grounding.reconstructs](
            config.mask_grounding, config.text_config, embedding_size, map_channels, config._attn_implementation
        )

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        if isinstance(module, MaskToken):
            init.zeros_(module.change)

    def forward(
        self, text_features: Tensor, text_mask: Tensor, is_masked: Tensor, maps: Tensor, mask_labels: Tensor
    ) -> Tensor:
        """Logits (batch, tokens, vocabulary) of all words; those of the masked ones name them.

        Args:
            text_features: O, those of the masked sentences (equation 1), (batch, tokens, text channels).
            text_mask: (batch, tokens), 1 = word.
            is_masked: (batch, tokens) bool, the words to name.
            maps: P, image features (equation 2), (batch, channels, h, w).
            mask_labels: M (batch, height, width), not 0 = target; all 0 is legal and says nothing.
        """
        words, _ = self.predict_tokens(text_features, text_mask, is_masked, maps, mask_labels)
        return self.predictor.classifier(words)

    def predict_tokens(
        self, text_features: Tensor, text_mask: Tensor, is_masked: Tensor, maps: Tensor, mask_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the predictor makes of Concat([O, P, C]) (equation 4): of the words, and of what follows them.

        Args as of `forward`; returns (batch, tokens, size) and (batch, others, size), the image's tokens first.
        """
        tokens = [self.words(text_features, is_masked), *(part(maps, mask_labels) for part in self.context)]
        others = sum(part.shape[1] for part in tokens[1:])
        predicted = self.predictor(torch.cat(tokens, 1), F.pad(text_mask, (0, others), value=1))
        return predicted.split([text_features.shape[1], others], 1)

    def loss(self, model: PreTrainedModel, forward_pass: FusedPass) -> Tensor:
        """L_grounding (equation 4) of words drawn at random, the same ones each time in evaluation mode.

        Samples without a target are left out.

        Raises:
            ValueError: the pass has no `input_ids`.
        """
        input_ids, targets = words_of(forward_pass), forward_pass.mask_labels > 0
        _, special_token_ids = self.config.token_ids
        generator = generator_of_draws(self.training)
        is_masked = draw_masked_words(
            input_ids, forward_pass.attention_mask, special_token_ids, self.config.mask_probability, generator
        )
        logits = self.name_masked_words(model, forward_pass, is_masked)
        return reconstructed_word_loss(logits, input_ids, is_masked & targets.flatten(1).any(1, keepdim=True))

    def name_masked_words(self, model: PreTrainedModel, forward_pass: FusedPass, is_masked: Tensor) -> Tensor:
        """Logits (batch, tokens, vocabulary) where `is_masked` (batch, tokens) takes words out of the texts."""
        input_ids, fused, text_mask = words_of(forward_pass), forward_pass.fused, forward_pass.text_mask
        mask_token_id, _ = self.config.token_ids
        # Through frozen layers as well, for the gradient of the mask token.
        embeddings = model.get_input_embeddings()
        with embeddings.register_forward_hook(lambda module, ids, words: self.mask_token(words, is_masked)):
            text = model.encode_text(input_ids.masked_fill(is_masked, mask_token_id), forward_pass.attention_mask)
        if self.config.image_features == "masked_sentence" and model.maps_hold_language:
            fused = model.fuse(forward_pass.image, text, text_mask)
        maps, targets = grounded_frame(fused.maps[-1], forward_pass.mask_labels > 0)
        return self(model.finish_text(text, text_mask), text_mask, is_masked, maps, targets)

    @torch.no_grad()
    def predict_masked_words(
        self,
        model: PreTrainedModel,
        pixel_values: Tensor,
        input_ids: Tensor,
        is_masked: Tensor,
        mask_labels: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The token ids (masked words,) that the task of this model takes for the masked words.

        `is_masked` (batch, tokens) is bool: `input_ids[is_masked]` would be right. The other inputs are those of the
        model's `forward`.
        """
        image, text, text_mask = model.encode_inputs(pixel_values, input_ids, attention_mask)
        fused = model.fuse(image, text, text_mask)
        forward_pass = FusedPass(pixel_values, input_ids, attention_mask, image, text, text_mask, mask_labels, fused)
        return self.name_masked_words(model, forward_pass, is_masked)[is_masked].argmax(1)


class MaskedVisionLanguage(MaskGrounding):
    """Masked words are named, and masked parts of the image painted, each with the help of the other (table 3 a).

    "MaskedVLM", to which the paper compares Mask Grounding. The image is masked before it is encoded, and fused with
    the whole sentence; what belongs to each image token is painted at `PART_SIZE` x `PART_SIZE` pixels.
    """

    PART_SIZE = 8

    def __init__(self, config: MaskGroundingConfig, *others: Any) -> None:
        super().__init__(config, *others)
        self.paint = nn.Linear(self.predictor.config.hidden_size, 3 * self.PART_SIZE**2)

    def loss(self, model: PreTrainedModel, forward_pass: FusedPass) -> Tensor:
        """As in Mask Grounding, and the mean absolute difference of the masked parts of the images.

        Raises:
            ValueError: as there; and where the pass has no `pixel_values`.
        """
        return super().loss(model, forward_pass) + self.painting_loss(model, forward_pass)

    def painting_loss(self, model: PreTrainedModel, forward_pass: FusedPass) -> Tensor:
        """The masked parts of the images from the rest of them and the whole sentences."""
        if forward_pass.pixel_values is None:
            raise ValueError(
                'Mask Grounding with reconstructs="words_and_image" masks the image: pass `pixel_values`, neither '
                "`image_embeds` nor `encoder_features`, along with masks."
            )
        text, text_mask, targets = forward_pass.text, forward_pass.text_mask, forward_pass.mask_labels > 0
        # One image for all texts, as `forward` takes it, is masked for each of them.
        pixels = forward_pass.pixel_values.to(text.dtype)
        pixels = pixels.expand(text.shape[0], *pixels.shape[1:])
        grid = self.context[0].grid(forward_pass.fused.maps[-1])
        everywhere = torch.ones(text.shape[0], grid[0] * grid[1], dtype=torch.bool, device=text.device)
        is_masked = draw_masked(everywhere, self.config.image_mask_probability, generator_of_draws(self.training))
        image = model.get_image_features(mask_parts(pixels, is_masked.unflatten(1, grid)), return_dict=True)
        maps, labels = grounded_frame(model.fuse(image, text, text_mask).maps[-1], targets)
        no_word = torch.zeros_like(text_mask, dtype=torch.bool)
        _, others = self.predict_tokens(model.finish_text(text, text_mask), text_mask, no_word, maps, labels)
        painted = self.paint(others[:, : is_masked.shape[1]])
        parts = parts_of(grounded_frame(pixels, targets)[0], grid, self.PART_SIZE)
        errors = (at_least_float32(painted) - at_least_float32(parts)).abs().mean(2)
        return (errors * is_masked).sum() / is_masked.sum()


def words_of(forward_pass: FusedPass) -> Tensor:
    """The token ids of a pass (batch, tokens); raises ValueError where it got the features of texts alone."""
    if forward_pass.input_ids is None:
        raise ValueError("Mask Grounding masks words: pass `input_ids` instead of `text_embeds` along with masks.")
    return forward_pass.input_ids


def grounded_frame(maps: Tensor, mask_labels: Tensor) -> tuple[Tensor, Tensor]:
    """What words are named from: maps (batch, channels, h, w) and labels (batch, height, width) of images.

    Of clips, which have a frame axis behind the batch, it is the frame that shows most of the target.
    """
    if maps.ndim == 4:
        return maps, mask_labels
    place = mask_labels.flatten(2).sum(2).argmax(1)
    batch = torch.arange(place.shape[0], device=place.device)
    return maps[batch, place], mask_labels[batch, place]


def draw_masked_words(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    special_token_ids: Sequence[int],
    probability: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Random words to mask, bool (batch, tokens): each ordinary one with `probability`, one of a sentence at least.

    Special tokens and padding are no words; a sentence of nothing else has none masked. `generator` as in
    `independent_draws`.
    """
    return draw_masked(ordinary_words(input_ids, attention_mask, special_token_ids), probability, generator)


def draw_masked(can_be_masked: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """Random places (batch, places), bool: each that can be masked with `probability`, one of a row at least."""
    draws = independent_draws(can_be_masked, generator).masked_fill(~can_be_masked, 2)
    return can_be_masked & (draws <= draws.amin(1, keepdim=True).clamp(min=probability))


def mask_parts(pixel_values: Tensor, is_masked: Tensor) -> Tensor:
    """Images (batch, 3, height, width) with 0 in the parts that `is_masked`, bool (batch, rows, columns), names.

    Of clips (batch, frames, 3, height, width) the same parts of all frames.
    """
    hidden = F.interpolate(is_masked[:, None].to(pixel_values.dtype), pixel_values.shape[-2:], mode="nearest")
    all_frames = (slice(None), *[None] * (pixel_values.ndim - 4))
    return pixel_values.masked_fill(hidden[all_frames] != 0, 0)


def parts_of(images: Tensor, grid: tuple[int, int], part_size: int) -> Tensor:
    """What images (batch, 3, height, width) show in each part of a grid, averaged to `part_size` x `part_size` pixels.

    Returns (batch, parts, 3 * part_size * part_size).
    """
    rows, columns = grid
    pixels = F.adaptive_avg_pool2d(images, (rows * part_size, columns * part_size))
    return (
        pixels.unflatten(3, (columns, part_size))
        .unflatten(2, (rows, part_size))
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(images.shape[0], rows * columns, -1)
    )


def mask_centers(mask_labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The mean place (x, y), in [0, 1], of the pixels of masks (batch, height, width): (batch, 2); 0 if empty.

    It is computed in `dtype`, in float32 where that is a shorter format.
    """
    height, width = mask_labels.shape[-2:]
    targets = (mask_labels != 0).flatten(1).unsqueeze(2)
    centers = pixel_centers(height, width, mask_labels.device, dtype)
    # No matrix product, which autocast would compute in half precision.
    return (targets * centers).sum(1) / targets.sum(1).clamp(min=1)


def coordinate_mlp(channels: int) -> nn.Sequential:
    """Two layers from coordinates (..., 2) to (..., channels)."""
    return nn.Sequential(nn.Linear(2, channels), nn.GELU(), nn.Linear(channels, channels))


__all__ = ["MaskGrounding"]
