"""ResumableTrainer: transformers' Trainer with checkpoints that are whole, hold no path, and go on as they began."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from peft import PeftModel
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, SaveStrategy, TrainOutput
from transformers.utils import PushInProgress

from ..files import OutputError, writing_into
from ..hub.model_card import plain_model
from .adapters import check_kind, load_adapter_weights
from .arguments import RefSegTrainingArguments
from .checkpoints import (
    CHECKSUMS,
    check_checksums,
    check_strategy,
    find_checkpoint_fault,
    find_state_fault,
    last_complete_checkpoint,
    write_checksums,
)
from .run_options import (
    check_same_options,
    given_fields,
    given_options,
    read_run_options,
    write_local_options,
    write_run_options,
)
from .sharding import as_class_of_its_own

logger = logging.getLogger(__name__)

# What of an output folder is never uploaded: Trainer's own list, and its pickle of the arguments.
NOT_UPLOADED = ["_*", "checkpoint-*", TRAINING_ARGS_NAME]
# Files of a checkpoint that going on needs, but the model does not, and what would be wrong of other weights; the card
# is that of the output folder.
TRAINING_STATE = (
    "*.pt",
    "*.pth",
    "*_fsdp*",
    "optimizer*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    "trainer_state.json",
    CHECKSUMS,
    "README.md",
)


class ResumableTrainer(Trainer):
    """Trainer whose checkpoints are whole, name neither token nor folder, and go on with the options of before.

    Args:
        run_options: what else than arguments, model and processor the training depends on, as a mapping of mappings.
        kwargs: the arguments of `Trainer`.
    """

    args: RefSegTrainingArguments
    state: TrainerState
    push_in_progress: PushInProgress | None

    def __init__(self, *, run_options: Mapping[str, Mapping[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
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
            check_strategy(resume_from_checkpoint, self._strategy())
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
            | {"referents per step": self.get_total_train_batch_size(self.args)}
            | self._stream_options(),
            "config": given_fields(plain_model(self.model).config),
            "processor": {
                "size": dict(self.processing_class.image_processor.size),
                "max_text_length": self.processing_class.max_text_length,
            },
        }

    def _stream_options(self) -> dict[str, Any]:
        """What the order of streamed rows depends on, beside the seed."""
        if not isinstance(self.train_dataset, IterableDataset):
            return {}
        processes, workers = self.args.world_size, self.args.dataloader_num_workers
        return {"stream": {"processes": processes, "workers": workers, "batch": self._train_batch_size}}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with writing_into(output_dir or self.args.output_dir), as_class_of_its_own(self.model):
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

    def _strategy(self) -> str:
        return "FSDP" if self.is_fsdp_enabled else "DeepSpeed" if self.is_deepspeed_enabled else "DDP"

    def _holds_all_weights(self) -> bool:
        """Whether this process holds the whole model: it is not spread over processes."""
        return self._strategy() == "DDP"


class PortableState(TrainerState):
    """Trainer's state, whose file names no folder of this machine."""

    def save_to_json(self, json_path: str) -> None:
        """As in transformers, without the path of the best checkpoint: `best_global_step` tells which one it is."""
        TrainerState(**{**vars(self), "best_model_checkpoint": None}).save_to_json(json_path)


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
