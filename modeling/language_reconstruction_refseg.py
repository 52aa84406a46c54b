"""Language feature reconstruction: a training task that keeps the language in what image and text became together.

Sections, equations and figures are those of M3Att (Liu et al., "Multi-Modal Mutual Attention and Iterative Interaction
for Referring Image Segmentation", 2023).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_refseg import LanguageReconstructionConfig
from .layers_refseg import TokenBatchNorm, masked_mean, sinusoidal_positions
from .precision_refseg import at_least_float32


class AttendedSentence(nn.Module):
    """The sentence as the words' features, weighted by an attention that they give themselves.

    `words` (batch, tokens, channels), `word_mask` (batch, tokens) with 1 = word; returns (batch, channels).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A bias would be the same for all words: the softmax takes it out.
        self.score = nn.Linear(channels, 1, bias=False)

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        scores = self.score(words).masked_fill(word_mask.unsqueeze(-1) == 0, -math.inf)
        return (scores.softmax(1) * words).sum(1)


class LastWord(nn.Module):
    """The sentence as the features of its last word; inputs and result as in `AttendedSentence`."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        last = (word_mask != 0).sum(1).clamp(min=1) - 1
        return words[torch.arange(words.shape[0], device=words.device), last]


class ReconstructionLayer(nn.Module):
    """A linear layer, batch normalization and ReLU (section IV-A); `mask` (batch, positions) with 1 = a feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=False)
        self.norm = TokenBatchNorm(channels)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(features), mask))


class LanguageReconstruction(nn.Module):
    """Compares the encoded language with what can be read of it from multi-modal features (section III-C, figure 5).

    Args:
        config: the task's configuration.
        word_channels: channels of the encoded words, an even number.
        feature_channels: channels of the multi-modal features.
    """

    SENTENCE_VECTORS = {"attention": AttendedSentence, "last_word": LastWord}

    def __init__(self, config: LanguageReconstructionConfig, word_channels: int, feature_channels: int) -> None:
        super().__init__()
        self.sentence_vector = self.SENTENCE_VECTORS[config.sentence_vector](word_channels)
        self.projection = nn.Linear(word_channels, feature_channels, bias=False)
        self.layers = nn.ModuleList(ReconstructionLayer(feature_channels) for _ in range(config.num_layers))

    def forward(self, words: Tensor, word_mask: Tensor, features: Tensor, feature_mask: Tensor) -> Tensor:
        """The loss: the mean squared difference of both sides, a scalar.

        Args:
            words: the encoded words F_t, (batch, tokens, word channels).
            word_mask: (batch, tokens), 1 = word.
            features: multi-modal features, those of words or of pixels, (batch, positions, feature channels).
            feature_mask: (batch, positions), 1 = a feature.
        """
        projected = self.project(words, self.sentence_vector(words, word_mask), word_mask)
        return F.mse_loss(at_least_float32(self.reconstruct(features, feature_mask)), at_least_float32(projected))

    def project(self, words: Tensor, sentences: Tensor, word_mask: Tensor) -> Tensor:
        """F_proj of the words F_t and the sentence F'_t (equation 4), (batch, feature channels)."""
        language = torch.cat([words + sinusoidal_positions(words), sentences.unsqueeze(1)], 1)
        return masked_mean(F.relu(self.projection(language)), F.pad(word_mask, (0, 1), value=1))

    def reconstruct(self, features: Tensor, feature_mask: Tensor) -> Tensor:
        """F_rec, (batch, feature channels)."""
        for layer in self.layers:
            features = layer(features, feature_mask)
        return masked_mean(features, feature_mask)


__all__ = ["LanguageReconstruction"]
