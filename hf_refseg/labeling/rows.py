"""What of a system's answers becomes rows, and counts of what does not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.masks import encode_mask, mask_to_bbox
from ..data.rows import row_features
from ..evaluation.systems import Answer
from ..messages import name_text, short_text
from .images import AskedImage, AskedText

if TYPE_CHECKING:
    from datasets import Features

# What an answer may become: a row with a mask, one without a target, or none.
OUTCOMES = ("labeled", "no_target", "not_found", "low_score")


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """Which answers become rows.

    Attributes:
        minimum_score: the least score, 0 to 1, of a mask that becomes a row.
        keep_no_target: whether an answer without a mask becomes a row without a target; else it is left out.

    Raises:
        ValueError: the score is out of range.
    """

    minimum_score: float = 0.0
    keep_no_target: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_score <= 1:
            raise ValueError(f"The minimum score is {self.minimum_score}: choose one from 0 to 1.")

    def outcome(self, mask: np.ndarray, score: float) -> str:
        """Which of `OUTCOMES` an answer has, whose mask is bool (H, W)."""
        if not mask.any():
            return "no_target" if self.keep_no_target else "not_found"
        return "labeled" if score >= self.minimum_score else "low_score"


def label_features(other_ids: Sequence[str] = ()) -> Features:
    """The columns of labels: those of every image data set, the `score` of each mask, and further ids of images."""
    from datasets import Features, Value

    ids = {column: Value("string") for column in other_ids}
    return Features({**row_features(), **ids, "score": Value("float64")})


def rows_of_image(
    image: AskedImage, answers: Iterable[Answer], threshold: float, rules: LabelRules, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows of an image, one for each text whose answer becomes one; counts the outcomes of all.

    Args:
        image: the image.
        answers: one for each of its texts.
        threshold: foreground probability above which a pixel belongs to a mask.
        rules: which answers become rows.
        counts: how many answers had each of `OUTCOMES`, to which these are added.

    Raises:
        ValueError: there are more or fewer answers than texts, or one is not as large as the image.
    """
    for text, answer in zip(image.texts, answers, strict=True):
        mask, score = answer.shown_mask(threshold), answer.score_at(threshold)
        if mask.shape != image.size:
            raise ValueError(
                f"The answer about {name_text(image.image_id)}, {short_text(text.raw)}, is {mask.shape[0]} x "
                f"{mask.shape[1]} (height x width), the image {image.size[0]} x {image.size[1]}: a system answers at "
                "its size."
            )
        outcome = rules.outcome(mask, score)
        counts[outcome] += 1
        if outcome in ("labeled", "no_target"):
            yield _row(image, text, mask, score)


def _row(image: AskedImage, text: AskedText, mask: np.ndarray, score: float) -> dict[str, Any]:
    ref_id = f"{image.image_id}#{_digest(text.raw)}"
    sentence = {
        "sent_id": f"{ref_id}-0" if text.sent_id is None else text.sent_id,
        "raw": text.raw,
        "sent": " ".join(text.raw.lower().split()),
    }
    return {
        "image": {"bytes": image.file, "path": image.name},
        "image_id": image.image_id,
        "ref_id": ref_id,
        "ann_ids": [ref_id] if mask.any() else [],
        "category": "",
        "mask": encode_mask(mask),
        "bbox": mask_to_bbox(mask),
        "no_target": not mask.any(),
        "sentences": [sentence],
        **image.other_ids,
        "score": score,
    }


def _digest(text: str) -> str:
    """What an id holds of a text: the same whatever other texts there are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
