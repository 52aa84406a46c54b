"""From a recipe to a trained and scored model with its card, for images, for videos and for both in one training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback, set_seed
from transformers.trainer_utils import TrainOutput

from ..files import write_json
from ..modeling.processing_refseg import RefSegProcessor
from .arguments import ModelArguments, RefSegTrainingArguments
from .building import adapt, build_model_and_processor
from .callbacks import PredictionPictures
from .checkpoints import checkpoint_to_resume
from .data_arguments import ImageDataArguments, VideoDataArguments
from .diagnosis import DiagnosingTrainer, check_diagnosis, diagnose
from .image_data import ImageData
from .options import SCRIPT_USAGE, find_data_class, parse_options
from .results import closing_words, save_or_push, starting_points_on_hub
from .run_data import RunData, join_examples
from .run_options import options_of_run
from .streaming import check_streaming
from .trainer import RefSegTrainer
from .video_data import VideoData

DESCRIPTION = (
    "Trains and scores a model as a recipe says: a YAML file, or the name of one that comes with the library."
)


def run_recipe(arguments: Sequence[str], usage: str = SCRIPT_USAGE) -> dict[str, Any]:
    """As `train_recipe`, of a recipe and options as they stand on the command line; the recipe by its name or path.

    `usage` is the first line of the help.

    Raises:
        ValueError: an option that does not exist, and what `train_recipe` raises.
        FileNotFoundError: no such recipe.
    """
    return train_recipe(*parse_options(arguments, find_data_class(arguments), DESCRIPTION, usage))


def train_recipe(
    model_arguments: ModelArguments,
    data_arguments: ImageDataArguments | VideoDataArguments,
    training: RefSegTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Trains, scores, and leaves model, processor, card, metrics.json, run_options.json and pictures in `output_dir`.

    Args:
        model_arguments: which model.
        data_arguments: which images, or which videos and, in `image_data`, images beside them.
        training: how to train.
        callbacks: added to those of the trainer.

    With `training.diagnose` it trains a few steps and leaves diagnosis.json alone, whose content it returns.

    Returns what is in metrics.json; in further processes nothing.

    Raises:
        ValueError: options that do not fit each other, the data or the model.
        OutputError: the output folder cannot be written, or its disk is full.
    """
    check_streaming(data_arguments, training)
    if training.diagnose:
        check_diagnosis(model_arguments, training)
    checkpoint = None if training.diagnose else checkpoint_to_resume(training)
    data = load_data(data_arguments)
    for note in (each.note() for each in data):
        if note and training.process_index == 0:
            print(note)
    set_seed(training.seed)
    model, processor = build_model_and_processor(model_arguments, chain(*(each.sentences() for each in data)))
    model = adapt(model, processor, model_arguments, training, checkpoint)
    if training.diagnose:
        return diagnose(
            build_trainer(model, processor, data, data_arguments, training, callbacks, trainer_class=DiagnosingTrainer)
        )
    options = options_of_run(model_arguments, data_arguments, data_arguments.shown_options())
    trainer = build_trainer(model, processor, data, data_arguments, training, callbacks, run_options=options)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.gather_model()
    if not trainer.is_world_process_zero():
        return {}
    return score_and_save(trainer, trained, data, starting_points_on_hub(model_arguments))


def load_data(arguments: ImageDataArguments | VideoDataArguments) -> list[RunData]:
    """The images; or the videos and, where `image_data` names them, the images."""
    if isinstance(arguments, ImageDataArguments):
        return [ImageData.load(arguments)]
    image_arguments = arguments.image_arguments()
    videos = VideoData.load(arguments)
    return [videos] if image_arguments is None else [videos, ImageData.load(image_arguments)]


def build_trainer(
    model: PreTrainedModel | PeftModel,
    processor: RefSegProcessor,
    data: Sequence[RunData],
    arguments: ImageDataArguments | VideoDataArguments,
    training: RefSegTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    run_options: dict[str, Any] | None = None,
    trainer_class: type[RefSegTrainer] = RefSegTrainer,
) -> RefSegTrainer:
    """Where there are videos and images, each step sees the one or the other."""
    each_examples = [each.examples(model, processor, training) for each in data]
    if isinstance(arguments, VideoDataArguments) and len(each_examples) > 1:
        videos, images = each_examples
        examples = join_examples(videos, images, arguments.image_share)
    else:
        (examples,) = each_examples
    return trainer_class(
        model=model,
        args=training,
        processing_class=processor,
        train_dataset=examples.train,
        eval_dataset=examples.eval_dataset,
        callbacks=[PredictionPictures(processor, examples.items_to_draw(training.pictures)), *callbacks],
        data_collator=examples.collator,
        run_options=run_options,
    )


def score_and_save(
    trainer: RefSegTrainer, trained: TrainOutput, data: Sequence[RunData], base_model: list[str] | None
) -> dict[str, Any]:
    """What follows the training, in the first process: scores, pictures, the model and its card; and the last words.

    metrics.json holds the scores of the first `data`, and under "images" those of images beside videos.
    """
    results = [each.score(trainer) for each in data]
    reports = [each.report(scores) for each, scores in zip(data, results, strict=True)]
    report = {**reports[0], "training": {"steps": trained.global_step, **trained.metrics}}
    if len(reports) > 1:
        report["images"] = reports[1]
    path = Path(trainer.args.output_dir) / "metrics.json"
    write_json(path, report)
    pictures = [picture for each, scores in zip(data, results, strict=True) for picture in each.draw(trainer, scores)]
    cards = [each.card(trainer.model, scores) for each, scores in zip(data, results, strict=True)]
    save_or_push(
        trainer,
        metrics={key: scores for card in cards for key, scores in card.pop("metrics").items()},
        datasets=[name for card in cards for name in card.pop("datasets")],
        base_model=base_model,
        pictures=pictures,
        **{name: value for card in cards for name, value in card.items()},
    )
    for each in data:
        report |= each.submit(trainer)
    write_json(path, report)
    print(closing_words(trainer, results, pictures, data[0].shown))
    for split, archive in report.get("submissions", {}).items():
        print(f"For the evaluation server, of {split}: {Path(trainer.args.output_dir, archive)}")
    return report
