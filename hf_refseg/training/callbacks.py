"""Callbacks of training: epochs for the examples, loss weights that change, and pictures of predictions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..evaluation.protocols import mask_counts, per_sample_iou
from ..files import write_picture
from ..modeling.inference_refseg import WHOLE_VIDEO, segment_image, segment_video
from ..visualization import ComparisonRow, ComparisonStrip, StripFrame, draw_comparison, draw_strips, spread

# Seconds of training after which there are pictures of it.
FIRST_PICTURES = 30.0


class HasEpoch(Protocol):
    """What depends on the number of the epoch, counted from 0."""

    def set_epoch(self, epoch: int) -> None: ...


class EpochSetter(TrainerCallback):
    """Tells examples and sampler which epoch begins, also where a run resumes in the middle of one.

    Trainer itself does that only on some of its paths (not for the examples in several processes or after a resume).
    """

    def __init__(self, *targets: HasEpoch) -> None:
        self.targets = targets

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        for target in self.targets:
            target.set_epoch(int(state.epoch or 0))


class LossWeightSchedule(TrainerCallback):
    """Changes the weight of one loss linearly from `start` to `end` during a part of the training.

    The weight depends on the number of the step alone, so a run that resumes goes on with the right one.

    Args:
        name: a key of the model's `loss_weights`.
        start: the weight up to `start_fraction` of all steps.
        end: the weight from `end_fraction` on.
        start_fraction: in [0, 1].
        end_fraction: in [0, 1], not before `start_fraction`.

    Raises:
        ValueError: fractions out of order; when training begins, a name that the model does not have.
    """

    def __init__(
        self, name: str, start: float, end: float, start_fraction: float = 0.0, end_fraction: float = 1.0
    ) -> None:
        if not 0 <= start_fraction <= end_fraction <= 1:
            raise ValueError(
                f"Schedule of loss weight '{name}': 0 <= start_fraction <= end_fraction <= 1 is needed, got "
                f"{start_fraction} and {end_fraction}."
            )
        self.name = name
        self.start = start
        self.end = end
        self.start_fraction = start_fraction
        self.end_fraction = end_fraction

    def weight_at(self, fraction: float) -> float:
        """The weight after this fraction of all steps."""
        if fraction >= self.end_fraction:
            return self.end
        if fraction <= self.start_fraction:
            return self.start
        progress = (fraction - self.start_fraction) / (self.end_fraction - self.start_fraction)
        return self.start + progress * (self.end - self.start)

    def on_train_begin(self, args, state, control, model: nn.Module, **kwargs) -> None:
        if self.name not in model.loss_weights:
            raise ValueError(
                f"loss_weight_schedules: the model has no loss '{self.name}', only {', '.join(model.loss_weights)}."
            )

    def on_step_begin(self, args, state: TrainerState, control, model: nn.Module, **kwargs) -> None:
        model.loss_weights[self.name] = self.weight_at(state.global_step / state.max_steps)


class PredictionPictures(TrainerCallback):
    """Draws the same few examples: image, sentence, truth and prediction.

    That is at each evaluation and checkpoint, and once as soon as the training has gone on for `FIRST_PICTURES`
    seconds, so that nobody has to wait for the first ones. Writes `output_dir/pictures/step-<step>.png`, of clips
    `step-<step>-clips.png`, in the first process only.

    Args:
        processor: the model's processor.
        items: items of `SentenceExamples`, or clips of `ClipExamples`, or some of both.
    """

    def __init__(self, processor: Any, items: Sequence[dict[str, Any]]) -> None:
        self.processor = processor
        self.clips = [item for item in items if "frames" in item]
        self.items = [item for item in items if "frames" not in item]
        self.last_step = -1
        self.start = math.inf

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.start = time.monotonic()

    def on_step_end(self, args, state, control, model: nn.Module, **kwargs) -> None:
        if self.last_step < 0 and time.monotonic() - self.start >= FIRST_PICTURES:
            self._draw(args, state, model)

    def on_evaluate(self, args, state, control, model: nn.Module, **kwargs) -> None:
        self._draw(args, state, model)

    def on_save(self, args, state, control, model: nn.Module, **kwargs) -> None:
        self._draw(args, state, model)

    def _draw(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        if not state.is_world_process_zero or state.global_step == self.last_step:
            return
        self.last_step = state.global_step
        if not self.items and not self.clips:
            return
        folder = Path(args.output_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        if self.items:
            rows = [predict_item(model, self.processor, item) for item in self.items]
            write_picture(folder / f"step-{state.global_step}.png", draw_comparison(rows))
        if self.clips:
            strips = [predict_clip(model, self.processor, clip) for clip in self.clips]
            write_picture(folder / f"step-{state.global_step}-clips.png", draw_strips(strips))


def predict_item(model: nn.Module, processor: Any, item: dict[str, Any]) -> ComparisonRow:
    """Predicts an item of `SentenceExamples` at its image's own size."""
    (answer,) = segment_image(model, processor, item["image"], [item["text"]])
    return ComparisonRow(
        image=item["image"],
        text=item["text"],
        truth=item["mask"],
        prediction=answer.mask.numpy(),
        iou=_iou(answer.mask, item["mask"]),
    )


def predict_clip(model: nn.Module, processor: Any, clip: dict[str, Any]) -> ComparisonStrip:
    """Predicts an item of `ClipExamples`, up to four annotated frames of which are shown, with their mean IoU."""
    answers = segment_video(model, processor, clip["frames"], [clip["text"]], window=WHOLE_VIDEO)
    masks = [answer.mask for (answer,) in answers]
    annotated = np.flatnonzero(clip["annotated"]).tolist()
    mean_iou = np.mean([_iou(masks[index], clip["masks"][index]) for index in annotated])
    return ComparisonStrip(
        clip["text"],
        f"mean IoU {100 * mean_iou:.1f} %",
        [StripFrame(clip["frames"][index], clip["masks"][index], masks[index].numpy()) for index in spread(annotated)],
    )


def _iou(prediction: Tensor, truth: NDArray[np.bool_]) -> float:
    intersection, union = mask_counts(prediction, truth)
    return float(per_sample_iou([intersection], [union])[0])
