"""Training tasks: what any method can learn beside the masks, each a class that knows all about itself.

One more is a `TrainingTask` in `TASKS`, and a field of its name in the configuration.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_refseg import LanguageReconstructionConfig, RefSegConfig
from .layers_refseg import TokenBatchNorm, masked_mean, sinusoidal_positions, to_tokens
from .losses_refseg import presence_loss
from .mask_grounding_refseg import MaskGrounding
from .modeling_outputs_refseg import EncodedPass, ForwardPass, FusedAndDecoded, FusedFeatures, FusedPass
from .precision_refseg import at_least_float32
from .training_task_refseg import TrainingTask


class PresenceHead(TrainingTask):
    """Whether there is a target at all, from the coarsest fused map, the text, and the masks.

    Of the masks it reads the highest logit, without a gradient into them: those of a sentence without a target learn
    to stay empty by their own loss. In a model that reads, it tells more than map and text (docs/training.md).

    Args:
        map_channels: channels of the last of the fused maps.
        text_channels: channels of the fused text features.
    """

    name = "presence_head"
    loss_name = "presence"
    is_for_training_alone = False
    # Earlier versions knew nothing of the masks, which is what this starts as.
    _keys_to_ignore_on_load_missing = [r"presence_head\.highest_logit_weight$"]

    def __init__(self, map_channels: int, text_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * map_channels + text_channels)
        self.classifier = nn.Sequential(
            nn.Linear(2 * map_channels + text_channels, map_channels), nn.GELU(), nn.Linear(map_channels, 1)
        )
        self.highest_logit_weight = nn.Parameter(torch.zeros(map_channels))

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "PresenceHead":
        return cls(map_channels, text_channels)

    @classmethod
    def loss_weight(cls, config: RefSegConfig) -> float:
        return config.presence_loss_weight

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        if isinstance(module, PresenceHead):
            init.zeros_(module.highest_logit_weight)

    def forward(self, fused: FusedFeatures, mask_logits: Tensor) -> Tensor:
        """Logits (batch,): above 0 there is a target; `mask_logits` (batch, height, width), or with frames before."""
        pixels = to_tokens(fused.maps[-1])
        sentence = masked_mean(fused.text_features, fused.text_mask)
        read, activation, answer = self.classifier
        hidden = read(self.norm(torch.cat([pixels.mean(1), pixels.amax(1), sentence], 1)))
        highest = mask_logits.detach().flatten(1).amax(1, keepdim=True)
        return answer(activation(hidden + highest * self.highest_logit_weight)).squeeze(1)

    def predict(self, made: FusedAndDecoded) -> dict[str, Tensor]:
        return {"presence_logits": self(made.fused, made.decoded.logits)}

    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        labels, weight = forward_pass.mask_labels, model.config.presence_no_target_weight
        return presence_loss(forward_pass.output.presence_logits, labels, weight)


class AttendedSentence(nn.Module):
    """The sentence as the words' features, weighted by an attention that they give themselves.

    `text_features` (batch, tokens, channels) are those of the words once the text encoder is through; the model and
    its pass are what a task's loss is given. Returns (batch, channels).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A bias would be the same for all words: the softmax takes it out.
        self.score = nn.Linear(channels, 1, bias=False)

    def forward(self, text_features: Tensor, model: PreTrainedModel, forward_pass: EncodedPass) -> Tensor:
        is_padding = (forward_pass.text_mask == 0).unsqueeze(-1)
        scores = self.score(text_features).masked_fill(is_padding, -math.inf)
        return (scores.softmax(1) * text_features).sum(1)


