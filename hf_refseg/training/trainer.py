"""RefSegTrainer: transformers' Trainer for referring segmentation, with streaming scores and safe resuming."""

from __future__ import annotations

import logging
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub import HfApi
from peft import PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, HubStrategy, SaveStrategy, TrainOutput
from transformers.utils import PushInProgress

from ..data.clips import NOT_ANNOTATED, ClipExamples, FrameExamples
from ..data.examples import ReferentExamples, RefSegCollator
from ..evaluation.protocols import scores_from_counts
from ..files import OutputError, require_writable, writing_into
from ..hub.model_card import plain_model, write_model_card
from ..modeling.modeling_outputs_refseg import NotFiniteError, ReferringSegmentationOutput, require_finite
from ..modeling.precision_refseg import at_least_float32
from .adapters import check_kind, describe_adapter, load_adapter_weights
from .arguments import RefSegTrainingArguments
from .callbacks import EpochSetter, LossWeightSchedule
from .checkpoints import (
    CHECKSUMS,
    check_checksums,
    find_checkpoint_fault,
    find_state_fault,
    last_complete_checkpoint,
    write_checksums,
)
from .mixed_batches import MixedExamples, MixedSampler
from .optimization import decay_parameter_names, synchronize_batch_norm, train_first_text_layers
from .run_options import (
    check_same_options,
    given_fields,
    given_options,
    read_run_options,
    write_local_options,
    write_run_options,
)

logger = logging.getLogger(__name__)

# The protocol whose pixel counts need no more than logits and labels at the model's input size.
TRAINING_PROTOCOL = "lavt"
TrainingExamples = ReferentExamples | ClipExamples | FrameExamples | MixedExamples
# What of an output folder is never uploaded: Trainer's own list, and its pickle of the arguments.
NOT_UPLOADED = ["_*", "checkpoint-*", TRAINING_ARGS_NAME]
# Files of a checkpoint that going on needs, but the model does not, and what would be wrong of other weights; the card
# is that of the output folder.
TRAINING_STATE = (
    "*.pt",
    "*.pth",
    "*_fsdp_*",
    "optimizer_*",
    "global_step*",
    "trainer_state.json",
    CHECKSUMS,
    "README.md",
)


