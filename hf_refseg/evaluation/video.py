"""Scores of masks in videos: J and F of a frame, statistics of a sequence, the `davis` protocols and `a2d`."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.masks import InvalidMaskError, decode_mask, encode_mask
from ..messages import short_text
from .protocols import (
    Protocol,
    mask_counts,
    per_sample_iou,
    percentile_intervals,
    resampled_totals,
)

VIDEO_PROTOCOLS = ("davis", "davis_unsupervised", "a2d")
# The foreground probability above which a pixel belongs to a mask.
MASK_THRESHOLD = 0.5
# What an object's probability has to exceed where sentences compete for pixels; see `label_pixels`.
BACKGROUND_PROBABILITY = 0.1
A2D = Protocol(
    "a2d",
    resolution="original",
    mask_threshold=MASK_THRESHOLD,
    empty_union_iou=1.0,
    intersection_epsilon=1e-6,
    union_epsilon=1e-6,
    strict_precision=True,
    # In float32 an IoU of exactly 6/10 or 8/10 lies a little above the threshold, 7/10 and 9/10 a little below.
    iou_dtype="float32",
)
DAVIS_MEASURES = ("J&F", "J", "F", "J-recall", "J-decay", "F-recall", "F-decay")
# What says of a sequence how good it is: a name among those of the records that `evaluate_model` makes of videos.
SEQUENCE_MEASURES = {"davis": "J&F", "davis_unsupervised": "J&F", "a2d": "iou"}
# Share of the image's diagonal by which two contours may differ.
BOUNDARY_TOLERANCE = 0.008


class SequenceStatistics(NamedTuple):
    """Of one measure over the frames of a sequence, see `sequence_statistics`."""

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class SequenceScores:
    """What the protocols of DAVIS say of one referent in one video.

    Attributes:
        region_similarities: J of each scored frame, in order, in [0, 1].
        contour_accuracies: F of each scored frame, in [0, 1].
    """

    region_similarities: Sequence[float]
    contour_accuracies: Sequence[float]

    def measures(self) -> dict[str, float]:
        """The sequence's `DAVIS_MEASURES`: shares in [0, 1], decay in [-1, 1]."""
        region = sequence_statistics(self.region_similarities)
        contour = sequence_statistics(self.contour_accuracies)
        return {
            "J&F": (region.mean + contour.mean) / 2,
            "J": region.mean,
            "F": contour.mean,
            "J-recall": region.recall,
            "J-decay": region.decay,
            "F-recall": contour.recall,
            "F-decay": contour.decay,
        }


