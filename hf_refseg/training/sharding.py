"""Models that FSDP or DeepSpeed spread over processes: which modules are shards, and the whole model in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule, StateDictType
from transformers import PreTrainedModel

from .adapters import load_with_adapter


def classes_to_shard(model: PreTrainedModel | PeftModel) -> list[str]:
    """Names of the classes whose modules FSDP shards one by one.

    They are those that the model names (`_no_split_modules`), but for what holds the word embeddings: accelerate
    shards these by themselves, which fails within a module that is sharded already.
    """
    words = model.get_input_embeddings()
    holders = {
        type(module).__name__
        for module in model.modules()
        if module is not words and any(part is words for part in module.modules())
    }
    return sorted(set(model._no_split_modules) - holders)


def name_shards(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel | PeftModel) -> None:
    """Tells accelerate which modules to shard, where neither its configuration nor the arguments name any."""
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = classes_to_shard(model)


@contextmanager
def as_class_of_its_own(model: nn.Module) -> Iterator[None]:
    """Inside it a model that FSDP shards has the class that it had before.

    FSDP makes one of its own for it, which lies in no file: it would be saved as the model's class, with its code.
    """
    sharded = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = next(each for each in sharded.__mro__[1:] if not issubclass(each, FSDPModule))
    try:
        yield
    finally:
        model.__class__ = sharded


def load_whole(folder: str | PathLike[str], model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """The model that was saved in a folder, by this process alone; `model` is the sharded one that it was."""
    if isinstance(model, PeftModel):
        return load_with_adapter(folder)
    with as_class_of_its_own(model):
        return type(model).from_pretrained(folder)


def check_sharding(state: AcceleratorState, pictures: int, muon_learning_rate: float | None) -> None:
    """Raises ValueError where sharding is asked for and does not happen, or where it does with what it cannot do.

    Args:
        state: accelerate's, of a training that is about to begin.
        pictures: how many are drawn in it.
        muon_learning_rate: that of Muon, if it is to train with it.
    """
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and state.distributed_type is not DistributedType.FSDP:
        raise ValueError(
            "FSDP is asked for, but this training would run without it: accelerate shards models among several "
            "processes on GPUs alone. Leave use_cpu out, or start the processes without that configuration."
        )
    if state.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return
    _check_checkpoints(state)
    if pictures:
        raise ValueError(
            f"pictures is {pictures}: one process draws them, which with FSDP or DeepSpeed has a part of the model. "
            "Give pictures 0; those of the end are drawn all the same."
        )
    if muon_learning_rate is not None:
        raise ValueError(
            "muon_learning_rate: Muon needs whole matrices, of which FSDP and DeepSpeed give each process a part. "
            "Leave it out, or train with DDP."
        )


def _check_checkpoints(state: AcceleratorState) -> None:
    """Raises ValueError where accelerate would save parts of a model, which `from_pretrained` does not load."""
    if state.distributed_type is DistributedType.FSDP:
        if state.fsdp_plugin.state_dict_type is not StateDictType.FULL_STATE_DICT:
            raise ValueError(
                f"FSDP's state_dict_type is {state.fsdp_plugin.state_dict_type.name}, which saves no model that others"
                " could load: say fsdp_state_dict_type: FULL_STATE_DICT, as in examples/accelerate/fsdp2.yaml."
            )
        return
    options = state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    if options["stage"] == 3 and options.get("stage3_gather_16bit_weights_on_model_save") is not True:
        raise ValueError(
            "DeepSpeed's ZeRO-3 would save parts of a model, which nobody else could load: say "
            "zero3_save_16bit_model: true, as in examples/accelerate/zero3.yaml."
        )
