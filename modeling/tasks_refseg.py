"""Training tasks: what any method can learn beside the masks, each a class that knows all about itself.

`TrainingTask` is what a model asks of them. One more is a class of this kind in `TASKS`, and a field of its name in
the configuration.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEncoder, BertPreTrainedModel

from .configuration_refseg import LanguageReconstructionConfig, MaskGroundingConfig, RefSegConfig
from .layers_refseg import (
    TokenBatchNorm,
    VocabularyHead,
    generator_of_draws,
    independent_draws,
    masked_mean,
    ordinary_words,
    pixel_centers,
    sinusoidal_positions,
    to_tokens,
)
from .losses_refseg import masked_word_loss, presence_loss
from .modeling_outputs_refseg import ForwardPass, FusedFeatures
from .precision_refseg import at_least_float32


class TrainingTask(nn.Module, ABC):
    """A part of a model that learns a task of its own: a module of the model, by the name of the task.

    A model has those tasks whose field of the configuration is neither None nor False. What may be missing in a
    checkpoint stands in `_keys_to_ignore_on_load_missing`, as in transformers' models.
    """

    # Of the module, and of the configuration's field.
    name: ClassVar[str]
    loss_name: ClassVar[str]
    # Whether inference uses nothing of it, so that a model can be saved without it.
    is_for_training_alone: ClassVar[bool] = True
    # Whether it is there for the sake of the text encoder, which then has to be trained.
    is_for_text_encoder: ClassVar[bool] = False

    @classmethod
    def is_part_of(cls, config: RefSegConfig) -> bool:
        """Whether models of this configuration have the task."""
        return bool(getattr(config, cls.name))

    @classmethod
    def loss_weight(cls, config: RefSegConfig) -> float:
        """How much its loss counts beside the others, to begin with."""
        return getattr(config, cls.name).loss_weight

    @classmethod
    @abstractmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "TrainingTask":
        """The module that a model needs.

        Args:
            model: a model with its encoders; the task is part of its configuration.
            map_channels: channels of the last of the fused maps.
            text_channels: channels of the fused text features.
        """

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        """Starts the parameters of a module of the task for which transformers and PyTorch have no rule."""

    def predict(self, fused: FusedFeatures) -> dict[str, Tensor]:
        """What it answers at inference as well, as fields of [`ReferringSegmentationOutput`]."""
        return {}

    @abstractmethod
    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        """The unweighted loss, a scalar: the mean over the samples of which the task can be learned, 0 without any.

        `model` is the one that it is part of. A task that reads more than the pass holds encodes and fuses by itself.
        """


class PresenceHead(TrainingTask):
    """Whether there is a target at all, from the coarsest fused map and the text.

    Args:
        map_channels: channels of the last of the fused maps.
        text_channels: channels of the fused text features.
    """

    name = "presence_head"
    loss_name = "presence"
    is_for_training_alone = False

    def __init__(self, map_channels: int, text_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * map_channels + text_channels)
        self.classifier = nn.Sequential(
            nn.Linear(2 * map_channels + text_channels, map_channels), nn.GELU(), nn.Linear(map_channels, 1)
        )

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "PresenceHead":
        return cls(map_channels, text_channels)

    @classmethod
    def loss_weight(cls, config: RefSegConfig) -> float:
        return config.presence_loss_weight

    def forward(self, fused: FusedFeatures) -> Tensor:
        """Logits (batch,): above 0 there is a target."""
        pixels = to_tokens(fused.maps[-1])
        sentence = masked_mean(fused.text_features, fused.text_mask)
        return self.classifier(self.norm(torch.cat([pixels.mean(1), pixels.amax(1), sentence], 1))).squeeze(1)

    def predict(self, fused: FusedFeatures) -> dict[str, Tensor]:
        return {"presence_logits": self(fused)}

    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        return presence_loss(forward_pass.output.presence_logits, forward_pass.mask_labels)


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
    """The pixels of a map (batch, channels, h, w), averaged to at most `max_size` x `max_size`, with their places.

    Returns (batch, pixels, channels).
    """

    def __init__(self, channels: int, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size
        self.position = coordinate_mlp(channels)

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        size = [min(length, self.max_size) for length in maps.shape[-2:]]
        pixels = F.adaptive_avg_pool2d(maps, size).flatten(2).transpose(1, 2)
        return pixels + self.position(pixel_centers(*size, maps.device, maps.dtype).to(maps.dtype))


class CenterToken(nn.Module):
    """The center of the target's mask (section 3.2); returns (batch, 1, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = coordinate_mlp(channels)

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        return self.encoder(mask_centers(mask_labels, maps.dtype).to(maps.dtype)).unsqueeze(1)