class ObjectMatcher:
    """Finds which answer means which object of a video, as protocol `davis_unsupervised` does, frame by frame.

    Every object is given another answer, so that the sum of their J&F, each over the object's frames, is as large as
    possible (the Hungarian method). Answers that are left over cost nothing; where there are too few, empty ones join.

    Args:
        answers: A, how many labels there are beside the background.
        objects: how many objects there are.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, answers: int, objects: int) -> None:
        if min(answers, objects) < 1:
            raise ValueError(f"{answers} answers for {objects} objects: there is nothing to match.")
        self.answers = answers
        # For each object and each answer J and F of the frames.
        self._scores: list[list[list[tuple[float, float]]]] = [
            [[] for _ in range(max(answers, objects))] for _ in range(objects)
        ]

    def add(self, labels: ArrayLike, references: Mapping[int, ArrayLike], void: ArrayLike | None = None) -> None:
        """Compares the answers on the next frame with the objects that are annotated there.

        Args:
            labels: whole numbers (H, W), the answer of each pixel, 1 to A, or 0 = background.
            references: by the number of the object, from 0, its mask, boolean (H, W).
            void: boolean (H, W), pixels that belong to no mask, whatever is said of them; None = none.

        Raises:
            ValueError: as `region_similarity`; or a label, or the number of an object, that there is not.
        """
        labels = np.asarray(labels)
        counted = np.ones(labels.shape, dtype=bool) if void is None else ~np.asarray(void)
        if labels.min() < 0 or labels.max() > self.answers or not set(references) <= set(range(len(self._scores))):
            raise ValueError(
                f"Labels go up to {labels.max()} and objects are {short_text(sorted(references))}, expected labels "
                f"from 0 to {self.answers} and objects below {len(self._scores)}."
            )
        masks = [(labels == number) & counted for number in range(1, len(self._scores[0]) + 1)]
        contours = [_contour(mask) for mask in masks]
        for number, reference in references.items():
            mask_counts(labels > 0, reference)
            truth = np.asarray(reference) & counted
            contour = _contour(truth)
            for scores, mask, outline in zip(self._scores[number], masks, contours, strict=True):
                scores.append((region_similarity(mask, truth), _contour_agreement(outline, contour)))

    def match(self) -> list[tuple[int, SequenceScores]]:
        """For each object the number of its answer, from 0 (A or more: an empty one that joined), and what it scores.

        Raises:
            ValueError: an object without a frame.
        """
        from scipy.optimize import linear_sum_assignment

        if not all(of_object[0] for of_object in self._scores):
            raise ValueError("There is nothing to score: an object has no frame.")
        sequences = [
            [SequenceScores(*map(list, zip(*scores, strict=True))) for scores in of_object]
            for of_object in self._scores
        ]
        quality = [[sequence.measures()["J&F"] for sequence in of_object] for of_object in sequences]
        _, chosen = linear_sum_assignment(quality, maximize=True)
        return [(int(answer), of_object[answer]) for answer, of_object in zip(chosen, sequences, strict=True)]


@dataclass(frozen=True)
class ScoredMask:
    """A predicted mask among those that average precision ranks.

    Attributes:
        image_id: which reference it is compared with.
        mask: COCO's compressed run-length encoding, `{"size": [H, W], "counts": str}`.
        score: the higher, the earlier it is ranked.
    """

    image_id: str
    mask: Mapping[str, Any]
    score: float


def region_similarity(prediction: ArrayLike, reference: ArrayLike) -> float:
    """J, the IoU of two masks; 1 where both are empty (DAVIS, Perazzi et al., CVPR 2016, section 4.1).

    Args:
        prediction: boolean (H, W), numpy or a torch tensor on the CPU.
        reference: boolean (H, W), of the same size.

    Raises:
        ValueError: a mask is not boolean or not two-dimensional, or the sizes differ.
    """
    intersection, union = mask_counts(prediction, reference)
    return intersection / union if union else 1.0


def contour_accuracy(prediction: ArrayLike, reference: ArrayLike, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F, the harmonic mean of precision and recall of the contour (DAVIS, Perazzi et al., CVPR 2016, section 4.1).

    A pixel belongs to a mask's contour where it differs from its right, lower or lower right neighbor; it is found
    where a pixel of the other contour lies within the tolerance (Euclidean distance). Where both masks have no contour
    F is 1. An image border is no contour: a mask of every pixel has none.

    Args:
        prediction: boolean (H, W), numpy or a torch tensor on the CPU.
        reference: boolean (H, W), of the same size.
        tolerance: share of the image's diagonal, rounded up to whole pixels.

    Raises:
        ValueError: as `region_similarity`.
    """
    mask_counts(prediction, reference)
    return _contour_agreement(_contour(np.asarray(prediction)), _contour(np.asarray(reference)), tolerance)


def score_frame_davis(prediction: ArrayLike, reference: ArrayLike) -> tuple[float, float]:
    """J and F of one frame; arguments and errors as in `region_similarity`."""
    return region_similarity(prediction, reference), contour_accuracy(prediction, reference)


