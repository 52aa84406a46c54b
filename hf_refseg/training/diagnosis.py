"""Why a model does not learn: the first steps of a run with what happens inside the model, and what is wrong there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..files import write_json
from ..hub.model_card import plain_model
from ..messages import align
from .arguments import ModelArguments, RefSegTrainingArguments
from .measurement import PARTS, Foreground, Measurement, measure
from .trainer import RefSegTrainer

DIAGNOSIS = "diagnosis.json"
# From when on something is out of proportion.
LARGE_LOSS_SHARE, SMALL_LOSS_SHARE = 0.95, 0.001
SMALL_PART_SHARE = 0.01
LARGE_GRADIENT = 10.0  # Median norm over `max_grad_norm`.
LARGE_MASKS, LARGE_MASKS_RATIO = 0.5, 3.0  # Share of the pixels, and over that of the labels.
APART = 1.1  # Probability on targets over that elsewhere.


@dataclass(frozen=True)
class Diagnosis:
    """What is in diagnosis.json.

    Attributes:
        measurements: before the first step, and after the last one, on the batch of the first.
        gradient_norms: of every step, before clipping.
        max_grad_norm: where they are clipped; 0 = nowhere.
        mask_prior: that of the configuration.
        findings: what is out of proportion, a sentence each.
    """

    measurements: list[Measurement]
    gradient_norms: list[float]
    max_grad_norm: float
    mask_prior: float | None
    findings: list[str]


class DiagnosingTrainer(RefSegTrainer):
    """Measures the model before the first step, ends after `diagnosis_steps` and measures again; saves nothing.

    The steps are the first ones of the whole run: schedules go by its length.

    Raises:
        ValueError: several processes, fp16, DeepSpeed or FSDP.
    """

    diagnoses = True

    def __init__(self, **options: Any) -> None:
        args = options["args"]
        super().__init__(**{**options, "callbacks": [*options["callbacks"], EndAfter(args.diagnosis_steps)]})
        if args.world_size > 1 or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError("diagnose looks into the model of one process: start one, without DeepSpeed or FSDP.")
        if args.fp16:
            raise ValueError("diagnose measures gradients as they are, which fp16 scales: give --fp16 false.")
        self.first_batch: dict[str, Any] = {}
        self.measurements: list[Measurement] = []
        self.gradient_norms: list[float] = []

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        if not self.measurements:
            self.first_batch = self._prepare_inputs(inputs)
            self.measure()
        return super().training_step(model, inputs, *args, **kwargs)

    # The norm is logged at some steps alone.
    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> float | Tensor | None:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.gradient_norms.append(float(norm))
        return norm

    def measure(self) -> None:
        """Adds a measurement of the model as it is now, on the first batch."""
        threshold = self.processing_class.image_processor.mask_threshold
        measured = measure(self.model, self.first_batch, self.state.global_step, threshold, self.args.seed)
        self.measurements.append(measured)


class EndAfter(TrainerCallback):
    """Ends a training after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        control.should_training_stop |= state.global_step >= self.steps


def check_diagnosis(model: ModelArguments, training: RefSegTrainingArguments) -> None:
    """Raises ValueError where a diagnosis would have to save a model, or to go on with a training."""
    if model.adapter != "none" and not model.model_name_or_path:
        raise ValueError(
            "diagnose saves no model, but an adapter needs that of a new model saved: leave adapter out, or name a "
            "model in model_name_or_path."
        )
    if training.resume_from_checkpoint not in ("auto", "never", None):
        raise ValueError(
            "diagnose resumes no training: leave resume_from_checkpoint out. The value of model_name_or_path may be a "
            "checkpoint."
        )


def diagnose(trainer: DiagnosingTrainer) -> dict[str, Any]:
    """Trains a few steps, writes diagnosis.json into the output folder and prints it; returns what is in the file."""
    trainer.train()
    trainer.measure()
    config, limit = plain_model(trainer.model).config, trainer.args.max_grad_norm
    findings = list(find_faults(trainer.measurements[-1], trainer.gradient_norms, limit, config.mask_prior))
    diagnosis = Diagnosis(trainer.measurements, trainer.gradient_norms, limit, config.mask_prior, findings)
    path = Path(trainer.args.output_dir) / DIAGNOSIS
    write_json(path, asdict(diagnosis))
    print(describe_diagnosis(diagnosis))
    print(f"\nAll numbers: {path}")
    return asdict(diagnosis)