class RefSegTrainer(Trainer):
    """Trains and scores any model that follows the library's contract.

    - The loss components are logged as `loss_<name>` and `eval_loss_<name>`: means per sample over all accumulation
      steps and processes.
    - Evaluation keeps two numbers per sentence, the pixels of intersection and union at the model's input size, and
      reports scores like those of the `lavt` protocol: `eval_oIoU`, `eval_mIoU`, `eval_Pr@0.5` ... in percent, with
      the processor's threshold, and with the padding of images that are padded. Of a clip the pixels of all annotated
      frames count together. A data set that does not divide evenly among processes is scored exactly; `eval_loss`
      then counts a few sentences twice.
    - The order of the referents depends on seed and epoch alone. The last batch of an epoch is left out where it is
      not complete. Of `MixedExamples` each step sees images alone or clips alone.
    - Neither the Hub's token nor a path of this machine is in a checkpoint or in what is uploaded, but for the base
      model of an adapter, where that is a folder.
    - A loss or logits that are NaN or infinite end the training with `NotFiniteError`, before they reach the weights;
      in an evaluation logits do.

    Args:
        model: the model, or one with an adapter (`add_adapter`): checkpoints and results then hold the adapter alone.
        args: the arguments.
        processing_class: the model's processor; it is saved along with the model.
        train_dataset: the referents.
        eval_dataset: `SentenceExamples` or clips, or a dictionary of such data sets.
        callbacks: added to those of the trainer.
        data_collator: makes a batch of items; by default the processor does.
        run_options: what else the training depends on, such as the data, as a mapping of mappings. It is written into
            each checkpoint and beside the final weights, along with the options of `args`, of the model and of the
            processor that differ from their defaults.
        kwargs: further arguments of `Trainer`.

    Raises:
        ValueError: an option of `args` does not fit the model.
        OutputError: `output_dir` cannot be written; in `train`, the disk is full. Finished checkpoints stay.
    """

    args: RefSegTrainingArguments

    def __init__(
        self,
        model: nn.Module,
        args: RefSegTrainingArguments,
        processing_class: ProcessorMixin,
        train_dataset: TrainingExamples | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        data_collator: Callable[[list], Any] | None = None,
        run_options: Mapping[str, Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs. Start one for each: torchrun --nproc_per_node {args.n_gpu} "
                "SCRIPT; or name the one to use in CUDA_VISIBLE_DEVICES."
            )
        if args.should_save:
            require_writable(args.output_dir)
        check_kind(args.output_dir, adapter=isinstance(model, PeftModel))
        if isinstance(model, PeftModel):
            _check_adapter_arguments(model, args)
        plain_model(model).config.check_text_length(processing_class.max_text_length)
        if args.text_layers_trained is not None:
            train_first_text_layers(model.text_encoder, args.text_layers_trained)
        schedules = [LossWeightSchedule(name, **how) for name, how in (args.loss_weight_schedules or {}).items()]
        super().__init__(
            model=synchronize_batch_norm(model, args.world_size, args.device),
            args=args,
            data_collator=data_collator or RefSegCollator(processing_class),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[*schedules, *callbacks],
            **kwargs,
        )
        threshold = processing_class.image_processor.mask_threshold
        self.logit_threshold = math.log(threshold / (1 - threshold))
        self.train_components = ComponentMeans()
        self.eval_components = ComponentMeans()
        self.eval_counts: list[Tensor] = []
        self.run_options = dict(run_options or {})
        # How many steps a training had been planned for that went on from a checkpoint, and until which step.
        self.earlier_plans: list[dict[str, int]] = []

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As `Trainer.train`; `True` resumes from the newest complete checkpoint in `output_dir`.

        A checkpoint that is the end of this training is loaded, or the best one if `load_best_model_at_end` says so,
        and nothing is trained. A training goes on with the options of before, save those that say how long it is, what
        is logged, scored and saved, and where (`run_options.MAY_CHANGE`).

        Raises:
            ValueError: `True`, and there is no complete checkpoint; a checkpoint that is not complete, that was
                trained with other options, or for as many steps as this training, or more, but with a schedule of
                others.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
        if resume_from_checkpoint:
            if self._holds_all_weights() and (fault := find_checkpoint_fault(resume_from_checkpoint)) is not None:
                raise ValueError(
                    f"{resume_from_checkpoint} is no complete checkpoint: {fault}. Name another one, or begin anew "
                    "with resume_from_checkpoint=never."
                )
            self._continue_run(resume_from_checkpoint)
            if (state := finished_state(self.args, resume_from_checkpoint)) is not None:
                return self._load_finished(resume_from_checkpoint, state)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _continue_run(self, checkpoint: str) -> None:
        """Compares the options with those of the checkpoint, and takes over its plans."""
        before = read_run_options(checkpoint)
        if before is None:
            logger.warning(f"{checkpoint} does not say what options it was trained with: they are not compared.")
            return
        plans = before.pop("earlier_plans", [])
        check_same_options(checkpoint, before, self._all_options())
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        self.earlier_plans = [*plans, {"until_step": state.global_step, "steps": state.max_steps}]

    def _all_options(self) -> dict[str, Any]:
        """What the training depends on, as far as it differs from the defaults."""
        training = RefSegTrainingArguments.to_dict(self.args)
        return {
            **self.run_options,
            "training": {name: training[name] for name in given_options(self.args)}
            | {"referents per step": self.get_total_train_batch_size(self.args)},
            "config": given_fields(plain_model(self.model).config),
            "processor": {
                "size": dict(self.processing_class.image_processor.size),
                "max_text_length": self.processing_class.max_text_length,
            },
        }

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with writing_into(output_dir or self.args.output_dir):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder, options = Path(output_dir or self.args.output_dir), self._all_options()
            # Trainer's pickle of all arguments, the token of the Hub among them; nothing reads it.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_run_options(folder, {**options, "earlier_plans": self._other_plans()})
            write_local_options(self.args.output_dir, options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in Trainer, whose own would pickle the arguments anew and upload them."""
        args, state, running = self.args, self.state, self.push_in_progress
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if running is not None and not running.is_done() and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, state, self.control)
        kept = shutil.ignore_patterns(*TRAINING_STATE)
        shutil.copytree(checkpoint_folder, args.output_dir, ignore=kept, dirs_exist_ok=True)
        passed = (
            f"step {state.global_step}" if args.save_strategy == SaveStrategy.STEPS else f"epoch {int(state.epoch)}"
        )
        upload = partial(
            HfApi(library_name="hf_refseg").upload_folder,
            repo_id=self.hub_model_id,
            commit_message=f"Training in progress, {passed}",
            token=args.hub_token,
            revision=args.hub_revision,
            run_as_future=True,
        )
        jobs = [upload(folder_path=args.output_dir, ignore_patterns=NOT_UPLOADED)]
        places = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name,
        }
        if args.hub_strategy in places:
            jobs.append(upload(folder_path=checkpoint_folder, path_in_repo=places[args.hub_strategy]))
        if running is not None and not running.is_done():
            jobs = [*running.jobs, *jobs]
        self.push_in_progress = PushInProgress(jobs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        progress = super()._init_training_state(*args, **kwargs)
        self.state = PortableState(**vars(self.state))
        self.state.best_model_checkpoint = self._best_checkpoint(self.state)
        return progress

    def _best_checkpoint(self, state: TrainerState) -> str | None:
        """The folder of the best checkpoint, which is not recorded: the output folder may have moved since."""
        folder = Path(self.args.output_dir, f"checkpoint-{state.best_global_step}")
        return str(folder) if folder.is_dir() else None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        # What an earlier run left there would pass for files of this checkpoint if a kill cut it off.
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        try:
            with writing_into(folder):
                super()._save_checkpoint(model, trial)
        except OutputError:
            # It is finished where only what follows it had no room, such as its copy for the Hub.
            if self.args.should_save and find_state_fault(folder / "trainer_state.json") is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # All but trainer_state.json is there now, once every process is here.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_checksums(output_dir)

    def _other_plans(self) -> list[dict[str, int]]:
        """The earlier plans but those that the next one merely repeats."""
        following = [*(plan["steps"] for plan in self.earlier_plans[1:]), self.state.max_steps]
        return [plan for plan, steps in zip(self.earlier_plans, following, strict=False) if plan["steps"] != steps]

    def _load_finished(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        print(f"{checkpoint} is the end of this training: it is loaded, nothing is trained.")
        if self.args.load_best_model_at_end and state.best_global_step:
            checkpoint = str(Path(self.args.output_dir, f"checkpoint-{state.best_global_step}"))
            fault = find_checkpoint_fault(checkpoint)
            if fault is not None:
                raise ValueError(
                    f"{checkpoint}, the best checkpoint of this training, is not complete: {fault}. Put it back, or "
                    "leave load_best_model_at_end out to go on from the last one."
                )
        load_weights(self.model, checkpoint)
        self.state = state
        return TrainOutput(state.global_step, math.nan, {})

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.args.learning_rate_drops is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            steps_per_epoch = len(self._make_sampler(self.train_dataset)) // self.get_total_train_batch_size(self.args)
            milestones = [round(epoch * steps_per_epoch) for epoch in self.args.learning_rate_drops]
            self.lr_scheduler = MultiStepLR(optimizer or self.optimizer, milestones, gamma=0.1)
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decay_parameter_names(model)

    def _get_train_sampler(self, train_dataset: TrainingExamples | None = None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        sampler = self._make_sampler(dataset)
        self.remove_callback(EpochSetter)
        self.add_callback(EpochSetter(dataset, sampler))
        return sampler

    def _make_sampler(self, dataset: TrainingExamples) -> EpochSampler | MixedSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch_size = self.get_total_train_batch_size(self.args)
        if isinstance(dataset, MixedExamples):
            return MixedSampler(dataset, batch_size, seed)
        return EpochSampler(len(dataset), batch_size, seed)

    # Trainer puts the tensors of a file into the model by their names. Some encoders have other names on disk than in
    # memory (Swin's attention): they would keep their random weights, with no more than a warning.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._holds_all_weights():
            load_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._holds_all_weights():
            check_checksums(self.state.best_model_checkpoint)
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _holds_all_weights(self) -> bool:
        """Whether this process holds the whole model: it is not spread over processes."""
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._require_finite_step(outputs)
        means = self.train_components if model.training else self.eval_components
        means.add(outputs.loss_components, samples=len(inputs["mask_labels"]))
        return (loss, outputs) if return_outputs else loss

    def _require_finite_step(self, outputs: ReferringSegmentationOutput) -> None:
        if outputs.loss.isfinite() & outputs.logits.isfinite().all():
            return
        losses = {"loss": outputs.loss, **outputs.loss_components}
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        raise NotFiniteError(
            f"Step {self.state.global_step + 1}: the loss or the logits are NaN or infinite ({values}), so the "
            "training stops; checkpoints stay as they were. Train again, or on from the weights of one "
            "(model_name_or_path), with a lower learning_rate, with max_grad_norm, or without fp16."
        )

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing: Trainer's estimate, for language models, would take every number of `pixel_values` for a token."""
        return 0

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """Reduces the logits of a batch to pixel counts at once; only the loss is handed on."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        try:
            require_finite(logits=outputs.logits, presence_logits=outputs.presence_logits)
        except NotFiniteError as error:
            raise NotFiniteError(f"Evaluation after step {self.state.global_step}: {error}") from error
        labels, predictions = inputs["mask_labels"], outputs.logits > self.logit_threshold
        if outputs.presence_logits is not None:
            present = outputs.presence_logits > 0
            predictions &= present.view(*present.shape, *[1] * (predictions.ndim - present.ndim))
        annotated = labels != NOT_ANNOTATED
        counts = count_pixels(predictions & annotated, (labels != 0) & annotated)
        # Also drops the sentences that were repeated to fill the last batch of all processes.
        self.eval_counts.append(self.accelerator.gather_for_metrics(counts).cpu())
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        self.eval_counts = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        components = self.eval_components.take(self.accelerator)
        intersections, unions = torch.cat(self.eval_counts).unbind(1)
        scores = scores_from_counts(intersections.numpy(), unions.numpy(), TRAINING_PROTOCOL)
        output.metrics.update({f"{metric_key_prefix}_loss_{name}": value for name, value in components.items()})
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Only the regular entries of training have a plain "loss"; they are made in all processes.
        if "loss" in logs:
            components = self.train_components.take(self.accelerator)
            logs = {**logs, **{f"loss_{name}": value for name, value in components.items()}}
        super().log(logs, start_time)

    def create_model_card(self, model_name: str | None = None, tags: Any = None, **card: Any) -> None:
        """Writes the library's model card, in the place of Trainer's draft; `push_to_hub` calls it.

        Args:
            model_name: ignored, the repository or the folder gives the name.
            tags: ignored, they follow from the model.
            card: further arguments of `write_model_card`, such as `metrics`, `datasets` and `pictures`.
        """
        if not self.is_world_process_zero():
            return
        card["training"] = {**self.describe_training(), **card.get("training", {})}
        write_model_card(self.args.output_dir, model=self.model, repo_id=self.hub_model_id, **card)

    def describe_training(self) -> dict[str, object]:
        """What was really done so far, for the model card; empty before the first step."""
        if self.state.global_step == 0:
            return {}
        args = self.args
        drops = args.learning_rate_drops
        schedule = f"{args.lr_scheduler_type.value} schedule" if drops is None else f"a tenth after epochs {drops}"
        precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
        plans = self._other_plans()
        planned = [f"until step {plan['until_step']} that of {plan['steps']} steps" for plan in plans]
        return {
            "steps": f"{self.state.global_step} of {self.state.max_steps}",
            **({"schedule went by": f"{', '.join(planned)}, then that of {self.state.max_steps}"} if plans else {}),
            "epochs": round(self.state.epoch, 2),
            "batch": f"{self.get_total_train_batch_size(args)} referents ({args.world_size} processes, "
            f"{args.gradient_accumulation_steps} accumulation steps)",
            "optimizer": f"{args.optim.value}, learning rate {args.learning_rate:g}, weight decay "
            f"{args.weight_decay:g}, {schedule}",
            **self._describe_trained(),
            "precision": precision,
            "attention": self.model.config._attn_implementation,
            "seed": args.seed,
        }

    def _describe_trained(self) -> dict[str, object]:
        if isinstance(self.model, PeftModel):
            return {"trained": describe_adapter(self.model.peft_config["default"])}
        layers = self.args.text_layers_trained
        return {"text layers trained": "all" if layers is None else layers}


class PortableState(TrainerState):
    """Trainer's state, whose file names no folder of this machine."""

    def save_to_json(self, json_path: str) -> None:
        """As in transformers, without the path of the best checkpoint: `best_global_step` tells which one it is."""
        TrainerState(**{**vars(self), "best_model_checkpoint": None}).save_to_json(json_path)


class EpochSampler(Sampler[int]):
    """A random order of all indices per epoch that depends on seed and epoch alone, cut to whole batches.

    Args:
        length: number of items.
        batch_size: items per step, over all processes and accumulation steps.
        seed: any integer.

    Raises:
        ValueError: fewer items than one batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        if length < batch_size:
            raise ValueError(
                f"The training data has {length} referents, fewer than one batch of {batch_size}: lower "
                "per_device_train_batch_size, or total_train_batch_size."
            )
        self.length = length
        self.used = length // batch_size * batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.used

    def __iter__(self) -> Iterator[int]:
        drawn = random.Random(f"{self.seed}-{self.epoch}").getrandbits(63)
        generator = torch.Generator().manual_seed(drawn)
        yield from torch.randperm(self.length, generator=generator)[: self.used].tolist()


class ComponentMeans:
    """Running means of named scalars over samples, kept on their device so that no step waits for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.samples = 0

    def add(self, components: dict[str, Tensor], samples: int) -> None:
        """`components`: scalars, each a mean over `samples`."""
        for name, value in components.items():
            self.sums[name] = self.sums.get(name, 0) + at_least_float32(value.detach()) * samples
        self.samples += samples

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, which all have to call it; starts again from nothing."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        totals = accelerator.reduce(torch.cat([sums, sums.new_tensor([self.samples])]), "sum").tolist()
        self.sums, self.samples = {}, 0
        return {name: total / totals[-1] for name, total in zip(names, totals[:-1], strict=True)}


def load_weights(model: PreTrainedModel | PeftModel, folder: str | PathLike[str]) -> None:
    """Puts the weights that `save_pretrained` wrote into a model of the same architecture; those of an adapter alike.

    Raises:
        RuntimeError: a tensor is missing, of another shape or not the model's.
        ValueError: an adapter for another base model; an adapter for a model without one, or the other way round.
    """
    check_kind(folder, adapter=isinstance(model, PeftModel))
    if isinstance(model, PeftModel):
        load_adapter_weights(model, folder)
        return
    saved, report = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    if report["missing_keys"]:
        raise RuntimeError(f"{folder} lacks the weight {min(report['missing_keys'])}: save or copy it again.")
    model.load_state_dict(saved.state_dict())


def finished_state(args: RefSegTrainingArguments, checkpoint: str | PathLike[str]) -> TrainerState | None:
    """The state of a checkpoint that was written after the last step of a training as long as this one.

    Raises:
        ValueError: the checkpoint is that of a training of another length, and has gone as many steps as this one, or
            more.
    """
    path = Path(checkpoint) / "trainer_state.json"
    if not path.is_file():
        return None
    state = TrainerState.load_from_json(str(path))
    # As Trainer counts them.
    steps_per_epoch = round(state.global_step / state.epoch)
    wanted = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    if state.global_step < wanted:
        return None
    if wanted != state.max_steps:
        raise ValueError(
            f"{checkpoint} has gone {state.global_step} steps of a training of {state.max_steps}: one of {wanted}, "
            "whose learning rate falls sooner, cannot go on from it. Give more steps, or begin anew with "
            "resume_from_checkpoint=never."
        )
    return state


def _check_adapter_arguments(model: PeftModel, args: RefSegTrainingArguments) -> None:
    base_model = model.peft_config["default"].base_model_name_or_path
    if args.text_layers_trained is not None:
        raise ValueError(
            "text_layers_trained trains layers that an adapter does not hold: leave it out, or train without adapter."
        )
    if args.push_to_hub and Path(base_model).is_absolute():
        raise ValueError(
            f"push_to_hub: the base model of the adapter is the folder {base_model}, where nobody else could load it "
            "from. Push the base model first, and load it by its id on the Hub."
        )


def count_pixels(predictions: Tensor, references: Tensor) -> Tensor:
    """Pixels of intersection and union, int64 (batch, 2), of boolean masks (batch, [frames,] height, width)."""
    both, either = predictions & references, predictions | references
    return torch.stack([both.flatten(1).sum(1), either.flatten(1).sum(1)], 1)
