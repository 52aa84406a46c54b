"""Evaluation protocols: how each paper turns masks into numbers, computed from integer pixel counts alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, NamedTuple

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
        iou_dtype: the floating-point type that an IoU is computed in.
        no_target: what becomes of sentences that mean nothing in the image. `"ignored"`: their true mask is a mask
            like any other. `"reported"`: so it is, and N-acc and T-acc join the scores where there are such sentences.
            `"scored"`: these join too; the IoU is 1 for the answer "no target" and 0 for any other; a target that is
            answered so has no intersection, but the union with the mask that was held back; Pr@X is about targets.
        minimum_area: pixels; a predicted mask with fewer counts as the answer "no target".
        overall_name: the name of the overall IoU.
        mean_name: the name of the mean IoU.
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
    iou_dtype: Literal["float64", "float32"] = "float64"
    no_target: Literal["ignored", "reported", "scored"] = "ignored"
    minimum_area: int = 0
    overall_name: str = "oIoU"
    mean_name: str = "mIoU"


class _Answers(NamedTuple):
    """(N,) booleans: whether each sentence means nothing in its image, and whether its answer names a target."""

    no_target: NDArray[np.bool_]
    present: NDArray[np.bool_]


# gRefCOCO (GRES: Generalized Referring Expression Segmentation, Liu et al., CVPR 2023).
RELA = Protocol(
    "rela",
    resolution="model",
    mask_threshold=0.5,
    empty_union_iou=1.0,
    precision_thresholds=(0.7, 0.8, 0.9),
    no_target="scored",
    overall_name="cIoU",
    mean_name="gIoU",
)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("original", resolution="original", mask_threshold=None, empty_union_iou=1.0, no_target="reported"),
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
        # PhraseCut (Wu et al., CVPR 2020), whose names these are.
        Protocol(
            "phrasecut",
            resolution="original",
            mask_threshold=None,
            empty_union_iou=0.0,
            strict_precision=True,
            overall_name="cum-IoU",
            mean_name="mean-IoU",
        ),
        RELA,
        # For methods without a no-target head.
        dataclasses.replace(RELA, name="rela_area50", minimum_area=50),
    )
}
# How many numbers of times that something was drawn are held at once.
COUNTS_AT_ONCE = 1_000_000
SCORING_OPTIONS = (
    "empty_union_iou",
    "intersection_epsilon",
    "union_epsilon",
    "strict_precision",
    "precision_thresholds",
    "threshold_dtype",
    "iou_dtype",
    "minimum_area",
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


def count_answer(
    prediction: ArrayLike, reference: ArrayLike, present: bool | None, protocol: str | Protocol = "original"
) -> tuple[int, int, bool]:
    """What the protocols need to keep of one answer: pixel counts, and whether it names a target.

    Args:
        prediction: boolean (H, W); where a no-target head holds the mask back, that mask.
        reference: boolean (H, W), of the same size.
        present: the answer of the method's no-target head; None = it has none, the mask alone tells.
        protocol: a protocol or its name.

    Returns:
        `(intersection, union, present)`. A mask that is held back counts as empty, save where the protocol scores
        the answer itself (`no_target="scored"`).

    Raises:
        ValueError: as `mask_counts`, or unknown protocol.
    """
    protocol = get_protocol(protocol)
    prediction = _boolean_mask(prediction, "prediction")
    present = None if present is None else bool(present)
    area = np.count_nonzero(prediction)
    if area < protocol.minimum_area:
        prediction, present = np.zeros_like(prediction), False
    if present is None or protocol.no_target != "scored":
        present = bool(area > 0 and present is not False)
        prediction = prediction & present
    return *mask_counts(prediction, reference), bool(present)


def per_sample_iou(
    intersections: ArrayLike,
    unions: ArrayLike,
    protocol: str | Protocol = "original",
    *,
    no_target: ArrayLike | None = None,
    present: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """IoU of every sample.

    Args:
        intersections: (N,) integers, pixels.
        unions: (N,) integers, pixels.
        protocol: a protocol or its name.
        no_target: (N,) booleans, whether the sentence means nothing in the image; only `rela` needs it.
        present: (N,) booleans, whether the answer names a target; only `rela` needs it.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: unknown protocol, counts that cannot be pixel counts, or answers that are missing or not
            N booleans.
    """
    protocol = get_protocol(protocol)
    intersections, unions = _pixel_counts(intersections, unions)
    answers = _checked_answers(no_target, present, len(unions), protocol)
    return _iou(*_scored_counts(intersections, unions, protocol, answers), protocol)


def scores_from_counts(
    intersections: ArrayLike,
    unions: ArrayLike,
    protocol: str | Protocol = "original",
    *,
    no_target: ArrayLike | None = None,
    present: ArrayLike | None = None,
) -> dict[str, float]:
    """The protocol's scores from pixel counts.

    Args:
        intersections: (N,) integers, pixels.
        unions: (N,) integers, pixels.
        protocol: a protocol or its name.
        no_target: (N,) booleans, whether the sentence means nothing in the image.
        present: (N,) booleans, whether the answer names a target; goes with `no_target`.

    Returns:
        Percent: `oIoU` (all intersections over all unions; papers also call it cumulative IoU), `mIoU` (the mean over
        samples) and `Pr@X` (samples whose IoU reaches X); `rela` calls the first two `cIoU` and `gIoU`, `phrasecut`
        `cum-IoU` and `mean-IoU`. Where there are sentences without a target and the protocol reports them also `N-acc`
        (the share of them that is answered so) and `T-acc` (the share of the others that is not). A score about no
        sample at all is left out.

    Raises:
        ValueError: as `per_sample_iou`, or no sample.
    """
    protocol = get_protocol(protocol)
    contributions = sample_contributions(intersections, unions, protocol, no_target, present)
    names, totals = list(contributions), np.stack(list(contributions.values()), axis=1).sum(axis=0)
    scores = zip(names, scores_from_totals(totals[None], protocol)[0].tolist(), strict=True)
    return {name: score for name, score in scores if not math.isnan(score)}


def evaluate_masks(
    predictions: Sequence[ArrayLike],
    references: Sequence[ArrayLike],
    protocol: str | Protocol = "original",
    *,
    present: Sequence[bool] | None = None,
    **options,
) -> dict[str, float]:
    """Score predicted masks against true ones.

    Masks are compared as they are: a protocol's resolution and mask threshold concern whoever makes the masks
    (`hf_refseg.evaluation.evaluate_model` follows them).

    Args:
        predictions: N boolean masks (H, W), numpy arrays or torch tensors on the CPU; sizes may differ among samples.
        references: N boolean masks, each of its prediction's size; an empty one says that there is no target.
        protocol: `"original"`, `"lavt"`, `"vlt"`, `"cris"`, `"phrasecut"`, `"rela"`, `"rela_area50"` or a `Protocol`.
        present: N booleans, the answers of a no-target head, with the masks that it holds back among `predictions`;
            without it an empty mask is the answer "no target".
        options: replace single scoring fields of the protocol, such as `precision_thresholds=(0.5, 0.95)`.

    Returns:
        Percent, see `scores_from_counts`.

    Raises:
        ValueError: unknown protocol or option, no sample, unequal numbers of masks, or a mask that is not boolean, not
            two-dimensional or of another size than its partner; the message names the sample.
        TypeError: a path instead of masks.
    """
    protocol = _with_options(get_protocol(protocol), options)
    for given in (predictions, references):
        if isinstance(given, str | PathLike):
            raise TypeError(f"Predictions and references are masks, not the path {given}: read its files first.")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references: give one for each.")
    heads = [None] * len(predictions) if present is None else present
    if len(heads) != len(predictions):
        raise ValueError(f"{len(heads)} answers in `present` for {len(predictions)} predictions: give one for each.")
    samples = []
    for index, (prediction, reference, head) in enumerate(zip(predictions, references, heads, strict=True)):
        try:
            samples.append((*count_answer(prediction, reference, head, protocol), not np.any(np.asarray(reference))))
        except ValueError as error:
            raise ValueError(f"Sample {index}: {error}") from error
    if not samples:
        raise ValueError("There is nothing to score: no sample was given.")
    intersections, unions, answers, no_target = zip(*samples, strict=True)
    return scores_from_counts(intersections, unions, protocol, no_target=no_target, present=answers)


def bootstrap_intervals(
    intersections: ArrayLike,
    unions: ArrayLike,
    protocol: str | Protocol = "original",
    *,
    no_target: ArrayLike | None = None,
    present: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the protocol's scores (Efron and Tibshirani 1993, chapter 13).

    Sentences about one image succeed and fail together, so whole groups are drawn with replacement where `groups`
    names each sample's image; without it every sample stands alone. A resample without a sentence that a score is
    about says nothing of that score.

    Args:
        intersections: (N,) integers, pixels.
        unions: (N,) integers, pixels.
        protocol: a protocol or its name.
        no_target: as in `scores_from_counts`.
        present: as in `scores_from_counts`.
        groups: N group ids (image ids), or None.
        samples: number of resamples, at least 1.
        seed: of the resampling; equal seeds give equal intervals.
        confidence: share of the resamples inside the interval, in (0, 1).

    Returns:
        `(low, high)` in percent for every score of `scores_from_counts` that any resample says something of.

    Raises:
        ValueError: as `scores_from_counts`, and for unequal numbers of groups and samples or options out of range.
    """
    protocol = get_protocol(protocol)
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"samples must be at least 1 and confidence in (0, 1), not {samples} and {confidence}.")
    by_name = sample_contributions(intersections, unions, protocol, no_target, present)
    contributions = np.stack(list(by_name.values()), axis=1)
    totals = resampled_totals(contributions, groups, samples, seed)
    return percentile_intervals(list(by_name), scores_from_totals(totals, protocol), confidence)


