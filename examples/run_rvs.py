"""Trains and scores a model for referring video segmentation: run_rvs.py [RECIPE.yaml] [--option value ...].

A recipe is a YAML file with the options of this script; options on the command line go before those of the recipe.
`run_rvs.py --help` lists those of this library, `--help_trainer` those of Trainer as well. What is wrong with the
input is told in one line; `--debug` shows the traceback. Images can be trained on as well (`image_data`), a method for
images can be trained on single frames, and an image LAVT can become a video LAVT (`model_name_or_path` with
`model_type: video_lavt`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from run_ris import (
    DRAWN_CASES,
    DataArguments,
    ModelArguments,
    Splits,
    adapt,
    build_model_and_processor,
    card_key,
    checkpoint_to_resume,
    closing_words,
    describe_datasets,
    describe_parts,
    describe_results,
    draw_pictures,
    items_to_draw,
    join_options,
    load_model_and_processor,
    load_splits,
    model_class_of,
    options_of_run,
    parse_options,
    read_mapping,
    run,
    save_or_push,
    score_splits,
    sentences_of,
    starting_points_on_hub,
)
from transformers import PreTrainedModel, set_seed

from hf_refseg import RefSegProcessor, load_refseg
from hf_refseg.data.clips import ClipCollator, ClipExamples, FrameExamples, VideoExamples
from hf_refseg.data.examples import ReferentExamples, RefSegCollator, SentenceExamples
from hf_refseg.data.prepare import fingerprint_rows
from hf_refseg.evaluation.evaluator import EvaluationResult, evaluation_mode, select_worst_and_best
from hf_refseg.evaluation.submission import write_submission
from hf_refseg.evaluation.video import SEQUENCE_MEASURES, check_video_protocol
from hf_refseg.evaluation.video_evaluator import VideoEvaluationResult, evaluate_video_model, predict_video_cases
from hf_refseg.files import public_name, require_writable, write_json, write_picture
from hf_refseg.modeling.inference_refseg import segment_video
from hf_refseg.modeling.modeling_video_lavt import VideoLavtForReferringSegmentation
from hf_refseg.modeling.names_refseg import nearest_names
from hf_refseg.sources import unique_names
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.callbacks import PredictionPictures
from hf_refseg.training.feature_cache import hash_tensors
from hf_refseg.training.mixed_batches import MixedCollator, MixedExamples
from hf_refseg.training.run_options import given_options
from hf_refseg.training.trainer import RefSegTrainer
from hf_refseg.visualization import draw_strips


@dataclass
class VideoModelArguments(ModelArguments):
    """Which model: as in run_ris.py, and an image LAVT from which a video LAVT starts."""

    new_model_type: ClassVar[str] = "video_lavt"

    model_type: str | None = field(
        default=None,
        metadata={
            "help": "The method of a new model, video_lavt if absent. With the image LAVT in model_name_or_path: the "
            "method for videos that starts from its weights; config then takes what is new there, such as "
            "num_window_frames and pwam_structure."
        },
    )

    def __post_init__(self):
        new_fields = None
        if self.model_name_or_path and self.model_type:
            new_fields, self.config = self.config, None
        super().__post_init__()
        if new_fields is not None:
            self.config = read_mapping("config", new_fields)


@dataclass
class VideoDataArguments:
    """Which videos to train on, images as well, and what to score in the end."""

    _argument_group_name = "data"

    dataset_name: str = field(
        default="refshapes_video",
        metadata={"help": "refshapes_video, ref_youtube_vos, ref_davis17, a2d_sentences or jhmdb_sentences."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's original files."})
    dataset_options: dict | str | None = field(
        default=None, metadata={"help": "Further options of load_refseg, as a mapping (YAML or JSON)."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(
        default=None,
        metadata={"help": "Split of which a clip per referent is scored during training; none if absent."},
    )
    test_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits that are scored in the end; all with masks but train_split if absent. Of a split without "
            "masks (valid and test of Refer-YouTube-VOS) the file for the evaluation server is written."
        },
    )
    num_frames: int = field(default=8, metadata={"help": "Frames of a clip that is trained on."})
    protocol: str = field(default="davis", metadata={"help": 'Protocol of the scores in the end, "davis" or "a2d".'})
    window: int = field(
        default=0, metadata={"help": "Frames that the scored model sees at once; 0 = the whole video as one clip."}
    )
    overlap: int | None = field(
        default=None,
        metadata={"help": "Frames that neighboring windows share; 8, or half a smaller window, if absent."},
    )
    per_frame: bool = field(
        default=False, metadata={"help": "Score a method that takes clips frame by frame, like one for images."}
    )
    max_test_videos: int | None = field(default=None, metadata={"help": "Videos per split scored in the end."})
    image_data: dict | str | None = field(
        default=None,
        metadata={
            "help": "Images to train on as well, in batches of their own: options of run_ris.py, as a mapping (YAML "
            'or JSON), such as {"dataset_name": "refcoco", "data_dir": "data"}.'
        },
    )
    image_share: float = field(default=0.5, metadata={"help": "Share of the training steps that see images."})

    def __post_init__(self):
        self.dataset_options = read_mapping("dataset_options", self.dataset_options)
        self.image_data = read_mapping("image_data", self.image_data)
        if isinstance(self.test_splits, str):
            self.test_splits = [self.test_splits]
        if self.num_frames < 1:
            raise ValueError(f"num_frames has to be 1 at least, got {self.num_frames}.")
        if not self.image_data and "image_share" in given_options(self):
            raise ValueError("image_share goes with image_data: name the images, or leave it out.")
        check_video_protocol(self.protocol)

    def image_arguments(self) -> DataArguments | None:
        """The options of run_ris.py for the images; None without any.

        Raises:
            ValueError: an option that does not exist, or that has no meaning here.
        """
        if not self.image_data:
            return None
        taken = [option.name for option in fields(DataArguments) if option.name != "cache_image_features"]
        unknown = [str(name) for name in self.image_data if name not in taken]
        if unknown:
            hint = nearest_names(unknown, taken) or "."
            raise ValueError(f"image_data has no option {', '.join(unknown)}, only {', '.join(taken)}{hint}")
        return DataArguments(**self.image_data)

    @property
    def shown_name(self) -> str:
        """What results and their readers call the data set of videos, see `DataArguments.shown_names`."""
        images = self.image_arguments()
        return unique_names([*(images.shown_names.values() if images else ()), public_name(self.dataset_name)])[-1]

    def load_options(self) -> dict[str, Any]:
        """The options of `load_refseg` for the videos."""
        return join_options({"data_dir": self.data_dir}, self.dataset_options)

    def shown_options(self) -> dict[str, dict[str, Any]]:
        """The options of `load_refseg` for each data set, those of images as well, by its shown name."""
        images = self.image_arguments()
        return {**(images.shown_options() if images else {}), self.shown_name: self.load_options()}

    def reading(self) -> dict[str, Any]:
        """How the scored model goes through a video, see `segment_video`."""
        return {"window": self.window or None, "overlap": self.overlap, "per_frame": self.per_frame}


@dataclass(frozen=True)
class VideoSplits:
    """Videos to train on, and to score: `evaluated` during training (None = no videos), `tested` in the end.

    Of those in `submitted`, which have no masks, predictions are written.
    """

    train: Dataset
    evaluated: Dataset | None
    tested: dict[str, Dataset]
    submitted: dict[str, Dataset]


def parse_arguments(
    arguments: Sequence[str],
) -> tuple[VideoModelArguments, VideoDataArguments, RefSegTrainingArguments]:
    """As `parse_arguments` of run_ris.py, for the options of this script."""
    return parse_options(arguments, (VideoModelArguments, VideoDataArguments, RefSegTrainingArguments), __doc__)


def load_video_splits(arguments: VideoDataArguments) -> VideoSplits:
    splits = load_refseg(arguments.dataset_name, **arguments.load_options())
    annotated = [name for name in splits if is_annotated(splits[name])]
    evaluated = [] if arguments.eval_split is None else [arguments.eval_split]
    tested = arguments.test_splits
    if tested is None:
        tested = [name for name in annotated if name != arguments.train_split]
    for name in (arguments.train_split, *evaluated, *tested):
        if name not in splits:
            raise ValueError(f"{arguments.dataset_name} has no split '{name}', only {', '.join(splits)}.")
    for name in (arguments.train_split, *evaluated):
        if name not in annotated:
            raise ValueError(
                f"The split '{name}' of {arguments.dataset_name} has no masks: nothing can be trained on it or scored."
            )
    return VideoSplits(
        train=splits[arguments.train_split],
        evaluated=splits[arguments.eval_split] if evaluated else None,
        tested={name: splits[name] for name in tested if name in annotated},
        submitted={name: splits[name] for name in tested if name not in annotated},
    )


def is_annotated(videos: Dataset) -> bool:
    """Whether a split has masks; data sets publish all masks of a split, or none."""
    rows = videos.select_columns("referents")
    return any(referent["annotated_frames"] for row in rows for referent in row["referents"])


def video_sentences(videos: Dataset) -> Iterator[str]:
    """All sentences of a split of videos, as they were written."""
    for row in videos.select_columns("referents"):
        for referent in row["referents"]:
            yield from (sentence["raw"] for sentence in referent["sentences"])


def build_video_model_and_processor(
    arguments: VideoModelArguments, sentences: Iterable[str] = ()
) -> tuple[PreTrainedModel, RefSegProcessor]:
    """As `build_model_and_processor` of run_ris.py; a video method can start from an image LAVT.

    Raises:
        ValueError: a saved model of another method, which cannot become what `model_type` says.
    """
    name = arguments.model_name_or_path
    if name is None:
        return build_model_and_processor(arguments, sentences)
    model, processor = load_model_and_processor(arguments, sentences)
    saved = model.config.model_type
    if arguments.model_type in (None, saved):
        if arguments.config:
            raise ValueError(f"{name} comes with its configuration: leave config out, to go on from it as it is.")
        return model, processor
    model_class = model_class_of(arguments.model_type)
    if saved != "lavt" or not issubclass(model_class, VideoLavtForReferringSegmentation):
        raise ValueError(
            f"{name} is a model of type {saved}, which cannot become a {arguments.model_type}: leave model_type out "
            "to go on from it as it is."
        )
    processor.max_text_length = arguments.max_text_length or model_class.config_class.max_text_length
    return model_class.from_image_lavt(model, **arguments.config), processor


def score_videos(
    trainer: RefSegTrainer, tested: dict[str, Dataset], arguments: VideoDataArguments
) -> dict[str, VideoEvaluationResult]:
    return {
        split: evaluate_video_model(
            trainer.model,
            trainer.processing_class,
            videos,
            arguments.protocol,
            **arguments.reading(),
            batch_size=trainer.args.per_device_eval_batch_size,
            max_videos=arguments.max_test_videos,
            progress=not trainer.args.disable_tqdm,
        )
        for split, videos in tested.items()
    }


def write_submissions(
    trainer: RefSegTrainer, submitted: dict[str, Dataset], arguments: VideoDataArguments
) -> dict[str, str]:
    """Writes submission.zip for each split into the output folder; returns their places in it by split.

    Each lies in a folder of its own for all that its masks depend on, so that what another model said is never used.
    """
    model, processor, reading = trainer.model, trainer.processing_class, arguments.reading()
    paths = {}
    for split, videos in submitted.items():
        shown = len(videos) if arguments.max_test_videos is None else min(arguments.max_test_videos, len(videos))
        inputs = {
            "dataset": arguments.shown_name,
            "split": split,
            "videos": shown,
            "rows": fingerprint_rows({split: videos}),
            "weights": hash_tensors(model.state_dict()),
            "image_processor": processor.image_processor.to_dict(),
            **reading,
        }
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
        folder = Path(trainer.args.output_dir) / f"submission_{split}_{digest[:8]}"
        with evaluation_mode(model):
            examples, segment = VideoExamples(videos.select(range(shown))), partial(segment_video, model, processor)
            archive = write_submission(examples, partial(segment, **reading), folder, inputs)
        paths[split] = archive.relative_to(trainer.args.output_dir).as_posix()
    return paths


def draw_video_pictures(
    trainer: RefSegTrainer,
    tested: dict[str, Dataset],
    results: dict[str, VideoEvaluationResult],
    arguments: VideoDataArguments,
) -> list[Path]:
    """Draws cases of the first scored split, one every so many sentences, and the worst and best ones.

    Writes video_predictions.png and worst_and_best_videos.png; returns the paths.
    """
    if not results:
        return []
    split, result = next(iter(results.items()))
    every = max(1, len(result.records) // DRAWN_CASES)
    measure = SEQUENCE_MEASURES[arguments.protocol]
    cases = {
        "video_predictions": result.records[::every][:DRAWN_CASES],
        "worst_and_best_videos": select_worst_and_best(result.records, k=DRAWN_CASES // 2, by=measure),
    }
    model, processor, reading = trainer.model, trainer.processing_class, arguments.reading()
    paths = []
    for title, drawn in cases.items():
        paths.append(Path(trainer.args.output_dir) / f"{title}.png")
        write_picture(paths[-1], draw_strips(predict_video_cases(model, processor, tested[split], drawn, **reading)))
    return paths


def build_trainer(
    model: PreTrainedModel,
    processor: RefSegProcessor,
    videos: VideoSplits,
    images: Splits | None,
    arguments: VideoDataArguments,
    training: RefSegTrainingArguments,
    run_options: dict[str, Any] | None = None,
) -> RefSegTrainer:
    """A method that takes clips is trained on clips, another one on single frames; images come in between."""
    takes_clips = model.config.takes_clips

    def clips_of(rows: Dataset) -> ClipExamples | FrameExamples:
        if takes_clips:
            return ClipExamples(rows, arguments.num_frames, seed=training.seed)
        return FrameExamples(rows, seed=training.seed)

    train, evaluated = clips_of(videos.train), {}
    if videos.evaluated is not None:
        evaluated[arguments.shown_name] = clips_of(videos.evaluated)
    collator = ClipCollator(processor) if takes_clips else RefSegCollator(processor)
    if images is not None:
        train = MixedExamples(ReferentExamples(images.train, training.seed), train, arguments.image_share)
        evaluated |= {name: SentenceExamples(rows) for name, rows in images.evaluated.items()}
        collator = MixedCollator(RefSegCollator(processor), collator)
    drawn = items_to_draw(list(evaluated.values()), number=training.pictures) if evaluated else []
    return RefSegTrainer(
        model=model,
        args=training,
        processing_class=processor,
        train_dataset=train,
        eval_dataset=(evaluated if len(evaluated) > 1 else next(iter(evaluated.values()))) if evaluated else None,
        callbacks=[PredictionPictures(processor, drawn)],
        data_collator=collator,
        run_options=run_options,
    )


def describe_data(videos: VideoSplits, arguments: VideoDataArguments, takes_clips: bool) -> dict[str, object]:
    """For the model card: what was trained on, and how the model saw it."""
    how = f"clips of {arguments.num_frames} frames" if takes_clips else "single frames"
    described = {"videos": f"{len(videos.train)} of {arguments.shown_name}, as {how}"}
    if arguments.image_data:
        described["steps on images"] = f"{100 * arguments.image_share:.0f} %"
    return described


def video_card_key(split: str, result: VideoEvaluationResult, arguments: VideoDataArguments) -> tuple[str, str, str]:
    """As `card_key` of run_ris.py."""
    label = split if arguments.max_test_videos is None else f"{split} (first {result.videos} videos)"
    return arguments.shown_name, label, arguments.protocol


def main(arguments: Sequence[str] | None = None) -> dict:
    """Runs the script with these arguments; returns what it wrote to metrics.json (nothing in further processes)."""
    model_arguments, data_arguments, training_arguments = parse_arguments(
        sys.argv[1:] if arguments is None else arguments
    )
    if training_arguments.should_save:
        require_writable(training_arguments.output_dir)
    checkpoint = checkpoint_to_resume(training_arguments)
    image_arguments = data_arguments.image_arguments()
    videos = load_video_splits(data_arguments)
    images = None if image_arguments is None else load_splits(image_arguments)
    set_seed(training_arguments.seed)
    sentences = chain(video_sentences(videos.train), () if images is None else sentences_of(images.train))
    model, processor = build_video_model_and_processor(model_arguments, sentences)
    if model_arguments.adapter != "none":
        model = adapt(model, processor, model_arguments, training_arguments, checkpoint)
    options = options_of_run(model_arguments, data_arguments, data_arguments.shown_options())
    trainer = build_trainer(model, processor, videos, images, data_arguments, training_arguments, options)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return {}

    results = score_videos(trainer, videos.tested, data_arguments)
    report = {
        "dataset": data_arguments.shown_name,
        "protocol": data_arguments.protocol,
        "splits": describe_results(results),
        "training": {"steps": trained.global_step, **trained.metrics},
    }
    card = {
        "metrics": {
            video_card_key(split, result, data_arguments): result.metrics for split, result in results.items()
        },
        "datasets": [data_arguments.shown_name],
        "pictures": draw_video_pictures(trainer, videos.tested, results, data_arguments),
    }
    image_results: dict[str, EvaluationResult] = {}
    if image_arguments is not None:
        image_results = score_splits(trainer, images.tested, image_arguments)
        report["images"] = {
            "dataset": describe_datasets(image_arguments),
            "protocol": image_arguments.protocol,
            "splits": describe_results(image_results),
            "training_data": {name: asdict(part) for name, part in images.trained.items()},
        }
        card["metrics"] |= {
            card_key(split, result, image_arguments): result.metrics for split, result in image_results.items()
        }
        card["datasets"] += image_arguments.shown_names.values()
        card["training_data"] = describe_parts(images.trained, image_arguments)
        card["pictures"] += draw_pictures(trainer, images.tested, image_results, image_arguments)
    write_json(Path(training_arguments.output_dir) / "metrics.json", report)
    save_or_push(
        trainer,
        base_model=starting_points_on_hub(model_arguments),
        training=describe_data(videos, data_arguments, model.config.takes_clips),
        **card,
    )
    report["submissions"] = write_submissions(trainer, videos.submitted, data_arguments)
    write_json(Path(training_arguments.output_dir) / "metrics.json", report)
    print(closing_words(trainer, [results, image_results], card["pictures"], shown="VIDEO.mp4"))
    for split, path in report["submissions"].items():
        print(f"For the evaluation server, of {split}: {Path(training_arguments.output_dir, path)}")
    return report


if __name__ == "__main__":
    run(main, sys.argv[1:])