class LastWord(nn.Module):
    """The sentence as the features of its last word; inputs and result as in `AttendedSentence`."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, text_features: Tensor, model: PreTrainedModel, forward_pass: EncodedPass) -> Tensor:
        last = (forward_pass.text_mask != 0).sum(1).clamp(min=1) - 1
        return text_features[torch.arange(text_features.shape[0], device=text_features.device), last]


class FinalState(nn.Module):
    """The sentence as the final state of a recurrent text encoder, F'_t (section III); as in `AttendedSentence`.

    The encoder runs once more for it: what a method knows of a text are its words.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, text_features: Tensor, model: PreTrainedModel, forward_pass: EncodedPass) -> Tensor:
        """Raises ValueError where the pass has no `input_ids`."""
        if forward_pass.input_ids is None:
            raise ValueError(
                'language_reconstruction with sentence_vector="final_state" reads the text itself: pass `input_ids` '
                "instead of `text_embeds` along with masks."
            )
        return model.text_encoder(forward_pass.input_ids, forward_pass.attention_mask).pooler_output


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
    SENTENCE_VECTORS: dict[str, type[nn.Module]] = {
        "attention": AttendedSentence,
        "final_state": FinalState,
        "last_word": LastWord,
    }

    def __init__(self, config: LanguageReconstructionConfig, word_channels: int, feature_channels: int) -> None:
        super().__init__()
        self.sentence_vector = self.SENTENCE_VECTORS[config.sentence_vector](word_channels)
        self.projection = nn.Linear(word_channels, feature_channels, bias=False)  # W_proj
        self.layers = nn.ModuleList(ReconstructionLayer(feature_channels) for _ in range(config.num_layers))

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "LanguageReconstruction":
        channels = map_channels if model.maps_hold_language else text_channels
        return cls(model.config.language_reconstruction, model.config.text_config.hidden_size, channels)

    def loss(self, model: PreTrainedModel, forward_pass: FusedPass) -> Tensor:
        """Of the pixels of the last fused map, or of the fused text where the maps hold no language."""
        fused, text_mask = forward_pass.fused, forward_pass.text_mask
        features, feature_mask = fused.text_features, fused.text_mask
        if model.maps_hold_language:
            features = to_tokens(fused.maps[-1])
            feature_mask = features.new_ones(features.shape[:2])
        text = model.finish_text(forward_pass.text, text_mask)  # F_t
        sentences = self.sentence_vector(text, model, forward_pass)  # F'_t
        return self(text, sentences, text_mask, features, feature_mask)

    def forward(
        self, text_features: Tensor, sentences: Tensor, text_mask: Tensor, features: Tensor, feature_mask: Tensor
    ) -> Tensor:
        """The loss: the mean squared difference of F_proj and F_rec (section III-C), a scalar.

        Args:
            text_features: the encoded words F_t, (batch, tokens, word channels).
            sentences: the encoded sentences F'_t, (batch, word channels).
            text_mask: (batch, tokens), 1 = word.
            features: multi-modal features, those of words or of pixels, (batch, positions, feature channels).
            feature_mask: (batch, positions), 1 = a feature.
        """
        projected = self.project(text_features, sentences, text_mask)
        return F.mse_loss(at_least_float32(self.reconstruct(features, feature_mask)), at_least_float32(projected))

    def project(self, text_features: Tensor, sentences: Tensor, text_mask: Tensor) -> Tensor:
        """F_proj of the words F_t and the sentence F'_t (equation 4), (batch, feature channels)."""
        words = text_features + sinusoidal_positions(text_features)  # F_t + e
        projected = F.relu(self.projection(torch.cat([words, sentences.unsqueeze(1)], 1)))
        return masked_mean(projected, F.pad(text_mask, (0, 1), value=1))  # equation 4

    def reconstruct(self, features: Tensor, feature_mask: Tensor) -> Tensor:
        """F_rec: stacked linear layers and the mean over what they read (figure 5), (batch, feature channels)."""
        for layer in self.layers:
            features = layer(features, feature_mask)
        return masked_mean(features, feature_mask)


TASKS: tuple[type[TrainingTask], ...] = (PresenceHead, MaskGrounding, LanguageReconstruction)

__all__ = ["TASKS", "LanguageReconstruction", "PresenceHead"]
