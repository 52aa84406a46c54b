"""The model of a recipe and its processor, with an adapter where one is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import writing_into
from ..hub.saved_models import load_config
from ..modeling.processing_refseg import RefSegProcessor
from .adapters import add_adapter, check_kind, find_base_model
from .arguments import ModelArguments, RefSegTrainingArguments
from .new_models import build_new_model
from .resuming import load_weights
from .run_options import SAVED_WITH_A_MODEL
from .saved_models import load_saved_model


def build_model_and_processor(
    arguments: ModelArguments, sentences: Iterable[str] = ()
) -> tuple[PreTrainedModel, RefSegProcessor]:
    """A saved model, or a new one; a tokenizer of words reads the sentences, those of the training split."""
    build = load_saved_model if arguments.model_name_or_path else build_new_model
    return build(arguments, sentences)


def adapt(
    model: PreTrainedModel,
    processor: RefSegProcessor,
    arguments: ModelArguments,
    training: RefSegTrainingArguments,
    checkpoint: str | None,
) -> PreTrainedModel | PeftModel:
    """The model with the adapter to train, if any; its base, if new, is saved, or was when the run began."""
    if arguments.adapter == "none":
        return model
    # It lies nowhere: it is new, or not as it was saved.
    if not model.name_or_path:
        if checkpoint is None:
            folder = Path(training.output_dir, "base_model").resolve()
            check_new_base(folder, training)
            if training.process_index == 0:
                with writing_into(folder):
                    model.save_pretrained(folder)
                    processor.save_pretrained(folder)
            base = str(folder)
        else:
            check_kind(checkpoint, adapter=True)
            base = find_base_model(checkpoint)
            check_config(model.config, base)
            load_weights(model, base)
        model.name_or_path = base
    rank = arguments.lora_rank if arguments.adapter == "lora" else None
    return add_adapter(model, lora_rank=rank, lora_alpha=arguments.lora_alpha)


def check_new_base(base: Path, training: RefSegTrainingArguments) -> None:
    """Raises ValueError where a new base model would be written in vain, or in the place of one that is needed."""
    output = Path(training.output_dir)
    check_kind(output, adapter=True)
    if training.push_to_hub:
        raise ValueError(
            "push_to_hub: nobody else could load the adapter of a model that only lies in output_dir. Push the base "
            "model first, and give its id on the Hub as model_name_or_path."
        )
    needed = sorted([*output.glob("checkpoint-*"), *output.glob("adapter_model.*")])
    if base.exists() and needed:
        raise ValueError(
            f"{needed[0]} belongs to the base model {base}, which a new run would replace: choose another output_dir, "
            "or delete both."
        )


def check_config(config: PreTrainedConfig, base_model: str) -> None:
    """Raises ValueError where a base model was made by other options than those of this run."""
    saved = load_config(base_model).to_dict()
    changed = [
        name for name, value in config.to_dict().items() if name not in SAVED_WITH_A_MODEL and value != saved.get(name)
    ]
    if changed:
        raise ValueError(
            f"The base model {base_model} of the run to resume has another {', '.join(changed)}. Give the options of "
            "that run, or choose another output_dir."
        )
