"""The images of a run: one data set, or several that are joined without leakage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset, IterableDataset
from peft import PeftModel
from transformers import PreTrainedModel

from ..data.byte_batches import FittedExamples, FittedReferents, FittedStream, keep_bytes
from ..data.examples import ReferentExamples, RefSegCollator, SentenceExamples
from ..data.leakage import TrainingPart, drop_images, join_training_splits, read_leakage_list
from ..data.loading import load_refseg
from ..data.streams import StreamedReferents
from ..data.subsets import draw_sentences
from ..evaluation import EvaluationResult
from ..modeling.image_processing_refseg import RefSegImageProcessor
from ..modeling.processing_refseg import RefSegProcessor
from ..visualization import draw_comparison
from .arguments import RefSegTrainingArguments
from .data_arguments import ImageDataArguments, with_used_splits
from .feature_cache import EncodedCollator, cache_image_features
from .run_data import Results, RunData, RunExamples, describe_results
from .streaming import load_with_stream, place_in_stream


@dataclass(frozen=True)
class ImageData(RunData):
    """Images to train on, and to score.

    Attributes:
        arguments: what named them.
        train: the rows to train on.
        trained: what each data set gives to them; nothing where they are streamed.
        evaluated: rows that are scored during training, by data set.
        tested: rows that are scored in the end, by split, or "data set/split" where there are several data sets.

    Data sets go by their `shown_names`.
    """

    arguments: ImageDataArguments
    train: Dataset | IterableDataset
    trained: dict[str, TrainingPart]
    evaluated: dict[str, Dataset]
    tested: dict[str, Dataset]

    shown = "IMAGE.jpg"
    titles = ("predictions", "worst_and_best")
    draw_cases = staticmethod(draw_comparison)

    @classmethod
    def load(cls, arguments: ImageDataArguments) -> ImageData:
        """Raises ValueError for a split that does not exist, and what `load_refseg` raises."""
        options = arguments.load_options()
        if len(options) == 1 and not arguments.leakage_list:
            # Of several data sets, or with a list, the images of every other split are kept out of the training.
            options = {name: with_used_splits(given, arguments) for name, given in options.items()}
        if arguments.streaming:
            data = {name: load_with_stream(name, given, arguments) for name, given in options.items()}
        else:
            data = {name: load_refseg(name, **given) for name, given in options.items()}
        for name, splits in data.items():
            for split in (arguments.train_split, arguments.eval_split):
                if split not in splits:
                    raise ValueError(
                        f"{name} has no split '{split}', only {', '.join(splits)}. Choose those that there are by "
                        "train_split and eval_split."
                    )
        shown, several = arguments.shown_names, len(data) > 1
        available = {
            (f"{name}/{split}" if several else split): rows
            for name, splits in data.items()
            for split, rows in splits.items()
        }
        tested = arguments.test_splits
        if tested is None:
            tested = [split for split in available if split.rpartition("/")[2] != arguments.train_split]
        for split in tested:
            if split not in available:
                raise ValueError(f"{', '.join(data)}: there is no split '{split}', only {', '.join(available)}.")
        train, trained = select_training_rows(data, arguments)
        shown_splits = {f"{name}/{split}": f"{shown[name]}/{split}" for name in data for split in data[name]}
        return cls(
            arguments,
            train,
            trained={shown[name]: part for name, part in trained.items()},
            evaluated={shown[name]: splits[arguments.eval_split] for name, splits in data.items()},
            tested={shown_splits.get(split, split): available[split] for split in tested},
        )

    def sentences(self) -> Iterator[str]:
        for sentences in self.train.select_columns("sentences")["sentences"]:
            yield from (sentence["raw"] for sentence in sentences)

    def examples(
        self, model: PreTrainedModel | PeftModel, processor: RefSegProcessor, training: RefSegTrainingArguments
    ) -> RunExamples:
        """What is trained on and scored; with `cache_image_features` each image is encoded before, in all processes.

        Pictures are drawn of the images themselves.
        """
        drawn = {name: SentenceExamples(rows) for name, rows in self.evaluated.items()}
        if not self.arguments.cache_image_features:
            image_processor = processor.image_processor
            return RunExamples(
                train=self._fitted_referents(image_processor, training),
                evaluated={name: FittedExamples(examples, image_processor) for name, examples in drawn.items()},
                drawn=list(drawn.values()),
                collator=RefSegCollator(keep_bytes(processor)),
            )
        rows = [self.train, *self.evaluated.values()]
        cache = cache_image_features(self.arguments.cache_image_features, model, processor, rows, training)
        return RunExamples(
            train=ReferentExamples(self.train, training.seed, cache.read),
            evaluated={name: SentenceExamples(rows, cache.read) for name, rows in self.evaluated.items()},
            drawn=list(drawn.values()),
            collator=EncodedCollator(processor, model.dtype),
        )

    def _fitted_referents(
        self, image_processor: RefSegImageProcessor, training: RefSegTrainingArguments
    ) -> FittedReferents | FittedStream:
        if isinstance(self.train, Dataset):
            return FittedReferents(ReferentExamples(self.train, training.seed), image_processor)
        return FittedStream(StreamedReferents(self.train, **place_in_stream(training)), image_processor)

    @property
    def most_tested(self) -> int | None:
        return self.arguments.max_test_images

    def report(self, results: Results) -> dict[str, Any]:
        names = list(self.arguments.shown_names.values())
        return {
            "dataset": names if len(names) > 1 else names[0],
            "protocol": self.arguments.protocol,
            "splits": describe_results(results),
            "training_data": {name: asdict(part) for name, part in self.trained.items()},
        }

    def card(self, model: PreTrainedModel | PeftModel, results: Results) -> dict[str, Any]:
        return {
            **self.card_scores(results),
            "datasets": list(self.arguments.shown_names.values()),
            "training_data": self.describe_parts(),
        }

    def card_key(self, split: str, result: EvaluationResult) -> tuple[str, str, str]:
        dataset, _, name = split.rpartition("/")
        label = name if self.arguments.max_test_images is None else f"{name} (first {result.examples} images)"
        return dataset or next(iter(self.arguments.shown_names.values())), label, self.arguments.protocol

    def describe_parts(self) -> dict[str, TrainingPart]:
        """For the model card: what each data set gave to the training, by its name and who split it."""
        shown = self.arguments.shown_names
        return {
            f"{shown[name]} ({split_by})" if split_by else shown[name]: self.trained[shown[name]]
            for name, split_by in self.arguments.split_by_of_each().items()
            if shown[name] in self.trained
        }

    def note(self) -> str:
        """A line for each data set, on what was dropped from its training split; empty where nothing could be."""
        if len(self.trained) == 1 and not self.arguments.leakage_list:
            return ""
        return "\n".join(
            f"{name}: {part.describe_dropped()} are dropped as they are held out."
            for name, part in self.trained.items()
        )


def select_training_rows(
    data: Mapping[str, Mapping[str, Dataset]], arguments: ImageDataArguments
) -> tuple[Dataset | IterableDataset, dict[str, TrainingPart]]:
    """The training split, of several data sets without leakage; and what each data set gives to it."""
    if len(data) > 1 or arguments.leakage_list:
        listed = read_leakage_list(arguments.leakage_list) if arguments.leakage_list else frozenset()
        return join_training_splits(data, train_split=arguments.train_split, listed=listed)
    # The published splits of one data set are trained on as they are.
    ((name, splits),) = data.items()
    if arguments.streaming:
        return splits[arguments.train_split], {}
    rows = splits[arguments.train_split]
    if arguments.max_train_sentences is not None:
        rows = draw_sentences(rows, arguments.max_train_sentences)
    train, part = drop_images(rows, frozenset())
    return train, {name: part}
