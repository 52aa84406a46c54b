"""RefSegTrainer: transformers' Trainer for referring segmentation, with streaming scores and safe resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import ProcessorMixin, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, SchedulerType, seed_worker

from ..data.byte_batches import FittedReferents, FittedStream, finish_batch
from ..data.clips import NOT_ANNOTATED, ClipExamples, FrameExamples
from ..data.examples import ReferentExamples, RefSegCollator
from ..evaluation.protocols import scores_from_counts
from ..files import require_writable
from ..hub.model_card import plain_model, write_model_card
from ..modeling.inference_refseg import find_foreground
from ..modeling.modeling_outputs_refseg import NotFiniteError, ReferringSegmentationOutput
from .adapters import check_kind, describe_adapter
from .arguments import RefSegTrainingArguments
from .callbacks import EpochSetter, LossWeightSchedule
from .data_arguments import to_mapping
from .mixed_batches import MixedExamples, MixedSampler
from .optimization import build_muon, decay_parameter_names, synchronize_batch_norm, train_first_text_layers
from .resuming import ResumableTrainer
from .run_record import describe_duration, describe_hardware, read_emissions, write_training_curve
from .running_scores import ComponentMeans, count_pixels
from .sampling import EpochSampler
from .sharding import check_sharding, load_whole, name_shards

# The protocol whose pixel counts need no more than logits and labels at the model's input size.
TRAINING_PROTOCOL = "lavt"
TrainingExamples = ReferentExamples | ClipExamples | FrameExamples | FittedReferents | MixedExamples | FittedStream


class RefSegTrainer(ResumableTrainer):
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
    - Examples that are streamed have no end (`StreamedReferents`), and each process streams its own: what Trainer
      calls an epoch is then the whole training. A run that resumes reads over what it was trained on before.
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
        data_collator: makes a batch of items; by default the processor does. One on `keep_bytes(processor)` leaves
            it to the device to normalize the pixels, as recipes do.
        run_options: what else the training depends on, such as the data, as a mapping of mappings. It is written into
            each checkpoint and beside the final weights, along with the options of `args`, of the model and of the
            processor that differ from their defaults.
        kwargs: further arguments of `Trainer`.

    Raises:
        ValueError: an option of `args` does not fit the model.
        OutputError: `output_dir` cannot be written; in `train`, the disk is full. Finished checkpoints stay.
    """

    # Whether it is what the argument `diagnose` asks for.
    diagnoses: ClassVar[bool] = False

    # What Trainer sets up and this class replaces.
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: LRScheduler | None
    is_fsdp_enabled: bool

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
        if args.diagnose and not self.diagnoses:
            raise ValueError(
                "diagnose is an option of the command: hf-refseg train RECIPE --diagnose. In Python it is that of "
                "hf_refseg.training.recipes.run_recipe."
            )
        if args.should_save:
            require_writable(args.output_dir)
        check_kind(args.output_dir, adapter=isinstance(model, PeftModel))
        if isinstance(model, PeftModel):
            _check_adapter_arguments(model, args)
        plain_model(model).config.check_text_length(processing_class.max_text_length)
        if args.text_layers_trained is not None:
            train_first_text_layers(model.text_encoder, args.text_layers_trained)
        scheduled = to_mapping("loss_weight_schedules", args.loss_weight_schedules)
        schedules = [LossWeightSchedule(name, **how) for name, how in scheduled.items()]
        super().__init__(
            model=synchronize_batch_norm(model, args.world_size, args.device),
            args=args,
            data_collator=data_collator or RefSegCollator(processing_class),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[*schedules, *callbacks],
            run_options=run_options,
            **kwargs,
        )
        check_sharding(self.accelerator.state, args.pictures, args.muon_learning_rate)
        if self.is_fsdp_enabled:
            name_shards(self.accelerator.state.fsdp_plugin, self.model)
        self.train_components = ComponentMeans()
        self.eval_components = ComponentMeans()
        self.eval_counts: list[Tensor] = []

    def gather_model(self) -> None:
        """Saves a model that is spread over processes, and puts it as a whole into the first of them.

        Every process calls it; what the first one does with the model then needs no other. A model that each process
        holds as a whole stays as it is.
        """
        if self._holds_all_weights():
            return
        self.save_model(_internal_call=True)
        if self.is_world_process_zero():
            self.model = load_whole(self.args.output_dir, self.model).to(self.args.device)
            self.model_wrapped = self.model
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        args = self.args
        if args.muon_learning_rate is None or self.optimizer is not None:
            return super().create_optimizer(model)
        betas = (args.adam_beta1, args.adam_beta2)
        rates = (args.learning_rate, args.muon_learning_rate)
        self.optimizer = build_muon(model or self.model, *rates, args.weight_decay, betas)
        return self.optimizer

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

    def get_train_dataloader(self) -> DataLoader:
        """As in transformers; a stream is not divided among processes, each of which has its own part already."""
        if not isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )
        return prepare_data_loader(
            loader,
            device=self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
        )

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

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        on_device = super()._prepare_inputs(inputs)
        # Once more: DeepSpeed in half precision gives numbers its own type.
        return self._prepare_input(finish_batch(on_device, self.processing_class.image_processor))

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
        # Trainer itself has asked for the loss.
        assert outputs.loss is not None
        if outputs.loss.isfinite() & outputs.logits.isfinite().all():
            return
        losses = {"loss": outputs.loss, **(outputs.loss_components or {})}
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
            predictions = find_foreground(outputs, self.processing_class.image_processor.mask_threshold)
        except NotFiniteError as error:
            raise NotFiniteError(f"Evaluation after step {self.state.global_step}: {error}") from error
        labels = inputs["mask_labels"]
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
        folder = Path(self.args.output_dir)
        write_model_card(
            folder,
            model=self.model,
            repo_id=self.hub_model_id,
            training_curve=write_training_curve(self.state.log_history, folder),
            emissions=read_emissions(folder),
            **card,
        )

    def describe_training(self) -> dict[str, object]:
        """What was really done so far, for the model card; empty before the first step."""
        if self.state.global_step == 0:
            return {}
        args = self.args
        drops = args.learning_rate_drops
        schedule = (
            f"{SchedulerType(args.lr_scheduler_type).value} schedule"
            if drops is None
            else f"a tenth after epochs {drops}"
        )
        precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
        plans = self._other_plans()
        planned = [f"until step {plan['until_step']} that of {plan['steps']} steps" for plan in plans]
        return {
            "steps": f"{self.state.global_step} of {self.state.max_steps}",
            **({"schedule went by": f"{', '.join(planned)}, then that of {self.state.max_steps}"} if plans else {}),
            **({} if isinstance(self.train_dataset, IterableDataset) else {"epochs": round(self.state.epoch, 2)}),
            "batch": f"{self.get_total_train_batch_size(args)} referents ({args.world_size} processes, "
            f"{args.gradient_accumulation_steps} accumulation steps)",
            "optimizer": f"{self._describe_rates()}, weight decay {args.weight_decay:g}, {schedule}",
            **self._describe_trained(),
            "precision": precision,
            "attention": self.model.config._attn_implementation,
            "seed": args.seed,
            "hardware": describe_hardware(args),
            **describe_duration(self.state.log_history),
        }

    def _describe_rates(self) -> str:
        args = self.args
        rates = f"{args.optim.value}, learning rate {args.learning_rate:g}"
        muon = args.muon_learning_rate
        return rates if muon is None else f"Muon, learning rate {muon:g}, and beside it {rates}"

    def _describe_trained(self) -> dict[str, object]:
        if isinstance(self.model, PeftModel):
            return {"trained": describe_adapter(self.model.peft_config["default"])}
        layers = self.args.text_layers_trained
        return {"text layers trained": "all" if layers is None else layers}


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
