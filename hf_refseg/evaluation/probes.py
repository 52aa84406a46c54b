"""Does a system read? Data sets whose sentences are changed in a known way, and how far the scores drop on them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from ..data.clips import RowFrames, VideoRows
from ..data.examples import decode_row_mask, open_image, undecoded
from ..data.masks import encode_mask
from ..data.rows import holds_videos
from ..files import writing_into
from ..messages import align
from .comparison import compare_records
from .results import EvaluationResult, Record, key_of
from .shuffling import check_shuffling, replace_column, with_shuffled_sentences
from .wording import mirror_text, misspell, split_words, without_head_noun

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# Scores a system on a data set; the name is that of the probe, or "unchanged".
Evaluate = Callable[["Dataset", str], EvaluationResult]
# Changes a sentence, given its id and its referent's category; None = it is left out.
Change = Callable[[str, str, str], str | None]

PROBES = SHUFFLED, MIRRORED, WITHOUT_NOUN, MISSPELLED = "shuffled", "mirrored", "without noun", "misspelled"
# In the tables; the results have all scores.
SHOWN_SCORES = 2


@dataclass(frozen=True)
class ProbeScores:
    """What became of the scores when sentences were changed, all in percent or percentage points.

    Attributes:
        probe: `"shuffled"` (sentences of other images), `"mirrored"` (images and sides mirrored), `"without noun"`
            (the word that names the kind of target is left out), or `"misspelled"` (one word has a typo).
        sentences: number of sentences that can be changed so; the numbers are about these alone.
        images: number of images or videos that they are about.
        unchanged: scores before the change; without scores that are about no sentence.
        changed: scores after it.
        drops: how far they fell, negative where they rose.
        intervals: 95 % intervals of the drops, by resampling images or videos, the same ones before and after.
    """

    probe: str
    sentences: int
    images: int
    unchanged: dict[str, float]
    changed: dict[str, float]
    drops: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def evaluate_probes(
    evaluate: Evaluate,
    dataset: Dataset,
    *,
    unchanged: EvaluationResult | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> list[ProbeScores]:
    """How far the scores of a system drop on each changed data set, against the same sentences unchanged.

    Args:
        evaluate: scores the system on a data set; it is told which probe that is, or `"unchanged"`. Such as
            `lambda rows, probe: evaluate_system(system, rows, bootstrap_samples=0)`.
        dataset: rows of `load_refseg`, not streamed; a file in the folder for temporary files is made of each image
            that is mirrored.
        unchanged: what `evaluate` found on the data set, or on its first images or videos, which alone are then
            probed; None = it is evaluated here.
        samples: resamples for the intervals.
        seed: of shuffling, typos and resampling.

    Returns:
        One for each probe. Where no sentence can be changed so, it has no scores.

    Raises:
        ValueError: rows that are streamed, too few images to shuffle sentences among, or the protocol
            `"davis_unsupervised"`, under which sentences that are left out change the scores of the others.
    """
    _require_rows(dataset)
    unchanged = evaluate(dataset, "unchanged") if unchanged is None else unchanged
    dataset = _evaluated_rows(dataset, unchanged.records)
    check_probes(dataset, unchanged.protocol)
    probes = []
    with tempfile.TemporaryDirectory() as folder:
        changed = {
            SHUFFLED: lambda: with_shuffled_sentences(dataset, seed),
            MIRRORED: lambda: with_mirrored_images(dataset, folder),
            WITHOUT_NOUN: lambda: without_head_nouns(dataset),
            MISSPELLED: lambda: with_typos(dataset, seed),
        }
        for name, make in changed.items():
            rows = make()
            records = evaluate(rows, name).records if len(rows) else []
            probes.append(_compare(name, unchanged, records, samples, seed))
    return probes


def check_probes(dataset: Dataset | IterableDataset, protocol: str, max_examples: int | None = None) -> None:
    """Raises ValueError as `evaluate_probes` does, before anything is evaluated.

    Args:
        dataset, protocol: what is probed, and how it is scored.
        max_examples: so many images or videos are evaluated; None = all.
    """
    _require_rows(dataset)
    check_shuffling(dataset, max_examples)
    if protocol == "davis_unsupervised":
        raise ValueError("Under davis_unsupervised sentences compete, so none can be left out: probe under davis.")


def with_mirrored_images(dataset: Dataset, folder: str | Path) -> Dataset:
    """The sentences that name a side, left and right exchanged, about images and masks that are mirrored; or videos.

    A system that knows left from right answers with the mirrored mask. Left out are sentences without a side, and
    those of which it is not known what they are in a mirror, see `mirror_text`. Letters in the image are mirrored too.

    Args:
        dataset: rows of `load_refseg`; it is not changed.
        folder: where the mirrored images are written, as PNG files; it has to stay while the data set is in use.

    Raises:
        ValueError: the rows are streamed.
        InvalidRowError: an image cannot be read.
        OutputError: the images cannot be written.
    """
    from datasets import Dataset

    rows = _change_sentences(dataset, lambda text, sent_id, category: mirror_text(text))
    mirror = _mirrored_videos if holds_videos(rows) else _mirrored_images
    with writing_into(folder, "Make room, or let TMPDIR name a folder on another disk"):
        columns: dict[str, list[Any]] = {name: [] for name in rows.column_names}
        for row in mirror(rows, Path(folder)):
            for name, value in row.items():
                columns[name].append(value)
        return Dataset.from_dict(columns, features=rows.features)


def without_head_nouns(dataset: Dataset) -> Dataset:
    """The sentences without the word that says what kind of thing they are about, see `without_head_noun`.

    What is left, such as "left in red", is often enough for who sees the image. Sentences without such a word, and
    those of nothing else, are left out.

    Args:
        dataset: rows of `load_refseg`; it is not changed.

    Raises:
        ValueError: the rows are streamed.
    """
    return _change_sentences(dataset, lambda text, sent_id, category: without_head_noun(text, category))


def with_typos(dataset: Dataset, seed: int = 0) -> Dataset:
    """The sentences with a typo in one word, see `misspell`; those without a word of 4 letters are left out.

    No typo is a word of the data set.

    Args:
        dataset: rows of `load_refseg`; it is not changed.
        seed: with a sentence's id it decides on the word and the typo.

    Raises:
        ValueError: the rows are streamed.
    """
    known = {word.token for text in _texts(dataset) for word in split_words(text)}
    return _change_sentences(
        dataset, lambda text, sent_id, category: misspell(text, random.Random(f"{seed}-{sent_id}-{text}"), known)
    )


def probes_table(probes: Sequence[ProbeScores]) -> str:
    """The probes as lines, with the first scores before and after, and how far they drop."""
    names = list(dict.fromkeys(name for each in probes for name in each.drops))[:SHOWN_SCORES]
    titles = (title for name in names for title in (name, "changed", "drop", "95 % interval"))
    rows = [("probe", "sentences", *titles)]
    for each in probes:
        rows.append((each.probe, str(each.sentences), *(cell for name in names for cell in _cells(each, name))))
    return align(rows)


def _cells(scores: ProbeScores, name: str) -> tuple[str, str, str, str]:
    if name not in scores.drops:
        return "", "", "", ""
    before, after, drop = (numbers[name] for numbers in (scores.unchanged, scores.changed, scores.drops))
    interval = " to ".join(map(_two_digits, scores.intervals[name])) if name in scores.intervals else ""
    return f"{before:.2f}", f"{after:.2f}", _two_digits(drop), interval


def _two_digits(number: float) -> str:
    """A number that rounds to zero has no sign."""
    return f"{round(number, 2) + 0.0:.2f}"


def _compare(probe: str, result: EvaluationResult, changed: Sequence[Record], samples: int, seed: int) -> ProbeScores:
    if not changed:
        return ProbeScores(probe, 0, 0, {}, {}, {}, {})
    # Shuffled sentences are those of other images: as many, of the same images.
    keys = None if probe == SHUFFLED else {key_of(record) for record in changed}
    before = [record for record in result.records if keys is None or key_of(record) in keys]
    comparison = compare_records(
        {probe: changed, "unchanged": before}, result.protocol, samples=samples, permutations=1, seed=seed
    )
    differences = comparison.differences
    return ProbeScores(
        probe=probe,
        sentences=len(changed),
        images=comparison.groups,
        unchanged=comparison.metrics["unchanged"],
        changed=comparison.metrics[probe],
        drops={each.score: each.difference for each in differences},
        intervals={each.score: each.interval for each in differences if each.interval},
    )


def _evaluated_rows(dataset: Dataset, records: Sequence[Record]) -> Dataset:
    """The rows of the images or videos that there are records of."""
    wanted = {key_of(record)[0] for record in records}
    ids = dataset["video_id" if holds_videos(dataset) else "image_id"]
    kept = [number for number, each in enumerate(ids) if each in wanted]
    return dataset if len(kept) == len(dataset) else dataset.select(kept)


def _texts(dataset: Dataset) -> Iterator[str]:
    sentences: Iterator[Any]
    if holds_videos(dataset):
        sentences = (each["sentences"] for referents in _column(dataset, "referents") for each in referents)
    else:
        sentences = _column(dataset, "sentences")
    return (sentence["raw"] for of_referent in sentences for sentence in of_referent)


def _require_rows(dataset: Dataset | IterableDataset) -> None:
    from datasets import IterableDataset

    if isinstance(dataset, IterableDataset):
        raise ValueError("Sentences are changed among all rows at once: load the data set without streaming.")


def _column(dataset: Dataset, name: str) -> Iterator[Any]:
    # Without the images, which whole rows would be read with.
    return (row[name] for row in dataset.select_columns(name))


def _change_sentences(dataset: Dataset, change: Change) -> Dataset:
    """The data set with changed sentences, without those that are left out, and without rows that have none then."""
    from datasets import Dataset, Features

    _require_rows(dataset)

    def changed(referent: dict[str, Any]) -> list[dict[str, str]]:
        texts = [(each, change(each["raw"], each["sent_id"], referent["category"])) for each in referent["sentences"]]
        return [{**each, "raw": text, "sent": " ".join(text.lower().split())} for each, text in texts if text]

    if holds_videos(dataset):
        name = "referents"
        values = [
            [{**referent, "sentences": changed(referent)} for referent in referents]
            for referents in _column(dataset, name)
        ]
        kept = [number for number, each in enumerate(values) if any(referent["sentences"] for referent in each)]
    else:
        name = "sentences"
        values = list(map(changed, dataset.select_columns(["category", "sentences"])))
        kept = [number for number, each in enumerate(values) if each]
    column = Dataset.from_dict({name: values}, features=Features({name: dataset.features[name]}))
    return replace_column(dataset, column).select(kept)


def _mirrored_images(dataset: Dataset, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows with everything in them mirrored but the sentences; rows of one image share a file."""
    for number, (_, rows) in enumerate(groupby(undecoded(dataset), itemgetter("image_id"))):
        for place, row in enumerate(rows):
            if place == 0:
                image = _write_mirrored(open_image(row), folder / f"{number}.png")
            mask = decode_row_mask(row)
            left, top, width, height = row["bbox"]
            bbox = row["bbox"] if row["no_target"] else [mask.shape[1] - left - width, top, width, height]
            yield {**row, "image": image, "mask": encode_mask(mask[:, ::-1]), "bbox": bbox}


def _mirrored_videos(dataset: Dataset, folder: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(VideoRows(dataset)):
        frames = [
            _write_mirrored(frame, folder / f"{number}-{place}.png") for place, frame in enumerate(RowFrames(row))
        ]
        referents = [
            {**referent, "masks": [_mirrored_mask(row, referent, mask) for mask in referent["masks"]]}
            for referent in row["referents"]
        ]
        yield {**row, "frames": frames, "referents": referents}


def _mirrored_mask(row: dict[str, Any], referent: dict[str, Any], mask: dict[str, Any]) -> dict[str, Any]:
    named = {"ref_id": f"{referent['ref_id']} of {row['video_id']}", "mask": mask}
    return encode_mask(decode_row_mask(named)[:, ::-1])


def _write_mirrored(image: Image.Image, path: Path) -> dict[str, Any]:
    # Files of images that are looked at once need not be small.
    ImageOps.mirror(image).save(path, compress_level=1)
    return {"bytes": None, "path": str(path)}
