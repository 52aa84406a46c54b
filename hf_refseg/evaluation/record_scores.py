"""Scores of all or some of an evaluation's records, alike for images and videos, from what each adds to two sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .protocols import (
    Protocol,
    get_protocol,
    percentile_intervals,
    resampled_totals,
    sample_contributions,
    scores_from_totals,
)
from .results import Record
from .video import (
    A2D,
    DAVIS_MEASURES,
    VIDEO_PROTOCOLS,
    check_video_protocol,
    davis_contributions,
    davis_scores_from_totals,
    frame_counts,
)


@dataclass(frozen=True)
class Contributions:
    """What records add to the scores of a protocol; N are the records, or the frames of theirs that are scored.

    Attributes:
        names: of the S scores.
        values: (N, S, ..., 2) float64, whose sums over any of the N the scores are made of.
        groups: N ids, the image or video of each.
        owners: (N,) integers, the record of each.
        to_scores: makes scores in percent (..., S) of sums (..., S, ..., 2); NaN for a score about nothing.
    """

    names: Sequence[str]
    values: NDArray[np.float64]
    groups: Sequence[str]
    owners: NDArray[np.intp]
    to_scores: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def contributions_of(records: Sequence[Record], protocol: str | Protocol) -> Contributions:
    """What the records of an evaluation add to the scores of its protocol, of images or of videos.

    Raises:
        ValueError: unknown protocol, no record, or counts that cannot be pixel counts.
    """
    if protocol == "a2d":
        intersections, unions, video_ids = frame_counts(records)
        owners = [number for number, record in enumerate(records) for _ in record["unions"]]
        return _of_counts(sample_contributions(intersections, unions, A2D, None, None), video_ids, owners, A2D)
    if protocol in VIDEO_PROTOCOLS:
        video_ids, annotators = ([record[name] for record in records] for name in ("video_id", "annotator"))
        values = davis_contributions(records, annotators)
        return Contributions(DAVIS_MEASURES, values, video_ids, np.arange(len(records)), davis_scores_from_totals)
    protocol = get_protocol(protocol)
    image_ids = [record["image_id"] for record in records]
    by_name = sample_contributions(**count_columns(records), protocol=protocol)
    return _of_counts(by_name, image_ids, range(len(records)), protocol)


def count_columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The records of images as the functions of the protocols take them."""
    names = {"intersections": "intersection", "unions": "union", "no_target": "no_target", "present": "present"}
    return {argument: [record[name] for record in records] for argument, name in names.items()}


def scores_of_records(records: Sequence[Record], protocol: str | Protocol) -> dict[str, float]:
    """Scores in percent of all or some of the records of an evaluation; a score about none of them is left out.

    They are those of `scores_from_counts` or `video_scores`; a2d's mAP needs masks, not records.

    Raises:
        ValueError: as `contributions_of`.
    """
    contributions = contributions_of(records, protocol)
    scores = contributions.to_scores(contributions.values.sum(axis=0)).tolist()
    return {name: score for name, score in zip(contributions.names, scores, strict=True) if not math.isnan(score)}


def intervals_of_records(
    records: Sequence[Record],
    protocol: str | Protocol,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of `scores_of_records`, whole images or videos being drawn; see `bootstrap_intervals`.

    Raises:
        ValueError: as `contributions_of`.
    """
    contributions = contributions_of(records, protocol)
    totals = resampled_totals(contributions.values, contributions.groups, samples, seed)
    return percentile_intervals(contributions.names, contributions.to_scores(totals), confidence)


def video_scores(records: Sequence[Record], protocol: str) -> dict[str, float]:
    """Scores in percent from all or some of the records that `evaluate_model` makes of videos.

    Args:
        records: one for each sequence, of this protocol.
        protocol: `"davis"` or `"davis_unsupervised"`, see `davis_scores`; or `"a2d"`, see `scores_from_counts`, whose
            mAP needs masks, not records.

    Raises:
        ValueError: unknown protocol or no record.
    """
    check_video_protocol(protocol)
    return scores_of_records(records, protocol)


def video_intervals(
    records: Sequence[Record], protocol: str, *, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over videos of `video_scores`, in percent; arguments and errors as there."""
    check_video_protocol(protocol)
    return intervals_of_records(records, protocol, samples=samples, seed=seed)


def _of_counts(
    by_name: dict[str, NDArray[np.float64]], groups: Sequence[str], owners: Sequence[int], protocol: Protocol
) -> Contributions:
    values = np.stack(list(by_name.values()), axis=1)
    return Contributions(
        list(by_name), values, groups, np.asarray(owners), partial(scores_from_totals, protocol=protocol)
    )
