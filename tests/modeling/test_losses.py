"""Losses against slow loops written from their definitions, and at their limits."""

import math
from collections.abc import Callable
from functools import partial

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
    presence_loss,
    reconstructed_word_loss,
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


def test_cross_entropy(maps) -> None:
    terms = [-math.log(p[label]) for p, label in pixels(*maps)]
    assert cross_entropy(*maps).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(maps, gamma: float) -> None:
    terms = [(1 - p[label]) ** gamma * -math.log(p[label]) for p, label in pixels(*maps)]
    assert focal_loss(*maps, gamma).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_focal_focuses_as_in_the_paper(maps) -> None:
    assert focal_loss(*maps) == focal_loss(*maps, gamma=2.0)


@pytest.mark.parametrize("smoothing", [{}, {"smoothing": 0.25}, {"smoothing": 4.0}], ids=str)
def test_dice(maps, smoothing: dict[str, float]) -> None:
    """Without a word on it, the smoothing is 1."""
    expected, added = [], smoothing.get("smoothing", 1.0)
    for logits, labels in zip(*maps, strict=True):
        overlap = sum(p[1] for p, label in pixels(logits, labels) if label == 1)
        total = sum(p[1] + label for p, label in pixels(logits, labels))
        expected.append(1 - (2 * overlap + added) / (total + added))
    assert dice_loss(*maps, **smoothing).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_dice_of_a_sample_without_a_target_is_what_smoothing_leaves_of_it() -> None:
    logits = torch.tensor([[[0.3, -1.2], [2.0, -0.4]]], requires_grad=True)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    loss = dice_loss(logits, labels)
    loss.backward()
    predicted = sum(p[1] for p, _ in pixels(logits, labels))
    assert loss.item() == pytest.approx(1 - 1 / (predicted + 1), rel=1e-5)
    assert (logits.grad > 0).all()


def test_iou(maps) -> None:
    expected = []
    for logits, labels in zip(*maps, strict=True):
        overlap = sum(min(p[1], label) for p, label in pixels(logits, labels))
        expected.append(1 - overlap / sum(max(p[1], label) for p, label in pixels(logits, labels)))
    assert iou_loss(*maps).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_iou_of_a_sample_without_a_target_is_finite_and_costs_1() -> None:
    logits = torch.full((1, 4, 4), -200.0, requires_grad=True)
    loss = iou_loss(logits, torch.zeros(1, 4, 4))
    loss.backward()
    assert loss == 1 and logits.grad.isfinite().all()


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_error_weighted_cross_entropy_has_no_gradient_through_its_weights(maps, sigma: float) -> None:
    logits, labels = maps[0].requires_grad_(), maps[1]
    loss = error_weighted_cross_entropy(logits, labels, sigma)
    loss.backward()
    total, count = 0.0, labels.numel()
    for (p, label), gradient in zip(pixels(logits, labels), logits.grad.flatten().tolist(), strict=True):
        weight = sigma * abs(p[1] - label)
        total -= weight * math.log(p[label])
        # Of a constant weight times the cross-entropy, whose derivative is p - g.
        assert gradient == pytest.approx(weight * (p[1] - label) / count, rel=1e-3, abs=1e-7)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_two_class_focal(maps) -> None:
    terms = [0.75 * (1 - p[label]) ** 2 * -math.log(p[kind] + 1e-5) for p, label in pixels(*maps) for kind in (0, 1)]
    assert two_class_focal_loss(*maps).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_two_class_dice(maps) -> None:
    losses = []
    for logits, labels in zip(*maps, strict=True):
        for kind in (0, 1):
            overlap = sum(p[kind] for p, label in pixels(logits, labels) if label == kind)
            total = sum(p[kind] ** 2 + (label == kind) for p, label in pixels(logits, labels))
            losses.append(1 - 2 * overlap / (total + 1e-6))
    assert two_class_dice_loss(*maps).item() == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_two_class_boundary(maps) -> None:
    """The boundary F1 score by loops: maxima over windows of 3 and, for the tolerance, of 5 pixels."""

    def largest(rows: list[list[float]], reach: int) -> list[list[float]]:
        height, width = len(rows), len(rows[0])
        return [
            [
                max(
                    rows[j][i]
                    for j in range(max(0, y - reach), min(height, y + reach + 1))
                    for i in range(max(0, x - reach), min(width, x + reach + 1))
                )
                for x in range(width)
            ]
            for y in range(height)
        ]

    def boundary(rows: list[list[float]]) -> list[list[float]]:
        complement = [[1 - value for value in row] for row in rows]
        pairs = zip(largest(complement, 1), complement, strict=True)
        return [[most - own for most, own in zip(*pair, strict=True)] for pair in pairs]

    def covered(rows: list[list[float]], region: list[list[float]]) -> float:
        inside = sum(a * b for pair in zip(rows, region, strict=True) for a, b in zip(*pair, strict=True))
        return inside / (sum(sum(row) for row in rows) + 1e-7)

    losses = []
    for logits, labels in zip(*maps, strict=True):
        for kind in (0, 1):
            predicted = boundary([[p[kind] for p, _ in pixels(row, row)] for row in logits])
            expected = boundary([[float(label == kind) for label in row] for row in labels.tolist()])
            precision, recall = covered(predicted, largest(expected, 2)), covered(expected, largest(predicted, 2))
            losses.append(1 - 2 * precision * recall / (precision + recall + 1e-7))
    assert two_class_boundary_loss(*maps).item() == pytest.approx(sum(losses) / 4, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        partial(weighted_cross_entropy, class_weights=(0.9, 1.1)),
        two_class_dice_loss,
        two_class_focal_loss,
        two_class_boundary_loss,
    ],
    ids=lambda loss: getattr(loss, "func", loss).__name__,
)
def test_samples_that_do_not_count_have_no_part(maps, loss: Callable) -> None:
    logits, labels = (torch.cat([part, part.flip(1)]) for part in maps)
    is_counted = torch.tensor([True, False, True, True])
    actual = loss(logits, labels, is_counted=is_counted).item()
    assert actual == pytest.approx(loss(logits[is_counted], labels[is_counted]).item(), rel=1e-5)
    assert actual != pytest.approx(loss(logits, labels).item(), rel=1e-3)


