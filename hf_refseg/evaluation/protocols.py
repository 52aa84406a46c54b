"""Evaluation protocols: how each paper turns masks into numbers, computed from integer pixel counts alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Protocol:
    """How one family of papers compares predicted masks with true ones.

    Attributes:
        name: the protocol's name, without which a number means nothing.
        resolution: the size at which masks are compared: `"original"`, the image's own, or `"model"`, the model's
            input size with the true mask resized to it (nearest neighbor).
        mask_threshold: the foreground probability in [0, 1] above which a pixel belongs to the prediction;
            None = the processor's own.
        empty_union_iou: the IoU in [0, 1] of a sample whose predicted and true masks are both empty.
        intersection_epsilon: pixels added to the intersection before the division.
        union_epsilon: pixels added to the union before the division.
        strict_precision: True: a sample counts for Pr@X when its IoU is above X; False: also when it equals X.
        precision_thresholds: the X of Pr@X, each in (0, 1).
        threshold_dtype: the floating-point type that X is rounded to before the comparison.
    """

    name: str
    resolution: Literal["original", "model"]
    mask_threshold: float | None
    empty_union_iou: float
    intersection_epsilon: float = 0.0
    union_epsilon: float = 0.0
    strict_precision: bool = False
    precision_thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    threshold_dtype: Literal["float64", "float32"] = "float64"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("original", resolution="original", mask_threshold=None, empty_union_iou=1.0),
        # The argmax over LAVT's two classes is a foreground probability above 0.5.
        Protocol("lavt", resolution="model", mask_threshold=0.5, empty_union_iou=0.0),
        Protocol(
            "vlt",
            resolution="original",
            mask_threshold=0.35,
            empty_union_iou=1.0,
            intersection_epsilon=1e-10,
            union_epsilon=1e-10,
            strict_precision=True,
        ),
        Protocol(
            "cris",
            resolution="original",
            mask_threshold=0.35,
            empty_union_iou=0.0,
            union_epsilon=1e-6,
            strict_precision=True,
            # In float32, 0.7 and 0.9 lie a little below an IoU of exactly 7/10 or 9/10, 0.6 and 0.8 above: it decides.
            threshold_dtype="float32",
        ),
    )
}
SCORING_OPTIONS = (
    "empty_union_iou",
    "intersection_epsilon",
    "union_epsilon",
    "strict_precision",
    "precision_thresholds",
    "threshold_dtype",
)


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of this name; a `Protocol` is returned as it is.

    Raises:
        ValueError: no protocol has this name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}: choose one of {', '.join(sorted(PROTOCOLS))}.")
    return PROTOCOLS[protocol]


def mask_counts(prediction: ArrayLike, reference: ArrayLike) -> tuple[int, int]:
    """Pixels in the intersection and in the union of two masks: all that the protocols need to keep of them.

    Args:
        prediction: boolean (H, W), numpy or a torch tensor on the CPU.
        reference: boolean (H, W), of the same size.

    Returns:
        `(intersection, union)` in pixels.

    Raises:
        ValueError: a mask is not boolean or not two-dimensional, or the sizes differ.
    """
    prediction = _boolean_mask(prediction, "prediction")
    reference = _boolean_mask(reference, "reference")
    if prediction.shape != reference.shape:
        raise ValueError(
            f"The prediction is {prediction.shape} and the reference {reference.shape} (height, width): "
            "resize the prediction to the reference first."
        )
    return int(np.count_nonzero(prediction & reference)), int(np.count_nonzero(prediction | reference))


def per_sample_iou(
    intersections: ArrayLike, unions: ArrayLike, protocol: str | Protocol = "original"
) -> NDArray[np.float64]:
    """IoU of every sample.

    Args:
        intersections: (N,) integers, pixels.
        unions: (N,) integers, pixels.
        protocol: a protocol or its name.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: unknown protocol, or counts that cannot be pixel counts.
    """
    protocol = get_protocol(protocol)
    intersections, unions = _pixel_counts(intersections, unions)
    numerators = intersections + protocol.intersection_epsilon
    # A union of 0 is replaced so that nothing is divided by 0; its IoU is the protocol's decision.
    denominators = np.maximum(unions, 1) + protocol.union_epsilon
    return np.where(unions == 0, protocol.empty_union_iou, numerators / denominators)


def scores_from_counts(
    intersections: ArrayLike, unions: ArrayLike, protocol: str | Protocol = "original"
) -> dict[str, float]:
    """The protocol's scores from pixel counts.

    Args:
        intersections: (N,) integers, pixels.
        unions: (N,) integers, pixels.
        protocol: a protocol or its name.

    Returns:
        Percent: `oIoU` (all intersections over all unions; papers also call it cumulative IoU), `mIoU` (the mean over
        samples) and `Pr@X` (samples whose IoU reaches X).

    Raises:
        ValueError: unknown protocol, no sample, or counts that cannot be pixel counts.
    """
    protocol = get_protocol(protocol)
    totals = _sample_contributions(intersections, unions, protocol).sum(axis=0)
    return dict(zip(_score_names(protocol), _scores_from_totals(totals[None], protocol)[0].tolist(), strict=True))


def evaluate_masks(
    predictions: Sequence[ArrayLike], references: Sequence[ArrayLike], protocol: str | Protocol = "original", **options
) -> dict[str, float]:
    """Score predicted masks against true ones.

    Masks are compared as they are: a protocol's resolution and mask threshold concern whoever makes the masks
    (`hf_refseg.evaluation.evaluate_model` follows them).

    Args:
        predictions: N boolean masks (H, W), numpy arrays or torch tensors on the CPU; sizes may differ among samples.
        references: N boolean masks, each of its prediction's size.
        protocol: `"original"`, `"lavt"`, `"vlt"`, `"cris"` or a `Protocol`.
        options: replace single scoring fields of the protocol, such as `precision_thresholds=(0.5, 0.95)`.

    Returns:
        Percent: `oIoU`, `mIoU`, `Pr@0.5` ... `Pr@0.9`.

    Raises:
        ValueError: unknown protocol or option, no sample, unequal numbers of masks, or a mask that is not boolean, not
            two-dimensional or of another size than its partner; the message names the sample.
    """
    protocol = _with_options(get_protocol(protocol), options)
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references: give one for each.")
    counts = np.zeros((len(predictions), 2), dtype=np.int64)
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        try:
            counts[index] = mask_counts(prediction, reference)
        except ValueError as error:
            raise ValueError(f"Sample {index}: {error}") from error
    return scores_from_counts(counts[:, 0], counts[:, 1], protocol)


def bootstrap_intervals(
    intersections: ArrayLike,
    unions: ArrayLike,
    protocol: str | Protocol = "original",
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the protocol's scores (Efron and Tibshirani 1993, chapter 13).

    Sentences about one image succeed and fail together, so whole groups are drawn with replacement where `groups`
    names each sample's image; without it every sample stands alone.

    Args:
        intersections: (N,) integers, pixels.
        unions: (N,) integers, pixels.
        protocol: a protocol or its name.
        groups: N group ids (image ids), or None.
        samples: number of resamples, at least 1.
        seed: of the resampling; equal seeds give equal intervals.
        confidence: share of the resamples inside the interval, in (0, 1).

    Returns:
        `(low, high)` in percent for every score of `scores_from_counts`.

    Raises:
        ValueError: as `scores_from_counts`, and for unequal numbers of groups and samples or options out of range.
    """
    protocol = get_protocol(protocol)
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"samples must be at least 1 and confidence in (0, 1), not {samples} and {confidence}.")
    contributions = _sample_contributions(intersections, unions, protocol)
    if groups is not None:
        contributions = _sum_by_group(contributions, groups)
    generator = np.random.default_rng(seed)
    count = len(contributions)
    totals = [
        np.bincount(generator.integers(count, size=count), minlength=count) @ contributions for _ in range(samples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(_scores_from_totals(np.stack(totals), protocol), [tail, 1 - tail], axis=0)
    return dict(zip(_score_names(protocol), zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _score_names(protocol: Protocol) -> list[str]:
    return ["oIoU", "mIoU", *(f"Pr@{threshold}" for threshold in protocol.precision_thresholds)]


def _sample_contributions(intersections: ArrayLike, unions: ArrayLike, protocol: Protocol) -> NDArray[np.float64]:
    """(N, 4 + thresholds): intersection, union, 1, IoU, reached thresholds. Every score is a ratio of their sums."""
    intersections, unions = _pixel_counts(intersections, unions)
    iou = per_sample_iou(intersections, unions, protocol)
    compare = np.greater if protocol.strict_precision else np.greater_equal
    thresholds = np.asarray(protocol.precision_thresholds, dtype=protocol.threshold_dtype).astype(np.float64)
    reached = compare(iou[:, None], thresholds)
    return np.column_stack([intersections, unions, np.ones_like(iou), iou, reached])


def _scores_from_totals(totals: NDArray[np.float64], protocol: Protocol) -> NDArray[np.float64]:
    """Scores in percent (R, 2 + thresholds) from R sums of sample contributions."""
    intersections, unions, counts = totals[:, 0], totals[:, 1], totals[:, 2]
    overall = np.where(unions == 0, protocol.empty_union_iou, intersections / np.maximum(unions, 1))
    return 100 * np.column_stack([overall, totals[:, 3:] / counts[:, None]])


def _sum_by_group(contributions: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    if len(groups) != len(contributions):
        raise ValueError(f"{len(groups)} group ids for {len(contributions)} samples: give one for each.")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(numbers), contributions.shape[1]))
    np.add.at(sums, [numbers[group] for group in groups], contributions)
    return sums


def _boolean_mask(mask: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise ValueError(
            f"The {name} must be a boolean mask (height, width), not {array.dtype} of shape {array.shape}: "
            "threshold it or convert it with `.astype(bool)` (numpy) or `.bool()` (torch)."
        )
    return array


def _pixel_counts(intersections: ArrayLike, unions: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    intersections, unions = np.asarray(intersections), np.asarray(unions)
    if intersections.shape != unions.shape or intersections.ndim != 1:
        raise ValueError(f"Expected two lists of equal length, not {intersections.shape} and {unions.shape}.")
    if intersections.size == 0:
        raise ValueError("There is nothing to score: no sample was given.")
    if intersections.dtype.kind not in "iu" or unions.dtype.kind not in "iu":
        raise ValueError(f"Pixel counts must be integers, not {intersections.dtype} and {unions.dtype}.")
    impossible = (intersections < 0) | (intersections > unions)
    if impossible.any():
        index = int(impossible.argmax())
        raise ValueError(f"Sample {index}: an intersection of {intersections[index]} in a union of {unions[index]}.")
    return intersections.astype(np.int64), unions.astype(np.int64)


def _with_options(protocol: Protocol, options: dict) -> Protocol:
    unknown = sorted(set(options) - set(SCORING_OPTIONS))
    if unknown:
        raise ValueError(f"Unknown option {', '.join(unknown)}: a protocol takes {', '.join(SCORING_OPTIONS)}.")
    return dataclasses.replace(protocol, **options)