def score_frames_davis(predictions: Iterable[ArrayLike], references: Iterable[ArrayLike]) -> SequenceScores:
    """J and F of every frame of a sequence, which is read frame by frame: no more than one is held.

    Args:
        predictions: boolean masks (H, W), one for each scored frame, in order.
        references: boolean masks of the same sizes; all of them count, the first and the last too.

    Raises:
        ValueError: no frame, unequal numbers of frames, or as `region_similarity`; the message names the frame.
    """
    scores = _score_frames(score_frame_davis, predictions, references)
    return SequenceScores(*map(list, zip(*scores, strict=True)))


def score_frames_a2d(predictions: Iterable[ArrayLike], references: Iterable[ArrayLike]) -> list[tuple[int, int]]:
    """Intersection and union (pixels) of every annotated frame, which are read frame by frame: one alone is held.

    Args:
        predictions: boolean masks (H, W), one for each annotated frame, in order.
        references: boolean masks of the same sizes.

    Raises:
        ValueError: as `score_frames_davis`.
    """
    return _score_frames(mask_counts, predictions, references)


def label_pixels(
    probabilities: ArrayLike, background: float = BACKGROUND_PROBABILITY, least: float = MASK_THRESHOLD
) -> NDArray[np.intp]:
    """The label map of one frame for which several sentences compete, as published Ref-DAVIS17 numbers are made.

    Each pixel goes to the most probable object (to the first of equals) or, where no probability exceeds the
    background's, to none. Before that, a probability below `least` counts as 0.

    Args:
        probabilities: floating (objects, H, W), numpy or a torch tensor on the CPU.
        background: probability of the background, in [0, 1].
        least: the least probability that counts, in [0, 1].

    Returns:
        (H, W), 0 = background, 1 = the first object.
    """
    values = np.asarray(probabilities)
    values = np.where(values >= least, values, 0)
    return np.where(values.max(axis=0) > background, values.argmax(axis=0) + 1, 0)


def sequence_statistics(values: Sequence[float]) -> SequenceStatistics:
    """Mean, recall and decay of a measure over a sequence (DAVIS, Perazzi et al., CVPR 2016, section 4.2).

    Recall is the share of frames above 0.5; decay is the mean over the first quarter of the sequence less the mean
    over the last. Quarters meet in the frame that is nearest to their common bound, which belongs to both.

    Args:
        values: of the scored frames, in order, in [0, 1].

    Raises:
        ValueError: no value.
    """
    if len(values) == 0:
        raise ValueError("There is nothing to score: the sequence has no frame.")
    array, last = np.asarray(values, dtype=np.float64), len(values) - 1
    # A quarter and three quarters of the way from the first frame to the last, rounded, halves up.
    first_bound, last_bound = (last + 2) // 4, (3 * last + 2) // 4
    decay = array[: first_bound + 1].mean() - array[last_bound:].mean()
    return SequenceStatistics(float(array.mean()), float((array > 0.5).mean()), float(decay))


def davis_scores(measures: Sequence[Mapping[str, float]], annotators: Sequence[str] | None = None) -> dict[str, float]:
    """The scores of the protocols of DAVIS: averages over sequences, for each annotator on their own, then over these.

    Args:
        measures: of N sequences (a referent in a video, as one sentence names it), see `SequenceScores.measures`.
        annotators: who wrote each sentence (Ref-DAVIS17 has four); None = one.

    Returns:
        `DAVIS_MEASURES` in percent.

    Raises:
        ValueError: no sequence, or unequal numbers of sequences and annotators.
    """
    totals = davis_contributions(measures, annotators).sum(axis=0)
    return dict(zip(DAVIS_MEASURES, davis_scores_from_totals(totals[None])[0].tolist(), strict=True))


