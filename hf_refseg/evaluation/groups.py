"""What a number hides: the scores of groups of sentences, by their words and by what they are about."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.masks import InvalidMaskError, foreground_share
from ..data.rows import holds_videos
from ..messages import align, counted, name_text
from ..visualization import Bar, draw_bars
from .protocols import Protocol
from .record_scores import intervals_of_records, scores_of_records
from .results import Key, Record, key_of, name_record
from .wording import groups_of_text, split_words, wording_groups

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from PIL import Image

# The first number that a group no longer has, and its name.
LENGTHS = ((3, "1 or 2 words"), (6, "3 to 5 words"), (11, "6 to 10 words"), (math.inf, "11 words or more"))
AREAS = ((0.01, "below 1 %"), (0.05, "1 to 5 %"), (0.2, "5 to 20 %"), (math.inf, "20 % or more"))
COUNTS = ((2, "1 object"), (3, "2 objects"), (4, "3 objects"), (math.inf, "4 objects or more"))
# Intervals over fewer sentences say nothing; the categories that have no more make one group.
FEWEST_OF_CATEGORY = 30
OTHER_CATEGORIES, WITHOUT_WORDS = "all others", "none of these"
# In the tables; the results have all scores.
SHOWN_SCORES = 2
# Of each protocol the one in which every sentence counts as much, for pictures.
MEAN_SCORES = ("mIoU", "gIoU", "mean-IoU", "J&F")

Grouped = dict[str, dict[str, list[Record]]]


@dataclass(frozen=True)
class Description:
    """What the rows of a data set tell of a sentence's target.

    Attributes:
        category: as in the rows; empty where there is none.
        area: share of the image, 0 to 1, that the target covers, in videos the mean over the annotated frames that
            show it; None where there is no target.
        same_category: number of objects of the category in the image or video that the rows refer to, the target
            among them; None where that is unknown.
    """

    category: str
    area: float | None
    same_category: int | None


@dataclass(frozen=True)
class GroupScores:
    """The scores of a group of sentences.

    Attributes:
        kind: what the groups differ in, such as `"words"`.
        group: name of the group, such as `"color"`.
        sentences: number of sentences.
        images: number of images or videos that they are about.
        metrics: scores in percent.
        intervals: 95 % bootstrap intervals over images or videos, in percent; empty where none were asked for.
    """

    kind: str
    group: str
    sentences: int
    images: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def describe_sentences(dataset: Dataset | IterableDataset) -> dict[Key, Description]:
    """What the rows tell of each sentence, by what names it in records; of streamed rows, which are read once for it.

    Objects of the same category are counted by the annotations that the rows of an image or video refer to: those that
    nobody describes are unknown, so there may be more of them.

    Args:
        dataset: rows of `load_refseg`, all of those that were evaluated.

    Raises:
        InvalidMaskError: a mask cannot be decoded; the message names it.
    """
    if holds_videos(dataset):
        columns = ["video_id", "referents"]
        groups = ((row["video_id"], row["referents"]) for row in dataset.select_columns(columns))
    else:
        columns = ["image_id", "ref_id", "ann_ids", "category", "mask", "no_target", "sentences"]
        groups = ((row["image_id"], [row]) for row in dataset.select_columns(columns))
    referents: dict[str, list[_Referent]] = defaultdict(list)
    for group_id, rows in groups:
        referents[group_id] += [_Referent(row) for row in rows]
    return {
        (group_id, referent.ref_id, sent_id): referent.describe(together)
        for group_id, together in referents.items()
        for referent in together
        for sent_id in referent.sent_ids
    }


class _Referent:
    """What is kept of a referent of an image or a video: masks would fill the memory."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.ref_id, self.category = row["ref_id"], row["category"]
        self.sent_ids = [sentence["sent_id"] for sentence in row["sentences"]]
        masks = [] if row.get("no_target") else row["masks"] if "masks" in row else [row["mask"]]
        try:
            shares = [share for share in map(foreground_share, masks) if share]
        except InvalidMaskError as error:
            raise InvalidMaskError(f"A mask of {name_text(self.ref_id)} cannot be decoded: {error}") from error
        self.area = float(np.mean(shares)) if shares else None
        # Of rows without annotations each is an object of its own.
        self.objects = set(row.get("ann_ids") or [("row", self.ref_id)]) if shares else set()

    def categories(self) -> set[str]:
        """Those of all objects of the target."""
        return {name.strip() for name in self.category.split(",") if name.strip()}

    def describe(self, together: Sequence[_Referent]) -> Description:
        """`together` are all referents of the image or video."""
        ours = self.categories()
        # Of a target of several categories it is not known which object has which.
        alike = (other for other in together if other.categories() and other.categories() <= ours)
        objects = self.objects.union(*(other.objects for other in alike))
        return Description(self.category, self.area, len(objects) if ours and self.objects else None)