class AverageToken(nn.Module):
    """The mean of a map (batch, channels, h, w) inside the target's mask (table 3 b); returns (batch, 1, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        is_target = (mask_labels != 0).to(torch.promote_types(maps.dtype, torch.float32))
        weights = F.adaptive_avg_pool2d(is_target, maps.shape[-2:])
        weights = weights / weights.sum((1, 2), keepdim=True).clamp(min=1e-6)
        return self.encoder(torch.einsum("bchw,bhw->bc", maps, weights.to(maps.dtype))).unsqueeze(1)


MASK_TOKENS = {"center": [CenterToken], "average": [AverageToken], "none": []}


class MaskedTokenPredictor(BertPreTrainedModel):
    """A BERT-like encoder over tokens of any origin, and a classifier over the vocabulary (section 3.2, equation 4).

    `tokens` (batch, tokens, channels), `token_mask` (batch, tokens) 1 = token, `is_masked` (batch, tokens) bool;
    returns the logits (masked tokens, vocabulary) in the order of `is_masked.nonzero()`.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = BertEncoder(config)
        self.classifier = VocabularyHead(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, tokens: Tensor, token_mask: Tensor, is_masked: Tensor) -> Tensor:
        tokens = self.dropout(self.norm(tokens))
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=tokens, attention_mask=token_mask.bool())
        return self.classifier(self.encoder(tokens, mask).last_hidden_state[is_masked])


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
        if not 0 <= config.mask_token_id < text_config.vocab_size:
            raise ValueError(
                f"mask_grounding: mask_token_id is {config.mask_token_id}, but the vocabulary has "
                f"{text_config.vocab_size} tokens."
            )
        self.mask_token = MaskToken(embedding_size)
        self.words = WordTokens(text_config.hidden_size, channels)
        image = [ImageTokens(channels, config.max_map_size)] if config.image_tokens else []
        self.context = nn.ModuleList([*image, *(token(channels) for token in MASK_TOKENS[config.mask_encoder])])
        predictor = BertConfig(
            vocab_size=text_config.vocab_size,
            hidden_size=channels,
            num_hidden_layers=config.predictor_layers,
            num_attention_heads=channels // 64 if channels % 64 == 0 else 1,  # as in BERT
            intermediate_size=4 * channels,
            attn_implementation=attention,
        )
        self.predictor = MaskedTokenPredictor(predictor)

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "MaskGrounding":
        config, embedding_size = model.config, model.get_input_embeddings().embedding_dim
        return cls(
            config.mask_grounding, config.text_config, embedding_size, map_channels, config._attn_implementation
        )

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        if isinstance(module, MaskToken):
            init.zeros_(module.change)

    def forward(
        self, text_features: Tensor, text_mask: Tensor, is_masked: Tensor, maps: Tensor, mask_labels: Tensor
    ) -> Tensor:
        """Logits (masked words, vocabulary) of the masked words, in the order of `is_masked.nonzero()`.

        Args:
            text_features: those of the masked sentences, (batch, tokens, text channels).
            text_mask: (batch, tokens), 1 = word.
            is_masked: (batch, tokens) bool, the words to name.
            maps: image features (batch, channels, h, w).
            mask_labels: (batch, height, width), not 0 = target; all 0 is legal and says nothing.
        """
        tokens = [self.words(text_features, is_masked), *(part(maps, mask_labels) for part in self.context)]
        others = sum(part.shape[1] for part in tokens[1:])
        return self.predictor(
            torch.cat(tokens, 1), F.pad(text_mask, (0, others), value=1), F.pad(is_masked, (0, others), value=False)
        )

    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        """`masked_word_loss` of words drawn at random, the same ones each time in evaluation mode.

        Raises:
            ValueError: the pass has no `input_ids`.
        """
        input_ids, targets = forward_pass.input_ids, forward_pass.mask_labels > 0
        if input_ids is None:
            raise ValueError("Mask Grounding masks words: pass `input_ids` instead of `text_embeds` along with masks.")
        task, generator = self.config, generator_of_draws(self.training)
        is_masked = draw_masked_words(
            input_ids, forward_pass.attention_mask, task.special_token_ids, task.mask_probability, generator
        )
        logits = self.name_masked_words(model, forward_pass, is_masked)
        return masked_word_loss(logits, input_ids, is_masked, targets.flatten(1).any(1))

    def name_masked_words(self, model: PreTrainedModel, forward_pass: ForwardPass, is_masked: Tensor) -> Tensor:
        """Logits (masked words, vocabulary) of the words that `is_masked` (batch, tokens) takes out of the texts."""
        input_ids, attention_mask = forward_pass.input_ids, forward_pass.attention_mask
        fused, text_mask = forward_pass.fused, forward_pass.text_mask
        # Through frozen layers as well, for the gradient of the mask token.
        embeddings = model.get_input_embeddings()
        with embeddings.register_forward_hook(lambda module, ids, words: self.mask_token(words, is_masked)):
            text = model.encode_text(input_ids.masked_fill(is_masked, self.config.mask_token_id), attention_mask)
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
        forward_pass = ForwardPass(input_ids, attention_mask, image, text, text_mask, fused, mask_labels)
        return self.name_masked_words(model, forward_pass, is_masked).argmax(1)


