"""Arguments of a training: which model, and transformers' own with the defaults of this field and a few of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers import TrainingArguments

from ..hub.token import require_token
from ..shipped import NAME as SHIPPED
from .data_arguments import to_mapping
from .run_options import PLACES, given_options, without_paths

# A tokenizer with a token for each word of the training split.
WORDS = "words"


@dataclass
class RefSegTrainingArguments(TrainingArguments):
    """Arguments of [`RefSegTrainer`]; the defaults are LAVT's recipe (section 3.3).

    AdamW, learning rate 5e-5, weight decay 0.01, polynomial decay of power 0.9 to 0 over all steps, no warm-up, no
    clipping of gradients, 40 epochs. Incomplete batches of an epoch are always dropped in training, never in
    evaluation.

    Raises:
        ValueError: where a value makes no sense or would change the evaluation; for `push_to_hub` without a token.
    """

    # The heading of these options in the help of a script.
    _argument_group_name = "training"
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "loss_weight_schedules"]

    num_train_epochs: float = field(default=40, metadata={"help": "Passes over the referents."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate at the start."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of all but visual norms and position tables."})
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "Schedule of the learning rate."})
    lr_scheduler_kwargs: dict | str | None = field(
        default=None, metadata={"help": 'JSON; for "polynomial" {"lr_end": 0.0, "power": 0.9} where absent.'}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of Muon, which then trains the weights of linear, convolutional and recurrent "
            "layers, and AdamW the rest; without it AdamW, as in the papers, trains all."
        },
    )
    learning_rate_drops: list[float] | None = field(
        default=None,
        metadata={
            "help": "Epochs at which the learning rate is divided by ten, in the place of lr_scheduler_type; with "
            "max_steps, fractions of an epoch count as well."
        },
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Largest norm of the gradient; 0 = no clipping."})
    total_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Referents per step over all processes; gradient_accumulation_steps then follows from it, from "
            "per_device_train_batch_size and from the number of processes."
        },
    )
    text_layers_trained: int | None = field(
        default=None,
        metadata={"help": "First layers of the text encoder that are trained, its embeddings frozen; all if absent."},
    )
    loss_weight_schedules: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Weights of losses that change in training: {"boundary": {"start": 0, "end": 0.05, '
            '"start_fraction": 0.25, "end_fraction": 0.5}}; fractions are those of all steps.'
        },
    )
    pictures: int = field(
        default=4, metadata={"help": "Examples drawn into output_dir/pictures at each evaluation and checkpoint."}
    )
    resume_from_checkpoint: str | None = field(
        default="auto",
        metadata={
            "help": 'Read where a recipe is run: "auto": the newest complete checkpoint in output_dir, if there is '
            'any; "never" or null; or the folder of a checkpoint.'
        },
    )
    diagnose: bool = field(
        default=False,
        metadata={
            "help": "Train the first steps alone, save no model, and print what happens inside it and what is out of "
            "proportion; all numbers are in output_dir/diagnosis.json."
        },
    )
    diagnosis_steps: int = field(default=50, metadata={"help": "How many steps diagnose trains."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two entries of the log."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Unused: losses that are not finite end the training."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Unused: examples are no table rows."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["mask_labels"], metadata={"help": "Names of the labels in a batch."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for parameters without a gradient in every step."}
    )

    def __post_init__(self):
        if self.lr_scheduler_kwargs is None and self.lr_scheduler_type == "polynomial":
            self.lr_scheduler_kwargs = {"lr_end": 0.0, "power": 0.9}
        self._require_finite_numbers()
        self._set_up_diagnosis()
        super().__post_init__()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} has to be 1 at least, got {getattr(self, name)}.")
        if self.push_to_hub:
            require_token("push_to_hub", self.hub_token)
        if self.dataloader_drop_last:
            raise ValueError(
                "dataloader_drop_last would drop sentences from the evaluation. Leave it out: training drops "
                "incomplete batches anyway."
            )
        if self.train_sampling_strategy != "random":
            raise ValueError(
                f"train_sampling_strategy is {self.train_sampling_strategy!r}: referents are always read in an order "
                "drawn from seed and epoch. Leave it out."
            )
        if self.learning_rate_drops is not None and self.warmup_steps:
            raise ValueError("learning_rate_drops knows no warm-up: leave warmup_steps out.")
        self._check_muon()
        if self.total_train_batch_size is not None:
            self.gradient_accumulation_steps = self._accumulation_steps()

    def _check_muon(self) -> None:
        if self.muon_learning_rate is None:
            return
        if self.muon_learning_rate <= 0:
            raise ValueError(f"muon_learning_rate has to be larger than 0, got {self.muon_learning_rate}.")
        if "optim" in given_options(self):
            raise ValueError(
                f"muon_learning_rate goes with AdamW, not with optim {self.optim.value}: leave one of them out."
            )
        if "adam_epsilon" in given_options(self):
            raise ValueError("adam_epsilon has no effect with muon_learning_rate: leave one of them out.")

    def _set_up_diagnosis(self) -> None:
        if not self.diagnose:
            if "diagnosis_steps" in given_options(self):
                raise ValueError("diagnosis_steps goes with diagnose: give that as well, or leave it out.")
            return
        if self.diagnosis_steps < 1:
            raise ValueError(f"diagnosis_steps has to be 1 at least, got {self.diagnosis_steps}.")
        # Nothing is kept of the model.
        self.eval_strategy = self.save_strategy = "no"
        self.load_best_model_at_end = self.push_to_hub = False

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, which hides tokens; paths of this machine are hidden alike, as trackers upload all."""
        options = super().to_dict()
        hidden = {name: f"<{name.upper()}>" for name in PLACES & options.keys() if options[name] is not None}
        return {**options, **without_paths(options), **hidden}

    def _require_finite_numbers(self) -> None:
        numbers = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, number in numbers.items():
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} has to be a finite number, got {number}.")
        if self.max_steps < -1:
            raise ValueError(f"max_steps is {self.max_steps}: pass a number of steps, or leave it out.")

    def _accumulation_steps(self) -> int:
        # `train_batch_size` is that of a process, which may hold several devices.
        together = self.train_batch_size * self.world_size
        steps, rest = divmod(self.total_train_batch_size, together)
        if rest or steps < 1:
            raise ValueError(
                f"total_train_batch_size is {self.total_train_batch_size}, which is no multiple of the {together} "
                f"referents that {self.world_size} processes of {self.train_batch_size} take at once: choose another "
                "per_device_train_batch_size."
            )
        return steps


