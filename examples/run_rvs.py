"""Trains and scores a model for referring video segmentation: run_rvs.py [RECIPE.yaml] [--option value ...].

A recipe is a YAML file with the options of this script; options on the command line go before those of the recipe.
`run_rvs.py --help` lists those of this library, `--help_trainer` those of Trainer as well. What is wrong with the
input is told in one line; `--debug` shows the traceback. Images can be trained on as well (`image_data`), a method for
images can be trained on single frames, and an image LAVT can become a video LAVT (`model_name_or_path` with
`model_type: video_lavt`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain

from transformers import set_seed

from hf_refseg.training.building import adapt, build_model_and_processor
from hf_refseg.training.checkpoints import checkpoint_to_resume
from hf_refseg.training.data_arguments import VideoDataArguments
from hf_refseg.training.options import parse_options, run_script
from hf_refseg.training.recipes import build_trainer, load_data, score_and_save
from hf_refseg.training.results import starting_points_on_hub
from hf_refseg.training.run_options import options_of_run


def main(arguments: Sequence[str]) -> None:
    """Runs the script with these arguments."""
    model_arguments, data_arguments, training_arguments = parse_options(arguments, VideoDataArguments, __doc__)
    # The newest complete checkpoint in output_dir, unless resume_from_checkpoint says otherwise.
    checkpoint = checkpoint_to_resume(training_arguments)

    # The videos; and the images, where image_data names them.
    data = load_data(data_arguments)
    for note in (each.note() for each in data):
        if note and training_arguments.process_index == 0:
            print(note)

    # A saved model, a new one on pretrained encoders or one from random weights; with an adapter if one is asked for.
    set_seed(training_arguments.seed)
    sentences = chain.from_iterable(each.sentences() for each in data)
    model, processor = build_model_and_processor(model_arguments, sentences)
    model = adapt(model, processor, model_arguments, training_arguments, checkpoint)

    # Clips, or single frames for a method that takes no clips; a step sees them, or images, alone.
    trainer = build_trainer(
        model,
        processor,
        data,
        data_arguments,
        training_arguments,
        # Kept with each checkpoint: a run goes on with no other options.
        run_options=options_of_run(model_arguments, data_arguments, data_arguments.shown_options()),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return

    # Scores of whole videos and of the images, pictures, the model with its card, and the files that the evaluation
    # servers of splits without masks ask for.
    score_and_save(trainer, trained, data, starting_points_on_hub(model_arguments))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
