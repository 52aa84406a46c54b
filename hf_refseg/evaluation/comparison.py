"""Which system is better on the same images or videos: differences, their paired intervals, and p-values."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..messages import counted, name_text
from .groups import Description, group_records
from .protocols import Protocol, percentile_intervals, resampled_totals
from .record_scores import Contributions, contributions_of
from .results import Key, Record, find_repeated, key_of, name_record

# Beside its ids, what makes a sentence another one; images and videos have some of them each.
SENTENCE_FIELDS = ("text", "no_target", "annotator", "frames")
# In percent: a difference that swapping only adds up in another order is the same one.
ROUNDING = 1e-9
# Numbers that are held at once where answers are swapped.
SWAPS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class ScoreDifference:
    """How far a score of the second of two systems lies above that of the first, on the same images or videos.

    Attributes:
        first: name of the first system.
        second: name of the second system.
        score: name of the score.
        difference: the second's score less the first's, in percentage points.
        interval: 95 % interval `(low, high)` of the difference, from resamples that both systems share; None where no
            resample says anything of the score.
        p_value: how often as large a difference, of either sign, comes out where it is left to chance which of the
            two systems gave the answers about an image; in (0, 1].
        corrected_p_value: the same after Holm's correction for all pairs of systems that are compared.
    """

    first: str
    second: str
    score: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    corrected_p_value: float


@dataclass(frozen=True)
class Comparison:
    """What `compare_records` found.

    Attributes:
        groups: number of images or videos.
        metrics: by system its scores in percent.
        intervals: by system their 95 % bootstrap intervals.
        differences: one for each pair of systems and each score, pair by pair.
    """

    groups: int
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    differences: list[ScoreDifference]


@dataclass(frozen=True)
class GroupComparison:
    """A comparison on a group of sentences.

    Attributes:
        kind: what the groups differ in, such as `"words"`.
        group: name of the group, such as `"color"`.
        sentences: number of sentences.
        compared: what was found on them; p-values are corrected for all pairs of systems and all groups of the kind.
    """

    kind: str
    group: str
    sentences: int
    compared: Comparison


def compare_records(
    records: Mapping[str, Sequence[Record]],
    protocol: str | Protocol,
    *,
    samples: int = 1000,
    permutations: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compares systems by their records about the same images or videos.

    Intervals are those of the paired bootstrap (Efron and Tibshirani 1993; Koehn 2004): images are drawn with
    replacement, for all systems the same ones, so that what makes an image easy for both of them cancels out.

    P-values are those of the paired permutation test, also called approximate randomization (Noreen 1989; Riezler and
    Maxwell 2005), for two systems and both signs: were they equally good, then all of their answers about an image
    could as well be exchanged. It holds for scores that are no mean, such as oIoU, and for few images, where a p-value
    read off the bootstrap is too small: of a single image all resamples are equal. As p is (1 + how many are as
    large) / (1 + permutations), it is never 0 (Phipson and Smyth 2010). Several pairs are corrected by Holm's method
    (1979), each score on its own.

    Args:
        records: by the name of a system its records of an evaluation, of two systems at least. The images or videos
            have to be the same; so that the sentences are, see `same_sentences`.
        protocol: that of the evaluations, of images or videos; mAP of a2d needs masks, and is not compared.
        samples: number of resamples, at least 1.
        permutations: how often answers are exchanged at random, at least 1.
        seed: of both; equal seeds give equal numbers.
        confidence: share of the resamples inside an interval, in (0, 1).

    Raises:
        ValueError: unknown protocol, fewer than two systems, a system without records, other images than those of the
            first one, or numbers out of range.
    """
    if len(records) < 2 or not all(records.values()):
        raise ValueError(f"Compare two systems at least, each with records; there are {len(records)}.")
    if min(samples, permutations) < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"samples and permutations must be at least 1 and confidence in (0, 1), not {samples}, {permutations} and "
            f"{confidence}."
        )
    contributions = contributions_of([record for of_system in records.values() for record in of_system], protocol)
    sums = _sums_by_group(contributions, records)
    metrics = contributions.to_scores(sums.sum(axis=0))
    told = ~np.isnan(metrics).any(axis=0)
    names = [contributions.names[place] for place in np.flatnonzero(told).tolist()]
    resampled = contributions.to_scores(resampled_totals(sums, None, samples, seed))
    pairs = list(combinations(range(len(records)), 2))
    first, second = np.array(pairs).T
    differences = (metrics[second] - metrics[first])[:, told]
    bounds = (resampled[:, second] - resampled[:, first])[..., told]
    p_values = _exchange_answers(contributions, sums, pairs, permutations, seed)[:, told]
    corrected = np.stack([holm(of_score) for of_score in p_values.T], axis=1)
    systems, found = list(records), []
    for place, (one, other) in enumerate(pairs):
        intervals = percentile_intervals(names, bounds[:, place], confidence)
        for score, name in enumerate(names):
            numbers = (array[place, score].item() for array in (differences, p_values, corrected))
            difference, p_value, corrected_p_value = numbers
            found.append(
                ScoreDifference(
                    systems[one], systems[other], name, difference, intervals.get(name), p_value, corrected_p_value
                )
            )
    return Comparison(
        groups=len(sums),
        metrics={
            system: dict(zip(names, scores[told].tolist(), strict=True))
            for system, scores in zip(systems, metrics, strict=True)
        },
        intervals={
            system: percentile_intervals(names, resampled[:, number][:, told], confidence)
            for number, system in enumerate(systems)
        },
        differences=found,
    )