def test_presence() -> None:
    """Of the texts that somebody annotated, whatever part of them."""
    labels = torch.zeros(4, 3, 2, 2, dtype=torch.long)
    labels[1, 1:] = labels[2, 0] = labels[3] = -100
    labels[2, 1, 0, 1] = 1
    logits = torch.tensor([0.7, -0.3, 1.2, 9.0])
    terms = [math.log(1 + math.exp(0.7)), math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(-1.2))]
    assert presence_loss(logits, labels).item() == pytest.approx(sum(terms) / 3, rel=1e-5)
    assert presence_loss(logits, torch.full_like(labels, -100)) == 0


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_texts_without_a_target_count_as_much_in_the_presence_loss_as_is_said(weight) -> None:
    labels = torch.zeros(3, 2, 2, dtype=torch.long)
    labels[1] = 1
    logits = torch.tensor([0.7, -0.3, 1.2])
    absent = [math.log(1 + math.exp(0.7)), math.log(1 + math.exp(1.2))]
    expected = (weight * sum(absent) + math.log(1 + math.exp(0.3))) / 3
    assert presence_loss(logits, labels, weight).item() == pytest.approx(expected, rel=1e-5)
    assert presence_loss(logits[:1], labels[:1], weight).item() == pytest.approx(weight * absent[0], rel=1e-5)


def test_masked_words_are_a_mean_over_those_of_each_sentence() -> None:
    logits, ids = torch.randn(4, 5, 12), torch.randint(0, 12, (4, 5))
    is_masked = torch.zeros(4, 5, dtype=torch.bool)
    is_masked[0, 1:4] = is_masked[1, 2] = is_masked[2, 0] = True

    def mean_of(sentences: tuple[int, ...]) -> float:
        means = []
        for index in sentences:
            words = [word for word in range(5) if is_masked[index, word]]
            losses = [-math.log(logits[index, word].softmax(0)[ids[index, word]]) for word in words]
            means.append(sum(losses) / len(losses))
        return sum(means) / len(means)

    counted = torch.tensor([True, True, False, True])
    counted = is_masked & counted[:, None]
    assert reconstructed_word_loss(logits, ids, counted).item() == pytest.approx(mean_of((0, 1)), 1e-5)
    assert reconstructed_word_loss(logits, ids, is_masked).item() == pytest.approx(mean_of((0, 1, 2)), rel=1e-5)
    assert reconstructed_word_loss(logits, ids, is_masked & False) == 0


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
