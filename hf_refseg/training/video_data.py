"""The videos of a run: clips, or single frames for a method for images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from peft import PeftModel
from transformers import PreTrainedModel

from ..data.byte_batches import FittedExamples, FittedReferents, FittedStream, keep_bytes
from ..data.clips import ClipCollator, ClipExamples, FrameExamples, VideoExamples
from ..data.examples import RefSegCollator
from ..data.loading import load_refseg
from ..data.prepare import fingerprint_rows
from ..data.video_streams import StreamedClips, StreamedFrames
from ..evaluation.results import EvaluationResult
from ..evaluation.submission import write_submission
from ..evaluation.systems import hash_tensors
from ..modeling.inference_refseg import VideoWindow, segment_video
from ..modeling.processing_refseg import RefSegProcessor
from ..visualization import draw_strips
from .arguments import RefSegTrainingArguments
from .data_arguments import VideoDataArguments, with_used_splits
from .run_data import Results, RunData, RunExamples, describe_results
from .streaming import load_with_stream, place_in_stream
from .trainer import RefSegTrainer

# Videos of a stream that are looked at, where masks have to be there.
LOOKED_AT = 16


@dataclass(frozen=True)
class VideoData(RunData):
    """Videos to train on, and to score.

    Attributes:
        arguments: what named them.
        train: the videos to train on.
        evaluated: those that are scored during training; None = none.
        tested: those that are scored in the end, by split.
        submitted: those without masks, whose predictions are written for an evaluation server, by split.
    """

    arguments: VideoDataArguments
    train: Dataset | IterableDataset
    evaluated: Dataset | None
    tested: dict[str, Dataset]
    submitted: dict[str, Dataset]

    shown = "VIDEO.mp4"
    titles = ("video_predictions", "worst_and_best_videos")
    draw_cases = staticmethod(draw_strips)

    @classmethod
    def load(cls, arguments: VideoDataArguments) -> VideoData:
        """Raises ValueError for a split that does not exist or has no masks, and what `load_refseg` raises."""
        options = with_used_splits(arguments.load_options(), arguments)
        if arguments.streaming:
            splits = load_with_stream(arguments.dataset_name, options, arguments)
        else:
            splits = load_refseg(arguments.dataset_name, **options)
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
                    f"The split '{name}' of {arguments.dataset_name} has no masks: nothing can be trained on it or "
                    "scored."
                )
        return cls(
            arguments,
            train=splits[arguments.train_split],
            evaluated=None if arguments.eval_split is None else splits[arguments.eval_split],
            tested={name: splits[name] for name in tested if name in annotated},
            submitted={name: splits[name] for name in tested if name not in annotated},
        )

    def sentences(self) -> Iterator[str]:
        for row in self.train.select_columns("referents"):
            for referent in row["referents"]:
                yield from (sentence["raw"] for sentence in referent["sentences"])

    def examples(
        self, model: PreTrainedModel | PeftModel, processor: RefSegProcessor, training: RefSegTrainingArguments
    ) -> RunExamples:
        """Clips for a method that takes them, single frames for another one."""
        evaluated = {} if self.evaluated is None else {self.arguments.shown_name: self.evaluated}
        by_bytes, image_processor = keep_bytes(processor), processor.image_processor
        read: Callable[..., ClipExamples | FrameExamples]
        stream: Callable[..., StreamedClips | StreamedFrames]
        collator: ClipCollator | RefSegCollator
        if model.config.takes_clips:
            read = partial(ClipExamples, num_frames=self.arguments.num_frames)
            stream = partial(StreamedClips, num_frames=self.arguments.num_frames)
            collator = ClipCollator(by_bytes)
        else:
            read, stream, collator = FrameExamples, StreamedFrames, RefSegCollator(by_bytes)
        drawn = {name: read(rows, seed=training.seed) for name, rows in evaluated.items()}
        if isinstance(self.train, Dataset):
            train = FittedReferents(read(self.train, seed=training.seed), image_processor)
        else:
            train = FittedStream(stream(self.train, **place_in_stream(training)), image_processor)
        return RunExamples(
            train=train,
            evaluated={name: FittedExamples(clips, image_processor) for name, clips in drawn.items()},
            drawn=list(drawn.values()),
            collator=collator,
        )

    @property
    def window(self) -> VideoWindow:
        return self.arguments.video_window()

    @property
    def most_tested(self) -> int | None:
        return self.arguments.max_test_videos

    def report(self, results: Results) -> dict[str, Any]:
        return {
            "dataset": self.arguments.shown_name,
            "protocol": self.arguments.protocol,
            "splits": describe_results(results),
        }

    def card(self, model: PreTrainedModel | PeftModel, results: Results) -> dict[str, Any]:
        name = self.arguments.shown_name
        how = f"clips of {self.arguments.num_frames} frames" if model.config.takes_clips else "single frames"
        number = f"{len(self.train)} of {name}" if isinstance(self.train, Dataset) else name
        training = {"videos": f"{number}, as {how}"}
        if self.arguments.image_data:
            training["steps on images"] = f"{100 * self.arguments.image_share:.0f} %"
        return {
            **self.card_scores(results),
            "datasets": [name],
            "training": training,
        }

    def card_key(self, split: str, result: EvaluationResult) -> tuple[str, str, str]:
        label = split if self.arguments.max_test_videos is None else f"{split} (first {result.examples} videos)"
        return self.arguments.shown_name, label, self.arguments.protocol

    def submit(self, trainer: RefSegTrainer) -> dict[str, dict[str, str]]:
        """Writes submission.zip for each split without masks; its places in the output folder, by split.

        Each lies in a folder of its own for all that its masks depend on, so that what another model said is never
        used.
        """
        if not self.submitted:
            return {"submissions": {}}
        model, processor, window = trainer.model, trainer.processing_class, self.window
        weights, paths = hash_tensors(model.state_dict()), {}
        for split, videos in self.submitted.items():
            shown = len(videos) if self.most_tested is None else min(self.most_tested, len(videos))
            inputs = {
                "dataset": self.arguments.shown_name,
                "split": split,
                "videos": shown,
                "rows": fingerprint_rows({split: videos}),
                "weights": weights,
                "image_processor": processor.image_processor.to_dict(),
                **asdict(window),
            }
            digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
            folder = Path(trainer.args.output_dir) / f"submission_{split}_{digest[:8]}"
            segment = partial(segment_video, model, processor, window=window)
            archive = write_submission(VideoExamples(videos.select(range(shown))), segment, folder, inputs)
            paths[split] = archive.relative_to(trainer.args.output_dir).as_posix()
        return {"submissions": paths}


def is_annotated(videos: Dataset | IterableDataset) -> bool:
    """Whether a split has masks, of a stream by its first videos; data sets publish all masks of a split, or none."""
    rows = videos.select_columns("referents")
    if not isinstance(rows, Dataset):
        rows = rows.take(LOOKED_AT)
    return any(referent["annotated_frames"] for row in rows for referent in row["referents"])