def same_sentences(records: Mapping[str, Sequence[Record]], *, only_common: bool = False) -> dict[str, list[Record]]:
    """The records of several systems, each in the first one's order of sentences.

    A sentence is the same one where ids, text and what is annotated of it are.

    Args:
        records: by the name of a system its records.
        only_common: leave out the sentences that not all systems have, in place of an error.

    Raises:
        ValueError: a system has two records of a sentence, or lacks one that another system has; with `only_common`,
            none is in all of them. The message counts them and names one.
    """
    by_system = {name: _by_sentence(name, of_system) for name, of_system in records.items()}
    common = set.intersection(*(set(sentences) for sentences in by_system.values()))
    first = next(iter(by_system.values()))
    if not common or not (only_common or all(len(sentences) == len(common) for sentences in by_system.values())):
        raise ValueError(_describe_differing(by_system, common))
    order = [sentence for sentence in first if sentence in common]
    return {name: [sentences[sentence] for sentence in order] for name, sentences in by_system.items()}


def most_different(records: Mapping[str, Sequence[Record]], by: str, count: int) -> list[dict[str, Record]]:
    """The sentences about which systems differ most, those first, each as the systems' records of it.

    Args:
        records: by the name of a system its records, all in one order, see `same_sentences`.
        by: the number of a record by which it is good, such as `"iou"`.
        count: how many, at most; those about which all are equally good are left out.
    """
    cases = [dict(zip(records, answers, strict=True)) for answers in zip(*records.values(), strict=True)]
    spreads = [np.ptp([record[by] for record in case.values()]).item() for case in cases]
    order = sorted(range(len(cases)), key=spreads.__getitem__, reverse=True)
    return [cases[place] for place in order[:count] if spreads[place] > 0]


def sentence_of(record: Record) -> tuple[Hashable, ...]:
    """What is equal of two records about the same sentence, and of no others."""
    return key_of(record), *map(record.get, SENTENCE_FIELDS)


def _by_sentence(name: str, records: Sequence[Record]) -> dict[tuple, Record]:
    if (twice := find_repeated(records)) is not None:
        raise ValueError(f"{name_text(name)} has two records of {name_record(twice)}. Evaluate it again.")
    return {sentence_of(record): record for record in records}


def _describe_differing(by_system: Mapping[str, Mapping[tuple, Record]], common: set[tuple]) -> str:
    """How many sentences of each system are not in all of them, and one of these."""
    counts = [
        f"{name_text(name)} has {counted(len(sentences) - len(common), 'sentence')} that others lack"
        for name, sentences in by_system.items()
    ]
    ids = [{key for key, *_ in sentences} - {key for key, *_ in common} for sentences in by_system.values()]
    alike = len(set.intersection(*ids))
    told = f"; {alike} of them have the same ids in all, but another text or other annotations" if alike else ""
    example = next(
        record for sentences in by_system.values() for sentence, record in sentences.items() if sentence not in common
    )
    remedy = "--common compares those in all of them" if common else "none is in all of them"
    return (
        f"The sentences are not the same ({len(common)} are): {', '.join(counts)}{told}. One is "
        f"{name_record(example)}. Evaluate all on one split of the same data; {remedy}."
    )