class AttendedSentence(nn.Module):
    """The sentence as the words' features, weighted by an attention that they give themselves.

    `text_features` (batch, tokens, channels), `text_mask` (batch, tokens) with 1 = word; returns (batch, channels).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A bias would be the same for all words: the softmax takes it out.
        self.score = nn.Linear(channels, 1, bias=False)

    def forward(self, text_features: Tensor, text_mask: Tensor) -> Tensor:
        scores = self.score(text_features).masked_fill(text_mask.unsqueeze(-1) == 0, -math.inf)
        return (scores.softmax(1) * text_features).sum(1)


class LastWord(nn.Module):
    """The sentence as the features of its last word; inputs and result as in `AttendedSentence`."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, text_features: Tensor, text_mask: Tensor) -> Tensor:
        last = (text_mask != 0).sum(1).clamp(min=1) - 1
        return text_features[torch.arange(text_features.shape[0], device=text_features.device), last]


class ReconstructionLayer(nn.Module):
    """A linear layer, batch normalization and ReLU (section IV-A); `mask` (batch, positions) with 1 = a feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=False)
        self.norm = TokenBatchNorm(channels)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(features), mask))


class LanguageReconstruction(TrainingTask):
    """Compares the encoded sentence with what can be read of it from multi-modal features (M3Att, section III-C).

    Sections, equations and figures are those of M3Att's paper.

    Args:
        config: the task's configuration.
        word_channels: channels of the encoded words, an even number.
        feature_channels: channels of the multi-modal features.
    """

    name = "language_reconstruction"
    loss_name = "language_reconstruction"
    SENTENCE_VECTORS = {"attention": AttendedSentence, "last_word": LastWord}

    def __init__(self, config: LanguageReconstructionConfig, word_channels: int, feature_channels: int) -> None:
        super().__init__()
        self.sentence_vector = self.SENTENCE_VECTORS[config.sentence_vector](word_channels)
        self.projection = nn.Linear(word_channels, feature_channels, bias=False)
        self.layers = nn.ModuleList(ReconstructionLayer(feature_channels) for _ in range(config.num_layers))

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "LanguageReconstruction":
        channels = map_channels if model.maps_hold_language else text_channels
        return cls(model.config.language_reconstruction, model.config.text_config.hidden_size, channels)

    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        """Of the pixels of the last fused map, or of the fused text where the maps hold no language."""
        fused, text_mask = forward_pass.fused, forward_pass.text_mask
        features, feature_mask = fused.text_features, fused.text_mask
        if model.maps_hold_language:
            features = to_tokens(fused.maps[-1])
            feature_mask = features.new_ones(features.shape[:2])
        return self(model.finish_text(forward_pass.text, text_mask), text_mask, features, feature_mask)

    def forward(self, text_features: Tensor, text_mask: Tensor, features: Tensor, feature_mask: Tensor) -> Tensor:
        """The loss: the mean squared difference of both sides, a scalar.

        Args:
            text_features: the encoded words F_t, (batch, tokens, word channels).
            text_mask: (batch, tokens), 1 = word.
            features: multi-modal features, those of words or of pixels, (batch, positions, feature channels).
            feature_mask: (batch, positions), 1 = a feature.
        """
        projected = self.project(text_features, self.sentence_vector(text_features, text_mask), text_mask)
        return F.mse_loss(at_least_float32(self.reconstruct(features, feature_mask)), at_least_float32(projected))

    def project(self, text_features: Tensor, sentences: Tensor, text_mask: Tensor) -> Tensor:
        """F_proj of the words F_t and the sentence F'_t (equation 4), (batch, feature channels)."""
        language = torch.cat([text_features + sinusoidal_positions(text_features), sentences.unsqueeze(1)], 1)
        return masked_mean(F.relu(self.projection(language)), F.pad(text_mask, (0, 1), value=1))

    def reconstruct(self, features: Tensor, feature_mask: Tensor) -> Tensor:
        """F_rec, (batch, feature channels)."""
        for layer in self.layers:
            features = layer(features, feature_mask)
        return masked_mean(features, feature_mask)


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
    is_word = ordinary_words(input_ids, attention_mask, special_token_ids)
    draws = independent_draws(is_word, generator).masked_fill(~is_word, 2)
    return is_word & (draws <= draws.amin(1, keepdim=True).clamp(min=probability))


def mask_centers(mask_labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The mean place (x, y), in [0, 1], of the pixels of masks (batch, height, width): (batch, 2); 0 if empty.

    It is computed in `dtype`, in float32 where that is a shorter format.
    """
    targets = (mask_labels != 0).flatten(1).unsqueeze(2)
    centers = pixel_centers(*mask_labels.shape[-2:], mask_labels.device, dtype)
    # No matrix product, which autocast would compute in half precision.
    return (targets * centers).sum(1) / targets.sum(1).clamp(min=1)


def coordinate_mlp(channels: int) -> nn.Sequential:
    """Two layers from coordinates (..., 2) to (..., channels)."""
    return nn.Sequential(nn.Linear(2, channels), nn.GELU(), nn.Linear(channels, channels))


TASKS: tuple[type[TrainingTask], ...] = (PresenceHead, MaskGrounding, LanguageReconstruction)

__all__ = ["TASKS", "LanguageReconstruction", "MaskGrounding", "PresenceHead", "TrainingTask"]