def davis_intervals(
    measures: Sequence[Mapping[str, float]],
    video_ids: Sequence[str],
    annotators: Sequence[str] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of `davis_scores`, whole videos being drawn with replacement.

    Args:
        measures: as in `davis_scores`.
        video_ids: N names, the video of each sequence.
        annotators: as in `davis_scores`.
        samples: number of resamples, at least 1.
        seed: of the resampling; equal seeds give equal intervals.
        confidence: share of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: as `davis_scores`, and for unequal numbers of sequences and videos.
    """
    totals = resampled_totals(davis_contributions(measures, annotators), video_ids, samples, seed)
    return percentile_intervals(DAVIS_MEASURES, davis_scores_from_totals(totals), confidence)


def a2d_mean_iou(counts: Sequence[tuple[float, float]]) -> float:
    """Mean IoU in [0, 1] of a sequence's annotated frames, from `score_frames_a2d`."""
    intersections, unions = zip(*counts, strict=True)
    return float(per_sample_iou(intersections, unions, A2D).mean())


def coco_statistics(references: Mapping[str, Mapping[str, Any]], predictions: Sequence[ScoredMask]) -> list[float]:
    """The twelve numbers of COCO's evaluation of masks, by pycocotools; the first one is mAP over IoU 0.5 to 0.95.

    Args:
        references: for each image id the one true mask, as a run-length encoding that `decode_mask` takes.
        predictions: any number for each image id, of the size of its reference.

    Returns:
        Average precision at IoU 0.5:0.95, 0.5 and 0.75, and of small, medium and large references; average recall with
        1, 10 and 100 predictions for each image, and of small, medium and large references. Shares in [0, 1]; -1 where
        there is no such reference.

    Raises:
        ValueError: a prediction for an image without reference, of another size than that, or with a score that is no
            finite number; a run-length encoding that `decode_mask` does not take.
    """
    from pycocotools.cocoeval import COCOeval

    truths = {name: _checked_rle(mask, f"The reference {short_text(name)}") for name, mask in references.items()}
    checked = [_checked_prediction(prediction, truths) for prediction in predictions]
    # Both print what they do.
    with redirect_stdout(io.StringIO()):
        truth = _coco_index(truths, [{"image_id": name, "mask": mask} for name, mask in truths.items()])
        answers = _coco_index(truths, checked)
        evaluation = COCOeval(truth, answers, iouType="segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def check_video_protocol(protocol: str | Protocol) -> None:
    """Raises ValueError where no protocol for videos has this name, ImportError where it needs a missing package."""
    if protocol not in VIDEO_PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r} for videos: choose one of {', '.join(VIDEO_PROTOCOLS)}.")
    if protocol == "davis_unsupervised" and find_spec("scipy") is None:
        raise ImportError("Protocol davis_unsupervised needs scipy: pip install 'hf_refseg[video]'.")


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels that differ from their right, lower or lower right neighbor; the image goes on as it ends."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _contour_agreement(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], tolerance: float = BOUNDARY_TOLERANCE
) -> float:
    """F of two contours, see `contour_accuracy`."""
    distance = math.ceil(tolerance * math.hypot(*true.shape))
    precision, recall = _share_near(predicted, true, distance), _share_near(true, predicted, distance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_near(contour: NDArray[np.bool_], other: NDArray[np.bool_], distance: int) -> float:
    """The share of a contour's pixels within a distance (pixels) of the other contour; 1 where it has no pixel."""
    rows, columns = np.nonzero(contour)
    if len(rows) == 0:
        return 1.0
    # Counts along each row tell at once whether a run of pixels meets the other contour.
    counts = np.pad(other, ((distance, distance), (distance + 1, distance))).cumsum(axis=1, dtype=np.int32)
    near = np.zeros(len(rows), dtype=bool)
    for offset in range(-distance, distance + 1):
        half_width = math.isqrt(distance**2 - offset**2)
        row, column = rows + distance + offset, columns + distance
        near |= counts[row, column + 1 + half_width] > counts[row, column - half_width]
    return np.count_nonzero(near) / len(rows)


def _score_frames(
    score: Callable[[ArrayLike, ArrayLike], Any], predictions: Iterable[ArrayLike], references: Iterable[ArrayLike]
) -> list[Any]:
    scores: list[Any] = []
    for number, (prediction, reference) in enumerate(zip_longest(predictions, references)):
        if prediction is None or reference is None:
            absent = "prediction" if prediction is None else "reference"
            raise ValueError(f"Frame {number} has no {absent}: give a prediction and a reference for each frame.")
        try:
            scores.append(score(prediction, reference))
        except ValueError as error:
            raise ValueError(f"Frame {number}: {error}") from error
    if not scores:
        raise ValueError("There is nothing to score: the sequence has no frame.")
    return scores


def davis_contributions(
    measures: Sequence[Mapping[str, float]], annotators: Sequence[str] | None
) -> NDArray[np.float64]:
    """(N, measures, annotators, 2): every sequence adds its value and a 1 to the sums of its annotator."""
    annotators = [""] * len(measures) if annotators is None else annotators
    if not measures or len(annotators) != len(measures):
        raise ValueError(f"{len(measures)} sequences and {len(annotators)} annotators: give one for each, and any.")
    values = np.array([[sequence[name] for name in DAVIS_MEASURES] for sequence in measures], dtype=np.float64)
    everyone = list(dict.fromkeys(annotators))
    wrote = np.array([[annotator == name for name in everyone] for annotator in annotators], dtype=np.float64)
    ones = np.ones_like(values)
    return np.stack([values, ones], axis=-1)[:, :, None] * wrote[:, None, :, None]


def davis_scores_from_totals(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores in percent (..., measures) from sums of contributions (..., measures, annotators, 2).

    A resample may lack some annotators, not all.
    """
    averages = np.full(totals.shape[:-1], np.nan)
    np.divide(totals[..., 0], totals[..., 1], out=averages, where=totals[..., 1] > 0)
    return 100 * np.nanmean(averages, axis=-1)


def frame_counts(records: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int], list[str]]:
    """Intersections, unions and videos of the scored frames of all records."""
    intersections = [count for record in records for count in record["intersections"]]
    unions = [count for record in records for count in record["unions"]]
    return intersections, unions, [record["video_id"] for record in records for _ in record["unions"]]


def _checked_prediction(prediction: ScoredMask, references: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    image_id, score = prediction.image_id, prediction.score
    if image_id not in references:
        raise ValueError(f"There is a prediction for {short_text(image_id)}, which has no reference.")
    if not isinstance(score, Real) or isinstance(score, bool) or not math.isfinite(score):
        raise ValueError(
            f"A prediction for {short_text(image_id)} has the score {short_text(score)}: give a finite number."
        )
    mask = _checked_rle(prediction.mask, f"A prediction for {short_text(image_id)}")
    if mask["size"] != references[image_id]["size"]:
        raise ValueError(
            f"A prediction for {short_text(image_id)} has the size {mask['size']}, its reference "
            f"{references[image_id]['size']} (height, width): give masks of one size."
        )
    return {"image_id": image_id, "mask": mask, "score": score}


def _checked_rle(mask: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """A run-length encoding as our own encoder writes it: C code takes others for longer than they are."""
    try:
        return encode_mask(decode_mask(mask))
    except InvalidMaskError as error:
        raise InvalidMaskError(f"{whose}: {error}") from error


def _coco_index(references: Mapping[str, Mapping[str, Any]], masks: Iterable[Mapping[str, Any]]) -> Any:
    """pycocotools' index of masks `{"image_id", "mask"}`, and `"score"` where they are predictions."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {
        "images": [
            {"id": image_id, "height": rle["size"][0], "width": rle["size"][1]} for image_id, rle in references.items()
        ],
        "categories": [{"id": 1}],
        "annotations": [
            {
                **mask,
                "id": number,
                "category_id": 1,
                "segmentation": mask["mask"],
                "area": int(coco_mask.area(mask["mask"])),
                "iscrowd": 0,
            }
            for number, mask in enumerate(masks, start=1)
        ],
    }
    index.createIndex()
    return index