def compare_groups(
    records: Mapping[str, Sequence[Record]],
    protocol: str | Protocol,
    descriptions: Mapping[Key, Description] | None = None,
    **options: Any,
) -> list[GroupComparison]:
    """Compares systems on groups of sentences, see `group_records`.

    Args:
        records: by the name of a system its records, about the same sentences, see `same_sentences`.
        protocol: that of the evaluations.
        descriptions: of `describe_sentences`; without them the groups are those that texts tell.
        options: as of `compare_records`.

    Raises:
        ValueError: as `compare_records` and `group_records`.
    """
    of_systems = {name: {key_of(record): record for record in of_system} for name, of_system in records.items()}
    found = []
    for kind, groups in group_records(next(iter(records.values())), descriptions).items():
        compared = []
        for name, members in groups.items():
            of_group = {
                system: [of_system[key_of(record)] for record in members] for system, of_system in of_systems.items()
            }
            comparison = compare_records(of_group, protocol, **options)
            compared.append(GroupComparison(kind, name, len(members), comparison))
        found += _corrected_together(compared)
    return found


def _corrected_together(groups: Sequence[GroupComparison]) -> list[GroupComparison]:
    """Groups of a kind, whose p-values are corrected for the number of them as well."""
    scores = dict.fromkeys(each.score for group in groups for each in group.compared.differences)
    corrected: dict[str, Iterator[float]] = {
        score: iter(
            holm([each.p_value for group in groups for each in group.compared.differences if each.score == score])
        )
        for score in scores
    }
    return [
        replace(
            group,
            compared=replace(
                group.compared,
                differences=[
                    replace(each, corrected_p_value=next(corrected[each.score])) for each in group.compared.differences
                ],
            ),
        )
        for group in groups
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for there being several of them (Holm 1979), in the same order.

    The smallest of n is multiplied by n, the next one by n - 1, and so on; none becomes less than a smaller one, or
    more than 1.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def _sums_by_group(contributions: Contributions, records: Mapping[str, Sequence[Record]]) -> NDArray[np.float64]:
    """(G, systems, S, ..., 2): what each of G images or videos adds for each system, in the first one's order."""
    systems = np.repeat(np.arange(len(records)), [len(of_system) for of_system in records.values()])
    of_system = systems[contributions.owners]
    known: list[dict[str, int]] = [{} for _ in records]
    for system, group in zip(of_system, contributions.groups, strict=True):
        known[system].setdefault(group, len(known[system]))
    for name, groups in zip(records, known, strict=True):
        missing, further = known[0].keys() - groups.keys(), groups.keys() - known[0].keys()
        if missing or further:
            kind = "video" if "video_id" in records[name][0] else "image"
            raise ValueError(
                f"{name_text(name)} lacks {counted(len(missing), kind)} of {name_text(next(iter(records)))} and has "
                f"{counted(len(further), kind)} more: only answers about the same {kind}s can be compared."
            )
    sums = np.zeros((len(known[0]), len(records), *contributions.values.shape[1:]))
    places = np.array([known[0][group] for group in contributions.groups])
    np.add.at(sums, (places, of_system), contributions.values)
    return sums


def _exchange_answers(
    contributions: Contributions,
    sums: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]],
    permutations: int,
    seed: int,
) -> NDArray[np.float64]:
    """P-values (pairs, S) from sums (G, systems, S, ..., 2); those of a score about nothing mean nothing."""
    first, second = np.array(pairs).T
    totals = sums.sum(axis=0)
    exchanged = (sums[:, second] - sums[:, first]).reshape(len(sums), -1)
    observed = np.abs(contributions.to_scores(totals[second]) - contributions.to_scores(totals[first]))
    as_large = np.zeros(observed.shape)
    for swaps in _random_swaps(len(sums), permutations, seed):
        moved = (swaps @ exchanged).reshape(len(swaps), *totals[first].shape)
        # What the first one wins the second one loses.
        ours, theirs = totals[first] + moved, totals[second] - moved
        difference = np.abs(contributions.to_scores(theirs) - contributions.to_scores(ours))
        as_large += (difference >= observed - ROUNDING).sum(axis=0)
    return (1 + as_large) / (1 + permutations)


def _random_swaps(groups: int, permutations: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Rows (some, groups) of 0 and 1, together as many as permutations: whose answers are exchanged."""
    generator, at_once = np.random.default_rng(seed), max(1, SWAPS_AT_ONCE // groups)
    for begin in range(0, permutations, at_once):
        size = (min(at_once, permutations - begin), groups)
        yield generator.integers(0, 2, size=size, dtype=np.int8).astype(np.float64)