def group_records(records: Iterable[Record], descriptions: Mapping[Key, Description] | None = None) -> Grouped:
    """The records of each group, by kind and name of the group; a group of no record is left out.

    The groups of one kind, save those of `"words"`, share out the records that anything is known of.

    Args:
        records: of an evaluation; those without a text, which are about objects that nobody describes, belong to none.
        descriptions: of `describe_sentences`; without them there are the kinds `"words"`, `"length"` and `"target"`
            (whether there is any, where some sentences have none) alone, with them also `"area"`, `"same category"`
            and `"category"`.

    Raises:
        ValueError: a record's sentence is not among the descriptions.
    """
    records = [record for record in records if record["text"]]
    kinds: dict[str, list[tuple[str, ...]]] = {
        "words": [groups_of_text(record["text"]) or (WITHOUT_WORDS,) for record in records],
        "length": [(_name_in(LENGTHS, len(split_words(record["text"]))),) for record in records],
    }
    orders = {"words": [*wording_groups(), WITHOUT_WORDS], "length": [name for _, name in LENGTHS]}
    if any(record.get("no_target") for record in records):
        kinds["target"] = [("no target" if record["no_target"] else "target",) for record in records]
        orders["target"] = ["target", "no target"]
    if descriptions is not None:
        described = [_description_of(record, descriptions) for record in records]
        kinds["area"] = [() if each.area is None else (_name_in(AREAS, each.area),) for each in described]
        orders["area"] = [name for _, name in AREAS]
        counts = [each.same_category for each in described]
        kinds["same category"] = [() if count is None else (_name_in(COUNTS, count),) for count in counts]
        orders["same category"] = [name for _, name in COUNTS]
        kinds["category"], orders["category"] = _by_category([each.category for each in described])
    return {kind: found for kind, names in kinds.items() if (found := _collect(records, names, orders[kind]))}


def break_down(
    records: Sequence[Record],
    protocol: str | Protocol,
    descriptions: Mapping[Key, Description] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> list[GroupScores]:
    """The scores of each group of sentences, whatever gave the answers.

    Args:
        records: of an evaluation of images or videos.
        protocol: that of the evaluation. Of a2d, mAP is left out: it needs masks.
        descriptions: as in `group_records`.
        samples: resamples of images or videos for the 95 % intervals; 0 = no intervals.
        seed: of the resampling.

    Raises:
        ValueError: as `group_records`, or unknown protocol.
    """
    return [
        GroupScores(
            kind=kind,
            group=name,
            sentences=len(members),
            images=len({key_of(record)[0] for record in members}),
            metrics=scores_of_records(members, protocol),
            intervals=intervals_of_records(members, protocol, samples=samples, seed=seed) if samples else {},
        )
        for kind, groups in group_records(records, descriptions).items()
        for name, members in groups.items()
    ]


def breakdown_table(breakdown: Sequence[GroupScores]) -> str:
    """The groups as lines, kind by kind, with their first scores in percent and 95 % intervals."""
    names = list(dict.fromkeys(name for each in breakdown for name in each.metrics))[:SHOWN_SCORES]
    rows = [("kind", "group", "sentences", *(column for name in names for column in (name, "95 % interval")))]
    for before, each in zip([None, *breakdown], breakdown, strict=False):
        kind = "" if before is not None and before.kind == each.kind else each.kind
        rows.append((kind, each.group, str(each.sentences), *_cells(each, names)))
    return align(rows)


def draw_breakdown(breakdown: Sequence[GroupScores], title: str) -> Image.Image:
    """A picture with a bar for each group: what most papers give, the first score that is a mean over sentences.

    Args:
        breakdown: of `break_down`, at least one group.
        title: shown above; the name of the score follows.
    """
    score = next((name for name in MEAN_SCORES if name in breakdown[0].metrics), next(iter(breakdown[0].metrics)))
    bars = [
        Bar(
            heading=each.kind,
            label=each.group,
            value=each.metrics[score],
            interval=each.intervals.get(score),
            note=counted(each.sentences, "sentence"),
        )
        for each in breakdown
        if score in each.metrics
    ]
    return draw_bars(bars, f"{title}: {score}, percent")


def _cells(scores: GroupScores, names: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        cells.append(f"{scores.metrics[name]:.2f}" if name in scores.metrics else "")
        cells.append("{:.2f} to {:.2f}".format(*scores.intervals[name]) if name in scores.intervals else "")
    return cells


def _name_in(steps: Sequence[tuple[float, str]], number: float) -> str:
    return next(name for end, name in steps if number < end)


def _by_category(categories: Sequence[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The groups of records of these categories, and their order: the one with most sentences first."""
    counts: dict[str, int] = defaultdict(int)
    for category in filter(None, categories):
        counts[category] += 1
    large = sorted((name for name in counts if counts[name] >= FEWEST_OF_CATEGORY), key=lambda name: -counts[name])
    names: list[tuple[str, ...]] = [
        () if not each else (each,) if each in large else (OTHER_CATEGORIES,) for each in categories
    ]
    return names, [*large, OTHER_CATEGORIES]


def _collect(
    records: Sequence[Record], names: Sequence[Sequence[str]], order: Sequence[str]
) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {name: [] for name in order}
    for record, of_record in zip(records, names, strict=True):
        for name in of_record:
            groups[name].append(record)
    return {name: members for name, members in groups.items() if members}


def _description_of(record: Record, descriptions: Mapping[Key, Description]) -> Description:
    if key_of(record) not in descriptions:
        raise ValueError(
            f"{name_record(record)} is not in the data set that describes the sentences. Describe the rows that were "
            "evaluated."
        )
    return descriptions[key_of(record)]
