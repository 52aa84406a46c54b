"""Losses between one foreground logit map and a binary mask, each written once.

Two-class methods pass the difference of their two maps: a softmax over two classes is a sigmoid of that difference.
Shapes: `logits` (batch, height, width) float, `mask_labels` (batch, height, width) with 0 = background, 1 = target.
Every loss is a scalar. Where there is `is_counted`, bool (batch,), the samples that it leaves out have no part in it:
as weights, not as a choice, so that no shape hangs on values.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision_refseg import at_least_float32

# In `mask_labels`, all over a frame that nobody annotated.
NOT_ANNOTATED = -100


def weighted_cross_entropy(
    logits: Tensor,
    mask_labels: Tensor,
    class_weights: Sequence[float],
    is_counted: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with a weight per class, divided by the sum of the weights of all pixels of the batch.

    `class_weights`: background, foreground. (LAVT, conference version.)
    """
    background, foreground = class_weights
    logits, labels = _precise(logits, mask_labels)
    weights = background + (foreground - background) * labels
    if is_counted is not None:
        weights = weights * is_counted[:, None, None]
    return F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum") / weights.sum()


def cross_entropy(logits: Tensor, mask_labels: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over all pixels."""
    return F.binary_cross_entropy_with_logits(*_precise(logits, mask_labels))


def focal_loss(logits: Tensor, mask_labels: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - p_t)^gamma log(p_t), p_t the probability of the right class; averaged over pixels (RISAM, equation 10)."""
    negative_logarithm = F.binary_cross_entropy_with_logits(*_precise(logits, mask_labels), reduction="none")
    return ((1 - torch.exp(-negative_logarithm)).pow(gamma) * negative_logarithm).mean()


def dice_loss(logits: Tensor, mask_labels: Tensor, smoothing: float = 1.0) -> Tensor:
    """1 - (2 sum(p g) + smoothing) / (sum(p) + sum(g) + smoothing) per sample, the mean over samples.

    (RISAM, equation 11.) The smoothing lets a sample without a target lower its probabilities; without it such a
    sample has no gradient.
    """
    logits, labels = _precise(logits, mask_labels)
    probabilities = logits.sigmoid()
    overlap = (probabilities * labels).sum((-2, -1))
    total = probabilities.sum((-2, -1)) + labels.sum((-2, -1))
    return (1 - (2 * overlap + smoothing) / (total + smoothing)).mean()


def iou_loss(logits: Tensor, mask_labels: Tensor, epsilon: float = 1e-6) -> Tensor:
    """1 - sum(min(p, g)) / sum(max(p, g)) per sample, the mean over samples (BTMAE, equation 5).

    The denominator is `epsilon` at least. A sample without a target costs 1 whatever its probabilities p are.
    """
    logits, labels = _precise(logits, mask_labels)
    probabilities = logits.sigmoid()
    overlap = torch.minimum(probabilities, labels).sum((-2, -1))
    union = torch.maximum(probabilities, labels).sum((-2, -1))
    return (1 - overlap / union.clamp(min=epsilon)).mean()


def error_weighted_cross_entropy(
    logits: Tensor, mask_labels: Tensor, sigma: float = 1.0, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Binary cross-entropy, each pixel weighted by w = sigma |p - g| (BTMAE, equation 5).

    p is the probability of the foreground. No gradient flows through w. `reduction` as in `_mean_or_sum`.
    """
    logits, labels = _precise(logits, mask_labels)
    weights = sigma * (logits.detach().sigmoid() - labels).abs()
    return _mean_or_sum(F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none"), reduction)


def image_reconstruction_loss(
    pixel_values: Tensor, targets: Tensor, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Squared difference of images (batch, 3, height, width) (BTMAE, equation 4); `reduction` as in `_mean_or_sum`."""
    losses = F.mse_loss(at_least_float32(pixel_values), at_least_float32(targets), reduction="none")
    return _mean_or_sum(losses, reduction)


def two_class_dice_loss(
    logits: Tensor, mask_labels: Tensor, epsilon: float = 1e-6, is_counted: Tensor | None = None
) -> Tensor:
    """Dice loss averaged over background and foreground and over samples (LAVT, sections 3.1.4 and 3.3).

    Per class: 1 - 2 sum(p g) / (sum(p^2 + g) + epsilon), the probabilities p from the softmax.
    """
    probabilities, labels = _as_two_classes(logits, mask_labels)
    overlap = (probabilities * labels).sum((-2, -1))
    total = (probabilities.square() + labels).sum((-2, -1))
    return _mean_over_samples(1 - 2 * overlap / (total + epsilon), is_counted)


def two_class_focal_loss(
    logits: Tensor,
    mask_labels: Tensor,
    alpha: float = 0.75,
    gamma: float = 2.0,
    epsilon: float = 1e-5,
    is_counted: Tensor | None = None,
) -> Tensor:
    """Focal loss of LAVT's "dice_focal": alpha (1 - p_t)^gamma (-log(p_c + epsilon)), averaged over both classes c.

    p_t is the probability of the right class; as released, the logarithm of both classes counts.
    """
    probabilities, labels = _as_two_classes(logits, mask_labels)
    wrong = 1 - (probabilities * labels).sum(1, keepdim=True)
    return _mean_over_samples(-alpha * wrong.pow(gamma) * torch.log(probabilities + epsilon), is_counted)


def two_class_boundary_loss(
    logits: Tensor,
    mask_labels: Tensor,
    boundary_size: int = 3,
    tolerance_size: int = 5,
    epsilon: float = 1e-7,
    is_counted: Tensor | None = None,
) -> Tensor:
    """One minus the boundary F1 score, averaged over both classes and over samples (LAVT, reference 87).

    A boundary is what max pooling with `boundary_size` adds to the complement of a map; it may be off by what max
    pooling with `tolerance_size` covers. Both in pixels, odd.
    """
    probabilities, labels = _as_two_classes(logits, mask_labels)
    predicted, expected = (_boundary(maps, boundary_size) for maps in (probabilities, labels))
    precision = _covered(predicted, _dilate(expected, tolerance_size), epsilon)
    recall = _covered(expected, _dilate(predicted, tolerance_size), epsilon)
    return _mean_over_samples(1 - 2 * precision * recall / (precision + recall + epsilon), is_counted)


def pixel_to_pixel_loss(
    features: Tensor,
    mask_labels: Tensor,
    temperature: float,
    max_pixels: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws the pixels of the target together, those of the background too, and both apart (MagNet, equation 13).

    The logarithm, which the equation lacks, is there.

    Args:
        features: (batch, channels, h, w); they are normalized to length 1.
        mask_labels: (batch, height, width) of any size; each feature takes the nearest label.
        temperature: tau_1.
        max_pixels: so many pixels of the target and of the background are drawn at random at most. Memory grows with
            its square, not with the image.
        generator: draws the pixels, on the device of `features`; torch's own if absent.

    Returns:
        The mean over the samples that have both target and background; 0 where none has.
    """
    target, background = _target_and_background(features, mask_labels, max_pixels, generator)
    attract_target = _contrast(target, target.center, background, temperature)
    attract_background = _contrast(background, background.center, target, temperature)
    return _mean_over_contrasted(attract_target + attract_background, target, background)


def pixel_to_text_loss(
    features: Tensor,
    sentences: Tensor,
    mask_labels: Tensor,
    temperature: float,
    max_pixels: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws the pixels of the target to their sentence and away from the background (MagNet, equation 14).

    `sentences` (batch, channels) are normalized to length 1, `temperature` is tau_2; the rest is as in
    `pixel_to_pixel_loss`.
    """
    target, background = _target_and_background(features, mask_labels, max_pixels, generator)
    anchors = F.normalize(at_least_float32(sentences), dim=-1)
    return _mean_over_contrasted(_contrast(target, anchors, background, temperature), target, background)


def presence_loss(logits: Tensor, mask_labels: Tensor, no_target_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy of `logits` (batch,); a target is present where its mask (batch, ...) is not empty.

    The mean over the texts whose masks have a value of at least 0: of others nobody knows. The loss of a text without
    a target is multiplied by `no_target_weight`, 0 or more, whatever else is in the batch.
    """
    labels, logits = mask_labels.flatten(1), at_least_float32(logits)
    present, is_known = (labels > 0).any(1).to(logits.dtype), (labels >= 0).any(1)
    losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    weights = is_known * (present + no_target_weight * (1 - present))
    return (losses * weights).sum() / is_known.sum().clamp(min=1)


def reconstructed_word_loss(logits: Tensor, input_ids: Tensor, is_masked: Tensor) -> Tensor:
    """Cross-entropy of the masked words: a mean over those of each sentence, then over the sentences.

    (MagNet, equation 4; BTMAE, section 3.4.) A sentence without a masked word is left out; 0 where none is left. No
    shape hangs on values.

    Args:
        logits: those of all words, (batch, tokens, vocabulary).
        input_ids: the words as they were before they were masked, (batch, tokens).
        is_masked: (batch, tokens) bool.
    """
    losses = F.cross_entropy(at_least_float32(logits).transpose(1, 2), input_ids, reduction="none")
    return _mean_over_sentences(losses, is_masked)


class _Pixels(NamedTuple):
    """Drawn pixels of the target or the background, and the center of all of them.

    `features` (batch, pixels, channels) of length 1, `is_drawn` (batch, pixels) False for filling, `center` (batch,
    channels): the mean, again of length 1.
    """

    features: Tensor
    is_drawn: Tensor
    center: Tensor


def _target_and_background(
    features: Tensor, mask_labels: Tensor, max_pixels: int, generator: torch.Generator | None
) -> tuple[_Pixels, _Pixels]:
    labels = F.interpolate(mask_labels[:, None].float(), features.shape[-2:], mode="nearest-exact").flatten(1) > 0.5
    pixels = F.normalize(at_least_float32(features).flatten(2).transpose(1, 2), dim=-1)
    target, background = (_draw(pixels, members, max_pixels, generator) for members in (labels, ~labels))
    return target, background


def _draw(pixels: Tensor, members: Tensor, max_pixels: int, generator: torch.Generator | None) -> _Pixels:
    lottery = torch.rand(members.shape, device=members.device, generator=generator).masked_fill(~members, -1)
    numbers, places = lottery.topk(min(max_pixels, members.shape[1]), dim=1)
    drawn = pixels.gather(1, places[..., None].expand(-1, -1, pixels.shape[2]))
    return _Pixels(drawn, numbers >= 0, F.normalize((pixels * members[..., None]).sum(1), dim=-1))


def _contrast(pixels: _Pixels, anchors: Tensor, others: _Pixels, temperature: float) -> Tensor:
    """InfoNCE of pixels with their sample's anchor (batch, channels) against the others; its means (batch,)."""
    alike = (pixels.features @ anchors[..., None]) / temperature
    unlike = (pixels.features @ others.features.transpose(1, 2)) / temperature
    unlike = unlike.masked_fill(~others.is_drawn[:, None], float("-inf"))
    losses = torch.cat([alike, unlike], 2).logsumexp(2) - alike.squeeze(2)
    return (losses * pixels.is_drawn).sum(1) / pixels.is_drawn.sum(1).clamp(min=1)


def _mean_over_contrasted(losses: Tensor, target: _Pixels, background: _Pixels) -> Tensor:
    has_both = target.is_drawn.any(1) & background.is_drawn.any(1)
    return (losses * has_both).sum() / has_both.sum().clamp(min=1)


def _mean_or_sum(losses: Tensor, reduction: Literal["mean", "sum"]) -> Tensor:
    """The mean of losses (batch, ...); or, as the paper of BTMAE prints it, the sum of each sample, the mean of those.

    A sum grows with the image: at 480 x 480 it is the mean of a mask's pixels times 230,400.
    """
    return losses.mean() if reduction == "mean" else losses.flatten(1).sum(1).mean()


def _mean_over_samples(losses: Tensor, is_counted: Tensor | None) -> Tensor:
    """The mean of losses (batch, ...), of the samples that count alone."""
    if is_counted is None:
        return losses.mean()
    return (losses.flatten(1).mean(1) * is_counted).sum() / is_counted.sum()


def _mean_over_sentences(losses: Tensor, is_counted: Tensor) -> Tensor:
    """The mean of losses (batch, tokens) over the words of each sentence that count, then over those that have any."""
    words = is_counted.to(losses.dtype)
    return (losses * words / words.sum(1, keepdim=True).clamp(min=1)).sum() / is_counted.any(1).sum().clamp(min=1)


def _precise(logits: Tensor, mask_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, in float64 where the logits are."""
    logits = at_least_float32(logits)
    return logits, mask_labels.to(logits.dtype)


def _as_two_classes(logits: Tensor, mask_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of (background, foreground), each (batch, 2, height, width)."""
    logits, labels = _precise(logits, mask_labels)
    foreground = logits.sigmoid()
    return torch.stack([1 - foreground, foreground], 1), torch.stack([1 - labels, labels], 1)


def _dilate(maps: Tensor, size: int) -> Tensor:
    return F.max_pool2d(maps, size, stride=1, padding=size // 2)


def _boundary(maps: Tensor, size: int) -> Tensor:
    return _dilate(1 - maps, size) - (1 - maps)


def _covered(maps: Tensor, region: Tensor, epsilon: float) -> Tensor:
    """The share of each map that lies in the region, (batch, classes)."""
    return (maps * region).sum((-2, -1)) / (maps.sum((-2, -1)) + epsilon)
