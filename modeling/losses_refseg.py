"""Losses between one foreground logit map and a binary mask, each written once.

Two-class methods pass the difference of their two maps: a softmax over two classes is a sigmoid of that difference.
Shapes: `logits` (batch, height, width) float, `mask_labels` (batch, height, width) with 0 = background, 1 = target.
Every loss is a scalar.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, mask_labels: Tensor, class_weights: tuple[float, float]) -> Tensor:
    """Cross-entropy with a weight per class, divided by the sum of the weights of all pixels of the batch.

    `class_weights`: background, foreground. (LAVT, conference version.)
    """
    background, foreground = class_weights
    logits, labels = logits.float(), mask_labels.float()
    weights = background + (foreground - background) * labels
    return F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum") / weights.sum()


def cross_entropy(logits: Tensor, mask_labels: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over all pixels."""
    return F.binary_cross_entropy_with_logits(logits.float(), mask_labels.float())


def focal_loss(logits: Tensor, mask_labels: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - p_t)^gamma log(p_t), p_t the probability of the right class; averaged over pixels (RISAM, eq. 10)."""
    negative_logarithm = F.binary_cross_entropy_with_logits(logits.float(), mask_labels.float(), reduction="none")
    return ((1 - torch.exp(-negative_logarithm)).pow(gamma) * negative_logarithm).mean()


def dice_loss(logits: Tensor, mask_labels: Tensor, smoothing: float = 1.0) -> Tensor:
    """1 - (2 sum(p g) + smoothing) / (sum(p) + sum(g) + smoothing) per sample, the mean over samples (RISAM, eq. 11).

    The smoothing lets a sample without a target lower its probabilities; without it such a sample has no gradient.
    """
    probabilities, labels = logits.float().sigmoid(), mask_labels.float()
    overlap = (probabilities * labels).sum((-2, -1))
    total = probabilities.sum((-2, -1)) + labels.sum((-2, -1))
    return (1 - (2 * overlap + smoothing) / (total + smoothing)).mean()


def two_class_dice_loss(logits: Tensor, mask_labels: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Dice loss averaged over background and foreground and over samples (LAVT, sections 3.1.4 and 3.3).

    Per class: 1 - 2 sum(p g) / (sum(p^2 + g) + epsilon), the probabilities p from the softmax.
    """
    probabilities, labels = _as_two_classes(logits, mask_labels)
    overlap = (probabilities * labels).sum((-2, -1))
    total = (probabilities.square() + labels).sum((-2, -1))
    return (1 - 2 * overlap / (total + epsilon)).mean()


def two_class_focal_loss(
    logits: Tensor, mask_labels: Tensor, alpha: float = 0.75, gamma: float = 2.0, epsilon: float = 1e-5
) -> Tensor:
    """Focal loss of LAVT's "dice_focal": alpha (1 - p_t)^gamma (-log(p_c + epsilon)), averaged over both classes c.

    p_t is the probability of the right class; as released, the logarithm of both classes counts.
    """
    probabilities, labels = _as_two_classes(logits, mask_labels)
    wrong = 1 - (probabilities * labels).sum(1, keepdim=True)
    return (-alpha * wrong.pow(gamma) * torch.log(probabilities + epsilon)).mean()


def two_class_boundary_loss(
    logits: Tensor, mask_labels: Tensor, boundary_size: int = 3, tolerance_size: int = 5, epsilon: float = 1e-7
) -> Tensor:
    """One minus the boundary F1 score, averaged over both classes and over samples (LAVT, reference 87).

    A boundary is what max pooling with `boundary_size` adds to the complement of a map; it may be off by what max
    pooling with `tolerance_size` covers. Both in pixels, odd.
    """
    probabilities, labels = _as_two_classes(logits, mask_labels)
    predicted, expected = (_boundary(maps, boundary_size) for maps in (probabilities, labels))
    precision = _covered(predicted, _dilate(expected, tolerance_size), epsilon)
    recall = _covered(expected, _dilate(predicted, tolerance_size), epsilon)
    return (1 - 2 * precision * recall / (precision + recall + epsilon)).mean()


def _as_two_classes(logits: Tensor, mask_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of (background, foreground), float32, each (batch, 2, height, width)."""
    foreground = logits.float().sigmoid()
    labels = mask_labels.float()
    return torch.stack([1 - foreground, foreground], 1), torch.stack([1 - labels, labels], 1)


def _dilate(maps: Tensor, size: int) -> Tensor:
    return F.max_pool2d(maps, size, stride=1, padding=size // 2)


def _boundary(maps: Tensor, size: int) -> Tensor:
    return _dilate(1 - maps, size) - (1 - maps)


def _covered(maps: Tensor, region: Tensor, epsilon: float) -> Tensor:
    """The share of each map that lies in the region, (batch, classes)."""
    return (maps * region).sum((-2, -1)) / (maps.sum((-2, -1)) + epsilon)
