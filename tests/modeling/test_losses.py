"""Losses against slow loops written from their definitions, and at their limits."""

import math

import pytest
import torch
from rounded_operations import RoundedOperations

from hf_refseg.modeling.losses_refseg import (
    cross_entropy,
    dice_loss,
    error_weighted_cross_entropy,
    focal_loss,
    iou_loss,
    pixel_to_pixel_loss,
    pixel_to_text_loss,
    two_class_boundary_loss,
    two_class_dice_loss,
    two_class_focal_loss,
    weighted_cross_entropy,
)


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 9, 11, generator=generator) * 2, (torch.rand(2, 9, 11, generator=generator) > 0.7).long()


def pixels(logits: torch.Tensor, labels: torch.Tensor):
    """Of each pixel: the probabilities of (background, foreground), and which one is right."""
    for logit, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        foreground = 1 / (1 + math.exp(-logit))
        yield (1 - foreground, foreground), int(label)


def test_weighted_cross_entropy(maps) -> None:
    weights = (0.9, 1.1)
    total = sum(-weights[label] * math.log(p[label]) for p, label in pixels(*maps))
    expected = total / sum(weights[label] for _, label in pixels(*maps))
    assert weighted_cross_entropy(*maps, weights).item() == pytest.approx(expected, rel=1e-5)


def test_focal(maps) -> None:
    terms = [0.75 * (1 - p[label]) ** 2 * -math.log(p[kind] + 1e-5) for p, label in pixels(*maps) for kind in (0, 1)]
    assert two_class_focal_loss(*maps).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_dice(maps) -> None:
    losses = []
    for logits, labels in zip(*maps, strict=True):
        for kind in (0, 1):
            overlap = sum(p[kind] for p, label in pixels(logits, labels) if label == kind)
            total = sum(p[kind] ** 2 + (label == kind) for p, label in pixels(logits, labels))
            losses.append(1 - 2 * overlap / (total + 1e-6))
    assert two_class_dice_loss(*maps).item() == pytest.approx(sum(losses) / 4, rel=1e-5)


def perfect(labels: torch.Tensor) -> torch.Tensor:
    return (labels * 2 - 1) * 60.0


def test_a_perfect_mask_costs_nothing(maps) -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[0, 5:12, 6:15] = 1
    logits = perfect(labels)
    for loss in (two_class_dice_loss, two_class_focal_loss, two_class_boundary_loss):
        assert abs(loss(logits, labels).item()) < 1e-4
    for loss in (two_class_dice_loss, two_class_focal_loss):
        assert loss(-logits, labels).item() > 0.9
    # The boundary may be off by the tolerance, two pixels, and not by five.
    near, far = (perfect(labels.roll(shift, 2)) for shift in (1, 5))
    assert two_class_boundary_loss(near, labels) < 0.05 < 0.2 < two_class_boundary_loss(far, labels)


@pytest.mark.parametrize("loss", [two_class_dice_loss, two_class_focal_loss, two_class_boundary_loss])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits_and_uniform_masks_stay_finite(loss, label: int) -> None:
    logits = torch.tensor([[[90.0, -90.0], [0.0, 1e4]]], requires_grad=True)
    value = loss(logits, torch.full((1, 2, 2), label))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_losses_average_over_samples(maps) -> None:
    logits, labels = maps
    for loss in (two_class_dice_loss, two_class_focal_loss, two_class_boundary_loss):
        alone = [loss(logits[index : index + 1], labels[index : index + 1]).item() for index in (0, 1)]
        assert loss(logits, labels).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_no_loss_rounds_float64(maps) -> None:
    logits, labels = maps[0].double().requires_grad_(), maps[1]
    features = logits[:, None].expand(-1, 3, -1, -1)
    with RoundedOperations() as rounded:
        losses = [
            weighted_cross_entropy(logits, labels, (0.9, 1.1)),
            pixel_to_pixel_loss(features, labels, 0.3, 20),
            pixel_to_text_loss(features, features.mean((2, 3)), labels, 0.3, 20),
        ]
        for loss in (cross_entropy, focal_loss, dice_loss, iou_loss, error_weighted_cross_entropy):
            losses.append(loss(logits, labels))
        for loss in (two_class_dice_loss, two_class_focal_loss, two_class_boundary_loss):
            losses.append(loss(logits, labels))
        sum(losses).backward()
    assert rounded.names == []
    assert {loss.dtype for loss in losses} == {torch.float64}
