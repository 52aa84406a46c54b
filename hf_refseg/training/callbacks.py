"""Callbacks of training: epochs for the examples, loss weights that change, and pictures of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..evaluation.protocols import mask_counts, per_sample_iou
from ..visualization import ComparisonRow, draw_comparison


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
    """Draws the same few examples at each evaluation and checkpoint: image, sentence, truth and prediction.

    Writes `output_dir/pictures/step-<step>.png`, in the first process only.

    Args:
        processor: the model's processor.
        items: items of `SentenceExamples`.
    """

    def __init__(self, processor: Any, items: Sequence[dict[str, Any]]) -> None:
        self.processor = processor
        self.items = list(items)
        self.last_step = -1

    def on_evaluate(self, args, state, control, model: nn.Module, **kwargs) -> None:
        self._draw(args, state, model)

    def on_save(self, args, state, control, model: nn.Module, **kwargs) -> None:
        self._draw(args, state, model)

    def _draw(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        if not self.items or not state.is_world_process_zero or state.global_step == self.last_step:
            return
        self.last_step = state.global_step
        # Trainer puts the model back into training mode at the start of every step.
        model.eval()
        rows = [predict_item(model, self.processor, item) for item in self.items]
        path = Path(args.output_dir) / "pictures" / f"step-{state.global_step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_comparison(rows).save(path)


@torch.inference_mode()
def predict_item(model: nn.Module, processor: Any, item: dict[str, Any]) -> ComparisonRow:
    """Predicts an item of `SentenceExamples` at its image's own size; the model has to be in evaluation mode."""
    parameter = next(model.parameters())
    inputs = processor(images=item["image"], text=item["text"], return_tensors="pt").to(parameter.device)
    outputs = model(**{**inputs, "pixel_values": inputs["pixel_values"].to(parameter.dtype)})
    prediction = processor.post_process_referring_segmentation(outputs, target_sizes=[item["mask"].shape])[0]["mask"]
    intersection, union = mask_counts(prediction.cpu(), item["mask"])
    return ComparisonRow(
        image=item["image"],
        text=item["text"],
        truth=item["mask"],
        prediction=prediction.cpu().numpy(),
        iou=float(per_sample_iou([intersection], [union])[0]),
    )