@dataclass
class ModelArguments:
    """Which model: a saved one, a new one on pretrained encoders, or (with neither) one from random weights."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"A saved model with its processor, on the Hub or on disk, to go on from; or {SHIPPED}, which "
            "travels with the library."
        },
    )
    model_type: str | None = field(
        default=None,
        metadata={
            "help": "The method of a new model; lavt, on videos video_lavt, if absent. That of a saved model is its "
            "own, but a video LAVT can start from the image LAVT in model_name_or_path."
        },
    )
    vision_name_or_path: str | None = field(default=None, metadata={"help": "Pretrained image encoder."})
    text_name_or_path: str | None = field(default=None, metadata={"help": "Pretrained text encoder."})
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": 'Tokenizer; the text encoder\'s if absent. "refshapes" or "refshapes_video": a token for each '
            'word of that data set. "words": one for each word of the training split, for a text encoder from random '
            "weights."
        },
    )
    word_vectors: str | None = field(
        default=None,
        metadata={"help": "GloVe file with vectors of a recurrent text encoder's words, such as glove.6B.300d.txt."},
    )
    config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of the model's configuration, as a mapping (YAML or JSON). A saved model takes those that "
            "its weights fit; a training task starts new."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the square that the model sees; the method's, or the saved model's own, if absent."
        },
    )
    max_text_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens per text, special ones included; those of the method's paper, or of the saved model, if "
            "absent."
        },
    )
    adapter: Literal["none", "heads", "lora"] = field(
        default="none",
        metadata={
            "help": '"heads": the encoders stay as they are, and an adapter that holds the rest alone is saved; '
            '"lora": as well low-rank updates of their attention. A new model is saved as output_dir/base_model.'
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the low-rank updates."})
    lora_alpha: float = field(default=16, metadata={"help": "The updates are scaled by lora_alpha / lora_rank."})

    def __post_init__(self):
        self.config = to_mapping("config", self.config)
        has_new_words = self.tokenizer_name_or_path == WORDS
        if (self.vision_name_or_path is None) != (self.text_name_or_path is None) and not has_new_words:
            raise ValueError("Give vision_name_or_path and text_name_or_path, or neither of them.")
        if has_new_words and self.text_name_or_path:
            raise ValueError('tokenizer_name_or_path "words" goes with no text_name_or_path, which has other words.')
        if self.model_name_or_path and (self.vision_name_or_path or self.text_name_or_path or self.word_vectors):
            raise ValueError(
                "model_name_or_path takes no encoders, nor word_vectors: they come with the saved model. The value "
                "null unsets those of a recipe."
            )
        for name in ("image_size", "max_text_length"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} has to be 1 at least, got {getattr(self, name)}.")
        changed = [name for name in ("lora_rank", "lora_alpha") if name in given_options(self)]
        if changed and self.adapter != "lora":
            raise ValueError(f"{changed[0]} goes with adapter lora, not with {self.adapter}: leave it out.")

    @property
    def config_fields(self) -> dict[str, Any]:
        """`config`, which may have been given as a text, as the mapping that it is."""
        return to_mapping("config", self.config)
