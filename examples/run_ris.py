"""Trains and scores a model for referring image segmentation: run_ris.py [RECIPE.yaml] [--option value ...].

A recipe is a YAML file with the options of this script; options on the command line go before those of the recipe.
`run_ris.py --help` lists those of this library, `--help_trainer` those of Trainer as well. What is wrong with the
input is told in one line; `--debug` shows the traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from hf_refseg import RefSegTrainer
from hf_refseg.files import write_json
from hf_refseg.training.building import adapt, build_model_and_processor
from hf_refseg.training.callbacks import PredictionPictures
from hf_refseg.training.checkpoints import checkpoint_to_resume
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.image_data import ImageData
from hf_refseg.training.options import parse_options, run_script
from hf_refseg.training.results import closing_words, save_or_push, starting_points_on_hub
from hf_refseg.training.run_options import options_of_run


def main(arguments: Sequence[str]) -> None:
    """Runs the script with these arguments."""
    model_arguments, data_arguments, training_arguments = parse_options(arguments, ImageDataArguments, __doc__)
    # The newest complete checkpoint in output_dir, unless resume_from_checkpoint says otherwise.
    checkpoint = checkpoint_to_resume(training_arguments)

    # The data sets: one, or several without any image that is held out by one of them.
    data = ImageData.load(data_arguments)
    if training_arguments.process_index == 0 and data.note():
        print(data.note())

    # A saved model, a new one on pretrained encoders or one from random weights; with an adapter if one is asked for.
    set_seed(training_arguments.seed)
    model, processor = build_model_and_processor(model_arguments, data.sentences())
    model = adapt(model, processor, model_arguments, training_arguments, checkpoint)

    # A referent is an image, its mask and one of its sentences, drawn anew in each epoch.
    examples = data.examples(model, processor, training_arguments)
    trainer = RefSegTrainer(
        model=model,
        args=training_arguments,
        processing_class=processor,
        train_dataset=examples.train,
        eval_dataset=examples.eval_dataset,
        callbacks=[PredictionPictures(processor, examples.items_to_draw(training_arguments.pictures))],
        data_collator=examples.collator,
        # Kept with each checkpoint: a run goes on with no other options.
        run_options=options_of_run(model_arguments, data_arguments, data_arguments.shown_options()),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return

    # Every sentence of the test splits, at each image's own size, under the named protocol.
    results = data.score(trainer)
    report = {**data.report(results), "training": {"steps": trained.global_step, **trained.metrics}}
    write_json(Path(training_arguments.output_dir) / "metrics.json", report)
    pictures = data.draw(trainer, results)

    # Model, processor and card, on the Hub as well with --push_to_hub.
    base_model = starting_points_on_hub(model_arguments)
    save_or_push(trainer, **data.card(model, results), base_model=base_model, pictures=pictures)
    print(closing_words(trainer, [results], pictures, data.shown))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
