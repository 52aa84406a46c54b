"""What a run trains on and scores, whatever its kind: images and videos both come as `RunData`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peft import PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from ..data.clips import ClipExamples
from ..data.examples import SentenceExamples
from ..evaluation import EvaluationResult
from ..modeling.processing_refseg import RefSegProcessor
from .arguments import RefSegTrainingArguments
from .mixed_batches import MixedCollator, MixedExamples

if TYPE_CHECKING:
    from .trainer import RefSegTrainer, TrainingExamples

Results = Mapping[str, EvaluationResult]


@dataclass(frozen=True)
class RunExamples:
    """What `RefSegTrainer` reads.

    Attributes:
        train: the referents to train on.
        evaluated: what is scored during training, by the name of the data set.
        drawn: items of which pictures are drawn during training.
        collator: makes a batch of items.
    """

    train: TrainingExamples
    evaluated: dict[str, Dataset]
    drawn: list[dict[str, Any]]
    collator: Callable[[list], Any]

    @property
    def eval_dataset(self) -> Dataset | dict[str, Dataset] | None:
        """As Trainer takes it: scores of several data sets go by their names, those of one alone have none."""
        return self.evaluated if len(self.evaluated) > 1 else next(iter(self.evaluated.values()), None)


class RunData(ABC):
    """The images or the videos of a run."""

    # What the command that uses the model segments, for the last words of a run.
    shown: ClassVar[str]

    @abstractmethod
    def sentences(self) -> Iterator[str]:
        """All sentences that are trained on, as they were written."""

    @abstractmethod
    def examples(
        self, model: PreTrainedModel | PeftModel, processor: RefSegProcessor, training: RefSegTrainingArguments
    ) -> RunExamples:
        """What is trained on and scored during training, as the model takes it."""

    @abstractmethod
    def score(self, trainer: RefSegTrainer) -> Results:
        """The scores in the end, by split."""

    @abstractmethod
    def draw(self, trainer: RefSegTrainer, results: Results) -> list[Path]:
        """Draws cases of the scored splits, and the worst and best ones; returns the pictures' paths."""

    @abstractmethod
    def report(self, results: Results) -> dict[str, Any]:
        """For metrics.json: data, protocol and scores."""

    @abstractmethod
    def card(self, model: PreTrainedModel | PeftModel, results: Results) -> dict[str, Any]:
        """Arguments of `write_model_card`: the scores, and what was trained on."""

    def note(self) -> str:
        """What to say of the data before the training; empty where there is nothing."""
        return ""

    def submit(self, trainer: RefSegTrainer) -> dict[str, dict[str, str]]:
        """Writes what evaluation servers ask for, of splits without masks; for metrics.json where there is any."""
        return {}


def join_examples(videos: RunExamples, images: RunExamples, image_share: float, pictures: int) -> RunExamples:
    """Images and videos in one training, in batches of their own; `image_share` of the steps see images."""
    evaluated = {**videos.evaluated, **images.evaluated}
    return RunExamples(
        MixedExamples(images.train, videos.train, image_share),
        evaluated,
        items_to_draw(list(evaluated.values()), pictures),
        MixedCollator(images.collator, videos.collator),
    )


def items_to_draw(evaluated: Sequence[SentenceExamples | ClipExamples], number: int) -> list[dict[str, Any]]:
    """So many first items, in equal parts of each data set."""
    of_each = math.ceil(number / max(1, len(evaluated)))
    return [examples[index] for examples in evaluated for index in range(min(of_each, len(examples)))][:number]


def describe_results(results: Results) -> dict[str, dict]:
    """All of each result but its single sentences."""
    described = {split: asdict(result) for split, result in results.items()}
    for result in described.values():
        del result["records"]
    return described