def find_faults(
    measured: Measurement, gradient_norms: Sequence[float], max_grad_norm: float, mask_prior: float | None
) -> Iterator[str]:
    """What is out of proportion, a sentence each.

    Args:
        measured: the last measurement.
        gradient_norms: of every step, before clipping.
        max_grad_norm: where they are clipped; 0 = nowhere.
        mask_prior: that of the model's configuration.
    """
    yield from find_mask_faults(measured.foreground, mask_prior)
    weighted = {name: loss for name, loss in measured.losses.items() if loss.weight}
    for name, loss in weighted.items():
        if len(weighted) > 1 and loss.share >= LARGE_LOSS_SHARE:
            yield (
                f"{name} has {percent(loss.share)} of the gradient: the other losses hardly count. Its weight is "
                f"{loss.weight:g}."
            )
        elif loss.share <= SMALL_LOSS_SHARE:
            yield f"{name} has {percent(loss.share)} of the gradient, with the weight {loss.weight:g}."
    for part, norm in measured.parts.items():
        if norm is not None and norm <= SMALL_PART_SHARE * measured.gradient:
            share = norm / measured.gradient if measured.gradient else 0.0
            yield f"The {part} gets {percent(share)} of the gradient: it learns next to nothing from the losses."
    idle = [block.name for block in measured.blocks if block.gradient == 0]
    if idle:
        yield f"No gradient reaches {', '.join(idle)}, which nothing uses in this batch or which is cut off."
    typical = statistics.median(gradient_norms) if gradient_norms else 0.0
    if max_grad_norm and typical >= LARGE_GRADIENT * max_grad_norm:
        yield (
            f"Clipping leaves {percent(max_grad_norm / typical)} of the gradient in the median step: its norm is "
            f"{typical:.3g}, max_grad_norm {max_grad_norm:g}."
        )


def find_mask_faults(foreground: Foreground, mask_prior: float | None) -> Iterator[str]:
    """What is wrong with the masks that a model predicts."""
    each, labeled = foreground, percent(foreground.labeled)
    if each.predicted == 0 and each.labeled > 0:
        yield (
            f"It predicts no pixel: the foreground probability is {each.probability:.2g} on average and at most "
            f"{each.largest:.2g}, {labeled} of the labeled pixels are foreground. {advice(mask_prior)}"
        )
    if each.predicted >= max(LARGE_MASKS, LARGE_MASKS_RATIO * each.labeled):
        yield (
            f"It predicts {percent(each.predicted)} of the pixels, {labeled} of the labeled ones are foreground. "
            f"{advice(mask_prior)}"
        )
    if each.on_target is not None and each.elsewhere and each.on_target < APART * each.elsewhere:
        yield (
            f"It does not tell targets from the rest yet: the foreground probability is {each.on_target:.2g} on "
            f"targets and {each.elsewhere:.2g} elsewhere."
        )
    if each.labeled == 0:
        yield "No pixel of the batch is foreground, so that what is predicted tells nothing: look at the data."


def advice(mask_prior: float | None) -> str:
    """What to do about masks of a wrong size."""
    if mask_prior is None:
        return "See mask_prior in the configuration: it starts the masks at the share of foreground in the labels."
    return f"The masks started at mask_prior {mask_prior:g}; more steps (diagnosis_steps) tell whether they leave it."


def describe_diagnosis(diagnosis: Diagnosis) -> str:
    """The tables of each measurement, what was clipped, and the findings."""
    found = diagnosis.findings or ["Nothing is out of proportion."]
    parts = [describe_measurement(each, diagnosis.max_grad_norm) for each in diagnosis.measurements]
    return "\n\n".join([*parts, describe_clipping(diagnosis), "\n".join(found)])


def describe_clipping(diagnosis: Diagnosis) -> str:
    norms, limit = diagnosis.gradient_norms, diagnosis.max_grad_norm
    median = (
        f"norm of the gradient in {len(norms)} steps: median {statistics.median(norms):.3g}, largest {max(norms):.3g}"
    )
    if not limit:
        return f"{median}, never clipped (max_grad_norm 0)"
    return f"{median}, clipped to {limit:g} in {sum(norm > limit for norm in norms)} of them"


def describe_measurement(measured: Measurement, max_grad_norm: float) -> str:
    """Three tables: blocks, losses, and pixels."""
    blocks = [
        (each.name, each.part, number(each.parameters), number(each.activations), number(each.gradient))
        for each in measured.blocks
    ]
    losses = [
        (
            name,
            *map(number, (each.value, each.weight, each.gradient)),
            percent(each.share),
            *(number(each.parts[part]) for part in PARTS),
        )
        for name, each in measured.losses.items()
    ]
    whole = ("all", "", "", number(measured.gradient), "", *(number(measured.parts[part]) for part in PARTS))
    kept = min(1.0, max_grad_norm / measured.gradient) if max_grad_norm and measured.gradient else 1.0
    pixels = measured.foreground
    return "\n".join(
        [
            f"Step {measured.step}",
            align([("block", "part", "parameters", "activations", "gradient"), *blocks]),
            "",
            align([("loss", "value", "weight", "gradient", "share", *PARTS), *losses, whole]),
            f"max_grad_norm {max_grad_norm:g}: {percent(kept)} of the gradient is left",
            "",
            f"foreground: {percent(pixels.labeled)} of the labels, {percent(pixels.predicted)} predicted, probability "
            f"{pixels.probability:.3g} (targets {number(pixels.on_target)}, elsewhere {number(pixels.elsewhere)}, "
            f"largest {pixels.largest:.3g})",
        ]
    )


def number(value: float | None) -> str:
    """Three digits; a hyphen where there is none."""
    return "-" if value is None else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
