"""Training tasks beside the masks that any method can carry."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .modeling_outputs_refseg import FusedFeatures


class PresenceHead(nn.Module):
    """Whether there is a target at all, from the coarsest fused map and the words.

    Args:
        map_channels: channels of the last of the fused maps.
        word_channels: channels of the fused words.
    """

    def __init__(self, map_channels: int, word_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * map_channels + word_channels)
        self.classifier = nn.Sequential(
            nn.Linear(2 * map_channels + word_channels, map_channels), nn.GELU(), nn.Linear(map_channels, 1)
        )

    def forward(self, fused: FusedFeatures) -> Tensor:
        """Logits (batch,): above 0 there is a target."""
        pixels = fused.maps[-1].flatten(2)
        weights = fused.word_mask / fused.word_mask.sum(1, keepdim=True)
        sentence = (fused.words * weights.unsqueeze(-1)).sum(1)
        return self.classifier(self.norm(torch.cat([pixels.mean(2), pixels.amax(2), sentence], 1))).squeeze(1)

    @staticmethod
    def loss(logits: Tensor, mask_labels: Tensor) -> Tensor:
        """Binary cross-entropy of `logits` (batch,); a target is present where its mask (batch, ...) is not empty."""
        present = (mask_labels != 0).flatten(1).any(1)
        return F.binary_cross_entropy_with_logits(logits.float(), present.float())