def resampled_totals(
    contributions: NDArray[np.float64], groups: Sequence[Hashable] | None, samples: int, seed: int
) -> NDArray[np.float64]:
    """Sums of contributions (N, ...) over `samples` draws of groups, or of single ones, with replacement.

    Returns:
        (samples, ...) float64.

    Raises:
        ValueError: unequal numbers of groups and contributions.
    """
    if groups is not None:
        contributions = _sum_by_group(contributions, groups)
    generator = np.random.default_rng(seed)
    count = len(contributions)
    at_once, totals = max(1, COUNTS_AT_ONCE // count), []
    for begin in range(0, samples, at_once):
        draws = (generator.integers(count, size=count) for _ in range(min(at_once, samples - begin)))
        times = np.stack([np.bincount(drawn, minlength=count) for drawn in draws]).astype(np.float64)
        totals.append(np.tensordot(times, contributions, axes=1))
    return np.concatenate(totals)


def percentile_intervals(
    names: Sequence[str], scores: NDArray[np.float64], confidence: float
) -> dict[str, tuple[float, float]]:
    """`(low, high)` of every score that any resample says something of, from scores (samples, S), NaN where none."""
    tail = (1 - confidence) / 2
    intervals = {}
    for name, resampled in zip(names, scores.T, strict=True):
        defined = resampled[~np.isnan(resampled)]
        if defined.size:
            intervals[name] = tuple(np.quantile(defined, [tail, 1 - tail]).tolist())
    return intervals


def sample_contributions(
    intersections: ArrayLike,
    unions: ArrayLike,
    protocol: Protocol,
    no_target: ArrayLike | None,
    present: ArrayLike | None,
) -> dict[str, NDArray[np.float64]]:
    """By score what each sample adds to it, (N, 2): the score is the ratio of the two sums over samples."""
    intersections, unions = _pixel_counts(intersections, unions)
    answers = _checked_answers(no_target, present, len(unions), protocol)
    intersections, unions = _scored_counts(intersections, unions, protocol, answers)
    iou = _iou(intersections, unions, protocol)
    compare = np.greater if protocol.strict_precision else np.greater_equal
    thresholds = np.asarray(protocol.precision_thresholds, dtype=protocol.threshold_dtype).astype(np.float64)
    everyone: NDArray[np.bool_] = np.ones(len(iou), dtype=bool)
    judged = ~answers.no_target if answers is not None and protocol.no_target == "scored" else everyone
    ratios: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    ratios = {protocol.overall_name: (intersections, unions), protocol.mean_name: (iou, everyone)}
    for name, threshold in zip(protocol.precision_thresholds, thresholds, strict=True):
        ratios[f"Pr@{name}"] = (compare(iou, threshold) & judged, judged)
    if protocol.no_target != "ignored" and answers is not None and answers.no_target.any():
        ratios["N-acc"] = (answers.no_target & ~answers.present, answers.no_target)
        ratios["T-acc"] = (~answers.no_target & answers.present, ~answers.no_target)
    return {name: np.column_stack(ratio).astype(np.float64) for name, ratio in ratios.items()}


def _scored_counts(
    intersections: NDArray[np.int64], unions: NDArray[np.int64], protocol: Protocol, answers: _Answers | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The counts that the scores are made of: pixel counts, corrected where the protocol scores the answer itself."""
    if answers is None or protocol.no_target != "scored":
        return intersections, unions
    rightly_none = answers.no_target & ~answers.present
    return intersections * answers.present, np.where(rightly_none, 0, unions)


def _iou(intersections: NDArray[np.int64], unions: NDArray[np.int64], protocol: Protocol) -> NDArray[np.float64]:
    numerators = (intersections + protocol.intersection_epsilon).astype(protocol.iou_dtype)
    # A union of 0 is replaced so that nothing is divided by 0; its IoU is the protocol's decision.
    denominators = (np.maximum(unions, 1) + protocol.union_epsilon).astype(protocol.iou_dtype)
    return np.where(unions == 0, protocol.empty_union_iou, (numerators / denominators).astype(np.float64))


def scores_from_totals(totals: NDArray[np.float64], protocol: Protocol) -> NDArray[np.float64]:
    """Scores in percent (..., S) from sums of sample contributions (..., S, 2); NaN for a score about no sample."""
    numerators, denominators = totals[..., 0], totals[..., 1]
    scores = np.full(numerators.shape, np.nan)
    scores[..., 0] = protocol.empty_union_iou
    np.divide(numerators, denominators, out=scores, where=denominators > 0)
    return 100 * scores


def _sum_by_group(contributions: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    if len(groups) != len(contributions):
        raise ValueError(f"{len(groups)} group ids for {len(contributions)} samples: give one for each.")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(numbers), *contributions.shape[1:]))
    np.add.at(sums, [numbers[group] for group in groups], contributions)
    return sums


def _checked_answers(
    no_target: ArrayLike | None, present: ArrayLike | None, count: int, protocol: Protocol
) -> _Answers | None:
    if no_target is None and present is None and protocol.no_target != "scored":
        return None
    no_target, present = np.asarray(no_target), np.asarray(present)
    for flags in (no_target, present):
        if flags.dtype != np.bool_ or flags.shape != (count,):
            raise ValueError(
                f"Pass `no_target` and `present` to protocol '{protocol.name}', a boolean for each of {count} samples."
            )
    return _Answers(no_target, present)


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
