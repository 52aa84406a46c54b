"""What a run trains on and scores, whatever its kind: images and videos both come as `RunData`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
from peft import PeftModel
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from ..data.catalog import DATASETS
from ..data.clips import ClipExamples
from ..data.examples import SentenceExamples
from ..evaluation import EvaluationResult, evaluate_model, predict_cases, select_worst_and_best
from ..evaluation.video import SEQUENCE_MEASURES
from ..files import write_picture
from ..modeling.inference_refseg import VideoWindow
from ..modeling.processing_refseg import RefSegProcessor
from .arguments import RefSegTrainingArguments
from .data_arguments import ImageDataArguments, VideoDataArguments
from .mixed_batches import MixedCollator, MixedExamples

if TYPE_CHECKING:
    from .trainer import RefSegTrainer, TrainingExamples

Results = Mapping[str, EvaluationResult]
DRAWN_CASES = 8


@dataclass(frozen=True)
class RunExamples:
    """What `RefSegTrainer` reads.

    Attributes:
        train: the referents to train on.
        evaluated: what is scored during training, by the name of the data set.
        drawn: of what pictures are drawn during training: each data set that is scored, with its images.
        collator: makes a batch of items.
    """

    train: TrainingExamples
    evaluated: dict[str, Dataset]
    drawn: list[SentenceExamples | ClipExamples]
    collator: Callable[[list], Any]

    @property
    def eval_dataset(self) -> Dataset | dict[str, Dataset] | None:
        """As Trainer takes it: scores of several data sets go by their names, those of one alone have none."""
        return self.evaluated if len(self.evaluated) > 1 else next(iter(self.evaluated.values()), None)

    def items_to_draw(self, number: int) -> list[dict[str, Any]]:
        """So many first items, in equal parts of each data set."""
        of_each = math.ceil(number / max(1, len(self.drawn)))
        return [items[index] for items in self.drawn for index in range(min(of_each, len(items)))][:number]


class RunData(ABC):
    """The images or the videos of a run.

    Attributes:
        arguments: what named them.
        tested: rows that are scored in the end, by split, or "data set/split" where there are several data sets.
    """

    # What the command that uses the model segments, for the last words of a run.
    shown: ClassVar[str]
    # Names of the pictures of cases, and of the worst and best ones.
    titles: ClassVar[tuple[str, str]]

    arguments: ImageDataArguments | VideoDataArguments
    tested: dict[str, datasets.Dataset]

    @staticmethod
    @abstractmethod
    def draw_cases(cases: list[Any], /) -> Image.Image:
        """Draws a picture of cases."""

    @property
    def window(self) -> VideoWindow | None:
        """How the scored model goes through a video."""
        return None

    @property
    @abstractmethod
    def most_tested(self) -> int | None:
        """How many images or videos of a split are scored; None = all."""

    @abstractmethod
    def sentences(self) -> Iterator[str]:
        """All sentences that are trained on, as they were written."""

    @abstractmethod
    def examples(
        self, model: PreTrainedModel | PeftModel, processor: RefSegProcessor, training: RefSegTrainingArguments
    ) -> RunExamples:
        """What is trained on and scored during training, as the model takes it."""

    def score(self, trainer: RefSegTrainer) -> Results:
        """The scores in the end, by split."""
        return {
            split: evaluate_model(
                trainer.model,
                trainer.processing_class,
                rows,
                self.arguments.protocol,
                window=self.window,
                batch_size=trainer.args.per_device_eval_batch_size,
                max_examples=self.most_tested,
                progress=not trainer.args.disable_tqdm,
            )
            for split, rows in self.tested.items()
        }

    def draw(self, trainer: RefSegTrainer, results: Results) -> list[Path]:
        """Draws cases of each data set's first scored split, one every so many sentences, and the worst and best ones.

        Writes PNG files called as `titles` say, and after the split as well where there are several data sets, such as
        predictions_refcoco_val.png; returns the paths.
        """
        first_splits: dict[str, str] = {}
        for split in results:
            first_splits.setdefault(split.rpartition("/")[0], split)
        paths = []
        for dataset, split in first_splits.items():
            records, measure = results[split].records, SEQUENCE_MEASURES.get(self.arguments.protocol, "iou")
            every = max(1, len(records) // DRAWN_CASES)
            extremes = select_worst_and_best(records, k=DRAWN_CASES // 2, by=measure)
            for title, drawn in zip(self.titles, (records[::every][:DRAWN_CASES], extremes), strict=True):
                compared = predict_cases(
                    trainer.model,
                    trainer.processing_class,
                    self.tested[split],
                    drawn,
                    self.arguments.protocol,
                    window=self.window,
                )
                name = f"{title}_{split.replace('/', '_')}" if dataset else title
                paths.append(Path(trainer.args.output_dir) / f"{name}.png")
                write_picture(paths[-1], self.draw_cases(compared))
        return paths

    @abstractmethod
    def report(self, results: Results) -> dict[str, Any]:
        """For metrics.json: data, protocol and scores."""

    @abstractmethod
    def card(self, model: PreTrainedModel | PeftModel, results: Results) -> dict[str, Any]:
        """Arguments of `write_model_card`: those of `card_scores`, and what was trained on."""

    def card_scores(self, results: Results) -> dict[str, Any]:
        """Arguments of `write_model_card` on the scores: they, their intervals and what measures them again."""
        keys = {split: self.card_key(split, result) for split, result in results.items()}
        return {
            "metrics": {keys[split]: result.metrics for split, result in results.items()},
            "intervals": {keys[split]: result.intervals for split, result in results.items() if result.intervals},
            "commands": {keys[split]: self.evaluation_arguments(keys[split][0], split) for split in results},
        }

    @abstractmethod
    def card_key(self, split: str, result: EvaluationResult) -> tuple[str, str, str]:
        """Data set, split and protocol for the model card, which says where only a part of a split was scored."""

    def evaluation_arguments(self, dataset: str, split: str) -> list[str]:
        """What `hf-refseg evaluate` is called with behind the model, which brings the other options along."""
        has_files = dataset in DATASETS and DATASETS[dataset].layout
        options = {
            "--split": split.rpartition("/")[2],
            "--protocol": self.arguments.protocol,
            "--data-dir": "DATA_DIR" if has_files else None,
            "--max-images": self.most_tested,
        }
        given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
        return [dataset, *given, *window_arguments(self.window)]

    def note(self) -> str:
        """What to say of the data before the training; empty where there is nothing."""
        return ""

    def submit(self, trainer: RefSegTrainer) -> dict[str, dict[str, str]]:
        """Writes what evaluation servers ask for, of splits without masks; its entries of metrics.json."""
        return {}


def window_arguments(window: VideoWindow | None) -> list[str]:
    """The options of `hf-refseg evaluate` on how a model goes through a video."""
    if window is None:
        return []
    frames = [] if window.frames is None else ["--window", str(window.frames), "--overlap", str(window.overlap)]
    return [*frames, *(["--per-frame"] if window.per_frame else [])]


def join_examples(videos: RunExamples, images: RunExamples, image_share: float) -> RunExamples:
    """Images and videos in one training, in batches of their own; `image_share` of the steps see images."""
    return RunExamples(
        MixedExamples(images.train, videos.train, image_share),
        {**videos.evaluated, **images.evaluated},
        [*videos.drawn, *images.drawn],
        MixedCollator(images.collator, videos.collator),
    )


def describe_results(results: Results) -> dict[str, dict]:
    """All of each result but its single sentences."""
    described = {split: asdict(result) for split, result in results.items()}
    for result in described.values():
        del result["records"]
    return described
